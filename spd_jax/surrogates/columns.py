"""Many surrogates as one: their predictions are columns of a regressor's vectors.

Untrained dishes, proxies and costs rank motifs before any score is known; a regressor that sees
all of them, and what a motif is made of, learns from the known scores how far to trust each.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.typing import ArrayLike
from scipy import special, stats

from spd_jax import archs as archs_lib
from spd_jax import files
from spd_jax.axes import Archs, Key
from spd_jax.checks import is_count
from spd_jax.errors import UserError
from spd_jax.surrogates import protocol
from spd_jax.surrogates.protocol import Fitted, Surrogate
from spd_jax.surrogates.tuned import out_of_fold


@runtime_checkable
class ManyColumns(Protocol):
    """A fitted surrogate that has more to say of a motif than one prediction."""

    def columns(self, archs: Archs) -> np.ndarray:
        """Return `[M, C]` float64: C predictions for each motif, NaN where one failed."""
        ...


@dataclasses.dataclass(frozen=True)
class ColumnRegressor:
    """A regressor that sees its features and the predictions of several surrogates.

    A stack (Wolpert, 1992) of many bases. A `ScoreFree` base is fitted once and predicts the
    known motifs as it predicts new ones. One that learns predicts each known motif out of fold,
    as in `compose.Stacked`. A base whose fitted form is `ManyColumns` and that is `ScoreFree`
    brings all its columns.

    Attributes:
      bases: what predicts; at least one.
      regressor: sees the columns behind its own features (`nothing` for none).
      folds: K, at least 2; a base that learns is fitted K + 1 times.
    """

    bases: tuple[Surrogate, ...]
    regressor: protocol.VectorRegressor
    folds: int = 5

    def fit(self, key: Key, archs: Archs, scores: ArrayLike) -> "FittedColumns":
        """Fit the bases, then the regressor; arguments as `protocol.Surrogate.fit`.

        Raises:
          UserError: too few finite scores, shapes that disagree, fewer than 2 folds, no base, or
            a base without any finite prediction.
        """
        if not self.bases:
            raise UserError("there are no columns: give at least one base")
        if not is_count(self.folds, 2):
            raise UserError(f"folds is {self.folds!r}: give 2 or more, a whole number")
        learns = not all(isinstance(base, protocol.ScoreFree) for base in self.bases)
        least = (4 if self.folds == 2 else 3) if learns else 2
        archs, truth = archs_lib.known(archs, scores, minimum=least)
        *keys, regressor_key = jax.random.split(key, len(self.bases) + 1)
        fitted, columns = [], []
        for base, base_key in zip(self.bases, keys, strict=True):
            fit_key, fold_key = jax.random.split(base_key)
            if isinstance(base, protocol.ScoreFree):
                fitted.append(base.prepare(fit_key))
                columns.append(_columns(fitted[-1], archs))
            else:
                fitted.append(base.fit(fit_key, archs, truth))
                own = out_of_fold(base, fold_key, archs, truth, self.folds)
                columns.append(own[:, None])
        table = np.concatenate(columns, axis=1)
        floors = _floors(table)
        filled = _filled(table, floors)
        regressor = protocol.beside(self.regressor).fit(regressor_key, (archs, filled), truth)
        return FittedColumns(tuple(fitted), regressor, floors)

    def load(self, path: protocol.Path) -> "FittedColumns":
        """Read saved bases and regressor; errors as `protocol.Surrogate.load`."""

        def build(arrays: dict[str, np.ndarray]) -> FittedColumns:
            bases = tuple(
                protocol.from_bytes(arrays[f"base_{place}"], base.load, f"base {place}")
                for place, base in enumerate(self.bases)
            )
            load = protocol.beside(self.regressor).load
            regressor = protocol.from_bytes(arrays["regressor"], load, "the regressor")
            floors = np.asarray(arrays["floors"], np.float64)
            if floors.ndim != 1 or len(floors) < len(bases):
                raise ValueError(f"{len(bases)} bases have floors of shape {floors.shape}")
            return FittedColumns(bases, regressor, floors)

        return protocol.restore(path, type(self).__name__, build)


@dataclasses.dataclass(frozen=True)
class FittedColumns:
    """Fitted bases and a regressor on their predictions.

    Attributes:
      bases: fitted on everything known.
      regressor: fitted on pairs of archs and columns.
      floors: `[C]` float64, what stands for a failed prediction in each column.
    """

    bases: tuple[Fitted, ...]
    regressor: Fitted
    floors: np.ndarray

    def predict(self, archs: Archs) -> np.ndarray:
        """Return scores `[M]` float64, in the unit of the fitted scores."""
        table = np.concatenate([_columns(base, archs) for base in self.bases], axis=1)
        return self.regressor.predict((archs, _filled(table, self.floors)))

    def save(self, path: protocol.Path) -> None:
        """Write all parts as one `.npz`."""
        parts: dict[str, Any] = {
            f"base_{place}": protocol.to_bytes(base.save) for place, base in enumerate(self.bases)
        }
        regressor = protocol.to_bytes(self.regressor.save)
        parts |= {"regressor": regressor, "floors": self.floors}
        files.save_arrays(path, parts, kind="ColumnRegressor")


@dataclasses.dataclass(frozen=True)
class MeanRank:
    """Several judges that need no score, a `protocol.ScoreFree` surrogate: their ranks' mean.

    Raw scores of two untrained dishes have no common unit; their ranks have one, as normal scores:
    the quantiles of a normal distribution that the ranks stand for. So a prediction depends on
    the batch: `predict` ranks the motifs that it is given among each other.

    Attributes:
      bases: at least one.
    """

    bases: tuple[protocol.ScoreFree, ...]

    def fit(self, key: Key, archs: Archs, scores: ArrayLike) -> "FittedMeanRank":
        """Return `prepare(key)`: archs and scores are not looked at."""
        del archs, scores
        return self.prepare(key)

    def prepare(self, key: Key) -> "FittedMeanRank":
        """Prepare every base with a key of its own; `key` is consumed."""
        keys = jax.random.split(key, len(self.bases))
        return FittedMeanRank(
            tuple(base.prepare(own) for base, own in zip(self.bases, keys, strict=True))
        )

    def load(self, path: protocol.Path) -> "FittedMeanRank":
        """Read saved bases; errors as `protocol.Surrogate.load`."""

        def build(arrays: dict[str, np.ndarray]) -> FittedMeanRank:
            return FittedMeanRank(
                tuple(
                    protocol.from_bytes(arrays[f"base_{place}"], base.load, f"base {place}")
                    for place, base in enumerate(self.bases)
                )
            )

        return protocol.restore(path, type(self).__name__, build)


@dataclasses.dataclass(frozen=True)
class FittedMeanRank:
    """Judges that are ready.

    Attributes:
      bases: one for each of the settings' bases.
    """

    bases: tuple[Fitted, ...]

    def predict(self, archs: Archs) -> np.ndarray:
        """Return mean normal scores within the batch: `[M]` float64, the best highest.

        A prediction that failed ranks as the worst.
        """
        table = np.concatenate([_columns(base, archs) for base in self.bases], axis=1)
        return normal_scores(np.where(np.isnan(table), -np.inf, table)).mean(axis=1)

    def save(self, path: protocol.Path) -> None:
        """Write the bases as one `.npz`."""
        parts = {
            f"base_{place}": protocol.to_bytes(base.save) for place, base in enumerate(self.bases)
        }
        files.save_arrays(path, parts, kind="MeanRank")


def nothing(archs: Archs) -> np.ndarray:
    """Return vectors without features, `[M, 0]`: for a regressor that sees columns alone."""
    return np.zeros((archs_lib.count(archs), 0))


def _columns(fitted: Fitted, archs: Archs) -> np.ndarray:
    """Return everything that a fitted base predicts, `[M, C]`."""
    if isinstance(fitted, ManyColumns):
        return fitted.columns(archs)
    return fitted.predict(archs)[:, None]


def _floors(table: np.ndarray) -> np.ndarray:
    """Return for each column `[M, C]` its worst prediction minus one standard deviation: `[C]`.

    Raises:
      UserError: a column has no finite prediction.
    """
    floors = []
    for column in table.T:
        finite = column[np.isfinite(column)]
        if not finite.size:
            raise UserError(
                "a base predicts no finite score: leave it out, or lower its inner_learning_rate"
            )
        floors.append(finite.min() - (finite.std() or 1.0))
    return np.array(floors)


def _filled(table: np.ndarray, floors: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(table), table, floors)


@dataclasses.dataclass(frozen=True)
class RankTargets:
    """A regressor that is fitted on the ranks of the scores, and predicts in their unit.

    Accuracies are skewed: a few cells learn next to nothing, and squared errors would be about
    these alone. The targets are normal scores, `Phi^-1(rank / (K + 1))` with ranks averaged over
    ties (van der Waerden, 1952). Predictions go back by the piecewise linear curve through the
    known motifs, which goes on beyond the best and the worst as straight as between them.

    Attributes:
      regressor: what is fitted.
    """

    regressor: protocol.VectorRegressor

    def fit(self, key: Key, archs: Archs, scores: ArrayLike) -> "FittedRanks":
        """Fit on the ranks; arguments and errors as those of the regressor's own `fit`."""
        archs, truth = archs_lib.known(archs, scores)
        targets = normal_scores(truth)
        return FittedRanks(self.regressor.fit(key, archs, targets), _knots(targets, truth))

    def load(self, path: protocol.Path) -> "FittedRanks":
        """Read a saved fit; errors as `protocol.Surrogate.load`."""
        return _load_ranks(path, type(self).__name__, self.regressor)

    @property
    def features(self) -> protocol.ToVectors:
        """What turns archs of M motifs into vectors `[M, F]`."""
        return self.regressor.features

    def with_features(self, features: protocol.ToVectors) -> "RankTargets":
        """Return the same regressor on other vectors."""
        return RankTargets(self.regressor.with_features(features))


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """Judges that need no score, their mean rank in the unit of the scores.

    The order of the motifs is `MeanRank`'s. So it can be averaged with what learns: from few
    scores a Gaussian process predicts nearly a constant, and leaves the order to the judges.

    Attributes:
      bases: at least one.
    """

    bases: tuple[protocol.ScoreFree, ...]

    def fit(self, key: Key, archs: Archs, scores: ArrayLike) -> "FittedRanks":
        """Learn which scores the ranks stand for; arguments as `protocol.Surrogate.fit`."""
        _, truth = archs_lib.known(archs, scores)
        knots = _knots(normal_scores(truth), truth)
        return FittedRanks(MeanRank(self.bases).prepare(key), knots, type(self).__name__)

    def load(self, path: protocol.Path) -> "FittedRanks":
        """Read a saved fit; errors as `protocol.Surrogate.load`."""
        return _load_ranks(path, type(self).__name__, MeanRank(self.bases))


@dataclasses.dataclass(frozen=True)
class FittedRanks:
    """What predicts ranks, and the way back to scores.

    Attributes:
      fitted: predicts normal scores.
      knots: `[K', 2]` float64, normal scores in rising order and the scores that they stand for.
      kind: of the file that `save` writes.
    """

    fitted: Fitted
    knots: np.ndarray
    kind: str = "RankTargets"

    def predict(self, archs: Archs) -> np.ndarray:
        """Return scores `[M]` float64, in the unit of the fitted scores."""
        return curve_through(self.knots, self.fitted.predict(archs))

    def save(self, path: protocol.Path) -> None:
        """Write what predicts, and the curve."""
        fitted = protocol.to_bytes(self.fitted.save)
        files.save_arrays(path, {"fitted": fitted, "knots": self.knots}, kind=self.kind)


def normal_scores(values: np.ndarray) -> np.ndarray:
    """Return the quantiles of a normal distribution that ranks along the first axis stand for.

    Equal values share their mean rank; `[M]` or `[M, C]` float64.
    """
    ranks: np.ndarray = special.ndtri(stats.rankdata(values, axis=0) / (len(values) + 1))
    return ranks


def _knots(targets: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return `FittedRanks.knots` of normal scores and the scores that they stand for."""
    knots: np.ndarray = np.unique(np.column_stack([targets, truth]), axis=0)
    return knots


def _load_ranks(path: protocol.Path, kind: str, surrogate: Surrogate) -> FittedRanks:
    """Read what `FittedRanks.save` wrote; `surrogate` loads what predicts."""

    def build(arrays: dict[str, np.ndarray]) -> FittedRanks:
        knots = np.asarray(arrays["knots"], np.float64)
        if knots.ndim != 2 or knots.shape[1] != 2 or np.any(np.diff(knots[:, 0]) <= 0):
            raise ValueError(f"the knots are no curve: {knots.shape}")
        fitted = protocol.from_bytes(arrays["fitted"], surrogate.load, "what predicts ranks")
        return FittedRanks(fitted, knots, kind)

    return protocol.restore(path, kind, build)


def curve_through(knots: np.ndarray, at: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the piecewise linear curve through `knots [K, 2]` at points `[M]`.

    Outside it goes on with the slope of the line from its first knot to its last.
    """
    x, y = knots.T
    at = np.asarray(at, np.float64)
    slope = (y[-1] - y[0]) / (x[-1] - x[0]) if len(x) > 1 else 0.0
    inside = np.clip(at, x[0], x[-1])
    return np.interp(inside, x, y) + slope * (at - inside)

"""A rival that chooses its own settings, on the known motifs alone."""

import dataclasses

import jax
import numpy as np
from jax.typing import ArrayLike

from spd_jax import archs as archs_lib
from spd_jax import files, metrics
from spd_jax.axes import Archs, Key
from spd_jax.checks import is_count
from spd_jax.errors import UserError
from spd_jax.surrogates import protocol
from spd_jax.surrogates.protocol import Fitted, Surrogate

FEWEST = 6  # known motifs: fewer decide nothing, and the first candidate is taken


def out_of_fold(
    surrogate: Surrogate, key: Key, archs: Archs, truth: np.ndarray, folds: int
) -> np.ndarray:
    """Return for each known motif the prediction of a surrogate that never saw its score.

    Args:
      surrogate: what is fitted, once for each fold on all others.
      key: draws the folds and the fits; consumed.
      archs: batch `[K]`.
      truth: scores `[K]`, all finite.
      folds: how many, at most K.

    Returns:
      `[K]` float64, NaN where a prediction failed.
    """
    order_key, fit_key = jax.random.split(key)
    order = np.asarray(jax.random.permutation(order_key, len(truth)))
    column = np.full(len(truth), np.nan)
    for number, fold in enumerate(np.array_split(order, min(folds, len(truth)))):
        others = np.setdiff1d(order, fold)
        fitted = surrogate.fit(
            jax.random.fold_in(fit_key, number), archs_lib.take(archs, others), truth[others]
        )
        column[fold] = fitted.predict(archs_lib.take(archs, fold))
    return column


@dataclasses.dataclass(frozen=True)
class Tuned:
    """The candidate whose out-of-fold predictions rank the known motifs best.

    Cross-validation (Stone, 1974) by Kendall's tau, which is what a league reports and what no
    unit of the scores moves. Among equals, and with fewer than `FEWEST` known motifs, the first
    candidate is taken. It is a `protocol.VectorRegressor`, as its candidates are.

    Attributes:
      candidates: at least one, all on the same vectors; the one to trust without evidence first.
      folds: K, at least 2.
    """

    candidates: tuple[protocol.VectorRegressor, ...]
    folds: int = 5

    def fit(self, key: Key, archs: Archs, scores: ArrayLike) -> "FittedTuned":
        """Choose by cross-validation, then fit the chosen one on everything known.

        Arguments and errors as `protocol.Surrogate.fit`.

        Raises:
          UserError: there is no candidate, or fewer than 2 folds.
        """
        if not self.candidates:
            raise UserError("there is nothing to choose from: give at least one candidate")
        if not is_count(self.folds, 2):
            raise UserError(f"folds is {self.folds!r}: give 2 or more, a whole number")
        choice_key, fit_key = jax.random.split(key)
        archs, truth = archs_lib.known(archs, scores)
        choice = 0
        if len(truth) >= FEWEST and len(self.candidates) > 1 and np.ptp(truth) > 0:
            taus = [self._tau(one, choice_key, archs, truth) for one in self.candidates]
            choice = int(np.argmax(taus))
        return FittedTuned(self.candidates[choice].fit(fit_key, archs, truth), choice)

    def load(self, path: protocol.Path) -> "FittedTuned":
        """Read what was chosen and fitted; errors as `protocol.Surrogate.load`."""

        def build(arrays: dict[str, np.ndarray]) -> FittedTuned:
            choice = int(arrays["choice"])
            if not 0 <= choice < len(self.candidates):
                raise ValueError(f"there is no candidate {choice}")
            load = self.candidates[choice].load
            return FittedTuned(protocol.from_bytes(arrays["fitted"], load, "the chosen"), choice)

        return protocol.restore(path, type(self).__name__, build)

    @property
    def features(self) -> protocol.ToVectors:
        """What turns archs of M motifs into vectors `[M, F]`."""
        return self.candidates[0].features

    def with_features(self, features: protocol.ToVectors) -> "Tuned":
        """Return the same candidates on other vectors."""
        own = tuple(candidate.with_features(features) for candidate in self.candidates)
        return dataclasses.replace(self, candidates=own)

    def _tau(self, candidate: Surrogate, key: Key, archs: Archs, truth: np.ndarray) -> float:
        # The same key for all: they are compared on the same folds.
        column = out_of_fold(candidate, key, archs, truth, self.folds)
        return metrics.kendall_tau(column, truth)


@dataclasses.dataclass(frozen=True)
class FittedTuned:
    """The chosen candidate after its fit.

    Attributes:
      fitted: what predicts.
      choice: its place among the candidates.
    """

    fitted: Fitted
    choice: int

    def predict(self, archs: Archs) -> np.ndarray:
        """Return scores `[M]` float64, in the unit of the fitted scores."""
        return self.fitted.predict(archs)

    def save(self, path: protocol.Path) -> None:
        """Write the choice and what was fitted."""
        fitted = protocol.to_bytes(self.fitted.save)
        files.save_arrays(path, {"choice": self.choice, "fitted": fitted}, kind="Tuned")

"""Rivals that train a motif for a while and extrapolate its learning curve.

The last value itself is `partial_training.PartialTraining`. Here are a fit of one curve and
nothing else, and a regression from the beginning of curves to their end. Known motifs have been
trained to the end already, so that only predictions cost anything.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from scipy import optimize

from spd_jax import archs as archs_lib
from spd_jax import files
from spd_jax.axes import Archs, Key
from spd_jax.errors import UserError
from spd_jax.surrogates import protocol
from spd_jax.surrogates.partial_training import Lookup
from spd_jax.surrogates.protocol import Fitted

FEWEST_POINTS = 3  # of a curve that a power law is fitted to: it has three parameters


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """The score that a power law through the beginning of a curve has at its end.

    `score(t) = a - b t^-c` with b >= 0 and 0 < c <= 2, "pow3" of Domhan et al. (2015), by least
    squares to the beginning of a curve, at the end of the budget. It is `protocol.ScoreFree` and
    a `protocol.CostlySurrogate`.

    Attributes:
      lookup: `lookup(archs, units)` returns curves, see `partial_training`.
      units: after which the curve is looked at, rising, at least 3 of them.
      budget: units of a full evaluation.
    """

    lookup: Lookup
    units: tuple[int, ...]
    budget: int

    @property
    def cost_per_query(self) -> float:
        """What one prediction costs, in full evaluations: the last of `units` / budget."""
        return self.units[-1] / self.budget

    def fit(self, key: Key, archs: Archs, scores: ArrayLike) -> "FittedPowerLaw":
        """Return `prepare(key)`: archs and scores are not looked at."""
        del archs, scores
        return self.prepare(key)

    def prepare(self, key: Key) -> "FittedPowerLaw":
        """Return the predictor; `key` is not used.

        Raises:
          UserError: fewer than 3 units, or others than 1..budget in rising order.
        """
        del key
        _check(self.units, self.budget)
        if len(self.units) < FEWEST_POINTS:
            raise UserError(
                f"a power law through {len(self.units)} points of a curve: give at least "
                f"{FEWEST_POINTS} units"
            )
        return FittedPowerLaw(self)

    def load(self, path: protocol.Path) -> "FittedPowerLaw":
        """Read a saved predictor, with its own units; errors as `protocol.Surrogate.load`."""

        def build(arrays: dict[str, np.ndarray]) -> FittedPowerLaw:
            return FittedPowerLaw(dataclasses.replace(self, units=_units(arrays["units"])))

        return protocol.restore(path, type(self).__name__, build)


@dataclasses.dataclass(frozen=True)
class FittedPowerLaw:
    """A power law, ready to predict.

    Attributes:
      surrogate: its settings.
    """

    surrogate: PowerLaw

    def predict(self, archs: Archs) -> np.ndarray:
        """Return extrapolated scores `[M]` float64; NaN where the training failed."""
        own = self.surrogate
        curves = beginnings(own.lookup, archs, own.units)
        return np.array([extrapolated(own.units, curve, own.budget) for curve in curves])

    def save(self, path: protocol.Path) -> None:
        """Write the units."""
        files.save_arrays(path, {"units": self.surrogate.units}, kind="PowerLaw")


def extrapolated(units: tuple[int, ...], curve: np.ndarray, at: int) -> float:
    """Return the power law of least squares through `curve [p]` at unit `at`; NaN for a NaN.

    For each exponent c the best a and b >= 0 are known in closed form; c itself is searched.
    """
    if not np.isfinite(curve).all():
        return np.nan
    times = np.asarray(units, np.float64)

    def line(exponent: float) -> tuple[float, float, float]:
        x = -(times**-exponent)
        centred = x - x.mean()
        slope = max(float(centred @ curve / (centred @ centred)), 0.0)
        level = float(curve.mean() - slope * x.mean())
        return float(np.sum((level + slope * x - curve) ** 2)), level, slope

    found = optimize.minimize_scalar(
        lambda exponent: line(exponent)[0], bounds=(1e-3, 2.0), method="bounded"
    )
    _, level, slope = line(found.x)
    return level - slope * at**-found.x


@dataclasses.dataclass(frozen=True)
class CurveRegression:
    """A regression from the beginning of curves to final scores (Baker et al., 2017).

    The regressor sees its own features, the scores after some units, and their first and second
    differences; the authors' regressor is a nu support-vector machine. It is a
    `protocol.CostlySurrogate`. A motif whose training fails early is predicted as NaN, and a
    known one is left out.

    Attributes:
      lookup: `lookup(archs, units)` returns curves, see `partial_training`.
      units: after which the curve is looked at, rising, at least one of them.
      budget: units of a full evaluation.
      regressor: such as `regressors.SupportVectors(space.features)`.
    """

    lookup: Lookup
    units: tuple[int, ...]
    budget: int
    regressor: protocol.VectorRegressor

    @property
    def cost_per_query(self) -> float:
        """What one prediction costs, in full evaluations: the last of `units` / budget."""
        return self.units[-1] / self.budget

    def fit(self, key: Key, archs: Archs, scores: ArrayLike) -> "FittedCurveRegression":
        """Fit the regressor; arguments and errors as `protocol.Surrogate.fit`.

        Raises:
          UserError: units outside 1..budget, or not in rising order, too.
        """
        _check(self.units, self.budget)
        archs, truth = archs_lib.known(archs, scores)
        vectors = curve_features(self.lookup, archs, self.units)
        whole = np.isfinite(vectors).all(axis=1)
        archs, truth = archs_lib.known(archs, np.where(whole, truth, np.nan))
        fitted = self._beside().fit(key, (archs, vectors[whole]), truth)
        return FittedCurveRegression(self, fitted)

    def load(self, path: protocol.Path) -> "FittedCurveRegression":
        """Read a saved regression, with its own units; errors as `protocol.Surrogate.load`."""

        def build(arrays: dict[str, np.ndarray]) -> FittedCurveRegression:
            own = dataclasses.replace(self, units=_units(arrays["units"]))
            load = own._beside().load
            fitted = protocol.from_bytes(arrays["fitted"], load, "the regressor")
            return FittedCurveRegression(own, fitted)

        return protocol.restore(path, type(self).__name__, build)

    def _beside(self) -> protocol.VectorRegressor:
        """Return the regressor on pairs (archs `[M]`, curve features `[M, F]`)."""
        own = self.regressor.features
        return self.regressor.with_features(lambda pair: np.column_stack([own(pair[0]), pair[1]]))


@dataclasses.dataclass(frozen=True)
class FittedCurveRegression:
    """A regression on curves, ready to predict.

    Attributes:
      surrogate: its settings.
      fitted: the regressor, on pairs of archs and curve features.
    """

    surrogate: CurveRegression
    fitted: Fitted

    def predict(self, archs: Archs) -> np.ndarray:
        """Return scores `[M]` float64, in the unit of the fitted scores; NaN where one failed."""
        own = self.surrogate
        vectors = curve_features(own.lookup, archs, own.units)
        whole = np.isfinite(vectors).all(axis=1)
        predicted = np.full(len(vectors), np.nan)
        if whole.any():
            predicted[whole] = self.fitted.predict((archs_lib.take(archs, whole), vectors[whole]))
        return predicted

    def save(self, path: protocol.Path) -> None:
        """Write the units and the regressor."""
        fitted = protocol.to_bytes(self.fitted.save)
        parts: dict[str, Any] = {"units": self.surrogate.units, "fitted": fitted}
        files.save_arrays(path, parts, kind="CurveRegression")


def curve_features(lookup: Lookup, archs: Archs, units: tuple[int, ...]) -> np.ndarray:
    """Return the scores after p units, their first and their second differences: `[M, F]`.

    NaN where a training failed.
    """
    curves = beginnings(lookup, archs, units)
    return np.column_stack([curves, np.diff(curves, 1), np.diff(curves, 2)])


def beginnings(lookup: Lookup, archs: Archs, units: tuple[int, ...]) -> np.ndarray:
    """Return the entries of curves after `units`, `[M, p]`; NaN for a training that failed.

    Raises:
      UserError: the lookup returned another number of curves.
    """
    curves, count = lookup(archs, units[-1]), archs_lib.count(archs)
    if len(curves) != count:
        raise UserError(f"{len(curves)} learning curves for {count} motifs: return one for each")
    rows = [
        [curve[unit - 1] if len(curve) >= unit else np.nan for unit in units] for curve in curves
    ]
    return np.asarray(rows, np.float64)


def _check(units: tuple[int, ...], budget: int) -> None:
    rising = all(before < after for before, after in itertools.pairwise((0, *units)))
    if not units or not rising or units[-1] > budget:
        raise UserError(
            f"a curve after units {units}: give rising numbers from 1 to {budget}, the units of a "
            "full evaluation"
        )


def _units(saved: np.ndarray) -> tuple[int, ...]:
    """Return saved units.

    Raises:
      ValueError: they are none.
    """
    units = tuple(int(unit) for unit in saved)
    _check(units, max(units, default=0))
    return units

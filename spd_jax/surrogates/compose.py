"""Surrogates made of surrogates: the mean of two, a stack, and a dish that does not learn.

They take any surrogates, since all predict in the unit of the scores that they were fitted on.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from spd_jax import archs as archs_lib
from spd_jax import files
from spd_jax.axes import Archs, Array, Key
from spd_jax.checks import is_count
from spd_jax.dish import DishState
from spd_jax.errors import UserError
from spd_jax.surrogates import protocol
from spd_jax.surrogates.dish_surrogate import DishSurrogate, FittedDish
from spd_jax.surrogates.protocol import FitStep, Fitted, Surrogate
from spd_jax.surrogates.tuned import out_of_fold


@dataclasses.dataclass(frozen=True)
class FrozenDish:
    """A dish that `fit` leaves as it is: untrained, or fitted before on other motifs.

    Its predictions have a unit of their own: an untrained dish predicts the median raw score, a
    dish that was fitted before predicts in standard deviations over the motifs it was fitted on.

    Attributes:
      surrogate: family and settings.
      state: what to predict with; None draws an untrained dish from the key.
    """

    surrogate: DishSurrogate
    state: DishState | None = None

    def prepare(self, key: Key) -> FittedDish:
        """Return the dish; `key` is consumed."""
        state = self.surrogate.start(key) if self.state is None else self.state
        return FittedDish(self.surrogate, state, mean=0.0, std=1.0)

    def fit(self, key: Key, archs: Archs, scores: ArrayLike) -> FittedDish:
        """Return `prepare(key)`: archs and scores are not looked at."""
        del archs, scores
        return self.prepare(key)

    def load(self, path: protocol.Path) -> FittedDish:
        """Read a saved dish; errors as `DishSurrogate.load`."""
        return self.surrogate.load(path)


class AveragedState(NamedTuple):
    """How far the two fits of an `Averaged` are.

    Attributes:
      first: state of the first; `()` when it cannot be resumed.
      second: likewise of the second.
      first_steps: steps that the first has taken, int32 `[]`.
    """

    first: Any
    second: Any
    first_steps: Array


@dataclasses.dataclass(frozen=True)
class Averaged:
    """The mean of two surrogates' predictions, a `protocol.ResumableSurrogate`.

    Made for a dish and a regressor. A dish ranks well from five ground truths on and gains
    little from more; a regressor on features begins with nothing and goes on learning. Both
    predict in the unit of the scores, so their mean needs no weights: from few scores a Gaussian
    process predicts nearly a constant, and so leaves the order to the dish. Ours; combining
    forecasts by equal weights is Bates and Granger's (1969).

    Attributes:
      first: a surrogate that predicts in the unit of the scores.
      second: another.
    """

    first: Surrogate
    second: Surrogate

    def start(self, key: Key) -> AveragedState:
        """Return the states that `fit` with this key starts from."""
        first_key, second_key = jax.random.split(key)
        return AveragedState(
            _start(self.first, first_key), _start(self.second, second_key), jnp.zeros((), jnp.int32)
        )

    def fit(
        self,
        key: Key,
        archs: Archs,
        scores: ArrayLike,
        *,
        state: AveragedState | None = None,
        on_step: Callable[[FitStep], None] = protocol.ignore,
    ) -> "FittedAveraged":
        """Fit the first and then the second on the same scores.

        Arguments as `protocol.ResumableSurrogate.fit`. `on_step` is called after every step of
        either. While the first is fitted, the second's steps are not known yet and not in the
        total.

        Raises:
          UserError: what either refuses.
        """
        first_key, second_key = jax.random.split(key)
        now = self.start(key) if state is None else state

        def first_step(step: FitStep) -> None:
            nonlocal now
            now = AveragedState(step.state, now.second, jnp.asarray(step.done, jnp.int32))
            on_step(step._replace(state=now))

        def second_step(step: FitStep) -> None:
            nonlocal now
            now = now._replace(second=step.state)
            before = int(now.first_steps)
            on_step(step._replace(state=now, done=before + step.done, total=before + step.total))

        # The state of a fit that has ended takes no more steps: the fitted surrogate comes back.
        first = _fit(self.first, first_key, archs, scores, now.first, first_step)
        second = _fit(self.second, second_key, archs, scores, now.second, second_step)
        return FittedAveraged(first, second)

    def load(self, path: protocol.Path) -> "FittedAveraged":
        """Read a saved pair; errors as `protocol.Surrogate.load`."""

        def build(arrays: dict[str, np.ndarray]) -> FittedAveraged:
            return FittedAveraged(
                protocol.from_bytes(arrays["first"], self.first.load, "the first"),
                protocol.from_bytes(arrays["second"], self.second.load, "the second"),
            )

        return protocol.restore(path, type(self).__name__, build)


def _start(surrogate: Surrogate, key: Key) -> Any:
    """Return the first state of a surrogate, `()` of one that cannot be resumed."""
    return surrogate.start(key) if isinstance(surrogate, protocol.ResumableSurrogate) else ()


def _fit(
    surrogate: Surrogate,
    key: Key,
    archs: Archs,
    scores: ArrayLike,
    state: Any,
    on_step: Callable[[FitStep], None],
) -> Fitted:
    """Fit a surrogate: from `state` on if it can be resumed, else at once."""
    if isinstance(surrogate, protocol.ResumableSurrogate):
        return surrogate.fit(key, archs, scores, state=state, on_step=on_step)
    return surrogate.fit(key, archs, scores)


@dataclasses.dataclass(frozen=True)
class FittedAveraged:
    """Two fitted surrogates.

    Attributes:
      first: the first, after its fit.
      second: the second, after its fit.
    """

    first: Fitted
    second: Fitted

    def predict(self, archs: Archs) -> np.ndarray:
        """Return scores `[M]` float64 in the unit of the scores; NaN where either failed."""
        return (self.first.predict(archs) + self.second.predict(archs)) / 2

    def save(self, path: protocol.Path) -> None:
        """Write both as one `.npz`."""
        first, second = (protocol.to_bytes(own.save) for own in (self.first, self.second))
        files.save_arrays(path, {"first": first, "second": second}, kind="Averaged")


@dataclasses.dataclass(frozen=True)
class Stacked:
    """A regressor that sees its features and a base surrogate's prediction (Wolpert, 1992).

    Why folds: a base predicts the motifs it was fitted on better than new ones. If the regressor
    learned from such predictions, it would trust the base too much. So the known motifs are cut
    into K folds, and each fold is predicted by a base that was fitted on the other folds alone:
    this column of predictions shows the regressor how far the base can be trusted on motifs that
    it does not know. New motifs are predicted by a base that was fitted on everything known. A
    base that is `ScoreFree` (`FrozenDish`, a proxy) knows no score and needs no folds: it is
    fitted once and predicts the known motifs as it predicts new ones.

    Attributes:
      base: the dish, commonly; any surrogate.
      regressor: such as `RandomForest(space.features)`; the prediction becomes the last column
        of its vectors.
      folds: K, at least 2; a base that learns is fitted K + 1 times.
    """

    base: Surrogate
    regressor: protocol.VectorRegressor
    folds: int = 5

    def fit(self, key: Key, archs: Archs, scores: ArrayLike) -> "FittedStacked":
        """Fit the base, once per fold and once on everything, then the regressor.

        Arguments as `protocol.Surrogate.fit`; `key` draws the folds and every fit.

        Raises:
          UserError: too few finite scores (2 with a base that is `ScoreFree`, 4 in two folds, 3
            in more), shapes that disagree, fewer than 2 folds, or no finite prediction.
        """
        if not is_count(self.folds, 2):
            raise UserError(f"folds is {self.folds!r}: give 2 or more, a whole number")
        fold_key, base_key, regressor_key = jax.random.split(key, 3)
        if isinstance(self.base, protocol.ScoreFree):
            archs, truth = archs_lib.known(archs, scores)
            base: Fitted = self.base.prepare(base_key)
            column = base.predict(archs)
        else:  # which is left two motifs or more to learn from
            archs, truth = archs_lib.known(archs, scores, minimum=4 if self.folds == 2 else 3)
            base = self.base.fit(base_key, archs, truth)
            column = out_of_fold(self.base, fold_key, archs, truth, self.folds)
        floor = _floor(column)
        regressor = protocol.beside(self.regressor).fit(
            regressor_key, (archs, _filled(column, floor)), truth
        )
        return FittedStacked(base, regressor, floor)

    def load(self, path: protocol.Path) -> "FittedStacked":
        """Read a saved stack of this base and regressor; errors as `protocol.Surrogate.load`."""

        def build(arrays: dict[str, np.ndarray]) -> FittedStacked:
            load = protocol.beside(self.regressor).load
            return FittedStacked(
                protocol.from_bytes(arrays["base"], self.base.load, "the base"),
                protocol.from_bytes(arrays["regressor"], load, "the regressor"),
                float(arrays["floor"]),
            )

        return protocol.restore(path, type(self).__name__, build)


@dataclasses.dataclass(frozen=True)
class FittedStacked:
    """A fitted stack.

    Attributes:
      base: the base, fitted on everything known.
      regressor: the regressor, fitted on predictions of motifs that the base did not know.
      floor: what a motif gets whose prediction failed, in the base's unit.
    """

    base: Fitted
    regressor: Fitted
    floor: float

    def predict(self, archs: Archs) -> np.ndarray:
        """Return scores `[M]` float64, in the unit of the fitted scores."""
        return self.regressor.predict((archs, _filled(self.base.predict(archs), self.floor)))

    def save(self, path: protocol.Path) -> None:
        """Write base and regressor as one `.npz`."""
        base, regressor = (protocol.to_bytes(own.save) for own in (self.base, self.regressor))
        parts: dict[str, Any] = {"base": base, "regressor": regressor, "floor": self.floor}
        files.save_arrays(path, parts, kind="Stacked")


def _floor(column: np.ndarray) -> float:
    """Return what stands for a failed prediction, since regressors need finite numbers.

    That is the worst prediction minus one standard deviation of all of them.

    Raises:
      UserError: no prediction is finite.
    """
    finite = column[np.isfinite(column)]
    if not finite.size:
        raise UserError("the base predicts no finite score: lower the dish's inner_learning_rate")
    # Predictions that are all the same have no spread; a failure must still be told from them.
    return float(finite.min() - (finite.std() or 1.0))


def _filled(column: np.ndarray, floor: float) -> np.ndarray:
    return np.where(np.isfinite(column), column, floor)

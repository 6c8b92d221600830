"""The dish as a surrogate: fit, predict, save and load, like its rivals.

`dish.predict` standardises: its scores are in standard deviations over the known motifs. Here
they are mapped to the unit of the scores that were fitted: times the standard deviation of
these, plus their mean. So a dish and any other surrogate can be averaged or compared.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.typing import ArrayLike

from spd_jax import dish, files
from spd_jax.axes import Archs, Key
from spd_jax.checks import is_number
from spd_jax.errors import UserError
from spd_jax.motif import MotifFamily
from spd_jax.surrogates import protocol

_KIND = "DishSurrogate"


@dataclasses.dataclass(frozen=True)
class DishSurrogate:
    """A Synthetic Petri Dish of one motif family, a `protocol.ResumableSurrogate`.

    Attributes:
      family: the motif-network.
      config: settings.
      held_out_share: share of the known motifs that early stopping holds out
        (appendix A.1 splits in halves); 0 takes `outer_steps` steps on all.
      sharding: where a batch's motif axis lies, for several devices.
    """

    family: MotifFamily
    config: dish.DishConfig = dish.DishConfig()
    held_out_share: float = 0.0
    sharding: jax.sharding.Sharding | None = None

    def start(self, key: Key) -> dish.DishState:
        """Return the dish that `fit` with this key starts from."""
        return dish.init(jax.random.split(key)[0], self.family, self.config)

    def fit(
        self,
        key: Key,
        archs: Archs,
        scores: ArrayLike,
        *,
        state: dish.DishState | None = None,
        on_step: Callable[[protocol.FitStep], None] = protocol.ignore,
    ) -> "FittedDish":
        """Learn the synthetic data from known motifs.

        Arguments as `protocol.ResumableSurrogate.fit`. `key` draws the dish and the held-out
        motifs; a step is an outer step, and its losses are the outer losses `[E]`.

        Raises:
          UserError: fewer than 2 finite scores (4 where motifs are held out), scores that are
            all equal, shapes that disagree, a setting that cannot be run, or no motif whose inner
            training is finite.
        """
        if not (is_number(self.held_out_share, 0, 1) and self.held_out_share < 1):
            raise UserError(
                f"held_out_share is {self.held_out_share!r}: give a number from 0 to below 1"
            )
        known, held_out = dish.KnownMotifs.of(archs, scores), None
        if self.held_out_share:
            known, held_out = self._split(jax.random.split(key)[1], known)

        def report(state: dish.DishState, info: dish.OuterInfo) -> None:
            on_step(self._step(state, np.asarray(info.loss)))

        state, info = dish.fit_known(
            self.start(key) if state is None else state,
            self.family,
            self.config,
            known,
            held_out,
            on_step=report,
            sharding=self.sharding,
        )
        truth = np.asarray(scores, np.float64)
        truth = truth[np.isfinite(truth)]
        return FittedDish(self, state, float(truth.mean()), float(truth.std()), info)

    def load(self, path: protocol.Path) -> "FittedDish":
        """Read what `FittedDish.save` wrote with these settings.

        Raises:
          UserError: no such file, or not that of a dish of this family and these settings. A
            state alone, as `files.save_pytree` writes it, lacks the unit of the scores.
        """
        like = dish.init(jax.random.key(0), self.family, self.config)

        def build(arrays: dict[str, np.ndarray]) -> FittedDish:
            load = functools.partial(files.load_pytree, like=like)
            state = protocol.from_bytes(arrays["state"], load, "its state")
            return FittedDish(self, state, float(arrays["mean"]), float(arrays["std"]))

        try:
            return protocol.restore(path, _KIND, build)
        except UserError:
            _refuse_bare_state(path, like)
            raise

    def _split(
        self, key: Key, known: dish.KnownMotifs
    ) -> tuple[dish.KnownMotifs, dish.KnownMotifs]:
        """Return the known motifs to learn from, and those that early stopping holds out."""
        count = len(known)
        if count < 4:
            raise UserError(
                f"{count} motifs are known, but 4 are needed to hold some out: evaluate more, or "
                "set held_out_share to 0"
            )
        size = min(max(round(self.held_out_share * count), 2), count - 2)
        held_out = np.zeros(count, bool)
        held_out[np.asarray(jax.random.permutation(key, count))[:size]] = True
        return known.split(held_out)

    def _step(self, state: dish.DishState, losses: np.ndarray) -> protocol.FitStep:
        """Return where a fit is after an outer step.

        With early stopping a fit takes `outer_steps` steps to find the best number of them, and
        then, from the start again, that number on everything known.
        """
        search = self.config.outer_steps if self.held_out_share else 0
        step, stop_step = int(state.step), int(state.stop_step)
        if stop_step < 0:  # the best number of steps is not known yet: at most as many again
            return protocol.FitStep(state, step, 2 * search, losses, "early_stopping")
        return protocol.FitStep(state, search + step, search + stop_step, losses)


@dataclasses.dataclass(frozen=True)
class FittedDish:
    """A dish after `fit`.

    Attributes:
      surrogate: what was fitted: family and settings.
      state: what was learned.
      mean: mean of the known scores, in their unit; 0 for a dish that saw none.
      std: their population standard deviation; 1 for a dish that saw none.
      info: what the fit reported; None when it was loaded, or saw no score.
    """

    surrogate: DishSurrogate
    state: dish.DishState
    mean: float
    std: float
    info: dish.FitInfo | None = None

    def predict(self, archs: Archs, *, per_member: bool = False) -> np.ndarray:
        """Return scores in the unit of the known scores, higher is better.

        Args:
          archs: batch `[M]` of archs in canonical form.
          per_member: return every member's scores `[E, M]`, not their median `[M]`.

        Returns:
          `mean + std * dish.predict(...)`, float64; NaN where the inner training diverged.
        """
        standardised = dish.predict(
            self.state,
            self.surrogate.family,
            self.surrogate.config,
            archs,
            per_member=per_member,
            sharding=self.surrogate.sharding,
        )
        return self.in_unit(standardised)

    def by_member(self, archs: Archs) -> np.ndarray:
        """Return every member's scores `[E, M]`, see `predict`."""
        return self.predict(archs, per_member=True)

    def in_unit(self, standardised: ArrayLike) -> np.ndarray:
        """Return what `dish.predict` returns, of any shape, in the unit of the known scores.

        Returns:
          float64; NaN where a score is not finite.
        """
        standardised = np.asarray(standardised, np.float64)
        finite = np.isfinite(standardised)
        return np.where(finite, self.mean + self.std * np.where(finite, standardised, 0), np.nan)

    def save(self, path: protocol.Path) -> None:
        """Write the state and the unit of the scores as one `.npz`."""
        # The state lies inside as a file of its own: it is read back as 32-bit JAX arrays, but
        # the two numbers keep their 64 bits.
        state = protocol.to_bytes(functools.partial(files.save_pytree, tree=self.state))
        files.save_arrays(path, {"state": state, "mean": self.mean, "std": self.std}, kind=_KIND)


def _refuse_bare_state(path: protocol.Path, like: dish.DishState) -> None:
    """Raise a UserError of its own where a file holds nothing but the state of such a dish."""
    try:
        files.load_pytree(path, like)
    except UserError:
        return
    raise UserError(
        f"{path} is a dish without the unit of its scores, as earlier versions saved it: fit it "
        "again"
    )

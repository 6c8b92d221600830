"""The dish as a surrogate: fit, predict, save and load, like its rivals."""

import dataclasses
import os
from collections.abc import Callable

import jax
import numpy as np
from jax.typing import ArrayLike

from spd_jax import archs as archs_lib
from spd_jax import dish, files
from spd_jax.axes import Archs, Key
from spd_jax.motif import MotifFamily


@dataclasses.dataclass(frozen=True)
class DishSurrogate:
    """A Synthetic Petri Dish of one motif family.

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
        on_step: Callable[[dish.DishState, dish.OuterInfo], None] = lambda state, info: None,
    ) -> "FittedDish":
        """Learn the synthetic data from known motifs.

        Args:
          key: consumed: draws the dish, and the held-out motifs.
          archs: pytree of arrays, motif axis `[M]` first.
          scores: ground truth `[M]`, higher is better; one that is not finite is not used.
          state: a state that an interrupted `fit` handed to `on_step`, to resume.
          on_step: see `dish.fit`.

        Returns:
          The fitted dish.

        Raises:
          UserError: too few finite scores, or shapes that disagree.
        """
        archs, truth = archs_lib.known(archs, scores)
        split_key = jax.random.split(key)[1]
        held_out = np.zeros(len(truth), bool)
        if self.held_out_share:
            count = min(max(round(self.held_out_share * len(truth)), 2), len(truth) - 2)
            held_out[np.asarray(jax.random.permutation(split_key, len(truth)))[:count]] = True
        state, info = dish.fit(
            self.start(key) if state is None else state,
            self.family,
            self.config,
            jax.tree.map(lambda x: x[~held_out], archs),
            truth[~held_out],
            valid_archs=jax.tree.map(lambda x: x[held_out], archs) if held_out.any() else None,
            valid_ground_truth=truth[held_out],
            on_step=on_step,
            sharding=self.sharding,
        )
        return FittedDish(self, state, info)

    def load(self, path: str | os.PathLike[str]) -> "FittedDish":
        """Read what `FittedDish.save` wrote with these settings."""
        like = dish.init(jax.random.key(0), self.family, self.config)
        return FittedDish(self, files.load_pytree(path, like), None)


@dataclasses.dataclass(frozen=True)
class FittedDish:
    """A dish after `fit`.

    Attributes:
      surrogate: what was fitted: family and settings.
      state: what was learned.
      info: what the fit reported; `None` when loaded.
    """

    surrogate: DishSurrogate
    state: dish.DishState
    info: dish.FitInfo | None

    def predict(self, archs: Archs, *, per_member: bool = False) -> np.ndarray:
        """Return scores `[M]`, or `[E, M]`, in standard deviations over the known motifs."""
        return dish.predict(
            self.state,
            self.surrogate.family,
            self.surrogate.config,
            archs,
            per_member=per_member,
            sharding=self.surrogate.sharding,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state as one `.npz`."""
        files.save_pytree(path, self.state)

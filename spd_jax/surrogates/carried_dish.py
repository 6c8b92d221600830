"""A dish that goes on learning from what another fit has learned."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jax.typing import ArrayLike

from spd_jax.axes import Archs, Key
from spd_jax.checks import is_count
from spd_jax.dish import DishState
from spd_jax.errors import UserError
from spd_jax.surrogates import protocol
from spd_jax.surrogates.dish_surrogate import DishSurrogate, FittedDish


@dataclasses.dataclass(frozen=True)
class CarriedDish:
    """A dish whose fit starts from a state, not from a fresh draw; a `ResumableSurrogate`.

    Attributes:
      surrogate: family and settings; nothing is held out.
      state: of a dish with the same shapes: learned on another table, or with another family.
      steps: outer steps to take, the last ones of the settings' `outer_steps`. So a schedule of
        rates is at its end, and a dish that takes 80 steps and then 20 compiles one program.
    """

    surrogate: DishSurrogate
    state: DishState
    steps: int

    def start(self, key: Key) -> DishState:
        """Return the state that every fit starts from; `key` is not used.

        Raises:
          UserError: more steps than the settings have.
        """
        del key
        total = self.surrogate.config.outer_steps
        if not (is_count(self.steps, 0) and self.steps <= total):
            raise UserError(f"steps={self.steps!r}: give a whole number up to outer_steps={total}")
        step = jnp.asarray(total - self.steps, jnp.int32)
        return dataclasses.replace(self.state, step=step)

    def fit(
        self,
        key: Key,
        archs: Archs,
        scores: ArrayLike,
        *,
        state: DishState | None = None,
        on_step: Callable[[protocol.FitStep], None] = protocol.ignore,
    ) -> FittedDish:
        """Take `steps` outer steps on these motifs.

        Arguments as `protocol.ResumableSurrogate.fit`.

        Raises:
          UserError: what `start` and `DishSurrogate.fit` refuse, or settings that hold motifs
            out: early stopping would begin with a fresh dish.
        """
        if self.surrogate.held_out_share:
            raise UserError("a dish that goes on holds no motifs out: set held_out_share to 0")
        started = self.start(key) if state is None else state
        return self.surrogate.fit(key, archs, scores, state=started, on_step=on_step)

    def load(self, path: protocol.Path) -> FittedDish:
        """Read what `FittedDish.save` wrote; errors as `DishSurrogate.load`."""
        return self.surrogate.load(path)

"""A dish that goes on learning from what another fit has learned."""

import dataclasses
from collections.abc import Callable

from jax.typing import ArrayLike

from spd_jax.axes import Archs, Key
from spd_jax.dish import DishState
from spd_jax.errors import UserError
from spd_jax.surrogates import protocol
from spd_jax.surrogates.dish_surrogate import DishSurrogate, FittedDish


@dataclasses.dataclass(frozen=True)
class CarriedDish:
    """A dish whose fit starts from a state, not from a fresh draw; a `ResumableSurrogate`.

    Attributes:
      surrogate: family and settings. Its `outer_steps` count those that the state has taken, too;
        nothing is held out.
      state: of a dish with the same shapes: learned on another table, or with another family.
    """

    surrogate: DishSurrogate
    state: DishState

    def start(self, key: Key) -> DishState:
        """Return the state that every fit starts from; `key` is not used."""
        del key
        return self.state

    def fit(
        self,
        key: Key,
        archs: Archs,
        scores: ArrayLike,
        *,
        state: DishState | None = None,
        on_step: Callable[[protocol.FitStep], None] = protocol.ignore,
    ) -> FittedDish:
        """Take the outer steps that are left on these motifs.

        Arguments as `protocol.ResumableSurrogate.fit`.

        Raises:
          UserError: what `DishSurrogate.fit` refuses, or settings that hold motifs out: early
            stopping would begin with a fresh dish.
        """
        if self.surrogate.held_out_share:
            raise UserError("a dish that goes on holds no motifs out: set held_out_share to 0")
        started = self.state if state is None else state
        return self.surrogate.fit(key, archs, scores, state=started, on_step=on_step)

    def load(self, path: protocol.Path) -> FittedDish:
        """Read what `FittedDish.save` wrote; errors as `DishSurrogate.load`."""
        return self.surrogate.load(path)

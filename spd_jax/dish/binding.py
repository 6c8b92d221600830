"""A dish whose motif-network and settings are bound, in the manner of optax's init/update pair."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from spd_jax.axes import Archs, Array, Key
from spd_jax.dish import core, fitting
from spd_jax.dish import state as dish_state
from spd_jax.dish.config import DishConfig, check, check_family
from spd_jax.dish.state import DishState, OuterInfo
from spd_jax.motif import MotifFamily


class Dish(NamedTuple):
    """The functions of the dish for one motif family and one setting; made by `build`.

    Attributes:
      init: `init(key) -> state`, see `dish.init`.
      step: `step(state, archs, ground_truth, *, weights=None) -> (state, info)`, see
        `dish.outer_step`.
      fit: `fit(state, archs, ground_truth, **options) -> (state, info)`, see `dish.fit`.
      scores: `scores(state, archs) -> [E, M]`, traced and pure, see `dish.scores`.
      predict: `predict(state, archs, **options) -> [M]` on the host, see `dish.predict`.
    """

    init: Callable[[Key], DishState]
    step: Callable[..., tuple[DishState, OuterInfo]]
    fit: Callable[..., tuple[DishState, fitting.FitInfo]]
    scores: Callable[[DishState, Archs], Array]
    predict: Callable[..., np.ndarray]


def build(family: MotifFamily, config: DishConfig) -> Dish:
    """Bind a motif family and settings to the functions of the dish.

    Args:
      family: the motif-network.
      config: settings.

    Returns:
      Functions that take the dish's state first, and neither family nor settings.

    Raises:
      UserError: a setting that cannot be run, or a family that no data can be drawn for.

    >>> import jax
    >>> from spd_jax import dish
    >>> from spd_jax.spaces import sigmoid_slope
    >>> config = dish.DishConfig(inner_steps=5, outer_steps=2)
    >>> petri = dish.build(sigmoid_slope.family(), config)
    >>> slopes = np.array([0.5, 1.0, 1.5, 2.0], np.float32)
    >>> state, info = petri.fit(petri.init(jax.random.key(0)), slopes, [0.6, 0.9, 0.8, 0.7])
    >>> petri.predict(state, slopes).shape, petri.scores(state, slopes).shape
    ((4,), (1, 4))
    """
    check(config)
    check_family(family)

    def init(key: Key) -> DishState:
        return dish_state.init(key, family, config)

    def step(
        state: DishState, archs: Archs, ground_truth: ArrayLike, **options: Any
    ) -> tuple[DishState, OuterInfo]:
        return core.outer_step(state, family, config, archs, ground_truth, **options)

    def fit(
        state: DishState, archs: Archs, ground_truth: ArrayLike, **options: Any
    ) -> tuple[DishState, fitting.FitInfo]:
        return fitting.fit(state, family, config, archs, ground_truth, **options)

    def scores(state: DishState, archs: Archs) -> Array:
        return core.scores(state, family, config, archs)

    def predict(state: DishState, archs: Archs, **options: Any) -> np.ndarray:
        return core.predict(state, family, config, archs, **options)

    return Dish(init, step, fit, scores, predict)

"""A small dish of slopes, and scores to fit: what tests of surrogates with a dish share."""

import numpy as np

from spd_jax.dish import DishConfig
from spd_jax.spaces import sigmoid_slope
from spd_jax.surrogates.dish_surrogate import DishSurrogate

SLOPES = np.linspace(0.1, 2.0, 11, dtype=np.float32)
SCORES = np.cos(2 * SLOPES.astype(float))
NEW = np.linspace(0.15, 1.9, 7, dtype=np.float32)
DISH = DishSurrogate(
    sigmoid_slope.family(inputs=2, hidden=1, outputs=2),
    DishConfig(inner_steps=3, outer_steps=2, train_samples=3, valid_samples=3),
)

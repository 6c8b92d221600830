"""The core: learn data on which tiny motif-networks rank as the real ones do.

Read `inner_loop` (one motif trains), `core` (all motifs of all members; one outer step; scores)
and `fitting` (the loop of outer steps), in this order; the other files hold what these take
for granted: settings, losses, the state, and how known motifs become a batch.
"""

from spd_jax.dish.binding import Dish, build
from spd_jax.dish.config import DishConfig, check
from spd_jax.dish.core import (
    inner_curves,
    outer_losses,
    outer_step,
    predict,
    raw_scores,
    scores,
)
from spd_jax.dish.fitting import FitInfo, fit, fit_known
from spd_jax.dish.inner_loop import InnerCurves
from spd_jax.dish.known import KnownMotifs
from spd_jax.dish.state import DishState, OuterInfo, init

__all__ = [
    "Dish",
    "DishConfig",
    "DishState",
    "FitInfo",
    "InnerCurves",
    "KnownMotifs",
    "OuterInfo",
    "build",
    "check",
    "fit",
    "fit_known",
    "init",
    "inner_curves",
    "outer_losses",
    "outer_step",
    "predict",
    "raw_scores",
    "scores",
]

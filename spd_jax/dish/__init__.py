"""The core: learn data on which tiny motif-networks rank as the real ones do."""

from spd_jax.dish.config import DishConfig, check
from spd_jax.dish.core import (
    FitInfo,
    fit,
    outer_losses,
    outer_step,
    predict,
    raw_scores,
)
from spd_jax.dish.state import DishState, OuterInfo, init

__all__ = [
    "DishConfig",
    "DishState",
    "FitInfo",
    "OuterInfo",
    "check",
    "fit",
    "init",
    "outer_losses",
    "outer_step",
    "predict",
    "raw_scores",
]

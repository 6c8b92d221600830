"""Activations of several kinds, each with a slope; `drawing` has the picture."""

from spd_jax.spaces.activation_slope.space import (
    ActivationSlopeSpace,
    family,
    of_sigmoids,
    table_cells,
)
from spd_jax.spaces.activation_slope.units import KINDS, UNITS

__all__ = ["KINDS", "UNITS", "ActivationSlopeSpace", "family", "of_sigmoids", "table_cells"]

"""Slopes of a sigmoid: the space and its motif-network; `drawing` has the picture."""

from spd_jax.spaces.sigmoid_slope.space import SigmoidSlopeSpace, family, table_slopes

__all__ = ["SigmoidSlopeSpace", "family", "table_slopes"]

"""Recurrent cells: the arrays and the space; `network` has the equations, `drawing` the picture."""

from spd_jax.spaces.rnn_cell.cells import (
    ACTIVATIONS,
    NODES,
    PUBLISHED,
    VARIANTS,
    VOCABULARY,
    RnnCell,
    RnnCellSpace,
    check_variant,
)

__all__ = [
    "ACTIVATIONS",
    "NODES",
    "PUBLISHED",
    "VARIANTS",
    "VOCABULARY",
    "RnnCell",
    "RnnCellSpace",
    "check_variant",
]

"""NAS-Bench-101 cells: the arrays, the graph and the space; `drawing` has the picture."""

from spd_jax.spaces.nasbench101.cells import NasBench101Space
from spd_jax.spaces.nasbench101.graph import (
    MAX_EDGES,
    OPERATIONS,
    VERTICES,
    NasBench101Cell,
    fingerprint,
    from_matrix,
    is_valid,
    prune,
    to_matrix,
)

__all__ = [
    "MAX_EDGES",
    "OPERATIONS",
    "VERTICES",
    "NasBench101Cell",
    "NasBench101Space",
    "fingerprint",
    "from_matrix",
    "is_valid",
    "prune",
    "to_matrix",
]

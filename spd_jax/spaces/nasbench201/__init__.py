"""NAS-Bench-201 cells: the arrays, the graph and the space; `drawing` has the picture."""

from spd_jax.spaces.nasbench201.cells import NasBench201Space
from spd_jax.spaces.nasbench201.graph import (
    EDGES,
    OPERATIONS,
    PATHS,
    function_of,
    live_edges,
    live_paths,
)

__all__ = [
    "EDGES",
    "OPERATIONS",
    "PATHS",
    "NasBench201Space",
    "function_of",
    "live_edges",
    "live_paths",
]

"""NAS-Bench-201 cells: the arrays and the space; `drawing` has the picture."""

from spd_jax.spaces.nasbench201.cells import EDGES, OPERATIONS, NasBench201Space

__all__ = ["EDGES", "OPERATIONS", "NasBench201Space"]

"""What the device decides: how exact products are, and how many motifs one program trains."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.extend import core as jaxprs

from spd_jax.axes import Archs

CPU_CHUNK = 256  # motifs in one program on a CPU: the inner loop's arrays stay in cache
LARGEST_CHUNK = 65_536  # elsewhere, whatever the memory: not measured
MEMORY_SHARE = 0.25  # of an accelerator's memory, for one program

Function = TypeVar("Function", bound=Callable[..., Any])


def full_precision(function: Function) -> Function:
    """Return a function that is traced with float32 products.

    Accelerators round the factors of float32 products to TF32 or bfloat16 unless they are told
    not to. A score hardly moves by that, but an outer gradient, which has come through hundreds
    of inner steps, does: by 8 % of its largest entry for recurrent cells on an H100.
    """

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return traced  # type: ignore[return-value]


def chunk(function: Callable[[Archs], Any], one: Archs) -> int:
    """Return how many motifs one program trains best.

    Args:
      function: of a batch of archs, with axis M in front; it is traced, not run.
      one: a batch of one motif.

    Returns:
      `CPU_CHUNK` on a CPU. On an accelerator the largest power of two up to `LARGEST_CHUNK` that
      needs no more than `MEMORY_SHARE` of its memory, if everything that the function computes
      for a motif were kept: more than XLA will need.
    """
    stats = jax.local_devices()[0].memory_stats()
    if jax.default_backend() == "cpu" or not stats or "bytes_limit" not in stats:
        return CPU_CHUNK
    fits = int(MEMORY_SHARE * stats["bytes_limit"]) // computed_bytes(function, one)
    return 1 << max(min(fits, LARGEST_CHUNK).bit_length() - 1, 0)


def computed_bytes(function: Callable[..., Any], *args: Any) -> int:
    """Return the bytes of everything that a function computes; a loop's body counts once."""

    def size(jaxpr: jaxprs.Jaxpr) -> int:
        own = sum(int(np.prod(out.aval.shape)) * out.aval.dtype.itemsize for out in outputs(jaxpr))
        return own + sum(size(inner) for inner in nested(jaxpr))

    return size(jax.make_jaxpr(function)(*args).jaxpr)


def outputs(jaxpr: jaxprs.Jaxpr) -> list[Any]:
    """Return the results of all equations of a traced function, without those nested in them."""
    return [out for equation in jaxpr.eqns for out in equation.outvars]


def nested(jaxpr: jaxprs.Jaxpr) -> list[jaxprs.Jaxpr]:
    """Return the functions that a traced function calls: bodies of loops, branches, ..."""
    kinds = (jaxprs.Jaxpr, jaxprs.ClosedJaxpr)
    leaves: list[Any] = jax.tree.leaves(
        [equation.params for equation in jaxpr.eqns], is_leaf=lambda leaf: isinstance(leaf, kinds)
    )
    closed = [leaf for leaf in leaves if isinstance(leaf, jaxprs.ClosedJaxpr)]
    return [leaf.jaxpr for leaf in closed] + [x for x in leaves if isinstance(x, jaxprs.Jaxpr)]

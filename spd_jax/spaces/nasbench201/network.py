"""The NAS-Bench-201 cell as a function, and the motif-networks around it.

One program serves all cells: the operation of an edge is chosen by `lax.switch`, so that on a CPU
only that operation is computed. The derivative of a cell is written out, because JAX's own would
keep, for every edge, room for what each of the five operations needs.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spd_jax.axes import Arch, Archs, Array, Key, Params
from spd_jax.motif import MotifFamily
from spd_jax.spaces import image_network as images
from spd_jax.spaces.image_network import CellOutput, Skeleton, Trace
from spd_jax.spaces.nasbench201.cells import EDGES, OPERATIONS

CONV_1X1, CONV_3X3 = (OPERATIONS.index(f"nor_conv_{size}") for size in ("1x1", "3x3"))
_SOURCES, _TARGETS = np.array(EDGES).T
_NODES = 4


@functools.cache
def family(skeleton: Skeleton) -> MotifFamily:
    """Return the motif-network of a skeleton around a NAS-Bench-201 cell.

    Where the papers are silent: the stem is a 3x3 convolution and batch normalisation, as in
    NAS-Bench-201; a 2x2 max-pool is followed by a 1x1 convolution with batch normalisation that
    doubles the channels, since no edge of a cell can; the last cell's output is averaged as it is,
    and under `reduction="residual"` normalised and rectified first, as in NAS-Bench-201.

    Args:
      skeleton: sizes; see `image_network.MOTIF_NETWORKS`.

    Raises:
      UserError: a skeleton that cannot be built.
    """
    return images.family(skeleton, _Cell())


@functools.cache
def trace(skeleton: Skeleton) -> Callable[..., Trace]:
    """Return a function that runs a network and reports what proxies read: `image_network.trace`.

    A cell has six ReLUs, one for each edge; those of edges without a convolution are not used.
    """
    return images.trace(skeleton, _Cell())


def used_edges(arch: Any) -> Any:
    """Return which edges lie on a way from input to output, bool `[..., 6]`; none of `none`."""
    there = arch != 0
    e01, e02, e12, e03, e13, e23 = (there[..., edge] for edge in range(6))
    to_2, from_1 = e02 | (e01 & e12), e13 | (e12 & e23)
    used = [e01 & from_1, e02 & e23, e01 & e12 & e23, e03, e01 & e13, to_2 & e23]
    xp = np if isinstance(arch, np.ndarray) else jnp
    return xp.stack(used, axis=-1)


@dataclasses.dataclass(frozen=True)
class _Cell:
    """A `image_network.CellKind`."""

    widens: bool = False
    relu_after_stem: bool = False

    def init(self, key: Key, inputs: int, outputs: int) -> Params:
        """Draw kernels of both sizes for every edge."""

        def kernels(key: Key, size: int) -> Array:
            keys = jax.random.split(key, len(EDGES))
            return jax.vmap(lambda key: images.draw_kernel(key, outputs, size, inputs))(keys)

        keys = jax.random.split(key)
        return {"conv1x1": kernels(keys[0], 1), "conv3x3": kernels(keys[1], 3)}

    def apply(self, params: Params, arch: Arch, x: Array, norm: bool) -> CellOutput:
        nodes = _cell(norm, params, arch, x)
        used = used_edges(arch) & ((arch == CONV_1X1) | (arch == CONV_3X3))
        relu_inputs = tuple(nodes[source] for source in _SOURCES)
        return CellOutput(nodes[-1], relu_inputs, tuple(used.astype(x.dtype)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cell(norm: bool, params: Params, arch: Arch, x: Array) -> Array:
    """Return the four nodes of a cell, `[4, C, H, W, N]`."""
    return _forward(norm, params, arch, x)[0]


def _forward(norm: bool, params: Params, arch: Arch, x: Array) -> tuple[Array, Any]:
    """Go through the edges in order: each adds its operation's result to the node it enters."""
    no_scale = jnp.zeros((x.shape[0], 1, 1, 1), x.dtype)

    def edge(nodes: Array, now: Any) -> tuple[Array, tuple[Array, Array]]:
        operation, kernels, source, target = now
        x = nodes[source]
        operations = [
            lambda: (jnp.zeros_like(x), no_scale),
            lambda: (x, no_scale),
            lambda: images.convolved(norm, jax.nn.relu(x), kernels["conv1x1"]),
            lambda: images.convolved(norm, jax.nn.relu(x), kernels["conv3x3"]),
            lambda: (images.average_pool(x), no_scale),
        ]
        y, scale = jax.lax.switch(operation, operations)
        return nodes.at[target].add(y), (y, scale)

    nodes = jnp.zeros((_NODES, *x.shape), x.dtype).at[0].set(x)
    nodes, results = jax.lax.scan(edge, nodes, (arch, params, _SOURCES, _TARGETS))
    return nodes, (params, arch, nodes, results)


def _backward(norm: bool, residuals: Any, nodes_bar: Array) -> tuple[Params, None, Array]:
    params, arch, nodes, results = residuals

    def edge(nodes_bar: Array, now: Any) -> tuple[Array, Params]:
        operation, kernels, source, target, (y, scale) = now
        x, bar = nodes[source], nodes_bar[target]
        none = jax.tree.map(jnp.zeros_like, kernels)

        def convolution(name: str) -> tuple[Array, Params]:
            x_bar, kernel_bar = images.convolved_transpose(
                norm, jax.nn.relu(x), kernels[name], y, scale, bar
            )
            return jnp.where(x > 0, x_bar, 0), none | {name: kernel_bar}

        operations = [
            lambda: (jnp.zeros_like(x), none),
            lambda: (bar, none),
            lambda: convolution("conv1x1"),
            lambda: convolution("conv3x3"),
            lambda: (images.average_pool_transpose(bar), none),
        ]
        x_bar, kernels_bar = jax.lax.switch(operation, operations)
        return nodes_bar.at[source].add(x_bar), kernels_bar

    edges = (arch, params, _SOURCES, _TARGETS, results)
    nodes_bar, params_bar = jax.lax.scan(edge, nodes_bar, edges, reverse=True)
    return params_bar, None, nodes_bar[0]


_cell.defvjp(_forward, _backward)

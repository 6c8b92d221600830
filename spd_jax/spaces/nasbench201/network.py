"""The NAS-Bench-201 cell as a function, and the motif-networks around it.

One program serves all cells: the operation of an edge is chosen by `lax.switch`, so that on a CPU
only that operation is computed. The derivative of a cell is written out, because JAX's own would
keep, for every edge, room for what each of the five operations needs.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spd_jax.axes import Arch, Archs, Array, Key, Params
from spd_jax.motif import MotifFamily
from spd_jax.spaces import image_layers as layers
from spd_jax.spaces import image_network as images
from spd_jax.spaces.image_network import CellOutput, Skeleton, Trace
from spd_jax.spaces.nasbench201.cells import EDGES, OPERATIONS

CONV_1X1, CONV_3X3 = (OPERATIONS.index(f"nor_conv_{size}") for size in ("1x1", "3x3"))
_SOURCES, _TARGETS = np.array(EDGES).T
NODES = 4


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


def parameters(skeleton: Skeleton, archs: Archs) -> np.ndarray:
    """Return how many parameters the networks of archs `[M]` use, float64 `[M]`.

    NAS-Bench-201's own counts have two more for each channel of a batch normalisation, and those
    of convolutions on dead ends.
    """
    return _costs(skeleton, archs)[0]


def multiply_adds(skeleton: Skeleton, archs: Archs) -> np.ndarray:
    """Return the multiply-adds of the networks of archs `[M]` for one image, float64 `[M]`."""
    return _costs(skeleton, archs)[1]


def _costs(skeleton: Skeleton, archs: Archs) -> tuple[np.ndarray, np.ndarray]:
    archs = np.asarray(archs)
    used = used_edges(archs)
    areas = np.sum(used * ((archs == CONV_1X1) + 9 * (archs == CONV_3X3)), axis=-1)
    return images.costs(skeleton, _Cell(), lambda inputs, outputs: areas * inputs * outputs)


@dataclasses.dataclass(frozen=True)
class _Cell:
    """A `image_network.CellKind`."""

    widens: bool = False
    relu_after_stem: bool = False

    def init(self, key: Key, inputs: int, outputs: int) -> Params:
        """Draw kernels of both sizes for every edge."""

        def kernels(key: Key, size: int) -> Array:
            keys = jax.random.split(key, len(EDGES))
            return jax.vmap(lambda key: layers.draw_kernel(key, outputs, size, inputs))(keys)

        keys = jax.random.split(key)
        return {"conv1x1": kernels(keys[0], 1), "conv3x3": kernels(keys[1], 3)}

    def apply(self, params: Params, arch: Arch, x: Array, norm: bool) -> CellOutput:
        nodes = _cell(norm, params, arch, x)
        used = used_edges(arch) & ((arch == CONV_1X1) | (arch == CONV_3X3))
        relu_inputs = tuple(nodes[source] for source in _SOURCES)
        return CellOutput(nodes[-1], relu_inputs, tuple(used.astype(x.dtype)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cell(norm: bool, params: Params, arch: Arch, x: Array) -> tuple[Array, ...]:
    """Return the four nodes of a cell, `[C, H, W, N]` each."""
    return _forward(norm, params, arch, x)[0]


def _edge(norm: bool, operation: Array, kernels: Params, x: Array) -> tuple[Array, Array]:
    """Return what an edge brings, and what `convolved_transpose` needs besides that."""
    no_scale = jnp.zeros((x.shape[0], 1, 1, 1), x.dtype)
    operations = [
        lambda: (jnp.zeros_like(x), no_scale),
        lambda: (x, no_scale),
        lambda: layers.convolved(norm, jax.nn.relu(x), kernels["conv1x1"]),
        lambda: layers.convolved(norm, jax.nn.relu(x), kernels["conv3x3"]),
        lambda: (layers.average_pool(x), no_scale),
    ]
    return jax.lax.switch(operation, operations)


def _edge_transpose(
    norm: bool, operation: Array, kernels: Params, x: Array, result: tuple[Array, Array], bar: Array
) -> tuple[Array, Params]:
    """Return the cotangents of `x` and `kernels`; `result` is what `_edge` returned."""
    no_kernels = jax.tree.map(jnp.zeros_like, kernels)

    def convolution(name: str) -> tuple[Array, Params]:
        x_bar, kernel_bar = layers.convolved_transpose(
            norm, jax.nn.relu(x), kernels[name], *result, bar
        )
        return jnp.where(x > 0, x_bar, 0), no_kernels | {name: kernel_bar}

    operations = [
        lambda: (jnp.zeros_like(x), no_kernels),
        lambda: (bar, no_kernels),
        lambda: convolution("conv1x1"),
        lambda: convolution("conv3x3"),
        lambda: (layers.average_pool_transpose(bar), no_kernels),
    ]
    return jax.lax.switch(operation, operations)


def _forward(norm: bool, params: Params, arch: Arch, x: Array) -> tuple[tuple[Array, ...], Any]:
    nodes, results = [x], []
    for target in range(1, NODES):
        for index in np.flatnonzero(target == _TARGETS):
            kernels = jax.tree.map(operator.itemgetter(index), params)
            results.append(_edge(norm, arch[index], kernels, nodes[_SOURCES[index]]))
        entering = [y for (y, _), end in zip(results, _TARGETS, strict=False) if end == target]
        nodes.append(functools.reduce(jnp.add, entering))
    return tuple(nodes), (params, arch, nodes, results)


def _backward(
    norm: bool, residuals: Any, nodes_bar: tuple[Array, ...]
) -> tuple[Params, None, Array]:
    params, arch, nodes, results = residuals
    bars, params_bar = list(nodes_bar), []
    for index, (source, target) in reversed(list(enumerate(EDGES))):
        kernels = jax.tree.map(operator.itemgetter(index), params)
        x_bar, kernels_bar = _edge_transpose(
            norm, arch[index], kernels, nodes[source], results[index], bars[target]
        )
        bars[source] = bars[source] + x_bar
        params_bar.append(kernels_bar)
    return jax.tree.map(lambda *k: jnp.stack(k), *reversed(params_bar)), None, bars[0]


_cell.defvjp(_forward, _backward)

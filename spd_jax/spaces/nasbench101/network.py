"""The NAS-Bench-101 cell as a function, and the motif-networks around it.

One program serves all cells. A vertex has as many channels as the cell's output, of which the
arch uses the first few (`channels`); the others are 0. The operation of a vertex is chosen by
`lax.switch`, so that on a CPU only that operation is computed. The derivative of a cell is
written out, as for NAS-Bench-201.

A vertex or a projection is made in two moves, here called `found` (what a convolution with batch
normalisation or a pool returns) and `relu(found)`. The second does nothing to a pool, because
whatever enters a vertex went through a ReLU before and is not negative.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spd_jax.axes import Archs, Array, Key, Params
from spd_jax.errors import UserError
from spd_jax.motif import MotifFamily
from spd_jax.spaces import image_layers as layers
from spd_jax.spaces import image_network as images
from spd_jax.spaces.image_network import CellOutput, Skeleton, Trace
from spd_jax.spaces.nasbench101.graph import INTERIOR, OPERATIONS, OUTPUT, NasBench101Cell

CONV_3X3, CONV_1X1, MAX_POOL = (OPERATIONS.index(name) for name in OPERATIONS[1:])


@functools.cache
def family(skeleton: Skeleton) -> MotifFamily:
    """Return the motif-network of a skeleton around a NAS-Bench-101 cell.

    As in the benchmark, the stem is a 3x3 convolution, batch normalisation and ReLU, and the first
    cell after a 2x2 max-pool doubles the channels. Archs must be pruned.

    Args:
      skeleton: sizes; see `image_network.MOTIF_NETWORKS`. Its reduction is "max_pool".

    Raises:
      UserError: a skeleton that cannot be built.
    """
    _check(skeleton)
    return images.family(skeleton, _Cell())


@functools.cache
def trace(skeleton: Skeleton) -> Callable[..., Trace]:
    """Return a function that runs a network and reports what proxies read: `image_network.trace`.

    A cell has eleven ReLUs: those of the projections of its input to vertices 1..5 and to the
    output, and those of vertices 1..5. `Trace.relu_used` is `[C]` for each of these, 0 for
    channels that the arch does not use.
    """
    _check(skeleton)
    return images.trace(skeleton, _Cell())


def _check(skeleton: Skeleton) -> None:
    if skeleton.reduction != "max_pool":
        raise UserError(
            f"reduction={skeleton.reduction!r} does not go with NAS-Bench-101 cells: use max_pool"
        )


def channels(adjacency: Array, outputs: int) -> Array:
    """Return how many channels vertices 1..5 have, int32 `[5]` (Ying et al., section 2.2).

    The D vertices that feed the output share its channels equally, the first of them one more
    where a remainder is left; every other one has as many as the largest that it feeds.

    Args:
      adjacency: of a pruned arch, `[7, 7]`.
      outputs: channels of the cell's output.
    """
    feeds = adjacency[1:OUTPUT, OUTPUT]
    share, remainder = jnp.divmod(outputs, jnp.maximum(jnp.sum(feeds), 1))
    direct = feeds * (share + (jnp.cumsum(feeds) - feeds < remainder))
    found = jnp.zeros_like(direct)
    for vertex in reversed(range(INTERIOR)):
        largest = jnp.max(adjacency[1 + vertex, 1:OUTPUT] * found)
        found = found.at[vertex].set(jnp.where(feeds[vertex], direct[vertex], largest))
    return found


def parameters(skeleton: Skeleton, archs: Archs) -> np.ndarray:
    """Return how many parameters the networks of pruned archs `[M]` use, float64 `[M]`.

    NAS-Bench-101's own counts have two more for each channel of a batch normalisation.
    """
    return _costs(skeleton, archs)[0]


def multiply_adds(skeleton: Skeleton, archs: Archs) -> np.ndarray:
    """Return the multiply-adds of the networks of archs `[M]` for one image, float64 `[M]`."""
    return _costs(skeleton, archs)[1]


def _costs(skeleton: Skeleton, archs: Archs) -> tuple[np.ndarray, np.ndarray]:
    _check(skeleton)
    adjacency, operation = (np.asarray(x) for x in archs)
    areas = 9.0 * (operation == CONV_3X3) + (operation == CONV_1X1)

    def weights(inputs: int, outputs: int) -> np.ndarray:
        own = np.asarray(jax.vmap(lambda a: channels(a, outputs))(jnp.asarray(adjacency)))
        projected = np.sum(adjacency[:, 0, 1:OUTPUT] * own, 1) + adjacency[:, 0, OUTPUT] * outputs
        return np.sum(areas * own**2, 1) + inputs * projected

    return images.costs(skeleton, _Cell(), weights)


class _Masks(NamedTuple):
    """Which channels a cell uses.

    Attributes:
      vertex: `[5, C, 1, 1, 1]`, 1 where a vertex has the channel.
      feeds: the same, 0 for vertices that do not feed the output.
      offset: `[5]`, the output's channel that a vertex's first one becomes.
    """

    vertex: Array
    feeds: Array
    offset: Array


def _masks(adjacency: Array, outputs: int, dtype: Any) -> _Masks:
    own = channels(adjacency, outputs)
    direct = own * adjacency[1:OUTPUT, OUTPUT]

    def first(count: Array) -> Array:
        mask = jnp.arange(outputs) < count[:, None]
        return mask.astype(dtype)[:, :, None, None, None]

    return _Masks(first(own), first(direct), jnp.cumsum(direct) - direct)


def _concatenated(masks: _Masks, vertices: list[Array]) -> Array:
    """Put the used channels of the vertices that feed the output one after another."""
    width, parts = vertices[0].shape[0], []
    for index, vertex in enumerate(vertices):
        padded = jnp.concatenate([jnp.zeros_like(vertex), masks.feeds[index] * vertex])
        start = width - masks.offset[index]
        parts.append(jax.lax.dynamic_slice_in_dim(padded, start, width))
    return functools.reduce(jnp.add, parts)


def _separated(masks: _Masks, bar: Array) -> list[Array]:
    """Return the cotangents of the vertices under `_concatenated`."""
    padded = jnp.concatenate([bar, jnp.zeros_like(bar)])
    return [
        masks.feeds[index] * jax.lax.dynamic_slice_in_dim(padded, offset, bar.shape[0])
        for index, offset in enumerate(masks.offset)
    ]


@dataclasses.dataclass(frozen=True)
class _Cell:
    """A `image_network.CellKind`."""

    widens: bool = True
    relu_after_stem: bool = True

    def init(self, key: Key, inputs: int, outputs: int) -> Params:
        """Draw projections to six vertices, and kernels of both sizes for five."""

        def kernels(key: Key, count: int, size: int, inputs: int) -> Array:
            keys = jax.random.split(key, count)
            return jax.vmap(lambda key: layers.draw_kernel(key, outputs, size, inputs))(keys)

        keys = jax.random.split(key, 3)
        return {
            "projection": kernels(keys[0], INTERIOR + 1, 1, inputs),
            "conv1x1": kernels(keys[1], INTERIOR, 1, outputs),
            "conv3x3": kernels(keys[2], INTERIOR, 3, outputs),
        }

    def apply(self, params: Params, arch: NasBench101Cell, x: Array, norm: bool) -> CellOutput:
        """Run one cell; its ReLUs are those of the projections and then of the vertices."""
        output, projections, vertices = _cell(norm, params, arch, x)
        masks = _masks(arch.adjacency, output.shape[0], x.dtype)
        whole = jnp.ones_like(masks.vertex[:1])
        fed = jnp.concatenate([masks.vertex, whole])[..., 0, 0, 0] * arch.adjacency[0, 1:, None]
        convolves = (arch.operation == CONV_1X1) | (arch.operation == CONV_3X3)
        own = masks.vertex[..., 0, 0, 0] * convolves[:, None]
        return CellOutput(output, (*projections, *vertices), (*fed, *own))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cell(
    norm: bool, params: Params, arch: NasBench101Cell, x: Array
) -> tuple[Array, list[Array], list[Array]]:
    """Return a cell's output, and what its projections' and vertices' ReLUs see."""
    return _forward(norm, params, arch, x)[0]


def _project(norm: bool, edge: Array, kernel: Array, x: Array) -> tuple[Array, Array]:
    """Return a 1x1 convolution of the cell's input where there is an edge, else zeros."""
    outputs = kernel.shape[1]
    shapes = (outputs, *x.shape[1:]), (outputs, 1, 1, 1)
    return jax.lax.cond(
        edge > 0,
        lambda: layers.convolved(norm, x, kernel),
        lambda: tuple(jnp.zeros(shape, x.dtype) for shape in shapes),
    )


def _project_transpose(
    norm: bool, edge: Array, kernel: Array, x: Array, found: tuple[Array, Array], bar: Array
) -> tuple[Array, Array]:
    """Return the cotangents of `x` and `kernel`; `found` is what `_project` returned."""
    return jax.lax.cond(
        edge > 0,
        lambda: layers.convolved_transpose(norm, x, kernel, *found, bar),
        lambda: (jnp.zeros_like(x), jnp.zeros_like(kernel)),
    )


def _vertex(norm: bool, operation: Array, kernels: Params, x: Array) -> tuple[Array, Array]:
    """Return what a vertex makes of `x`, and what `convolved_transpose` needs besides that."""
    no_scale = jnp.zeros((x.shape[0], 1, 1, 1), x.dtype)
    operations = [
        lambda: (jnp.zeros_like(x), no_scale),
        lambda: layers.convolved(norm, x, kernels["conv3x3"]),
        lambda: layers.convolved(norm, x, kernels["conv1x1"]),
        lambda: (layers.max_pool(x), no_scale),
    ]
    return jax.lax.switch(operation, operations)


def _vertex_transpose(
    norm: bool, operation: Array, kernels: Params, x: Array, found: tuple[Array, Array], bar: Array
) -> tuple[Array, Params]:
    """Return the cotangents of `x` and `kernels`; `found` is what `_vertex` returned."""
    no_kernels = jax.tree.map(jnp.zeros_like, kernels)

    def convolution(name: str) -> tuple[Array, Params]:
        x_bar, kernel_bar = layers.convolved_transpose(norm, x, kernels[name], *found, bar)
        return x_bar, no_kernels | {name: kernel_bar}

    operations = [
        lambda: (jnp.zeros_like(x), no_kernels),
        lambda: convolution("conv3x3"),
        lambda: convolution("conv1x1"),
        lambda: (jax.vjp(layers.max_pool, x)[1](bar)[0], no_kernels),
    ]
    return jax.lax.switch(operation, operations)


def _kernels(params: Params, vertex: int) -> Params:
    return {name: params[name][vertex] for name in ("conv1x1", "conv3x3")}


def _forward(norm: bool, params: Params, arch: NasBench101Cell, x: Array) -> tuple[Any, Any]:
    edges = arch.adjacency.astype(x.dtype)
    masks = _masks(arch.adjacency, params["conv1x1"].shape[2], x.dtype)
    projections = [
        _project(norm, arch.adjacency[0, 1 + index], params["projection"][index], x)
        for index in range(INTERIOR + 1)
    ]
    entering: list[Array] = []
    found: list[tuple[Array, Array]] = []
    vertices: list[Array] = []
    for index in range(INTERIOR):
        sums = jax.nn.relu(projections[index][0])
        for before, vertex in enumerate(vertices):
            sums = sums + edges[1 + before, 1 + index] * vertex
        entering.append(masks.vertex[index] * sums)
        kernels = _kernels(params, index)
        found.append(_vertex(norm, arch.operation[index], kernels, entering[index]))
        vertices.append(masks.vertex[index] * jax.nn.relu(found[index][0]))
    output = _concatenated(masks, vertices) + jax.nn.relu(projections[-1][0])
    seen = [[y for y, _ in part] for part in (projections, found)]
    return (output, *seen), (params, arch, x, projections, entering, found)


def _backward(norm: bool, residuals: Any, bar: Any) -> tuple[Params, None, Array]:
    # `image_network` stops the derivative in what the ReLUs see.
    params, arch, x, projections, entering, found = residuals
    edges = arch.adjacency.astype(x.dtype)
    masks = _masks(arch.adjacency, params["conv1x1"].shape[2], x.dtype)

    def project(index: int, bar: Array) -> tuple[Array, Array]:
        bar = jnp.where(projections[index][0] > 0, bar, 0)
        edge, kernel = arch.adjacency[0, 1 + index], params["projection"][index]
        return _project_transpose(norm, edge, kernel, x, projections[index], bar)

    x_bar, projection_bar = project(INTERIOR, bar[0])
    bars, projection_bars, kernels_bars = _separated(masks, bar[0]), [projection_bar], []
    for index in reversed(range(INTERIOR)):
        own = jnp.where(found[index][0] > 0, masks.vertex[index] * bars[index], 0)
        entering_bar, kernels_bar = _vertex_transpose(
            norm, arch.operation[index], _kernels(params, index), entering[index], found[index], own
        )
        entering_bar = masks.vertex[index] * entering_bar
        for before in range(index):
            bars[before] = bars[before] + edges[1 + before, 1 + index] * entering_bar
        more, projection_bar = project(index, entering_bar)
        x_bar = x_bar + more
        projection_bars.append(projection_bar)
        kernels_bars.append(kernels_bar)
    params_bar = jax.tree.map(lambda *k: jnp.stack(k), *reversed(kernels_bars))
    params_bar["projection"] = jnp.stack(projection_bars[::-1])
    return params_bar, None, x_bar


_cell.defvjp(_forward, _backward)

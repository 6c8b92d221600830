"""What the motif-networks of image cells share: skeletons, layers, and the network around a cell.

Images come as NHWC; inside a network they lie as `[C, H, W, N]`. Networks are narrow (4 channels)
and images small, so samples lie on the minor axis: a shift of the image copies whole rows, and a
convolution is one product of matrices.

A 3x3 convolution is made of three moves: three copies of the image, shifted along the width; one
product `[3 O, 3 C] @ [3 C, H W N]` with the weights of all rows; the sum of the three row results,
shifted along the height. Nine shifted copies and `[O, 9 C]` are the same sum, but write and read
three times as much memory, which is what limits them (BUILD_NOTES.md, "Image cells").
"""

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from spd_jax.axes import Arch, Array, Key, Params
from spd_jax.errors import UserError
from spd_jax.motif import MotifFamily

Reduction = Literal["max_pool", "residual"]
BN_EPS = 1e-5  # added to the variance, as in the networks of both benchmarks


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """The network around a cell: stem, stacks of the cell, global average pooling, dense layer.

    Attributes:
      stacks: number of stacks; each but the first halves the image and doubles the channels.
      cells: cells in each stack.
      stem: channels of the stem and of the first stack.
      image_size: height and width of the images.
      image_channels: their channels.
      classes: outputs of the dense layer.
      reduction: what stands between stacks: a 2x2 "max_pool" (Cassimon et al.), or the "residual"
        block of stride 2 of NAS-Bench-201's own networks, which also end in BN and ReLU.
    """

    stacks: int
    cells: int
    stem: int
    image_size: int
    image_channels: int = 3
    classes: int = 10
    reduction: Reduction = "max_pool"

    @property
    def widths(self) -> tuple[int, ...]:
        """Return the channels of each stack."""
        return tuple(self.stem * 2**stack for stack in range(self.stacks))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the height and width of the images in each stack."""
        return tuple(self.image_size // 2**stack for stack in range(self.stacks))


MOTIF_NETWORKS = {  # Cassimon et al.
    "A": Skeleton(stacks=1, cells=3, stem=32, image_size=16),
    "B": Skeleton(stacks=3, cells=1, stem=16, image_size=16),
    "C": Skeleton(stacks=1, cells=1, stem=16, image_size=16),
}


class Trace(NamedTuple):
    """What a zero-cost proxy reads off a network.

    Attributes:
      logits: `[N, classes]`.
      relu_inputs: what each ReLU sees, `[N, H, W, C]` each; constant to derivatives.
      relu_used: 1 where the arch uses that ReLU and 0 where it does not: scalars, or `[C]` where
        an arch uses some of the channels only.
      blocks: what the stem, each cell and each reduction hand on, in order, `[N, H, W, C]` each.
    """

    logits: Array
    relu_inputs: tuple[Array, ...]
    relu_used: tuple[Array, ...]
    blocks: tuple[Array, ...]


class CellOutput(NamedTuple):
    """What a cell gives to the network around it.

    Attributes:
      output: `[C, H, W, N]`.
      relu_inputs: what each of its ReLUs sees, `[C', H, W, N]` each.
      relu_used: as in `Trace`.
    """

    output: Array
    relu_inputs: tuple[Array, ...] = ()
    relu_used: tuple[Array, ...] = ()


class CellKind(Protocol):
    """How a space's cells are computed, for `family` and `trace`. Hashable."""

    @property
    def widens(self) -> bool:
        """Whether a cell may have more outputs than inputs; else a 1x1 convolution widens."""
        ...

    @property
    def relu_after_stem(self) -> bool:
        """Whether the stem ends in a ReLU."""
        ...

    def init(self, key: Key, inputs: int, outputs: int) -> Params:
        """Draw the weights of one cell; `key` is consumed."""
        ...

    def apply(self, params: Params, arch: Arch, x: Array, norm: bool) -> CellOutput:
        """Run one cell on `[C, H, W, N]`, with or without batch normalisation."""
        ...


def check_skeleton(skeleton: Skeleton) -> None:
    """Refuse a skeleton that cannot be built.

    Raises:
      UserError: one sentence with the field's name and what is allowed.
    """
    for name in ("stacks", "cells", "stem", "image_size", "image_channels", "classes"):
        value = getattr(skeleton, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{name}={value!r} must be a whole number of at least 1")
    if skeleton.reduction not in ("max_pool", "residual"):
        raise UserError(
            f"reduction={skeleton.reduction!r} is unknown: use one of max_pool, residual"
        )
    halvings = skeleton.stacks - 1
    if skeleton.sizes[-1] < 1:
        raise UserError(
            f"image_size={skeleton.image_size} cannot be halved {halvings} times for "
            f"{skeleton.stacks} stacks: give at least {2**halvings}"
        )
    if skeleton.reduction == "residual" and skeleton.image_size % 2**halvings:
        raise UserError(
            f"image_size={skeleton.image_size} cannot be halved {halvings} times by residual "
            f"blocks without a remainder: give a multiple of {2**halvings}"
        )


def from_nhwc(images: Array) -> Array:
    """Return images `[N, H, W, C]` as the networks' `[C, H, W, N]`."""
    return jnp.transpose(images, (3, 1, 2, 0))


def to_nhwc(x: Array) -> Array:
    """Return features `[C, H, W, N]` as `[N, H, W, C]`."""
    return jnp.transpose(x, (3, 1, 2, 0))


def draw_kernel(key: Key, outputs: int, size: int, inputs: int) -> Array:
    """Draw weights `[size, outputs, size, inputs]` of a convolution (He et al., 2015)."""
    scale = math.sqrt(2 / (size * size * inputs))
    return scale * jax.random.normal(key, (size, outputs, size, inputs))


def _shifted(x: Array, axis: int) -> Array:
    """Return the element before, the element itself and the one after; 0 outside: `[3, ...]`."""
    size = x.shape[axis]
    zero = jnp.zeros_like(jax.lax.slice_in_dim(x, 0, 1, axis=axis))
    before = jax.lax.slice_in_dim(x, 0, size - 1, axis=axis)
    after = jax.lax.slice_in_dim(x, 1, size, axis=axis)
    return jnp.stack(
        [
            jnp.concatenate([zero, before], axis),
            x,
            jnp.concatenate([after, zero], axis),
        ]
    )


def _flat(x: Array) -> Array:
    """Return `[..., H, W, N]` as a matrix with one column for each pixel of each sample."""
    return x.reshape(-1, math.prod(x.shape[-3:]))


def convolution(x: Array, kernel: Array) -> Array:
    """Return the convolution, stride 1 and zeros outside: `[O, H, W, N]`.

    Args:
      x: `[C, H, W, N]`.
      kernel: `[size, O, size, C]` (rows, outputs, columns, inputs) with size 1 or 3.
    """
    size, outputs = kernel.shape[:2]
    weights = kernel.reshape(size * outputs, -1)
    if size == 1:
        return (weights @ _flat(x)).reshape(outputs, *x.shape[1:])
    above, here, below = (weights @ _flat(_shifted(x, 2))).reshape(3, outputs, *x.shape[1:])
    zero = jnp.zeros_like(here[:, :1])
    above = jnp.concatenate([zero, above[:, :-1]], 1)
    return above + here + jnp.concatenate([below[:, 1:], zero], 1)


def _convolution_transpose(x: Array, kernel: Array, bar: Array) -> tuple[Array, Array]:
    """Return the cotangents of `x` and `kernel` under `convolution`.

    That of `x` is a convolution of `bar` with the kernel turned by 180 degrees. Both need `bar`
    shifted along the width.
    """
    size, outputs, _, inputs = kernel.shape
    turned = jnp.transpose(jnp.flip(kernel, (0, 2)), (0, 3, 2, 1))
    if size == 1:
        flat = _flat(bar)
        x_bar = (turned.reshape(inputs, outputs) @ flat).reshape(x.shape)
        return x_bar, (flat @ _flat(x).T).reshape(kernel.shape)
    products = _flat(_shifted(bar, 2)) @ _flat(_shifted(x, 1)).T  # [(column, O), (row, C)]
    products = products.reshape(3, outputs, 3, inputs)
    kernel_bar = jnp.transpose(jnp.flip(products, 0), (2, 1, 0, 3))
    return convolution(bar, turned), kernel_bar


def _channel_means(x: Array) -> Array:
    """Return `[C, 1, 1, 1]`. A product with ones: XLA does not vectorise sums on CPUs."""
    flat = _flat(x)
    return (flat @ jnp.ones(flat.shape[1], x.dtype) / flat.shape[1])[:, None, None, None]


def _normalised(x: Array) -> tuple[Array, Array]:
    """Return `batch_norm(x)` and what it multiplied by, `[C, 1, 1, 1]`."""
    centred = x - _channel_means(x)
    scale = jax.lax.rsqrt(_channel_means(centred**2) + BN_EPS)
    return centred * scale, scale


def batch_norm(x: Array) -> Array:
    """Normalise each channel of `[C, H, W, N]` by the batch's mean and variance.

    No scale and shift, as convolutions or the dense layer follow. A constant channel becomes 0,
    with finite derivatives of every order.
    """
    return _normalised(x)[0]


def convolved(norm: bool, x: Array, kernel: Array) -> tuple[Array, Array]:
    """Return a convolution, normalised if `norm`, and what `convolved_transpose` needs of it."""
    y = convolution(x, kernel)
    return _normalised(y) if norm else (y, jnp.ones((y.shape[0], 1, 1, 1), y.dtype))


def convolved_transpose(
    norm: bool, x: Array, kernel: Array, y: Array, scale: Array, bar: Array
) -> tuple[Array, Array]:
    """Return the cotangents of `x` and `kernel`; `y` and `scale` are what `convolved` returned."""
    if norm:
        bar = scale * (bar - _channel_means(bar) - y * _channel_means(bar * y))
    return _convolution_transpose(x, kernel, bar)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def convolve(norm: bool, x: Array, kernel: Array) -> Array:
    """Return a convolution, normalised by `batch_norm` if `norm`; reverse mode only.

    The derivative keeps `x`, the result and a number for each channel. JAX's own would keep the
    shifted copies.
    """
    return convolved(norm, x, kernel)[0]


def _convolve_forward(norm: bool, x: Array, kernel: Array) -> tuple[Array, Any]:
    y, scale = convolved(norm, x, kernel)
    return y, (x, kernel, y, scale)


def _convolve_backward(norm: bool, residuals: Any, bar: Array) -> tuple[Array, Array]:
    x, kernel, y, scale = residuals
    return convolved_transpose(norm, x, kernel, y, scale, bar)


convolve.defvjp(_convolve_forward, _convolve_backward)


def _neighbours(x: Array, axis: int, combine: Callable[..., Array], outside: float) -> Array:
    """Combine every element with the one before and the one after along an axis."""
    size = x.shape[axis]
    edge = jnp.full_like(jax.lax.slice_in_dim(x, 0, 1, axis=axis), outside)
    before = jnp.concatenate([edge, jax.lax.slice_in_dim(x, 0, size - 1, axis=axis)], axis)
    after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, size, axis=axis), edge], axis)
    return combine(combine(before, x), after)


def _sum_pool(x: Array) -> Array:
    return _neighbours(_neighbours(x, 1, jnp.add, 0.0), 2, jnp.add, 0.0)


def _pool_sizes(x: Array) -> Array:
    """Return how many pixels the 3x3 surroundings of each pixel have, `[H, W, 1]`."""
    return _sum_pool(jnp.ones((1, *x.shape[1:3], 1), x.dtype))[0]


def average_pool(x: Array) -> Array:
    """Return the mean of the 3x3 surroundings inside the image, stride 1; `[C, H, W, N]`."""
    return _sum_pool(x) / _pool_sizes(x)


def average_pool_transpose(bar: Array) -> Array:
    """Return the cotangent under `average_pool`."""
    return _sum_pool(bar / _pool_sizes(bar))


def max_pool(x: Array) -> Array:
    """Return the largest of the 3x3 surroundings inside the image, stride 1; `[C, H, W, N]`."""
    rows = _neighbours(x, 1, jnp.maximum, -jnp.inf)
    return _neighbours(rows, 2, jnp.maximum, -jnp.inf)


def _quarters(x: Array) -> list[Array]:
    """Return the four pixels of each 2x2 square; an odd last row or column is dropped."""
    height, width = (size // 2 * 2 for size in x.shape[1:3])
    return [x[:, row:height:2, col:width:2] for row in range(2) for col in range(2)]


def halve_by_max(x: Array) -> Array:
    """Return the largest of each 2x2 square: `[C, H // 2, W // 2, N]`."""
    return functools.reduce(jnp.maximum, _quarters(x))


def halve_by_average(x: Array) -> Array:
    """Return the mean of each 2x2 square: `[C, H // 2, W // 2, N]`."""
    return functools.reduce(jnp.add, _quarters(x)) / 4


def family(skeleton: Skeleton, cell: CellKind) -> MotifFamily:
    """Return the motif-network of a skeleton around cells of one kind; not cached.

    Raises:
      UserError: a skeleton that cannot be built.
    """
    check_skeleton(skeleton)

    def apply(params: Params, arch: Arch, inputs: Array) -> Array:
        return _run(skeleton, cell, params, arch, inputs).logits

    size, channels = skeleton.image_size, skeleton.image_channels
    return MotifFamily(
        functools.partial(_init, skeleton, cell),
        apply,
        (size, size, channels),
        (skeleton.classes,),
        "balanced_classes",
        branching=True,
    )


def trace(skeleton: Skeleton, cell: CellKind) -> Callable[..., Trace]:
    """Return `trace(params, arch, inputs, *, batch_norm=True, after_block=None) -> Trace`.

    `params` are the family's; one arch and all N images. `batch_norm=False` leaves batch
    normalisation out (synflow). `after_block(index, output)` is called on each of `Trace.blocks`
    and returns what goes on: so derivatives can be cut between blocks (AZ-NAS). Reverse mode only.

    Raises:
      UserError: a skeleton that cannot be built.
    """
    check_skeleton(skeleton)

    def traced(
        params: Params,
        arch: Arch,
        inputs: Array,
        *,
        batch_norm: bool = True,
        after_block: Callable[[int, Array], Array] | None = None,
    ) -> Trace:
        found = _run(skeleton, cell, params, arch, inputs, batch_norm, after_block)
        return Trace(
            found.logits,
            tuple(map(to_nhwc, found.relu_inputs)),
            found.relu_used,
            tuple(map(to_nhwc, found.blocks)),
        )

    return traced


class _Group(NamedTuple):
    """Cells of one stack that are of one size, so that one compiled cell can serve them all.

    Attributes:
      cells: number of cells.
      inputs: channels that the first of them receives.
      outputs: channels that each of them returns.
      reduce: channels that a reduction before the first receives; 0 where there is none.
    """

    cells: int
    inputs: int
    outputs: int
    reduce: int = 0


def _groups(skeleton: Skeleton, cell: CellKind) -> list[_Group]:
    groups = [_Group(skeleton.cells, skeleton.stem, skeleton.stem)]
    for before, width in itertools.pairwise(skeleton.widths):
        if not cell.widens:
            groups.append(_Group(skeleton.cells, width, width, before))
            continue
        groups.append(_Group(1, before, width, before))
        if skeleton.cells > 1:
            groups.append(_Group(skeleton.cells - 1, width, width))
    return groups


def _init(skeleton: Skeleton, cell: CellKind, key: Key) -> Params:
    """Draw all weights: normal, variance 2 / fan-in, the dense layer's 1 / fan-in, its bias 0."""
    stem_key, cells_key, reductions_key, dense_key = jax.random.split(key, 4)
    cells, reductions, width = [], [], skeleton.widths[-1]
    for index, group in enumerate(_groups(skeleton, cell)):
        if group.reduce:
            reduction_key = jax.random.fold_in(reductions_key, index)
            reductions.append(_init_reduction(skeleton, cell, reduction_key, group.reduce))
        draw = functools.partial(cell.init, inputs=group.inputs, outputs=group.outputs)
        keys = jax.random.split(jax.random.fold_in(cells_key, index), group.cells)
        cells.append(jax.vmap(draw)(keys))
    weight = jax.random.normal(dense_key, (skeleton.classes, width)) / math.sqrt(width)
    return {
        "stem": draw_kernel(stem_key, skeleton.stem, 3, skeleton.image_channels),
        "cells": cells,
        "reductions": reductions,
        "dense": {"weight": weight, "bias": jnp.zeros((skeleton.classes, 1))},
    }


def _init_reduction(skeleton: Skeleton, cell: CellKind, key: Key, inputs: int) -> Params:
    outputs = 2 * inputs
    if skeleton.reduction == "max_pool":
        return {} if cell.widens else {"widen": draw_kernel(key, outputs, 1, inputs)}
    keys = jax.random.split(key, 3)
    return {
        "first": draw_kernel(keys[0], outputs, 3, inputs),
        "second": draw_kernel(keys[1], outputs, 3, outputs),
        "shortcut": draw_kernel(keys[2], outputs, 1, inputs),
    }


@dataclasses.dataclass
class _Tracer:
    """Takes note of what a run passes through.

    Attributes:
      after_block: see `trace`; may change the output of a block `[N, H, W, C]`.
      relu_inputs, relu_used: inputs of every ReLU, without a gradient, and whether it is used.
      blocks: outputs of the blocks `[C, H, W, N]`.
    """

    after_block: Callable[[int, Array], Array] | None
    relu_inputs: list[Array] = dataclasses.field(default_factory=list)
    relu_used: list[Array] = dataclasses.field(default_factory=list)
    blocks: list[Array] = dataclasses.field(default_factory=list)

    def relu(self, x: Array) -> Array:
        self.relu_inputs.append(jax.lax.stop_gradient(x))
        self.relu_used.append(jnp.ones((), x.dtype))
        return jax.nn.relu(x)

    def block(self, x: Array) -> Array:
        self.blocks.append(x)
        if self.after_block is None:
            return x
        return from_nhwc(self.after_block(len(self.blocks) - 1, to_nhwc(x)))

    def cell(self, found: CellOutput) -> None:
        self.relu_inputs.extend(found.relu_inputs)
        self.relu_used.extend(found.relu_used)


def _run(
    skeleton: Skeleton,
    cell: CellKind,
    params: Params,
    arch: Arch,
    inputs: Array,
    norm: bool = True,
    after_block: Callable[[int, Array], Array] | None = None,
) -> Trace:
    """Run a network; what is reported besides the logits lies as `[C, H, W, N]`."""
    tracer = _Tracer(after_block)

    def one_cell(x: Array, weights: Params) -> tuple[Array, CellOutput]:
        found = cell.apply(weights, arch, x, norm)
        relu_inputs = jax.lax.stop_gradient(found.relu_inputs)
        return found.output, CellOutput(found.output, relu_inputs, found.relu_used)

    x = convolve(norm, from_nhwc(inputs), params["stem"])
    x = tracer.block(tracer.relu(x) if cell.relu_after_stem else x)
    reductions = iter(params["reductions"])
    for group, weights in zip(_groups(skeleton, cell), params["cells"], strict=True):
        if group.reduce:
            x = tracer.block(_reduce(skeleton, next(reductions), x, norm, tracer.relu))
        each = [operator.itemgetter(index) for index in range(group.cells)]
        if group.cells > 1 and after_block is None:  # one compiled cell serves all of them
            x, stacked = jax.lax.scan(one_cell, x, weights)
            for at in each:
                found = jax.tree.map(at, stacked)
                tracer.blocks.append(found.output)
                tracer.cell(found)
            continue
        for at in each:
            x, found = one_cell(x, jax.tree.map(at, weights))
            x = tracer.block(x)
            tracer.cell(found)
    if skeleton.reduction == "residual":
        x = tracer.relu(batch_norm(x) if norm else x)
    logits = params["dense"]["weight"] @ jnp.mean(x, (1, 2)) + params["dense"]["bias"]
    traced = (tracer.relu_inputs, tracer.relu_used, tracer.blocks)
    return Trace(logits.T, *map(tuple, traced))


def _reduce(
    skeleton: Skeleton, weights: Params, x: Array, norm: bool, relu: Callable[[Array], Array]
) -> Array:
    """Halve the image and double its channels, where the next cell does not double them."""
    if skeleton.reduction == "max_pool":
        x = halve_by_max(x)
        return convolve(norm, x, weights["widen"]) if weights else x
    # Stride 2 as every second pixel of stride 1: four times the work, in two places of a network.
    inner = convolve(False, relu(x), weights["first"])[:, ::2, ::2]
    inner = convolve(norm, relu(batch_norm(inner) if norm else inner), weights["second"])
    return inner + convolve(False, halve_by_average(x), weights["shortcut"])


def costs(
    skeleton: Skeleton, cell: CellKind, weights: Callable[[int, int], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return how many parameters networks have, and multiply-adds for one image, float64 `[M]`.

    Counted are convolutions and the dense layer (its bias as parameters only); batch
    normalisation has no parameters here, and its work, sums and pools are left out.

    Args:
      skeleton: sizes.
      cell: the kind of cells.
      weights: maps a cell's channels in and out to the weights `[M]` of its convolutions that
        each of M archs uses.
    """
    stages = iter(skeleton.sizes)
    size = next(stages)
    layers: list[tuple[Any, int]] = [(9 * skeleton.image_channels * skeleton.stem, size**2)]
    for group in _groups(skeleton, cell):
        if group.reduce:
            size = next(stages)
            layers.append((_reduction_weights(skeleton, cell, group.reduce), size**2))
        layers.append((weights(group.inputs, group.outputs), size**2))
        if group.cells > 1:
            layers.append(((group.cells - 1) * weights(group.outputs, group.outputs), size**2))
    layers.append((skeleton.widths[-1] * skeleton.classes, 1))
    parameters = np.sum(np.broadcast_arrays(*(w for w, _ in layers)), axis=0, dtype=float)
    work = np.sum(np.broadcast_arrays(*(w * pixels for w, pixels in layers)), axis=0, dtype=float)
    return parameters + skeleton.classes, work


def _reduction_weights(skeleton: Skeleton, cell: CellKind, inputs: int) -> int:
    shapes = jax.eval_shape(
        lambda key: _init_reduction(skeleton, cell, key, inputs), jax.random.key(0)
    )
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))

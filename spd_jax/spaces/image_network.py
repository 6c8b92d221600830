"""What the motif-networks of image cells share: skeletons, and the network around a cell.

Images come as NHWC; inside a network they lie as `[C, H, W, N]` (`image_layers`).
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
from spd_jax.spaces import image_layers as layers

Reduction = Literal["max_pool", "residual"]


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
            tuple(map(layers.to_nhwc, found.relu_inputs)),
            found.relu_used,
            tuple(map(layers.to_nhwc, found.blocks)),
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
        "stem": layers.draw_kernel(stem_key, skeleton.stem, 3, skeleton.image_channels),
        "cells": cells,
        "reductions": reductions,
        "dense": {"weight": weight, "bias": jnp.zeros((skeleton.classes, 1))},
    }


def _init_reduction(skeleton: Skeleton, cell: CellKind, key: Key, inputs: int) -> Params:
    outputs = 2 * inputs
    if skeleton.reduction == "max_pool":
        return {} if cell.widens else {"widen": layers.draw_kernel(key, outputs, 1, inputs)}
    keys = jax.random.split(key, 3)
    return {
        "first": layers.draw_kernel(keys[0], outputs, 3, inputs),
        "second": layers.draw_kernel(keys[1], outputs, 3, outputs),
        "shortcut": layers.draw_kernel(keys[2], outputs, 1, inputs),
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
        return layers.from_nhwc(self.after_block(len(self.blocks) - 1, layers.to_nhwc(x)))

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

    x = layers.convolve(norm, layers.from_nhwc(inputs), params["stem"])
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
        x = tracer.relu(layers.batch_norm(x) if norm else x)
    logits = params["dense"]["weight"] @ jnp.mean(x, (1, 2)) + params["dense"]["bias"]
    traced = (tracer.relu_inputs, tracer.relu_used, tracer.blocks)
    return Trace(logits.T, *map(tuple, traced))


def _reduce(
    skeleton: Skeleton, weights: Params, x: Array, norm: bool, relu: Callable[[Array], Array]
) -> Array:
    """Halve the image and double its channels, where the next cell does not double them."""
    if skeleton.reduction == "max_pool":
        x = layers.halve_by_max(x)
        return layers.convolve(norm, x, weights["widen"]) if weights else x
    # Stride 2 as every second pixel of stride 1: four times the work, in two places of a network.
    inner = layers.convolve(False, relu(x), weights["first"])[:, ::2, ::2]
    inner = layers.convolve(
        norm, relu(layers.batch_norm(inner) if norm else inner), weights["second"]
    )
    return inner + layers.convolve(False, layers.halve_by_average(x), weights["shortcut"])


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
    counted: list[tuple[Any, int]] = [(9 * skeleton.image_channels * skeleton.stem, size**2)]
    for group in _groups(skeleton, cell):
        if group.reduce:
            size = next(stages)
            counted.append((_reduction_weights(skeleton, cell, group.reduce), size**2))
        counted.append((weights(group.inputs, group.outputs), size**2))
        if group.cells > 1:
            counted.append(((group.cells - 1) * weights(group.outputs, group.outputs), size**2))
    counted.append((skeleton.widths[-1] * skeleton.classes, 1))
    parameters = np.sum(np.broadcast_arrays(*(w for w, _ in counted)), axis=0, dtype=float)
    work = np.sum(np.broadcast_arrays(*(w * pixels for w, pixels in counted)), axis=0, dtype=float)
    return parameters + skeleton.classes, work


def _reduction_weights(skeleton: Skeleton, cell: CellKind, inputs: int) -> int:
    shapes = jax.eval_shape(
        lambda key: _init_reduction(skeleton, cell, key, inputs), jax.random.key(0)
    )
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))

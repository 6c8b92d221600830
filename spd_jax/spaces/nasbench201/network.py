"""The NAS-Bench-201 cell as a function, and the motif-networks around it."""

import functools

import jax
import jax.numpy as jnp

from spd_jax.axes import Arch, Array, Key, Params
from spd_jax.motif import MotifFamily
from spd_jax.spaces import image_network
from spd_jax.spaces.image_network import Skeleton, Trace

SKIP, CONV_1X1, CONV_3X3, POOL = 1, 2, 3, 4  # indices into OPERATIONS; 0 is none
OUT_OF = ((0, 1, 3), (2, 4), (5,))  # edges that leave nodes 0, 1, 2
SOURCES = ((0,), (0, 1), (0, 1, 2))  # nodes that feed nodes 1, 2, 3
INTO = ((0,), (1, 2), (3, 4, 5))  # their edges


class _Recorder:
    """Collects what a `Trace` reports, where somebody asks for it."""

    def __init__(self) -> None:
        self.relu_inputs: list[Array] = []
        self.relu_used: list[Array] = []
        self.blocks: list[Array] = []


def family(skeleton: Skeleton) -> MotifFamily:
    """Return the motif-network of a skeleton around a NAS-Bench-201 cell.

    Args:
      skeleton: sizes; see `image_network.MOTIF_NETWORKS`.

    Raises:
      UserError: a skeleton that cannot be built.
    """
    image_network.check_skeleton(skeleton)
    return _family(skeleton)


@functools.cache
def _family(skeleton: Skeleton) -> MotifFamily:
    def apply(params: Params, arch: Arch, inputs: Array) -> Array:
        return _forward(skeleton, params, arch, inputs, None, True, None)

    size, channels = skeleton.image_size, skeleton.image_channels
    return MotifFamily(
        functools.partial(init, skeleton),
        apply,
        (size, size, channels),
        (skeleton.classes,),
        "balanced_classes",
    )


def trace(skeleton: Skeleton):
    """Return `trace(params, arch, inputs, *, batch_norm=True, offsets=None) -> Trace`.

    `batch_norm=False` leaves batch normalisation out (synflow). `offsets` are added to the cells'
    outputs, `[N, H, W, C]` each as `Trace.blocks`: derivatives in them are those between blocks.
    """
    image_network.check_skeleton(skeleton)

    def run(params: Params, arch: Arch, inputs: Array, *, batch_norm=True, offsets=None) -> Trace:
        recorder = _Recorder()
        logits = _forward(skeleton, params, arch, inputs, recorder, batch_norm, offsets)
        found = (recorder.relu_inputs, recorder.relu_used, recorder.blocks)
        return Trace(logits, *(tuple(part) for part in found))

    return run


def init(skeleton: Skeleton, key: Key) -> Params:
    """Draw the weights of a network; `key` is consumed."""
    stem_key, cell_key, reduction_key, dense_key = jax.random.split(key, 4)
    widths, draw = skeleton.widths, image_network.kernel

    def cell(key: Key, width: int) -> Params:
        first, second = jax.random.split(key)
        return {
            "conv1x1": jax.vmap(lambda k: draw(k, width, 1, width))(jax.random.split(first, 6)),
            "conv3x3": jax.vmap(lambda k: draw(k, width, 3, width))(jax.random.split(second, 6)),
        }

    def reduction(key: Key, width: int) -> Params:
        if skeleton.reduction == "max_pool":
            return {"widen": draw(key, 2 * width, 1, width)}
        keys = jax.random.split(key, 3)
        return {
            "first": draw(keys[0], 2 * width, 3, width),
            "second": draw(keys[1], 2 * width, 3, 2 * width),
            "shortcut": draw(keys[2], 2 * width, 1, width),
        }

    cell_keys = jax.random.split(cell_key, (skeleton.stacks, skeleton.cells))
    reduction_keys = jax.random.split(reduction_key, skeleton.stacks)
    weight = jax.random.normal(dense_key, (widths[-1], skeleton.classes)) / widths[-1] ** 0.5
    return {
        "stem": draw(stem_key, skeleton.stem, 3, skeleton.image_channels),
        "cells": [[cell(k, w) for k in keys] for keys, w in zip(cell_keys, widths, strict=True)],
        "reductions": [
            reduction(k, w) for k, w in zip(reduction_keys[:-1], widths[:-1], strict=True)
        ],
        "dense": {"weight": weight, "bias": jnp.zeros(skeleton.classes)},
    }


def _forward(skeleton, params, arch, inputs, recorder, batch_norm, offsets) -> Array:
    norm = image_network.batch_norm if batch_norm else lambda x: x

    def relu(x: Array, used: Array | float = 1.0) -> Array:
        if recorder is not None:
            recorder.relu_inputs.append(image_network.to_nhwc(x))
            recorder.relu_used.append(jnp.asarray(used, jnp.float32))
        return jax.nn.relu(x)

    chosen = jax.nn.one_hot(arch, 5)
    x = image_network.from_nhwc(inputs)
    x = norm(image_network.convolution(x, params["stem"]))
    for stack, cells in enumerate(params["cells"]):
        if stack:
            x = _reduce(skeleton, params["reductions"][stack - 1], x, norm, relu)
        for weights in cells:
            x = _cell(weights, chosen, x, norm, relu)
            if offsets is not None:
                x = x + image_network.from_nhwc(offsets[len(recorder.blocks)])
            if recorder is not None:
                recorder.blocks.append(image_network.to_nhwc(x))
    if skeleton.reduction == "residual":
        x = relu(norm(x))
    return image_network.dense(params["dense"], x)


def _reduce(skeleton, weights, x, norm, relu) -> Array:
    convolution = image_network.convolution
    if skeleton.reduction == "max_pool":
        return norm(convolution(image_network.halve_by_max(x), weights["widen"]))
    inner = norm(convolution(relu(x), weights["first"])[:, ::2, ::2])
    inner = norm(convolution(relu(inner), weights["second"]))
    return inner + convolution(image_network.halve_by_average(x), weights["shortcut"])


def _cell(weights: Params, chosen: Array, x: Array, norm, relu) -> Array:
    """Run one cell on `[C, H, W, N]`; `chosen` is one-hot, `[6, 5]`."""
    width, shape = x.shape[0], x.shape[1:]
    centre = jnp.zeros((3, 3)).at[1, 1].set(1)[None, :, :, None]
    mask = [chosen[:, op].reshape(-1, 1, 1, 1, 1) for op in (CONV_1X1, CONV_3X3)]
    kernels = mask[0] * (centre * weights["conv1x1"]) + mask[1] * weights["conv3x3"]
    nodes, convolved = [x], [None] * 6
    for node in range(1, 4):
        source, edges = nodes[-1], OUT_OF[node - 1]
        uses = 1 - jnp.prod(1 - chosen[jnp.array(edges), CONV_1X1 : CONV_3X3 + 1].sum(-1))
        flat = jnp.concatenate([kernels[edge] for edge in edges])
        out = norm(image_network.convolution(relu(source, uses), flat))
        for index, edge in enumerate(edges):
            convolved[edge] = out[index * width : (index + 1) * width]
        into, sources = INTO[node - 1], SOURCES[node - 1]
        pooled = image_network.average_pool(
            sum(chosen[e, POOL] * nodes[s] for e, s in zip(into, sources, strict=True))
        )
        kept = sum(chosen[e, SKIP] * nodes[s] for e, s in zip(into, sources, strict=True))
        nodes.append(pooled + kept + sum(convolved[e] for e in into))
    return nodes[-1]

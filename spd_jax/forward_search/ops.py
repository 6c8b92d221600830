"""The seven operations of an image cell, and three ways to compute a separable convolution."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from spd_jax.axes import Array
from spd_jax.errors import check_name
from spd_jax.forward_search.scope import Scope

# "grouped" is the plain form, for accelerators. On a CPU XLA's grouped convolutions are several
# times slower than a dense one whose kernel is the product of both ("composed"), or than sums
# of shifted images ("shifted"): docs/forward_search.md, "Speed".
CONV_FORMS = ("composed", "grouped", "shifted")
DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def default_conv_form() -> str:
    """Return the form that is fastest on the device in use."""
    return "composed" if jax.default_backend() == "cpu" else "grouped"


def apply(
    scope: Scope, path: str, op: str, x: Array, *, stride: int, form: str, scale: bool
) -> Array:
    """Apply an operation that keeps the width, normalised at its end.

    Every operation ends with batch normalisation, pools and the identity too: |alpha| of two
    candidates can be compared only if both have unit variance (the paper, section 4; the
    released code normalises convolutions alone).

    Args:
      scope: of the weights.
      path: of the operation.
      op: name in `arch.IMAGE_OPS`.
      x: images `[N, H, W, C]`.
      stride: 1, or 2 to halve the size.
      form: one of `CONV_FORMS`.
      scale: whether the last normalisation has a learnt scale and offset.

    Returns:
      Images `[N, H / stride, W / stride, C]`.
    """
    if op.startswith("sep"):
        half = separable(scope, f"{path}/first", x, int(op[3]), stride=stride, form=form)
        half = scope.normalise(f"{path}/first", half)
        y = separable(scope, f"{path}/second", half, int(op[3]), form=form)
    elif op.startswith("dil"):
        y = separable(scope, f"{path}/first", x, int(op[3]), stride=stride, dilation=2, form=form)
    elif op == "identity":
        y = x if stride == 1 else project(scope, f"{path}/smaller", x, x.shape[-1], stride=stride)
    else:
        y = pool(x, op, stride)
        scope.count(path, 0.5 * 9 * y[0].size)
    return scope.normalise(f"{path}/last", y, scale=scale)


def separable(
    scope: Scope,
    path: str,
    x: Array,
    size: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    form: str = "grouped",
) -> Array:
    """Return a pointwise convolution of a depthwise one of relu(x): k^2 C + C C weights."""
    channels = x.shape[-1]
    depthwise = scope.weight(
        f"{path}/depthwise", (size, size, channels), "normal", fan_in=size * size
    )
    pointwise = scope.weight(f"{path}/pointwise", (channels, channels), "normal", fan_in=channels)
    y = separable_form(jax.nn.relu(x), depthwise, pointwise, stride, dilation, form)
    scope.count(path, (size * size * channels + channels * channels) * y.shape[1] * y.shape[2])
    return y


def separable_form(
    x: Array, depthwise: Array, pointwise: Array, stride: int, dilation: int, form: str
) -> Array:
    """Compute a separable convolution with zero padding in one of `CONV_FORMS`: equal results.

    Args:
      x: `[N, H, W, C]`.
      depthwise: `[k, k, C]`.
      pointwise: `[C, C']`.
      stride: of the output.
      dilation: steps between two entries of the kernel.
      form: one of `CONV_FORMS`.
    """
    check_name("form of convolution", form, CONV_FORMS)
    size, channels = depthwise.shape[0], x.shape[-1]
    reach = dilation * (size - 1)
    # Where a kernel is larger than the image, XLA lets them change places: ten times slower on a
    # CPU than a sum of shifted images.
    if form == "composed" and stride * reach < min(x.shape[1:3]):
        return convolve(x, depthwise[..., None] * pointwise, stride, dilation)
    if form == "grouped":
        y = convolve(x, depthwise[:, :, None], stride, dilation, groups=channels)
        return jnp.einsum("nhwc,cd->nhwd", y, pointwise)
    pads = [_padding(length, reach, stride) for length in x.shape[1:3]]
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    heights, widths = (
        (length + before + after - reach - 1) // stride + 1
        for length, (before, after) in zip(x.shape[1:3], pads, strict=True)
    )
    total = jnp.zeros((x.shape[0], heights, widths, channels), x.dtype)
    for i in range(size):
        for j in range(size):
            rows = slice(i * dilation, i * dilation + stride * (heights - 1) + 1, stride)
            columns = slice(j * dilation, j * dilation + stride * (widths - 1) + 1, stride)
            total = total + padded[:, rows, columns] * depthwise[i, j]
    return jnp.einsum("nhwc,cd->nhwd", total, pointwise)


def _padding(length: int, reach: int, stride: int) -> tuple[int, int]:
    """Return the zeros before and after a line: as many outputs as length / stride, rounded up."""
    outputs = -(-length // stride)
    total = max((outputs - 1) * stride + reach + 1 - length, 0)
    return total // 2, total - total // 2


def convolve(x: Array, kernel: Array, stride: int = 1, dilation: int = 1, groups: int = 1) -> Array:
    """Convolve images `[N, H, W, C]` with a kernel `[k, k, C / groups, C']`, zero padding."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        rhs_dilation=(dilation, dilation),
        dimension_numbers=DIMENSIONS,
        feature_group_count=groups,
    )


def project(scope: Scope, path: str, x: Array, width: int, *, stride: int = 1) -> Array:
    """Bring images to a width and, with a stride, to a smaller size: a 1 x 1 convolution."""
    channels = x.shape[-1]
    kernel = scope.weight(f"{path}/kernel", (channels, width), "normal", fan_in=channels)
    y = jnp.einsum("nhwc,cd->nhwd", x[:, ::stride, ::stride], kernel)
    scope.count(path, channels * y[0].size)
    return y


def pool(x: Array, op: str, stride: int) -> Array:
    """Return the maximum ("max3") or mean ("avg3") of 3 x 3 pixels; what lies outside counts not.

    Rows come first, then columns: two short chains instead of windows, which XLA's CPU backend
    computes and, above all, differentiates slowly.
    """
    join, outside = (jnp.maximum, -jnp.inf) if op == "max3" else (jnp.add, 0.0)
    rows = _chain(x, 1, stride, join, outside)
    # Without the barrier XLA computes rows anew for every column.
    total = _chain(jax.lax.optimization_barrier(rows), 2, stride, join, outside)
    if op == "max3":
        return total
    counts = [_counts(length, stride) for length in x.shape[1:3]]
    return total / jnp.asarray(np.outer(*counts)[:, :, None], x.dtype)


def _chain(x: Array, axis: int, stride: int, join: Callable[..., Array], outside: float) -> Array:
    """Join three neighbours along an axis."""
    length = x.shape[axis]
    before, after = _padding(length, 2, stride)
    pads = [(0, 0)] * x.ndim
    pads[axis] = (before, after)
    padded = jnp.pad(x, pads, constant_values=outside)
    outputs = -(-length // stride)
    parts = [
        jax.lax.slice_in_dim(padded, i, i + stride * (outputs - 1) + 1, stride, axis)
        for i in range(3)
    ]
    return join(join(parts[0], parts[1]), parts[2])


def _counts(length: int, stride: int) -> np.ndarray:
    """Return how many of three neighbours lie inside, for each output."""
    before, after = _padding(length, 2, stride)
    inside = np.pad(np.ones(length), (before, after))
    return np.array([inside[i : i + 3].sum() for i in range(0, len(inside) - 2, stride)])

"""The layers of image networks: convolutions, normalisation and pools.

Images come as NHWC; inside a network they lie as `[C, H, W, N]`. Networks are narrow (4 channels)
and images small, so samples lie on the minor axis: a shift of the image copies whole rows, and a
convolution is one product of matrices.

A 3x3 convolution is made of three moves: three copies of the image, shifted along the width; one
product `[3 O, 3 C] @ [3 C, H W N]` with the weights of all rows; the sum of the three row results,
shifted along the height. Nine shifted copies and `[O, 9 C]` are the same sum, but write and read
three times as much memory, which is what limits them (BUILD_NOTES.md, "Image cells").
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from spd_jax.axes import Array, Key

BN_EPS = 1e-5  # added to the variance, as in the networks of both benchmarks


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

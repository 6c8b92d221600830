"""What the motif-networks of image cells share: their skeletons, and their layers.

Images come as NHWC; inside a network they lie as `[C, H, W, N]`. With samples on the minor axis a
shift of the image copies whole rows, and a convolution is one product of matrices: narrow networks
(4 channels) would leave a vector register idle.
"""

import dataclasses
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from spd_jax.axes import Array, Key
from spd_jax.errors import UserError

Reduction = Literal["max_pool", "residual"]
BN_EPS = 1e-5  # PyTorch's, which trained NAS-Bench-201; NAS-Bench-101's authors used the same


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """A network around one cell that is repeated: stem, stacks of cells, pooling, dense layer.

    Attributes:
      stacks: number of stacks; each but the first halves the image and doubles the channels.
      cells: cells in each stack.
      stem: channels of the stem and of the first stack.
      image_size: height and width of the images.
      image_channels: their channels.
      classes: outputs of the dense layer.
      reduction: what stands between stacks: a 2x2 "max_pool" (Cassimon et al.), or the "residual"
        block of stride 2 of NAS-Bench-201's own networks.
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


MOTIF_NETWORKS = {  # Cassimon et al.; 16x16 images
    "A": Skeleton(stacks=1, cells=3, stem=32, image_size=16),
    "B": Skeleton(stacks=3, cells=1, stem=16, image_size=16),
    "C": Skeleton(stacks=1, cells=1, stem=16, image_size=16),
}


class Trace(NamedTuple):
    """What a zero-cost proxy reads off a network.

    Attributes:
      logits: `[N, classes]`.
      relu_inputs: what each ReLU sees, `[N, H, W, C]` each.
      relu_used: scalars, 1 where the arch uses that ReLU and 0 where it does not.
      blocks: output of each cell, `[N, H, W, C]`.
    """

    logits: Array
    relu_inputs: tuple[Array, ...]
    relu_used: tuple[Array, ...]
    blocks: tuple[Array, ...]


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
    if min(skeleton.sizes) < 1:
        raise UserError(
            f"image_size={skeleton.image_size} is too small for {skeleton.stacks} stacks, each of "
            f"which halves it: give at least {2 ** (skeleton.stacks - 1)}"
        )
    if skeleton.reduction == "residual" and skeleton.image_size % 2 ** (skeleton.stacks - 1):
        raise UserError(
            f"image_size={skeleton.image_size} cannot be halved {skeleton.stacks - 1} times by "
            f"residual blocks: give a multiple of {2 ** (skeleton.stacks - 1)}"
        )


def kernel(key: Key, outputs: int, size: int, inputs: int) -> Array:
    """Draw a convolution's weights `[outputs, size, size, inputs]` (He et al., 2015)."""
    scale = math.sqrt(2 / (size * size * inputs))
    return scale * jax.random.normal(key, (outputs, size, size, inputs))


def patches(x: Array) -> Array:
    """Return the 3x3 surroundings of every pixel, zeros outside: `[9, C, H, W, N]`.

    Args:
      x: `[C, H, W, N]`.
    """
    _, height, width, _ = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.stack(
        [x[:, row : row + height, col : col + width] for row in range(3) for col in range(3)]
    )


def convolution(x: Array, kernel: Array) -> Array:
    """Return the convolution, stride 1 and zeros outside: `[O, H, W, N]`.

    Args:
      x: `[C, H, W, N]`.
      kernel: `[O, size, size, C]` with size 1 or 3.
    """
    outputs, size = kernel.shape[:2]
    columns = patches(x) if size == 3 else x
    columns = columns.reshape(-1, math.prod(x.shape[1:]))
    return (kernel.reshape(outputs, -1) @ columns).reshape(outputs, *x.shape[1:])


def batch_norm(x: Array) -> Array:
    """Normalise each channel of `[C, H, W, N]` by the batch's mean and variance.

    No scale and shift: a convolution or the dense layer follows. Where a channel is constant the
    result is 0, with finite derivatives of every order.
    """
    axes = tuple(range(1, x.ndim))
    centred = x - jnp.mean(x, axes, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axes, keepdims=True) + BN_EPS)


def _three(x: Array, axis: int, combine: object, outside: float) -> Array:
    """Combine every element with its two neighbours along an axis."""
    size = x.shape[axis]
    widths = [(0, 0)] * x.ndim
    widths[axis] = (1, 1)
    padded = jnp.pad(x, widths, constant_values=outside)
    before, after = (jax.lax.slice_in_dim(padded, at, at + size, axis=axis) for at in (0, 2))
    return combine(combine(before, x), after)  # type: ignore[operator]


def average_pool(x: Array) -> Array:
    """Return the mean of the 3x3 surroundings inside the image, stride 1; `[C, H, W, N]`."""
    height, width = x.shape[1:3]
    sums = _three(_three(x, 1, jnp.add, 0.0), 2, jnp.add, 0.0)
    rows, cols = (
        3 - (jnp.arange(n) == 0).astype(x.dtype) - (jnp.arange(n) == n - 1).astype(x.dtype)
        for n in (height, width)
    )
    return sums / (rows[:, None] * cols)[None, :, :, None]


def max_pool(x: Array) -> Array:
    """Return the largest of the 3x3 surroundings inside the image, stride 1; `[C, H, W, N]`."""
    return _three(_three(x, 1, jnp.maximum, -jnp.inf), 2, jnp.maximum, -jnp.inf)


def halve_by_max(x: Array) -> Array:
    """Return the largest of each 2x2 square, stride 2; an odd last row or column is dropped."""
    _, height, width, _ = x.shape
    quarters = [
        x[:, row : height // 2 * 2 : 2, col : width // 2 * 2 : 2]
        for row in range(2)
        for col in range(2)
    ]
    return jnp.maximum(
        jnp.maximum(quarters[0], quarters[1]), jnp.maximum(quarters[2], quarters[3])
    )


def halve_by_average(x: Array) -> Array:
    """Return the mean of each 2x2 square, stride 2, as PyTorch's AvgPool2d."""
    _, height, width, _ = x.shape
    quarters = [
        x[:, row : height // 2 * 2 : 2, col : width // 2 * 2 : 2]
        for row in range(2)
        for col in range(2)
    ]
    return (quarters[0] + quarters[1] + quarters[2] + quarters[3]) / 4


def from_nhwc(images: Array) -> Array:
    """Return images `[N, H, W, C]` as the networks' `[C, H, W, N]`."""
    return jnp.transpose(images, (3, 1, 2, 0))


def to_nhwc(x: Array) -> Array:
    """Return features `[C, H, W, N]` as `[N, H, W, C]`."""
    return jnp.transpose(x, (3, 1, 2, 0))


def dense(params: dict[str, Array], x: Array) -> Array:
    """Average `[C, H, W, N]` over the image and return logits `[N, classes]`."""
    return jnp.mean(x, (1, 2)).T @ params["weight"] + params["bias"]

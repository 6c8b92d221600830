"""Weights by path: one function of a network says what it needs, counts, and computes.

A weight's path is its identity. A child inherits every weight whose path its parent has, so
that whatever a network computes must ask for its weights by paths that growth does not change.
"""

import dataclasses
import math
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Weights = dict[str, Any]  # arrays by path
AUXILIARY = "auxiliary"  # path of a head that a network has only while it trains
MOMENTUM, EPSILON = 0.9, 1e-5  # of batch normalisation


@dataclasses.dataclass(frozen=True)
class Spec:
    """How a weight begins.

    Attributes:
      shape: of the array.
      init: "zeros", "ones", "normal" (N(0, 2 / fan_in)), "lecun" (N(0, 1 / fan_in)), "uniform"
        (in [-0.1, 0.1]) or "equal" (1 over the number of entries).
      fan_in: inputs that one output adds up.
    """

    shape: tuple[int, ...]
    init: str
    fan_in: int = 1


@dataclasses.dataclass
class Scope:
    """What a network's function takes its weights from, and what it tells of itself.

    Attributes:
      weights: trained arrays by path; empty while a network is recorded.
      averages: what training moves without a gradient: means and variances of batch
        normalisation, a recurrent network's state.
      training: whether batches are normalised by their own mean and variance.
      key: for everything random in one step; `None` where nothing is.
      progress: share of the training that is over, float `[]`, for schedules inside a network.
      taps: added to the places of a network that have names: zeros whose gradient is wanted.
      moved: averages after this call.
      specs, average_specs: of all weights and averages that were asked for.
      costs: multiply-adds of one image or token by path, as the released code counts them.
    """

    weights: Mapping[str, Any]
    averages: Mapping[str, Any]
    training: bool = False
    key: Any = None
    progress: Any = 0.0
    taps: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    moved: Weights = dataclasses.field(default_factory=dict)
    specs: dict[str, Spec] = dataclasses.field(default_factory=dict)
    average_specs: dict[str, Spec] = dataclasses.field(default_factory=dict)
    costs: dict[str, float] = dataclasses.field(default_factory=dict)

    def weight(self, path: str, shape: tuple[int, ...], init: str, fan_in: int = 1) -> Any:
        """Return the weight of a path; zeros while the network is recorded."""
        self.specs[path] = Spec(shape, init, fan_in)
        return self.weights[path] if self.weights else jnp.zeros(shape, jnp.float32)

    def average(self, path: str, shape: tuple[int, ...], init: str) -> Any:
        """Return an average of a path; zeros while the network is recorded."""
        self.average_specs[path] = Spec(shape, init)
        return self.averages[path] if self.averages else jnp.zeros(shape, jnp.float32)

    def tap(self, path: str, x: Any) -> Any:
        """Return x, with what is tapped at a path added."""
        return x + self.taps[path] if path in self.taps else x

    def random_key(self, path: str) -> Any:
        """Return the key of whatever is random at a path: growth elsewhere changes none."""
        return jax.random.fold_in(self.key, zlib.crc32(path.encode()))

    def count(self, path: str, multiply_adds: float) -> None:
        """Take note of the multiply-adds of the operation at a path, on one image or token."""
        self.costs[path] = float(multiply_adds)

    def normalise(self, path: str, x: Any, *, scale: bool = True) -> Any:
        """Normalise a batch `[N, H, W, C]`, by its own statistics while it trains.

        Args:
          path: of the averages and, with `scale`, of a learnt scale and offset.
          x: the batch; also `[N, C]`.
          scale: whether there are a scale and an offset.
        """
        channels = x.shape[-1]
        mean = self.average(f"{path}/mean", (channels,), "zeros")
        variance = self.average(f"{path}/variance", (channels,), "ones")
        gamma = offset = None
        if scale:
            gamma = self.weight(f"{path}/scale", (channels,), "ones")
            offset = self.weight(f"{path}/offset", (channels,), "zeros")
        if not self.training:
            y = (x - mean) * jax.lax.rsqrt(variance + EPSILON)
            return y if gamma is None else y * gamma + offset
        if gamma is None:
            gamma, offset = jnp.ones(channels, x.dtype), jnp.zeros(channels, x.dtype)
        y, batch_mean, batch_variance = batch_normalised(x, gamma, offset)
        for name, old, new in (("mean", mean, batch_mean), ("variance", variance, batch_variance)):
            self.moved[f"{path}/{name}"] = MOMENTUM * old + (1 - MOMENTUM) * new
        return y


@jax.custom_vjp
def batch_normalised(x: Any, gamma: Any, offset: Any) -> tuple[Any, Any, Any]:
    """Normalise a batch by its own statistics (Ioffe and Szegedy, 2015).

    The gradient has a rule of its own, with two sums over the batch, where reverse-mode
    differentiation of the lines below takes six.

    Args:
      x: the batch, channels last: `[..., C]`.
      gamma: scale `[C]`.
      offset: `[C]`.

    Returns:
      Normalised batch, its mean and its variance `[C]`; the latter two have no gradient.
    """
    return _normalise(x, gamma, offset)[0]


def _normalise(x: Any, gamma: Any, offset: Any) -> tuple[Any, Any]:
    """Return what `batch_normalised` returns, and what its gradient needs."""
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes)
    variance = jnp.mean((x - mean) ** 2, axes)
    inverse = jax.lax.rsqrt(variance + EPSILON)
    y = (x - mean) * inverse * gamma + offset
    return (y, mean, variance), (x, mean, inverse, gamma)


def _normalise_backward(kept: Any, cotangents: Any) -> tuple[Any, Any, Any]:
    """Return the gradients of a batch, gamma and offset."""
    x, mean, inverse, gamma = kept
    dy, *_ = cotangents
    axes = tuple(range(x.ndim - 1))
    standard = (x - mean) * inverse
    d_offset, d_gamma = jnp.sum(dy, axes), jnp.sum(dy * standard, axes)
    count = x.size // x.shape[-1]
    dx = gamma * inverse * (dy - d_offset / count - standard * d_gamma / count)
    return dx, d_gamma, d_offset


batch_normalised.defvjp(_normalise, _normalise_backward)


@dataclasses.dataclass(frozen=True)
class Recorded:
    """What a network needs: how its weights and averages begin, and what it costs.

    Attributes:
      weights: specs by path, in the order of the network's function.
      averages: likewise.
      multiply_adds: of one image or token.
    """

    weights: Mapping[str, Spec]
    averages: Mapping[str, Spec]
    multiply_adds: float

    @property
    def parameters(self) -> int:
        """Return the number of trained numbers; the auxiliary head's are left out."""
        return sum(
            math.prod(spec.shape)
            for path, spec in self.weights.items()
            if not path.startswith(f"{AUXILIARY}/")
        )


def draw(seed: int, specs: Mapping[str, Spec], dtype: Any = np.float32) -> Weights:
    """Draw weights on the host; each depends on the seed and its own path alone.

    Args:
      seed: at least 0.
      specs: by path.
      dtype: of the arrays.
    """
    return {path: _draw_one(seed, path, spec).astype(dtype) for path, spec in specs.items()}


def _draw_one(seed: int, path: str, spec: Spec) -> np.ndarray:
    generator = np.random.default_rng([seed, zlib.crc32(path.encode())])
    if spec.init == "zeros":
        return np.zeros(spec.shape)
    if spec.init == "ones":
        return np.ones(spec.shape)
    if spec.init == "equal":
        return np.full(spec.shape, 1 / max(math.prod(spec.shape), 1))
    if spec.init == "uniform":
        return generator.uniform(-0.1, 0.1, spec.shape)
    variance = {"normal": 2.0, "lecun": 1.0}[spec.init] / spec.fan_in
    return generator.normal(0, math.sqrt(variance), spec.shape)


def inherited(
    seed: int, specs: Mapping[str, Spec], parent: Mapping[str, Any], dtype: Any = np.float32
) -> Weights:
    """Return weights for `specs`: the parent's where the path is equal, drawn anew elsewhere."""
    missing = {path: spec for path, spec in specs.items() if path not in parent}
    drawn = draw(seed, missing, dtype)
    return {path: drawn[path] if path in drawn else parent[path] for path in specs}

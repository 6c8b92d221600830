"""The paper's control: an MLP that sees the slope as a bare number.

Rawal et al. (arXiv 2005.13092), section 4.1 and table 3. It never uses the
motif, so nothing tells it what lies left of the slopes it was fitted on.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from spd_jax import archs as archs_lib
from spd_jax import files
from spd_jax.axes import Key
from spd_jax.checks import is_count, is_number
from spd_jax.dish.config import static
from spd_jax.errors import UserError, check_name
from spd_jax.surrogates import protocol

Params = dict[str, jax.Array]
ACTIVATIONS = {"tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid}
_KIND = "SlopeMlp"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SlopeMlp:
    """Settings of the control; the defaults are table 3's final ones.

    The rates are pytree leaves: changing one does not recompile.

    Attributes:
      hidden_size: width of both hidden layers.
      activation: of the hidden layers, "tanh" or "sigmoid". The paper does not
        say which; tanh is ours.
      learning_rate: Adam's first step size.
      decay: factor on the step size after every `decay_steps` steps.
      decay_steps: steps between two decays, at least 1.
      l2: factor of the sum of squared parameters that is added to the loss.
      steps: training steps.
      batch_size: slopes per step; fewer known ones are all used in every step.
      init_scale: standard deviation of initial weights and biases. The paper
        tunes it and its value is lost; 1, the motif-networks' own, is ours.
    """

    hidden_size: int = static(10)
    activation: str = static("tanh")
    learning_rate: float = 0.01
    decay: float = 0.97
    decay_steps: int = 100
    l2: float = 1e-4
    steps: int = static(150)
    batch_size: int = static(15)
    init_scale: float = 1.0

    def fit(self, key: Key, archs: ArrayLike, scores: ArrayLike) -> "FittedSlopeMlp":
        """Train on known slopes `[M]`: mean squared error against z-scored scores, plus L2.

        Arguments as `protocol.Surrogate.fit`.

        Raises:
          UserError: fewer than 2 finite scores, a slope that is not finite, shapes
            that disagree, or a setting that is not allowed.
        """
        self._check()
        slopes, scores = archs_lib.known(_slopes(archs), scores)
        mean, std = float(np.mean(scores)), float(np.std(scores))
        targets = (scores - mean) / (std or 1.0)
        params = _train(self, key, jnp.asarray(slopes), jnp.asarray(targets, jnp.float32))
        return FittedSlopeMlp(params, self.activation, mean, std)

    def load(self, path: protocol.Path) -> "FittedSlopeMlp":
        """Read a saved control, with its own activation; errors as `protocol.Surrogate.load`."""

        def build(arrays: dict[str, np.ndarray]) -> FittedSlopeMlp:
            config = SlopeMlp(len(arrays["w1"]), str(arrays["activation"]))
            config._check()
            like = jax.eval_shape(init, jax.random.key(0), config)
            mean, std = float(arrays["mean"]), float(arrays["std"])
            return FittedSlopeMlp(protocol.checked(arrays, like), config.activation, mean, std)

        return protocol.restore(path, _KIND, build)

    def _check(self) -> None:
        check_name("activation", self.activation, ACTIVATIONS)
        for name in ("hidden_size", "decay_steps", "steps", "batch_size"):
            if not is_count(getattr(self, name), 1):
                raise UserError(
                    f"{name} is {getattr(self, name)!r}: give at least 1, a whole number"
                )
        for name in ("learning_rate", "decay", "l2", "init_scale"):
            if not is_number(getattr(self, name)):
                raise UserError(
                    f"{name} is {getattr(self, name)!r}: give a finite number that is not negative"
                )


@dataclasses.dataclass(frozen=True)
class FittedSlopeMlp:
    """A trained control.

    Attributes:
      params: weights and biases, see `init`.
      activation: name of the hidden layers' activation.
      mean: mean of the scores it was fitted on.
      std: their population standard deviation; with 0 it predicts the mean.
    """

    params: Params
    activation: str
    mean: float
    std: float

    def predict(self, archs: ArrayLike) -> np.ndarray:
        """Return scores `[M]` float64 for slopes `[M]`, in the unit of the fitted scores."""
        outputs = apply(self.params, _slopes(archs), self.activation)
        return self.mean + self.std * np.asarray(outputs, np.float64)

    def save(self, path: protocol.Path) -> None:
        """Write weights, activation and the scores' mean and standard deviation."""
        arrays = {name: np.asarray(array) for name, array in self.params.items()}
        others: dict[str, Any] = {"mean": self.mean, "std": self.std, "activation": self.activation}
        files.save_arrays(path, arrays | others, kind=_KIND)


def init(key: Key, config: SlopeMlp) -> Params:
    """Draw weights `w0 [1, H], w1 [H, H], w2 [H, 1]` and biases `b0, b1, b2`; key: consumed."""
    sizes = (1, config.hidden_size, config.hidden_size, 1)
    params = {}
    for layer, layer_key in enumerate(jax.random.split(key, 3)):
        weight_key, bias_key = jax.random.split(layer_key)
        shape = sizes[layer : layer + 2]
        params[f"w{layer}"] = config.init_scale * jax.random.normal(weight_key, shape)
        params[f"b{layer}"] = config.init_scale * jax.random.normal(bias_key, shape[1:])
    return params


@functools.partial(jax.jit, static_argnames="activation")
def apply(params: Params, slopes: ArrayLike, activation: str) -> jax.Array:
    """Return z-scored predictions `[M]` for slopes `[M]`."""
    hidden = jnp.asarray(slopes)[:, None]
    for layer in (0, 1):
        hidden = ACTIVATIONS[activation](hidden @ params[f"w{layer}"] + params[f"b{layer}"])
    return (hidden @ params["w2"] + params["b2"])[:, 0]


@jax.jit
def _train(config: SlopeMlp, key: Key, slopes: jax.Array, targets: jax.Array) -> Params:
    """Run Adam with a staircase step size on slopes `[M]` and z-scored targets `[M]`."""
    init_key, batch_key = jax.random.split(key)
    adam = optax.scale_by_adam(eps=1e-8, eps_root=1e-16)

    def loss(params: Params, batch: jax.Array) -> jax.Array:
        errors = apply(params, slopes[batch], config.activation) - targets[batch]
        penalty = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
        return jnp.mean(errors**2) + config.l2 * penalty

    def step(carry: Any, number: jax.Array) -> tuple[Any, None]:
        params, moments = carry
        order = jax.random.permutation(jax.random.fold_in(batch_key, number), len(slopes))
        gradient = jax.grad(loss)(params, order[: config.batch_size])
        updates, moments = adam.update(gradient, moments)
        rate = config.learning_rate * config.decay ** (number // config.decay_steps)
        return (jax.tree.map(lambda p, u: p - rate * u, params, updates), moments), None

    params = init(init_key, config)
    (params, _), _ = jax.lax.scan(step, (params, adam.init(params)), jnp.arange(config.steps))
    return params


def _slopes(archs: ArrayLike) -> np.ndarray:
    """Return slopes `[M]` as float32, once they are finite and a vector."""
    slopes = np.asarray(archs, np.float32)
    if slopes.ndim != 1 or not np.isfinite(slopes).all():
        raise UserError(f"slopes of shape {slopes.shape}: give a vector of finite numbers")
    return slopes

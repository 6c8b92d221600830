"""The inner loop: train ONE motif-network on synthetic data and return its score.

Rawal et al., equation 1 with Adam. The parameters are one flat vector, the
steps a scan, and every step is rematerialised in the backward pass, so that
memory holds one copy of (theta, mu, nu) per step; long runs nest the scan and
hold about 2 sqrt(T) copies.
"""

import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from spd_jax import losses
from spd_jax.axes import Arch, Array, Key, Params
from spd_jax.config import DishConfig
from spd_jax.motif import MotifFamily

ADAM_BETA1, ADAM_BETA2, ADAM_EPS, ADAM_EPS_ROOT = 0.9, 0.999, 1e-8, 1e-16
NEST_ABOVE = 1000  # inner steps from which `remat="auto"` nests the scan


class SyntheticData(NamedTuple):
    """What a dish learns: samples to train on and to validate on.

    Attributes:
      train_inputs: `[N, *input_shape]` float32.
      train_labels: `[N, *output_shape]` float32 in [0, 1].
      valid_inputs: `[N', *input_shape]`.
      valid_labels: `[N', *output_shape]`.
    """

    train_inputs: Array
    train_labels: Array
    valid_inputs: Array
    valid_labels: Array


class _Carry(NamedTuple):
    """Parameters and Adam's two moments, each `[P]`."""

    theta: Array
    mu: Array
    nu: Array


class _StepInput(NamedTuple):
    """What differs between inner steps: Adam's bias corrections, and the samples to use."""

    mu_correction: Array
    nu_correction: Array
    batch: Array | None


def score(
    family: MotifFamily,
    config: DishConfig,
    params: Params,
    arch: Arch,
    data: SyntheticData,
    key: Key,
) -> Array:
    """Train one motif and return its raw score, higher is better.

    Args:
      family: the motif-network.
      config: its rates are scalars here.
      params: initial weights theta_init.
      arch: one motif.
      data: synthetic samples.
      key: decides the inner minibatches; not used when `inner_batch_size` is 0.

    Returns:
      Scalar: minus the validation loss, or the true-class probability
      (`inner_metric`). NaN or infinite where the training diverged.
    """
    train_data = jax.lax.stop_gradient(data) if config.gradient == "evaluation_only" else data
    params = train(family, config, params, arch, train_data, key)
    outputs = family.apply(params, arch, data.valid_inputs)
    if config.inner_metric == "true_class_probability":
        return losses.true_class_probability(outputs, data.valid_labels, config.inner_loss)
    return -losses.INNER_LOSSES[config.inner_loss](outputs, data.valid_labels)


def train(
    family: MotifFamily,
    config: DishConfig,
    params: Params,
    arch: Arch,
    data: SyntheticData,
    key: Key,
) -> Params:
    """Train one motif from `params` for `inner_steps` steps of Adam; args as `score`."""
    theta, unravel = ravel_pytree(params)
    inner_loss = losses.INNER_LOSSES[config.inner_loss]

    def train_loss(theta: Array, inputs: Array, labels: Array) -> Array:
        return inner_loss(family.apply(unravel(theta), arch, inputs), labels)

    def step(carry: _Carry, now: _StepInput) -> _Carry:
        inputs, labels = data.train_inputs, data.train_labels
        if now.batch is not None:
            inputs, labels = inputs[now.batch], labels[now.batch]
        gradient = jax.grad(train_loss)(carry.theta, inputs, labels)
        return _adam(carry, gradient + 2 * config.inner_l2 * carry.theta, now, config)

    carry = _Carry(theta, jnp.zeros_like(theta), jnp.zeros_like(theta))
    steps = _step_inputs(config, key)
    if config.gradient == "truncated":
        split = max(config.inner_steps - config.truncation, 0)
        early, steps = (
            jax.tree.map(operator.itemgetter(s), steps) for s in (slice(split), slice(split, None))
        )
        carry = jax.lax.stop_gradient(unroll(step, carry, early, remat="none"))
    return unravel(unroll(step, carry, steps, remat=config.remat).theta)


def _adam(carry: _Carry, gradient: Array, now: _StepInput, config: DishConfig) -> _Carry:
    """One step of Adam (Kingma & Ba, 2015); equal to `optax.adam(eps, eps_root)`."""
    mu = ADAM_BETA1 * carry.mu + (1 - ADAM_BETA1) * gradient
    nu = ADAM_BETA2 * carry.nu + (1 - ADAM_BETA2) * gradient**2
    size = jnp.sqrt(now.nu_correction * nu + ADAM_EPS_ROOT) + ADAM_EPS
    theta = carry.theta - config.inner_learning_rate * now.mu_correction * mu / size
    return _Carry(theta, mu, nu)


def _step_inputs(config: DishConfig, key: Key) -> _StepInput:
    """Return what each of the T steps needs, axis T in front."""
    count = jnp.arange(1, config.inner_steps + 1)
    batches = None
    if config.inner_batch_size:
        per_epoch = config.train_samples // config.inner_batch_size
        epochs = -(-config.inner_steps // per_epoch)
        orders = jax.vmap(
            lambda epoch: jax.random.permutation(
                jax.random.fold_in(key, epoch), config.train_samples
            )
        )(jnp.arange(epochs))
        batches = orders[:, : per_epoch * config.inner_batch_size]
        batches = batches.reshape(-1, config.inner_batch_size)[: config.inner_steps]
    return _StepInput(1 / (1 - ADAM_BETA1**count), 1 / (1 - ADAM_BETA2**count), batches)


def unroll(step: Callable[[Any, Any], Any], carry: Any, steps: Any, *, remat: str = "auto") -> Any:
    """Apply `carry = step(carry, steps[t])` for every t, cheaply in memory under `jax.grad`.

    Args:
      step: one inner step.
      carry: where it starts.
      steps: pytree of arrays with axis T in front.
      remat: "none" keeps every intermediate; "step" keeps the carries, T of them;
        "nested" checkpoints scans of about sqrt(T) steps and keeps about
        2 sqrt(T), for one more forward pass (Chen et al., 2016); "auto" is "nested" above
        `NEST_ABOVE` steps and "step" below.

    Returns:
      The last carry.
    """
    count = jax.tree.leaves(steps)[0].shape[0]
    if remat == "auto":
        remat = "nested" if count > NEST_ABOVE else "step"

    def body(carry: Any, now: Any) -> tuple[Any, None]:
        return step(carry, now), None

    if remat != "none":
        # Inside a scan nothing can merge the two forward passes: no barrier is needed.
        body = jax.checkpoint(body, prevent_cse=False)

    def scan(carry: Any, steps: Any) -> tuple[Any, None]:
        return jax.lax.scan(body, carry, steps)

    if remat != "nested":
        return scan(carry, steps)[0]
    length = math.isqrt(count)
    whole = count // length * length
    segments = jax.tree.map(lambda x: x[:whole].reshape(-1, length, *x.shape[1:]), steps)
    remainder = jax.tree.map(lambda x: x[whole:], steps)
    carry, _ = jax.lax.scan(jax.checkpoint(scan, prevent_cse=False), carry, segments)
    return scan(carry, remainder)[0]

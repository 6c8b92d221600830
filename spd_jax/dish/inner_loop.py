"""The inner loop: train ONE motif-network on synthetic data and return its score.

Rawal et al., equation 1 with Adam. The parameters are one flat vector and the
steps a scan. Its backward pass is written out: per step it takes one
forward-over-reverse derivative of the inner loss (the Hessian-vector product
and its mixed part at once, as in Kemaev et al., 2025, arXiv 2505.00793), which
keeps no intermediate of the network, and hands the next step's cotangent on in
the scan's carry, where XLA does not recompute it.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from spd_jax.axes import Arch, Array, Key, Params
from spd_jax.dish import losses
from spd_jax.dish.config import DishConfig
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
    """Parameters and Adam's two moments, each `[P]`; also their cotangents."""

    theta: Array
    mu: Array
    nu: Array


class _Rates(NamedTuple):
    """Inner learning rate and L2 factor, scalars."""

    learning_rate: Array
    l2: Array


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
    """Train one motif from `params` for `inner_steps` steps of Adam; args as `score`.

    Gradients flow to `params` and `data`. The arch and the rates count as
    constants unless `remat` is "none".
    """
    theta, unravel = ravel_pytree(params)
    inner_loss = losses.INNER_LOSSES[config.inner_loss]

    def loss(theta: Array, samples: tuple[Array, Array], arch: Arch, batch: Array | None) -> Array:
        inputs, labels = samples if batch is None else (x[batch] for x in samples)
        return inner_loss(family.apply(unravel(theta), arch, inputs), labels)

    rates = _Rates(config.inner_learning_rate, config.inner_l2)
    samples = (data.train_inputs, data.train_labels)
    carry = _Carry(theta, jnp.zeros_like(theta), jnp.zeros_like(theta))
    steps = _step_inputs(config, key)
    if config.gradient == "truncated":
        early, steps = _split(steps, config.inner_steps - config.truncation)
        carry = jax.lax.stop_gradient(_unroll(loss, "none", carry, samples, arch, rates, early))
    return unravel(_unroll(loss, config.remat, carry, samples, arch, rates, steps).theta)


def _adam(carry: _Carry, gradient: Array, now: _StepInput, rates: _Rates) -> _Carry:
    """One step of Adam (Kingma & Ba, 2015); equal to `optax.adam(eps, eps_root)`."""
    mu = ADAM_BETA1 * carry.mu + (1 - ADAM_BETA1) * gradient
    nu = ADAM_BETA2 * carry.nu + (1 - ADAM_BETA2) * gradient**2
    size = jnp.sqrt(now.nu_correction * nu + ADAM_EPS_ROOT) + ADAM_EPS
    return _Carry(carry.theta - rates.learning_rate * now.mu_correction * mu / size, mu, nu)


def _adam_transpose(
    bar: _Carry, mu: Array, nu: Array, gradient: Array, now: _StepInput, rates: _Rates
) -> tuple[Array, _Carry]:
    """Pull cotangents back through `_adam`.

    Args:
      bar: cotangents of the step's results, `[P]` each.
      mu: first moment after the step `[P]`.
      nu: second moment after the step `[P]`.
      gradient: the step's gradient, L2 included, `[P]`.
      now: the step's corrections.
      rates: see `_Rates`.

    Returns:
      The gradient's cotangent `[P]`, and the carry's that the step started from.
    """
    root = jnp.sqrt(now.nu_correction * nu + ADAM_EPS_ROOT)
    size = root + ADAM_EPS
    by_mu = -rates.learning_rate * now.mu_correction * bar.theta / size
    mu_bar = bar.mu + by_mu
    nu_bar = bar.nu - by_mu * mu / size * now.nu_correction / (2 * root)
    gradient_bar = (1 - ADAM_BETA1) * mu_bar + 2 * (1 - ADAM_BETA2) * gradient * nu_bar
    return gradient_bar, _Carry(bar.theta, ADAM_BETA1 * mu_bar, ADAM_BETA2 * nu_bar)


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


def _split(steps: _StepInput, at: int) -> tuple[_StepInput, _StepInput]:
    first, second = (
        jax.tree.map(operator.itemgetter(part), steps) for part in (slice(at), slice(at, None))
    )
    return first, second


def _unroll(
    loss: Callable[..., Array],
    remat: str,
    carry: _Carry,
    samples: tuple[Array, Array],
    arch: Arch,
    rates: _Rates,
    steps: _StepInput,
) -> _Carry:
    """Take all `steps`, cheaply in memory under `jax.grad`.

    `remat` is "none": plain automatic differentiation, every intermediate is kept; "step":
    four vectors `[P]` a step are kept; "nested": checkpointed scans of about
    sqrt(T) steps keep about 4 sqrt(T) vectors, for one more forward pass (Chen
    et al., 2016); "auto": "nested" above `NEST_ABOVE` steps and "step" below.
    """
    count = steps.mu_correction.shape[0]
    if remat == "auto":
        remat = "nested" if count > NEST_ABOVE else "step"
    segment = _segment(loss)
    if remat == "none":
        return _scan_steps(loss, carry, samples, arch, rates, steps)[0]
    if remat == "step":
        return segment(carry, samples, arch, rates, steps)
    length = math.isqrt(count)
    whole, remainder = _split(steps, count // length * length)
    whole = jax.tree.map(lambda x: x.reshape(-1, length, *x.shape[1:]), whole)

    # Inside a scan nothing can merge the two forward passes: no barrier is needed.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def body(carry: _Carry, steps: _StepInput) -> tuple[_Carry, None]:
        return segment(carry, samples, arch, rates, steps), None

    carry, _ = jax.lax.scan(body, carry, whole)
    return segment(carry, samples, arch, rates, remainder) if count % length else carry


class _Saved(NamedTuple):
    """What the backward pass needs of each step `[T, P]`: `theta` before it, the rest of it."""

    theta: Array
    gradient: Array
    mu: Array
    nu: Array


def _scan_steps(
    loss: Callable[..., Array],
    carry: _Carry,
    samples: tuple[Array, Array],
    arch: Arch,
    rates: _Rates,
    steps: _StepInput,
) -> tuple[_Carry, _Saved]:
    """Equation 1 for every step; also what each step's backward pass needs."""

    def body(carry: _Carry, now: _StepInput) -> tuple[_Carry, _Saved]:
        gradient = jax.grad(loss)(carry.theta, samples, arch, now.batch)
        gradient = gradient + 2 * rates.l2 * carry.theta
        after = _adam(carry, gradient, now, rates)
        return after, _Saved(carry.theta, gradient, after.mu, after.nu)

    return jax.lax.scan(body, carry, steps)


def _segment(loss: Callable[..., Array]) -> Callable[..., _Carry]:
    """Return `(carry, samples, arch, rates, steps) -> carry` with the backward pass written out."""

    @jax.custom_vjp
    def segment(carry: _Carry, *args: Any) -> _Carry:
        return _scan_steps(loss, carry, *args)[0]

    def forward(carry: _Carry, *args: Any) -> tuple[_Carry, Any]:
        after, saved = _scan_steps(loss, carry, *args)
        return after, (saved, *args)

    def backward(residuals: Any, bar: _Carry) -> tuple[Any, ...]:
        saved, samples, arch, rates, steps = residuals

        def at(index: Array | int) -> tuple[_Saved, _StepInput]:
            return jax.tree.map(operator.itemgetter(index), (saved, steps))

        def through_adam(bar: _Carry, index: Array | int) -> tuple[Array, _Carry]:
            kept, now = at(index)
            return _adam_transpose(bar, kept.mu, kept.nu, kept.gradient, now, rates)

        def through_gradient(bar: _Carry, samples_bar: Any, u: Array, index: Array | int) -> Any:
            kept, now = at(index)
            # d/d epsilon of the gradient at theta + epsilon u: (H u, mixed derivative times u).
            _, (theta_bar, data_bar) = jax.jvp(
                lambda theta: jax.grad(loss, argnums=(0, 1))(theta, samples, arch, now.batch),
                (kept.theta,),
                (u,),
            )
            bar = bar._replace(theta=bar.theta + theta_bar + 2 * rates.l2 * u)
            return bar, jax.tree.map(jnp.add, samples_bar, data_bar)

        def body(state: Any, index: Array) -> tuple[Any, None]:
            u, bar, samples_bar = state
            bar, samples_bar = through_gradient(bar, samples_bar, u, index)
            u, bar = through_adam(bar, index - 1)
            return (u, bar, samples_bar), None

        count = saved.theta.shape[0]
        state = (*through_adam(bar, count - 1), jax.tree.map(jnp.zeros_like, samples))
        (u, bar, samples_bar), _ = jax.lax.scan(body, state, jnp.arange(1, count), reverse=True)
        bar, samples_bar = through_gradient(bar, samples_bar, u, 0)
        return bar, samples_bar, None, None, None

    segment.defvjp(forward, backward)
    return segment

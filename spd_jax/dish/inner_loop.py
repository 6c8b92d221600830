"""The inner loop: train ONE motif-network on synthetic data and return its score.

Rawal et al., equation 1, by default with Adam. The parameters are one flat vector `[P]` and the
steps a scan. The derivative of the scan is written out by hand, in `_segment`, because plain
automatic differentiation keeps every intermediate of the network for every step. Ours keeps four
vectors `[P]` a step, and computes the second derivatives of the inner loss one product at a time
(forward-over-reverse, as in Kemaev et al., 2025, arXiv 2505.00793).
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
from spd_jax.dish import devices, losses
from spd_jax.dish.config import DishConfig
from spd_jax.motif import MotifFamily

Loss = Callable[..., Array]  # (theta [P], inputs, batch) -> inner loss without L2, scalar
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
    """Parameters and Adam's two moments, each `[P]`; also their cotangents.

    The moments stay 0 under plain gradient descent.
    """

    theta: Array
    mu: Array
    nu: Array


class _Rates(NamedTuple):
    """Inner learning rate and L2 factor, scalars."""

    learning_rate: Array
    l2: Array


class _Inputs(NamedTuple):
    """What every inner step reads and none changes; also the cotangents of these.

    Where cotangents are meant, a leaf that nobody differentiates in is `None`.

    Attributes:
      samples: train inputs `[N, ...]` and labels `[N, ...]`.
      arch: one motif.
      rates: see `_Rates`.
    """

    samples: Any
    arch: Arch
    rates: _Rates


class _Rule(NamedTuple):
    """What an inner step does.

    Attributes:
      loss: inner loss without L2.
      update: takes one step, as `_adam` does.
      transpose: pulls cotangents back through `update`, as `_adam_transpose` does.
    """

    loss: Loss
    update: Callable[..., _Carry]
    transpose: Callable[..., tuple[Array, _Carry, Array]]


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
      Scalar: minus the validation loss, the true-class probability, or minus the loss of
      standardised outputs (`inner_metric`). NaN or infinite where the training diverged. It can
      be differentiated in reverse mode; see `train`.
    """
    train_data = jax.lax.stop_gradient(data) if config.gradient == "evaluation_only" else data
    params = train(family, config, params, arch, train_data, key)
    outputs = family.apply(params, arch, data.valid_inputs)
    if config.inner_metric == "true_class_probability":
        return losses.true_class_probability(outputs, data.valid_labels, config.inner_loss)
    if config.inner_metric == "standardised_loss":
        outputs = losses.standardised(outputs)
    return -losses.INNER_LOSSES[config.inner_loss](outputs, data.valid_labels)


class InnerCurves(NamedTuple):
    """How motif-networks do while they train.

    Attributes:
      steps: inner steps taken at each of T' looks, int32 `[T']`.
      train_loss: inner loss on the train samples `[..., T']` float32, in nats under a
        cross-entropy; without L2.
      valid_loss: the same on the valid samples.
      accuracy: of the valid samples `[..., T']`, in [0, 1]; see `losses.accuracy`.
    """

    steps: Any
    train_loss: Any
    valid_loss: Any
    accuracy: Any


def looks(inner_steps: int, every: int) -> list[int]:
    """Return the inner steps after which curves look: each multiple of `every`, and the last."""
    return [*range(every, inner_steps, every), inner_steps]


def curves(
    family: MotifFamily,
    config: DishConfig,
    params: Params,
    arch: Arch,
    data: SyntheticData,
    key: Key,
    every: int,
) -> tuple[Array, Array, Array]:
    """Train one motif as `train` does and look at it after every `every` steps.

    Args:
      family: the motif-network; the other arguments up to `key` as those of `score`.
      config: see `family`.
      params: see `family`.
      arch: see `family`.
      data: see `family`.
      key: see `family`.
      every: inner steps between two looks, such as those of an inner epoch; static.

    Returns:
      Train loss, valid loss and accuracy `[T']` each, see `InnerCurves`. Not meant to be
      differentiated.
    """
    theta, unravel = ravel_pytree(params)
    rule, inputs = _training(family, config, unravel, arch, data)
    inner_loss = losses.INNER_LOSSES[config.inner_loss]

    def look(theta: Array) -> tuple[Array, Array, Array]:
        def outputs(samples: Array) -> Array:
            return family.apply(unravel(theta), arch, samples)

        valid = outputs(data.valid_inputs)
        return (
            inner_loss(outputs(data.train_inputs), data.train_labels),
            inner_loss(valid, data.valid_labels),
            losses.accuracy(valid, data.valid_labels, config.inner_loss),
        )

    def segment(carry: _Carry, steps: _StepInput) -> tuple[_Carry, tuple[Array, Array, Array]]:
        carry = _scan_steps(rule, carry, inputs, steps)[0]
        return carry, look(carry.theta)

    carry = _Carry(theta, jnp.zeros_like(theta), jnp.zeros_like(theta))
    steps, rest = _split(_step_inputs(config, key), config.inner_steps - config.inner_steps % every)
    segments = jax.tree.map(lambda x: x.reshape(-1, every, *x.shape[1:]), steps)
    carry, seen = jax.lax.scan(segment, carry, segments)
    if config.inner_steps % every:
        last = segment(carry, rest)[1]
        seen = jax.tree.map(lambda x, y: jnp.append(x, y), seen, last)
    return seen


def train(
    family: MotifFamily,
    config: DishConfig,
    params: Params,
    arch: Arch,
    data: SyntheticData,
    key: Key,
) -> Params:
    """Train one motif from `params` for `inner_steps` steps; args as `score`.

    The result can be differentiated in reverse mode, whatever `remat` is: in `params`, in `data`,
    in the arch's float arrays and in the two inner rates. The setting `gradient` shortens the
    derivative in `data` alone, for the outer step; the others always go through every step.
    """
    theta, unravel = ravel_pytree(params)
    rule, inputs = _training(family, config, unravel, arch, data)
    carry = _Carry(theta, jnp.zeros_like(theta), jnp.zeros_like(theta))
    steps = _step_inputs(config, key)
    if config.gradient == "truncated":
        early, steps = _split(steps, config.inner_steps - config.truncation)
        stopped = inputs._replace(samples=jax.lax.stop_gradient(inputs.samples))
        carry = _unroll(rule, config.remat, carry, stopped, early)
    return unravel(_unroll(rule, config.remat, carry, inputs, steps).theta)


def _training(
    family: MotifFamily,
    config: DishConfig,
    unravel: Callable[[Array], Params],
    arch: Arch,
    data: SyntheticData,
) -> tuple[_Rule, _Inputs]:
    """Return what every inner step does, and what it reads."""
    inner_loss = losses.INNER_LOSSES[config.inner_loss]

    def loss(theta: Array, inputs: _Inputs, batch: Array | None) -> Array:
        samples = inputs.samples if batch is None else [x[batch] for x in inputs.samples]
        return inner_loss(family.apply(unravel(theta), inputs.arch, samples[0]), samples[1])

    rates = _Rates(config.inner_learning_rate, config.inner_l2)
    update, transpose = _OPTIMISERS[config.inner_optimiser]
    samples = (data.train_inputs, data.train_labels)
    return _Rule(loss, update, transpose), _Inputs(samples, arch, rates)


def _adam(carry: _Carry, gradient: Array, now: _StepInput, rates: _Rates) -> _Carry:
    """One step of Adam (Kingma & Ba, 2015); equal to `optax.adam(eps, eps_root)`."""
    mu = ADAM_BETA1 * carry.mu + (1 - ADAM_BETA1) * gradient
    nu = ADAM_BETA2 * carry.nu + (1 - ADAM_BETA2) * gradient**2
    size = jnp.sqrt(now.nu_correction * nu + ADAM_EPS_ROOT) + ADAM_EPS
    return _Carry(carry.theta - rates.learning_rate * now.mu_correction * mu / size, mu, nu)


def _adam_transpose(
    bar: _Carry, mu: Array, nu: Array, gradient: Array, now: _StepInput, rates: _Rates
) -> tuple[Array, _Carry, Array]:
    """Pull cotangents back through `_adam`.

    Args:
      bar: cotangents of the step's results, `[P]` each.
      mu: first moment after the step `[P]`.
      nu: second moment after the step `[P]`.
      gradient: the step's gradient, L2 included, `[P]`.
      now: the step's corrections.
      rates: see `_Rates`.

    Returns:
      The cotangents of the gradient `[P]`, of the carry that the step started from, and of the
      learning rate.
    """
    root = jnp.sqrt(now.nu_correction * nu + ADAM_EPS_ROOT)
    size = root + ADAM_EPS
    by_mu = -rates.learning_rate * now.mu_correction * bar.theta / size
    mu_bar = bar.mu + by_mu
    nu_bar = bar.nu - by_mu * mu / size * now.nu_correction / (2 * root)
    gradient_bar = (1 - ADAM_BETA1) * mu_bar + 2 * (1 - ADAM_BETA2) * gradient * nu_bar
    before = _Carry(bar.theta, ADAM_BETA1 * mu_bar, ADAM_BETA2 * nu_bar)
    return gradient_bar, before, -jnp.vdot(bar.theta, now.mu_correction * mu / size)


def _sgd(carry: _Carry, gradient: Array, now: _StepInput, rates: _Rates) -> _Carry:
    """One step of plain gradient descent, equation 1."""
    del now
    return carry._replace(theta=carry.theta - rates.learning_rate * gradient)


def _sgd_transpose(
    bar: _Carry, mu: Array, nu: Array, gradient: Array, now: _StepInput, rates: _Rates
) -> tuple[Array, _Carry, Array]:
    """Pull cotangents back through `_sgd`; args and results as `_adam_transpose`."""
    del mu, nu, now
    return -rates.learning_rate * bar.theta, bar, -jnp.vdot(bar.theta, gradient)


_OPTIMISERS = {"adam": (_adam, _adam_transpose), "sgd": (_sgd, _sgd_transpose)}


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


def _unroll(rule: _Rule, remat: str, carry: _Carry, inputs: _Inputs, steps: _StepInput) -> _Carry:
    """Take all `steps`, cheaply in memory under `jax.grad`.

    `remat` is "none": plain automatic differentiation, every intermediate is kept; "step":
    four vectors `[P]` a step are kept; "nested": checkpointed scans of about
    sqrt(T) steps keep about 4 sqrt(T) vectors, for one more forward pass (Chen
    et al., 2016); "auto": "nested" above `NEST_ABOVE` steps and "step" below.
    """
    count = steps.mu_correction.shape[0]
    if remat == "auto":
        remat = "nested" if count > NEST_ABOVE else "step"
    segment = _segment(rule)
    if remat == "none":
        return _scan_steps(rule, carry, inputs, steps)[0]
    if remat == "step" or count == 0:
        return segment(carry, inputs, steps)
    length = math.isqrt(count)
    whole, remainder = _split(steps, count // length * length)
    whole = jax.tree.map(lambda x: x.reshape(-1, length, *x.shape[1:]), whole)

    # Inside a scan nothing can merge the two forward passes: no barrier is needed.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def body(carry: _Carry, steps: _StepInput) -> tuple[_Carry, None]:
        return segment(carry, inputs, steps), None

    carry, _ = jax.lax.scan(body, carry, whole)
    return segment(carry, inputs, remainder) if count % length else carry


class _Saved(NamedTuple):
    """What the backward pass needs of each step `[T, P]`: `theta` before it, the rest of it."""

    theta: Array
    gradient: Array
    mu: Array
    nu: Array


@devices.full_precision
def _scan_steps(
    rule: _Rule, carry: _Carry, inputs: _Inputs, steps: _StepInput
) -> tuple[_Carry, _Saved]:
    """Equation 1 for every step; also what each step's backward pass needs."""

    def body(carry: _Carry, now: _StepInput) -> tuple[_Carry, _Saved]:
        gradient = jax.grad(rule.loss)(carry.theta, inputs, now.batch)
        gradient = gradient + 2 * inputs.rates.l2 * carry.theta
        after = rule.update(carry, gradient, now, inputs.rates)
        return after, _Saved(carry.theta, gradient, after.mu, after.nu)

    return jax.lax.scan(body, carry, steps)


def _segment(rule: _Rule) -> Callable[[_Carry, _Inputs, _StepInput], _Carry]:
    """Return `_scan_steps(rule, ...)[0]` with the backward pass written out.

    JAX says at trace time, through `symbolic_zeros`, in which inputs somebody differentiates.
    Only for those does the backward pass gather a cotangent: a fit, which learns the samples,
    pays nothing for the derivatives in the arch and the rates.
    """

    @jax.custom_vjp
    def segment(carry: _Carry, inputs: _Inputs, steps: _StepInput) -> _Carry:
        return _scan_steps(rule, carry, inputs, steps)[0]

    def forward(carry: _Carry, inputs: _Inputs, steps: _StepInput) -> tuple[_Carry, Any]:
        free, held = _partition(inputs)
        carry, steps = jax.tree.map(lambda x: x.value, (carry, steps))
        after, saved = _scan_steps(rule, carry, _merge(free, held), steps)
        return after, (saved, free, held, steps)

    def backward(residuals: Any, bar: _Carry) -> tuple[Any, ...]:
        saved, free, held, steps = residuals
        bar = jax.tree.map(_instantiated, bar)
        return *_backward(rule, saved, free, held, steps, bar), None

    segment.defvjp(forward, backward, symbolic_zeros=True)
    return segment


@devices.full_precision
def _backward(
    rule: _Rule, saved: _Saved, free: _Inputs, held: _Inputs, steps: _StepInput, bar: _Carry
) -> tuple[_Carry, _Inputs]:
    """Pull cotangents back through `_scan_steps`, from the last step to the first.

    A step maps theta to its gradient g, and g with the moments through Adam, or plain gradient
    descent, to the next theta. Its transpose therefore takes two moves in the opposite order:
    `through_update` turns the carry's cotangent into g's, which we call u `[P]`, and
    `through_gradient` turns u into what it adds to the cotangents of theta and of the inputs.

    The scan is skewed by half a step: its body makes the second move of step t and then the
    first move of step t-1. So u is handed on in the scan's carry, as a value in memory. With
    both moves of one step in one body, XLA would fuse the cheap expression for u into each of
    its many uses in `through_gradient` and compute it there again and again.

    Args:
      rule: what a step does.
      saved: what the forward pass kept, `[T, P]` each.
      free: the inputs whose cotangents are wanted; `None` in place of the others.
      held: the other inputs; `None` in place of those in `free`.
      steps: as in the forward pass.
      bar: cotangents of the carry after the last step, `[P]` each.

    Returns:
      Cotangents of the carry before the first step, and of `free`.
    """
    rates = _merge(free, held).rates

    def at(index: Array | int) -> tuple[_Saved, _StepInput]:
        return jax.tree.map(operator.itemgetter(index), (saved, steps))

    def through_update(index: Array | int, bar: _Carry, free_bar: _Inputs) -> Any:
        kept, now = at(index)
        u, before, rate_bar = rule.transpose(bar, kept.mu, kept.nu, kept.gradient, now, rates)
        return u, before, _with_rates(free_bar, learning_rate=rate_bar)

    def through_gradient(index: Array | int, u: Array, bar: _Carry, free_bar: _Inputs) -> Any:
        kept, now = at(index)

        def gradient(theta: Array) -> tuple[Array, _Inputs]:
            def at_free(theta: Array, free: _Inputs) -> Array:
                return rule.loss(theta, _merge(free, held), now.batch)

            return jax.grad(at_free, argnums=(0, 1))(theta, free)

        # d/d epsilon of the gradient at theta + epsilon u: (H u, mixed derivatives times u).
        _, (theta_bar, mixed) = jax.jvp(gradient, (kept.theta,), (u,))
        bar = bar._replace(theta=bar.theta + theta_bar + 2 * rates.l2 * u)
        free_bar = jax.tree.map(jnp.add, free_bar, mixed)
        return bar, _with_rates(free_bar, l2=2 * jnp.vdot(kept.theta, u))

    def body(state: Any, index: Array) -> tuple[Any, None]:
        after = through_gradient(index, *state)
        u, *before = through_update(jnp.maximum(index - 1, 0), *after)
        # Before step 0 there is no update. A select in the scan, and not the second move of step 0
        # behind it, because that would compile the costly move twice.
        before = jax.tree.map(functools.partial(jnp.where, index > 0), tuple(before), after)
        return (u, *before), None

    count = saved.theta.shape[0]
    state = through_update(count - 1, bar, jax.tree.map(jnp.zeros_like, free))
    (_, bar, free_bar), _ = jax.lax.scan(body, state, jnp.arange(count), reverse=True)
    return bar, free_bar


def _partition(inputs: _Inputs) -> tuple[_Inputs, _Inputs]:
    """Split inputs by whether somebody differentiates in them.

    Args:
      inputs: as `symbolic_zeros` hands them over: each leaf a value and a flag.

    Returns:
      Two trees with the values of the leaves that are differentiated, and of the others; in each
      `None` stands where the other has a value. Integers have no derivative.
    """

    def part(wanted: bool) -> _Inputs:
        return jax.tree.map(lambda x: x.value if _is_free(x) == wanted else None, inputs)

    return part(True), part(False)


def _is_free(leaf: Any) -> bool:
    return leaf.perturbed and jnp.issubdtype(leaf.value.dtype, jnp.floating)


def _merge(free: _Inputs, held: _Inputs) -> _Inputs:
    """Undo `_partition`."""
    return jax.tree.map(lambda x, y: y if x is None else x, free, held, is_leaf=lambda x: x is None)


def _with_rates(free_bar: _Inputs, **terms: Array) -> _Inputs:
    """Add terms to the cotangents of the rates, where these are wanted."""
    rates = free_bar.rates
    added = {
        name: getattr(rates, name) + term
        for name, term in terms.items()
        if getattr(rates, name) is not None
    }
    return free_bar._replace(rates=rates._replace(**added))


def _instantiated(bar: Any) -> Array:
    """Return zeros for the cotangent of an output that nobody uses."""
    if isinstance(bar, jax.custom_derivatives.SymbolicZero):
        return jnp.zeros(bar.shape, bar.dtype)
    return bar

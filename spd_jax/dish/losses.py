"""Inner losses (one motif-network's outputs) and outer losses (all motifs' scores).

Inner losses are means over samples and outputs. Outer losses compare raw dish
scores with ground truths, both higher is better, and leave out every motif of
weight 0 (padding, and motifs whose loss is not finite).
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from spd_jax.axes import Array


def _flat(function: Callable[[Array], Array], x: Array) -> Array:
    """Apply an elementwise function to `x` as one vector.

    XLA's CPU code for small trailing axes is not vectorised: the sigmoid of
    `[18, 10, 10]` took 8 times as long as that of `[1800]`.
    """
    return function(jax.lax.optimization_barrier(jnp.ravel(x))).reshape(jnp.shape(x))


@jax.custom_jvp
def _sigmoid(logits: Array) -> Array:
    return _flat(jax.nn.sigmoid, logits)


@_sigmoid.defjvp
def _sigmoid_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    value = _sigmoid(*primals)
    return value, value * (1 - value) * tangents[0]


@jax.custom_jvp
def _softplus(logits: Array) -> Array:
    return _flat(lambda z: jnp.maximum(z, 0) + jnp.log1p(jnp.exp(-jnp.abs(z))), logits)


@_softplus.defjvp
def _softplus_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # One exponential, and no logarithm where only the gradient is needed.
    return _softplus(*primals), _sigmoid(*primals) * tangents[0]


def binary_cross_entropy(logits: Array, labels: Array) -> Array:
    """Return `mean(softplus(z) - y z)`, in nats; logits and labels `[N, ...]`."""
    chex.assert_equal_shape([logits, labels])
    return jnp.mean(_softplus(logits) - labels * logits)


def softmax_cross_entropy(logits: Array, labels: Array) -> Array:
    """Return `mean(-sum_c y_c log softmax(z)_c)`, in nats; both `[N, ..., C]`."""
    chex.assert_equal_shape([logits, labels])
    return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(logits), axis=-1))


def squared_error(outputs: Array, labels: Array) -> Array:
    """Return `mean((z - y)^2)`; both `[N, ...]`."""
    chex.assert_equal_shape([outputs, labels])
    return jnp.mean((outputs - labels) ** 2)


INNER_LOSSES = {
    "binary_cross_entropy": binary_cross_entropy,
    "softmax_cross_entropy": softmax_cross_entropy,
    "squared_error": squared_error,
}


def standardised(outputs: Array) -> Array:
    """Return outputs `[N, ...]` shifted and scaled as one to mean 0 and standard deviation 3.

    Ours. How large the outputs of a network are after a few steps differs between motifs and
    hides which of them separates its samples; 3 makes a softmax decide neither all nor nothing.
    Equal outputs become 0.
    """
    centred = outputs - jnp.mean(outputs)
    variance = jnp.mean(centred**2)
    return 3 * centred / jnp.sqrt(jnp.where(variance > 0, variance, 1))


def true_class_probability(logits: Array, labels: Array, inner_loss: str) -> Array:
    """Return the mean probability of the labels, in [0, 1]; both `[N, ..., C]`."""
    if inner_loss == "softmax_cross_entropy":
        return jnp.mean(jnp.sum(labels * jax.nn.softmax(logits), axis=-1))
    probability = jax.nn.sigmoid(logits)
    return jnp.mean(labels * probability + (1 - labels) * (1 - probability))


def accuracy(outputs: Array, labels: Array, inner_loss: str) -> Array:
    """Return the share of outputs that decide as the labels do, in [0, 1]; both `[N, ..., C]`.

    Under the softmax the class with the largest logit decides; else every output by itself: a
    logit above 0, or a value above 1/2, stands for a label above 1/2.
    """
    if inner_loss == "softmax_cross_entropy":
        return jnp.mean(jnp.argmax(outputs, axis=-1) == jnp.argmax(labels, axis=-1))
    threshold = 0.5 if inner_loss == "squared_error" else 0.0
    return jnp.mean((outputs > threshold) == (labels > 0.5))


def weighted_mean(values: Array, weights: Array) -> Array:
    """Return the mean of `values [M]` under `weights [M]`; 0 where all weights are 0."""
    return jnp.sum(weights * values) / jnp.maximum(jnp.sum(weights), 1)


def _standardise(values: Array, weights: Array) -> Array:
    """Return z-scores `[M]` with the population standard deviation; 0 where all are equal.

    Differences within the rounding of the mean are none: scaled up to 1 they
    would be noise with gradients of 1e7.
    """
    values = jnp.where(weights > 0, values, 0)
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(values)))
    values = values / jnp.where(largest > 0, largest, 1)  # squares neither over- nor underflow
    centred = jnp.where(weights > 0, values - weighted_mean(values, weights), 0)
    equal = jnp.max(jnp.abs(centred)) <= 8 * jnp.finfo(values.dtype).eps
    variance = weighted_mean(centred**2, weights)
    return jnp.where(equal, 0, centred / jnp.sqrt(jnp.where(equal, 1, variance)))


def zscored_mse(scores: Array, truth: Array, weights: Array) -> Array:
    """Mean squared difference of the two z-scored vectors (Rawal et al., equation 2).

    Args:
      scores: raw dish scores `[M]`, higher is better.
      truth: ground truths `[M]`, higher is better.
      weights: `[M]`, 1 for a motif that counts and 0 for one that does not.

    Returns:
      Scalar in [0, 4]: `2 (1 - r)` with Pearson's r.
    """
    chex.assert_shape([scores, truth, weights], (len(weights),))
    difference = _standardise(scores, weights) - _standardise(truth, weights)
    return weighted_mean(difference**2, weights)


def raw_mse(scores: Array, truth: Array, weights: Array) -> Array:
    """Mean squared difference of scores and truths, no normalisation; args as `zscored_mse`."""
    chex.assert_shape([scores, truth, weights], (len(weights),))
    return weighted_mean((scores - truth) ** 2, weights)


def absolute_pearson(scores: Array, truth: Array, weights: Array) -> Array:
    """Return `1 - |r|` in [0, 1]: the sign of the relation is free; args as `zscored_mse`."""
    chex.assert_shape([scores, truth, weights], (len(weights),))
    products = _standardise(scores, weights) * _standardise(truth, weights)
    return 1 - jnp.abs(weighted_mean(products, weights))


def pairwise_rank(scores: Array, truth: Array, weights: Array) -> Array:
    """Mean logistic loss over the pairs that the truth orders (RankNet, Burges et al., 2005).

    Args as `zscored_mse`. The differences are of z-scored scores, so that the
    loss does not depend on their scale.

    Returns:
      Scalar, in nats; log 2 for a ranking that knows nothing.
    """
    chex.assert_shape([scores, truth, weights], (len(weights),))
    z = _standardise(scores, weights)
    better = truth[:, None] > truth[None, :]
    pair_weights = jnp.where(better, weights[:, None] * weights[None, :], 0)
    return weighted_mean(_softplus(z[None, :] - z[:, None]), pair_weights)


OUTER_LOSSES = {
    "zscored_mse": zscored_mse,
    "raw_mse": raw_mse,
    "absolute_pearson": absolute_pearson,
    "pairwise_rank": pairwise_rank,
}

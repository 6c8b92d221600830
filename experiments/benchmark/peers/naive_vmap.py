"""Peer: what a competent JAX user writes first: a list of matrices, optax, vmap, scan, jit."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from experiments.benchmark.peers.problem import ADAM, Problem, outer_loss
from spd_jax.dish import DishConfig


def network(weights: Sequence, slope: ArrayLike, inputs: jax.Array) -> jax.Array:
    """Return a network's logits, [N, C]; `slope` is one for all hidden units or one for each."""
    w0, b0, w1, b1, w2, b2 = weights
    hidden = jax.nn.sigmoid(slope * (inputs @ w0 + b0))
    hidden = jax.nn.sigmoid(slope * (hidden @ w1 + b1))
    return hidden @ w2 + b2


def train(loss: Callable, weights: Sequence, problem: Problem | DishConfig) -> Sequence:
    """Return the weights after `inner_steps` steps of Adam on `loss(weights) + L2`."""
    optimizer = optax.adam(problem.inner_learning_rate, **ADAM)

    def penalised(weights: Sequence) -> jax.Array:
        return loss(weights) + problem.inner_l2 * sum(jnp.sum(w**2) for w in weights)

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        weights, state = carry
        updates, state = optimizer.update(jax.grad(penalised)(weights), state)
        return (optax.apply_updates(weights, updates), state), None

    weights = jax.tree.map(jnp.asarray, weights)
    carry = weights, optimizer.init(weights)
    (weights, _), _ = jax.lax.scan(step, carry, length=problem.inner_steps)
    return weights


def validation_loss(problem: Problem, data: jax.Array, slope: jax.Array) -> jax.Array:
    """Train one motif-network on `data` [2, N, D] and return its validation loss, []."""
    train_inputs, valid_inputs = data

    def loss(weights: Sequence, inputs: jax.Array, labels: np.ndarray) -> jax.Array:
        logits = network(weights, slope, inputs)
        return optax.sigmoid_binary_cross_entropy(logits, labels).mean()

    weights = train(lambda w: loss(w, train_inputs, problem.train_labels), problem.weights, problem)
    return loss(weights, valid_inputs, problem.valid_labels)


@functools.partial(jax.jit, static_argnums=0)
def _losses(problem: Problem, data: jax.Array) -> jax.Array:
    return jax.vmap(lambda slope: validation_loss(problem, data, slope))(problem.slopes)


def inner_losses(problem: Problem) -> np.ndarray:
    """Return the validation loss of each motif, [M]."""
    return np.asarray(_losses(problem, problem.data))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _update(
    problem: Problem, losses: Callable, data: jax.Array, state: optax.OptState
) -> tuple[jax.Array, optax.OptState, jax.Array]:
    def objective(data: jax.Array) -> jax.Array:
        return outer_loss(losses(problem, data), problem.ground_truth, data, problem.outer_l2)

    loss, gradient = jax.value_and_grad(objective)(data)
    optimizer = optax.adam(problem.outer_learning_rate, **ADAM)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(data, updates), state, loss


def make_outer_step(problem: Problem, losses: Callable = _losses) -> Callable[[], float]:
    """Return a callable that takes one outer step and returns the loss before it.

    Args:
        problem: the dish.
        losses: maps (problem, data [2, N, D]) to validation losses, [M].
    """
    data = jnp.asarray(problem.data)
    state = optax.adam(problem.outer_learning_rate, **ADAM).init(data)

    def step() -> float:
        nonlocal data, state
        data, state, loss = _update(problem, losses, data, state)
        return float(loss)

    return step

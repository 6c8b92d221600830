"""Peer: all motif-networks as one masked super-network (Rawal et al., arXiv A.2.2), in JAX."""

import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
import optax

from experiments.benchmark.peers import naive_vmap
from experiments.benchmark.peers.problem import Problem, apply_masks, supernetwork


@functools.partial(jax.jit, static_argnums=0)
def _losses(problem: Problem, data: jax.Array) -> jax.Array:
    train_inputs, valid_inputs = data
    weights, masks, slopes = supernetwork(problem)

    def losses(weights: Sequence, inputs: jax.Array, labels: np.ndarray) -> jax.Array:
        logits = naive_vmap.network(apply_masks(weights, masks), slopes, inputs)
        logits = logits.reshape(len(inputs), len(problem.slopes), -1)
        return optax.sigmoid_binary_cross_entropy(logits, labels[:, None]).mean((0, 2))

    def total_loss(weights: Sequence) -> jax.Array:
        return losses(weights, train_inputs, problem.train_labels).sum()

    weights = naive_vmap.train(total_loss, weights, problem)
    return losses(weights, valid_inputs, problem.valid_labels)


def inner_losses(problem: Problem) -> np.ndarray:
    """Return the validation loss of each motif, [M]."""
    return np.asarray(_losses(problem, problem.data))


def make_outer_step(problem: Problem) -> Callable[[], float]:
    """Return a callable that takes one outer step and returns the loss before it."""
    return naive_vmap.make_outer_step(problem, _losses)

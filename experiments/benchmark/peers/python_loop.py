"""Peer: the motif-network of `naive_vmap`, compiled for one motif, in a Python loop over motifs.

The z-score of the outer loss couples the motifs. So each motif hands back its loss and the gradient
of that loss, and the chain rule joins them: sum over m of dL/dloss_m * dloss_m/ddata.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmark.peers.naive_vmap import validation_loss
from experiments.benchmark.peers.problem import ADAM, Problem, outer_loss

_loss = jax.jit(validation_loss, static_argnums=0)
_loss_and_gradient = jax.jit(jax.value_and_grad(validation_loss, argnums=1), static_argnums=0)


def inner_losses(problem: Problem) -> np.ndarray:
    """Return the validation loss of each motif, [M]."""
    return np.stack([_loss(problem, problem.data, slope) for slope in problem.slopes])


@functools.partial(jax.jit, static_argnums=0)
def _update(
    problem: Problem,
    data: jax.Array,
    state: optax.OptState,
    losses: Sequence[jax.Array],
    gradients: Sequence[jax.Array],
) -> tuple[jax.Array, optax.OptState, jax.Array]:
    value_and_grad = jax.value_and_grad(outer_loss, argnums=(0, 2))
    loss, (by_losses, by_data) = value_and_grad(
        jnp.stack(losses), problem.ground_truth, data, problem.outer_l2
    )
    gradient = by_data + jnp.tensordot(by_losses, jnp.stack(gradients), axes=1)
    optimizer = optax.adam(problem.outer_learning_rate, **ADAM)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(data, updates), state, loss


def make_outer_step(problem: Problem) -> Callable[[], float]:
    """Return a callable that takes one outer step and returns the loss before it."""
    data = jnp.asarray(problem.data)
    state = optax.adam(problem.outer_learning_rate, **ADAM).init(data)

    def step() -> float:
        nonlocal data, state
        motifs = [_loss_and_gradient(problem, data, slope) for slope in problem.slopes]
        data, state, loss = _update(problem, data, state, *zip(*motifs, strict=True))
        return float(loss)

    return step

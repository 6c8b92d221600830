"""Peer: this package's inner loop, compiled for one motif, in a Python loop over motifs.

As `python_loop` says, the outer loss couples the motifs: each hands back its score and the gradient
of that score, and the chain rule joins them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.peers.problem import outer_loss
from experiments.benchmark.peers.rnn_cell_problem import Problem
from spd_jax import archs
from spd_jax.dish import inner_loop
from spd_jax.spaces.rnn_cell import RnnCell


@jax.jit
def _join(
    losses: jax.Array, gradients: jax.Array, ground_truth: jax.Array, data: jax.Array, l2: float
) -> jax.Array:
    by_losses, by_data = jax.grad(outer_loss, argnums=(0, 2))(losses, ground_truth, data, l2)
    return by_data + jnp.tensordot(by_losses, gradients, axes=1)


def make_outer_gradient(problem: Problem) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """Return a callable: validation losses `[M]`, and the outer gradient `[2, N, L, D]`."""
    params, synthetic = jax.tree.map(lambda x: x[0], (problem.state.params, problem.state.data))

    @jax.jit
    @jax.value_and_grad
    def loss_and_gradient(data: jax.Array, cell: RnnCell) -> jax.Array:
        now = synthetic._replace(train_inputs=data[0], valid_inputs=data[1])
        family, config = problem.family, problem.config
        return -inner_loop.score(family, config, params, cell, now, problem.state.key)

    def outer_gradient() -> tuple[np.ndarray, np.ndarray]:
        data = problem.data
        motifs = [loss_and_gradient(data, cell) for cell in archs.unstack(problem.cells)]
        losses, gradients = (jnp.stack(parts) for parts in zip(*motifs, strict=True))
        l2 = problem.config.outer_l2
        gradient = _join(losses, gradients, problem.ground_truth, data, l2)
        return np.asarray(losses), np.asarray(gradient)

    return outer_gradient

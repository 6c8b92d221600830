"""Peer: naive one-hot mixing in JAX: a node reads all nodes, applies all activations, and mixes.

What a competent user writes first for cells that differ in structure: one-hot weights pick the
predecessor and the activation, and automatic differentiation does the rest.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmark.peers import naive_vmap
from experiments.benchmark.peers.problem import outer_loss
from experiments.benchmark.peers.rnn_cell_problem import Problem
from spd_jax.spaces.rnn_cell import NODES, RnnCell

FUNCTIONS = (jnp.tanh, jax.nn.relu, lambda z: z, jax.nn.sigmoid)


def _gated(state: jax.Array, gate_and_value: jax.Array, applies: jax.Array) -> jax.Array:
    gate, value = jnp.split(gate_and_value, 2, axis=-1)
    results = jnp.stack([function(value) for function in FUNCTIONS])
    return state + jax.nn.sigmoid(gate) * (jnp.tensordot(applies, results, 1) - state)


def network(weights: Sequence, cell: RnnCell, inputs: jax.Array) -> jax.Array:
    """Return one motif-network's logits, `[N, L, C]`, for inputs `[N, L, D]`."""
    from_input, from_state, nodes_weight, readout, bias = weights
    reads = jax.nn.one_hot(cell.predecessor, NODES)
    applies = jax.nn.one_hot(cell.activation, len(FUNCTIONS))

    def step(state: jax.Array, now: jax.Array) -> tuple[jax.Array, jax.Array]:
        first = _gated(state, now @ from_input.T + state @ from_state.T, applies[0])
        nodes = jnp.zeros((NODES, *first.shape)).at[0].set(first)

        def node(nodes: jax.Array, now: tuple) -> tuple[jax.Array, None]:
            index, reads, applies, weight = now
            source = jnp.tensordot(reads, nodes, 1)
            return nodes.at[index].set(_gated(source, source @ weight.T, applies)), None

        scanned = jnp.arange(1, NODES), reads, applies[1:], nodes_weight
        nodes, _ = jax.lax.scan(node, nodes, scanned)
        state = nodes[1:].mean(0)
        return state, state

    start = jnp.zeros((len(inputs), from_state.shape[1]))
    _, states = jax.lax.scan(step, start, inputs.swapaxes(0, 1))
    return (states @ readout.T + bias).swapaxes(0, 1)


def make_outer_gradient(problem: Problem) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """Return a callable: validation losses `[M]`, and the outer gradient `[2, N, L, D]`."""
    start, (train_labels, valid_labels) = problem.weights, problem.labels

    def validation_loss(data: jax.Array, cell: RnnCell) -> jax.Array:
        def loss(weights: Sequence, inputs: jax.Array, labels: np.ndarray) -> jax.Array:
            logits = network(weights, cell, inputs)
            return optax.sigmoid_binary_cross_entropy(logits, labels).mean()

        train_loss = functools.partial(loss, inputs=data[0], labels=train_labels)
        weights = naive_vmap.train(train_loss, start, problem.config)
        return loss(weights, data[1], valid_labels)

    def objective(data: jax.Array, cells: RnnCell) -> tuple[jax.Array, jax.Array]:
        losses = jax.vmap(validation_loss, in_axes=(None, 0))(data, cells)
        l2 = problem.config.outer_l2
        return outer_loss(losses, problem.ground_truth, data, l2), losses

    compiled = jax.jit(jax.grad(objective, has_aux=True))

    def outer_gradient() -> tuple[np.ndarray, np.ndarray]:
        gradient, losses = compiled(problem.data, problem.cells)
        return np.asarray(losses), np.asarray(gradient)

    return outer_gradient

"""The recurrent cell's equations, and the motif-network around it (Rawal et al., section 4.2).

    (gate, value) = W_i s_p,    s_i = s_p + sigmoid(gate) * (f_i(value) - s_p)

States lie as `[H, N]`, samples on the minor axis: widths of 3 would leave a vector register idle.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spd_jax.axes import Array, Key, Params
from spd_jax.motif import MotifFamily
from spd_jax.spaces.rnn_cell.cells import NODES, RnnCell, check_variant

# Rows (a, b, c, d, e) of a * tanh(b u) + c + d u + e * relu(u): one formula for all four.
_COEFFICIENTS = np.array(
    [[1, 1, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 1, 0], [0.5, 0.5, 0.5, 0, 0]], np.float32
)
_LANES = 8  # samples are padded to a multiple of it: no remainder loop


class CellWeights(NamedTuple):
    """Weights of one cell, gate rows first, no biases.

    Attributes:
      inputs: `[2 H, D]`, node 0 on the input.
      state: `[2 H, H]`, node 0 on the last state.
      nodes: `[11, 2 H, H]`, nodes 1..11.
    """

    inputs: Any
    state: Any
    nodes: Any


def coefficients(activation: Array) -> Array:
    """Return what `activate` needs: float32 `[..., 5]` for indices `[...]`."""
    return jnp.asarray(_COEFFICIENTS)[activation]


def activate(coefficient: Array, values: Array) -> tuple[Array, Array]:
    """Return the activation of `coefficients` `[5]`, and its slope, at `values` of any shape."""
    a, b, c, d, e = coefficient
    tanh = jnp.tanh(b * values)
    positive = (values > 0).astype(values.dtype)
    return a * tanh + c + (d + e * positive) * values, a * b * (1 - tanh**2) + d + e * positive


def _sigmoid(values: Array) -> Array:
    # tanh is one vectorised kernel on every device; logistic is not.
    return 0.5 * jnp.tanh(0.5 * values) + 0.5


def gated(coefficient: Array, state: Array, gate_and_value: Array) -> Array:
    """Return `s + sigmoid(gate) * (f(value) - s)`.

    Args:
      coefficient: of f, `[5]`.
      state: s, `[H, N]`.
      gate_and_value: `[2 H, N]`, gates first.
    """
    gate, value = jnp.split(gate_and_value, 2)
    return state + _sigmoid(gate) * (activate(coefficient, value)[0] - state)


def output_weights(cell: RnnCell, variant: str) -> Array:
    """Return the share of every node in the new state: float32 `[12]`, sum 1."""
    if variant == "nao":
        return jnp.asarray([0.0] + [1 / (NODES - 1)] * (NODES - 1), jnp.float32)
    if variant == "enas_mean":
        return jnp.full(NODES, 1 / NODES, jnp.float32)
    unread = jnp.ones(NODES, jnp.float32).at[cell.predecessor].set(0)
    return unread / jnp.sum(unread)


def all_nodes(
    weights: CellWeights,
    cell: RnnCell,
    state: Array,
    projected: Array,
    *,
    unroll: int = NODES - 1,
    mask: Array | float = 1.0,
) -> Array:
    """Return the states of all nodes `[12, H, N]`; one program for all cells.

    Args:
      weights: of the cell.
      cell: the arch.
      state: last state `[H, N]`.
      projected: `weights.inputs` times the input, `[2 H, N]`.
      unroll: nodes in one round of the compiled loop.
      mask: multiplies what every node reads: variational dropout, `[H, N]`.
    """
    coefficient = coefficients(cell.activation)
    first = gated(coefficient[0], state, projected + weights.state @ (mask * state))
    nodes = _put(jnp.zeros((NODES, *first.shape), first.dtype), first, 0)

    def node(nodes: Array, now: Any) -> tuple[Array, None]:
        index, predecessor, weight, coefficient = now
        source = _at(nodes, predecessor)
        return _put(nodes, gated(coefficient, source, weight @ (mask * source)), index), None

    scanned = (jnp.arange(1, NODES), cell.predecessor, weights.nodes, coefficient[1:])
    return jax.lax.scan(node, nodes, scanned, unroll=unroll)[0]


def next_state(
    weights: CellWeights,
    cell: RnnCell,
    share: Array,
    state: Array,
    projected: Array,
    *,
    mask: Array | float = 1.0,
) -> Array:
    """Return the cell's next state `[H, N]`: the mean of `all_nodes` under `output_weights`."""
    return jnp.tensordot(share, all_nodes(weights, cell, state, projected, mask=mask), axes=1)


def _at(nodes: Array, index: Array | int) -> Array:
    return jax.lax.dynamic_index_in_dim(nodes, index, 0, keepdims=False)


def _put(nodes: Array, state: Array, index: Array | int) -> Array:
    return jax.lax.dynamic_update_index_in_dim(nodes, state, index, 0)


@jax.custom_vjp
def run_sequence(weights: CellWeights, cell: RnnCell, share: Array, projected: Array) -> Array:
    """Run a cell over a sequence from a state of zeros.

    The backward pass is written out: XLA would keep a dozen arrays of every node and add
    cotangents by scatters. This one keeps the nodes alone. Every product of matrices is
    left to the library, which also keeps XLA from computing the same tanh many times over.

    Args:
      weights: of the cell; `inputs` is not used.
      cell: the arch; constant to the derivative.
      share: of every node in a new state, `[12]`; constant to the derivative.
      projected: `[L, 2 H, N]`, `weights.inputs` times the inputs.

    Returns:
      The states `[L, H, N]`.
    """
    return _forward(weights, cell, share, projected)[0]


def _forward(
    weights: CellWeights, cell: RnnCell, share: Array, projected: Array
) -> tuple[Array, Any]:
    def step(state: Array, projected: Array) -> tuple[Array, tuple[Array, Array]]:
        nodes = all_nodes(weights, cell, state, projected, unroll=1)
        state = jnp.tensordot(share, nodes, axes=1)
        return state, (state, nodes)

    start = jnp.zeros((weights.state.shape[1], projected.shape[2]), projected.dtype)
    _, (states, nodes) = jax.lax.scan(step, start, projected)
    return states, (weights, cell, share, projected, states, nodes)


def _gated_transpose(coefficient: Array, state: Array, gate_and_value: Array, bar: Array) -> Array:
    """Return the cotangents `[3 H, N]` of gate, value and (directly) state under `gated`."""
    gate, value = jnp.split(gate_and_value, 2)
    gate, (result, slope) = _sigmoid(gate), activate(coefficient, value)
    return jnp.concatenate(
        [bar * (result - state) * gate * (1 - gate), bar * gate * slope, bar * (1 - gate)]
    )


def _backward(residuals: Any, bar: Array) -> tuple[Any, None, None, Array]:
    weights, cell, share, projected, states, nodes = residuals
    width = weights.state.shape[1]
    coefficient = coefficients(cell.activation)
    is_predecessor = (cell.predecessor[:, None] == jnp.arange(NODES)).astype(bar.dtype)

    def to_source(weight: Array) -> Array:
        """One product brings all three cotangents of `_gated_transpose` back to the source."""
        return jnp.concatenate([weight.T, jnp.eye(width, dtype=weight.dtype)], axis=1)

    nodes_to_source = jax.vmap(to_source)(weights.nodes)
    state_to_source = to_source(weights.state)

    def step(state_bar: Array, now: Any) -> tuple[Array, Any]:
        bar, before, projected, nodes = now

        def node(nodes_bar: Array, now: Any) -> tuple[Array, tuple[Array, Array]]:
            index, predecessor, weight, back, coefficient, reads = now
            source = _at(nodes, predecessor)
            bars = _gated_transpose(coefficient, source, weight @ source, _at(nodes_bar, index))
            return nodes_bar + reads[:, None, None] * (back @ bars), (bars, source)

        scanned = (
            jnp.arange(1, NODES),
            cell.predecessor,
            weights.nodes,
            nodes_to_source,
            coefficient[1:],
            is_predecessor,
        )
        nodes_bar = share[:, None, None] * (bar + state_bar)
        nodes_bar, saved = jax.lax.scan(node, nodes_bar, scanned, reverse=True)
        mixed = projected + weights.state @ before
        bars = _gated_transpose(coefficient[0], before, mixed, nodes_bar[0])
        return state_to_source @ bars, (bars[: 2 * width], *saved)

    before = jnp.concatenate([jnp.zeros_like(states[:1]), states[:-1]])
    start = jnp.zeros_like(states[0])
    _, (projected_bar, bars, sources) = jax.lax.scan(
        step, start, (bar, before, projected, nodes), reverse=True
    )
    weights_bar = CellWeights(
        None if weights.inputs is None else jnp.zeros_like(weights.inputs),
        jnp.einsum("tgn,thn->gh", projected_bar, before),
        jnp.einsum("tign,tihn->igh", bars[:, :, : 2 * width], sources),
    )
    return weights_bar, None, None, projected_bar


run_sequence.defvjp(_forward, _backward)


def family(
    variant: str = "nao", inputs: int = 10, hidden: int = 3, outputs: int = 10, length: int = 10
) -> MotifFamily:
    """Return the motif-network: one cell over a sequence, a dense readout at every step.

    With the default sizes it has 316 parameters (276 in the cell, 40 in the readout);
    the paper's 140 counts a network without gates.

    Args:
      variant: one of `rnn_cell.VARIANTS`.
      inputs: D.
      hidden: H.
      outputs: C; the outputs are logits `[N, L, C]`.
      length: L.
    """
    check_variant(variant)
    return _family(variant, inputs, hidden, outputs, length)


@functools.cache
def _family(variant: str, inputs: int, hidden: int, outputs: int, length: int) -> MotifFamily:
    def init(key: Key) -> Params:
        keys = jax.random.split(key, 5)
        return {
            "cell": CellWeights(
                jax.random.normal(keys[0], (2 * hidden, inputs)),
                jax.random.normal(keys[1], (2 * hidden, hidden)),
                jax.random.normal(keys[2], (NODES - 1, 2 * hidden, hidden)),
            ),
            "weight": jax.random.normal(keys[3], (outputs, hidden)),
            "bias": jax.random.normal(keys[4], (outputs, 1)),
        }

    def apply(params: Params, cell: RnnCell, inputs: Array) -> Array:
        count = inputs.shape[0]
        sequence = jnp.transpose(inputs, (1, 2, 0))  # [L, D, N]
        sequence = jnp.pad(sequence, ((0, 0), (0, 0), (0, -count % _LANES)))
        weights = params["cell"]
        projected = jnp.einsum("gd,ldn->lgn", weights.inputs, sequence)
        weights = weights._replace(inputs=None)
        states = run_sequence(weights, cell, output_weights(cell, variant), projected)
        logits = jnp.einsum("ch,lhn->nlc", params["weight"], states[:, :, :count])
        return logits + params["bias"][:, 0]

    return MotifFamily(init, apply, (length, inputs), (length, outputs), "bernoulli")

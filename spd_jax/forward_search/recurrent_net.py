"""A recurrent cell that grows at the mean of its nodes, between an embedding and a softmax.

The paper does not describe it: nodes, highway operations and the seed are the released code's
(the first cell of DARTS). There, growth divides by the new number of nodes, so that even a
learner of zeros scales the output; here a learner stands outside the mean.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from spd_jax.axes import Array
from spd_jax.forward_search import weak
from spd_jax.forward_search.arch import RECURRENT_SEED, Arch, Edge
from spd_jax.forward_search.scope import Scope
from spd_jax.forward_search.weak import Growth

ACTIVATIONS = {
    "tanh": jnp.tanh, "relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid, "identity": lambda x: x,
}  # fmt: skip
SLOT = "recurrent"


@dataclasses.dataclass(frozen=True)
class RecurrentNet:
    """Widths of a language model around a recurrent cell. Static under jit.

    Attributes:
      vocabulary: V, number of tokens.
      hidden: H, width of the embedding, of every node and of the state.
      tied: whether the softmax uses the embedding.
      keep_input, keep_state, keep_output: shares of units that dropout keeps, of the embedding,
        the state and the output; one mask for a whole sequence.
    """

    vocabulary: int
    hidden: int = 850
    tied: bool = True
    keep_input: float = 1.0
    keep_state: float = 1.0
    keep_output: float = 1.0

    def logits(
        self,
        scope: Scope,
        arch: Arch,
        tokens: Array,
        state: Array,
        growth: Growth | None = None,
    ) -> tuple[Array, Array]:
        """Return logits `[L, N, V]` of tokens `[L, N]`, and the last state.

        The first state is `state` `[N, H]`.
        """
        size = self.hidden
        table = scope.weight("embedding", (self.vocabulary, size), "uniform")
        softmax = (
            table if self.tied else scope.weight("softmax", (self.vocabulary, size), "uniform")
        )
        bias = scope.weight("bias", (self.vocabulary,), "zeros")
        rows = (state.shape[0], size)
        masks = _Masks(
            *(
                _mask(scope, f"mask/{name}", rows, keep)
                for name, keep in zip(
                    _Masks._fields,
                    (self.keep_input, self.keep_state, self.keep_output),
                    strict=True,
                )
            )
        )
        inputs = table[tokens] * masks.input
        taps = scope.taps.get("cell0", jnp.zeros((len(tokens), 1, 1), state.dtype))

        def step(state: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
            x, tap = now
            following = _Cell(scope, self, arch, x, state * masks.state).end(growth) + tap
            return following, following

        last, outputs = jax.lax.scan(step, state, (inputs, taps))
        scope.count("softmax", self.vocabulary * size)
        return (outputs * masks.output) @ softmax.T + bias, last


class _Masks(NamedTuple):
    """Variational dropout: factors `[N, H]`, or 1."""

    input: Any
    state: Any
    output: Any


def _mask(scope: Scope, path: str, shape: tuple[int, int], keep: float) -> Any:
    if keep == 1 or not scope.training:
        return 1.0
    return jax.random.bernoulli(scope.random_key(path), keep, shape) / keep


@dataclasses.dataclass
class _Cell:
    """One step of the cell for an embedded token `[N, H]` and a state `[N, H]`."""

    scope: Scope
    net: RecurrentNet
    arch: Arch
    x: Array
    state: Array

    def end(self, growth: Growth | None) -> Array:
        """Return the next state, with candidates where the cell grows."""
        scope = self.scope
        both = jnp.concatenate([self.x, self.state], -1)
        inputs = [both, _highway("tanh", self.state, self._gates(both))]
        for place, (parent, op) in enumerate(RECURRENT_SEED, 1):
            inputs.append(self._op(f"cell0/node{place}", op, inputs[1 + parent]))
        following = jnp.mean(jnp.stack(inputs[1:]), 0)
        learners = self.arch.learners(SLOT)
        for k, learner in enumerate(learners):
            joined = jnp.concatenate(self._edges(k, learner, inputs, lambda z: z), -1)
            inputs.append(self._dense(f"cell0/learner{k}/merge", jax.nn.relu(joined)))
            eta = scope.weight(f"cell0/learner{k}/eta", (), "zeros")
            following = following + eta * inputs[-1]
        if growth is None or SLOT not in growth.slots:
            return following
        edges = self.arch.candidates(SLOT)
        outputs = self._edges(len(learners), edges, inputs, growth.inlet)
        alpha = scope.weight(f"alpha/{SLOT}", (len(edges),), "equal")
        x_c = weak.joint(alpha, outputs)
        return growth.attach(following, x_c, lambda: scope.weight("gate/cell0", (), "zeros"))

    def _edges(
        self, k: int, edges: tuple[Edge, ...], inputs: list[Array], inlet: Any
    ) -> list[Array]:
        return [
            self._op(f"cell0/learner{k}/{edge.input}:{edge.op}", edge.op, inlet(inputs[edge.input]))
            for edge in edges
        ]

    def _op(self, path: str, op: str, z: Array) -> Array:
        """Return a highway operation on z, brought to the cell's width first."""
        if z.shape[-1] != self.net.hidden:
            z = self._dense(f"{path}/narrow", z)
        return _highway(op, z, self._product(f"{path}/kernel", z))

    def _gates(self, both: Array) -> Array:
        return self._product("cell0/node0/kernel", both)

    def _product(self, path: str, z: Array) -> Array:
        """Return (c, t) `[N, 2 H]`, without bias."""
        shape = (z.shape[-1], 2 * self.net.hidden)
        self.scope.count(path, shape[0] * shape[1])
        return z @ self.scope.weight(path, shape, "lecun", fan_in=shape[0])

    def _dense(self, path: str, z: Array) -> Array:
        shape = (z.shape[-1], self.net.hidden)
        self.scope.count(path, shape[0] * shape[1])
        kernel = self.scope.weight(f"{path}/kernel", shape, "lecun", fan_in=shape[0])
        return z @ kernel + self.scope.weight(f"{path}/bias", (self.net.hidden,), "zeros")


def _highway(op: str, z: Array, gates: Array) -> Array:
    """Return z + sigmoid(t) (act(c) - z)."""
    c, t = jnp.split(gates, 2, -1)
    return z + jax.nn.sigmoid(t) * (ACTIVATIONS[op](c) - z)

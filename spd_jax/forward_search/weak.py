"""Weak learners: candidates that learn their parent's gradient and leave the parent alone.

Hu et al., section 4, algorithm 1: x_k + sf(sum_e alpha_e op_e(sg(z_e))) in place of x_k. The
gradient of whatever belongs to a candidate is then that of <dL/dx_k, x_c> (equation 8).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from spd_jax.axes import Array


@jax.custom_vjp
def stop_forward(x: Array) -> Array:
    """Return zeros whose gradient is that of x: sf(0) = 0 and d sf(x) / dx = 1.

    The paper writes x - sg(x). That is NaN where x is infinite; here the parent never sees x.
    """
    return jnp.zeros_like(x)


def _forward(x: Array) -> tuple[Array, None]:
    return jnp.zeros_like(x), None


def _backward(_: None, gradient: Array) -> tuple[Array]:
    return (gradient,)


stop_forward.defvjp(_forward, _backward)


def joint(alpha: Array, outputs: Sequence[Array], *, probe: Array | None = None) -> Array:
    """Return the joint weak learner x_c of one place, equation 6.

    Args:
      alpha: weights of the candidates `[E]`.
      outputs: their outputs, normalised, E arrays of one shape `[..., C]`.
      probe: matrices `[E, C, C]` through which each output is added a second time. At zero
        their gradient is sum(output^T dL/dx_k), which `selection` looks at; None has none.
    """
    terms = [alpha[e] * output for e, output in enumerate(outputs)]
    if probe is not None:
        terms += [output @ probe[e] for e, output in enumerate(outputs)]
    return functools.reduce(jnp.add, terms)


COUPLINGS = ("stopped", "no_stop_gradient", "soft")


@dataclasses.dataclass(frozen=True)
class Growth:
    """What of a network grows in a weak training, and how its candidates are coupled to it.

    Attributes:
      slots: that have candidates.
      gate: factor of the candidates' gradients; the paper's is 1.
      coupling: "stopped" is the paper's; "no_stop_gradient" lets the candidates' gradients go
        on into the parent; "soft" besides lets them into the forward pass, through a factor per
        cell that starts at 0 and learns (the released code's script for the Penn Treebank).
      probes: by cell, see `joint`.
    """

    slots: tuple[str, ...]
    gate: Any = 1.0
    coupling: str = "stopped"
    probes: Mapping[str, Array] = dataclasses.field(default_factory=dict)

    def inlet(self, z: Array) -> Array:
        """Return an input as candidates see it."""
        return jax.lax.stop_gradient(z) if self.coupling == "stopped" else z

    def attach(self, x: Array, x_c: Array, soft: Callable[[], Array]) -> Array:
        """Return the end of a cell with its candidates.

        Args:
          x: what the cell's sum is without them, x_k.
          x_c: the joint weak learner, of the same shape.
          soft: returns the learnt factor of the coupling "soft".
        """
        if self.coupling == "soft":
            return x + soft() * x_c
        return x + stop_forward(self.gate * x_c)

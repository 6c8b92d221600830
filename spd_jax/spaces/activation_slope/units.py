"""The kinds of activation: standard functions phi, of which a motif is phi(c z).

The slope c multiplies the input of every kind, whatever the kind, as in sigmoid(c z) of Rawal et
al., section 4.1. So c means the same for all. For a positive c, relu(c z) is c * relu(z), and
swish(c z) is c times z * sigmoid(c z), the swish of Ramachandran et al. (2017) with beta = c.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from spd_jax.axes import Array


def gaussian(z: Array) -> Array:
    """Return exp(-z^2)."""
    return jnp.exp(-(z**2))


# By name; a kind's number in an arch is its place here.
UNITS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": jax.nn.sigmoid,  # 1 / (1 + exp(-z))
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,  # max(z, 0)
    "softplus": jax.nn.softplus,  # log(1 + exp(z))
    "swish": jax.nn.silu,  # z * sigmoid(z)
    "sin": jnp.sin,
    "gaussian": gaussian,
}
KINDS = tuple(UNITS)

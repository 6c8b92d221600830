"""The sigmoid-slope space: a motif is the slope c of sigmoid(c * z).

Rawal et al., section 4.1. An arch is a float32 scalar, a batch of archs `[M]`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from spd_jax.axes import Arch, Array, Key
from spd_jax.errors import UserError
from spd_jax.motif import MotifFamily
from spd_jax.spaces import slope_network


def family(
    inputs: int = 10, hidden: int = 1, outputs: int = 10, use_bias: bool = True
) -> MotifFamily:
    """Return the motif-network D -> H -> H -> C with sigmoid(c z) in both hidden layers.

    With the default sizes it has 33 parameters, 21 without biases; the papers'
    22 is neither.

    Args:
      inputs: D.
      hidden: H.
      outputs: C; the outputs are logits.
      use_bias: biases in all three layers, as in the released program.
    """
    return slope_network.family(_unit, inputs, hidden, outputs, use_bias)


def _unit(slope: Array, z: Array) -> Array:
    return jax.nn.sigmoid(slope * z)


@dataclasses.dataclass(frozen=True)
class SigmoidSlopeSpace:
    """Slopes in `[low, high]`, a `motif.SearchSpace`.

    Attributes:
      low: smallest slope.
      high: largest slope.
      mutation_scale: standard deviation of a mutation, as a share of the interval.
    """

    low: float = 0.01
    high: float = 2.01
    mutation_scale: float = 0.1

    @property
    def name(self) -> str:
        """Name in ledgers and tables."""
        return "sigmoid_slope"

    def sample(self, key: Key, count: int) -> Array:
        """Draw slopes `[count]`, uniform; `key` is consumed."""
        return jax.random.uniform(key, (count,), minval=self.low, maxval=self.high)

    def mutate(self, key: Key, archs: Array) -> Array:
        """Add a normal step to every slope and clip to the interval; `key` is consumed."""
        step = self.mutation_scale * (self.high - self.low)
        moved = archs + step * jax.random.normal(key, jnp.shape(archs))
        return jnp.clip(moved, self.low, self.high)

    def crossover(self, key: Key, first: Array, second: Array) -> Array:
        """Return a random point between the two slopes of every pair; `key` is consumed."""
        share = jax.random.uniform(key, jnp.shape(first))
        return jnp.clip(share * first + (1 - share) * second, self.low, self.high)

    def encode(self, arch: Arch) -> str:
        """Return the shortest text that comes back as the same float32."""
        return str(np.float32(arch))

    def decode(self, text: str) -> np.float32:
        """Read a slope; raises UserError when it is no number of the interval."""
        try:
            with np.errstate(over="ignore"):
                slope = np.float32(text)
        except ValueError:
            slope = np.float32("nan")
        if not np.float32(self.low) <= slope <= np.float32(self.high):
            raise UserError(f"{text!r} is no slope in [{self.low}, {self.high}]")
        return slope

    def canonical(self, arch: Arch) -> np.float32:
        """Return the slope: no two slopes are the same motif."""
        return np.float32(arch)

    def features(self, archs: Array) -> np.ndarray:
        """Return the slopes as `[M, 1]` float64."""
        return np.asarray(archs, float)[:, None]


def table_slopes() -> np.ndarray:
    """Return the 60 slopes of the shipped table, over [0.01, 2.01] `[60]` float64.

    18 lie left of 0.37 (steps of 0.02, around the peak) and 42 from there on
    (steps of 0.04).
    """
    left = 0.01 + 0.02 * np.arange(18)
    right = 0.37 + 0.04 * np.arange(42)
    return np.round(np.concatenate([left, right]), 2)

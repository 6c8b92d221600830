"""The activation-slope space: a motif is a kind of activation phi and a slope c: phi(c z).

Ours, after section 4.1 of Rawal et al., whose motifs are the slopes of one kind, the sigmoid. An
arch is `{"kind": int32, "slope": float32}`, both scalars; of a batch they are `[M]`.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from spd_jax.axes import Arch, Archs, Array, Key
from spd_jax.errors import UserError
from spd_jax.motif import MotifFamily
from spd_jax.spaces import slope_network
from spd_jax.spaces.activation_slope.units import KINDS, UNITS

TABLE_SLOPES = (0.01, 0.05, 0.09, 0.15, 0.21, 0.29, 0.37, 0.57, 0.85, 1.21, 1.61, 2.01)


def family(
    inputs: int = 10, hidden: int = 1, outputs: int = 10, use_bias: bool = True
) -> MotifFamily:
    """Return the motif-network D -> H -> H -> C with phi(c z) in both hidden layers.

    It has the parameters of `spaces.sigmoid_slope.family`, so that data learned there fit here.

    Args:
      inputs: D.
      hidden: H.
      outputs: C; the outputs are logits.
      use_bias: biases in all three layers.
    """
    return slope_network.family(_unit, inputs, hidden, outputs, use_bias)


def _unit(arch: Arch, z: Array) -> Array:
    # Side by side (`vmap`) all kinds are computed for every motif: seven cheap functions.
    return jax.lax.switch(arch["kind"], list(UNITS.values()), arch["slope"] * z)


@dataclasses.dataclass(frozen=True)
class ActivationSlopeSpace:
    """All kinds with slopes in `[low, high]`, a `motif.SearchSpace`.

    Attributes:
      low: smallest slope.
      high: largest slope.
      mutation_scale: standard deviation of a slope's mutation, as a share of the interval.
      kind_mutation_rate: probability that a mutation draws the kind anew, besides.
    """

    low: float = 0.01
    high: float = 2.01
    mutation_scale: float = 0.1
    kind_mutation_rate: float = 0.2

    @property
    def name(self) -> str:
        """Name in ledgers and tables."""
        return "activation_slope"

    def sample(self, key: Key, count: int) -> Archs:
        """Draw archs `[count]`, kinds and slopes uniform; `key` is consumed."""
        kind_key, slope_key = jax.random.split(key)
        return {
            "kind": jax.random.randint(kind_key, (count,), 0, len(KINDS), jnp.int32),
            "slope": jax.random.uniform(slope_key, (count,), minval=self.low, maxval=self.high),
        }

    def mutate(self, key: Key, archs: Archs) -> Archs:
        """Add a normal step to every slope, clip it, and change some kinds; consumes `key`."""
        which_key, kind_key, slope_key = jax.random.split(key, 3)
        kind, slope = jnp.asarray(archs["kind"]), jnp.asarray(archs["slope"])
        drawn = jax.random.randint(kind_key, kind.shape, 0, len(KINDS), jnp.int32)
        changes = jax.random.bernoulli(which_key, self.kind_mutation_rate, kind.shape)
        step = self.mutation_scale * (self.high - self.low)
        moved = slope + step * jax.random.normal(slope_key, slope.shape)
        return {
            "kind": jnp.where(changes, drawn, kind),
            "slope": jnp.clip(moved, self.low, self.high),
        }

    def crossover(self, key: Key, first: Archs, second: Archs) -> Archs:
        """Return the kind of one parent, and a random point between the slopes; consumes `key`."""
        kind_key, slope_key = jax.random.split(key)
        shape = jnp.shape(first["kind"])
        share = jax.random.uniform(slope_key, shape)
        slope = share * first["slope"] + (1 - share) * second["slope"]
        heads = jax.random.bernoulli(kind_key, 0.5, shape)
        return {
            "kind": jnp.where(heads, first["kind"], second["kind"]),
            "slope": jnp.clip(slope, self.low, self.high),
        }

    def encode(self, arch: Arch) -> str:
        """Return `<kind> <slope>`, such as `tanh 0.37`, which comes back as the same float32."""
        return f"{KINDS[int(arch['kind'])]} {np.float32(arch['slope'])!s}"

    def decode(self, text: str) -> Arch:
        """Read an arch; raises UserError when it is no kind with a slope of the interval."""
        kind, _, number = text.partition(" ")
        try:
            with np.errstate(over="ignore"):
                slope = np.float32(number)
        except ValueError:
            slope = np.float32("nan")
        if kind not in UNITS or not np.float32(self.low) <= slope <= np.float32(self.high):
            raise UserError(
                f"{text!r} is no motif: write one of {', '.join(KINDS)}, a space and a slope in "
                f"[{self.low}, {self.high}]"
            )
        return {"kind": np.int32(KINDS.index(kind)), "slope": slope}

    def canonical(self, arch: Arch) -> Arch:
        """Return the arch as NumPy scalars: no two of them are the same motif."""
        return {"kind": np.int32(arch["kind"]), "slope": np.float32(arch["slope"])}

    def features(self, archs: Archs) -> np.ndarray:
        """Return `[M, 1 + kinds]` float64: the slope, and one bit for each kind."""
        bits = np.eye(len(KINDS))[np.asarray(archs["kind"])]
        return np.column_stack([np.asarray(archs["slope"], float), bits])


def of_sigmoids(slopes: ArrayLike) -> Archs:
    """Return slopes `[M]` of the space `sigmoid_slope` as archs of this one."""
    slopes = np.asarray(slopes, np.float32)
    return {"kind": np.full(slopes.shape, KINDS.index("sigmoid"), np.int32), "slope": slopes}


def table_cells(kinds: Sequence[str] = KINDS) -> list[str]:
    """Return the texts of the shipped table's motifs, 12 slopes of each kind, kind by kind.

    The slopes are those of 12 of the 60 sigmoids in `sigmoid_slope.table_slopes`: six lie left of
    0.37.
    """
    return [f"{kind} {slope}" for kind in kinds for slope in TABLE_SLOPES]

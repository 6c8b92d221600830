"""What everything else speaks: a motif-network, a search space, and what a space may do besides."""

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import jax
import numpy as np

from spd_jax.axes import Arch, Archs, Array, Key, Params

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Labels = Literal["bernoulli", "balanced_classes"]


@dataclasses.dataclass(frozen=True)
class MotifFamily:
    """A tiny network that any motif of a space can be put into. Static under jit.

    Attributes:
      init: `init(key) -> params`, initial weights at natural scale (the dish
        multiplies them by `init_scale`); they do not depend on the motif.
      apply: `apply(params, arch, inputs [N, *input_shape]) -> [N, *output_shape]`
        for ONE motif and all its samples. Outputs are logits under the
        cross-entropies, values under squared error.
      input_shape: shape of one sample, for example `(D,)` or `(L, D)`.
      output_shape: shape of one output; its last axis holds the classes.
      labels: law of the synthetic labels: independent fair bits, or as many
        one-hot samples of each class as fit.
      branching: whether the arch chooses operations by `jax.lax.switch`. CPUs then train motifs
        one after another, because side by side (`vmap`) all branches are computed for every motif.
    """

    init: Callable[[Key], Params]
    apply: Callable[[Params, Arch, Array], Array]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    labels: Labels = "bernoulli"
    branching: bool = False


def num_parameters(family: MotifFamily) -> int:
    """Return how many weights a motif-network has."""
    shapes = jax.eval_shape(family.init, jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


class SearchSpace(Protocol):
    """A set of motifs as arrays. Host side: proposers and studies call it."""

    @property
    def name(self) -> str:
        """Name in ledgers and tables; different spaces have different names."""
        ...

    def sample(self, key: Key, count: int) -> Archs:
        """Draw a batch `[count]` of archs; `key` is consumed."""
        ...

    def mutate(self, key: Key, archs: Archs) -> Archs:
        """Change every arch of a batch a little and stay in the space; `key` is consumed."""
        ...

    def crossover(self, key: Key, first: Archs, second: Archs) -> Archs:
        """Mix two batches arch by arch and stay in the space; `key` is consumed."""
        ...

    def encode(self, arch: Arch) -> str:
        """Return one arch as text; `decode` is its inverse."""
        ...

    def decode(self, text: str) -> Arch:
        """Read one arch from text; raises UserError when it is no arch of this space."""
        ...

    def canonical(self, arch: Arch) -> Arch:
        """Return the same arrays for all archs that are the same motif.

        The canonical form of a canonical form is itself. A space without twins returns `arch`.
        """
        ...


@runtime_checkable
class Restricted(Protocol):
    """A space of whose motifs only some may be proposed: no other can be evaluated."""

    def allows(self, name: str) -> bool:
        """Return whether the motif with this name, in canonical form, may be proposed."""
        ...


@dataclasses.dataclass(frozen=True)
class PartOfSpace:
    """A search space of whose motifs only some may be proposed: what `Restricted` spaces share.

    Which ones, `allows` of a subclass says; motifs are drawn, changed and named as in the whole.

    Attributes:
      space: the whole space.
    """

    space: SearchSpace

    @property
    def name(self) -> str:
        """Name of the whole space."""
        return self.space.name

    def sample(self, key: Key, count: int) -> Archs:
        """Draw `count` motifs of the whole space; consumes `key`."""
        return self.space.sample(key, count)

    def mutate(self, key: Key, archs: Archs) -> Archs:
        """Change motifs as the whole space does; mutants need not be allowed."""
        return self.space.mutate(key, archs)

    def crossover(self, key: Key, first: Archs, second: Archs) -> Archs:
        """Mix motifs as the whole space does; children need not be allowed."""
        return self.space.crossover(key, first, second)

    def encode(self, arch: Arch) -> str:
        """Return a motif's text."""
        return self.space.encode(arch)

    def decode(self, text: str) -> Arch:
        """Read a motif from text, whether it is allowed or not."""
        return self.space.decode(text)

    def canonical(self, arch: Arch) -> Arch:
        """Return the form that all spellings of a motif share."""
        return self.space.canonical(arch)


class Features(Protocol):
    """A space whose motifs are also vectors, for surrogates that need them."""

    def features(self, archs: Archs) -> np.ndarray:
        """Return `[M, F]` float64 for archs in canonical form."""
        ...


class Structure(Protocol):
    """A space that can count what its motifs are made of."""

    def structure(self, archs: Archs) -> np.ndarray:
        """Return counts `[M, F]` float64 that are the same for every spelling of a motif."""
        ...


class Paths(Protocol):
    """A space whose motifs are graphs with operations, for surrogates that read their paths."""

    def paths(self, archs: Archs) -> np.ndarray:
        """Return the path encoding `[M, F]` float64 (White et al., 2021, BANANAS, section 4).

        One bit for each sequence of operations that a path from input to output can have: 1
        where the motif has such a path. Archs are in canonical form.
        """
        ...


class Tokens(Protocol):
    """A space whose motifs are strings of L tokens out of V, for NAO; token 0 starts a string."""

    @property
    def name(self) -> str:
        """Name of the space: a saved network is refused by another."""
        ...

    def to_tokens(self, archs: Archs) -> np.ndarray:
        """Return archs `[M]` in canonical form as int32 `[M, L]`, none of them 0."""
        ...

    def from_tokens(self, tokens: np.ndarray) -> Archs:
        """Read archs `[M]` from legal tokens `[M, L]`; they need not be canonical."""
        ...

    def legal_tokens(self) -> np.ndarray:
        """Return which tokens may stand at each place: bool `[L, V]`; any choice is a motif."""
        ...


class Drawing(Protocol):
    """A space that can draw its motifs."""

    def draw(self, arch: Arch, title: str = "") -> "Figure":
        """Return a picture of one arch; matplotlib is imported when this is called."""
        ...

"""The two protocols that everything else speaks: a motif-network, and a search space."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np

from spd_jax.axes import Arch, Archs, Array, Key, Params

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
    """

    init: Callable[[Key], Params]
    apply: Callable[[Params, Arch, Array], Array]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    labels: Labels = "bernoulli"


class SearchSpace(Protocol):
    """A set of motifs as arrays. Host side: proposers and surrogates call it."""

    def sample(self, key: Key, count: int) -> Archs:
        """Draw `count` archs; `key` is consumed."""

    def mutate(self, key: Key, archs: Archs) -> Archs:
        """Change every arch a little and stay in the space; `key` is consumed."""

    def crossover(self, key: Key, first: Archs, second: Archs) -> Archs:
        """Mix the archs pair by pair and stay in the space; `key` is consumed."""

    def encode(self, arch: Any) -> str:
        """Return the arch as text; `decode` is its inverse."""

    def decode(self, text: str) -> Any:
        """Read an arch from text; raises UserError when it is no arch of this space."""

    def features(self, archs: Archs) -> np.ndarray:
        """Return `[M, F]` float64 vectors for surrogates that need them."""

    def canonical_hash(self, arch: Any) -> str:
        """Return one hash for all archs that are the same motif."""

    def describe(self, arch: Any) -> str:
        """Return one line for people."""

"""Batches of archs on the host, and cells: archs in canonical form that carry their name.

An arch is a pytree of arrays; a batch of M archs is the same pytree with the axis M in front
of every array. All functions here return NumPy arrays.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from spd_jax.axes import Arch, Archs
from spd_jax.errors import UserError
from spd_jax.motif import SearchSpace
from spd_jax.units import LARGEST_SCORE


def count(archs: Archs) -> int:
    """Return M, the number of archs in a batch.

    Raises:
      UserError: there is no array, or the arrays disagree about M.
    """
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(archs)}
    if len(lengths) != 1 or lengths == {()}:
        raise UserError(
            f"archs have leading axes {sorted(lengths)}: put one motif axis M in front of every "
            "array"
        )
    return int(lengths.pop()[0])


def take(archs: Archs, chosen: Any) -> Archs:
    """Return the archs at `chosen`: indices or a mask `[M]`, or a slice."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[chosen], archs)


def unstack(archs: Archs) -> list[Arch]:
    """Return the archs of a batch `[M]` one by one."""
    archs = jax.tree.map(np.asarray, archs)
    return [jax.tree.map(lambda leaf: leaf[i], archs) for i in range(count(archs))]  # noqa: B023


def stack(archs: Sequence[Arch]) -> Archs:
    """Return archs, at least one, as a batch `[M]`."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *archs)


def concatenate(first: Archs, second: Archs) -> Archs:
    """Return the archs of two batches, one batch after the other."""
    return jax.tree.map(lambda a, b: np.concatenate([a, b]), first, second)


def padded(archs: Archs, size: int) -> Archs:
    """Repeat the last arch until there are `size` of them."""
    return jax.tree.map(
        lambda leaf: np.concatenate([leaf, np.repeat(leaf[-1:], size - len(leaf), axis=0)]), archs
    )


def known(archs: Archs, scores: ArrayLike, minimum: int = 2) -> tuple[Archs, np.ndarray]:
    """Keep the motifs whose score is finite: a failed ground truth is never fitted.

    Args:
      archs: batch `[M]`.
      scores: ground truth `[M]`, higher is better; not finite where a motif failed.
      minimum: how many finite scores the fit needs.

    Returns:
      The archs `[K]` and scores `[K]` float64 of the K motifs that did not fail.

    Raises:
      UserError: archs and scores differ in length, fewer than `minimum` scores are finite, or
        one is so large that its square is not.
    """
    truth = np.asarray(scores, np.float64)
    if truth.shape != (count(archs),):
        raise UserError(
            f"scores have shape {truth.shape}, but there are {count(archs)} archs: give one score "
            "for each motif"
        )
    finite = np.isfinite(truth)
    if finite.sum() < minimum:
        raise UserError(
            f"{finite.sum()} of {finite.size} scores are finite, but {minimum} are needed: "
            "evaluate more motifs"
        )
    largest = np.max(np.abs(truth[finite]), initial=0)
    if largest > LARGEST_SCORE:
        raise UserError(
            f"a score is as large as {largest:.3g}: rescale the scores so that none is above "
            f"{LARGEST_SCORE:.0e}, because surrogates square them"
        )
    return take(archs, finite), truth[finite]


@dataclasses.dataclass(frozen=True)
class Cells:
    """Motifs in canonical form with their names: made once, when they are born.

    A motif is born when it is sampled, mutated or read from text. From then on its name
    travels with it, so that nobody brings it into canonical form again.

    Attributes:
      names: `space.encode` of every motif, as ledgers and tables call it, M texts.
      archs: the same motifs as a batch `[M]` of NumPy arrays.
    """

    names: tuple[str, ...]
    archs: Archs

    @classmethod
    def of(cls, space: SearchSpace, archs: Archs) -> "Cells":
        """Bring every arch of a batch `[M]`, M >= 1, into canonical form and name it."""
        cells = [space.canonical(arch) for arch in unstack(archs)]
        return cls(tuple(space.encode(cell) for cell in cells), stack(cells))

    @classmethod
    def read(cls, space: SearchSpace, texts: Sequence[str]) -> "Cells":
        """Read motifs, at least one, from text; raises UserError where a text is no motif."""
        return cls.of(space, stack([space.decode(text) for text in texts]))

    def __len__(self) -> int:
        """Return M."""
        return len(self.names)

    def take(self, chosen: Any) -> "Cells":
        """Return the cells at `chosen`: indices in any order, a mask `[M]`, or a slice."""
        places = np.arange(len(self))[chosen]
        return Cells(tuple(self.names[i] for i in places), take(self.archs, places))

    def joined(self, other: "Cells") -> "Cells":
        """Return these cells and then those of `other`."""
        return Cells(self.names + other.names, concatenate(self.archs, other.archs))

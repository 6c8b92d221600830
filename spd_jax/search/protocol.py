"""What every proposer obeys, and how one finds cells that nobody has evaluated yet.

Cells that are the same motif have one `space.canonical_hash`, and count as one.
Host side: cells are drawn by the dozen, so clarity comes before speed.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import jax
import numpy as np

from spd_jax.axes import Arch, Archs, Key
from spd_jax.errors import UserError
from spd_jax.ledger import Evaluation
from spd_jax.motif import SearchSpace

# Cells in one round of drawing, at least: few rounds, and arrays of few shapes to compile for.
ROUND = 64
PATIENCE = 50  # rounds in a row without a fresh cell before a source is given up

Draw = Callable[[Key, int], Archs]  # key (consumed) and count -> archs, axis M = count first


class Proposer(Protocol):
    """A way to choose which cells to look at next: its settings, and nothing learned yet."""

    def propose(
        self, key: Key, space: SearchSpace, archs: Archs, scores: np.ndarray, count: int
    ) -> Archs:
        """Return cells that are worth a look.

        Args:
          key: consumed.
          space: of the cells.
          archs: every cell evaluated so far, pytree of arrays, axis `[K]` first; K >= 1.
          scores: their ground truth `[K]` float64, higher is better; NaN = failed.
          count: how many to return.

        Returns:
          `count` cells of the space, axis `[count]` first; distinct by canonical hash, and
          none of `archs`. The same arguments give the same cells.

        Raises:
          UserError: the space has not so many cells left.
        """
        ...


class Evaluator(Protocol):
    """Whoever can say how good cells are, for example `ground_truth.purchase.GroundTruth`."""

    def evaluate(
        self, cells: Sequence[str], seeds: Sequence[int] = (0,)
    ) -> Sequence[Sequence[Evaluation]]:
        """Return the full evaluation of every cell (see `name`), `[cell][seed]`."""
        ...


def name(space: SearchSpace, arch: Arch) -> str:
    """Return what ledgers call a cell: `space.canonical_text` where there is one, else `encode`."""
    return getattr(space, "canonical_text", space.encode)(arch)


def unstack(archs: Archs) -> list[Arch]:
    """Return the cells of a batch `[M]` one by one, as NumPy arrays."""
    archs = jax.tree.map(np.asarray, archs)
    count = len(jax.tree.leaves(archs)[0])
    return [jax.tree.map(lambda leaf: leaf[i], archs) for i in range(count)]  # noqa: B023


def stack(archs: Sequence[Arch]) -> Archs:
    """Return cells, at least one, as a batch `[M]` of NumPy arrays."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *archs)


def take(archs: Archs, indices: np.ndarray) -> Archs:
    """Return the cells of a batch at `indices` `[K]`, in that order, as NumPy arrays."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[indices], archs)


def hashes(space: SearchSpace, archs: Archs) -> list[str]:
    """Return the canonical hash of every cell of a batch `[M]`."""
    return [space.canonical_hash(arch) for arch in unstack(archs)]


def fresh(space: SearchSpace, archs: Archs, seen_hashes: Collection[str]) -> Archs:
    """Keep the cells of a batch that are new, each once, in their order.

    Args:
      space: of the cells.
      archs: batch `[M]`.
      seen_hashes: canonical hashes of the cells that are not wanted; left as it is.

    Returns:
      A batch of M or fewer cells, perhaps none.
    """
    first = {digest: i for i, digest in reversed(list(enumerate(hashes(space, archs))))}
    kept = sorted(i for digest, i in first.items() if digest not in seen_hashes)
    return take(archs, np.array(kept, int))


def collect(
    key: Key,
    space: SearchSpace,
    known: Archs | None,
    *,
    count: int,
    draw: Draw | None = None,
) -> Archs:
    """Draw until there are `count` cells that are distinct and not among `known`.

    Cells come from `draw`; once 50 rounds in a row have brought nothing fresh, the rest
    are random cells, and after 50 such rounds of those the space counts as exhausted. So
    this ends in the smallest of spaces.

    Args:
      key: consumed.
      space: of the cells.
      known: batch `[K]` of cells that are not wanted; None when there are none.
      count: how many to return, at least 1.
      draw: source of candidates; None draws random cells from the start.

    Returns:
      Cells `[count]`, in the order in which they were drawn.

    Raises:
      UserError: so many fresh cells were not found.
    """
    seen = set() if known is None else set(hashes(space, known))
    found: list[Arch] = []
    sources = [space.sample] if draw is None else [draw, space.sample]
    for source_key, source in zip(jax.random.split(key, len(sources)), sources, strict=True):
        turn = barren = 0
        while len(found) < count and barren < PATIENCE:
            drawn = source(jax.random.fold_in(source_key, turn), max(count, ROUND))
            new = unstack(fresh(space, drawn, seen))
            seen.update(map(space.canonical_hash, new))
            found += new
            turn, barren = turn + 1, 0 if new else barren + 1
    if len(found) < count:
        raise UserError(
            f"only {len(found)} of {count} new cells were found, the space is all but exhausted: "
            "ask for fewer iterations, proposals, evaluations or cells to start with"
        )
    return stack(found[:count])


def ranking(scores: np.ndarray) -> np.ndarray:
    """Return the order of scores `[K]`, best first: indices `[K]`.

    What is not finite failed and comes last; among equals the first listed comes first.
    """
    scores = np.asarray(scores, np.float64)
    return np.argsort(np.where(np.isfinite(scores), -scores, np.inf), kind="stable")

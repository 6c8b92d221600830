"""What every proposer obeys, and how one finds cells that nobody has evaluated yet.

Host side: cells are drawn by the dozen, so clarity comes before speed.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np

from spd_jax import archs as batches
from spd_jax.archs import Cells
from spd_jax.axes import Archs, Key
from spd_jax.errors import UserError
from spd_jax.ledger import Evaluation
from spd_jax.motif import Restricted, SearchSpace

# Cells in one round of drawing, at least: few rounds, and arrays of few shapes to compile for.
ROUND = 64
PATIENCE = 50  # rounds in a row without a fresh cell before a source is given up

Draw = Callable[[Key, int], Archs]  # key (consumed) and count -> a batch of so many or fewer


class Proposal(NamedTuple):
    """Cells that are worth a look.

    Attributes:
      cells: distinct and none of the known ones.
      notes: figures about how they came about, by name.
    """

    cells: Cells
    notes: Mapping[str, float] = {}


class Proposer(Protocol):
    """A way to choose which cells to look at next: its settings, and nothing learned yet."""

    def propose(
        self, key: Key, space: SearchSpace, known: Cells, scores: np.ndarray, count: int
    ) -> Proposal:
        """Return cells that are worth a look.

        Args:
          key: consumed.
          space: of the cells.
          known: every cell evaluated so far, at least one.
          scores: their ground truth `[K]` float64, higher is better; NaN = failed.
          count: how many to return.

        Returns:
          `count` cells. The same arguments give the same cells.

        Raises:
          UserError: the space has not so many cells left.
        """
        ...


class Evaluator(Protocol):
    """Whoever can say how good cells are, for example `ground_truth.purchase.GroundTruth`."""

    def evaluate(
        self, cells: Sequence[str], seeds: Sequence[int] = (0,)
    ) -> Sequence[Sequence[Evaluation]]:
        """Return the full evaluation of every named cell, `[cell][seed]`."""
        ...


def born(space: SearchSpace, archs: Archs) -> Cells:
    """Return a batch `[M]` as cells, without those that a `motif.Restricted` space rules out."""
    cells = Cells.of(space, archs)
    if isinstance(space, Restricted):
        return cells.take(np.array([space.allows(name) for name in cells.names], bool))
    return cells


def fresh(cells: Cells, seen: Collection[str]) -> Cells:
    """Keep the cells that are not among the names `seen`, each once, in their order."""
    first: dict[str, int] = {}
    for i, name in enumerate(cells.names):
        if name not in seen:
            first.setdefault(name, i)
    return cells.take(list(first.values()))


def collect(
    key: Key,
    space: SearchSpace,
    known: Collection[str],
    *,
    count: int,
    draw: Draw | None = None,
    least: int | None = None,
) -> Proposal:
    """Draw until there are `count` cells that are distinct and not among `known`.

    Cells come from `draw`; once 50 rounds in a row have brought nothing fresh, the rest
    are random cells, and after 50 such rounds of those the space counts as exhausted. So
    this ends in the smallest of spaces.

    Args:
      key: consumed.
      space: of the cells.
      known: names that are not wanted.
      count: how many to return, at least 1.
      draw: source of candidates; None draws random cells from the start.
      least: how many will do where the space is exhausted; None: `count`.

    Returns:
      The cells in the order in which they were drawn; noted is `random_fill`, the share of
      them that were random because `draw` brought too few.

    Raises:
      UserError: so many fresh cells were not found.
    """
    seen, found = set(known), None
    sources = [space.sample] if draw is None else [draw, space.sample]
    drawn = 0  # cells of `draw`
    for source_key, source in zip(jax.random.split(key, len(sources)), sources, strict=True):
        turn = barren = 0
        while (found is None or len(found) < count) and barren < PATIENCE:
            batch = source(jax.random.fold_in(source_key, turn), max(count, ROUND))
            new = fresh(born(space, batch), seen) if batches.count(batch) else None
            turn, barren = turn + 1, 0 if new else barren + 1
            if new:
                seen.update(new.names)
                found = new if found is None else found.joined(new)
        if source is draw:
            drawn = 0 if found is None else min(len(found), count)
    if found is None or len(found) < (count if least is None else least):
        some = isinstance(space, Restricted)
        where = "what a table or a cost limit leaves of the space" if some else "the space"
        raise UserError(
            f"only {0 if found is None else len(found)} of {count} new cells were found, {where} "
            "is all but exhausted: ask for fewer iterations, proposals, evaluations or cells to "
            f"start with{', or raise the limit' if some else ''}"
        )
    count = min(count, len(found))
    notes = {} if draw is None else {"random_fill": 1 - drawn / count}
    return Proposal(found.take(range(count)), notes)


def ranking(scores: np.ndarray) -> np.ndarray:
    """Return the order of scores `[K]`, best first: indices `[K]`.

    What is not finite failed and comes last; among equals the first listed comes first.
    """
    scores = np.asarray(scores, np.float64)
    return np.argsort(np.where(np.isfinite(scores), -scores, np.inf), kind="stable")

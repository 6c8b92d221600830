"""Proposals in a run folder: found again where a search was killed before it chose among them."""

import numpy as np

from spd_jax.archs import Cells
from spd_jax.axes import Key
from spd_jax.motif import SearchSpace
from spd_jax.search.loop import Proposed, propose_only
from spd_jax.search.protocol import Proposal, Proposer
from spd_jax.search.record import Choice, fingerprint
from spd_jax.studies.run_folder import RunFolder


def propose(
    folder: RunFolder,
    name: str,
    proposer: Proposer,
    key: Key,
    space: SearchSpace,
    known: Cells,
    scores: np.ndarray,
    count: int,
) -> Proposed:
    """Return the proposal that the folder keeps for known cells and scores, or make and keep it.

    A search that is killed while its surrogate is fitted goes on with the very same cells, even
    on a machine that rounds differently, where NAO would propose others. The latest proposal
    alone is kept, as a `Choice` of all of its cells that nobody has ranked.

    Args:
      folder: of the run.
      name: of the file in the folder: one for each search.
      proposer: who proposes where nothing is kept; what follows is as for `Proposer.propose`.
      key: consumed.
      space: of the cells.
      known: every cell evaluated so far.
      scores: their ground truth `[K]`.
      count: how many cells to return.

    Raises:
      UserError: the proposer finds too few, or the folder cannot be written.
    """
    made_from = fingerprint(known.names, scores)
    kept = folder.read_json(name, Choice.from_json)
    if kept is not None and (kept.known, len(kept.cells)) == (made_from, count):
        return Proposed(Proposal(Cells.read(space, kept.cells), kept.notes), kept.seconds)
    found = propose_only(proposer, key, space, known, scores, count)
    cells, notes = found.proposal.cells.names, found.proposal.notes
    kept = Choice(cells, np.full(len(cells), np.nan), 0.0, found.seconds, notes, made_from)
    folder.keep_json(name, kept.to_json())
    return found

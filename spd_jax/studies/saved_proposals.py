"""Proposals in a run folder: found again where a search was killed before it chose among them."""

import dataclasses
import time

import numpy as np

from spd_jax.archs import Cells
from spd_jax.axes import Key
from spd_jax.motif import SearchSpace
from spd_jax.search.protocol import Proposal, Proposer
from spd_jax.search.record import Choice, fingerprint
from spd_jax.studies.run_folder import RunFolder


@dataclasses.dataclass(frozen=True)
class SavedProposer:
    """A proposer whose latest proposal is kept in a run folder, a `search.protocol.Proposer`.

    A search that is killed while its surrogate is fitted goes on with the very same cells, even
    on a machine that rounds differently, where NAO would propose others. In the file they stand
    as a `search.record.Choice` of all of them that nobody has ranked.

    Attributes:
      proposer: who proposes.
      folder: of the run.
      name: of the file in it.
    """

    proposer: Proposer
    folder: RunFolder
    name: str

    def propose(
        self, key: Key, space: SearchSpace, known: Cells, scores: np.ndarray, count: int
    ) -> Proposal:
        """Return what was kept for these cells and scores, or propose and keep it.

        Arguments and errors are those of the protocol.
        """
        made_from = fingerprint(known.names, scores)
        kept = self.folder.read_json(self.name, Choice.from_json)
        if kept is not None and (kept.known, len(kept.cells)) == (made_from, count):
            return Proposal(Cells.read(space, kept.cells), kept.notes, kept.seconds)
        began = time.perf_counter()
        found = self.proposer.propose(key, space, known, scores, count)
        seconds, nothing = time.perf_counter() - began, np.full(len(found.cells), np.nan)
        kept = Choice(found.cells.names, nothing, 0.0, seconds, found.notes, made_from)
        self.folder.keep_json(self.name, kept.to_json())
        return found

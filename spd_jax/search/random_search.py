"""The proposer that learns nothing: random cells, none of them known."""

import dataclasses

import numpy as np

from spd_jax.archs import Cells
from spd_jax.axes import Key
from spd_jax.motif import SearchSpace
from spd_jax.search import protocol


@dataclasses.dataclass(frozen=True)
class RandomSearch:
    """Draw from `space.sample`; for recurrent cells every locus is uniform."""

    def propose(
        self, key: Key, space: SearchSpace, known: Cells, scores: np.ndarray, count: int
    ) -> protocol.Proposal:
        """Return random cells that are not known; see `protocol.Proposer`."""
        del scores
        return protocol.collect(key, space, known.names, count=count)

"""NAO's proposer: climb the predictor's gradient from the best cells, and decode.

Luo et al. (2018), algorithm 1; Rawal et al., appendix A.3.3. The network is fitted on the
known cells. Then lambda = 10: each of the 100 best cells, or all where fewer are known, is
encoded, moved by lambda times the gradient of its predicted score, and decoded, best first; then
lambda = 20, 30 and on, in tens, up to 100. Random cells fill up what is still missing. With few
cells to start from that was most of a proposal: the best ones have been moved before, and small
lambdas then decode to the very cells that they started from. Unlike the released code it sorts
the cells before it takes the best, and decodes legal tokens only (see `surrogates/nao.py`).
"""

import dataclasses

import jax
import numpy as np

from spd_jax import archs as batches
from spd_jax.archs import Cells
from spd_jax.axes import Archs, Key
from spd_jax.checks import is_count, is_number
from spd_jax.errors import UserError
from spd_jax.motif import SearchSpace, Tokens
from spd_jax.search import protocol
from spd_jax.surrogates.nao import NaoConfig, NaoPredictor


@dataclasses.dataclass(frozen=True)
class NaoProposer:
    """Settings of the proposer.

    Attributes:
      tokens: the space as strings of tokens.
      config: of the network.
      seeds: how many of the best known cells to start from, where there are that many.
      steps: lambdas, in the order in which they are tried. The paper's are 10, 20 and 30;
        the larger ones, for when these bring too few new cells, are ours.
    """

    tokens: Tokens
    config: NaoConfig = NaoConfig()
    seeds: int = 100
    steps: tuple[float, ...] = tuple(range(10, 101, 10))

    def __post_init__(self) -> None:
        """Refuse settings under which no cell is ever moved."""
        if not is_count(self.seeds, 1):
            raise UserError(f"seeds={self.seeds!r} must be at least 1, a whole number")
        steps = self.steps if isinstance(self.steps, tuple | list) else ()
        if not steps or not all(is_number(step) and step > 0 for step in steps):
            raise UserError(f"steps={self.steps!r} must be one number above 0, or more")

    def propose(
        self, key: Key, space: SearchSpace, known: Cells, scores: np.ndarray, count: int
    ) -> protocol.Proposal:
        """Return cells uphill of the best known ones; see `protocol.Proposer`.

        Noted is `nao_pairwise_accuracy`, see `FittedNao`.

        Raises:
          UserError: fewer than 2 known cells did not fail, or the space is exhausted.
        """
        fit_key, collect_key = jax.random.split(key)
        fitted = NaoPredictor(self.tokens, self.config).fit(fit_key, known.archs, scores)
        order = protocol.ranking(scores)[: self.seeds]
        starts = known.take(order[np.isfinite(scores[order])]).archs
        steps = iter(self.steps)

        def climb(key: Key, count: int) -> Archs:
            del key, count
            step = next(steps, None)
            return batches.take(starts, slice(0)) if step is None else fitted.improve(starts, step)

        found = protocol.collect(collect_key, space, known.names, count=count, draw=climb)
        notes = {"nao_pairwise_accuracy": fitted.pairwise_accuracy}
        return protocol.Proposal(found.cells, {**found.notes, **notes})

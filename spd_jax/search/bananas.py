"""BANANAS as a proposer (White et al., 2021): an ensemble, Thompson sampling, mutations."""

import dataclasses

import jax
import numpy as np

from spd_jax.archs import Cells
from spd_jax.axes import Archs, Key
from spd_jax.checks import is_count
from spd_jax.errors import UserError
from spd_jax.motif import SearchSpace
from spd_jax.search import protocol
from spd_jax.surrogates.bananas import Bananas


@dataclasses.dataclass(frozen=True)
class BananasProposer:
    """Settings of BANANAS' search.

    Candidates are mutations of the best known cells. The ensemble, fitted on everything known,
    predicts each of them; independent Thompson sampling draws a score for every candidate from
    the normal law of its members' mean and standard deviation, and the best draws are proposed.

    Attributes:
      ensemble: the predictor.
      candidates: mutations among which it chooses; 100 in the paper.
      parents: best known cells that are mutated; 10 in the authors' code.
    """

    ensemble: Bananas
    candidates: int = 100
    parents: int = 10

    def __post_init__(self) -> None:
        """Refuse numbers of cells that are none."""
        for name in ("candidates", "parents"):
            if not is_count(getattr(self, name), 1):
                raise UserError(
                    f"{name}={getattr(self, name)!r} must be at least 1, a whole number"
                )

    def propose(
        self, key: Key, space: SearchSpace, known: Cells, scores: np.ndarray, count: int
    ) -> protocol.Proposal:
        """Return the candidates of the best draws, see `protocol.Proposer`."""
        fit_key, draw_key, sample_key = jax.random.split(key, 3)
        if np.isfinite(scores).sum() < 2:  # nothing to learn from
            return protocol.collect(draw_key, space, known.names, count=count)
        best = known.take(protocol.ranking(scores)[: self.parents]).archs
        size = len(jax.tree.leaves(best)[0])

        def mutants(key: Key, number: int) -> Archs:
            who_key, mutation_key = jax.random.split(key)
            who = np.asarray(jax.random.randint(who_key, (number,), 0, size))
            return space.mutate(mutation_key, jax.tree.map(lambda leaf: leaf[who], best))

        candidates = max(self.candidates, count)
        drawn = protocol.collect(
            draw_key, space, known.names, count=candidates, draw=mutants, least=count
        )
        members = self.ensemble.fit(fit_key, known.archs, scores).by_member(drawn.cells.archs)
        noise = np.asarray(jax.random.normal(sample_key, members.shape[1:]))
        sampled = members.mean(axis=0) + members.std(axis=0) * noise
        return drawn._replace(cells=drawn.cells.take(protocol.ranking(sampled)[:count]))

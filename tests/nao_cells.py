"""A space of words, and the cells and settings that the tests of NAO's network share."""

import dataclasses

import jax
import numpy as np

from spd_jax import archs as archs_lib
from spd_jax.archs import Cells
from spd_jax.spaces.rnn_cell import RnnCellSpace
from spd_jax.surrogates.nao import NaoConfig


@dataclasses.dataclass(frozen=True)
class Words:
    """Five letters, the first 0, the second 0..1, the others 0..2: {"letters": [M, 5]}."""

    name: str = "words"

    def sample(self, key, count):
        return {"letters": np.asarray(jax.random.randint(key, (count, 5), 0, self._choices))}

    @property
    def _choices(self):
        return np.minimum(np.arange(5) + 1, 3)

    def canonical(self, arch):
        return arch

    def encode(self, arch):
        return "".join(map(str, np.asarray(arch["letters"])))

    def decode(self, text):
        return {"letters": np.array(list(map(int, text)))}

    def to_tokens(self, archs):
        return np.asarray(archs["letters"], np.int32) + 1

    def from_tokens(self, tokens):
        return {"letters": np.asarray(tokens) - 1}

    def legal_tokens(self):
        return (np.arange(5) > 0) & (np.arange(5) <= self._choices[:, None])


TINY = NaoConfig(
    embedding=8, hidden=16, predictor_width=20, predictor_layers=2, epochs=50, held_out_share=0.0
)
# Fewer epochs need larger steps, and no pull to zero.
QUICK = dataclasses.replace(TINY, learning_rate=0.01, l2=1e-6)
KEY = jax.random.key(5)
SPACE = RnnCellSpace("nao")
CELLS = Cells.of(SPACE, SPACE.sample(jax.random.key(0), 140)).archs
KNOWN, NEW = (archs_lib.take(CELLS, rows) for rows in (slice(40), slice(40, 140)))


def additive(archs):
    """Score cells by how many tanh nodes they have, and how many nodes read a low one."""
    archs = jax.tree.map(np.asarray, archs)
    return (archs.activation == 0).sum(1) - 0.1 * archs.predecessor.sum(1)


SCORES = additive(KNOWN)
BEST = archs_lib.take(KNOWN, np.argsort(-SCORES, kind="stable")[:20])

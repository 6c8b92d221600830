"""A small table of recurrent cells, made up, for the tests that compare surrogates."""

import jax
import numpy as np

from spd_jax import archs as batches
from spd_jax import problems
from spd_jax.archs import Cells
from spd_jax.ledger import Evaluation, EvaluationKey

PROBLEM = problems.get("rnn_cell")
SPACE = PROBLEM.space
CELLS = Cells.of(SPACE, SPACE.sample(jax.random.key(0), 30)).names
FAILED = CELLS[4]


def true_score(cell, seed):
    """Return a score that the structure decides, with a little noise: its tanh and relu nodes."""
    counts = PROBLEM.structure.structure(batches.stack([SPACE.decode(cell)]))[0]
    return -2.0 + 0.03 * counts[0] + 0.05 * counts[1] + 0.02 * np.sin(50 * counts.sum() + seed)


def evaluation(cell, seed):
    if cell == FAILED:
        return Evaluation("failed", np.nan, np.nan, (-3.0,), 1.0, "diverged", unit="nats")
    score = float(np.round(true_score(cell, seed), 6))
    curve = (*[float(np.round(score - drop, 6)) for drop in (0.5, 0.2)], score)
    return Evaluation("ok", score, score, curve, 1.0, unit="nats")


def rows(seeds=3, several=12):
    return [
        (EvaluationKey(SPACE.name, cell, "task", seed, 3), evaluation(cell, seed))
        for number, cell in enumerate(CELLS)
        for seed in range(seeds if number < several else 1)
    ]

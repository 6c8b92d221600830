"""The best cell of every search, trained anew with seeds that chose nothing.

The score that made a cell the best of a search is a lucky one of its scores: what it is worth,
only other seeds tell.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from spd_jax import metrics
from spd_jax.ground_truth.purchase import GroundTruth
from spd_jax.ledger import Evaluation
from spd_jax.problems import Problem
from spd_jax.search.record import Records, best_by_iteration
from spd_jax.studies import events
from spd_jax.units import in_unit


class Fresh(NamedTuple):
    """One training of the best cell of a search.

    Attributes:
      preset: how it was trained, one of the problem's ground truths.
      method: of the search.
      run: number of the search.
      cell: the best on validation.
      seed: of the training; searches use 0.
      score: on validation data, higher is better; NaN where the training failed.
      test_score: on test data.
    """

    preset: str
    method: str
    run: int
    cell: str
    seed: int
    score: float
    test_score: float


def train(
    truth: GroundTruth, records: Records, seeds: int, preset: str, listen: events.Listener
) -> list[Fresh]:
    """Train the best cell of every search, or read from the ledger what was trained before.

    Args:
      truth: sells the trainings.
      records: the searches.
      seeds: how many, from 1 on; 0 trains nothing.
      preset: name of what `truth` trains.
      listen: told what happens.
    """
    if not seeds:
        return []
    best = {place: best_by_iteration(record)[-1].cell for place, record in records.items()}
    cells = list(dict.fromkeys(cell for cell in best.values() if cell))
    numbers = range(1, seeds + 1)
    listen(events.Stage(f"fresh seeds, {preset}", len(cells) * seeds))

    def tell(done: int, total: int, evaluation: Evaluation) -> None:
        del evaluation
        listen(events.Advanced(len(cells) * seeds - total + done))

    truth.on_result = tell
    bought = dict(zip(cells, truth.evaluate(cells, numbers), strict=True))
    return [
        Fresh(preset, method, run, cell, seed, own.score, own.test_score)
        for (method, run), cell in best.items()
        if cell
        for seed, own in zip(numbers, bought[cell], strict=True)
    ]


def summarise(problem: Problem, fresh: Sequence[Fresh]) -> dict[str, Any]:
    """Return a method's test scores by preset, with their spread over runs.

    Args:
      problem: of the cells; it knows the units.
      fresh: of one method.

    Returns:
      By preset `metrics.spread_with_mean` over runs of the mean over seeds, in the preset's unit.
    """
    found = {}
    for preset in dict.fromkeys(own.preset for own in fresh):
        by_run: dict[int, list[float]] = {}
        for own in fresh:
            if own.preset == preset:
                by_run.setdefault(own.run, []).append(own.test_score)
        means = np.array([np.mean(scores) for scores in by_run.values()])
        unit = problem.ground_truth(preset).unit
        found[preset] = metrics.spread_with_mean(in_unit(means, unit))
    return found

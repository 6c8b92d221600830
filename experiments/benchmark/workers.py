"""The benchmark of workers, simulated: what it brings that nobody waits for the slowest."""

import dataclasses
import functools
import math
import zlib
from typing import Any

import jax
import numpy as np

from experiments.benchmark.simulated_workers import SimulatedWorkers
from spd_jax import archs, metrics, problems
from spd_jax.archs import Cells
from spd_jax.axes import Archs, Key
from spd_jax.ground_truth import lookup
from spd_jax.ledger import Evaluation
from spd_jax.search import asynchronous, loop
from spd_jax.search.loop import SearchConfig
from spd_jax.search.random_search import RandomSearch
from spd_jax.search.record import Record, best
from spd_jax.surrogates.protocol import Surrogate
from spd_jax.surrogates.regressors import SupportVectors

PROBLEM, TABLE = "rnn_cell", "rnn_cell_ptb_tiny"
MEDIAN = 3600.0  # seconds of an evaluation


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much to measure.

    Attributes:
      seeds: searches of each kind, simulated.
      workers: of a simulated search.
      sigmas: spreads of the logarithm of an evaluation's seconds, whose median is an hour.
      fits: seconds of a choice, while which the synchronous search has idle workers.
      sleepers: real local workers.
      naps: evaluations on them, a warm start and three iterations of as many.
      nap: median seconds of a real evaluation, which sleeps; sigma 1.
      slots: workers of a real scheduler.
      tasks: of each slot.
      task_seconds: how long each sleeps.
      rows: that a ledger is filled with.
      known: numbers of known cells at which a choice is timed.
    """

    seeds: int = 20
    workers: int = 8
    sigmas: tuple[float, ...] = (0.5, 1.0)
    fits: tuple[float, ...] = (240.0,)
    sleepers: int = 4
    naps: int = 40
    nap: float = 2.0
    slots: tuple[int, ...] = (10, 100, 1000)
    tasks: int = 3
    task_seconds: float = 30.0
    rows: int = 10_000
    known: tuple[int, ...] = (100, 300, 1000, 3000)


QUICK = Plan(
    seeds=2, fits=(240.0,), sleepers=2, naps=8, nap=0.05, slots=(4,), tasks=3, task_seconds=0.1,
    rows=50, known=(10, 20),
)  # fmt: skip
# How a search hands cells out, and K, the cells of a choice.
SCHEDULES = {"synchronous, 20": (False, 20), "asynchronous, 20": (True, 20),
             "asynchronous, 5": (True, 5)}  # fmt: skip


class Rows(lookup.TabulatedSpace):
    """The cells of a table, all equally likely."""

    def sample(self, key: Key, count: int) -> Archs:
        """Draw `count` of them; consumes `key`."""
        rows = jax.random.randint(key, (count,), 0, len(self.cells))
        return archs.take(self.cells.archs, np.asarray(rows))


def seconds_of(cell: str, seed: int, median: float, sigma: float) -> float:
    """Return how long a cell's evaluation takes: log-normal, whoever evaluates it."""
    rng = np.random.default_rng([seed, zlib.crc32(cell.encode())])
    return float(rng.lognormal(math.log(median), sigma))


def searched(
    workers: SimulatedWorkers, what: tuple[Any, ...], config: SearchConfig, surrogate: Surrogate,
    *, waits: bool,
) -> Record:  # fmt: skip
    """Run a search on simulated workers; one that `waits` is synchronous."""
    if not waits:
        return asynchronous.search(*what, surrogate=surrogate, config=config, beside=workers.beside)

    def fit(index, surrogate, key, archs, scores):  # type: ignore[no-untyped-def]
        workers.wait_for_fit()
        return surrogate.fit(key, archs, scores)

    return loop.search(*what, surrogate=surrogate, config=config, fit=fit)


def measure_idle(plan: Plan) -> dict[str, Any]:
    """Simulate searches; return the part of summary.json.

    20 random cells and 40 that a support-vector machine chooses of random ones, on the table of 500
    recurrent cells that ships. Every schedule sees the same seconds of a cell.
    """
    problem = problems.get(PROBLEM)
    task = lookup.open_task(lookup.shipped(TABLE), problem.space, average_seeds=True)
    space = Rows(problem.space, Cells.read(problem.space, task.cells))
    surrogate = SupportVectors(problem.strongest_vectors)

    @functools.cache
    def evaluation(cell: str) -> Evaluation:
        return task.evaluate(cell, 0, task.budget)

    def one(seed: int, sigma: float, fit: float, schedule: str) -> dict[str, float]:
        runs_on, evaluations = SCHEDULES[schedule]
        config = SearchConfig(20, 40 // evaluations, 100, evaluations)
        seconds = functools.cache(lambda cell: seconds_of(cell, seed, MEDIAN, sigma))
        workers = SimulatedWorkers(plan.workers, evaluation, seconds, fit)
        what = jax.random.key(seed), space, workers, RandomSearch()
        record = searched(workers, what, config, surrogate, waits=not runs_on)
        found = best(record)
        return {
            "idle_share": workers.idle_share,
            "hours": workers.clock / 3600,
            "valid": found.score,
            "test": found.test_score,
        }

    rows = []
    for sigma in plan.sigmas:
        for fit in plan.fits:
            for schedule in SCHEDULES:
                runs = [one(seed, sigma, fit, schedule) for seed in range(plan.seeds)]
                rows.append(
                    {"sigma": sigma, "fit_seconds": fit, "schedule": schedule}
                    | {name: metrics.spread([run[name] for run in runs]) for name in runs[0]}
                )
    scores = [evaluation(cell) for cell in task.cells]
    return {
        "table": TABLE,
        "cells": len(scores),
        "best_valid": max(own.score for own in scores),
        "median_seconds": MEDIAN,
        "workers": plan.workers,
        "rows": rows,
    }

"""The benchmark of workers: a virtual clock by hand, and every part once, tiny."""

import dataclasses

import pytest

from experiments.benchmark import real_workers, report_workers, workers
from experiments.benchmark.simulated_workers import SimulatedWorkers
from spd_jax.ground_truth.executors import NOT_YET
from spd_jax.ledger import Evaluation

SECONDS = {"a": 1.0, "b": 3.0, "c": 1.0, "d": 5.0}


def two_workers(**options):
    return SimulatedWorkers(2, lambda cell: Evaluation("ok", SECONDS[cell]), SECONDS.get, **options)


def test_a_virtual_clock_by_hand():
    crew = two_workers(fit_seconds=10.0)
    assert [own.score for (own,) in crew.evaluate(["a", "b", "c"])] == [1.0, 3.0, 1.0]
    assert (crew.clock, crew.busy) == (3.0, 5.0)  # b alone from 2 to 3
    assert crew.idle_share == pytest.approx(1 - 5 / 6)
    crew.wait_for_fit()
    assert crew.clock == 13.0


def test_a_choice_is_made_beside_evaluations_and_who_is_free_waits_for_it():
    crew, arrived = two_workers(fit_seconds=2.0), []

    def cells():
        yield from "ab"
        choice = crew.beside(lambda: "cd")  # at 1, when a has arrived
        while not choice.done():
            yield NOT_YET
        yield from choice.result()

    crew.evaluate_each(cells(), lambda cell, _: arrived.append((cell, crew.clock)))
    # c and d begin at 3: b and the choice end at the same moment.
    assert arrived == [("a", 1.0), ("b", 3.0), ("c", 4.0), ("d", 8.0)]


def test_every_part_at_a_tiny_size():
    plan = dataclasses.replace(workers.QUICK, seeds=1, sigmas=(1.0,), slots=(2,), tasks=2)
    idle = workers.measure_idle(plan)
    assert [row["schedule"] for row in idle["rows"]] == list(workers.SCHEDULES)
    waits, goes_on, _ = (row["idle_share"]["median"] for row in idle["rows"])
    assert 0 < goes_on < waits < 1
    cluster = real_workers.measure_cluster(plan)
    (slots,) = cluster["slots"]
    assert (slots["slots"], slots["tasks"]) == (2, 4)
    assert slots["seconds"] > slots["first_result"] > 0.1
    text = report_workers.tables({"idle": idle, "cluster": cluster})
    for words in ("8 simulated workers", "ledger: 50 rows", "real slots that sleep 0.1 s"):
        assert words in text
    assert max(map(len, text.splitlines())) <= 100

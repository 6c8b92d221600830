"""search.asynchronous: with one worker the synchronous search, with several nobody waits."""

import dataclasses
import json
import math
import zlib

import distributed
import jax
import numpy as np
import pytest
from search_fakes import Digits, FreeTruth, Linear, closeness
from test_search_loop import KEY, SMALL, SPACE, Dear, assert_same, cells_of
from toy_searches import DISH_GA, contents
from toy_widths import TOY

from experiments.benchmark.simulated_workers import SimulatedWorkers
from spd_jax.errors import UserError
from spd_jax.ground_truth import clusters
from spd_jax.ground_truth.executors import NOT_YET
from spd_jax.ground_truth.purchase import GroundTruth
from spd_jax.ledger import Evaluation, Ledger
from spd_jax.search import loop
from spd_jax.search.asynchronous import search
from spd_jax.search.genetic import Genetic
from spd_jax.search.loop import SearchConfig
from spd_jax.search.random_search import RandomSearch
from spd_jax.studies import events, search_comparison


def seconds(cell):
    """Return how long a cell takes: from 1 to 9, whatever its score is."""
    return 1 + zlib.crc32(cell.encode()) % 8000 / 1000


def crew(count, truth=None, **options):
    truth = truth or FreeTruth(closeness)
    return SimulatedWorkers(count, lambda cell: truth.one(cell, 0), seconds, **options)


def small(workers, **options):
    """Run the small search of `test_search_loop` on simulated workers."""
    options = {"surrogate": Linear(SPACE.features), "config": SMALL} | options
    return search(KEY, SPACE, workers, Genetic(), beside=workers.beside, **options)


@pytest.mark.parametrize("evaluations", [5, 1])
@pytest.mark.parametrize("ranked", [True, False])
def test_with_one_worker_it_is_the_synchronous_search(evaluations, ranked):
    options = {
        "surrogate": Linear(SPACE.features) if ranked else None,
        "config": dataclasses.replace(SMALL, evaluations=evaluations),
    }
    truth = FreeTruth(closeness)
    expected = loop.search(KEY, SPACE, truth, Genetic(), **options)
    own = FreeTruth(closeness)
    assert_same(expected, small(crew(1, own, fit_seconds=3.0), **options))
    assert own.sold == truth.sold


def test_nobody_waits_and_the_surrogate_is_refitted_after_every_five_results():
    surrogate, workers = Linear(SPACE.features), crew(4)
    record = small(workers, surrogate=surrogate)
    assert [len(own.cells) for own in record] == [12, 5, 5, 5]
    assert [own.cost for own in record] == [12, 17, 22, 27]
    assert len(set(cells_of(record))) == 27
    # Three cells of the warm start were pending when the first choice was made.
    assert [len(scores) for _, _, scores in surrogate.seen] == [9, 14, 19]
    ended = crew(4)
    loop.search(KEY, SPACE, ended, Genetic(), surrogate=Linear(SPACE.features), config=SMALL)
    assert workers.busy == pytest.approx(sum(map(seconds, cells_of(record))))
    # At the end alone somebody has nothing to do, for as long as the longest evaluation takes.
    assert workers.idle_share * 4 * workers.clock < 3 * 9
    assert workers.idle_share < ended.idle_share
    for own in record[1:]:
        assert np.all(np.diff(own.predicted) <= 0)
        np.testing.assert_equal(own.scores, [closeness(cell) for cell in own.cells])


def test_pending_cells_are_told_to_the_proposer_as_failed_and_not_to_the_surrogate():
    told = []

    class Watching(RandomSearch):
        def propose(self, key, space, known, scores, count):
            told.append((known.names, scores))
            return super().propose(key, space, known, scores, count)

    workers, surrogate = crew(3), Linear(lambda archs: np.asarray(archs["x"])[:, None] * 1.0)
    config = SearchConfig(6, 3, 4, 2)
    truth = FreeTruth(float)
    workers.evaluation = lambda cell: truth.one(cell, 0)
    record = search(KEY, Digits(1000), workers, Watching(), beside=workers.beside, config=config,
                    surrogate=surrogate)  # fmt: skip
    bought = cells_of(record)
    for turn, (names, scores) in enumerate(told):
        assert sorted(names) == sorted(bought[: 6 + 2 * turn])
        assert np.isnan(scores[-2:]).all()
        assert scores[:-2].tolist() == [float(name) for name in names[:-2]]
        assert surrogate.seen[turn][1]["x"].tolist() == [int(name) for name in names[:-2]]


@pytest.mark.parametrize("moment", [0, 5, 12, 14, 17, 20, 26])
@pytest.mark.parametrize("count", [1, 4])
def test_a_search_that_is_killed_goes_on_and_buys_nothing_twice(moment, count):
    truth, choices = FreeTruth(closeness, interrupt_after=moment), {}
    options = {"on_choice": choices.__setitem__, "recall": lambda index: choices.get(index)}
    with pytest.raises(KeyboardInterrupt):
        small(crew(count, truth), **options)
    truth.interrupt_after, before = None, dict(choices)
    record = small(_resumed(crew(count, truth), truth), **options)
    assert truth.sold == list(dict.fromkeys(truth.sold))
    assert sorted(truth.sold) == sorted(cells_of(record))
    assert len(truth.sold) == 27
    for index, choice in before.items():
        assert record[index].cells == choice.cells
    if count == 1:
        assert_same(record, small(crew(1)))


def _resumed(workers, truth):
    """Answer what the ledger has as soon as it is drawn, as `GroundTruth` does."""

    class Resumed(SimulatedWorkers):
        def evaluate_each(self, cells, on_evaluation, *, seed=0):
            def missing():
                for cell in cells:
                    if cell is not NOT_YET and (cell, seed) in truth.ledger:
                        on_evaluation(cell, truth.ledger[cell, seed])
                    else:
                        yield cell

            super().evaluate_each(missing(), on_evaluation, seed=seed)

    return Resumed(workers.count, workers.evaluation, workers.seconds)


def test_a_choice_that_cannot_go_on_is_made_anew():
    choices = {}
    record = small(crew(1), on_choice=choices.__setitem__)
    twice = dict.fromkeys([1, 2, 3], choices[1])  # its cells again
    assert_same(record, small(crew(1), recall=twice.get))
    longer = dataclasses.replace(choices[1], cells=(*choices[1].cells, "x"))
    assert_same(record, small(crew(1), recall={1: longer}.get))


def test_the_first_choice_waits_until_half_of_the_warm_start_has_not_failed():
    surrogate = Linear(SPACE.features)
    small(crew(12), surrogate=surrogate)  # all of it is handed out at once
    first = surrogate.seen[0][2]
    assert np.isfinite(first).sum() == 6
    with pytest.raises(UserError, match="all 12 cells of the warm start failed"):
        small(crew(12, FreeTruth(lambda cell: math.nan)))


def test_a_proposer_that_runs_dry_ends_the_search_once_all_that_is_pending_is_bought():
    workers, arrived = crew(5), []
    workers.evaluation = lambda cell: Evaluation("ok", float(cell), 0.0)
    config = SearchConfig(warm_start=10, iterations=9, proposals=1, evaluations=6)
    with pytest.raises(UserError, match="only 2 of 6 new cells"):
        search(KEY, Digits(24), workers, RandomSearch(), beside=workers.beside, config=config,
               on_evaluation=lambda count, evaluation: arrived.append(count))  # fmt: skip
    assert arrived == list(range(1, 23))
    with pytest.raises(UserError, match="Dear trains cells to rank them"):
        search(KEY, Digits(24), workers, RandomSearch(), surrogate=Dear())


def test_a_choice_is_made_beside_the_evaluations_in_a_thread_of_its_own(tmp_path):
    """The truth of a ledger: what is there is answered at once, and a fit's error is raised."""
    problem = dataclasses.replace(TOY)
    task, options = problem.ground_truth("formula").task(None, str(tmp_path)), {}
    config = SearchConfig(6, 2, 10, 3)
    expected = loop.search(
        KEY,
        TOY.space,
        FreeTruth(lambda cell: task.evaluate(cell, 0, 4).score),
        Genetic(),
        surrogate=Linear(TOY.features.features),
        config=config,
    )
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        for bought in (12, 0):
            truth = GroundTruth("toy_widths", task, ledger)
            options["surrogate"] = Linear(TOY.features.features)
            record = search(KEY, TOY.space, truth, Genetic(), config=config, **options)
            assert [own.cells for own in record] == [own.cells for own in expected]
            assert (truth.bought, len(ledger)) == (bought, 12)
        broken = Linear(lambda archs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            search(jax.random.key(9), TOY.space, truth, Genetic(), config=config, surrogate=broken)


ASYNCHRONOUS = dataclasses.replace(DISH_GA, asynchronous=True)


def in_threads(workers):
    """Start a local cluster whose workers are threads of this process, which begin at once."""
    return distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=False, dashboard_address=":0"
    )


def test_a_comparison_searches_asynchronously_and_goes_on(tmp_path, monkeypatch):
    """The search is stopped at its eighth result."""
    monkeypatch.setattr(clusters, "_start_cluster", in_threads)
    with pytest.raises(UserError, match=r"asynchronous=True lets workers go on .* workers=2"):
        search_comparison.run(TOY, ASYNCHRONOUS, tmp_path)
    told = []

    def stop(event):
        told.append(event)
        if isinstance(event, events.SearchAdvanced) and event.ground_truths == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_comparison.run(TOY, ASYNCHRONOUS, tmp_path, workers=2, listen=stop)
    with Ledger(tmp_path / "ledger.sqlite", read_only=True) as ledger:
        before = ledger.purchases()
    assert len(before) == 8
    found = search_comparison.run(TOY, ASYNCHRONOUS, tmp_path, workers=2)
    with Ledger(tmp_path / "ledger.sqlite", read_only=True) as ledger:
        after = ledger.purchases()
    assert after[:8] == before
    (record,) = found.records.values()
    assert sorted(own.key.cell for own in after) == sorted(cells_of(record))
    assert [own.cost for own in record] == [6, 9, 12]
    assert json.loads((tmp_path / "config.json").read_text())["asynchronous"] is True
    assert (tmp_path / "history.csv").exists()
    again = contents(tmp_path)
    search_comparison.run(TOY, ASYNCHRONOUS, tmp_path, workers=2)
    assert {path for path in again if again[path] != path.read_bytes()} == set()
    counts = [e.ground_truths for e in told if isinstance(e, events.SearchAdvanced)]
    assert counts == sorted(counts)


def test_a_folder_of_synchronous_searches_says_nothing_of_it(tmp_path):
    settings = dataclasses.replace(DISH_GA, method="ga", iterations=0)
    search_comparison.run(TOY, settings, tmp_path)
    assert "asynchronous" not in json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(UserError, match="asynchronous"):
        search_comparison.run(
            TOY, dataclasses.replace(settings, asynchronous=True), tmp_path, workers=1
        )

"""A search under a limit of cost, and the trade-off that it found."""

import dataclasses
import json
import math

import commands
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_searches import SEARCH, watched
from toy_widths import TOY, Formula, Widths

from experiments import cost_function
from spd_jax import files
from spd_jax.archs import Cells
from spd_jax.errors import UserError
from spd_jax.ground_truth.lookup import LookupTask
from spd_jax.ground_truth.purchase import GroundTruth
from spd_jax.ledger import Evaluation, EvaluationKey, Ledger
from spd_jax.metrics import pareto_front
from spd_jax.problems import GroundTruthPreset
from spd_jax.report import search as report
from spd_jax.search import asynchronous, loop
from spd_jax.search.cost_limit import WithinCost
from spd_jax.search.genetic import Genetic
from spd_jax.search.local_search import LocalSearch
from spd_jax.search.loop import SearchConfig
from spd_jax.search.random_search import RandomSearch
from spd_jax.studies import search_comparison, trade_off

LIMIT = 13.0
SMALL = SearchConfig(warm_start=6, iterations=2, proposals=8, evaluations=3)


def units(cells):
    return np.sum(cells.archs, axis=-1)


def units_of(cell):
    return sum(map(int, cell.split("-")))


# The front


@given(st.lists(st.tuples(*[st.sampled_from([0.0, 1.0, 2.0, 3.0, math.nan, math.inf])] * 2),
                min_size=1, max_size=12))  # fmt: skip
def test_the_front_is_what_nothing_dominates(points):
    def dominates(a, b):
        return a[0] <= b[0] and a[1] >= b[1] and a != b

    usable = [all(map(math.isfinite, point)) for point in points]
    expected = [
        ok and not any(dominates(q, p) for q, there in zip(points, usable, strict=True) if there)
        for p, ok in zip(points, usable, strict=True)
    ]
    costs, scores = zip(*points, strict=True)
    assert pareto_front(costs, scores).tolist() == expected


def test_costs_and_scores_are_vectors_of_one_length():
    with pytest.raises(UserError, match="costs has shape"):
        pareto_front([1.0], [1.0, 2.0])


# A limit


@pytest.mark.parametrize(
    ("search", "proposer"),
    [
        (loop.search, RandomSearch()),
        (loop.search, Genetic(parents=4)),
        (loop.search, LocalSearch()),
        (asynchronous.search, Genetic(parents=4)),
    ],
)
def test_nothing_above_the_limit_is_ranked_or_bought(search, proposer, tmp_path):
    class Ranker:
        def fit(self, key, archs, scores):
            assert np.all(np.sum(archs, axis=-1) <= LIMIT)
            return self

        def predict(self, archs):
            assert np.all(np.sum(archs, axis=-1) <= LIMIT)
            return np.sum(archs, axis=-1)  # the dearest first

    _, task = watched()
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        truth = GroundTruth("toy_widths", task, ledger)
        space = WithinCost(Widths(), units, LIMIT)
        key = jax.random.key(0)
        record = search(key, space, truth, proposer, surrogate=Ranker(), config=SMALL)
    bought = [cell for own in record for cell in own.cells]
    assert len(bought) == 12
    assert all(units_of(cell) <= LIMIT for cell in bought)
    assert {cell for cell, *_ in task.sold} == set(bought)


def test_a_limit_that_leaves_too_few_cells_is_one_sentence():
    space = WithinCost(Widths(), units, 5.0)  # of 1296 cells, 1-1-1-1 and the four with one 2
    with pytest.raises(UserError, match=r"only 5 of 6 .* a cost limit leaves .* raise the limit"):
        loop.warm_start(jax.random.key(0), space, 6)


@pytest.mark.parametrize("cost", [lambda cells: 3.0, lambda cells: ["dear"] * len(cells.names)])
def test_a_cost_that_is_no_number_for_each_cell_is_refused(cost):
    with pytest.raises(UserError, match=r"return one (number )?for each"):
        WithinCost(Widths(), cost, 5.0).allows("1-1-1-1")


# A comparison


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    """Return a comparison under a limit; no test may change its folder."""
    problem = dataclasses.replace(watched()[0], costs={"units": lambda a: np.sum(a, axis=-1)})
    settings = dataclasses.replace(SEARCH, method="ga", cost="units", cost_limit=LIMIT, seeds=2)
    return search_comparison.run(problem, settings, tmp_path_factory.mktemp("limited"))


def test_every_method_keeps_the_limit_and_has_its_front(limited):
    comments, rows = files.read_csv(limited.path / "pareto.csv", trade_off.Point._fields)
    assert comments == {"cost": "units", "limit": "13.0"}
    bought = [(m, c) for (m, _), record in limited.records.items() for it in record
              for c in it.cells]  # fmt: skip
    assert [(row["method"], row["cell"]) for _, row in rows] == bought
    assert all(float(row["cost"]) == units_of(row["cell"]) <= LIMIT for _, row in rows)
    for method in limited.summary["methods"]:
        own = [row for _, row in rows if row["method"] == method]
        scores = [float(row["score"]) for row in own]
        assert scores == [Formula().evaluate(row["cell"], 0, 4).score for row in own]
        front = pareto_front([float(row["cost"]) for row in own], scores)
        assert [row["on_front"] == "1" for row in own] == front.tolist()
        said = limited.summary["trade_off"]["methods"][method]
        names = [row["cell"] for row in own]
        on_front = {name for name, best in zip(names, front, strict=True) if best}
        assert (said["bought"], said["front"]) == (len(set(names)), len(on_front))
        assert said["best"]["valid"] == max(scores)
    assert json.loads((limited.path / "summary.json").read_text()) == limited.summary


def test_a_method_is_measured_by_its_own_cells_alone(limited):
    runs = [limited.records["ga", 0], limited.records["ga", 1][:1]]
    records = {("ga", 0): runs[0], ("random", 0): runs[1]}
    cost = trade_off.Cost("units", units)
    both = trade_off.points(records, cost, TOY.space, "score")
    alone = [
        trade_off.points({place: record}, cost, TOY.space, "score")
        for place, record in records.items()
    ]
    assert both == alone[0] + alone[1]
    assert trade_off.points(records, None, TOY.space, "score") == []


def test_the_limit_is_part_of_the_run_and_the_cost_alone_is_not(limited, tmp_path):
    settings = limited.settings
    for change in ({"cost_limit": 14.0}, {"cost": "seconds"}, {"cost": None, "cost_limit": None}):
        with pytest.raises(UserError, match=r"holds a run with|is known once"):
            search_comparison.run(
                limited.problem, dataclasses.replace(settings, **change), limited.path
            )
    history = limited.path / "history.csv"
    again = search_comparison.replay(limited.problem, settings, tmp_path / "a", history=history)
    assert again.points == limited.points
    free = dataclasses.replace(settings, cost=None, cost_limit=None)
    with pytest.raises(UserError, match=r"other settings \(.*cost_limit"):
        search_comparison.replay(limited.problem, free, tmp_path / "b", history=history)


def test_the_picture_names_its_axes_and_draws_the_limit(limited):
    (axes,) = _picture(limited).axes
    assert axes.get_xlabel() == "units of a cell"
    assert axes.get_ylabel() == "validation score, higher is better"
    labels = axes.get_legend_handles_labels()[1]
    assert labels[-1] == "limit: 13"
    assert len(labels) == 1 + len(limited.summary["methods"])
    for line, method in zip(axes.get_lines(), limited.summary["methods"], strict=False):
        front = {(x.cost, x.score) for x in limited.points if x.method == method and x.on_front}
        assert [tuple(point) for point in line.get_xydata()] == sorted(front)
    text = report.results(limited.summary)
    assert "trade-off of units, at most 13 and validation score (pareto.csv):" in text
    assert limited.path / "pareto.png" in report.draw(limited)


def _picture(found):
    names = list(found.summary["methods"])
    return report.trade_off.picture(
        found.points, "units", "score", report.looks(names), {}, limit=LIMIT
    )


def test_a_picture_of_losses_is_turned_round_and_wide_costs_are_logarithmic():
    point = trade_off.Point("ga", 0, "cell", 1.0, 2.0, 2.0, 1)
    dear = [point, point._replace(cost=1e3, score=1.5), point._replace(cost=math.nan, on_front=0)]
    look = {"ga": ("k", "o")}
    (axes,) = report.trade_off.picture(dear, "units", "bits per character", look, {}).axes
    assert axes.yaxis_inverted()
    assert axes.get_xscale() == "log"


# Seconds


def table(seconds):
    cells = ["1-1-1-1", "2-2-2-2", "3-3-3-3", "4-4-4-4", "5-5-5-5", "6-6-6-6"]
    return LookupTask(
        tuple(
            (EvaluationKey("toy_widths", c, "t", 0, 4), Evaluation("ok", 1.0, seconds=s))
            for c, s in zip(cells, seconds, strict=True)
        ),
        None,
    )


def looked_up(task):
    preset = GroundTruthPreset(lambda data, states: task, 4, looked_up=True)
    return dataclasses.replace(TOY, ground_truths={"formula": preset})


RANDOM = dataclasses.replace(
    SEARCH, method="random", cost="seconds", warm_start=4, iterations=0, evaluations=1
)


def test_seconds_are_those_of_the_table_or_the_ledger(tmp_path):
    problem = looked_up(table([1, 2, 3, 4, 0, 9]))
    within = dataclasses.replace(RANDOM, cost_limit=4.0)
    found = search_comparison.run(problem, within, tmp_path / "table")
    assert sorted(own.cost for own in found.points) == [1, 2, 3, 4]
    with pytest.raises(UserError, match=r"no cell of the table .*=0.5: the cheapest costs 1"):
        search_comparison.run(problem, dataclasses.replace(within, cost_limit=0.5), tmp_path / "x")
    trained = search_comparison.run(watched()[0], RANDOM, tmp_path / "trained")
    assert {own.cost for own in trained.points} == {0.1}
    with pytest.raises(UserError, match="is known once it was evaluated: leave cost_limit out"):
        search_comparison.run(watched()[0], within, tmp_path / "y")
    with pytest.raises(UserError, match="cost=seconds is not recorded in a history"):
        search_comparison.replay(TOY, RANDOM, tmp_path / "z",
                                 history=trained.path / "history.csv")  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cost": "parameters"}, "toy_widths knows no cost=parameters: use one of seconds, or a"),
        ({"cost": None, "cost_limit": 3.0}, "cost_limit=3.0 needs a cost"),
        ({"cost_limit": math.nan}, "cost_limit=nan must be finite"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(changes, words, tmp_path):
    settings = dataclasses.replace(RANDOM, **changes)
    with pytest.raises(UserError, match=words):
        search_comparison.run(watched()[0], settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# A function of the user's


def test_a_function_gets_an_arch_or_a_cells_name():
    cells = Cells.read(Widths(), ["1-2-3-4", "6-6-6-6"])
    assert cost_function.read("toy_costs:units")(cells).tolist() == [10, 24]
    assert cost_function.read("toy_costs:widest")(cells).tolist() == [4, 6]
    assert cost_function.read(None) is None
    assert cost_function.read("parameters") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no_such_module:f", "cannot be imported .ModuleNotFoundError"),
        ("toy_costs:nothing", "cannot be imported .AttributeError"),
        ("toy_costs:NO_FUNCTION", "is no function"),
        ("toy_costs:two", "cannot be called with one argument"),
        ("toy_costs:broken", "failed on array.*AttributeError.*called with one arch, or with"),
    ],
)
def test_a_function_that_cannot_be_used_is_one_sentence(text, words):
    with pytest.raises(UserError, match=words):
        cost_function.read(text)(Cells.read(Widths(), ["1-2-3-4"]))


def test_a_wrong_setting_is_found_before_data_are_looked_for(tmp_path):
    for wrong, words in {
        "--cost=weight": "nasbench201 knows no --cost=weight",
        "--asynchronous": "--asynchronous=True lets workers go on",
    }.items():
        done = commands.run("search", wrong, "--data_dir=/nowhere", f"--workdir={tmp_path / 'run'}")
        assert words in done.stderr
        assert "/nowhere" not in done.stderr
    assert not (tmp_path / "run").exists()

"""studies.table_purchase: noise first, then the table; its two parts share no cell."""

import dataclasses
import json
import shutil

import commands
import jax
import numpy as np
import pytest
from commands import contents
from toy_widths import TOY, Formula

from spd_jax import problems
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup
from spd_jax.ground_truth.purchase import GroundTruth
from spd_jax.ledger import Evaluation, EvaluationKey, Ledger
from spd_jax.ledger import table as ledger_table
from spd_jax.problems import GroundTruthPreset
from spd_jax.report.tables import table_summary
from spd_jax.search.loop import warm_start
from spd_jax.studies import events, table_purchase
from spd_jax.studies.table_purchase import TableSettings, cells_of

SETTINGS = TableSettings(
    preset="formula", num_cells=22, num_seeds=2, cells_with_all_seeds=3, min_ceiling=-1.0
)
NAME = "toy_widths_formula.csv"


class Killed(BaseException):
    """What stands for a kill in this process: nothing catches it."""


@dataclasses.dataclass(frozen=True)
class Logged(Formula):
    """The toy's task; every evaluation is kept in `begun`, and `deadly` ends the process."""

    begun: list = dataclasses.field(default_factory=list)
    deadly: int = -1
    fails: bool = False

    def evaluate(self, cell, seed, budget):
        if len(self.begun) == self.deadly:
            raise Killed
        self.begun.append((cell, seed))
        if self.fails:
            return Evaluation("failed", error="as asked")
        found = super().evaluate(cell, seed, budget)
        noise = 3 * np.sin(sum(map(ord, cell)) + 5 * seed)
        return dataclasses.replace(found, score=found.score + noise, curve=())


def toy(task):
    """Return the toy problem with another task."""
    return dataclasses.replace(
        TOY, ground_truths={"formula": GroundTruthPreset(lambda data, states: task, 4)}
    )


def run(folder, task, listen=events.ignore, compare_with=None, **changes):
    asked = dataclasses.replace(SETTINGS, **changes)
    return table_purchase.run(toy(task), asked, folder, compare_with=compare_with, listen=listen)


@pytest.fixture(scope="module")
def bought(tmp_path_factory):
    """Return the folder of a purchase, its task and what it told."""
    folder, task, told = tmp_path_factory.mktemp("table"), Logged(), []
    run(folder, task, told.append)
    return folder, task, told


def test_nothing_is_bought_twice(bought):
    folder, task, _ = bought
    assert len(task.begun) == len(set(task.begun)) == 20 * 2 + 2  # one seed of the two others
    items = ledger_table.read(folder / NAME)
    assert [key.seed for key, _ in items] == [0, 1] * 3 + [0] * 19
    with Ledger(folder / "ledger.sqlite", read_only=True) as ledger:
        assert len(ledger) == 42
        for key, evaluation in items:  # to the bit
            assert repr(ledger.get(key)) == repr(evaluation)


def test_the_table_begins_with_the_warm_start_of_the_first_search(bought):
    items = ledger_table.read(bought[0] / NAME)
    first = warm_start(jax.random.key(0), TOY.space, 22).names
    assert tuple(dict.fromkeys(key.cell for key, _ in items)) == first


def test_the_summary_is_that_of_the_rows(bought):
    folder, *_ = bought
    table = lookup.read(folder / NAME, TOY.space)
    summary = json.loads((folder / "summary.json").read_text(), parse_constant=pytest.fail)
    assert (summary["evaluations"], summary["failed"]) == (25, 0)
    assert summary["noise_ceiling"] == table.noise_ceiling()
    assert summary["noise_ceiling"]["motifs"] == 3
    before = summary["ceiling_before_purchase"]
    assert (before["motifs"], before["seeds"]) == (20, 2)
    assert 0 < before["kendall_tau"] < 1
    scores = [evaluation.score for _, evaluation in ledger_table.read(folder / NAME)]
    assert summary["score"]["median"] == np.median(scores)
    text = table_summary(summary)
    assert "25 evaluations, 0 failed" in text
    assert "3 cells, 2 seeds" in text


def test_progress_begins_at_what_the_ledger_holds(bought):
    told = bought[2]
    stages = [(event.name, event.total, event.done) for event in told if "Stage" in str(event)]
    assert stages == [("noise ceiling", 40, 0), ("cells", 22, 20), ("cells, other seeds", 3, 3)]
    done = [event.done for event in told if isinstance(event, events.Advanced)]
    assert done == [*range(1, 41), 21, 22]


@pytest.mark.parametrize("moment", [0, 1, 39, 40, 41])
def test_a_purchase_killed_at_any_moment_ends_as_an_uninterrupted_one(moment, bought, tmp_path):
    task = Logged(deadly=moment)
    with pytest.raises(Killed):
        run(tmp_path, task)
    assert not (tmp_path / NAME).exists()
    run(tmp_path, Logged(begun=task.begun))
    assert len(task.begun) == len(set(task.begun)) == 42
    for name in (NAME, "summary.json", "config.json"):
        assert (tmp_path / name).read_text() == (bought[0] / name).read_text()


@pytest.mark.parametrize("fails", [False, True])
def test_checkpoints_that_a_kill_left_are_dropped_once_nothing_failed(fails, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "left.npz").write_bytes(b"of a killed training")
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        cell, task = cells_of(TOY.space, "reported", 1)[0], Logged()
        done = Evaluation("failed" if fails else "ok", 1.0, unit=task.unit)
        ledger.put(EvaluationKey(TOY.space.name, cell, task.fingerprint, 1, 4), done)
    run(tmp_path, Logged())
    assert (tmp_path / "checkpoints").exists() == fails


def test_a_finished_table_is_only_read_again_and_a_larger_one_extends_it(bought, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(bought[0], folder)
    run(folder, Logged(deadly=0))
    before, after = (contents(path).values() for path in (bought[0], folder))
    assert list(after) == list(before)
    task = Logged()
    run(folder, task, num_cells=25, num_seeds=3, cells_with_all_seeds=4)
    # A third seed of the first twenty cells, and one seed of the three others.
    assert len(task.begun) == 20 + 3
    old, new = (ledger_table.read(path / NAME) for path in (bought[0], folder))
    assert set(map(repr, old)) <= set(map(repr, new))
    assert [key.seed for key, _ in new] == [0, 1, 2] * 4 + [0] * 21
    with pytest.raises(UserError, match="holds a run with num_cells=25, not 22"):
        run(folder, Logged(), num_seeds=3, cells_with_all_seeds=4)


def test_nothing_more_is_bought_below_the_least_ceiling(tmp_path):
    task = Logged()
    with pytest.raises(UserError, match=r"^the noise ceiling is 0\.\d\d, below min_ceiling=1\.0: "):
        run(tmp_path, task, min_ceiling=1.0)
    assert len(task.begun) == 20 * 2
    assert not (tmp_path / NAME).exists()
    run(tmp_path, task, min_ceiling=-1.0)  # it decides nothing but whether to go on
    assert len(task.begun) == len(set(task.begun)) == 42


def test_where_every_training_fails_nothing_more_is_bought(tmp_path):
    task = Logged(fails=True)
    with pytest.raises(UserError, match="no noise ceiling, since too many trainings failed"):
        run(tmp_path, task)
    assert len(task.begun) == 40


@pytest.mark.parametrize("sizes", [{"num_cells": 2}, {"num_seeds": 1}])
def test_a_table_too_small_for_a_ceiling_is_bought_all_the_same(sizes, tmp_path):
    summary, path = run(tmp_path, Logged(), **sizes)
    assert summary["ceiling_before_purchase"]["kendall_tau"] is None
    assert "not measured" in table_summary(summary)
    assert len(lookup.read(path, TOY.space)) == sizes.get("num_cells", 22)


def test_a_table_is_compared_with_another(bought, tmp_path):
    other = bought[0] / NAME
    summary, _ = run(tmp_path, Logged(), num_cells=10, compare_with=other)
    assert summary["agreement"]["cells"] == 10
    assert summary["agreement"]["kendall_tau"] == pytest.approx(1, abs=0.2)
    text = table_summary(summary)
    assert "10 cells in both" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_table_to_compare_with_is_read_before_anything_is_bought(tmp_path):
    task = Logged(deadly=0)
    with pytest.raises(UserError, match=r"none.csv is missing"):
        run(tmp_path / "run", task, compare_with=tmp_path / "none.csv")
    assert not (tmp_path / "run").exists()


def test_more_cells_than_there_are_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"num_cells=1290, but only \d+ different cells"):
        run(tmp_path, Logged(deadly=0), num_cells=1290)


def test_a_smaller_budget_is_bought_as_such(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        truth = GroundTruth("toy_widths", Formula(), ledger)
        items = table_purchase.buy(truth, ["1-2-3-4"], [0, 7], "some", events.ignore, budget=3)
        assert [(key.seed, key.budget) for key, _ in items] == [(0, 3), (7, 3)]
        assert items[0][1].curve == Formula().evaluate("1-2-3-4", 0, 3).curve
        assert ledger.get(items[1][0]) == items[1][1]


@pytest.mark.parametrize("name", ["rnn_cell", "toy_widths"])
def test_the_parts_are_disjoint_and_a_smaller_one_begins_a_larger_one(name, monkeypatch):
    space, most = problems.get(name).space, 350
    cells = {part: table_purchase.cells_of(space, part, 60) for part in table_purchase.KEYS}
    longer = {part: table_purchase.cells_of(space, part, most) for part in ("reported",)}
    longer["tuning"] = table_purchase.cells_of(space, "tuning", 150)
    for part, names in cells.items():
        assert len(set(names)) == 60
        assert longer[part][:60] == names
        assert len(set(longer[part])) == len(longer[part])
    assert not set(longer["tuning"]) & set(longer["reported"])
    # Of the same draw only what the reported part has no room for would be left.
    monkeypatch.setitem(table_purchase.KEYS, "tuning", table_purchase.KEYS["reported"])
    with pytest.raises(UserError, match=r"different cells of .* were drawn for the part tuning"):
        table_purchase.cells_of(space, "tuning", 60)


# The command


def test_a_command_buys_a_table(bought, tmp_path):
    flags = ["--problem=toy_widths", "--preset=formula", "--num_cells=5", "--num_seeds=2"]
    flags += [f"--workdir={tmp_path}"]
    done = commands.run("buy_table", *flags)
    assert done.code == 0, done.stderr
    assert "10 evaluations, 0 failed" in done.stdout
    assert f"wrote {tmp_path / NAME}" in done.stdout


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--problem=none", "unknown problem 'none': use one of"),
        ("--preset=huge", "toy_widths has no ground truth 'huge': use one of formula"),
        ("--compare_with=none.csv", "none.csv is missing"),
        ("--num_cells=1", "--num_cells=1"),
        ("--min_ceiling=nan", "--min_ceiling=nan must be finite"),
        ("--min_ceiling=1.1", "1.1 is not a number in the range [-1, 1]"),
        ("--part=best", "--part=best"),
        ("--data_dir=", "--data_dir is empty: give the folder"),
        ("--time_limit=60", "--time_limit=60.0 with --workers=0: give a positive number of"),
        ("--time_limit=nan", "--time_limit=nan must be finite"),
    ],
)
def test_a_mistake_is_one_sentence(flag, words, tmp_path):
    flags = ["--problem=toy_widths", "--preset=formula", f"--workdir={tmp_path / 'run'}", flag]
    done = commands.run("buy_table", *flags)
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert not (tmp_path / "run").exists()


def test_help_says_what_a_setting_means():
    done = commands.run("buy_table", "--help")
    assert done.stderr == ""
    for flag in ("workdir", "part", "num_cells", "compare_with"):
        assert f"\n  --{flag}: " in done.stdout


def test_a_problem_may_list_the_cells_of_a_table(tmp_path):
    listed = ("1-2-3-4", "6-6-6-6", "2-2-2-2")
    problem = dataclasses.replace(toy(Logged()), table_cells=listed)
    asked = dataclasses.replace(SETTINGS, part="grid", num_cells=2)
    _, path = table_purchase.run(problem, asked, tmp_path)
    assert lookup.read(path, TOY.space).cells.names == listed[:2]
    with pytest.raises(UserError, match="toy_widths lists 3 cells: ask for at most so many"):
        table_purchase.run(problem, dataclasses.replace(asked, num_cells=4), tmp_path / "more")

"""purchase: nothing bought twice, everything written first, failures recorded with why."""

import dataclasses
import math
import multiprocessing
import os
import pathlib
import random
import subprocess
import sys
import time

import pytest

from spd_jax.errors import UserError
from spd_jax.ground_truth import clusters
from spd_jax.ground_truth.purchase import GroundTruth
from spd_jax.ledger import Evaluation, EvaluationKey, Ledger

ROOT = pathlib.Path(__file__).resolve().parents[1]


class FarDataError(UserError):
    def __init__(self, place, reason):  # two arguments: such an exception does not unpickle
        super().__init__(f"{place} is {reason}")


@dataclasses.dataclass(frozen=True)
class ToyTask:
    """Score `len(cell) + seed + epoch`; cells with a name of their own misbehave."""

    folder: str
    name: str = "toy"
    budget: int = 4
    seconds: float = 0.0
    unit: str = "points"
    answers_smaller_budgets: bool = True

    @property
    def fingerprint(self):
        return self.name

    def evaluate(self, cell, seed, budget):
        with open(pathlib.Path(self.folder) / "runs", "a") as stream:
            stream.write(f"{cell} {seed} {budget}\n")
        time.sleep(self.seconds)
        if cell == "raises":
            raise LookupError("unlucky")
        if cell == "exits":
            sys.exit("gone")
        if cell == "dies":
            os._exit(1)
        if cell == "no data":
            raise FarDataError("data_dir", "missing")
        if cell == "number":
            return 3.0
        curve = tuple(float(len(cell) + seed + epoch) for epoch in range(1, budget + 1))
        if cell == "long":
            curve += curve
        if cell == "diverges" and budget > 2:
            return Evaluation("failed", math.nan, math.nan, curve[:2], 2.0, "not finite")
        if cell == "infinite":
            return Evaluation("ok", -math.inf, 1.0, curve, 2.0)
        if cell == "huge":
            return Evaluation("ok", 10**400)
        if cell == "text":
            return Evaluation("ok", "0.5")
        if cell == "words":
            return Evaluation("ok", "good")
        if cell in ("backwards", "timeless"):
            return Evaluation("ok", 1.0, seconds=-1.0 if cell == "backwards" else math.nan)
        if cell == "other status":
            return Evaluation("fine", 1.0)
        while cell == "slow" and len(runs_of(self.folder)) < 3:
            time.sleep(0.01)
        time.sleep(0.5 if cell == "slow" else 0.0)
        if cell == "hangs":
            time.sleep(600)
        kept = () if cell == "no curve" else curve
        return Evaluation("ok", curve[-1], curve[-1] / 2, kept, 2.0 * budget)


class ToyBatch(ToyTask):
    """The same, all cells at once and the last first; stops before a cell named "stop"."""

    def evaluate_many(self, cells, seeds, budget, on_progress):
        for done, place in enumerate(reversed(range(len(cells))), 1):
            if cells[place] == "stop":
                return
            if cells[place] == "again":
                place += 1
            evaluation = self.evaluate(cells[place], seeds[place], budget)
            on_progress(done, len(cells), f"score {getattr(evaluation, 'score', None)}")
            yield place, evaluation


@pytest.fixture(autouse=True)
def light_workers(monkeypatch):
    """Spare the workers the import of jax, which this process has imported."""
    monkeypatch.setattr(clusters, "_jax_settings", dict)


def runs_of(folder):
    path = pathlib.Path(folder) / "runs"
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        yield ledger


@pytest.fixture
def truth(tmp_path, ledger):
    return GroundTruth("toys", ToyTask(str(tmp_path)), ledger)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluations_come_by_cell_and_seed_and_are_bought_once(workers, truth, tmp_path):
    truth.workers = workers
    calls = []
    truth.on_result = lambda *arguments: calls.append(arguments)
    found = truth.evaluate(["a", "bbb", "a"], seeds=(0, 5))
    scores = [[evaluation.score for evaluation in row] for row in found]
    assert scores == [[5.0, 10.0], [7.0, 12.0], [5.0, 10.0]]
    assert found[1][1] == Evaluation("ok", 12.0, 6.0, (9.0, 10.0, 11.0, 12.0), 8.0, unit="points")
    assert truth.bought == 4
    assert [call[:2] for call in calls] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert sorted(runs_of(tmp_path)) == ["a 0 4", "a 5 4", "bbb 0 4", "bbb 5 4"]
    assert truth.ledger.get(EvaluationKey("toys", "bbb", "toy", 5, 4)) == found[1][1]
    again = GroundTruth("toys", truth.task, truth.ledger)
    assert again.evaluate(["a", "bbb", "a"], seeds=(0, 5)) == found
    assert again.evaluate(["a", "cc"])[1][0].score == 6.0
    assert again.bought == 1
    assert len(runs_of(tmp_path)) == 5
    assert again.evaluate([]) == []


def test_another_space_or_task_is_another_purchase(truth, tmp_path):
    truth.evaluate(["a"])
    for change in (
        {"space_name": "others"},
        {"task": dataclasses.replace(truth.task, name="other")},
    ):
        other = dataclasses.replace(truth, **change)
        other.evaluate(["a"])
        assert other.bought == 1
    assert len(runs_of(tmp_path)) == 3


@pytest.mark.parametrize("budget", [1, 2, 3])
@pytest.mark.parametrize("cell", ["a", "diverges"])
def test_a_partial_budget_is_answered_from_a_longer_curve(cell, budget, truth, tmp_path):
    truth.evaluate([cell])
    ((partial,),) = truth.evaluate([cell], budget=budget)
    assert truth.bought == 1
    assert len(truth.ledger) == 1
    with Ledger(tmp_path / "fresh") as fresh:  # the same as training that far, tests apart
        ((direct,),) = GroundTruth("toys", truth.task, fresh).evaluate([cell], budget=budget)
    assert partial.status == direct.status
    assert partial.curve == direct.curve
    assert partial.error == direct.error
    assert math.isnan(partial.test_score)
    if direct.status == "ok":
        assert partial.score == direct.score
    if cell == "a":
        assert partial.seconds == direct.seconds == 2.0 * budget


def test_a_partial_budget_is_bought_where_the_task_does_not_answer_it(truth, tmp_path):
    truth.task = dataclasses.replace(truth.task, answers_smaller_budgets=False)
    truth.evaluate(["a"])
    truth.evaluate(["a"], budget=2)
    assert runs_of(tmp_path) == ["a 0 4", "a 0 2"]


def test_a_longer_evaluation_that_does_not_tell_is_no_answer(truth, tmp_path):
    truth.evaluate(["no curve", "a"], budget=2)
    truth.evaluate(["no curve"], budget=1)
    truth.evaluate(["a"], budget=3)  # and a shorter one is none either
    assert runs_of(tmp_path) == ["no curve 0 2", "a 0 2", "no curve 0 1", "a 0 3"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_cell_that_fails_is_recorded_with_why_and_stops_nothing(workers, truth, tmp_path):
    truth.workers = workers
    cells = ["raises", "exits", "diverges", "infinite", "huge", "words", "a", "text"]
    found = [row[0] for row in truth.evaluate(cells)]
    assert [evaluation.status for evaluation in found] == ["failed"] * 6 + ["ok"] * 2
    assert all(math.isnan(x.score) and math.isnan(x.test_score) for x in found[:6])
    assert {evaluation.unit for evaluation in found} == {"points"}
    assert found[0].error.startswith("Traceback")
    assert "in evaluate" in found[0].error
    assert found[0].error.endswith("LookupError: unlucky\n")
    assert "SystemExit: gone" in found[1].error
    assert found[2].error == "not finite"
    assert found[3].error == "the score is -inf"
    assert found[4].error == "a score is no number: int too large to convert to float"
    assert found[5].error.startswith("a score is no number")
    assert found[7].score == 0.5
    assert [row[0] for row in truth.evaluate(cells)] == found  # a failure is bought once, too
    assert len(runs_of(tmp_path)) == len(cells)


def test_a_cell_that_kills_its_worker_is_tried_three_times(truth, tmp_path):
    truth.workers = 1
    found = truth.evaluate(["a", "dies", "bb"])
    assert [row[0].status for row in found] == ["ok", "failed", "ok"]
    assert found[1][0].error.startswith("its worker died 3 times")
    assert runs_of(tmp_path) == ["a 0 4", *["dies 0 4"] * 3, "bb 0 4"]
    assert truth.bought == len(truth.ledger) == 3


@pytest.mark.parametrize(
    ("cell", "message", "workers"),
    [
        ("no data", "^data_dir is missing$", 0),
        ("no data", "^data_dir is missing$", 1),
        ("number", r"returned float: return a spd_jax\.ledger\.Evaluation", 0),
        ("long", "a curve of 8 values for budget 4: return at most one per unit", 0),
        ("backwards", "seconds=-1.0: return the time spent, 0 or more", 0),
        ("timeless", "seconds=nan: return the time spent, 0 or more", 0),
        ("other status", "returned fine: return a .* whose status is ok or failed", 0),
    ],
)
def test_a_mistake_of_the_user_is_no_evaluation(cell, message, workers, truth):
    truth.workers = workers
    with pytest.raises(UserError, match=message):
        truth.evaluate(["a", cell, "bb"])
    assert [key.cell for key, _ in truth.ledger.items()] == ["a"]  # what was bought is kept


def test_a_task_that_cannot_travel_spoils_no_cell(truth):
    class Stubborn(ToyTask):
        def __reduce__(self):
            raise TypeError("not to be pickled")

    truth.task, truth.workers = Stubborn(truth.task.folder), 1
    with pytest.raises(UserError, match="define the task in a module that can be imported"):
        truth.evaluate(["a"])
    assert len(truth.ledger) == 0
    truth.workers = 0  # where nothing travels it is welcome
    assert truth.evaluate(["a"])[0][0].score == 5.0


def test_each_result_is_on_disk_before_anything_else_happens(truth, tmp_path):
    on_disk = []

    def look(done, total, evaluation):
        with Ledger(truth.ledger.path, read_only=True) as reader:
            on_disk.append((done, len(reader), len(runs_of(tmp_path))))

    truth.on_result = look
    truth.evaluate(["a", "bb", "ccc"])
    assert on_disk == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]  # written before the next one begins


def test_a_fast_result_does_not_wait_for_a_slow_one_to_be_written(truth, tmp_path):
    truth.workers = 2
    truth.evaluate(["slow", "a", "bb"])
    assert [key.cell for key, _ in truth.ledger.items()] == ["a", "bb", "slow"]


def test_an_evaluation_over_its_time_fails_and_the_others_go_on(truth, tmp_path):
    truth.workers, truth.time_limit = 1, 2.0
    found = [row[0] for row in truth.evaluate(["hangs", "a"])]
    assert [evaluation.status for evaluation in found] == ["failed", "ok"]
    assert found[0].error == "over the time limit of 2 s"
    assert runs_of(tmp_path) == ["hangs 0 4", "a 0 4"]
    truth.workers = 0
    with pytest.raises(UserError, match="at least one worker, which can be killed"):
        truth.evaluate(["bb"])


# Tasks that answer many cells at once


def batch(truth):
    task = ToyBatch(truth.task.folder)
    return dataclasses.replace(truth, task=task)


def test_a_batch_is_asked_once_for_all_that_is_missing_and_written_as_it_comes(truth, tmp_path):
    truth.evaluate(["bb"])
    buyer, told, on_disk = batch(truth), [], []
    buyer.on_progress = lambda *arguments: told.append(arguments)
    buyer.on_result = lambda done, *_: on_disk.append((done, len(truth.ledger)))
    found = buyer.evaluate(["a", "bb", "ccc"], seeds=(0, 1))
    assert [[x.score for x in row] for row in found] == [[5, 6], [6, 7], [7, 8]]
    runs = ["bb 0 4", "ccc 1 4", "ccc 0 4", "bb 1 4", "a 1 4", "a 0 4"]
    assert runs_of(tmp_path) == runs
    assert on_disk == [(1, 2), (2, 3), (3, 4), (4, 5), (5, 6)]
    assert told[0] == (1, 5, "score 8.0")
    assert [done for done, _, _ in told] == [1, 2, 3, 4, 5]
    assert buyer.evaluate(["a", "bb", "ccc"], seeds=(0, 1)) == found
    assert buyer.bought == 5


def test_with_workers_a_batch_task_evaluates_cell_by_cell(truth, tmp_path):
    buyer = batch(truth)
    buyer.workers = 1
    assert [row[0].score for row in buyer.evaluate(["a", "bb"])] == [5.0, 6.0]
    assert runs_of(tmp_path) == ["a 0 4", "bb 0 4"]


def test_an_error_in_a_batch_fails_what_was_not_yet_yielded(truth, tmp_path):
    found = [row[0] for row in batch(truth).evaluate(["a", "raises", "bb"])]
    assert [evaluation.status for evaluation in found] == ["failed", "failed", "ok"]
    assert found[0].error.endswith("LookupError: unlucky\n")
    assert runs_of(tmp_path) == ["bb 0 4", "raises 0 4"]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("no data", "^data_dir is missing$"),
        ("number", "returned float"),
        ("stop", "evaluate_many yielded nothing for 'stop': yield an evaluation for every cell"),
        ("again", "evaluate_many yielded place 2 twice"),
    ],
)
def test_a_mistake_in_a_batch_is_the_users_error_and_keeps_what_was_bought(cell, message, truth):
    with pytest.raises(UserError, match=message):
        batch(truth).evaluate([cell, "stop", "a"] if cell == "stop" else ["bb", cell, "a"])
    assert [key.cell for key, _ in truth.ledger.items()] == ["a"]


# What is no task


class Pyramid:
    """The shortest task there can be."""

    budget, unit, fingerprint, answers_smaller_budgets = 1, "score", "pyramid-1", False

    def evaluate(self, cell, seed, budget):
        return Evaluation("ok", len(cell), test_score=len(cell))


def test_the_shortest_task_is_one(ledger):
    ((found,),) = GroundTruth("pyramids", Pyramid(), ledger).evaluate(["abc"])
    assert found == Evaluation("ok", 3.0, 3.0, unit="score")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 0}, "the budget is 0: give a whole number of units, at least 1"),
        ({"budget": 1.0}, "the budget is 1.0"),
        ({"budget": True}, "the budget is True"),
        ({"fingerprint": 7}, "the fingerprint of the task Changed is 7: give a text"),
        ({"unit": None}, "the unit of the task Changed is None: give a text"),
    ],
)
def test_what_is_no_task_is_refused_at_once(change, message, ledger):
    with pytest.raises(UserError, match=message):
        GroundTruth("pyramids", type("Changed", (Pyramid,), change)(), ledger)


@pytest.mark.parametrize("name", ["budget", "unit", "fingerprint", "evaluate"])
def test_a_task_that_lacks_something_is_refused_at_once(name, ledger):
    some = {key: value for key, value in vars(Pyramid).items() if key != name}
    with pytest.raises(UserError, match=f"the task Some has no {name}: give it all that"):
        GroundTruth("pyramids", type("Some", (), some)(), ledger)


@pytest.mark.parametrize("cell", [3, None, b"a", ("a",)])
def test_a_cell_that_is_no_text_is_refused_before_anything_is_bought(cell, truth):
    with pytest.raises(UserError, match=r"the cell .* is no text: give what encode returns"):
        truth.evaluate(["a", cell])
    assert truth.bought == 0


@pytest.mark.parametrize("budget", [0, 2.5, "4"])
def test_a_budget_that_is_no_number_of_units_is_refused(budget, truth):
    with pytest.raises(UserError, match="give a whole number of units"):
        truth.evaluate(["a"], budget=budget)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_interrupt_keeps_what_was_bought(workers, truth, tmp_path):
    def interrupt(done, total, evaluation):
        if done == 2:
            raise KeyboardInterrupt

    truth.workers, truth.on_result = workers, interrupt
    children = set(multiprocessing.active_children())
    with pytest.raises(KeyboardInterrupt):
        truth.evaluate(["a", "bb", "ccc", "dddd"])
    assert set(multiprocessing.active_children()) <= children
    assert [key.cell for key, _ in truth.ledger.items()] == ["a", "bb"]
    again = GroundTruth("toys", truth.task, truth.ledger)
    assert [row[0].score for row in again.evaluate(["a", "bb", "ccc", "dddd"])] == [5, 6, 7, 8]
    assert again.bought == 2


CELLS = ["x" * length for length in range(1, 25)]
SHOPPER = """
import sys
from spd_jax.ground_truth import executors
from spd_jax.ground_truth.purchase import GroundTruth
from spd_jax.ledger import Ledger
from test_purchase import CELLS, ToyTask
if __name__ == "__main__":
    with Ledger(sys.argv[1] + "/killed.sqlite") as ledger:
        task = ToyTask(sys.argv[1], seconds=0.04)
        print("up", flush=True)
        GroundTruth("toys", task, ledger, int(sys.argv[2])).evaluate(CELLS)
        print("done", flush=True)
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_killed_at_any_moment_goes_on_where_it_was(workers, tmp_path):
    script = tmp_path / "shopper.py"
    script.write_text(SHOPPER)
    path, dice = tmp_path / "killed.sqlite", random.Random(workers)
    kills = 0
    while True:
        process = subprocess.Popen(
            [sys.executable, str(script), str(tmp_path), str(workers)],
            env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "up\n"
        finish = kills == 3
        if not finish:
            before = len(runs_of(tmp_path))
            while len(runs_of(tmp_path)) < before + dice.randint(1, 4):
                time.sleep(0.002)
            time.sleep(dice.uniform(0, 0.06))
            process.kill()
            kills += 1
        rest = process.communicate()[0]
        time.sleep(0.2)  # workers see that their parent is gone
        with Ledger(path) as ledger:
            bought = {key.cell for key, _ in ledger.items()}
        begun = len(runs_of(tmp_path))
        assert len(bought) >= begun - kills * max(workers, 1)  # lost: what was running, no more
        if finish:
            break
    assert rest == "done\n"
    with Ledger(path) as ledger, Ledger(tmp_path / "whole") as whole:
        task = ToyTask(str(tmp_path / "elsewhere"), seconds=0.0)
        os.mkdir(task.folder)
        expected = GroundTruth("toys", task, whole).evaluate(CELLS)
        truth = GroundTruth("toys", task, ledger)
        assert truth.evaluate(CELLS) == expected
        assert truth.bought == 0
        assert len(ledger) == len(CELLS)
        database = ledger._database.execute("PRAGMA integrity_check").fetchone()
        assert database == ("ok",)

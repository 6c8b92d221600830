"""What every task promises, checked for all of them: one test a promise."""

import dataclasses
import functools
import inspect
import math
import pickle
from typing import Any

import jax
import numpy as np
import pytest
import rnn_cell_driver
import small_image_classifiers
from toy_widths import Formula, Widths

from spd_jax.archs import Cells
from spd_jax.ground_truth import lookup
from spd_jax.ground_truth.purchase import GroundTruth
from spd_jax.ground_truth.task import BatchTask, Task
from spd_jax.ledger import Evaluation, EvaluationKey, Ledger, table
from spd_jax.motif import SearchSpace
from spd_jax.spaces.nasbench201 import NasBench201Space
from spd_jax.spaces.rnn_cell import RnnCellSpace
from spd_jax.spaces.sigmoid_slope import SigmoidSlopeSpace
from spd_jax.trainers.language_model import PRESETS, LanguageModelTask
from spd_jax.trainers.mlp_classifier import MlpClassifierConfig, MlpClassifierTask


@dataclasses.dataclass(frozen=True)
class Case:
    """A task, the space of its cells, and what it said of some."""

    space: SearchSpace
    task: Any

    @functools.cached_property
    def cells(self):
        return Cells.of(self.space, self.space.sample(jax.random.key(0), 3)).names

    @functools.cached_property
    def whole(self):
        """Full evaluations of the cells with seed 0."""
        return [self.task.evaluate(cell, 0, self.task.budget) for cell in self.cells]


def language_model(folder):
    config = dataclasses.replace(PRESETS["tiny"], **rnn_cell_driver.TINY)
    text = rnn_cell_driver.write_text(folder / "text")
    return Case(RnnCellSpace("nao"), LanguageModelTask("nao", config, str(text)))


def mlp_classifier(folder):
    config = MlpClassifierConfig(hidden_size=4, epochs=2, average_epochs=2, chunk=2)
    return Case(SigmoidSlopeSpace(), MlpClassifierTask(config, "digits"))


def image_classifier(folder):
    return Case(NasBench201Space(), small_image_classifiers.TASK)


def look_up(folder):
    space, formula = Widths(), Formula()
    cells = Cells.of(space, space.sample(jax.random.key(0), 3)).names
    items = [
        (EvaluationKey(space.name, cell, "task", seed, 4), formula.evaluate(cell, seed, 4))
        for cell in cells
        for seed in range(2)
    ]
    items = [(key, dataclasses.replace(own, unit="score")) for key, own in items]
    table.write(folder / "table.csv", items, {})
    task = lookup.open_task(folder / "table.csv", space, answers_smaller_budgets=True)
    return Case(space, task)


def formula(folder):
    return Case(Widths(), Formula())


@pytest.fixture(
    scope="module", params=[language_model, mlp_classifier, image_classifier, look_up, formula]
)
def case(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("task"))


def timeless(evaluation):
    """Return what an evaluation says, apart from how long it took, as text: NaN equals NaN."""
    return repr(dataclasses.replace(evaluation, seconds=0.0, unit=""))


def test_its_attributes_are_what_the_protocol_says(case):
    task = case.task
    assert type(task.budget) is int
    assert task.budget >= 2
    assert isinstance(task.unit, str)
    assert task.unit
    assert isinstance(task.fingerprint, str)
    assert task.fingerprint.strip() == task.fingerprint != ""
    assert type(task.answers_smaller_budgets) is bool
    protocol = BatchTask if isinstance(task, BatchTask) else Task
    for name, method in inspect.getmembers(protocol, inspect.isfunction):
        if not name.startswith("_"):
            expected = list(inspect.signature(method).parameters)
            assert list(inspect.signature(getattr(type(task), name)).parameters) == expected


def test_evaluations_are_whole_and_their_curves_no_longer_than_the_budget(case):
    for evaluation in case.whole:
        assert isinstance(evaluation, Evaluation)
        assert evaluation.status == "ok"
        assert type(evaluation.score) is float
        assert math.isfinite(evaluation.score)
        assert evaluation.seconds >= 0
        assert len(evaluation.curve) <= case.task.budget
        assert evaluation.unit in ("", case.task.unit)
    assert len({evaluation.score for evaluation in case.whole}) > 1


def test_equal_arguments_give_equal_scores(case):
    cell, budget = case.cells[1], case.task.budget
    assert timeless(case.task.evaluate(cell, 0, budget)) == timeless(case.whole[1])
    other = case.task.evaluate(cell, 1, budget)
    assert timeless(other) != timeless(case.whole[1])


def test_it_travels_to_a_worker(case):
    again = pickle.loads(pickle.dumps(case.task))
    assert again.fingerprint == case.task.fingerprint
    assert again.budget == case.task.budget
    assert timeless(again.evaluate(case.cells[0], 0, again.budget)) == timeless(case.whole[0])


def test_many_at_once_are_each_on_its_own(case):
    if not isinstance(case.task, BatchTask):
        pytest.skip("it evaluates cell by cell")
    cells, seeds, told = [*case.cells, case.cells[0]], [0, 0, 0, 1], []
    found = dict(
        case.task.evaluate_many(cells, seeds, case.task.budget, lambda *own: told.append(own))
    )
    assert sorted(found) == [0, 1, 2, 3]
    for place, evaluation in enumerate(case.whole):
        assert timeless(found[place]) == timeless(evaluation)
    single = case.task.evaluate(cells[3], 1, case.task.budget)
    assert timeless(found[3]) == timeless(single)
    done = [number for number, *_ in told]
    assert done == sorted(done)
    assert all(0 <= number <= total and isinstance(note, str) for number, total, note in told)


def test_a_smaller_budget_is_answered_by_a_longer_curve_where_it_says_so(case, tmp_path):
    cells, units = case.cells[:2], case.task.budget - 1
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        truth = GroundTruth(case.space.name, case.task, ledger)
        whole = [row[0] for row in truth.evaluate(cells)]
        assert truth.bought == 2
        assert {own.unit for own in whole} == {case.task.unit}
        assert [own.score for own in whole] == [own.score for own in case.whole[:2]]
        if not case.task.answers_smaller_budgets:
            truth.evaluate(cells, budget=units)
            assert truth.bought == 4
            return
        short = [row[0] for row in truth.evaluate(cells, budget=units)]
        assert truth.bought == 2
    for cell, answered in zip(cells, short, strict=True):
        run = case.task.evaluate(cell, 0, units)
        assert answered.score == run.score
        np.testing.assert_array_equal(answered.curve, run.curve)

"""surrogates/partial_training: what it predicts, what that costs, and what it buys."""

import types

import jax
import numpy as np
import pytest

from spd_jax.errors import UserError
from spd_jax.surrogates.partial_training import PartialTraining, of_ground_truth

CURVES = {1: (-3.0, -2.0, -1.5), 2: (-2.5, -2.4, -2.3), 3: (-4.0,), 4: ()}
ARCHS = np.array([3, 1, 4, 2, 1])
KEY = jax.random.key(0)


def lookup(archs, epochs):
    return [CURVES[int(arch)] for arch in archs]


def test_it_predicts_the_score_after_p_epochs_and_failed_trainings_fail():
    for epochs, expected in ((1, [-4, -3, np.nan, -2.5, -3]), (2, [np.nan, -2, np.nan, -2.4, -2])):
        fitted = PartialTraining(lookup, epochs, budget=3).fit(KEY, ARCHS, np.full(5, np.nan))
        predictions = fitted.predict(ARCHS)
        np.testing.assert_array_equal(predictions, np.array(expected, float))
        assert predictions.dtype == np.float64


@pytest.mark.parametrize(("epochs", "budget", "cost"), [(1, 4, 0.25), (2, 4, 0.5), (4, 4, 1.0)])
def test_a_query_costs_its_share_of_a_full_evaluation(epochs, budget, cost):
    assert PartialTraining(lookup, epochs, budget).cost_per_query == cost


def test_the_epochs_are_bought_from_the_ground_truth_and_no_more():
    asked = []

    def evaluate(cells, seeds, budget):
        asked.append((list(cells), tuple(seeds), budget))
        return [[types.SimpleNamespace(curve=CURVES[len(cell)][:budget])] for cell in cells]

    truth = types.SimpleNamespace(evaluate=evaluate)
    archs = {"size": np.array([2, 1])}
    named = of_ground_truth(truth, lambda arch: "x" * int(arch["size"]), seed=7)
    fitted = PartialTraining(named, 2, budget=3).fit(KEY, archs, np.zeros(2))
    assert asked == []
    np.testing.assert_array_equal(fitted.predict(archs), [-2.4, -2.0])
    assert asked == [(["xx", "x"], (7,), 2)]


def test_load_takes_the_epochs_from_the_file(tmp_path):
    fitted = PartialTraining(lookup, 2, budget=3).prepare(KEY)
    fitted.save(tmp_path / "partial.npz")
    loaded = PartialTraining(lookup, 1, budget=3).load(tmp_path / "partial.npz")
    np.testing.assert_array_equal(loaded.predict(ARCHS), fitted.predict(ARCHS))


@pytest.mark.parametrize(
    ("surrogate", "sentence"),
    [
        (PartialTraining(lookup, 0, 3), "partial training of 0 epochs: give 1 to 3"),
        (PartialTraining(lookup, 4, 3), "partial training of 4 epochs: give 1 to 3"),
        (PartialTraining(lambda archs, epochs: [], 1, 3), "0 learning curves for 5 motifs"),
    ],
)
def test_mistakes_are_sentences(surrogate, sentence):
    with pytest.raises(UserError, match=sentence):
        surrogate.fit(KEY, ARCHS, np.zeros(5)).predict(ARCHS)

"""surrogates/averaged: the mean of a dish and a regressor, both in the unit of the scores."""

import dataclasses
import functools
import inspect

import jax
import numpy as np
import pytest
from slope_dish import DISH, NEW, SCORES, SLOPES

from spd_jax.errors import UserError
from spd_jax.surrogates import protocol
from spd_jax.surrogates.averaged import Averaged
from spd_jax.surrogates.regressors import GaussianProcess

KEY = jax.random.key(4)
AVERAGED = Averaged(DISH, GaussianProcess(lambda archs: np.asarray(archs, float)[:, None]))


class Constant:
    """A regressor that has learned nothing but the mean."""

    def fit(self, key, archs, scores):
        self.value = np.mean(scores)
        return self

    def predict(self, archs):
        return np.full(len(archs), self.value)


@functools.cache
def fitted():
    return AVERAGED.fit(KEY, SLOPES, SCORES)


def test_it_is_the_mean_of_the_two_in_the_unit_of_the_scores():
    dish_key, regressor_key = jax.random.split(KEY)
    dish = DISH.fit(dish_key, SLOPES, SCORES).predict(NEW)
    process = AVERAGED.regressor.fit(regressor_key, SLOPES, SCORES).predict(NEW)
    expected = 0.5 * (SCORES.mean() + SCORES.std() * dish) + 0.5 * process
    np.testing.assert_allclose(fitted().predict(NEW), expected, rtol=1e-6)


def test_another_unit_of_the_scores_only_changes_the_unit_of_the_predictions():
    other = AVERAGED.fit(KEY, SLOPES, 100 + 7 * SCORES).predict(NEW)
    np.testing.assert_allclose((other - 100) / 7, fitted().predict(NEW), atol=1e-4)


def test_a_dish_that_was_saved_can_stand_in_for_its_fit():
    saved = []

    def fit_dish(key, archs, scores):
        saved.append(DISH.fit(key, archs, scores))
        return saved[0]

    averaged = AVERAGED.fit(KEY, SLOPES, SCORES, fit_dish=fit_dish)
    assert averaged.dish is saved[0]
    np.testing.assert_array_equal(averaged.predict(NEW), fitted().predict(NEW))


def test_a_regressor_that_knows_nothing_leaves_the_order_to_the_dish():
    average = Averaged(DISH, Constant()).fit(KEY, SLOPES, SCORES)
    dish = average.dish.predict(NEW)
    np.testing.assert_array_equal(np.argsort(average.predict(NEW)), np.argsort(dish))


def test_failed_ground_truths_are_left_out():
    scores = np.append(SCORES, np.nan)
    whole = AVERAGED.fit(KEY, np.append(SLOPES, np.float32(5.0)), scores)
    np.testing.assert_array_equal(whole.predict(NEW), fitted().predict(NEW))


def test_a_motif_that_diverges_in_the_dish_ranks_last():
    class Diverging(Constant):
        def predict(self, archs):
            return np.where(archs > 1.5, -np.inf, 0.0)

    predicted = dataclasses.replace(fitted(), dish=Diverging()).predict(NEW)
    np.testing.assert_array_equal(predicted == -np.inf, NEW > 1.5)
    assert np.isfinite(predicted[NEW <= 1.5]).all()
    flat = dataclasses.replace(fitted(), dish=Diverging(), std=0.0).predict(NEW)
    np.testing.assert_array_equal(flat == -np.inf, NEW > 1.5)


def test_it_obeys_the_protocol_and_comes_back_from_a_file(tmp_path):
    for instance, contract, names in (
        (AVERAGED, protocol.Surrogate, ("fit", "load")),
        (fitted(), protocol.Fitted, ("predict", "save")),
    ):
        for name in names:
            expected = list(inspect.signature(getattr(contract, name)).parameters)[1:]
            own = inspect.signature(getattr(instance, name)).parameters.values()
            assert [p.name for p in own if p.kind is not p.KEYWORD_ONLY] == expected
    predictions = fitted().predict(NEW)
    assert predictions.dtype == np.float64
    fitted().save(tmp_path / "pair.npz")
    np.testing.assert_array_equal(AVERAGED.load(tmp_path / "pair.npz").predict(NEW), predictions)


def test_mistakes_are_sentences(tmp_path):
    with pytest.raises(UserError, match="1 of 2 scores are finite"):
        AVERAGED.fit(KEY, SLOPES[:2], [0.5, np.nan])
    with pytest.raises(UserError, match="is missing"):
        AVERAGED.load(tmp_path / "none.npz")
    DISH.fit(KEY, SLOPES, SCORES).save(tmp_path / "dish.npz")
    with pytest.raises(UserError, match="saved surrogate"):
        AVERAGED.load(tmp_path / "dish.npz")

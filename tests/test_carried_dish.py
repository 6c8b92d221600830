"""surrogates.carried_dish: to go on elsewhere is to go on, to the bit."""

import dataclasses

import jax
import numpy as np
import pytest
from slope_dish import DISH, NEW, SCORES, SLOPES

from spd_jax.errors import UserError
from spd_jax.surrogates.carried_dish import CarriedDish

KEY = jax.random.key(3)
OTHER = SCORES[::-1].copy()


def longer(steps):
    config = dataclasses.replace(DISH.config, outer_steps=steps)
    return dataclasses.replace(DISH, config=config)


@pytest.fixture(scope="module")
def learned():
    return DISH.fit(KEY, SLOPES, SCORES)


def test_going_on_with_the_same_truths_is_one_long_fit(learned):
    carried = CarriedDish(longer(5), learned.state, 3).fit(KEY, SLOPES, SCORES)
    whole = longer(5).fit(KEY, SLOPES, SCORES)
    np.testing.assert_array_equal(carried.predict(NEW), whole.predict(NEW))
    assert int(carried.state.step) == 5


def test_other_truths_change_what_was_learned(learned):
    carried = CarriedDish(longer(5), learned.state, 3).fit(KEY, SLOPES, OTHER)
    assert np.any(carried.predict(NEW) != learned.predict(NEW))
    fresh = longer(5).fit(KEY, SLOPES, OTHER)
    assert np.any(carried.predict(NEW) != fresh.predict(NEW))


def test_a_fit_that_was_killed_ends_in_the_same_bits(learned, tmp_path):
    surrogate, states = CarriedDish(longer(5), learned.state, 3), []
    whole = surrogate.fit(KEY, SLOPES, OTHER, on_step=states.append)
    assert [step.done for step in states] == [3, 4, 5]
    again = surrogate.fit(KEY, SLOPES, OTHER, state=states[0].state)
    np.testing.assert_array_equal(again.predict(NEW), whole.predict(NEW))
    whole.save(tmp_path / "dish.npz")
    loaded = surrogate.load(tmp_path / "dish.npz")
    np.testing.assert_array_equal(loaded.predict(NEW), whole.predict(NEW))


def test_without_steps_left_nothing_is_learned(learned):
    carried = CarriedDish(DISH, learned.state, 0).fit(KEY, SLOPES, SCORES)
    np.testing.assert_array_equal(carried.predict(NEW), learned.predict(NEW))


@pytest.mark.parametrize("steps", [-1, 3, 0.5])
def test_more_steps_than_the_settings_have_are_refused(learned, steps):
    with pytest.raises(UserError, match="give a whole number up to outer_steps=2"):
        CarriedDish(DISH, learned.state, steps).start(KEY)


def test_held_out_motifs_are_refused(learned):
    surrogate = dataclasses.replace(DISH, held_out_share=0.5)
    with pytest.raises(UserError, match="set held_out_share to 0"):
        CarriedDish(surrogate, learned.state, 1).fit(KEY, SLOPES, SCORES)

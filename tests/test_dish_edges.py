"""dish: what does not recompile, and motifs, scores and truths that are odd."""

import dataclasses
import functools

import families
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from spd_jax import dish
from spd_jax.dish import inner_loop, losses
from spd_jax.dish.config import RATES, DishConfig
from spd_jax.motif import MotifFamily
from spd_jax.spaces import sigmoid_slope

FAMILY = sigmoid_slope.family(3, 2, 2)
CONFIG = DishConfig(
    inner_steps=3,
    outer_steps=6,
    train_samples=4,
    valid_samples=4,
    inner_learning_rate=0.3,
    inner_l2=0.01,
    outer_l2=0.02,
    decay_steps=(1,),
)
KEY = jax.random.key(1)
SLOPES = np.array([0.4, 0.7, 1.0, 1.3, 1.6, 1.9], np.float32)
TRUTH = np.array([0.91, 0.97, 0.96, 0.93, 0.94, 0.90], np.float32)


@functools.cache
def started(config=CONFIG, family=FAMILY):
    return dish.init(KEY, family, config)


def first_gradient(state):
    """Return the outer gradient of the first step: Adam's first moment is a tenth of it."""
    assert int(state.step) == 1
    return jax.tree.map(lambda mu: np.asarray(mu) / (1 - inner_loop.ADAM_BETA1), state.optimiser.mu)


def assert_close(tree, other, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), tree, other)


# No retrace


def test_rates_archs_and_data_do_not_retrace():
    counted = families.Counted()
    state = dish.init(KEY, counted.family, CONFIG)
    state, _ = dish.outer_step(state, counted.family, CONFIG, SLOPES, TRUTH)
    traces = counted.traces
    assert traces > 0
    rates = dict.fromkeys(RATES, 0.125)
    for config in (CONFIG, dataclasses.replace(CONFIG, **rates)):
        state, _ = dish.outer_step(state, counted.family, config, SLOPES + 1, TRUTH[::-1])
    fresh = dish.init(jax.random.key(9), counted.family, CONFIG)
    dish.outer_step(fresh, counted.family, CONFIG, np.asarray(SLOPES, float), TRUTH.astype(float))
    assert counted.traces == traces
    dish.outer_step(
        fresh, counted.family, dataclasses.replace(CONFIG, inner_steps=2), SLOPES, TRUTH
    )
    assert counted.traces > traces  # the count does count


def test_equal_families_are_one():
    assert sigmoid_slope.family() is sigmoid_slope.family()
    assert sigmoid_slope.family() is sigmoid_slope.family(10, 1, 10, True)
    assert sigmoid_slope.family(hidden=2) is sigmoid_slope.family(10, 2)
    assert sigmoid_slope.family(hidden=2) is not sigmoid_slope.family(hidden=3)


# Degenerate points

LINEAR = families.linear()


def no_gradient_where_negative(params, arch, inputs):
    """Be `LINEAR` of |a|; where a < 0 the value is finite and its gradient is not."""
    zero = jnp.sqrt(jnp.where(arch < 0, 0, 1) * jnp.sum(inputs**2))
    return LINEAR.apply(params, jnp.abs(arch), inputs) + jnp.where(arch < 0, zero, 0)


EXPLOSIVE = MotifFamily(LINEAR.init, no_gradient_where_negative, (3,), (1,))
SQUARES = dataclasses.replace(CONFIG, inner_loss="squared_error")
GOOD = np.array([0.5, 0.8, 0.9, 1.1, 1.4], np.float32)
GOOD_TRUTH = np.array([0.1, 0.4, 0.0, 0.3, 0.2], np.float32)


def step_with(third, weight=1):
    """Take one step with one motif of five, and its weight, changed."""
    archs, weights = GOOD.copy(), np.ones(5, np.float32)
    archs[2], weights[2] = third, weight
    state = started(SQUARES, EXPLOSIVE)
    return dish.outer_step(state, EXPLOSIVE, SQUARES, archs, GOOD_TRUTH, weights=weights)


@pytest.mark.parametrize(
    "bad", [1e30, np.nan, -1.0], ids=["infinite", "nan", "finite-score-infinite-gradient"]
)
def test_an_exploding_motif_is_left_out_and_the_others_learn_as_without_it(bad):
    alone, alone_info = step_with(0.9, weight=0)
    stepped, info = step_with(bad)
    assert info.masked.tolist() == [1]
    assert alone_info.masked.tolist() == [0]
    assert np.isfinite(info.scores[0, 2]) == (bad == -1)
    assert_close(info.loss, alone_info.loss)
    assert_close(first_gradient(stepped), first_gradient(alone), rtol=1e-4)


def test_a_finite_score_too_large_to_square_leaves_numbers_finite():
    stepped, info = step_with(1e15)
    scores = np.asarray(info.scores[0], float)
    assert scores.min() < -1e25
    expected = oracle.zscored_mse(scores, GOOD_TRUTH.astype(float))
    assert float(info.loss[0]) == pytest.approx(expected, rel=1e-4)
    assert all(np.isfinite(g).all() for g in first_gradient(stepped).values())


def test_a_motif_that_explodes_scores_worst_for_sure():
    state = started(SQUARES, EXPLOSIVE)
    slopes = np.array([0.5, 1e30, np.nan, 1.4], np.float32)
    scores = dish.predict(state, EXPLOSIVE, SQUARES, slopes)
    np.testing.assert_array_equal(scores[1:3], -np.inf)
    assert np.isfinite(scores[[0, 3]]).all()


def test_all_motifs_exploding_leaves_finite_data():
    state = started(SQUARES, EXPLOSIVE)
    stepped, info = dish.outer_step(
        state, EXPLOSIVE, SQUARES, np.full(5, 1e30), GOOD_TRUTH, weights=np.ones(5)
    )
    assert info.masked.tolist() == [5]
    assert np.isfinite(stepped.data.train_inputs).all()
    assert np.isfinite(info.loss).all()


@pytest.mark.parametrize("outer_loss", losses.OUTER_LOSSES)
@pytest.mark.parametrize("equal", ["scores", "truths"])
def test_equal_scores_or_truths_give_finite_gradients(outer_loss, equal):
    config = dataclasses.replace(CONFIG, outer_loss=outer_loss, outer_l2=0.0)
    slopes, truth = SLOPES, np.full_like(TRUTH, 0.9)
    if equal == "scores":
        slopes, truth = np.full_like(SLOPES, 0.7), TRUTH
    stepped, info = dish.outer_step(started(), FAMILY, config, slopes, truth)
    gradient = first_gradient(stepped)
    assert all(np.isfinite(g).all() for g in gradient.values())
    assert np.isfinite(info.loss).all()
    assert info.masked.tolist() == [0]
    if outer_loss != "raw_mse" and equal == "scores":
        # Motifs that cannot be told apart give no direction to learn in.
        assert max(np.abs(g).max() for g in gradient.values()) < 1
    neutral = {"zscored_mse": 1, "absolute_pearson": 1, "pairwise_rank": np.log(2)}
    if outer_loss in neutral and not (outer_loss == "pairwise_rank" and equal == "truths"):
        assert float(info.loss[0]) == pytest.approx(neutral[outer_loss], abs=1e-5)

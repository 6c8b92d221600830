"""losses: values against NumPy, hand-computed cases, weights, points of no spread."""

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spd_jax.dish import losses

each_inner = pytest.mark.parametrize("name", losses.INNER_LOSSES)
each_outer = pytest.mark.parametrize("name", losses.OUTER_LOSSES)
ONES = jnp.ones(6)
SCORES = np.array([-0.9, -0.2, -0.5, -0.4, -0.7, -0.1], np.float32)
TRUTH = np.array([0.1, 0.6, 0.6, 0.3, 0.2, 0.4], np.float32)  # with a tie


def draw(shape, seed=0):
    generator = np.random.default_rng(seed)
    outputs = 3 * generator.normal(size=shape)
    return outputs.astype(np.float32), generator.random(shape).astype(np.float32)


# Inner losses


@each_inner
@pytest.mark.parametrize("shape", [(5, 4), (3, 2, 4)])
def test_an_inner_loss_is_the_mean_of_numpy(name, shape):
    outputs, labels = draw(shape)
    expected = oracle.INNER_LOSSES[name](outputs.astype(float), labels.astype(float))
    assert float(losses.INNER_LOSSES[name](outputs, labels)) == pytest.approx(expected, rel=1e-5)


def test_hand_computed_inner_losses():
    one = jnp.ones((1, 1))
    assert float(losses.binary_cross_entropy(0 * one, one)) == pytest.approx(np.log(2))
    half = jnp.array([[0.5, 0.5]])
    assert float(losses.softmax_cross_entropy(0 * half, half)) == pytest.approx(np.log(2))
    assert float(losses.squared_error(3 * one, one)) == pytest.approx(4)


@pytest.mark.parametrize("name", ["binary_cross_entropy", "softmax_cross_entropy"])
def test_large_logits_keep_losses_and_gradients_finite(name):
    logits = jnp.array([[1e4, -1e4], [-1e4, 1e4]])
    labels = jnp.array([[1.0, 0.0], [1.0, 0.0]])
    loss, gradient = jax.value_and_grad(losses.INNER_LOSSES[name])(logits, labels)
    # Half of the terms are right and cost nothing, half are wrong by 1e4 (softmax: by 2e4).
    expected = {"binary_cross_entropy": 5e3, "softmax_cross_entropy": 1e4}[name]
    assert float(loss) == pytest.approx(expected)
    assert np.isfinite(gradient).all()


@each_inner
def test_gradients_of_inner_losses_to_second_order(name):
    with jax.enable_x64(True):
        outputs, labels = (jnp.asarray(x, float) for x in draw((3, 2), 1))
        jax.test_util.check_grads(
            losses.INNER_LOSSES[name], (outputs, labels), order=2, modes=["fwd", "rev"]
        )


def test_true_class_probability():
    logits, labels = draw((4, 3), 2)
    p = oracle.sigmoid(logits.astype(float))
    expected = np.mean(labels * p + (1 - labels) * (1 - p))
    value = losses.true_class_probability(logits, labels, "binary_cross_entropy")
    assert float(value) == pytest.approx(expected, rel=1e-5)
    classes = np.eye(3, dtype=np.float32)[[0, 2, 2, 1]]
    expected = oracle.softmax(logits.astype(float))[range(4), [0, 2, 2, 1]].mean()
    value = losses.true_class_probability(logits, classes, "softmax_cross_entropy")
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_standardised_outputs():
    outputs = draw((4, 3), 2)[0]
    expected = 3 * (outputs - outputs.mean()) / outputs.std()
    np.testing.assert_allclose(losses.standardised(outputs), expected, rtol=1e-5)
    np.testing.assert_allclose(losses.standardised(7 * outputs + 2), expected, rtol=1e-4)


def test_equal_outputs_have_no_scale_and_a_finite_gradient():
    value, gradient = jax.value_and_grad(lambda x: losses.standardised(x)[0, 0])(jnp.ones((2, 2)))
    assert value == 0
    assert np.all(np.isfinite(gradient))


# Outer losses


@each_outer
def test_an_outer_loss_is_that_of_numpy(name):
    expected = oracle.OUTER_LOSSES[name](SCORES.astype(float), TRUTH.astype(float))
    assert float(losses.OUTER_LOSSES[name](SCORES, TRUTH, ONES)) == pytest.approx(
        expected, rel=1e-5
    )


def test_hand_computed_outer_losses():
    scores, truth, ones = np.array([1.0, 2.0]), np.array([5.0, 3.0]), np.ones(2)
    # z-scores are (-1, 1) and (1, -1): wrong by 2 each, r = -1, one pair wrong by 2.
    assert float(losses.zscored_mse(scores, truth, ones)) == pytest.approx(4)
    assert float(losses.absolute_pearson(scores, truth, ones)) == pytest.approx(0, abs=1e-6)
    assert float(losses.raw_mse(scores, truth, ones)) == pytest.approx((16 + 1) / 2)
    pair = np.log(1 + np.exp(2))
    assert float(losses.pairwise_rank(scores, truth, ones)) == pytest.approx(pair, rel=1e-6)


def test_zscored_mse_is_two_times_one_minus_pearson():
    r = np.corrcoef(SCORES, TRUTH)[0, 1]
    assert float(losses.zscored_mse(SCORES, TRUTH, ONES)) == pytest.approx(2 * (1 - r), rel=1e-5)


@each_outer
def test_motifs_of_weight_zero_count_neither_in_value_nor_in_gradient(name):
    loss = losses.OUTER_LOSSES[name]
    scores, truth = np.insert(SCORES, [0, 3], 1e3), np.insert(TRUTH, [0, 3], -7)
    weights = np.insert(np.ones(6), [0, 3], 0)
    value, gradient = jax.value_and_grad(loss)(scores, truth, weights)
    expected, expected_gradient = jax.value_and_grad(loss)(SCORES, TRUTH, ONES)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    np.testing.assert_allclose(gradient, np.insert(expected_gradient, [0, 3], 0), atol=1e-6)


@pytest.mark.parametrize("name", ["zscored_mse", "absolute_pearson", "pairwise_rank"])
@pytest.mark.parametrize("scale", [1e-12, 1e25])
def test_normalised_outer_losses_do_not_depend_on_the_scale(name, scale):
    loss = losses.OUTER_LOSSES[name]
    value, gradient = jax.value_and_grad(loss)(np.float32(scale) * SCORES, TRUTH, ONES)
    expected, expected_gradient = jax.value_and_grad(loss)(SCORES, TRUTH, ONES)
    assert float(value) == pytest.approx(float(expected), rel=1e-4)
    np.testing.assert_allclose(gradient * scale, expected_gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["zscored_mse", "absolute_pearson", "pairwise_rank"])
@given(value=st.floats(-1, 1, width=32).filter(lambda x: abs(x) > 1e-3), count=st.integers(2, 40))
@settings(max_examples=60)
def test_equal_scores_know_nothing_and_give_no_gradient(name, value, count):
    # Float32 means of equal numbers are off by a rounding, which is not a spread.
    scores = np.full(40, value, np.float32)
    truth = np.arange(40, dtype=np.float32)
    weights = (np.arange(40) < count).astype(np.float32)
    loss, gradient = VALUE_AND_GRAD[name](scores, truth, weights)
    neutral = {"zscored_mse": 1, "absolute_pearson": 1, "pairwise_rank": np.log(2)}[name]
    assert float(loss) == pytest.approx(neutral, abs=1e-4)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient, 0, atol=1e-3)


@given(value=st.floats(-1, 1, width=32).filter(lambda x: abs(x) > 1e-3), count=st.integers(2, 40))
@settings(max_examples=60)
def test_equal_truths_ask_for_nothing(value, count):
    scores = np.sin(np.arange(40, dtype=np.float32))
    truth = np.full(40, value, np.float32)
    weights = (np.arange(40) < count).astype(np.float32)
    for name, neutral in {"zscored_mse": 1, "absolute_pearson": 1, "pairwise_rank": 0}.items():
        loss, gradient = VALUE_AND_GRAD[name](scores, truth, weights)
        assert float(loss) == pytest.approx(neutral, abs=1e-4)
        np.testing.assert_allclose(gradient, 0, atol=1e-3)


VALUE_AND_GRAD = {
    name: jax.jit(jax.value_and_grad(loss)) for name, loss in losses.OUTER_LOSSES.items()
}


@each_outer
def test_one_motif_or_none_gives_finite_numbers(name):
    for count in (0, 1):
        weights = (np.arange(6) < count).astype(np.float32)
        loss, gradient = VALUE_AND_GRAD[name](SCORES, TRUTH, weights)
        assert np.isfinite(loss)
        assert np.isfinite(gradient).all()
        np.testing.assert_array_equal(gradient[count:], 0)


@each_outer
@given(st.permutations(range(6)))
@settings(max_examples=10)
def test_the_order_of_the_motifs_does_not_matter(name, order):
    order = np.array(order)
    loss = VALUE_AND_GRAD[name]
    permuted, _ = loss(SCORES[order], TRUTH[order], ONES)
    assert float(permuted) == pytest.approx(float(loss(SCORES, TRUTH, ONES)[0]), rel=1e-5)


@each_outer
def test_gradients_of_outer_losses(name):
    with jax.enable_x64(True):
        scores, truth, ones = (jnp.asarray(x, float) for x in (SCORES, TRUTH, ONES))
        jax.test_util.check_grads(
            lambda scores: losses.OUTER_LOSSES[name](scores, truth, ones),
            (scores,),
            order=2,
            modes=["rev"],
        )


def test_no_weights_give_the_mean_zero():
    assert float(losses.weighted_mean(jnp.ones(3), jnp.zeros(3))) == 0
    assert float(losses.weighted_mean(jnp.arange(3.0), jnp.array([0.0, 1, 1]))) == 1.5

"""dish.inner_curves against shorter trainings; accuracy by hand; ranks as targets of a fit."""

import dataclasses

import jax
import numpy as np
import pytest

from spd_jax import dish
from spd_jax.dish import losses
from spd_jax.dish.known import KnownMotifs
from spd_jax.errors import UserError
from spd_jax.spaces import sigmoid_slope

FAMILY = sigmoid_slope.family(hidden=2)
CONFIG = dish.DishConfig(
    inner_steps=5, outer_steps=3, train_samples=4, valid_samples=3, ensemble_size=2,
    inner_batch_size=2, inner_learning_rate=0.1, outer_learning_rate=0.1,
)  # fmt: skip
SLOPES = np.array([0.3, 1.0, 2.0], np.float32)
KEY = jax.random.key(0)


def test_curves_are_the_scores_of_shorter_trainings():
    state = dish.init(KEY, FAMILY, CONFIG)
    found = dish.inner_curves(state, FAMILY, CONFIG, SLOPES, every=2, chunk=2)
    assert found.steps.tolist() == [2, 4, 5]
    assert found.train_loss.shape == found.accuracy.shape == (2, 3, 3)
    for place, steps in enumerate(found.steps.tolist()):
        shorter = dataclasses.replace(CONFIG, inner_steps=steps)
        expected = -dish.raw_scores(state, FAMILY, shorter, SLOPES)
        np.testing.assert_allclose(found.valid_loss[..., place], expected, rtol=1e-5)


def test_the_train_loss_is_the_valid_loss_where_both_see_the_same_samples():
    config = dataclasses.replace(CONFIG, valid_samples=4)
    state = dish.init(KEY, FAMILY, config)
    found = dish.inner_curves(state, FAMILY, config, SLOPES, every=5)
    assert found.steps.tolist() == [5]
    np.testing.assert_allclose(found.train_loss, found.valid_loss, rtol=1e-5)
    assert np.all((found.accuracy >= 0) & (found.accuracy <= 1))


@pytest.mark.parametrize("every", [0, 6, 1.5, True])
def test_looks_that_the_training_does_not_have_are_refused(every):
    with pytest.raises(UserError, match="every="):
        dish.inner_curves(dish.init(KEY, FAMILY, CONFIG), FAMILY, CONFIG, SLOPES, every=every)


@pytest.mark.parametrize(
    ("loss", "outputs", "labels", "expected"),
    [
        ("softmax_cross_entropy", [[1.0, 3.0], [2.0, 0.0]], [[0, 1], [0, 1]], 0.5),
        ("binary_cross_entropy", [[-1.0, 3.0], [2.0, -0.1]], [[0, 1], [0, 1]], 0.5),
        ("squared_error", [[0.4, 0.6], [0.7, 0.9]], [[0, 1], [0, 1]], 0.75),
    ],
)
def test_accuracy_by_hand(loss, outputs, labels, expected):
    assert float(losses.accuracy(np.array(outputs), np.array(labels), loss)) == expected


def test_ranks_are_standardised_and_ties_share_them():
    ranks = dataclasses.replace(CONFIG, targets="ranks")
    known = KnownMotifs.of(np.arange(4.0, dtype=np.float32), [0.1, 9e3, 0.1, 0.2])
    expected = np.array([1.5, 4, 1.5, 3])
    expected = (expected - expected.mean()) / expected.std()
    np.testing.assert_allclose(known.targets(ranks).truth, expected, rtol=1e-6)
    assert known.targets(CONFIG) is known


def test_a_fit_on_ranks_sees_the_order_of_the_truths_alone():
    ranks = dataclasses.replace(CONFIG, targets="ranks")

    def fitted(config, truth):
        return dish.fit(dish.init(KEY, FAMILY, config), FAMILY, config, SLOPES, truth)[0]

    plain, outlier = fitted(ranks, [0.2, 0.9, 0.8]), fitted(ranks, [-50.0, 0.9, 0.8])
    np.testing.assert_array_equal(plain.data.train_inputs, outlier.data.train_inputs)
    by_value = fitted(CONFIG, [-50.0, 0.9, 0.8])
    assert np.any(by_value.data.train_inputs != outlier.data.train_inputs)


def test_held_out_motifs_are_ranked_too():
    ranks = dataclasses.replace(CONFIG, targets="ranks", valid_every=1)
    state, info = dish.fit(
        dish.init(KEY, FAMILY, ranks), FAMILY, ranks, SLOPES, [0.2, 0.9, 0.8],
        valid_archs=SLOPES[:2] + 0.1, valid_ground_truth=[-50.0, 0.7],
    )  # fmt: skip
    assert sorted(info.valid_loss) == [0, 1, 2, 3]
    assert np.isfinite(np.asarray(state.std)).all()

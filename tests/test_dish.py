"""dish: initial state, scores and one outer step against NumPy; equivalences; odd motifs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import optax
import oracle
import pytest

from spd_jax import dish
from spd_jax.dish import inner_loop, losses
from spd_jax.dish.config import DishConfig, outer_rate_factor
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
PAIR = dataclasses.replace(CONFIG, ensemble_size=2)
KEY = jax.random.key(1)
SLOPES = np.array([0.4, 0.7, 1.0, 1.3, 1.6, 1.9], np.float32)
TRUTH = np.array([0.91, 0.97, 0.96, 0.93, 0.94, 0.90], np.float32)
SETTINGS = {"steps": 3, "rate": 0.3, "l2": 0.01}


def member(tree, index):
    return jax.tree.map(lambda leaf: np.asarray(leaf, float)[index], tree)


def first_gradient(state):
    """Return the outer gradient of the first step: Adam's first moment is a tenth of it."""
    assert int(state.step) == 1
    return jax.tree.map(lambda mu: np.asarray(mu) / (1 - inner_loop.ADAM_BETA1), state.optimiser.mu)


def assert_close(tree, other, rtol=1e-5, atol=1e-7):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), tree, other)


@functools.cache
def started(config=PAIR, family=FAMILY):
    return dish.init(KEY, family, config)


# The state at the start


def test_a_dish_starts_as_described():
    config = dataclasses.replace(PAIR, valid_samples=6, init_scale=np.array([1.0, 3.0]))
    state = dish.init(KEY, FAMILY, config)
    data = state.data
    assert data.train_inputs.shape == (2, 4, 3)
    assert data.valid_labels.shape == (2, 6, 2)
    np.testing.assert_array_equal(data.train_inputs, data.valid_inputs[:, :4])
    np.testing.assert_array_equal(data.train_labels, data.valid_labels[:, :4])
    assert set(np.unique(data.valid_labels)) == {0, 1}
    assert np.any(data.train_inputs[0] != data.train_inputs[1])
    plain = dish.init(KEY, FAMILY, PAIR)
    assert_close(member(state.params, 0), member(plain.params, 0))
    assert_close(member(state.params, 1), jax.tree.map(lambda p: 3 * p, member(plain.params, 1)))


def test_balanced_labels_hold_as_many_of_each_class_as_fit():
    family = MotifFamily(FAMILY.init, FAMILY.apply, (3,), (5, 3), "balanced_classes")
    config = dataclasses.replace(CONFIG, train_samples=4, valid_samples=4)
    labels = np.asarray(dish.init(KEY, family, config).data.train_labels)
    assert labels.shape == (1, 4, 5, 3)
    np.testing.assert_array_equal(labels.sum(-1), 1)
    counts = labels.sum((0, 1, 2))
    assert sorted(counts) == [6, 7, 7]


# Values against NumPy


def oracle_scores(state, index=0, data=None):
    layers = oracle.layers_of([member(layer, index) for layer in state.params])
    data = member(state.data, index) if data is None else data
    return np.array([oracle.score(layers, float(c), data, **SETTINGS) for c in SLOPES])


def test_raw_scores_are_those_of_numpy():
    state = started()
    raw = dish.raw_scores(state, FAMILY, PAIR, SLOPES)
    assert raw.shape == (2, 6)
    for index in range(2):
        np.testing.assert_allclose(raw[index], oracle_scores(state, index), rtol=2e-5)


def test_the_dish_is_the_masked_super_network():
    state = started()
    layers = oracle.layers_of([member(layer, 0) for layer in state.params])
    scores = oracle.supernetwork_scores(layers, SLOPES, member(state.data, 0), **SETTINGS)
    raw = dish.raw_scores(state, FAMILY, PAIR, SLOPES)
    np.testing.assert_allclose(raw[0], scores, rtol=2e-5)


@pytest.mark.parametrize("outer_loss", losses.OUTER_LOSSES)
def test_the_outer_gradient_is_that_of_differences_in_numpy(outer_loss):
    config = dataclasses.replace(CONFIG, outer_loss=outer_loss)
    state = started(CONFIG)
    data = member(state.data, 0)
    stepped, info = dish.outer_step(state, FAMILY, config, SLOPES, TRUTH)
    truth = TRUTH.astype(float)

    def loss(inputs, l2=0.02):
        scores = oracle_scores(state, 0, (inputs[0], data[1], inputs[1], data[3]))
        return oracle.OUTER_LOSSES[outer_loss](scores, truth) + l2 * np.sum(inputs**2)

    inputs = np.stack([data.train_inputs, data.valid_inputs])
    expected = oracle.central_differences(loss, inputs)
    gradient = first_gradient(stepped)
    scale = np.abs(expected).max()
    for field, part in zip(("train_inputs", "valid_inputs"), expected, strict=True):
        np.testing.assert_allclose(gradient[field][0], part, rtol=1e-3, atol=1e-3 * scale)
    assert float(info.loss[0]) == pytest.approx(loss(inputs, 0), rel=1e-4)
    np.testing.assert_allclose(info.scores[0], oracle_scores(state), rtol=2e-5)
    assert info.masked.tolist() == [0]


def whole_outer_loss(config, params, data, learned, family=FAMILY):
    """Return the outer loss with its L2 as one function, for `jax.grad`."""
    data = data._replace(**learned)

    def score(arch):
        return inner_loop.score(family, config, params, arch, data, KEY)

    loss = losses.OUTER_LOSSES[config.outer_loss](
        jax.vmap(score)(jnp.asarray(SLOPES)), jnp.asarray(TRUTH), jnp.ones(len(TRUTH))
    )
    return loss + config.outer_l2 * sum(jnp.sum(x**2) for x in learned.values())


def inputs_of(data):
    return {name: getattr(data, name) for name in ("train_inputs", "valid_inputs")}


def test_gradient_of_the_whole_outer_loss():
    with jax.enable_x64(True):
        params, data = jax.tree.map(
            lambda x: jnp.asarray(np.asarray(x[0], float)),
            (started(CONFIG).params, started(CONFIG).data),
        )
        loss = jax.jit(lambda learned: whole_outer_loss(CONFIG, params, data, learned))
        jax.test_util.check_grads(
            loss, (inputs_of(data),), order=1, modes=["rev"], eps=1e-6, atol=1e-6, rtol=1e-5
        )


def test_outer_steps_are_optax_adam_on_the_outer_loss():
    config = dataclasses.replace(CONFIG, decay_steps=(2,), outer_learning_rate=0.2, decay=0.1)
    state = started(CONFIG)
    params, data = jax.tree.map(lambda x: x[0], (state.params, state.data))
    schedule = optax.piecewise_constant_schedule(0.2, {2: 0.1})
    optimiser = optax.adam(schedule, eps=1e-8, eps_root=1e-16)
    learned = inputs_of(data)
    moments = optimiser.init(learned)
    gradient = jax.jit(jax.grad(lambda learned: whole_outer_loss(config, params, data, learned)))
    sizes = []
    for _ in range(4):
        before = state.data
        state, _ = dish.outer_step(state, FAMILY, config, SLOPES, TRUTH)
        updates, moments = optimiser.update(gradient(learned), moments)
        learned = optax.apply_updates(learned, updates)
        assert_close(inputs_of(member(state.data, 0)), learned, rtol=2e-3, atol=2e-4)
        sizes.append(np.abs(state.data.train_inputs - before.train_inputs).max())
    assert sizes[2] < 0.5 * sizes[1]  # the rate did fall
    np.testing.assert_array_equal(state.data.train_labels[0], data.train_labels)
    assert int(state.step) == 4


# Equivalences


def test_a_dish_is_a_loop_over_its_motifs_and_members():
    state = started()
    raw = dish.raw_scores(state, FAMILY, PAIR, SLOPES)
    score = jax.jit(
        lambda params, slope, data: inner_loop.score(FAMILY, PAIR, params, slope, data, KEY)
    )
    for index in range(2):
        params, data = jax.tree.map(lambda x: x[index], (state.params, state.data))  # noqa: B023
        alone = [float(score(params, slope, data)) for slope in SLOPES]
        np.testing.assert_allclose(raw[index], alone, rtol=1e-5)


def test_motifs_with_weights_of_their_own_have_the_same_ones_in_every_batch():
    config = dataclasses.replace(PAIR, shared_weights=False, init_scale=2.0)
    state = started()
    raw = dish.raw_scores(state, FAMILY, config, SLOPES)
    backwards = dish.raw_scores(state, FAMILY, config, SLOPES[::-1][:4])
    # A program for four motifs may round otherwise than one for eight.
    np.testing.assert_allclose(raw[:, ::-1][:, :4], backwards, rtol=1e-6)
    assert np.abs(raw - dish.raw_scores(state, FAMILY, PAIR, SLOPES)).min() > 1e-4


def test_weights_of_a_motifs_own_are_drawn_at_the_familys_scale():
    def family():  # the score is minus the square of the only weight
        return MotifFamily(
            lambda key: {"weight": jax.random.normal(key, (1,))},
            lambda params, arch, inputs: params["weight"] + 0 * arch + 0 * inputs,
            (1,), (1,),
        )  # fmt: skip

    own = family()
    config = DishConfig(
        inner_steps=1, inner_learning_rate=0.0, inner_loss="squared_error", init_scale=3.0,
        shared_weights=False, train_samples=1, valid_samples=1,
    )  # fmt: skip
    state = dish.init(KEY, own, config)
    data = state.data._replace(valid_labels=jnp.zeros((1, 1, 1)))
    state = dataclasses.replace(state, data=data)
    squares = -dish.raw_scores(state, own, config, np.linspace(0, 1, 2000, dtype=np.float32))[0]
    assert len(np.unique(squares)) > 1990  # some of so many float32 may fall together
    assert np.mean(squares) == pytest.approx(9, rel=0.15)  # 3 standard errors


def cut(state, index):
    """Return one member's dish as a dish of its own."""

    def one(leaf):
        return leaf[index : index + 1] if leaf.ndim else leaf

    fields = ("params", "data", "optimiser", "sign", "mean", "std")
    return dataclasses.replace(
        state, **{name: jax.tree.map(one, getattr(state, name)) for name in fields}
    )


def test_a_member_learns_in_the_ensemble_what_it_learns_alone():
    rates = np.array([0.05, 0.2], np.float32)
    together = dataclasses.replace(PAIR, outer_learning_rate=rates, inner_l2=rates)
    state = started()
    for index in range(2):
        config = dataclasses.replace(
            CONFIG, outer_learning_rate=rates[index], inner_l2=rates[index]
        )
        alone, alone_info = dish.outer_step(cut(state, index), FAMILY, config, SLOPES, TRUTH)
        joint, info = dish.outer_step(state, FAMILY, together, SLOPES, TRUTH)
        assert_close(alone.data, cut(joint, index).data, rtol=1e-4, atol=1e-5)
        assert_close(alone_info.loss, info.loss[index : index + 1])


def test_shared_data_stay_shared_and_gather_both_gradients():
    config = dataclasses.replace(CONFIG, shared_data=True)
    state = dish.init(KEY, FAMILY, config)
    apart, _ = dish.outer_step(started(CONFIG), FAMILY, CONFIG, SLOPES, TRUTH)
    shared, _ = dish.outer_step(state, FAMILY, config, SLOPES, TRUTH)
    np.testing.assert_array_equal(shared.data.train_inputs, shared.data.valid_inputs)
    assert np.any(shared.data.train_inputs != state.data.train_inputs)
    parts = first_gradient(apart)
    l2 = 2 * 0.02 * np.asarray(state.data.train_inputs)  # counted once, not once for each half
    expected = parts["train_inputs"] + parts["valid_inputs"] - l2
    assert_close(first_gradient(shared), {"train_inputs": expected}, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shared_data", [True, False])
def test_learned_labels_move_and_stay_probabilities(shared_data):
    config = dataclasses.replace(
        CONFIG, learn_labels=True, shared_data=shared_data, outer_learning_rate=0.3
    )
    start = state = dish.init(KEY, FAMILY, config)
    for _ in range(3):
        state, _ = dish.outer_step(state, FAMILY, config, SLOPES, TRUTH)
    for name in ("train_labels", "valid_labels"):
        labels = np.asarray(getattr(state.data, name))
        assert labels.min() >= 0
        assert labels.max() <= 1
        assert np.any((labels > 0) & (labels < 1))
        assert np.any(labels != getattr(start.data, name))
    assert np.all(state.data.train_labels == state.data.valid_labels) == shared_data


@pytest.mark.parametrize("odd", [5.0, np.nan])
def test_motifs_of_weight_zero_are_as_if_absent(odd):
    padded = np.concatenate([SLOPES, [9, 9]]).astype(np.float32)
    truth = np.concatenate([TRUTH, [7, odd]]).astype(np.float32)
    weights = np.array([1] * 6 + [0] * 2, np.float32)
    alone, info = dish.outer_step(started(CONFIG), FAMILY, CONFIG, SLOPES, TRUTH)
    with_padding, padded_info = dish.outer_step(
        started(CONFIG), FAMILY, CONFIG, padded, truth, weights=weights
    )
    assert_close(first_gradient(with_padding), first_gradient(alone), rtol=1e-4)
    assert_close(padded_info.loss, info.loss)
    assert padded_info.masked.tolist() == [0]


@pytest.mark.parametrize("schedule", ["staircase", "cosine", "constant"])
def test_the_outer_rate_follows_its_schedule(schedule):
    config = DishConfig(outer_steps=10, schedule=schedule, decay_steps=(2, 5), decay=0.5)
    oracles = {
        "staircase": [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.25],
        "cosine": [0.5 * (1 + np.cos(np.pi * step / 10)) for step in range(10)],
        "constant": [1] * 10,
    }
    factors = [outer_rate_factor(config, jnp.asarray(step)) for step in range(10)]
    np.testing.assert_allclose(factors, oracles[schedule], rtol=1e-6)


def test_x64_runs_the_same_dish():
    with jax.enable_x64(True):
        state = dish.init(KEY, FAMILY, CONFIG)
        stepped, info = dish.outer_step(state, FAMILY, CONFIG, SLOPES, TRUTH)
        expected = oracle_scores(state)
    assert stepped.data.train_inputs.dtype == np.float64
    np.testing.assert_allclose(info.scores[0], expected, rtol=1e-6)

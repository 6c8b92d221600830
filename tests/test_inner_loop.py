"""inner_loop: values against NumPy and optax, gradients against differences, equivalences."""

import dataclasses
import functools

import families
import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import optax
import oracle
import pytest

from spd_jax.dish import inner_loop, losses
from spd_jax.dish.config import DishConfig
from spd_jax.dish.inner_loop import SyntheticData
from spd_jax.spaces import sigmoid_slope

FAMILY = sigmoid_slope.family(3, 2, 4)
CONFIG = DishConfig(
    inner_steps=3, train_samples=5, valid_samples=6, inner_learning_rate=0.1, inner_l2=0.01
)
SLOPE = 0.7
KEY = jax.random.key(0)


def draw(seed=0, *, family=FAMILY, dtype=np.float64):
    """Return parameters and data of one motif as NumPy arrays; labels are fractions."""
    generator = np.random.default_rng(seed)
    shapes = jax.eval_shape(family.init, KEY)
    params = jax.tree.map(lambda s: generator.normal(size=s.shape).astype(dtype), shapes)
    data = []
    for samples in (CONFIG.train_samples, CONFIG.valid_samples):
        data.append(generator.normal(size=(samples, *family.input_shape)).astype(dtype))
        data.append(generator.random((samples, *family.output_shape)).astype(dtype))
    return params, SyntheticData(*data)


def gradient_of_score(config, params, data, family=FAMILY, slope=SLOPE):
    """Return the score and its gradient in every field of the data."""

    def scored(data):
        return inner_loop.score(family, config, params, slope, data, KEY)

    return jax.jit(jax.value_and_grad(scored))(jax.tree.map(jnp.asarray, data))


def assert_close(tree, other, rtol=1e-5, atol=1e-7):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), tree, other)


# Values


@pytest.mark.parametrize("l2", [0.0, 0.01])
@pytest.mark.parametrize("use_bias", [True, False])
def test_training_is_the_numpy_oracle(use_bias, l2):
    family = sigmoid_slope.family(3, 2, 4, use_bias)
    config = dataclasses.replace(CONFIG, inner_steps=6, inner_l2=l2)
    params, data = draw(family=family)
    settings = {"steps": 6, "rate": 0.1, "l2": l2, "use_bias": use_bias}
    layers = oracle.layers_of(params)
    expected = oracle.train(layers, SLOPE, *data[:2], loss="binary_cross_entropy", **settings)
    with jax.enable_x64(True):
        trained = jax.jit(lambda: inner_loop.train(family, config, params, SLOPE, data, KEY))()
        score = jax.jit(lambda: inner_loop.score(family, config, params, SLOPE, data, KEY))()
    for (weight, bias), layer in zip(expected, trained, strict=True):
        np.testing.assert_allclose(layer["weight"], weight, rtol=1e-9)
        np.testing.assert_allclose(layer.get("bias", 0 * bias), bias, rtol=1e-9)
    assert float(score) == pytest.approx(oracle.score(layers, SLOPE, data, **settings), rel=1e-10)


@pytest.mark.parametrize("loss", losses.INNER_LOSSES)
def test_each_inner_loss_trains_and_scores_as_the_oracle(loss):
    params, data = draw(1)
    expected = oracle.score(
        oracle.layers_of(params), SLOPE, data, loss=loss, steps=3, rate=0.1, l2=0.01
    )
    config = dataclasses.replace(CONFIG, inner_loss=loss)
    with jax.enable_x64(True):
        score = inner_loop.score(FAMILY, config, params, SLOPE, data, KEY)
    assert float(score) == pytest.approx(expected, rel=1e-9)


def test_the_standardised_loss_of_the_trained_network():
    params, data = draw(2)
    config = dataclasses.replace(CONFIG, inner_loss="softmax_cross_entropy", inner_steps=2)
    trained = inner_loop.train(FAMILY, config, params, SLOPE, data, KEY)
    z = np.asarray(FAMILY.apply(trained, SLOPE, data.valid_inputs), float)
    z = 3 * (z - z.mean()) / z.std()
    expected = np.mean(np.sum(data.valid_labels * np.log(oracle.softmax(z)), axis=-1))
    config = dataclasses.replace(config, inner_metric="standardised_loss")
    score = inner_loop.score(FAMILY, config, params, SLOPE, data, KEY)
    assert float(score) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "softmax_cross_entropy"])
def test_true_class_probability_of_the_trained_network(loss):
    params, data = draw(2)
    config = dataclasses.replace(
        CONFIG, inner_loss=loss, inner_metric="true_class_probability", inner_steps=2
    )
    train_inputs, train_labels, inputs, y = data
    layers = oracle.layers_of(params)
    layers = oracle.train(
        layers, SLOPE, train_inputs, train_labels, loss=loss, steps=2, rate=0.1, l2=0.01
    )
    z = oracle.forward(layers, SLOPE, inputs)[-1]
    if loss == "softmax_cross_entropy":
        expected = np.mean(np.sum(y * oracle.softmax(z), axis=-1))
    else:
        expected = np.mean(y * oracle.sigmoid(z) + (1 - y) * (1 - oracle.sigmoid(z)))
    with jax.enable_x64(True):
        score = inner_loop.score(FAMILY, config, params, SLOPE, data, KEY)
    assert float(score) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("eps_root", [1e-16, 0.0], ids=["ours", "stock"])
def test_the_optimiser_is_optax_adam(eps_root):
    params, data = draw(3, dtype=np.float32)
    optimiser = optax.adam(0.1, eps=1e-8, eps_root=eps_root)

    def loss(params):
        squares = sum(jnp.sum(p**2) for p in jax.tree.leaves(params))
        outputs = FAMILY.apply(params, SLOPE, data.train_inputs)
        return losses.binary_cross_entropy(outputs, data.train_labels) + 0.01 * squares

    reference, moments = params, optimiser.init(params)
    gradient = jax.jit(jax.grad(loss))
    for _ in range(8):
        updates, moments = optimiser.update(gradient(reference), moments)
        reference = optax.apply_updates(reference, updates)
    config = dataclasses.replace(CONFIG, inner_steps=8)
    trained = inner_loop.train(FAMILY, config, params, SLOPE, data, KEY)
    assert_close(trained, reference, rtol=2e-5, atol=2e-6)


def test_one_step_on_a_quadratic_motif_has_a_closed_form():
    # Adam's first step is rate * sign(gradient), which does not change with the train data:
    # theta' = theta - rate sign(g), score = -mean((a x theta' - y)^2).
    family, slope, rate = families.linear(), 1.5, 0.25
    params, data = draw(4, family=family)
    config = dataclasses.replace(
        CONFIG, inner_loss="squared_error", inner_steps=1, inner_l2=0.0, inner_learning_rate=rate
    )
    train_inputs, train_labels, x, y = data
    residual = slope * train_inputs @ params["theta"] - train_labels[:, 0]
    theta = params["theta"] - rate * np.sign(train_inputs.T @ residual)
    error = slope * x @ theta - y[:, 0]
    with jax.enable_x64(True):
        score, gradient = gradient_of_score(config, params, data, family, slope)
    assert float(score) == pytest.approx(-np.mean(error**2), rel=1e-6)
    expected = -2 * slope * error[:, None] * theta / len(error)
    np.testing.assert_allclose(gradient.valid_inputs, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient.train_inputs, 0, atol=1e-6)
    np.testing.assert_allclose(gradient.valid_labels[:, 0], 2 * error / len(error), rtol=1e-6)


# Gradients


@pytest.mark.parametrize("loss", losses.INNER_LOSSES)
def test_gradient_of_the_score_through_three_inner_steps(loss):
    params, data = draw(5)
    config = dataclasses.replace(CONFIG, inner_loss=loss)
    config = dataclasses.replace(config, inner_learning_rate=0.5)

    @jax.jit
    def scored(train, valid):  # scaled so that the train data's part is well above the tolerance
        return 1e3 * inner_loop.score(
            FAMILY, config, params, SLOPE, SyntheticData(*train, *valid), KEY
        )

    with jax.enable_x64(True):
        train, valid = jax.tree.map(jnp.asarray, (data[:2], data[2:]))
        check = functools.partial(
            jax.test_util.check_grads, order=1, modes=["rev"], eps=1e-5, atol=1e-6, rtol=1e-5
        )
        check(lambda train: scored(train, valid), (train,))
        check(lambda valid: scored(train, valid), (valid,))
        assert np.abs(jax.grad(scored)(train, valid)[0]).max() > 1e-3


def test_gradient_where_an_inner_gradient_is_exactly_zero():
    # theta[2] never matters: its first moment and second moment stay 0, where sqrt has no slope.
    family = families.linear()
    params, data = draw(6, family=family, dtype=np.float32)
    data.train_inputs[:, 2] = 0
    config = dataclasses.replace(CONFIG, inner_loss="squared_error", inner_l2=0.0)
    score, gradient = gradient_of_score(config, params, data, family)
    assert np.isfinite(score)
    assert all(np.isfinite(g).all() for g in gradient)
    trained = inner_loop.train(family, config, params, SLOPE, data, KEY)
    assert trained["theta"][2] == params["theta"][2]


# Equivalences


def python_loop(config, params, data, *, free_from=0):
    """Train with optax in a Python loop; the gradient flows from step `free_from` on."""
    optimiser = optax.sgd(config.inner_learning_rate)
    if config.inner_optimiser == "adam":
        optimiser = optax.adam(config.inner_learning_rate, eps=1e-8, eps_root=1e-16)
    moments = optimiser.init(params)
    stopped = jax.lax.stop_gradient(data)
    for t in range(config.inner_steps):
        used = data if t >= free_from else stopped

        def loss(params, used=used):
            squares = sum(jnp.sum(p**2) for p in jax.tree.leaves(params))
            outputs = FAMILY.apply(params, SLOPE, used.train_inputs)
            mean = losses.binary_cross_entropy(outputs, used.train_labels)
            return mean + config.inner_l2 * squares

        updates, moments = optimiser.update(jax.grad(loss)(params), moments)
        params = optax.apply_updates(params, updates)
    outputs = FAMILY.apply(params, SLOPE, data.valid_inputs)
    return -losses.binary_cross_entropy(outputs, data.valid_labels)


LOOP = dataclasses.replace(CONFIG, inner_steps=4, inner_learning_rate=0.05)


def reference_gradient(params, data, free_from, config=LOOP):
    def scored(data):
        return python_loop(config, jax.tree.map(jnp.asarray, params), data, free_from=free_from)

    return jax.jit(jax.value_and_grad(scored))(jax.tree.map(jnp.asarray, data))


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_the_full_gradient_is_that_of_a_python_loop(optimiser):
    config = dataclasses.replace(LOOP, inner_optimiser=optimiser)
    with jax.enable_x64(True):
        params, data = draw(7)
        expected = reference_gradient(params, data, 0, config)
        assert_close(gradient_of_score(config, params, data), expected, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("remat", ["step", "nested"])
def test_derivatives_through_gradient_descent_in_everything_are_plain_ones(remat):
    config = dataclasses.replace(CONFIG, inner_steps=5, inner_optimiser="sgd", remat=remat)
    with jax.enable_x64(True):
        params, data = jax.tree.map(jnp.asarray, draw(10))

        def both(remat):
            def scored(params, data, slope, rate, l2):
                own = dataclasses.replace(
                    config, remat=remat, inner_learning_rate=rate, inner_l2=l2
                )
                return inner_loop.score(FAMILY, own, params, slope, data, KEY)

            return jax.jit(jax.value_and_grad(scored, (0, 1, 2, 3, 4)))(
                params, data, SLOPE, 0.1, 0.01
            )

        assert_close(both(remat), both("none"), rtol=1e-8, atol=1e-12)


def test_the_truncated_gradient_is_that_of_the_last_steps():
    with jax.enable_x64(True):
        params, data = draw(7)
        config = dataclasses.replace(LOOP, gradient="truncated", truncation=2)
        expected = reference_gradient(params, data, 2)
        assert_close(gradient_of_score(config, params, data), expected, rtol=1e-7, atol=1e-12)
        full = gradient_of_score(LOOP, params, data)[1]
        assert np.abs(full.train_inputs - expected[1].train_inputs).max() > 1e-6


def test_truncation_by_all_steps_is_the_full_gradient():
    params, data = draw(8, dtype=np.float32)
    config = dataclasses.replace(LOOP, gradient="truncated", truncation=4)
    assert_close(gradient_of_score(config, params, data), gradient_of_score(LOOP, params, data))


def test_evaluation_only_holds_the_trained_parameters_fixed():
    params, data = draw(9, dtype=np.float32)
    config = dataclasses.replace(LOOP, gradient="evaluation_only")
    score, gradient = gradient_of_score(config, params, data)
    trained = inner_loop.train(FAMILY, LOOP, params, SLOPE, data, KEY)

    def validation(inputs, labels):
        return -losses.binary_cross_entropy(FAMILY.apply(trained, SLOPE, inputs), labels)

    expected, expected_gradient = jax.value_and_grad(validation, (0, 1))(*data[2:])
    assert_close((score, *gradient[2:]), (expected, *expected_gradient))
    assert not np.any(gradient.train_inputs)
    assert not np.any(gradient.train_labels)


@pytest.mark.parametrize("count", [1, 9, 11])  # nested: segments of 1, 3 and 3, at last with a rest
@pytest.mark.parametrize("remat", ["step", "nested"])
def test_the_written_out_backward_pass_is_plain_differentiation(remat, count):
    config = dataclasses.replace(CONFIG, inner_steps=count, inner_batch_size=2, remat=remat)
    with jax.enable_x64(True):
        params, data = jax.tree.map(jnp.asarray, draw(10))

        def both(config):
            def scored(params, data):
                return inner_loop.score(FAMILY, config, params, SLOPE, data, KEY)

            return jax.jit(jax.value_and_grad(scored, (0, 1)))(params, data)

        expected = both(dataclasses.replace(config, remat="none"))
        assert_close(both(config), expected, rtol=1e-8, atol=1e-12)


def temporary_bytes(**settings):
    """Return what one gradient of a long inner training holds at most."""
    params, data = draw(11, dtype=np.float32)
    config = dataclasses.replace(CONFIG, inner_steps=2500, **settings)

    def scored(data):
        return inner_loop.score(FAMILY, config, params, SLOPE, data, KEY)

    compiled = jax.jit(jax.grad(scored)).lower(data).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_of_a_long_run_falls_with_rematerialisation():
    none, step, nested = (temporary_bytes(remat=remat) for remat in ("none", "step", "nested"))
    carry = 4 * 3 * 26  # float32 of (theta, mu, nu) with 26 parameters
    assert 2500 * carry <= step < none
    assert nested < step / 5
    assert temporary_bytes(remat="auto") == nested


def test_memory_of_a_truncated_gradient_does_not_hold_the_early_steps():
    truncated = temporary_bytes(remat="step", gradient="truncated", truncation=50)
    assert truncated < temporary_bytes(remat="step") / 5


# Inner minibatches


ONE_HOT = families.linear(6)


def moved(steps, batch, key, samples=6):
    """Return which of six samples have been trained on: sample i alone moves theta[i]."""
    config = DishConfig(
        inner_steps=steps,
        train_samples=samples,
        inner_batch_size=batch,
        inner_loss="squared_error",
        inner_l2=0.0,
    )
    eye = np.eye(6, dtype=np.float32)
    labels = np.full((6, 1), 9, np.float32)
    data = jax.tree.map(jnp.asarray, SyntheticData(eye, labels, eye, labels))
    theta = inner_loop.train(ONE_HOT, config, {"theta": jnp.zeros(6)}, 1.0, data, key)["theta"]
    return tuple(np.flatnonzero(np.asarray(theta)))


def test_an_inner_epoch_meets_every_sample_once():
    counts = [len(moved(steps, 2, KEY)) for steps in (1, 2, 3)]
    assert counts == [2, 4, 6]


def test_samples_that_fill_no_minibatch_wait_for_the_next_epoch():
    assert len(moved(1, 4, KEY)) == 4
    first_epochs = {moved(1, 4, jax.random.key(seed)) for seed in range(8)}
    second_epochs = {moved(2, 4, jax.random.key(seed)) for seed in range(8)}
    assert len(first_epochs) > 1  # the key decides
    assert max(map(len, second_epochs)) > 4  # a fresh permutation, not the same four


def test_a_minibatch_of_all_samples_is_the_full_batch():
    params, data = draw(12)
    config = dataclasses.replace(CONFIG, inner_batch_size=CONFIG.train_samples)
    with jax.enable_x64(True):
        expected = gradient_of_score(CONFIG, params, data)
        assert_close(gradient_of_score(config, params, data), expected, rtol=1e-8)

"""surrogates: rivals of the dish, each against an independent computation."""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spd_jax import metrics
from spd_jax.errors import UserError
from spd_jax.surrogates import protocol, regressors, slope_mlp
from spd_jax.surrogates.regressors import GaussianProcess, RandomForest
from spd_jax.surrogates.slope_mlp import SlopeMlp


def columns(slopes):
    return np.asarray(slopes)[:, None]


RIVALS: dict[str, protocol.Surrogate] = {
    "mlp-tanh": SlopeMlp(),
    "mlp-sigmoid": SlopeMlp(activation="sigmoid"),
    "gp-rbf": GaussianProcess(columns),
    "gp-matern": GaussianProcess(columns, kernel="matern"),
    "forest": RandomForest(columns, trees=30),
}
each_rival = pytest.mark.parametrize("rival", RIVALS.values(), ids=RIVALS)

KEY = jax.random.key(3)
SLOPES = np.linspace(0.4, 2.0, 15)
SCORES = 0.97 - 0.03 * (SLOPES - 0.4)
NEW = np.linspace(0.45, 1.95, 31)


@functools.cache
def fit_once(rival):
    return rival.fit(KEY, SLOPES, SCORES)


@each_rival
def test_a_rival_learns_a_smooth_function_in_the_unit_of_the_scores(rival):
    predictions = fit_once(rival).predict(NEW)
    assert metrics.kendall_tau(predictions, -NEW) > 0.9
    np.testing.assert_allclose(predictions, 0.97 - 0.03 * (NEW - 0.4), atol=0.005)


@each_rival
def test_higher_scores_stay_higher_whatever_their_unit(rival):
    perplexity_like = rival.fit(KEY, SLOPES, -1000 * SCORES).predict(NEW)
    assert metrics.kendall_tau(perplexity_like, NEW) > 0.9
    assert -1000 < perplexity_like.min() < perplexity_like.max() < -900


@pytest.mark.parametrize(
    ("saver", "loader"),
    [
        (SlopeMlp(activation="sigmoid"), SlopeMlp()),
        (GaussianProcess(columns, kernel="matern"), GaussianProcess(columns)),
        (RandomForest(columns, trees=30), RandomForest(columns)),
    ],
)
def test_load_takes_the_settings_from_the_file(saver, loader, tmp_path):
    fit_once(saver).save(tmp_path / "fitted.npz")
    loaded = loader.load(tmp_path / "fitted.npz")
    np.testing.assert_array_equal(loaded.predict(NEW), fit_once(saver).predict(NEW))


@pytest.mark.parametrize("rival", [SlopeMlp(), RandomForest(columns, trees=5)])
def test_another_key_gives_another_surrogate(rival):
    one, other = (rival.fit(jax.random.key(k), SLOPES, SCORES).predict(NEW) for k in (0, 1))
    assert np.any(one != other)


@each_rival
def test_a_motif_that_is_no_number_is_refused(rival):
    with pytest.raises(UserError, match="finite numbers"):
        fit_once(rival).predict(np.array([0.5, np.nan]))


# --- The MLP ---------------------------------------------------------------------------------


def python_loop(config, key, slopes, targets):
    """Train like `SlopeMlp`, in a Python loop with optax's own optimiser and schedule."""
    init_key, batch_key = jax.random.split(key)
    params = jax.jit(slope_mlp.init)(init_key, config)
    rate = optax.exponential_decay(
        config.learning_rate, config.decay_steps, config.decay, staircase=True
    )
    optimiser = optax.adam(rate, eps_root=1e-16)
    state = optimiser.init(params)

    def loss(params, slopes, targets):
        first = jnp.tanh(jnp.outer(slopes, params["w0"][0]) + params["b0"])
        second = jnp.tanh(first @ params["w1"] + params["b1"])
        outputs = second @ params["w2"][:, 0] + params["b2"]
        squares = sum(jnp.vdot(leaf, leaf) for leaf in params.values())
        return jnp.mean((outputs - targets) ** 2) + config.l2 * squares

    @jax.jit
    def step(params, state, number):
        order = jax.random.permutation(jax.random.fold_in(batch_key, number), len(slopes))
        batch = order[: config.batch_size]
        gradient = jax.grad(loss)(params, slopes[batch], targets[batch])
        updates, state = optimiser.update(gradient, state)
        return optax.apply_updates(params, updates), state

    for number in range(config.steps):
        params, state = step(params, state, number)
    return params


def test_the_mlp_trains_as_a_python_loop_with_optax_does():
    config = SlopeMlp(
        hidden_size=4, decay=0.5, decay_steps=7, l2=0.01, steps=20, batch_size=4, init_scale=0.7
    )
    slopes, scores = SLOPES[:6], SCORES[:6]
    targets = (scores - scores.mean()) / scores.std()
    fitted = config.fit(KEY, slopes, scores)
    expected = python_loop(config, KEY, jnp.float32(slopes), jnp.float32(targets))
    assert fitted.params.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(fitted.params[name], expected[name], rtol=1e-4, atol=1e-5)
    assert (fitted.mean, fitted.std) == (scores.mean(), scores.std())


def test_the_mlp_starts_from_weights_and_biases_at_the_stated_scale():
    config = SlopeMlp(hidden_size=100, init_scale=0.3)
    params = jax.jit(slope_mlp.init)(KEY, config)
    shapes = {name: leaf.shape for name, leaf in params.items()}
    assert shapes == {
        "w0": (1, 100), "b0": (100,), "w1": (100, 100), "b1": (100,), "w2": (100, 1), "b2": (1,)
    }  # fmt: skip
    assert np.std(params["w1"]) == pytest.approx(0.3, rel=0.03)
    assert np.std(params["b0"]) == pytest.approx(0.3, rel=0.25)
    assert abs(np.mean(params["w1"])) < 0.01


def test_the_defaults_are_those_of_table_3():
    assert dataclasses.asdict(SlopeMlp()) == {
        "hidden_size": 10,
        "activation": "tanh",
        "learning_rate": 0.01,
        "decay": 0.97,
        "decay_steps": 100,
        "l2": 1e-4,
        "steps": 150,
        "batch_size": 15,
        "init_scale": 1.0,
    }


def test_changing_a_rate_does_not_retrace(monkeypatch):
    traces = []
    apply = slope_mlp.apply

    def counting(*args):
        traces.append(args)
        return apply(*args)

    monkeypatch.setattr(slope_mlp, "apply", counting)
    config = SlopeMlp(steps=3)
    config.fit(KEY, SLOPES[:11], SCORES[:11])
    first = len(traces)
    assert first > 0
    for change in ("learning_rate", "decay", "decay_steps", "l2", "init_scale"):
        doubled = dataclasses.replace(config, **{change: 2 * getattr(config, change)})
        doubled.fit(KEY, SLOPES[4:], SCORES[4:])
    assert len(traces) == first


@pytest.mark.parametrize(
    ("rival", "message"),
    [
        (SlopeMlp(activation="relu"), "unknown activation 'relu': use one of tanh, sigmoid"),
        (SlopeMlp(batch_size=0), "batch_size is 0: give at least 1"),
        (SlopeMlp(decay_steps=0), "decay_steps is 0"),
        (GaussianProcess(columns, kernel="linear"), "unknown kernel 'linear': use one of rbf, mat"),
        (RandomForest(columns, trees=0), "trees is 0: give at least 1"),
        (GaussianProcess(lambda slopes: slopes), r"have shape \(15,\): give one row"),
        (RandomForest(lambda slopes: np.ones((3, 2))), r"have shape \(3, 2\): give one row"),
        (RandomForest(lambda slopes: columns(slopes) * np.nan), "finite numbers per motif"),
    ],
)
def test_settings_that_are_not_allowed_are_refused(rival, message):
    with pytest.raises(UserError, match=message):
        rival.fit(KEY, SLOPES, SCORES)


# --- The regressors --------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", regressors.KERNELS)
def test_the_gaussian_process_predicts_the_posterior_mean(kernel):
    scores = np.sin(4 * SLOPES) + 0.1 * np.cos(50 * SLOPES)
    fitted = GaussianProcess(columns, kernel).fit(KEY, SLOPES, scores)
    constant, length, *line, noise = np.exp(fitted.data["theta"])

    def similarity(left, right):
        distance = np.abs(left[:, None] - right[None, :]) / length
        linear = sum(line) * left[:, None] * right[None, :]
        if kernel.endswith("rbf"):
            return constant * np.exp(-(distance**2) / 2) + linear
        scaled = np.sqrt(5) * distance
        return constant * (1 + scaled + scaled**2 / 3) * np.exp(-scaled) + linear

    known, new = ((slopes - SLOPES.mean()) / SLOPES.std() for slopes in (SLOPES, NEW))
    targets = (scores - scores.mean()) / scores.std()
    weights = np.linalg.solve(similarity(known, known) + noise * np.eye(15), targets)
    oracle = scores.mean() + scores.std() * similarity(new, known) @ weights
    np.testing.assert_allclose(fitted.predict(NEW), oracle, atol=1e-6)


def test_the_gaussian_process_finds_the_noise_that_it_was_given():
    slopes = np.linspace(0, 2, 40)
    clean = np.sin(3 * slopes)
    noisy = clean + 0.3 * (-1) ** np.arange(40)  # standard deviation 0.3
    fitted = GaussianProcess(columns).fit(KEY, slopes, noisy)
    noise = np.sqrt(np.exp(fitted.data["theta"][2])) * noisy.std()
    assert noise == pytest.approx(0.3, rel=0.1)
    assert np.sqrt(np.mean((fitted.predict(slopes) - clean) ** 2)) < 0.15


def test_the_forest_is_the_mean_of_its_trees_and_stays_within_the_scores():
    fitted = RandomForest(columns, trees=7).fit(KEY, SLOPES, SCORES)
    scaled = columns((NEW - SLOPES.mean()) / SLOPES.std())
    trees = [tree.predict(scaled) for tree in fitted.model.estimators_]
    assert len(trees) == 7
    np.testing.assert_allclose(fitted.predict(NEW), np.mean(trees, axis=0), rtol=1e-12)
    far = fitted.predict(np.array([-100.0, 100.0]))
    assert SCORES.min() <= far[1] < far[0] <= SCORES.max()


@pytest.mark.parametrize("make", [GaussianProcess, RandomForest])
def test_regressors_take_any_pytree_of_archs(make):
    def features(archs):
        return np.stack([archs["slope"], archs["width"]], axis=1)

    rng = np.random.default_rng(0)
    archs = {"slope": jnp.float32(rng.uniform(size=25)), "width": jnp.arange(25) % 7}
    scores = np.array(3.0 * archs["slope"] + archs["width"])
    scores[5] = np.nan
    fitted = make(features).fit(KEY, archs, scores)
    kept = np.isfinite(scores)
    assert metrics.kendall_tau(fitted.predict(archs)[kept], scores[kept]) > 0.8
    assert fitted.data["vectors"].shape == (24, 2)


@pytest.mark.parametrize("rival", [GaussianProcess(columns), RandomForest(columns)])
def test_a_missing_scikit_learn_is_named_with_its_remedy(rival, monkeypatch):
    for module in ("sklearn.exceptions", "sklearn.gaussian_process", "sklearn.ensemble"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"needs scikit-learn: pip install spd_jax\[experiments\]"):
        rival.fit(KEY, SLOPES, SCORES)


def test_a_changed_feature_scale_changes_nothing():
    for make in (GaussianProcess, RandomForest):
        plain = make(columns).fit(KEY, SLOPES, SCORES).predict(NEW)
        scaled = make(lambda slopes: 1000 * columns(slopes) - 7).fit(KEY, SLOPES, SCORES)
        np.testing.assert_allclose(scaled.predict(NEW), plain, atol=1e-4)

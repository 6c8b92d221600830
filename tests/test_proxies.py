"""surrogates/proxies: closed forms of a quadratic network, the covariance score, dead networks."""

import functools

import families
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spd_jax.dish import state as dish_state
from spd_jax.dish.config import DishConfig
from spd_jax.errors import UserError
from spd_jax.motif import MotifFamily
from spd_jax.spaces import rnn_cell
from spd_jax.spaces.rnn_cell import network as rnn_cell_network
from spd_jax.surrogates import proxies
from spd_jax.surrogates.proxies import MEASURES, Proxy, covariance_score, readout_states

LINEAR = families.linear(size=3)
ARCHS = np.array([0.5, -1.0, 2.0, 0.1, 1.5], np.float32)
KEY = jax.random.key(4)
CELL_FAMILY = rnn_cell_network.family("enas_mean", inputs=2, hidden=2, outputs=3, length=3)


def linear(measure, **settings):
    settings = {"draws": 3, "samples": 6, "init_scale": 0.7, **settings}
    return Proxy(measure, LINEAR, inner_loss="squared_error", **settings)


@functools.cache
def drawn():
    """Return the weights, inputs and labels of `linear`'s three draws."""
    config = DishConfig(train_samples=6, valid_samples=6, ensemble_size=3, init_scale=0.7)
    state = dish_state.init(KEY, LINEAR, config)
    arrays = state.params["theta"], state.data.train_inputs, state.data.train_labels
    return [np.asarray(array, float) for array in arrays]


def closed_form(measure, theta, x, y, a):
    """The network is a X theta, its loss the mean of (a X theta - y)^2."""
    gradient = 2 * a * x.T @ (a * x @ theta - y[:, 0]) / len(x)
    hessian = 2 * a**2 * x.T @ x / len(x)
    return {
        "grad_norm": np.log(np.linalg.norm(gradient)),
        "snip": np.log(np.abs(theta * gradient).sum()),
        "grasp": -theta @ hessian @ gradient,
        "synflow": np.log(np.abs(a * theta).sum()),
    }[measure]


@pytest.mark.parametrize("measure", ["grad_norm", "snip", "grasp", "synflow"])
def test_a_measure_is_its_closed_form_on_a_quadratic_network(measure):
    by_draw = linear(measure).prepare(KEY).by_draw(ARCHS)
    expected = [
        [closed_form(measure, *draw, a) for a in ARCHS] for draw in zip(*drawn(), strict=True)
    ]
    np.testing.assert_allclose(by_draw, expected, rtol=2e-4, atol=1e-6)


def test_the_covariances_of_a_quadratic_network():
    # d(sum of outputs)/dx is a theta for every sample: correlation 1, eigenvalues 6, 0, 0, ...
    values = linear("jacobian_covariance").prepare(KEY).predict(ARCHS)
    k = proxies.RIDGE
    spectrum = np.array([6 + k] + [k] * 5)
    np.testing.assert_allclose(values, -np.sum(np.log(spectrum) + 1 / spectrum), rtol=1e-3)
    # Without `states` the outputs are looked at: one number for each sample, so no variance.
    assert np.isnan(linear("hidden_covariance").prepare(KEY).predict(ARCHS)).all()


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from([(4, 9), (6, 6), (8, 5)]))
def test_the_score_is_that_of_the_correlation_matrix(seed, shape):
    values = np.random.default_rng(seed).normal(3.0, size=shape)
    spectrum = np.maximum(np.linalg.eigvalsh(np.corrcoef(values)), 0) + proxies.RIDGE
    expected = -np.sum(np.log(spectrum) + 1 / spectrum)
    np.testing.assert_allclose(covariance_score(jnp.asarray(values)), expected, rtol=5e-3)


def test_the_score_is_greatest_for_samples_that_have_nothing_in_common():
    apart = jnp.asarray([[1.0, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
    k = proxies.RIDGE
    best = -3 * (np.log(1 + k) + 1 / (1 + k))
    np.testing.assert_allclose(covariance_score(apart), best, rtol=1e-5)
    assert covariance_score(apart.at[1].set(apart[0] + 0.1 * apart[1])) < best
    assert np.isnan(covariance_score(apart.at[2].set(5.0)))


def test_states_are_what_the_network_reads_out():
    cell = rnn_cell.RnnCellSpace("enas_mean").sample(jax.random.key(0), 1)
    cell = jax.tree.map(lambda x: jnp.asarray(x[0]), cell)
    params = CELL_FAMILY.init(jax.random.key(1))
    inputs = jax.random.normal(jax.random.key(2), (4, 3, 2))
    states = readout_states(CELL_FAMILY)(params, cell, inputs)
    assert states.shape == (4, 3, 2)
    logits = states @ params["weight"].T + params["bias"][:, 0]
    np.testing.assert_allclose(logits, CELL_FAMILY.apply(params, cell, inputs), rtol=1e-5)


@pytest.mark.parametrize("measure", ["snip", "hidden_covariance"])
def test_equal_cells_get_equal_values_and_others_others(measure):
    cells = rnn_cell.RnnCellSpace("enas_mean").sample(jax.random.key(0), 6)
    cells = jax.tree.map(lambda x: x[[0, 1, 2, 3, 4, 0]], cells)
    proxy = Proxy(measure, CELL_FAMILY, readout_states(CELL_FAMILY), draws=2, samples=4)
    values = proxy.fit(KEY, cells, np.zeros(6)).predict(cells)
    assert np.isfinite(values).all()
    assert values[0] == pytest.approx(values[5])
    assert len(np.unique(values.round(6))) == 5


def test_chunks_change_nothing():
    whole, small = (linear("snip", chunk=chunk).prepare(KEY) for chunk in (64, 2))
    np.testing.assert_allclose(small.by_draw(ARCHS), whole.by_draw(ARCHS), rtol=1e-5)


def test_the_mean_over_draws_is_the_prediction_and_another_key_another_one():
    fitted = linear("snip").prepare(KEY)
    np.testing.assert_allclose(fitted.predict(ARCHS), fitted.by_draw(ARCHS).mean(axis=0))
    other = linear("snip").fit(jax.random.key(5), ARCHS, np.zeros(5))
    assert np.all(other.predict(ARCHS) != fitted.predict(ARCHS))


def test_another_scale_compiles_nothing_anew():
    traces = []

    def apply(params, arch, inputs):
        traces.append(1)
        return LINEAR.apply(params, arch, inputs)

    family = MotifFamily(LINEAR.init, apply, (3,), (1,))
    counts = []
    for scale in (0.5, 0.25):
        Proxy("snip", family, init_scale=scale).prepare(KEY).predict(ARCHS)
        counts.append(len(traces))
    assert 0 < counts[0] == counts[1]


def test_the_file_of_another_proxy_is_refused(tmp_path):
    linear("synflow").prepare(KEY).save(tmp_path / "proxy.npz")
    with pytest.raises(UserError, match="is of 'synflow', not of 'snip'"):
        linear("snip").load(tmp_path / "proxy.npz")


def test_a_dead_network_fails():
    dead = MotifFamily(LINEAR.init, lambda params, arch, x: 0 * x[:, :1], (3,), (1,))
    fitted = Proxy("snip", dead, inner_loss="squared_error").prepare(KEY)
    assert np.isneginf(fitted.by_draw(ARCHS)).all()
    assert np.isnan(fitted.predict(ARCHS)).all()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: linear("naswot").prepare(KEY), "unknown proxy 'naswot': use one of grad_"),
        (lambda: linear("snip", chunk=0).prepare(KEY), "chunk is 0"),
        (lambda: linear("snip").prepare(KEY).predict(ARCHS[:0]), "no motifs to measure"),
        (lambda: linear("snip", samples=0).prepare(KEY), "train_samples=0"),
        (lambda: Proxy("snip", LINEAR, inner_loss="hinge").prepare(KEY), "inner_loss='hinge'"),
    ],
)
def test_mistakes_are_sentences(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()


def test_every_measure_has_its_name():
    assert all(function.__name__ == name for name, function in MEASURES.items())
    assert len(MEASURES) == 6

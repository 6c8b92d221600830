"""spaces.rnn_cell: the motif-network against NumPy loops, and one outer step of the dish on it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rnn_cell_oracle as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from spd_jax import dish
from spd_jax.archs import stack, unstack
from spd_jax.dish import inner_loop, losses
from spd_jax.dish.config import DishConfig
from spd_jax.errors import UserError
from spd_jax.motif import num_parameters
from spd_jax.spaces import rnn_cell
from spd_jax.spaces.rnn_cell import PUBLISHED, VARIANTS, RnnCellSpace
from spd_jax.spaces.rnn_cell import network as rnn_cell_network

SIZES = {"inputs": 4, "hidden": 3, "outputs": 2, "length": 5}
SPACES = {variant: RnnCellSpace(variant) for variant in VARIANTS}
few = settings(max_examples=25)
INPUTS = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)


@functools.cache
def network(variant):
    """Return the compiled motif-network and its weights."""
    family = rnn_cell_network.family(variant, **SIZES)
    return jax.jit(family.apply), family.init(jax.random.key(1))


def with_nodes(params, nodes):
    return params | {"cell": params["cell"]._replace(nodes=nodes)}


def some_cells(variant):
    """Return a few cells: random ones, all nodes leaves, one chain, the published ones."""
    space = SPACES[variant]
    cells = unstack(space.sample(jax.random.key(2), 4))
    for predecessor in (np.zeros(11, np.int32), np.arange(11, dtype=np.int32)):
        activation = np.arange(12, dtype=np.int32) % 4
        cells.append(rnn_cell.RnnCell(predecessor, activation))
    return cells + [space.decode(text) for v, text in PUBLISHED.values() if v == variant]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_motif_network_is_that_of_numpy(variant):
    apply, params = network(variant)
    for cell in some_cells(variant):
        outputs = apply(params, cell, INPUTS)
        assert outputs.shape == (3, 5, 2)
        assert outputs.dtype == jnp.float32
        expected = oracle.forward(params, cell, variant, INPUTS)
        np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_mapped_over_cells_it_is_the_same(variant):
    apply, params = network(variant)
    cells = some_cells(variant)
    mapped = jax.vmap(apply, in_axes=(None, 0, None))(params, stack(cells), INPUTS)
    for outputs, cell in zip(mapped, cells, strict=True):
        np.testing.assert_allclose(outputs, apply(params, cell, INPUTS), rtol=1e-5, atol=1e-6)


def test_the_variants_differ():
    cell = some_cells("nao")[0]
    outputs = [network(variant)[0](network("nao")[1], cell, INPUTS) for variant in VARIANTS]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(outputs[i] - outputs[j]).max() > 1e-3


@pytest.mark.parametrize("index", range(4))
def test_the_activations_are_those_of_numpy(index):
    values = np.linspace(-6, 6, 49, dtype=np.float32).reshape(7, 7)
    outputs = rnn_cell_network.activate(rnn_cell_network.coefficients(jnp.asarray(index)), values)[
        0
    ]
    expected = oracle.ACTIVATIONS[index](values.astype(float))
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_output_weights_of_a_published_cell(variant):
    cell = SPACES["enas"].decode(PUBLISHED["enas"][1])  # nobody reads 3, 4, 7, 9, 10 and 11
    expected = {
        "nao": [0] + [1 / 11] * 11,
        "enas": [0, 0, 0, 1 / 6, 1 / 6, 0, 0, 1 / 6, 0, 1 / 6, 1 / 6, 1 / 6],
        "enas_mean": [1 / 12] * 12,
    }
    shares = rnn_cell_network.output_weights(cell, variant)
    np.testing.assert_allclose(shares, expected[variant], rtol=1e-6)


@few
@given(variant=st.sampled_from(VARIANTS), seed=st.integers(0, 2**32 - 1))
def test_a_renumbered_cell_computes_the_same_with_its_weights_moved(variant, seed):
    space = SPACES[variant]
    (cell,) = unstack(space.sample(jax.random.key(seed), 1))
    other = oracle.renumbered(space.canonical(cell), np.random.default_rng(seed))
    apply, params = network(variant)
    expected = apply(params, cell, INPUTS)
    for image in (space.canonical(cell), other):
        image_of = oracle.isomorphism(cell, image)
        nodes = np.empty_like(params["cell"].nodes)
        for node in range(1, 12):
            nodes[image_of[node] - 1] = params["cell"].nodes[node - 1]
        outputs = apply(with_nodes(params, jnp.asarray(nodes)), image, INPUTS)
        np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


def test_parameter_counts():
    assert num_parameters(rnn_cell_network.family()) == 316
    for variant in VARIANTS:
        family = rnn_cell_network.family(variant, **SIZES)
        cell, readout = 6 * 4 + 6 * 3 + 11 * 6 * 3, 2 * 3 + 2
        assert num_parameters(family) == cell + readout
        assert (family.input_shape, family.output_shape) == ((5, 4), (5, 2))
        assert family.labels == "bernoulli"


def test_initial_weights_are_standard_normal():
    init = rnn_cell_network.family("nao", **SIZES).init
    draws = [jax.tree.leaves(init(jax.random.key(seed))) for seed in range(200)]
    for leaf in zip(*draws, strict=True):
        values = np.ravel(leaf)
        assert abs(values.mean()) < 4 / np.sqrt(values.size)
        assert abs(np.mean(values**2) - 1) < 4 * np.sqrt(2 / values.size)
    everything = np.concatenate([np.ravel(leaf) for draw in draws for leaf in draw])
    assert len(np.unique(everything)) > 0.99 * everything.size  # no key is used twice


def test_equal_families_are_one_object():
    assert rnn_cell_network.family() is rnn_cell_network.family("nao", length=10)
    assert rnn_cell_network.family("enas", hidden=2) is rnn_cell_network.family("enas", hidden=2)
    assert rnn_cell_network.family("enas") is not rnn_cell_network.family("enas_mean")
    with pytest.raises(UserError, match="unknown cell variant 'gru': use one of nao"):
        rnn_cell_network.family("gru")


# The dish on this family

CONFIG = DishConfig(
    inner_steps=3, train_samples=3, valid_samples=3, inner_learning_rate=0.1, outer_l2=0.01
)
TRUTH = np.array([0.3, 0.9, 0.5, 0.6], np.float32)


def test_an_outer_step_has_the_gradient_of_plain_differentiation():
    family = rnn_cell_network.family("enas", inputs=2, hidden=2, outputs=2, length=3)
    archs = SPACES["enas"].sample(jax.random.key(4), 4)
    state = dish.init(jax.random.key(5), family, CONFIG)
    params, data = jax.tree.map(lambda leaf: leaf[0], (state.params, state.data))
    plain = dataclasses.replace(CONFIG, remat="none")

    def loss(inputs):
        here = data._replace(train_inputs=inputs[0], valid_inputs=inputs[1])
        score = functools.partial(inner_loop.score, family, plain, params)
        scores = jax.vmap(lambda arch: score(arch, here, state.key))(archs)
        outer = losses.zscored_mse(scores, jnp.asarray(TRUTH), jnp.ones(4))
        return outer + 0.01 * sum(jnp.sum(x**2) for x in inputs), (outer, scores)

    inputs = (data.train_inputs, data.valid_inputs)
    (_, (outer, scores)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(inputs)
    config = dataclasses.replace(CONFIG, remat="step")
    stepped, info = dish.outer_step(state, family, config, archs, TRUTH)
    assert int(info.masked[0]) == 0
    assert np.ptp(info.scores) > 1e-3
    np.testing.assert_allclose(info.scores[0], scores, rtol=1e-5)
    np.testing.assert_allclose(info.loss[0], outer, rtol=1e-4)
    for name, expected in zip(("train_inputs", "valid_inputs"), gradient, strict=True):
        # Adam's first moment after one step is a tenth of the gradient.
        actual = stepped.optimiser.mu[name][0] / (1 - inner_loop.ADAM_BETA1)
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
        assert np.all(np.isfinite(getattr(stepped.data, name)))

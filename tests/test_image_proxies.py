"""surrogates/image_proxies: every measure against plain NumPy, with derivatives by differences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from image_networks import ARCHS, NETWORK, numpy_trace

from spd_jax.errors import UserError
from spd_jax.motif import num_parameters
from spd_jax.problems import nasbench101, nasbench201
from spd_jax.spaces.image_network import Skeleton
from spd_jax.spaces.nasbench201 import network
from spd_jax.surrogates import image_proxies
from spd_jax.surrogates.image_proxies import (
    MEASURES,
    ImageNetwork,
    ImageProxy,
    Images,
    size_weight,
)

KEY = jax.random.key(3)
SETTINGS = {"samples": 6, "batches": 3, "draws": 2}


def proxy(measure, network=NETWORK, **settings):
    return ImageProxy(measure, network, **{**SETTINGS, **settings})


@pytest.fixture(scope="module")
def drawn():
    """Return weights, inputs and labels of the first draw, in 64 bits."""
    params, batches = image_proxies.drawn(jax.random.fold_in(KEY, 0), proxy("snip"))
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    return params, np.asarray(batches.inputs, float), np.asarray(batches.labels, float)


def vector(params):
    return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])


def unvector(values, like):
    leaves, tree = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = np.split(values, ends[:-1])
    return jax.tree.unflatten(
        tree, [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    )


def differences(function, at, step=1e-5):
    """Return the derivative of a scalar or vector function, by central differences."""
    rows = [
        (function(at + step * unit) - function(at - step * unit)) / (2 * step)
        for unit in np.eye(len(at))
    ]
    return np.array(rows)


def loss(params, arch, inputs, labels):
    logits = numpy_trace(params, arch, inputs).logits
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -(labels * logs).sum(-1).mean()


def gradient(params, arch, inputs, labels):
    flat = differences(lambda v: loss(unvector(v, params), arch, inputs, labels), vector(params))
    return unvector(flat, params)


def by_layer(params):
    """Return the network's four layers one by one, without the biases."""
    return [
        params["stem"],
        params["cells"][0],
        params["cells"][1],
        params["dense"]["weight"],
    ]


def expected_grad_norm(params, arch, inputs, labels):
    own = by_layer(gradient(params, arch, inputs[0], labels[0]))
    return np.log(sum(np.linalg.norm(g) for g in own))


def expected_snip(params, arch, inputs, labels):
    own = by_layer(gradient(params, arch, inputs[0], labels[0]))
    return np.log(sum(np.abs(w * g).sum() for w, g in zip(by_layer(params), own, strict=True)))


def expected_grasp(params, arch, inputs, labels):
    flat = vector(params)
    g = vector(gradient(params, arch, inputs[0], labels[0]))
    step = 1e-4
    ahead, behind = (
        vector(gradient(unvector(flat + s * g, params), arch, inputs[0], labels[0]))
        for s in (step, -step)
    )
    product = unvector((ahead - behind) / (2 * step), params)
    return -sum((w * h).sum() for w, h in zip(by_layer(params), by_layer(product), strict=True))


def expected_synflow(params, arch, inputs, labels):
    params = jax.tree.map(np.abs, params)
    params["dense"]["bias"] = 0 * params["dense"]["bias"]
    ones = np.ones((1, *inputs.shape[2:]))

    def flow(flat):
        return numpy_trace(unvector(flat, params), arch, ones, batch_norm=False).logits.sum()

    own = unvector(differences(flow, vector(params)), params)
    return np.log(
        sum(np.abs(w * g).sum() for w, g in zip(by_layer(params), by_layer(own), strict=True))
    )


def expected_jacobian_covariance(params, arch, inputs, labels):
    _, batches = image_proxies.drawn(jax.random.fold_in(KEY, 0), proxy("snip"))
    signs = np.asarray(jax.random.rademacher(batches.key, (len(inputs[0]), 1)), float)
    flat = differences(
        lambda x: (signs * numpy_trace(params, arch, x.reshape(inputs[0].shape)).logits).sum(),
        inputs[0].ravel(),
    )
    values = np.linalg.eigvalsh(np.corrcoef(signs * flat.reshape(len(inputs[0]), -1)))
    values = np.maximum(values, 0) + 1e-5
    return -np.sum(np.log(values) + 1 / values)


def codes(params, arch, inputs):
    trace = numpy_trace(params, arch, inputs[0])
    # Some ReLUs are used as a whole or not at all, one but for a channel.
    own = [
        x[..., np.broadcast_to(used, x.shape[-1:]) > 0].reshape(len(x), -1) > 0
        for x, used in zip(trace.relu_inputs, trace.relu_used, strict=True)
    ]
    return np.concatenate([np.zeros((len(inputs[0]), 0), bool), *own], axis=1)


def expected_nwot(params, arch, inputs, labels):
    own = codes(params, arch, inputs)
    agreement = (own[:, None, :] == own[None, :, :]).sum(-1)
    return np.linalg.slogdet(agreement)[1]


def expected_swap(params, arch, inputs, labels):
    return len(np.unique(codes(params, arch, inputs).T, axis=0))


def expected_zico(params, arch, inputs, labels):
    gradients = [
        by_layer(gradient(params, arch, *batch)) for batch in zip(inputs, labels, strict=True)
    ]
    score = 0.0
    for layer in zip(*gradients, strict=True):
        spread, size = np.std(layer, axis=0), np.mean(np.abs(layer), axis=0)
        varies = spread > 1e-9  # of differences
        if varies.any():
            score += np.log((size[varies] / spread[varies]).sum())
    return score


@pytest.mark.parametrize("measure", MEASURES)
def test_a_measure_is_that_of_plain_numpy(measure, drawn):
    found = proxy(measure).prepare(KEY).by_draw(ARCHS)
    assert found.shape == (2, 4)
    expected = [globals()[f"expected_{measure}"](drawn[0], arch, *drawn[1:]) for arch in ARCHS]
    np.testing.assert_allclose(found[0], expected, rtol=2e-3, atol=1e-3)
    assert np.all(found[1] != found[0]) or measure in ("nwot",)


# Settings


def test_the_prediction_is_the_mean_over_draws_times_the_weight():
    fitted = proxy("snip").prepare(KEY)
    mean = fitted.by_draw(ARCHS).mean(axis=0)
    np.testing.assert_allclose(fitted.predict(ARCHS), mean)
    weight = size_weight(lambda archs: 10 * np.abs(archs).sum(axis=1), 20.0, 10.0)
    np.testing.assert_allclose(weight(ARCHS), np.exp([-0.0, -1.0, -0.25, -4.0]))
    weighted = proxy("snip", weight=weight).prepare(KEY)
    np.testing.assert_allclose(weighted.predict(ARCHS), mean * weight(ARCHS))


@pytest.mark.parametrize("other", [{"chunk": 2}, {"at_once": 2}])
def test_how_many_are_computed_at_a_time_changes_nothing(other):
    whole = proxy("nwot").prepare(KEY).by_draw(ARCHS)
    np.testing.assert_allclose(proxy("nwot", **other).prepare(KEY).by_draw(ARCHS), whole, rtol=1e-5)


def test_minibatches_come_from_images_where_there_are_any():
    images = Images(np.arange(20 * 27.0).reshape(20, 3, 3, 3), np.arange(20) % 3)
    _, batches = image_proxies.drawn(KEY, proxy("snip", images=images))
    assert batches.inputs.shape == (3, 6, 3, 3, 3)
    chosen = (batches.inputs[..., 0, 0, 0] / 27).astype(int).ravel().tolist()
    assert len(set(chosen)) == 18  # none is shown twice
    np.testing.assert_array_equal(batches.labels.reshape(-1, 3), np.eye(3)[np.array(chosen) % 3])
    _, other = image_proxies.drawn(jax.random.key(9), proxy("snip", images=images))
    assert np.any(other.inputs != batches.inputs)


def test_noise_has_labels_of_each_class_alike():
    _, batches = image_proxies.drawn(KEY, proxy("snip"))
    np.testing.assert_array_equal(batches.labels.sum(axis=1), np.full((3, 3), 2))
    assert abs(float(batches.inputs.std()) - 1) < 0.1


def test_a_dead_network_fails():
    dead = ImageNetwork(dataclasses.replace(NETWORK.family, apply=_no_logits), NETWORK.trace)
    fitted = proxy("snip", network=dead).prepare(KEY)
    assert np.isneginf(fitted.by_draw(ARCHS)).all()
    assert np.isnan(fitted.predict(ARCHS)).all()


def _no_logits(params, arch, inputs):
    return jnp.zeros((len(inputs), 3)) + 0 * jnp.sum(params["stem"])


def test_save_and_load_give_identical_predictions(tmp_path):
    fitted = proxy("nwot").fit(KEY, ARCHS, np.zeros(4))
    fitted.save(tmp_path / "proxy.npz")
    loaded = proxy("nwot").load(tmp_path / "proxy.npz")
    np.testing.assert_array_equal(loaded.predict(ARCHS), fitted.predict(ARCHS))
    with pytest.raises(UserError, match="is of 'nwot', not of 'snip'"):
        proxy("snip").load(tmp_path / "proxy.npz")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: proxy("naswot").prepare(KEY), "unknown proxy 'naswot': use one of grad_norm"),
        (lambda: proxy("snip", chunk=0).prepare(KEY), "chunk=0"),
        (lambda: proxy("snip", samples=1).prepare(KEY), "samples=1 must be at least 2"),
        (lambda: proxy("zico", batches=1).prepare(KEY), "batches=1 must be at least 2"),
        (lambda: proxy("snip").prepare(KEY).predict(ARCHS[:0]), "no motifs to measure"),
        (
            lambda: proxy("snip", images=Images(np.ones((5, 3, 3, 3)), np.ones(5))).prepare(KEY),
            "5 images are too few for 3 minibatches of 6",
        ),
    ],
)
def test_mistakes_are_sentences(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()


# The networks of image cells

SMALL = Skeleton(stacks=2, cells=2, stem=2, image_size=4)
CELL_NETWORK = ImageNetwork(network.family(SMALL), network.trace(SMALL))
CELL = np.array([3, 1, 2, 4, 0, 3], np.int32)


def test_every_kernel_of_a_network_of_cells_is_a_layer():
    params = jax.eval_shape(CELL_NETWORK.family.init, KEY)
    found = [(len(own), own.shape[1:]) for own in image_proxies.layers(jax.tree.map(_ones, params))]
    # In each of two stacks two cells with six edges of two kernels; stem, reduction, dense layer.
    assert sum(count for count, _ in found) == 2 * 2 * 6 * 2 + 3
    total = sum(count * np.prod(shape) for count, shape in found)
    assert total == num_parameters(CELL_NETWORK.family) - SMALL.classes


def _ones(leaf):
    return jnp.ones(leaf.shape)


def test_dividing_blocks_by_their_size_does_not_move_synflow():
    settings = ImageProxy("synflow", CELL_NETWORK, samples=2)
    params, batches = image_proxies.drawn(KEY, settings)
    found = image_proxies.synflow(CELL_NETWORK, params, CELL, batches)
    positive = jax.tree_util.tree_map_with_path(
        lambda path, w: 0 * w if path[-1].key == "bias" else jnp.abs(w), params
    )

    def flow(params):
        shown = jnp.ones((1, 4, 4, 3))
        return CELL_NETWORK.trace(params, CELL, shown, batch_norm=False).logits.sum()

    products = jax.tree.map(
        lambda w, g: jnp.sum(jnp.abs(w * g)), positive, jax.grad(flow)(positive)
    )
    np.testing.assert_allclose(found, np.log(sum(jax.tree.leaves(products))), rtol=1e-4)


def test_a_relu_counts_once_for_each_convolution_that_it_feeds():
    shown = jax.random.normal(KEY, (3, 4, 4, 3))
    trace = CELL_NETWORK.trace(CELL_NETWORK.family.init(KEY), CELL, shown)
    # Edges 0, 2 and 5 of each of four cells are convolutions, and no way through them is dead.
    assert sum(map(float, trace.relu_used)) == 4 * 3


@pytest.mark.parametrize("module", [nasbench101, nasbench201])
def test_both_problems_of_image_cells_offer_every_proxy(module):
    found = module.CELLS.proxies(SMALL, "small_", draws=1)
    scores = {"swap_regularised", "az_nas", "expressivity", "progressivity", "trainability"}
    assert set(found) == {f"small_{name}" for name in {*MEASURES, *scores}}
    cells = module.problem().space.sample(KEY, 3)
    plain = found["small_swap"].prepare(KEY).predict(cells)
    weighted = found["small_swap_regularised"].prepare(KEY).predict(cells)
    # The weight is between exp(-1), for a cell without weights, and 1.
    assert np.all((weighted > 0.3 * plain) & (weighted <= plain))

"""surrogates/image_proxies: every measure against plain NumPy, with derivatives by differences."""

import jax
import numpy as np
import pytest
from image_networks import ARCHS, NETWORK, numpy_trace

from spd_jax.surrogates import image_proxies
from spd_jax.surrogates.image_proxies import MEASURES, ImageProxy

KEY = jax.random.key(3)
SETTINGS = {"samples": 6, "batches": 3, "draws": 2}


def proxy(measure, **settings):
    return ImageProxy(measure, NETWORK, **{**SETTINGS, **settings})


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
    flat = differences(
        lambda x: numpy_trace(params, arch, x.reshape(inputs[0].shape)).logits.sum(),
        inputs[0].ravel(),
    )
    values = np.linalg.eigvalsh(np.corrcoef(flat.reshape(len(inputs[0]), -1)))
    values = np.maximum(values, 0) + 1e-5
    return -np.sum(np.log(values) + 1 / values)


def codes(params, arch, inputs):
    trace = numpy_trace(params, arch, inputs[0])
    own = [
        x.reshape(len(x), -1) > 0
        for x, used in zip(trace.relu_inputs, trace.relu_used, strict=True)
        if used
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

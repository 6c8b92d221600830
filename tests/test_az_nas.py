"""surrogates/az_nas: entropies and Jacobians against plain NumPy, ranks within a batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from image_networks import ARCHS, NETWORK, numpy_trace

from spd_jax.errors import UserError
from spd_jax.surrogates import az_nas, image_proxies
from spd_jax.surrogates.az_nas import PROXIES, AzNas
from spd_jax.surrogates.image_proxies import ImageProxy

KEY = jax.random.key(3)
PROXY = ImageProxy("snip", NETWORK, samples=6, draws=2)


def complexity(archs):
    return 10.0 * np.abs(archs).sum(axis=1)


AZ = AzNas(PROXY, complexity)


@pytest.fixture(scope="module")
def columns():
    return AZ.prepare(KEY).columns(ARCHS)


def numpy_entropy(features):
    rows = features.reshape(-1, features.shape[-1])
    values = np.linalg.eigvalsh(np.cov(rows.T, bias=True))
    share = np.maximum(values, 0) / values.sum()
    return -sum(p * np.log(p) for p in share if p > 1e-12)


def numpy_block(block, params, arch, x):
    """Return a block's output for the output of the block before; block 1 is the first cell."""
    cell = block - 1
    convolved = np.maximum(x, 0) @ params["cells"][cell, :, 0, 0].T
    normed = convolved - convolved.mean((0, 1, 2))
    return x + arch[cell] * normed / np.sqrt(convolved.var((0, 1, 2)) + 1e-5)


def expected(arch):
    """Return the three scores of an arch, of the mean of two draws; Jacobians by differences."""
    rows = []
    for draw in range(2):
        params, batches = image_proxies.drawn(jax.random.fold_in(KEY, draw), PROXY)
        blocks = numpy_trace(params, arch, batches.inputs[0]).blocks
        params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
        keys = jax.random.split(batches.key, len(blocks))
        entropies = np.array([numpy_entropy(block) for block in blocks])
        trained = []
        for i in range(1, len(blocks)):
            before = blocks[i - 1]
            np.testing.assert_allclose(numpy_block(i, params, arch, before), blocks[i], atol=1e-5)
            signs = np.asarray(jax.random.rademacher(keys[i], blocks[i].shape), float)
            pulled = np.zeros(before.size)
            for place, unit in enumerate(np.eye(before.size)):
                step = 1e-5 * unit.reshape(before.shape)
                ahead, behind = (numpy_block(i, params, arch, before + s * step) for s in (1, -1))
                pulled[place] = ((ahead - behind) / 2e-5 * signs).sum()
            flat = pulled.reshape(-1, before.shape[-1]), signs.reshape(-1, signs.shape[-1])
            norm = np.linalg.norm(flat[0].T @ flat[1] / len(flat[1]), 2)
            trained.append(-np.inf if arch[i - 1] == 0 else 2 - norm - 1 / (norm + 1e-6))
        rows.append([entropies.sum(), np.diff(entropies).min(), np.mean(trained)])
    return np.mean(rows, axis=0)


def test_the_scores_of_blocks_are_those_of_plain_numpy(columns):
    assert columns.shape == (4, 4)
    wanted = np.array([expected(arch) for arch in ARCHS])
    wanted = np.where(np.isfinite(wanted), wanted, np.nan)
    np.testing.assert_allclose(columns[:, :3], wanted, rtol=2e-3, atol=2e-4)
    np.testing.assert_array_equal(columns[:, 3], [20, 10, 15, 0])
    assert np.isnan(columns[:, 2]).tolist() == [False, True, False, True]  # a cell is the identity


def test_the_aggregate_adds_the_logarithms_of_ranks_within_the_batch(columns):
    found = AZ.prepare(KEY).predict(ARCHS)
    worst = np.where(np.isnan(columns), -np.inf, columns)
    # Ranks from 1, the worst; motifs 1 and 3, that fail in trainability, share 1.5.
    ranks = np.array([[1 + (x < x[i]).sum() for i in range(4)] for x in worst.T], float).T
    ranks[[1, 3], 2] = 1.5
    np.testing.assert_allclose(found, np.log(ranks / 4).sum(axis=1))
    assert AZ.prepare(KEY).predict(ARCHS[:1]) == [0.0]
    # It is the batch that decides: of two motifs the ranks are 1 and 2.
    pair = AZ.prepare(KEY).predict(ARCHS[[0, 2]])
    assert set(np.round(pair / np.log(2), 6)) <= {-4.0, -3.0, -2.0, -1.0, 0.0}


@pytest.mark.parametrize("score", PROXIES)
def test_one_of_the_four_can_be_had_alone(score, columns, tmp_path):
    fitted = dataclasses.replace(AZ, only=score).fit(KEY, ARCHS, np.zeros(4))
    np.testing.assert_array_equal(fitted.predict(ARCHS), columns[:, PROXIES.index(score)])
    fitted.save(tmp_path / "score.npz")
    loaded = dataclasses.replace(AZ, only=score).load(tmp_path / "score.npz")
    np.testing.assert_array_equal(loaded.predict(ARCHS), fitted.predict(ARCHS))
    with pytest.raises(UserError, match=f"is of 'AzNas {score}', not of 'AzNas'"):
        AZ.load(tmp_path / "score.npz")


def test_a_smaller_image_brings_its_pixels_as_channels():
    # A block that averages 2x2 squares: its Jacobian hands a quarter to each of four pixels.
    signs = np.asarray(jax.random.rademacher(KEY, (8, 2, 2, 1)), float)
    pulled = np.kron(signs[..., 0], np.full((2, 2), 0.25))[..., None]
    norm = np.sqrt(4 * 0.25**2)
    found = az_nas.trainability(jnp.asarray(pulled), jnp.asarray(signs))
    np.testing.assert_allclose(found, 2 - norm - 1 / norm, rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: dataclasses.replace(AZ, only="speed").prepare(KEY), "unknown proxy 'speed'"),
        (
            lambda: AzNas(dataclasses.replace(PROXY, draws=0), complexity).prepare(KEY),
            "draws=0 must be at least 1",
        ),
        (
            lambda: AzNas(PROXY, lambda archs: archs).prepare(KEY).predict(ARCHS),
            "return one for each motif",
        ),
    ],
)
def test_mistakes_are_sentences(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()

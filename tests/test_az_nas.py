"""surrogates/az_nas: entropies and Jacobians against plain NumPy, ranks within a batch."""

import jax
import numpy as np
import pytest
from image_networks import ARCHS, NETWORK, numpy_trace

from spd_jax.surrogates import image_proxies
from spd_jax.surrogates.az_nas import AzNas
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

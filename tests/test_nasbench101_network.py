"""spaces.nasbench101.network: masked cells against the same cells built directly."""

import functools

import image_cells_oracle as oracle
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spd_jax.archs import unstack
from spd_jax.errors import UserError
from spd_jax.spaces.image_network import Skeleton
from spd_jax.spaces.nasbench101 import NasBench101Space, from_matrix, network, to_matrix

# Five channels: no number of vertices but one and five divides them.
SMALL = Skeleton(stacks=1, cells=1, stem=5, image_size=4)
DEEP = Skeleton(stacks=2, cells=2, stem=5, image_size=4)
OFFICIAL = Skeleton(stacks=3, cells=3, stem=128, image_size=32)
few = settings(max_examples=12)
CONV3, CONV1, POOL = "conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3"
# The example of the benchmark's own description: trainable_parameters 2,694,282.
EXAMPLE = from_matrix(
    [
        [0, 1, 1, 1, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0],
    ],
    [CONV1, CONV3, CONV3, CONV3, POOL],
)
SHORTCUT = from_matrix([[0, 1], [0, 0]], [])
BOTH = from_matrix([[0, 1, 1], [0, 0, 1], [0, 0, 0]], [POOL])


@functools.cache
def images(skeleton):
    return jax.random.normal(jax.random.key(1), (3, *network.family(skeleton).input_shape))


@functools.cache
def weights(skeleton):
    return network.family(skeleton).init(jax.random.key(0))


@functools.cache
def compiled(skeleton):
    """Return a function of parameters, arch and cotangent: logits and the gradients."""
    apply = network.family(skeleton).apply

    def run(params, arch, x, bar):
        logits, pull = jax.vjp(lambda p, x: apply(p, arch, x), params, x)
        return logits, pull(bar)

    return jax.jit(run)


def check_against_the_oracle(skeleton, arch):
    params, x = weights(skeleton), images(skeleton)
    bar = np.random.default_rng(0).normal(size=(3, 10)).astype(np.float32)
    logits, gradients = compiled(skeleton)(params, arch, x, bar)

    def direct(params, x):
        cell = oracle.nasbench101_cell
        return oracle.network(skeleton, cell, params, arch, x, relu_after_stem=True)[0]

    expected, pull = jax.vjp(direct, params, x)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
    for own, other in zip(*map(jax.tree.leaves, (gradients, pull(bar))), strict=True):
        scale = max(np.abs(other).max(), 1e-3)
        np.testing.assert_allclose(own / scale, other / scale, atol=2e-3)


@few
@given(seed=st.integers(0, 2**32 - 1))
def test_a_masked_cell_is_the_same_cell_built_directly(seed):
    (arch,) = unstack(NasBench101Space().sample(jax.random.key(seed), 1))
    check_against_the_oracle(SMALL, arch)


@pytest.mark.parametrize("arch", [SHORTCUT, BOTH, EXAMPLE], ids=["shortcut", "both", "example"])
def test_special_cells_are_those_built_directly(arch):
    check_against_the_oracle(SMALL, arch)


def test_stacks_of_cells_are_those_built_directly():
    check_against_the_oracle(DEEP, EXAMPLE)


def widths(arch, outputs):
    return np.asarray(network.channels(jnp.asarray(arch.adjacency), outputs)).tolist()


def test_channels_of_hand_worked_cells():
    assert widths(SHORTCUT, 8) == [0, 0, 0, 0, 0]
    assert widths(BOTH, 8) == [8, 0, 0, 0, 0]
    # Vertices 1, 2, 4, 5 feed the output: 10 = 3 + 3 + 2 + 2; vertex 3 feeds vertex 4 alone.
    assert widths(EXAMPLE, 10) == [3, 3, 2, 2, 2]
    chain = np.triu(np.ones((7, 7), int), 1) - np.triu(np.ones((7, 7), int), 2)
    assert widths(from_matrix(chain, [CONV3] * 5), 7) == [7] * 5
    # 1 feeds 2 and 3, which feed the output: 5 = 3 + 2, and 1 has as many as the larger.
    fork = [[0, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0] * 5]
    assert widths(from_matrix(fork, [CONV3] * 3), 5) == [3, 3, 2, 0, 0]


@given(seed=st.integers(0, 2**32 - 1), outputs=st.integers(1, 40))
def test_channels_follow_the_rules(seed, outputs):
    (arch,) = unstack(NasBench101Space().sample(jax.random.key(seed), 1))
    matrix, _ = to_matrix(arch)
    expected = oracle.channels(matrix, outputs)
    numbers = np.flatnonzero(arch.operation)
    found = widths(arch, outputs)
    assert [found[number] for number in numbers] == [
        expected[vertex] for vertex in range(1, len(matrix) - 1)
    ]


def test_a_trace_reports_what_the_network_computes():
    params, x = weights(DEEP), images(DEEP)
    found = jax.jit(network.trace(DEEP))(params, EXAMPLE, x)
    cell = oracle.nasbench101_cell
    logits, blocks = oracle.network(DEEP, cell, params, EXAMPLE, x, relu_after_stem=True)
    np.testing.assert_allclose(found.logits, logits, rtol=1e-3, atol=1e-4)
    for block, expected in zip(found.blocks, blocks, strict=True):
        np.testing.assert_allclose(block, expected, rtol=1e-3, atol=1e-4)
    assert len(found.relu_inputs) == len(found.relu_used) == 1 + 4 * 11
    used = [np.sum(flags) for flags in found.relu_used[:12]]
    # The stem; projections to 1, 2, 3 and 5; the convolutions of 1 to 4, of 2, 1, 1, 1 channels.
    assert used == [1, 2, 1, 1, 0, 1, 0, 2, 1, 1, 1, 0]
    for values, flags in zip(found.relu_inputs[1:], found.relu_used[1:], strict=True):
        assert values.shape[-1:] == flags.shape


def test_parameters_are_those_of_the_benchmark_but_for_batch_norm():
    one = jax.tree.map(lambda leaf: np.asarray(leaf)[None], EXAMPLE)
    # Four projections and four convolutions of C / 4 channels each in every cell, and the stem.
    norms = 3 * 2 * (128 + 256 + 512) + 128
    assert network.parameters(OFFICIAL, one) == 2_694_282 - 2 * norms


@pytest.mark.parametrize("arch", [SHORTCUT, BOTH, EXAMPLE], ids=["shortcut", "both", "example"])
def test_parameters_are_the_weights_that_the_output_depends_on(arch):
    bar = 1 + np.arange(30, dtype=np.float32).reshape(3, 10)
    _, (gradient, _) = compiled(SMALL)(weights(SMALL), arch, images(SMALL), bar)
    used = sum(int(np.count_nonzero(leaf)) for leaf in jax.tree.leaves(gradient))
    one = jax.tree.map(lambda leaf: np.asarray(leaf)[None], arch)
    assert network.parameters(SMALL, one) == used


def test_multiply_adds_of_a_hand_worked_cell():
    one = jax.tree.map(lambda leaf: np.asarray(leaf)[None], BOTH)
    stem, cell, dense = 16 * 27 * 5, 16 * (5 * 5 + 5 * 5), 5 * 10  # two projections and a pool
    np.testing.assert_array_equal(network.multiply_adds(SMALL, one), stem + cell + dense)


def test_residual_blocks_are_refused():
    with pytest.raises(UserError, match="use max_pool"):
        network.family(Skeleton(2, 1, 4, 4, reduction="residual"))

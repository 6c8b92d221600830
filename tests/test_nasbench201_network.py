"""spaces.nasbench201.network: against cells built directly, counts against published sizes."""

import functools

import image_cells_oracle as oracle
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spd_jax.errors import UserError
from spd_jax.motif import num_parameters
from spd_jax.spaces.image_network import Skeleton
from spd_jax.spaces.nasbench201 import OPERATIONS, NasBench201Space, network

SMALL = Skeleton(stacks=1, cells=1, stem=2, image_size=4)
DEEP = Skeleton(stacks=2, cells=2, stem=2, image_size=4)
RESIDUAL = Skeleton(stacks=2, cells=1, stem=2, image_size=4, reduction="residual")
OFFICIAL = Skeleton(stacks=3, cells=5, stem=16, image_size=32, reduction="residual")
few = settings(max_examples=10)
cells = st.lists(st.integers(0, 4), min_size=6, max_size=6).map(lambda x: np.array(x, np.int32))
BLOCKS = [(3, 4, 4, 2)] * 3 + [(3, 2, 2, 4)] * 3  # stem, two cells; reduction, two cells
ALL = np.array([3, 1, 2, 4, 3, 0], np.int32)  # has every operation
NONE, SKIP, CONV1, CONV3, POOL = range(5)


@functools.cache
def images(skeleton, count=3):
    return jax.random.normal(jax.random.key(1), (count, *network.family(skeleton).input_shape))


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
        return oracle.network(skeleton, oracle.nasbench201_cell, params, arch, x)[0]

    expected, pull = jax.vjp(direct, params, x)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
    for own, other in zip(*map(jax.tree.leaves, (gradients, pull(bar))), strict=True):
        scale = max(np.abs(other).max(), 1e-3)
        np.testing.assert_allclose(own / scale, other / scale, atol=2e-3)


@few
@given(arch=cells)
def test_a_network_is_the_one_built_directly(arch):
    check_against_the_oracle(SMALL, arch)


@pytest.mark.parametrize("skeleton", [DEEP, RESIDUAL])
def test_stacks_of_cells_are_those_built_directly(skeleton):
    check_against_the_oracle(skeleton, ALL)


def test_a_trace_reports_what_the_network_computes():
    params, x, traced = weights(DEEP), images(DEEP), jax.jit(network.trace(DEEP))
    found = traced(params, ALL, x)
    logits, blocks = oracle.network(DEEP, oracle.nasbench201_cell, params, ALL, x)
    np.testing.assert_allclose(found.logits, logits, rtol=1e-3, atol=1e-4)
    assert [block.shape for block in found.blocks] == BLOCKS
    for block, expected in zip(found.blocks, blocks, strict=True):
        np.testing.assert_allclose(block, expected, rtol=1e-3, atol=1e-4)
    assert len(found.relu_inputs) == len(found.relu_used) == 4 * 6
    # 0 -> 1 is a 3x3 convolution, 1 -> 2 a 1x1 one on a dead end (2 -> 3 is none), 1 -> 3 is one.
    np.testing.assert_array_equal(found.relu_used[:6], [1, 0, 0, 0, 1, 0])
    first = jax.nn.relu(found.relu_inputs[0])
    kernel = jax.tree.map(lambda leaf: leaf[0], params["cells"][0])["conv3x3"][0]
    second = oracle.batch_norm(oracle.convolution(first, kernel))
    np.testing.assert_allclose(found.relu_inputs[4], second, rtol=1e-3, atol=1e-4)


def test_what_goes_on_after_a_block_can_be_changed():
    params, x, traced = weights(DEEP), images(DEEP), network.trace(DEEP)
    hands_on = np.array([NONE, NONE, NONE, SKIP, NONE, NONE], np.int32)

    def after(index, block):
        return block + 1 if index == 4 else block  # the first cell of the second stack

    plain, changed = (traced(params, hands_on, x, after_block=f) for f in (None, after))
    assert [block.shape for block in plain.blocks] == BLOCKS
    for index, change in enumerate([0, 0, 0, 0, 0, 1]):
        difference = changed.blocks[index] - plain.blocks[index]
        np.testing.assert_allclose(difference, change, atol=1e-6)


def test_without_batch_norm_a_network_of_absolute_weights_is_linear_in_positive_images():
    params = jax.tree.map(jnp.abs, weights(DEEP))
    bias = jnp.zeros_like(params["dense"]["bias"])
    params["dense"]["bias"] = bias
    traced, x = network.trace(DEEP), jnp.ones_like(images(DEEP))
    once, twice = (traced(params, ALL, s * x, batch_norm=False).logits for s in (1, 2))
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-5)


@given(arch=cells)
def test_used_edges_lie_on_a_way_through(arch):
    paths = [(3,), (0, 4), (1, 5), (0, 2, 5)]  # places in EDGES
    expected = {e for path in paths if all(arch[e] != NONE for e in path) for e in path}
    assert set(np.flatnonzero(network.used_edges(arch))) == expected
    np.testing.assert_array_equal(network.used_edges(jnp.asarray(arch)), network.used_edges(arch))


def test_parameters_are_those_of_the_benchmark_but_for_batch_norm():
    archs = np.array([[CONV3] * 6, [SKIP] * 6])
    edges = 6 * 5 * (16 + 32 + 64)  # channels of the cells' batch normalisations
    around = 16 + 2 * (32 + 64) + 64  # of the stem, the reductions and the last one
    published = [1_531_546, 73_306]  # Dong and Yang, 2020: 1.53 and 0.07 million
    expected = np.array(published) - 2 * np.array([edges + around, around])
    np.testing.assert_array_equal(network.parameters(OFFICIAL, archs), expected)


def used_leaves(skeleton, arch):
    """Count the weights that the logits depend on."""
    apply, params = network.family(skeleton).apply, weights(skeleton)

    def total(params):
        return jnp.vdot(apply(params, arch, images(skeleton)), 1 + jnp.arange(30.0).reshape(3, 10))

    gradient = jax.grad(total)(params)
    return sum(int(np.count_nonzero(leaf)) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("arch", [[3, 0, 2, 4, 3, 2], [2, 4, 3, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
def test_parameters_are_the_weights_that_the_output_depends_on(arch):
    arch = np.array(arch, np.int32)
    assert network.parameters(SMALL, arch[None]) == used_leaves(SMALL, arch)


def test_multiply_adds_of_a_hand_worked_cell():
    arch = np.array([[CONV3, NONE, NONE, CONV1, POOL, CONV1]])  # the last is on a dead end
    stem, cell, dense = 16 * 27 * 2, 16 * (9 + 1) * 4, 2 * 10
    np.testing.assert_array_equal(network.multiply_adds(SMALL, arch), stem + cell + dense)
    wide = 4 * 1 * 2 * 4 + 2 * 4 * (9 + 1) * 16  # widened by 1x1, two cells of four channels
    expected = stem + 2 * cell + wide + 4 * 10
    np.testing.assert_array_equal(network.multiply_adds(DEEP, arch), expected)


def test_weights_have_the_scale_of_their_fan_in():
    params = network.family(Skeleton(1, 1, 32, 4)).init(jax.random.key(0))
    for name, size in (("conv1x1", 1), ("conv3x3", 3)):
        kernel = np.asarray(params["cells"][0][name])
        assert kernel.shape == (1, 6, size, 32, size, 32)
        assert kernel.std() == pytest.approx((2 / (32 * size**2)) ** 0.5, rel=0.05)
    assert num_parameters(network.family(SMALL)) == 27 * 2 + 6 * (9 + 1) * 4 + 3 * 10


def test_equal_skeletons_are_one_family_and_wrong_ones_are_refused():
    assert network.family(Skeleton(1, 1, 2, 4)) is network.family(SMALL)
    with pytest.raises(UserError, match="at least 2"):
        network.family(Skeleton(2, 1, 2, 1))


def test_twins_in_canonical_form_score_alike():
    space = NasBench201Space()
    dead = np.array([CONV3, NONE, CONV3, SKIP, NONE, NONE], np.int32)
    params, x = weights(SMALL), images(SMALL)
    outputs = [
        network.family(SMALL).apply(params, arch, x) for arch in (dead, space.canonical(dead))
    ]
    np.testing.assert_allclose(*outputs, rtol=1e-6)
    assert OPERATIONS[SKIP] == "skip_connect"

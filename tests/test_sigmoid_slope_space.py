"""spaces.sigmoid_slope: the space against its protocol by property, and the motif-network."""

import inspect

import jax
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spd_jax.archs import Cells
from spd_jax.errors import UserError
from spd_jax.motif import SearchSpace
from spd_jax.spaces import sigmoid_slope
from spd_jax.spaces.sigmoid_slope import SigmoidSlopeSpace

SPACE = SigmoidSlopeSpace()
LOW, HIGH = np.float32(SPACE.low), np.float32(SPACE.high)
slopes = st.floats(float(LOW), float(HIGH), width=32)
batches = st.lists(slopes, min_size=5, max_size=5).map(lambda x: np.array(x, np.float32))
keys = st.integers(0, 2**32 - 1).map(jax.random.key)
few = settings(max_examples=40)


def assert_inside(archs, space=SPACE):
    archs = np.asarray(archs)
    assert archs.dtype == np.float32
    assert archs.min() >= np.float32(space.low)
    assert archs.max() <= np.float32(space.high)
    for arch in archs:
        assert space.decode(space.encode(arch)) == arch


def test_the_space_has_the_methods_of_the_protocol():
    for name, method in inspect.getmembers(SearchSpace, inspect.isfunction):
        if not name.startswith("_"):
            expected = list(inspect.signature(method).parameters)
            assert list(inspect.signature(getattr(SigmoidSlopeSpace, name)).parameters) == expected


@few
@given(keys)
def test_samples_are_inside(key):
    archs = SPACE.sample(key, 50)
    assert archs.shape == (50,)
    assert_inside(archs)


def test_samples_fill_the_interval_evenly():
    archs = np.asarray(SPACE.sample(jax.random.key(0), 4000))
    counts, _ = np.histogram(archs, bins=8, range=(SPACE.low, SPACE.high))
    assert counts.sum() == 4000
    assert np.abs(counts - 500).max() < 5 * np.sqrt(500)


@few
@given(key=keys, low=st.floats(-3, 3), width=st.floats(0.001, 5))
def test_samples_of_any_interval_are_inside(key, low, width):
    space = SigmoidSlopeSpace(low, low + width)
    assert_inside(space.sample(key, 20), space)


@few
@given(key=keys, archs=batches)
def test_mutants_are_inside_and_new(key, archs):
    mutants = SPACE.mutate(key, archs)
    assert mutants.shape == archs.shape
    assert_inside(mutants)
    # A slope on the bound may be clipped back to it; one inside always moves.
    inside = (archs > SPACE.low + 1e-3) & (archs < SPACE.high - 1e-3)
    assert np.all(np.asarray(mutants)[inside] != archs[inside])


def test_mutations_have_the_stated_size():
    archs = np.full(2000, 1.0, np.float32)
    space = SigmoidSlopeSpace(mutation_scale=0.05)
    step = np.asarray(space.mutate(jax.random.key(1), archs)) - 1
    assert step.std() == pytest.approx(0.05 * 2.0, rel=0.1)
    assert abs(step.mean()) < 0.01


@few
@given(key=keys, first=batches, second=batches)
def test_children_lie_between_their_parents(key, first, second):
    children = np.asarray(SPACE.crossover(key, first, second))
    assert children.shape == first.shape
    assert_inside(children)
    assert np.all(children >= np.minimum(first, second) - 1e-6)
    assert np.all(children <= np.maximum(first, second) + 1e-6)


def test_children_are_drawn_over_the_whole_interval():
    first, second = np.full(1000, 0.5, np.float32), np.full(1000, 1.5, np.float32)
    children = np.asarray(SPACE.crossover(jax.random.key(2), first, second))
    assert children.mean() == pytest.approx(1, abs=0.05)
    assert children.min() < 0.55
    assert children.max() > 1.45


@given(slopes)
def test_text_comes_back_to_the_bit(slope):
    slope = np.float32(slope)
    text = SPACE.encode(slope)
    back = SPACE.decode(text)
    assert back.dtype == np.float32
    assert back == slope
    assert SPACE.encode(back) == text
    assert all(np.float32(f"{slope:.{digits}e}") != slope for digits in range(len(text) - 4))
    canonical = SPACE.canonical(slope)
    assert canonical == slope
    assert canonical.dtype == np.float32


@given(slopes, slopes)
def test_two_slopes_have_two_names(first, second):
    same = np.float32(first) == np.float32(second)
    names = Cells.of(SPACE, np.array([first, second], np.float32)).names
    assert (names[0] == names[1]) == same


def test_names_are_as_people_write_slopes():
    assert Cells.read(SPACE, ["0.01", "1", "2.010"]).names == ("0.01", "1.0", "2.01")
    assert SPACE.name == "sigmoid_slope"


@pytest.mark.parametrize(
    "text", ["", "a slope", "nan", "inf", "-1", "0.0099", "2.011", "1e39", "1e400", "0,5"]
)
def test_what_is_no_slope_is_refused(text):
    with pytest.raises(UserError, match="is no slope in"):
        SPACE.decode(text)


def test_features():
    features = SPACE.features(jax.numpy.array([0.5, 1.0]))
    assert features.dtype == np.float64
    np.testing.assert_array_equal(features, [[0.5], [1.0]])


@pytest.mark.parametrize("use_bias", [True, False])
def test_the_motif_network_is_that_of_numpy(use_bias):
    family = sigmoid_slope.family(4, 3, 2, use_bias)
    params = family.init(jax.random.key(3))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == 4 * 3 + 3 * 3 + 3 * 2 + (3 + 3 + 2) * use_bias
    inputs = np.random.default_rng(0).normal(size=(5, 4))
    outputs = family.apply(params, 0.7, inputs)
    assert (family.input_shape, family.output_shape) == ((4,), (2,))
    expected = oracle.forward(oracle.layers_of(params), 0.7, inputs)[-1]
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


def test_parameter_counts_that_the_docstring_states():
    for use_bias, expected in ((True, 33), (False, 21)):
        shapes = jax.eval_shape(sigmoid_slope.family(use_bias=use_bias).init, jax.random.key(0))
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


def test_initial_weights_are_standard_normal():
    params = sigmoid_slope.family(50, 50, 50).init(jax.random.key(4))
    values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
    assert abs(values.mean()) < 0.05
    assert values.std() == pytest.approx(1, abs=0.05)


def test_table_slopes():
    table = sigmoid_slope.table_slopes()
    assert len(table) == len(set(table)) == 60
    assert (table[0], table[-1]) == (0.01, 2.01)
    assert np.sum(table < 0.37) == 18
    assert np.all(np.diff(table) > 0.019)
    for slope in table:
        assert SPACE.decode(SPACE.encode(slope)) == np.float32(slope)

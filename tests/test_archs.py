"""archs: batches taken apart and put together, what is known, and cells with their names."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from search_fakes import Digits, digits, spaces

from spd_jax import archs as batches
from spd_jax.archs import Cells
from spd_jax.errors import UserError


class Pair(NamedTuple):
    number: object
    rows: object


def batch(size, kind="dict"):
    """Return `size` archs of a number and a row of two, as NumPy or as JAX arrays."""
    number = np.arange(size, dtype=np.int32)
    rows = np.arange(2.0 * size, dtype=np.float32).reshape(size, 2)
    if kind == "array":
        return rows
    if kind == "jax":
        return Pair(jnp.asarray(number), jnp.asarray(rows))
    return Pair(number, rows) if kind == "tuple" else {"number": number, "rows": [rows]}


kinds = pytest.mark.parametrize("kind", ["dict", "tuple", "array", "jax"])


def assert_same(archs, expected):
    """Compare structure, types and values."""
    assert jax.tree.structure(archs) == jax.tree.structure(expected)
    for leaf, other in zip(jax.tree.leaves(archs), jax.tree.leaves(expected), strict=True):
        assert isinstance(leaf, np.ndarray | np.generic)
        assert leaf.dtype == other.dtype
        np.testing.assert_array_equal(leaf, other)


# Batches


@kinds
@pytest.mark.parametrize("size", [0, 1, 5])
def test_a_batch_is_counted(kind, size):
    assert batches.count(batch(size, kind)) == size


@pytest.mark.parametrize(
    "archs",
    [{}, (), None, 3.0, np.float32(1), (np.zeros(2), np.zeros(3)), (np.zeros(2), np.float32(0))],
)
def test_what_is_no_batch_is_refused(archs):
    with pytest.raises(UserError, match="put one motif axis M in front of every array"):
        batches.count(archs)


@kinds
@pytest.mark.parametrize(
    "chosen", [[2, 0, 2], np.array([4]), slice(1, 3), slice(0), np.arange(5) % 2 == 0]
)
def test_archs_are_taken_in_order_by_indices_masks_and_slices(kind, chosen):
    places = np.arange(5)[chosen]
    expected = jax.tree.map(lambda leaf: np.stack([*leaf])[places], batch(5, kind))
    assert_same(batches.take(batch(5, kind), chosen), expected)


@kinds
def test_archs_are_unstacked_and_stacked_again(kind):
    archs = batches.unstack(batch(3, kind))
    assert len(archs) == 3
    for i, arch in enumerate(archs):
        assert_same(arch, jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], batch(3, kind)))
    assert_same(batches.stack(archs), batch(3, kind))


@kinds
def test_one_batch_is_put_after_the_other(kind):
    archs = batch(5, kind)
    parts = batches.take(archs, slice(2)), batches.take(archs, slice(2, 5))
    assert_same(batches.concatenate(*parts), archs)


@kinds
@pytest.mark.parametrize("size", [3, 4, 8])
def test_a_batch_is_padded_with_its_last_arch(kind, size):
    padded = batches.padded(batch(3, kind), size)
    assert_same(padded, batches.take(batch(3, kind), np.minimum(np.arange(size), 2)))


# What is known


@given(st.lists(st.one_of(st.floats(width=32), st.just(np.nan)), min_size=1, max_size=9))
def test_known_are_the_archs_with_a_finite_score(scores):
    finite = np.isfinite(scores)
    archs, truth = batches.known(batch(len(scores)), scores, minimum=0)
    assert_same(archs, batches.take(batch(len(scores)), finite))
    assert truth.dtype == np.float64
    np.testing.assert_array_equal(truth, np.array(scores)[finite])
    if finite.sum() < 2:
        with pytest.raises(UserError, match=f"{finite.sum()} of {len(scores)} scores are finite"):
            batches.known(batch(len(scores)), scores)


@pytest.mark.parametrize("scores", [[1.0, 2], [1.0, 2, 3, 4], 1.0, [[1.0], [2], [3]]])
def test_scores_of_another_shape_are_refused(scores):
    with pytest.raises(UserError, match="there are 3 archs: give one score for each motif"):
        batches.known(batch(3), scores)


def test_as_many_scores_are_needed_as_the_caller_says():
    assert len(batches.known(batch(3), [1, np.nan, 3], minimum=2)[1]) == 2
    with pytest.raises(UserError, match="2 of 3 scores are finite, but 3 are needed"):
        batches.known(batch(3), [1, np.nan, 3], minimum=3)


# Cells


@pytest.mark.parametrize("own", spaces(), ids=lambda own: own.space.name)
def test_cells_are_canonical_and_named(own):
    space = own.space
    drawn = space.sample(jax.random.key(0), 9)
    cells = Cells.of(space, drawn)
    assert len(cells) == 9
    expected = [space.canonical(arch) for arch in batches.unstack(drawn)]
    assert_same(cells.archs, batches.stack(expected))
    assert cells.names == tuple(map(space.encode, expected))
    again = Cells.of(space, cells.archs)
    assert again.names == cells.names
    assert_same(again.archs, cells.archs)
    read = Cells.read(space, cells.names)
    assert read.names == cells.names
    assert_same(read.archs, cells.archs)


@pytest.mark.parametrize("text", ["", "a motif", "1e999"])
@pytest.mark.parametrize("own", spaces(), ids=lambda own: own.space.name)
def test_a_text_that_is_no_motif_is_refused(own, text):
    name = own.space.encode(batches.unstack(own.space.sample(jax.random.key(0), 1))[0])
    with pytest.raises(UserError, match=r"is no "):
        Cells.read(own.space, [name, text])


def test_each_cell_is_made_canonical_once():
    asked = []

    class Counting(Digits):
        def canonical(self, arch):
            asked.append(int(arch["x"]))
            return arch

    cells = Cells.of(Counting(), digits(3, 1, 2).archs)
    cells.take([1, 0]).joined(cells)
    assert asked == [3, 1, 2]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ([2, 0, 2], ("13", "11", "13")),
        (np.array([1]), ("12",)),
        (range(2), ("11", "12")),
        (slice(1, 3), ("12", "13")),
        (np.array([True, False, True, False]), ("11", "13")),
        ([], ()),
        (range(0), ()),
        (slice(0), ()),
    ],
)
def test_cells_are_taken_with_their_names(chosen, expected):
    taken = digits(11, 12, 13, 14).take(chosen)
    assert taken.names == expected
    assert len(taken) == len(expected)
    assert_same(taken.archs, {"x": np.array(expected, np.int32)})


def test_a_cell_that_is_not_there_cannot_be_taken():
    with pytest.raises(IndexError):
        digits(1, 2).take([2])


def test_cells_are_joined_in_order():
    joined = digits(3, 1).joined(digits(2, 3))
    assert joined.names == ("3", "1", "2", "3")
    assert_same(joined.archs, digits(3, 1, 2, 3).archs)

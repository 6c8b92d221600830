"""Batches: every token once, in order, in arrays of one shape."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spd_jax.errors import UserError
from spd_jax.trainers.language_model.batches import LONGEST, SHORTEST, epoch_batches, eval_batches


def unrolled(batches):
    """Return the counted inputs and targets, `[B, n]` each, in order of time."""
    counted = batches.counted.astype(bool)
    return batches.inputs[counted].T, batches.targets[counted].T


def text(count):
    """Return tokens that are all different."""
    return np.arange(1, count + 1, dtype=np.int32)


@given(rows=st.integers(1, 7), extra=st.integers(0, 300), length=st.integers(1, 60))
@settings(max_examples=50)
def test_evaluation_covers_every_step_once(rows, extra, length):
    tokens = text(rows + 1 + extra)
    batches = eval_batches(tokens, rows, length)
    steps = (len(tokens) - 1) // rows
    inputs, targets = unrolled(batches)
    assert np.array_equal(inputs.ravel(), tokens[: rows * steps])  # a row after the other
    assert np.array_equal(targets, inputs + 1)
    assert batches.inputs.shape == (-(-steps // length), length, rows)
    assert set(np.unique(batches.counted)) <= {0, 1}
    # Padding stands at the end of the last sequence only.
    flat = batches.counted.ravel()
    assert np.array_equal(flat, np.arange(flat.size) < steps)


@given(extra=st.integers(0, 300), length=st.integers(1, 60))
@settings(max_examples=50)
def test_equal_lengths_drop_the_remainder(extra, length):
    tokens = text(4 + extra)
    batches = epoch_batches(tokens, 3, length, None)
    steps = (len(tokens) - 1) // 3
    used = max(steps // length * length, min(length, steps))
    assert np.all(batches.counted == 1)
    inputs, targets = unrolled(batches)
    assert np.array_equal(inputs, tokens[: 3 * steps].reshape(3, steps)[:, :used])
    assert np.array_equal(targets, inputs + 1)


@given(
    seeds=st.tuples(st.integers(0, 2**31), st.integers(0, 2**31)),
    steps=st.integers(1, 4000),
    length=st.integers(5, 80),
)
@settings(max_examples=50)
def test_drawn_lengths_keep_one_shape_and_count_every_step_once(seeds, steps, length):
    tokens = text(2 * steps + 1)
    epochs = [epoch_batches(tokens, 2, length, [seed, 3]) for seed in seeds]
    assert epochs[0].inputs.shape == epochs[1].inputs.shape
    for batches in epochs:
        inputs, targets = unrolled(batches)
        assert np.array_equal(inputs.ravel(), tokens[:-1])
        assert np.array_equal(targets, inputs + 1)
        lengths = batches.counted.sum(axis=1)
        drawn = lengths[lengths > 0]
        assert np.all(lengths[: len(drawn)] > 0)  # padding sequences come last
        assert np.all(drawn[:-1] >= SHORTEST)
        assert np.all(drawn <= LONGEST)
        assert drawn[-1] > 0


def test_drawn_lengths_are_merity_s():
    batches = epoch_batches(text(200_001), 1, 35, [0, 0])
    lengths = batches.counted.sum(axis=1)
    lengths = lengths[lengths > 0][:-1]
    # N(35, 5), and N(17.5, 5) in one case of twenty, cut to whole numbers.
    assert abs(np.mean(lengths) - (0.975 * 35 - 0.5)) < 0.4
    assert abs(np.mean(lengths < 18) - 0.05 * 0.54) < 0.01
    assert abs(np.std(lengths[lengths > 25]) - 5) < 0.6


def test_seeds_draw_lengths():
    first, again, other = (
        epoch_batches(text(2001), 2, 35, seed) for seed in ([1, 2], [1, 2], [1, 3])
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first.counted, other.counted)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_text_shorter_than_its_rows_is_refused(count):
    for make in (
        lambda tokens: eval_batches(tokens, 4, 5),
        lambda tokens: epoch_batches(tokens, 4, 5, None),
        lambda tokens: epoch_batches(tokens, 4, 35, [0, 0]),
    ):
        with pytest.raises(UserError, match="too short for 4 rows"):
            make(text(count))

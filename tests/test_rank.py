"""rank: the best of a stream of motifs, here and by workers, in flat memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spd_jax.errors import UserError
from spd_jax.ground_truth import clusters
from spd_jax.studies.rank import rank


def ripple(archs):
    """Score slopes, with ties and one that is no number."""
    scores = np.round(np.sin(7 * archs["slope"]), 2)
    return np.where(archs["slope"] == 0, np.nan, scores)


def batches(slopes, size):
    for start in range(0, len(slopes), size):
        yield {"slope": slopes[start : start + size]}


def check(found, slopes, top):
    scores = ripple({"slope": slopes})
    order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")[:top]
    np.testing.assert_array_equal(found.places, order)
    np.testing.assert_array_equal(found.scores, scores[order])
    np.testing.assert_array_equal(found.archs["slope"], slopes[order])
    assert found.total == len(slopes)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.integers(1, 9), st.integers(1, 50))
@settings(max_examples=100, deadline=None)
def test_the_best_are_those_of_a_stable_sort(slopes, size, top):
    slopes = np.array(slopes, float)
    check(rank(ripple, batches(slopes, size), top=top), slopes, top)


def test_workers_change_nothing(monkeypatch):
    monkeypatch.setattr(clusters, "_jax_settings", dict)
    slopes = np.linspace(0, 9, 50)
    check(rank(ripple, batches(slopes, 8), top=7, workers=2), slopes, 7)


def test_no_more_than_one_batch_is_ahead():
    taken = []

    def stream():
        for number in range(5):
            taken.append(number)
            yield {"slope": np.full(3, number + 1.0)}

    seen = []
    rank(lambda archs: seen.append(len(taken)) or ripple(archs), stream(), top=2)
    assert seen == [1, 2, 3, 4, 5]


def test_an_empty_stream_has_no_best():
    found = rank(ripple, [], top=3)
    assert (found.total, found.archs, len(found.places)) == (0, None, 0)


def test_mistakes_are_one_sentence():
    with pytest.raises(UserError, match="top=0 must be a whole number"):
        rank(ripple, [], top=0)
    with pytest.raises(UserError, match=r"scores of shape \(2,\) for 3 motifs"):
        rank(lambda archs: np.zeros(2), [{"slope": np.ones(3)}])

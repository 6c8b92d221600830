"""The hull against an oracle of three loops, the band, and which parent grows."""

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spd_jax.forward_search import hull

# Small whole numbers, so that ties and collinear points are common.
POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=9)


def oracle(points):
    """Return the points that no other, and no line between two others, lies at or below.

    O(n^3): a point is on the hull if it is not as dear as a better one, and above no segment.
    """
    kept = []
    for x, y in set(points):
        beaten = any(a <= x and b <= y and (a, b) != (x, y) for a, b in points)
        under = any(
            a < x < c and b + (d - b) * (x - a) / (c - a) <= y
            for (a, b), (c, d) in itertools.permutations(points, 2)
            if a < c
        )
        if not beaten and not under:
            kept.append((x, y))
    return sorted(kept)


@given(POINTS)
def test_the_hull_is_that_of_the_oracle(points):
    found = hull.lower_hull([x for x, _ in points], [y for _, y in points])
    assert [points[i] for i in found] == oracle(points)
    assert len(set(found)) == len(found)
    errors = [points[i][1] for i in found]
    assert errors == sorted(errors, reverse=True)


@given(POINTS, st.randoms(use_true_random=False))
def test_the_order_of_the_points_does_not_matter(points, random):
    other = random.sample(points, len(points))
    one, two = (
        [own[i] for i in hull.lower_hull([x for x, _ in own], [y for _, y in own])]
        for own in (points, other)
    )
    assert one == two


@given(POINTS.filter(len), st.sampled_from([0.0, 0.025, 0.5]))
def test_the_band_is_a_share_of_the_hulls_error(points, band):
    x, y = (np.array(own, float) for own in zip(*points, strict=True))
    found = hull.in_band(x, y, band)
    assert set(hull.lower_hull(x, y)) <= set(found)
    level = hull.hull_at(x, y, x)
    assert all((y[i] <= (1 + band) * level[i]) == (i in found) for i in range(len(x)))


def test_points_that_are_no_numbers_are_on_no_hull():
    assert hull.lower_hull([1, 2, 3], [0.5, np.nan, 0.1]) == [0, 2]
    assert hull.lower_hull([1, np.inf], [0.5, 0.1]) == [0]
    assert hull.in_band([1, 2, 3], [0.5, np.nan, 0.1]) == [0, 2]
    assert hull.lower_hull([], []) == hull.in_band([], []) == []
    assert hull.in_band([1.0], [np.nan]) == []


def test_a_line_is_its_ends_and_a_hull_of_one_point_is_it():
    assert hull.lower_hull([1, 2, 3], [3, 2, 1]) == [0, 2]
    assert hull.lower_hull([1, 1, 1], [2, 2, 2]) == [0]
    assert hull.lower_hull([3, 1], [0, 0]) == [1]
    np.testing.assert_allclose(hull.hull_at([1, 3], [4, 2], [0, 2, 9]), [4, 3, 2])


def chances(costs, uses):
    """Return how likely each model is chosen: the chance in one walk, over that of any."""
    order = sorted(range(len(costs)), key=lambda i: -costs[i])
    chance, left = {}, 1.0
    for i in order:
        chance[i] = left / (uses[i] + 1)
        left *= 1 - 1 / (uses[i] + 1)
    return np.array([chance[i] for i in range(len(costs))]) / (1 - left)


@pytest.mark.parametrize("uses", [(1, 2, 3), (0, 1, 4), (2, 0, 0), (5, 5, 5)])
def test_parents_are_chosen_as_often_as_they_should(uses):
    costs = (10.0, 30.0, 20.0)
    generator = np.random.default_rng(0)
    draws = 4000
    counts = collections.Counter(hull.choose_parent(costs, uses, generator) for _ in range(draws))
    wanted = chances(costs, uses)
    for i in range(3):
        spread = np.sqrt(wanted[i] * (1 - wanted[i]) / draws)
        assert abs(counts[i] / draws - wanted[i]) <= 4.5 * spread + 1e-12


def test_a_model_that_never_grew_ends_every_walk():
    generator = np.random.default_rng(0)
    assert {hull.choose_parent([1, 2], [0, 10**9], generator) for _ in range(50)} == {0}
    assert {hull.choose_parent([1, 2], [0, 0], generator) for _ in range(50)} == {1}

"""studies.spreads: what runs and splits add up to."""

import math

import numpy as np
import pytest

from spd_jax.errors import UserError
from spd_jax.metrics import spread_with_mean
from spd_jax.search.record import Iteration
from spd_jax.studies.spreads import MEASURES, aggregate, at_cost, result_at, summary_at


def record(costs, scores, tests=None):
    """Return a search that buys one cell in each iteration."""
    tests = scores if tests is None else tests
    rows = zip(costs, scores, tests, strict=True)
    return [
        Iteration(k, (str(k),), np.array([math.nan]), np.array([s]), np.array([t]), math.nan, c, 0)
        for k, (c, s, t) in enumerate(rows)
    ]


def test_spread_has_a_mean_and_hides_no_failure():
    assert spread_with_mean([1.0, 2.0, 6.0]) == {
        "median": 2.0,
        "q25": 1.5,
        "q75": 4.0,
        "values": [1.0, 2.0, 6.0],
        "mean": 3.0,
        "std": pytest.approx(math.sqrt(7)),
    }
    failed = spread_with_mean([1.0, math.inf])
    assert failed["values"] == [1.0, None]
    assert [failed[name] for name in ("median", "mean", "std")] == [None] * 3
    assert spread_with_mean([1.0])["std"] is None


def test_a_run_has_nothing_before_its_first_point_and_keeps_its_last():
    nan = math.nan
    found = at_cost([40, 60], [-2, -1], [9, 40, 59.9, 60 - 1e-9, 1e9])
    np.testing.assert_array_equal(found, [nan, -2, -2, -1, -1])
    np.testing.assert_array_equal(at_cost([10, 70.5], [-3, nan], [10, 70.5, 71]), [-3, nan, nan])
    # points in any order
    assert at_cost([60, 40], [-1, -2], [50, 60]).tolist() == [-2, -1]


def test_the_result_of_a_search_is_of_the_cell_best_on_validation():
    nan = math.nan
    own = record([1, 2, 3, 4], [nan, -2, -1, -3], tests=[0, -5, -6, -4])
    np.testing.assert_array_equal(result_at(own, [1, 2, 3, 4]), [nan, -5, -6, -6])
    np.testing.assert_array_equal(result_at(own, [1, 2, 3, 4], test=False), [nan, -2, -1, -1])
    untested = record([1, 2], [-2, -1], tests=[-3, nan])
    np.testing.assert_array_equal(result_at(untested, [1, 2]), [-3, nan])


def test_summary_at_a_number_of_ground_truths():
    runs = [
        record([40, 60, 100], [-2.5, -1.5, -0.5], [-3, -2, -1]),
        record([40, 60, 100], [-4.5, -3.5, -2.5], [-5, -4, -3]),
    ]
    found = summary_at(runs, "score", 60)
    assert found["test"]["mean"] == -3
    assert found["test"]["values"] == [-2, -4]
    assert found["valid"]["values"] == [-1.5, -3.5]
    assert summary_at(runs, "score")["test"]["values"] == [-1, -3]
    assert summary_at(runs, "score", 39)["test"]["mean"] is None
    bits = summary_at(runs, "bits per character", 40)["test"]["values"]
    assert bits == [3 / math.log(2), 5 / math.log(2)]


TAUS = {  # surrogate -> known -> Kendall's tau of three splits
    "nao": {5: [0.1, 0.2, 0.3], 40: [0.5, 0.6, 0.7]},
    "dish": {40: [0.6, 0.65, 0.7], 5: [0.4, 0.4, 0.4]},
    "dish_untrained": {0: [0.5, 0.55, 0.6]},
    "my_proxy": {0: [-0.1, 0.0, 0.1]},
}


def rows(taus=TAUS):
    return [
        {
            "surrogate": name,
            "known": known,
            "split": split,
            "kendall_tau": tau,
            "spearman": None if tau is None else 1.2 * tau,
            "precision_at_10": 0.4,
            "regret": 0.01 * (1 + split),
            "fit_seconds": 12.0,
            "query_seconds": 0.05,
        }
        for name, own in taus.items()
        for known, values in own.items()
        for split, tau in enumerate(values)
    ]


def test_figures_by_surrogate_and_number_of_ground_truths():
    found = aggregate(rows())
    assert list(found) == list(TAUS)
    assert list(found["dish"]) == [5, 40]
    tau = found["dish"][40]["kendall_tau"]
    assert (tau["mean"], tau["median"]) == pytest.approx((0.65, 0.65))
    assert (tau["q25"], tau["q75"], tau["std"]) == pytest.approx((0.625, 0.675, 0.05))
    assert tau["values"] == [0.6, 0.65, 0.7]
    assert set(found["dish"][40]) == set(MEASURES)
    assert found["nao"][5]["regret"]["mean"] == pytest.approx(0.02)
    shuffled = [rows()[i] for i in np.random.default_rng(0).permutation(len(rows()))]
    again = aggregate(shuffled)
    assert sorted(again["nao"][5]["kendall_tau"]["values"]) == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("bad", [None, math.nan, math.inf])
def test_a_failed_split_leaves_no_mean(bad):
    good = rows({"dish": {5: [0.1, 0.2]}})
    failed = {"surrogate": "dish", "known": 5, "split": 2, "kendall_tau": bad}
    own = aggregate([*good, failed])["dish"][5]
    assert own["kendall_tau"]["mean"] is None
    assert own["kendall_tau"]["values"] == [0.1, 0.2, None]
    assert own["spearman"]["values"][2] is None  # absent


def test_rows_that_are_none_or_twice_are_refused():
    with pytest.raises(UserError, match="no rows"):
        aggregate([])
    with pytest.raises(UserError, match="nao met split 0 twice with 5 known"):
        aggregate([*rows(), rows()[0]])

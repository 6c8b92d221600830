"""metrics: values against brute-force oracles and hand-computed cases."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spd_jax import metrics
from spd_jax.errors import UserError

NAN, INF = float("nan"), float("inf")

# Few distinct values, so that ties are common.
PAIRS = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=12)


def brute_force_tau(predicted, true):
    """Count all M^2 ordered pairs."""
    concordance = ties_predicted = ties_true = 0
    for p, t in zip(predicted, true, strict=True):
        for q, u in zip(predicted, true, strict=True):
            concordance += np.sign(p - q) * np.sign(t - u)
            ties_predicted += p != q
            ties_true += t != u
    return concordance / math.sqrt(ties_predicted * ties_true)


@given(PAIRS)
def test_kendall_tau_is_the_count_over_all_pairs(pairs):
    predicted, true = zip(*pairs, strict=True)
    if len(set(predicted)) > 1 and len(set(true)) > 1:
        oracle = brute_force_tau(predicted, true)
        assert metrics.kendall_tau(predicted, true) == pytest.approx(oracle, abs=1e-12)


@given(PAIRS)
def test_spearman_is_the_correlation_of_mid_ranks(pairs):
    predicted, true = np.transpose(pairs)
    if len(set(predicted)) > 1 and len(set(true)) > 1:
        ranks = [[np.sum(v < x) + (np.sum(v == x) + 1) / 2 for x in v] for v in (predicted, true)]
        oracle = np.corrcoef(*ranks)[0, 1]
        assert metrics.spearman(predicted, true) == pytest.approx(oracle, abs=1e-12)


@given(st.permutations(range(8)))
def test_rank_correlations_of_an_order_and_its_reverse_are_opposite(order):
    for correlation in (metrics.kendall_tau, metrics.spearman):
        forward = correlation(order, range(8))
        assert correlation([-x for x in order], range(8)) == pytest.approx(-forward)
        assert correlation(np.exp(order), range(8)) == pytest.approx(forward)


@pytest.mark.parametrize("correlation", [metrics.kendall_tau, metrics.spearman])
def test_rank_correlations_at_degenerate_points(correlation):
    assert correlation([2, 2, 2], [1, 2, 3]) == 0.0
    assert correlation([NAN, NAN], [1, 2]) == 0.0
    assert math.isnan(correlation([1, 2, 3], [5, 5, 5]))
    assert math.isnan(correlation([1], [1]))


@pytest.mark.parametrize("failure", [NAN, INF, -INF])
@pytest.mark.parametrize("correlation", [metrics.kendall_tau, metrics.spearman])
def test_a_failed_motif_ranks_last_on_either_side(correlation, failure):
    assert correlation([failure, 2, 3], [0.1, 0.2, 0.3]) == pytest.approx(1)
    assert correlation([failure, 2, 3], [0.3, 0.2, 0.1]) == pytest.approx(-1)
    assert correlation([1, 2, 3], [failure, 0.2, 0.3]) == pytest.approx(1)


def test_precision_at_counts_hits_and_true_ties():
    predicted, true = [9, 8, 7, 1, 0], [0.9, 0.1, 0.8, 0.8, 0.2]
    assert metrics.precision_at(1, predicted, true) == 1.0
    assert metrics.precision_at(2, predicted, true) == 0.5  # 0.9, not 0.1
    assert metrics.precision_at(3, predicted, true) == pytest.approx(2 / 3)
    assert metrics.precision_at(5, predicted, true) == 1.0
    assert metrics.precision_at(2, [0, 0, 5, 4], [1, 2, 3, 3]) == 1.0
    assert metrics.precision_at(2, [1, 0, 0, 0], [3, 1, 3, 3]) == 0.5


def test_precision_at_never_counts_a_failed_motif():
    assert metrics.precision_at(2, [3, 2, 1], [NAN, 0.5, NAN]) == 0.5
    assert metrics.precision_at(1, [INF, 2, 1], [0.1, 0.5, 0.2]) == 1.0


def test_regret_is_the_best_left_out_minus_the_best_chosen():
    predicted, true = [0.9, 0.8, 0.7, 0.6], [0.2, 0.5, 0.9, 0.4]
    regrets = [metrics.regret(predicted, true, k) for k in (1, 2, 3, 4)]
    np.testing.assert_allclose(regrets, [0.7, 0.4, 0.0, 0.0], atol=1e-12)


def test_regret_of_failed_motifs():
    assert metrics.regret([NAN, 1.0], [0.9, 0.4]) == pytest.approx(0.5)
    assert metrics.regret([2, 1], [NAN, 0.4]) == INF
    assert math.isnan(metrics.regret([2, 1], [NAN, NAN]))


@given(PAIRS, st.data())
def test_regret_falls_to_zero_with_k(pairs, data):
    predicted, true = zip(*pairs, strict=True)
    k = data.draw(st.integers(1, len(pairs) - 1))
    now, next_ = (metrics.regret(predicted, true, n) for n in (k, k + 1))
    assert now >= next_ >= 0
    assert metrics.regret(predicted, true, len(pairs)) == 0


def test_peak_is_the_first_slope_of_the_highest_finite_value():
    slopes = [0.1, 0.2, 0.3, 0.4]
    assert metrics.peak(slopes, [1, 3, 3, 2]) == 0.2
    assert metrics.peak(slopes, [INF, NAN, -7, -8]) == 0.3
    assert math.isnan(metrics.peak(slopes, [NAN] * 4))


def test_peak_error_is_a_distance():
    slopes = [0.1, 0.25, 0.5]
    assert metrics.peak_error(slopes, [3, 2, 1], [1, 2, 3]) == pytest.approx(0.4)
    assert metrics.peak_error(slopes, [1, 2, 3], [3, 2, 1]) == pytest.approx(0.4)
    assert math.isnan(metrics.peak_error(slopes, [NAN] * 3, [1, 2, 3]))


def test_spread_has_the_house_form():
    assert metrics.spread(np.float32([4, 1, 2, 3, 5])) == {
        "median": 3.0,
        "q25": 2.0,
        "q75": 4.0,
        "values": [4.0, 1.0, 2.0, 3.0, 5.0],
    }


def test_spread_is_strict_json_and_hides_no_failure():
    failed = metrics.spread([1.0, NAN, INF])
    assert json.loads(json.dumps(failed, allow_nan=False)) == {
        "median": None,
        "q25": None,
        "q75": None,
        "values": [1.0, None, None],
    }


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.kendall_tau([1, 2], [1, 2, 3]), r"predicted has shape \(2,\), true has"),
        (lambda: metrics.spearman([[1, 2]], [[1, 2]]), "vectors of one length"),
        (lambda: metrics.regret([], []), "at least one entry"),
        (lambda: metrics.precision_at(0, [1, 2], [1, 2]), "give a k from 1 to 2"),
        (lambda: metrics.regret([1, 2], [1, 2], 3), "top 3 of 2 motifs"),
        (lambda: metrics.peak([1, 2], [1]), r"slopes has shape \(2,\)"),
        (lambda: metrics.peak_error([1, 2], [1, 2], [1]), r"values has shape \(1,\)"),
        (lambda: metrics.spread([]), "one number per run"),
        (lambda: metrics.spread(3.0), "one number per run"),
    ],
)
def test_mistakes_are_refused_in_a_sentence(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_the_noise_ceiling_is_the_mean_over_seeds_and_needs_two():
    scores = np.array([[1.0, 1.0, 2.0], [2.0, 2.0, 1.0], [3.0, 3.0, 3.0]])
    # Seeds 0 and 1 against (1.5, 1.5, 3), one tie; seed 2 against (1, 2, 3).
    expected = (2 * 2 / np.sqrt(3 * 2) + 1 / 3) / 3
    assert metrics.noise_ceiling(scores) == pytest.approx(expected)
    assert metrics.noise_ceiling(scores[:, :1]) is None
    assert metrics.noise_ceiling(np.ones((3, 2))) is None

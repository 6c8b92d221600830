"""surrogates.learning_curves: power laws that are known, features of curves, unmeasured units."""

import jax
import numpy as np
import pytest

from spd_jax.errors import UserError
from spd_jax.surrogates.learning_curves import (
    CurveRegression,
    PowerLaw,
    curve_features,
    extrapolated,
)
from spd_jax.surrogates.regressors import SupportVectors

KEY = jax.random.key(1)
UNITS = (1, 2, 4)


def law(level, slope, exponent):
    return [level - slope * t**-exponent for t in range(1, 9)]


CURVES = [law(0.9, 0.3, 0.5), law(0.8, 0.1, 1.5), law(0.7, 0.0, 1.0), []]


def lookup(archs, units):
    return [CURVES[i][:units] for i in np.asarray(archs)]


def same(archs):
    return np.asarray(archs, float)[:, None]


def test_a_power_law_is_found_again():
    fitted = PowerLaw(lookup, UNITS, 8).prepare(KEY)
    found = fitted.predict(np.arange(4))
    np.testing.assert_allclose(found[:3], [curve[7] for curve in CURVES[:3]], atol=1e-5)
    assert np.isnan(found[3])
    assert PowerLaw(lookup, UNITS, 8).cost_per_query == 0.5


def test_a_curve_that_falls_is_taken_for_a_constant():
    # b >= 0: a score that only fell has its mean for a future.
    assert extrapolated((1, 2, 3), np.array([0.5, 0.4, 0.3]), 10) == pytest.approx(0.4)


def test_features_are_scores_and_their_differences():
    found = curve_features(lambda archs, units: [[0.1, np.nan, 0.4, 0.9]], np.zeros(1), (1, 3, 4))
    np.testing.assert_allclose(found, [[0.1, 0.4, 0.9, 0.3, 0.5, 0.2]])
    one = curve_features(lambda archs, units: [[0.1], [np.nan]], np.zeros(2), (1,))
    np.testing.assert_array_equal(one, [[0.1], [np.nan]])


def test_a_regression_learns_where_curves_end_and_leaves_failures_out():
    rng = np.random.default_rng(0)
    begin = rng.uniform(size=30)
    final = 0.2 + 0.7 * begin

    def curves(archs, units):
        assert units == 2
        found = [[begin[i], begin[i] ** 2] for i in np.asarray(archs)]
        return [() if i == 25 else own for i, own in zip(np.asarray(archs), found, strict=True)]

    vectors = SupportVectors(lambda archs: np.zeros((len(archs), 0)), penalty=10.0)
    regression = CurveRegression(curves, (1, 2), 4, vectors)
    known = np.array([*range(20), 25])
    fitted = regression.fit(KEY, known, final[known])
    predicted = fitted.predict(np.arange(20, 30))
    assert np.isnan(predicted).tolist() == [i == 25 for i in range(20, 30)]
    whole = np.arange(20, 30) != 25
    assert np.corrcoef(predicted[whole], final[20:][whole])[0, 1] > 0.98
    assert regression.cost_per_query == 0.5


@pytest.mark.parametrize(
    ("units", "sentence"),
    [
        ((2, 1, 3), "rising numbers from 1 to 8"),
        ((0, 1, 2), "rising numbers"),
        ((1, 2, 9), "rising numbers"),
        ((1, 2), "through 2 points of a curve"),
        ((), "rising numbers"),
    ],
)
def test_units_that_are_none_are_refused(units, sentence):
    with pytest.raises(UserError, match=sentence):
        PowerLaw(lookup, units, 8).prepare(KEY)


def test_a_lookup_that_loses_motifs_is_refused():
    regression = CurveRegression(lambda archs, units: [[0.1]], (1,), 4, SupportVectors(same))
    with pytest.raises(UserError, match="1 learning curves for 3 motifs"):
        regression.fit(KEY, np.arange(3), np.arange(3.0))

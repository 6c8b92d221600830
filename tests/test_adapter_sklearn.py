"""DishRegressor: scikit-learn's own checks, its tools, and that the face changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import estimator_checks_generator

from spd_jax.adapters.sklearn import DishRegressor, to_archs, to_rows
from spd_jax.dish import DishConfig
from spd_jax.errors import UserError
from spd_jax.motif import MotifFamily
from spd_jax.spaces import sigmoid_slope
from spd_jax.surrogates.dish_surrogate import DishSurrogate
from spd_jax.surrogates.uncertainty import Calibration

CONFIG = DishConfig(
    inner_steps=3, outer_steps=2, train_samples=3, valid_samples=3, ensemble_size=3, motif_batch=8
)
FAMILY = sigmoid_slope.family(inputs=2, hidden=1, outputs=2)
SLOPES = np.linspace(0.1, 2.0, 12, dtype=np.float32)
SCORES = np.cos(2 * SLOPES.astype(float))
NEW = np.linspace(0.15, 1.9, 7, dtype=np.float32)
SLOPE = np.float32(0)


def of_slopes(**options):
    return DishRegressor(FAMILY, CONFIG, arch=SLOPE, **options)


# What scikit-learn asks of every estimator


def any_init(key):
    return jax.random.normal(key, (2,))


def any_apply(params, arch, inputs):
    """Put a row of any length into a network: the tables of the checks have many."""
    return jnp.tanh(jnp.mean(arch) * inputs @ params)[:, None]


ANY_TABLE = DishRegressor(
    MotifFamily(any_init, any_apply, (2,), (1,)),
    DishConfig(inner_steps=1, outer_steps=0, train_samples=2, valid_samples=2),
)
CHECKS = list(estimator_checks_generator(ANY_TABLE))


@pytest.mark.parametrize(
    ("estimator", "check"), CHECKS, ids=[check.func.__name__ for _, check in CHECKS]
)
def test_scikit_learn_checks_the_estimator(estimator, check):
    check(estimator)


# The face changes nothing


def test_predictions_are_those_of_the_dish_to_the_bit():
    direct = DishSurrogate(FAMILY, CONFIG).fit(jax.random.key(7), SLOPES, SCORES)
    model = of_slopes(random_state=7).fit(to_rows(SLOPES), SCORES)
    np.testing.assert_array_equal(model.predict(to_rows(NEW)), direct.predict(NEW))
    predicted, std = model.predict(to_rows(NEW), return_std=True)
    np.testing.assert_array_equal(predicted, direct.predict(NEW))
    known, new = (direct.predict(slopes, per_member=True) for slopes in (SLOPES, NEW))
    np.testing.assert_array_equal(std, Calibration.of(known, SCORES).std(new))
    assert np.all(std > 0)


# Its tools


def test_it_works_in_pipelines_cross_validation_and_grid_search():
    rows = to_rows(SLOPES)
    pipeline = make_pipeline(FunctionTransformer(lambda x: x / 2), of_slopes())
    halved = clone(pipeline).fit(2 * rows, SCORES).predict(2 * to_rows(NEW))
    np.testing.assert_array_equal(halved, of_slopes().fit(rows, SCORES).predict(to_rows(NEW)))
    assert np.isfinite(cross_val_score(of_slopes(), rows, SCORES, cv=2)).all()
    grid = GridSearchCV(of_slopes(), {"config__inner_learning_rate": [0.01, 0.5]}, cv=2)
    grid.fit(rows, SCORES)
    best = grid.best_params_["config__inner_learning_rate"]
    assert grid.best_estimator_.config == CONFIG.__class__(
        **{**CONFIG.__dict__, "inner_learning_rate": best}
    )
    assert len(set(grid.cv_results_["mean_test_score"])) == 2


def test_settings_inside_the_config_are_parameters():
    model = of_slopes()
    assert model.get_params()["config__inner_steps"] == 3
    assert "config__inner_steps" not in model.get_params(deep=False)
    model.set_params(config__inner_steps=4, held_out_share=0.5)
    assert (model.config.inner_steps, model.config.outer_steps, model.held_out_share) == (4, 2, 0.5)
    assert CONFIG.inner_steps == 3
    with pytest.raises(UserError, match="config has no setting 'steps': see DishConfig"):
        model.set_params(config__steps=1)


def test_a_seed_of_scikit_learn_draws_the_dish():
    rows = to_rows(SLOPES)
    drawn = [of_slopes(random_state=np.random.RandomState(s)).fit(rows, SCORES) for s in (1, 1, 2)]
    first, again, other = (model.predict(rows) for model in drawn)
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


# Rows


ARCHS = {
    "operation": np.array([[1, 2], [3, 4], [5, 6]], np.int32),
    "slope": np.array([0.1, 0.2, 0.3], np.float32),
}


def test_rows_are_archs_flattened_and_back():
    rows = to_rows(ARCHS)
    np.testing.assert_array_equal(rows[:, :2], ARCHS["operation"])
    np.testing.assert_array_equal(rows[:, 2], ARCHS["slope"])
    like = {"operation": np.zeros(2, np.int32), "slope": np.float32(0)}
    back = to_archs(rows, like)
    assert back.keys() == ARCHS.keys()
    for name, leaf in ARCHS.items():
        np.testing.assert_array_equal(back[name], leaf)
        assert back[name].dtype == leaf.dtype


def test_a_row_of_another_length_is_refused():
    with pytest.raises(UserError, match=r"rows have shape \(3, 2\), but an arch has 1 numbers"):
        to_archs(np.zeros((3, 2)), SLOPE)


# The spread of the members


def test_the_spread_is_scaled_to_the_errors_of_the_known_motifs():
    members = np.array([[0.0, 1.0, 4.0], [2.0, 1.0, 8.0]])  # medians 1, 1, 6
    truth = np.array([4.0, 1.0, 5.0])  # errors 3, 0, 1; spreads sqrt(2), 0, sqrt(8)
    found = Calibration.of(members, truth)
    assert found.factor == pytest.approx(1.0)  # 9 + 0 + 1 = 2 + 0 + 8
    np.testing.assert_allclose(found.std([[0.0, 1.0], [1.0, np.nan]]), [np.sqrt(0.5), np.nan])


def test_a_single_member_has_the_same_error_everywhere_and_failures_are_left_out():
    found = Calibration.of([[1.0, 2.0, np.nan, 5.0]], [0.0, 4.0, 1.0, np.nan])
    np.testing.assert_allclose(found.std([[3.0, np.nan]]), [np.sqrt(2.5), np.nan])

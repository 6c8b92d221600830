"""Appendix A.1: the setting with the smallest held-out loss, and nothing else looked at."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from spd_jax.dish import DishConfig, check
from spd_jax.errors import UserError
from spd_jax.spaces import sigmoid_slope
from spd_jax.studies import tuning
from spd_jax.surrogates.dish_surrogate import DishSurrogate
from spd_jax.surrogates.slope_mlp import SlopeMlp

ARCHS = np.linspace(0.0, 1.0, 11)
SCORES = ARCHS**2


@dataclasses.dataclass(frozen=True)
class Power:
    """Predicts archs**power; writes down what it was shown."""

    power: float
    fitted: list = dataclasses.field(default_factory=list)
    asked: list = dataclasses.field(default_factory=list)

    def fit(self, key, archs, scores):
        self.fitted.append((np.asarray(archs).tolist(), np.asarray(scores).tolist()))
        return self

    def predict(self, archs):
        self.asked.append(np.asarray(archs).tolist())
        return np.asarray(archs) ** self.power


def candidates():
    return {"linear": Power(1.0), "square": Power(2.0), "inverse": Power(0.1)}


def test_the_setting_that_predicts_the_other_half_best_is_chosen():
    assert tuning.choose(jax.random.key(0), candidates(), ARCHS, SCORES) == "square"
    root = tuning.choose(jax.random.key(0), candidates(), ARCHS, ARCHS**0.1)
    assert root == "inverse"


def test_both_halves_are_fitted_and_predicted_once_and_the_log_names_them():
    settings, trials = candidates(), []
    tuning.choose(jax.random.key(1), settings, ARCHS, SCORES, on_trial=trials.append)
    assert [trial.name for trial in trials] == [n for n in settings for _ in range(2)]
    for name, power in settings.items():
        own = [trial for trial in trials if trial.name == name]
        for trial, (archs, scores), asked in zip(own, power.fitted, power.asked, strict=True):
            assert sorted(trial.train + trial.valid) == list(range(11))
            assert archs == ARCHS[list(trial.train)].tolist()
            assert scores == SCORES[list(trial.train)].tolist()
            assert asked == ARCHS[list(trial.valid)].tolist()
        assert own[0].train == own[1].valid


def test_the_logged_loss_is_the_z_scored_error_of_the_held_out_half():
    trials = []
    tuning.choose(jax.random.key(2), {"linear": Power(1.0)}, ARCHS, SCORES, on_trial=trials.append)
    for trial in trials:
        predicted, true = ARCHS[list(trial.valid)], SCORES[list(trial.valid)]
        z = [(x - x.mean()) / x.std() for x in (predicted, true)]
        assert trial.loss == pytest.approx(np.mean((z[0] - z[1]) ** 2), rel=1e-4)


def test_the_same_key_makes_the_same_halves_and_another_key_others():
    def halves(seed):
        trials = []
        tuning.choose(
            jax.random.key(seed), {"one": Power(1.0)}, ARCHS, SCORES, on_trial=trials.append
        )
        return trials[0].train

    assert halves(3) == halves(3)
    assert len({halves(seed) for seed in range(5)}) > 1


def test_a_failed_ground_truth_is_never_shown_and_a_failed_prediction_loses():
    scores = SCORES.copy()
    scores[[2, 5]] = np.nan, np.inf
    settings = {"broken": Power(-1.0), "linear": Power(1.0)}  # 0 ** -1 is infinite
    trials = []
    with np.errstate(divide="ignore"):
        chosen = tuning.choose(jax.random.key(4), settings, ARCHS, scores, on_trial=trials.append)
    assert chosen == "linear"
    assert all(not {2, 5} & set(trial.train + trial.valid) for trial in trials)
    assert any(trial.loss == np.inf for trial in trials if trial.name == "broken")


@pytest.mark.parametrize(
    ("settings", "count", "words"),
    [({}, 11, "no setting to choose from"), (candidates(), 3, "3 motifs have a finite")],
)
def test_too_little_to_choose_from_is_refused(settings, count, words):
    with pytest.raises(UserError, match=words):
        tuning.choose(jax.random.key(0), settings, ARCHS[:count], SCORES[:count])


@pytest.mark.parametrize("ranges", [tuning.TABLE_2, tuning.TABLE_3, tuning.TABLE_4])
def test_draws_lie_in_their_ranges_and_reach_every_choice(ranges):
    settings = [tuning.draw(key, ranges) for key in jax.random.split(jax.random.key(0), 60)]
    for name, values in ranges.items():
        drawn = [setting[name] for setting in settings]
        if isinstance(values, tuning.Interval):
            assert values.low <= min(drawn) < max(drawn) <= values.high
            below = np.mean(np.array(drawn) < np.sqrt(values.low * values.high))
            assert 0.25 < below < 0.75, name  # log-uniform: half lie below the geometric middle
        else:
            assert set(drawn) == set(values)


@pytest.mark.parametrize("table", [tuning.TABLE_2, tuning.TABLE_4])
def test_every_draw_of_the_dish_tables_is_a_dish_and_of_table_3_an_mlp(table):
    setting = tuning.draw(jax.random.key(5), table)
    hidden = setting.pop("hidden_size")
    check(DishConfig(**setting, valid_samples=setting["train_samples"]))
    assert sigmoid_slope.family(hidden=hidden).output_shape == (10,)
    SlopeMlp(**tuning.draw(jax.random.key(5), tuning.TABLE_3))


def test_a_search_returns_the_drawn_setting_nearest_to_the_truth():
    ranges = {"power": tuning.Interval(0.1, 10.0)}
    trials = []
    found = tuning.search(
        jax.random.key(6),
        lambda setting: Power(setting["power"]),
        ranges,
        ARCHS,
        SCORES,
        trials=12,
        on_trial=trials.append,
    )
    assert len(trials) == 24
    powers = [json.loads(trial.name)["power"] for trial in trials]
    assert found["power"] == min(powers, key=lambda power: abs(np.log(power / 2)))


def test_a_search_of_dishes_runs():
    def make(setting):
        config = DishConfig(inner_steps=3, outer_steps=2, **setting)
        return DishSurrogate(sigmoid_slope.family(), config)

    ranges = {"inner_learning_rate": tuning.Interval(0.01, 0.1)}
    found = tuning.search(jax.random.key(7), make, ranges, ARCHS, SCORES, trials=2)
    assert 0.01 <= found["inner_learning_rate"] <= 0.1

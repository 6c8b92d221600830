"""The sampler suggests what the dish ranks best; the pruner; ledgers as studies."""

import dataclasses
import math
import pickle

import jax
import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from slope_dish import DISH

from spd_jax.adapters.optuna import CurvePruner, DishSampler, export
from spd_jax.errors import UserError
from spd_jax.ledger import Evaluation, EvaluationKey, Ledger

optuna.logging.set_verbosity(optuna.logging.WARNING)


def slope_of(trial):
    return np.float32(trial.suggest_float("slope", 0.1, 2.0))


def truth(slope):
    return math.cos(2 * float(slope))


@dataclasses.dataclass
class Ranker:
    """A surrogate that keeps what it was given, and predicts by a formula or by another one."""

    predict: object = None
    surrogate: object = None
    calls: list = dataclasses.field(default_factory=list)

    def fit(self, key, archs, scores):
        fitted = self.surrogate.fit(key, archs, scores) if self.surrogate else None
        self.calls.append({"key": key, "known": archs, "scores": scores})
        outer = self

        class Fitted:
            def predict(self, archs):
                found = fitted.predict(archs) if fitted else outer.predict(archs)
                outer.calls[-1] |= {"proposed": archs, "predicted": found}
                return found

        return Fitted()


def study_of(sampler, direction="maximize"):
    return optuna.create_study(direction=direction, sampler=sampler)


# The sampler


def test_a_trial_tries_what_the_dish_itself_ranks_best():
    ranker = Ranker(surrogate=DISH)
    study = study_of(DishSampler(ranker, slope_of, proposals=7, n_startup_trials=11))
    study.optimize(lambda trial: truth(slope_of(trial)), 13)
    assert len(ranker.calls) == 2
    for call, number in zip(ranker.calls, (11, 12), strict=True):
        known = np.float32([trial.params["slope"] for trial in study.trials[:number]])
        np.testing.assert_array_equal(call["known"], known)
        np.testing.assert_array_equal(call["scores"], [truth(slope) for slope in known])
        key = jax.random.fold_in(jax.random.key(0), number)
        direct = DISH.fit(key, known, call["scores"]).predict(call["proposed"])
        np.testing.assert_array_equal(call["predicted"], direct)
        best = call["proposed"][np.argmax(direct)]
        assert np.float32(study.trials[number].params["slope"]) == best


def test_scores_are_higher_is_better_whatever_the_direction_and_failures_are_left_out():
    ranker = Ranker(lambda slopes: -slopes)
    study = study_of(DishSampler(ranker, slope_of, n_startup_trials=3), "minimize")
    for slope, value in ((0.2, 5.0), (0.4, 7.0), (0.6, math.inf), (0.8, 6.0)):
        trial = create_trial(
            value=value, params={"slope": slope}, distributions={"slope": FloatDistribution(0, 2)}
        )
        study.add_trial(trial)
    study.add_trial(create_trial(state=TrialState.FAIL))
    study.optimize(slope_of, 1)
    np.testing.assert_array_equal(ranker.calls[0]["known"], np.float32([0.2, 0.4, 0.8]))
    np.testing.assert_array_equal(ranker.calls[0]["scores"], [-5, -7, -6])
    assert np.float32(study.trials[-1].params["slope"]) == ranker.calls[0]["proposed"].min()


def cell_of(trial):
    """Ask for a parameter that only one of the choices has."""
    operation = trial.suggest_categorical("operation", ["none", "scale"])
    if operation == "none":
        return np.array([0, 0])
    return np.array([1, trial.suggest_int("width", 1, 4)])


def test_conditional_spaces_are_searched_without_repetition_until_they_are_exhausted():
    ranker = Ranker(lambda cells: cells[:, 0] * 10.0 + cells[:, 1])
    sampler = DishSampler(ranker, cell_of, trials_per_fit=2, n_startup_trials=2, proposals=60)
    study = study_of(sampler)

    def objective(trial):
        rate = trial.suggest_float("rate", 0, 1)  # which the sampler's cells do not have
        return float(cell_of(trial).sum()) + 0.001 * rate

    study.enqueue_trial({"operation": "none"})
    study.enqueue_trial({"operation": "scale", "width": 1})
    study.optimize(objective, 5)
    assert [trial.params.get("width") for trial in study.trials] == [None, 1, 4, 3, 2]
    assert all("rate" in trial.params for trial in study.trials)
    assert len(ranker.calls) == 2  # two trials for each fit
    study.optimize(objective, 1)  # all five cells were tried: a random one
    assert len(study.trials) == 6
    assert len(ranker.calls) == 2


def test_equal_seeds_give_equal_trials_also_in_threads_and_after_pickling():
    def slopes(sampler, jobs=1):
        study = study_of(sampler)
        study.optimize(lambda trial: truth(slope_of(trial)), 6, n_jobs=jobs)
        return [trial.params["slope"] for trial in study.trials]

    def sampler(seed):
        ranker = Ranker(truth_of_all)
        return DishSampler(ranker, slope_of, proposals=5, n_startup_trials=3, seed=seed)

    first = slopes(sampler(1))
    assert slopes(pickle.loads(pickle.dumps(sampler(1)))) == first
    assert slopes(sampler(2)) != first
    assert len(set(slopes(sampler(1), jobs=2))) == 6


def truth_of_all(slopes):
    return np.cos(2 * np.asarray(slopes, float))


def test_any_sampler_may_propose():
    proposer = optuna.samplers.TPESampler(seed=0, n_startup_trials=2)
    ranker = Ranker(truth_of_all)
    study = study_of(DishSampler(ranker, slope_of, proposals=4, proposer=proposer))
    study.optimize(lambda trial: truth(slope_of(trial)), 12)
    assert [len(call["proposed"]) for call in ranker.calls] == [4, 4]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"proposals": 0}, "proposals=0 must be a whole number of at least 1"),
        ({"n_startup_trials": 1}, "n_startup_trials=1 must be a whole number of at least 2"),
        ({"proposals": 2, "trials_per_fit": 3}, "trials_per_fit=3 must not exceed proposals=2"),
    ],
)
def test_sizes_that_cannot_be_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        DishSampler(DISH, slope_of, **options)


def test_a_study_of_two_directions_is_refused():
    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=DishSampler(DISH, slope_of)
    )
    with pytest.raises(UserError, match="give the study one direction"):
        study.optimize(lambda trial: (slope_of(trial), 0.0), 1)


# The pruner


def asked(curve, direction="maximize", finals=(0.5, 0.6, 0.7), first=1, **options):
    """Return whether a pruner ends a trial with this curve, beside complete trials."""
    pruner = CurvePruner(10, n_startup_trials=3, **options)
    study = optuna.create_study(direction=direction, pruner=pruner)
    sign = 1 if direction == "maximize" else -1
    study.add_trials([create_trial(value=sign * final) for final in finals])
    trial = study.ask()
    for step, value in enumerate(curve, start=first):
        trial.report(sign * value, step)
    return trial.should_prune()


LOW, HIGH = ([end - 0.3 / t for t in (1, 2, 3, 4)] for end in (0.55, 0.66))  # exactly power laws


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("first", [0, 1])
def test_a_curve_is_drawn_on_to_the_end_and_compared_with_the_median(direction, first):
    assert asked(LOW, direction, first=first)  # ends at 0.52
    assert not asked(HIGH, direction, first=first)  # ends at 0.63, but stands at 0.585


def test_the_percentile_moves_the_bar():
    assert not asked(LOW, percentile=95)  # above 0.51
    assert asked(HIGH, percentile=5)  # below 0.69


@pytest.mark.parametrize(
    "given",
    [
        {"curve": LOW[:2]},
        {"curve": LOW, "n_warmup_steps": 5},
        {"curve": LOW, "finals": (0.5, 0.6)},
        {"curve": [0.1] * 10},
    ],
    ids=["two points", "warm-up", "two complete", "at its end"],
)
def test_nothing_is_pruned_too_early_or_at_the_end(given):
    assert not asked(**given)


def test_a_curve_that_is_not_finite_is_pruned():
    assert asked([0.1, math.nan, 0.2])


def test_a_percentile_above_100_is_refused():
    with pytest.raises(UserError, match="percentile=101 must be a number from 0 to 100"):
        CurvePruner(10, percentile=101)


# Ledgers


KEY = EvaluationKey("slopes", "0.5", "mnist", 0, 3)
BOUGHT = {
    KEY: Evaluation("ok", 0.9, 0.8, (0.7, 0.8, 0.9), 2.0, unit="accuracy", info={"loss": 0.1}),
    KEY._replace(cell="1.5", seed=1): Evaluation("failed", error="diverged"),
    KEY._replace(budget=1): Evaluation("ok", 0.7),
}


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        for key, evaluation in BOUGHT.items():
            opened.put(key, evaluation)
        yield opened


def test_a_ledger_becomes_one_study_for_each_task_and_budget_and_grows_with_it(ledger, tmp_path):
    storage = f"sqlite:///{tmp_path}/studies.db"
    options = {
        "parameters": lambda cell: {"slope": float(cell)},
        "distributions": {"slope": FloatDistribution(0, 2)},
    }
    full, short = export(ledger, storage, **options)
    assert full.study_name == "slopes, budget 3, mnist"
    assert full.direction == optuna.study.StudyDirection.MAXIMIZE
    ok, failed = full.trials
    assert (ok.state, ok.value, ok.params) == (TrialState.COMPLETE, 0.9, {"slope": 0.5})
    assert ok.intermediate_values == {1: 0.7, 2: 0.8, 3: 0.9}
    assert ok.user_attrs == {
        "cell": "0.5", "seed": 0, "parent": "", "unit": "accuracy", "test_score": 0.8,
        "seconds": 2.0, "info": {"loss": 0.1},
    }  # fmt: skip
    assert ok.duration.total_seconds() == 2
    assert (failed.state, failed.user_attrs["error"]) == (TrialState.FAIL, "diverged")
    assert [trial.value for trial in short.trials] == [0.7]
    ledger.put(KEY._replace(cell="1.9"), Evaluation("ok", 0.5))
    again, _ = export(ledger, storage, **options)
    assert [trial.params["slope"] for trial in again.trials] == [0.5, 1.5, 1.9]
    assert again.best_trial.user_attrs["cell"] == "0.5"


def test_a_long_task_has_a_name_that_fits_and_is_its_own(tmp_path):
    with Ledger(tmp_path / "long.sqlite") as opened:
        for end in "ab":
            opened.put(KEY._replace(task="x" * 600 + end), Evaluation("ok", 1.0))
        names = [study.study_name for study in export(opened, f"sqlite:///{tmp_path}/studies.db")]
    assert len(set(names)) == 2
    assert max(map(len, names)) <= 512


def test_a_parameter_without_a_distribution_is_refused(ledger):
    given = {"other": CategoricalDistribution(["a"])}
    with pytest.raises(UserError, match="parameter 'slope' has no distribution"):
        export(
            ledger,
            optuna.storages.InMemoryStorage(),
            parameters=lambda cell: {"slope": 1.0},
            distributions=given,
        )

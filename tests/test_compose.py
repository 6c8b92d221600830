"""surrogates/compose: a mean is the mean, no score leaks into a stack, frozen dishes stay."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from slope_dish import DISH, NEW, SCORES, SLOPES

from spd_jax import dish, files, metrics
from spd_jax.errors import UserError
from spd_jax.surrogates import protocol
from spd_jax.surrogates.compose import Averaged, FrozenDish, Stacked
from spd_jax.surrogates.regressors import GaussianProcess, RandomForest

KEY = jax.random.key(4)
UNSEEN = -7.0


def columns(archs):
    return np.asarray(archs, float)[:, None]


FOREST = RandomForest(columns, trees=20)
PROCESS = GaussianProcess(columns)


@functools.cache
def averaged():
    return Averaged(DISH, PROCESS).fit(KEY, SLOPES, SCORES)


# The mean


@dataclasses.dataclass(frozen=True)
class Given:
    """A surrogate, fitted or not, that predicts what it was given, and keeps its keys."""

    values: np.ndarray
    keys: list = dataclasses.field(default_factory=list)

    def fit(self, key, archs, scores):
        self.keys.append((key, archs.tolist(), scores.tolist()))
        return self

    def predict(self, archs):
        return self.values


def test_it_is_the_mean_of_a_dish_and_a_regressor_to_the_bit():
    dish_key, regressor_key = jax.random.split(KEY)
    first = DISH.fit(dish_key, SLOPES, SCORES)
    process = PROCESS.fit(regressor_key, SLOPES, SCORES).predict(NEW)
    standardised = dish.predict(first.state, DISH.family, DISH.config, NEW).astype(float)
    expected = (SCORES.mean() + SCORES.std() * standardised + process) / 2
    np.testing.assert_array_equal(averaged().predict(NEW), expected)


def test_any_two_can_be_averaged_and_both_see_the_same_scores():
    first, second = Given(np.array([1.0, 2.0])), Given(np.array([3.0, 8.0]))
    scores = np.where(np.arange(11) == 4, np.inf, SCORES)
    fitted = Averaged(first, second).fit(KEY, SLOPES, scores)
    np.testing.assert_array_equal(fitted.predict(NEW[:2]), [2.0, 5.0])
    for part, key in zip((first, second), jax.random.split(KEY), strict=True):
        assert part.keys == [(key, SLOPES.tolist(), scores.tolist())]


def test_a_motif_that_fails_in_either_fails():
    pair = Averaged(Given(np.array([1, np.nan, 1])), Given(np.array([0, 0, np.nan])))
    predictions = pair.fit(KEY, SLOPES, SCORES).predict(NEW[:3])
    np.testing.assert_array_equal(predictions, [0.5, np.nan, np.nan])


def test_a_regressor_that_knows_nothing_leaves_the_order_to_the_dish():
    average = Averaged(DISH, Given(np.full(7, SCORES.mean()))).fit(KEY, SLOPES, SCORES)
    first = average.first.predict(NEW)
    np.testing.assert_array_equal(np.argsort(average.predict(NEW)), np.argsort(first))


def test_steps_of_two_long_fits_are_counted_in_a_row():
    steps = []
    Averaged(DISH, dataclasses.replace(DISH, held_out_share=0.5)).fit(
        KEY, SLOPES, SCORES, on_step=steps.append
    )
    assert [step.done for step in steps] == list(range(1, len(steps) + 1))
    assert [step.phase for step in steps[:5]] == ["fit"] * 2 + ["early_stopping"] * 2 + (
        ["fit"] if len(steps) > 4 else []
    )
    assert [step.total for step in steps[:4]] == [2, 2, 6, 6]
    assert Averaged(PROCESS, DISH).start(KEY).first == ()


# The stack


@dataclasses.dataclass(frozen=True)
class Memory:
    """A base that knows by heart what it was fitted on and nothing else: any leak shows."""

    fitted_on: list
    unseen: float = UNSEEN

    def fit(self, key, archs, scores):
        self.fitted_on.append(np.asarray(archs).tolist())
        memory = dict(zip(np.asarray(archs).tolist(), np.asarray(scores).tolist(), strict=True))
        return Recalling(memory, self.unseen)


@dataclasses.dataclass(frozen=True)
class Recalling:
    memory: dict
    unseen: float

    def predict(self, archs):
        return np.array([self.memory.get(arch, self.unseen) for arch in np.asarray(archs).tolist()])


@dataclasses.dataclass(frozen=True)
class Watched:
    """A regressor that keeps what it was shown, and predicts the last column."""

    features: protocol.ToVectors
    shown: list

    def with_features(self, features):
        return Watched(features, self.shown)

    def fit(self, key, archs, scores):
        self.shown.append((self.features(archs), np.asarray(scores)))
        return self

    def predict(self, archs):
        return self.features(archs)[:, -1]


@pytest.mark.parametrize("folds", [2, 3, 5, 50])
def test_the_column_is_out_of_fold_and_the_last_fit_on_everything(folds):
    fits, shown = [], []
    scores = SCORES.copy()
    scores[4] = np.nan
    usable = np.delete(SLOPES, 4)
    stack = Stacked(Memory(fits), Watched(columns, shown), folds)
    fitted = stack.fit(KEY, SLOPES, scores)
    ((vectors, truth),) = shown
    np.testing.assert_array_equal(vectors[:, 0], usable)
    np.testing.assert_array_equal(vectors[:, 1], np.full(10, UNSEEN))
    np.testing.assert_array_equal(truth, np.delete(SCORES, 4))
    # The base was fitted on everything once, and on all but one fold for each fold.
    whole = [fit for fit in fits if len(fit) == 10]
    assert whole == [usable.tolist()]
    left_out = [np.setdiff1d(usable, fit) for fit in fits if len(fit) < 10]
    assert len(left_out) == min(folds, 10)
    np.testing.assert_array_equal(np.sort(np.concatenate(left_out)), usable)
    assert max(map(len, left_out)) - min(map(len, left_out)) <= 1
    np.testing.assert_array_equal(fitted.predict(SLOPES[:2]), SCORES[:2])


def test_the_column_of_a_dish_is_in_the_unit_of_the_scores():
    shown = []
    Stacked(DISH, Watched(columns, shown), 2).fit(KEY, SLOPES, 100 + SCORES)
    column = shown[0][0][:, 1]
    assert np.abs(column - 100).max() < 10 * SCORES.std()


def test_a_base_that_looks_at_no_score_is_fitted_once_and_predicts_the_known_motifs():
    shown = []
    stack = Stacked(FrozenDish(DISH), Watched(columns, shown)).fit(KEY, SLOPES, SCORES)
    np.testing.assert_array_equal(shown[0][0][:, 1], stack.base.predict(SLOPES))
    gaussian = Stacked(FrozenDish(DISH), PROCESS).fit(KEY, SLOPES, SCORES)
    assert metrics.kendall_tau(gaussian.predict(NEW), np.cos(2 * NEW)) > 0.9
    two = Stacked(FrozenDish(DISH), FOREST).fit(KEY, SLOPES[:2], SCORES[:2])
    assert np.isfinite(two.predict(NEW)).all()


def test_a_stack_of_a_dish_ranks_well():
    fitted = Stacked(DISH, FOREST, 5).fit(KEY, SLOPES, SCORES)
    assert metrics.kendall_tau(fitted.predict(NEW), np.cos(2 * NEW)) > 0.5


def test_a_prediction_that_failed_lies_one_standard_deviation_below_the_worst():
    class Holes(Memory):
        def fit(self, key, archs, scores):
            return self

        def predict(self, archs):
            values = np.asarray(archs, float)
            return np.where((values > 1.9) | (values < 0.2), np.nan, values)

    shown = []
    fitted = Stacked(Holes([]), Watched(columns, shown), 3).fit(KEY, SLOPES, SCORES)
    failed = (SLOPES > 1.9) | (SLOPES < 0.2)
    floor = SLOPES[~failed].min() - SLOPES[~failed].astype(float).std()
    np.testing.assert_allclose(shown[0][0][:, 1], np.where(failed, floor, SLOPES))
    np.testing.assert_allclose(fitted.predict(np.array([0.1, 1.0])), [floor, 1.0])
    # Predictions that are all equal have no spread, and a failure is told from them all the same.
    equal = Stacked(Memory([]), Watched(columns, []), 3).fit(KEY, SLOPES, SCORES)
    assert equal.floor == UNSEEN - 1
    with pytest.raises(UserError, match="predicts no finite score"):
        Stacked(Memory([], unseen=np.nan), FOREST, 3).fit(KEY, SLOPES, SCORES)


@pytest.mark.parametrize(
    ("stack", "count", "sentence"),
    [
        (Stacked(DISH, FOREST, 1), 11, "folds is 1: give 2 or more"),
        (Stacked(DISH, FOREST, 0), 11, "folds is 0: give 2 or more"),
        (Stacked(FrozenDish(DISH), FOREST, -1), 11, "folds is -1: give 2 or more"),
        (Stacked(DISH, FOREST, 2), 3, "3 of 3 scores are finite, but 4 are needed"),
        (Stacked(DISH, FOREST, 3), 2, "2 of 2 scores are finite, but 3 are needed"),
        (Stacked(DISH, FOREST, 3), 0, "0 of 0 scores are finite"),
    ],
)
def test_mistakes_are_sentences(stack, count, sentence):
    with pytest.raises(UserError, match=sentence):
        stack.fit(KEY, SLOPES[:count], SCORES[:count])


# Frozen dishes


def test_a_frozen_dish_is_the_dish_that_a_fit_starts_from_or_the_one_it_is_given():
    fitted = FrozenDish(DISH).prepare(KEY)
    start = DISH.start(KEY)
    np.testing.assert_array_equal(
        fitted.predict(NEW), np.median(dish.raw_scores(start, DISH.family, DISH.config, NEW), 0)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)),
        (fitted.state.params, fitted.state.data),
        (start.params, start.data),
    )
    learned = DISH.fit(KEY, SLOPES, SCORES)
    kept = FrozenDish(DISH, learned.state).fit(jax.random.key(9), SLOPES[:2], [0.0, 1.0])
    standardised = dish.predict(learned.state, DISH.family, DISH.config, NEW)
    np.testing.assert_array_equal(kept.predict(NEW), standardised)


def test_another_key_gives_another_untrained_dish_and_another_stack():
    for surrogate in (FrozenDish(DISH), Stacked(FrozenDish(DISH), FOREST)):
        one, other = (surrogate.fit(jax.random.key(k), SLOPES, SCORES) for k in (3, 4))
        assert np.any(one.predict(NEW) != other.predict(NEW))


# Files


@pytest.mark.parametrize("place", [0, 1])
def test_a_part_that_is_damaged_is_named(place, tmp_path):
    name = ("first", "second")[place]
    path = tmp_path / "pair.npz"
    averaged().save(path)
    arrays = files.load_arrays(path, kind="Averaged")
    files.save_arrays(path, arrays | {name: arrays[name][:99]}, kind="Averaged")
    with pytest.raises(UserError, match=rf"pair\.npz: the {name} cannot be read"):
        Averaged(DISH, PROCESS).load(path)


def test_a_pair_of_others_is_refused(tmp_path):
    averaged().save(tmp_path / "pair.npz")
    with pytest.raises(
        UserError, match="the second is of 'GaussianProcess', not of 'RandomForest'"
    ):
        Averaged(DISH, FOREST).load(tmp_path / "pair.npz")

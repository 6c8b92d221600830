"""surrogates/stacked: no truth leaks into the column, and what becomes of a diverged dish."""

import dataclasses
import functools
import inspect

import jax
import numpy as np
import pytest
from slope_dish import DISH, NEW, SCORES, SLOPES

from spd_jax import metrics
from spd_jax.errors import UserError
from spd_jax.surrogates import protocol
from spd_jax.surrogates.regressors import GaussianProcess, RandomForest
from spd_jax.surrogates.stacked import FrozenDish, Stacked

KEY = jax.random.key(2)
UNSEEN = -7.0


def columns(archs):
    return np.asarray(archs, float)[:, None]


FOREST = RandomForest(columns, trees=20)


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

    features: protocol.Features
    shown: list

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


def test_without_folds_a_learning_base_leaks_which_is_why_a_dish_is_refused():
    shown = []
    Stacked(Memory([]), Watched(columns, shown), 0).fit(KEY, SLOPES, SCORES)
    np.testing.assert_array_equal(shown[0][0][:, 1], SCORES)
    with pytest.raises(UserError, match="a dish that learns needs folds"):
        Stacked(DISH, FOREST, 0).fit(KEY, SLOPES, SCORES)


def test_a_prediction_that_is_not_finite_counts_as_below_the_worst():
    class Holes(Recalling):
        def predict(self, archs):
            values = np.asarray(archs, float)
            return np.where(values > 1.9, np.nan, np.where(values < 0.2, -np.inf, values))

    class HoleBase(Memory):
        def fit(self, key, archs, scores):
            return Holes({}, 0.0)

    shown = []
    fitted = Stacked(HoleBase([]), Watched(columns, shown), 3).fit(KEY, SLOPES, SCORES)
    worst = SLOPES[SLOPES > 0.2].min() - 1
    expected = np.where((SLOPES > 1.9) | (SLOPES < 0.2), worst, SLOPES)
    np.testing.assert_allclose(shown[0][0][:, 1], expected)
    np.testing.assert_allclose(fitted.predict(np.array([0.1, 1.0])), [worst, 1.0])
    with pytest.raises(UserError, match="predicts no finite score"):
        Stacked(Memory([], unseen=np.nan), FOREST, 3).fit(KEY, SLOPES, SCORES)


@functools.cache
def stacked(kind):
    base = DISH if kind == "learning" else FrozenDish(DISH)
    return Stacked(base, FOREST, 2 if kind == "learning" else 0)


@functools.cache
def fitted(kind):
    return stacked(kind).fit(KEY, SLOPES, SCORES)


@pytest.mark.parametrize("kind", ["learning", "frozen"])
def test_it_obeys_the_protocol_and_comes_back_from_a_file(kind, tmp_path):
    for instance, contract in (
        (stacked(kind), protocol.Surrogate),
        (fitted(kind), protocol.Fitted),
    ):
        for name in ("fit", "load") if contract is protocol.Surrogate else ("predict", "save"):
            expected = inspect.signature(getattr(contract, name)).parameters
            assert list(inspect.signature(getattr(instance, name)).parameters) == list(expected)[1:]
    predictions = fitted(kind).predict(NEW)
    assert predictions.dtype == np.float64
    assert metrics.kendall_tau(predictions, np.cos(2 * NEW)) > 0.5
    fitted(kind).save(tmp_path / "stack.npz")
    loaded = stacked(kind).load(tmp_path / "stack.npz")
    np.testing.assert_array_equal(loaded.predict(NEW), predictions)
    with np.load(tmp_path / "stack.npz", allow_pickle=False) as saved:
        assert all(saved[name].dtype != object for name in saved.files)


def test_the_same_key_gives_the_same_stack():
    again = stacked("frozen").fit(KEY, SLOPES, SCORES)
    np.testing.assert_array_equal(again.predict(NEW), fitted("frozen").predict(NEW))
    other = stacked("frozen").fit(jax.random.key(3), SLOPES, SCORES)
    assert np.any(other.predict(NEW) != fitted("frozen").predict(NEW))


def test_a_frozen_dish_is_the_dish_that_a_fit_starts_from_or_the_one_it_is_given():
    start = FrozenDish(DISH).fit(KEY, SLOPES, SCORES)
    np.testing.assert_array_equal(
        start.predict(NEW), FrozenDish(DISH).fit(KEY, NEW, ()).predict(NEW)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)),
        (start.state.params, start.state.data),
        (DISH.start(KEY).params, DISH.start(KEY).data),
    )
    learned = DISH.fit(KEY, SLOPES, SCORES)
    kept = FrozenDish(DISH, learned.state).fit(jax.random.key(9), SLOPES[:2], [0.0, 1.0])
    np.testing.assert_array_equal(kept.predict(NEW), learned.predict(NEW))


def test_the_regressor_sees_the_untrained_dish_beside_its_own_features():
    shown = []
    stack = Stacked(FrozenDish(DISH), Watched(columns, shown), 0).fit(KEY, SLOPES, SCORES)
    np.testing.assert_allclose(shown[0][0][:, 1], stack.base.predict(SLOPES))
    gaussian = Stacked(FrozenDish(DISH), GaussianProcess(columns), 0).fit(KEY, SLOPES, SCORES)
    assert metrics.kendall_tau(gaussian.predict(NEW), np.cos(2 * NEW)) > 0.9


@pytest.mark.parametrize(
    ("stack", "count", "sentence"),
    [
        (Stacked(DISH, FOREST, 1), 11, "folds is 1: give 2 or more"),
        (Stacked(DISH, FOREST, -1), 11, "folds is -1: give 2 or more"),
        (Stacked(DISH, FOREST, 3), 2, "2 of 2 scores are finite, but the surrogate needs 3"),
        (Stacked(DISH, FOREST, 3), 0, "0 of 0 scores are finite"),
    ],
)
def test_mistakes_are_sentences(stack, count, sentence):
    with pytest.raises(UserError, match=sentence):
        stack.fit(KEY, SLOPES[:count], SCORES[:count])

"""surrogates.columns, .tuned and .costs: columns out of fold, floors, ranks, chosen settings."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy import stats

from spd_jax.errors import UserError
from spd_jax.surrogates.columns import (
    Calibrated,
    ColumnRegressor,
    MeanRank,
    RankTargets,
    curve_through,
    nothing,
)
from spd_jax.surrogates.costs import Cost
from spd_jax.surrogates.regressors import GaussianProcess, SupportVectors
from spd_jax.surrogates.tuned import FEWEST, Tuned, out_of_fold

KEY = jax.random.key(5)
X = np.random.default_rng(2).normal(size=(12, 3))
SCORES = X @ [0.3, -0.2, 0.1] + 0.5
NEW = np.random.default_rng(3).normal(size=(6, 3))


def same(archs):
    return np.asarray(archs)


@dataclasses.dataclass
class Spy:
    """A regressor that predicts the mean of the scores that it saw, and notes what it saw."""

    features: object = same
    seen: list = dataclasses.field(default_factory=list)

    def fit(self, key, archs, scores):
        self.seen.append((np.asarray(self.features(archs)), np.asarray(scores)))
        return Constant(self.features, float(np.mean(scores)), self.seen)

    def with_features(self, features):
        return dataclasses.replace(self, features=features)


@dataclasses.dataclass
class Constant:
    features: object
    value: float
    seen: list

    def predict(self, archs):
        vectors = self.features(archs)
        self.seen.append((np.asarray(vectors), None))
        return np.full(len(vectors), self.value)


class Free:
    """A score-free base of two columns, of which a prediction may fail."""

    def __init__(self, fails=()):
        self.fails = list(fails)

    def fit(self, key, archs, scores):
        return self.prepare(key)

    def prepare(self, key):
        return self

    def load(self, path):
        return self

    def save(self, path):
        raise NotImplementedError

    def predict(self, archs):
        return self.columns(archs)[:, 0]

    def columns(self, archs):
        values = np.asarray(archs)[:, :2] * [1.0, 10.0]
        values[self.fails, 1] = np.nan
        return values


def test_an_out_of_fold_prediction_never_saw_its_score():
    spy = Spy()
    column = out_of_fold(spy, KEY, X, SCORES, 4)
    fits = [(seen, scores) for seen, scores in spy.seen if scores is not None]
    assert [len(scores) for _, scores in fits] == [9, 9, 9, 9]
    for i in range(12):
        (own,) = [scores for seen, scores in fits if not (seen == X[i]).all(axis=1).any()]
        assert column[i] == own.mean()
        assert SCORES[i] not in own


def test_the_regressor_sees_features_and_all_columns():
    spy, base = Spy(), Spy()
    cost = Cost("sum", lambda archs: np.asarray(archs).sum(axis=1))
    fitted = ColumnRegressor((Free(), cost, base), spy, 4).fit(KEY, X, SCORES)
    (vectors, scores), *_ = spy.seen
    np.testing.assert_array_equal(scores, SCORES)
    assert vectors.shape == (12, 3 + 2 + 1 + 1)
    np.testing.assert_array_equal(vectors[:, :3], X)
    np.testing.assert_allclose(vectors[:, 3:6], np.column_stack([X[:, 0], 10 * X[:, 1], X.sum(1)]))
    # A base that learns is out of fold for known motifs, and has seen all scores for new ones.
    assert len(np.unique(vectors[:, 6])) == 4
    assert fitted.predict(NEW) == pytest.approx(np.full(6, SCORES.mean()))
    np.testing.assert_allclose(spy.seen[-1][0][:, 6], SCORES.mean())


def test_a_failed_prediction_is_the_worst_of_its_column():
    spy = Spy()
    fitted = ColumnRegressor((Free(fails=[4, 7]),), spy).fit(KEY, X, SCORES)
    column = spy.seen[0][0][:, 4]
    finite = np.delete(10 * X[:, 1], [4, 7])
    floor = finite.min() - finite.std()
    np.testing.assert_allclose(column[[4, 7]], floor)
    fitted.bases[0].fails = [2]
    fitted.predict(NEW)
    np.testing.assert_allclose(spy.seen[-1][0][[2], 4], floor)


def test_columns_tell_what_features_do_not():
    cost = Cost("line", lambda archs: np.asarray(archs) @ [0.3, -0.2, 0.1])
    blind = GaussianProcess(nothing)
    predicted = ColumnRegressor((cost,), blind).fit(KEY, X, SCORES).predict(NEW)
    np.testing.assert_allclose(predicted, NEW @ [0.3, -0.2, 0.1] + 0.5, atol=0.03)


@pytest.mark.parametrize(
    ("stack", "sentence"),
    [
        (ColumnRegressor((), Spy()), "there are no columns"),
        (ColumnRegressor((Free(),), Spy(), 1), "folds is 1"),
        (ColumnRegressor((Free(fails=range(12)),), Spy()), "predicts no finite score"),
        (Tuned(()), "nothing to choose from"),
        (Tuned((SupportVectors(same),), folds=0), "folds is 0"),
    ],
)
def test_mistakes_are_sentences(stack, sentence):
    with pytest.raises(UserError, match=sentence):
        stack.fit(KEY, X, SCORES)


# Ranks


def test_targets_are_normal_scores_and_ties_share_theirs():
    spy = Spy()
    scores = np.array([3.0, 1, 1, 2, 9, 9, 9, 4, 5, 6, 7, 8])
    fitted = RankTargets(spy).fit(KEY, X, scores)
    targets = spy.seen[0][1]
    ranks = [4, 1.5, 1.5, 3, 11, 11, 11, 5, 6, 7, 8, 9]
    np.testing.assert_allclose(targets, stats.norm.ppf(np.array(ranks) / 13))
    np.testing.assert_allclose(curve_through(fitted.knots, targets), scores)
    # A constant prediction is the mean of the targets, which goes back between 4 and 6.
    assert 4 < fitted.predict(NEW)[0] < 6


def test_the_way_back_is_linear_between_known_motifs_and_beyond():
    knots = np.array([[-1.0, 0.0], [0.0, 1.0], [1.0, 6.0]])
    found = curve_through(knots, [-2, -1, -0.5, 0.5, 1, 3])
    np.testing.assert_allclose(found, [-3, 0, 0.5, 3.5, 6, 12])
    np.testing.assert_allclose(curve_through(knots[:1], [-2, 5]), 0)


def test_an_outlier_does_not_decide_the_fit_on_ranks():
    scores = SCORES.copy()
    worst = np.argmin(SCORES)
    scores[worst] = -100.0
    regressor = SupportVectors(same)
    one, other = (RankTargets(regressor).fit(KEY, X, own).predict(NEW) for own in (SCORES, scores))
    np.testing.assert_array_equal(np.argsort(one), np.argsort(other))


def test_judges_agree_by_normal_scores():
    first, second = Cost("first", lambda x: x[:, 0]), Cost("second", lambda x: -(x[:, 1] ** 2))
    found = MeanRank((first, second)).prepare(KEY).predict(NEW)
    shares = [stats.rankdata(own) / 7 for own in (NEW[:, 0], -(NEW[:, 1] ** 2))]
    np.testing.assert_allclose(found, stats.norm.ppf(shares).mean(axis=0))


def test_a_judge_is_calibrated_on_the_scores_and_keeps_its_order():
    judge = Cost("first", lambda x: x[:, 0])
    found = Calibrated((judge,)).fit(KEY, X, SCORES).predict(X)
    # As many are predicted as are known: the best judged gets the best score, and so on.
    expected = np.sort(SCORES)[stats.rankdata(X[:, 0]).astype(int) - 1]
    np.testing.assert_allclose(found, expected)


# Choices


def shuffled(archs):
    """Return vectors that say nothing."""
    return np.random.default_rng(0).normal(size=(len(archs), 2))


def test_the_candidate_that_ranks_best_out_of_fold_is_chosen():
    good, bad = SupportVectors(same), SupportVectors(shuffled)
    fitted = Tuned((bad, good)).fit(KEY, X, SCORES)
    assert fitted.choice == 1
    # The chosen one is fitted on everything known.
    np.testing.assert_array_equal(
        fitted.predict(NEW), good.fit(KEY, X, SCORES).predict(NEW)
    )  # support vectors use no key
    assert Tuned((good, bad)).fit(KEY, X, SCORES).choice == 0


@pytest.mark.parametrize(
    ("count", "scores"), [(FEWEST - 1, SCORES[: FEWEST - 1]), (12, np.full(12, 0.5))]
)
def test_the_first_candidate_is_taken_where_nothing_decides(count, scores):
    candidates = (SupportVectors(shuffled), SupportVectors(same))
    assert Tuned(candidates).fit(KEY, X[:count], scores).choice == 0


def test_all_candidates_see_other_vectors():
    candidates = (SupportVectors(same), SupportVectors(same, penalty=2.0))
    other = Tuned(candidates).with_features(shuffled)
    assert [own.features for own in other.candidates] == [shuffled, shuffled]
    assert other.candidates[1].penalty == 2.0
    assert other.features is shuffled


def test_a_cost_of_another_name_is_refused_and_one_number_each_is_asked_for(tmp_path):
    Cost("sum", same).prepare(KEY).save(tmp_path / "cost.npz")
    with pytest.raises(UserError, match="counts sum"):
        Cost("product", same).load(tmp_path / "cost.npz")
    with pytest.raises(UserError, match="return one number for each motif"):
        Cost("sum", same).prepare(KEY).predict(NEW)

"""search.loop: Algorithm 1 by hand, replay and resume, any space, and what is refused."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_fakes import Digits, FreeTruth, Linear, closeness

from spd_jax import files
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup as tabular
from spd_jax.ledger import Evaluation
from spd_jax.metrics import kendall_tau
from spd_jax.search import loop, protocol
from spd_jax.search.genetic import Genetic
from spd_jax.search.loop import SearchConfig, search, warm_start
from spd_jax.search.random_search import RandomSearch
from spd_jax.spaces.rnn_cell import RnnCellSpace
from spd_jax.spaces.sigmoid_slope import SigmoidSlopeSpace

SPACE = RnnCellSpace("nao")
KEY = jax.random.key(3)
SMALL = SearchConfig(warm_start=12, iterations=3, proposals=20, evaluations=5)


def small(truth=None, proposer=None, key=KEY, **options):
    """Run a small search with a linear surrogate."""
    options = {"surrogate": Linear(SPACE.features), "config": SMALL} | options
    return search(key, SPACE, truth or FreeTruth(closeness), proposer or Genetic(), **options)


def assert_same(history, other):
    assert len(history) == len(other)
    for one, two in zip(history, other, strict=True):
        for field, expected in one._replace(seconds=0.0)._asdict().items():
            np.testing.assert_array_equal(expected, two._replace(seconds=0.0)._asdict()[field])


def cells_of(history):
    return [cell for iteration in history for cell in iteration.cells]


@dataclasses.dataclass
class Script:
    """Proposes what it was told to, and remembers what it was shown."""

    proposals: list
    shown: list = dataclasses.field(default_factory=list)

    def propose(self, key, space, archs, scores, count):
        self.shown.append((np.asarray(archs["x"]).tolist(), scores.tolist(), count))
        return {"x": np.array(self.proposals[len(self.shown) - 1])}


@dataclasses.dataclass
class Oddness:
    """Prefers odd numbers, the larger the better; has no opinion on 7."""

    cost_per_query: float = 0.0
    fitted: list = dataclasses.field(default_factory=list)

    def fit(self, key, archs, scores):
        self.fitted.append((np.asarray(archs["x"]).tolist(), scores.tolist()))
        return self

    def predict(self, archs):
        x = archs["x"]
        return np.where(x == 7, np.nan, 100.0 * (x % 2) + x)


def by_hand(**options):
    """Search 0..999 with a script: the score of x is -|x - 300|, multiples of 50 fail."""
    truth = FreeTruth(lambda cell: math.nan if int(cell) % 50 == 0 else -abs(int(cell) - 300.0))
    script = Script([[1003, 1007, 1008, 1009, 1050], [1100, 1011, 1010, 1013, 7]])
    config = SearchConfig(warm_start=3, iterations=2, proposals=5, evaluations=3)
    surrogate = Oddness(**options)
    history = search(KEY, Digits(1000), truth, script, surrogate=surrogate, config=config)
    return history, script, surrogate


def test_algorithm_1_by_hand():
    history, script, surrogate = by_hand()
    start = [int(cell) for cell in history[0].cells]
    first, second = history[1], history[2]
    assert first.cells == ["1009", "1007", "1003"]
    assert first.predicted.tolist() == [1109.0, 1107.0, 1103.0]
    assert first.scores.tolist() == [-709.0, -707.0, -703.0]
    assert first.test_scores.tolist() == [-809.0, -807.0, -803.0]
    assert first.tau == -1.0
    assert second.cells == ["1013", "1011", "1100"]  # 7 has no prediction, so it ranks last
    assert second.tau == pytest.approx(1 / 3)  # -713, -711, failed
    assert np.isnan(second.scores[2])
    known = [*start, 1009, 1007, 1003]
    scores = np.concatenate([history[0].scores, first.scores]).tolist()
    assert [shown[0] for shown in script.shown] == [start, known]
    np.testing.assert_array_equal(script.shown[1][1], scores)
    assert [shown[2] for shown in script.shown] == [5, 5]
    np.testing.assert_array_equal(surrogate.fitted[1][0], known)
    np.testing.assert_array_equal(surrogate.fitted[1][1], scores)
    assert [iteration.index for iteration in history] == [0, 1, 2]
    assert [iteration.cost for iteration in history] == [3, 6, 9]
    assert np.isnan(history[0].predicted).all()
    assert np.isnan(history[0].tau)


def test_what_a_surrogate_trains_for_real_is_counted():
    history, _, _ = by_hand(cost_per_query=0.25)
    assert [iteration.cost for iteration in history] == [3, 6 + 5 / 4, 9 + 10 / 4]


def test_without_a_surrogate_every_proposed_cell_is_evaluated():
    truth, script = FreeTruth(float), Script([[1003, 1001, 1002]])
    config = SearchConfig(warm_start=3, iterations=1, proposals=1, evaluations=3)
    start, last = search(KEY, Digits(1000), truth, script, config=config)
    assert script.shown[0][2] == 3
    assert last.cells == ["1003", "1001", "1002"]
    assert np.isnan(last.predicted).all()
    assert np.isnan(last.tau)
    assert (start.cost, last.cost) == (3, 6)


def test_a_failed_evaluation_has_no_score_whatever_it_carries():
    class Careless(FreeTruth):
        def one(self, cell, seed):
            result = super().one(cell, seed)
            if len(self.sold) % 2:
                return result
            return dataclasses.replace(result, status="failed", score=9e9, test_score=9e9)

    (start,) = search(KEY, SPACE, Careless(closeness), Genetic(), config=SearchConfig(4, 0))
    assert np.isnan(start.scores).sum() == np.isnan(start.test_scores).sum() == 2
    assert np.nanmax(start.scores) < 9e9
    nothing = start._replace(scores=start.scores * np.nan)
    with pytest.raises(UserError, match="all 4 evaluations failed"):
        loop.best([nothing])


def test_a_warm_start_of_failures_alone_says_why_and_how_to_go_on():
    class Broken(FreeTruth):
        def one(self, cell, seed):
            super().one(cell, seed)
            return Evaluation("failed", error="Traceback\n  line 1\nNameError: no x")

    truth = Broken(closeness)
    with pytest.raises(UserError, match=r"all 4 cells .*: NameError: no x; .*ledger retry FILE"):
        search(KEY, SPACE, truth, Genetic(), config=SearchConfig(4, 2))
    assert len(truth.sold) == 4


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), ranked=st.booleans())
def test_no_cell_is_bought_twice_and_all_are_canonical(seed, ranked):
    surrogate = Linear(SPACE.features) if ranked else None
    truth = FreeTruth(closeness)
    history = small(truth, key=jax.random.key(seed), surrogate=surrogate)
    cells = cells_of(history)
    assert cells == truth.sold
    assert len(set(cells)) == len(cells) == 12 + 3 * 5
    assert [SPACE.canonical_text(SPACE.decode(cell)) for cell in cells] == cells
    for iteration in history:
        expected = [truth.ledger[cell, 0] for cell in iteration.cells]
        np.testing.assert_array_equal(iteration.scores, [x.score for x in expected])
        np.testing.assert_array_equal(iteration.test_scores, [x.test_score for x in expected])
    for iteration in history[1:]:
        expected = kendall_tau(iteration.predicted, iteration.scores) if ranked else math.nan
        np.testing.assert_array_equal(iteration.tau, expected)
        assert not ranked or np.all(np.diff(iteration.predicted) <= 0)


def test_the_same_key_gives_the_same_history_and_the_second_time_nothing_is_bought():
    truth = FreeTruth(closeness)
    history = small(truth)
    bought = len(truth.sold)
    assert_same(history, small(truth))
    assert len(truth.sold) == bought == 27
    assert_same(history, small())
    assert cells_of(small(key=jax.random.key(4))) != cells_of(history)


@pytest.mark.parametrize("moment", [0, 1, 11, 12, 16, 17, 26])
def test_a_search_that_is_killed_goes_on_from_the_ledger(moment):
    whole = small()
    truth = FreeTruth(closeness, interrupt_after=moment)
    with pytest.raises(KeyboardInterrupt):
        small(truth)
    assert len(truth.sold) == moment
    truth.interrupt_after = None
    assert_same(whole, small(truth))
    assert truth.sold == cells_of(whole)


def test_more_iterations_continue_the_same_search():
    longer = dataclasses.replace(SMALL, iterations=4)
    assert_same(small(), small(config=longer)[:-1])


def test_methods_share_the_warm_start_and_part_ways_after_it():
    histories = [small(), small(surrogate=None), small(proposer=RandomSearch())]
    for history in histories[1:]:
        assert_same(histories[0][:1], history[:1])
    assert len({tuple(history[1].cells) for history in histories}) == 3


def test_the_warm_start_can_be_had_before_the_search():
    names = [SPACE.encode(cell) for cell in warm_start(KEY, SPACE, 40)]
    assert names[:12] == small()[0].cells
    assert len(set(names)) == 40
    assert [SPACE.canonical_text(SPACE.decode(name)) for name in names] == names


def test_a_warm_start_is_distinct_even_where_samples_repeat():
    numbers = [int(cell["x"]) for cell in warm_start(KEY, Digits(24), 24)]
    assert sorted(numbers) == list(range(24))
    with pytest.raises(UserError, match="only 24 of 25 new cells"):
        warm_start(KEY, Digits(24), 25)


def test_a_fit_of_ones_own_can_save_and_load(tmp_path):
    fits = []

    def kept(index, surrogate, key, archs, scores):
        path = tmp_path / f"{index}.npz"
        if not path.exists():
            fits.append((index, len(scores)))
            files.save_pytree(path, surrogate.fit(key, archs, scores).weights)
        weights = files.load_pytree(path, np.zeros(SPACE.features(archs).shape[1]))
        return Weights(np.asarray(weights))

    whole = small()
    for _ in range(2):
        history = small(fit=kept)
        assert cells_of(history) == cells_of(whole)
    assert fits == [(1, 12), (2, 17), (3, 22)]


@dataclasses.dataclass(frozen=True)
class Weights:
    weights: np.ndarray

    def predict(self, archs):
        return SPACE.features(archs) @ self.weights


def test_the_key_of_a_fit_depends_on_the_iteration_alone():
    first, second = Linear(SPACE.features), Linear(SPACE.features)
    small(surrogate=first)
    small(surrogate=second, proposer=RandomSearch())
    keys = [str(key) for key, _, _ in first.seen]
    assert len(set(keys)) == 3
    assert [str(key) for key, _, _ in second.seen] == keys


def test_every_iteration_is_reported_before_the_next_one_buys():
    truth, reported = FreeTruth(closeness), []

    def report(iteration):
        reported.append((iteration, len(truth.sold)))

    history = small(truth, on_iteration=report)
    assert [iteration for iteration, _ in reported] == history
    assert [sold for _, sold in reported] == [12, 17, 22, 27]
    assert all(iteration.seconds > 0 for iteration in history)


def test_the_seed_is_handed_to_the_ground_truth():
    truth = FreeTruth(closeness)
    small(truth, seed=5, config=SearchConfig(4, 0))
    assert {seed for _, seed in truth.ledger} == {5}


def test_a_good_surrogate_finds_better_cells_than_genetics_and_genetics_than_chance():
    def runs(proposer, surrogate):
        keys = [jax.random.key(i) for i in range(5)]
        options = {"surrogate": surrogate, "config": SearchConfig()}
        histories = [small(key=key, proposer=proposer, **options) for key in keys]
        best = np.mean([loop.best(history).score for history in histories])
        return best, np.mean([np.nanmean(history[-1].scores) for history in histories])

    random_best, random_last = runs(RandomSearch(), None)
    _, genetic_last = runs(Genetic(), None)
    ranked_best, ranked_last = runs(Genetic(), Linear(SPACE.features))
    assert random_last + 0.4 < genetic_last < ranked_last - 1.5
    assert random_best + 0.8 < ranked_best


def test_the_best_cell_is_chosen_by_validation_and_the_first_of_equals():
    nan = math.nan
    start = loop.Iteration(0, ["a", "b"], *np.array([[nan, nan], [nan, 2], [9, 5]]), nan, 2, 0)
    last = loop.Iteration(1, ["c", "d"], *np.array([[1, 0], [2, 1], [8, 7]]), nan, 4, 0)
    assert loop.best([start, last]) == ("b", 2.0, 5.0)
    better = last._replace(scores=np.array([2, 2.5]))
    assert loop.best([start, better]) == ("d", 2.5, 7.0)


@pytest.mark.parametrize(
    "surrogate", [None, Linear(lambda x: np.log(np.asarray(x))[:, None] ** [1, 2, 3, 4])]
)
def test_slopes_are_searched_with_the_shipped_table(surrogate):
    table = tabular.read(tabular.shipped())
    space = SigmoidSlopeSpace()
    truth = FreeTruth(lambda text: float(np.interp(float(text), table.slopes, table.accuracy)))
    config = SearchConfig(warm_start=10, iterations=6, proposals=30, evaluations=8)
    history = search(KEY, space, truth, Genetic(), surrogate=surrogate, config=config)
    cells = cells_of(history)
    assert len(set(cells)) == 58
    assert [space.encode(space.decode(cell)) for cell in cells] == cells
    best = loop.best(history)
    assert best.score > np.sort(table.accuracy)[-3]
    assert best.score == max(truth.score(cell) for cell in cells)
    assert_same(history, search(KEY, space, truth, Genetic(), surrogate=surrogate, config=config))
    assert len(truth.sold) == 58


@pytest.mark.parametrize("variant", ["enas", "enas_mean"])
def test_other_variants_are_searched(variant):
    space = RnnCellSpace(variant)
    truth = FreeTruth(lambda cell: float(cell.count("1")))
    history = search(KEY, space, truth, Genetic(), surrogate=Linear(space.features), config=SMALL)
    assert history[-1].scores.mean() > history[0].scores.mean()


def test_a_space_smaller_than_the_search_is_an_error_not_a_loop():
    truth = FreeTruth(float)
    config = SearchConfig(warm_start=10, iterations=3, proposals=1, evaluations=6)
    with pytest.raises(UserError, match="only 2 of 6 new cells"):
        search(KEY, Digits(24), truth, RandomSearch(), config=config)
    assert len(truth.sold) == 22  # what was bought before the space ran out is kept


@pytest.mark.parametrize("proposals", [[5, 6, 6], [5, 6], "known"])
def test_a_proposer_that_repeats_itself_is_refused_by_name(proposals):
    config = SearchConfig(warm_start=3, iterations=1, evaluations=3)
    if proposals == "known":
        start = warm_start(KEY, Digits(1000), 3)
        proposals = [2000, 2001, int(start[1]["x"])]
    with pytest.raises(UserError, match="Script proposed 2 new cells, not 3"):
        search(KEY, Digits(1000), FreeTruth(float), Script([proposals]), config=config)


def test_a_surrogate_of_another_length_is_refused():
    class Short(Oddness):
        def predict(self, archs):
            return super().predict(archs)[:-1]

    config = SearchConfig(warm_start=3, iterations=1, proposals=3, evaluations=1)
    script = Script([[1000, 1001, 1002]])
    with pytest.raises(UserError, match=r"shape \(2,\) for 3 cells"):
        search(KEY, Digits(9), FreeTruth(float), script, surrogate=Short(), config=config)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (SearchConfig(warm_start=0), "warm_start=0 must be at least 1"),
        (SearchConfig(iterations=-1), "iterations=-1 must be at least 0"),
        (SearchConfig(proposals=0), "proposals=0 must be at least 1"),
        (SearchConfig(evaluations=0), "evaluations=0 must be at least 1"),
        (SearchConfig(proposals=10, evaluations=11), "must not exceed proposals=10"),
    ],
)
def test_sizes_that_cannot_be_are_refused_before_anything_is_bought(config, sentence):
    truth = FreeTruth(closeness)
    with pytest.raises(UserError, match=sentence):
        small(truth, config=config)
    assert truth.sold == []


def test_protocol_helpers_take_batches_apart_and_put_them_together():
    archs = SPACE.sample(KEY, 4)
    jax.tree.map(np.testing.assert_array_equal, protocol.stack(protocol.unstack(archs)), archs)
    taken = protocol.take(archs, np.array([2, 0]))
    np.testing.assert_array_equal(SPACE.to_loci(taken), SPACE.to_loci(archs)[[2, 0]])

"""search.loop: Algorithm 1 by hand, replay and resume, any space, and what is refused."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_fakes import Digits, FreeTruth, Linear, Predictor, closeness, digits

from spd_jax import files
from spd_jax.archs import Cells
from spd_jax.errors import UserError
from spd_jax.ledger import Evaluation
from spd_jax.metrics import kendall_tau
from spd_jax.search import loop
from spd_jax.search.genetic import Genetic
from spd_jax.search.loop import SearchConfig, search, warm_start
from spd_jax.search.protocol import Proposal
from spd_jax.search.random_search import RandomSearch
from spd_jax.search.record import Choice, best
from spd_jax.spaces.rnn_cell import RnnCellSpace
from spd_jax.spaces.sigmoid_slope import SigmoidSlopeSpace

SPACE = RnnCellSpace("nao")
KEY = jax.random.key(3)
SMALL = SearchConfig(warm_start=12, iterations=3, proposals=20, evaluations=5)


def small(truth=None, proposer=None, key=KEY, **options):
    """Run a small search with a linear surrogate."""
    options = {"surrogate": Linear(SPACE.features), "config": SMALL} | options
    return search(key, SPACE, truth or FreeTruth(closeness), proposer or Genetic(), **options)


def assert_same(record, other):
    """Compare two records in everything but the time they took."""
    plain = [[{**x.to_json(), "seconds": 0} for x in own] for own in (record, other)]
    assert plain[0] == plain[1]


def cells_of(record):
    return [cell for iteration in record for cell in iteration.cells]


@dataclasses.dataclass
class Script:
    """Proposes what it was told to, and remembers what it was shown."""

    proposals: list
    shown: list = dataclasses.field(default_factory=list)

    def propose(self, key, space, known, scores, count):
        assert known.names == tuple(map(str, known.archs["x"]))
        self.shown.append((known.archs["x"].tolist(), scores.tolist(), count))
        return Proposal(digits(*self.proposals[len(self.shown) - 1]), {"turn": len(self.shown)})


@dataclasses.dataclass
class Oddness:
    """Prefers odd numbers, the larger the better; has no opinion on 7."""

    fitted: list = dataclasses.field(default_factory=list)

    def fit(self, key, archs, scores):
        self.fitted.append((np.asarray(archs["x"]).tolist(), scores.tolist()))
        return self

    def predict(self, archs):
        x = archs["x"]
        return np.where(x == 7, np.nan, 100.0 * (x % 2) + x)


@dataclasses.dataclass
class Dear(Oddness):
    """The same, but trains cells for real."""

    cost_per_query: float = 0.1
    now: float = 0.0

    def fit(self, *known):
        self.now += 1
        return super().fit(*known)

    def predict(self, archs):
        self.now += 100  # of training
        return super().predict(archs)

    def load(self, path):
        raise NotImplementedError


def by_hand(surrogate):
    """Search 0..999 with a script: the score of x is -|x - 300|, multiples of 50 fail."""
    truth = FreeTruth(lambda cell: math.nan if int(cell) % 50 == 0 else -abs(int(cell) - 300.0))
    script = Script([[1003, 1007, 1008, 1009, 1050], [1100, 1011, 1010, 1013, 7]])
    config = SearchConfig(warm_start=3, iterations=2, proposals=5, evaluations=3)
    return search(KEY, Digits(1000), truth, script, surrogate=surrogate, config=config), script


def test_algorithm_1_by_hand():
    surrogate = Oddness()
    history, script = by_hand(surrogate)
    start = [int(cell) for cell in history[0].cells]
    first, second = history[1], history[2]
    assert first.cells == ("1009", "1007", "1003")
    assert first.predicted.tolist() == [1109.0, 1107.0, 1103.0]
    assert first.scores.tolist() == [-709.0, -707.0, -703.0]
    assert first.test_scores.tolist() == [-809.0, -807.0, -803.0]
    assert first.tau == -1.0
    assert second.cells == ("1013", "1011", "1100")  # 7 has no prediction, so it ranks last
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
    assert [iteration.notes for iteration in history] == [{}, {"turn": 1}, {"turn": 2}]


def test_what_a_surrogate_trains_for_real_is_counted_once(monkeypatch):
    surrogate = Dear()
    monkeypatch.setattr(loop.time, "perf_counter", lambda: surrogate.now)
    history, _ = by_hand(surrogate)
    # Five are trained a little, and three of them in full: these have begun already.
    assert [iteration.cost for iteration in history] == [3, 3 + 2 * 0.1 + 3, 6.2 + 2 * 0.1 + 3]
    # The seconds of these trainings are those of ground truths.
    assert [iteration.seconds for iteration in history] == [0, 1, 1]


def test_without_a_surrogate_every_proposed_cell_is_evaluated():
    truth, script = FreeTruth(float), Script([[1003, 1001, 1002]])
    config = SearchConfig(warm_start=3, iterations=1, proposals=1, evaluations=3)
    start, last = search(KEY, Digits(1000), truth, script, config=config)
    assert script.shown[0][2] == 3
    assert last.cells == ("1003", "1001", "1002")
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


def test_a_warm_start_of_failures_alone_says_why_and_how_to_go_on():
    class Broken(FreeTruth):
        def one(self, cell, seed):
            super().one(cell, seed)
            return Evaluation("failed", error="Traceback\n  line 1\nNameError: no x")

    truth = Broken(closeness)
    with pytest.raises(UserError, match=r"all 4 cells .*: NameError: no x; .*ledger retry FILE"):
        search(KEY, SPACE, truth, Genetic(), config=SearchConfig(4, 2))
    assert len(truth.sold) == 4


@settings(max_examples=5)
@given(seed=st.integers(0, 2**32 - 1), ranked=st.booleans())
def test_no_cell_is_bought_twice_and_all_are_canonical(seed, ranked):
    surrogate = Linear(SPACE.features) if ranked else None
    truth = FreeTruth(closeness)
    history = small(truth, key=jax.random.key(seed), surrogate=surrogate)
    cells = cells_of(history)
    assert cells == truth.sold
    assert len(set(cells)) == len(cells) == 12 + 3 * 5
    assert list(Cells.read(SPACE, cells).names) == cells
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
    assert len({history[1].cells for history in histories}) == 3


def test_the_warm_start_can_be_had_before_the_search():
    cells = warm_start(KEY, SPACE, 40)
    assert cells.names[:12] == small()[0].cells
    assert len(set(cells.names)) == 40
    again = Cells.read(SPACE, cells.names)
    assert again.names == cells.names
    jax.tree.map(np.testing.assert_array_equal, again.archs, cells.archs)


def test_a_warm_start_is_distinct_even_where_samples_repeat():
    assert sorted(map(int, warm_start(KEY, Digits(24), 24).names)) == list(range(24))
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
        return Predictor(SPACE.features, np.asarray(weights))

    whole = small()
    for _ in range(2):
        history = small(fit=kept)
        assert cells_of(history) == cells_of(whole)
    assert fits == [(1, 12), (2, 17), (3, 22)]


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
        leaders = np.mean([best(history).score for history in histories])
        return leaders, np.mean([np.nanmean(history[-1].scores) for history in histories])

    random_best, random_last = runs(RandomSearch(), None)
    _, genetic_last = runs(Genetic(), None)
    ranked_best, ranked_last = runs(Genetic(), Linear(SPACE.features))
    assert random_last + 0.4 < genetic_last < ranked_last - 1.5
    assert random_best + 0.8 < ranked_best


@pytest.mark.parametrize(
    "surrogate", [None, Linear(lambda x: np.log(np.asarray(x))[:, None] ** [1, 2, 3, 4])]
)
def test_slopes_are_searched_and_the_peak_is_found(surrogate):
    space = SigmoidSlopeSpace()
    truth = FreeTruth(lambda text: -abs(math.log(float(text) / 0.2)))
    config = SearchConfig(warm_start=10, iterations=6, proposals=30, evaluations=8)
    history = search(KEY, space, truth, Genetic(), surrogate=surrogate, config=config)
    cells = cells_of(history)
    assert len(set(cells)) == 58
    assert [space.encode(space.decode(cell)) for cell in cells] == cells
    assert best(history).score > -0.2
    assert history[-1].scores.mean() > history[0].scores.mean() + 0.5
    assert best(history).score == max(truth.score(cell) for cell in cells)
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
        proposals = [2000, 2001, int(start.names[1])]
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
        (SearchConfig(warm_start=0), "warm_start=0 must be a whole number of at least 1"),
        (SearchConfig(iterations=-1), "iterations=-1 must be a whole number of at least 0"),
        (SearchConfig(proposals=0), "proposals=0 must be a whole number of at least 1"),
        (SearchConfig(evaluations=0), "evaluations=0 must be a whole number of at least 1"),
        (SearchConfig(warm_start=12.0), "warm_start=12.0 must be a whole number"),
        (SearchConfig(iterations=True), "iterations=True must be a whole number"),
        (SearchConfig(proposals="20"), "proposals=20 must be a whole number"),
        (SearchConfig(evaluations=None), "evaluations=None must be a whole number"),
        (SearchConfig(proposals=10, evaluations=11), "must not exceed proposals=10"),
    ],
)
def test_sizes_that_cannot_be_are_refused_before_anything_is_bought(config, sentence):
    truth = FreeTruth(closeness)
    with pytest.raises(UserError, match=sentence):
        small(truth, config=config)
    assert truth.sold == []


def test_without_a_surrogate_fewer_proposals_than_evaluations_are_no_mistake():
    config = SearchConfig(warm_start=3, iterations=1, proposals=1, evaluations=2)
    assert len(cells_of(small(surrogate=None, config=config))) == 5


# Names that lead back to their cells


class Sloppy(Digits):
    """Reads its own names wrongly: as the next number."""

    def decode(self, text):
        return {"x": np.int32(text) + 1}


class Longer(Digits):
    """Reads its own names as something with one array more."""

    def decode(self, text):
        return {"x": np.int32(text), "y": np.int32(0)}


class Restless(Digits):
    """Its canonical form is another form each time."""

    def canonical(self, arch):
        return {"x": arch["x"] + 1}

    def decode(self, text):
        return self.canonical(super().decode(text))


class Drifting(Digits):
    """Its canonical form is another form each time, and its names are read as they are."""

    def canonical(self, arch):
        return {"x": (arch["x"] + 1) % 24}


class Nameless(Digits):
    """Its names are numbers."""

    def encode(self, arch):
        return int(arch["x"])


@pytest.mark.parametrize(
    ("space", "words"),
    [
        *((space(), r"decode\('\d+'\) is another cell .* undo its encode")
          for space in (Sloppy, Longer, Restless)),
        (Drifting(), r"the canonical form of the cell '\d+' is '\d+': let the space's canonical"),
        (Nameless(), r"the space's encode returned \d+: return a text"),
    ],
)  # fmt: skip
def test_a_space_whose_names_lead_to_other_cells_is_refused_before_anything_is_bought(space, words):
    truth = FreeTruth(float)
    with pytest.raises(UserError, match=words):
        search(KEY, space, truth, RandomSearch(), config=SearchConfig(4, 1, 4, 2))
    assert truth.sold == []


# Choices that are kept


class Refused:
    """A proposer, and a fit, that must not be asked."""

    def propose(self, *args):
        raise AssertionError("a choice was at hand")

    fit = propose


def recorded(**options):
    """Return a small search's record, and its choices by iteration."""
    choices = {}
    return small(on_choice=choices.__setitem__, **options), choices


def through_json(choice):
    return Choice.from_json(json.loads(json.dumps(choice.to_json())))


def test_choices_say_what_will_be_bought_and_are_handed_over_before_it_is():
    truth, seen = FreeTruth(closeness), []

    def on_choice(index, choice):
        seen.append((index, choice, len(truth.sold)))

    record = small(truth, on_choice=on_choice)
    assert [(index, sold) for index, _, sold in seen] == [(1, 12), (2, 17), (3, 22)]
    for (_, choice, _), iteration in zip(seen, record[1:], strict=True):
        assert choice.cells == iteration.cells
        np.testing.assert_array_equal(choice.predicted, iteration.predicted)
        assert (choice.seconds, choice.notes) == (iteration.seconds, iteration.notes)
        assert choice.seconds > 0
        assert choice.cost == 0
    assert len({choice.known for _, choice, _ in seen}) == 3


@pytest.mark.parametrize("ranked", [True, False])
def test_a_search_with_all_its_choices_proposes_and_fits_nothing_anew(ranked):
    surrogate = Linear(SPACE.features) if ranked else None
    record, choices = recorded(surrogate=surrogate)
    again, anew = recorded(
        surrogate=Refused() if ranked else None,
        proposer=Refused(),
        recall=lambda index: through_json(choices[index]),
    )
    assert_same(record, again)
    assert [x.seconds for x in again[1:]] == [x.seconds for x in record[1:]]
    assert anew == {}


def test_what_a_recalled_choice_cost_is_counted():
    choices, config = {}, SearchConfig(warm_start=3, iterations=2, proposals=5, evaluations=2)
    options = {"surrogate": Dear(), "config": config}
    start = (KEY, Digits(1000), FreeTruth(float))
    record = search(*start, RandomSearch(), **options, on_choice=choices.__setitem__)
    assert_same(record, search(*start, Refused(), **options, recall=choices.get))


@pytest.mark.parametrize("moment", [12, 14, 17, 21])
def test_a_killed_search_goes_on_with_what_it_chose_on_a_machine_that_rounds_differently(moment):
    @dataclasses.dataclass
    class Opposite(Linear):
        def fit(self, key, archs, scores):
            return Predictor(self.features, -super().fit(key, archs, scores).weights)

    choices, truth = {}, FreeTruth(closeness, interrupt_after=moment)
    with pytest.raises(KeyboardInterrupt):
        small(truth, on_choice=choices.__setitem__)
    truth.interrupt_after = None
    surrogate = Opposite(SPACE.features)
    record = small(truth, recall=choices.get, surrogate=surrogate)
    whole = small()
    done = len(choices)
    assert_same(record[: done + 1], whole[: done + 1])
    assert [len(scores) for _, _, scores in surrogate.seen] == [12, 17, 22][done:]
    assert len(truth.sold) == 27


def test_a_choice_from_other_cells_or_scores_is_made_anew():
    record, choices = recorded()
    again, anew = recorded(recall=lambda index: dataclasses.replace(choices[index], known="x"))
    assert_same(record, again)
    assert sorted(anew) == [1, 2, 3]
    # Another score of one cell: what was chosen from the old ones holds no longer.
    truth = FreeTruth(lambda cell: closeness(cell) + (cell == record[1].cells[0]))
    changed, anew = recorded(truth=truth, recall=choices.get)
    assert changed[1].cells == record[1].cells
    assert sorted(anew) == [2, 3]
    assert_same(changed, small(truth))


def test_a_choice_of_another_size_is_made_anew():
    _, choices = recorded()
    larger = dataclasses.replace(SMALL, evaluations=6)
    record, anew = recorded(config=larger, recall=choices.get)
    assert sorted(anew) == [1, 2, 3]
    assert_same(record, small(config=larger))

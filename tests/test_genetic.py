"""search.random_search and search.genetic: proposals against the protocol, and whose children."""

import inspect

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_fakes import Digits, FreeTruth, closeness

from spd_jax.errors import UserError
from spd_jax.search import protocol
from spd_jax.search.genetic import Genetic
from spd_jax.search.protocol import Proposer
from spd_jax.search.random_search import RandomSearch
from spd_jax.spaces.rnn_cell import RnnCellSpace
from spd_jax.spaces.sigmoid_slope import SigmoidSlopeSpace

PROPOSERS = [RandomSearch(), Genetic()]
SPACES = [RnnCellSpace("nao"), RnnCellSpace("enas_mean"), SigmoidSlopeSpace()]
KEY = jax.random.key(0)
keys = st.integers(0, 2**32 - 1).map(jax.random.key)
few = settings(max_examples=8, deadline=None)


def known(space, count=30):
    archs = space.sample(jax.random.key(7), count)
    scores = np.arange(count) * 7 % count + 0.5
    scores[::5] = np.nan
    return archs, scores


def digits(archs):
    return sorted(np.asarray(archs["x"]).tolist())


def family_tree(archs):
    """Return the parents of every child of `Digits`: one, or first and second."""
    return [tuple(divmod(x, 1000)) if x >= 1000 else (x,) for x in np.asarray(archs["x"]).tolist()]


@pytest.mark.parametrize("proposer", PROPOSERS)
def test_the_proposers_have_the_method_of_the_protocol(proposer):
    expected = inspect.signature(Proposer.propose).parameters
    assert list(inspect.signature(type(proposer).propose).parameters) == list(expected)


@pytest.mark.parametrize("proposer", PROPOSERS)
@pytest.mark.parametrize("space", SPACES)
@few
@given(key=keys)
def test_proposals_are_distinct_valid_unknown_and_repeatable(proposer, space, key):
    archs, scores = known(space)
    proposed = proposer.propose(key, space, archs, scores, 20)
    cells = protocol.unstack(proposed)
    assert len(cells) == 20
    for cell in cells:
        again = space.decode(space.encode(cell))
        jax.tree.map(np.testing.assert_array_equal, cell, again)
    hashes = [space.canonical_hash(cell) for cell in cells]
    assert len(set(hashes)) == 20
    assert not set(hashes) & set(protocol.hashes(space, archs))
    again = proposer.propose(key, space, archs, scores, 20)
    jax.tree.map(np.testing.assert_array_equal, proposed, again)


def test_random_search_draws_its_loci_evenly_and_looks_at_no_score():
    space = RnnCellSpace("nao")
    archs, scores = known(space)
    cells = RandomSearch().propose(KEY, space, archs, scores, 2000)
    counts = np.bincount(cells.activation[:, 5], minlength=4)
    assert np.abs(counts - 500).max() < 5 * np.sqrt(500)
    other = RandomSearch().propose(KEY, space, archs, -scores, 2000)
    jax.tree.map(np.testing.assert_array_equal, cells, other)


def test_the_elite_is_the_best_20_by_ground_truth_and_no_failed_cell_is_a_parent():
    scores = np.random.default_rng(0).permutation(60).astype(float)
    scores[[3, 4, 5]] = np.nan, np.inf, -np.inf
    best = {i for i in range(60) if np.isfinite(scores[i])}
    best = set(sorted(best, key=lambda i: -scores[i])[:20])
    space = Recorder()
    Genetic().propose(KEY, space, {"x": np.arange(60)}, scores, 30)
    assert set(np.concatenate(space.mothers)) == set(np.concatenate(space.fathers)) == best


def test_equal_scores_leave_the_first_known_in_the_elite():
    space = Recorder()
    archs = {"x": np.arange(9)}
    Genetic(parents=4).propose(KEY, space, archs, np.array([1, 2, 2, 2, 2, 2, 1, 1, 1.0]), 5)
    assert set(np.concatenate(space.mothers)) == {1, 2, 3, 4}


@pytest.mark.parametrize("elite", [2, 3, 20])
def test_the_two_parents_of_a_child_are_different_cells(elite):
    children = Genetic(crossover_rate=1.0).children(
        KEY, 500, space=Digits(), elite={"x": np.arange(elite) + 100}
    )
    pairs = family_tree(children)
    assert all(len(pair) == 2 and pair[0] != pair[1] for pair in pairs)
    assert len(set(pairs)) > 0.7 * min(500, elite * (elite - 1))


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5, 1.0])
def test_as_many_children_have_two_parents_as_the_crossover_rate_says(rate):
    children = Genetic(crossover_rate=rate).children(
        KEY, 2000, space=Digits(), elite={"x": np.arange(20) + 1}
    )
    share = np.mean([len(parents) == 2 for parents in family_tree(children)])
    assert abs(share - rate) <= 5 * np.sqrt(rate * (1 - rate) / 2000)


def test_a_child_is_the_head_of_one_parent_and_the_tail_of_another():
    space = RnnCellSpace("nao", mutation_rate=0.0)
    elite = space.sample(KEY, 5)
    loci = space.to_loci(elite).tolist()
    children = Genetic(crossover_rate=1.0).children(KEY, 40, space=space, elite=elite)
    for child in space.to_loci(children).tolist():
        assert any(
            child == loci[a][:cut] + loci[b][cut:]
            for a in range(5)
            for b in range(5)
            for cut in range(1, 22)
            if a != b
        )


def test_mutation_changes_every_locus_at_the_rate_of_the_space():
    space = RnnCellSpace("nao", mutation_rate=0.2)
    parent = space.sample(KEY, 1)
    children = Genetic().children(KEY, 1000, space=space, elite=parent)
    changed = space.to_loci(children) != space.to_loci(parent)
    share = changed[:, space.choices > 1].mean(axis=0)
    assert np.abs(share - 0.2).max() < 5 * np.sqrt(0.2 * 0.8 / 1000)


def test_one_good_cell_is_parent_enough():
    space = RnnCellSpace("nao")
    archs, scores = known(space)
    scores = np.where(np.arange(30) == 4, 1.0, np.nan)
    children = Genetic().propose(KEY, space, archs, scores, 20)
    same = space.to_loci(children) == space.to_loci(archs)[4]
    assert same.mean() > 0.8  # 0.9 of the loci are inherited


def test_without_a_good_cell_the_proposals_are_random():
    space = RnnCellSpace("nao")
    archs, _ = known(space)
    children = Genetic().propose(KEY, space, archs, np.full(30, np.nan), 20)
    drawn = RandomSearch().propose(KEY, space, archs, np.full(30, np.nan), 20)
    jax.tree.map(np.testing.assert_array_equal, children, drawn)


@pytest.mark.parametrize("proposer", [RandomSearch(), Genetic(crossover_rate=0.0)])
def test_a_space_is_emptied_to_its_last_cell_and_then_refused(proposer):
    # No child of Digits differs from its parent, so that only the fallback finds anything.
    archs = {"x": np.arange(20)}
    scores = np.arange(20.0)
    left = proposer.propose(KEY, Digits(24), archs, scores, 4)
    assert digits(left) == [20, 21, 22, 23]
    with pytest.raises(UserError, match=r"only 4 of 5 new cells .* ask for fewer"):
        proposer.propose(KEY, Digits(24), archs, scores, 5)


def test_children_come_before_the_random_cells_that_fill_up():
    class Steps(Digits):
        def mutate(self, key, archs):
            return {"x": np.where(np.asarray(archs["x"]) == 9, 21, archs["x"])}

    archs = {"x": np.arange(10)}
    found = Genetic(crossover_rate=0.0).propose(KEY, Steps(24), archs, np.arange(10.0), 3)
    assert found["x"][0] == 21
    assert len(digits(found)) == 3


@pytest.mark.parametrize("seed", range(3))
def test_children_of_the_best_are_better_than_random_cells(seed):
    space = RnnCellSpace("nao")
    archs = space.sample(jax.random.key(seed), 60)
    truth = FreeTruth(closeness)

    def scores(cells):
        names = [space.encode(cell) for cell in protocol.unstack(cells)]
        return np.array([row[0].score for row in truth.evaluate(names)])

    means = [
        np.nanmean(scores(proposer.propose(KEY, space, archs, scores(archs), 100)))
        for proposer in PROPOSERS
    ]
    assert means[1] > means[0] + 1


@pytest.mark.parametrize(
    "settings", [{"parents": 0}, {"crossover_rate": -0.1}, {"crossover_rate": 1.1}]
)
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(UserError, match="must"):
        Genetic(**settings)


def test_fresh_keeps_the_first_of_equal_cells_in_order_and_leaves_the_seen_alone():
    space = RnnCellSpace("nao")
    loci = np.zeros((3, 22), int)
    # Two numberings of one cell: node 1 or node 2 is the relu among eleven children of node 0.
    loci[0, 1] = loci[1, 3] = 1
    loci[2, 1] = 2
    seen = {space.canonical_hash(space.from_loci(loci[2]))}
    kept = space.to_loci(protocol.fresh(space, space.from_loci(loci), seen))
    np.testing.assert_array_equal(kept, loci[:1])
    assert len(seen) == 1
    assert len(space.to_loci(protocol.fresh(space, space.from_loci(loci[2:]), seen))) == 0


def test_ranking_puts_what_failed_last_and_keeps_the_order_of_equals():
    scores = [1.0, np.nan, 3.0, -np.inf, 3.0, np.inf]
    assert protocol.ranking(np.array(scores)).tolist() == [2, 4, 0, 1, 3, 5]
    many = np.arange(200) % 2  # enough for a sort that is not stable to show it
    np.testing.assert_array_equal(protocol.ranking(many), np.argsort(many < 1, kind="mergesort"))


class Recorder(Digits):
    """A space of enough cells that remembers who was crossed with whom."""

    def __init__(self):
        super().__init__(10_000)
        object.__setattr__(self, "mothers", [])
        object.__setattr__(self, "fathers", [])

    def crossover(self, key, first, second):
        self.mothers.append(first["x"])
        self.fathers.append(second["x"])
        return super().crossover(key, first, second)

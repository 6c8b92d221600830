"""search.random_search, search.genetic and what they share: whose children, in which order."""

import jax
import numpy as np
import pytest
from search_fakes import Digits, digits

from spd_jax.archs import Cells
from spd_jax.errors import UserError
from spd_jax.search import protocol
from spd_jax.search.genetic import Genetic
from spd_jax.search.random_search import RandomSearch
from spd_jax.spaces.rnn_cell import RnnCellSpace

KEY = jax.random.key(0)


def known(space, count=30):
    cells = Cells.of(space, space.sample(jax.random.key(7), count))
    scores = np.arange(count) * 7 % count + 0.5
    scores[::5] = np.nan
    return cells, scores


def family_tree(archs):
    """Return the parents of every child of `Digits`: one, or first and second."""
    return [tuple(divmod(x, 1000)) if x >= 1000 else (x,) for x in np.asarray(archs["x"]).tolist()]


def test_random_search_draws_its_loci_evenly_and_looks_at_no_score():
    space = RnnCellSpace("nao")
    cells, scores = known(space)
    drawn, notes = RandomSearch().propose(KEY, space, cells, scores, 2000)
    counts = np.bincount(drawn.archs.activation.ravel(), minlength=4)
    counts[0] -= 2000  # node 0 is always a tanh
    assert np.abs(counts - 5500).max() < 5 * np.sqrt(5500)
    assert drawn.names == RandomSearch().propose(KEY, space, cells, -scores, 2000).cells.names
    assert notes == {}


def test_the_elite_is_the_best_20_by_ground_truth_and_no_failed_cell_is_a_parent():
    scores = np.random.default_rng(0).permutation(60).astype(float)
    scores[[3, 4, 5]] = np.nan, np.inf, -np.inf
    best = {i for i in range(60) if np.isfinite(scores[i])}
    best = set(sorted(best, key=lambda i: -scores[i])[:20])
    space = Recorder()
    Genetic().propose(KEY, space, digits(*range(60)), scores, 30)
    assert set(np.concatenate(space.mothers)) == set(np.concatenate(space.fathers)) == best


def test_equal_scores_leave_the_first_known_in_the_elite():
    space = Recorder()
    scores = np.array([1, 2, 2, 2, 2, 2, 1, 1, 1.0])
    Genetic(parents=4).propose(KEY, space, digits(*range(9)), scores, 5)
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
    cells, _ = known(space)
    scores = np.where(np.arange(30) == 4, 1.0, np.nan)
    children, notes = Genetic().propose(KEY, space, cells, scores, 20)
    counts, expected = (space.structure(x.archs)[:, :4] for x in (children, cells.take([4])))
    # A tenth of the loci changes: of twelve activations about one.
    assert np.abs(counts - expected).sum(axis=1).mean() / 2 < 2
    assert notes == {"random_fill": 0}


def test_without_a_good_cell_the_proposals_are_random():
    space = RnnCellSpace("nao")
    cells, nothing = known(space)[0], np.full(30, np.nan)
    children = Genetic().propose(KEY, space, cells, nothing, 20).cells
    assert children.names == RandomSearch().propose(KEY, space, cells, nothing, 20).cells.names


@pytest.mark.parametrize("proposer", [RandomSearch(), Genetic(crossover_rate=0.0)])
def test_a_space_is_emptied_to_its_last_cell_and_then_refused(proposer):
    # No child of Digits differs from its parent, so that only random cells bring anything.
    cells, scores = digits(*range(20)), np.arange(20.0)
    left, notes = proposer.propose(KEY, Digits(24), cells, scores, 4)
    assert sorted(left.names) == ["20", "21", "22", "23"]
    assert notes == ({} if proposer == RandomSearch() else {"random_fill": 1})
    with pytest.raises(UserError, match=r"only 4 of 5 new cells .* ask for fewer"):
        proposer.propose(KEY, Digits(24), cells, scores, 5)


def test_children_come_before_the_random_cells_that_fill_up():
    class Steps(Digits):
        def mutate(self, key, archs):
            return {"x": np.where(np.asarray(archs["x"]) == 9, 21, archs["x"])}

    genetic = Genetic(crossover_rate=0.0)
    found, notes = genetic.propose(KEY, Steps(24), digits(*range(10)), np.arange(10.0), 4)
    assert found.names[0] == "21"
    assert len(set(found.names)) == 4
    assert notes == {"random_fill": 3 / 4}


@pytest.mark.parametrize("seed", range(3))
def test_children_of_the_best_are_better_than_random_cells(seed):
    space = RnnCellSpace("nao")
    cells = Cells.of(space, space.sample(jax.random.key(seed), 60))

    def scores(cells):
        return space.structure(cells.archs)[:, 1]  # nodes that are a relu

    means = [
        scores(proposer.propose(KEY, space, cells, scores(cells), 100).cells).mean()
        for proposer in (RandomSearch(), Genetic())
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
    cells = Cells.of(space, space.from_loci(loci))
    seen = {cells.names[2]}
    assert cells.names[0] == cells.names[1] != cells.names[2]
    kept = protocol.fresh(cells, seen)
    assert kept.names == cells.names[:1]
    np.testing.assert_array_equal(space.to_loci(kept.archs), space.to_loci(cells.archs)[:1])
    assert seen == {cells.names[2]}
    assert len(protocol.fresh(cells.take([2]), seen)) == 0
    assert protocol.fresh(digits(3, 1, 3, 2, 1), ("2",)).names == ("3", "1")


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

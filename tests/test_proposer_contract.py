"""What every proposer promises, checked for all of them on every space that they can take."""

import inspect

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_fakes import spaces

from spd_jax.archs import Cells
from spd_jax.search.bananas import BananasProposer
from spd_jax.search.genetic import Genetic
from spd_jax.search.local_search import LocalSearch
from spd_jax.search.nao import NaoProposer
from spd_jax.search.protocol import Proposer
from spd_jax.search.random_search import RandomSearch
from spd_jax.surrogates.bananas import Bananas
from spd_jax.surrogates.nao import NaoConfig

NAO = NaoConfig(
    embedding=4, hidden=4, predictor_width=4, predictor_layers=1, epochs=2, held_out_share=0.25
)
KNOWN, COUNT = 24, 12


def cases():
    """Return every proposer with every space, and how often to try it."""
    found = []
    for own in spaces():
        found += [(RandomSearch(), own.space, 8), (Genetic(), own.space, 8)]
        found.append((LocalSearch(), own.space, 4))
        if own.space.name in ("nasbench201", "toy_widths"):
            paths = own.features.features if own.paths is None else own.paths.paths
            ensemble = Bananas(paths, members=2, layers=1, width=4, epochs=5)
            found.append((BananasProposer(ensemble, candidates=30), own.space, 4))
        # Compiling NAO's network takes long: one variant of the recurrent cell stands for all.
        if own.tokens and own.space.name in ("rnn_cell_enas_mean", "toy_widths"):
            found.append((NaoProposer(own.tokens, NAO), own.space, 2))
    return [pytest.param(*case, id=f"{type(case[0]).__name__}-{case[1].name}") for case in found]


def known_cells(space):
    """Return known cells and their scores, some of which failed."""
    cells = Cells.of(space, space.sample(jax.random.key(7), KNOWN))
    scores = np.arange(KNOWN) * 7 % KNOWN + 0.5
    scores[::5] = np.nan, np.inf, -np.inf, np.nan, np.nan
    return cells, scores


@pytest.mark.parametrize(("proposer", "space", "examples"), cases())
def test_proposals_are_new_cells_of_the_space_and_repeatable(proposer, space, examples):
    cells, scores = known_cells(space)

    @settings(max_examples=examples)
    @given(st.integers(0, 2**32 - 1))
    def check(seed):
        key = jax.random.key(seed)
        before = scores.copy()
        found, notes = proposer.propose(key, space, cells, scores, COUNT)
        assert len(found) == COUNT == len(set(found.names))
        assert not set(found.names) & set(cells.names)
        # The cells are canonical, and their names are theirs.
        read = Cells.read(space, found.names)
        assert read.names == found.names
        jax.tree.map(np.testing.assert_array_equal, read.archs, found.archs)
        assert all(isinstance(name, str) for name in notes)
        assert all(isinstance(float(figure), float) for figure in notes.values())
        again, same = proposer.propose(key, space, cells, scores, COUNT)
        assert again.names == found.names
        jax.tree.map(np.testing.assert_array_equal, again.archs, found.archs)
        np.testing.assert_equal(dict(same), dict(notes))
        np.testing.assert_array_equal(scores, before)

    check()


@pytest.mark.parametrize(("proposer", "space", "examples"), cases())
def test_the_key_matters_and_one_cell_can_be_asked_for(proposer, space, examples):
    cells, scores = known_cells(space)
    names = {
        proposer.propose(jax.random.key(seed), space, cells, scores, 1).cells.names
        for seed in range(8)
    }
    assert len(names) > 1
    assert all(len(own) == 1 for own in names)


@pytest.mark.parametrize(
    "proposer", [RandomSearch, Genetic, NaoProposer, LocalSearch, BananasProposer]
)
def test_the_method_is_the_protocols(proposer):
    expected = inspect.signature(Proposer.propose).parameters
    assert list(inspect.signature(proposer.propose).parameters) == list(expected)

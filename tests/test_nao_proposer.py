"""search/nao.py: which cells are moved, and what is proposed."""

import inspect

import numpy as np
import pytest
from nao_cells import BEST, KEY, KNOWN, SCORES, SPACE, TINY, Words

from spd_jax.errors import UserError
from spd_jax.search import protocol as search_protocol
from spd_jax.search.nao import NaoProposer
from spd_jax.surrogates.nao import NaoPredictor


def test_proposals_are_new_distinct_and_repeatable():
    found = []
    proposer = NaoProposer(config=TINY, on_fit=found.append)
    first = proposer.propose(KEY, SPACE, KNOWN, SCORES, 30)
    digests = search_protocol.hashes(SPACE, first)
    assert len(digests) == 30 == len(set(digests))
    assert not set(digests) & set(search_protocol.hashes(SPACE, KNOWN))
    again = proposer.propose(KEY, SPACE, KNOWN, SCORES, 30)
    assert search_protocol.hashes(SPACE, again) == digests
    # What comes first is what the network makes of the best cells.
    climbed = search_protocol.hashes(SPACE, found[0].improve(BEST, 10))
    fresh = [d for d in dict.fromkeys(climbed) if d not in search_protocol.hashes(SPACE, KNOWN)]
    assert digests[: len(fresh)] == fresh[:30]
    assert len(fresh) > 5


class Fixed:
    """A fitted network that turns the last letters, and remembers what it was asked."""

    def __init__(self, asked, change):
        self.asked, self.change = asked, change

    def improve(self, archs, step):
        self.asked.append((archs["letters"].tolist(), step))
        letters = archs["letters"].copy()
        letters[:, 4] = (letters[:, 4] + self.change) % 3
        return {"letters": letters}


def propose_words(monkeypatch, change, known, scores, *, count, **proposer_settings):
    asked = []
    monkeypatch.setattr(NaoPredictor, "fit", lambda *_: Fixed(asked, change))
    proposer = NaoProposer(**proposer_settings)
    archs = {"letters": np.array(known)}
    return proposer.propose(KEY, Words(), archs, np.array(scores), count)["letters"], asked


WORDS = [[0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0]]


def test_the_best_cells_are_moved_best_first(monkeypatch):
    scores = [0.1, 0.4, np.nan, 0.3]
    new, asked = propose_words(monkeypatch, 1, WORDS, scores, count=2, seeds=2)
    assert asked == [([WORDS[1], WORDS[3]], 10)]
    assert new.tolist() == [[0, 1, 0, 0, 1], [0, 0, 0, 1, 1]]
    _, asked = propose_words(monkeypatch, 1, WORDS, scores, count=1)
    assert asked[0][0] == [WORDS[1], WORDS[3], WORDS[0]]  # a failed cell is no start


def test_larger_steps_and_then_random_cells_fill_up(monkeypatch):
    new, asked = propose_words(monkeypatch, 0, WORDS, [1, 2, 3, 4], count=20, steps=(10, 20, 30))
    assert [step for _, step in asked] == [10, 20, 30]
    assert len({tuple(word) for word in new.tolist()} - {tuple(word) for word in WORDS}) == 20
    with pytest.raises(UserError, match="exhausted"):  # 54 words there are, 4 are known
        propose_words(monkeypatch, 0, WORDS, [1, 2, 3, 4], count=51)


def test_the_proposer_refuses_settings_under_which_nothing_moves():
    for bad in ({"seeds": 0}, {"steps": ()}, {"steps": (10, 0)}):
        with pytest.raises(UserError, match="must be"):
            NaoProposer(**bad)


def test_it_obeys_the_proposers_protocol():
    expected = inspect.signature(search_protocol.Proposer.propose).parameters
    assert list(inspect.signature(NaoProposer.propose).parameters) == list(expected)
    assert NaoProposer().steps[:3] == (10, 20, 30)

"""search.nao: which cells are moved, and what is proposed."""

import numpy as np
import pytest
from nao_cells import KEY, KNOWN, SCORES, SPACE, TINY, Words

from spd_jax.archs import Cells
from spd_jax.errors import UserError
from spd_jax.search import protocol
from spd_jax.search.nao import NaoProposer
from spd_jax.surrogates.nao import NaoPredictor

CELLS = Cells.of(SPACE, KNOWN)


def test_what_the_network_makes_of_the_best_cells_comes_first(monkeypatch):
    fitted, fit = [], NaoPredictor.fit

    def remembered(self, *arguments):
        fitted.append(fit(self, *arguments))
        return fitted[-1]

    monkeypatch.setattr(NaoPredictor, "fit", remembered)
    proposed, notes = NaoProposer(SPACE, TINY).propose(KEY, SPACE, CELLS, SCORES, 30)
    best = CELLS.take(protocol.ranking(SCORES)[:100])
    climbed = protocol.fresh(Cells.of(SPACE, fitted[0].improve(best.archs, 10)), CELLS.names)
    assert len(climbed) > 5
    assert proposed.names[: len(climbed)] == climbed.names[:30]
    assert set(notes) == {"random_fill", "nao_pairwise_accuracy"}
    assert np.isnan(notes["nao_pairwise_accuracy"])  # no cell was held out


class Fixed:
    """A fitted network that turns the last letters, and remembers what it was asked."""

    pairwise_accuracy = 0.75

    def __init__(self, asked, change):
        self.asked, self.change = asked, change

    def improve(self, archs, step):
        self.asked.append((archs["letters"].tolist(), step))
        letters = archs["letters"].copy()
        letters[:, 4] = (letters[:, 4] + self.change) % 3
        return {"letters": letters}


def propose_words(monkeypatch, change, known, scores, *, count, **proposer_settings):
    """Return the proposed words, what the network was asked, and the notes."""
    asked, space = [], Words()
    monkeypatch.setattr(NaoPredictor, "fit", lambda *_: Fixed(asked, change))
    proposer = NaoProposer(space, **proposer_settings)
    cells = Cells.of(space, {"letters": np.array(known)})
    found, notes = proposer.propose(KEY, space, cells, np.array(scores), count)
    return found.archs["letters"], asked, notes


WORDS = [[0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0]]


def test_the_best_cells_are_moved_best_first(monkeypatch):
    scores = [0.1, 0.4, np.nan, 0.3]
    new, asked, notes = propose_words(monkeypatch, 1, WORDS, scores, count=2, seeds=2)
    assert asked == [([WORDS[1], WORDS[3]], 10)]
    assert new.tolist() == [[0, 1, 0, 0, 1], [0, 0, 0, 1, 1]]
    assert notes == {"random_fill": 0, "nao_pairwise_accuracy": 0.75}
    _, asked, _ = propose_words(monkeypatch, 1, WORDS, scores, count=1)
    assert asked[0][0] == [WORDS[1], WORDS[3], WORDS[0]]  # a failed cell is no start


def test_larger_steps_and_then_random_cells_fill_up(monkeypatch):
    new, asked, notes = propose_words(
        monkeypatch, 0, WORDS, [1, 2, 3, 4], count=20, steps=(10, 20, 30)
    )
    assert [step for _, step in asked] == [10, 20, 30]
    assert len({tuple(word) for word in new.tolist()} - {tuple(word) for word in WORDS}) == 20
    assert notes["random_fill"] == 1
    with pytest.raises(UserError, match="exhausted"):  # 54 words there are, 4 are known
        propose_words(monkeypatch, 0, WORDS, [1, 2, 3, 4], count=51)


def test_the_share_of_random_cells_is_noted(monkeypatch):
    _, _, notes = propose_words(monkeypatch, 1, WORDS, [1, 2, 3, 4], count=10)
    assert notes["random_fill"] == 6 / 10


def test_the_proposer_refuses_settings_under_which_nothing_moves():
    for bad in ({"seeds": 0}, {"steps": ()}, {"steps": (10, 0)}):
        with pytest.raises(UserError, match="must be"):
            NaoProposer(Words(), **bad)


def test_the_steps_of_the_paper_come_first():
    assert NaoProposer(Words()).steps[:3] == (10, 20, 30)

"""BANANAS and local search: a training loop in plain NumPy, Thompson sampling, neighbours."""

import jax
import numpy as np
import pytest
from search_fakes import Digits, digits

from spd_jax.errors import UserError
from spd_jax.search.bananas import BananasProposer
from spd_jax.search.local_search import LocalSearch
from spd_jax.surrogates import bananas
from spd_jax.surrogates.bananas import Bananas

KEY = jax.random.key(3)
BITS = np.random.default_rng(0).integers(0, 2, (7, 5)).astype(np.float32)
SCORES = 0.9 + 0.01 * BITS @ np.arange(5)


def same(archs):
    return np.asarray(archs)


def numpy_loop(settings, key):
    """Train one member by Adam with derivatives written out: one hidden layer of ReLUs."""
    init_key, order_key = jax.random.split(key)
    layers = bananas._init(init_key, 5, 1, settings.width)
    w = [np.asarray(layer[name], float) for layer in layers for name in ("weight", "bias")]
    first, second = [np.zeros_like(x) for x in w], [np.zeros_like(x) for x in w]
    targets = (SCORES - SCORES.mean()) / SCORES.std()
    height = targets - targets.min() + 1
    steps = 0
    for epoch_key in jax.random.split(order_key, settings.epochs):
        order = np.asarray(jax.random.permutation(epoch_key, 7))
        for batch in (order[:3], order[3:6]):  # the seventh waits
            steps += 1
            x = BITS[batch]
            hidden = np.maximum(x @ w[0] + w[1], 0)
            sign = np.sign((hidden @ w[2] + w[3])[:, 0] - targets[batch])
            out = (sign / height[batch] / 3)[:, None]
            back = (out @ w[2].T) * (hidden > 0)
            gradients = [x.T @ back, back.sum(0), hidden.T @ out, out.sum(0)]
            for i, g in enumerate(gradients):
                first[i] = 0.9 * first[i] + 0.1 * g
                second[i] = 0.999 * second[i] + 0.001 * g**2
                m, v = first[i] / (1 - 0.9**steps), second[i] / (1 - 0.999**steps)
                w[i] = w[i] - settings.learning_rate * m / (np.sqrt(v) + 1e-8)
    return w


def test_a_member_trains_as_a_loop_in_plain_numpy_does():
    settings = Bananas(same, members=2, layers=1, width=4, epochs=9, batch_size=3)
    fitted = settings.fit(KEY, BITS, SCORES)
    for member, key in enumerate(jax.random.split(KEY, 2)):
        wanted = numpy_loop(settings, key)
        found = [layer[name][member] for layer in fitted.ensemble for name in ("weight", "bias")]
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    by_member = fitted.by_member(BITS)
    assert by_member.shape == (2, 7)
    np.testing.assert_allclose(fitted.predict(BITS), by_member.mean(axis=0))


def test_the_defaults_are_the_papers():
    settings = Bananas(same)
    assert (settings.members, settings.layers, settings.width) == (5, 10, 20)
    assert settings.learning_rate == 0.01


def test_it_learns_what_paths_add_up_to():
    rng = np.random.default_rng(1)
    paths = rng.integers(0, 2, (60, 8)).astype(float)
    scores = paths @ np.linspace(-1, 1, 8)
    predicted = Bananas(same, layers=2).fit(KEY, paths[:40], scores[:40]).predict(paths[40:])
    assert np.corrcoef(predicted, scores[40:])[0, 1] > 0.9


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"members": 0}, "members is 0"),
        ({"layers": 1.5}, "layers is 1.5"),
        ({"learning_rate": -1}, "learning_rate is -1"),
        ({"paths": lambda archs: np.zeros((2, 3))}, "vectors of 7 motifs have shape"),
    ],
)
def test_mistakes_are_sentences(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        Bananas(**{"paths": same, **settings}).fit(KEY, BITS, SCORES)


# Proposers


def bits(archs):
    """Return the binary digits of cells of `Digits`."""
    return (np.asarray(archs["x"])[:, None] >> np.arange(10) & 1).astype(float)


ENSEMBLE = Bananas(bits, members=3, layers=1, width=4, epochs=5)


class Steps(Digits):
    """A space whose mutants are the cells next to a cell on a circle of 40."""

    def __init__(self):
        self.mothers = []

    def mutate(self, key, archs):
        x = np.asarray(archs["x"])
        self.mothers += x.tolist()
        step = 2 * np.asarray(jax.random.bernoulli(key, 0.5, x.shape)) - 1
        return {"x": (x + step) % 40}

    def sample(self, key, count):
        return {"x": np.asarray(jax.random.randint(key, (count,), 0, 40))}


def test_bananas_proposes_mutants_of_the_best_by_draws_of_the_ensemble(monkeypatch):
    known, scores = digits(*range(5, 35, 3)), np.arange(10.0)
    space = Steps()
    asked = []

    class Told:
        def by_member(self, archs):
            asked.append(np.asarray(archs["x"]))
            mean = np.asarray(archs["x"], float)
            return np.stack([mean - 0.1, mean + 0.1])

    monkeypatch.setattr(Bananas, "fit", lambda self, key, archs, scores: Told())
    proposer = BananasProposer(ENSEMBLE, candidates=6, parents=4)
    found = proposer.propose(KEY, space, known, scores, 3).cells
    assert set(space.mothers) <= {23, 26, 29, 32}
    assert len(asked[0]) == 6
    # The draws scatter by 0.1, so that the largest means win.
    assert found.names == tuple(str(x) for x in sorted(asked[0])[:-4:-1])


def test_bananas_knows_nothing_where_everything_failed():
    scores = np.full(10, np.nan)
    found, notes = BananasProposer(ENSEMBLE).propose(KEY, Steps(), digits(*range(10)), scores, 3)
    assert len(found) == 3
    assert notes == {}


def test_local_search_goes_from_the_best_cell_to_the_next_best():
    space = Steps()
    known, scores = digits(10, 11, 20, 30), np.array([3.0, 4.0, 2.0, np.nan])
    # 11 has one new neighbour and 10 one; the next is at 20. No failed cell is a parent.
    found, notes = LocalSearch().propose(KEY, space, known, scores, 3)
    assert found.names[:2] == ("12", "9")
    assert found.names[2] in ("19", "21")
    assert notes == {"random_fill": 0.0}
    assert 30 not in space.mothers
    more, notes = LocalSearch().propose(KEY, space, known, scores, 8)
    assert set(more.names[:4]) == {"12", "9", "19", "21"}
    assert notes == {"random_fill": 0.5}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: LocalSearch(rounds=0), "rounds=0"),
        (lambda: BananasProposer(ENSEMBLE, candidates=0), "candidates=0"),
        (lambda: BananasProposer(ENSEMBLE, parents=1.5), "parents=1.5"),
    ],
)
def test_mistakes_of_proposers_are_sentences(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()

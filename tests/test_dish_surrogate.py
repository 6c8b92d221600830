"""DishSurrogate: the dish in the unit of the scores, its held-out motifs, steps and files."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from spd_jax import dish, files
from spd_jax.dish.config import DishConfig
from spd_jax.errors import UserError
from spd_jax.spaces import sigmoid_slope
from spd_jax.surrogates import dish_surrogate
from spd_jax.surrogates.dish_surrogate import DishSurrogate

CONFIG = DishConfig(
    inner_steps=3,
    outer_steps=5,
    train_samples=4,
    valid_samples=4,
    ensemble_size=3,
    motif_batch=8,
    inner_learning_rate=0.3,
    outer_learning_rate=0.2,
    decay_steps=(3,),
    valid_every=2,
)
PLAIN = DishSurrogate(sigmoid_slope.family(3, 2, 2), CONFIG)
DISHES = {"plain": PLAIN, "early-stopping": dataclasses.replace(PLAIN, held_out_share=0.5)}
each_dish = pytest.mark.parametrize("surrogate", DISHES.values(), ids=DISHES)

KEY = jax.random.key(2)
SLOPES = np.linspace(0.3, 2.0, 8).astype(np.float32)
SCORES = np.array([0.6, 0.9, 0.97, 0.95, 0.94, 0.93, 0.9, 0.88])
NEW = np.linspace(0.1, 1.9, 13).astype(np.float32)
PAIRS = list(zip(SLOPES.tolist(), SCORES.astype(np.float32).tolist(), strict=True))


@functools.cache
def fit_once(surrogate):
    return surrogate.fit(KEY, SLOPES, SCORES)


def assert_same_bits(state, other):
    def raw(leaf):
        key = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if key else leaf)

    jax.tree.map(lambda a, b: np.testing.assert_array_equal(raw(a), raw(b)), state, other)


def test_the_surrogate_is_the_dish_itself():
    state = PLAIN.start(KEY)
    state, info = dish.fit(state, PLAIN.family, CONFIG, SLOPES, SCORES)
    fitted = fit_once(PLAIN)
    assert_same_bits(fitted.state, state)
    np.testing.assert_array_equal(fitted.info.loss, info.loss)
    standardised = dish.predict(state, PLAIN.family, CONFIG, NEW).astype(float)
    expected = SCORES.mean() + SCORES.std() * standardised
    np.testing.assert_array_equal(fitted.predict(NEW), expected)


@each_dish
def test_every_member_predicts_in_the_unit_of_the_scores(surrogate):
    members = fit_once(surrogate).predict(SLOPES, per_member=True)
    assert members.shape == (3, 8)
    assert members.dtype == np.float64
    np.testing.assert_allclose(members.mean(axis=1), SCORES.mean(), atol=1e-3 * SCORES.std())
    np.testing.assert_allclose(members.std(axis=1), SCORES.std(), rtol=1e-3)
    median = np.sort(members, axis=0)[1]
    np.testing.assert_array_equal(fit_once(surrogate).predict(SLOPES), median)


def test_a_member_that_diverges_fails_and_the_median_is_of_all(monkeypatch):
    infinity = np.inf
    standardised = np.array([[1, -infinity, 2], [0, 1, -infinity], [2, 2, -infinity]], np.float32)

    def predict(*args, per_member, **options):
        return standardised if per_member else np.median(standardised, axis=0)

    monkeypatch.setattr(dish_surrogate.dish, "predict", predict)
    fitted = dataclasses.replace(fit_once(PLAIN), mean=10.0, std=0.5)
    members = fitted.predict(NEW[:3], per_member=True)
    nan = np.nan
    np.testing.assert_array_equal(members, [[10.5, nan, 11], [10, 10.5, nan], [11, 11, nan]])
    np.testing.assert_array_equal(fitted.predict(NEW[:3]), [10.5, 10.5, nan])


@each_dish
def test_the_same_key_gives_the_same_dish_and_another_key_another(surrogate):
    assert_same_bits(surrogate.fit(KEY, SLOPES, SCORES).state, fit_once(surrogate).state)
    other = surrogate.fit(jax.random.key(3), SLOPES, SCORES)
    assert np.all(other.predict(NEW) != fit_once(surrogate).predict(NEW))


# Files


def test_a_file_keeps_the_state_and_the_unit_to_the_bit(tmp_path):
    fitted = fit_once(PLAIN)
    fitted.save(tmp_path / "fitted.npz")
    loaded = PLAIN.load(tmp_path / "fitted.npz")
    assert_same_bits(loaded.state, fitted.state)
    assert (loaded.mean, loaded.std) == (SCORES.mean(), SCORES.std())
    assert loaded.info is None
    np.testing.assert_array_equal(
        loaded.predict(NEW, per_member=True), fitted.predict(NEW, per_member=True)
    )


def test_a_bare_state_is_refused_for_it_has_no_unit(tmp_path):
    files.save_pytree(tmp_path / "state.npz", fit_once(PLAIN).state)
    with pytest.raises(UserError, match="a dish without the unit of its scores"):
        PLAIN.load(tmp_path / "state.npz")


def other_dish(**changes):
    return dataclasses.replace(PLAIN, config=dataclasses.replace(CONFIG, **changes))


@pytest.mark.parametrize(
    "loader",
    [
        other_dish(ensemble_size=2),
        other_dish(train_samples=5),
        other_dish(shared_data=True),
        dataclasses.replace(PLAIN, family=sigmoid_slope.family(3, 3, 2)),
        dataclasses.replace(PLAIN, family=sigmoid_slope.family(3, 2, 2, use_bias=False)),
    ],
    ids=["members", "samples", "shared", "width", "biases"],
)
def test_a_dish_of_another_shape_is_refused(loader, tmp_path):
    fit_once(PLAIN).save(tmp_path / "fitted.npz")
    with pytest.raises(UserError, match=r"fitted\.npz: its state (belongs to|cannot be read)"):
        loader.load(tmp_path / "fitted.npz")


# Held-out motifs


def motifs_given_to_fit(monkeypatch, share, key=KEY, scores=SCORES):
    """Return the known and the held-out motifs, as (slope, score) pairs, that the dish sees."""
    seen = []

    def fit_known(state, family, config, *given, **options):
        for motifs in given:
            pairs = motifs and zip(motifs.archs.tolist(), motifs.truth.tolist(), strict=True)
            seen.append(pairs and list(pairs))
        return state, None

    monkeypatch.setattr(dish_surrogate.dish, "fit_known", fit_known)
    dataclasses.replace(PLAIN, held_out_share=share).fit(key, SLOPES, scores)
    known, held_out = seen
    return known, held_out


@pytest.mark.parametrize(
    ("share", "count"), [(0.5, 4), (0.25, 2), (0.4, 3), (0.01, 2), (0.75, 6), (0.9, 6)]
)
def test_a_share_of_the_motifs_is_held_out_and_two_are_left_on_either_side(
    share, count, monkeypatch
):
    known, held_out = motifs_given_to_fit(monkeypatch, share)
    assert len(held_out) == count
    assert sorted(known + held_out) == PAIRS


def test_without_a_share_nothing_is_held_out(monkeypatch):
    known, held_out = motifs_given_to_fit(monkeypatch, 0.0)
    assert held_out is None
    assert known == PAIRS


def test_failed_motifs_are_not_held_out_and_the_key_draws_who_is(monkeypatch):
    scores = np.where(np.arange(8) == 4, np.nan, SCORES)
    halves = []
    for seed in range(4):
        known, held_out = motifs_given_to_fit(
            monkeypatch, 0.5, key=jax.random.key(seed), scores=scores
        )
        assert len(held_out) == 4
        assert all(np.isfinite(score) for _, score in known + held_out)
        assert len(dict(known + held_out)) == 7
        halves.append(tuple(held_out))
    assert len(set(halves)) > 1


def test_three_motifs_cannot_be_split_in_two_and_two():
    with pytest.raises(UserError, match="3 motifs are known, but 4 are needed to hold some out"):
        DISHES["early-stopping"].fit(KEY, SLOPES[:3], SCORES[:3])


# Long fits


@each_dish
def test_a_step_says_how_far_the_fit_is(surrogate):
    steps = []
    whole = surrogate.fit(KEY, SLOPES, SCORES, on_step=steps.append)
    search = 5 if surrogate.held_out_share else 0
    stop = int(whole.state.stop_step)
    assert [step.done for step in steps] == list(range(1, search + stop + 1))
    assert [step.total for step in steps] == [10] * search + [search + stop] * stop
    assert [step.phase for step in steps] == ["early_stopping"] * search + ["fit"] * stop
    np.testing.assert_array_equal([step.losses for step in steps], whole.info.loss)
    assert_same_bits(whole.state, fit_once(surrogate).state)


def test_resumed_state_has_the_bits_of_an_uninterrupted_one(tmp_path):
    surrogate, steps = DISHES["early-stopping"], []
    whole = surrogate.fit(KEY, SLOPES, SCORES, on_step=steps.append)
    for step in steps:
        files.save_pytree(tmp_path / "state.npz", step.state)
        state = files.load_pytree(tmp_path / "state.npz", surrogate.start(KEY))
        resumed = surrogate.fit(KEY, SLOPES, SCORES, state=state)
        assert_same_bits(resumed.state, whole.state)


def test_a_larger_budget_extends_a_finished_fit():
    longer = other_dish(outer_steps=7)
    steps = []
    resumed = longer.fit(
        KEY,
        SLOPES,
        SCORES,
        state=fit_once(PLAIN).state,
        on_step=lambda step: steps.append(step.done),
    )
    assert steps == [6, 7]
    assert_same_bits(resumed.state, longer.fit(KEY, SLOPES, SCORES).state)

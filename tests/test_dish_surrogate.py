"""DishSurrogate: the dish obeys the rivals' protocol, holds motifs out, and resumes."""

import dataclasses
import functools
import inspect

import jax
import numpy as np
import pytest

from spd_jax import dish, files
from spd_jax.dish.config import DishConfig
from spd_jax.errors import UserError
from spd_jax.spaces import sigmoid_slope
from spd_jax.surrogates import dish_surrogate, protocol
from spd_jax.surrogates.dish_surrogate import DishSurrogate
from spd_jax.surrogates.slope_mlp import SlopeMlp

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


@functools.cache
def fit_once(surrogate):
    return surrogate.fit(KEY, SLOPES, SCORES)


def assert_same_bits(state, other):
    def raw(leaf):
        key = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if key else leaf)

    jax.tree.map(lambda a, b: np.testing.assert_array_equal(raw(a), raw(b)), state, other)


# The protocol


@each_dish
def test_the_dish_obeys_the_protocol(surrogate):
    fitted = fit_once(surrogate)
    for instance, contract in ((surrogate, protocol.Surrogate), (fitted, protocol.Fitted)):
        for name in ("fit", "load") if contract is protocol.Surrogate else ("predict", "save"):
            expected = list(inspect.signature(getattr(contract, name)).parameters)[1:]
            found = inspect.signature(getattr(instance, name)).parameters
            assert list(found)[: len(expected)] == expected
            for extra in list(found.values())[len(expected) :]:  # callers need not know them
                assert extra.kind is extra.KEYWORD_ONLY
                assert extra.default is not extra.empty
    predictions = fitted.predict(NEW)
    assert type(predictions) is np.ndarray
    assert predictions.shape == (13,)
    assert np.issubdtype(predictions.dtype, np.floating)
    assert np.isfinite(predictions).all()


def test_the_surrogate_is_the_dish_itself():
    state = PLAIN.start(KEY)
    state, info = dish.fit(state, PLAIN.family, CONFIG, SLOPES, SCORES)
    fitted = fit_once(PLAIN)
    assert_same_bits(fitted.state, state)
    np.testing.assert_array_equal(fitted.info.loss, info.loss)
    np.testing.assert_array_equal(
        fitted.predict(NEW), dish.predict(state, PLAIN.family, CONFIG, NEW)
    )


@each_dish
def test_scores_are_medians_in_standard_deviations_over_the_known_motifs(surrogate):
    members = fit_once(surrogate).predict(SLOPES, per_member=True)
    assert members.shape == (3, 8)
    np.testing.assert_allclose(members.mean(axis=1), 0, atol=1e-3)
    np.testing.assert_allclose(members.std(axis=1), 1, rtol=1e-3)
    np.testing.assert_array_equal(fit_once(surrogate).predict(SLOPES), np.sort(members, axis=0)[1])


@each_dish
def test_the_unit_of_the_scores_does_not_matter(surrogate):
    other = surrogate.fit(KEY, SLOPES, 1000 * SCORES - 700)
    np.testing.assert_allclose(other.predict(NEW), fit_once(surrogate).predict(NEW), atol=0.02)


@each_dish
def test_the_same_key_gives_the_same_dish_and_another_key_another(surrogate):
    assert_same_bits(surrogate.fit(KEY, SLOPES, SCORES).state, fit_once(surrogate).state)
    other = surrogate.fit(jax.random.key(3), SLOPES, SCORES)
    assert np.all(other.predict(NEW) != fit_once(surrogate).predict(NEW))


@each_dish
def test_failed_motifs_are_never_used(surrogate):
    slopes = np.concatenate([[np.nan, 5.0], SLOPES, [0.2]]).astype(np.float32)
    scores = np.concatenate([[np.nan, np.inf], SCORES, [-np.inf]])
    assert_same_bits(surrogate.fit(KEY, slopes, scores).state, fit_once(surrogate).state)


@each_dish
def test_equal_scores_give_finite_predictions(surrogate):
    fitted = surrogate.fit(KEY, SLOPES, np.full(8, 0.25))
    assert np.isfinite(fitted.predict(NEW)).all()
    assert np.isfinite(fitted.info.loss).all()


@each_dish
def test_too_few_scores_and_wrong_shapes_are_refused(surrogate):
    with pytest.raises(UserError, match="1 of 3 scores are finite, but the surrogate needs"):
        surrogate.fit(KEY, SLOPES[:3], [np.nan, 0.9, np.inf])
    with pytest.raises(UserError, match="give one score per motif"):
        surrogate.fit(KEY, SLOPES, SCORES[:-1])
    with pytest.raises(UserError, match="give one score per motif"):
        surrogate.fit(KEY, SLOPES, SCORES[:, None])


# Files


@each_dish
def test_save_and_load_give_identical_predictions(surrogate, tmp_path):
    fitted = fit_once(surrogate)
    fitted.save(tmp_path / "folder" / "fitted.npz")
    loaded = surrogate.load(tmp_path / "folder" / "fitted.npz")
    assert_same_bits(loaded.state, fitted.state)
    np.testing.assert_array_equal(loaded.predict(NEW), fitted.predict(NEW))
    np.testing.assert_array_equal(
        loaded.predict(NEW, per_member=True), fitted.predict(NEW, per_member=True)
    )
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["fitted.npz"]
    with np.load(tmp_path / "folder" / "fitted.npz", allow_pickle=False) as saved:
        assert all(saved[name].dtype != object for name in saved.files)


def test_a_file_needs_no_suffix(tmp_path):
    fit_once(PLAIN).save(tmp_path / "no_suffix")
    assert [path.name for path in tmp_path.iterdir()] == ["no_suffix"]
    loaded = PLAIN.load(tmp_path / "no_suffix")
    np.testing.assert_array_equal(loaded.predict(NEW), fit_once(PLAIN).predict(NEW))


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
    with pytest.raises(UserError, match=r"fitted\.npz (belongs to|cannot be read)"):
        loader.load(tmp_path / "fitted.npz")


def test_a_file_that_is_no_dish_is_refused(tmp_path):
    path = tmp_path / "bad.npz"
    with pytest.raises(UserError, match=r"bad\.npz"):
        PLAIN.load(path)
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match=r"bad\.npz cannot be read"):
        PLAIN.load(path)
    SlopeMlp(steps=1).fit(KEY, SLOPES, SCORES).save(path)
    with pytest.raises(UserError, match=r"bad\.npz"):
        PLAIN.load(path)
    np.savez(path, fingerprint=np.array([{}], dtype=object))
    with pytest.raises(UserError, match=r"bad\.npz cannot be read"):
        PLAIN.load(path)


# Held-out motifs


def motifs_given_to_fit(monkeypatch, share, key=KEY, slopes=SLOPES, scores=SCORES):
    """Return the known and the held-out motifs, as (slope, score) pairs, that the dish sees."""
    seen = {}

    def fit(state, family, config, archs, truth, **options):
        seen.update(options, archs=archs, truth=truth)
        return state, None

    monkeypatch.setattr(dish_surrogate.dish, "fit", fit)
    dataclasses.replace(PLAIN, held_out_share=share).fit(key, slopes, scores)
    held_out = seen["valid_archs"]
    return (
        list(zip(seen["archs"].tolist(), seen["truth"].tolist(), strict=True)),
        None
        if held_out is None
        else list(zip(held_out.tolist(), seen["valid_ground_truth"].tolist(), strict=True)),
    )


@pytest.mark.parametrize(
    ("share", "count"), [(0.5, 4), (0.25, 2), (0.4, 3), (0.01, 2), (0.75, 6), (0.9, 6)]
)
def test_a_share_of_the_motifs_is_held_out_and_two_are_left_on_either_side(
    share, count, monkeypatch
):
    known, held_out = motifs_given_to_fit(monkeypatch, share)
    assert len(held_out) == count
    assert sorted(known + held_out) == list(zip(SLOPES.tolist(), SCORES.tolist(), strict=True))


def test_without_a_share_nothing_is_held_out(monkeypatch):
    known, held_out = motifs_given_to_fit(monkeypatch, 0.0)
    assert held_out is None
    assert known == list(zip(SLOPES.tolist(), SCORES.tolist(), strict=True))


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
    with pytest.raises(UserError, match="motifs"):
        DISHES["early-stopping"].fit(KEY, SLOPES[:3], SCORES[:3])


# Resumption


class KilledError(Exception):
    """A run ends here."""


@each_dish
def test_a_killed_fit_resumes_from_its_file_to_the_bit(surrogate, tmp_path):
    steps = []
    whole = surrogate.fit(
        KEY, SLOPES, SCORES, on_step=lambda state, info: steps.append(int(state.step))
    )
    assert_same_bits(whole.state, fit_once(surrogate).state)
    for kill in range(1, len(steps) + 1):
        path = tmp_path / f"{kill}.npz"
        calls = []

        def on_step(state, info, path=path, calls=calls, kill=kill):
            files.save_pytree(path, state)
            calls.append(state)
            if len(calls) == kill:
                raise KilledError

        with pytest.raises(KilledError):
            surrogate.fit(KEY, SLOPES, SCORES, on_step=on_step)
        state = files.load_pytree(path, surrogate.start(KEY))
        rest = []
        resumed = surrogate.fit(
            KEY,
            SLOPES,
            SCORES,
            state=state,
            on_step=lambda state, info, rest=rest: rest.append(int(state.step)),
        )
        assert rest == steps[kill:]
        assert_same_bits(resumed.state, whole.state)
        np.testing.assert_array_equal(resumed.predict(NEW), whole.predict(NEW))
    assert len(steps) == CONFIG.outer_steps + (
        int(whole.state.stop_step) if surrogate.held_out_share else 0
    )


def test_a_larger_budget_extends_a_finished_fit():
    longer = other_dish(outer_steps=7)
    steps = []
    resumed = longer.fit(
        KEY,
        SLOPES,
        SCORES,
        state=fit_once(PLAIN).state,
        on_step=lambda state, info: steps.append(int(state.step)),
    )
    assert steps == [6, 7]
    assert_same_bits(resumed.state, longer.fit(KEY, SLOPES, SCORES).state)

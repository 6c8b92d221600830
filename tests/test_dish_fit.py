"""dish.fit: the loop, resumption, early stopping, which motifs are used, what is refused."""

import dataclasses
import functools

import families
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spd_jax import dish
from spd_jax.dish import core
from spd_jax.dish.config import DishConfig
from spd_jax.dish.known import KnownMotifs
from spd_jax.errors import UserError
from spd_jax.spaces import sigmoid_slope

FAMILY = sigmoid_slope.family(3, 2, 2)
CONFIG = DishConfig(
    inner_steps=3,
    outer_steps=5,
    train_samples=4,
    valid_samples=4,
    ensemble_size=2,
    motif_batch=8,
    inner_learning_rate=0.3,
    outer_learning_rate=0.2,
    decay_steps=(3,),
    valid_every=2,
)
KEY = jax.random.key(2)
SLOPES = np.linspace(0.3, 2.0, 11).astype(np.float32)
TRUTH = np.array([0.6, 0.9, 0.97, 0.95, 0.94, 0.93, 0.9, 0.88, 0.8, 0.75, 0.7], np.float32)
NEW = np.linspace(0.1, 1.9, 13).astype(np.float32)
# Six known and five held-out motifs.
KNOWN = {"archs": SLOPES[::2], "ground_truth": TRUTH[::2]}
HELD_OUT = {"valid_archs": SLOPES[1::2], "valid_ground_truth": TRUTH[1::2]}
BATCHED = dataclasses.replace(CONFIG, motif_batch=8, inner_batch_size=2)


def assert_same_bits(state, other):
    def raw(leaf):
        key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if key else leaf)

    jax.tree.map(lambda a, b: np.testing.assert_array_equal(raw(a), raw(b)), state, other)


def assert_close(tree, other, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), tree, other)


@functools.cache
def fitted(config=CONFIG, count=6):
    """Return a dish that has been fitted to the first motifs."""
    state = dish.init(KEY, FAMILY, config)
    return dish.fit(state, FAMILY, config, SLOPES[:count], TRUTH[:count])


# The loop


def test_fit_is_a_loop_of_outer_steps():
    state = dish.init(KEY, FAMILY, CONFIG)
    losses, seen = [], []
    for _ in range(CONFIG.outer_steps):
        state, info = dish.outer_step(state, FAMILY, CONFIG, SLOPES[:6], TRUTH[:6])
        losses.append(info.loss)
    result, report = dish.fit(
        dish.init(KEY, FAMILY, CONFIG),
        FAMILY,
        CONFIG,
        SLOPES[:6],
        TRUTH[:6],
        on_step=lambda state, info: seen.append((int(state.step), info)),
    )
    assert_close(result.data, state.data, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(report.loss, losses, rtol=1e-3, atol=1e-5)
    assert [step for step, _ in seen] == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal([info.loss for _, info in seen], report.loss)
    assert report.masked.tolist() == [[0, 0]] * 5
    assert (report.stop_step, report.valid_loss) == (5, {})
    assert int(result.step) == int(result.stop_step) == 5


def test_a_larger_budget_goes_on_from_a_finished_fit():
    larger = dataclasses.replace(CONFIG, outer_steps=CONFIG.outer_steps + 3)
    state, _ = dish.fit(dish.init(KEY, FAMILY, CONFIG), FAMILY, CONFIG, SLOPES[:6], TRUTH[:6])
    longer, report = dish.fit(state, FAMILY, larger, SLOPES[:6], TRUTH[:6])
    at_once, _ = dish.fit(dish.init(KEY, FAMILY, larger), FAMILY, larger, SLOPES[:6], TRUTH[:6])
    assert len(report.loss) == 3
    np.testing.assert_array_equal(longer.data.train_inputs, at_once.data.train_inputs)
    np.testing.assert_array_equal(longer.mean, at_once.mean)


def test_fitting_lowers_the_outer_loss():
    config = dataclasses.replace(CONFIG, decay=1.0, outer_steps=40)
    state = dish.init(KEY, FAMILY, config)
    _, report = dish.fit(state, FAMILY, config, SLOPES[:6], TRUTH[:6])
    assert len(report.loss) == 40
    assert (report.loss[-1] < 0.5 * report.loss[0]).all()


def test_the_fitted_dish_stores_its_standardisation():
    state, _ = fitted()
    raw = dish.raw_scores(state, FAMILY, CONFIG, SLOPES[:6]).astype(float)
    np.testing.assert_allclose(state.mean, raw.mean(1), rtol=1e-5)
    np.testing.assert_allclose(state.std, raw.std(1), rtol=1e-3)
    np.testing.assert_array_equal(state.sign, [1, 1])
    scores = dish.predict(state, FAMILY, CONFIG, SLOPES[:6], per_member=True)
    np.testing.assert_allclose(scores.mean(1), 0, atol=1e-3)
    np.testing.assert_allclose(scores.std(1), 1, rtol=1e-3)


# Resumption


class KilledError(Exception):
    """A run ends here."""


def through_the_host(state):
    """Return a state as another process would read it: plain NumPy arrays in between."""
    plain = dataclasses.replace(state, key=jax.random.key_data(state.key))
    plain = jax.tree.map(np.asarray, plain)
    plain = jax.tree.map(jnp.asarray, plain)
    return dataclasses.replace(plain, key=jax.random.wrap_key_data(plain.key))


def killed_after(calls, config, motifs):
    """Return the state that was saved in the call of `on_step` in which the run was killed."""
    saved = []

    def on_step(state, info):
        saved.append(through_the_host(state))
        if len(saved) == calls:
            raise KilledError

    with pytest.raises(KilledError):
        dish.fit(dish.init(KEY, FAMILY, config), FAMILY, config, **motifs, on_step=on_step)
    return saved[-1]


RUNS = {
    "plain": (CONFIG, KNOWN),
    "early-stopping": (CONFIG, KNOWN | HELD_OUT),
    "motif-batches": (CONFIG, {"archs": SLOPES, "ground_truth": TRUTH}),
    "minibatches-and-all": (BATCHED, KNOWN | HELD_OUT),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_fit_ends_in_the_bits_of_an_uninterrupted_one(name):
    config, motifs = RUNS[name]
    steps = []
    whole, report = dish.fit(
        dish.init(KEY, FAMILY, config),
        FAMILY,
        config,
        **motifs,
        on_step=lambda state, info: steps.append(int(state.step)),
    )
    # With early stopping, steps 1-5 look for the number of steps; the rest are the refit.
    assert len(steps) == 5 + (report.stop_step if "valid_archs" in motifs else 0)
    for calls in {1, 4, 5, len(steps)}:
        saved = killed_after(calls, config, motifs)
        resumed, _ = dish.fit(saved, FAMILY, config, **motifs)
        assert_same_bits(resumed, whole)


def test_a_finished_fit_takes_no_more_steps():
    state, _ = fitted()
    again, report = dish.fit(state, FAMILY, CONFIG, SLOPES[:6], TRUTH[:6])
    assert_same_bits(again, state)
    assert report.loss.shape == report.masked.shape == (0, 2)


# Early stopping


def test_early_stopping_takes_the_smallest_held_out_loss_and_refits_on_everything():
    searched = []
    state, report = dish.fit(
        dish.init(KEY, FAMILY, CONFIG),
        FAMILY,
        CONFIG,
        **KNOWN,
        **HELD_OUT,
        on_step=lambda state, info: searched.append((state, info)),
    )
    assert list(report.valid_loss) == [0, 2, 4, 5]  # every second step, and the last
    looked_at = {0: dish.init(KEY, FAMILY, CONFIG)}
    looked_at |= {int(state.step): state for state, _ in searched[:5]}
    for step, loss in report.valid_loss.items():
        raw = dish.raw_scores(looked_at[step], FAMILY, CONFIG, HELD_OUT["valid_archs"])
        losses = dish.outer_losses(CONFIG, raw, HELD_OUT["valid_ground_truth"])
        assert loss == pytest.approx(losses.mean(), rel=1e-4)
    best = min(report.valid_loss, key=report.valid_loss.get)
    assert report.stop_step == int(state.step) == best
    archs = np.concatenate([KNOWN["archs"], HELD_OUT["valid_archs"]])
    truth = np.concatenate([KNOWN["ground_truth"], HELD_OUT["valid_ground_truth"]])
    config = dataclasses.replace(CONFIG, outer_steps=best)
    refitted, _ = dish.fit(dish.init(KEY, FAMILY, config), FAMILY, config, archs, truth)
    assert_same_bits(state, refitted_as(refitted, state))


def refitted_as(state, other):
    """Return `state` with the fields in which a run that looked for its steps may differ."""
    return dataclasses.replace(state, best_step=other.best_step, best_loss=other.best_loss)


def held_out_losses_that_stop_at(step, monkeypatch):
    """Let the held-out loss be smallest after `step` outer steps."""
    calls = iter(np.arange(0, 2 * CONFIG.outer_steps, CONFIG.valid_every))
    monkeypatch.setattr(
        core, "outer_losses", lambda *_: np.full(2, abs(next(calls) - step), np.float32)
    )


@pytest.mark.parametrize("step", [0, 2, 4])
def test_early_stopping_at_every_point(step, monkeypatch):
    held_out_losses_that_stop_at(step, monkeypatch)
    state, report = dish.fit(dish.init(KEY, FAMILY, CONFIG), FAMILY, CONFIG, **KNOWN, **HELD_OUT)
    assert report.stop_step == int(state.step) == step
    assert len(report.loss) == CONFIG.outer_steps + step


# Which motifs are used


def test_each_step_draws_a_fresh_motif_batch():
    archs = np.linspace(0.3, 2.0, 20).astype(np.float32)
    truth = np.cos(archs)
    seen = []
    config = dataclasses.replace(CONFIG, gradient="evaluation_only", outer_learning_rate=0.0)
    state = dish.init(KEY, FAMILY, config)
    raw = dish.raw_scores(state, FAMILY, config, archs)[0]
    dish.fit(
        state,
        FAMILY,
        config,
        archs,
        truth,
        on_step=lambda state, info: seen.append(np.asarray(info.scores[0])),
    )
    # With rate 0 nothing is learned, so that a score tells which motif it is of.
    batches = []
    for scores in seen:
        distance = np.abs(scores[:, None] - raw[None, :])
        assert distance.min(axis=1).max() < 1e-6
        batches.append(frozenset(distance.argmin(axis=1).tolist()))
    assert {len(batch) for batch in batches} == {8}
    assert len(set(batches)) == CONFIG.outer_steps


def test_motifs_without_finite_truth_are_never_used():
    truth = TRUTH.copy()
    truth[[0, 3]] = np.nan, -np.inf
    kept = np.isfinite(truth)
    state, _ = dish.fit(dish.init(KEY, FAMILY, CONFIG), FAMILY, CONFIG, SLOPES[:8], truth[:8])
    expected, _ = dish.fit(
        dish.init(KEY, FAMILY, CONFIG), FAMILY, CONFIG, SLOPES[:8][kept[:8]], truth[:8][kept[:8]]
    )
    assert_same_bits(state, expected)


def test_motif_counts_within_the_padding_do_not_retrace():
    counted = families.Counted()
    config = dataclasses.replace(CONFIG, outer_steps=2)

    def run(count):
        state = dish.init(KEY, counted.family, config)
        state, _ = dish.fit(state, counted.family, config, SLOPES[:count], TRUTH[:count])
        dish.predict(state, counted.family, config, NEW[:count])

    run(6)
    traces = counted.traces
    assert traces > 0
    for count in (5, 7, 8):
        run(count)
    assert counted.traces == traces


def test_an_exploding_motif_is_counted_and_scores_worst():
    family = families.linear()
    config = dataclasses.replace(CONFIG, inner_loss="squared_error", outer_steps=2)
    archs = np.array([0.5, 1e30, 0.8, 1.1, 1.4], np.float32)
    truth = np.array([0.1, 0.9, 0.4, 0.3, 0.2], np.float32)
    good = np.delete(np.arange(5), 1)
    state, report = dish.fit(dish.init(KEY, family, config), family, config, archs, truth)
    assert report.masked.tolist() == [[1, 1], [1, 1]]
    scores = dish.predict(state, family, config, archs)
    assert scores[1] == -np.inf
    alone, _ = dish.fit(dish.init(KEY, family, config), family, config, archs[good], truth[good])
    assert_close(state.data, alone.data, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        scores[good], dish.predict(alone, family, config, archs[good]), rtol=1e-2, atol=1e-2
    )


# What the user may get wrong


@pytest.mark.parametrize(
    ("archs", "truth", "message"),
    [
        (SLOPES[:3], TRUTH[:4], "one score for each motif"),
        (SLOPES[:1], TRUTH[:1], "2 are needed"),
        (SLOPES[:0], TRUTH[:0], "2 are needed"),
        (SLOPES[:3], np.array([0.5, np.nan, np.inf]), "1 of 3 scores are finite"),
        (SLOPES[:3], TRUTH[:3, None], "one score for each motif"),
        (np.float32(0.5), TRUTH[:1], "put one motif axis M in front"),
        ({"a": SLOPES[:3], "b": SLOPES[:2]}, TRUTH[:3], "put one motif axis M in front"),
        ({}, TRUTH[:3], "put one motif axis M in front"),
        (SLOPES[:3], np.full(3, 0.5), r"all 3 ground truths are 0\.5: there is nothing to learn"),
        (SLOPES[:3], 1 + 1e-9 * np.arange(3), "all 3 ground truths are 1"),
        (SLOPES[:3], [0.5, np.nan, 0.5], "all 2 ground truths are"),
        (SLOPES[:3], [0.5, 1e308, 0.5], r"as large as 1e\+308: rescale the scores"),
        (SLOPES[:3], [0.5, -1e30, 0.5], r"as large as 1e\+30: rescale them"),
    ],
)
def test_fit_refuses_motifs_that_do_not_fit_their_truths(archs, truth, message):
    state = dish.init(KEY, FAMILY, CONFIG)
    with pytest.raises(UserError, match=message):
        dish.fit(state, FAMILY, CONFIG, archs, truth)
    with pytest.raises(UserError, match=message):
        dish.fit(
            state,
            FAMILY,
            CONFIG,
            SLOPES[:6],
            TRUTH[:6],
            valid_archs=archs,
            valid_ground_truth=truth,
        )


def test_held_out_motifs_need_truths():
    with pytest.raises(UserError, match="held-out motifs need their ground truth"):
        dish.fit(
            dish.init(KEY, FAMILY, CONFIG),
            FAMILY,
            CONFIG,
            SLOPES[:6],
            TRUTH[:6],
            valid_archs=SLOPES[6:],
        )


def test_a_dish_in_which_no_training_is_finite_is_refused():
    family = families.linear()
    config = dataclasses.replace(CONFIG, inner_loss="squared_error")
    state = dish.init(KEY, family, config)
    for steps in (0, 5):
        config = dataclasses.replace(config, outer_steps=steps)
        with pytest.raises(UserError, match="no motif's inner training is finite"):
            dish.fit(state, family, config, np.full(4, 1e30, np.float32), TRUTH[:4])


def test_init_and_fit_check_their_settings():
    config = dataclasses.replace(CONFIG, inner_steps=0)
    with pytest.raises(UserError, match="inner_steps"):
        dish.init(KEY, FAMILY, config)
    with pytest.raises(UserError, match="inner_steps"):
        dish.fit(dish.init(KEY, FAMILY, CONFIG), FAMILY, config, SLOPES, TRUTH)


# Motifs that have been checked


def test_a_fit_of_checked_motifs_is_the_fit_of_their_arrays():
    mask = np.arange(11) % 2 == 1
    known, held_out = KnownMotifs.of(SLOPES, TRUTH).split(mask)
    np.testing.assert_array_equal(known.archs, KNOWN["archs"])
    np.testing.assert_array_equal(held_out.truth, HELD_OUT["valid_ground_truth"])
    state, report = dish.fit_known(dish.init(KEY, FAMILY, CONFIG), FAMILY, CONFIG, known, held_out)
    expected, expected_report = dish.fit(
        dish.init(KEY, FAMILY, CONFIG), FAMILY, CONFIG, **KNOWN, **HELD_OUT
    )
    assert_same_bits(state, expected)
    assert report.valid_loss == expected_report.valid_loss


def test_a_batch_that_does_not_change_is_put_on_the_device_once():
    state = dish.init(KEY, FAMILY, CONFIG)
    later = dataclasses.replace(state, step=state.step + 1)
    batches = KnownMotifs.of(SLOPES[:6], TRUTH[:6]).batches(CONFIG)
    first, second = batches(state), batches(later)
    assert all(a is b for a, b in zip(first, second, strict=True))
    assert all(isinstance(leaf, jax.Array) for leaf in first)
    assert [len(leaf) for leaf in first] == [8, 8, 8]
    assert first.weights.tolist() == [1] * 6 + [0] * 2
    np.testing.assert_array_equal(first.archs[5:], [SLOPES[5]] * 3)
    fresh = KnownMotifs.of(SLOPES, TRUTH).batches(CONFIG)
    assert fresh(state).archs.tolist() == fresh(state).archs.tolist() != fresh(later).archs.tolist()

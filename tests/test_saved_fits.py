"""saved_fits: a fit that was interrupted goes on as if it had not been; a finished one is found."""

import dataclasses
import logging
import pathlib
import tempfile

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slope_dish import DISH, NEW, SCORES, SLOPES

from spd_jax.errors import UserError
from spd_jax.studies import saved_fits
from spd_jax.studies.run_folder import RunFolder
from spd_jax.surrogates.regressors import GaussianProcess

KEY = jax.random.key(3)
DISHES = {
    "plain": dataclasses.replace(DISH, config=dataclasses.replace(DISH.config, outer_steps=4)),
    "early stopping": dataclasses.replace(
        DISH,
        config=dataclasses.replace(DISH.config, outer_steps=4, valid_every=2),
        held_out_share=0.4,
    ),
}
each_dish = pytest.mark.parametrize("dish", DISHES.values(), ids=DISHES)


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def fit(folder, surrogate=DISH, *, name="dish", scores=SCORES, slopes=SLOPES, **options):
    return saved_fits.fit(folder, name, surrogate, KEY, slopes, scores, **options)


def files_of(folder):
    return sorted(path.name for path in folder.path.rglob("*") if path.is_file())


def assert_same(fitted, other):
    """Compare what two fits predict, and all that they learned, to the bit."""
    np.testing.assert_array_equal(fitted.predict(NEW), other.predict(NEW))
    for leaf, expected in zip(map(raw, leaves(fitted)), map(raw, leaves(other)), strict=True):
        np.testing.assert_array_equal(leaf, expected)


def leaves(fitted):
    return jax.tree.leaves(fitted.state)


def raw(leaf):
    is_key = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def killed_after(folder, surrogate, step, **options):
    """Fit until `step` steps are done, then be interrupted."""

    def interrupt(taken):
        if taken.done == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(folder, surrogate, on_step=interrupt, **options)


@pytest.fixture(scope="module")
def uninterrupted():
    """Return the fits of `DISHES` that no folder knows of, and the number of their steps."""
    fits = {}
    for dish in DISHES.values():
        steps = []
        fitted = dish.fit(KEY, SLOPES, SCORES, on_step=steps.append)
        fits[dish] = fitted, [step.done for step in steps]
    return fits


@each_dish
@pytest.mark.parametrize("every", [1, 3])
def test_a_fit_interrupted_at_any_step_goes_on_as_if_it_had_not_been(
    dish, every, uninterrupted, tmp_path
):
    expected, steps = uninterrupted[dish]
    assert len(steps) >= 4
    for step in steps:
        folder = RunFolder(tmp_path / str(step))
        killed_after(folder, dish, step, every=every)
        taken = []
        fitted = fit(folder, dish, every=every, on_step=lambda step, to=taken: to.append(step.done))
        saved = max([0, *(done for done in steps if done <= step and done % every == 0)])
        assert taken == [done for done in steps if done > saved]
        assert_same(fitted, expected)
        (name,) = files_of(folder)
        assert name.startswith("dish_")
        assert name.endswith(".npz")


def test_a_fit_interrupted_again_and_again_comes_to_its_end(uninterrupted, folder):
    dish = DISHES["early stopping"]
    expected, steps = uninterrupted[dish]
    for step in steps:
        killed_after(folder, dish, step)
    assert_same(fit(folder, dish), expected)


def test_the_state_that_a_fit_goes_on_from_is_told(folder):
    started = []
    killed_after(folder, DISH, 1, on_start=lambda state: started.append(int(state.step)))
    fit(folder, on_start=lambda state: started.append(int(state.step)))
    fit(folder, on_start=lambda state: started.append(int(state.step)))  # finished: no start
    assert started == [0, 1]


def test_a_finished_fit_is_loaded(folder, monkeypatch):
    expected = fit(folder)
    assert_same(expected, DISH.fit(KEY, SLOPES, SCORES))
    before = files_of(folder)
    monkeypatch.setattr(type(DISH), "fit", lambda *_, **__: pytest.fail("was fitted again"))
    assert_same(fit(folder), expected)
    assert files_of(folder) == before


def test_other_motifs_scores_and_names_have_other_files(folder):
    fit(folder)
    fit(folder, scores=SCORES[::-1])
    fit(folder, scores=np.where(np.arange(len(SCORES)) == 2, np.nan, SCORES))
    fit(folder, slopes=SLOPES[::-1])
    fit(folder, name="search/other")
    assert len(files_of(folder)) == 5
    assert len(list((folder.path / "states" / "search").glob("other_*.npz"))) == 1
    assert_same(fit(folder, scores=SCORES[::-1]), DISH.fit(KEY, SLOPES, SCORES[::-1]))


def test_an_unfinished_fit_of_other_scores_is_not_gone_on_with(folder):
    killed_after(folder, DISH, 1)
    started = []
    other = fit(folder, scores=-SCORES, on_start=lambda state: started.append(int(state.step)))
    assert started == [0]
    assert_same(other, DISH.fit(KEY, SLOPES, -SCORES))


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "zeros in the middle": lambda content: content[:200] + bytes(400) + content[600:],
    "no archive": lambda content: b"not a file of ours",
}
each_damage = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


def damaged(folder, damage):
    (path,) = folder.path.glob("states/*.npz")
    path.write_bytes(damage(path.read_bytes()))


@each_damage
def test_a_damaged_finished_fit_is_made_anew_with_a_warning(damage, folder, caplog):
    expected = fit(folder)
    damaged(folder, damage)
    assert_same(fit(folder), expected)
    (warning,) = warnings_of(caplog)
    assert "npz cannot be used (" in warning
    assert warning.endswith(") and is made anew")
    assert_same(fit(folder), expected)
    assert len(warnings_of(caplog)) == 1


@each_damage
def test_a_damaged_unfinished_fit_is_begun_anew_with_a_warning(damage, folder, caplog):
    killed_after(folder, DISH, 1)
    damaged(folder, damage)
    started = []
    fitted = fit(folder, on_start=lambda state: started.append(int(state.step)))
    assert started == [0]
    assert_same(fitted, DISH.fit(KEY, SLOPES, SCORES))
    (warning,) = warnings_of(caplog)
    assert "_unfinished.npz cannot be used (" in warning


def test_a_saved_fit_of_another_shape_is_made_anew(folder, caplog):
    fit(folder)
    larger = dataclasses.replace(
        DISH, config=dataclasses.replace(DISH.config, train_samples=4, valid_samples=4)
    )
    assert_same(fit(folder, larger), larger.fit(KEY, SLOPES, SCORES))
    assert len(warnings_of(caplog)) == 1


@pytest.fixture(scope="module")
def saved():
    """Return the fit, its finished file and an unfinished one: name and bytes of each."""
    with tempfile.TemporaryDirectory() as path:
        folder = RunFolder(pathlib.Path(path))
        killed_after(folder, DISH, 1)
        (unfinished,) = folder.path.glob("states/*.npz")
        files = [(unfinished.name, unfinished.read_bytes())]
        fitted = fit(folder)
        (finished,) = folder.path.glob("states/*.npz")
        return fitted, [*files, (finished.name, finished.read_bytes())]


@settings(max_examples=60)
@given(data=st.data())
def test_flipped_bytes_are_noticed_or_without_effect(data, saved):
    expected, files = saved
    name, content = data.draw(st.sampled_from(files))
    flipped = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        # From either end: what is far from both is numbers, which a checksum covers.
        flipped[data.draw(st.integers(-700, 700))] ^= data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as path:
        folder = RunFolder(pathlib.Path(path))
        (folder.path / "states").mkdir()
        (folder.path / "states" / name).write_bytes(flipped)
        assert_same(fit(folder), expected)


def test_a_surrogate_that_is_not_resumable_is_simply_fitted(folder):
    process = GaussianProcess(lambda slopes: np.asarray(slopes, float)[:, None])
    fitted = fit(folder, process, on_start=pytest.fail, on_step=pytest.fail)
    expected = process.fit(KEY, SLOPES, SCORES)
    np.testing.assert_array_equal(fitted.predict(NEW), expected.predict(NEW))
    assert files_of(folder) == []


def test_what_the_surrogate_refuses_is_the_users_error_and_saves_nothing(folder):
    with pytest.raises(UserError, match=r".*"):
        fit(folder, scores=np.full(len(SCORES), np.nan))
    assert files_of(folder) == []


def test_a_folder_that_cannot_be_written_is_the_users_error(folder):
    (folder.path / "states").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write in .*states"):
        fit(folder)

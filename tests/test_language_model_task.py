"""Whole trainings on a text of known entropy: scores, failures, resuming, settings."""

import dataclasses
import math
import pickle

import grammar
import pytest
from small_language_models import CELL, PAPER, TINY

from spd_jax.errors import UserError
from spd_jax.spaces.rnn_cell import RnnCellSpace
from spd_jax.trainers.language_model import PRESETS, LanguageModelConfig, LanguageModelTask
from spd_jax.trainers.language_model import network as model
from spd_jax.trainers.language_model import task as tasks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A text of the grammar, as characters."""
    return grammar.write(tmp_path_factory.mktemp("text") / "characters", 12_100, 3_100)


@pytest.fixture(scope="module")
def bought(folder):
    """The full training of one cell."""
    return LanguageModelTask("nao", TINY, folder).evaluate(CELL, 0, TINY.epochs)


def same(first, other):
    """Return whether two evaluations are equal to the bit, but for their seconds."""
    first, other = (dataclasses.astuple(dataclasses.replace(x, seconds=0)) for x in (first, other))
    return first == other


# The whole training.


def test_the_cross_entropy_approaches_the_grammar_s_entropy(folder, bought):
    corpus = LanguageModelTask("nao", TINY, folder).corpus
    tokens = [corpus.vocabulary[i] for i in corpus.test[: TINY.eval_tokens]]
    floor = grammar.nll(tokens)  # of the source itself on this very text
    assert abs(floor - grammar.entropy()) < 0.05
    assert -0.01 < -bought.test_score - floor < 0.06
    assert bought.status == "ok"
    assert bought.error == ""
    assert bought.score == bought.curve[-1]
    assert len(bought.curve) == TINY.epochs
    assert list(bought.curve) == sorted(bought.curve)
    assert bought.seconds > 0


def test_one_program_trains_all_cells_seeds_and_budgets(folder, bought, monkeypatch):
    traces = []
    monkeypatch.setattr(
        model, "_losses", lambda *a, losses=model._losses: traces.append(1) or losses(*a)
    )
    model.train_epoch.clear_cache()
    model.evaluate.clear_cache()
    task = LanguageModelTask("nao", TINY, folder)
    again = task.evaluate(CELL, 0, 1)
    first = len(traces)
    assert first > 0
    other_seed = task.evaluate(CELL, 1, 1)
    other_cell = task.evaluate(" ".join(["0 2"] * 11), 0, 2)
    assert len(traces) == first
    # A smaller budget is the beginning of a larger one, and a seed is all that is random.
    assert again.curve == bought.curve[:1]
    assert other_cell.curve[0] != again.score != other_seed.score


def test_equal_seeds_give_equal_scores(folder, bought):
    again = LanguageModelTask("nao", TINY, folder).evaluate(CELL, 0, TINY.epochs)
    assert same(again, bought)


def test_a_loss_that_explodes_fails_and_says_so(folder):
    config = dataclasses.replace(TINY, learning_rate=math.inf)
    failed = LanguageModelTask("nao", config, folder).evaluate(CELL, 0, 2)
    assert failed.status == "failed"
    assert failed.error == "the loss is not finite after epoch 1"
    assert math.isnan(failed.score)
    assert math.isnan(failed.test_score)
    assert failed.curve == ()


def test_a_failure_keeps_the_curve_before_it(folder, bought, tmp_path, monkeypatch):
    losses = iter([1.5, 1.25, math.nan])
    monkeypatch.setattr(model, "evaluate", lambda *_: next(losses))
    monkeypatch.setattr(tasks, "SAVE_EVERY", 0.0)
    task = LanguageModelTask("nao", TINY, folder, str(tmp_path))
    failed = task.evaluate(CELL, 0, TINY.epochs)
    assert (failed.status, failed.curve) == ("failed", (-1.5, -1.25))
    assert "after epoch 3" in failed.error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("config", [TINY, PAPER], ids=["tiny", "paper"])
def test_an_interrupted_training_resumes_to_the_same_scores(folder, config, tmp_path, monkeypatch):
    # Averaging (of SGD) begins before the interruption, so that the average is resumed too.
    monkeypatch.setattr(model, "gained_nothing", lambda curve, _: len(curve) >= 2)
    whole = LanguageModelTask("nao", config, folder).evaluate(CELL, 3, config.epochs)
    monkeypatch.setattr(tasks, "SAVE_EVERY", 0.0)
    advance, epochs = tasks._Training.advance, []

    def interrupted(training):
        if len(epochs) == config.epochs - 1:
            raise KeyboardInterrupt
        advance(training)
        epochs.append(training.epoch)

    task = LanguageModelTask("nao", config, folder, str(tmp_path))
    monkeypatch.setattr(tasks._Training, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        task.evaluate(CELL, 3, config.epochs)
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(
        tasks._Training, "advance", lambda self: advance(self) or epochs.append(self.epoch)
    )
    resumed = task.evaluate(CELL, 3, config.epochs)
    assert same(resumed, whole)
    assert epochs == list(range(1, config.epochs + 1))  # no epoch twice
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_other_settings_is_refused(folder, bought, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(tasks._Training, "forget", lambda _: None)
    LanguageModelTask("nao", TINY, folder, str(tmp_path)).evaluate(CELL, 0, 1)
    other = dataclasses.replace(TINY, clip=2.0)
    with pytest.raises(UserError, match="belongs to another run"):
        LanguageModelTask("nao", other, folder, str(tmp_path)).evaluate(CELL, 0, 1)


def test_nothing_is_saved_within_the_first_minute(folder, bought, tmp_path):
    task = LanguageModelTask("nao", TINY, folder, str(tmp_path / "none"))
    assert same(task.evaluate(CELL, 0, TINY.epochs), bought)
    assert not (tmp_path / "none").exists()


# The task.


def test_the_fingerprint_is_every_setting_and_the_text(folder, tmp_path):
    task = LanguageModelTask("nao", TINY, folder)
    changes = {"level": "word", "optimiser": "sgd", "vocabulary_size": 4}
    prints = [task.fingerprint]
    for field in dataclasses.fields(LanguageModelConfig):
        old = getattr(TINY, field.name)
        value = changes[field.name] if field.name in changes else type(old)(not old)
        config = dataclasses.replace(TINY, **{field.name: value})
        prints.append(LanguageModelTask("nao", config, folder).fingerprint)
    prints.append(
        LanguageModelTask("nao", TINY, grammar.write(tmp_path / "b", 500, 100)).fingerprint
    )
    assert len(set(prints)) == len(prints)
    saving = dataclasses.replace(task, checkpoint_dir="elsewhere")
    moved = dataclasses.replace(task, data_dir=grammar.write(tmp_path / "c", 12_100, 3_100))
    unpickled = pickle.loads(pickle.dumps(task))
    assert {x.fingerprint for x in (saving, moved, unpickled)} == {task.fingerprint}


def test_it_says_how_much_of_the_text_it_uses(folder):
    task = LanguageModelTask("nao", dataclasses.replace(TINY, eval_tokens=0), folder)
    train, valid = len(task.corpus.train), len(task.corpus.valid)
    assert task.describe().startswith(
        f"characters as tokens: the first 12,000 of {train:,} train tokens, all {valid:,} valid"
    )


def test_a_smaller_budget_is_answered_by_its_curve(folder, bought):
    task = LanguageModelTask("nao", TINY, folder)
    assert (task.unit, task.answers_smaller_budgets) == ("negative nats per token", True)
    assert task.evaluate(CELL, 0, 2).curve == bought.curve[:2]


def test_the_presets_are_those_of_the_shipped_tables(tmp_path):
    """Ledgers and tables are keyed by fingerprints: a setting's value or name must not change."""
    for part in ("train", "valid", "test"):
        (tmp_path / f"{part}.txt").write_text("to be or not to be\n")
    prints = {
        name: LanguageModelTask("nao", config, str(tmp_path)).fingerprint
        for name, config in PRESETS.items()
    }
    assert prints == {
        "paper": "8abddc59820e6820",
        "small": "56d840fd854d0f4e",
        "tiny": "fdb46e943819a559",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimiser": "lamb"}, "unknown optimiser 'lamb': use one of sgd, adam"),
        ({"hidden_size": 0}, "hidden_size=0 must be at least 1"),
        ({"epochs": 20_000}, "epochs=20000 must be at most 10000"),
        ({"eval_tokens": -1}, "eval_tokens=-1 must be positive"),
        ({"dropout_state": 1.0}, r"dropout_state=1.0 must lie in \[0, 1\)"),
        ({"eval_tokens": 60}, "a text of 60 tokens is too short for 64 rows"),
        ({"train_tokens": 16}, "a text of 16 tokens is too short for 16 rows"),
        ({"level": "line"}, "unknown level 'line'"),
    ],
)
def test_settings_that_cannot_run_are_refused(folder, change, message):
    task = LanguageModelTask("nao", dataclasses.replace(TINY, **change), folder)
    with pytest.raises(UserError, match=message):
        task.evaluate(CELL, 0, 1)


def test_a_text_that_fills_no_batch_is_refused_before_anything_is_trained(folder):
    LanguageModelTask("nao", TINY, folder).check_text()
    wide = dataclasses.replace(TINY, eval_batch_size=10**6)
    with pytest.raises(UserError, match=r"the valid text has \d+ tokens, but fills 1000000 rows"):
        LanguageModelTask("nao", wide, folder).check_text()


@pytest.mark.parametrize("budget", [0, TINY.epochs + 1])
def test_a_budget_beyond_the_schedule_is_refused(folder, budget):
    with pytest.raises(UserError, match=f"budget {budget} must lie between 1 and 3"):
        LanguageModelTask("nao", TINY, folder).evaluate(CELL, 0, budget)


def test_a_text_that_is_no_cell_is_refused(folder):
    with pytest.raises(UserError, match="is no cell of variant nao"):
        LanguageModelTask("nao", TINY, folder).evaluate("0 1", 0, 1)


def test_a_training_averages_after_evaluations_without_gain(folder, monkeypatch):
    task = LanguageModelTask("nao", PAPER, folder)
    losses = iter([2.0, 1.5, 1.6, 1.7, 1.4])
    monkeypatch.setattr(model, "evaluate", lambda *_: next(losses))
    training = tasks._Training.start(task, RnnCellSpace("nao").decode(CELL), CELL, 0, 5)
    averaged = []
    for _ in range(5):
        training.advance()
        averaged.append(float(training.state.averaged))
    updates = averaged[4] - averaged[3]
    assert averaged[:4] == [0, 0, 0, 1]
    # 124 steps in sequences of about 15: the padding, ten sequences more, is not counted.
    assert 6 <= updates <= 13

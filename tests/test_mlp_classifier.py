"""The classifier of sigmoid slopes: values against NumPy, resumption to the bit, chunks."""

import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from spd_jax.data import images
from spd_jax.data.images import ImageData
from spd_jax.errors import UserError
from spd_jax.ground_truth.purchase import GroundTruth
from spd_jax.ground_truth.task import BatchTask
from spd_jax.ledger import Ledger
from spd_jax.spaces.activation_slope import UNITS
from spd_jax.trainers import mlp_classifier
from spd_jax.trainers.mlp_classifier import MlpClassifierConfig, MlpClassifierTask

CONFIG = MlpClassifierConfig(hidden_size=6, batch_size=10, epochs=3, average_epochs=2, chunk=2)
SLOPES = [0.3, 1.0, 1.7]
CELLS = [str(slope) for slope in SLOPES]
TASK = MlpClassifierTask(CONFIG, "digits")


def bought(task, seeds, budget=3, cells=CELLS, on_progress=mlp_classifier.no_progress):
    """Return the evaluations of every cell, seed by seed."""
    pairs = [(cell, seed) for seed in seeds for cell in cells]
    found = dict(task.evaluate_many(*zip(*pairs, strict=True), budget, on_progress))
    return [found[place] for place in range(len(pairs))]


def plain(evaluations):
    """Return evaluations without the seconds, which no two runs share."""
    return [dataclasses.replace(evaluation, seconds=0.0) for evaluation in evaluations]


@pytest.fixture(scope="module")
def trained():
    """The evaluations of two seeds."""
    return plain(bought(TASK, [0, 5]))


# Values


@pytest.mark.parametrize(("l2", "standardise"), [(0.0, True), (0.01, False)])
def test_training_is_the_numpy_oracle(l2, standardise, monkeypatch):
    generator = np.random.default_rng(0)
    inputs, labels = generator.random((16, 5)).astype(np.float32), np.arange(16) % 3
    data = ImageData(inputs[:12], labels[:12].astype(np.int32), inputs[12:], labels[12:])
    monkeypatch.setattr(images, "load", lambda *_: data)
    monkeypatch.setattr(images, "identity", lambda *_: "sixteen")
    mlp_classifier._prepared.cache_clear()
    # One batch holds everything, so that its order does not matter.
    config = MlpClassifierConfig(
        hidden_size=4,
        batch_size=12,
        epochs=6,
        l2=l2,
        learning_rate=0.1,
        standardise=standardise,
        average_epochs=2,
    )
    results = bought(MlpClassifierTask(config, "sixteen"), [7], 6)
    mlp_classifier._prepared.cache_clear()
    params = mlp_classifier.init(jax.random.key(7), 5, 3, config)
    start = [
        (np.asarray(params[f"w{i}"], float), np.asarray(params[f"b{i}"], float)) for i in range(3)
    ]
    classes = np.eye(3)[labels]
    if standardise:
        inputs = (inputs - inputs[:12].mean()) / inputs[:12].std()
    settings = {"rate": 0.1, "l2": l2, "loss": "softmax_cross_entropy"}
    for slope, result in zip(SLOPES, results, strict=True):
        losses, accuracies = [], []
        for steps in (5, 6):
            layers = oracle.train(start, slope, inputs[:12], classes[:12], steps=steps, **settings)
            logits = oracle.forward(layers, slope, inputs[12:])[-1]
            losses.append(oracle.softmax_cross_entropy(logits, classes[12:]))
            accuracies.append(np.mean(logits.argmax(-1) == labels[12:]))
        assert result.info["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
        assert result.score == pytest.approx(np.mean(accuracies), rel=1e-7)
        assert result.info["final_accuracy"] == accuracies[-1]
        assert (result.status, result.curve) == ("ok", ())


def test_initial_weights_follow_their_law():
    config = MlpClassifierConfig(hidden_size=50, init_scale=0.5)
    params = mlp_classifier.init(jax.random.key(0), 40, 10, config)
    assert params["w0"].shape == (40, 50)
    assert params["w2"].shape == (50, 10)
    assert float(jnp.std(params["w1"])) == pytest.approx(0.5, rel=0.05)
    assert not any(np.any(params[name]) for name in ("b0", "b1", "b2"))


def test_digits_are_learned(trained):
    assert all(evaluation.status == "ok" for evaluation in trained)
    assert max(evaluation.score for evaluation in trained) > 0.3  # chance is 0.1


def test_progress_is_told_after_every_epoch():
    told = []
    evaluations = bought(TASK, [0, 5], on_progress=lambda *arguments: told.append(arguments))
    assert [call[:2] for call in told] == [(done, 6) for done in range(1, 7)]
    best = [float(note.removeprefix("best accuracy ")) for _, _, note in told]
    assert best == sorted(best)
    assert best[-1] >= max(e.info["final_accuracy"] for e in evaluations) - 1e-4


def six_digits(figures):
    return [round(float(figure), 6) for figure in figures]


def test_the_score_is_the_mean_of_the_last_epochs(trained):
    data = mlp_classifier._prepared("digits", None, True)
    *_, curve = mlp_classifier.train(np.array(SLOPES, np.float32), 0, data, CONFIG, 3)
    assert curve.shape == (3, 2, 3)
    assert [e.score for e in trained[:3]] == six_digits(curve[1:, 0].mean(axis=0))
    assert [e.info["loss"] for e in trained[:3]] == six_digits(curve[1:, 1].mean(axis=0))
    assert [e.info["final_accuracy"] for e in trained[:3]] == six_digits(curve[2, 0])
    # Fewer epochs than the mean is over: all there are. A budget is what is trained.
    long = dataclasses.replace(CONFIG, average_epochs=9, epochs=50)
    every = bought(MlpClassifierTask(long, "digits"), [0])
    assert [e.score for e in every] == six_digits(curve[:, 0].mean(axis=0))


def test_a_seed_is_all_that_is_random(trained):
    assert plain(bought(TASK, [5])) == trained[3:]
    assert trained[0] != trained[3]


@pytest.mark.parametrize("kind", UNITS)
def test_a_network_of_any_kind_is_that_of_numpy(kind):
    params = mlp_classifier.init(jax.random.key(0), 3, 2, CONFIG)
    inputs = np.random.default_rng(0).normal(size=(4, 3))

    def layer(x, number, unit):
        return unit(x @ np.asarray(params[f"w{number}"], float) + np.asarray(params[f"b{number}"]))

    def unit(z):
        return np.asarray(UNITS[kind](jnp.asarray(0.6 * z)), float)

    expected = layer(layer(layer(inputs, 0, unit), 1, unit), 2, lambda z: z)
    outputs = mlp_classifier.apply(params, 0.6, jnp.asarray(inputs), kind)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


def test_kinds_are_trained_among_others_as_alone(trained):
    mixed = ["tanh 0.3", "0.3", "sigmoid 1.0", "tanh 1.0", "1.7"]
    told = []
    found = plain(bought(TASK, [0], cells=mixed, on_progress=lambda *a: told.append(a[:2])))
    assert [found[1], found[2], found[4]] == trained[:3]  # a sigmoid by either name
    assert plain(bought(TASK, [0], cells=["tanh 0.3", "tanh 1.0"])) == [found[0], found[3]]
    assert found[0] != found[1]
    assert told == [(done, 6) for done in range(1, 7)]  # two kinds of three epochs


@pytest.mark.parametrize("cell", ["elu 0.3", "tanh", "tanh x", "a b 0.3"])
def test_what_is_no_unit_is_refused(cell):
    with pytest.raises(UserError, match="is no slope: give a number, in front of it one of"):
        TASK.evaluate(cell, 0, 1)


# Resumption


class KilledError(Exception):
    """The run ends here."""


@pytest.mark.parametrize(
    ("epoch", "left"),
    [
        (1, [2, 3, 4, 5, 6]),
        (2, [3, 4, 5, 6]),
        (3, [3, 4, 5, 6]),  # trained, but not handed over
        (4, [1, 2, 3, 5, 6]),  # a ledger, which has the first seed, would not ask for it again
    ],
)
def test_a_killed_run_resumes_to_the_bit(epoch, left, trained, tmp_path):
    def kill(done, total, note):
        if done == epoch:
            raise KilledError

    task = dataclasses.replace(TASK, checkpoint_dir=str(tmp_path))
    with pytest.raises(KilledError):
        bought(task, [0, 5], on_progress=kill)
    assert len(list(tmp_path.iterdir())) == 1
    told = []
    resumed = bought(task, [0, 5], on_progress=lambda done, total, note: told.append(done))
    assert told == left
    assert plain(resumed) == trained
    assert not list(tmp_path.iterdir())  # what was handed over needs no checkpoint


def test_a_ledger_killed_between_two_seeds_buys_the_rest(trained, tmp_path):
    task = dataclasses.replace(TASK, checkpoint_dir=str(tmp_path / "checkpoints"))

    def kill(done, total, evaluation):
        if done == 3:  # the last one of the first seed
            raise KilledError

    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        with pytest.raises(KilledError):
            GroundTruth("slopes", task, ledger, on_result=kill).evaluate(CELLS, (0, 5))
        told = []
        truth = GroundTruth(
            "slopes", task, ledger, on_progress=lambda done, total, note: told.append((done, total))
        )
        found = truth.evaluate(CELLS, (0, 5))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert {row[0].unit for row in found} == {"accuracy"}
    flat = [row[place].score for place in (0, 1) for row in found]
    assert flat == [evaluation.score for evaluation in trained]


def test_other_slopes_settings_or_data_never_meet_a_checkpoint(tmp_path, monkeypatch):
    task = dataclasses.replace(TASK, checkpoint_dir=str(tmp_path))
    monkeypatch.setattr(mlp_classifier.pathlib.Path, "unlink", lambda *_, **__: None)
    names = set()
    changes = [{name: getattr(CONFIG, name) * 2} for name in SETTINGS]
    changes += [{"chunk": 3}, {"standardise": False}]
    tasks = [dataclasses.replace(task, config=dataclasses.replace(CONFIG, **c)) for c in changes]
    for other, cells, seed, budget in (
        (task, CELLS, 0, 3),
        (task, CELLS[:2], 0, 3),
        (task, CELLS[::-1], 0, 3),
        (task, CELLS, 1, 3),
        (task, CELLS, 0, 2),
        (dataclasses.replace(task, dataset="mnist"), CELLS, 0, 3),
        *((other, CELLS, 0, 3) for other in tasks),
    ):
        names.add(other._checkpoint(cells, seed, budget))
    assert len(names) == 6 + len(tasks)


def test_a_damaged_checkpoint_says_what_to_delete(trained, tmp_path):
    task = dataclasses.replace(TASK, checkpoint_dir=str(tmp_path))
    path = task._checkpoint(CELLS, 0, 3)
    path.write_bytes(b"PK damaged")
    with pytest.raises(UserError, match=rf"{path} cannot be read .*: delete it"):
        bought(task, [0])
    path.unlink()
    assert plain(bought(task, [0])) == trained[:3]


# Chunks


def test_a_slope_alone_trains_as_among_others(trained):
    for number, cell in enumerate(CELLS):
        alone = TASK.evaluate(cell, 5, 3)
        assert plain([alone]) == [trained[3 + number]]  # to the bit


def test_a_diverged_network_fails_and_spoils_no_other(trained):
    together = plain(bought(TASK, [5], cells=["nan", *CELLS]))
    assert (together[0].status, together[0].error) == ("failed", "the loss is not finite")
    assert together[1:] == trained[3:]


# The task


KNOWN_UNREAD = ("mnist", "fashion_mnist")  # data sets whose identity needs no file
SETTINGS = ("hidden_size", "batch_size", "learning_rate", "l2", "init_scale", "average_epochs")


def test_the_fingerprint_is_every_setting_and_the_data():
    prints = {TASK.fingerprint}
    for change in (*({name: getattr(CONFIG, name) * 2} for name in SETTINGS), {"standardise": 0}):
        config = dataclasses.replace(CONFIG, **change)
        prints.add(MlpClassifierTask(config, "digits").fingerprint)
    prints |= {MlpClassifierTask(CONFIG, name).fingerprint for name in KNOWN_UNREAD}
    assert len(prints) == 1 + len(SETTINGS) + 1 + len(KNOWN_UNREAD)
    # The budget is another part of the key; chunks and folders change no score.
    same = MlpClassifierTask(
        dataclasses.replace(CONFIG, epochs=7, chunk=5), "digits", "elsewhere", "here"
    )
    assert same.fingerprint == pickle.loads(pickle.dumps(TASK)).fingerprint == TASK.fingerprint


def test_the_default_s_fingerprints_are_those_of_ledgers():
    """Ledgers are keyed by fingerprints: a setting's value or name must not change."""
    prints = {
        name: MlpClassifierTask(MlpClassifierConfig(), name).fingerprint
        for name in (*KNOWN_UNREAD, "digits")
    }
    assert prints == {
        "mnist": "a8132d666a3b8713",
        "fashion_mnist": "f5816934396a97d1",
        "digits": "3e825ecaee31f8a1",
    }


def test_it_is_a_batch_task():
    assert isinstance(TASK, BatchTask)
    assert (TASK.budget, TASK.unit, TASK.answers_smaller_budgets) == (3, "accuracy", False)


@pytest.mark.parametrize(
    ("change", "cell", "budget", "message"),
    [
        ({}, "steep", 3, "'steep' is no slope: give a number"),
        ({}, "1.0", 0, "epochs, average_epochs, batch_size and chunk must be at least 1"),
        ({"chunk": 0}, "1.0", 3, "must be at least 1"),
        ({"average_epochs": 0}, "1.0", 3, "must be at least 1"),
        ({"batch_size": 2000}, "1.0", 3, "batch_size at most the 1498 training images"),
    ],
)
def test_what_cannot_be_trained_is_refused(change, cell, budget, message):
    task = MlpClassifierTask(dataclasses.replace(CONFIG, **change), "digits")
    with pytest.raises(UserError, match=message):
        task.evaluate(cell, 0, budget)

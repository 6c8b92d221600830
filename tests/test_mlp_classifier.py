"""ground_truth.mlp_classifier: values against NumPy, resumption to the bit, chunks."""

import csv
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from spd_jax.data import images as datasets
from spd_jax.data.images import ImageData
from spd_jax.errors import UserError
from spd_jax.trainers import mlp_classifier
from spd_jax.trainers.mlp_classifier import MlpClassifierConfig, evaluate

CONFIG = MlpClassifierConfig(hidden_size=6, batch_size=10, epochs=3, average_epochs=2, chunk=2)
SLOPES = [0.3, 1.0, 1.7]


@pytest.fixture(scope="module")
def digits():
    """The first digits: enough that a network learns something in three epochs."""
    data = datasets.load("digits")
    return ImageData(*(array[:300] for array in data[:2]), *(array[:60] for array in data[2:]))


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """Results of two seeds, the folder of their checkpoints, and what `on_epoch` was given."""
    folder, calls = tmp_path_factory.mktemp("checkpoints"), []
    results = evaluate(
        SLOPES,
        [0, 5],
        digits,
        CONFIG,
        folder,
        lambda *call: calls.append((list(call[0]), *call[1:])),
    )
    return results, folder, calls


def saved(folder):
    """Return every array of every checkpoint."""
    arrays = {}
    for path in sorted(folder.iterdir()):
        with np.load(path) as file:
            arrays |= {(path.name, name): file[name] for name in file.files}
    return arrays


def assert_same_bits(folder, other):
    arrays, others = saved(folder), saved(other)
    assert arrays.keys() == others.keys()
    assert len(arrays) > 10
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name])


# Values


@pytest.mark.parametrize(("l2", "standardise"), [(0.0, True), (0.01, False)])
def test_training_is_the_numpy_oracle(l2, standardise, tmp_path):
    generator = np.random.default_rng(0)
    inputs, labels = generator.random((16, 5)).astype(np.float32), np.arange(16) % 3
    data = ImageData(inputs[:12], labels[:12].astype(np.int32), inputs[12:], labels[12:])
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
    results = evaluate(SLOPES, [7], data, config, tmp_path)
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
        assert result.loss == pytest.approx(np.mean(losses), rel=1e-4)
        assert result.accuracy == np.mean(accuracies)
        assert result.final_accuracy == accuracies[-1]
        assert (result.slope, result.seed, result.epochs) == (slope, 7, 6)


def test_initial_weights_follow_their_law():
    config = MlpClassifierConfig(hidden_size=50, init_scale=0.5)
    params = mlp_classifier.init(jax.random.key(0), 40, 10, config)
    assert params["w0"].shape == (40, 50)
    assert params["w2"].shape == (50, 10)
    assert float(jnp.std(params["w1"])) == pytest.approx(0.5, rel=0.05)
    assert not any(np.any(params[name]) for name in ("b0", "b1", "b2"))


def test_digits_are_learned(trained):
    results, _, _ = trained
    assert [(r.slope, r.seed) for r in results] == [(c, s) for s in (0, 5) for c in SLOPES]
    assert max(result.accuracy for result in results) > 0.3  # chance is 0.1
    assert all(result.epochs == 3 for result in results)


def test_progress_is_told_after_every_epoch(trained):
    results, _, calls = trained
    assert [(done, total) for _, done, total in calls] == [(i, 6) for i in range(1, 7)]
    assert [len(told) for told, _, _ in calls] == [3, 3, 3, 6, 6, 6]
    assert [told[-1].epochs for told, _, _ in calls] == [1, 2, 3, 1, 2, 3]
    assert calls[-1][0] == results
    losses = [told[0].loss for told, _, _ in calls[:3]]
    assert losses[2] < losses[0]


# Resumption


class KilledError(Exception):
    """The run ends here."""


@pytest.mark.parametrize("epoch", [1, 2, 3, 4])
def test_a_killed_run_resumes_to_the_bit(epoch, trained, digits, tmp_path):
    results, folder, _ = trained

    def on_epoch(results, done, total):
        if done == epoch:
            raise KilledError

    with pytest.raises(KilledError):
        evaluate(SLOPES, [0, 5], digits, CONFIG, tmp_path, on_epoch)
    assert len(list(tmp_path.iterdir())) == (1 if epoch <= 3 else 2)
    told = []
    resumed = evaluate(
        SLOPES, [0, 5], digits, CONFIG, tmp_path, lambda _, done, total: told.append(done)
    )
    assert told == list(range(epoch + 1, 7))
    assert resumed == results
    assert_same_bits(tmp_path, folder)


def test_more_epochs_extend_a_finished_run(trained, digits, tmp_path):
    results, folder, _ = trained
    for epochs in (1, 3):
        extended = evaluate(
            SLOPES, [0, 5], digits, dataclasses.replace(CONFIG, epochs=epochs), tmp_path
        )
    assert extended == results
    assert_same_bits(tmp_path, folder)


def test_a_checkpoint_of_other_settings_is_refused(trained, digits):
    _, folder, _ = trained
    before = saved(folder)
    altered = digits._replace(valid_labels=1 - digits.valid_labels)
    others = [
        (SLOPES[:2], digits, CONFIG),
        ([0.3, 1.0, 1.8], digits, CONFIG),
        (SLOPES, altered, CONFIG),
    ]
    for name in ("hidden_size", "batch_size", "learning_rate", "l2", "init_scale", "chunk"):
        changed = {name: getattr(CONFIG, name) * 2}
        others.append((SLOPES, digits, dataclasses.replace(CONFIG, **changed)))
    others.append((SLOPES, digits, dataclasses.replace(CONFIG, standardise=False)))
    for slopes, data, config in others:
        with pytest.raises(UserError, match="was begun with other slopes, settings or data"):
            evaluate(slopes, [0], data, config, folder)
    for name, array in saved(folder).items():
        np.testing.assert_array_equal(array, before[name])


def test_another_average_reads_the_same_training(trained, digits):
    results, folder, calls = trained
    last = evaluate(SLOPES, [0], digits, dataclasses.replace(CONFIG, average_epochs=1), folder)
    assert [r.accuracy for r in last] == [r.final_accuracy for r in results[:3]]
    every = evaluate(SLOPES, [0], digits, dataclasses.replace(CONFIG, average_epochs=9), folder)
    curve = [[r.final_accuracy for r in told] for told, _, _ in calls[:3]]
    np.testing.assert_allclose([r.accuracy for r in every], np.mean(curve, axis=0), rtol=1e-6)


# Chunks


def test_a_slope_alone_trains_as_among_others(trained, digits, tmp_path):
    results, _, _ = trained
    for number, slope in enumerate(SLOPES):
        (alone,) = evaluate([slope], [5], digits, CONFIG, tmp_path / str(number))
        among = results[len(SLOPES) + number]
        assert alone.loss == pytest.approx(among.loss, rel=1e-3)
        assert alone.accuracy == pytest.approx(among.accuracy, abs=0.02)


def test_a_diverged_network_is_nan_and_spoils_no_other(trained, digits, tmp_path):
    results, _, _ = trained
    together = evaluate([np.nan, *SLOPES], [5], digits, CONFIG, tmp_path)
    assert np.isnan(together[0][3:]).all()
    for result, expected in zip(together[1:], results[3:], strict=True):
        assert result.loss == pytest.approx(expected.loss, rel=1e-3)


# The table


def test_the_table_holds_its_header_and_every_result(trained, tmp_path):
    results, _, _ = trained
    path = tmp_path / "folder" / "table.csv"
    mlp_classifier.write_table(path, results, ["command: none", "data: digits"])
    lines = path.read_text().splitlines()
    assert lines[:2] == ["# command: none", "# data: digits"]
    rows = list(csv.DictReader(lines[2:]))
    assert len(rows) == len(results)
    for row, result in zip(rows, results, strict=True):
        assert list(row) == ["slope", "seed", "epochs", "accuracy", "loss", "final_accuracy"]
        assert float(row["slope"]) == result.slope
        assert (int(row["seed"]), int(row["epochs"])) == (result.seed, result.epochs)
        for name in ("accuracy", "loss", "final_accuracy"):
            assert float(row[name]) == pytest.approx(getattr(result, name), abs=5e-7)

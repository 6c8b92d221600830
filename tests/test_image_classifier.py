"""The classifier of image cells: values against a loop, resumption to the bit, chunks, images."""

import dataclasses
import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_image_classifiers import CELLS, CONFIG, TASK

from spd_jax import archs as batches
from spd_jax.data import images
from spd_jax.errors import UserError
from spd_jax.ground_truth.purchase import GroundTruth
from spd_jax.ground_truth.task import BatchTask, no_progress
from spd_jax.ledger import Ledger
from spd_jax.trainers import image_classifier
from spd_jax.trainers.image_classifier import ImageClassifierTask

SPACES = image_classifier.SPACES
SPACE = SPACES["nasbench201"][0]


def bought(task, seeds, budget=3, cells=CELLS, on_progress=no_progress):
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


# Images


def test_images_are_bordered_and_averaged():
    pixels = np.zeros((1, 3, 3, 1), np.uint8)
    pixels[0, :, :, 0] = [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    # 3 becomes 4 with the border below and on the right, then squares of 2 x 2 are averaged.
    expected = [[(10 + 20 + 40 + 50) / 4, (30 + 60) / 4], [(70 + 80) / 4, 90 / 4]]
    np.testing.assert_array_equal(image_classifier.resize(pixels, 2)[0, :, :, 0], expected)
    np.testing.assert_array_equal(image_classifier.resize(pixels, 3)[..., 0], pixels[..., 0])
    larger = image_classifier.resize(np.full((1, 28, 28, 3), 255, np.uint8), 16)
    assert larger.shape == (1, 16, 16, 3)
    assert larger.dtype == np.float32
    assert larger[0, 1:15, 1:15].min() == 255  # a border of two zeros, averaged away in one pixel
    assert larger[0, 0].max() == 0


def test_pixels_are_standardised_by_those_of_the_training_images():
    data = TASK._data
    assert data.train.inputs.shape == (45, 4, 4, 1)
    assert data.valid.inputs.shape == (20, 4, 4, 1)
    assert data.test.labels.shape == (0,)
    np.testing.assert_allclose(np.mean(data.train.inputs), 0, atol=1e-6)
    np.testing.assert_allclose(np.std(data.train.inputs), 1, rtol=1e-5)
    pixels = image_classifier.resize(images.load_images("digits").train_images[:45], 4)
    valid = image_classifier.resize(images.load_images("digits").valid_images[:20], 4)
    expected = (valid - pixels.mean()) / pixels.std()
    np.testing.assert_allclose(data.valid.inputs, expected, rtol=1e-4, atol=1e-5)


# Values


def loop(config, cell, seed, optimiser):
    """Return train losses, valid losses and accuracies `[epochs]`: one image batch after another.

    `optimiser(params, gradient, moments, step, rate) -> params, moments` is written in plain
    formulas; the network and its derivative are JAX's.
    """
    task = dataclasses.replace(TASK, config=config)
    family, data, arch = task.family, task._data, SPACE.canonical(SPACE.decode(cell))

    def cross_entropy(params, inputs, labels):
        logits = family.apply(params, arch, inputs)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
        return -jnp.mean(chosen), logits

    step_of = jax.jit(jax.value_and_grad(cross_entropy, has_aux=True))
    params = family.init(jax.random.key(seed))
    moments = jax.tree.map(lambda leaf: (0 * leaf, 0 * leaf), params)
    steps, step, found = 45 // config.batch_size, 0, []
    for epoch in range(config.epochs):
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(45)[: steps * config.batch_size].reshape(steps, -1)
        mirrored = rng.random(order.shape) < (0.5 if config.mirror else 0)
        losses = []
        for places, mirror in zip(order, mirrored, strict=True):
            inputs = np.array(data.train.inputs)[places]
            inputs[mirror] = inputs[mirror][:, :, ::-1]
            (loss, _), gradient = step_of(params, inputs, data.train.labels[places])
            gradient = jax.tree.map(lambda g, p: g + 2 * config.l2 * p, gradient, params)
            rate = (
                config.learning_rate * (1 + math.cos(math.pi * step / (steps * config.epochs))) / 2
            )
            params, moments = optimiser(params, gradient, moments, step, rate)
            losses.append(float(loss))
            step += 1
        parts = [(data.valid.inputs[i : i + 10], data.valid.labels[i : i + 10]) for i in (0, 10)]
        looks = [step_of(params, *part)[0] for part in parts]  # statistics of each batch of ten
        right = [
            np.mean(np.argmax(logits, 1) == part[1])
            for (_, logits), part in zip(looks, parts, strict=True)
        ]
        found.append([np.mean(losses), np.mean([float(loss) for loss, _ in looks]), np.mean(right)])
    return np.transpose(found)


def nesterov(params, gradient, moments, step, rate):
    """Take one step of SGD with Nesterov momentum 0.9."""
    del step
    leaves, structure = jax.tree.flatten(params)
    pairs = structure.flatten_up_to(moments)
    gradients = structure.flatten_up_to(gradient)
    velocity = [g + 0.9 * pair[0] for g, pair in zip(gradients, pairs, strict=True)]
    moved = [p - rate * (g + 0.9 * v) for p, g, v in zip(leaves, gradients, velocity, strict=True)]
    return structure.unflatten(moved), structure.unflatten([(v, v) for v in velocity])


def adam(params, gradient, moments, step, rate):
    """Take one step of Adam."""
    leaves, structure = jax.tree.flatten(params)
    pairs, gradients = structure.flatten_up_to(moments), structure.flatten_up_to(gradient)
    new = [
        (0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2)
        for (m, v), g in zip(pairs, gradients, strict=True)
    ]
    bias = 1 - 0.9 ** (step + 1), 1 - 0.999 ** (step + 1)
    moved = [
        p - rate * m / bias[0] / (jnp.sqrt(v / bias[1]) + 1e-8)
        for p, (m, v) in zip(leaves, new, strict=True)
    ]
    return structure.unflatten(moved), structure.unflatten(new)


@pytest.mark.parametrize(
    ("changes", "optimiser"),
    [
        ({"l2": 0.01}, nesterov),
        ({"optimiser": "adam", "learning_rate": 0.02, "mirror": False}, adam),
    ],
)
def test_training_is_a_loop_over_batches(changes, optimiser):
    config = dataclasses.replace(CONFIG, **changes)
    (found,) = bought(dataclasses.replace(TASK, config=config), [7], cells=CELLS[:1])
    train_losses, valid_losses, accuracies = loop(config, CELLS[0], 7, optimiser)
    np.testing.assert_allclose(found.info["train_losses"], train_losses, rtol=2e-3)
    np.testing.assert_allclose(found.info["valid_losses"], valid_losses, rtol=2e-3)
    np.testing.assert_allclose(found.curve, accuracies, atol=1e-6)
    assert found.score == found.curve[-1]
    assert math.isnan(found.test_score)  # digits have no test files
    assert train_losses[-1] < train_losses[0]


def test_the_test_score_is_the_accuracy_on_the_test_images(monkeypatch):
    data = TASK._data
    changed = data._replace(test=data.valid)
    monkeypatch.setattr(image_classifier, "_prepared", lambda *_: changed)
    found = bought(TASK, [0])
    assert [own.test_score for own in found] == [own.score for own in found]


def test_a_seed_is_all_that_is_random(trained):
    assert plain(bought(TASK, [5])) == trained[3:]
    assert trained[0] != trained[3]
    assert len({own.info["valid_losses"][-1] for own in trained}) == 6


def test_a_smaller_budget_is_the_beginning_of_a_training(trained):
    for short, whole in zip(bought(TASK, [0], 2), trained, strict=False):
        assert short.curve == whole.curve[:2]
        assert short.info["train_losses"] == whole.info["train_losses"][:2]


def test_progress_is_told_after_every_epoch():
    told = []
    bought(TASK, [0, 5], on_progress=lambda *arguments: told.append(arguments))
    assert [call[:2] for call in told] == [(done, 12) for done in range(1, 13)]  # chunks 2, 1, 2, 1
    best = [float(note.removeprefix("best accuracy ")) for _, _, note in told]
    assert best == sorted(best)


# Chunks


def test_a_cell_alone_trains_as_among_others(trained):
    for number, cell in enumerate(CELLS):
        assert plain([TASK.evaluate(cell, 5, 3)]) == [trained[3 + number]]  # to the bit


def test_cells_at_once_are_cells_one_by_one(trained, monkeypatch):
    """An accelerator has all cells in one program, a CPU one after the other."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    config = dataclasses.replace(CONFIG, chunk=3)  # a program of its own
    for found, expected in zip(
        bought(dataclasses.replace(TASK, config=config), [0]), trained, strict=False
    ):
        np.testing.assert_allclose(
            found.info["train_losses"], expected.info["train_losses"], rtol=1e-3
        )
        np.testing.assert_allclose(found.curve, expected.curve, atol=0.051)


def test_the_size_of_a_chunk_is_the_machine_s_where_it_is_not_given(monkeypatch):
    config = dataclasses.replace(CONFIG, chunk=0)
    assert image_classifier.chunk_size(config) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert image_classifier.chunk_size(config) == 20
    assert image_classifier.chunk_size(CONFIG) == 2


def test_other_cells_and_seeds_compile_nothing_anew(trained):
    del trained  # has compiled
    programs = image_classifier._train_epoch, image_classifier._measure
    before = [program._cache_size() for program in programs]
    other = SPACE.sample(jax.random.key(1), 2)
    bought(TASK, [9], cells=[SPACE.encode(arch) for arch in other])
    assert [program._cache_size() for program in programs] == before


def test_a_diverged_network_fails_and_spoils_no_other(trained, monkeypatch):
    whole = image_classifier._train_epoch
    calls = []

    def spoiled(state, *arguments, **named):
        (params, moments), losses = whole(state, *arguments, **named)
        calls.append(0)
        if len(calls) == 2:  # the second epoch of the first chunk
            params["dense"] = jax.tree.map(lambda p: p.at[0].set(jnp.nan), params["dense"])
        return (params, moments), losses

    monkeypatch.setattr(image_classifier, "_train_epoch", spoiled)
    first, second = plain(bought(TASK, [0], cells=CELLS[:2]))
    assert (first.status, first.error) == ("failed", "the loss is not finite after epoch 2")
    assert first.curve == trained[0].curve[:1]
    assert second == trained[1]


# Resumption


class KilledError(Exception):
    """The run ends here."""


@pytest.mark.parametrize(
    ("epoch", "left"),
    [
        (1, list(range(2, 13))),
        (3, list(range(3, 13))),  # trained, but not handed over
        (4, [1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12]),  # a ledger would not ask for the first again
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


def test_seconds_of_an_earlier_process_count(tmp_path):
    task = dataclasses.replace(TASK, checkpoint_dir=str(tmp_path))
    archs = batches.stack([SPACE.decode(cell) for cell in CELLS[:2]])
    path = tmp_path / "c.npz"
    first = next(image_classifier.train(task, archs, 0, 3, path))
    *_, last = image_classifier.train(task, archs, 0, 3, path)
    assert last.seconds > first.seconds > 0


def test_other_cells_settings_or_data_never_meet_a_checkpoint(tmp_path):
    task = dataclasses.replace(TASK, checkpoint_dir=str(tmp_path))
    other = dataclasses.replace(task, config=dataclasses.replace(CONFIG, chunk=3))
    names = {
        task._checkpoint(CELLS, 0, 3),
        task._checkpoint(CELLS[:2], 0, 3),
        task._checkpoint(CELLS[::-1], 0, 3),
        task._checkpoint(CELLS, 1, 3),
        task._checkpoint(CELLS, 0, 2),
        other._checkpoint(CELLS, 0, 3),
    }
    assert len(names) == 6


def test_a_damaged_checkpoint_says_what_to_delete(trained, tmp_path):
    task = dataclasses.replace(TASK, checkpoint_dir=str(tmp_path))
    path = task._checkpoint(CELLS[:2], 0, 3)
    path.write_bytes(b"PK damaged")
    with pytest.raises(UserError, match=rf"{path} cannot be read .*: delete it"):
        bought(task, [0])
    path.unlink()
    assert plain(bought(task, [0])) == trained[:3]


# The task


def test_the_fingerprint_is_every_setting_and_the_data(monkeypatch):
    prints = {TASK.fingerprint}
    for field in dataclasses.fields(CONFIG):
        value = getattr(CONFIG, field.name)
        named = {"optimiser": "adam", "reduction": "max_pool", "mirror": False}
        other = named[field.name] if field.name in named else value + 1
        config = dataclasses.replace(CONFIG, **{field.name: other})
        print_ = dataclasses.replace(TASK, config=config).fingerprint
        assert (print_ in prints) == (field.name == "chunk")
        prints.add(print_)
    assert dataclasses.replace(TASK, space="nasbench101").fingerprint not in prints
    same = dataclasses.replace(TASK, checkpoint_dir="here")
    assert same.fingerprint == pickle.loads(pickle.dumps(TASK)).fingerprint == TASK.fingerprint
    changed = TASK._data._replace(identity="other images")
    monkeypatch.setattr(image_classifier, "_prepared", lambda *_: changed)
    assert TASK.fingerprint not in prints


def test_it_is_a_batch_task_that_says_what_it_reads():
    assert isinstance(TASK, BatchTask)
    assert (TASK.budget, TASK.unit, TASK.answers_smaller_budgets) == (3, "accuracy", True)
    assert TASK.describe() == (
        "digits at 4 x 4 pixels: 45 images to train on, 20 to validate on, 0 to test on"
    )


def test_a_ledger_answers_fewer_epochs_from_the_curve(trained, tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        truth = GroundTruth("nasbench201", TASK, ledger)
        truth.evaluate(CELLS)
        found = truth.evaluate(CELLS, budget=1)
        assert truth.bought == 3
    assert [row[0].score for row in found] == [own.curve[0] for own in trained[:3]]


@pytest.mark.parametrize(
    ("change", "cell", "budget", "message"),
    [
        ({}, "conv", 3, "'conv' is no cell of nasbench201"),
        ({}, CELLS[0], 4, "budget 4 must lie between 1 and 3 epochs"),
        ({}, CELLS[0], 0, "budget 0 must lie between 1 and 3 epochs"),
        ({"optimiser": "lion"}, CELLS[0], 3, "unknown optimiser 'lion': use one of sgd, adam"),
        ({"batch_size": 46}, CELLS[0], 3, "batch_size at most the 45 training images"),
        ({"batch_size": 0}, CELLS[0], 3, "must be at least 1"),
        ({"chunk": -1}, CELLS[0], 3, "chunk at least 0"),
        ({"stacks": 4}, CELLS[0], 3, "image_size=4 cannot be halved"),
        ({"stem": 0}, CELLS[0], 3, "stem=0 must be a whole number of at least 1"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_sentence(change, cell, budget, message):
    task = dataclasses.replace(TASK, config=dataclasses.replace(CONFIG, **change))
    with pytest.raises(UserError, match=message):
        task.evaluate(cell, 0, budget)


def test_an_unknown_space_or_data_set_is_refused():
    with pytest.raises(UserError, match="unknown space 'cells': use one of nasbench201"):
        dataclasses.replace(TASK, space="cells").evaluate(CELLS[0], 0, 3)
    with pytest.raises(UserError, match="unknown data set 'svhn': use one of mnist, fashion"):
        ImageClassifierTask("nasbench201", CONFIG, "svhn").evaluate(CELLS[0], 0, 3)


def test_a_cell_of_nasbench101_is_trained_too():
    config = dataclasses.replace(CONFIG, reduction="max_pool")
    task = dataclasses.replace(TASK, space="nasbench101", config=config)
    cell = "0110001000010000|input,conv1x1-bn-relu,maxpool3x3,output"
    found = task.evaluate(cell, 0, 3)
    assert (found.status, len(found.curve)) == ("ok", 3)
    assert found.info["train_losses"][-1] < found.info["train_losses"][0]
    name = SPACES["nasbench101"][0].encode(SPACES["nasbench101"][0].decode(cell))
    assert plain([task.evaluate(name, 0, 3)]) == plain([found])

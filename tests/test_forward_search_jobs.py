"""Real trainings at a tiny size: images and text, files of weights, batches, augmentation."""

import dataclasses
import shutil

import forward_networks as networks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spd_jax.data import images as image_files
from spd_jax.errors import UserError
from spd_jax.forward_search import arch as arch_lib
from spd_jax.forward_search import image_data, image_model, jobs, training
from spd_jax.forward_search.arch import Edge
from spd_jax.forward_search.image_data import ImageParts
from spd_jax.forward_search.image_model import ImageModel, ImageProblem
from spd_jax.forward_search.image_net import ImageNet
from spd_jax.forward_search.jobs import Job, Training
from spd_jax.forward_search.recurrent_net import RecurrentNet
from spd_jax.forward_search.text_model import TextModel, TextProblem

IMAGES = ImageProblem(
    ImageParts("digits", None, 64, 50, 50, halved=True),
    ImageModel(ImageNet((4, 4, 1), 10, 2, 2), 32),
)
OPS = ("max3", "identity")


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for part, count in {"train": 60, "valid": 30, "test": 30}.items():
        (folder / f"{part}.txt").write_text("a b c d\n" * count)
    return str(folder)


@pytest.fixture(scope="module", params=["image", "text"])
def chain(request, tmp_path_factory, text_folder):
    """Return how jobs train, and a seed, its weak training and a child, with their results."""
    if request.param == "image":
        problem, arch = IMAGES, arch_lib.seed("cell", 1, 0, OPS)
        chosen = {"normal": [Edge(0, "max3"), Edge(1, "identity")]}
        optimiser = training.Optimiser()
    else:
        model = TextModel(RecurrentNet(6, 4), rows=4, length=8)
        problem = TextProblem(model, text_folder, "word", eval_rows=2)
        arch = arch_lib.seed("rnn", ops=("relu", "identity"))
        chosen = {"recurrent": [Edge(0, "relu"), Edge(4, "identity")]}
        optimiser = training.Optimiser("adam", 1.0, 0.0)
    own = Training(problem, str(tmp_path_factory.mktemp("states")), 3, optimiser, 0.02)
    seed = Job(0, "seed", arch, 2)
    weak = Job(1, "weak", arch, 2, seed.name, 0, 1, arch.slots)
    child = Job(2, "child", arch.grown(chosen), 2, weak.name, 0, 1)
    return own, {job.kind: (job, jobs.run(own, job)) for job in (seed, weak, child)}


def test_jobs_measure_what_they_trained(chain):
    own, found = chain
    problem = own.problem
    for job, result in found.values():
        assert result.status == "ok", result.error
        arch, weights, averages = jobs.load(own.path(job.name))
        assert arch == job.arch
        need = training.recorded(problem.model, arch)
        kept = {path: weights[path] for path in need.weights}
        rest = {path: averages[path] for path in need.averages}
        error, nats = problem.measure(arch, kept, rest, "valid")
        assert (result.info["error"], result.info["cross_entropy"]) == (error, nats)
        assert result.score == problem.score(error, nats)
        assert result.info["multiply_adds"] == need.multiply_adds
        assert np.isfinite(result.test_score)
        assert result.unit in ("accuracy", "perplexity")
    spent = found["weak"][1].info["train_multiply_adds"]
    assert spent > 2 * problem.count * found["weak"][1].info["multiply_adds"]


def test_the_same_job_twice_has_the_same_result(chain, tmp_path):
    own, found = chain
    job, before = found["child"]
    other = dataclasses.replace(own, folder=str(tmp_path))
    other.path("").mkdir(parents=True)
    source = own.path(job.source)
    other.path(job.source).write_bytes(source.read_bytes())
    again = jobs.run(other, job)
    assert dataclasses.replace(again, seconds=0.0) == dataclasses.replace(before, seconds=0.0)
    for one, two in zip(jobs.load(own.path(job.name))[1:], jobs.load(other.path(job.name))[1:],
                        strict=True):  # fmt: skip
        jax.tree.map(np.testing.assert_array_equal, one, two)


def test_children_inherit_what_their_parents_learned(chain):
    own, found = chain
    trained = {kind: jobs.load(own.path(job.name)) for kind, (job, _) in found.items()}
    fresh = dataclasses.replace(found["child"][0], source=None, epochs=0)
    inheriting = dataclasses.replace(found["child"][0], epochs=0)
    need = training.recorded(own.problem.model, fresh.arch)
    weights, _ = jobs._first(own, inheriting, need)
    drawn, _ = jobs._first(own, fresh, need)
    weak = trained["weak"][1]
    for path, array in weights.items():
        assert np.array_equal(array, weak[path] if path in weak else drawn[path])
    assert any(path not in weak for path in weights)


def test_a_weak_training_says_what_every_selector_needs(chain):
    _, found = chain
    job, result = found["weak"]
    (slot,) = job.slots
    scores = result.info["scores"]
    wanted = {"alpha", "gradient", "certain", "signed"}
    assert set(scores) == wanted
    for name in wanted:
        values = np.array(scores[name][slot])
        assert values.shape == (len(job.arch.candidates(slot)),)
        assert np.isfinite(values).all()
        assert len(set(values)) > 1, name


def test_training_lowers_the_loss(chain):
    own, found = chain
    job, _ = found["seed"]
    longer, own = dataclasses.replace(job, epochs=40), dataclasses.replace(own, rate=0.1)
    need = training.recorded(own.problem.model, job.arch)
    _, losses = jobs.train(own, longer, *jobs._first(own, longer, need))
    assert len(losses) == 40
    assert losses[-1] < 0.9 * losses[0]


def test_a_phase_is_compiled_once_whatever_its_rates(chain):
    own, found = chain
    job, _ = found["weak"]
    before = training.train_steps._cache_size()
    for rate, penalty, gate, epochs in ((0.1, 0.0, 0.5, 1), (0.3, 0.1, 1.0, 3)):
        other = dataclasses.replace(own, rate=rate, penalty=penalty, gate=gate)
        need = training.recorded(own.problem.model, job.arch, job.slots)
        jobs.train(other, dataclasses.replace(job, epochs=epochs), *jobs._first(own, job, need))
    assert training.train_steps._cache_size() == before


def test_a_training_that_diverges_is_a_failed_evaluation(chain, tmp_path):
    own, found = chain
    job, _ = found["seed"]
    bold = dataclasses.replace(own, rate=1e30, folder=str(tmp_path))
    bold = dataclasses.replace(bold, optimiser=dataclasses.replace(own.optimiser, clip=0.0))
    result = jobs.run(bold, job)
    assert result.status == "failed"
    assert "diverged" in result.error


def test_what_decides_no_score_is_in_no_fingerprint(chain, tmp_path):
    own, _ = chain
    problem = own.problem
    images = isinstance(problem, ImageProblem)

    def changed(**changes):
        net = dataclasses.replace(problem.model.net, **changes)
        model = dataclasses.replace(problem.model, net=net)
        return dataclasses.replace(own, problem=dataclasses.replace(problem, model=model))

    def prints(one):
        return [one.fingerprint("seed"), one.fingerprint("child")]

    moved = dataclasses.replace(own, folder=str(tmp_path), seed=4)
    if images:
        form = "shifted"
        parts = dataclasses.replace(problem.parts, data_dir=str(tmp_path))
        moved = dataclasses.replace(changed(conv_form=form), problem=dataclasses.replace(
            changed(conv_form=form).problem, parts=parts))  # fmt: skip
    else:
        copy = tmp_path / "copy"
        shutil.copytree(problem.data_dir, copy)
        moved = dataclasses.replace(moved, problem=dataclasses.replace(problem, data_dir=str(copy)))
    assert prints(moved) == prints(own)
    growing = [
        dataclasses.replace(own, penalty=0.5), dataclasses.replace(own, gate=0.5),
        dataclasses.replace(own, optimiser=dataclasses.replace(own.optimiser, coupling="soft")),
        *([changed(merge="sum"), changed(candidate_scale=True)] if images else []),
    ]  # fmt: skip
    for other in growing:
        assert prints(other)[0] == prints(own)[0]
    assert len({prints(other)[1] for other in (own, *growing)}) == 1 + len(growing)
    width = changed(**({"filters": 3} if images else {"hidden": 5}))
    for other in (width, dataclasses.replace(own, rate=0.5)):
        assert not {*prints(other)} & {*prints(own)}


def test_an_infinite_cross_entropy_is_a_failed_evaluation(chain, tmp_path, monkeypatch):
    """The largest of several NaN is still an answer, and its accuracy finite."""
    own, found = chain
    other = dataclasses.replace(own, folder=str(tmp_path))
    for valid, test in ((np.nan, 0.5), (0.5, np.inf)):
        nats = {"valid": valid, "test": test}
        monkeypatch.setattr(
            type(own.problem), "measure", lambda self, *given, nats=nats: (0.5, nats[given[-1]])
        )
        monkeypatch.setattr(type(own.problem), "score", lambda self, *given: 0.5)
        result = jobs.run(other, found["seed"][0])
        assert (result.status, result.error) == ("failed", "the training diverged")


def test_a_weak_training_without_a_finite_candidate_is_a_failed_evaluation(chain, tmp_path):
    own, found = chain
    job, _ = found["weak"]
    (slot,) = job.slots
    other = dataclasses.replace(own, folder=str(tmp_path))
    arch, weights, averages = jobs.load(own.path(job.source))
    alpha = np.full(len(job.arch.candidates(slot)), np.nan, np.float32)
    jobs.save(other.path(job.source), arch, weights | {f"alpha/{slot}": alpha}, averages)
    result = jobs.run(other, job)
    assert (result.status, result.error) == ("failed", "no candidate has a finite alpha")
    assert np.isfinite(result.info["train_loss"])  # the parent noticed nothing


def test_missing_weights_are_one_sentence(chain):
    own, found = chain
    job = dataclasses.replace(found["child"][0], source="0" * 12)
    with pytest.raises(UserError, match="is missing"):
        jobs.run(own, job)


@pytest.mark.parametrize("arrays", [{}, {"arch": "{}"}, {"arch": "no json"}])
def test_a_file_that_holds_no_network_is_refused(tmp_path, arrays):
    path = tmp_path / "file.npz"
    jobs.files.save_arrays(path, {name: np.array(x) for name, x in arrays.items()}, kind=jobs.KIND)
    with pytest.raises(UserError):
        jobs.load(path)


def test_only_so_many_networks_stay_compiled(chain, tmp_path, monkeypatch):
    own, found = chain
    other = dataclasses.replace(own, folder=str(tmp_path))
    kept = {}
    for most in (2, 1):
        jax.clear_caches()
        monkeypatch.setattr(jobs, "MOST_NETWORKS", most)
        monkeypatch.setattr(jobs, "_compiled", set())
        for job, before in (found["seed"], found["weak"]):
            assert jobs.run(other, job).info == before.info
        kept[most] = training.train_steps._cache_size()
    assert kept[1] == kept[2] / 2 > 0


# Data


def test_parts_do_not_overlap_and_are_centred():
    found = image_data.load(ImageParts())
    sizes = [len(own.labels) for own in (found.train, found.valid, found.test)]
    assert sizes == [896, 400, 501]
    np.testing.assert_allclose(found.train.inputs.mean(0), 0, atol=1e-5)
    assert found.train.inputs.std() == pytest.approx(1, rel=1e-4)
    raw = image_files.load_images("digits")
    every = np.concatenate([raw.train_labels, raw.valid_labels])
    parts = [found.train.labels, found.valid.labels, found.test.labels]
    np.testing.assert_array_equal(np.concatenate(parts), every)


def test_a_final_training_may_take_the_images_of_the_validation():
    parts = ImageParts("digits", None, 64, 50, 50)
    apart, joined = (image_data.load(dataclasses.replace(parts, joined=x)) for x in (False, True))
    labels = np.concatenate([apart.train.labels, apart.valid.labels])
    np.testing.assert_array_equal(joined.train.labels, labels)
    assert not {*map(bytes, joined.train.inputs)} & {*map(bytes, joined.test.inputs)}
    problem = ImageProblem(dataclasses.replace(parts, joined=True), IMAGES.model)
    assert problem.count == len(problem.training_data().labels) == 114
    assert problem.identity() != ImageProblem(parts, IMAGES.model).identity()


def test_classes_are_counted_in_all_parts(monkeypatch):
    found = image_files.load_images("digits")
    labels = np.minimum(found.train_labels, 3), np.minimum(found.valid_labels, 3)
    raw = found._replace(
        train_labels=labels[0], valid_labels=labels[1],
        test_images=found.valid_images[:10], test_labels=np.full(10, 7, np.int32),
    )  # fmt: skip
    monkeypatch.setattr(image_data.images, "load_images", lambda *given: raw)
    parts = ImageParts("digits", "elsewhere", 64, 50, 10)
    assert image_data.load.__wrapped__(parts).classes == 8


def test_halving_takes_means_of_four_pixels():
    pixels = np.arange(2 * 4 * 5 * 1, dtype=np.uint8).reshape(2, 4, 5, 1)
    found = image_data._shaped(pixels, True)
    assert found.shape == (2, 2, 2, 1)
    assert found[0, 0, 0, 0] == (0 + 1 + 5 + 6) / 4


def test_crops_flips_and_cuts():
    model = ImageModel(ImageNet((4, 4, 1), 3), 200, crop=1, flip=True, cutout=2)
    image = jnp.arange(1.0, 17.0).reshape(1, 4, 4, 1)
    data = image_model.Batch(image, jnp.zeros(1, jnp.int32))
    index = jnp.zeros(200, jnp.int32)
    found = np.asarray(model.batch(data, index, jax.random.key(0)).images)
    assert found.shape == (200, 4, 4, 1)
    plain = np.asarray(image[0])
    cuts = np.sum(found == 0, axis=(1, 2, 3))
    assert cuts.max() >= 4
    assert len(np.unique(found.reshape(200, -1), axis=0)) > 50
    values = set(np.unique(found)) - {0.0}
    assert values <= set(np.unique(plain))
    same = model.batch(data, index, jax.random.key(0)).images
    np.testing.assert_array_equal(found, same)


def test_every_image_is_seen_once_in_an_epoch():
    order = IMAGES.model.order(64, 1, 0)
    assert sorted(order.ravel()) == list(range(64))
    assert not np.array_equal(order, IMAGES.model.order(64, 1, 1))
    assert IMAGES.model.order(10, 0, 0).shape == (1, 32)  # fewer images than a batch


def test_an_auxiliary_head_and_drop_path_train_only():
    net = ImageNet((4, 4, 1), 10, 2, 2, drop_path=0.5, auxiliary=0.4)
    model = ImageModel(net, 6)
    arch = networks.image_arch()
    weights, averages = networks.drawn(model, arch)
    batch = networks.images()

    @jax.jit
    def both(key):
        from spd_jax.forward_search.scope import Scope

        train = model.loss(Scope(weights, averages, True, key, 1.0), arch, batch, None)
        logits, second = net.logits(Scope(weights, averages), arch, batch.images)
        assert second is None
        return train, logits

    (one, logits), (two, same) = both(jax.random.key(0)), both(jax.random.key(1))
    assert one != two
    np.testing.assert_array_equal(logits, same)
    plain = training.recorded(ImageModel(ImageNet((4, 4, 1), 10, 2, 2), 6), arch)
    own = training.recorded(model, arch)
    assert (own.multiply_adds, own.parameters) == (plain.multiply_adds, plain.parameters)
    assert len(own.weights) > len(plain.weights)


def test_rates_fall():
    cosine = training.rates("cosine", 0.1, 4, 5)
    assert cosine[0] == np.float32(0.1)
    assert np.all(np.diff(cosine) < 0)
    decay = training.rates("decay", 1.0, 8, 2)
    np.testing.assert_allclose(decay[::2], [1, 1, 1, 1, 1, 1, 0.8, 0.64], rtol=1e-6)

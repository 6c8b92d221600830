"""Ground truth of image cells: whole classifiers around a cell, many cells in one program.

The network is a skeleton of `spaces.image_network` with the cell in every stack. The cell is
data, so that one compiled program trains all of them. Batch normalisation uses the statistics of
the batch, in training and in evaluation; evaluation goes over fixed batches, so that an accuracy
does not depend on chance. Settings follow NAS-Bench-201 (Dong and Yang, 2020, table 2: SGD with
Nesterov momentum 0.9, rate 0.1 that falls to 0 as half a cosine, weight decay 5e-4, mirrored
images) but for the sizes, which are ours: they fit half a minute of one CPU core. Small images,
of which there are many, tell cells apart better than large ones that are seen again and again.
"""

import collections
import dataclasses
import functools
import hashlib
import json
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spd_jax import archs as batches
from spd_jax import files
from spd_jax.archs import Cells
from spd_jax.axes import Archs, Params
from spd_jax.data import images
from spd_jax.data.images import Images
from spd_jax.errors import UserError, check_name
from spd_jax.ground_truth.task import Progress, no_progress
from spd_jax.ledger import Evaluation
from spd_jax.motif import MotifFamily, SearchSpace
from spd_jax.spaces.image_network import Reduction, Skeleton
from spd_jax.spaces.nasbench101 import NasBench101Space
from spd_jax.spaces.nasbench101 import network as network101
from spd_jax.spaces.nasbench201 import NasBench201Space
from spd_jax.spaces.nasbench201 import network as network201

SPACES: dict[
    str, tuple[SearchSpace, Callable[[Skeleton], MotifFamily]]
] = {  # by name: the space, and its networks
    "nasbench201": (NasBench201Space(), network201.family),
    "nasbench101": (NasBench101Space(), network101.family),
}
OPTIMISERS = ("sgd", "adam")
CELLS_ON_CPU, CELLS_ON_ACCELERATOR = 1, 20  # in one program, where the settings do not say
FIGURES = 3  # of an epoch: training loss, validation loss, validation accuracy


@dataclasses.dataclass(frozen=True)
class ImageClassifierConfig:
    """Settings of a training.

    Attributes:
      stacks: of cells; each but the first halves the image and doubles the channels.
      cells: in each stack.
      stem: channels of the first stack.
      image_size: height and width that images are brought to: they get a border of zeros where
        their size is no multiple of it, and are averaged over squares.
      reduction: what stands between stacks, see `Skeleton`.
      train_images: the first so many are trained on; 0 is all.
      valid_images: the first so many of the validation part are used; 0 is all.
      epochs: of a full evaluation, over which the rate falls to 0.
      batch_size: images in a step; images that fill no batch are left out of an epoch.
      eval_batch_size: images whose statistics normalise together in evaluation; the last batch
        may be smaller than the others.
      optimiser: "sgd" (Nesterov) or "adam".
      learning_rate: at the start.
      momentum: of SGD.
      l2: factor of the sum of squared weights that is added to the loss; half of what others
        call weight decay.
      mirror: mirror every image with probability 1/2, anew in every epoch.
      chunk: cells in one compiled program; fewer are padded to so many, so that a cell alone
        gives the bits that it gives among others. 0 takes 1 on a CPU and 20 elsewhere.
    """

    stacks: int = 3
    cells: int = 1
    stem: int = 8
    image_size: int = 8
    reduction: Reduction = "residual"
    train_images: int = 0
    valid_images: int = 0
    epochs: int = 3
    batch_size: int = 100
    eval_batch_size: int = 500
    optimiser: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    l2: float = 2.5e-4
    mirror: bool = True
    chunk: int = 0


class Split(NamedTuple):
    """Images as a network sees them, `[N, S, S, C]` float32, and their labels `[N]` int32."""

    inputs: jax.Array
    labels: jax.Array


class Prepared(NamedTuple):
    """A data set as the networks see it: standardised by the training images' pixels."""

    train: Split
    valid: Split
    test: Split
    identity: str


@dataclasses.dataclass(frozen=True)
class ImageClassifierTask:
    """Train classifiers around cells; a `ground_truth.task.BatchTask`.

    The score is the validation accuracy, in [0, 1], after the last epoch, and the curve has that
    after every epoch; the test score is the accuracy on the data set's own test images, NaN
    where it has none. `info` holds "train_losses" and "valid_losses": the cross-entropies in
    nats, of every epoch the mean over its steps and that on the validation images after it.

    Attributes:
      space: name of the cells' space, one of `SPACES`.
      config: settings.
      dataset: one of `images.NAMES`.
      data_dir: folder of its files; None downloads them.
      checkpoint_dir: where the cells of a program save themselves after every epoch, so that a
        killed run loses one epoch at the most; None saves nothing.
    """

    space: str
    config: ImageClassifierConfig
    dataset: str
    data_dir: str | None = None
    checkpoint_dir: str | None = None

    unit = "accuracy"
    answers_smaller_budgets = True  # its schedule counts the epochs of `config`, not a budget's

    @property
    def budget(self) -> int:
        """Epochs of a full evaluation."""
        return self.config.epochs

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the space, the settings but for `chunk`, and the data."""
        settings = dataclasses.asdict(self.config)
        del settings["chunk"]
        text = f"{self.space} {json.dumps(settings, sort_keys=True)} {self._data.identity}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def describe(self) -> str:
        """Return how much of the data is used, in a few words for people."""
        splits = self._data.train, self._data.valid, self._data.test
        train, valid, test = (f"{len(own.labels):,}" for own in splits)
        size = self.config.image_size
        return (
            f"{self.dataset} at {size} x {size} pixels: {train} images to train on, {valid} to "
            f"validate on, {test} to test on"
        )

    def evaluate(self, cell: str, seed: int, budget: int) -> Evaluation:
        """Train one cell as `evaluate_many` does; it takes as long as a whole chunk."""
        ((_, evaluation),) = self.evaluate_many([cell], [seed], budget)
        return evaluation

    def evaluate_many(
        self,
        cells: Sequence[str],
        seeds: Sequence[int],
        budget: int,
        on_progress: Progress = no_progress,
    ) -> Iterator[tuple[int, Evaluation]]:
        """Train many cells, `config.chunk` at once; yield at the end of each chunk.

        The cells of a seed share the initial weights and the order of images, so that only the
        cell differs between them.

        Args:
          cells: their names.
          seeds: of the initial weights, of the order of images and of which are mirrored.
          budget: epochs, at most those of `config`.
          on_progress: told the epochs done and to do over all chunks, and the best accuracy.

        Yields:
          Place in `cells`, and its evaluation; failed, with the curve so far, where a loss was
          not finite.

        Raises:
          UserError: settings that cannot be run, missing data, a cell that is none of the
            space, or a checkpoint that cannot be read.
        """
        check(self.config, budget, self._data)
        check_name("space", self.space, SPACES)
        archs = Cells.read(SPACES[self.space][0], cells).archs
        chunks = _chunks(seeds, chunk_size(self.config))
        best = 0.0
        for number, (seed, places) in enumerate(chunks):
            path = self._checkpoint([cells[place] for place in places], seed, budget)
            for progress in train(self, batches.take(archs, places), seed, budget, path):
                best = max(best, *np.nan_to_num(progress.curve[-1, 2]).tolist())
                done = number * budget + len(progress.curve)
                on_progress(done, len(chunks) * budget, f"best accuracy {best:.4f}")
            test_scores = self._test(progress, batches.take(archs, places))
            for column, place in enumerate(places):
                seconds = progress.seconds / len(places)
                yield place, _evaluation(progress.curve[..., column], test_scores[column], seconds)
            if path is not None:  # whoever asked has written all of this chunk
                path.unlink(missing_ok=True)

    @property
    def family(self) -> MotifFamily:
        """The network, whatever the cell."""
        return _family(self.space, self.config, self._data.train.inputs.shape[-1])

    @property
    def _data(self) -> Prepared:
        return _prepared(self.dataset, self.data_dir, self.config)

    def _test(self, progress: "Progressed", archs: Archs) -> np.ndarray:
        """Return the accuracies of a chunk on the test images `[M]`, NaN without any."""
        padded = batches.padded(archs, chunk_size(self.config))
        test = self._data.test
        return _measured(progress.params, padded, test, self.family, self.config)[1]

    def _checkpoint(self, cells: Sequence[str], seed: int, budget: int) -> pathlib.Path | None:
        if self.checkpoint_dir is None:
            return None
        size = chunk_size(self.config)
        text = repr((self.fingerprint, size, list(cells), seed, budget))
        name = f"image_classifier_{hashlib.sha256(text.encode()).hexdigest()[:16]}.npz"
        return pathlib.Path(self.checkpoint_dir) / name


def chunk_size(config: ImageClassifierConfig) -> int:
    """Return how many cells are trained in one program on this machine."""
    on_cpu = jax.default_backend() == "cpu"
    return config.chunk or (CELLS_ON_CPU if on_cpu else CELLS_ON_ACCELERATOR)


def _chunks(seeds: Sequence[int], size: int) -> list[tuple[int, list[int]]]:
    """Return seeds with up to `size` places each, all places of a seed together."""
    by_seed: dict[int, list[int]] = collections.defaultdict(list)
    for place, seed in enumerate(seeds):
        by_seed[seed].append(place)
    return [
        (seed, places[start : start + size])
        for seed, places in by_seed.items()
        for start in range(0, len(places), size)
    ]


def _evaluation(curve: np.ndarray, test_score: float, seconds: float) -> Evaluation:
    """Return what `[epochs, FIGURES]` of one cell amount to."""
    # Six digits hold every share of up to a million images; beyond them lies float32 noise, which
    # would tell cells apart that classified equally many images right.
    finite = np.isfinite(curve).all(axis=1)
    epochs = len(curve) if finite.all() else int(np.argmin(finite))
    train_losses, valid_losses, accuracies = np.round(curve[:epochs].T, 6).tolist()
    info = {"train_losses": train_losses, "valid_losses": valid_losses}
    if epochs < len(curve):
        error = f"the loss is not finite after epoch {epochs + 1}"
        return Evaluation(
            "failed", curve=tuple(accuracies), seconds=seconds, error=error, info=info
        )
    score, test_score = accuracies[-1], round(float(test_score), 6)
    return Evaluation("ok", score, test_score, tuple(accuracies), seconds, info=info)


@functools.lru_cache(maxsize=2)
def _loaded(dataset: str, data_dir: str | None) -> Images:
    return images.load_images(dataset, data_dir)


def _prepared(dataset: str, data_dir: str | None, config: ImageClassifierConfig) -> Prepared:
    sizes = (config.image_size, config.train_images, config.valid_images)
    return _resized(dataset, data_dir, *sizes)


@functools.lru_cache(maxsize=2)
def _resized(
    dataset: str, data_dir: str | None, size: int, train_images: int, valid_images: int
) -> Prepared:
    data = _loaded(dataset, data_dir)
    train = resize(data.train_images[: train_images or None], size)
    mean, deviation = train.mean((0, 1, 2)), train.std((0, 1, 2))

    def split(inputs: np.ndarray, labels: np.ndarray) -> Split:
        standardised = ((inputs - mean) / deviation).astype(np.float32)
        return Split(jnp.asarray(standardised), jnp.asarray(labels[: len(inputs)]))

    valid = resize(data.valid_images[: valid_images or None], size)
    test = resize(data.test_images, size)
    return Prepared(
        split(train, data.train_labels),
        split(valid, data.valid_labels),
        split(test, data.test_labels),
        data.identity,
    )


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Bring square images to `size` x `size` pixels.

    A border of zeros makes their size a multiple of `size`; then squares are averaged. So 28 x 28
    images become 32 x 32 ones before they become 16 x 16.

    Args:
      pixels: `[N, H, H, C]` uint8.
      size: wanted, at least 1.

    Returns:
      `[N, size, size, C]` float32 from 0 to 255.
    """
    height = pixels.shape[1]
    factor = max(-(-height // size), 1)
    border = factor * size - height
    edges = (border // 2, border - border // 2)
    padded = np.pad(pixels, ((0, 0), edges, edges, (0, 0)))
    squares = padded.reshape(len(pixels), size, factor, size, factor, pixels.shape[-1])
    return squares.mean((2, 4), dtype=np.float32)


def check(config: ImageClassifierConfig, budget: int, data: Prepared) -> None:
    """Refuse settings that cannot be run, in one sentence."""
    check_name("optimiser", config.optimiser, OPTIMISERS)
    if not 1 <= budget <= config.epochs:
        raise UserError(f"budget {budget} must lie between 1 and {config.epochs} epochs")
    least = min(config.batch_size, config.eval_batch_size, config.image_size)
    if least < 1 or config.chunk < 0 or config.batch_size > len(data.train.labels):
        raise UserError(
            "batch_size, eval_batch_size and image_size must be at least 1, chunk at least 0, and "
            f"batch_size at most the {len(data.train.labels)} training images"
        )


@functools.cache
def _family(space: str, config: ImageClassifierConfig, channels: int) -> MotifFamily:
    skeleton = Skeleton(
        config.stacks, config.cells, config.stem, config.image_size, channels, 10, config.reduction
    )
    return SPACES[space][1](skeleton)


class Progressed(NamedTuple):
    """A chunk of cells after some epochs.

    Attributes:
      params: weights with axis M, padded to the chunk's size; the next epoch takes their memory.
      curve: `[epochs done, FIGURES, M]` float64, NaN where a loss is not finite.
      seconds: spent on all M cells, in earlier processes too.
    """

    params: Params
    curve: np.ndarray
    seconds: float


def train(
    task: ImageClassifierTask,
    archs: Archs,
    seed: int,
    epochs: int,
    checkpoint: pathlib.Path | None = None,
) -> Iterator[Progressed]:
    """Train one network per cell from the same initial weights on the same batches.

    Args:
      task: settings and data.
      archs: batch `[M]` of at most a chunk.
      seed: of the weights, of the order of images and of which are mirrored.
      epochs: to train, the first of the schedule of `task.config.epochs`.
      checkpoint: file that is written after every epoch; where it exists, the training goes
        on from it.

    Yields:
      After each epoch, what there is; a checkpoint of a finished training yields once.

    Raises:
      UserError: a checkpoint that cannot be read.
    """
    config, data, began = task.config, task._data, time.perf_counter()
    count, size, family = batches.count(archs), chunk_size(config), task.family
    archs = batches.padded(archs, size)
    params = jax.tree.map(
        lambda leaf: jnp.repeat(leaf[None], size, axis=0), family.init(jax.random.key(seed))
    )
    steps = len(data.train.labels) // config.batch_size
    optimiser = _optimiser(config, steps)
    state = params, optimiser.init(params)
    curve, done, earlier = np.zeros((epochs, FIGURES, count)), 0, 0.0
    if checkpoint is not None and checkpoint.exists():
        state, saved, past = files.load_pytree(checkpoint, (state, curve, np.zeros(2)))
        curve, done, earlier = np.array(saved, float), int(past[0]), float(past[1])
        if done == epochs:
            yield Progressed(state[0], curve, earlier)
    for epoch in range(done, epochs):
        drawn = _drawn(seed, epoch, len(data.train.labels), config)
        state, losses = _train_epoch(
            state, archs, data.train, *drawn, family=family, config=config, steps=steps
        )
        measured = _measured(state[0], archs, data.valid, family, config)
        curve[epoch] = np.stack([np.asarray(losses), *measured])[:, :count]
        seconds = earlier + time.perf_counter() - began
        if checkpoint is not None:
            files.save_pytree(checkpoint, (state, curve, np.array([epoch + 1.0, seconds])))
        yield Progressed(state[0], curve[: epoch + 1], seconds)


def _optimiser(config: ImageClassifierConfig, steps: int) -> optax.GradientTransformation:
    rate = optax.cosine_decay_schedule(config.learning_rate, config.epochs * steps)
    if config.optimiser == "adam":
        return optax.adam(rate)
    return optax.sgd(rate, config.momentum, nesterov=True)


def _drawn(
    seed: int, epoch: int, count: int, config: ImageClassifierConfig
) -> tuple[jax.Array, jax.Array]:
    """Return an epoch's places of images, int32, and which to mirror, bool: `[steps, B]` each."""
    rng = np.random.default_rng([seed, epoch])
    shape = count // config.batch_size, config.batch_size
    order = rng.permutation(count)[: math.prod(shape)].astype(np.int32)
    mirrored = rng.random(shape) < 0.5 * config.mirror
    return jnp.asarray(order.reshape(shape)), jnp.asarray(mirrored)


def _each(function: Callable[[Any], Any], cells: Any) -> Any:
    """Map over the first axis of a pytree: cell by cell on a CPU, all at once elsewhere.

    A program for all cells at once computes every operation of every edge; cell by cell, it
    computes those that the cell has.
    """
    if jax.default_backend() == "cpu":
        return jax.lax.map(function, cells)
    return jax.vmap(function)(cells)


@functools.partial(
    jax.jit, static_argnames=("family", "config", "steps"), donate_argnames=("state",)
)
def _train_epoch(
    state: Any,
    archs: Archs,
    data: Split,
    order: jax.Array,
    mirrored: jax.Array,
    *,
    family: MotifFamily,
    config: ImageClassifierConfig,
    steps: int,
) -> tuple[Any, jax.Array]:
    """Train every cell `[M]` on the same batches; return the state and mean losses `[M]`."""
    optimiser = _optimiser(config, steps)

    def loss(params: Params, arch: Any, batch: Split) -> tuple[jax.Array, jax.Array]:
        logits = family.apply(params, arch, batch.inputs)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        penalty = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
        return jnp.mean(losses) + config.l2 * penalty, jnp.mean(losses)

    def step(state: Any, chosen: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        (params, moments), (places, mirror) = state, chosen
        inputs = data.inputs[places]
        inputs = jnp.where(mirror[:, None, None, None], inputs[:, :, ::-1], inputs)
        batch = Split(inputs, data.labels[places])
        gradients, losses = _each(
            lambda cell: jax.grad(loss, has_aux=True)(*cell, batch), (params, archs)
        )
        updates, moments = optimiser.update(gradients, moments, params)
        return (optax.apply_updates(params, updates), moments), losses

    state, losses = jax.lax.scan(step, state, (order, mirrored))
    return state, losses.mean(0)


def _measured(
    params: Params, archs: Archs, split: Split, family: MotifFamily, config: ImageClassifierConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Return cross-entropies `[M]` and accuracies `[M]`, NaN where a loss is not finite."""
    count = len(split.labels)
    starts = range(0, count, config.eval_batch_size)
    parts = [Split(*(a[i : i + config.eval_batch_size] for a in split)) for i in starts]
    sums = np.zeros((2, batches.count(archs)))
    for part in parts:
        sums += np.asarray(_measure(params, archs, part, family), np.float64)
    losses, accuracies = sums / max(count, 1)
    known = np.isfinite(losses) & (count > 0)
    return np.where(known, losses, np.nan), np.where(known, accuracies, np.nan)


@functools.partial(jax.jit, static_argnames="family")
def _measure(params: Params, archs: Archs, part: Split, family: MotifFamily) -> jax.Array:
    """Return the sum of cross-entropies and the number of right answers of a batch `[2, M]`."""

    def one(cell: Any) -> jax.Array:
        params, arch = cell
        logits = family.apply(params, arch, part.inputs)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, part.labels)
        right = jnp.argmax(logits, axis=-1) == part.labels
        return jnp.stack([jnp.sum(losses), jnp.sum(right.astype(losses.dtype))])

    return _each(one, (params, archs)).T

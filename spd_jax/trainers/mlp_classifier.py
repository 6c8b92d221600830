"""Ground truth of the sigmoid-slope space: full-size classifiers, many slopes trained at once.

Rawal et al. (arXiv 2005.13092), section 4.1 and table 1: two hidden layers of
100 units sigma(c * z), softmax output, Adam. The papers do not say how the
weights start, nor how pixels are scaled; weights N(0, 1), the law of the
motif-networks, and standardised pixels give the shape of their figure 1
(BUILD_NOTES.md, "Deviations").
"""

import csv
import dataclasses
import functools
import hashlib
import io
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spd_jax import files
from spd_jax.data.images import ImageData
from spd_jax.errors import UserError

Params = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class MlpClassifierConfig:
    """Settings of the full-size training; the defaults are table 1's.

    Attributes:
      hidden_size: width of both hidden layers.
      learning_rate: Adam's step size.
      l2: factor of the sum of squared parameters that is added to the loss.
      batch_size: images per step.
      epochs: passes over the training images.
      init_scale: standard deviation of initial weights (biases start at 0).
      standardise: shift and scale all inputs by the mean and standard deviation of the
        training pixels.
      average_epochs: the table's accuracy is the mean over so many last epochs. With
        a constant rate of 0.01 single epochs scatter by about 0.003, a fifth of the
        fall from the peak to c = 2.01; 1 is the papers' way, with 20 runs for each slope.
      chunk: slopes in one compiled program; 10 keeps weights and moments in cache.
    """

    hidden_size: int = 100
    learning_rate: float = 0.01
    l2: float = 1e-5
    batch_size: int = 50
    epochs: int = 50
    init_scale: float = 1.0
    standardise: bool = True
    average_epochs: int = 10
    chunk: int = 10


class Result(NamedTuple):
    """One row of a ground-truth table: one slope, one seed, after `epochs` epochs.

    `accuracy` is the validation accuracy in [0, 1] (higher is better), `loss` the
    validation cross-entropy in nats, both means over the last `average_epochs`
    epochs; `final_accuracy` is the last epoch's. NaN where the training diverged.
    """

    slope: float
    seed: int
    epochs: int
    accuracy: float
    loss: float
    final_accuracy: float


def init(key: jax.Array, inputs: int, outputs: int, config: MlpClassifierConfig) -> Params:
    """Draw one network's weights; `key` is consumed."""
    sizes = (inputs, config.hidden_size, config.hidden_size, outputs)
    keys = jax.random.split(key, 3)
    params = {}
    for layer, (layer_key, fan_in, fan_out) in enumerate(
        zip(keys, sizes[:-1], sizes[1:], strict=True)
    ):
        params[f"w{layer}"] = config.init_scale * jax.random.normal(layer_key, (fan_in, fan_out))
        params[f"b{layer}"] = jnp.zeros(fan_out)
    return params


def apply(params: Params, slope: jax.Array, inputs: jax.Array) -> jax.Array:
    """Return logits `[N, C]` of one network for inputs `[N, D]`."""
    hidden = jax.nn.sigmoid(slope * (inputs @ params["w0"] + params["b0"]))
    hidden = jax.nn.sigmoid(slope * (hidden @ params["w1"] + params["b1"]))
    return hidden @ params["w2"] + params["b2"]


def _cross_entropy(
    params: Params, slope: jax.Array, inputs: jax.Array, labels: jax.Array
) -> jax.Array:
    logits = apply(params, slope, inputs)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def _adam(config: MlpClassifierConfig) -> optax.GradientTransformation:
    return optax.adam(config.learning_rate, eps=1e-8, eps_root=1e-16)


@functools.partial(jax.jit, static_argnames="config", donate_argnums=0)
def _train_epoch(
    state: Any, slopes: jax.Array, inputs: jax.Array, labels: jax.Array, config: MlpClassifierConfig
) -> Any:
    """Train every slope `[M]` on the same batches `[S, B, D]`, `[S, B]`."""

    def total_loss(params: Params, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        losses = jax.vmap(_cross_entropy, in_axes=(0, 0, None, None))(params, slopes, *batch)
        return jnp.sum(losses) + config.l2 * sum(jnp.sum(p**2) for p in jax.tree.leaves(params))

    def step(carry: Any, batch: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        params, moments = carry
        updates, moments = _adam(config).update(jax.grad(total_loss)(params, batch), moments)
        return (optax.apply_updates(params, updates), moments), None

    return jax.lax.scan(step, state, (inputs, labels))[0]


@jax.jit
def _measure(
    params: Params, slopes: jax.Array, inputs: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return accuracies `[M]` and cross-entropies `[M]`, NaN where a network diverged."""

    def one(params: Params, slope: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = apply(params, slope, inputs)
        loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
        accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == labels)
        finite = jnp.isfinite(loss)
        return jnp.where(finite, accuracy, jnp.nan), jnp.where(finite, loss, jnp.nan)

    return jax.lax.map(lambda args: one(*args), (params, slopes))


def evaluate(
    slopes: Sequence[float],
    seeds: Sequence[int],
    data: ImageData,
    config: MlpClassifierConfig,
    checkpoint_dir: str | pathlib.Path,
    on_epoch: Callable[[list[Result], int, int], None] = lambda results, done, total: None,
) -> list[Result]:
    """Train one network per slope and seed; resume from `checkpoint_dir`.

    Seed by seed, all slopes of a seed together: they share initial weights and
    batch order, so that only the slope differs between them. The state is saved
    after every epoch, so that a killed run loses one epoch at the most.

    Args:
      slopes: slopes c, unitless.
      seeds: one training run per slope for each.
      data: images and labels.
      config: settings.
      checkpoint_dir: one `.npz` per seed is kept there.
      on_epoch: called after each epoch with all results so far (latest epoch of
        each slope and seed) and the epochs done and to do over all seeds.

    Returns:
      `len(seeds) * len(slopes)` results, seed by seed.

    Raises:
      UserError: settings that cannot be run, or a checkpoint that is damaged or of
        other slopes, settings or data.
    """
    least = min(config.epochs, config.average_epochs, config.batch_size, config.chunk, len(slopes))
    if least < 1 or config.batch_size > len(data.train_inputs):
        raise UserError(
            "epochs, average_epochs, batch_size, chunk and the number of slopes must be at least "
            f"1, and batch_size at most the {len(data.train_inputs)} training images"
        )
    if config.standardise:
        data = _standardised(data)
    finished: list[Result] = []
    total = len(seeds) * config.epochs
    for seed_number, seed in enumerate(seeds):
        run = _SeedRun.start(slopes, seed, data, config, pathlib.Path(checkpoint_dir))
        while run.epoch < config.epochs:
            run.train_epoch()
            done = seed_number * config.epochs + run.epoch
            on_epoch(finished + run.results(), done, total)
        finished += run.results()
    return finished


def _standardised(data: ImageData) -> ImageData:
    mean, std = data.train_inputs.mean(), data.train_inputs.std()
    return data._replace(
        train_inputs=(data.train_inputs - mean) / std, valid_inputs=(data.valid_inputs - mean) / std
    )


@dataclasses.dataclass
class _SeedRun:
    """All slopes of one seed: their states in chunks, and where they are saved."""

    slopes: np.ndarray
    seed: int
    data: ImageData
    config: MlpClassifierConfig
    path: pathlib.Path
    fingerprint: str
    epoch: int
    chunks: list[Any]  # (params, moments) of `chunk` slopes each
    curve: np.ndarray  # [epoch, 2, M]: validation accuracy and loss after each epoch

    @classmethod
    def start(
        cls,
        slopes: Sequence[float],
        seed: int,
        data: ImageData,
        config: MlpClassifierConfig,
        checkpoint_dir: pathlib.Path,
    ) -> "_SeedRun":
        """Load the seed's checkpoint, or begin at epoch 0."""
        path = checkpoint_dir / f"mlp_classifier_seed{seed}.npz"
        key = jax.random.key(seed)
        params = init(key, data.train_inputs.shape[1], int(data.train_labels.max()) + 1, config)
        width = min(config.chunk, len(slopes))
        stacked = jax.tree.map(lambda p: jnp.repeat(p[None], width, axis=0), params)
        count = -(-len(slopes) // width)
        fresh = [
            jax.tree.map(jnp.copy, (stacked, _adam(config).init(stacked))) for _ in range(count)
        ]
        curve = np.zeros((0, 2, len(slopes)))
        run = cls(np.asarray(slopes, np.float32), seed, data, config, path, "", 0, fresh, curve)
        run.fingerprint = run._fingerprint()
        if path.exists():
            run._load()
        return run

    def train_epoch(self) -> None:
        """Train all slopes for one epoch and save."""
        size = self.config.batch_size
        steps = len(self.data.train_inputs) // size
        order = np.random.default_rng([self.seed, self.epoch]).permutation(
            len(self.data.train_inputs)
        )[: steps * size]
        inputs = jnp.asarray(self.data.train_inputs[order].reshape(steps, size, -1))
        labels = jnp.asarray(self.data.train_labels[order].reshape(steps, size))
        self.chunks = [
            _train_epoch(state, slopes, inputs, labels, self.config)
            for state, slopes in zip(self.chunks, self._slope_chunks(), strict=True)
        ]
        self.epoch += 1
        self.curve = np.concatenate([self.curve, self.measure()[None]])
        self._save()

    def measure(self) -> np.ndarray:
        """Return validation accuracies and losses `[2, M]` after the epochs trained so far."""
        inputs, labels = jnp.asarray(self.data.valid_inputs), jnp.asarray(self.data.valid_labels)
        measured = [
            np.stack(_measure(state[0], slopes, inputs, labels))
            for state, slopes in zip(self.chunks, self._slope_chunks(), strict=True)
        ]
        return np.concatenate(measured, axis=1)[:, : len(self.slopes)]

    def results(self) -> list[Result]:
        """Return the table's rows after the epochs trained so far."""
        accuracies, losses = self.curve[-self.config.average_epochs :].mean(axis=0)
        return [
            Result(float(f"{slope:.6g}"), self.seed, self.epoch, *map(float, figures))
            for slope, *figures in zip(
                self.slopes, accuracies, losses, self.curve[-1, 0], strict=True
            )
        ]

    def _slope_chunks(self) -> list[jax.Array]:
        """Return the slopes in chunks of one size; the last repeats its last slope as padding."""
        count = len(self.chunks)
        width = min(self.config.chunk, len(self.slopes))
        padded = np.pad(self.slopes, (0, count * width - len(self.slopes)), mode="edge")
        return [jnp.asarray(part) for part in padded.reshape(count, width)]

    def _fingerprint(self) -> str:
        """Return a hash of all that decides the weights after an epoch."""
        digest = hashlib.sha256(
            repr((self.seed, dataclasses.replace(self.config, epochs=0, average_epochs=0))).encode()
        )
        for array in (self.slopes, *self.data):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def _save(self) -> None:
        leaves = jax.tree.leaves(self.chunks)
        arrays = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
        with files.atomic_path(self.path) as temporary:
            np.savez(temporary, curve=self.curve, fingerprint=self.fingerprint, **arrays)  # type: ignore[arg-type]

    def _load(self) -> None:
        try:
            with open(self.path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
                saved = dict(file)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(
                f"{self.path} cannot be read ({error}): delete it to train this seed anew"
            ) from error
        if (
            str(saved["fingerprint"]) != self.fingerprint
            or len(saved["curve"]) > self.config.epochs
        ):
            raise UserError(
                f"{self.path} was begun with other slopes, settings or data, or more epochs: "
                "use the flags it was begun with, or another --workdir"
            )
        self.curve = saved["curve"]
        self.epoch = len(self.curve)
        leaves = [jnp.asarray(saved[f"leaf{i}"]) for i in range(len(saved) - 2)]
        self.chunks = jax.tree.unflatten(jax.tree.structure(self.chunks), leaves)


def write_table(path: str | pathlib.Path, results: Sequence[Result], header: Sequence[str]) -> None:
    """Write results as CSV below `#` lines that say how they were made."""
    text = io.StringIO()
    text.writelines(f"# {line}\n" for line in header)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Result._fields)
    for result in results:
        writer.writerow([*result[:3], *(f"{figure:.6f}" for figure in result[3:])])
    files.write_text(path, text.getvalue())

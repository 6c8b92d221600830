"""Ground truth of the slope spaces: full-size classifiers, many slopes trained at once.

Rawal et al. (arXiv 2005.13092), section 4.1 and table 1: two hidden layers of
100 units sigma(c * z), softmax output, Adam; other kinds of unit than the sigmoid are ours
(`spaces.activation_slope`). The papers do not say how the
weights start, nor how pixels are scaled; weights N(0, 1), the law of the
motif-networks, and standardised pixels give the shape of their figure 1
(BUILD_NOTES.md, "Deviations").
"""

import collections
import dataclasses
import functools
import hashlib
import json
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spd_jax import files
from spd_jax.data import images
from spd_jax.data.images import ImageData
from spd_jax.errors import UserError
from spd_jax.ground_truth.task import Progress, no_progress
from spd_jax.ledger import Evaluation
from spd_jax.spaces.activation_slope import UNITS

Params = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class MlpClassifierConfig:
    """Settings of the full-size training; the defaults are table 1's.

    Attributes:
      hidden_size: width of both hidden layers.
      learning_rate: Adam's step size.
      l2: factor of the sum of squared parameters that is added to the loss.
      batch_size: images per step.
      epochs: passes over the training images of a full evaluation.
      init_scale: standard deviation of initial weights (biases start at 0).
      standardise: shift and scale all inputs by the mean and standard deviation of the
        training pixels.
      average_epochs: the score is the mean accuracy over so many last epochs. With
        a constant rate of 0.01 single epochs scatter by about 0.003, a fifth of the
        fall from the peak to c = 2.01; 1 is the papers' way, with 20 runs for each slope.
      chunk: slopes in one compiled program; 10 keeps weights and moments in cache. Fewer
        slopes are padded to so many, so that a slope alone gives the bits that it gives among
        others.
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


@dataclasses.dataclass(frozen=True)
class MlpClassifierTask:
    """Train classifiers with units of given slopes; a `ground_truth.task.BatchTask`.

    A cell is a slope, such as `0.37`, of a sigmoid, or a kind of unit and a slope, `tanh 0.37`.

    The score is the mean validation accuracy, in [0, 1], of the last `average_epochs` epochs.
    `info` holds "loss", the validation cross-entropy in nats averaged in the same way, and
    "final_accuracy", the last epoch's accuracy.

    Attributes:
      config: settings.
      dataset: one of `images.NAMES`.
      data_dir: folder of its files; None downloads them.
      checkpoint_dir: where each seed saves itself after every epoch, so that a killed run
        loses one epoch at the most; None saves nothing.
    """

    config: MlpClassifierConfig
    dataset: str
    data_dir: str | None = None
    checkpoint_dir: str | None = None

    unit = "accuracy"
    answers_smaller_budgets = False  # the score is a mean over the last epochs

    @property
    def budget(self) -> int:
        """Epochs of a full evaluation."""
        return self.config.epochs

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the settings, but for epochs and chunk, and of the data."""
        settings = dataclasses.asdict(self.config)
        del settings["epochs"], settings["chunk"]
        data = images.identity(self.dataset, self.data_dir)
        text = f"{json.dumps(settings, sort_keys=True)} {data}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def evaluate(self, cell: str, seed: int, budget: int) -> Evaluation:
        """Train one slope as `evaluate_many` does; it takes as long as `config.chunk` slopes."""
        ((_, evaluation),) = self.evaluate_many([cell], [seed], budget)
        return evaluation

    def evaluate_many(
        self,
        cells: Sequence[str],
        seeds: Sequence[int],
        budget: int,
        on_progress: Progress = no_progress,
    ) -> Iterator[tuple[int, Evaluation]]:
        """Train many slopes, all slopes of a seed and kind together; yield at the end of each.

        The slopes of a seed share initial weights and the order of images, so that only the
        unit differs between them.

        Args:
          cells: texts of the slopes c, unitless, a kind in front of them or not.
          seeds: of the initial weights and of the order of images, one for each slope.
          budget: epochs.
          on_progress: told the epochs done and to do over all seeds, and the best accuracy.

        Yields:
          Place in `cells`, and its evaluation; failed where the loss was not finite.

        Raises:
          UserError: settings that cannot be run, missing data, a cell that is no unit, or a
            checkpoint that cannot be read.
        """
        data = _prepared(self.dataset, self.data_dir, self.config.standardise)
        units = [_unit(cell) for cell in cells]
        groups: dict[tuple[int, str], list[int]] = collections.defaultdict(list)
        for place, seed in enumerate(seeds):
            groups[seed, units[place][0]].append(place)
        best = 0.0
        for number, ((seed, kind), places) in enumerate(groups.items()):
            began = time.perf_counter()
            path = self._checkpoint([cells[place] for place in places], seed, budget)
            slopes = np.array([units[place][1] for place in places], np.float32)
            for curve in train(slopes, seed, data, self.config, budget, path, kind=kind):
                best = max(best, *np.nan_to_num(curve[-1, 0]).tolist())
                done = number * budget + len(curve)
                on_progress(done, len(groups) * budget, f"best accuracy {best:.4f}")
            seconds = (time.perf_counter() - began) / len(places)
            figures = curve[-self.config.average_epochs :].mean(axis=0)
            for column, place in enumerate(places):
                accuracy, loss = figures[:, column].tolist()
                yield place, _evaluation(accuracy, loss, float(curve[-1, 0, column]), seconds)
            if path is not None:  # whoever asked has written all of this group
                path.unlink(missing_ok=True)

    def _checkpoint(self, cells: Sequence[str], seed: int, budget: int) -> pathlib.Path | None:
        if self.checkpoint_dir is None:
            return None
        text = repr((self.fingerprint, self.config.chunk, list(cells), seed, budget))
        name = f"mlp_classifier_{hashlib.sha256(text.encode()).hexdigest()[:16]}.npz"
        return pathlib.Path(self.checkpoint_dir) / name


def _unit(cell: str) -> tuple[str, float]:
    """Return the kind and the slope of a cell; one without a kind is a sigmoid."""
    kind, _, slope = cell.rpartition(" ")
    try:
        if kind and kind not in UNITS:
            raise ValueError
        return kind or "sigmoid", float(slope)
    except ValueError:
        raise UserError(
            f"{cell!r} is no slope: give a number, in front of it one of {', '.join(UNITS)} or "
            "nothing"
        ) from None


def _evaluation(accuracy: float, loss: float, final_accuracy: float, seconds: float) -> Evaluation:
    if not np.isfinite(loss):
        return Evaluation("failed", seconds=seconds, error="the loss is not finite")
    # Six digits hold every share of up to a million images; beyond them lies float32 noise, which
    # would tell slopes apart that classified equally many images right.
    figures = [round(figure, 6) for figure in (accuracy, loss, final_accuracy)]
    info = {"loss": figures[1], "final_accuracy": figures[2]}
    return Evaluation("ok", figures[0], seconds=seconds, info=info)


@functools.lru_cache(maxsize=1)
def _prepared(dataset: str, data_dir: str | None, standardise: bool) -> ImageData:
    data = images.load(dataset, data_dir)
    if not standardise:
        return data
    mean, std = data.train_inputs.mean(), data.train_inputs.std()
    return data._replace(
        train_inputs=(data.train_inputs - mean) / std, valid_inputs=(data.valid_inputs - mean) / std
    )


def init(key: jax.Array, inputs: int, outputs: int, config: MlpClassifierConfig) -> Params:
    """Draw one network's weights; `key` is consumed."""
    sizes = (inputs, config.hidden_size, config.hidden_size, outputs)
    params = {}
    for layer, layer_key in enumerate(jax.random.split(key, 3)):
        shape = sizes[layer : layer + 2]
        params[f"w{layer}"] = config.init_scale * jax.random.normal(layer_key, shape)
        params[f"b{layer}"] = jnp.zeros(shape[1])
    return params


def apply(params: Params, slope: jax.Array, inputs: jax.Array, kind: str = "sigmoid") -> jax.Array:
    """Return logits `[N, C]` of one network for inputs `[N, D]`; `kind` is one of `UNITS`."""
    unit = UNITS[kind]
    hidden = unit(slope * (inputs @ params["w0"] + params["b0"]))
    hidden = unit(slope * (hidden @ params["w1"] + params["b1"]))
    return hidden @ params["w2"] + params["b2"]


def _cross_entropy(
    params: Params, slope: jax.Array, inputs: jax.Array, labels: jax.Array, kind: str
) -> jax.Array:
    logits = apply(params, slope, inputs, kind)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def _adam(config: MlpClassifierConfig) -> optax.GradientTransformation:
    return optax.adam(config.learning_rate, eps=1e-8, eps_root=1e-16)


@functools.partial(jax.jit, static_argnames=("config", "kind"), donate_argnums=0)
def _train_epoch(
    state: Any,
    slopes: jax.Array,
    inputs: jax.Array,
    labels: jax.Array,
    config: MlpClassifierConfig,
    kind: str,
) -> Any:
    """Train every slope `[M]` on the same batches `[S, B, D]`, `[S, B]`."""
    loss = functools.partial(_cross_entropy, kind=kind)

    def total_loss(params: Params, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        losses = jax.vmap(loss, in_axes=(0, 0, None, None))(params, slopes, *batch)
        return jnp.sum(losses) + config.l2 * sum(jnp.sum(p**2) for p in jax.tree.leaves(params))

    def step(carry: Any, batch: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        params, moments = carry
        updates, moments = _adam(config).update(jax.grad(total_loss)(params, batch), moments)
        return (optax.apply_updates(params, updates), moments), None

    return jax.lax.scan(step, state, (inputs, labels))[0]


@functools.partial(jax.jit, static_argnames="kind")
def _measure(
    params: Params, slopes: jax.Array, inputs: jax.Array, labels: jax.Array, kind: str
) -> tuple[jax.Array, jax.Array]:
    """Return accuracies `[M]` and cross-entropies `[M]`, NaN where a network diverged."""

    def one(params: Params, slope: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = apply(params, slope, inputs, kind)
        loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
        accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == labels)
        finite = jnp.isfinite(loss)
        return jnp.where(finite, accuracy, jnp.nan), jnp.where(finite, loss, jnp.nan)

    return jax.lax.map(lambda args: one(*args), (params, slopes))


def train(
    slopes: np.ndarray,
    seed: int,
    data: ImageData,
    config: MlpClassifierConfig,
    epochs: int,
    checkpoint: pathlib.Path | None = None,
    *,
    kind: str = "sigmoid",
) -> Iterator[np.ndarray]:
    """Train one network per slope from the same initial weights on the same batches.

    Args:
      slopes: `[M]` float32, slopes c, unitless.
      seed: of the weights and of the order of images.
      data: images, as the networks shall see them, and labels.
      config: settings; `epochs` and `standardise` are not looked at.
      epochs: passes over the training images.
      checkpoint: file that is written after every epoch; where it exists, the training goes
        on from it.
      kind: of all units, one of `UNITS`.

    Yields:
      After each epoch `[epochs done, 2, M]` float64: validation accuracies in [0, 1] and
      cross-entropies in nats after each of them, NaN where a network diverged. A checkpoint
      of a finished training yields once.

    Raises:
      UserError: settings that cannot be run, or a checkpoint that cannot be read.
    """
    check(config, epochs, data)
    key = jax.random.key(seed)
    params = init(key, data.train_inputs.shape[1], int(data.train_labels.max()) + 1, config)
    stacked = jax.tree.map(lambda p: jnp.repeat(p[None], config.chunk, axis=0), params)
    fresh = stacked, _adam(config).init(stacked)
    parts = _chunks(slopes, config.chunk)
    state = [jax.tree.map(jnp.copy, fresh) for _ in parts]
    curve, done = np.zeros((epochs, 2, len(slopes))), 0
    if checkpoint is not None and checkpoint.exists():
        state, saved_curve, saved_done = files.load_pytree(checkpoint, (state, curve, np.zeros(())))
        curve, done = np.array(saved_curve, float), int(saved_done)
        if done == epochs:
            yield curve
    valid = jnp.asarray(data.valid_inputs), jnp.asarray(data.valid_labels)
    for epoch in range(done, epochs):
        batches = _batches(data, seed, epoch, config.batch_size)
        state = [
            _train_epoch(each, part, *batches, config, kind)
            for each, part in zip(state, parts, strict=True)
        ]
        measured = [
            np.stack(_measure(each[0], part, *valid, kind))
            for each, part in zip(state, parts, strict=True)
        ]
        curve[epoch] = np.concatenate(measured, axis=1)[:, : len(slopes)]
        if checkpoint is not None:
            files.save_pytree(checkpoint, (state, curve, np.array(epoch + 1.0)))
        yield curve[: epoch + 1]


def check(config: MlpClassifierConfig, epochs: int, data: ImageData) -> None:
    """Refuse settings that cannot be run, in one sentence."""
    least = min(epochs, config.average_epochs, config.batch_size, config.chunk)
    if least < 1 or config.batch_size > len(data.train_inputs):
        raise UserError(
            "epochs, average_epochs, batch_size and chunk must be at least 1, and batch_size at "
            f"most the {len(data.train_inputs)} training images"
        )


def _batches(data: ImageData, seed: int, epoch: int, size: int) -> tuple[jax.Array, jax.Array]:
    """Return an epoch's images `[S, B, D]` and labels `[S, B]` in an order of its own."""
    count = len(data.train_inputs)
    steps = count // size
    order = np.random.default_rng([seed, epoch]).permutation(count)[: steps * size]
    inputs = data.train_inputs[order].reshape(steps, size, -1)
    return jnp.asarray(inputs), jnp.asarray(data.train_labels[order].reshape(steps, size))


def _chunks(slopes: np.ndarray, width: int) -> list[jax.Array]:
    """Return slopes `[M]` in parts of one width; the last slope is repeated as padding."""
    padded = np.pad(slopes, (0, -len(slopes) % width), mode="edge")
    return [jnp.asarray(part) for part in padded.reshape(-1, width)]

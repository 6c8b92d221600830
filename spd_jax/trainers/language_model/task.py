"""A language model's training as a task that can be bought: cell, seed and epochs in, score out."""

import dataclasses
import functools
import hashlib
import json
import math
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from spd_jax import files
from spd_jax.data import texts as corpora
from spd_jax.data.texts import Corpus
from spd_jax.errors import UserError, check_name
from spd_jax.ledger import Evaluation
from spd_jax.spaces.rnn_cell import RnnCell, RnnCellSpace
from spd_jax.trainers.language_model import network as model
from spd_jax.trainers.language_model.batches import Batches, epoch_batches, eval_batches
from spd_jax.trainers.language_model.network import LanguageModelConfig, TrainState

SAVE_EVERY = 60.0  # seconds of training that a kill may cost
MOST_EPOCHS = 10_000  # of a curve in a checkpoint


@dataclasses.dataclass(frozen=True)
class LanguageModelTask:
    """Train the language model around a cell; a `ground_truth.task.Task`.

    Scores are minus the cross-entropy in nats per token, on the validation text after every
    epoch and on the test text after the last.

    Attributes:
      variant: which space of cells is meant, one of `spaces.rnn_cell.VARIANTS`.
      config: settings.
      data_dir: folder of the text; `None` downloads the Penn Treebank.
      checkpoint_dir: where a training longer than a minute saves itself after epochs;
        `None` saves nothing.
    """

    variant: str
    config: LanguageModelConfig
    data_dir: str | None = None
    checkpoint_dir: str | None = None

    unit = "negative nats per token"
    answers_smaller_budgets = True  # its schedule counts the epochs of `config`, not a budget's

    @property
    def budget(self) -> int:
        """Epochs of a full evaluation."""
        return self.config.epochs

    @property
    def corpus(self) -> Corpus:
        """The text."""
        return corpora.load(self.data_dir, self.config.level, self.config.vocabulary_size)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the settings and the text."""
        settings = json.dumps(dataclasses.asdict(self.config), sort_keys=True)
        return hashlib.sha256(f"{settings} {self.corpus.fingerprint}".encode()).hexdigest()[:16]

    def describe(self) -> str:
        """Return how much of the text is used, in a few words for people."""
        words = []
        for part, used in zip(corpora.PARTS, self._used(), strict=True):
            tokens = len(getattr(self.corpus, part))
            first = f"the first {used:,} of" if 0 < used < tokens else "all"
            words.append(f"{first} {tokens:,} {part} tokens")
        return f"{self.config.level}s as tokens: {', '.join(words)}"

    def _used(self) -> tuple[int, int, int]:
        """Return how many first tokens of each part are used; 0 is all."""
        return self.config.train_tokens, self.config.eval_tokens, self.config.eval_tokens

    def check_text(self) -> None:
        """See that every part of the text fills its batches, before anything is written.

        Raises:
          UserError: it does not, or the text is missing.
        """
        rows_train, rows_eval = self.config.batch_size, self.config.eval_batch_size
        for part, rows, used in zip(
            corpora.PARTS, (rows_train, rows_eval, rows_eval), self._used(), strict=True
        ):
            tokens = len(_first(getattr(self.corpus, part), used))
            if tokens <= rows:
                raise UserError(
                    f"the {part} text has {tokens} tokens, but fills {rows} rows of a batch from "
                    f"{rows + 1} on: give a longer one"
                )

    def evaluate(self, cell: str, seed: int, budget: int) -> Evaluation:
        """Train for `budget` epochs, the first of the schedule of `config.epochs`.

        Args:
          cell: name of the arch, its encoding.
          seed: of the weights, of dropout and of drawn sequence lengths.
          budget: epochs, at most those of `config`.

        Returns:
          The evaluation, whose curve has one score for each epoch; failed, with the curve so
          far, once a loss is not finite.

        Raises:
          UserError: settings that cannot be run, a text that is missing or too short.
        """
        check(self.config)
        if not 1 <= budget <= self.config.epochs:
            raise UserError(f"budget {budget} must lie between 1 and {self.config.epochs} epochs")
        arch = RnnCellSpace(self.variant).decode(cell)
        began = time.perf_counter()
        training = _Training.start(self, arch, cell, seed, budget)
        curve, test_score = training.curve, math.nan
        while training.epoch < budget:
            training.advance()
            if not math.isfinite(curve[-1]):
                break
            training.save_now_and_then(time.perf_counter() - began)
        else:
            test_score = training.score(_batches(self)[2])
        training.forget()
        seconds = time.perf_counter() - began + training.earlier_seconds
        if not math.isfinite(curve[-1]):
            error = f"the loss is not finite after epoch {training.epoch}"
            return Evaluation("failed", curve=tuple(curve[:-1]), seconds=seconds, error=error)
        return Evaluation("ok", curve[-1], test_score, tuple(curve), seconds)


def check(config: LanguageModelConfig) -> None:
    """Refuse settings that cannot be run, in one sentence."""
    check_name("optimiser", config.optimiser, model.OPTIMISERS)
    for name in (
        "hidden_size", "batch_size", "eval_batch_size", "sequence_length", "epochs", "patience"
    ):  # fmt: skip
        if getattr(config, name) < 1:
            raise UserError(f"{name}={getattr(config, name)} must be at least 1")
    for name in ("train_tokens", "eval_tokens"):
        if getattr(config, name) < 0:
            raise UserError(f"{name}={getattr(config, name)} must be positive, or 0 to use all")
    if config.epochs > MOST_EPOCHS:
        raise UserError(f"epochs={config.epochs} must be at most {MOST_EPOCHS}")
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name.startswith("dropout_") and not 0 <= value < 1:
            raise UserError(f"{field.name}={value} must lie in [0, 1)")


@functools.lru_cache(maxsize=2)
def _batches(task: LanguageModelTask) -> tuple[Batches | None, Batches, Batches]:
    """Return train (`None` where every epoch draws its own), valid and test batches."""
    config, corpus = task.config, task.corpus
    rows, length = config.eval_batch_size, config.sequence_length
    parts = [
        eval_batches(_first(x, config.eval_tokens), rows, length)
        for x in (corpus.valid, corpus.test)
    ]
    train = None
    if not config.variable_length:
        tokens = _first(corpus.train, config.train_tokens)
        train = epoch_batches(tokens, config.batch_size, length, None)
    return jax.tree.map(jnp.asarray, (train, *parts))


def _first(tokens: np.ndarray, count: int) -> np.ndarray:
    return tokens[:count] if count else tokens


@dataclasses.dataclass
class _Training:
    """One cell's training: where it is, and where it is saved."""

    task: LanguageModelTask
    arch: RnnCell
    seed: int
    state: TrainState
    curve: list[float]
    path: pathlib.Path | None
    earlier_seconds: float = 0.0
    saved_at: float = 0.0

    @classmethod
    def start(
        cls, task: LanguageModelTask, arch: RnnCell, cell: str, seed: int, budget: int
    ) -> "_Training":
        """Begin at epoch 0, or where an earlier run saved itself."""
        state = model.start(jax.random.key(seed), len(task.corpus.vocabulary), task.config)
        training = cls(task, arch, seed, state, [], None)
        if task.checkpoint_dir is not None:
            name = hashlib.sha256(f"{task.variant} {cell} {seed} {budget}".encode()).hexdigest()
            training.path = pathlib.Path(task.checkpoint_dir) / f"{name[:16]}.npz"
            if training.path.exists():
                like = (state, np.zeros(MOST_EPOCHS), np.zeros(3))
                saved = files.load_pytree(training.path, like, task.fingerprint)
                training.state = saved[0]
                epochs = int(saved[2][0])
                training.curve = np.asarray(saved[1], float)[:epochs].tolist()
                training.earlier_seconds = float(saved[2][1])
        return training

    @property
    def epoch(self) -> int:
        return len(self.curve)

    def advance(self) -> None:
        """Train one epoch and measure it."""
        config = self.task.config
        train, valid, _ = _batches(self.task)
        if train is None:
            tokens = _first(self.task.corpus.train, config.train_tokens)
            train = epoch_batches(
                tokens, config.batch_size, config.sequence_length, [self.seed, self.epoch]
            )
        total = jnp.asarray(config.epochs * train.inputs.shape[0], jnp.float32)
        self.state, _ = model.train_epoch(
            self.state, self.arch, train, total, self.task.variant, config
        )
        self.curve.append(self.score(valid))
        if config.optimiser == "sgd" and model.gained_nothing(self.curve, config.patience):
            self.state = model.begin_averaging(self.state)

    def score(self, batches: Batches) -> float:
        """Return minus the cross-entropy in nats per token."""
        params = model.averaged_params(self.state)
        return -float(model.evaluate(params, self.arch, batches, self.task.variant))

    def save_now_and_then(self, seconds: float) -> None:
        """Save when another minute has been spent."""
        if self.path is None or seconds - self.saved_at < SAVE_EVERY:
            return
        curve = np.zeros(MOST_EPOCHS)
        curve[: self.epoch] = self.curve
        progress = np.array([self.epoch, seconds + self.earlier_seconds, 0.0])
        files.save_pytree(self.path, (self.state, curve, progress), self.task.fingerprint)
        self.saved_at = seconds

    def forget(self) -> None:
        """Delete what was saved: the ledger holds the result."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

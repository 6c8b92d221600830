"""Recurrent language models as a phase trains them: sequences in order, loss, evaluation."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spd_jax.axes import Array
from spd_jax.data import texts
from spd_jax.forward_search.arch import Arch
from spd_jax.forward_search.recurrent_net import RecurrentNet
from spd_jax.forward_search.scope import Scope, Weights
from spd_jax.forward_search.weak import Growth
from spd_jax.trainers.language_model import batches as text_batches

STATE = "state"  # path of the state that runs on from one sequence to the next
UNITS = {"word": "perplexity", "character": "bits per character"}


class Batch(NamedTuple):
    """One sequence: tokens and the tokens that follow `[L, N]`, and whether it is the first."""

    inputs: Any
    targets: Any
    first: Any


@dataclasses.dataclass(frozen=True)
class TextModel:
    """A `training.Model` of texts.

    Attributes:
      net: widths.
      rows: N, that the text is cut into.
      length: L, steps of a sequence.
    """

    net: RecurrentNet
    rows: int = 64
    length: int = 35

    def example(self) -> Batch:
        """Return the shapes of a batch."""
        tokens = jax.ShapeDtypeStruct((self.length, self.rows), jnp.int32)
        return Batch(tokens, tokens, jax.ShapeDtypeStruct((), jnp.bool))

    def batch(self, data: Batch, index: Array, key: Array) -> Batch:
        """Return sequence `index` `[]`; nothing is random."""
        return Batch(data.inputs[index], data.targets[index], index == 0)

    def loss(self, scope: Scope, arch: Arch, batch: Batch, growth: Growth | None) -> Array:
        """Return the mean cross-entropy in nats per token."""
        carried = scope.average(STATE, (self.rows, self.net.hidden), "zeros")
        state = jnp.where(batch.first, jnp.zeros_like(carried), carried)
        logits, last = self.net.logits(scope, arch, batch.inputs, state, growth)
        scope.moved[STATE] = jax.lax.stop_gradient(last)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
        return jnp.mean(losses)

    def order(self, count: int, seed: int, epoch: int) -> np.ndarray:
        """Return the numbers of an epoch's sequences `[K]`, in order."""
        return np.arange(count, dtype=np.int32)


@dataclasses.dataclass(frozen=True)
class TextProblem:
    """What a search of recurrent cells trains on; a `jobs.Problem`.

    Attributes:
      model: of the networks.
      data_dir: folder of the text; None downloads the Penn Treebank.
      level: "word" or "character".
      train_tokens, eval_tokens: first tokens that are used; 0 uses all.
      eval_rows: rows that validation and test text are cut into.
    """

    model: TextModel
    data_dir: str | None = None
    level: str = "word"
    train_tokens: int = 0
    eval_tokens: int = 0
    eval_rows: int = 10

    @property
    def unit(self) -> str:
        """Return the unit in which scores are shown."""
        return UNITS[self.level]

    @property
    def count(self) -> int:
        """Return the number of training sequences."""
        return len(self.training_data().inputs)

    def training_data(self) -> Batch:
        """Return the training sequences on the device."""
        return _training(self)

    def measure(
        self, arch: Arch, weights: Weights, averages: Weights, part: str
    ) -> tuple[float, float]:
        """Return perplexity or bits per character, and the cross-entropy in nats per token."""
        nats = float(_evaluate(weights, _parts(self)[part], net=self.model.net, arch=arch))
        if self.level == "word":
            return math.exp(min(nats, 700.0)), nats
        return nats / math.log(2), nats

    def score(self, error: float, cross_entropy: float) -> float:
        """Return the score, higher is better: minus nats per token."""
        return -cross_entropy

    def floor(self) -> float:
        """Return the smallest error: perplexities and bits have none but 0."""
        return 0.0

    def identity(self) -> str:
        """Return a text that the data decide."""
        return texts.load(self.data_dir, self.level).fingerprint


def _first(tokens: np.ndarray, count: int) -> np.ndarray:
    return tokens[:count] if count else tokens


@functools.lru_cache(maxsize=2)
def _training(problem: TextProblem) -> Batch:
    tokens = _first(texts.load(problem.data_dir, problem.level).train, problem.train_tokens)
    model = problem.model
    cut = text_batches.epoch_batches(tokens, model.rows, model.length, None)
    return Batch(jnp.asarray(cut.inputs), jnp.asarray(cut.targets), jnp.asarray(False))


@functools.lru_cache(maxsize=2)
def _parts(problem: TextProblem) -> dict[str, text_batches.Batches]:
    corpus = texts.load(problem.data_dir, problem.level)
    rows, length = problem.eval_rows, problem.model.length
    return {
        part: text_batches.eval_batches(_first(tokens, problem.eval_tokens), rows, length)
        for part, tokens in {"valid": corpus.valid, "test": corpus.test}.items()
    }


@functools.partial(jax.jit, static_argnames=("net", "arch"))
def _evaluate(
    weights: Weights, batches: text_batches.Batches, *, net: RecurrentNet, arch: Arch
) -> Array:
    """Return the mean cross-entropy of a text in nats per token, without dropout."""

    def body(state: Array, batch: text_batches.Batches) -> tuple[Array, Array]:
        # Padding stands at the end of the text, so that the state behind it is of no use.
        logits, last = net.logits(Scope(weights, {}), arch, batch.inputs, state)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
        return last, jnp.sum(batch.counted[:, None] * losses)

    rows = batches.inputs.shape[2]
    _, sums = jax.lax.scan(body, jnp.zeros((rows, net.hidden)), batches)
    return jnp.sum(sums) / (jnp.sum(batches.counted) * rows)

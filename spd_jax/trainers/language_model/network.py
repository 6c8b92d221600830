"""Ground truth of the recurrent-cell space: a full language model for a cell.

Rawal et al., section 4.2 and appendix A.3.1, follow Luo et al. (2018), who follow Liu et
al. (2018b, DARTS) and Merity et al. (2018): the cell between an embedding and a tied
softmax, SGD with averaging, variational dropout. Cells are arguments of the compiled
program: one program trains them all.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from spd_jax.spaces import rnn_cell
from spd_jax.spaces.rnn_cell import RnnCell
from spd_jax.spaces.rnn_cell import network as rnn_cell_network
from spd_jax.spaces.rnn_cell.network import CellWeights
from spd_jax.trainers.language_model.batches import Batches

Params = dict[str, Any]
OPTIMISERS = ("sgd", "adam")


@dataclasses.dataclass(frozen=True)
class LanguageModelConfig:
    """Settings of a language model's training; the defaults are preset `paper`'s.

    Attributes:
      level: "word" or "character".
      vocabulary_size: tokens kept; 0 keeps all.
      train_tokens: first tokens of the training text that are used; 0 uses all.
      eval_tokens: the same for the validation and the test text.
      hidden_size: H, width of the embedding, of every node and of the state.
      batch_size: rows that the training text is cut into.
      eval_batch_size: rows that validation and test text are cut into.
      sequence_length: mean steps of backpropagation through time.
      variable_length: draw each length: N(base, 5) clipped to 5..55 with base
        `sequence_length`, or half of it in one case of twenty (Merity et al., section 5).
      epochs: passes over the training text.
      optimiser: "sgd" (with averaging after `patience` evaluations without gain), or
        "adam" with beta2 0.99, whose rate falls linearly to 0 in the second half.
      learning_rate: its step size; multiplied by length / `sequence_length`.
      clip: largest global norm of a gradient.
      weight_decay: multiplies the weights, added to the gradient (SGD).
      init_range: weights start uniform in +-range; 0: N(0, 1/H), embedding N(0, 1).
      tied: the softmax uses the embedding.
      dropout_output, dropout_cell_input, dropout_state, dropout_embedding: shares of
        units dropped, one mask for a whole sequence (Gal and Ghahramani, 2016).
      slowness: factor of the mean squared difference of successive states.
      patience: evaluations without gain before averaging starts.
    """

    level: str = "word"
    vocabulary_size: int = 0
    train_tokens: int = 0
    eval_tokens: int = 0
    hidden_size: int = 850
    batch_size: int = 64
    eval_batch_size: int = 10
    sequence_length: int = 35
    variable_length: bool = True
    epochs: int = 600
    optimiser: str = "sgd"
    learning_rate: float = 20.0
    clip: float = 0.25
    weight_decay: float = 8e-7
    init_range: float = 0.04
    tied: bool = True
    dropout_output: float = 0.75
    dropout_cell_input: float = 0.75
    dropout_state: float = 0.25
    dropout_embedding: float = 0.2
    slowness: float = 1e-3
    patience: int = 5


_TINY = LanguageModelConfig(
    level="character",
    train_tokens=50_000,
    eval_tokens=25_000,
    hidden_size=32,
    batch_size=32,
    eval_batch_size=64,
    sequence_length=32,
    variable_length=False,
    epochs=4,
    optimiser="adam",
    learning_rate=6e-3,
    clip=1.0,
    weight_decay=0.0,
    init_range=0.0,
    tied=False,
    dropout_output=0.0,
    dropout_cell_input=0.0,
    dropout_state=0.0,
    dropout_embedding=0.0,
    slowness=0.0,
)
PRESETS = {
    "paper": LanguageModelConfig(),
    "small": dataclasses.replace(
        _TINY, train_tokens=320_000, eval_tokens=100_000, hidden_size=64, epochs=3
    ),
    "tiny": _TINY,
}


class TrainState(NamedTuple):
    """What one update changes.

    Attributes:
      params: weights.
      optimiser: optax state.
      average: mean of the weights since averaging began; the weights before.
      averaged: updates in that mean, float32 `[]`; 0 before averaging.
      step: updates done, float32 `[]`.
      key: draws dropout masks.
    """

    params: Params
    optimiser: Any
    average: Params
    averaged: jax.Array
    step: jax.Array
    key: jax.Array


def init(key: jax.Array, vocabulary: int, config: LanguageModelConfig) -> Params:
    """Draw a model's weights.

    Args:
      key: consumed.
      vocabulary: V, the number of different tokens.
      config: settings.

    Returns:
      Arrays by name, float32: embedding `[V, H]`, the cell's inputs and state `[2H, H]` and
      nodes `[n, 2H, H]`, softmax `[V, H]` (absent where it is tied to the embedding) and its
      bias `[V, 1]`.
    """
    size = config.hidden_size
    shapes = {
        "embedding": (vocabulary, size),
        "inputs": (2 * size, size),
        "state": (2 * size, size),
        "nodes": (rnn_cell.NODES - 1, 2 * size, size),
        "softmax": (vocabulary, size),
    }
    params: Params = {"bias": jnp.zeros((vocabulary, 1))}
    for name_key, (name, shape) in zip(
        jax.random.split(key, len(shapes)), shapes.items(), strict=True
    ):
        if config.init_range:
            draw = jax.random.uniform(name_key, shape, minval=-1) * config.init_range
        else:
            draw = jax.random.normal(name_key, shape) / (1 if name == "embedding" else size**0.5)
        params[name] = draw
    if config.tied:
        del params["softmax"]
    return params


def start(key: jax.Array, vocabulary: int, config: LanguageModelConfig) -> TrainState:
    """Return a training before its first update; arguments as `init`."""
    init_key, mask_key = jax.random.split(key)
    params = init(init_key, vocabulary, config)
    optimiser = _optimiser(config).init(params)
    average = jax.tree.map(jnp.copy, params)
    return TrainState(params, optimiser, average, jnp.zeros(()), jnp.zeros(()), mask_key)


def averaged_params(state: TrainState) -> Params:
    """Return the weights that are measured: their average, once averaging has begun."""
    return state.average if float(state.averaged) else state.params


def gained_nothing(curve: Sequence[float], patience: int) -> bool:
    """Return whether it is time to average: the last score is below the best of older ones.

    Merity et al. (2018), algorithm 1 (NT-ASGD).

    Args:
      curve: scores after each epoch so far, higher is better.
      patience: the latest so many scores before the last one do not count as older.
    """
    return len(curve) > patience + 1 and curve[-1] < max(curve[: -patience - 1])


def begin_averaging(state: TrainState) -> TrainState:
    """Return the state with its average begun at the present weights, unless it was begun."""
    if float(state.averaged):
        return state
    return state._replace(average=jax.tree.map(jnp.copy, state.params), averaged=jnp.ones(()))


class _Masks(NamedTuple):
    """Variational dropout: one factor per unit and row, `[H, B]` or 1."""

    embedding: Any = 1.0
    cell_input: Any = 1.0
    state: Any = 1.0
    output: Any = 1.0


def _draw_masks(key: jax.Array, rows: int, config: LanguageModelConfig) -> _Masks:
    rates = (
        config.dropout_embedding,
        config.dropout_cell_input,
        config.dropout_state,
        config.dropout_output,
    )
    masks: list[Any] = []
    for mask_key, rate in zip(jax.random.split(key, len(rates)), rates, strict=True):
        keep = jax.random.bernoulli(mask_key, 1 - rate, (config.hidden_size, rows)) if rate else 1.0
        masks.append(keep / (1 - rate))
    return _Masks(*masks)


def _states(
    params: Params,
    cell: RnnCell,
    variant: str,
    start: jax.Array,
    inputs: jax.Array,
    counted: jax.Array,
    masks: _Masks,
) -> jax.Array:
    """Run the cell over tokens `[T, B]` from state `[H, B]`; return states `[T, H, B]`.

    Where `counted` `[T]` is 0 (padding) the state stays.
    """
    weights = CellWeights(params["inputs"], params["state"], params["nodes"])
    share = rnn_cell_network.output_weights(cell, variant)
    plain = isinstance(masks.embedding, float) and isinstance(masks.cell_input, float)
    table = weights.inputs @ params["embedding"].T if plain else params["embedding"].T

    def step(state: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        tokens, is_counted = now
        projected = table[:, tokens]
        if not plain:
            projected = weights.inputs @ (masks.cell_input * masks.embedding * projected)
        following = rnn_cell_network.next_state(
            weights, cell, share, state, projected, mask=masks.state
        )
        state = jnp.where(is_counted > 0, following, state)
        return state, state

    return jax.lax.scan(step, start, (inputs, counted))[1]


def _losses(params: Params, states: jax.Array, targets: jax.Array, mask: Any) -> jax.Array:
    """Return cross-entropies in nats `[T, B]` of states `[T, H, B]`."""
    softmax = params.get("softmax", params["embedding"])
    logits = jnp.einsum("vh,thb->vtb", softmax, mask * states) + params["bias"][:, :, None]
    chosen = jnp.take_along_axis(logits, targets[None], axis=0)[0]
    return jax.nn.logsumexp(logits, axis=0) - chosen


def _optimiser(config: LanguageModelConfig) -> optax.GradientTransformation:
    clip = optax.clip_by_global_norm(config.clip)
    if config.optimiser == "adam":
        return optax.chain(clip, optax.scale_by_adam(b2=0.99, eps=1e-8))
    return optax.chain(clip, optax.add_decayed_weights(config.weight_decay))


@functools.partial(jax.jit, static_argnames=("variant", "config"), donate_argnums=0)
def train_epoch(
    state: TrainState,
    cell: RnnCell,
    batches: Batches,
    total: jax.Array,
    variant: str,
    config: LanguageModelConfig,
) -> tuple[TrainState, jax.Array]:
    """Take one update per sequence.

    Args:
      state: donated, so that it cannot be used afterwards.
      cell: the arch; another one compiles nothing anew.
      batches: an epoch. The cell's state runs on from one sequence to the next.
      total: float32 `[]`, updates of the whole training, for the schedule of the rate.
      variant: of the cell.
      config: settings.

    Returns:
      The state after the epoch, and the mean cross-entropy in nats per token `[]`.
    """

    def loss(params: Params, hidden: jax.Array, batch: Batches, masks: _Masks) -> Any:
        counted = batch.counted
        states = _states(params, cell, variant, hidden, batch.inputs, counted, masks)
        losses = _losses(params, states, batch.targets, masks.output)
        length = jnp.maximum(jnp.sum(counted), 1)
        mean = jnp.sum(counted[:, None] * losses) / (length * losses.shape[1])
        change = (states[1:] - states[:-1]) ** 2
        slow = jnp.sum(counted[1:, None, None] * change) / (length * states[0].size)
        return mean + config.slowness * slow, (mean, states[-1], length)

    def update(carry: tuple[TrainState, jax.Array], batch: Batches) -> Any:
        state, hidden = carry
        masks = _draw_masks(
            jax.random.fold_in(state.key, state.step.astype(jnp.int32)), hidden.shape[1], config
        )
        gradient, (mean, hidden, length) = jax.grad(loss, has_aux=True)(
            state.params, hidden, batch, masks
        )
        direction, optimiser = _optimiser(config).update(gradient, state.optimiser, state.params)
        rate = config.learning_rate * length / config.sequence_length
        if config.optimiser == "adam":
            rate *= jnp.minimum(1, 2 * (1 - state.step / total))
        is_real = jnp.any(batch.counted > 0)  # a sequence of padding alone is no update
        rate *= is_real
        if config.variable_length:
            optimiser = jax.tree.map(
                functools.partial(jnp.where, is_real), optimiser, state.optimiser
            )
        params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
        averaged = state.averaged + (is_real & (state.averaged > 0))
        share = is_real / jnp.maximum(averaged, 1)
        average = jax.tree.map(lambda a, p: a + share * (p - a), state.average, params)
        following = TrainState(params, optimiser, average, averaged, state.step + 1, state.key)
        return (following, hidden), mean

    start = jnp.zeros((config.hidden_size, batches.inputs.shape[2]))
    (state, _), means = jax.lax.scan(update, (state, start), batches)
    counted = jnp.sum(batches.counted, axis=1)
    return state, jnp.sum(means * counted) / jnp.sum(counted)


@functools.partial(jax.jit, static_argnames=("variant",))
def evaluate(params: Params, cell: RnnCell, batches: Batches, variant: str) -> jax.Array:
    """Return the mean cross-entropy in nats per token, `[]`, without dropout.

    Args:
      params: weights, see `init`.
      cell: the arch; another one compiles nothing anew.
      batches: a text. The cell's state runs on from one sequence to the next.
      variant: of the cell.
    """

    def body(hidden: jax.Array, batch: Batches) -> tuple[jax.Array, jax.Array]:
        states = _states(params, cell, variant, hidden, batch.inputs, batch.counted, _Masks())
        losses = _losses(params, states, batch.targets, 1.0)
        return states[-1], jnp.sum(batch.counted[:, None] * losses)

    start = jnp.zeros((params["state"].shape[1], batches.inputs.shape[2]))
    _, sums = jax.lax.scan(body, start, batches)
    return jnp.sum(sums) / (jnp.sum(batches.counted) * batches.inputs.shape[2])

"""NAO's network: an encoder, a predictor and a decoder of token strings.

Luo et al. (2018), "Neural Architecture Optimization". The encoder, an LSTM, turns a cell
into one unit vector per token; their normalised mean is the cell's embedding. The
predictor maps the embedding to a score. The decoder, an LSTM with attention over the
vectors, spells the cell again. Moving the vectors uphill and decoding them gives new
cells; `search/nao.py` does that.

Where this differs from the released code: the decoder's illegal tokens are masked by -inf
(there by 0, which still beats a negative logit); cells that measure the pairwise accuracy are
not trained on (there they are); higher targets are better, so that "against the gradient of the
perplexity" reads "along the gradient of the score". Ours besides: cells come in their canonical
form, so that equal cells are predicted equal; weights start as flax's defaults do. There is no
data augmentation.
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from spd_jax import archs as archs_lib
from spd_jax import files
from spd_jax.axes import Archs, Array, Key, Params
from spd_jax.checks import LARGEST_NUMBER, is_count, is_number
from spd_jax.dish.config import static
from spd_jax.errors import UserError
from spd_jax.motif import Tokens
from spd_jax.surrogates import protocol
from spd_jax.surrogates.token_network import Network

_KIND = "NaoPredictor"
_CHUNK = 256  # cells in one call of `predict`: other numbers are padded to it
_ROWS = 20  # a batch is padded to a multiple of this,
_CAPACITY = 100  # and the known cells to a multiple of that, so that most fits share a program


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NaoConfig:
    """Settings; the defaults are the published ones for recurrent cells.

    Sizes are static; changing a rate or the number of epochs does not recompile.

    Attributes:
      embedding: width of a token.
      hidden: H, width of both LSTMs.
      predictor_width: width of the predictor's layers.
      predictor_layers: how many, ReLU; a sigmoid follows.
      batch_size: most cells in one step. An epoch is split into equal batches.
      epochs: passes over the known cells. All are made: nothing stops early.
      dropout: on the encoder's outputs while training.
      trade_off: weight of the predictor's squared error; the rest is the decoder's
        cross-entropy (nats per token).
      l2: factor of the sum of squared parameters in the loss.
      learning_rate: Adam's.
      clip: largest global norm of a gradient.
      held_out_share: share of the known cells on which a first network, trained on the
        others, measures its pairwise accuracy, before all are fitted. 0 saves that time.
    """

    embedding: int = static(96)
    hidden: int = static(96)
    predictor_width: int = static(200)
    predictor_layers: int = static(3)
    batch_size: int = static(50)
    epochs: int = 1000
    dropout: float = 0.1
    trade_off: float = 0.8
    l2: float = 1e-4
    learning_rate: float = 1e-3
    clip: float = 5.0
    held_out_share: float = 0.2

    def check(self) -> None:
        """Refuse settings that mean nothing.

        Raises:
          UserError: a count below 1, or a rate outside its range.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int and not is_count(value, 1):
                raise UserError(f"{field.name} is {value!r}: give at least 1, a whole number")
            if field.type is int:
                continue
            shares = field.name in ("dropout", "held_out_share")
            most = 1 if shares or field.name == "trade_off" else LARGEST_NUMBER
            if not is_number(value, 0, most) or (shares and value == 1):
                below = "to below 1" if shares else "to 1" if most == 1 else "on, that is finite"
                raise UserError(f"{field.name} is {value!r}: give a number from 0 {below}")
            if field.name in ("learning_rate", "clip") and value == 0:
                raise UserError(f"{field.name} is {value!r}: give a number above 0")


@dataclasses.dataclass(frozen=True)
class NaoPredictor:
    """NAO's network as a surrogate.

    Attributes:
      space: the space of the cells; its tokens spell them for the network.
      config: settings.
    """

    space: Tokens
    config: NaoConfig = NaoConfig()

    def fit(self, key: Key, archs: Archs, scores: ArrayLike) -> "FittedNao":
        """Train on known cells; arguments as `protocol.Surrogate.fit`.

        The loss is `trade_off` * squared error + (1 - `trade_off`) * cross-entropy + `l2` * sum
        of squares, on scores that are min-max normalised over the known cells.

        Raises:
          UserError: fewer than 2 finite scores, shapes that disagree, tokens that the space
            itself calls illegal, or a setting that is not allowed.
        """
        self.config.check()
        archs, truth = archs_lib.known(archs, scores)
        fit_key, split_key, first_key = jax.random.split(key, 3)
        tokens = self._tokens(archs)
        network = build(self.space, self.config)
        held_out = round(self.config.held_out_share * len(truth))
        accuracy = float("nan")
        if held_out >= 2 and len(truth) - held_out >= 2:
            order = np.asarray(jax.random.permutation(split_key, len(truth)))
            kept, apart = order[held_out:], order[:held_out]
            params = train(first_key, network, self.config, tokens=tokens[kept], scores=truth[kept])
            accuracy = pairwise_accuracy(predict(network, params, tokens[apart]), truth[apart])
        params = train(fit_key, network, self.config, tokens=tokens, scores=truth)
        return FittedNao(self, network, params, truth.min(), truth.max(), accuracy)

    def load(self, path: protocol.Path) -> "FittedNao":
        """Read a saved network with its own sizes; errors as `protocol.Surrogate.load`."""

        def make(arrays: dict[str, np.ndarray]) -> FittedNao:
            name = str(arrays["space"])
            if name != self.space.name:
                raise UserError(f"it was fitted on {name}, not {self.space.name}: use that space")
            config = NaoConfig(**json.loads(str(arrays["config"])))
            config.check()
            network = build(self.space, config)
            first = jnp.ones((1, len(network.legal)), int)
            like = jax.eval_shape(network.init, jax.random.key(0), first)["params"]
            like = flax.traverse_util.flatten_dict(like, sep="/")
            params = flax.traverse_util.unflatten_dict(protocol.checked(arrays, like), sep="/")
            low, high, accuracy = (float(arrays[name]) for name in ("low", "high", "accuracy"))
            predictor = NaoPredictor(self.space, config)
            return FittedNao(predictor, network, params, low, high, accuracy)

        return protocol.restore(path, _KIND, make)

    def _tokens(self, archs: Archs) -> np.ndarray:
        """Return how the cells are spelled, int32 `[M, L]`, once every token is legal."""
        tokens, legal = np.asarray(self.space.to_tokens(archs)), self.space.legal_tokens()
        if not legal[np.arange(len(legal)), tokens].all():
            raise UserError("to_tokens gives tokens that legal_tokens forbids: correct the space")
        return tokens


@dataclasses.dataclass(frozen=True)
class FittedNao:
    """A trained network.

    Attributes:
      predictor: what was fitted: space and settings.
      network: the flax module.
      params: its weights.
      low: lowest known score, a prediction of 0.
      high: highest known score, a prediction of 1.
      pairwise_accuracy: of a network trained without the held-out cells, on these; NaN when
        none were held out.
    """

    predictor: NaoPredictor
    network: Network
    params: Params
    low: float
    high: float
    pairwise_accuracy: float

    def predict(self, archs: Archs) -> np.ndarray:
        """Return scores `[M]` float64, in the unit of the fitted scores."""
        share = predict(self.network, self.params, self.predictor._tokens(archs))
        return self.low + (self.high - self.low) * share

    def improve(self, archs: Archs, step: float) -> Archs:
        """Return cells `[M]` that lie `step` uphill of `archs` `[M]`.

        Args:
          archs: cells to start from, in canonical form.
          step: lambda, the factor on the gradient of the prediction.

        Returns:
          Cells of the space, not in canonical form; some may be equal.
        """
        tokens, _, _ = move(self.network, self.params, self.predictor._tokens(archs), step=step)
        return self.predictor.space.from_tokens(np.asarray(tokens, np.int32))

    def save(self, path: protocol.Path) -> None:
        """Write weights, settings, range of the scores and name of the space."""
        settings = {
            "space": self.predictor.space.name,
            "config": json.dumps(dataclasses.asdict(self.predictor.config)),
            "low": self.low,
            "high": self.high,
            "accuracy": self.pairwise_accuracy,
        }
        leaves = flax.traverse_util.flatten_dict(self.params, sep="/")
        files.save_arrays(path, leaves | settings, kind=_KIND)


def pairwise_accuracy(predicted: ArrayLike, true: ArrayLike) -> float:
    """Return the share of pairs with different true scores whose order is predicted.

    Args:
      predicted: scores `[M]`; a pair that is tied here counts as wrong.
      true: scores `[M]`, in any unit.

    Returns:
      A share in [0, 1], NaN when all true scores are equal.

    >>> pairwise_accuracy([1.0, 2.0, 3.0], [0.1, 0.3, 0.2])
    0.6666666666666666
    """
    predicted, true = np.asarray(predicted), np.asarray(true)
    above = true[:, None] > true
    agree = (predicted[:, None] > predicted) & above
    return float(agree.sum() / above.sum()) if above.any() else float("nan")


def build(space: Tokens, config: NaoConfig) -> Network:
    """Return the network of a space; equal arguments give equal networks."""
    legal = tuple(tuple(bool(value) for value in row) for row in space.legal_tokens())
    widths = (config.predictor_width,) * config.predictor_layers
    return Network(legal, config.embedding, config.hidden, widths)


def predict(network: Network, params: Params, tokens: np.ndarray) -> np.ndarray:
    """Return predictions in (0, 1) for cells `[M, L]`: float64 `[M]`, in chunks of one shape."""
    results = [np.zeros(0)]
    for start in range(0, len(tokens), _CHUNK):
        chunk = tokens[start : start + _CHUNK]
        padded = np.pad(chunk, ((0, _CHUNK - len(chunk)), (0, 0)), mode="edge")
        results.append(np.asarray(_predict(network, params, padded), np.float64)[: len(chunk)])
    return np.concatenate(results)


@functools.partial(jax.jit, static_argnums=0)
def _predict(network: Network, params: Params, tokens: ArrayLike) -> Array:
    def score(network: Network, tokens: Array) -> Array:
        return network.predict(network.encode(tokens)[0])

    return _call(network, params, score, tokens)


def _call(network: Network, params: Params, method: Callable[..., Any], *args: ArrayLike) -> Any:
    """Return what a method of the network returns under these weights."""
    return network.apply({"params": params}, *args, method=method)


@functools.partial(jax.jit, static_argnums=0)
def move(
    network: Network, params: Params, tokens: ArrayLike, *, step: ArrayLike
) -> tuple[Array, Array, Array]:
    """Apply `Network.move`."""
    return _call(network, params, Network.move, tokens, step)


def train(
    key: Key, network: Network, config: NaoConfig, *, tokens: np.ndarray, scores: np.ndarray
) -> Params:
    """Train a new network on cells `[K, L]` and scores `[K]`; consumes `key`.

    An epoch makes ceil(K / batch_size) steps on equal shares of the cells. Shares and cells
    are padded, with weight 0, so that other numbers of cells seldom recompile.
    """
    count = len(scores)
    batches = -(-count // config.batch_size)
    rows = min(_round_up(-(-count // batches), _ROWS), config.batch_size)
    spread = scores.max() - scores.min()
    targets = (scores - scores.min()) / (spread if spread > 0 else 1.0)
    missing = _round_up(count, _CAPACITY) - count
    tokens = np.pad(tokens, ((0, missing), (0, 0)), mode="edge")
    targets = np.pad(targets, (0, missing)).astype(np.float32)
    return _train(network, rows, config, key, (tokens, targets, count, batches))


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


@functools.partial(jax.jit, static_argnums=(0, 1))
def _train(network: Network, rows: int, config: NaoConfig, key: Key, data: Any) -> Params:
    """Make `epochs * batches` steps on `rows` cells each; their number is no constant."""
    tokens, targets, count, batches = data
    init_key, order_key, dropout_key = jax.random.split(key, 3)
    optimiser = optax.chain(
        optax.clip_by_global_norm(config.clip), optax.adam(config.learning_rate)
    )
    width = (rows, tokens.shape[1], network.hidden)

    def step(number: Array, carry: Any) -> Any:
        params, state = carry
        epoch_key = jax.random.fold_in(order_key, number // batches)
        turn = {"number": number % batches, "batches": batches, "count": count}
        chosen, weight = share(epoch_key, len(tokens), rows, **turn)
        kept = jax.random.bernoulli(
            jax.random.fold_in(dropout_key, number), 1 - config.dropout, width
        )
        known = (tokens[chosen], targets[chosen], weight)
        keep = kept / (1 - config.dropout)
        gradient = jax.grad(loss)(params, network, config, known=known, keep=keep)
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    params = network.init(init_key, tokens[:1])["params"]
    return jax.lax.fori_loop(0, config.epochs * batches, step, (params, optimiser.init(params)))[0]


def share(
    key: Key, padded: int, rows: int, *, number: ArrayLike, batches: ArrayLike, count: ArrayLike
) -> tuple[Array, Array]:
    """Return which cells make batch `number` of an epoch, and their weights.

    Args:
      key: of the epoch; consumed.
      padded: how many cells there are, with padding.
      rows: padded size of a batch.
      number: 0 .. `batches` - 1.
      batches: how many an epoch has.
      count: how many of the cells are known; the first ones.

    Returns:
      Indices `[rows]`, and `[rows]` True where the index is one of this batch: over an
      epoch, every known cell once.
    """
    order = jax.random.uniform(key, (padded,))
    order = jnp.argsort(jnp.where(jnp.arange(padded) < count, order, 2.0))
    place = number + batches * jnp.arange(rows)
    return order[jnp.minimum(place, padded - 1)], jnp.less(place, count)


def loss(
    params: Params,
    network: Network,
    config: NaoConfig,
    *,
    known: tuple[Array, Array, Array],
    keep: ArrayLike = 1.0,
) -> Array:
    """Return what training minimises.

    Args:
      params: weights.
      network: the module.
      config: its `trade_off` and `l2`.
      known: tokens `[N, L]`, targets in 0..1 `[N]`, and whether a cell counts `[N]`.
      keep: see `Network`.
    """
    tokens, targets, weight = known
    predicted, log_probabilities = _call(network, params, Network.__call__, tokens, keep)
    spelling = -jnp.mean(log_probabilities, axis=1)
    each = config.trade_off * (predicted - targets) ** 2 + (1 - config.trade_off) * spelling
    squares = optax.tree.norm(params, squared=True)
    return jnp.sum(weight * each) / jnp.sum(weight) + config.l2 * squares

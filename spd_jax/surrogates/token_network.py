"""The encoder, predictor and decoder of `surrogates/nao.py`, as one flax module."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from spd_jax.axes import Array


class Lstm(nn.Module):
    """An LSTM that reads tokens; gates are input, forget, value, output.

    Attributes:
      vocabulary: V.
      embedding: width of a token.
      hidden: H.
    """

    vocabulary: int
    embedding: int
    hidden: int

    def setup(self) -> None:
        """Declare the weights."""
        self.tokens = nn.Embed(self.vocabulary, self.embedding)
        self.inputs = nn.Dense(4 * self.hidden)
        shape = (self.hidden, 4 * self.hidden)
        self.recurrent = self.param("recurrent", nn.initializers.lecun_normal(), shape)

    def table(self) -> Array:
        """Return what every token adds to the gates `[V, 4 H]`: V products, not one a token."""
        return self.inputs(self.tokens.embedding)

    def __call__(self, tokens: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        """Read tokens `[N, L]` from a carry (output, cell) of `[N, H]`.

        Returns:
          Outputs `[N, L, H]` and the last cell `[N, H]`.
        """
        recurrent = self.recurrent

        def step(carry: tuple[Array, Array], projected: Array) -> tuple[Any, Array]:
            carry = lstm_step(recurrent, carry, projected)
            return carry, carry[0]

        # A product and not a lookup: the gradient of a lookup is a scatter, which is slow on CPUs.
        projected = jax.nn.one_hot(tokens.T, self.vocabulary) @ self.table()
        carry, outputs = jax.lax.scan(step, carry, projected)
        return outputs.swapaxes(0, 1), carry[1]


def lstm_step(
    recurrent: Array, carry: tuple[Array, Array], projected: Array
) -> tuple[Array, Array]:
    """Return the next (output, cell) of `[N, H]` each; `projected` `[N, 4 H]` is the input's."""
    output, cell = carry
    enter, forget, value, leave = jnp.split(output @ recurrent + projected, 4, axis=-1)
    cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(enter) * jnp.tanh(value)
    return jax.nn.sigmoid(leave) * jnp.tanh(cell), cell


class Network(nn.Module):
    """Encoder, predictor and decoder.

    Attributes:
      legal: legal tokens, L rows of V; nested tuples, so that equal networks are equal.
      embedding: see `NaoConfig`, as the others.
      hidden: H.
      predictor: widths of the predictor's layers.
    """

    legal: tuple[tuple[bool, ...], ...]
    embedding: int
    hidden: int
    predictor: tuple[int, ...]

    def setup(self) -> None:
        """Declare the parts."""
        sizes = (len(self.legal[0]), self.embedding, self.hidden)
        self.encoder, self.decoder = Lstm(*sizes), Lstm(*sizes)
        self.layers = [nn.Dense(width) for width in self.predictor]
        self.score = nn.Dense(1)
        self.attention = nn.Dense(self.hidden)
        self.logits = nn.Dense(len(self.legal[0]))

    def __call__(self, tokens: Array, keep: ArrayLike = 1.0) -> tuple[Array, Array]:
        """Return predictions `[N]` and log-probabilities of the tokens `[N, L]`, for training.

        Args:
          tokens: cells `[N, L]`.
          keep: factor on the encoder's outputs: dropout, `[N, L, H]`.
        """
        vectors, cell = self.encode(tokens, keep)
        shifted = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)))
        states, _ = self.decoder(shifted, (pooled(vectors), cell))
        masked = jnp.where(jnp.asarray(self.legal), self.spell(states, vectors), -jnp.inf)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(masked), tokens[..., None], axis=-1)
        return self.predict(vectors), chosen[..., 0]

    def encode(self, tokens: Array, keep: ArrayLike = 1.0) -> tuple[Array, Array]:
        """Return unit vectors `[N, L, H]` and the encoder's last cell `[N, H]`."""
        zeros = jnp.zeros((len(tokens), self.hidden))
        outputs, cell = self.encoder(tokens, (zeros, zeros))
        return normalised(outputs * keep), cell

    def predict(self, vectors: Array) -> Array:
        """Return predictions in (0, 1) `[N]` from unit vectors `[N, L, H]`."""
        values = pooled(vectors)
        for layer in self.layers:
            values = jax.nn.relu(layer(values))
        return jax.nn.sigmoid(self.score(values))[:, 0]

    def spell(self, states: Array, vectors: Array) -> Array:
        """Return logits `[N, K, V]` for decoder outputs `[N, K, H]` that look at the vectors."""
        weights = jax.nn.softmax(jnp.einsum("nkh,nlh->nkl", states, vectors))
        context = jnp.einsum("nkl,nlh->nkh", weights, vectors)
        return self.logits(jnp.tanh(self.attention(jnp.concatenate([context, states], -1))))

    def decode(self, vectors: Array, cell: Array) -> Array:
        """Return the greedy spelling `[N, L]` of unit vectors; every token is legal.

        Args:
          vectors: unit vectors `[N, L, H]`.
          cell: the decoder's first cell `[N, H]`.
        """
        table, recurrent = self.decoder.table(), self.decoder.recurrent

        def step(now: tuple[Any, Array], legal: Array) -> tuple[Any, Array]:
            carry, token = now
            carry = lstm_step(recurrent, carry, table[token])
            logits = self.spell(carry[0][:, None], vectors)[:, 0]
            token = jnp.argmax(jnp.where(legal, logits, -jnp.inf), axis=-1)
            return (carry, token), token

        start = jnp.zeros(len(vectors), int)
        first = ((pooled(vectors), cell), start)
        return jax.lax.scan(step, first, jnp.asarray(self.legal))[1].T

    def move(self, tokens: Array, step: ArrayLike) -> tuple[Array, Array, Array]:
        """Move cells uphill: add `step` times the prediction's gradient to the unit vectors.

        Args:
          tokens: cells `[N, L]`.
          step: lambda.

        Returns:
          The new cells `[N, L]`, and what was predicted before and after the move (before
          decoding), `[N]` each.
        """
        vectors, cell = self.encode(tokens)
        gradient = jax.grad(lambda vectors: jnp.sum(self.predict(vectors)))(vectors)
        moved = normalised(vectors + step * gradient)
        return self.decode(moved, cell), self.predict(vectors), self.predict(moved)


def normalised(vectors: Array) -> Array:
    """Return vectors of length 1 along the last axis; a zero stays zero, with a finite gradient."""
    return vectors * jax.lax.rsqrt(jnp.sum(vectors**2, axis=-1, keepdims=True) + 1e-12)


def pooled(vectors: Array) -> Array:
    """Return the embeddings `[N, H]` of cells: the normalised mean of vectors `[N, L, H]`."""
    return normalised(jnp.mean(vectors, axis=1))

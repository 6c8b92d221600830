"""AZ-NAS (Lee and Ham, 2024): four zero-cost proxies whose ranks are put together.

Three of them look at the outputs of a network's blocks, for one minibatch of noise N(0, 1):

- expressivity: the entropy of the eigenvalues of the covariance of a block's channels, which are
  normalised to sum 1; summed over the blocks;
- progressivity: the smallest difference of two consecutive blocks' entropies;
- trainability: `2 - s - 1 / s` with s the spectral norm of the Jacobian of a block's output in
  the output of the block before; the mean over blocks. A block that keeps the size of gradients,
  s = 1, has the greatest, 0.

The fourth, complexity, is the number of multiply-adds.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from scipy import stats

from spd_jax import archs as archs_lib
from spd_jax import files
from spd_jax.axes import Arch, Archs, Array, Key, Params
from spd_jax.errors import UserError
from spd_jax.surrogates import protocol
from spd_jax.surrogates.image_proxies import ImageNetwork, ImageProxy, Minibatches, measured

PROXIES = ("expressivity", "progressivity", "trainability", "complexity")
_LOG_FLOOR = 1e-8  # added inside the entropy's logarithm
_NORM_FLOOR = 1e-6  # added to s in 1 / s


@dataclasses.dataclass(frozen=True)
class AzNas:
    """The aggregate of the four proxies, or one of them; a `protocol.ScoreFree` surrogate.

    The aggregate of a motif is `sum over proxies of log(rank / M)` with ranks from 1, the worst,
    to M, averaged over ties. So it depends on the batch: `predict` ranks the motifs that it is
    given among each other, and a motif alone gets 0.

    Attributes:
      proxy: network, samples, draws, as of every proxy of image networks; `measure`, `batches`
        and `images` are not used.
      complexity: `complexity(archs [M]) -> [M]`, multiply-adds.
      only: name in `PROXIES` of the one to predict; empty for the aggregate.
    """

    proxy: ImageProxy
    complexity: Callable[[Archs], np.ndarray]
    only: str = ""

    def fit(self, key: Key, archs: Archs, scores: ArrayLike) -> "FittedAzNas":
        """Return `prepare(key)`: archs and scores are not looked at."""
        del archs, scores
        return self.prepare(key)

    def prepare(self, key: Key) -> "FittedAzNas":
        """Return the proxies that draw weights and noise from `key`, which is consumed.

        Raises:
          UserError: settings that cannot be drawn, or no such proxy.
        """
        if self.only and self.only not in PROXIES:
            raise UserError(f"unknown proxy {self.only!r}: use one of {', '.join(PROXIES)}")
        self.proxy.check()
        return FittedAzNas(self, np.asarray(jax.random.key_data(key)))

    def load(self, path: protocol.Path) -> "FittedAzNas":
        """Read the key of saved proxies; errors as `protocol.Surrogate.load`."""
        like = {"key": jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))}

        def build(arrays: dict[str, np.ndarray]) -> FittedAzNas:
            return FittedAzNas(self, np.asarray(protocol.checked(arrays, like)["key"]))

        return protocol.restore(path, self.kind, build)

    @property
    def kind(self) -> str:
        """What a saved file calls it."""
        return f"AzNas {self.only}".strip()


@dataclasses.dataclass(frozen=True)
class FittedAzNas:
    """AZ-NAS, whose weights and noise are decided.

    Attributes:
      settings: its settings.
      key: `jax.random.key_data` of what they are drawn from.
    """

    settings: AzNas
    key: np.ndarray

    def predict(self, archs: Archs) -> np.ndarray:
        """Return the aggregate of a batch, ranked within it, or one proxy: `[M]` float64.

        A proxy alone is NaN where it is not finite. In the aggregate such a motif is the worst.
        """
        columns = self.columns(archs)
        if self.settings.only:
            return columns[:, PROXIES.index(self.settings.only)]
        worst = np.where(np.isnan(columns), -np.inf, columns)
        ranks = stats.rankdata(worst, axis=0) / len(worst)
        return np.log(ranks).sum(axis=1)

    def columns(self, archs: Archs) -> np.ndarray:
        """Return the four proxies in the order of `PROXIES`, mean over draws: `[M, 4]` float64.

        NaN where one is not finite: an entropy is not where a block's output is constant.

        Raises:
          UserError: there are no archs, or another number of complexities came back.
        """
        own = self.settings
        blocks = measured(own.proxy, self.key, archs, block_scores).mean(axis=0)
        cost = np.asarray(own.complexity(archs), np.float64)
        if cost.shape != (archs_lib.count(archs),):
            raise UserError(f"complexities of shape {cost.shape}: return one for each motif")
        columns = np.column_stack([blocks, cost])
        return np.where(np.isfinite(columns), columns, np.nan)

    def save(self, path: protocol.Path) -> None:
        """Write the key."""
        files.save_arrays(path, {"key": self.key}, kind=self.settings.kind)


def block_scores(network: ImageNetwork, params: Params, arch: Arch, batches: Minibatches) -> Array:
    """Return expressivity, progressivity and trainability of one motif's network: `[3]`.

    One forward and one backward pass: what a block hands on is cut off from what came before it
    and an addend of zeros takes its place, whose cotangent is the block's own Jacobian transposed
    times the cotangent of the next block's output.
    """
    inputs = batches.inputs[0]
    shapes = jax.eval_shape(lambda: network.trace(params, arch, inputs).blocks)
    keys = jax.random.split(batches.key, len(shapes))
    signs = [
        jax.random.rademacher(key, block.shape, jnp.float32)
        for key, block in zip(keys, shapes, strict=True)
    ]

    def projected(addends: list[Array]) -> tuple[Array, tuple[Array, ...]]:
        def cut(index: int, output: Array) -> Array:
            return jax.lax.stop_gradient(output) + addends[index]

        blocks = network.trace(params, arch, inputs, after_block=cut).blocks
        pairs = zip(blocks, signs, strict=True)
        return jnp.sum(jnp.stack([jnp.vdot(*pair) for pair in pairs])), blocks

    zeros = [jnp.zeros(block.shape) for block in shapes]
    pulled, blocks = jax.grad(projected, has_aux=True)(zeros)
    entropies = jnp.stack([entropy(block) for block in blocks])
    trained = [trainability(*pair) for pair in zip(pulled[:-1], signs[1:], strict=True)]
    return jnp.stack(
        [
            jnp.sum(entropies),
            jnp.min(entropies[1:] - entropies[:-1], initial=jnp.inf),
            jnp.mean(jnp.stack(trained)),
        ]
    )


def entropy(features: Array) -> Array:
    """Return `-sum_i p_i log p_i`, p the channel covariance's eigenvalues over their sum.

    Args:
      features: output of a block, `[N, H, W, channels]`.

    Returns:
      Scalar in nats, NaN where the features are constant.
    """
    rows = features.reshape(-1, features.shape[-1])
    rows = rows - jnp.mean(rows, axis=0)
    values = jnp.maximum(jnp.linalg.eigvalsh(rows.T @ rows / len(rows)), 0)
    share = values / jnp.sum(values)
    return -jnp.sum(share * jnp.log(share + _LOG_FLOOR))


def trainability(before: Array, after: Array) -> Array:
    """Return `2 - s - 1 / s`, s the spectral norm of a block's Jacobian as random signs show it.

    The Jacobian between channels is estimated by the mean over samples and pixels of the outer
    products of what was pulled back with the signs themselves. Where the image was halved, the
    four pixels that one pixel of the output stands for count as channels.

    Args:
      before: the signs, pulled back to the block's input, `[N, H, W, channels]`.
      after: random signs, +-1, on its output `[N, H', W', channels']`.

    Returns:
      Scalar, at most 0; minus infinity for a block that hands the signs on as they are.
    """
    stride = before.shape[1] // after.shape[1]
    samples, height, width, channels = after.shape
    cut = before[:, : stride * height, : stride * width].reshape(
        samples, height, stride, width, stride, before.shape[3]
    )
    pulled = jnp.transpose(cut, (0, 1, 3, 2, 4, 5)).reshape(samples * height * width, -1)
    signs = after.reshape(-1, channels)
    norm = jnp.linalg.svd(pulled.T @ signs / len(signs), compute_uv=False)[0]
    score = 2 - norm - 1 / (norm + _NORM_FLOOR)
    if before.shape != after.shape:
        return score
    return jnp.where(jnp.all(before == after), -jnp.inf, score)

"""The motifs whose ground truth is known, and how one outer step's batch is cut from them."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from spd_jax import archs as archs_lib
from spd_jax.axes import Archs, Array
from spd_jax.dish.config import DishConfig
from spd_jax.dish.state import DishState
from spd_jax.errors import UserError

BATCH_MULTIPLE = 8  # batches are padded to it: a few motifs more compile nothing new
LARGEST_SCORE = 1e18  # the square of a larger one is infinite in float32


class Batch(NamedTuple):
    """What one outer step learns from, on the device.

    Attributes:
      archs: motifs, axis M in front; padded by repeating the last.
      truth: ground truths `[M]` float32, higher is better.
      weights: `[M]` float32, 1 for a motif and 0 for padding.
    """

    archs: Archs
    truth: Array
    weights: Array


@dataclasses.dataclass(frozen=True)
class KnownMotifs:
    """Motifs that a dish can be fitted to: checked once, when they are made, by `of`.

    Attributes:
      archs: batch `[M]` of NumPy arrays.
      truth: finite ground truths `[M]` float32, higher is better, M >= 2.
    """

    archs: Archs
    truth: np.ndarray

    @classmethod
    def of(cls, archs: Archs, ground_truth: ArrayLike) -> "KnownMotifs":
        """Check motifs and keep those with a finite ground truth.

        Args:
          archs: batch `[M]`.
          ground_truth: `[M]`, higher is better; not finite where a motif failed.

        Raises:
          UserError: lengths that disagree, fewer than two finite ground truths, or ground truths
            that are all equal or too large for float32.
        """
        archs, scores = archs_lib.known(archs, ground_truth)
        largest = np.max(np.abs(scores))
        if largest > LARGEST_SCORE:
            raise UserError(
                f"a ground truth is as large as {largest:.3g}: rescale them so that none is above "
                f"{LARGEST_SCORE:.0e}, because the dish computes in float32"
            )
        truth = scores.astype(np.float32)
        if np.all(truth == truth[0]):
            raise UserError(
                f"all {len(truth)} ground truths are {truth[0]:g}: there is nothing to learn, so "
                "give motifs that differ"
            )
        return cls(archs, truth)

    def __len__(self) -> int:
        """Return M."""
        return len(self.truth)

    def split(self, held_out: np.ndarray) -> tuple["KnownMotifs", "KnownMotifs"]:
        """Return the motifs where the mask `held_out [M]` is False, and those where it is True."""
        kept, held = (
            KnownMotifs(archs_lib.take(self.archs, mask), self.truth[mask])
            for mask in (~held_out, held_out)
        )
        return kept, held

    def joined(self, other: "KnownMotifs") -> "KnownMotifs":
        """Return these motifs and then those of `other`."""
        return KnownMotifs(
            archs_lib.concatenate(self.archs, other.archs),
            np.concatenate([self.truth, other.truth]),
        )

    def targets(self, config: DishConfig) -> "KnownMotifs":
        """Return these motifs with what the outer loss compares with in place of their truths.

        Under `targets="ranks"` these are ranks, the mean rank where truths are equal, shifted
        and scaled to mean 0 and standard deviation 1.
        """
        if config.targets == "values":
            return self
        _, place, count = np.unique(self.truth, return_inverse=True, return_counts=True)
        rank = (np.cumsum(count) - (count - 1) / 2)[place]
        rank = (rank - rank.mean()) / (rank.std() or 1)  # held-out truths may all be equal
        return KnownMotifs(self.archs, rank.astype(np.float32))

    def batches(
        self, config: DishConfig, sharding: jax.sharding.Sharding | None = None
    ) -> Callable[[DishState], Batch]:
        """Return a function that gives the batch of the outer step that a state is before.

        Up to `config.motif_batch` motifs are one batch, which is put on the device here, once.
        Of more motifs, every step draws as many as that anew: the same ones for the same key and
        step of the state, so that a resumed fit draws what an uninterrupted one does.

        Args:
          config: settings.
          sharding: where the batch's motif axis lies, for several devices.
        """
        count = len(self)
        size = min(config.motif_batch, -(-count // BATCH_MULTIPLE) * BATCH_MULTIPLE)
        if count <= size:
            everything = self._batch(np.arange(count), size, sharding)
            return lambda state: everything

        def drawn(state: DishState) -> Batch:
            seed = [*np.asarray(jax.random.key_data(state.key)).ravel().tolist(), int(state.step)]
            chosen = np.sort(np.random.default_rng(seed).permutation(count)[:size])
            return self._batch(chosen, size, sharding)

        return drawn

    def _batch(
        self, chosen: np.ndarray, size: int, sharding: jax.sharding.Sharding | None
    ) -> Batch:
        """Put the chosen motifs on the device, padded to `size` or more for several devices."""
        devices = 1 if sharding is None else len(sharding.device_set)
        used, size = len(chosen), -(-size // devices) * devices
        chosen = np.concatenate([chosen, np.repeat(chosen[-1:], size - used)])
        weights = np.arange(size) < used
        archs = jax.device_put(archs_lib.take(self.archs, chosen), sharding)
        return Batch(archs, jnp.asarray(self.truth[chosen]), jnp.asarray(weights, jnp.float32))

"""The motifs whose ground truth is known, and how one outer step's batch is cut from them."""

import dataclasses

import jax
import numpy as np
from jax.typing import ArrayLike

from spd_jax.axes import Archs
from spd_jax.dish.config import DishConfig
from spd_jax.dish.state import DishState
from spd_jax.errors import UserError

BATCH_MULTIPLE = 8  # batches are padded to it: a few motifs more compile nothing new


@dataclasses.dataclass(frozen=True)
class KnownMotifs:
    """Motifs with finite ground truth, on the host, and how one step's batch is cut from them."""

    archs: Archs  # NumPy arrays, axis M in front
    truth: np.ndarray  # [M]
    largest: int  # most motifs in a batch
    sharding: jax.sharding.Sharding | None

    @classmethod
    def of(
        cls,
        archs: Archs,
        truth: ArrayLike | None,
        config: DishConfig,
        sharding: jax.sharding.Sharding | None,
    ) -> "KnownMotifs":
        """Check the user's motifs and keep those with a finite ground truth."""
        truth = np.asarray(truth, np.float32)
        archs = jax.tree.map(np.asarray, archs)
        lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(archs)}
        if truth.ndim != 1 or lengths != {truth.shape}:
            raise UserError(
                f"archs have motif axes {sorted(lengths)} but ground_truth has shape "
                f"{truth.shape}: give one ground truth for each motif"
            )
        finite = np.isfinite(truth)
        if finite.sum() < 2:
            raise UserError(
                f"{finite.sum()} motifs have a finite ground truth: a dish needs at least 2"
            )
        return cls(
            jax.tree.map(lambda x: x[finite], archs), truth[finite], config.motif_batch, sharding
        )

    def joined(self, other: "KnownMotifs") -> "KnownMotifs":
        """Return the motifs of both."""
        return dataclasses.replace(
            self,
            archs=jax.tree.map(lambda a, b: np.concatenate([a, b]), self.archs, other.archs),
            truth=np.concatenate([self.truth, other.truth]),
        )

    def batch(self, state: DishState) -> tuple[Archs, np.ndarray, np.ndarray]:
        """Return archs, truths and weights of one step: padded, or drawn afresh when too many."""
        count = len(self.truth)
        size = min(self.largest, -(-count // BATCH_MULTIPLE) * BATCH_MULTIPLE)
        used = min(count, size)
        if count > size:
            seed = [*np.asarray(jax.random.key_data(state.key)).ravel().tolist(), int(state.step)]
            chosen = np.sort(np.random.default_rng(seed).permutation(count)[:size])
        else:
            chosen = np.arange(count)
        devices = 1 if self.sharding is None else len(self.sharding.device_set)
        padding = max(-(-size // devices) * devices, used) - used
        chosen = np.concatenate([chosen, np.repeat(chosen[-1:], padding)])
        weights = (np.arange(len(chosen)) < used).astype(np.float32)
        batch = jax.tree.map(lambda x: x[chosen], self.archs)
        return jax.device_put(batch, self.sharding), self.truth[chosen], weights


def padded(archs: Archs, size: int) -> Archs:
    """Repeat the last motif until there are `size`."""
    return jax.tree.map(
        lambda x: np.concatenate([x, np.repeat(x[-1:], size - len(x), axis=0)]), archs
    )

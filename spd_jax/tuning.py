"""Choosing the dish's own settings on the known motifs alone (Rawal et al., appendix A.1).

The known motifs are split in two halves; the setting whose prediction of the
half it was not fitted on has the smallest outer loss is taken. Ours: the
halves then change places, and the losses are averaged.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from spd_jax import losses
from spd_jax.axes import Archs, Key
from spd_jax.errors import UserError
from spd_jax.surrogates import protocol
from spd_jax.surrogates.protocol import Surrogate


class Trial(NamedTuple):
    """One setting on one half.

    Attributes:
      name: of the setting.
      train: indices of the motifs that were fitted, into those given.
      valid: indices of the motifs that were predicted.
      loss: outer loss of the prediction; infinite where it is not finite.
    """

    name: str
    train: tuple[int, ...]
    valid: tuple[int, ...]
    loss: float


def choose(
    key: Key,
    candidates: Mapping[str, Surrogate],
    archs: Archs,
    scores: ArrayLike,
    *,
    outer_loss: str = "zscored_mse",
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> str:
    """Return the name of the setting with the smallest held-out outer loss.

    Args:
      key: consumed: draws the halves and every fit; all settings share both.
      candidates: settings by name.
      archs: known motifs, axis M in front: no other motif is looked at.
      scores: ground truth `[M]`, higher is better; one that is not finite is not used.
      outer_loss: name in `losses.OUTER_LOSSES`.
      on_trial: called after every trial, to log it.

    Returns:
      A name of `candidates`; the first one's on a tie.

    Raises:
      UserError: no candidate, or fewer than four usable motifs.
    """
    if not candidates:
        raise UserError("there is no setting to choose from: give at least one")
    split_key, fit_key = jax.random.split(key)
    usable = np.flatnonzero(np.isfinite(np.asarray(scores, float)))
    if len(usable) < 4:
        raise UserError(f"{len(usable)} motifs have a finite ground truth: tuning needs at least 4")
    archs, truth = protocol.known(archs, scores)
    order = np.asarray(jax.random.permutation(split_key, len(usable)))
    halves = np.sort(order[: len(usable) // 2]), np.sort(order[len(usable) // 2 :])
    means = {}
    for name, surrogate in candidates.items():
        trials = []
        for train, valid in (halves, halves[::-1]):
            fitted = surrogate.fit(fit_key, _take(archs, train), truth[train])
            predicted = fitted.predict(_take(archs, valid))
            loss = _loss(outer_loss, predicted, truth[valid])
            trial = Trial(name, tuple(usable[train].tolist()), tuple(usable[valid].tolist()), loss)
            trials.append(trial)
            on_trial(trial)
        means[name] = float(np.mean([trial.loss for trial in trials]))
    return min(means, key=lambda name: means[name])


def _take(archs: Archs, chosen: np.ndarray) -> Any:
    return jax.tree.map(lambda x: x[chosen], archs)


def _loss(outer_loss: str, predicted: np.ndarray, truth: np.ndarray) -> float:
    if not np.isfinite(predicted).all():
        return float("inf")
    weights = jnp.ones(len(truth))
    return float(
        losses.OUTER_LOSSES[outer_loss](
            jnp.asarray(predicted, jnp.float32), jnp.asarray(truth, jnp.float32), weights
        )
    )

"""Choosing the dish's own settings on the known motifs alone (Rawal et al., appendix A.1).

The known motifs are split in two halves; the setting whose prediction of the
half it was not fitted on has the smallest outer loss is taken. Ours: the
halves then change places, and the losses are averaged.
"""

import json
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from spd_jax import archs as archs_lib
from spd_jax.axes import Archs, Key
from spd_jax.dish import losses
from spd_jax.errors import UserError
from spd_jax.surrogates.protocol import Surrogate


class Interval(NamedTuple):
    """A range of positive reals, drawn from log-uniformly."""

    low: float
    high: float


Value = int | float | str
Ranges = Mapping[str, Interval | tuple[int, ...] | tuple[str, ...]]

# The search ranges of arXiv 2005.13092, by field of DishConfig; `hidden_size` is the family's.
TABLE_2: Ranges = {
    "hidden_size": (1, 3, 5),
    "train_samples": (10, 20),
    "inner_learning_rate": Interval(1e-3, 1e-2),
    "inner_l2": Interval(1e-5, 1e-3),
    "inner_steps": (200, 250),
    "outer_learning_rate": Interval(0.01, 0.05),
    "decay": Interval(0.4, 0.8),
    "outer_l2": Interval(1e-5, 1e-3),
    "outer_steps": (20, 40, 60),
}
# By field of SlopeMlp.
TABLE_3: Ranges = {
    "hidden_size": (5, 10, 15, 20),
    "learning_rate": Interval(1e-3, 1e-2),
    "decay": Interval(0.8, 0.99),
    "decay_steps": Interval(50, 120),
    "l2": Interval(1e-5, 1e-3),
    "steps": (100, 150, 200),
}
TABLE_4: Ranges = {
    **TABLE_2,
    "inner_steps": (50, 100),
    "outer_learning_rate": Interval(0.01, 2.5),
    "outer_l2": Interval(1e-6, 1e-3),
    "outer_steps": (100, 200, 300),
}
# Ours, beside the papers' ranges: from the timidest inner rate of table 2 to the boldest that this
# project tried; whether the outer rate decays; what the outer loss compares with; and what the
# outer gradient goes through, half of all draws as in the papers.
WIDER: Ranges = {
    "inner_learning_rate": Interval(1e-3, 1.0),
    "schedule": ("staircase", "constant"),
    "targets": ("values", "ranks"),
    "gradient": ("full", "full", "truncated", "evaluation_only"),
    "truncation": (20, 50),
}


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
    archs, truth = archs_lib.known(archs, scores)
    order = np.asarray(jax.random.permutation(split_key, len(usable)))
    halves = np.sort(order[: len(usable) // 2]), np.sort(order[len(usable) // 2 :])
    means = {}
    for name, surrogate in candidates.items():
        trials = []
        for train, valid in (halves, halves[::-1]):
            fitted = surrogate.fit(fit_key, archs_lib.take(archs, train), truth[train])
            predicted = fitted.predict(archs_lib.take(archs, valid))
            loss = held_out_loss(predicted, truth[valid], outer_loss)
            trial = Trial(name, tuple(usable[train].tolist()), tuple(usable[valid].tolist()), loss)
            trials.append(trial)
            on_trial(trial)
        means[name] = float(np.mean([trial.loss for trial in trials]))
    return min(means, key=lambda name: means[name])


def draw(key: Key, ranges: Ranges) -> dict[str, Value]:
    """Draw one setting: log-uniform from an interval, uniform from a tuple; `key` is consumed."""
    setting: dict[str, Value] = {}
    for name_key, (name, values) in zip(
        jax.random.split(key, len(ranges)), ranges.items(), strict=True
    ):
        share = float(jax.random.uniform(name_key))
        if isinstance(values, Interval):
            setting[name] = float(values.low * (values.high / values.low) ** share)
        else:
            setting[name] = values[int(share * len(values))]
    return setting


def search(
    key: Key,
    make: Callable[[dict[str, Value]], Surrogate],
    ranges: Ranges,
    archs: Archs,
    scores: ArrayLike,
    *,
    trials: int = 20,
    outer_loss: str = "zscored_mse",
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> dict[str, Value]:
    """Random search: draw settings from ranges, and `choose` among them.

    Args:
      key: consumed.
      make: builds the surrogate of a setting.
      ranges: values by name, for example `TABLE_2`.
      archs: see `choose`.
      scores: see `choose`.
      trials: settings to draw.
      outer_loss: see `choose`.
      on_trial: see `choose`; a trial's name is its setting as JSON.

    Returns:
      The setting with the smallest held-out outer loss.

    Raises:
      UserError: see `choose`.
    """
    draw_key, choose_key = jax.random.split(key)
    settings = [draw(trial_key, ranges) for trial_key in jax.random.split(draw_key, trials)]
    candidates = {json.dumps(setting): make(setting) for setting in settings}
    chosen = choose(choose_key, candidates, archs, scores, outer_loss=outer_loss, on_trial=on_trial)
    return dict(json.loads(chosen))


def held_out_loss(
    predicted: np.ndarray, truth: np.ndarray, outer_loss: str = "zscored_mse"
) -> float:
    """Return the outer loss of predictions `[M]` of motifs that were not learned from.

    Infinite where a prediction is not finite; `outer_loss` is a name in `losses.OUTER_LOSSES`.
    """
    if not np.isfinite(predicted).all():
        return float("inf")
    scores, truth32 = jnp.asarray(predicted, jnp.float32), jnp.asarray(truth, jnp.float32)
    return float(losses.OUTER_LOSSES[outer_loss](scores, truth32, jnp.ones(len(truth))))

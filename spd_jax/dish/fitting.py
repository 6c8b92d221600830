"""Fit a dish: the host's loop of outer steps, with early stopping, that can be resumed."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from spd_jax.axes import Archs, Array
from spd_jax.dish import core
from spd_jax.dish.config import DishConfig, check
from spd_jax.dish.known import Batch, KnownMotifs
from spd_jax.dish.state import UNDECIDED, DishState, OuterInfo, init
from spd_jax.errors import UserError
from spd_jax.motif import MotifFamily

OnStep = Callable[[DishState, OuterInfo], None]
NOT_FINITE = "no motif's inner training is finite: lower inner_learning_rate or init_scale"


class FitInfo(NamedTuple):
    """What `fit` reports about the steps that this call took.

    Attributes:
      loss: outer losses `[steps, E]`.
      masked: motifs left out `[steps, E]`.
      valid_loss: held-out outer losses, mean over members, by outer step; empty
        without held-out motifs.
      stop_step: outer steps in the returned state.
      final_loss: outer loss of each member after them, on everything known, `[E]`.
    """

    loss: np.ndarray
    masked: np.ndarray
    valid_loss: dict[int, float]
    stop_step: int
    final_loss: np.ndarray


def _ignore(state: DishState, info: OuterInfo) -> None:
    """Do nothing with a step."""


def fit(
    state: DishState,
    family: MotifFamily,
    config: DishConfig,
    archs: Archs,
    ground_truth: ArrayLike,
    *,
    valid_archs: Archs | None = None,
    valid_ground_truth: ArrayLike | None = None,
    on_step: OnStep = _ignore,
    sharding: jax.sharding.Sharding | None = None,
) -> tuple[DishState, FitInfo]:
    """Learn the synthetic data from known motifs (section 3.1).

    With held-out motifs, the number of outer steps with their smallest outer
    loss is found first; then the dish starts anew and takes that many steps on
    everything known. A state that an earlier, interrupted `fit` handed to
    `on_step` goes on from there and ends in the same bits.

    Args:
      state: of `init`, or one to resume.
      family: the motif-network.
      config: settings.
      archs: known motifs, axis M in front.
      ground_truth: `[M]`, higher is better; motifs whose truth is not finite are not used.
      valid_archs: held-out motifs, for early stopping.
      valid_ground_truth: their truths.
      on_step: called after every outer step, to show or save.
      sharding: where the motif axis lies, for several devices.

    Returns:
      The fitted state (sign, mean and standard deviation set), and a report.

    Raises:
      UserError: what `KnownMotifs.of` refuses, a setting that cannot be run, or a dish in which
        no motif's training is finite.
    """
    known, held_out = KnownMotifs.of(archs, ground_truth), None
    if valid_archs is not None:
        if valid_ground_truth is None:
            raise UserError("held-out motifs need their ground truth: give valid_ground_truth too")
        held_out = KnownMotifs.of(valid_archs, valid_ground_truth)
    return fit_known(state, family, config, known, held_out, on_step=on_step, sharding=sharding)


def fit_known(
    state: DishState,
    family: MotifFamily,
    config: DishConfig,
    known: KnownMotifs,
    held_out: KnownMotifs | None = None,
    *,
    on_step: OnStep = _ignore,
    sharding: jax.sharding.Sharding | None = None,
) -> tuple[DishState, FitInfo]:
    """Do what `fit` does with motifs that have been checked already."""
    check(config)
    loop = _Loop(family, config, on_step, sharding, [])
    everything = known if held_out is None else known.joined(held_out)
    everything, known = everything.targets(config), known.targets(config)
    valid_losses: dict[int, float] = {}
    # First the number of outer steps is decided, then as many are taken on everything known.
    # A state says by its `stop_step` whether it is decided: so either phase can be resumed.
    if held_out is None:
        stop_step = jnp.asarray(config.outer_steps, jnp.int32)
        state = dataclasses.replace(state, stop_step=stop_step)
    else:
        if int(state.stop_step) == UNDECIDED:
            stop_step, valid_losses = loop.decide_stop_step(state, known, held_out.targets(config))
            state = dataclasses.replace(init(state.key, family, config), stop_step=stop_step)
    state = loop.advance(state, everything.batches(config, sharding), int(state.stop_step))
    raw = core.raw_scores(state, family, config, everything.archs, sharding=sharding)
    state = _standardised(state, config, raw, everything.truth)
    size = config.ensemble_size
    return state, FitInfo(
        np.reshape([np.asarray(info.loss) for info in loop.record], (-1, size)),
        np.reshape([np.asarray(info.masked) for info in loop.record], (-1, size)).astype(int),
        valid_losses,
        int(state.stop_step),
        core.outer_losses(config, raw, everything.truth),
    )


@dataclasses.dataclass(frozen=True)
class _Loop:
    """The outer steps of one call of `fit`, and what they reported."""

    family: MotifFamily
    config: DishConfig
    on_step: OnStep
    sharding: jax.sharding.Sharding | None
    record: list[OuterInfo]

    def advance(
        self, state: DishState, batches: Callable[[DishState], Batch], until: int
    ) -> DishState:
        """Take outer steps until the state has taken `until` in all."""
        for _ in range(int(state.step), until):
            archs, truth, weights = batches(state)
            state, info = core.outer_step(
                state,
                self.family,
                self.config,
                archs,
                truth,
                weights=weights,
                sharding=self.sharding,
            )
            if not self.record and np.any(np.asarray(info.masked) >= np.sum(weights)):
                raise UserError(NOT_FINITE)
            self.record.append(info)
            self.on_step(state, info)
        return state

    def decide_stop_step(
        self, state: DishState, known: KnownMotifs, held_out: KnownMotifs
    ) -> tuple[Array, dict[int, float]]:
        """Learn from the known motifs and look at the held-out ones now and then.

        Returns:
          The outer step, int32 `[]`, at which the held-out loss was smallest; and the losses by
          the step at which this call looked.
        """
        batches = known.batches(self.config, self.sharding)
        every, last = self.config.valid_every, self.config.outer_steps
        losses = {}
        while True:
            step = int(state.step)
            if step % every == 0 or step == last:  # a resumed state may be between two looks
                state, losses[step] = self._look(state, held_out)
            if step >= last:
                return state.best_step, losses
            state = self.advance(state, batches, min(step - step % every + every, last))

    def _look(self, state: DishState, held_out: KnownMotifs) -> tuple[DishState, float]:
        """Measure the held-out outer loss, and remember in the state where it was smallest."""
        raw = core.raw_scores(
            state, self.family, self.config, held_out.archs, sharding=self.sharding
        )
        loss = float(np.mean(core.outer_losses(self.config, raw, held_out.truth)))
        if loss < float(state.best_loss):
            state = dataclasses.replace(
                state, best_step=state.step, best_loss=jnp.asarray(loss, jnp.float32)
            )
        return state, loss


def _standardised(
    state: DishState, config: DishConfig, raw: np.ndarray, truth: np.ndarray
) -> DishState:
    """Store each member's mean and standard deviation over the known motifs, and its sign."""
    finite = np.isfinite(raw)
    masked = np.where(finite, raw, np.nan)
    if not finite.any(axis=1).all():
        raise UserError(NOT_FINITE)
    masked = masked.astype(float)  # equal float32 scores have equal float64 means: no spread
    mean, std = np.nanmean(masked, axis=1), np.nanstd(masked, axis=1)
    std = np.where(std > 1e-7 * np.nanmax(np.abs(masked), axis=1), std, 1)
    sign = np.ones(len(raw))
    if config.outer_loss == "absolute_pearson":
        covariance = np.nansum((masked - mean[:, None]) * (truth - truth.mean()), axis=1)
        sign = np.where(covariance < 0, -1.0, 1.0)
    return dataclasses.replace(
        state,
        sign=jnp.asarray(sign, jnp.float32),
        mean=jnp.asarray(mean, jnp.float32),
        std=jnp.asarray(std, jnp.float32),
    )

"""The Synthetic Petri Dish: learn data on which tiny motif-networks rank as the real ones do.

Rawal et al., section 3. This is the only file that maps over motifs (M) and
over independent dishes (E). Scores are higher-is-better everywhere.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from spd_jax.axes import Archs, Array, Key, Params
from spd_jax.dish import inner_loop, losses
from spd_jax.dish.config import RATES, DishConfig, check, outer_rate_factor, with_rates
from spd_jax.dish.inner_loop import SyntheticData
from spd_jax.dish.known import KnownMotifs, padded
from spd_jax.dish.state import (
    UNDECIDED,
    DishState,
    OuterInfo,
    init,
    learned_fields,
    outer_adam,
    with_learned,
)
from spd_jax.errors import UserError
from spd_jax.motif import MotifFamily

__all__ = [
    "DishConfig",
    "DishState",
    "FitInfo",
    "OuterInfo",
    "check",
    "fit",
    "init",
    "outer_losses",
    "outer_step",
    "predict",
    "raw_scores",
]

PREDICT_CHUNK = 256  # motifs in one program: the inner loop's arrays stay in cache


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


def _member_rates(config: DishConfig) -> dict[str, Array]:
    """Return every rate as `[E]`, to be mapped over members."""
    return {
        name: jnp.broadcast_to(
            jnp.asarray(getattr(config, name), jnp.float32), (config.ensemble_size,)
        )
        for name in RATES
    }


def _member_keys(state: DishState) -> Key:
    return jax.vmap(lambda member: jax.random.fold_in(state.key, member))(
        jnp.arange(state.sign.shape[0])
    )


@functools.partial(jax.jit, static_argnames="family")
def outer_step(
    state: DishState,
    family: MotifFamily,
    config: DishConfig,
    archs: Archs,
    ground_truth: ArrayLike,
    *,
    weights: ArrayLike | None = None,
) -> tuple[DishState, OuterInfo]:
    """Take one step on the synthetic data (equations 2 and 3).

    The gradient goes through the whole inner training of every motif. A motif
    whose score or gradient is not finite is left out and counted.

    Args:
      state: where the dish is.
      family: the motif-network; static.
      config: settings; counts static, rates traced.
      archs: motifs, axis M in front.
      ground_truth: `[M]`, higher is better.
      weights: `[M]`, 0 for padding; `None` counts every motif.

    Returns:
      The next state, and what the step saw.
    """
    truth = jnp.asarray(ground_truth, jnp.float32)
    weights = jnp.ones_like(truth) if weights is None else jnp.asarray(weights, jnp.float32)

    def member(params: Params, data: SyntheticData, rates: dict[str, Array], key: Key) -> Any:
        member_config = with_rates(config, rates)
        gradient, info = _outer_gradient(
            family, member_config, params, data, key, archs, truth, weights
        )
        rate = member_config.outer_learning_rate * outer_rate_factor(member_config, state.step)
        return gradient, info, rate

    gradient, info, rate = jax.vmap(member)(
        state.params, state.data, _member_rates(config), _member_keys(state)
    )
    updates, optimiser = outer_adam().update(gradient, state.optimiser)
    learned = jax.tree.map(
        lambda x, u: x - u * rate.reshape(-1, *[1] * (u.ndim - 1)),
        learned_fields(state.data, config),
        updates,
    )
    learned = {
        name: jnp.clip(x, 0, 1) if name.endswith("labels") else x for name, x in learned.items()
    }
    data = with_learned(state.data, learned, config)
    return dataclasses.replace(state, data=data, optimiser=optimiser, step=state.step + 1), info


def _outer_gradient(
    family: MotifFamily,
    config: DishConfig,
    params: Params,
    data: SyntheticData,
    key: Key,
    archs: Archs,
    truth: Array,
    weights: Array,
) -> tuple[dict[str, Array], OuterInfo]:
    """Return one member's gradient of the outer loss in the learned data.

    Each motif has a copy of the data, so that its part of the gradient stays
    apart until a motif that is not finite has been left out: summed at once,
    0 * NaN would spoil the others.
    """
    learned = learned_fields(data, config)

    def motif_scores(copies: dict[str, Array]) -> Array:
        def one(copy: dict[str, Array], arch: Any) -> Array:
            return inner_loop.score(
                family, config, params, arch, with_learned(data, copy, config), key
            )

        return jax.vmap(one)(copies, archs)

    count = truth.shape[0]
    copies = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), learned)
    scores, pullback = jax.vjp(motif_scores, copies)
    # Motifs do not mix yet: row m is the gradient of score m in its own copy of the data.
    (by_motif,) = pullback(jnp.ones_like(scores))
    whole = functools.reduce(
        jnp.logical_and,
        [jnp.all(jnp.isfinite(g.reshape(count, -1)), axis=1) for g in jax.tree.leaves(by_motif)],
        jnp.isfinite(scores),
    )
    counted = jnp.where(whole, weights, 0)
    loss, score_gradient = jax.value_and_grad(losses.OUTER_LOSSES[config.outer_loss])(
        jnp.where(whole, scores, 0), truth, counted
    )
    gradient = {
        name: jnp.tensordot(
            score_gradient, jnp.where(whole.reshape(-1, *[1] * (g.ndim - 1)), g, 0), axes=1
        )
        + (2 * config.outer_l2 * learned[name] if name.endswith("inputs") else 0)
        for name, g in by_motif.items()
    }
    masked = jnp.sum((weights > 0) & ~whole, dtype=jnp.int32)
    return gradient, OuterInfo(loss, scores, masked)


@functools.partial(jax.jit, static_argnames="family")
def _raw_scores(state: DishState, family: MotifFamily, config: DishConfig, archs: Archs) -> Array:
    """Return raw scores `[E, M]`."""

    def member(params: Params, data: SyntheticData, rates: dict[str, Array], key: Key) -> Array:
        member_config = with_rates(config, rates)
        return jax.vmap(
            lambda arch: inner_loop.score(family, member_config, params, arch, data, key)
        )(archs)

    return jax.vmap(member)(state.params, state.data, _member_rates(config), _member_keys(state))


def raw_scores(
    state: DishState,
    family: MotifFamily,
    config: DishConfig,
    archs: Archs,
    *,
    chunk: int = PREDICT_CHUNK,
    sharding: jax.sharding.Sharding | None = None,
) -> np.ndarray:
    """Return every member's raw scores `[E, M]` float32, chunk by chunk on the host.

    Args:
      state: a dish, fitted or not.
      family: the motif-network.
      config: settings.
      archs: any number of motifs, axis M in front.
      chunk: motifs in one compiled program; fewer motifs are padded to a power of two.
      sharding: where each chunk's motif axis lies, for several devices.
    """
    leaves = jax.tree.leaves(archs)
    if not leaves or not np.shape(leaves[0]):
        raise UserError("archs have no motif axis: put the axis M in front of every array")
    count = np.shape(leaves[0])[0]
    if count == 0 or chunk < 1:
        raise UserError(f"{count} motifs in chunks of {chunk}: give at least one of each")
    devices = 1 if sharding is None else len(sharding.device_set)
    chunk = min(chunk, 1 << (count - 1).bit_length())
    chunk = -(-chunk // devices) * devices
    archs = jax.tree.map(np.asarray, archs)
    parts = []
    for start in range(0, count, chunk):
        part = padded(jax.tree.map(lambda x: x[start : start + chunk], archs), chunk)  # noqa: B023
        part = jax.device_put(part, sharding)
        parts.append(_raw_scores(state, family, config, part))
    return np.concatenate([np.asarray(part) for part in parts], axis=1)[:, :count]


def predict(
    state: DishState,
    family: MotifFamily,
    config: DishConfig,
    archs: Archs,
    *,
    per_member: bool = False,
    chunk: int = PREDICT_CHUNK,
    sharding: jax.sharding.Sharding | None = None,
) -> np.ndarray:
    """Score motifs, higher is better (section 3.2).

    Each member's raw scores are standardised by what `fit` stored; a motif
    whose training is not finite scores minus infinity.

    Args:
      state: a dish, fitted or not.
      family: the motif-network.
      config: the settings of `init`.
      archs: any number of motifs, axis M in front.
      per_member: return `[E, M]` and not the median over members.
      chunk: see `raw_scores`.
      sharding: see `raw_scores`.

    Returns:
      float32 scores `[M]`, or `[E, M]`.
    """
    raw = raw_scores(state, family, config, archs, chunk=chunk, sharding=sharding)
    sign, mean, std = (np.asarray(x)[:, None] for x in (state.sign, state.mean, state.std))
    finite = np.isfinite(raw)
    scores = np.where(finite, sign * (np.where(finite, raw, 0) - mean) / std, -np.inf)
    return scores if per_member else np.median(scores, axis=0)


def fit(
    state: DishState,
    family: MotifFamily,
    config: DishConfig,
    archs: Archs,
    ground_truth: ArrayLike,
    *,
    valid_archs: Archs | None = None,
    valid_ground_truth: ArrayLike | None = None,
    on_step: Callable[[DishState, OuterInfo], None] = lambda state, info: None,
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
      UserError: fewer than two usable motifs, lengths that disagree, or a dish in which
        no motif's training is finite.
    """
    check(config)
    known = KnownMotifs.of(archs, ground_truth, config, sharding)
    everything, held_out, valid_losses = known, None, {}
    if valid_archs is not None:
        held_out = KnownMotifs.of(valid_archs, valid_ground_truth, config, sharding)
        everything = known.joined(held_out)
    record: list[OuterInfo] = []

    def advance(state: DishState, known: "KnownMotifs") -> DishState:
        batch, truth, weights = known.batch(state)
        state, info = outer_step(state, family, config, batch, truth, weights=weights)
        if not record and np.any(np.asarray(info.masked) >= np.sum(weights)):
            raise UserError(
                "no motif's inner training is finite: lower inner_learning_rate or init_scale"
            )
        record.append(info)
        on_step(state, info)
        return state

    if held_out is None:  # also a larger budget than the state had
        state = dataclasses.replace(state, stop_step=jnp.asarray(config.outer_steps, jnp.int32))
    if int(state.stop_step) == UNDECIDED and held_out is not None:
        while True:
            if int(state.step) % config.valid_every == 0 or int(state.step) == config.outer_steps:
                state, valid_loss = _look_at_held_out(state, family, config, held_out)
                valid_losses[int(state.step)] = valid_loss
            if int(state.step) >= config.outer_steps:
                break
            state = advance(state, known)
        state = dataclasses.replace(init(state.key, family, config), stop_step=state.best_step)
    while int(state.step) < int(state.stop_step):
        state = advance(state, everything)
    raw = raw_scores(state, family, config, everything.archs, sharding=sharding)
    state = _standardised(state, config, raw, everything.truth)
    size = config.ensemble_size
    return state, FitInfo(
        np.reshape([np.asarray(info.loss) for info in record], (-1, size)),
        np.reshape([np.asarray(info.masked) for info in record], (-1, size)).astype(int),
        valid_losses,
        int(state.stop_step),
        outer_losses(config, raw, everything.truth),
    )


def _look_at_held_out(
    state: DishState, family: MotifFamily, config: DishConfig, held_out: "KnownMotifs"
) -> tuple[DishState, float]:
    """Measure the held-out outer loss and remember its smallest value."""
    raw = raw_scores(state, family, config, held_out.archs, sharding=held_out.sharding)
    valid_loss = float(np.mean(outer_losses(config, raw, held_out.truth)))
    if valid_loss < float(state.best_loss):
        state = dataclasses.replace(
            state, best_step=state.step, best_loss=jnp.asarray(valid_loss, jnp.float32)
        )
    return state, valid_loss


def outer_losses(config: DishConfig, raw: ArrayLike, truth: ArrayLike) -> np.ndarray:
    """Return the outer loss `[E]` of raw scores `[E, M]`; one that is not finite is the worst."""
    raw = np.asarray(raw, np.float32)
    finite = np.isfinite(raw)
    worst = np.min(np.where(finite, raw, np.inf), axis=1, keepdims=True)
    filled = jnp.asarray(np.where(finite, raw, np.where(np.isfinite(worst), worst, 0)))
    truth = jnp.asarray(truth, jnp.float32)
    loss = functools.partial(losses.OUTER_LOSSES[config.outer_loss], weights=jnp.ones_like(truth))
    return np.asarray(jax.vmap(loss, in_axes=(0, None))(filled, truth))


def _standardised(
    state: DishState, config: DishConfig, raw: np.ndarray, truth: np.ndarray
) -> DishState:
    """Store each member's mean and standard deviation over the known motifs, and its sign."""
    finite = np.isfinite(raw)
    masked = np.where(finite, raw, np.nan)
    if not finite.any(axis=1).all():
        raise UserError("no motif's inner training is finite: lower inner_learning_rate")
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

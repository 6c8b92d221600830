"""The Synthetic Petri Dish: learn data on which tiny motif-networks rank as the real ones do.

Rawal et al., section 3. Everything else in the package is written for one motif and one dish;
this file maps it over motifs (axis M) and over independent dishes (axis E, the ensemble's
members). Scores are higher-is-better everywhere.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from spd_jax import archs as archs_lib
from spd_jax.axes import Archs, Array, Key, Params
from spd_jax.checks import is_count
from spd_jax.dish import devices, inner_loop, losses
from spd_jax.dish.config import RATES, DishConfig, outer_rate_factor, with_rates
from spd_jax.dish.inner_loop import InnerCurves, SyntheticData
from spd_jax.dish.state import (
    DishState,
    OuterInfo,
    learned_fields,
    outer_adam,
    unfitted,
    with_learned,
)
from spd_jax.errors import UserError
from spd_jax.motif import MotifFamily

SEQUENTIAL_CHUNK = 8  # on each device; padding is trained, too, and nothing is gained by more


class _Member(NamedTuple):
    """What one member brings to the training of a motif; with axis E in front, all members.

    Attributes:
      params: initial weights.
      data: synthetic data.
      rates: the rates of `DishConfig`.
      key: decides the inner minibatches.
    """

    params: Params
    data: SyntheticData
    rates: dict[str, Array]
    key: Key


def _member_rates(config: DishConfig) -> dict[str, Array]:
    """Return every rate as `[E]`, to be mapped over members."""
    return {
        name: jnp.broadcast_to(jnp.asarray(getattr(config, name), float), (config.ensemble_size,))
        for name in RATES
    }


def _member_keys(state: DishState) -> Key:
    return jax.vmap(lambda member: jax.random.fold_in(state.key, member))(
        jnp.arange(state.sign.shape[0])
    )


def _members(state: DishState, config: DishConfig) -> _Member:
    return _Member(state.params, state.data, _member_rates(config), _member_keys(state))


def _initial(family: MotifFamily, config: DishConfig, member: _Member, arch: Any) -> Params:
    """Return the weights that a motif's training starts from.

    Those of its own, where a member's are not shared, are a function of the member's key and of
    the motif's arrays: they are the same at every outer step and in every batch.

    Args:
      family: the motif-network.
      config: settings of the member; its rates are scalars.
      member: see `_Member`.
      arch: one motif.
    """
    if config.shared_weights:
        return member.params
    key = jax.random.fold_in(member.key, 1 << 30)  # minibatches fold in the epoch
    for leaf in jax.tree.leaves(jax.lax.stop_gradient(arch)):
        flat = jnp.ravel(leaf)
        if jnp.issubdtype(flat.dtype, jnp.floating):
            flat = jax.lax.bitcast_convert_type(flat.astype(jnp.float32), jnp.uint32)
        odd = jnp.uint32(2654435761) ** jnp.arange(1, flat.size + 1, dtype=jnp.uint32)
        key = jax.random.fold_in(key, jnp.sum(flat.astype(jnp.uint32) * odd, dtype=jnp.uint32))
    return jax.tree.map(lambda leaf: config.init_scale * leaf, family.init(key))


def _is_sequential(family: MotifFamily) -> bool:
    """Return whether motifs are trained one after another, not side by side.

    Accelerators need many motifs at once to be busy, and compute all branches.
    """
    return family.branching and jax.default_backend() == "cpu"


def _each(
    function: Callable[[_Member, Any], Any],
    members: _Member,
    archs: Archs,
    family: MotifFamily,
    sharding: jax.sharding.Sharding | None,
) -> Any:
    """Return `function(member, arch)` for all members and motifs, axes `[E, M]` in front.

    A loop over motifs has to be told about several devices; what is mapped side by side is
    divided by XLA, which sees where the archs lie.
    """
    if not _is_sequential(family):
        return jax.vmap(lambda member: jax.vmap(lambda arch: function(member, arch))(archs))(
            members
        )

    def loop(members: _Member, archs: Archs) -> Any:
        return jax.lax.map(
            lambda member: jax.lax.map(lambda arch: function(member, arch), archs), members
        )

    if not isinstance(sharding, jax.sharding.NamedSharding):
        return loop(members, archs)
    spec = sharding.spec
    by_member = jax.sharding.PartitionSpec(None, *spec)
    divided = jax.shard_map(
        loop,
        mesh=sharding.mesh,
        in_specs=(jax.sharding.PartitionSpec(), spec),
        out_specs=by_member,
        check_vma=False,
    )
    return divided(members, archs)


@functools.partial(jax.jit, static_argnames=("family", "sharding"))
@devices.full_precision
def outer_step(
    state: DishState,
    family: MotifFamily,
    config: DishConfig,
    archs: Archs,
    ground_truth: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    sharding: jax.sharding.Sharding | None = None,
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
      sharding: where the motif axis lies, for several devices; static.

    Returns:
      The next state, and what the step saw.
    """
    truth = jnp.asarray(ground_truth, jnp.float32)
    weights = jnp.ones_like(truth) if weights is None else jnp.asarray(weights, jnp.float32)

    def one(member: _Member, arch: Any) -> tuple[Array, dict[str, Array]]:
        def score(learned: dict[str, Array]) -> Array:
            data = with_learned(member.data, learned, config)
            own = with_rates(config, member.rates)
            params = _initial(family, own, member, arch)
            return inner_loop.score(family, own, params, arch, data, member.key)

        return jax.value_and_grad(score)(learned_fields(member.data, config))

    def combine(
        member: _Member, scores: Array, by_motif: dict[str, Array]
    ) -> tuple[dict[str, Array], OuterInfo, Array]:
        own = with_rates(config, member.rates)
        learned = learned_fields(member.data, config)
        gradient, info = _outer_gradient(own, learned, scores, by_motif, truth, weights)
        return gradient, info, own.outer_learning_rate * outer_rate_factor(own, state.step)

    members = _members(state, config)
    scores, by_motif = _each(one, members, archs, family, sharding)
    gradient, info, rate = jax.vmap(combine)(members, scores, by_motif)
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
    config: DishConfig,
    learned: dict[str, Array],
    scores: Array,
    by_motif: dict[str, Array],
    truth: Array,
    weights: Array,
) -> tuple[dict[str, Array], OuterInfo]:
    """Return one member's gradient of the outer loss in the learned data.

    Each motif's part of the gradient stays apart until a motif that is not finite has been left
    out: summed at once, 0 * NaN would spoil the others.

    Args:
      config: settings of the member.
      learned: the fields of the data that are learned.
      scores: raw scores `[M]`.
      by_motif: row m is the gradient of score m in the learned data, `[M, ...]`.
      truth: ground truths `[M]`.
      weights: `[M]`, 0 for padding.
    """
    count = truth.shape[0]
    whole = functools.reduce(
        jnp.logical_and,
        [jnp.all(jnp.isfinite(g.reshape(count, -1)), axis=1) for g in by_motif.values()],
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


@functools.partial(jax.jit, static_argnames=("family", "sharding"))
@devices.full_precision
def scores(
    state: DishState,
    family: MotifFamily,
    config: DishConfig,
    archs: Archs,
    *,
    sharding: jax.sharding.Sharding | None = None,
) -> Array:
    """Score motifs inside a traced function: every member's scores, higher is better.

    Pure, so that it may stand in a user's own `jit`, `vmap` and `grad`. It has derivatives in
    reverse mode in the float arrays of the archs, the inner rates of `config` and the arrays of
    the state. New archs, rates or data of the same shapes compile nothing new.

    Args:
      state: a dish, fitted or not.
      family: the motif-network; static.
      config: the settings of `init`; counts static, rates traced.
      archs: motifs, axis M in front. All of them are trained at once; for many, on the host,
        `predict` saves memory.
      sharding: where the motif axis lies, for several devices; static.

    Returns:
      `[E, M]` in standard deviations over the known motifs, or raw scores of a dish that was not
      fitted; minus infinity, with derivative 0 in the score, where a training is not finite.
    """

    def one(member: _Member, arch: Any) -> Array:
        own = with_rates(config, member.rates)
        params = _initial(family, own, member, arch)
        return inner_loop.score(family, own, params, arch, member.data, member.key)

    raw = _each(one, _members(state, config), archs, family, sharding)
    return _standardised(raw, state, jnp)


def _standardised(raw: Any, state: DishState, xp: Any) -> Any:
    """Standardise raw scores `[E, M]` by what `fit` stored; `xp` is NumPy or its namesake in JAX.

    The inner `where` keeps NaN out of the derivative, the outer one out of the value.
    """
    sign, mean, std = (xp.asarray(x)[:, None] for x in (state.sign, state.mean, state.std))
    finite = xp.isfinite(raw)
    return xp.where(finite, sign * (xp.where(finite, raw, 0) - mean) / std, -xp.inf)


def raw_scores(
    state: DishState,
    family: MotifFamily,
    config: DishConfig,
    archs: Archs,
    *,
    chunk: int | None = None,
    sharding: jax.sharding.Sharding | None = None,
) -> np.ndarray:
    """Return every member's scores before they are standardised, chunk by chunk on the host.

    Args:
      state: a dish, fitted or not.
      family: the motif-network.
      config: the settings of `init`.
      archs: any number of motifs, axis M in front.
      chunk: motifs in one compiled program; fewer motifs are padded to a power of two. `None`:
        what suits the device, see `devices.chunk`.
      sharding: where each chunk's motif axis lies, for several devices.

    Returns:
      `[E, M]` float32, minus infinity where a motif's training is not finite.

    Raises:
      UserError: no motifs, or arrays that disagree about their number.
    """
    state = unfitted(state)

    def chunk_scores(part: Archs) -> Array:
        return scores(state, family, config, part, sharding=sharding)

    return np.concatenate(_by_chunk(chunk_scores, archs, family, chunk, sharding), axis=1)


@functools.partial(jax.jit, static_argnames=("family", "every", "sharding"))
@devices.full_precision
def _curves(
    state: DishState,
    family: MotifFamily,
    config: DishConfig,
    archs: Archs,
    every: int,
    sharding: jax.sharding.Sharding | None,
) -> tuple[Array, Array, Array]:
    def one(member: _Member, arch: Any) -> tuple[Array, Array, Array]:
        own = with_rates(config, member.rates)
        params = _initial(family, own, member, arch)
        return inner_loop.curves(family, own, params, arch, member.data, member.key, every)

    return _each(one, _members(state, config), archs, family, sharding)


def inner_curves(
    state: DishState,
    family: MotifFamily,
    config: DishConfig,
    archs: Archs,
    *,
    every: int = 1,
    chunk: int | None = None,
    sharding: jax.sharding.Sharding | None = None,
) -> InnerCurves:
    """Return how every motif's network does during its inner training, chunk by chunk.

    Args:
      state: a dish, fitted or not; the other arguments as those of `raw_scores`.
      family: see `state`.
      config: see `state`.
      archs: see `state`.
      every: inner steps between two looks, such as those of an inner epoch. The last step is
        always looked at.
      chunk: see `state`.
      sharding: see `state`.

    Returns:
      Curves `[E, M, T']` in NumPy. Their last valid loss is minus the raw score under
      `inner_metric="loss"`, up to rounding.

    Raises:
      UserError: what `raw_scores` refuses, or an `every` that is not from 1 to `inner_steps`.
    """
    if not is_count(every, 1) or every > config.inner_steps:
        raise UserError(
            f"every={every!r} must be a whole number from 1 to inner_steps={config.inner_steps}"
        )

    def chunk_curves(part: Archs) -> Any:
        return _curves(state, family, config, part, every, sharding)

    parts = _by_chunk(chunk_curves, archs, family, chunk, sharding)
    joined = (np.concatenate(of_all, axis=1) for of_all in zip(*parts, strict=True))
    steps = np.asarray(inner_loop.looks(config.inner_steps, every), np.int32)
    return InnerCurves(steps, *joined)


def _by_chunk(
    function: Callable[[Archs], Any],
    archs: Archs,
    family: MotifFamily,
    chunk: int | None,
    sharding: jax.sharding.Sharding | None,
) -> list[Any]:
    """Return what a function of a chunk of archs returns, `[E, m, ...]` in NumPy, chunk by chunk.

    All chunks have one size, so that one program serves them; padding is cut off the results.
    """
    count = archs_lib.count(archs)
    if count == 0 or (chunk is not None and chunk < 1):
        raise UserError(f"{count} motifs in chunks of {chunk}: give at least one of each")
    spread = 1 if sharding is None else len(sharding.device_set)
    if chunk is None:
        chunk = devices.chunk(function, archs_lib.take(archs, slice(0, 1)))
    if _is_sequential(family):
        chunk = min(chunk, SEQUENTIAL_CHUNK * spread)
    else:
        chunk = min(chunk, 1 << (count - 1).bit_length())
    chunk = -(-chunk // spread) * spread
    starts, parts = range(0, count, chunk), []
    for start in starts:
        part = archs_lib.padded(archs_lib.take(archs, slice(start, start + chunk)), chunk)
        parts.append(function(jax.device_put(part, sharding)))
    return [
        jax.tree.map(lambda x, start=start: np.asarray(x)[:, : count - start], part)
        for start, part in zip(starts, parts, strict=True)
    ]


def predict(
    state: DishState,
    family: MotifFamily,
    config: DishConfig,
    archs: Archs,
    *,
    per_member: bool = False,
    chunk: int | None = None,
    sharding: jax.sharding.Sharding | None = None,
) -> np.ndarray:
    """Score any number of motifs, higher is better (section 3.2): `scores`, chunk by chunk.

    Args and errors as `raw_scores`, and:
      per_member: return `[E, M]` and not the median over members.

    Returns:
      float32 scores `[M]`, or `[E, M]`: in standard deviations over the known motifs, or raw of
      a dish that was not fitted; minus infinity where a motif's training is not finite.
    """
    raw = raw_scores(state, family, config, archs, chunk=chunk, sharding=sharding)
    # In NumPy, because XLA would multiply by 1 / std: the last bit would differ by device.
    by_member = _standardised(raw, state, np)
    return by_member if per_member else np.median(by_member, axis=0)


def outer_losses(config: DishConfig, raw: ArrayLike, truth: ArrayLike) -> np.ndarray:
    """Return the outer loss `[E]` of raw scores `[E, M]`; one that is not finite is the worst."""
    raw = np.asarray(raw, np.float32)
    finite = np.isfinite(raw)
    worst = np.min(np.where(finite, raw, np.inf), axis=1, keepdims=True)
    filled = jnp.asarray(np.where(finite, raw, np.where(np.isfinite(worst), worst, 0)))
    truth = jnp.asarray(truth, jnp.float32)
    loss = functools.partial(losses.OUTER_LOSSES[config.outer_loss], weights=jnp.ones_like(truth))
    return np.asarray(jax.vmap(loss, in_axes=(0, None))(filled, truth))

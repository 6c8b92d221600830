"""One phase: a network, with candidates or without, trains for some epochs.

A phase is one compiled program per (model, arch, slots that grow); rates, gates, lambda and the
data are its arguments. The parent's part of the network must not notice the candidates: both
are clipped apart, every random number comes from its own path, and no optimiser statistic is
shared (Hu et al., section 4: "without affecting the current model").
"""

import dataclasses
import functools
import math
import operator
import re
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from spd_jax.axes import Array
from spd_jax.errors import check_name
from spd_jax.forward_search.arch import Arch, Edge
from spd_jax.forward_search.scope import AUXILIARY, Recorded, Scope, Weights
from spd_jax.forward_search.weak import Growth

OPTIMISERS = ("sgd", "adam")
SCHEDULES = ("cosine", "decay")
CANDIDATE = re.compile(r"cell(\d+)/learner\d+/(\d+):(\w+)/")  # paths: cell, input, operation
DECAYED = ("kernel", "depthwise", "pointwise", "dense")  # last words of the paths that decay


class Model(Protocol):
    """A network and its data as a phase takes them. Hashable, and static under jit."""

    def __hash__(self) -> int:
        """Return the same number for equal models."""
        ...

    def loss(self, scope: Scope, arch: Arch, batch: Any, growth: Growth | None) -> Array:
        """Return the mean loss of a batch, `[]`."""
        ...

    def batch(self, data: Any, index: Array, key: Array) -> Any:
        """Return a batch of training data, randomly changed where the model does so."""
        ...

    def example(self) -> Any:
        """Return a batch as `jax.ShapeDtypeStruct`s, to record the network."""
        ...


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """How weights move. Static under jit.

    Attributes:
      name: "sgd" with momentum 0.9, or "adam".
      clip: largest global norm of the parent's gradient, and of the candidates'; 0 clips nothing.
      decay: L2 of kernels, added to the gradient as decay * weight.
      coupling: of candidates, one of `weak.COUPLINGS`.
    """

    name: str = "sgd"
    clip: float = 5.0
    decay: float = 3e-4
    coupling: str = "stopped"


class TrainState(NamedTuple):
    """What one step changes.

    Attributes:
      weights: by path.
      averages: by path.
      slopes: optimiser statistics: momentum, and Adam's second moment behind it.
      signals: of each slot that grows, sums over steps `[3, E]` of dL/d alpha without the
        penalty, of its square, and of -alpha dL/d alpha.
      step: steps done, int32 `[]`.
    """

    weights: Weights
    averages: Weights
    slopes: tuple[Weights, ...]
    signals: Weights
    step: Any


class Schedule(NamedTuple):
    """What a phase is given: traced, so that other values compile nothing.

    Attributes:
      rate: of every step of the call `[K]`.
      progress: share of the phase that is over at each step `[K]`.
      penalty: lambda, factor of sum |alpha|, `[]`.
      gate: factor of the candidates' gradients, `[]`.
    """

    rate: Any
    progress: Any
    penalty: Any
    gate: Any


@functools.lru_cache(maxsize=512)
def recorded(
    model: Model, arch: Arch, slots: tuple[str, ...] = (), coupling: str = "stopped"
) -> Recorded:
    """Return the weights, averages and cost of a network whose `slots` have candidates."""
    scope = Scope({}, {}, training=True, key=jax.random.key(0))
    growth = Growth(slots, coupling=coupling) if slots else None
    jax.eval_shape(lambda batch: model.loss(scope, arch, batch, growth), model.example())
    return Recorded(scope.specs, scope.average_specs, _cost(scope))


def _cost(scope: Scope) -> float:
    """Return the multiply-adds of a network; the auxiliary head's are left out."""
    return sum(cost for path, cost in scope.costs.items() if not path.startswith(f"{AUXILIARY}/"))


def start(weights: Weights, averages: Weights, optimiser: Optimiser) -> TrainState:
    """Return a phase before its first step; optimiser statistics begin at zero."""
    zeros = {path: np.zeros_like(array) for path, array in weights.items()}
    slopes = (zeros,) if optimiser.name == "sgd" else (zeros, zeros)
    signals = {
        path.removeprefix("alpha/"): np.zeros((3, len(array)), array.dtype)
        for path, array in weights.items()
        if path.startswith("alpha/")
    }
    return TrainState(weights, averages, slopes, signals, np.int32(0))


def rates(schedule: str, rate: float, epochs: int, steps: int) -> np.ndarray:
    """Return the rate at every step of a phase, float32 `[epochs * steps]`.

    Args:
      schedule: "cosine" falls from `rate` to 0 as a half cosine (the paper's, for images);
        "decay" is multiplied by 0.8 for every epoch after the sixth (the released code's, for
        texts).
      rate: at the start.
      epochs: of the phase.
      steps: of an epoch.
    """
    check_name("schedule", schedule, SCHEDULES)
    share = np.arange(epochs * steps) / max(epochs * steps, 1)
    if schedule == "cosine":
        return (0.5 * rate * (1 + np.cos(math.pi * share))).astype(np.float32)
    late = np.maximum(np.arange(epochs * steps) // max(steps, 1) - 5, 0)
    return (rate * 0.8**late).astype(np.float32)


# On GPUs XLA stops with a failed check where it fuses the many 1 x 1 convolutions of a weak
# training into Triton's matrix products (jax 0.11.2, H200); cuBLAS computes them as fast.
COMPILER_OPTIONS = {"xla_gpu_enable_triton_gemm": False}


@functools.partial(
    jax.jit,
    static_argnames=("model", "arch", "slots", "optimiser"),
    donate_argnums=(0,),
    compiler_options=COMPILER_OPTIONS,
)
def train_steps(
    state: TrainState,
    data: Any,
    indices: Array,
    key: Array,
    schedule: Schedule,
    *,
    model: Model,
    arch: Arch,
    slots: tuple[str, ...],
    optimiser: Optimiser,
) -> tuple[TrainState, Array]:
    """Take K steps.

    Args:
      state: donated, so that it cannot be used afterwards.
      data: as `model.batch` takes them.
      indices: of K batches, `[K, ...]`.
      key: of the phase; a step's is its `fold_in` with the number of steps done.
      schedule: of the K steps.
      model: static.
      arch: static.
      slots: that have candidates.
      optimiser: static.

    Returns:
      The state, and the losses `[K]` without the penalty.
    """
    plain = set(recorded(model, arch).weights)

    def one(state: TrainState, now: tuple[Array, Array, Array]) -> tuple[TrainState, Array]:
        index, rate, progress = now
        batch_key, net_key = jax.random.split(jax.random.fold_in(key, state.step))
        batch = model.batch(data, index, batch_key)
        growth = Growth(slots, schedule.gate, optimiser.coupling) if slots else None

        def loss(weights: Weights) -> tuple[Array, Weights]:
            scope = Scope(weights, state.averages, True, net_key, progress)
            return model.loss(scope, arch, batch, growth), scope.moved

        (value, moved), gradient = jax.value_and_grad(loss, has_aux=True)(state.weights)
        signals = _signals(state, gradient)
        gradient = _penalised(gradient, state.weights, schedule.penalty)
        gradient = _decayed(gradient, state.weights, optimiser)
        gradient = _clipped(_without_broken(gradient, arch, slots, plain), plain, optimiser)
        weights, slopes = _moved(state, gradient, rate, optimiser)
        averages = {**state.averages, **moved}
        return TrainState(weights, averages, slopes, signals, state.step + 1), value

    steps = (indices, schedule.rate, schedule.progress)
    if len(indices) == 1:
        state, value = one(state, jax.tree.map(operator.itemgetter(0), steps))
        return state, value[None]
    return jax.lax.scan(one, state, steps)


def _signals(state: TrainState, gradient: Weights) -> Weights:
    """Add what a step says of each candidate: see `TrainState`."""
    found = {}
    for slot, sums in state.signals.items():
        own, alpha = gradient[f"alpha/{slot}"], state.weights[f"alpha/{slot}"]
        found[slot] = sums + jnp.stack([own, own**2, -alpha * own])
    return found


def _penalised(gradient: Weights, weights: Weights, penalty: Array) -> Weights:
    """Add the gradient of penalty * sum |alpha|, once for each slot."""
    return {
        path: own + penalty * jnp.sign(weights[path]) if path.startswith("alpha/") else own
        for path, own in gradient.items()
    }


def _decayed(gradient: Weights, weights: Weights, optimiser: Optimiser) -> Weights:
    """Add the gradient of decay / 2 * sum of squares of kernels."""
    return {
        path: own + optimiser.decay * weights[path] if _decays(path) else own
        for path, own in gradient.items()
    }


def _decays(path: str) -> bool:
    return path.rpartition("/")[2] in DECAYED


def _without_broken(
    gradient: Weights, arch: Arch, slots: tuple[str, ...], plain: set[str]
) -> Weights:
    """Set the gradients of candidates whose squared norm is not finite to 0.

    All candidates are clipped by one norm, so that one of them would destroy the others. The
    parent's gradients stay as they are: it must not notice.
    """
    leaves: dict[tuple[str, int], list[str]] = {}
    for path in gradient:
        if path not in plain and (found := CANDIDATE.match(path)):
            edge = Edge(int(found[2]), found[3])
            leaves.setdefault((arch.slot(int(found[1])), arch.number(edge)), []).append(path)
    mended = dict(gradient)
    for slot in slots:
        own = gradient[f"alpha/{slot}"]
        norms = [
            sum((jnp.sum(gradient[path] ** 2) for path in leaves.get((slot, place), [])), alpha**2)
            for place, alpha in enumerate(own)
        ]
        whole = jnp.isfinite(jnp.stack(norms))
        mended[f"alpha/{slot}"] = jnp.where(whole, own, 0.0)
        for place, kept in enumerate(whole):
            for path in leaves.get((slot, place), []):
                mended[path] = jnp.where(kept, gradient[path], 0.0)
    return mended


def _clipped(gradient: Weights, plain: set[str], optimiser: Optimiser) -> Weights:
    """Clip the parent's part and the candidates' apart."""
    if not optimiser.clip:
        return gradient
    factors = {}
    for is_plain in (True, False):
        squares = [jnp.sum(own**2) for path, own in gradient.items() if (path in plain) == is_plain]
        norm = jnp.sqrt(sum(squares)) if squares else jnp.ones(())
        factors[is_plain] = jnp.minimum(1.0, optimiser.clip / jnp.maximum(norm, 1e-12))
    return {path: factors[path in plain] * own for path, own in gradient.items()}


def _moved(
    state: TrainState, gradient: Weights, rate: Array, optimiser: Optimiser
) -> tuple[Weights, tuple[Weights, ...]]:
    """Return weights after one step, and the optimiser's statistics."""
    if optimiser.name == "sgd":
        slope = {path: 0.9 * state.slopes[0][path] + own for path, own in gradient.items()}
        return {path: own - rate * slope[path] for path, own in state.weights.items()}, (slope,)
    count = (state.step + 1).astype(rate.dtype)
    first = {path: 0.9 * state.slopes[0][path] + 0.1 * own for path, own in gradient.items()}
    second = {p: 0.999 * state.slopes[1][p] + 0.001 * own**2 for p, own in gradient.items()}
    factor = rate * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
    weights = {
        path: own - factor * first[path] / (jnp.sqrt(second[path]) + 1e-8)
        for path, own in state.weights.items()
    }
    return weights, (first, second)


def gains(
    model: Model,
    arch: Arch,
    slots: tuple[str, ...],
    weights: Weights,
    averages: Weights,
    batches: Any,
    coupling: str = "stopped",
) -> dict[str, np.ndarray]:
    """Return how much each candidate's best projection could gain, to first order.

    Equation 8 with a matrix in place of alpha: a candidate joins through a 1 x 1 projection A,
    and dL/dA = sum(op^T dL/dx_k) at A = 0. The Frobenius norm of the mean over batches is the
    rate at which a step along it lowers the loss; alpha sees the trace alone. Ours.

    Args:
      model: of the network.
      arch: likewise.
      slots: that have candidates.
      weights: those of the candidates among them.
      averages: not used to normalise, since batches are normalised by themselves.
      batches: several batches, with an axis in front.
      coupling: of the candidates.

    Returns:
      By slot float64 `[E]`: norms, added up in squares over the slot's cells.
    """
    mean = _probe(
        weights, averages, batches, model=model, arch=arch, slots=slots, coupling=coupling
    )
    found = {slot: np.zeros(len(arch.candidates(slot))) for slot in slots}
    for path, own in mean.items():
        found[arch.slot(int(path[4:]))] += np.sum(np.asarray(own, float) ** 2, (1, 2))
    return {slot: np.sqrt(own) for slot, own in found.items()}


@functools.partial(
    jax.jit,
    static_argnames=("model", "arch", "slots", "coupling"),
    compiler_options=COMPILER_OPTIONS,
)
def _probe(
    weights: Weights,
    averages: Weights,
    batches: Any,
    *,
    model: Model,
    arch: Arch,
    slots: tuple[str, ...],
    coupling: str,
) -> Weights:
    """Return the mean gradient of every cell's probe, `[E, C, C]`."""
    widths = {
        f"cell{c}": weights[f"cell{c}/body/first/pointwise"].shape[0]
        for c in range(len(arch.kinds))
        if arch.slot(c) in slots
    }
    zeros = {
        path: jnp.zeros((len(arch.candidates(arch.slot(int(path[4:])))), width, width))
        for path, width in widths.items()
    }

    def loss(probes: Weights, batch: Any) -> Array:
        scope = Scope(weights, averages, training=True, key=jax.random.key(0))
        return model.loss(scope, arch, batch, Growth(slots, 1.0, coupling, probes))

    def add(total: Weights, batch: Any) -> tuple[Weights, None]:
        return jax.tree.map(jnp.add, total, jax.grad(loss)(zeros, batch)), None

    count = jax.tree.leaves(batches)[0].shape[0]
    total, _ = jax.lax.scan(add, zeros, batches)
    return jax.tree.map(lambda own: own / count, total)

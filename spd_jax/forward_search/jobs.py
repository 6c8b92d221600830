"""Jobs of a search: one training each, run here or by a worker, with its weights in a file.

A job is plain data, and its result a function of it: so a job may be run again after a kill,
and its result does not depend on who ran it.
"""

import dataclasses
import functools
import hashlib
import json
import math
import pathlib
import time
from collections.abc import Container, Hashable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from spd_jax import files
from spd_jax.errors import UserError
from spd_jax.forward_search import dish_selector, selection, training
from spd_jax.forward_search import scope as scope_lib
from spd_jax.forward_search.arch import Arch, from_json
from spd_jax.forward_search.scope import Weights
from spd_jax.forward_search.training import Model, Optimiser, Schedule, TrainState
from spd_jax.ledger import Evaluation

TRAINED = ("seed", "child", "longer", "scratch")
KINDS = (*TRAINED, "weak", *selection.RANKED)
KIND = "forward_search"  # of files of weights
MOST_STEPS = 64  # of one call of the compiled program, on an accelerator
PROBE_BATCHES = 8  # that gains of candidates are measured on
# Every compiled program takes some of the memory maps that a process may have (65,530 on Linux);
# without any left, LLVM ends it by a segmentation fault. A network of preset digits takes some 300,
# one of preset cifar10_cpu with all candidates 1,400, one of the paper's size more.
MOST_NETWORKS = 20  # whose programs are kept
SEPARATOR = "|"
# Fields of a `Training` that decide no score: the data have an identity of their own, and all
# forms of a convolution compute the same. A ledger has the seed beside the fingerprint.
FREE = frozenset({"folder", "seed", "data_dir", "conv_form"})
# Fields that a network without candidates and learners does not use.
OF_GROWTH = frozenset({"penalty", "gate", "coupling", "merge", "candidate_scale"})


class Problem(Protocol):
    """Networks and data of a search. Picklable and hashable."""

    model: Any
    unit: str

    @property
    def count(self) -> int:
        """Return the number of training images, or of sequences."""
        ...

    def training_data(self) -> Any:
        """Return what `model.batch` takes batches from."""
        ...

    def measure(
        self, arch: Arch, weights: Weights, averages: Weights, part: str
    ) -> tuple[float, float]:
        """Return error (lower is better) and cross-entropy on the part "valid" or "test"."""
        ...

    def score(self, error: float, cross_entropy: float) -> float:
        """Return the score, higher is better."""
        ...

    def floor(self) -> float:
        """Return the smallest error that a hull may hold."""
        ...

    def identity(self) -> str:
        """Return a text that the data decide."""
        ...


@dataclasses.dataclass(frozen=True)
class Job:
    """One training.

    Equal jobs of equal trainings have equal results: two searches of one run that begin alike,
    such as one that selects by |alpha| and one that selects at random, share what they share.

    Attributes:
      number: in the order of submission, from 0; random numbers depend on it.
      kind: one of `KINDS`: the search's first training, a child's, or a control's: a model that
        trains longer, or a network from scratch; a weak training; or a look at its candidates,
        see `selection.RANKED`.
      arch: of the network; in a weak training the parent's, to which candidates are added.
      epochs: of the training.
      source: name of the job whose weights are inherited; None begins anew.
      parent: number of the model that it grew from; None has none.
      growth: number of the growth that it belongs to; 0 is before any.
      slots: that get candidates, or whose candidates are looked at.
    """

    number: int
    kind: str
    arch: Arch
    epochs: int
    source: str | None = None
    parent: int | None = None
    growth: int = 0
    slots: tuple[str, ...] = ()

    @functools.cached_property
    def name(self) -> str:
        """Return the kind and 12 hexadecimal digits: no other job has this name of its files."""
        described = [self.number, self.kind, str(self.arch), self.epochs, self.source]
        text = json.dumps([*described, list(self.slots)])
        return f"{self.kind}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@dataclasses.dataclass(frozen=True)
class Training:
    """How the jobs of one search train. Picklable.

    Attributes:
      problem: networks and data.
      folder: where weights are kept.
      seed: of the search; a job's own is derived from it and its number.
      optimiser: of all phases.
      rate: at the start of every phase.
      schedule: of the rate in a phase, one of `training.SCHEDULES`.
      penalty: lambda.
      gate: factor of the candidates' gradients.
    """

    problem: Any
    folder: str
    seed: int
    optimiser: Optimiser = Optimiser()
    rate: float = 0.05
    schedule: str = "cosine"
    penalty: float = 1e-3
    gate: float = 1.0

    def fingerprint(self, kind: str) -> str:
        """Return 16 hexadecimal digits that change with whatever a job's score depends on.

        Args:
          kind: of the job: searches that differ in their growing alone share a trained seed.
        """
        return self._fingerprints[kind == "seed"]

    @functools.cached_property
    def _fingerprints(self) -> tuple[str, str]:
        """Return the fingerprint of whatever grows, and that of a seed."""
        identity = [type(self.problem).__name__, self.problem.identity()]
        texts = [
            json.dumps([_without(names, files.to_json(self)), *identity])
            for names in (FREE, FREE | OF_GROWTH)
        ]
        one, other = (hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts)
        return one, other

    def path(self, name: str) -> pathlib.Path:
        """Return the file of the weights of the job with a name."""
        folder = f"{self.fingerprint(name.partition('_')[0])}_seed{self.seed}"
        return pathlib.Path(self.folder) / folder / f"{name}.npz"

    def job_seed(self, job: Job) -> list[int]:
        """Return the seed of a job's weights and batches."""
        return [self.seed, job.number]


def _without(names: Container[str], described: Any) -> Any:
    """Return plain data without the fields of some names, at any depth."""
    if not isinstance(described, dict):
        return described
    return {name: _without(names, own) for name, own in described.items() if name not in names}


def run(training_: Training, job: Job) -> Evaluation:
    """Train, write the weights, and return what was measured; or look at candidates.

    Scores are on validation data, test scores beside them; nothing here looks at the latter.

    Returns:
      A failed evaluation where the loss, a score or a cross-entropy is not finite, or where no
      candidate has a finite score. `info` holds error,
      cross_entropy, train_loss, multiply_adds and parameters of the network, train_multiply_adds
      (of the whole training, forward passes), images (of the training) and, of a weak training,
      `scores` (see `selection.scores_of`). The score of a look is its best candidate's.

    Raises:
      UserError: data or inherited weights are missing.
    """
    began = time.perf_counter()
    _make_room(training_, job)
    if job.kind in selection.RANKED:
        return _ranked(training_, job, began)
    problem, arch = training_.problem, job.arch
    need = training.recorded(problem.model, arch, job.slots, training_.optimiser.coupling)
    weights, averages = _first(training_, job, need)
    state, losses = train(training_, job, weights, averages)
    weights, averages = jax.device_get((state.weights, state.averages))
    plain = training.recorded(problem.model, arch)
    measured = [
        problem.measure(
            arch,
            {path: weights[path] for path in plain.weights},
            {path: averages[path] for path in plain.averages},
            part,
        )
        for part in ("valid", "test")
    ]
    info = _info(problem, job, plain, need, measured, losses)
    if job.slots:
        alphas = {slot: weights[f"alpha/{slot}"] for slot in job.slots}
        signals = jax.device_get(state.signals)
        info["scores"] = selection.scores_of(alphas, signals, int(state.step))
        info["alphas"] = {slot: np.asarray(own, float).tolist() for slot, own in alphas.items()}
    save(training_.path(job.name), arch, weights, averages)
    seconds = time.perf_counter() - began
    scores = [problem.score(*own) for own in measured]
    why = _failure(info, [*scores, *np.ravel(measured), *losses[-1:]])
    if why:
        return Evaluation("failed", seconds=seconds, error=why, info=info)
    return Evaluation("ok", scores[0], scores[1], seconds=seconds, unit=problem.unit, info=info)


_compiled: set[Hashable] = set()  # the networks whose programs this process keeps


def _make_room(training_: Training, job: Job) -> None:
    """Forget all compiled programs before a job whose network is one too many.

    One that returns is compiled anew, to the same results.
    """
    network = (training_.problem.model, training_.optimiser, job.arch, job.slots, job.kind)
    if len(_compiled - {network}) >= MOST_NETWORKS:
        jax.clear_caches()
        _compiled.clear()
    _compiled.add(network)


def _ranked(training_: Training, job: Job, began: float) -> Evaluation:
    """Return what a look at every candidate says; nothing is trained but in a dish."""
    model = training_.problem.model
    if job.kind == "dish":
        seed = int(np.random.default_rng(training_.job_seed(job)).integers(2**31))
        found = dish_selector.scores(seed, model.net, job.arch, job.slots)
        cost = dish_selector.cost(model.net, job.arch, job.slots)
    else:
        need = training.recorded(model, job.arch, job.slots, training_.optimiser.coupling)
        plain = training.recorded(model, job.arch).weights if job.kind == "proxy" else None
        found = _gains(training_, job, *_first(training_, job, need, plain))
        cost = PROBE_BATCHES * model.batch_size * need.multiply_adds
    by_slot = {slot: own.tolist() for slot, own in found.items()}
    info = {
        "kind": job.kind, "number": job.number, "growth": job.growth, "parent": job.parent,
        "scores": {job.kind: by_slot}, "train_multiply_adds": cost,
    }  # fmt: skip
    finite = _finite(by_slot)
    if not finite:
        return Evaluation("failed", error=f"no candidate has a finite {job.kind}", info=info)
    return Evaluation(
        "ok", max(finite), seconds=time.perf_counter() - began, unit=job.kind, info=info
    )


def _failure(info: Mapping[str, Any], measured: Sequence[float]) -> str:
    """Return why a training is of no use; nothing where it is of some."""
    if not np.isfinite(measured).all():
        return "the training diverged"
    if "scores" in info and not _finite(info["scores"]["alpha"]):
        return "no candidate has a finite alpha"
    return ""


def _finite(scores: Mapping[str, Sequence[float]]) -> list[float]:
    """Return the finite scores of all slots."""
    return [score for own in scores.values() for score in own if math.isfinite(score)]


def _info(
    problem: Problem, job: Job, plain: Any, need: Any, measured: Any, losses: np.ndarray
) -> dict[str, Any]:
    images = job.epochs * problem.count
    return {
        "kind": job.kind, "number": job.number, "growth": job.growth, "parent": job.parent,
        "source": job.source, "error": measured[0][0], "cross_entropy": measured[0][1],
        "test_error": measured[1][0], "train_loss": float(losses[-1]) if len(losses) else math.nan,
        "multiply_adds": plain.multiply_adds, "parameters": plain.parameters, "images": images,
        "train_multiply_adds": images * need.multiply_adds,
    }  # fmt: skip


def _first(
    training_: Training, job: Job, need: Any, kept: Container[str] | None = None
) -> tuple[Weights, Weights]:
    """Return the weights and averages that a training begins with.

    Args:
      training_: of the search.
      job: whose source gives weights.
      need: of the network.
      kept: paths of weights that are inherited; None: all that the source has.
    """
    parent: tuple[Weights, Weights] = ({}, {})
    if job.source is not None:
        _, *parent = load(training_.path(job.source))  # type: ignore[assignment]
    own = {path: x for path, x in parent[0].items() if kept is None or path in kept}
    seed = int(np.random.default_rng(training_.job_seed(job)).integers(2**31))
    weights = scope_lib.inherited(seed, need.weights, own)
    return weights, scope_lib.inherited(seed, need.averages, parent[1])


def train(
    training_: Training,
    job: Job,
    weights: Weights,
    averages: Weights,
) -> tuple[TrainState, np.ndarray]:
    """Train for the job's epochs; return the state and the mean loss of every epoch."""
    problem, optimiser = training_.problem, training_.optimiser
    state = training.start(weights, averages, optimiser)
    seed = int(np.random.default_rng([*training_.job_seed(job), 1]).integers(2**31))
    orders = problem.model.order(problem.count, seed, 0)
    size = _chunk(len(orders))
    steps = job.epochs * len(orders)
    rates = training.rates(training_.schedule, training_.rate, job.epochs, len(orders))
    progress = (np.arange(steps) / max(steps, 1)).astype(np.float32)
    key, data = jax.random.key(seed), problem.training_data()
    losses = []
    for epoch in range(job.epochs):
        orders, total = problem.model.order(problem.count, seed, epoch), []
        for first in range(0, len(orders), size):
            now = slice(epoch * len(orders) + first, epoch * len(orders) + first + size)
            schedule = Schedule(
                rates[now], progress[now],
                np.float32(training_.penalty), np.float32(training_.gate),
            )  # fmt: skip
            state, own = training.train_steps(
                state, data, orders[first : first + size], key, schedule, model=problem.model,
                arch=job.arch, slots=job.slots, optimiser=optimiser,
            )  # fmt: skip
            total.append(own)
        losses.append(float(jnp.mean(jnp.concatenate(total))))
    return state, np.array(losses)


def _chunk(steps: int) -> int:
    """Return the largest divisor of an epoch's steps that one call takes.

    On a CPU a call takes one step: there XLA computes a convolution inside a loop ten times more
    slowly than outside (jax issue 12868), and a call costs a millisecond.
    """
    if jax.default_backend() == "cpu":
        return 1
    return next(size for size in range(min(steps, MOST_STEPS), 0, -1) if steps % size == 0)


def _gains(
    training_: Training, job: Job, weights: Weights, averages: Weights
) -> dict[str, np.ndarray]:
    """Return `training.gains` on a few training batches."""
    problem = training_.problem
    model: Model = problem.model
    order = problem.model.order(problem.count, 0, 0)[:PROBE_BATCHES]
    data, key = problem.training_data(), jax.random.key(0)
    batches = jax.vmap(lambda index: model.batch(data, index, key))(jnp.asarray(order))
    coupling = training_.optimiser.coupling
    return training.gains(model, job.arch, job.slots, weights, averages, batches, coupling)


def save(path: pathlib.Path, arch: Arch, weights: Weights, averages: Weights) -> None:
    """Write an architecture with its weights as one file, in one piece; errors as `files`."""
    arrays = {f"weights{SEPARATOR}{name}": array for name, array in weights.items()}
    arrays |= {f"averages{SEPARATOR}{name}": array for name, array in averages.items()}
    arrays["arch"] = np.array(json.dumps(arch.to_json()))
    files.save_arrays(path, arrays, kind=KIND)


def load(path: pathlib.Path | str) -> tuple[Arch, Weights, Weights]:
    """Read what `save` wrote.

    Returns:
      Architecture, weights and averages, equal to the bit.

    Raises:
      UserError: the file is missing or damaged.
    """
    arrays = files.load_arrays(path, kind=KIND)
    try:
        arch = from_json(json.loads(str(arrays.pop("arch"))))
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} holds no architecture: give a file that a run wrote") from error
    parts: dict[str, Weights] = {"weights": {}, "averages": {}}
    for name, array in arrays.items():
        part, _, own = name.partition(SEPARATOR)
        if part not in parts or not own:
            raise UserError(f"{path} holds {name!r}: give a file that a run wrote")
        parts[part][own] = array
    return arch, parts["weights"], parts["averages"]

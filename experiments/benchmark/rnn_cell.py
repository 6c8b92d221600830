"""The benchmark of the recurrent-cell dish: one outer step against peers, and ranking new cells.

Peers are slow, and keep every intermediate of every inner step. So they take fewer inner steps, and
their times are scaled up; nothing else is smaller than the dish's. The validation pass, about half
an inner step, is scaled with them: some 5 % too much at 10 of 50 inner steps.
"""

import dataclasses
import importlib.metadata
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments.benchmark import against_peers as benchmark_peers
from experiments.benchmark import growth as benchmark_growth
from experiments.benchmark.peers import rnn_cell_problem as problems
from experiments.benchmark.peers.rnn_cell_problem import Problem
from spd_jax import dish, metrics
from spd_jax.dish import inner_loop
from spd_jax.dish.known import KnownMotifs
from spd_jax.errors import UserError
from spd_jax.spaces.rnn_cell import RnnCellSpace
from spd_jax.studies import machine

PEERS = {
    "onehot_rnn_cell": ("naive one-hot mixing", "jax"),
    "loop_rnn_cell": ("Python loop over motifs", "jax"),
    "torch_rnn_cell": ("PyTorch eager, batched", "torch"),
}
REFERENCE, SHARDED = "this_dish", "this_dish_sharded"
LOSS_TOLERANCE = 1e-4  # of inner losses, nats
# Of the outer gradient, as a share of its largest entry: it divides by the standard deviation of
# losses that lie close together.
GRADIENT_TOLERANCE = 1e-2
SECONDS_BAR, CELLS_PER_SECOND_BAR = 300, 60
OuterGradient = Callable[[], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much to measure.

    Attributes:
      cells: M, motifs of one outer step.
      inner_steps: T, of the dish.
      peer_inner_steps: T of the peers, at most `inner_steps`.
      outer_steps: of one whole training; one is timed, and scaled.
      ranked_cells: new cells that are ranked at once.
      rounds: times that everything has its turn.
    """

    cells: int = 40
    inner_steps: int = 50
    peer_inner_steps: int = 10
    outer_steps: int = 200
    ranked_cells: int = 512
    rounds: int = 5

    def __post_init__(self) -> None:
        """Refuse sizes of which no outer gradient is left, or no time that can be scaled up."""
        if self.peer_inner_steps > self.inner_steps:
            raise UserError(
                f"peer_inner_steps={self.peer_inner_steps} is more than inner_steps="
                f"{self.inner_steps}: give at most as many"
            )
        if self.cells < 2:
            raise UserError(f"cells={self.cells}: the outer loss compares at least 2")


QUICK = Plan(4, 2, 1, 3, 8, 2)
_SIZES = {
    field.name: flags.DEFINE_integer(
        f"rnn_cell_{field.name}", None, f"see Plan; default {field.default}", lower_bound=1
    )
    for field in dataclasses.fields(Plan)
}


def plan_of(quick: bool) -> Plan:
    """Return the sizes that the flags ask for."""
    given = {name: flag.value for name, flag in _SIZES.items() if flag.value is not None}
    return dataclasses.replace(QUICK if quick else Plan(), **given)


def dish_outer_gradient(
    problem: Problem, sharding: jax.sharding.Sharding | None = None
) -> OuterGradient:
    """Return a callable that takes the first outer step, driven as `dish.fit` drives it."""
    state = problem.state
    known = KnownMotifs.of(problem.cells, problem.ground_truth)
    cells, truth, weights = known.batches(problem.config, sharding)(state)

    def outer_gradient() -> tuple[np.ndarray, np.ndarray]:
        after, info = dish.outer_step(
            state, problem.family, problem.config, cells, truth, weights=weights
        )
        moments = after.optimiser.mu
        # After one step Adam's first moment is a fixed share of the gradient.
        gradient = np.stack([moments[name][0] for name in ("train_inputs", "valid_inputs")])
        losses = -np.asarray(info.scores[0])[: len(problem.ground_truth)]
        return losses, gradient / (1 - inner_loop.ADAM_BETA1)

    return outer_gradient


def check_same(
    name: str, found: tuple[np.ndarray, np.ndarray], expected: tuple[np.ndarray, np.ndarray]
) -> dict[str, float]:
    """Return how far losses (nats) and outer gradient (share of the largest entry) lie apart.

    Args:
      name: of the peer.
      found: its losses `[M]` and gradient `[2, N, L, D]`.
      expected: this dish's.

    Raises:
      UserError: too far: speeds of different problems do not compare.
    """
    losses = float(np.max(np.abs(found[0] - expected[0])))
    largest = np.max(np.abs(expected[1]))
    gradient = float(np.max(np.abs(found[1] - expected[1])) / largest)
    if not (losses <= LOSS_TOLERANCE and gradient <= GRADIENT_TOLERANCE):
        raise UserError(
            f"{name} trains another dish: its losses differ by {losses:.2g} and its outer gradient "
            f"by {gradient:.2g} of the largest: mend experiments/peers/{name}.py before timing it"
        )
    return {"inner_loss_difference": losses, "outer_gradient_difference": gradient}


def measure_peers(plan: Plan) -> dict[str, Any]:
    """Check and time one outer step of this dish and of the peers; return the part of summary.json.

    Raises:
      UserError: a peer computes something else.
    """
    whole = problems.make(0, plan.cells, plan.inner_steps)
    part = problems.make(0, plan.cells, plan.peer_inner_steps)
    calls: dict[str, tuple[OuterGradient, Problem]] = {
        REFERENCE: (dish_outer_gradient(whole), whole)
    }
    rows: dict[str, dict[str, Any]] = {
        REFERENCE: {"label": "this dish, 1 device", "library": "jax"}
    }
    sharding = machine.motif_sharding()
    if sharding is not None:
        label = f"this dish, {jax.device_count()} devices"
        rows[SHARDED] = {"label": label, "library": "jax"}
        calls[SHARDED] = dish_outer_gradient(whole, sharding), whole
    for name, (label, library) in PEERS.items():
        rows[name] = {"label": label, "library": library, "status": "not installed (make bench)"}
        peer = benchmark_peers.imported(name, library)
        if peer is not None:
            calls[name] = peer.make_outer_gradient(part), part
    timed = _checked_and_timed(calls, plan)
    for name in calls:
        row = rows[name]
        row |= {"status": "timed", "version": importlib.metadata.version(row["library"])}
        row |= timed[name]
    training = rows[SHARDED if SHARDED in rows else REFERENCE]
    return {
        **{name: getattr(plan, name) for name in ("inner_steps", "outer_steps", "rounds")},
        "motifs": plan.cells,
        "peer_inner_steps": plan.peer_inner_steps,
        "reference": REFERENCE,
        "rows": rows,
        "bar": {
            "seconds": SECONDS_BAR,
            "measured": training["seconds"]["median"],
            "by": training["label"],
        },
    }


def _checked_and_timed(
    calls: dict[str, tuple[OuterGradient, Problem]], plan: Plan
) -> dict[str, dict[str, Any]]:
    """Return the differences from this dish, and the times, of every contestant.

    The first call compiles: its time less that of a later one is the compile time.
    """
    expected: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    found, first = {}, {}
    for name, (call, problem) in calls.items():
        begin = time.perf_counter()
        answer = call()
        first[name] = time.perf_counter() - begin
        steps = problem.config.inner_steps
        if steps not in expected:
            expected[steps] = answer if name == REFERENCE else dish_outer_gradient(problem)()
        found[name] = check_same(name, answer, expected[steps])
    seconds = benchmark_growth.rounds(
        {name: call for name, (call, _) in calls.items()}, plan.rounds
    )
    results: dict[str, dict[str, Any]] = {}
    for name, (_, problem) in calls.items():
        steps, values = problem.config.inner_steps, seconds[name]["values"]
        scale = plan.inner_steps / steps
        step_seconds = metrics.spread(np.multiply(scale, values))
        compiling = max(first[name] - seconds[name]["median"], 0.0)
        results[name] = found[name] | {
            "steps_timed": 1,
            "inner_steps_timed": steps,
            "compile_seconds": None if name.startswith("torch") else compiling,
            "step_seconds": step_seconds,
            "seconds": metrics.spread(np.multiply(plan.outer_steps, step_seconds["values"])),
            "ratio": step_seconds["median"],
        }
    reference = results[REFERENCE]["step_seconds"]["median"]
    return {name: row | {"ratio": row["ratio"] / reference} for name, row in results.items()}


def measure_ranking(plan: Plan) -> dict[str, Any]:
    """Time `predict` on new cells, one device and all of them; return the part of summary.json."""
    problem = problems.make(0, plan.cells, plan.inner_steps)
    cells = RnnCellSpace("nao").sample(jax.random.key(1), plan.ranked_cells)
    shardings: dict[str, jax.sharding.Sharding | None] = {REFERENCE: None}
    if jax.device_count() > 1:
        shardings[SHARDED] = machine.motif_sharding()

    def predictor(sharding: jax.sharding.Sharding | None) -> Callable[[], np.ndarray]:
        return lambda: dish.predict(
            problem.state, problem.family, problem.config, cells, sharding=sharding
        )

    calls = {name: predictor(sharding) for name, sharding in shardings.items()}
    first = {}
    for name, call in calls.items():
        begin = time.perf_counter()
        call()
        first[name] = time.perf_counter() - begin
    seconds = benchmark_growth.rounds(calls, plan.rounds)
    rows = {}
    for name, timed in seconds.items():
        count = 1 if name == REFERENCE else jax.device_count()
        rows[name] = {
            "label": f"this dish, {count} device{'s' if count > 1 else ''}",
            "compile_seconds": max(first[name] - timed["median"], 0.0),
            "seconds": timed,
            "cells_per_second": metrics.spread(np.divide(plan.ranked_cells, timed["values"])),
        }
    best = list(rows.values())[-1]
    return {
        **{name: getattr(plan, name) for name in ("ranked_cells", "inner_steps", "rounds")},
        "rows": rows,
        "bar": {
            "cells_per_second": CELLS_PER_SECOND_BAR,
            "measured": best["cells_per_second"]["median"],
            "by": best["label"],
        },
    }

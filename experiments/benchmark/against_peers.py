"""The benchmark's first part: the paper's dish trained by this package and six peers, in turn."""

import dataclasses
import importlib
import importlib.metadata
import math
import time
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.growth import over, widest
from experiments.benchmark.peers import problem as problems
from experiments.benchmark.peers.problem import Problem
from spd_jax import dish, metrics
from spd_jax.dish import DishConfig, DishState
from spd_jax.dish.inner_loop import SyntheticData
from spd_jax.dish.known import BATCH_MULTIPLE, KnownMotifs
from spd_jax.errors import UserError
from spd_jax.motif import MotifFamily
from spd_jax.spaces import sigmoid_slope

PEERS = {
    "naive_vmap": ("naive vmap", "jax"),
    "python_loop": ("Python loop over motifs", "jax"),
    "masked_supernetwork": ("masked super-network", "jax"),
    "torch_eager": ("PyTorch eager, batched", "torch"),
    "autograd_batched": ("autograd, batched", "autograd"),
    "autograd_supernetwork": ("autograd, super-network", "autograd"),
}
REFERENCE = "this_dish"
_SETTINGS = ("inner_steps", "inner_learning_rate", "inner_l2", "outer_learning_rate", "outer_l2")
TOLERANCE = 1e-4  # of inner losses, nats
# The outer loss divides by the standard deviation of losses that lie close together.
FIRST_LOSS_TOLERANCE = 1e-2


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much to measure.

    Attributes:
      motifs: M.
      inner_steps: T.
      outer_steps: of one whole training.
      rounds: times that every contestant has its turn.
      budget: seconds of one turn; a slower contestant takes fewer outer steps, and its
        time is scaled.
    """

    motifs: int = 18
    inner_steps: int = 250
    outer_steps: int = 60
    rounds: int = 5
    budget: float = 5.0


QUICK = Plan(motifs=4, inner_steps=5, outer_steps=3, rounds=2, budget=0.2)


class Contestant(Protocol):
    """What `experiments.peers` describes: a module of it, or `ThisDish`."""

    def inner_losses(self, problem: Problem) -> np.ndarray:
        """Return the validation loss of each motif, [M]."""

    def make_outer_step(self, problem: Problem) -> Callable[[], float]:
        """Return a callable that takes one outer step and returns the loss before it."""


def dish_of(problem: Problem) -> tuple[MotifFamily, DishConfig, DishState]:
    """Return a dish with the problem's weights, data and settings."""
    samples, inputs = problem.train_inputs.shape
    family = sigmoid_slope.family(inputs, problem.weights[1].size, problem.train_labels.shape[1])
    config = DishConfig(
        **{name: getattr(problem, name) for name in _SETTINGS},
        train_samples=samples,
        valid_samples=len(problem.valid_inputs),
        schedule="constant",
    )
    state = dish.init(jax.random.key(0), family, config)
    layers = zip(problem.weights[::2], problem.weights[1::2], strict=True)
    params = [{"weight": weight, "bias": bias} for weight, bias in layers]
    data = SyntheticData(*(getattr(problem, name) for name in SyntheticData._fields))
    params, data = jax.tree.map(lambda x: jnp.asarray(x)[None], (params, data))
    return family, config, dataclasses.replace(state, params=params, data=data)


@dataclasses.dataclass(frozen=True)
class ThisDish:
    """`spd_jax.dish` as a contestant, driven as `dish.fit` drives it."""

    sharding: jax.sharding.Sharding | None = None

    def inner_losses(self, problem: Problem) -> np.ndarray:
        """Return the validation loss of each motif, [M]."""
        family, config, state = dish_of(problem)
        return -dish.raw_scores(state, family, config, problem.slopes)[0]

    def make_outer_step(self, problem: Problem) -> Callable[[], float]:
        """Return a callable that takes one outer step and returns the loss before it."""
        family, config, state = dish_of(problem)
        known = KnownMotifs.of(problem.slopes, problem.ground_truth)
        batches = known.batches(config, self.sharding)

        def step() -> float:
            nonlocal state
            inputs = state.data.train_inputs, state.data.valid_inputs
            penalty = problem.outer_l2 * sum(float(np.sum(np.square(x))) for x in inputs)
            batch, truth, weights = batches(state)
            state, info = dish.outer_step(state, family, config, batch, truth, weights=weights)
            return float(info.loss[0]) + penalty

        return step


def contestants(motifs: int) -> dict[str, tuple[str, str, Contestant | None]]:
    """Return label, library and contestant by name; `None` where the library is missing."""
    found: dict[str, tuple[str, str, Contestant | None]] = {
        REFERENCE: ("this dish, 1 device", "jax", ThisDish())
    }
    devices = widest(-(-motifs // BATCH_MULTIPLE) * BATCH_MULTIPLE)
    if devices > 1:
        label = f"this dish, {devices} devices"
        found["this_dish_sharded"] = (label, "jax", ThisDish(over(devices)))
    for name, (label, library) in PEERS.items():
        found[name] = label, library, imported(name, library)
    return found


def imported(name: str, library: str) -> Any:
    """Return the peer's module; `None` where its library is missing."""
    try:
        return importlib.import_module(f"experiments.benchmark.peers.{name}")
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        return None


def check_inner_losses(name: str, found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference of a contestant's inner losses from this dish's.

    Raises:
      UserError: it is larger than `TOLERANCE`: speeds of different problems do not compare.
    """
    difference = float(np.max(np.abs(np.asarray(found) - expected)))
    if not difference <= TOLERANCE:
        raise UserError(
            f"{name} trains another dish: its inner losses differ by {difference:.2g}, more than "
            f"{TOLERANCE:g}: mend experiments/peers/{name}.py before timing it"
        )
    return difference


def measure(plan: Plan) -> dict[str, Any]:
    """Check and time all contestants; return the part of summary.json.

    Raises:
      UserError: a contestant solves another problem.
    """
    problem = problems.make(0, plan.motifs, inner_steps=plan.inner_steps)
    expected = ThisDish().inner_losses(problem)
    rows: dict[str, dict[str, Any]] = {}
    turns: dict[str, tuple[Contestant, list[float]]] = {}
    for name, (label, library, contestant) in contestants(plan.motifs).items():
        rows[name] = {"label": label, "library": library, "status": "not installed (make bench)"}
        if contestant is not None:
            difference = check_inner_losses(name, contestant.inner_losses(problem), expected)
            version = importlib.metadata.version(library)
            rows[name] |= {"status": "timed", "version": version}
            rows[name] |= {"inner_loss_difference": difference}
            rows[name] |= _warm_up(name, library, contestant, problem, expected, plan)
            turns[name] = contestant, []
    for _ in range(plan.rounds):
        for name, (contestant, seconds) in turns.items():
            step = contestant.make_outer_step(problem)
            seconds.append(_seconds(step, rows[name]["steps_timed"]))
    for name, (_, seconds) in turns.items():
        row = rows[name]
        step_seconds = np.divide(seconds, row["steps_timed"])
        row["seconds"] = metrics.spread(plan.outer_steps * step_seconds)
        first = row.pop("first_step_seconds")
        compiling = max(first - float(np.median(step_seconds)), 0.0)
        row["compile_seconds"] = compiling if row["library"] == "jax" else None
        row["ratio"] = row["seconds"]["median"] / rows[REFERENCE]["seconds"]["median"]
    return {**dataclasses.asdict(plan), "reference": REFERENCE, "rows": rows}


def _warm_up(
    name: str,
    library: str,
    contestant: Contestant,
    problem: Problem,
    inner_losses: np.ndarray,
    plan: Plan,
) -> dict[str, Any]:
    """Take the first outer step, check its loss, and choose how many steps a turn has.

    The first step compiles: its time less that of a later one is the compile time.
    """
    expected = problems.outer_loss(
        inner_losses, problem.ground_truth, problem.data, problem.outer_l2
    )
    step = contestant.make_outer_step(problem)
    losses: list[float] = []
    first = _seconds(lambda: losses.append(step()))
    if not math.isclose(losses[0], expected, rel_tol=FIRST_LOSS_TOLERANCE):
        raise UserError(
            f"{name} trains another dish: its first outer loss is {losses[0]:.4g}, not "
            f"{expected:.4g}: mend it before timing it"
        )
    steps = plan.outer_steps
    if isinstance(contestant, ThisDish):
        _seconds(step)
    else:
        later = _seconds(step) if library == "jax" else first
        steps = min(max(int(plan.budget / later), 1), steps)
    return {"first_step_seconds": first, "steps_timed": steps}


def _seconds(call: Callable[[], Any], count: int = 1) -> float:
    """Return how long `count` calls take."""
    begin = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - begin

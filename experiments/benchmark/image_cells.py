"""The benchmark of the image-cell dishes: what a query costs, and what fitting a dish costs.

The bars are on seconds for each cell and on seconds of all outer steps, ground truths excluded.
The papers' own seconds, of another machine, stand beside (Cassimon et al., section 5.4).
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.benchmark import growth as benchmark_growth
from spd_jax import dish, metrics, problems
from spd_jax.dish import DishConfig, KnownMotifs
from spd_jax.errors import UserError
from spd_jax.motif import MotifFamily
from spd_jax.studies import image_costs, machine

PROBLEM = "nasbench201"
QUERY_BAR, FIT_BAR = 0.3, 1800.0  # seconds for each cell, and of all outer steps
TOLERANCE = 1e-3  # of scores, as a share of their spread over cells
# A cell without a signal has outputs that are constant but for rounding, which the standardised
# loss magnifies: some cells may differ by more.
SHARE = 0.9


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much to measure.

    Attributes:
      ranked_cells: new cells that are ranked at once.
      known_cells: of one outer step.
      rounds: times that everything has its turn.
    """

    ranked_cells: int = 40
    known_cells: int = 40
    rounds: int = 5


QUICK = Plan(ranked_cells=3, known_cells=3, rounds=1)


def dishes() -> dict[str, tuple[MotifFamily, DishConfig]]:
    """Return the dishes that are timed, by name: those of preset "best", first and second."""
    problem = problems.get(PROBLEM)
    found = {"first": (problem.family(problem.hidden_size), problem.dish_presets["best"])}
    if problem.second_dish is not None:
        found["second"] = problem.second_dish.family, problem.second_dish.config
    return found


def measure_query(plan: Plan) -> dict[str, Any]:
    """Time untrained dishes on new cells; return the part of summary.json.

    Every dish is timed on all devices as it is used. On CPUs its cells are then trained in turn,
    each with its own operations; `vmap` over cells, the plain way, computes every operation of
    every edge and keeps one. It is timed for the first dish.
    """
    archs = problems.get(PROBLEM).space.sample(jax.random.key(1), plan.ranked_cells)
    calls, labels = {}, {}
    for name, (family, config) in dishes().items():
        calls[name] = _query(family, config, archs)
        labels[name] = f"the {name} dish of preset best"
        if name == "first" and jax.default_backend() == "cpu":
            calls["vmapped"] = _query(dataclasses.replace(family, branching=False), config, archs)
            labels["vmapped"] = "the same, vmapped over cells"
    first, answers = {}, {}
    for name, call in calls.items():
        begin = time.perf_counter()
        answers[name] = call()
        first[name] = time.perf_counter() - begin
    if "vmapped" in answers:
        check_same(answers["vmapped"], answers["first"])
    timed = benchmark_growth.rounds(calls, plan.rounds)
    rows = {
        name: {
            "label": labels[name],
            "compile_seconds": max(first[name] - own["median"], 0.0),
            "seconds": own,
            "seconds_per_cell": metrics.spread(np.divide(own["values"], plan.ranked_cells)),
            "ratio": own["median"] / timed["first"]["median"],
        }
        for name, own in timed.items()
    }
    slowest = max(rows[name]["seconds_per_cell"]["median"] for name in dishes())
    return {
        **dataclasses.asdict(plan),
        "rows": rows,
        "paper_seconds_per_cell": image_costs.PAPER_QUERY,
        "bar": {"seconds_per_cell": QUERY_BAR, "measured": slowest},
    }


def check_same(found: np.ndarray, expected: np.ndarray) -> None:
    """Check that two ways to train cells score nearly all of them alike, `[M]` each.

    Raises:
      UserError: they do not: speeds of different problems do not compare.
    """
    scale = max(float(np.nanstd(expected)), 1e-6)
    same = np.isclose(found, expected, rtol=0, atol=TOLERANCE * scale, equal_nan=True)
    if np.mean(same) < SHARE:
        raise UserError(
            f"the vmapped dish scores {np.mean(~same):.0%} of the cells differently: mend it "
            "before timing it"
        )


def measure_fit(plan: Plan) -> dict[str, Any]:
    """Time one outer step of preset "best"; return the part of summary.json."""
    problem = problems.get(PROBLEM)
    family, config = dishes()["first"]
    archs = problem.space.sample(jax.random.key(2), plan.known_cells)
    truth = np.linspace(-1.0, 1.0, plan.known_cells)
    state = dish.init(jax.random.key(0), family, config)
    known = KnownMotifs.of(archs, truth)
    cells, targets, weights = known.batches(config, machine.motif_sharding())(state)

    def step() -> Any:
        return dish.outer_step(state, family, config, cells, targets, weights=weights)

    begin = time.perf_counter()
    jax.block_until_ready(step())
    first = time.perf_counter() - begin
    seconds = benchmark_growth.rounds({"step": step}, plan.rounds)["step"]
    whole = metrics.spread(np.multiply(config.outer_steps, seconds["values"]))
    return {
        **dataclasses.asdict(plan),
        "outer_steps": config.outer_steps,
        "compile_seconds": max(first - seconds["median"], 0.0),
        "step_seconds": seconds,
        "seconds": whole,
        "paper_seconds": {
            name: image_costs.paper(name)["initialisation_seconds"]
            for name in image_costs.PAPER_EPOCH
        },
        "bar": {"seconds": FIT_BAR, "measured": whole["median"]},
    }


def _query(family: MotifFamily, config: DishConfig, archs: Any) -> Callable[[], np.ndarray]:
    state = dish.init(jax.random.key(0), family, config)
    sharding = machine.motif_sharding()
    return lambda: dish.predict(state, family, config, archs, sharding=sharding)

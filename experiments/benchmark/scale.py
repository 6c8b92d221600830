"""The benchmark of ranking very many motifs: against their number, devices and workers.

What is ranked is a stream of slopes that nobody holds, by an untrained dish of the paper's sizes:
`studies.rank` keeps the best. The best must be the same whoever computes.
"""

import dataclasses
import functools
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from experiments.benchmark import growth
from spd_jax import dish, metrics
from spd_jax.dish import DishConfig, DishState
from spd_jax.errors import UserError
from spd_jax.spaces import sigmoid_slope
from spd_jax.studies import machine
from spd_jax.studies.rank import Predict, Ranked, rank


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much to rank.

    Attributes:
      motifs: M of each stream on all devices, ascending: peak memory is the process's so far.
      divided_motifs: M of each stream that is divided over devices or workers.
      batch: motifs of one batch of a stream.
      workers: processes with one thread each.
      top: how many are kept.
      inner_steps: of the dish.
      rounds: times that devices and workers have their turn.
    """

    motifs: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    divided_motifs: int = 65_536
    batch: int = 4_096
    workers: tuple[int, ...] = (1, 2)
    top: int = 100
    inner_steps: int = 250
    rounds: int = 3


QUICK = Plan((8, 16), 16, 4, (1,), 3, 9, 1)


@functools.cache
def _dish(inner_steps: int) -> tuple[DishConfig, DishState]:
    config = DishConfig(inner_steps=inner_steps)
    return config, dish.init(jax.random.key(0), sigmoid_slope.family(), config)


def predict(
    archs: np.ndarray, inner_steps: int, sharding: jax.sharding.Sharding | None = None
) -> np.ndarray:
    """Score slopes `[M]`; importable, so that workers can, each with a dish of its own."""
    config, state = _dish(inner_steps)
    return dish.predict(state, sigmoid_slope.family(), config, archs, sharding=sharding)


def stream(count: int, batch: int) -> Iterator[np.ndarray]:
    """Yield `count` slopes over the whole space in batches `[batch]` float32, lazily."""
    for start in range(0, count, batch):
        part = np.arange(start, min(start + batch, count))
        yield (0.01 + 2 * part / count).astype(np.float32)


def measure_stream(plan: Plan) -> dict[str, Any]:
    """Time streams of more and more motifs on all devices; return the part of summary.json."""
    call = functools.partial(
        predict, inner_steps=plan.inner_steps, sharding=machine.motif_sharding()
    )
    _timed(plan, call, 2 * plan.batch)  # compiles
    rows = []
    for count in plan.motifs:
        seconds, _ = _timed(plan, call, count)
        rows.append(
            {"motifs": count, "seconds": seconds, "motifs_per_second": count / seconds}
            | {"peak_mib": peak_mib()}
        )
    return {**dataclasses.asdict(plan), "devices": jax.device_count(), "rows": rows}


def measure_divided(plan: Plan) -> dict[str, Any]:
    """Time one stream over devices and over workers, in turn; return the part of summary.json.

    A cluster's seconds contain its start, and the compiling of every worker.
    """
    powers = range(jax.device_count().bit_length())
    ways: dict[str, dict[str, Any]] = {
        f"{1 << power} devices": {"sharding": growth.over(1 << power)} for power in powers
    } | {f"{count} workers": {"workers": count} for count in plan.workers}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, Ranked] = {}
    for turn in range(plan.rounds + 1):
        for name, way in ways.items():
            call = functools.partial(
                predict, inner_steps=plan.inner_steps, sharding=way.get("sharding")
            )
            spent, found[name] = _timed(plan, call, plan.divided_motifs, way.get("workers", 0))
            if turn:  # the first compiles
                seconds[name].append(spent)
    first = next(iter(found.values()))
    for name, other in found.items():
        if not np.array_equal(first.places, other.places):
            raise UserError(f"the best motifs differ on {name}: mend that before timing it")
    rows = [
        {"who": name, "seconds": metrics.spread(values)}
        | {"motifs_per_second": metrics.spread(np.divide(plan.divided_motifs, values))}
        for name, values in seconds.items()
    ]
    return {**dataclasses.asdict(plan), "rows": rows}


def _timed(plan: Plan, call: Predict, count: int, workers: int = 0) -> tuple[float, Ranked]:
    begin = time.perf_counter()
    found = rank(call, stream(count, plan.batch), top=plan.top, workers=workers)
    return time.perf_counter() - begin, found


def peak_mib() -> float:
    """Return the most memory that this process has ever held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)

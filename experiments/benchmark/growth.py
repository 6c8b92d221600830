"""The benchmark's second part: time and memory as motifs, steps, dishes and devices grow."""

import dataclasses
import functools
import json
import math
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from spd_jax import dish, metrics
from spd_jax.dish import DishConfig, DishState, devices
from spd_jax.spaces import sigmoid_slope
from spd_jax.studies import machine

Name = TypeVar("Name", bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How far to go.

    Attributes:
      predict_motifs: motifs M of one `predict`.
      fit_motifs: motifs of one outer step.
      inner_steps: T of one outer step of `step_motifs` motifs.
      step_motifs: see `inner_steps`.
      dishes: E of one outer step of the paper's 18 motifs.
      device_motifs: motifs of a `predict`, and of an outer step, spread over devices.
      default_steps: T everywhere else.
      rounds: times that everything is measured.
      device_rounds: processes for each count of host devices.
    """

    predict_motifs: tuple[int, ...] = (10, 100, 1_000, 10_000, 100_000)
    fit_motifs: tuple[int, ...] = (10, 100, 1_000)
    inner_steps: tuple[int, ...] = (50, 250, 1_000, 5_000)
    step_motifs: int = 100
    dishes: tuple[int, ...] = (1, 2, 4, 8, 16)
    device_motifs: tuple[int, int] = (20_480, 144)
    default_steps: int = 250
    rounds: int = 3
    device_rounds: int = 2


# Programs come up again in it: with a compilation cache few are compiled.
QUICK = Plan((8,), (8, 18), (9,), 18, (1, 2), (8, 18), 9, 2, 1)


class Program(NamedTuple):
    """One compiled outer step, and what it cost to build.

    Attributes:
      run: takes the step anew; returns jax arrays.
      compile_seconds: tracing, lowering and compiling.
      compiled: of `jax.stages`.
    """

    run: Callable[[], Any]
    compile_seconds: float
    compiled: Any

    @property
    def temp_mib(self) -> float | None:
        """Memory beside arguments and results, on one device; `None` where XLA does not tell."""
        return temp_mib(self.compiled)


def rounds(calls: Mapping[Name, Callable[[], Any]], count: int) -> dict[Name, dict[str, Any]]:
    """Time all calls in turn, `count` times round, so that a machine's drift hits them alike.

    Args:
      calls: what to time, by name; jax arrays that they return are waited for.
      count: rounds; one more that is not counted goes before.

    Returns:
      For each name the `metrics.spread` of its seconds.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in calls}
    for _ in range(count + 1):
        for name, call in calls.items():
            begin = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - begin)
    return {name: metrics.spread(values[1:]) for name, values in seconds.items()}


def temp_mib(compiled: Any) -> float | None:
    """Return a compiled program's temporary memory on one device, in MiB."""
    analysis = compiled.memory_analysis()
    return None if analysis is None else analysis.temp_size_in_bytes / 2**20


def slopes(count: int) -> np.ndarray:
    """Return slopes over the whole space, `[count]` float32."""
    return np.linspace(0.01, 2.01, count, dtype=np.float32)


def widest(motifs: int) -> int:
    """Return the largest power of two of devices that divide a motif axis."""
    return math.gcd(motifs, 1 << (jax.device_count().bit_length() - 1))


def over(count: int) -> jax.sharding.Sharding | None:
    """Return how a motif axis lies over the first `count` devices; `None` for one."""
    if count == 1:
        return None
    kinds = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((count,), ("motif",), devices=jax.devices()[:count], axis_types=kinds)
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("motif"))


def start(config: DishConfig) -> DishState:
    """Return a dish of the paper's motif-networks."""
    return dish.init(jax.random.key(0), sigmoid_slope.family(), config)


def outer_program(
    config: DishConfig, motifs: int, sharding: jax.sharding.Sharding | None = None
) -> Program:
    """Compile one outer step of `motifs` motifs."""
    state = start(config)
    archs = jax.device_put(slopes(motifs), sharding)
    truth = np.asarray(-archs)
    begin = time.perf_counter()
    compiled = dish.outer_step.lower(state, sigmoid_slope.family(), config, archs, truth).compile()
    seconds = time.perf_counter() - begin
    return Program(lambda: compiled(state, config, archs, truth), seconds, compiled)


def measure(plan: Plan, quick: bool) -> dict[str, Any]:
    """Return the part of summary.json; all on one device, but for `devices`."""
    config = DishConfig(inner_steps=plan.default_steps)
    return {
        **dataclasses.asdict(plan),
        "predict": predict_rows(plan, config),
        "fit": outer_rows(
            {count: outer_program(config, count) for count in plan.fit_motifs}, "motifs", plan
        ),
        "unroll": unroll_rows(plan, config),
        "ensemble": outer_rows(
            {
                size: outer_program(dataclasses.replace(config, ensemble_size=size), 18)
                for size in plan.dishes
            },
            "dishes",
            plan,
        ),
        "devices": device_rows(plan, quick),
    }


def predict_rows(plan: Plan, config: DishConfig) -> list[dict[str, Any]]:
    """Time `predict` against M. Its memory is that of one chunk, whatever M is."""
    family, state = sigmoid_slope.family(), start(config)
    archs = {count: slopes(count) for count in plan.predict_motifs}
    largest = devices.chunk(lambda part: dish.scores(state, family, config, part), slopes(1))
    costs = {}
    for count in archs:
        chunk = min(largest, 1 << (count - 1).bit_length())
        begin = time.perf_counter()
        compiled = dish.scores.lower(state, family, config, slopes(chunk)).compile()
        seconds = time.perf_counter() - begin
        costs[count] = {"compile_seconds": seconds, "temp_mib": temp_mib(compiled)}
    timed = rounds(
        {
            count: functools.partial(dish.predict, state, family, config, motifs)
            for count, motifs in archs.items()
        },
        plan.rounds,
    )
    return [
        {"motifs": count, **cost, "seconds": timed[count]}
        | {"motifs_per_second": metrics.spread(np.divide(count, timed[count]["values"]))}
        for count, cost in costs.items()
    ]


def outer_rows(programs: Mapping[int, Program], axis: str, plan: Plan) -> list[dict[str, Any]]:
    """Time one outer step for each value of an axis."""
    timed = rounds({value: program.run for value, program in programs.items()}, plan.rounds)
    return [
        {
            axis: value,
            "compile_seconds": program.compile_seconds,
            "seconds": timed[value],
            "temp_mib": program.temp_mib,
        }
        for value, program in programs.items()
    ]


def unroll_rows(plan: Plan, config: DishConfig) -> list[dict[str, Any]]:
    """Time one outer step against T, with the scan plain ("step") and nested."""
    rows = []
    for count in plan.inner_steps:
        row: dict[str, Any] = {"inner_steps": count, "motifs": plan.step_motifs}
        programs = {}
        for remat in ("step", "nested"):
            changed = dataclasses.replace(config, inner_steps=count, remat=remat)
            programs[remat] = outer_program(changed, plan.step_motifs)
        timed = rounds({remat: program.run for remat, program in programs.items()}, plan.rounds)
        for remat, program in programs.items():
            row[remat] = {
                "compile_seconds": program.compile_seconds,
                "seconds": timed[remat],
                "temp_mib": program.temp_mib,
            }
        row["nested_over_step"] = timed["nested"]["median"] / timed["step"]["median"]
        rows.append(row)
    return rows


def device_rows(plan: Plan, quick: bool) -> list[dict[str, Any]]:
    """Time `predict` and one outer step with the motif axis over 1, 2, 4, ... devices.

    Host devices are fixed before jax starts, so each count of them has processes of its
    own, in turn; accelerators are taken as they are.
    """
    on_host = jax.devices()[0].platform == "cpu"
    most = machine.cores() if on_host else jax.device_count()
    shared = math.gcd(*plan.device_motifs, devices.CPU_CHUNK)
    counts = [1 << power for power in range(most.bit_length()) if shared % (1 << power) == 0]
    if not on_host:
        return [_device_row(count, [devices_here(plan, count)]) for count in counts]
    answers: dict[int, list[dict[str, Any]]] = {count: [] for count in counts}
    for _ in range(plan.device_rounds):
        for count in counts:
            answers[count].append(_in_child(count, quick))
    return [_device_row(count, answers[count]) for count in counts]


def _device_row(count: int, answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Join what several processes measured."""
    row: dict[str, Any] = {"devices": count}
    for name in ("predict", "fit"):
        values = [value for answer in answers for value in answer[name]["values"]]
        row[name] = {"motifs": answers[0][name]["motifs"], "seconds": metrics.spread(values)}
    return row


def _in_child(count: int, quick: bool) -> dict[str, Any]:
    """Measure with `count` host devices, in a process of its own."""
    command = [sys.executable, "-m", "experiments.benchmark", "--parts=devices"]
    command += [f"--cpu_devices={count}", f"--quick={quick}"]
    root = pathlib.Path(__file__).resolve().parents[2]
    child = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{child.stderr}")
    return json.loads(child.stdout.splitlines()[-1])


def devices_here(plan: Plan, count: int) -> dict[str, Any]:
    """Measure with the motif axis over the first `count` devices of this process."""
    sharding = over(count)
    config = DishConfig(inner_steps=plan.default_steps)
    family, state = sigmoid_slope.family(), start(config)
    predicted, fitted = plan.device_motifs
    archs = slopes(predicted)
    timed = rounds(
        {
            "predict": lambda: dish.predict(state, family, config, archs, sharding=sharding),
            "fit": outer_program(config, fitted, sharding).run,
        },
        plan.rounds,
    )
    motifs = {"predict": predicted, "fit": fitted}
    return {name: {"motifs": motifs[name], "values": timed[name]["values"]} for name in timed}

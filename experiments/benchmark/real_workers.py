"""The benchmark of workers, real ones: a search on local workers that sleep, and large clusters.

`measure_cluster` takes the parts of a large search one by one: the ledger, the choices, and a real
scheduler with many worker slots.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from experiments.benchmark.simulated_workers import SimulatedWorkers
from experiments.benchmark.workers import PROBLEM, Plan, seconds_of
from spd_jax import problems
from spd_jax.axes import Archs, Key
from spd_jax.ground_truth.purchase import GroundTruth
from spd_jax.ledger import Evaluation, EvaluationKey, Ledger
from spd_jax.search import asynchronous, loop
from spd_jax.search.genetic import Genetic
from spd_jax.search.loop import SearchConfig
from spd_jax.search.random_search import RandomSearch
from spd_jax.search.record import Record
from spd_jax.surrogates.regressors import RandomForest, SupportVectors


@dataclasses.dataclass(frozen=True)
class Sleeping:
    """A task that sleeps; a cell is a number, and its score, too.

    Attributes:
      median: seconds of an evaluation, see `seconds_of`.
      sigma: 0 lets all take as long.
    """

    median: float
    sigma: float = 0.0
    budget: int = 1
    unit: str = "score"
    fingerprint: str = "sleeping"
    answers_smaller_budgets: bool = False

    def evaluate(self, cell: str, seed: int, budget: int) -> Evaluation:
        """Sleep."""
        seconds = seconds_of(cell, seed, self.median, self.sigma)
        time.sleep(seconds)
        return Evaluation("ok", float(cell), seconds=seconds)


@dataclasses.dataclass(frozen=True)
class Numbers:
    """The space of `Sleeping`: numbers, as arrays `[M]`."""

    name: str = "numbers"

    def sample(self, key: Key, count: int) -> Archs:
        """Draw numbers; consumes `key`."""
        return np.asarray(jax.random.randint(key, (count,), 0, 10**9))

    def mutate(self, key: Key, archs: Archs) -> Archs:
        """Draw others; consumes `key`."""
        return self.sample(key, len(archs))

    def crossover(self, key: Key, first: Archs, second: Archs) -> Archs:
        """Draw others; consumes `key`."""
        del second
        return self.sample(key, len(first))

    def encode(self, arch: Any) -> str:
        """Return its digits."""
        return str(int(arch))

    def decode(self, text: str) -> Any:
        """Read them."""
        return np.int64(text)

    def canonical(self, arch: Any) -> Any:
        """Return it as it is."""
        return np.int64(arch)


SEARCHES: dict[str, Callable[..., Record]] = {
    "synchronous": loop.search,
    "asynchronous": asynchronous.search,
}


def measure_sleep(plan: Plan) -> dict[str, Any]:
    """Let real local workers sleep through a search of either kind; return the part.

    What the virtual clock says of the same cells stands beside: it knows neither the start of
    processes nor Dask.
    """
    quarter = plan.naps // 4
    config = SearchConfig(quarter, 3, quarter, quarter)
    task, rows = Sleeping(plan.nap, 1.0), []
    for schedule, run in SEARCHES.items():
        virtual = SimulatedWorkers(
            plan.sleepers,
            lambda cell: Evaluation("ok", float(cell)),
            lambda cell: seconds_of(cell, 0, plan.nap, 1.0),
        )
        what = jax.random.key(0), Numbers()
        beside = {"beside": virtual.beside} if run is asynchronous.search else {}
        run(*what, virtual, RandomSearch(), config=config, **beside)
        with tempfile.TemporaryDirectory() as folder, Ledger(f"{folder}/ledger.sqlite") as ledger:
            truth = GroundTruth("numbers", task, ledger, plan.sleepers)
            begin = time.perf_counter()
            run(*what, truth, RandomSearch(), config=config)
            wall = time.perf_counter() - begin
            slept = sum(own.seconds for _, own in ledger.items())
        rows.append(
            {
                "schedule": schedule,
                "seconds": wall,
                "idle_share": 1 - slept / (plan.sleepers * wall),
                "simulated_seconds": virtual.clock,
                "simulated_idle_share": virtual.idle_share,
            }
        )
    return {"workers": plan.sleepers, "evaluations": 4 * quarter, "nap": plan.nap, "rows": rows}


def measure_cluster(plan: Plan) -> dict[str, Any]:
    """Take the parts of a large search one by one; return the part of summary.json."""
    return {
        "ledger": ledger_rates(plan.rows),
        "choices": [{"known": known, **choice_seconds(known)} for known in plan.known],
        "slots": [slots_used(plan, count) for count in plan.slots],
    }


def ledger_rates(rows: int) -> dict[str, Any]:
    """Write evaluations as they are bought: each is looked up, put, and read back."""
    evaluation = Evaluation("ok", 0.5, 0.5, (0.1,) * 10, 3600.0, unit="accuracy")
    marks, begin = [], time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, Ledger(f"{folder}/ledger.sqlite") as ledger:
        for number in range(rows):
            key = EvaluationKey("numbers", str(number), "task", 0, 10)
            if ledger.get(key) is None:
                ledger.put(key, evaluation)
            ledger.get(key)
            if (number + 1) % (rows // 5) == 0:
                marks.append(time.perf_counter() - begin)
        size = ledger.path.stat().st_size
    steps = np.diff([0.0, *marks])
    return {"rows": rows, "rows_per_second": [rows // 5 / step for step in steps], "bytes": size}


def choice_seconds(known: int) -> dict[str, float]:
    """Time a choice of 20 from 100 at so many known cells, and its parts."""
    problem, config = problems.get(PROBLEM), SearchConfig(evaluations=20, proposals=100)
    cells = loop.warm_start(jax.random.key(1), problem.space, known)
    scores = np.random.default_rng(0).normal(size=known)
    found = {}
    for name, surrogate in {
        "proposals": None,
        "support_vectors": SupportVectors(problem.strongest_vectors),
        "forest": RandomForest(problem.strongest_vectors),
    }.items():
        begin = time.process_time()
        loop.choose(
            1, jax.random.key(0), problem.space, cells, scores, proposer=Genetic(),
            surrogate=surrogate, config=config, fit=loop.fit_only,
        )  # fmt: skip
        found[name] = time.process_time() - begin
    return found


@contextlib.contextmanager
def cluster(slots: int) -> Iterator[tuple[str, list[Any]]]:
    """Yield the address of a scheduler with so many worker slots, and the processes of both."""
    import distributed
    import psutil

    # Many workers of one process may be silent for long.
    environment = os.environ | {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "None"}
    started: list[subprocess.Popen[bytes]] = []

    def start(module: str, *arguments: str) -> None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
        started.append(subprocess.Popen([sys.executable, "-m", module, *arguments], **quiet))  # type: ignore[call-overload]

    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "scheduler.json")
        try:
            start("distributed.cli.dask_scheduler", "--host=127.0.0.1", "--port=0",
                  "--dashboard-address=127.0.0.1:0", f"--scheduler-file={file}")  # fmt: skip
            while not file.exists() or not file.read_text().endswith("}"):
                time.sleep(0.1)
            address = json.loads(file.read_text())["address"]
            each = min(slots, 250)
            for _ in range(slots // each):
                start("experiments.benchmark.worker_slots", address, str(each))
            with distributed.Client(address, set_as_default=False) as client:
                while len(client.nthreads()) < slots // each * each:
                    time.sleep(0.5)
            yield address, [psutil.Process(own.pid) for own in started]
        finally:
            for own in started:
                own.kill()
                own.wait()


def slots_used(plan: Plan, slots: int) -> dict[str, Any]:
    """Let many slots sleep, bought into a ledger; return what that took of whom."""
    task = Sleeping(plan.task_seconds)
    tasks = plan.tasks * slots
    with (
        cluster(slots) as (address, processes),
        tempfile.TemporaryDirectory() as folder,
        Ledger(f"{folder}/ledger.sqlite") as ledger,
    ):
        truth = GroundTruth("numbers", task, ledger, address)
        first: list[float] = []

        def arrived(cell: str, evaluation: Evaluation) -> None:
            del cell, evaluation
            first.append(time.perf_counter())

        before = [own.cpu_times().user + own.cpu_times().system for own in processes]
        begin, own_begin = time.perf_counter(), time.process_time()
        truth.evaluate_each(map(str, range(tasks)), arrived)
        wall, own = time.perf_counter() - begin, time.process_time() - own_begin
        after = [own.cpu_times().user + own.cpu_times().system for own in processes]
        memory = processes[0].memory_info().rss
    spent = np.subtract(after, before)
    return {
        "slots": slots,
        "tasks": tasks,
        "task_seconds": plan.task_seconds,
        "seconds": wall,
        "first_result": first[0] - begin,
        "idle_share": 1 - tasks * plan.task_seconds / (slots * wall),
        "cpu_per_result": {
            "program": own / tasks,
            "scheduler": float(spent[0]) / tasks,
            "workers": float(spent[1:].sum()) / tasks,
        },
        "scheduler_bytes": memory,
    }

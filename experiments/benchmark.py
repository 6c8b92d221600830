"""Speed and memory of the dish: against peers, as it grows, and against the machine's limit.

Everything is measured in turn, in one run: times of one machine on one day compare, others do
not. Leave the machine alone meanwhile.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import flags

from experiments import benchmark_growth, benchmark_limit, benchmark_peers, run_folder
from experiments.run_folder import RunFolder
from spd_jax.errors import UserError
from spd_jax.report import benchmark as report
from spd_jax.report.progress import Progress

_SUITE = flags.DEFINE_enum("suite", "sigmoid", ["sigmoid"], "which motif-networks to time")
_PARTS = flags.DEFINE_list("parts", ["peers", "growth", "limit"], "what to measure")
_QUICK = flags.DEFINE_bool("quick", False, "tiny sizes: shows that it runs, not how fast")


def growth_plan(quick: bool) -> benchmark_growth.Plan:
    """Return how far the growth part goes, in this process and in its children."""
    return benchmark_growth.QUICK if quick else benchmark_growth.Plan()


MEASURE: dict[str, Callable[[bool], dict[str, Any]]] = {
    "peers": lambda quick: benchmark_peers.measure(
        benchmark_peers.QUICK if quick else benchmark_peers.Plan()
    ),
    "growth": lambda quick: benchmark_growth.measure(growth_plan(quick), quick),
    "limit": lambda quick: benchmark_limit.measure(
        benchmark_limit.QUICK if quick else benchmark_limit.Plan()
    ),
}


def measure(folder: RunFolder, parts: Sequence[str], quick: bool) -> dict[str, Any]:
    """Measure every part that an interrupted run of this folder does not hold yet.

    A finished run is measured anew, all of it.
    """
    if (folder.path / "summary.json").exists():
        for stale in [folder.path / "summary.json", *folder.path.glob("parts/*.json")]:
            stale.unlink(missing_ok=True)
    results = {}
    with Progress("benchmark parts", len(parts)) as progress:
        for done, part in enumerate(parts):
            progress.update(done, part)
            name = f"parts/{part}.json"
            results[part] = folder.read_json(name)
            if results[part] is None:
                results[part] = MEASURE[part](quick)
                folder.write_json(name, results[part])
        progress.update(len(parts))
    return results


def main(argv: Sequence[str]) -> None:
    """Measure, write, draw and print."""
    del argv
    quick, parts = _QUICK.value, list(dict.fromkeys(_PARTS.value))
    if parts == ["devices"]:  # a child of the growth part
        print(json.dumps(benchmark_growth.devices_here(growth_plan(quick), jax.device_count())))
        return
    if not parts or not set(parts) <= MEASURE.keys():
        raise UserError(f"--parts={','.join(parts)}: give some of {','.join(MEASURE)}")
    settings = {"suite": _SUITE.value, "quick": quick, "devices": jax.device_count()}
    folder = RunFolder.open(run_folder.WORKDIR.value or "runs/benchmark", settings)
    summary = settings | {"versions": run_folder.versions()} | measure(folder, parts, quick)
    folder.write_json("summary.json", summary)
    report.draw(folder.path)
    print(report.tables(summary))
    print(json.dumps(summary, allow_nan=False))


if __name__ == "__main__":
    run_folder.run_main(main)

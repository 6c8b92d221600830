"""Speed and memory of the dish: against peers, as it grows, and against the machine's limit.

`--suite=rnn_cell` times the dish of recurrent cells: against peers, and ranking new cells;
`--suite=image_cells` those of image cells: queries, and a fit. `--suite=forward_search` times a
network of forward search, forward and backward, against PyTorch. `--suite=scale` ranks very many
motifs, on devices and by workers. `--suite=workers` times no dish: searches on many workers,
simulated and real.

Everything is measured in turn, in one run: times of one machine on one day compare, others do
not. Leave the machine alone meanwhile.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from absl import flags

from experiments import launch
from experiments.benchmark import against_peers as benchmark_peers
from experiments.benchmark import forward_search as benchmark_forward_search
from experiments.benchmark import growth as benchmark_growth
from experiments.benchmark import image_cells as benchmark_image_cells
from experiments.benchmark import limit as benchmark_limit
from experiments.benchmark import real_workers as benchmark_real_workers
from experiments.benchmark import report
from experiments.benchmark import report_forward_search as forward_search_report
from experiments.benchmark import report_image_cells as image_cells_report
from experiments.benchmark import report_rnn_cell as rnn_cell_report
from experiments.benchmark import report_scale as scale_report
from experiments.benchmark import report_workers as workers_report
from experiments.benchmark import rnn_cell as benchmark_rnn_cell
from experiments.benchmark import scale as benchmark_scale
from experiments.benchmark import workers as benchmark_workers
from spd_jax.errors import UserError
from spd_jax.report.display import Display
from spd_jax.studies import machine
from spd_jax.studies.events import Advanced, Stage
from spd_jax.studies.run_folder import RunFolder, open_folder


def growth_plan(quick: bool) -> benchmark_growth.Plan:
    """Return how far the growth part goes, in this process and in its children."""
    return benchmark_growth.QUICK if quick else benchmark_growth.Plan()


def image_plan(quick: bool) -> benchmark_image_cells.Plan:
    """Return how much is measured of image cells."""
    return benchmark_image_cells.QUICK if quick else benchmark_image_cells.Plan()


def forward_plan(quick: bool) -> benchmark_forward_search.Plan:
    """Return how much is measured of a network of forward search."""
    return benchmark_forward_search.QUICK if quick else benchmark_forward_search.Plan()


def workers_plan(quick: bool) -> benchmark_workers.Plan:
    """Return how much is measured of searches on many workers."""
    return benchmark_workers.QUICK if quick else benchmark_workers.Plan()


def scale_plan(quick: bool) -> benchmark_scale.Plan:
    """Return how many motifs are ranked."""
    return benchmark_scale.QUICK if quick else benchmark_scale.Plan()


def forward_part(phase: str, quick: bool) -> dict[str, Any]:
    """Time the network of one phase of forward search."""
    return benchmark_forward_search.measure(forward_plan(quick), phase)


class Suite(NamedTuple):
    """What is timed for one kind of motif-network.

    Attributes:
      parts: what `--parts` can name: maps `--quick` to the part of summary.json.
      sizes: maps `--quick` to what else must agree when a run goes on.
      tables: maps summary.json to text.
      workdir: default of `--workdir`.
      drawn: parts that have a picture, too.
    """

    parts: Mapping[str, Callable[[bool], dict[str, Any]]]
    sizes: Callable[[bool], dict[str, Any]]
    tables: Callable[[dict[str, Any]], str]
    workdir: str
    drawn: frozenset[str] = frozenset()


SUITES = {
    "sigmoid": Suite(
        {
            "peers": lambda quick: benchmark_peers.measure(
                benchmark_peers.QUICK if quick else benchmark_peers.Plan()
            ),
            "growth": lambda quick: benchmark_growth.measure(growth_plan(quick), quick),
            "limit": lambda quick: benchmark_limit.measure(
                benchmark_limit.QUICK if quick else benchmark_limit.Plan()
            ),
        },
        lambda quick: {},
        report.tables,
        "runs/benchmark",
        drawn=frozenset({"peers", "growth", "limit"}),
    ),
    "rnn_cell": Suite(
        {
            "peers": lambda quick: benchmark_rnn_cell.measure_peers(
                benchmark_rnn_cell.plan_of(quick)
            ),
            "ranking": lambda quick: benchmark_rnn_cell.measure_ranking(
                benchmark_rnn_cell.plan_of(quick)
            ),
        },
        lambda quick: dataclasses.asdict(benchmark_rnn_cell.plan_of(quick)),
        rnn_cell_report.tables,
        "runs/benchmark_rnn_cell",
        drawn=frozenset({"peers"}),
    ),
    "image_cells": Suite(
        {
            "query": lambda quick: benchmark_image_cells.measure_query(image_plan(quick)),
            "fit": lambda quick: benchmark_image_cells.measure_fit(image_plan(quick)),
        },
        lambda quick: dataclasses.asdict(image_plan(quick)),
        image_cells_report.tables,
        "runs/benchmark_image_cells",
    ),
    "forward_search": Suite(
        {
            phase: functools.partial(forward_part, phase)
            for phase in benchmark_forward_search.PHASES
        },
        lambda quick: dataclasses.asdict(forward_plan(quick)),
        forward_search_report.tables,
        "runs/benchmark_forward_search",
    ),
    "workers": Suite(
        {
            "idle": lambda quick: benchmark_workers.measure_idle(workers_plan(quick)),
            "sleep": lambda quick: benchmark_real_workers.measure_sleep(workers_plan(quick)),
            "cluster": lambda quick: benchmark_real_workers.measure_cluster(workers_plan(quick)),
        },
        lambda quick: dataclasses.asdict(workers_plan(quick)),
        workers_report.tables,
        "runs/benchmark_workers",
    ),
    "scale": Suite(
        {
            "stream": lambda quick: benchmark_scale.measure_stream(scale_plan(quick)),
            "divided": lambda quick: benchmark_scale.measure_divided(scale_plan(quick)),
        },
        lambda quick: dataclasses.asdict(scale_plan(quick)),
        scale_report.tables,
        "runs/benchmark_scale",
    ),
}
_SUITE = flags.DEFINE_enum("suite", "sigmoid", list(SUITES), "which motif-networks to time")
_PARTS = flags.DEFINE_list("parts", None, "what to measure; default all parts of the suite")
_QUICK = flags.DEFINE_bool("quick", False, "tiny sizes: shows that it runs, not how fast")


def measure(folder: RunFolder, suite: Suite, parts: Sequence[str], quick: bool) -> dict[str, Any]:
    """Measure every part that an interrupted run of this folder does not hold yet.

    A finished run is measured anew, all of it.
    """
    if (folder.path / "summary.json").exists():
        for stale in [folder.path / "summary.json", *folder.path.glob("parts/*.json")]:
            stale.unlink(missing_ok=True)
    results = {}
    with Display() as show:
        show(Stage("benchmark parts", len(parts)))
        for done, part in enumerate(parts):
            name = f"parts/{part}.json"
            found = folder.read_json(name, dict)
            if found is None:
                show(Advanced(done, part))
                found = suite.parts[part](quick)
                folder.keep_json(name, found)
            results[part] = found
            show(Advanced(done + 1, part))
    return results


def main() -> None:
    """Measure, write, draw and print."""
    quick, suite = _QUICK.value, SUITES[_SUITE.value]
    jax.config.update("jax_default_matmul_precision", "highest")  # peers compute what the dish does
    parts = list(dict.fromkeys(suite.parts if _PARTS.value is None else _PARTS.value))
    if parts == ["devices"]:  # a child of the growth part
        print(json.dumps(benchmark_growth.devices_here(growth_plan(quick), jax.device_count())))
        return
    if not parts or not set(parts) <= suite.parts.keys():
        raise UserError(f"--parts={','.join(parts)}: give some of {','.join(suite.parts)}")
    settings = {"suite": _SUITE.value, "quick": quick, "devices": jax.device_count()}
    settings |= suite.sizes(quick)
    config = {"study": "benchmark", **settings}
    with open_folder(launch.workdir(suite.workdir), config) as folder:
        summary = settings | {"versions": machine.versions()}
        summary |= measure(folder, suite, parts, quick)
        folder.write_json("summary.json", summary)
    if suite.drawn.intersection(parts):
        report.draw(folder.path)
    print(suite.tables(summary))
    print(json.dumps(summary, allow_nan=False))


if __name__ == "__main__":
    launch.run_main(main)

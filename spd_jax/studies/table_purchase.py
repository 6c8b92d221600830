"""Buying a table of ground truths, after its noise has been measured (section 4.2).

Twenty cells are trained with several seeds first. Unless one seed orders them as the mean of
the others does, nothing more is bought: a ground truth that cannot tell cells apart cannot
judge a surrogate.
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from spd_jax import metrics
from spd_jax.archs import Cells
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup
from spd_jax.ground_truth.lookup import TruthTable
from spd_jax.ground_truth.purchase import GroundTruth
from spd_jax.ground_truth.task import Task
from spd_jax.ledger import Evaluation, EvaluationKey, Ledger
from spd_jax.ledger import table as ledger_table
from spd_jax.motif import SearchSpace
from spd_jax.problems import Problem
from spd_jax.search.loop import warm_start
from spd_jax.studies import events, machine
from spd_jax.studies import settings as settings_lib
from spd_jax.studies.run_folder import RunFolder, open_folder
from spd_jax.studies.settings import setting

CEILING_CELLS = 20
RUNS, WARM_START = 5, 40  # the recorded runs of experiments.rnn_cell_search
KEYS = {"reported": 1000, "tuning": 2000}
Items = list[tuple[EvaluationKey, Evaluation]]


@dataclasses.dataclass(frozen=True)
class TableSettings:
    """Settings of a table."""

    preset: str = setting("tiny", "how cells are trained at full size")
    part: str = setting(
        "reported",
        "cells of reported figures, or others to choose settings on",
        choices=tuple(KEYS),
    )
    num_cells: int = setting(500, "cells in the table", at_least=2, grows=True)
    num_seeds: int = setting(3, "seeds of the first cells", at_least=1, grows=True)
    cells_with_all_seeds: int = setting(
        100, "first cells that are trained with every seed", at_least=0, grows=True
    )
    min_ceiling: float = setting(0.6, "least noise ceiling to go on", free=True)


def run(
    problem: Problem,
    settings: TableSettings,
    workdir: str | os.PathLike[str],
    *,
    data_dir: str | None = None,
    workers: int = 0,
    compare_with: str | os.PathLike[str] | None = None,
    listen: events.Listener = events.ignore,
) -> tuple[dict[str, Any], pathlib.Path]:
    """Buy a table of random cells, or go on with it.

    Args:
      problem: of the cells.
      settings: how many of them.
      workdir: the run folder.
      data_dir: folder of the data; None downloads them.
      workers: processes that train cells; 0 trains in this one.
      compare_with: another table, to compare the order with.
      listen: told what happens.

    Returns:
      What summary.json holds, and the table's path.

    Raises:
      UserError: too noisy a ground truth, or settings with which nothing can be bought.
    """
    settings_lib.check(settings)
    other = None if compare_with is None else lookup.read(compare_with, problem.space)
    preset = problem.ground_truth(settings.preset)
    task = preset.task(data_dir, str(pathlib.Path(workdir) / "states"))
    name = preset.table or f"{problem.space.name}_{settings.preset}"
    name += "_tuning" if settings.part == "tuning" else ""
    config = {
        "study": "table",
        "problem": problem.space.name,
        "task": task.fingerprint,
        **settings_lib.described(settings),
    }
    with open_folder(workdir, config, settings_lib.growing(settings)) as folder:
        cells = cells_of(problem.space, settings.part, settings.num_cells)
        path = folder.path / f"{name}.csv"
        with Ledger(folder.path / "ledger.sqlite") as ledger:
            truth = GroundTruth(problem.space.name, task, ledger, workers)
            items, first = _buy_table(truth, cells, settings, listen)
        comments = {"study": "table", "commit": machine.commit(), "settings": config}
        ledger_table.write(path, items, comments)
        summary = summarise(items, lookup.read(path, problem.space), first, other)
        folder.write_json("summary.json", summary)
    return summary, path


def cells_of(space: SearchSpace, part: str, count: int) -> list[str]:
    """Return the names of the first `count` cells of a part; no cell is in both parts.

    The reported part begins with the warm starts of the recorded search runs, which are
    random cells as all others are.
    """
    names: dict[str, None] = {}
    if part == "reported":
        for run in range(RUNS):
            names |= dict.fromkeys(warm_start(jax.random.key(run), space, WARM_START).names)
    drawn = space.sample(jax.random.key(KEYS[part]), max(count, 300))
    names |= dict.fromkeys(Cells.of(space, drawn).names)
    others = set(cells_of(space, "reported", 500)) if part == "tuning" else set()
    return [name for name in names if name not in others][:count]


def buy(
    truth: GroundTruth,
    cells: Sequence[str],
    seeds: Sequence[int],
    what: str,
    listen: events.Listener,
) -> Items:
    """Evaluate cells with every seed, telling how far it is."""
    total, task = len(cells) * len(seeds), truth.task
    listen(events.Stage(what, total))

    def on_result(done: int, missing: int, evaluation: Evaluation) -> None:
        failed = evaluation.status == "failed"
        note = "failed" if failed else f"score {evaluation.score:.4f}"
        listen(events.Advanced(total - missing + done, note))

    truth.on_result = on_result
    rows = truth.evaluate(cells, seeds)
    return [
        (
            EvaluationKey(truth.space_name, cell, task.fingerprint, seed, task.budget),
            evaluation,
        )
        for cell, row in zip(cells, rows, strict=True)
        for seed, evaluation in zip(seeds, row, strict=True)
    ]


def buy_all(
    folder: RunFolder,
    space: str,
    task: Task,
    cells: Sequence[str],
    seeds: Sequence[int],
    path: pathlib.Path,
    listen: events.Listener,
) -> None:
    """Buy every cell with every seed into the folder's ledger, and write them as a table."""
    with Ledger(folder.path / "ledger.sqlite") as ledger:
        truth = GroundTruth(space, task, ledger)
        items = buy(truth, cells, seeds, "ground truth", listen)
    items.sort(key=lambda item: item[0].seed)  # seed by seed, in order of the cells
    comments = {"commit": machine.commit(), "task": settings_lib.to_json(task)}
    ledger_table.write(path, items, comments)


def _buy_table(
    truth: GroundTruth, cells: list[str], settings: TableSettings, listen: events.Listener
) -> tuple[Items, dict[str, Any]]:
    """Measure the noise on the first cells, then buy the rest."""
    seeds = range(settings.num_seeds)
    first = _ceiling(buy(truth, cells[:CEILING_CELLS], seeds, "noise ceiling", listen))
    ceiling = first["kendall_tau"]
    if len(seeds) >= 2 and ceiling is None:
        raise UserError(
            "the first cells have no noise ceiling, since too many trainings failed: read in the "
            "ledger why; nothing more is bought"
        )
    if ceiling is not None and not ceiling >= settings.min_ceiling:
        raise UserError(
            f"the noise ceiling is {ceiling:.2f}, below min_ceiling={settings.min_ceiling}: train "
            "longer, or choose another ground truth; nothing more is bought"
        )
    bought = buy(truth, cells, seeds[:1], "cells", listen)
    several = cells[: settings.cells_with_all_seeds]
    if len(seeds) > 1 and several:
        bought += buy(truth, several, seeds[1:], "cells, other seeds", listen)
    place = {cell: i for i, cell in enumerate(cells)}
    return sorted(bought, key=lambda item: (place[item[0].cell], item[0].seed)), first


def _ceiling(items: Items) -> dict[str, Any]:
    """Return the noise ceiling over the cells that have every seed that any cell has."""
    scores: dict[str, list[float]] = {}
    for key, evaluation in items:
        scores.setdefault(key.cell, []).append(evaluation.score)
    most = max(map(len, scores.values()))
    rows = [own for own in scores.values() if len(own) == most]
    return {"kendall_tau": metrics.noise_ceiling(rows), "motifs": len(rows), "seeds": most}


def summarise(
    items: Items, table: TruthTable, first: dict[str, Any], other: TruthTable | None
) -> dict[str, Any]:
    """Return summary.json; `first` is the noise before the purchase, `other` a second table."""
    summary: dict[str, Any] = {
        "ceiling_before_purchase": first,
        "noise_ceiling": _ceiling(items),
        "evaluations": len(items),
        "failed": sum(evaluation.status == "failed" for _, evaluation in items),
    }
    for name, values in {
        "seconds": [evaluation.seconds for _, evaluation in items],
        "score": [e.score for _, e in items if np.isfinite(e.score)],
    }.items():
        summary[name] = {k: v for k, v in metrics.spread(values).items() if k != "values"}
    if other is not None:
        summary["agreement"] = agreement(table, other)
    return summary


def agreement(table: TruthTable, other: TruthTable) -> dict[str, Any]:
    """Return how two tables order the cells that both have (means over seeds)."""
    scores = [dict(zip(own.cells.names, own.scores, strict=True)) for own in (other, table)]
    shared = [cell for cell in scores[1] if cell in scores[0]]
    pair = [[own[cell] for cell in shared] for own in scores]
    return {
        "cells": len(shared),
        "kendall_tau": metrics.kendall_tau(*pair),
        "spearman": metrics.spearman(*pair),
        "precision_at_10": metrics.precision_at(10, *pair),
    }

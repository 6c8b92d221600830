"""Buying a table of ground truths, after its noise has been measured (section 4.2).

Twenty cells are trained with several seeds first. Unless one seed orders them as the mean of
the others does, nothing more is bought: a ground truth that cannot tell cells apart cannot
judge a surrogate.
"""

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from spd_jax import metrics
from spd_jax.archs import Cells
from spd_jax.errors import UserError
from spd_jax.ground_truth import executors, lookup
from spd_jax.ground_truth.lookup import TruthTable
from spd_jax.ground_truth.purchase import GroundTruth
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
RUNS, WARM_START = 5, 40  # of the recorded searches: their warm starts are part of every table
KEYS = {"reported": 1000, "tuning": 2000}
GRID = "grid"  # the part of the motifs that a problem lists
CHECKPOINTS = "checkpoints"  # folder in which long trainings save themselves
Items = list[tuple[EvaluationKey, Evaluation]]


@dataclasses.dataclass(frozen=True)
class TableSettings:
    """Settings of a table."""

    preset: str = setting("tiny", "how cells are trained at full size")
    part: str = setting(
        "reported",
        "random cells of reported figures, others to choose settings on, or those that the problem "
        "lists, such as every kind with the same slopes",
        choices=(*KEYS, GRID),
    )
    num_cells: int = setting(500, "cells in the table", at_least=2, grows=True)
    num_seeds: int = setting(3, "seeds of the first cells", at_least=1, grows=True)
    cells_with_all_seeds: int = setting(
        100, "first cells that are trained with every seed", at_least=0, grows=True
    )
    min_ceiling: float = setting(
        0.6, "least noise ceiling to go on, a Kendall tau", at_least=-1, at_most=1, free=True
    )


def run(
    problem: Problem,
    settings: TableSettings,
    workdir: str | os.PathLike[str],
    *,
    data_dir: str | None = None,
    workers: executors.Workers = 0,
    time_limit: float | None = None,
    compare_with: str | os.PathLike[str] | None = None,
    listen: events.Listener = events.ignore,
) -> tuple[dict[str, Any], pathlib.Path]:
    """Buy a table of random cells, or go on with it.

    Args:
      problem: of the cells.
      settings: how many of them.
      workdir: the run folder.
      data_dir: folder of the data; None downloads them.
      workers: processes that train cells, 0 trains in this one; or a scheduler's address.
      time_limit: seconds that an evaluation may take; what takes longer is recorded as failed.
        None lets it run. It needs workers, which can be killed.
      compare_with: another table, to compare the order with.
      listen: told what happens.

    Returns:
      What summary.json holds, and the table's path.

    Raises:
      UserError: too noisy a ground truth, or settings with which nothing can be bought.
    """
    settings_lib.check(settings)
    executors.check_time_limit(time_limit, workers)
    other = None if compare_with is None else lookup.read(compare_with, problem.space)
    preset = problem.ground_truth(settings.preset)
    task = preset.task(data_dir, str(pathlib.Path(workdir) / CHECKPOINTS))
    name = preset.table or f"{problem.space.name}_{settings.preset}"
    name += "_tuning" if settings.part == "tuning" else ""
    config = {"study": "table", "problem": problem.space.name, "task": task.fingerprint}
    config |= settings_lib.described(settings)
    with open_folder(workdir, config, settings_lib.growing(settings)) as folder:
        cells = _cells(problem, settings)
        path = folder.path / f"{name}.csv"
        with Ledger(folder.path / "ledger.sqlite") as ledger:
            truth = GroundTruth(problem.space.name, task, ledger, workers, time_limit=time_limit)
            items, first = _buy_table(truth, cells, settings, listen)
        drop_checkpoints(folder, items)
        comments = {"study": "table", "commit": machine.commit(), "settings": config}
        ledger_table.write(path, items, comments)
        summary = summarise(items, lookup.read(path, problem.space), first, other)
        folder.write_json("summary.json", summary)
    return summary, path


def _cells(problem: Problem, settings: TableSettings) -> list[str]:
    """Return the names of the cells to buy; raises UserError where there are not so many."""
    if settings.part != GRID:
        return cells_of(problem.space, settings.part, settings.num_cells)
    names = Cells.read(problem.space, problem.table_cells).names if problem.table_cells else ()
    if len(names) < settings.num_cells:
        raise UserError(
            f"num_cells={settings.num_cells}, but {problem.name} lists {len(names)} cells: ask for "
            "at most so many, or for another part"
        )
    return list(names[: settings.num_cells])


def drop_checkpoints(folder: RunFolder, items: Items) -> None:
    """Delete what trainings left that were killed between their purchase and their end.

    Where one failed all of it stays: after `ledger retry` it may go on from there.
    """
    if all(evaluation.status == "ok" for _, evaluation in items):
        shutil.rmtree(folder.path / CHECKPOINTS, ignore_errors=True)


def cells_of(space: SearchSpace, part: str, count: int) -> list[str]:
    """Return the names of the first `count` cells of a part; no cell is in both parts.

    The reported part begins with the warm starts of the recorded search runs, which are
    random cells as all others are.

    Raises:
      UserError: fewer different cells were drawn.
    """
    found = _drawn(space, part, count)
    if part == "tuning":
        others = set(_drawn(space, "reported", 500)[:500])
        found = [name for name in found if name not in others]
    if len(found) < count:
        raise UserError(
            f"num_cells={count}, but only {len(found)} different cells of {space.name} were drawn "
            f"for the part {part}: ask for fewer"
        )
    return found[:count]


def _drawn(space: SearchSpace, part: str, count: int) -> list[str]:
    """Return the names of the cells drawn for a part, in order, each once."""
    names: dict[str, None] = {}
    if part == "reported":
        for run in range(RUNS):
            names |= dict.fromkeys(warm_start(jax.random.key(run), space, WARM_START).names)
    drawn = space.sample(jax.random.key(KEYS[part]), max(count, 300))
    return list(names | dict.fromkeys(Cells.of(space, drawn).names))


def buy(
    truth: GroundTruth,
    cells: Sequence[str],
    seeds: Sequence[int],
    what: str,
    listen: events.Listener,
    *,
    budget: int | None = None,
) -> Items:
    """Evaluate cells with every seed, telling how far it is.

    Args:
      truth: buys; `listen` takes the place of its own callbacks.
      cells: canonical texts, all different, `[n]`.
      seeds: of the trainings.
      what: name of the stage of work that is told.
      listen: told how many evaluations there are; those of a batch count while it trains.
      budget: of each evaluation; None is the task's.

    Returns:
      Keys and evaluations, by cell and then by seed; errors as `GroundTruth.evaluate`.
    """
    task = truth.task
    units = task.budget if budget is None else budget
    keys = [
        EvaluationKey(truth.space_name, cell, task.fingerprint, seed, units)
        for cell in cells
        for seed in seeds
    ]
    known = sum(truth.ledger.get(key) is not None for key in keys)
    latest = known

    def advance(done: int, note: str) -> None:
        nonlocal latest
        latest = max(latest, done)  # the results of a batch come after its last step
        listen(events.Advanced(latest, note))

    def on_result(done: int, missing: int, evaluation: Evaluation) -> None:
        failed = evaluation.status == "failed"
        note = "failed" if failed else f"score {evaluation.score:.4f}"
        advance(len(keys) - missing + done, note)

    def on_progress(done: int, steps: int, note: str) -> None:
        advance(known + (len(keys) - known) * done // steps, note)

    listen(events.Stage(what, len(keys), known, "compiling" if known < len(keys) else ""))
    truth.on_result, truth.on_progress = on_result, on_progress
    rows = truth.evaluate(cells, seeds, budget)
    return list(zip(keys, (evaluation for row in rows for evaluation in row), strict=True))


def _buy_table(
    truth: GroundTruth, cells: list[str], settings: TableSettings, listen: events.Listener
) -> tuple[Items, dict[str, Any]]:
    """Measure the noise on the first cells, then buy the rest."""
    seeds = range(settings.num_seeds)
    items = buy(truth, cells[:CEILING_CELLS], seeds, "noise ceiling", listen)
    scores = np.reshape([evaluation.score for _, evaluation in items], (-1, len(seeds)))
    ceiling = metrics.noise_ceiling(scores) if len(scores) >= 3 else None
    first = {"kendall_tau": ceiling, "motifs": len(scores), "seeds": len(seeds)}
    if len(scores) >= 3 and len(seeds) >= 2 and ceiling is None:
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


def summarise(
    items: Items, table: TruthTable, first: dict[str, Any], other: TruthTable | None
) -> dict[str, Any]:
    """Return summary.json; `first` is the noise before the purchase, `other` a second table."""
    summary: dict[str, Any] = {
        "ceiling_before_purchase": first,
        "noise_ceiling": table.noise_ceiling(),
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

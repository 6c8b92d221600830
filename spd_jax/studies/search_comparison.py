"""Algorithm 1 with every proposer and ranker, at equal ground truths (Rawal et al., figure 3).

The methods of one run share its warm start. A search is a function of its run's number and
of what the ground truth answers; its choices and fits are saved, so that a killed comparison
goes on with the same call, and a recorded one is replayed without training anything.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from spd_jax import files, motif
from spd_jax.errors import UserError
from spd_jax.ground_truth import executors, lookup
from spd_jax.ground_truth.purchase import GroundTruth
from spd_jax.ground_truth.task import ClosedTask, Task
from spd_jax.ledger import Ledger
from spd_jax.problems import Problem
from spd_jax.search.cost_limit import CostOf
from spd_jax.search.record import (
    Record,
    Records,
    read_history,
    write_history,
)
from spd_jax.studies import (
    events,
    fresh_seeds,
    machine,
    search_seconds,
    search_summary,
    trade_off,
)
from spd_jax.studies import settings as settings_lib
from spd_jax.studies.fresh_seeds import Fresh
from spd_jax.studies.run_folder import RunFolder, open_folder
from spd_jax.studies.searches import (
    Method,
    Searches,
    SearchSettings,
    methods_of,
    sizes,
    total_cost,
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A finished comparison.

    Attributes:
      problem: what was searched.
      settings: how.
      records: the searches, by method and run.
      summary: what summary.json holds.
      path: the run folder, with history.csv and summary.json.
      points: rows of pareto.csv; none where no cost was asked for.
    """

    problem: Problem
    settings: SearchSettings
    records: Records
    summary: dict[str, Any]
    path: pathlib.Path
    points: Sequence[trade_off.Point] = ()


def run(
    problem: Problem,
    settings: SearchSettings,
    workdir: str | os.PathLike[str],
    *,
    data_dir: str | None = None,
    workers: executors.Workers = 0,
    time_limit: float | None = None,
    listen: events.Listener = events.ignore,
    own_cost: CostOf | None = None,
) -> Comparison:
    """Run every search, or go on with a comparison that was interrupted.

    Args:
      problem: what is searched.
      settings: how.
      workdir: the run folder.
      data_dir: folder of the data; None downloads them.
      workers: processes that train cells, 0 trains in this one; or a scheduler's address.
      time_limit: seconds that an evaluation may take; what takes longer is recorded as failed.
        None lets it run. It needs workers, which can be killed.
      listen: told what happens.
      own_cost: what cells cost, where `settings.cost` is the name of a function of the caller's.

    Raises:
      UserError: settings or data with which nothing can be run, or a folder of another run.
    """
    check(problem, settings, workers=workers, time_limit=time_limit, own_cost=own_cost)
    path = pathlib.Path(workdir)
    task = problem.ground_truth(settings.preset).task(data_dir, str(path / "states"))
    with _open_folder(path, "search", problem, settings, task.fingerprint) as folder:
        ceiling = noise_ceiling(problem, settings, task.fingerprint)
        with Ledger(path / "ledger.sqlite") as ledger:
            truth = GroundTruth(problem.space.name, task, ledger, workers, time_limit=time_limit)
            limit = settings.cost_limit
            cost = trade_off.cost_of(problem, settings.cost, limit, truth, own_cost)
            searches = Searches(folder, problem, settings, truth, listen, cost)
            records = searches.all(None if ceiling is None else ceiling["kendall_tau"])
            each = search_seconds.of_evaluations(ledger.items(), task)
            fresh = _train_fresh(truth, problem, settings, data_dir, records, listen)
            points = trade_off.points(records, cost, problem.space, _unit(problem, settings))
        return _finish(
            folder,
            problem,
            settings,
            records,
            task.fingerprint,
            ceiling,
            each,
            fresh,
            best_of(task, searches.space),
            points,
        )


def _train_fresh(
    truth: GroundTruth,
    problem: Problem,
    settings: SearchSettings,
    data_dir: str | None,
    records: Records,
    listen: events.Listener,
) -> list[Fresh]:
    """Train every search's best cell anew, as often and in the ways that the settings ask for."""
    return [
        own
        for preset in settings.fresh_presets or (settings.preset,)
        for own in fresh_seeds.train(
            _again(truth, problem, settings, preset, data_dir),
            records, settings.fresh_seeds, preset, listen,
        )
    ]  # fmt: skip


def _again(
    truth: GroundTruth,
    problem: Problem,
    settings: SearchSettings,
    preset: str,
    data_dir: str | None,
) -> GroundTruth:
    """Return what sells evaluations of another preset into the same ledger."""
    if preset == settings.preset:
        return truth
    states = str(truth.ledger.path.parent / "states")
    task = problem.ground_truth(preset).task(data_dir, states)
    return dataclasses.replace(truth, task=task)


def replay(
    problem: Problem,
    settings: SearchSettings,
    workdir: str | os.PathLike[str],
    *,
    history: str | os.PathLike[str] | None = None,
    data_dir: str | None = "",
    workers: executors.Workers = 0,
    time_limit: float | None = None,
    listen: events.Listener = events.ignore,
    own_cost: CostOf | None = None,
) -> Comparison:
    """Return recorded searches, cut to the iterations that are asked for.

    Nothing is trained, but for the best cells with fresh seeds where `settings` ask for them.

    Args:
      problem: what was searched.
      settings: as `run`.
      workdir: the run folder.
      history: a history.csv; None takes the shipped one.
      data_dir: as `run`, for fresh seeds; empty: there are no data.
      workers: as `run`.
      time_limit: as `run`.
      listen: told what is trained.
      own_cost: see `run`.

    Raises:
      UserError: something is asked for that was not recorded, or fresh seeds without data, or with
        data on which the searches were not made.
    """
    _check(problem, settings, own_cost)
    cost = trade_off.cost_of(problem, settings.cost, settings.cost_limit, None, own_cost)
    executors.check_time_limit(time_limit, workers)
    if settings.fresh_seeds and data_dir == "":
        raise UserError(
            f"fresh_seeds={settings.fresh_seeds} trains the best cells of recorded searches anew: "
            "give their data_dir, too, or let it be 0"
        )
    records, comments = _recorded(problem, settings, history)
    fingerprint = comments.get("task", "")
    with _open_folder(workdir, "replay", problem, settings, fingerprint) as folder:
        ceiling = noise_ceiling(problem, settings, fingerprint)
        each = search_seconds.recorded(comments, problem, settings.preset)
        fresh: list[Fresh] = []
        if settings.fresh_seeds:
            task = problem.ground_truth(settings.preset).task(data_dir, str(folder.path / "states"))
            _check_task(task, fingerprint)
            with Ledger(folder.path / "ledger.sqlite") as ledger:
                truth = GroundTruth(
                    problem.space.name, task, ledger, workers, time_limit=time_limit
                )
                fresh = _train_fresh(truth, problem, settings, data_dir, records, listen)
        points = trade_off.points(records, cost, problem.space, _unit(problem, settings))
        return _finish(
            folder, problem, settings, records, fingerprint, ceiling, each, fresh, points=points
        )


def _recorded(
    problem: Problem, settings: SearchSettings, history: files.Path | None
) -> tuple[Records, dict[str, str]]:
    """Return what a history holds of the searches that are asked for, and its comments.

    Raises:
      UserError: there is no history, it is another one, or it holds less.
    """
    shipped = problem.ground_truth(settings.preset).history
    if history is None and not shipped:
        raise UserError(
            f"no searches of {problem.name} with preset {settings.preset} are recorded: search "
            "anew, which takes the data"
        )
    source = lookup.shipped(shipped) if history is None else pathlib.Path(history)
    every, comments = read_history(source)
    _check_recorded(source, problem, settings, every, comments)
    records: Records = {}
    for number in range(settings.seeds):
        for method in methods_of(problem, settings):
            record = _cut(every.get((method.name, number), []), problem, settings, method)
            if record is None:
                raise UserError(
                    f"{method.name}, run {number + 1} with {settings.iterations} iterations is "
                    "outside the recorded runs: search anew to evaluate its cells"
                )
            records[method.name, number] = record
    return records, comments


def _check_task(task: Task, fingerprint: str) -> None:
    """Refuse data on which recorded searches were not made."""
    if task.fingerprint != fingerprint:
        raise UserError(
            f"the recorded searches were made with {fingerprint}, and these data give "
            f"{task.fingerprint}: give the data that they were made on"
        )


def _cut(
    record: Record, problem: Problem, settings: SearchSettings, method: Method
) -> Record | None:
    """Return the asked part of a recorded search; None where it was not recorded.

    Partial training is cut where the ground truths of the others are spent, because its
    iterations may have had other sizes.
    """
    if method.ranker != "partial":
        wanted = sizes(problem, settings, method).iterations + 1
        return record[:wanted] if len(record) >= wanted else None
    total = total_cost(settings)
    costs = [own.cost for own in record]
    kept = [own for own in record if own.cost <= total + 1e-6]
    ended = len(kept) < len(record) or (len(kept) > 1 and total - costs[-1] < costs[-1] - costs[-2])
    return kept if kept and (ended or costs[-1] >= total - 1e-6) else None


def _open_folder(
    path: files.Path, mode: str, problem: Problem, settings: SearchSettings, task: str
) -> AbstractContextManager[RunFolder]:
    """Open a run folder; `mode` is "search" or "replay", `task` the task's fingerprint."""
    config = {
        "study": "search_comparison",
        "mode": mode,
        "problem": problem.space.name,
        "task": task,
        **problem.settings,
        **_described(settings),
    }
    return open_folder(path, config, settings_lib.growing(settings))


def identity(settings: SearchSettings, problem: Problem | None = None) -> dict[str, Any]:
    """Return the settings that decide what a search finds, however long it is.

    Args:
      settings: of the comparison.
      problem: adds its own settings; None where `settings` holds them.
    """
    grows = settings_lib.growing(settings)
    own = {} if problem is None else problem.settings
    described = {**own, **_described(settings)}
    return {name: value for name, value in described.items() if name not in grows}


def _described(settings: SearchSettings) -> dict[str, Any]:
    """Return what decides the results.

    Whether it was asynchronous and what a cell may cost stand there only where they were asked for:
    records of before do not know these settings. The cost does where it is limited.
    """
    described = settings_lib.described(settings)
    if not settings.asynchronous:
        del described["asynchronous"]
    if settings.cost_limit is None:
        del described["cost_limit"]
        return described
    return described | {"cost": settings.cost}


def _unit(problem: Problem, settings: SearchSettings) -> str:
    return problem.ground_truth(settings.preset).unit


def _check_recorded(
    source: pathlib.Path,
    problem: Problem,
    settings: SearchSettings,
    recorded: Records,
    comments: Mapping[str, str],
) -> None:
    """Refuse a history of other settings or of another space."""
    names = {cell for record in recorded.values() for own in record for cell in own.cells}
    try:
        for name in sorted(names):
            problem.space.decode(name)
    except UserError as error:
        raise UserError(f"{source} is damaged, or of another space: {error}") from error
    try:
        before = settings_lib.from_json(comments.get("settings", ""))
    except ValueError as error:
        raise UserError(
            f"{source} does not say with which settings it was made: give a history.csv as it "
            "was written"
        ) from error
    differ = settings_lib.differing(before, identity(settings, problem))
    if differ:
        raise UserError(
            f"the recorded runs of {source} had other settings ({', '.join(differ)}), so their "
            "cells do not answer: search anew"
        )


def noise_ceiling(
    problem: Problem, settings: SearchSettings, fingerprint: str
) -> dict[str, Any] | None:
    """Return the noise ceiling of a task in the shipped table, or None where it has none."""
    name = problem.ground_truth(settings.preset).table
    if not name:
        return None
    table = lookup.read(lookup.shipped(name), problem.space)
    return table.noise_ceiling() if table.task == fingerprint else None


def best_of(task: Task, space: motif.SearchSpace | None = None) -> float | None:
    """Return the highest test score of all cells that a task can evaluate.

    None where that takes training, or where the task measures no test scores. Cells that a
    `motif.Restricted` space rules out do not count.
    """
    if not isinstance(task, ClosedTask):
        return None
    cells = (
        [cell for cell in task.cells if space.allows(cell)]
        if isinstance(space, motif.Restricted)
        else task.cells
    )
    every = (task.evaluate(cell, 0, task.budget).test_score for cell in cells)
    return max((score for score in every if math.isfinite(score)), default=None)


def check(
    problem: Problem,
    settings: SearchSettings,
    *,
    workers: executors.Workers = 0,
    time_limit: float | None = None,
    own_cost: CostOf | None = None,
) -> None:
    """Refuse what `run` cannot run, before data are downloaded or anything is written.

    Args:
      problem: as `run`, like the others.
      settings: see `run`.
      workers: see `run`.
      time_limit: see `run`.
      own_cost: see `run`.

    Raises:
      UserError: one sentence.
    """
    _check(problem, settings, own_cost)
    executors.check_time_limit(time_limit, workers)
    if settings.asynchronous and not workers:
        raise UserError(
            "asynchronous=True lets workers go on while others train, and there are none: give "
            "workers=2 or more, or the address of a scheduler"
        )


def _check(problem: Problem, settings: SearchSettings, own_cost: CostOf | None) -> None:
    """Refuse settings with which nothing can be run, before anything is written."""
    settings_lib.check(settings)
    trade_off.check(problem, settings.cost, settings.cost_limit, own_cost)
    problem.ground_truth(settings.preset)
    for preset in settings.fresh_presets:
        problem.ground_truth(preset)
    for method in methods_of(problem, settings):
        sizes(problem, settings, method)


def _finish(
    folder: RunFolder,
    problem: Problem,
    settings: SearchSettings,
    records: Records,
    fingerprint: str,
    ceiling: dict[str, Any] | None,
    each: float | None,
    fresh: Sequence[Fresh],
    best: float | None = None,
    points: Sequence[trade_off.Point] = (),
) -> Comparison:
    """Write history.csv and summary.json; fresh_seeds.csv and pareto.csv where there are any.

    `best` is that of `best_of`, `points` those of `trade_off`.
    """
    summary = search_summary.summarise(problem, settings, records, ceiling, each, fresh, best)
    if points:
        name, limit = settings.cost or "", settings.cost_limit
        trade_off.write(folder.path / "pareto.csv", points, name, limit)
        summary["trade_off"] = trade_off.summarise(points, name, limit)
    if fresh:
        files.write_csv(folder.path / "fresh_seeds.csv", {}, Fresh._fields, fresh)
    comments = {
        "study": "search_comparison",
        search_seconds.COMMENT: each,
        "commit": machine.commit(),
        "task": fingerprint,
        "settings": identity(settings, problem),
    }
    write_history(folder.path / "history.csv", records, comments)
    folder.write_json("summary.json", summary)
    return Comparison(problem, settings, records, summary, folder.path, points)

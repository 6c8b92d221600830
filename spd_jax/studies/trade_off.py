"""What the cells of a search cost, the limit that was set, and the trade-off that was found.

A cost is known by name: one of `Problem.costs`, "seconds" of an evaluation, or a function of
the caller's. The front of a method (Pareto) holds those of its cells that no other cell of
it beats in cost and score.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from spd_jax import files
from spd_jax.archs import Cells
from spd_jax.errors import UserError
from spd_jax.ground_truth.lookup import TabulatedSpace, space_of
from spd_jax.ground_truth.purchase import GroundTruth
from spd_jax.ground_truth.task import ClosedTask, Task
from spd_jax.ledger import EvaluationKey
from spd_jax.metrics import pareto_front
from spd_jax.motif import SearchSpace
from spd_jax.problems import Problem
from spd_jax.search.cost_limit import CostOf, WithinCost, costs_of
from spd_jax.search.record import Records
from spd_jax.units import in_unit

SECONDS = "seconds"


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a cell costs in a comparison of searches.

    Attributes:
      name: of the cost, on axes and in files.
      of: see `CostOf`.
      limit: the largest that is allowed; None: any.
    """

    name: str
    of: CostOf
    limit: float | None = None


class Point(NamedTuple):
    """A cell that a search bought: a row of pareto.csv.

    Attributes:
      method: who bought it.
      run: number of the search.
      cell: its name.
      cost: NaN where it is not known.
      score: on validation data, in the unit that is shown; NaN = failed.
      test_score: the same on test data.
      on_front: 1 where no cell that this method bought, in any run, is at least as cheap and as
        good, and better in one of the two; else 0.
    """

    method: str
    run: int
    cell: str
    cost: float
    score: float
    test_score: float
    on_front: int


def check(problem: Problem, name: str | None, limit: float | None, own: CostOf | None) -> None:
    """Refuse a cost that nobody knows, and a limit of none.

    Args:
      problem: what is searched.
      name: of the cost; None: there is none.
      limit: see `Cost`.
      own: a cost of the caller's, under that name.

    Raises:
      UserError: one sentence.
    """
    if name is None:
        if limit is not None or own is not None:
            raise UserError(f"cost_limit={limit} needs a cost: give one, such as parameters")
        return
    if own is None and name != SECONDS and name not in problem.costs:
        known = ", ".join([*problem.costs, SECONDS])
        raise UserError(
            f"{problem.name} knows no cost={name}: use one of {known}, or a function of your own, "
            "written module:function"
        )


def cost_of(
    problem: Problem,
    name: str | None,
    limit: float | None,
    truth: GroundTruth | None,
    own: CostOf | None = None,
) -> Cost | None:
    """Return what a cell costs, None where no cost was asked for.

    Args:
      problem: as `check`, like the others.
      name: see `check`.
      limit: see `check`.
      truth: knows the seconds of evaluations; None in a replay.
      own: see `check`.

    Raises:
      UserError: as `check`; seconds where nobody recorded them, or where they are limited and no
        table knows them before a cell is evaluated.
    """
    check(problem, name, limit, own)
    if name is None:
        return None
    if own is not None:
        return Cost(name, own, limit)
    if name != SECONDS:
        counted = problem.costs[name]
        return Cost(name, lambda cells: counted(cells.archs), limit)
    if truth is None:
        raise UserError(
            f"cost={SECONDS} is not recorded in a history: take another cost, or search anew"
        )
    if limit is not None and not isinstance(truth.task, ClosedTask):
        raise UserError(
            f"cost={SECONDS} of a cell is known once it was evaluated: leave cost_limit out, or "
            "search a table"
        )
    return Cost(name, lambda cells: _seconds(truth, cells), limit)


def _seconds(truth: GroundTruth, cells: Cells) -> np.ndarray:
    """Return the seconds of full evaluations: of a table, or of the ledger; NaN elsewhere.

    A table that does not tell seconds says 0.
    """
    task = truth.task
    if isinstance(task, ClosedTask):
        seconds = [task.evaluate(name, 0, task.budget).seconds for name in cells.names]
    else:
        keys = [
            EvaluationKey(truth.space_name, name, task.fingerprint, 0, task.budget)
            for name in cells.names
        ]
        found = [truth.ledger.get(key) for key in keys]
        seconds = [0.0 if own is None else own.seconds for own in found]
    return np.where(np.array(seconds) > 0, seconds, np.nan)


def searched(space: SearchSpace, task: Task, cost: Cost | None) -> SearchSpace:
    """Return the cells of a space that a task can evaluate and that are cheap enough.

    Raises:
      UserError: a table has none.
    """
    if cost is None or cost.limit is None:
        return space_of(task, space)
    if not isinstance(task, ClosedTask):
        return WithinCost(space, cost.of, cost.limit)
    cells = Cells.read(space, list(task.cells))
    costs = costs_of(cost.of, cells)
    allowed = costs <= cost.limit
    if not allowed.any():
        known = costs[np.isfinite(costs)]
        cheapest = f"the cheapest costs {known.min():g}" if known.size else "no cost is known"
        raise UserError(f"no cell of the table costs at most cost_limit={cost.limit:g}: {cheapest}")
    return TabulatedSpace(space, cells.take(allowed))


def points(records: Records, cost: Cost | None, space: SearchSpace, unit: str) -> list[Point]:
    """Return every cell that was bought, method by method; none where there is no cost.

    Args:
      records: of the searches.
      cost: what a cell costs.
      space: of the cells.
      unit: name in `units.UNITS`, in which scores are shown.
    """
    if cost is None:
        return []
    names = list(dict.fromkeys(x for own in records.values() for it in own for x in it.cells))
    costs = dict(zip(names, costs_of(cost.of, Cells.read(space, names)), strict=True))
    found = []
    for method in dict.fromkeys(method for method, _ in records):
        rows = [
            (run, *row)
            for (own, run), record in records.items()
            if own == method
            for it in record
            for row in zip(it.cells, it.scores, it.test_scores, strict=True)
        ]
        own_costs = np.array([costs[cell] for _, cell, _, _ in rows])
        scores, tests = np.array([row[2:] for row in rows], np.float64).T
        shown = zip(
            rows, own_costs, in_unit(scores, unit), in_unit(tests, unit),
            pareto_front(own_costs, scores), strict=True,
        )  # fmt: skip
        found += [
            Point(method, run, cell, float(price), float(score), float(test), int(best))
            for (run, cell, _, _), price, score, test, best in shown
        ]
    return found


def write(path: files.Path, found: Sequence[Point], cost: str, limit: float | None) -> None:
    """Write pareto.csv, with the name of the cost and its limit above it."""
    files.write_csv(path, {"cost": cost, "limit": limit}, Point._fields, found)


def summarise(found: Sequence[Point], cost: str, limit: float | None) -> dict[str, Any]:
    """Return what summary.json says of the trade-off: of every method the ends of its front."""
    by_method: dict[str, Any] = {}
    for method in dict.fromkeys(own.method for own in found):
        bought = [own for own in found if own.method == method]
        front = sorted((own for own in bought if own.on_front), key=lambda own: own.cost)
        distinct = {own.cell for own in front}
        ends: Mapping[str, Any] = {}
        if front:
            ends = {"cheapest": _end(front[0]), "best": _end(front[-1])}
        cells = len({own.cell for own in bought})
        by_method[method] = {"bought": cells, "front": len(distinct), **ends}
    return {"cost": cost, "limit": limit, "methods": by_method}


def _end(own: Point) -> dict[str, Any]:
    plain: dict[str, Any] = files.to_json(
        {"cell": own.cell, "cost": own.cost, "valid": own.score, "test": own.test_score}
    )
    return plain

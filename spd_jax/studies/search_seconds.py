"""What searches take in seconds: evaluations, and what is thought about between them."""

import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from spd_jax.ground_truth import lookup
from spd_jax.ground_truth.task import Task
from spd_jax.ledger import Evaluation, EvaluationKey
from spd_jax.ledger import table as ledger_table
from spd_jax.problems import Problem
from spd_jax.search.record import Iteration, Record

COMMENT = "seconds_per_evaluation"  # name of it above a history


def spent(record: Sequence[Iteration], each: float) -> np.ndarray:
    """Return the seconds `[P]` after which a search in one process had its P iterations.

    Args:
      record: of the search: ground truths, and seconds of proposing, fitting and predicting.
      each: seconds of a full evaluation.

    >>> nothing = np.zeros(0)
    >>> record = [Iteration(0, (), nothing, nothing, nothing, 0.0, 4, 1.0),
    ...           Iteration(1, (), nothing, nothing, nothing, 0.0, 6, 9.0)]
    >>> spent(record, 10).tolist()
    [41.0, 70.0]
    """
    thinking = np.nan_to_num([own.seconds for own in record])
    return np.array([own.cost for own in record]) * each + np.cumsum(thinking)


def mean(records: Sequence[Record], each: float | None) -> float | None:
    """Return what searches took in all, mean over them; None where `each` is not known."""
    if each is None:
        return None
    return float(np.mean([spent(record, each)[-1] for record in records]))


def of_evaluations(
    items: Iterable[tuple[EvaluationKey, Evaluation]], task: Task | None = None
) -> float | None:
    """Return the median seconds of full evaluations that did not fail; None without any.

    Args:
      items: of a ledger or a table.
      task: whose evaluations; None: all of the largest budget.
    """
    found = [
        (key.budget, own.seconds)
        for key, own in items
        if own.status == "ok" and (task is None or key.task == task.fingerprint)
    ]
    budget = max((units for units, _ in found), default=0) if task is None else task.budget
    seconds = [own for units, own in found if units == budget]
    return float(np.median(seconds)) if seconds else None


def recorded(comments: Mapping[str, str], problem: Problem, preset: str) -> float | None:
    """Return the seconds of an evaluation in recorded searches; None where nothing tells.

    Args:
      comments: of the history; where they lack the seconds, the shipped table of the same task
        has them.
      problem: what was searched.
      preset: how cells were trained.
    """
    if COMMENT in comments:
        found = json.loads(comments[COMMENT])
        return None if found is None else float(found)
    name = problem.ground_truth(preset).table
    items = ledger_table.read(lookup.shipped(name)) if name else []
    return of_evaluations(item for item in items if item[0].task == comments.get("task"))

"""Buying ground truth: what the ledger lacks is evaluated, and written before anything else."""

import contextlib
import dataclasses
import functools
import math
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

from spd_jax.errors import UserError
from spd_jax.ground_truth.executors import (
    NotYet,
    TimeLimitExceeded,
    WorkerDied,
    Workers,
    run_all,
)
from spd_jax.ground_truth.task import BatchTask, Progress, Task, no_progress
from spd_jax.ledger import STATUSES, Evaluation, EvaluationKey, Ledger, Purchase
from spd_jax.units import LARGEST_SCORE

LONGEST_ERROR = 20_000  # characters of a traceback that are kept: its end
Item = tuple[str, int, int]  # cell, seed and budget
Outcomes = Generator[tuple[int, Any]]  # of a key's place: an evaluation, or what was raised


def _silent(done: int, total: int, evaluation: Evaluation) -> None:
    """Report nothing."""


@dataclasses.dataclass
class GroundTruth:
    """A task and the ledger of what was bought: nothing is bought twice.

    A `BatchTask` without workers is asked for everything that is missing at once; otherwise
    each cell is evaluated on its own.

    Attributes:
      space_name: name of the search space, part of each key.
      task: what is evaluated.
      ledger: where it is written.
      workers: 0 evaluates in this process; more are so many processes; a text is the address of
        a running Dask scheduler, see `executors.run_all`.
      on_result: called after each purchase has been written, with the number done and
        the number to buy (by this call of `evaluate`), and the evaluation.
      on_progress: handed on to a batch task, which calls it while it trains.
      time_limit: seconds after which an evaluation is given up and recorded as failed; None
        lets it run. It needs workers, because this process cannot be killed.
      bought: evaluations computed by this object, failed ones included.

    Raises:
      UserError: the task lacks something of the `Task` protocol.
    """

    space_name: str
    task: Task
    ledger: Ledger
    workers: Workers = 0
    on_result: Callable[[int, int, Evaluation], None] = _silent
    _: dataclasses.KW_ONLY
    on_progress: Progress = no_progress
    time_limit: float | None = None
    bought: int = dataclasses.field(default=0, init=False)

    def __post_init__(self) -> None:
        """Refuse what is no task before anything is bought."""
        _check(self.task)

    def evaluate(
        self, cells: Sequence[str], seeds: Sequence[int] = (0,), budget: int | None = None
    ) -> list[list[Evaluation]]:
        """Return evaluations, bought where the ledger has none.

        Where the task answers smaller budgets, a budget below one in the ledger is answered
        from that one's curve.

        Args:
          cells: canonical texts; a cell that is there twice is bought once.
          seeds: of the trainings.
          budget: units; `None` is the task's.

        Returns:
          Evaluations, by cell and then by seed.

        Raises:
          UserError: a cell is no text, the task itself cannot run, or the ledger cannot be written.
        """
        units = _whole_budget(self.task.budget if budget is None else budget)
        rows = [[self._key(cell, seed, units) for seed in seeds] for cell in cells]
        distinct = list(dict.fromkeys(key for row in rows for key in row))
        answers = {key: self._known(key) for key in distinct}
        self._buy([key for key in distinct if answers[key] is None], answers)
        found = {key: answer for key, answer in answers.items() if answer is not None}
        return [[found[key] for key in row] for row in rows]

    def evaluate_each(
        self,
        cells: Iterable[str | NotYet],
        on_evaluation: Callable[[str, Evaluation], None],
        *,
        seed: int = 0,
    ) -> None:
        """Evaluate cells that are drawn one by one, each when somebody is free to evaluate it.

        What the ledger has is answered as soon as it is drawn; all else is bought, written when
        it arrives, and then answered. This returns when every cell that was drawn is answered.

        Args:
          cells: canonical texts, all different; an iterator may yield `executors.NOT_YET` where
            it does not know yet which cell is next, and is asked again.
          on_evaluation: called with a cell and its evaluation, in any order, by the thread that
            draws the cells.
          seed: of the trainings.

        Raises:
          UserError: as `evaluate`.
        """
        units = _whole_budget(self.task.budget)
        drawn: list[EvaluationKey] = []

        def missing() -> Iterator[Item | NotYet]:
            for cell in cells:
                if isinstance(cell, NotYet):
                    yield cell
                    continue
                key = self._key(cell, seed, units)
                known = self._known(key)
                if known is None:
                    drawn.append(key)
                    yield key.cell, key.seed, key.budget
                else:
                    on_evaluation(cell, known)

        outcomes = self._run(missing())
        with contextlib.closing(outcomes):  # so that an error here ends the workers
            for done, (place, outcome) in enumerate(outcomes, 1):
                key = drawn[place]
                evaluation = self._write(key, outcome)
                self.on_result(done, len(drawn), evaluation)
                on_evaluation(key.cell, evaluation)

    def _key(self, cell: str, seed: int, budget: int) -> EvaluationKey:
        if not isinstance(cell, str):
            raise UserError(f"the cell {cell!r:.60} is no text: give what encode returns")
        return EvaluationKey(self.space_name, cell, self.task.fingerprint, int(seed), budget)

    def _known(self, key: EvaluationKey) -> Evaluation | None:
        known = self.ledger.get(key)
        if known is not None and max(abs(known.score), abs(known.test_score)) > LARGEST_SCORE:
            raise UserError(
                f"{self.ledger.path} holds a score of {known.score:.3g} for the cell {key.cell!r}: "
                f"use a ledger whose scores lie within {LARGEST_SCORE:.0e}"
            )
        if known is None and self.task.answers_smaller_budgets:
            longer = self.ledger.get_longer(key)
            known = None if longer is None else beginning(longer, key.budget)
        return known

    def _buy(
        self, keys: Sequence[EvaluationKey], answers: dict[EvaluationKey, Evaluation | None]
    ) -> None:
        at_once = not self.workers and self.time_limit is None
        if at_once and keys and isinstance(self.task, BatchTask):
            outcomes: Outcomes = _many(self.task, keys, self.on_progress)
        else:
            outcomes = self._run([(key.cell, key.seed, key.budget) for key in keys])
        with contextlib.closing(outcomes):  # so that an error here ends the workers
            for done, (place, outcome) in enumerate(outcomes, 1):
                answers[keys[place]] = evaluation = self._write(keys[place], outcome)
                self.on_result(done, len(keys), evaluation)

    def _run(self, items: Iterable[Item | NotYet]) -> Outcomes:
        """Let whoever there is evaluate cells, seeds and budgets."""
        return run_all(
            functools.partial(_evaluate, self.task),
            items,
            workers=self.workers,
            time_limit=self.time_limit,
        )

    def _write(self, key: EvaluationKey, outcome: Evaluation | Exception) -> Evaluation:
        """Write what was bought, and return it as a resumed run will read it."""
        evaluation = _evaluation(outcome, key.budget)
        evaluation = dataclasses.replace(evaluation, unit=evaluation.unit or self.task.unit)
        self.ledger.put(key, evaluation)
        self.bought += 1
        return self.ledger.get(key) or evaluation


def beginning(purchase: Purchase, budget: int) -> Evaluation | None:
    """Return what a longer evaluation tells about its first `budget` units.

    It is for tasks that answer smaller budgets.

    Args:
      purchase: of a larger budget.
      budget: units.

    Returns:
      The evaluation after `budget` units, its seconds in proportion and its test score
      not measured; failed where the longer one failed before; `None` where its curve
      does not tell.
    """
    whole = purchase.evaluation
    curve = whole.curve[:budget]
    share = whole.seconds * budget / purchase.key.budget
    if len(curve) == budget and math.isfinite(curve[-1]):
        return Evaluation("ok", curve[-1], math.nan, curve, share, unit=whole.unit)
    if whole.status == "failed":
        return dataclasses.replace(whole, curve=curve)
    return None


def _check(task: Task) -> None:
    """See that a task has what is relied on, in one sentence each."""
    name = type(task).__name__
    for attribute in ("budget", "unit", "fingerprint", "answers_smaller_budgets", "evaluate"):
        if not hasattr(task, attribute):
            raise UserError(
                f"the task {name} has no {attribute}: give it all that "
                "spd_jax.ground_truth.task.Task lists"
            )
    _whole_budget(task.budget)
    for attribute in ("unit", "fingerprint"):
        if not isinstance(getattr(task, attribute), str):
            raise UserError(
                f"the {attribute} of the task {name} is {getattr(task, attribute)!r}: give a text"
            )


def _whole_budget(budget: int) -> int:
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
        raise UserError(f"the budget is {budget!r}: give a whole number of units, at least 1")
    return budget


def _evaluate(task: Task, arguments: tuple[str, int, int]) -> Evaluation:
    """Evaluate one cell, in a worker: what comes back is plain data, whatever happened."""
    began = time.perf_counter()
    try:
        return task.evaluate(*arguments)
    except UserError as error:
        raise UserError(str(error)) from None  # a subclass of it may not unpickle
    except (Exception, SystemExit):
        return _failed(traceback.format_exc(), time.perf_counter() - began)


def _many(task: BatchTask, keys: Sequence[EvaluationKey], on_progress: Progress) -> Outcomes:
    """Evaluate keys of one budget in one call of the task; yield them as they come."""
    missing = set(range(len(keys)))
    began = time.perf_counter()
    cells, seeds = [key.cell for key in keys], [key.seed for key in keys]
    try:
        for place, evaluation in task.evaluate_many(cells, seeds, keys[0].budget, on_progress):
            if place not in missing:
                raise UserError(
                    f"the task's evaluate_many yielded place {place!r} twice, or there is none: "
                    f"yield every number from 0 to {len(keys) - 1} once"
                )
            missing.remove(place)
            yield place, evaluation
    except UserError:
        raise
    except (Exception, SystemExit):
        seconds = (time.perf_counter() - began) / len(keys)
        error = traceback.format_exc()
        for place in sorted(missing):
            yield place, _failed(error, seconds)
    else:
        if missing:
            raise UserError(
                f"the task's evaluate_many yielded nothing for {keys[min(missing)].cell!r}: "
                "yield an evaluation for every cell"
            )


def _evaluation(outcome: Evaluation | Exception, budget: int) -> Evaluation:
    """Return what is to be written: failed where something went wrong with this cell alone."""
    if isinstance(outcome, WorkerDied | TimeLimitExceeded):
        return _failed(str(outcome))
    if isinstance(outcome, UserError):
        raise outcome
    if isinstance(outcome, Exception):  # not the cell's doing: it never reached the task
        raise UserError(
            f"a worker could not evaluate a cell ({outcome}): see that the task can be "
            "pickled and that the workers run"
        ) from outcome
    if not isinstance(outcome, Evaluation) or outcome.status not in STATUSES:
        what = outcome.status if isinstance(outcome, Evaluation) else type(outcome).__name__
        raise UserError(
            f"the task's evaluate returned {what}: return a spd_jax.ledger.Evaluation whose "
            f"status is {' or '.join(STATUSES)}"
        )
    wrong = _misfit(outcome)
    if wrong:
        raise UserError(f"the task's evaluate returned {wrong}")
    if len(outcome.curve) > budget:
        raise UserError(
            f"the task's evaluate returned a curve of {len(outcome.curve)} values for budget "
            f"{budget}: return at most one per unit"
        )
    return _of_floats(outcome)


def _misfit(evaluation: Evaluation) -> str:
    """Return what of an evaluation is of another type than it must be, and what to give."""
    if not isinstance(evaluation.curve, tuple | list):
        return f"the curve {evaluation.curve!r:.60}: return a tuple of numbers"
    for name in ("error", "unit"):
        if not isinstance(getattr(evaluation, name), str):
            return f"the {name} {getattr(evaluation, name)!r:.60}: return a text"
    seconds = evaluation.seconds
    if isinstance(seconds, int | float) and not 0 <= seconds < math.inf:
        return f"seconds={seconds}: return the time spent, 0 or more"
    return ""


def _of_floats(evaluation: Evaluation) -> Evaluation:
    """Return an evaluation with plain floats; failed where its score is none, or not finite."""
    try:
        evaluation = dataclasses.replace(
            evaluation,
            score=float(evaluation.score),
            test_score=float(evaluation.test_score),
            curve=tuple(map(float, evaluation.curve)),
            seconds=float(evaluation.seconds),
        )
    except (TypeError, ValueError, OverflowError) as error:
        return _failed(f"a score is no number: {error}")
    # A test score that was not measured is NaN, which is not above anything.
    largest = max(abs(evaluation.score), abs(evaluation.test_score))
    if evaluation.status == "ok" and (
        not math.isfinite(evaluation.score) or largest > LARGEST_SCORE
    ):
        return dataclasses.replace(
            evaluation,
            status="failed",
            score=math.nan,
            test_score=math.nan,
            error=f"the score is {evaluation.score}"
            + (
                f": none may be above {LARGEST_SCORE:.0e}"
                if LARGEST_SCORE < largest < math.inf
                else ""
            ),
        )
    return evaluation


def _failed(error: str, seconds: float = 0.0) -> Evaluation:
    return Evaluation("failed", seconds=seconds, error=error[-LONGEST_ERROR:])

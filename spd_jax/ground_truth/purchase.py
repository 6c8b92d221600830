"""Buying ground truth: what the ledger lacks is evaluated, and written before anything else."""

import contextlib
import dataclasses
import functools
import math
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Protocol

from spd_jax.errors import UserError
from spd_jax.ground_truth.executors import WorkerDied, run_all
from spd_jax.ledger import Evaluation, EvaluationKey, Ledger, Purchase

LONGEST_ERROR = 20_000  # characters of a traceback that are kept: its end


class Task(Protocol):
    """What is bought: the training of one cell. Picklable, for example a frozen dataclass.

    Attributes:
      budget: units (epochs) of a full evaluation.
      fingerprint: changes with every setting and every byte of data that a score
        depends on.
    """

    @property
    def budget(self) -> int:
        """Units of a full evaluation."""
        ...

    @property
    def fingerprint(self) -> str:
        """What the evaluation depends on, beside cell, seed and budget."""
        ...

    def evaluate(self, cell: str, seed: int, budget: int) -> Evaluation:
        """Train a cell; a smaller budget is the beginning of a larger one.

        Args:
          cell: canonical text.
          seed: of everything random; equal arguments give equal scores.
          budget: units to train for.

        Returns:
          Scores, higher is better; a training that diverges returns a failed one.

        Raises:
          UserError: the task itself cannot run (data are missing, say): nothing is
            bought. Any other exception fails this cell alone.
        """
        ...


def _silent(done: int, total: int, evaluation: Evaluation) -> None:
    """Report nothing."""


@dataclasses.dataclass
class GroundTruth:
    """A task, the ledger of what was bought, and workers: nothing is bought twice.

    Attributes:
      space_name: name of the search space, part of each key.
      task: what is evaluated.
      ledger: where it is written.
      workers: 0 evaluates in this process; more are so many spawned processes.
      on_result: called after each purchase has been written, with the number done and
        the number to buy (by this call of `evaluate`), and the evaluation.
      retries: how often a cell is given to another worker after its worker died.
      executor_factory: makes the executor of one worker, see `executors.run_all`.
      bought: evaluations computed by this object, failed ones included.
    """

    space_name: str
    task: Task
    ledger: Ledger
    workers: int = 0
    on_result: Callable[[int, int, Evaluation], None] = _silent
    _: dataclasses.KW_ONLY
    retries: int = 2
    executor_factory: Callable[[], Executor] | None = None
    bought: int = dataclasses.field(default=0, init=False)

    def evaluate(
        self, cells: Sequence[str], seeds: Sequence[int] = (0,), budget: int | None = None
    ) -> list[list[Evaluation]]:
        """Return evaluations, bought where the ledger has none.

        A budget below one in the ledger is answered from that one's curve.

        Args:
          cells: canonical texts; a cell that is there twice is bought once.
          seeds: of the trainings.
          budget: units; `None` is the task's.

        Returns:
          Evaluations, by cell and then by seed.

        Raises:
          UserError: the task itself cannot run, or the ledger cannot be written.
        """
        units = self.task.budget if budget is None else budget
        fingerprint = self.task.fingerprint
        rows = [
            [
                EvaluationKey(self.space_name, cell, fingerprint, int(seed), int(units))
                for seed in seeds
            ]
            for cell in cells
        ]
        distinct = list(dict.fromkeys(key for row in rows for key in row))
        answers = {key: self._known(key) for key in distinct}
        self._buy([key for key in distinct if answers[key] is None], answers)
        found = {key: answer for key, answer in answers.items() if answer is not None}
        return [[found[key] for key in row] for row in rows]

    def _known(self, key: EvaluationKey) -> Evaluation | None:
        known = self.ledger.get(key)
        if known is None:
            longer = self.ledger.get_longer(key)
            known = None if longer is None else beginning(longer, key.budget)
        return known

    def _buy(
        self, keys: Sequence[EvaluationKey], answers: dict[EvaluationKey, Evaluation | None]
    ) -> None:
        arrived = 0

        def write(index: int, outcome: Evaluation | Exception) -> None:
            nonlocal arrived
            evaluation = _evaluation(outcome)
            self.ledger.put(keys[index], evaluation)
            # What is read back is what a resumed run will see.
            answers[keys[index]] = evaluation = self.ledger.get(keys[index]) or evaluation
            self.bought += 1
            arrived += 1
            self.on_result(arrived, len(keys), evaluation)

        runs = run_all(
            functools.partial(_evaluate, self.task),
            [(key.cell, key.seed, key.budget) for key in keys],
            workers=self.workers,
            retries=self.retries,
            executor_factory=self.executor_factory,
            on_arrival=write,
        )
        with contextlib.closing(runs):  # type: ignore[type-var]
            for _ in runs:
                pass


def beginning(purchase: Purchase, budget: int) -> Evaluation | None:
    """Return what a longer evaluation tells about its first `budget` units.

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
        return Evaluation("ok", curve[-1], math.nan, curve, share)
    if whole.status == "failed":
        return dataclasses.replace(whole, curve=curve)
    return None


def _evaluate(task: Task, arguments: tuple[str, int, int]) -> Evaluation:
    """Evaluate one cell, in a worker: what comes back is plain data, whatever happened."""
    began = time.perf_counter()
    try:
        return _checked(task.evaluate(*arguments), arguments[2])
    except UserError as error:
        raise UserError(str(error)) from None  # a subclass of it may not unpickle
    except (Exception, SystemExit):
        return _failed(traceback.format_exc(), time.perf_counter() - began)


def _checked(evaluation: Evaluation, budget: int) -> Evaluation:
    """Refuse what no ledger should hold."""
    if not isinstance(evaluation, Evaluation):
        raise UserError(
            f"the task's evaluate returned {type(evaluation).__name__}: "
            "return a spd_jax.ledger.Evaluation"
        )
    if len(evaluation.curve) > budget:
        raise UserError(
            f"the task's evaluate returned a curve of {len(evaluation.curve)} values for budget "
            f"{budget}: return at most one per unit"
        )
    if evaluation.status == "ok" and not math.isfinite(evaluation.score):
        return dataclasses.replace(
            evaluation,
            status="failed",
            score=math.nan,
            test_score=math.nan,
            error=f"the score is {evaluation.score}",
        )
    return evaluation


def _evaluation(outcome: Evaluation | Exception) -> Evaluation:
    if isinstance(outcome, WorkerDied):
        return _failed(str(outcome))
    if isinstance(outcome, UserError):
        raise outcome
    if isinstance(outcome, Exception):  # not the cell's doing: it never reached the task
        raise UserError(
            f"the executor could not evaluate a cell ({outcome}): see that the task can be "
            "pickled and that the workers run"
        ) from outcome
    return outcome


def _failed(error: str, seconds: float = 0.0) -> Evaluation:
    return Evaluation("failed", math.nan, math.nan, (), seconds, error[-LONGEST_ERROR:])

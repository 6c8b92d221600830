"""Jobs are bought once: what the ledger lacks is trained, and written before anything else."""

import contextlib
import dataclasses
import functools
import pathlib
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from spd_jax.errors import UserError
from spd_jax.forward_search import jobs
from spd_jax.forward_search.jobs import Job, Training
from spd_jax.ground_truth import executors
from spd_jax.ledger import Evaluation, EvaluationKey, Ledger

TRIES = 2  # of a job that raises, or whose worker dies
LONGEST_ERROR = 20_000  # characters of a traceback that are kept: its end
SEEDS = 10**6  # a search's seed and a job's number make one seed of the ledger
Item = tuple[Training, Job]


def key_of(item: Item) -> EvaluationKey:
    """Return what a job is in the ledger; its parent there is the job whose weights it got."""
    training, job = item
    return EvaluationKey(
        f"forward_search/{job.kind}",
        str(job.arch),
        training.fingerprint(job.kind),
        training.seed * SEEDS + job.number,
        job.epochs,
        job.source or "",
    )


@dataclasses.dataclass
class Buyer:
    """A ledger, and how many workers train what it lacks.

    Attributes:
      ledger: of all searches of a run.
      workers: 0 trains in this process; more are so many processes; or the address of a Dask
        scheduler, whose workers must see the folder of the weights under the same path.
      time_limit: seconds after which a job is given up; needs workers.
      on_result: called with a job and its result, once that has been written or found.
    """

    ledger: Ledger
    workers: executors.Workers = 0
    time_limit: float | None = None
    on_result: Callable[[Item, Evaluation], None] = lambda item, evaluation: None
    _known: dict[pathlib.Path, Item] = dataclasses.field(default_factory=dict)

    def buy(self, items: Sequence[Item]) -> list[Evaluation]:
        """Return the results of jobs, in their order; equal jobs are trained once.

        A job that raises or whose worker dies is tried once more, then recorded as failed.

        Raises:
          UserError: data are missing, or the ledger cannot be written.
        """
        keys = [key_of(item) for item in items]
        distinct: dict[EvaluationKey, Item] = {}
        for key, item in zip(keys, items, strict=True):
            distinct.setdefault(key, item)
        self._known |= {training.path(job.name): (training, job) for training, job in items}
        answers = {key: self.ledger.get(key) for key in distinct}
        for key, known in answers.items():
            if known is not None:
                self.on_result(distinct[key], known)
        missing = {key: item for key, item in distinct.items() if answers[key] is None}
        self.restore([path for item in missing.values() for path in _source_of(item)])
        for key, answer in self._train(missing):
            answers[key] = answer
            self.on_result(missing[key], answer)
        return [answer for key in keys if (answer := answers[key]) is not None]

    def restore(self, paths: Sequence[pathlib.Path]) -> None:
        """Train anew the jobs whose files of weights are wanted, but missing or damaged.

        A run folder may be carried without its weights: its ledger has all results. What is
        trained again does not change them.

        Args:
          paths: of jobs that this object has bought or found.

        Raises:
          UserError: as `buy`.
        """
        lost = [path for path in dict.fromkeys(paths) if path in self._known and _is_lost(path)]
        if lost:
            items = [self._known[path] for path in lost]
            self.restore([path for item in items for path in _source_of(item)])
            list(self._train({key_of(item): item for item in items}))

    def _train(self, items: Mapping[EvaluationKey, Item]) -> Iterator[tuple[EvaluationKey, Any]]:
        """Yield what the ledger has of jobs, each after its training."""
        waiting = list(items)
        found = executors.run_all(
            functools.partial(_tried, TRIES),
            [items[key] for key in waiting],
            workers=self.workers,
            retries=TRIES - 1,
            time_limit=self.time_limit,
        )
        with contextlib.closing(found):
            for place, outcome in found:
                key = waiting[place]
                self.ledger.put(key, _evaluation(outcome))
                # What is read back is what a resumed run will see.
                evaluation = self.ledger.get(key)
                assert evaluation is not None
                yield key, evaluation


def _source_of(item: Item) -> list[pathlib.Path]:
    """Return the file of the weights that a job begins with, if any."""
    training, job = item
    return [] if job.source is None else [training.path(job.source)]


def _is_lost(path: pathlib.Path) -> bool:
    try:
        jobs.load(path)
    except UserError:
        return True
    return False


def _tried(tries: int, item: Item) -> Evaluation:
    """Run a job; what it raises at its last try is its result, as plain data."""
    for left in range(tries - 1, -1, -1):
        try:
            return jobs.run(*item)
        except UserError as error:
            raise UserError(str(error)) from None  # a subclass of it may not unpickle
        except Exception as error:
            if is_out_of_memory(error):
                raise too_large(f"a training of {item[1].arch}") from None
            if not left:
                return Evaluation("failed", error=traceback.format_exc()[-LONGEST_ERROR:])
    raise AssertionError(tries)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether a computation failed for want of memory."""
    return "RESOURCE_EXHAUSTED" in str(error) or isinstance(error, MemoryError)


def too_large(what: str) -> UserError:
    """Return the error of a computation that needs too much memory."""
    return UserError(
        f"{what} does not fit into the device's memory: use smaller batches, fewer filters or a "
        "smaller preset"
    )


def _evaluation(outcome: Any) -> Evaluation:
    """Return what is to be written."""
    if isinstance(outcome, executors.WorkerDied | executors.TimeLimitExceeded):
        return Evaluation("failed", error=str(outcome))
    if isinstance(outcome, UserError):
        raise outcome
    if isinstance(outcome, Exception):
        raise UserError(
            f"a worker could not run a job ({outcome}): see that the workers run"
        ) from outcome
    return outcome

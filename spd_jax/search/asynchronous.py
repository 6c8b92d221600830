"""Algorithm 1 without waiting: whoever is free to evaluate gets the best proposal at once.

The synchronous search (`loop.search`) chooses K cells, and waits for the slowest of them before
it chooses again. Here nobody waits: as soon as all K cells of a choice have been handed out, the
next K are chosen, from what is known by then.
"""

import concurrent.futures
import functools
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from spd_jax.archs import Cells
from spd_jax.axes import Key
from spd_jax.errors import UserError
from spd_jax.ground_truth.executors import NOT_YET, NotYet
from spd_jax.ledger import Evaluation
from spd_jax.motif import SearchSpace
from spd_jax.search import loop
from spd_jax.search.loop import Fit, Propose, SearchConfig, fit_only, propose_only
from spd_jax.search.protocol import Proposer
from spd_jax.search.record import Choice, Iteration, Record
from spd_jax.surrogates.protocol import CostlySurrogate, Surrogate

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
PAPER = SearchConfig()  # the sizes of the paper
Chosen = tuple[Cells, Choice]


class EachEvaluator(Protocol):
    """Whoever evaluates cells as they are drawn, for example a `purchase.GroundTruth`."""

    def evaluate_each(
        self,
        cells: Iterable[str | NotYet],
        on_evaluation: Callable[[str, Evaluation], None],
        *,
        seed: int = 0,
    ) -> None:
        """Evaluate every cell, drawn when somebody is free; see `GroundTruth.evaluate_each`."""
        ...


class Later(Protocol[T_co]):
    """A result that is being computed, as a `concurrent.futures.Future`."""

    def done(self) -> bool:
        """Return whether it is there."""
        ...

    def result(self) -> T_co:
        """Return it, or raise what its computation raised."""
        ...


def in_a_thread(work: Callable[[], T]) -> Later[T]:
    """Begin to compute something beside what else this program does."""
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    # A daemon, so that Ctrl-C need not wait for a fit.
    threading.Thread(target=run, name="choice", daemon=True).start()
    return future


def search(
    key: Key,
    space: SearchSpace,
    ground_truth: EachEvaluator,
    proposer: Proposer,
    *,
    surrogate: Surrogate | None = None,
    config: SearchConfig = PAPER,
    seed: int = 0,
    fit: Fit = fit_only,
    propose: Propose = propose_only,
    recall: Callable[[int], Choice | None] = lambda index: None,
    on_choice: Callable[[int, Choice], Any] = lambda index, choice: None,
    on_evaluation: Callable[[int, Evaluation], Any] = lambda count, evaluation: None,
    on_iteration: Callable[[Iteration], Any] = lambda iteration: None,
    beside: Callable[[Callable[[], Chosen]], Later[Chosen]] = in_a_thread,
) -> Record:
    """Run Algorithm 1 without waiting for the slowest evaluation of an iteration.

    First the cells of the warm start are handed out. When they have been, and somebody is free,
    the surrogate is fitted to what has arrived, and the best K = `config.evaluations` of
    `config.proposals` cells are chosen; they are handed out one by one, best first, and then the
    next K are chosen. Since somebody is free only because a result has arrived, the surrogate is
    refitted after every K results. What is pending meanwhile, up to one cell for every other
    worker, is known to the proposer as failed cells are, so that it is never proposed again; the
    surrogate learns nothing from it. The first choice waits until half of the warm start has
    arrived and not failed, or all of it has arrived.

    A choice is made beside the evaluations: results are written while it lasts, but whoever
    becomes free waits for its end. `proposer`, `surrogate` and `fit` are called by another thread.

    The order in which results arrive decides what is known to a choice: with several workers the
    same key need not give the same record twice. With one worker it is that of `loop.search`.

    Args:
      key: consumed; likewise what is not described here: as for `loop.search`.
      space: of the cells.
      ground_truth: who evaluates them.
      proposer: chooses cells.
      surrogate: ranks them; it must not train cells itself.
      config: sizes.
      seed: of every evaluation.
      fit: called instead of `surrogate.fit`.
      propose: called instead of `proposer.propose`.
      recall: returns what an earlier run handed to `on_choice`, or None. It is used, whatever has
        arrived since, if it has as many cells as `config.evaluations` and none that was chosen
        before. So a search that was killed goes on with the cells that it had chosen: what the
        ledger has of them is known at once, what was pending is evaluated first.
      on_choice: called before any cell of a choice is handed out.
      on_evaluation: called with the number of evaluations that have arrived, and the latest.
      on_iteration: called once all cells of the warm start, and then of each choice, have
        arrived; in order.
      beside: computes a choice while evaluations go on; the default does so in a thread.

    Returns:
      The warm start and every choice, in order, with the cells of each in order of handing out.

    Raises:
      UserError: as `loop.search`; or the surrogate trains cells itself. Where no more cells can be
        chosen, what is pending is awaited first.
    """
    loop.check(config, ranked=surrogate is not None)
    _refuse_training(surrogate)
    flight = _Flight(on_iteration, on_evaluation, ranked=surrogate is not None)

    def choose(index: int, known: Cells, scores: np.ndarray, pending: Cells) -> Chosen:
        return loop.choose(
            index, key, space, known, scores, pending=pending,
            proposer=proposer, surrogate=surrogate, config=config, fit=fit, propose=propose,
        )  # fmt: skip

    def steps(index: int) -> Iterator[NotYet | Chosen]:
        """Yield `NOT_YET` until the choice of an iteration is made, and then the choice."""
        recalled = recall(index)
        if recalled is not None and flight.takes(recalled, config.evaluations):
            yield Cells.read(space, recalled.cells), recalled
            return
        while not flight.is_known_enough():
            yield NOT_YET
        future = beside(functools.partial(choose, index, *flight.known()))
        while not future.done():
            yield NOT_YET
        cells, choice = future.result()
        on_choice(index, choice)
        yield cells, choice

    start = loop.begin(key, space, config.warm_start)
    choices = map(steps, range(1, config.iterations + 1))
    ground_truth.evaluate_each(flight.upcoming(start, choices), flight.arrive, seed=seed)
    if flight.ended is not None:
        raise flight.ended
    return flight.record


def _refuse_training(surrogate: Surrogate | None) -> None:
    """Refuse a surrogate that trains cells itself."""
    if isinstance(surrogate, CostlySurrogate):
        raise UserError(
            f"{type(surrogate).__name__} trains cells to rank them, for which an asynchronous "
            "search has no workers left: search synchronously, or use another surrogate"
        )


class _Flight:
    """The cells that were chosen, what has arrived of them, and the record so far."""

    def __init__(
        self,
        on_iteration: Callable[[Iteration], Any],
        on_evaluation: Callable[[int, Evaluation], Any],
        *,
        ranked: bool,
    ) -> None:
        self.record: Record = []
        self._on_iteration, self._on_evaluation = on_iteration, on_evaluation
        self._ranked = ranked
        self._choices: list[Choice] = []  # the first one is the warm start
        self._cells: Cells | None = None
        self._place: dict[str, int] = {}  # by name, in `_cells`
        self._arrived: dict[str, Evaluation] = {}
        self.ended: Exception | None = None  # why no further choice was made

    def upcoming(
        self, start: Chosen, choices: Iterable[Iterable[NotYet | Chosen]]
    ) -> Iterator[str | NotYet]:
        """Yield every cell in order of handing out: the warm start, then the choices.

        What a choice raises ends them, so that what is pending is still awaited: see `ended`.
        """
        yield from self.begin(*start)
        try:
            for steps in choices:
                for step in steps:
                    if isinstance(step, NotYet):
                        yield step
                    else:
                        yield from self.begin(*step)
        except Exception as error:
            self.ended = error

    def begin(self, cells: Cells, choice: Choice) -> Sequence[str]:
        """Take note of a choice whose cells are handed out next; return their names."""
        self._place |= {name: len(self._place) + i for i, name in enumerate(cells.names)}
        self._cells = cells if self._cells is None else self._cells.joined(cells)
        self._choices.append(choice)
        return cells.names

    def takes(self, choice: Choice, count: int) -> bool:
        """Return whether a choice of an earlier run can be the next one, of `count` cells."""
        return len(choice.cells) == count and not any(x in self._place for x in choice.cells)

    def is_known_enough(self) -> bool:
        """Return whether the warm start tells enough for the first choice."""
        start = self._choices[0].cells
        if len(self._choices) > 1 or all(name in self._arrived for name in start):
            return True
        return sum(x.status == "ok" for x in self._arrived.values()) * 2 >= len(start)

    def known(self) -> tuple[Cells, np.ndarray, Cells]:
        """Return the cells that have arrived, in that order, their scores, and the pending ones."""
        assert self._cells is not None
        arrived = self._cells.take([self._place[name] for name in self._arrived])
        scores = [x.score if x.status == "ok" else math.nan for x in self._arrived.values()]
        pending = [i for name, i in self._place.items() if name not in self._arrived]
        return arrived, np.array(scores, np.float64), self._cells.take(pending)

    def arrive(self, cell: str, evaluation: Evaluation) -> None:
        """Take note of an evaluation, and of every iteration that it completes."""
        self._arrived[cell] = evaluation
        self._on_evaluation(len(self._arrived), evaluation)
        while len(self.record) < len(self._choices):
            index = len(self.record)
            choice = self._choices[index]
            if not all(name in self._arrived for name in choice.cells):
                return
            bought = [self._arrived[name] for name in choice.cells]
            ranked = self._ranked and index > 0
            self._on_iteration(loop.add_iteration(self.record, choice, bought, ranked=ranked))

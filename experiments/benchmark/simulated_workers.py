"""Workers of a virtual clock: a search that would take days is simulated in a second."""

import dataclasses
import heapq
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from spd_jax.ground_truth.executors import NotYet
from spd_jax.ledger import Evaluation

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class _Computed:
    """A result that is there from some moment of the virtual clock on."""

    workers: "SimulatedWorkers"
    ready: float
    value: object

    def done(self) -> bool:
        return self.workers.clock >= self.ready

    def result(self):  # type: ignore[no-untyped-def]
        return self.value


@dataclasses.dataclass
class SimulatedWorkers:
    """Evaluates cells on so many workers, one each, as events of a virtual clock.

    It is the ground truth of `loop.search` and of `asynchronous.search` alike.

    Attributes:
      count: how many workers there are.
      evaluation: what a cell's evaluation is.
      seconds: how long it takes.
      fit_seconds: how long a choice takes: a fit, and the ranking.
      clock: virtual seconds since the beginning.
      busy: virtual seconds in which workers evaluated, all of them together.
    """

    count: int
    evaluation: Callable[[str], Evaluation]
    seconds: Callable[[str], float]
    fit_seconds: float = 0.0
    clock: float = 0.0
    busy: float = 0.0
    _events: list[tuple[float, int, str | None]] = dataclasses.field(default_factory=list)
    _numbers: itertools.count = dataclasses.field(default_factory=itertools.count)

    @property
    def idle_share(self) -> float:
        """The share of the workers' time, up to this moment, in which they had nothing to do."""
        return 1 - self.busy / (self.count * self.clock)

    def evaluate(self, cells: Sequence[str], seeds: Sequence[int] = (0,)) -> list[list[Evaluation]]:
        """Evaluate cells, and wait for the slowest."""
        found: dict[str, Evaluation] = {}
        self.evaluate_each(cells, found.__setitem__, seed=seeds[0])
        return [[found[cell]] for cell in cells]

    def evaluate_each(
        self,
        cells: Iterable[str | NotYet],
        on_evaluation: Callable[[str, Evaluation], None],
        *,
        seed: int = 0,
    ) -> None:
        """Evaluate cells, drawn when a worker is free; see `GroundTruth.evaluate_each`."""
        del seed
        upcoming, free = iter(cells), self.count
        while True:
            while free:
                cell = next(upcoming, None)
                if cell is None or isinstance(cell, NotYet):
                    break
                self._at(self.clock + self.seconds(cell), cell)
                free -= 1
            if not self._events:
                return
            self.clock, _, done = heapq.heappop(self._events)
            if done is not None:
                free += 1
                self.busy += self.seconds(done)
                on_evaluation(done, self.evaluation(done))

    def beside(self, work: Callable[[], T]) -> _Computed:
        """Compute something that is there `fit_seconds` later, while evaluations go on."""
        value = work()
        self._at(self.clock + self.fit_seconds, None)
        return _Computed(self, self.clock + self.fit_seconds, value)

    def wait_for_fit(self) -> None:
        """Let the time of a choice pass, in which nobody evaluates."""
        self.clock += self.fit_seconds

    def _at(self, time: float, cell: str | None) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), cell))

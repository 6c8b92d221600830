"""Calls of one function: here, in processes of this computer, or on a running Dask cluster."""

import asyncio
import collections
import concurrent.futures
import contextlib
import queue
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sized
from typing import Any, NamedTuple, TypeVar

from spd_jax.checks import is_count, is_number
from spd_jax.errors import UserError
from spd_jax.ground_truth import clusters
from spd_jax.version import VERSION

Item = TypeVar("Item")
Result = TypeVar("Result")
Arrivals = Generator[tuple[int, Result | Exception]]

LOOK_EVERY = 0.5  # seconds between two looks at which workers there are
ASK_AGAIN = 0.02  # seconds after which items that said `NOT_YET` are asked again
GOES_ON = object()


class NotYet:
    """What `NOT_YET` is."""


# An iterator of items yields this where it has no item for who is free, but will have one: it is
# asked again a moment later.
NOT_YET = NotYet()
# How many processes of this computer work, 0 for this one alone; or the address of a Dask
# scheduler whose workers do, such as "tcp://host:8786".
Workers = int | str


class WorkerDied(Exception):  # noqa: N818 - it names what happened, as in a report
    """A worker died each time it ran this item."""


class TimeLimitExceeded(Exception):  # noqa: N818
    """An item ran longer than it may; its worker was killed."""


def run_all(
    function: Callable[[Item], Result],
    items: Iterable[Item | NotYet],
    *,
    workers: Workers = 0,
    retries: int = 2,
    time_limit: float | None = None,
) -> Arrivals[Result]:
    """Apply a function to every item; yield every result as soon as it is there.

    With `workers`, a local Dask cluster of so many spawned processes does the work, or the
    workers of the scheduler at that address. Each worker has one item at a time, so that the
    death of a worker is the death of one known item, and the others go on. Leaving the iteration
    early, by an error, an interrupt or the generator's `close`, ends the processes of a local
    cluster, and gives up what a running one still has to do.

    Args:
      function: picklable where there are workers.
      items: its arguments, picklable likewise; of an iterator each is drawn when somebody is free
        for it. It may yield `NOT_YET`, which is no item and has no index.
      workers: 0 runs in this process; more are so many processes with one thread each; a text is
        the address of a running scheduler.
      retries: how often an item is given to another worker after its worker died.
      time_limit: seconds after which an item is given up and its worker killed; needs
        workers, because this process cannot be killed.

    Yields:
      Index of the item, each once and in any order, and its result or the exception it raised:
      `WorkerDied` when its worker died `retries + 1` times, `TimeLimitExceeded` when it took
      too long.

    Raises:
      UserError: negative counts, Dask is not installed, workers that cannot start or lack what
        they need, or a scheduler that does not answer, or went away.
    """
    address = isinstance(workers, str) and ":" in workers
    if not ((address or is_count(workers, 0)) and is_count(retries, 0)):
        raise UserError(
            f"workers={workers} and retries={retries} must be whole numbers of at least 0; workers "
            "may be the address of a scheduler"
        )
    check_time_limit(time_limit, workers)
    few = len(items) if isinstance(items, Sized) else sys.maxsize
    if isinstance(workers, str) and few:
        with clusters.remote_client(workers) as client, clusters.while_it_answers(workers):
            yield from _from_client(client, function, items, retries, time_limit, remote=True)
        return
    if workers and few:
        with clusters.local_client(min(int(workers), few)) as client:
            yield from _from_client(client, function, items, retries, time_limit)
        return
    index = 0
    for item in items:
        if isinstance(item, NotYet):
            time.sleep(ASK_AGAIN)
            continue
        try:
            result: Result | Exception = function(item)
        except Exception as error:
            result = error
        yield index, result
        index += 1


def check_time_limit(time_limit: float | None, workers: Workers) -> None:
    """Refuse a time limit that cannot be kept: see `run_all`; raises UserError."""
    kept = time_limit is None or (workers and is_number(time_limit) and time_limit > 0)
    if not kept:
        raise UserError(
            f"time_limit={time_limit} with workers={workers}: give a positive number of seconds "
            "and at least one worker, which can be killed"
        )


class _Run(NamedTuple):
    """What a worker does: an item, or before its first one the greeting.

    Attributes:
      place: index of the item.
      item: what the function is called with.
      future: Dask's, of the greeting or of the call.
      began: in seconds of `time.monotonic`.
      greets: whether the worker is being greeted; it gets the item afterwards.
    """

    place: int
    item: Any
    future: Any
    began: float
    greets: bool


class _Crew:
    """The workers of a Dask client, and what each of them does: one item at a time.

    What comes back is announced in a queue, so that a result costs the same however many workers
    there are; all of them are looked at only every `LOOK_EVERY` seconds.
    """

    def __init__(self, client: Any, function: Callable[[Any], Any]) -> None:
        self.client, self.function = client, function
        self.busy: dict[str, _Run] = {}  # by the worker's address
        self.greeted: set[str] = set()
        self.present: list[str] = []
        self._looked, self._unchecked = -float("inf"), False
        self._fetched: dict[str, Any] = {}  # results, by the worker's address
        self._done: queue.SimpleQueue[str] = queue.SimpleQueue()

    def look(self) -> None:
        """See which workers there are, if it is time to; wait for one where none is at work."""
        if time.monotonic() - self._looked > LOOK_EVERY or not self.busy:
            self.present = _present(self.client, wait=not self.busy)
            self._looked, self._unchecked = time.monotonic(), True

    def free(self) -> list[str]:
        """Return the addresses of those that have nothing to do."""
        return [address for address in self.present if address not in self.busy]

    def give(self, address: str, place: int, item: Any) -> None:
        """Give an item to a worker, which is greeted before its first one."""
        greets = address not in self.greeted
        what = (_arrive, self.function) if greets else (self.function, item)
        try:
            future = self.client.submit(*what, workers=[address], pure=False)
        except Exception as error:  # whatever pickling raises
            raise clusters.cannot_start(error) from error
        self.busy[address] = _Run(place, item, future, time.monotonic(), greets)
        future.add_done_callback(lambda _: self._done.put(address))

    def wait(self, most: float) -> list[str]:
        """Wait until somebody is done, at most so many seconds; return who may be.

        After every look at the workers that is everybody: who died or hangs announces nothing.
        """
        found: set[str] = set()
        with contextlib.suppress(queue.Empty):
            found.add(self._done.get(timeout=most))
            while True:
                found.add(self._done.get_nowait())
        self.look()
        if self._unchecked:
            self._unchecked = False
            return list(self.busy)
        return [address for address in found if address in self.busy]

    def fetch(self, addresses: list[str]) -> None:
        """Bring the results of all of these who have finished at once: the way takes long."""
        runs = [(x, self.busy[x].future) for x in addresses]
        done = {address: future for address, future in runs if future.status == "finished"}
        self._fetched = dict.fromkeys(done, NotYet)  # to be asked alone, see `outcome`
        if not done:
            return
        gathering = self.client.gather([*done.values()], asynchronous=True)
        going = asyncio.run_coroutine_threadsafe(gathering, self.client.loop.asyncio_loop)
        # It fails for all where one worker died before it could hand its result over.
        with contextlib.suppress(Exception, concurrent.futures.CancelledError):
            self._fetched |= zip(done, going.result(timeout=clusters.PATIENCE), strict=True)

    def outcome(self, address: str, time_limit: float | None) -> Any:
        """Return what a worker's run came to, and let it be free; GOES_ON while it runs."""
        run = self.busy[address]
        limit = clusters.PATIENCE if run.greets else time_limit
        outcome = self._fetched.get(address, GOES_ON)
        if outcome is NotYet:
            outcome = _result(run)
        elif outcome is GOES_ON:
            outcome = _outcome(run, address in self.present, limit)
        if outcome is not GOES_ON:
            del self.busy[address]
        if isinstance(outcome, WorkerDied):  # or was it the scheduler? Then this raises
            self.present = _present(self.client, wait=False)
        return outcome

    def restart(self, address: str) -> None:
        """End a worker and what it runs; its nanny starts another in its place."""
        self.present.remove(address)
        try:
            self.client.restart_workers([address], raise_for_error=False)
        except ValueError as error:
            raise UserError(
                f"worker {address} cannot be restarted ({error}): start workers with a nanny, "
                "which is Dask's default, or set no time limit"
            ) from error
        self._looked = -float("inf")

    def greets(self, address: str, outcome: Any) -> bool:
        """Take note of how a greeting ended: whether the worker may have its item.

        Raises:
          UserError: it cannot load the function, does not answer or has another version; or it
            died where nobody has loaded the function yet, since some functions kill who does.
        """
        if isinstance(outcome, TimeLimitExceeded):
            raise UserError(
                f"worker {address} does not answer: see what it does, or take it out of the cluster"
            )
        if isinstance(outcome, WorkerDied):
            if self.greeted or any(run.greets for run in self.busy.values()):
                return False
            raise clusters.cannot_start(outcome, address)
        if isinstance(outcome, Exception):
            raise clusters.cannot_start(outcome, address)
        if outcome != VERSION:
            raise UserError(
                f"worker {address} has spd_jax {outcome}, and this program {VERSION}: install the "
                "same version on both"
            )
        self.greeted.add(address)
        return True


def _from_client(
    client: Any,
    function: Callable[[Item], Result],
    items: Iterable[Item | NotYet],
    retries: int,
    time_limit: float | None,
    remote: bool = False,
) -> Arrivals[Result]:
    """Yield results as they arrive from the workers of a Dask client, one item on each.

    Where they are `remote`, a user's mistake names the worker that cannot go on.
    """
    crew = _Crew(client, function)
    upcoming = _Upcoming(items)
    deaths: collections.Counter[int] = collections.Counter()
    while True:
        crew.look()
        upcoming.hand_out(crew)
        if not (crew.busy or upcoming.waits):
            return
        done = crew.wait(ASK_AGAIN if upcoming.waits else LOOK_EVERY)
        crew.fetch(done)
        for address in done:
            upcoming.hand_out(crew)  # before the next result, who brought the last one has work
            run = crew.busy[address]
            outcome = crew.outcome(address, time_limit)
            if outcome is GOES_ON:
                continue
            if run.greets:
                if crew.greets(address, outcome):
                    crew.give(address, run.place, run.item)
                else:
                    upcoming.again.appendleft((run.place, run.item))
                continue
            if isinstance(outcome, WorkerDied):
                deaths[run.place] += 1
                if deaths[run.place] <= retries:
                    upcoming.again.appendleft((run.place, run.item))
                    continue
                outcome = WorkerDied(f"its worker died {deaths[run.place]} times: {outcome}")
            if remote and isinstance(outcome, UserError):
                outcome = UserError(f"worker {address}: {outcome}")
            yield run.place, outcome
            if isinstance(outcome, TimeLimitExceeded):
                crew.restart(address)


class _Upcoming:
    """The items that nobody has yet.

    Attributes:
      again: places and items whose workers died; they go first.
      waits: whether the iterator said `NOT_YET` when it was asked last.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        self._items, self._place = iter(items), 0
        self.again: collections.deque[tuple[int, Any]] = collections.deque()
        self.waits = False

    def hand_out(self, crew: _Crew) -> None:
        """Give every free worker an item, as long as there is one."""
        self.waits = False
        for address in crew.free():
            if self.again:
                crew.give(address, *self.again.popleft())
                continue
            item = next(self._items, self)
            self.waits = item is NOT_YET
            if item is self or self.waits:
                return
            crew.give(address, self._place, item)
            self._place += 1


def _arrive(function: Callable[[Any], Any]) -> str:
    """Return this package's version: to be called with a function, a worker has loaded it."""
    return VERSION


def _present(client: Any, *, wait: bool) -> list[str]:
    """Return the addresses of the workers; with `wait`, wait until there is one."""
    deadline = time.monotonic() + clusters.PATIENCE
    while not (present := list(client.nthreads())) and wait:
        if time.monotonic() > deadline:
            raise UserError(
                "the workers died and cannot be started again: see that memory is left for them, "
                "or use fewer of them"
            )
        time.sleep(LOOK_EVERY / 5)
    return present


DEATH = "it was killed, ran out of memory, or crashed in native code"


def _result(run: _Run) -> Any:
    """Return the result of a run that has finished."""
    try:
        return run.future.result(timeout=clusters.PATIENCE)
    except Exception:  # the worker died before it could hand over the result
        return WorkerDied(DEATH)


def _outcome(run: _Run, present: bool, time_limit: float | None) -> Any:
    """Return the error that ended a run without a result; GOES_ON while nothing did."""
    import distributed

    status = run.future.status  # it may change at any moment
    if status == "finished":  # since `fetch`: its result is brought next time
        return GOES_ON
    if status == "error":
        error = run.future.exception()
        return WorkerDied(DEATH) if isinstance(error, distributed.KilledWorker) else error
    if status != "pending" or not present:
        return WorkerDied(DEATH)
    if time_limit is not None and time.monotonic() - run.began > time_limit:
        return TimeLimitExceeded(f"over the time limit of {time_limit:g} s")
    return GOES_ON

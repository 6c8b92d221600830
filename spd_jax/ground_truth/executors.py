"""Evaluations on any executor: results in order of submission, dead workers replaced."""

import collections
import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from spd_jax.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
# Settings of this process's jax that a worker takes over: else each compiles everything anew.
JAX_SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


class WorkerDied(Exception):  # noqa: N818 - it names what happened, as in a report
    """A worker died each time it ran this item."""


class SpawnedWorker(concurrent.futures.ProcessPoolExecutor):
    """One spawned process with one XLA thread; it ends with this process, however that ends."""

    def __init__(self) -> None:
        """Prepare it; the process starts at the first `submit`."""
        # A worker that sees this pipe close is not wanted any more. The system closes it
        # when this process dies, so that a kill -9 leaves no workers behind.
        self._watched, self._lifeline = multiprocessing.Pipe(duplex=False)
        super().__init__(
            1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin_worker,
            initargs=(self._watched, _jax_settings()),
        )

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the worker; with `cancel_futures` at once, whatever it is doing."""
        if cancel_futures:
            self._lifeline.close()
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            self._lifeline.close()
            self._watched.close()


def run_all(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int = 0,
    retries: int = 2,
    executor_factory: Callable[[], Executor] | None = None,
    on_arrival: Callable[[int, Result | Exception], None] | None = None,
) -> Iterator[tuple[int, Result | Exception]]:
    """Apply a function to items, each in a worker; yield results in order of submission.

    Each worker is an executor of its own with one item at a time, so that a death
    is the death of one known item: the others go on. Leaving the iteration early,
    by an error or an interrupt, ends the workers.

    Args:
      function: picklable where workers are processes.
      items: its arguments, picklable likewise.
      workers: 0 runs in this process; more are so many spawned processes.
      retries: how often an item is given to another worker after its worker died.
      executor_factory: makes the executor of one worker, instead of a spawned process:
        anything with the `submit` and `shutdown` of `concurrent.futures.Executor`. It is
        called `max(workers, 1)` times, and again for one that breaks (`BrokenExecutor`).
      on_arrival: called with index and result when a result arrives, in any order and
        before anything else happens.

    Yields:
      Index of the item, and its result or the exception it raised (`WorkerDied` when
      its worker died `retries + 1` times).

    Raises:
      UserError: negative counts, or workers that cannot start.
    """
    if workers < 0 or retries < 0:
        raise UserError(f"workers={workers} and retries={retries} must be at least 0")
    if workers or executor_factory:
        arrivals = _from_workers(
            function, items, max(workers, 1), retries, executor_factory or SpawnedWorker
        )
    else:
        arrivals = _from_here(function, items)
    waiting: dict[int, Result | Exception] = {}
    following = 0
    with contextlib.closing(arrivals):
        for index, result in arrivals:
            if on_arrival is not None:
                on_arrival(index, result)
            waiting[index] = result
            while following in waiting:
                yield following, waiting.pop(following)
                following += 1


def _from_here(
    function: Callable[[Item], Result], items: Sequence[Item]
) -> collections.abc.Generator[tuple[int, Result | Exception]]:
    for index, item in enumerate(items):
        try:
            result: Result | Exception = function(item)
        except Exception as error:
            result = error
        yield index, result


def _from_workers(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    retries: int,
    factory: Callable[[], Executor],
) -> collections.abc.Generator[tuple[int, Result | Exception]]:
    """Yield results as they arrive."""
    pending = collections.deque(range(len(items)))
    deaths: collections.Counter[int] = collections.Counter()
    idle = [_Lane(factory, function) for _ in range(min(workers, len(items)))]
    busy: dict[Future[Result], tuple[_Lane, int]] = {}
    any_started = False
    with contextlib.ExitStack() as stack:
        for lane in idle:
            stack.callback(lane.stop)
        while pending or busy:
            while pending and idle:
                lane, index = idle.pop(), pending.popleft()
                busy[lane.start(items[index])] = lane, index
            done, _ = concurrent.futures.wait(busy, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                lane, index = busy.pop(future)
                idle.append(lane)
                any_started = any_started or lane.started()
                error = future.exception()
                if not any_started:
                    raise UserError(
                        f"a worker cannot start, or cannot load what it shall run ({error}): "
                        "define the task in a module that can be imported, and begin the "
                        "program below `if __name__ == '__main__':`"
                    ) from error
                if isinstance(error, concurrent.futures.BrokenExecutor):
                    lane.replace()
                    deaths[index] += 1
                    if deaths[index] <= retries:
                        pending.appendleft(index)
                        continue
                    error = WorkerDied(
                        f"its worker died {deaths[index]} times: it was killed, ran out of "
                        "memory, or crashed in native code"
                    )
                elif error is not None and not isinstance(error, Exception):
                    raise error
                yield index, future.result() if error is None else error


class _Lane:
    """The place of one worker: its executor, replaced when it breaks."""

    def __init__(self, factory: Callable[[], Executor], function: Callable[[Any], Any]) -> None:
        self._factory, self._function = factory, function
        self._executor = factory()
        self._greeting: Future[None] | None = None

    def start(self, item: Any) -> Future[Any]:
        try:
            return self._submit(item)
        except concurrent.futures.BrokenExecutor:  # it died while idle: nobody's fault
            self.replace()
            return self._submit(item)

    def started(self) -> bool:
        """Wait until the worker has loaded the function; false when it never will."""
        return self._greeting is not None and self._greeting.exception() is None

    def replace(self) -> None:
        self.stop()
        self._executor, self._greeting = self._factory(), None

    def stop(self) -> None:
        # A thread or a remote worker that goes on with its item must not be waited for.
        self._executor.shutdown(wait=isinstance(self._executor, SpawnedWorker), cancel_futures=True)

    def _submit(self, item: Any) -> Future[Any]:
        if self._greeting is None:
            self._greeting = self._executor.submit(_greet, self._function)
        return self._executor.submit(self._function, item)


def _greet(function: Callable[[Any], Any]) -> None:
    """Arrive in a worker: what cannot be loaded there fails here and not as an item."""


def _begin_worker(
    lifeline: multiprocessing.connection.Connection, settings: dict[str, Any]
) -> None:
    """Prepare a spawned process: one XLA thread, deaf to Ctrl-C, watching its parent."""
    # Ctrl-C reaches the whole process group; the parent decides what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {ONE_THREAD}".strip()
    if settings:
        import jax  # only now: XLA reads its flags once

        for name, value in settings.items():
            jax.config.update(name, value)


def _end_with(lifeline: multiprocessing.connection.Connection) -> None:
    multiprocessing.connection.wait([lifeline])
    os._exit(1)


def _jax_settings() -> dict[str, Any]:
    """Return the compilation cache of this process; empty where jax is not in use."""
    if "jax" not in sys.modules:
        return {}
    import jax

    return {name: getattr(jax.config, name) for name in JAX_SETTINGS}

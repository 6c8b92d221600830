"""Dask clusters: one of this computer's own processes, or one that runs elsewhere."""

import asyncio
import concurrent.futures
import contextlib
import gc
import itertools
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from spd_jax.errors import UserError

ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
# Settings of this process's jax that a worker takes over: else each compiles everything anew.
JAX_SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)
GPUS = ("gpu", "cuda", "rocm")  # backends of jax whose devices CUDA_VISIBLE_DEVICES chooses
CONNECT = 10  # seconds in which a scheduler must answer
PATIENCE = 120.0  # seconds to wait for a worker when there is none, and for an answer
MOST_STARTS = 5  # tries to start a worker that takes another's place
DASK_SETTINGS: dict[str, Any] = {
    # A death is answered here, where it is known which item it cost.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.work-stealing": False,
    # A worker that compiles, or a computer that slept, may be silent for minutes.
    "distributed.scheduler.worker-ttl": None,
    "distributed.deploy.lost-worker-timeout": "1 day",
    # The diagnostics pages and the sampling profiler are of no use here.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.profile.enabled": False,
}


def cannot_start(error: BaseException, address: str = "") -> UserError:
    """Return a sentence about a worker that died, or hung, before it had anything to run."""
    while error.__cause__ is not None:  # what Dask says of it is general
        error = error.__cause__
    why = " ".join(str(error).split())
    worker = f"worker {address}" if address else "a worker"
    return UserError(
        f"{worker} cannot start, or cannot load what it shall run ({why}): define the task in a "
        "module that can be imported, and begin the program below `if __name__ == '__main__':`"
    )


@contextlib.contextmanager
def remote_client(address: str) -> Iterator[Any]:
    """Yield the client of a running scheduler, and print where its dashboard is."""
    with _quiet_dask() as (dask, distributed):
        try:
            client = distributed.Client(address, set_as_default=False, timeout=CONNECT)
        except (OSError, ValueError, TypeError) as error:
            why = " ".join(str(error).split())
            raise UserError(
                f"no scheduler answers at {address!r} ({why}): give the address that "
                "`dask scheduler` printed, such as tcp://host:8786"
            ) from error
        # A worker that compiles may be silent for minutes; a scheduler that is gone stays away.
        with client, dask.config.set({"distributed.comm.timeouts.connect": f"{CONNECT}s"}):
            print(f"{address}: dashboard at {client.dashboard_link}", file=sys.stderr)
            yield client


@contextlib.contextmanager
def while_it_answers(address: str) -> Iterator[None]:
    """Turn whatever a lost scheduler raises into one sentence."""
    import distributed

    lost = (OSError, TimeoutError, asyncio.CancelledError, concurrent.futures.CancelledError)
    closed = getattr(distributed.client, "ClosedClientError", OSError)  # older Dask has none
    try:
        yield
    except (*lost, closed) as error:
        raise UserError(
            f"the scheduler at {address} went away: start it again, and the same command goes on"
        ) from error


@contextlib.contextmanager
def _quiet_dask() -> Iterator[tuple[Any, Any]]:
    """Yield Dask's modules, silent on the terminal: what matters is raised here."""
    try:
        import dask
        import distributed
    except ImportError as error:
        raise UserError(
            f"workers need Dask, which is not installed ({error}): "
            "install it with `pip install distributed`, or use no workers"
        ) from error
    # A task of Dask's that its client gave up complains through asyncio when it is collected.
    rooms = ("distributed", "asyncio")
    names = {name for name in logging.root.manager.loggerDict if name.split(".")[0] in rooms}
    levels = {name: logging.getLogger(name).level for name in names | set(rooms)}
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield dask, distributed
    finally:
        gc.collect()
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def local_client(workers: int) -> Iterator[Any]:
    """Yield the client of a cluster on this computer; end its processes afterwards, at once."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # This process is a worker that is about to import the user's program.
        raise cannot_start(RuntimeError("a worker ran the whole program anew"))
    environment = dict(os.environ)
    try:
        with contextlib.ExitStack() as stack:
            dask, distributed = stack.enter_context(_quiet_dask())
            stack.enter_context(dask.config.set(DASK_SETTINGS))
            with _interrupts_put_off():
                cluster = stack.enter_context(_start_cluster(workers))
            yield stack.enter_context(distributed.Client(cluster, set_as_default=False))
    finally:
        # Dask sets variables of this process for the processes that it starts.
        os.environ.clear()
        os.environ.update(environment)


@contextlib.contextmanager
def _interrupts_put_off() -> Iterator[None]:
    """Heed Ctrl-C only at the end: half a cluster cannot be closed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pressed and callable(before):
            before(signal.SIGINT, None)


def _start_cluster(workers: int) -> Any:
    """Start a scheduler in this process, and worker processes with one thread each."""
    import distributed

    accelerators, numbers = _accelerators(), itertools.count()

    class Nanny(distributed.Nanny):
        """Watches one worker: replaces it, but not for ever, and ends it at once."""

        starts = 0  # since the last one that succeeded
        most = 1

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            own = _accelerator_of(next(numbers), workers, accelerators)
            super().__init__(*args, **kwargs | {"env": kwargs["env"] | own})

        async def instantiate(self) -> Any:
            # Else some versions of Dask try for ever to start what cannot start.
            self.starts += 1
            if self.starts > self.most:
                return distributed.Status.failed
            status = await super().instantiate()
            if status == distributed.Status.running:
                self.starts, self.most = 0, MOST_STARTS
            return status

        async def kill(self, *args: Any, **kwargs: Any) -> None:
            if self.pid:
                os.kill(self.pid, signal.SIGKILL)
            await super().kill(*args, **kwargs)

    flags = f"{os.environ.get('XLA_FLAGS', '')} {ONE_THREAD}".strip()
    try:
        return distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            silence_logs=logging.CRITICAL,
            memory_limit=None,
            death_timeout=PATIENCE,
            worker_class=Nanny,
            preload=[__name__],
            env={"XLA_FLAGS": flags},
            config={"spd-jax": _jax_settings()},
        )
    # What hangs while it starts ends in an assertion of Dask's.
    except (RuntimeError, TimeoutError, AssertionError) as error:
        raise cannot_start(error) from error


def _accelerators() -> list[str]:
    """Return the GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    if "jax" not in sys.modules:
        return []
    import jax

    if jax.default_backend() not in GPUS:
        return []
    count = jax.local_device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return named if len(named) == count and all(named) else [str(i) for i in range(count)]


def _accelerator_of(number: int, workers: int, accelerators: list[str]) -> dict[str, str]:
    """Return the variables that give a worker one accelerator, and a share of its memory.

    This process computes on all of them, too. Memory is taken as it is needed, up to the share;
    what the user has set of it stands.

    Args:
      number: of the worker, counted from 0.
      workers: how many there are.
      accelerators: their names; without any there is nothing to set.
    """
    if not accelerators:
        return {}
    place = number % len(accelerators)
    sharers = len(range(place, workers, len(accelerators))) + 1
    memory = {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / sharers:.2f}",
    }
    own = {name: value for name, value in memory.items() if name not in os.environ}
    return {"CUDA_VISIBLE_DEVICES": accelerators[place], **own}


def dask_setup(_: Any) -> None:
    """Prepare a worker process; Dask calls this in each one, also in those that replace others."""
    import dask

    # Ctrl-C reaches every process of a terminal; the parent decides what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    settings = dask.config.get("spd-jax", {})
    if settings:
        import jax

        for name, value in settings.items():
            jax.config.update(name, value)


def _jax_settings() -> dict[str, Any]:
    """Return the compilation cache of this process; empty where jax is not in use."""
    if "jax" not in sys.modules:
        return {}
    import jax

    return {name: getattr(jax.config, name) for name in JAX_SETTINGS}

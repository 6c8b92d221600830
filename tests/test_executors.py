"""executors: order, deaths that cost one item, interrupts, nothing left running."""

import concurrent.futures
import functools
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from spd_jax.errors import UserError
from spd_jax.ground_truth import executors
from spd_jax.ground_truth.executors import ONE_THREAD, WorkerDied, run_all

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def light_workers(monkeypatch, request):
    """Spare the workers the import of jax, which this process has imported."""
    if "cache" not in request.node.name:
        monkeypatch.setattr(executors, "_jax_settings", dict)


def square(x):
    if x == 13:
        raise LookupError("unlucky")
    return x * x


def leave_a_mark(folder, item):
    """Record the run of an item; die, sleep or answer as the item says."""
    name, what = item
    with open(pathlib.Path(folder) / name, "a") as stream:
        stream.write(f"{os.getpid()}\n")
    runs = len((pathlib.Path(folder) / name).read_text().split())
    if what == "die":
        os._exit(3)
    if what == "killed once" and runs == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "interrupted":  # by a Ctrl-C that is the parent's to heed
        os.kill(os.getpid(), signal.SIGINT)
    if what == "slow":
        time.sleep(1.0)
    return name


def surroundings(_):
    return os.environ["XLA_FLAGS"]


def runs_of(folder):
    return {path.name: len(path.read_text().split()) for path in pathlib.Path(folder).iterdir()}


def spawned_pool(size=1):
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(size, mp_context=context)


FACTORIES = {
    "serial": {},
    "processes": {"workers": 2},
    "threads": {
        "workers": 3,
        "executor_factory": functools.partial(concurrent.futures.ThreadPoolExecutor, 2),
    },
    "pool": {"executor_factory": spawned_pool},
}


@pytest.mark.parametrize("how", FACTORIES.values(), ids=FACTORIES)
def test_results_and_errors_come_in_order_of_submission(how):
    items = [5, 13, 2, 0, 13, 7]
    arrivals = []
    outcomes = list(run_all(square, items, on_arrival=lambda *x: arrivals.append(x), **how))
    assert [index for index, _ in outcomes] == list(range(6))
    for x, (_, outcome) in zip(items, outcomes, strict=True):
        if x == 13:
            assert isinstance(outcome, LookupError)
            assert outcome.args == ("unlucky",)
        else:
            assert outcome == x * x
    assert sorted(arrivals, key=lambda x: x[0]) == outcomes
    assert list(run_all(square, [], **how)) == []


def test_a_result_is_reported_on_arrival_though_an_earlier_item_still_runs(tmp_path):
    items = [("a", "slow"), ("b", ""), ("c", "")]
    arrivals = []
    run = run_all(
        functools.partial(leave_a_mark, str(tmp_path)),
        items,
        workers=2,
        executor_factory=functools.partial(concurrent.futures.ThreadPoolExecutor, 1),
        on_arrival=lambda index, _: arrivals.append(index),
    )
    assert [index for index, _ in run] == [0, 1, 2]
    assert arrivals == [1, 2, 0]


def test_a_death_costs_its_own_item_alone(tmp_path):
    items = [("fatal", "die"), ("long", "slow"), ("once", "killed once"), ("d", "interrupted")]
    outcomes = dict(run_all(functools.partial(leave_a_mark, str(tmp_path)), items, workers=2))
    assert [outcomes[i] for i in (1, 2, 3)] == ["long", "once", "d"]
    assert isinstance(outcomes[0], WorkerDied)
    assert str(outcomes[0]).startswith("its worker died 3 times: ")
    # Twice retried at the most; whoever ran beside a death ran once.
    assert runs_of(tmp_path) == {"fatal": 3, "long": 1, "once": 2, "d": 1}


def test_retries_can_be_none_and_any_pool_is_rebuilt(tmp_path):
    items = [("a", ""), ("b", "die"), ("c", "")]
    outcomes = dict(
        run_all(
            functools.partial(leave_a_mark, str(tmp_path)),
            items,
            retries=0,
            executor_factory=spawned_pool,
        )
    )
    assert (outcomes[0], outcomes[2]) == ("a", "c")
    assert isinstance(outcomes[1], WorkerDied)
    assert runs_of(tmp_path) == {"a": 1, "b": 1, "c": 1}


def test_a_worker_is_spawned_with_one_thread(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    ((_, flags),) = run_all(surroundings, [0], workers=1)
    assert flags == f"--xla_cpu_enable_fast_math=false {ONE_THREAD}"
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=false"


def cache_folder(_):
    import jax

    return jax.config.jax_compilation_cache_dir, jax.numpy.ones(3).sum().item()


def test_a_worker_compiles_into_the_cache_of_this_process():
    import jax

    ((_, found),) = run_all(cache_folder, [0], workers=1)
    assert found == (jax.config.jax_compilation_cache_dir, 3.0)
    assert found[0] is not None


def test_a_worker_that_cannot_load_its_work_is_the_users_error(monkeypatch):
    message = "a worker cannot start, or cannot load .* module that can be imported"
    with pytest.raises(UserError, match=message):
        list(run_all(lambda x: x, [1, 2], workers=1))
    monkeypatch.setattr(sys.modules[__name__], "late", late_maker(), raising=False)
    with pytest.raises(UserError, match=message):
        list(run_all(late, [1, 2], workers=1))  # noqa: F821 - a name that only this process has


def late_maker():
    def late(x):
        return x

    late.__qualname__ = "late"
    return late


@pytest.mark.parametrize("counts", [{"workers": -1}, {"retries": -1}])
def test_negative_counts_are_refused(counts):
    with pytest.raises(UserError, match="must be at least 0"):
        list(run_all(square, [1], **counts))


def test_leaving_early_ends_the_workers():
    before = set(multiprocessing.active_children())
    began = time.monotonic()
    run = run_all(time.sleep, [0.0, 60.0, 60.0], workers=2)
    assert next(run) == (0, None)
    run.close()
    assert time.monotonic() - began < 30
    assert set(multiprocessing.active_children()) <= before
    assert not [t for t in threading.enumerate() if "ExecutorManager" in type(t).__name__]


SLEEPERS = """
import time, sys
from spd_jax.ground_truth import executors
from spd_jax.ground_truth.executors import run_all
import test_executors
if __name__ == "__main__":
    for index, pid in run_all(test_executors.own_pid, [0, 0, 60, 60], workers=2):
        print(pid, flush=True)
"""


def own_pid(seconds):
    time.sleep(seconds)
    return os.getpid()


def alive(pid):
    try:
        return "State:\tZ" not in pathlib.Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent(number, tmp_path):
    """Ctrl-C as a terminal sends it, to the whole group; kill -9 to the parent alone."""
    script = tmp_path / "sleepers.py"
    script.write_text(SLEEPERS)
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    workers = {int(process.stdout.readline()) for _ in range(2)}
    time.sleep(0.2)  # the long items are being run
    began = time.monotonic()
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.kill()
    _, errors = process.communicate(timeout=30)
    while any(alive(pid) for pid in workers) and time.monotonic() - began < 30:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)
    assert time.monotonic() - began < 10
    if number == signal.SIGINT:
        assert errors.count("KeyboardInterrupt") == 1  # the parent's own, none of the workers'

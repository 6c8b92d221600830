"""executors: results, deaths that cost one item, interrupts, nothing left running."""

import contextlib
import functools
import math
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from spd_jax.errors import UserError
from spd_jax.ground_truth import clusters, executors
from spd_jax.ground_truth.clusters import ONE_THREAD
from spd_jax.ground_truth.executors import TimeLimitExceeded, WorkerDied, run_all

ROOT = pathlib.Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}


def script(folder, program):
    """Write a program; return its path."""
    path = folder / "program.py"
    path.write_text(program)
    return str(path)


@pytest.fixture(autouse=True)
def light_workers(monkeypatch, request):
    """Spare the workers the import of jax, which this process has imported."""
    if "cache" not in request.node.name:
        monkeypatch.setattr(clusters, "_jax_settings", dict)


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
    if what == "hang":
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
        time.sleep(600)
    while what == "last" and len(runs_of(folder)) < 3:
        time.sleep(0.01)
    if what in {"slow", "last"}:
        time.sleep(1.0)
    return name


def surroundings(_):
    return os.environ["XLA_FLAGS"]


def runs_of(folder):
    return {path.name: len(path.read_text().split()) for path in pathlib.Path(folder).iterdir()}


WAYS = {"here": {}, "workers": {"workers": 2}}


@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)
def test_every_item_has_its_result_or_its_error(how):
    items = [5, 13, 2, 0, 13, 7]
    outcomes = list(run_all(square, items, **how))
    assert sorted(index for index, _ in outcomes) == list(range(6))
    for index, outcome in outcomes:
        if items[index] == 13:
            assert isinstance(outcome, LookupError)
            assert outcome.args == ("unlucky",)
        else:
            assert outcome == items[index] ** 2
    assert list(run_all(square, [], **how)) == []


def test_a_result_is_yielded_though_an_earlier_item_still_runs(tmp_path):
    items = [("a", "last"), ("b", ""), ("c", "")]
    run = run_all(functools.partial(leave_a_mark, str(tmp_path)), items, workers=2)
    assert [index for index, _ in run] == [1, 2, 0]


def test_a_death_costs_its_own_item_alone(tmp_path):
    items = [("fatal", "die"), ("long", "slow"), ("once", "killed once"), ("d", "interrupted")]
    outcomes = dict(run_all(functools.partial(leave_a_mark, str(tmp_path)), items, workers=2))
    assert [outcomes[i] for i in (1, 2, 3)] == ["long", "once", "d"]
    assert isinstance(outcomes[0], WorkerDied)
    assert str(outcomes[0]).startswith("its worker died 3 times: ")
    # Twice retried at the most; whoever ran beside a death ran once.
    assert runs_of(tmp_path) == {"fatal": 3, "long": 1, "once": 2, "d": 1}


def test_retries_can_be_none(tmp_path):
    items = [("a", ""), ("b", "die"), ("c", "")]
    run = run_all(functools.partial(leave_a_mark, str(tmp_path)), items, workers=1, retries=0)
    outcomes = dict(run)
    assert (outcomes[0], outcomes[2]) == ("a", "c")
    assert isinstance(outcomes[1], WorkerDied)
    assert runs_of(tmp_path) == {"a": 1, "b": 1, "c": 1}


def test_an_item_over_its_time_is_given_up_and_its_worker_replaced(tmp_path):
    items = [("hangs", "hang"), ("a", ""), ("b", ""), ("c", "")]
    began = time.monotonic()
    run = run_all(functools.partial(leave_a_mark, str(tmp_path)), items, workers=2, time_limit=4)
    outcomes = dict(run)
    assert [outcomes[i] for i in (1, 2, 3)] == ["a", "b", "c"]
    assert isinstance(outcomes[0], TimeLimitExceeded)
    assert str(outcomes[0]) == "over the time limit of 4 s"
    assert runs_of(tmp_path) == {"hangs": 1, "a": 1, "b": 1, "c": 1}  # not tried again
    assert time.monotonic() - began < 60
    # With one worker, the others wait for the one that takes its place.
    run_one = functools.partial(leave_a_mark, str(tmp_path))
    assert dict(run_all(run_one, items[:2], workers=1, time_limit=5))[1] == "a"


@pytest.mark.parametrize(
    "limits",
    [{"time_limit": 1}, *({"time_limit": limit, "workers": 1} for limit in (0, "5", math.nan))],
)
def test_a_time_limit_that_cannot_be_kept_is_refused(limits):
    with pytest.raises(UserError, match="give a positive number of seconds and at least one"):
        list(run_all(square, [1], **limits))


def test_a_worker_is_spawned_with_one_thread(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    before = dict(os.environ)
    ((_, flags),) = run_all(surroundings, [0], workers=1)
    assert flags == f"--xla_cpu_enable_fast_math=false {ONE_THREAD}"
    assert dict(os.environ) == before


MEMORY = ("XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_MEM_FRACTION")


def accelerator(_):
    time.sleep(0.5)  # until the others have begun
    return tuple(os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", *MEMORY))


def test_each_worker_has_one_accelerator_and_a_share_of_its_memory(monkeypatch):
    for name in MEMORY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(clusters, "_accelerators", lambda: ["4", "7"])
    # The program itself is one more that shares each of them.
    expected = [("4", "false", "0.30"), ("4", "false", "0.30"), ("7", "false", "0.45")]
    found = dict(run_all(accelerator, range(9), workers=3))
    assert set(found.values()) == set(expected)
    own = [clusters._accelerator_of(number, 3, ["4", "7"]) for number in range(3)]
    assert sorted(tuple(x.values()) for x in own) == expected
    monkeypatch.setenv(MEMORY[1], "0.2")  # what the user has set stands
    assert clusters._accelerator_of(2, 3, ["4", "7"]) == {
        "CUDA_VISIBLE_DEVICES": "4", MEMORY[0]: "false",
    }  # fmt: skip


def test_accelerators_are_named_as_the_user_names_them(monkeypatch):
    assert clusters._accelerators() == []  # on CPUs
    import jax

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert clusters._accelerators() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, 3")
    assert clusters._accelerators() == ["GPU-a", "3"]


def cache_folder(_):
    import jax

    return jax.config.jax_compilation_cache_dir, jax.numpy.ones(3).sum().item()


def test_a_worker_compiles_into_the_cache_of_this_process():
    import jax

    ((_, found),) = run_all(cache_folder, [0], workers=1)
    assert found == (jax.config.jax_compilation_cache_dir, 3.0)
    assert found[0] is not None


def test_a_worker_that_cannot_load_its_work_is_the_users_error(monkeypatch):
    message = "worker .*cannot start, or cannot load .* module that can be imported"
    monkeypatch.setattr(sys.modules[__name__], "late", late_maker(), raising=False)
    for function in (late, Unpicklable()):  # noqa: F821 - a name of this process alone
        with pytest.raises(UserError, match=message) as caught:
            list(run_all(function, [1, 2], workers=1))
        assert "\n" not in str(caught.value)


def arrive_or_die(folder, function, arrive=executors._arrive):
    """Greet, but die where this is done for the second time."""
    path = pathlib.Path(folder) / "greeted"
    with path.open("a") as stream:
        stream.write(f"{os.getpid()}\n")
    if len(path.read_text().split()) == 2:
        os._exit(3)
    return arrive(function)


def test_a_worker_that_dies_as_it_is_greeted_costs_nothing_once_another_answered(
    monkeypatch, tmp_path
):
    arrive = functools.partial(arrive_or_die, str(tmp_path))
    monkeypatch.setattr(executors, "_arrive", arrive)
    assert dict(run_all(square, range(6), workers=2)) == {i: i * i for i in range(6)}
    monkeypatch.setattr(executors, "_arrive", lambda _: os._exit(3))
    with pytest.raises(UserError, match="cannot start, or cannot load"):
        list(run_all(square, [1], workers=1))


@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)
def test_of_an_iterator_no_more_is_drawn_than_somebody_is_free_for(how):
    drawn, arrived = [], {}

    def stream():
        for item in range(6):
            drawn.append(item)
            yield item

    for place, outcome in run_all(square, stream(), **how):
        arrived[place] = outcome
        assert len(drawn) <= len(arrived) + how.get("workers", 1)
    assert arrived == {i: i * i for i in range(6)}
    assert list(run_all(square, iter(()), **how)) == []


class Unpicklable:
    def __reduce__(self):
        raise TypeError("not to be\npickled")


def late_maker():
    def late(x):
        return x

    late.__qualname__ = "late"
    return late


def test_workers_that_cannot_be_replaced_end_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(clusters, "MOST_STARTS", 0)
    items = [("a", ""), ("b", "die"), ("c", "")]
    run = run_all(functools.partial(leave_a_mark, str(tmp_path)), items, workers=1)
    assert next(run) == (0, "a")
    monkeypatch.setattr(clusters, "PATIENCE", 0.5)
    with pytest.raises(UserError, match="the workers died and cannot be started again"):
        next(run)


def test_ctrl_c_while_workers_start_is_heeded_when_they_can_be_closed(monkeypatch):
    def start(workers, start=clusters._start_cluster):
        os.kill(os.getpid(), signal.SIGINT)
        return start(workers)

    monkeypatch.setattr(clusters, "_start_cluster", start)
    before = set(multiprocessing.active_children())
    with pytest.raises(KeyboardInterrupt):
        list(run_all(square, [1], workers=1))
    assert set(multiprocessing.active_children()) <= before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("counts", [{"workers": -1}, {"retries": -1}, {"workers": "2"}])
def test_counts_that_are_none_are_refused(counts):
    with pytest.raises(UserError, match="must be whole numbers of at least 0"):
        list(run_all(square, [1], **counts))


def test_leaving_early_ends_the_workers():
    before = set(multiprocessing.active_children())
    began = time.monotonic()
    run = run_all(time.sleep, [0.0, 60.0, 60.0], workers=2)
    assert next(run) == (0, None)
    run.close()
    assert time.monotonic() - began < 30
    assert set(multiprocessing.active_children()) <= before


LISTENER = """
import pathlib
from spd_jax.ground_truth.executors import run_all
import test_executors
if __name__ == "__main__":
    for result in sorted(run_all(test_executors.listening, [0, 0], workers=2)):
        print(result)
"""


def listening(_):
    """Return the addresses on which this process and its parent listen for connections."""
    import psutil

    processes = psutil.Process(), psutil.Process().parent()
    found = [c for p in processes for c in p.net_connections() if c.status == psutil.CONN_LISTEN]
    return sorted({c.laddr.ip for c in found})


def test_workers_listen_to_this_computer_alone_and_print_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", script(tmp_path, LISTENER)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("(0, ['127.0.0.1'])\n(1, ['127.0.0.1'])\n", "")


def test_a_program_that_a_worker_cannot_import_is_the_users_error(tmp_path):
    """Without `if __name__ == "__main__":` a worker would begin the whole program anew."""
    program = LISTENER.replace('if __name__ == "__main__":', "if True:")
    done = subprocess.run(
        [sys.executable, script(tmp_path, program)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "UserError: a worker cannot start" in done.stderr.splitlines()[-1]


def test_without_dask_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match="install it with `pip install distributed`"):
        list(run_all(square, [1], workers=1))
    assert list(run_all(square, [3])) == [(0, 9)]


def test_dask_is_imported_only_for_workers():
    program = (
        "import sys; from spd_jax.ground_truth import executors, purchase\n"
        "assert list(executors.run_all(abs, [-1])) == [(0, 1)]\n"
        "assert not {'dask', 'distributed', 'tornado'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, check=True)


SLEEPERS = """
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


def group(pgid):
    """Return the living processes of a group."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.getpgid(int(pid)) == pgid and alive(pid):
                found.add(pid)
    return found


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent(number, tmp_path):
    """Ctrl-C as a terminal sends it, to the whole group; kill -9 to the parent alone."""
    process = subprocess.Popen(
        [sys.executable, script(tmp_path, SLEEPERS)],
        env=ENVIRONMENT,
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
    while group(process.pid) and time.monotonic() - began < 30:  # nor what started the workers
        time.sleep(0.05)
    assert not group(process.pid)
    if number == signal.SIGINT:
        assert errors.count("KeyboardInterrupt") == 1  # the parent's own, none of the workers'

"""executors on a running Dask cluster: a scheduler and workers that are processes of their own."""

import contextlib
import functools
import os
import pathlib
import signal
import subprocess
import sys
import time

import commands
import pytest
from test_executors import leave_a_mark, runs_of, square

from spd_jax.errors import UserError
from spd_jax.ground_truth import clusters, executors
from spd_jax.ground_truth.executors import TimeLimitExceeded, WorkerDied, run_all

ROOT = pathlib.Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}


class Cluster:
    """A scheduler and its workers, as an administrator would start them."""

    def __init__(self, folder):
        self.folder = folder
        self.scheduler = self._start("dask_scheduler", "--host=127.0.0.1", "--port=0",
                                     "--dashboard-address=127.0.0.1:0")  # fmt: skip
        self.address = self._address()
        self.workers = [self._worker(number) for number in range(2)]

    def _start(self, program, *arguments):
        with (self.folder / f"{program}.log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", f"distributed.cli.{program}", *arguments],
                stdout=log, stderr=log, env=ENVIRONMENT, cwd=self.folder, start_new_session=True,
            )  # fmt: skip

    def _worker(self, number):
        return self._start("dask_worker", self.address, "--nthreads=1", f"--name=w{number}",
                           "--no-dashboard", f"--local-directory={self.folder}")  # fmt: skip

    def _address(self):
        for _ in range(600):
            for line in (self.folder / "dask_scheduler.log").read_text().splitlines():
                if "Scheduler at:" in line:
                    return line.split("Scheduler at:")[1].strip()
            time.sleep(0.1)
        raise TimeoutError((self.folder / "dask_scheduler.log").read_text())

    def close(self):
        for process in (*self.workers, self.scheduler):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # a worker's nanny, and the worker
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    own = Cluster(tmp_path_factory.mktemp("cluster"))
    yield own
    own.close()


def test_its_workers_answer_and_the_dashboard_is_named(cluster, capsys):
    items = [5, 13, 2, 0]
    outcomes = dict(run_all(square, items, workers=cluster.address))
    assert [outcomes[i] for i in (0, 2, 3)] == [25, 4, 0]
    assert isinstance(outcomes[1], LookupError)
    assert f"{cluster.address}: dashboard at http://127.0.0.1:" in capsys.readouterr().err


def test_a_death_costs_its_own_item_alone(cluster, tmp_path):
    items = [("fatal", "die"), ("long", "slow"), ("once", "killed once")]
    function = functools.partial(leave_a_mark, str(tmp_path))
    outcomes = dict(run_all(function, items, workers=cluster.address))
    assert [outcomes[i] for i in (1, 2)] == ["long", "once"]
    assert isinstance(outcomes[0], WorkerDied)
    assert runs_of(tmp_path) == {"fatal": 3, "long": 1, "once": 2}


def test_an_item_over_its_time_is_given_up(cluster, tmp_path):
    items = [("hangs", "hang"), ("a", "")]
    function = functools.partial(leave_a_mark, str(tmp_path))
    outcomes = dict(run_all(function, items, workers=cluster.address, time_limit=3))
    assert isinstance(outcomes[0], TimeLimitExceeded)
    assert outcomes[1] == "a"


def needs_data(_):
    raise UserError("no such data: give --data_dir")


def test_a_users_mistake_names_the_worker(cluster):
    (outcome,) = dict(run_all(needs_data, [0], workers=cluster.address)).values()
    assert isinstance(outcome, UserError)
    assert "worker tcp://127.0.0.1:" in str(outcome)
    assert str(outcome).endswith(": no such data: give --data_dir")


def test_another_version_there_is_refused(cluster, monkeypatch):
    monkeypatch.setattr(executors, "VERSION", "9.9")
    with pytest.raises(UserError, match=r"worker tcp://\S+ has spd_jax \S+, and this program 9.9"):
        list(run_all(square, [1], workers=cluster.address))


def test_what_a_worker_cannot_load_is_refused(cluster, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def double(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import only_here

    with pytest.raises(UserError, match=r"No module named .only_here"):
        list(run_all(only_here.double, [1], workers=cluster.address))


def test_no_scheduler_there_is_one_sentence(monkeypatch):
    monkeypatch.setattr(clusters, "CONNECT", 1)
    with pytest.raises(UserError, match=r"no scheduler answers at 'tcp://127\.0\.0\.1:1'"):
        list(run_all(square, [1], workers="tcp://127.0.0.1:1"))
    with pytest.raises(UserError, match="workers may be the address of a scheduler"):
        list(run_all(square, [1], workers="nowhere"))


def test_a_scheduler_that_goes_away_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(clusters, "CONNECT", 1)
    own = Cluster(tmp_path)
    marks = tmp_path / "marks"
    marks.mkdir()
    function = functools.partial(leave_a_mark, str(marks))
    with contextlib.closing(
        run_all(function, [("a", ""), ("hangs", "hang")], workers=own.address)
    ) as outcomes:
        assert next(outcomes) == (0, "a")
        own.scheduler.send_signal(signal.SIGKILL)
        with pytest.raises(UserError, match="went away: start it again, and the same command"):
            list(outcomes)
    own.close()


def test_forward_search_takes_a_scheduler_as_the_others_do(tmp_path):
    done = commands.run("forward_search", "--scheduler=host", f"--workdir={tmp_path / 'run'}")
    assert done.stderr.startswith("error: --scheduler=host is no address")
    assert not (tmp_path / "run").exists()


def test_the_guides_slurm_script_is_what_dask_jobqueue_writes(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    guide = (ROOT / "docs" / "cluster.md").read_text("utf-8")
    program = guide.split("```python\n")[1].split("```")[0]
    expected = guide.split("for each worker:\n\n```sh\n")[1].split("```")[0]
    program = program.split("cluster.adapt")[0].replace(
        'python="python",', 'python="python", scheduler_options={"dashboard_address": None},'
    )
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ran: dict = {}
    exec(program, ran)
    for number, handler in before.items():  # dask_jobqueue sets its own when it is imported
        signal.signal(number, handler)
    with ran["cluster"] as own:
        found = own.job_script().replace(own.scheduler_address, "tcp://ADDRESS")
    assert found.strip() == expected.strip()

"""The matrix of faults: every experiment is killed, stopped and starved, and tried again.

`python tests/faults.py` (`make faults`) tries every fault on every experiment and prints the
table of docs/reliability.md; `--only=tune,buy_table`, `--faults=kill,clock` and `--kills=3` try
some. After each fault the same command must end as an uninterrupted run did, and no evaluation
may be lost or bought twice. Nothing here is collected by pytest. Some faults need root (a full
tmpfs) or Linux; they are left out elsewhere, which the table says.
"""

import argparse
import contextlib
import csv
import dataclasses
import importlib
import json
import math
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import rnn_cell_driver as driver  # noqa: E402

LONGEST = 900  # seconds that one process may take, on a busy machine
DISH = ["--inner_steps=2", "--train_samples=2", "--valid_samples=2", "--num_dishes=2"]
COMMANDS = {
    "sigmoid_slope": [
        "--compute_ground_truth", "--dataset=digits", "--ground_truth_epochs=2",
        "--ground_truth_seeds=2", "--num_seeds=2", "--preset=paper", "--num_train=6",
        "--inner_steps=4", "--outer_steps=6", "--num_dishes=2",
    ],
    "rnn_cell_search": [*driver.SEARCH, "--data_dir={place}/text"],
    "compare_surrogates": [
        *DISH, "--outer_steps=2", "--space=toy_widths", "--table={place}/table.csv", "--known=5,8",
        "--splits=4", "--held_out=12", "--proxy_hidden_size=2",
        "--surrogates=dish,dish_untrained,random_forest,gaussian_process,stacked",
    ],
    "buy_table": [
        "--problem=toy_faults", "--preset=formula", "--num_cells=25", "--num_seeds=2",
        "--cells_with_all_seeds=5",
    ],
    "tune": [
        *DISH, "--splits=2", "--draws=2", "--known=8", "--steps=2", "--every=1", "--random=0",
        "--candidates=init_scale=0.2,hidden_size=1,outer_loss=absolute_pearson",
    ],
}  # fmt: skip
WITH_WORKERS = ("rnn_cell_search", "buy_table")
PAID = ("put", "write matches", "write trials")  # what a kill must not lose


# The program that is ill-treated


def child() -> None:
    """Run an experiment that writes every purchase and every file into the log, and more slowly."""
    import experiments

    experiments.handle(experiments.leave)
    name, log = sys.argv[1], os.open(os.environ["FAULTS_LOG"], os.O_WRONLY | os.O_APPEND)
    sys.argv = [f"experiments.{name}", "--cpu_devices=1", *sys.argv[2:]]
    experiment = importlib.import_module(f"experiments.{name}")
    if "FAULTS_LIMIT" in os.environ:
        size = int(os.environ["FAULTS_LIMIT"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    import toy_faults  # noqa: F401  (registers a problem)

    from experiments import launch
    from spd_jax.ledger import Ledger
    from spd_jax.trainers import language_model

    presets = language_model.PRESETS
    presets["tiny"] = dataclasses.replace(presets["tiny"], **driver.TINY)
    if name == "sigmoid_slope":
        slopes = np.array([0.05, 0.12, 0.2, 0.3, 0.4, 0.55, 0.7, 0.85, 1, 1.2, 1.4, 1.6, 1.8, 2])
        experiment.table_slopes = lambda: slopes
    put, replace = Ledger.put, os.replace

    def tell(*words: object) -> None:
        os.write(log, (" ".join(str(word).replace(" ", "_") for word in words) + "\n").encode())

    def told_put(ledger: Any, key: Any, evaluation: Any) -> None:
        put(ledger, key, evaluation)
        tell("put", *key)

    def told_replace(source: Any, target: Any) -> None:
        replace(source, target)
        path = pathlib.Path(target)
        if path.name not in ("config.json", "versions.json") and ".jax_cache" not in path.parts:
            tell("write", f"{path.parent.name}/{path.name}")

    Ledger.put, os.replace = told_put, told_replace  # type: ignore[method-assign]
    if os.environ.get("FAULTS_CLOCK"):
        turn_the_clock_back()
    launch.run_main(experiment.main)


def turn_the_clock_back() -> None:
    """Let every look at the time of day be a minute before the last one."""
    import datetime

    from spd_jax.ledger import store

    looks, now = iter(range(10**9)), time.time

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.datetime.now(tz) - datetime.timedelta(minutes=next(looks))

    store.datetime = types.SimpleNamespace(datetime=Clock, UTC=datetime.UTC)  # type: ignore
    time.time = lambda: now() - 60 * next(looks)


# Running it


class Done(NamedTuple):
    """How a process ended."""

    code: int
    stderr: str

    @property
    def last(self) -> str:
        """The last line that it said."""
        lines = self.stderr.strip().splitlines()
        return lines[-1] if lines else ""


class Bench:
    """One experiment: how it is run, and how it ended when nobody disturbed it."""

    def __init__(self, name: str, place: pathlib.Path) -> None:
        """Run it once."""
        self.name, self.place = name, place
        self.draw = random.Random(name)
        folder, log = self.fresh("whole")
        done = self.run(folder, log)
        assert done.code == 0, done.stderr
        self.whole, self.events = outcome(folder), list(dict.fromkeys(events(log)))
        assert self.whole

    def fresh(self, name: str) -> tuple[pathlib.Path, pathlib.Path]:
        """Return a run folder, which does not exist yet, and an empty log."""
        log = self.place / f"{self.name}_{name}.log"
        log.write_text("")
        return self.place / self.name / name, log

    def start(
        self, folder: pathlib.Path, log: pathlib.Path, *flags: str, **options: Any
    ) -> subprocess.Popen[str]:
        """Start the command; `options` are Popen's, `environment` adds variables."""
        own = [flag.format(place=self.place) for flag in COMMANDS[self.name]]
        given = options.pop("environment", {})
        known = driver.environment() | {"FAULTS_LOG": str(log)} | given
        known["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
        program = ["-c", "import faults; faults.child()", self.name]
        if options.pop("plain", False):
            program = ["-m", f"experiments.{self.name}"]
        command = [*options.pop("prefix", ()), sys.executable, *program, *own]
        return subprocess.Popen(
            [*command, f"--workdir={folder}", *flags],
            cwd=ROOT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env={name: value for name, value in known.items() if value is not None}, **options,
        )  # fmt: skip

    def run(self, folder: pathlib.Path, log: pathlib.Path, *flags: str, **options: Any) -> Done:
        """Run the command to its end."""
        return end(self.start(folder, log, *flags, **options))

    def must_end_as_whole(self, folder: pathlib.Path, log: pathlib.Path, *flags: str) -> None:
        """Run the same command undisturbed, and compare everything."""
        done = self.run(folder, log, *flags)
        assert done.code == 0, done.stderr
        self.must_be_whole(folder, log)

    def must_be_whole(self, folder: pathlib.Path, log: pathlib.Path) -> None:
        """Compare a folder with the undisturbed one, and see that all was bought once."""
        found = outcome(folder)
        assert found.keys() == self.whole.keys(), found.keys() ^ self.whole.keys()
        for name, content in self.whole.items():
            assert same(found[name], content), f"{name}: {difference(found[name], content)}"
        bought = [event for event in events(log) if event.startswith("put")]
        assert len(bought) == len(set(bought)), "something was bought twice"
        if bought:
            assert len(rows(folder / "ledger.sqlite")) >= len(bought), "something was lost"

    def wait(self, process: subprocess.Popen[str], log: pathlib.Path, count: int) -> bool:
        """Wait until so many different things have happened; False where it ended before."""
        deadline = time.monotonic() + LONGEST
        while len(set(events(log))) < count:
            if process.poll() is not None:
                return False
            assert time.monotonic() < deadline, "it hangs"
            time.sleep(0.005)
        return True


def end(process: subprocess.Popen[str]) -> Done:
    """Wait for the end of a process; a traceback is never one."""
    try:
        _, stderr = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"it hangs: {process.communicate()[1]}") from None
    assert "Traceback" not in stderr, stderr
    return Done(process.returncode, stderr)


def events(log: pathlib.Path) -> list[str]:
    """Return the whole lines of a log."""
    return log.read_text().split("\n")[:-1]


def rows(path: pathlib.Path) -> dict[Any, Any]:
    """Return what a ledger holds, without seconds."""
    from spd_jax.ledger import Ledger

    with Ledger(path, read_only=True) as ledger:
        return {tuple(key): (x.status, x.score, x.test_score, x.curve) for key, x in ledger.items()}


def outcome(folder: pathlib.Path) -> dict[str, Any]:
    """Return all results in a run folder, without how long they took."""
    found: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        assert ".partial" not in path.name, path
        if path.name == "versions.json" or path.name.startswith(".") or path.is_dir():
            continue
        found[path.name] = None
        if path.suffix == ".json":
            found[path.name] = timeless(json.loads(path.read_text()))
        elif path.suffix == ".jsonl":
            found[path.name] = [json.loads(line) for line in path.read_text().splitlines()]
        elif path.suffix == ".csv":
            lines = path.read_text().splitlines()
            table = csv.DictReader(line for line in lines if not line.startswith("#"))
            found[path.name] = [line for line in lines if line[:1] == "#" and "commit" not in line]
            found[path.name] += timeless(list(table))
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found[path.name] = {name: arrays[name].tolist() for name in arrays}
        elif path.suffix == ".sqlite":
            found[path.name] = rows(path)
    found.pop("ledger.sqlite-wal", None)
    found.pop("ledger.sqlite-shm", None)
    return found


def timeless(content: Any) -> Any:
    """Return plain data without what is a matter of time."""
    if isinstance(content, dict):
        return {name: timeless(x) for name, x in content.items() if "seconds" not in name}
    return [timeless(x) for x in content] if isinstance(content, list) else content


def difference(one: Any, other: Any) -> str:
    """Return where two results differ first."""
    if isinstance(one, list) and isinstance(other, list):
        pairs = [pair for pair in zip(one, other, strict=False) if not same(*pair)]
        return f"{pairs[0]}" if pairs else f"{len(one)} instead of {len(other)} lines"
    return f"{one!s:.300} instead of {other!s:.300}"


def same(one: Any, other: Any) -> bool:
    """Return whether plain data are equal; NaN is NaN."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return bool(one == other)


# The faults: each tries it and returns what happened


def kill(bench: Bench, kills: int = 20) -> str:
    """kill -9, again and again in one folder"""
    folder, log = bench.fresh("killed")
    paid = struck = 0
    for number in range(kills):
        target = int(len(bench.events) * (number + bench.draw.random()) / kills)
        with bench.start(folder, log) as process:
            if bench.wait(process, log, target):
                time.sleep(bench.draw.uniform(0, 0.2))
            elif process.returncode:
                raise AssertionError(end(process).stderr)
            process.kill()
            end(process)
            struck += process.returncode == -signal.SIGKILL
            paid += any(event.startswith(PAID) for event in events(log))
    bench.must_end_as_whole(folder, log)
    return f"{struck} kills, {paid} of them after a result was paid for: same results"


def polite(bench: Bench, number: signal.Signals) -> str:
    """Return how the command ends after a signal at two moments, and after them."""
    folder, log = bench.fresh(number.name)
    ends = 0
    for share in (0.2, 0.7):
        with bench.start(folder, log) as process:
            if bench.wait(process, log, int(len(bench.events) * share)):
                process.send_signal(number)
            done = end(process)
        assert done.code in (0, 128 + number), done
        if done.code:
            assert done.last == "interrupted: the same command goes on from here", done.stderr
            ends += 1
    bench.must_end_as_whole(folder, log)
    return f"{ends} times one sentence and status {128 + number}: same results"


def terminate(bench: Bench) -> str:
    """SIGTERM"""
    return polite(bench, signal.SIGTERM)


def interrupt(bench: Bench) -> str:
    """SIGINT (Ctrl-C)"""
    return polite(bench, signal.SIGINT)


def imports(bench: Bench) -> str:
    """SIGINT during imports"""
    folder, log = bench.fresh("imports")
    for delay in (0.4, 0.8, 1.2):
        with bench.start(folder, log, plain=True) as process:
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            done = end(process)
        assert done.code == 130, done
        assert done.last == "interrupted: the same command goes on from here", done.stderr
    assert not folder.exists()
    return "3 times one sentence and status 130, nothing written"


def limit(bench: Bench) -> str:
    """full disk (limit of file sizes)"""
    folder, log = bench.fresh("limit")
    sentences = 0
    for size in (100, 3_000, 30_000):
        done = bench.run(folder, log, environment={"FAULTS_LIMIT": str(size)})
        assert done.code in (0, 1), done
        if done.code:
            assert done.last.startswith("error: "), done.stderr
            sentences += 1
    bench.must_end_as_whole(folder, log)
    return f"{sentences} times one sentence and status 1: same results"


def tmpfs(bench: Bench) -> str:
    """full disk (a small tmpfs)"""
    if os.geteuid():
        return "not tried: needs root"
    folder, log = bench.fresh("tmpfs")
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)]
    subprocess.run(mount, check=True)
    try:
        sentences = 0
        for size in ("16k", "64k"):
            subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)
            done = bench.run(folder, log)
            assert done.code in (0, 1), done
            if done.code:
                assert done.last.startswith("error: "), done.stderr
                sentences += 1
        subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
        bench.must_end_as_whole(folder, log)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    return f"{sentences} times one sentence and status 1: same results"


def half_done(bench: Bench, folder: pathlib.Path, log: pathlib.Path) -> None:
    """Leave a folder that was killed half-way."""
    with bench.start(folder, log) as process:
        bench.wait(process, log, len(bench.events) // 2)
        process.kill()
        end(process)


def read_only(bench: Bench) -> str:
    """read-only folder, half-way"""
    folder, log = bench.fresh("read_only")
    half_done(bench, folder, log)
    paths = [folder, *folder.rglob("*")]
    before = {path: path.stat().st_mode for path in paths}
    for path, mode in before.items():
        path.chmod((mode | 0o444) & 0o777555)
    # Root may write everywhere, unless that is taken from it.
    prefix = [] if os.geteuid() else ["setpriv", "--bounding-set=-dac_override"]
    done = bench.run(folder, log, prefix=prefix)
    assert done.code == 1, done
    assert done.last.startswith("error: "), done.stderr
    for path, mode in before.items():
        path.chmod(mode)
    bench.must_end_as_whole(folder, log)
    return "one sentence and status 1; writable again: same results"


def git(bench: Bench) -> str:
    """no git on PATH"""
    folder, log = bench.fresh("git")
    done = bench.run(folder, log, environment={"PATH": str(bench.place / "none")})
    assert done.code == 0, done.stderr
    bench.must_be_whole(folder, log)
    versions = json.loads((folder / "versions.json").read_text())
    assert versions["commit"] == "unknown"
    return 'same results, commit "unknown"'


def home(bench: Bench) -> str:
    """no home directory"""
    for number, value in enumerate((None, "/dev/null")):
        folder, log = bench.fresh(f"home{number}")
        nowhere = {"HOME": value, "XDG_CACHE_HOME": None, "XDG_CONFIG_HOME": None}
        done = bench.run(folder, log, environment=nowhere | {"MPLCONFIGDIR": None})
        assert done.code == 0, done.stderr
        bench.must_be_whole(folder, log)
    return "twice: same results"


def clock(bench: Bench) -> str:
    """clock going backwards"""
    folder, log = bench.fresh("clock")
    half_done(bench, folder, log)
    done = bench.run(folder, log, environment={"FAULTS_CLOCK": "back"})
    assert done.code == 0, done.stderr
    bench.must_be_whole(folder, log)
    return "same results"


def two(bench: Bench) -> str:
    """two processes at once"""
    folder, log = bench.fresh("two")
    with bench.start(folder, log) as process:
        assert bench.wait(process, log, len(bench.events) // 3)
        process.send_signal(signal.SIGSTOP)
        try:
            second = bench.run(folder, log)
        finally:
            process.send_signal(signal.SIGCONT)
        assert second.code == 1, second
        assert second.last.startswith("error: another process works in "), second.stderr
        assert end(process).code == 0
    bench.must_be_whole(folder, log)
    return "the second: one sentence, status 1; the first: same results"


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Return the worker processes of a command."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(process.pid)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [line.split(None, 1) for line in listed.stdout.splitlines()]
    return [int(line[0]) for line in lines if "spawn_main" in line[1]]


def worker_killed(bench: Bench) -> str:
    """a worker killed"""
    folder, log = bench.fresh("worker_killed")
    struck = 0
    with bench.start(folder, log, "--workers=2") as process:
        for share in (0.1, 0.3, 0.5):
            alive = bench.wait(process, log, int(len(bench.events) * share) + 1)
            found = workers_of(process) if alive else []
            if found:
                os.kill(bench.draw.choice(found), signal.SIGKILL)
                struck += 1
        done = end(process)
    assert done.code == 0, done
    bench.must_be_whole(folder, log)
    return f"{struck} workers: same results"


def worker_stopped(bench: Bench) -> str:
    """a worker stopped and continued"""
    folder, log = bench.fresh("worker_stopped")
    with bench.start(folder, log, "--workers=2") as process:
        assert bench.wait(process, log, 3)
        found = workers_of(process)
        for worker in found[:1]:
            os.kill(worker, signal.SIGSTOP)
        time.sleep(3)
        for worker in found[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT)
        done = end(process)
    assert found
    assert done.code == 0, done
    bench.must_be_whole(folder, log)
    return "same results"


def hung(bench: Bench) -> str:
    """an evaluation that hangs, with --time_limit"""
    folder, log = bench.fresh("hung")
    flags, hang = ["--workers=2", "--time_limit=25"], bench.place / "hang"
    hang.write_text("the first evaluation that takes this file away hangs")
    given = {"FAULTS_HANG": str(hang)}
    with bench.start(folder, log, *flags, environment=given) as process:
        if bench.name == "rnn_cell_search":  # whose evaluations look for no file: stop a worker
            assert bench.wait(process, log, 2)
            os.kill(workers_of(process)[0], signal.SIGSTOP)
        done = end(process)
    assert done.code == 0, done
    ledger = folder / "ledger.sqlite"
    failed = sum(row[0] == "failed" for row in rows(ledger).values())
    command = [sys.executable, "-m", "spd_jax.ledger", "retry", str(ledger)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=driver.environment())
    # A search that has ended stays as it is; with the same ledger another one ends as it should.
    again, log = bench.fresh("hung_again")
    again.mkdir(parents=True)
    shutil.copy(ledger, again)
    done = bench.run(again, log)
    assert done.code == 0, done.stderr
    found = outcome(again)
    for name in bench.whole.keys() - {"ledger.sqlite"}:
        assert same(found[name], bench.whole[name]), name
    return f"{failed} recorded as failed, the rest went on; after `ledger retry`: same results"


FAULTS = [
    kill, terminate, interrupt, imports, limit, tmpfs, read_only, git, home, clock, two,
    worker_killed, worker_stopped, hung,
]  # fmt: skip


# The matrix


def prepare(place: pathlib.Path) -> None:
    """Write what the commands read."""
    import jax
    from toy_widths import TOY, Formula

    from spd_jax.ledger import EvaluationKey
    from spd_jax.ledger import table as ledger_table

    driver.write_text(place / "text")
    space, task = TOY.space, Formula()
    names = dict.fromkeys(map(space.encode, space.sample(jax.random.key(5), 40)))
    keys = [EvaluationKey(space.name, cell, task.fingerprint, 0, 4) for cell in names]
    items = [(key, task.evaluate(key.cell, 0, 4)) for key in keys]
    ledger_table.write(place / "table.csv", items, {})


def main() -> None:
    """Try the faults; print the table; status 1 where one had another end than it must."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(COMMANDS), help="experiments")
    names = [fault.__name__ for fault in FAULTS]
    parser.add_argument("--faults", default=",".join(names), help="faults")
    parser.add_argument("--kills", type=int, default=20, help="of every experiment")
    options = parser.parse_args()
    # A shell starts what it puts in the background with Ctrl-C ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import jax

    jax.config.update("jax_compilation_cache_dir", str(ROOT / ".jax_cache"))
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        place = pathlib.Path(name)
        prepare(place)
        print("| experiment | fault | what happened |\n|---|---|---|", flush=True)
        for experiment in options.only.split(","):
            bench = Bench(experiment, place)
            for fault in FAULTS:
                workers = fault in (worker_killed, worker_stopped, hung)
                if fault.__name__ not in options.faults.split(","):
                    continue
                if workers and experiment not in WITH_WORKERS:
                    continue
                given = {"kills": options.kills} if fault is kill else {}
                try:
                    happened = fault(bench, **given)
                except AssertionError as error:
                    wrong += 1
                    happened = "WRONG: " + " ".join(str(error).split())[-600:].replace("|", "/")
                print(f"| {experiment} | {fault.__doc__} | {happened} |", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

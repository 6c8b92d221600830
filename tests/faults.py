"""The matrix of faults: every experiment is killed, stopped and starved, and tried again.

`python tests/faults.py` (`make faults`) tries every fault on every experiment and prints the
table of docs/reliability.md; `--only=tune,buy_table`, `--faults=kill,clock` and `--kills=3` try
some. After each fault the same command must end as an uninterrupted run did, and no evaluation
may be lost or bought twice. Nothing here is collected by pytest. Some faults need root (a full
tmpfs) or Linux; they are left out elsewhere, which the table says.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import cheap_compiling  # noqa: E402, F401
import rnn_cell_driver as driver  # noqa: E402
from fault_bench import Bench, end, events, outcome, rows, same  # noqa: E402
from fault_commands import COMMANDS, PAID, WITH_WORKERS, prepare  # noqa: E402

TWO_WORKERS = ("--workers=2",)

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


def some_worker(process: subprocess.Popen[str], draw: random.Random) -> int | None:
    """Wait until the command has workers, and return one; None where it ended before."""
    while process.poll() is None:
        if found := workers_of(process):
            return draw.choice(found)
        time.sleep(0.05)
    return None


def worker_killed(bench: Bench) -> str:
    """a worker killed"""
    folder, log = bench.fresh("worker_killed")
    struck = 0
    with bench.start(folder, log, *TWO_WORKERS) as process:
        for share in (0.1, 0.3, 0.5):
            bench.wait(process, log, int(len(bench.events) * share) + 1)
            worker = some_worker(process, bench.draw)
            if worker is not None:
                os.kill(worker, signal.SIGKILL)
                struck += 1
        done = end(process)
    assert struck, "the command ended before a worker was killed"
    if not done.code:
        bench.must_be_whole(folder, log, *TWO_WORKERS)
        return f"{struck} workers: same results"
    # Who dies while it starts is taken for one that cannot start: a sentence, and no replacement.
    assert done.code == 1, done
    assert "cannot start" in done.last, done
    bench.must_end_as_whole(folder, log, *TWO_WORKERS)
    return f"{struck} workers, one while it started: one sentence, status 1; then the same results"


def worker_stopped(bench: Bench) -> str:
    """a worker stopped and continued"""
    folder, log = bench.fresh("worker_stopped")
    with bench.start(folder, log, *TWO_WORKERS) as process:
        assert bench.wait(process, log, 3)
        worker = some_worker(process, bench.draw)
        assert worker is not None
        os.kill(worker, signal.SIGSTOP)
        time.sleep(3)
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGCONT)
        done = end(process)
    assert done.code == 0, done
    bench.must_be_whole(folder, log, *TWO_WORKERS)
    return "same results"


def hung(bench: Bench) -> str:
    """an evaluation that hangs, with --time_limit"""
    folder, log = bench.fresh("hung")
    flags, hang = [*TWO_WORKERS, "--time_limit=25"], bench.place / "hang"
    hang.write_text("the first evaluation that takes this file away hangs")
    given = {"FAULTS_HANG": str(hang)}
    with bench.start(folder, log, *flags, environment=given) as process:
        if "toy_faults" not in " ".join(COMMANDS[bench.name]):  # looks for no file: stop a worker
            started = [event.startswith("put") for event in bench.events].index(True) + 1
            assert bench.wait(process, log, started)
            worker = some_worker(process, bench.draw)
            assert worker is not None
            os.kill(worker, signal.SIGSTOP)
        done = end(process)
    if done.code:  # it had not started yet
        assert (done.code, "cannot start" in done.last) == (1, True), done
        bench.must_end_as_whole(folder, log, *TWO_WORKERS)
        return "a worker hung while it started: one sentence, status 1; then the same results"
    ledger = folder / "ledger.sqlite"
    failed = sum(row[0] == "failed" for row in rows(ledger).values())
    command = [sys.executable, "-m", "spd_jax.ledger", "retry", str(ledger)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=driver.environment())
    # A search that has ended stays as it is; with the same ledger another one ends as it should.
    again, log = bench.fresh("hung_again")
    again.mkdir(parents=True)
    shutil.copy(ledger, again)
    done = bench.run(again, log, *TWO_WORKERS)
    assert done.code == 0, done.stderr
    found = outcome(again)
    whole = bench.whole(*TWO_WORKERS)
    for name in whole.keys() - {"ledger.sqlite"}:
        assert same(found[name], whole[name]), name
    return f"{failed} recorded as failed, the rest went on; after `ledger retry`: same results"


FAULTS = [
    kill, terminate, interrupt, imports, limit, tmpfs, read_only, git, home, clock, two,
    worker_killed, worker_stopped, hung,
]  # fmt: skip


# The matrix


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

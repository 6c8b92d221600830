"""How an experiment is run for the matrix of faults, and what it must end with."""

import csv
import json
import math
import os
import pathlib
import random
import subprocess
import sys
import time
from typing import Any, NamedTuple

import numpy as np
import rnn_cell_driver as driver
from fault_commands import COMMANDS, ROOT

LONGEST = 900  # seconds that one process may take, on a busy machine


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
        self.undisturbed: dict[tuple[str, ...], dict[str, Any]] = {}
        self.events: list[str] = []
        assert self.whole()

    def whole(self, *flags: str) -> dict[str, Any]:
        """Return the outcome of an undisturbed run with these flags: workers round differently."""
        if flags not in self.undisturbed:
            folder, log = self.fresh("_".join(["whole", *flags]))
            done = self.run(folder, log, *flags)
            assert done.code == 0, done.stderr
            self.undisturbed[flags] = outcome(folder)
            self.events = self.events or list(dict.fromkeys(events(log)))
        return self.undisturbed[flags]

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
        program = [str(ROOT / "tests" / "fault_commands.py"), self.name]
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
        self.must_be_whole(folder, log, *flags)

    def must_be_whole(self, folder: pathlib.Path, log: pathlib.Path, *flags: str) -> None:
        """Compare a folder with the undisturbed one, and see that all was bought once."""
        found, whole = outcome(folder), self.whole(*flags)
        assert found.keys() == whole.keys(), found.keys() ^ whole.keys()
        for name, content in whole.items():
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
            found[path.name] = [timeless(json.loads(x)) for x in path.read_text().splitlines()]
        elif path.suffix == ".csv":
            lines = path.read_text().splitlines()
            table = csv.DictReader(line for line in lines if not line.startswith("#"))
            told = [line for line in lines if line[:1] == "#"]
            found[path.name] = [x for x in told if "commit" not in x and "seconds" not in x]
            found[path.name] += timeless(list(table))
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found[path.name] = {name: arrays[name].tolist() for name in arrays}
            if "described" in found[path.name]:
                described = json.loads(found[path.name]["described"])
                found[path.name]["described"] = timeless(described)
        elif path.suffix == ".sqlite":
            found[path.name] = rows(path)
    found.pop("ledger.sqlite-wal", None)
    found.pop("ledger.sqlite-shm", None)
    return found


def timeless(content: Any) -> Any:
    """Return plain data without what is a matter of time or of git."""
    if isinstance(content, dict):
        other = ("seconds", "checksum", "commit")
        kept = {name: x for name, x in content.items() if not any(word in name for word in other)}
        return {name: timeless(x) for name, x in kept.items()}
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

"""What the tests of the sigmoid-slope experiment share: how it is run, and one finished run.

Settings are given in full, so that nothing here depends on what preset `best` holds.
"""

import csv
import json
import pathlib
import subprocess
import sys
from typing import Any, NamedTuple

import commands
import numpy as np
import pytest

from spd_jax.dish import DishConfig
from spd_jax.ground_truth import lookup
from spd_jax.ground_truth.lookup import TruthTable
from spd_jax.problems import sigmoid_slope
from spd_jax.studies import extrapolation
from spd_jax.studies.extrapolation import ExtrapolationSettings

PROBLEM = sigmoid_slope.problem()
SLOPES = [0.05, 0.12, 0.2, 0.3, 0.4, 0.55, 0.7, 0.85, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0]
CONFIG = DishConfig(inner_steps=4, outer_steps=6, ensemble_size=2)
FLAGS = ["--preset=paper", "--num_train=6", "--inner_steps=4", "--outer_steps=6", "--num_dishes=2"]
SETTINGS = ExtrapolationSettings(num_seeds=2, num_train=6, preset="paper", dish=CONFIG)
PICTURES = ["figure1.png", "figure4.png", "convergence.png", "synthetic_data.png"]
FILES = ["summary.json", *PICTURES, "predictions.csv", "metrics.jsonl", "config.json"]
FILES += ["versions.json", "synthetic_data.npz"]


# The same command, but it sends itself a signal at a stated point: in the midst of its n-th
# line of metrics.jsonl, or when a file has been written whole but not yet put in its place.
DEADLY = """
import os, pathlib, signal, sys
from experiments import launch, sigmoid_slope
from spd_jax.studies import run_folder

which, where, count = sys.argv.pop(1).split(":")
left = int(count)
replace, add_metrics = os.replace, run_folder.RunFolder.add_metrics

def count_down():
    global left
    left -= 1
    return left == 0

def deadly_replace(source, target):
    if pathlib.Path(target).name.startswith(where) and count_down():
        os.kill(os.getpid(), getattr(signal, which))
    replace(source, target)

def deadly_add_metrics(folder, line):
    if where == "line" and count_down():
        with open(folder.path / "metrics.jsonl", "a") as stream:
            stream.write('{"seed": 0, "ph')
        os.kill(os.getpid(), getattr(signal, which))
    add_metrics(folder, line)

os.replace, run_folder.RunFolder.add_metrics = deadly_replace, deadly_add_metrics
launch.run_main(sigmoid_slope.main)
"""


def succeed(folder, *flags):
    """Run the experiment; it must end well."""
    done = commands.run("sigmoid_slope", f"--workdir={folder}", *FLAGS, *flags)
    assert done.code == 0, done.stderr
    return done


def die(folder, where, *flags):
    """Run the experiment in a process that a signal ends at a stated point."""
    words = [DEADLY, where, "--cpu_devices=1", f"--workdir={folder}", *FLAGS, *flags]
    done = subprocess.run(
        [sys.executable, "-c", *words], cwd=commands.ROOT, env=commands.environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if where.startswith("SIGKILL"):
        assert done.returncode == -9, done.stderr
    else:
        assert done.returncode == 130, done.stderr
        assert done.stderr.splitlines()[-1] == "interrupted: the same command goes on from here"
    assert "Traceback" not in done.stderr


def run(folder, table, settings=SETTINGS, **options):
    """Run the study in this process, as a command of the same settings does."""
    return extrapolation.run(PROBLEM, table, settings, folder, **options)


def write_table(path, *, score=None, slopes=SLOPES, seeds=(0, 1)):
    """Write a table of ground truth: a smooth curve with its peak near 0.3, and a little noise."""
    if score is None:

        def score(slope, seed):
            noise = 4e-4 * np.sin(9 * slope + 5 * seed)
            return 2 * round((0.97 - 0.03 * np.log(slope / 0.28) ** 2 + noise) / 2, 6)

    rows = [f"{c},{seed},{score(c, seed)}\n" for seed in seeds for c in slopes]
    path.write_text("# made for a test\ncell,seed,score\n" + "".join(rows))
    return path


def read_table(path):
    return lookup.read(path, PROBLEM.space)


def outcome(folder):
    """Return all that a run leaves behind, apart from how long it took."""
    summary = json.loads((folder / "summary.json").read_text())
    del summary["seconds"]
    with np.load(folder / "synthetic_data.npz") as arrays:
        samples = {name: arrays[name].tolist() for name in arrays}
    texts = {name: (folder / name).read_text() for name in ("predictions.csv", "metrics.jsonl")}
    return {"summary": summary, "samples": samples, **texts}


def assert_same_outcome(folder, other):
    one, another = outcome(folder), outcome(other)
    for name in one:
        assert one[name] == another[name], name


def lines(folder):
    """Return the whole lines of metrics.jsonl."""
    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def predictions(folder):
    """Return predictions.csv as columns by seed."""
    with (folder / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    seeds = {}
    for row in rows:
        columns = seeds.setdefault(int(row.pop("seed")), {name: [] for name in row})
        for name, text in row.items():
            columns[name].append(text if name == "split" else float(text or "nan"))
    return {
        seed: {name: np.array(column) for name, column in columns.items()}
        for seed, columns in seeds.items()
    }


class Finished(NamedTuple):
    """An uninterrupted run of two seeds; no test may change it."""

    folder: pathlib.Path
    flags: list[str]
    output: str
    summary: dict[str, Any]
    table: TruthTable


@pytest.fixture(scope="session")
def slope_run(tmp_path_factory):
    """Return a finished run of the command."""
    place = tmp_path_factory.mktemp("sigmoid_slope")
    path = write_table(place / "table.csv")
    flags = [f"--ground_truth={path}", "--num_seeds=2"]
    done = succeed(place / "finished", *flags)
    summary = json.loads((place / "finished" / "summary.json").read_text())
    return Finished(place / "finished", flags, done.stdout, summary, read_table(path))

"""What the tests of the sigmoid-slope experiment share: how it is run, and one finished run.

Each command runs in a process of its own. Settings are given as flags, so that
nothing here depends on what preset `best` holds.
"""

import csv
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from spd_jax.dish import DishConfig
from spd_jax.ground_truth import lookup as tabular

ROOT = pathlib.Path(__file__).resolve().parents[1]
SLOPES = [0.05, 0.12, 0.2, 0.3, 0.4, 0.55, 0.7, 0.85, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0]
CONFIG = DishConfig(inner_steps=4, outer_steps=6, ensemble_size=2)
SETTINGS = ["--cpu_devices=1", "--preset=paper", "--num_train=6", "--inner_steps=4"]
SETTINGS += ["--outer_steps=6", "--num_dishes=2"]
METHODS = ["dish", "dish_untrained", "slope_mlp", "gaussian_process"]
FIGURES = ["kendall_tau", "kendall_tau_test", "kendall_tau_left"]
FIGURES += ["predicted_peak_slope", "peak_error"]
PICTURES = ["figure1.png", "figure4.png", "convergence.png", "synthetic_data.png"]
FILES = ["summary.json", *PICTURES, "predictions.csv", "metrics.jsonl", "config.json"]
FILES += ["versions.json"]


# The same main, but it sends itself a signal at a stated point: in the midst of its n-th line
# of metrics.jsonl, or when a file has been written whole but not yet put in its place.
DEADLY = """
import os, pathlib, signal, sys
from experiments import sigmoid_slope
from spd_jax.studies import run_folder

which, where, count = sys.argv.pop(1).split(":")
left = int(count)
replace, add_metrics = os.replace, run_folder.RunFolder.add_metrics

def count_down():
    global left
    left -= 1
    return left == 0

def deadly_replace(source, target):
    if pathlib.Path(target).name == where and count_down():
        os.kill(os.getpid(), getattr(signal, which))
    replace(source, target)

def deadly_add_metrics(folder, line):
    if where == "line" and count_down():
        with open(folder.path / "metrics.jsonl", "a") as stream:
            stream.write('{"seed": 0, "ph')
        os.kill(os.getpid(), getattr(signal, which))
    add_metrics(folder, line)

os.replace, run_folder.RunFolder.add_metrics = deadly_replace, deadly_add_metrics
run_folder.run_main(sigmoid_slope.main)
"""


def run(folder, *flags, die=None):
    """Run the experiment in a process of its own; `die` is where a signal ends it."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    program = ["-m", "experiments.sigmoid_slope"] if die is None else ["-c", DEADLY, die]
    command = [sys.executable, *program, f"--workdir={folder}", *SETTINGS, *flags]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def succeed(folder, *flags):
    done = run(folder, *flags)
    assert done.returncode == 0, done.stderr
    return done


def die(folder, where, *flags):
    done = run(folder, *flags, die=where)
    if where.startswith("SIGKILL"):
        assert done.returncode == -9, done.stderr
    else:
        assert done.returncode == 130, done.stderr
        assert done.stderr.splitlines()[-1] == "interrupted: the same command goes on from here"
    assert "Traceback" not in done.stderr


def write_table(path, *, accuracy=None, slopes=SLOPES, seeds=(0, 1)):
    """Write a ground-truth table: a smooth curve with its peak near 0.3, and a little noise."""
    if accuracy is None:

        def accuracy(slope, seed):
            noise = 4e-4 * np.sin(9 * slope + 5 * seed)
            return 2 * round((0.97 - 0.03 * np.log(slope / 0.28) ** 2 + noise) / 2, 6)

    rows = [f"{c},{seed},{accuracy(c, seed)}\n" for seed in seeds for c in slopes]
    path.write_text("# made for a test\nslope,seed,accuracy\n" + "".join(rows))
    return path


def contents(folder):
    """Return the bytes of every file below a folder."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


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


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Return a folder with table.csv."""
    folder = tmp_path_factory.mktemp("sigmoid_slope")
    write_table(folder / "table.csv")
    return folder


@pytest.fixture(scope="session")
def two_seeds(place):
    return [f"--ground_truth={place / 'table.csv'}", "--num_seeds=2"]


@pytest.fixture(scope="session")
def finished(place, two_seeds):
    """Return the folder and the output of an uninterrupted run; no test may change it."""
    done = succeed(place / "finished", *two_seeds)
    return place / "finished", done.stdout


@pytest.fixture(scope="session")
def summary(finished):
    return json.loads((finished[0] / "summary.json").read_text())


@pytest.fixture(scope="session")
def table(place):
    return tabular.read(place / "table.csv")

"""experiments.compare_surrogates from its command line; what a league does is in test_league.py."""

import csv
import json
import signal
import subprocess
import sys

import pytest
import rnn_cell_driver as driver
from compare_surrogates_table import CELLS, PROBLEM, rows

from spd_jax.ledger import table as ledger_table

PLAYERS = ["dish", "dish_untrained", "partial_1", "random_forest_structure"]
SETTINGS = ["--cpu_devices=1", "--known=4,8", "--splits=2", "--held_out=12", "--hidden_size=1"]
SETTINGS += ["--inner_steps=2", "--outer_steps=1", "--train_samples=2", "--valid_samples=2"]
SETTINGS += ["--init_scale=0.1", "--outer_learning_rate=0.05", "--num_dishes=1"]
FEW = "--surrogates=random_forest_structure,partial_1"
# The same main, but it kills itself when its third match is written whole and not yet in place.
DEADLY = f"""
import os, pathlib, signal, sys
from experiments import compare_surrogates, launch

left, replace = 3, os.replace

def deadly(source, target):
    global left
    left -= "known" in pathlib.Path(target).name
    if left == 0:
        os.kill(os.getpid(), {int(signal.SIGKILL)})
    replace(source, target)

os.replace = deadly
launch.run_main(compare_surrogates.main)
"""


def run(folder, *flags):
    return driver.run("compare_surrogates", f"--workdir={folder}", *SETTINGS, *flags)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Return a table; the tuning table beside it names two of its cells."""
    path = tmp_path_factory.mktemp("league") / "cells.csv"
    ledger_table.write(path, rows(), {"made": "for a test"})
    ledger_table.write(path.with_name("cells_tuning.csv"), rows()[:4], {})
    return path


@pytest.fixture(scope="module")
def finished(table):
    """Return the folder of an uninterrupted run, and how it ended; no test may change it."""
    folder = table.parent / "finished"
    done = run(folder, f"--table={table}", f"--surrogates={','.join(PLAYERS)}")
    assert done.code == 0, done.stderr
    return folder, done


def outcome(folder):
    """Return the rows of two surrogates, apart from how long they took."""
    with (folder / "league.csv").open(newline="") as stream:
        lines = [line for line in csv.DictReader(stream) if line["surrogate"] in FEW]
    return [
        {name: text for name, text in line.items() if not name.endswith("_seconds")}
        for line in lines
    ]


def test_a_run_leaves_a_table_and_a_picture(finished):
    folder, done = finished
    summary = json.loads((folder / "summary.json").read_text(), parse_constant=pytest.fail)
    assert set(summary["surrogates"]) == set(PLAYERS)
    assert all(name in done.stdout for name in PLAYERS)
    assert f"{summary['noise_ceiling']['kendall_tau']:.3f}" in done.stdout
    assert "matches: 12/12 (100%)" in done.stderr
    assert (folder / "league.png").read_bytes().startswith(b"\x89PNG")


def test_motifs_that_settings_were_chosen_on_are_left_out(finished, table):
    folder, _ = finished
    assert json.loads((folder / "summary.json").read_text())["motifs"] == 28
    splits = json.loads((folder / "splits.json").read_text())
    used = {cell for split in splits for part in split.values() for cell in part}
    assert used <= set(CELLS[2:])


def test_a_killed_run_goes_on_and_ends_alike(finished, table):
    folder = table.parent / "killed"
    flags = [f"--table={table}", FEW]
    command = [sys.executable, "-c", DEADLY, f"--workdir={folder}", *SETTINGS, *flags]
    done = subprocess.run(
        command, cwd=driver.ROOT, env=driver.environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr
    assert len(list((folder / "matches").glob("[!.]*"))) == 2
    assert not (folder / "league.csv").exists()
    assert run(folder, *flags).code == 0
    expected = sorted(outcome(finished[0]), key=lambda line: int(line["split"]))
    assert outcome(folder) == expected


def test_a_table_of_another_space_brings_its_own_problem(tmp_path):
    lines = [f"sigmoid_slope,{c / 10},{s},{c}.{s}\n" for c in range(1, 20) for s in range(3)]
    (tmp_path / "slopes.csv").write_text("space,cell,seed,score\n" + "".join(lines))
    given = [f"--table={tmp_path / 'slopes.csv'}", "--splits=1", "--known=5"]
    done = run(tmp_path / "run", *given, "--surrogates=gaussian_process")
    assert done.code == 0, done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["problem"] == "sigmoid_slope"


def test_without_a_table_the_shipped_one_is_taken(tmp_path):
    few = ["--surrogates=gaussian_process", "--splits=1", "--known=5", "--held_out=20"]
    assert run(tmp_path / "run", *few).code == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["problem"], summary["motifs"]) == (PROBLEM.name, 500)
    assert summary["table"] == "rnn_cell_ptb_tiny.csv"


REFUSED = {  # flags, and what the sentence says; in the folder of a finished run
    "missing table": (["--table={place}/none.csv"], "none.csv"),
    "no cell": (["--exclude={place}/words.txt"], "words.txt lists something else than motifs"),
    "missing log": (["--exclude={place}/none.txt"], "none.txt cannot be read"),
    "too many known": (["--known=4,25"], "the table has 28 motifs, but 25 known"),
    "no number": (["--known=4,many"], "--known=4,many: give whole numbers"),
    "too few known": (["--known=2"], "give whole numbers of 3 or more"),
    "stranger": (["--surrogates=dish,oracle"], "--surrogates=oracle: give some of"),
    "other setting": (["--outer_steps=2"], "use its settings to go on with it"),
    "fewer splits": (["--splits=1"], "splits=2, not 1"),
    "other table": (["--table={place}/other.csv"], "use its settings to go on with it"),
    "two tasks": (["--table={place}/mixed.csv"], "holds evaluations of 2 tasks"),
    "preset of another problem": (
        ["--preset=a1"],
        "--preset=a1 is unknown: use one of best, paper",
    ),
    "no problem": (["--space=nonsense"], "unknown problem 'nonsense': use one of rnn_cell"),
}


@pytest.fixture(scope="module")
def place(table):
    folder = table.parent
    (folder / "words.txt").write_text("no cell at all\n")
    ledger_table.write(folder / "other.csv", rows()[:-1], {})
    foreign = [(rows()[0][0]._replace(task="another"), rows()[0][1])]
    ledger_table.write(folder / "mixed.csv", rows() + foreign, {})
    return folder


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_one_sentence(name, place, finished, table):
    flags, words = REFUSED[name]
    before = driver.contents(finished[0])
    done = run(finished[0], f"--table={table}", *(flag.format(place=place) for flag in flags))
    assert done.code == 1
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert driver.contents(finished[0]) == before

"""experiments.rnn_cell_search: what a run leaves, and that it is replayed, resumed and extended."""

import csv
import json
import math
import shutil

import jax
import matplotlib.image
import numpy as np
import pytest
import rnn_cell_driver as driver
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from spd_jax.search.loop import warm_start
from spd_jax.spaces.rnn_cell import RnnCellSpace
from spd_jax.studies import search_comparison as runs

SPACE = RnnCellSpace("enas_mean")
NUMBERS = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the folder of an uninterrupted run; no test may change it."""
    return driver.finished(tmp_path_factory)[0]


@pytest.fixture(scope="module")
def records(finished):
    return runs.read_history(finished / "history.csv")[0]


@pytest.fixture(scope="module")
def summary(finished):
    return json.loads((finished / "summary.json").read_text(), parse_constant=pytest.fail)


def search(folder, *flags, log="/dev/null"):
    text = folder.parent / "text"
    done = driver.run(
        "rnn_cell_search", *driver.SEARCH, f"--data_dir={text}", f"--workdir={folder}", *flags,
        log=log,
    )  # fmt: skip
    assert done.code == 0, done.stderr
    return done


def rows(path, method):
    """Return the rows of one method in a history."""
    with path.open(newline="") as stream:
        lines = [line for line in stream if not line.startswith("#")]
    return [row for row in csv.DictReader(lines) if row["method"] == method]


# The whole run


def test_a_run_leaves_a_row_and_a_picture_for_everything(finished, summary):
    assert list(summary["methods"]) == driver.METHODS == list(runs.METHODS)
    assert summary["unit"] == "bits per character"
    for name in ("figure3", "scatter", "scatter_dish_ga", "scatter_partial", "best_cell"):
        assert np.std(matplotlib.image.imread(finished / f"{name}.png")) > 0.01, name
    stdout = (finished.parent / "finished.stdout").read_text()
    named = [line.split()[0] for line in stdout.splitlines()[2:9]]
    assert named == driver.METHODS
    assert not [path for path in driver.contents(finished) if ".partial" in path.name]


def test_a_figure_is_the_test_score_of_the_cell_best_on_validation(summary, records):
    everything = []
    for method in driver.METHODS:
        known = [
            (score, test, cell)
            for entry in records[method, 0]
            if entry["cost"] <= 9  # all may spend 5 + 2 x 2
            for score, test, cell in zip(
                entry["scores"], entry["test_scores"], entry["cells"], strict=True
            )
        ]
        row = summary["methods"][method]["at_equal_ground_truths"]
        assert row["test"]["mean"] == pytest.approx(-max(known)[1] / math.log(2))
        assert row["valid"]["mean"] == pytest.approx(-max(known)[0] / math.log(2))
        assert row["test"]["std"] is None  # one run
        everything += [
            (score, cell)
            for entry in records[method, 0]
            for score, cell in zip(entry["scores"], entry["cells"], strict=True)
        ]
    assert summary["best_cell"]["cell"] == max(everything)[1]
    assert summary["best_cell"]["valid"] == pytest.approx(-max(everything)[0] / math.log(2))


def test_methods_share_the_warm_start_and_buy_new_cells_only(records):
    first = [SPACE.canonical_text(cell) for cell in warm_start(jax.random.key(0), SPACE, 5)]
    scores = records["random", 0][0]["scores"]
    assert len(set(scores)) > 1
    for method in driver.METHODS:
        record = records[method, 0]
        assert record[0]["cells"] == first
        assert record[0]["scores"] == scores
        # Partial training pays half a ground truth for each of 5 proposals: one iteration.
        costs = [5, 9.5] if method == "partial" else [5, 7, 9]
        assert [entry["cost"] for entry in record] == costs
        assert [len(entry["cells"]) for entry in record] == [5, 2, 2][: len(record)]
        cells = [cell for entry in record for cell in entry["cells"]]
        assert len(set(cells)) == len(cells)


def test_tau_is_that_of_the_predictions(summary, records):
    for method in driver.METHODS:
        taus = summary["methods"][method]["tau_by_iteration"]
        ranked = method.startswith("dish_") or method == "partial"
        assert bool(taus) == ranked
        for entry in records[method, 0][1:] if ranked else []:
            tau = stats.kendalltau(entry["predicted"], entry["scores"]).statistic
            assert taus[str(entry["index"])]["values"] == [pytest.approx(tau)]
            assert entry["predicted"] == sorted(entry["predicted"], reverse=True)
        accuracy = summary["methods"][method]["nao_pairwise_accuracy"]
        assert accuracy is None or method.endswith("nao")  # too few are held out for a pair


# The history


@st.composite
def _records(draw):
    found = {}
    for key in draw(st.sets(st.tuples(st.sampled_from(runs.METHODS), st.integers(0, 9)))):
        found[key] = []
        for index in range(draw(st.integers(1, 3))):
            count = draw(st.integers(1, 3))
            columns = {
                name: draw(st.lists(NUMBERS, min_size=count, max_size=count))
                for name in ("predicted", "scores", "test_scores")
            }
            numbers = {
                name: draw(NUMBERS) for name in ("tau", "cost", "seconds", "nao_pairwise_accuracy")
            }
            found[key].append(
                {"index": index, "cells": [f"{i} 0, {index}" for i in range(count)]}
                | columns
                | numbers
            )
    return found


@settings(deadline=None, max_examples=30)
@given(_records().filter(bool))
def test_a_history_is_read_back_to_the_bit(tmp_path_factory, found):
    path = tmp_path_factory.mktemp("history") / "history.csv"
    runs.write_history(path, found, {"settings": "a=1 b={'c': 2}", "task": "f00"})
    read, comments = runs.read_history(path)
    assert repr(sorted(read.items())) == repr(  # of 0.0 and -0.0 too
        sorted((key, [{k: entry[k] for k in read[key][0]} for entry in record])
               for key, record in found.items())
    )  # fmt: skip
    assert comments == {"settings": "a=1 b={'c': 2}", "task": "f00"}


def test_the_history_is_what_the_searches_kept(finished, records):
    for (method, run), record in records.items():
        kept = json.loads((finished / f"searches/{method}_{run}.json").read_text())
        assert record == kept


# Replay


def test_a_replay_gives_the_recorded_figures_and_says_so(finished, summary, tmp_path):
    flags = [f"--history={finished / 'history.csv'}", f"--workdir={tmp_path / 'replay'}"]
    log = tmp_path / "log"
    done = driver.run("rnn_cell_search", *driver.SEARCH, *flags, log=log)
    assert done.code == 0, done.stderr
    assert done.stdout.startswith("replaying the recorded runs of ")
    assert json.loads((tmp_path / "replay" / "summary.json").read_text()) == summary
    assert (tmp_path / "replay" / "history.csv").read_bytes() == (
        finished / "history.csv"
    ).read_bytes()
    assert not {"begin", "put"} & {words[0] for words in driver.events(log)}
    # Fewer iterations are the beginning of the recorded ones, in a folder of their own.
    flags = [flags[0], f"--workdir={tmp_path / 'part'}", "--iterations=1", "--method=ga"]
    assert driver.run("rnn_cell_search", *driver.SEARCH, *flags).code == 0
    part = rows(tmp_path / "part" / "history.csv", "ga")
    assert part == rows(finished / "history.csv", "ga")[:7]


@pytest.mark.parametrize(
    "flag", ["--seeds=2", "--iterations=3", "--mutation_rate=0.2", "--outer_steps=3"]
)
def test_what_was_not_recorded_asks_for_data(flag, finished, tmp_path):
    flags = [f"--history={finished / 'history.csv'}", f"--workdir={tmp_path / 'replay'}", flag]
    done = driver.run("rnn_cell_search", *driver.SEARCH, *flags)
    assert done.code == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "give --data_dir" in done.stderr
    assert not (tmp_path / "replay").exists()


# Resumed and extended


def test_the_same_command_again_only_reads(finished, tmp_path):
    before = (finished / "history.csv").read_bytes()
    folder = finished.parent / "again"
    shutil.copytree(finished, folder)
    search(folder, log=tmp_path / "log")
    assert (folder / "history.csv").read_bytes() == before
    assert not {"begin", "put", "save"} & {words[0] for words in driver.events(tmp_path / "log")}


def test_more_runs_and_more_iterations_extend(finished, tmp_path):
    folder = finished.parent / "extended"
    shutil.copytree(finished, folder)
    search(folder, "--method=random", "--seeds=2")
    old, new = (rows(path / "history.csv", "random") for path in (finished, folder))
    assert new[: len(old)] == old
    assert [row["run"] for row in new] == ["0"] * 9 + ["1"] * 9
    assert not {row["cell"] for row in new[:9]} & {row["cell"] for row in new[9:]}
    log = tmp_path / "log"
    search(folder, "--method=ga", "--seeds=2", "--iterations=3", log=log)
    old, new = (rows(path / "history.csv", "ga") for path in (finished, folder))
    assert new[: len(old)] == old
    assert [row["iteration"] for row in new[9:11]] == ["3", "3"]
    # Only run 1's own cells and the last iteration of both can be new; none was there before.
    bought = [words[1] for words in driver.events(log) if words[0] == "begin"]
    assert not {cell.replace("_", " ") for cell in bought} & {row["cell"] for row in old}
    assert len(set(bought)) == len(bought) <= 2 + 6


def test_dish_methods_rank_by_the_mean_with_a_process_when_asked(finished, tmp_path):
    folder, log = finished.parent / "averaged", tmp_path / "log"
    search(folder, "--method=dish_ga", "--rank_with=averaged", "--iterations=1", log=log)
    (state,) = (folder / "states").glob("dish_ga_0_1_*.npz")
    record = json.loads((folder / "searches" / "dish_ga_0.json").read_text())
    start, first = record
    assert start["cells"] == rows_cells(finished, "dish_ga", 0)
    # In the unit of the scores, as a dish alone is not.
    low, high = min(start["scores"]), max(start["scores"])
    assert all(2 * low - high < score < 2 * high - low for score in first["predicted"])
    # The dish is read when the search's record is lost, and gives the same predictions.
    (folder / "searches" / "dish_ga_0.json").unlink()
    written = state.stat().st_mtime_ns
    search(folder, "--method=dish_ga", "--rank_with=averaged", "--iterations=1", log=log)
    assert state.stat().st_mtime_ns == written
    again = json.loads((folder / "searches" / "dish_ga_0.json").read_text())
    assert [step["predicted"] for step in again] == [step["predicted"] for step in record]
    done = driver.run(
        "rnn_cell_search", *driver.SEARCH, f"--history={folder / 'history.csv'}",
        f"--workdir={tmp_path / 'replay'}", "--method=dish_ga", "--iterations=1",
    )  # fmt: skip
    assert "the recorded runs had other settings (one that this search has not)" in done.stderr


def rows_cells(folder, method, iteration):
    found = rows(folder / "history.csv", method)
    return [row["cell"] for row in found if row["iteration"] == str(iteration)]

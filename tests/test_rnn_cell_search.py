"""experiments.rnn_cell_search from its command line; what searches do is in test_searches.py."""

import json
import math
import shutil

import jax
import matplotlib.image
import numpy as np
import pytest
import rnn_cell_driver as driver

from spd_jax.search.loop import warm_start
from spd_jax.search.record import read_history
from spd_jax.spaces.rnn_cell import RnnCellSpace


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the folder of an uninterrupted run of all methods; no test may change it."""
    return driver.finished(tmp_path_factory)[0]


@pytest.fixture(scope="module")
def records(finished):
    return read_history(finished / "history.csv")[0]


@pytest.fixture(scope="module")
def summary(finished):
    return json.loads((finished / "summary.json").read_text(), parse_constant=pytest.fail)


def search(folder, *flags, text=None, log="/dev/null", **tiny):
    data = [] if text is None else [f"--data_dir={text}"]
    words = [*driver.SEARCH, *data, f"--workdir={folder}", *flags]
    return driver.run("rnn_cell_search", *words, log=log, **tiny)


def assert_one_sentence(done, words, *, started=False):
    """Check how a command ended; one that had `started` told of its progress before."""
    assert done.code == 1, done
    *before, last = done.stderr.splitlines()
    assert last.startswith("error: "), done.stderr
    assert started or not before
    assert "Traceback" not in done.stderr
    assert words in last


# The whole run


def test_a_run_leaves_a_row_and_a_picture_for_everything(finished, summary):
    assert list(summary["methods"]) == driver.METHODS
    assert summary["unit"] == "bits per character"
    for name in (
        "figure3",
        "figure3_seconds",
        "scatter",
        "scatter_dish_ga",
        "best_cell",
    ):
        assert np.std(matplotlib.image.imread(finished / f"{name}.png")) > 0.01, name
    lines = (finished.parent / "finished.stdout").read_text().splitlines()
    assert "the first 300 of" in lines[0]  # says how much of the text is used
    assert [line.split()[0] for line in lines[3:10]] == driver.METHODS
    assert not [path for path in driver.contents(finished) if ".partial" in path.name]


def test_figures_are_in_bits_per_character(summary, records):
    best = max(
        row
        for record in records.values()
        for own in record
        if own.cost <= 9  # all may spend 5 + 2 x 2
        for row in zip(own.scores, own.test_scores, own.cells, strict=True)
    )
    found = summary["best_cell"]
    assert found["cell"] == best[2]
    assert found["valid"] == pytest.approx(-best[0] / math.log(2))
    assert found["test"] == pytest.approx(-best[1] / math.log(2))


def test_methods_with_and_without_a_network_share_the_warm_start(records):
    space = RnnCellSpace("enas_mean")
    first = warm_start(jax.random.key(0), space, 5).names
    for method in driver.METHODS:
        record = records[method, 0]
        assert record[0].cells == first
        assert [own.cost for own in record] == [5, 7, 9]
        cells = [cell for own in record for cell in own.cells]
        assert len(set(cells)) == len(cells)


# Replay


def test_a_replay_gives_the_recorded_figures_and_says_so(finished, summary, tmp_path):
    history, log = finished / "history.csv", tmp_path / "log"
    done = search(tmp_path / "replay", f"--history={history}", log=log)
    assert done.code == 0, done.stderr
    assert done.stdout.startswith("replaying recorded runs: nothing is trained")
    assert json.loads((tmp_path / "replay" / "summary.json").read_text()) == summary
    assert (tmp_path / "replay" / "history.csv").read_bytes() == history.read_bytes()
    assert not {"begin", "put"} & {words[0] for words in driver.events(log)}
    done = search(tmp_path / "other", f"--history={history}", "--mutation_rate=0.2")
    assert_one_sentence(done, "had other settings (mutation_rate)")
    assert not (tmp_path / "other").exists()


def test_without_flags_the_shipped_searches_are_replayed(finished, tmp_path):
    done = driver.run("rnn_cell_search", f"--workdir={tmp_path / 'replay'}", "--cpu_devices=1")
    assert done.code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "dish_nao          5        2.7551   0.0085     100  0.27, 0.01, 0.01" in lines
    assert "ga                5        2.7914   0.0197     100  -" in lines


# Resumed


def test_the_same_command_again_only_reads(finished, tmp_path):
    before = (finished / "history.csv").read_bytes()
    folder = shutil.copytree(finished, tmp_path / "again")
    done = search(folder, text=finished.parent / "text", log=tmp_path / "log")
    assert done.code == 0, done.stderr
    assert (folder / "history.csv").read_bytes() == before
    assert not {"begin", "put", "save"} & {words[0] for words in driver.events(tmp_path / "log")}


# Mistakes


REFUSED = {  # in the folder of a finished run
    "other setting": (["--proposals=6"], "proposals=5, not 6"),
    "fewer runs": (["--iterations=1"], "iterations=2, not 1"),
    "other text": (["--data_dir={place}/other"], "holds a run with task="),
    "replay": (["--data_dir=", "--history={finished}/history.csv"], 'mode="search", not "replay"'),
    "replay of a search": (
        ["--history={finished}/history.csv"],
        "--history replays and --data_dir searches anew",
    ),
    "no text": (["--data_dir={place}/nowhere"], "holds neither ptb.train.txt nor train.txt"),
    "empty": (["--data_dir=", "--data_dir="], "--data_dir is empty"),
    "short text": (["--data_dir={place}/short"], "the train text has 4 tokens"),
    "more bought than proposed": (["--evaluations=6"], "--evaluations=6 must not exceed"),
    "whole training as partial": (["--partial_epochs=2"], "must be below the 2 of a training"),
    "no such preset": (["--preset=foo"], "has no ground truth 'foo': use one of tiny"),
    "no number": (["--outer_l2=abc"], "--outer_l2=abc: give numbers"),
    "stray word": (["runs/here"], "'runs/here' is no flag"),
    "no network": (["--nao_epochs=0"], "nao_epochs"),
    "method": (["--method=foo"], "method"),
    "warm start": (["--warm_start=3"], "warm_start"),
    "seeds": (["--seeds=0"], "seeds"),
    "mutation rate": (["--mutation_rate=1.5"], "mutation_rate"),
    "variant": (["--variant=foo"], "variant"),
    "nonsense": (["--nonsense=1"], "nonsense"),
}


@pytest.fixture(scope="module")
def texts(finished):
    """Write another text and one that is too short beside that of the run."""
    for name, text in {"other": "the cat saw a hat\n" * 60, "short": "cat\n"}.items():
        driver.write_text(finished.parent / name)
        (finished.parent / name / "train.txt").write_text(text)
    return finished.parent


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_one_sentence_and_leaves_the_folder(name, finished, texts):
    flags, words = REFUSED[name]
    flags = [flag.format(place=texts, finished=finished) for flag in flags]
    text = texts / "text"
    if flags[0] == "--data_dir=":
        text, flags = None, flags[1:]
    before = driver.contents(finished)
    done = search(finished, *flags, text=text)
    assert_one_sentence(done, words)
    assert done.stdout == "" or "tokens:" in done.stdout or "replaying" in done.stdout
    assert driver.contents(finished) == before


@pytest.mark.parametrize("name", ["more bought than proposed", "short text", "no text"])
def test_a_mistake_in_a_new_folder_begins_nothing(name, texts, tmp_path):
    flags, words = REFUSED[name]
    flags = [flag.format(place=texts) for flag in flags]
    assert_one_sentence(search(tmp_path / "new", *flags, text=texts / "text"), words)
    assert not (tmp_path / "new").exists()


def test_where_every_training_fails_the_search_says_so(texts, tmp_path):
    done = search(tmp_path / "run", "--method=random", text=texts / "text", learning_rate=1e30)
    assert_one_sentence(done, "cells of the warm start failed", started=True)
    assert not (tmp_path / "run" / "history.csv").exists()

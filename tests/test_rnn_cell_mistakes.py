"""Every mistake of a user of the recurrent-cell experiments is one sentence, and spoils nothing."""

import shutil

import pytest
import rnn_cell_driver as driver

REFUSED = {  # in the folder of a finished run
    "other setting": (["--proposals=6"], "proposals=5, not 6"),
    "fewer runs": (["--iterations=1"], "iterations=2, not 1"),
    "other text": (["--data_dir={place}/other"], "holds a run with task="),
    "replay": (["--data_dir=", "--history={finished}/history.csv"], "mode=search, not replay"),
    "replay of a search": (
        ["--history={finished}/history.csv"],
        "--history replays and --data_dir searches anew",
    ),
    "no text": (["--data_dir={place}/nowhere"], "holds neither ptb.train.txt nor train.txt"),
    "more bought than proposed": (["--evaluations=6"], "must not exceed proposals=5"),
    "whole training as partial": (["--partial_epochs=2"], "must be below the 2 of a training"),
    "no network": (["--nao_epochs=0"], "epochs is 0: give at least 1"),
    "no number": (["--outer_l2=abc"], "--outer_l2=abc: give numbers"),
    "stray word": (["runs/here"], "'runs/here' is no flag"),
}
REFUSED_BY_PARSER = {
    "method": ["--method=foo"],
    "preset": ["--preset=foo"],
    "warm_start": ["--warm_start=3"],
    "seeds": ["--seeds=0"],
    "mutation_rate": ["--mutation_rate=1.5"],
    "nonsense": ["--nonsense=1"],
}
HISTORIES = {  # a file that is no history, and what the sentence says
    "missing": (None, "cannot be read"),
    "picture": (b"\x89PNG\r\n\x1a\n\xff\xfe", "is no text"),
    "empty": (b"", "is no history of searches"),
    "other table": (b"slope,accuracy\n0.1,0.9\n", "is no history of searches"),
    "no number": ("score", "is damaged in row 1"),
    "no cell": ("cell", "is damaged, or has another --variant: '9 9' is no cell of variant"),
    "hole": ("hole", "is damaged in row 6"),
    "cut": ("cut", "is damaged in row"),
    "remark": (b"# a remark\nslope\n0.1\n", "is no history of searches"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the folder of an uninterrupted run; no test may change it."""
    path = driver.finished(tmp_path_factory)[0]
    other = path.parent / "other"
    if not other.exists():
        driver.write_text(other)
        (other / "train.txt").write_text("the cat saw a hat\n" * 60)
    return path


def search(folder, *flags, text=None, **tiny):
    data = [] if text is None else [f"--data_dir={text}"]
    return driver.run(
        "rnn_cell_search", *driver.SEARCH, *data, f"--workdir={folder}", *flags, **tiny
    )


def assert_one_sentence(done, words, *, started=False):
    """Check how a command ended; one that had `started` told of its progress before."""
    assert done.code == 1, done
    *before, last = done.stderr.splitlines()
    assert last.startswith("error: "), done.stderr
    assert started or not before
    assert "Traceback" not in done.stderr
    assert words in last


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_one_sentence_and_leaves_the_folder(name, finished):
    flags, words = REFUSED[name]
    flags = [flag.format(place=finished.parent, finished=finished) for flag in flags]
    if "--data_dir=" in flags:
        text, flags = None, flags[1:]
    else:
        text = finished.parent / "text"
    before = driver.contents(finished)
    assert_one_sentence(search(finished, *flags, text=text), words)
    assert driver.contents(finished) == before


@pytest.mark.parametrize("name", ["more bought than proposed", "whole training as partial"])
def test_sizes_that_cannot_be_are_told_before_anything_is_begun(name, finished, tmp_path):
    """Also where only the last method minds, and in a new folder."""
    flags, words = REFUSED[name]
    done = search(tmp_path / "new", *flags, text=finished.parent / "text")
    assert_one_sentence(done, words)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", REFUSED_BY_PARSER)
def test_a_flag_that_the_parser_refuses_is_named(name, finished):
    before = driver.contents(finished)
    done = search(finished, *REFUSED_BY_PARSER[name], text=finished.parent / "text")
    assert done.code == 1
    assert "Traceback" not in done.stderr
    assert name in done.stderr
    assert driver.contents(finished) == before


@pytest.mark.parametrize("name", HISTORIES)
def test_a_file_that_is_no_history_is_refused(name, finished, tmp_path):
    content, words = HISTORIES[name]
    lines = (finished / "history.csv").read_text().splitlines(keepends=True)
    head = next(i for i, line in enumerate(lines) if line.startswith("method,"))
    if content == "score":
        lines[head + 1] = lines[head + 1].replace("dish_nao,0,0,", "dish_nao,zero,0,")
    elif content == "cell":
        words_of_row = lines[head + 1].split(",")
        lines[head + 1] = ",".join([*words_of_row[:3], "9 9", *words_of_row[4:]])
    elif content == "hole":  # the warm start's rows, and then those of iteration 2
        del lines[head + 6 : head + 8]
    elif content == "cut":
        lines = [*lines[:-1], ",".join(lines[-1].split(",")[:3])]
    path = tmp_path / "history.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else "".join(lines).encode())
    done = search(tmp_path / "replay", f"--history={path}")
    assert_one_sentence(done, words)
    assert not (tmp_path / "replay").exists()


@pytest.mark.parametrize("what", ["ledger.sqlite", "searches/ga_0.json", "config.json"])
def test_a_damaged_file_is_named_and_kept(what, finished):
    folder = finished.parent / f"damaged_{what.replace('/', '_')}"
    shutil.copytree(finished, folder)
    (folder / what).write_bytes(b"{ no such thing" * 300)
    before = driver.contents(folder)
    done = search(folder, text=finished.parent / "text")
    assert_one_sentence(done, what, started=what.startswith("searches"))
    after = driver.contents(folder)
    assert {path for path in after if after[path] != before.get(path)} <= {
        folder / "ledger.sqlite.lock",
        folder / "versions.json",
    }


def test_where_every_training_fails_the_search_says_so(finished, tmp_path):
    text = finished.parent / "text"
    done = search(tmp_path / "run", "--method=random", text=text, learning_rate=1e30)
    assert_one_sentence(done, "cells of the warm start failed", started=True)
    assert not (tmp_path / "run" / "history.csv").exists()


# The experiment that chooses the dish


TUNING = [flag for flag in driver.DISH if "hidden_size" not in flag]
TUNING += ["--splits=1", "--draws=1", "--known=4", "--steps=1", "--every=1"]


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--candidates=init_scale=abc", "'init_scale=abc' sets nothing"),
        ("--candidates=init_scale=0.2+nonsense=1", "'nonsense=1' sets nothing"),
        ("--candidates=decay_steps=100", "'decay_steps=100' sets nothing"),
        ("--candidates=outer_steps=3", "outer_steps is the same for all: give --steps"),
        ("--candidates=", "--candidates is empty"),
        ("--candidates=outer_loss=foo", "foo"),
        ("--known=100000", "leaves none to predict"),
    ],
)
def test_a_mistake_in_tuning_is_one_sentence(flag, words, tmp_path):
    done = driver.run("rnn_cell_tuning", *TUNING, f"--workdir={tmp_path / 'run'}", flag)
    assert_one_sentence(done, words)
    assert not (tmp_path / "run").exists()

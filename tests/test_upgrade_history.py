"""experiments.upgrade_history: an old history becomes a new one, equal to the bit."""

import json

import pytest
import rnn_cell_driver as driver

from spd_jax import files
from spd_jax.ground_truth import lookup
from spd_jax.search.record import read_history

COLUMNS = [
    "method",
    "run",
    "iteration",
    "cell",
    "predicted",
    "valid_nll",
    "test_nll",
    "tau",
    "cost",
    "seconds",
]
NOTE = "nao_pairwise_accuracy"


def negated(text):
    return "" if text == "" else repr(-float(text))


@pytest.fixture(scope="module")
def shipped():
    """Return the path of the shipped history, its rows and its comments."""
    path = lookup.shipped("rnn_cell_search_ptb_tiny")
    comments, rows = files.read_csv(path, ())
    return path, [row for _, row in rows], comments


@pytest.fixture
def old(shipped, tmp_path):
    """Write the shipped history as spd_jax 0.2 wrote it."""
    _, rows, comments = shipped
    settings = json.loads(comments["settings"])
    dish = settings.pop("dish")
    del settings["rank_with"]  # named only where it was not the dish
    words = " ".join(f"{name}={value}" for name, value in settings.items())
    lines = [
        [
            *(row[name] for name in COLUMNS[:5]),
            negated(row["score"]),
            negated(row["test_score"]),
            *(row[name] for name in COLUMNS[7:]),
            str(json.loads(row["notes"] or "{}").get(NOTE, "")),
        ]
        for row in rows
    ]
    path = tmp_path / "old.csv"
    described = {**comments, "settings": f"{words} dish={dish}"}
    files.write_csv(path, described, [*COLUMNS, NOTE], lines)
    return path


def upgrade(old, new):
    return driver.run("upgrade_history", "--cpu_devices=1", f"--old={old}", f"--new={new}")


def test_the_shipped_history_is_what_becomes_of_the_old_one(old, shipped, tmp_path):
    path, rows, comments = shipped
    done = upgrade(old, tmp_path / "new.csv")
    assert done.code == 0, done.stderr
    assert done.stdout == f"{len(rows)} cells written to {tmp_path / 'new.csv'}\n"
    assert repr(read_history(tmp_path / "new.csv")[0]) == repr(read_history(path)[0])
    found = files.read_csv(tmp_path / "new.csv", ())[0]
    assert json.loads(found["settings"]) == json.loads(comments["settings"])
    assert found["task"] == comments["task"]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("# settings", "# other", "is no history of spd_jax 0.2"),
        ("preset=tiny", "nonsense=tiny", "is no history of spd_jax 0.2"),
        ("dish={", "dish={{", "is no history of spd_jax 0.2"),
        ("dish_nao,0,0,", "dish_nao,zero,0,", "is no history of spd_jax 0.2"),
        ("valid_nll", "score", "needs one column named 'valid_nll'"),
    ],
)
def test_what_is_no_old_history_is_one_sentence(before, after, words, old, tmp_path):
    text = old.read_text()
    assert before in text
    old.write_text(text.replace(before, after, 1))
    done = upgrade(old, tmp_path / "new.csv")
    assert done.code == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "new.csv").exists()

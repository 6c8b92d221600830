"""python -m spd_jax.ledger: list, export, merge, retry, and mistakes in one sentence."""

import dataclasses
import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from spd_jax import files
from spd_jax.ledger import Evaluation, EvaluationKey, Ledger, table
from spd_jax.ledger import __main__ as ledger_cli

KEY = EvaluationKey("nao", "0 1 0 1", "f00d", 0, 3)
GOOD = Evaluation("ok", -1.25, -1.5, (-3.0, -2.0, -1.25), 2.5)
BAD = Evaluation("failed", math.nan, math.nan, (), 0.5, "Traceback\n  line\nValueError: no")


def run(capsys, *arguments):
    ledger_cli.main([str(argument) for argument in arguments])
    return capsys.readouterr().out


@pytest.fixture
def two(tmp_path):
    """Two ledgers that share a key with different scores."""
    with Ledger(tmp_path / "a") as ledger:
        ledger.put(KEY, GOOD)
        ledger.put(KEY._replace(task="beef"), BAD)
    with Ledger(tmp_path / "b") as ledger:
        ledger.put(KEY, dataclasses.replace(GOOD, score=-9.0))
        ledger.put(KEY._replace(space="enas"), GOOD)
    return tmp_path


def test_list_prints_a_line_per_evaluation(two, capsys):
    lines = run(capsys, "list", two / "a").splitlines()
    rows = [dict(zip(lines[0].split("\t"), line.split("\t"), strict=True)) for line in lines[1:-1]]
    assert [row["status"] for row in rows] == ["ok", "failed"]
    assert rows[0]["cell"] == "0 1 0 1"
    assert rows[0]["score"] == "-1.25000"
    assert rows[1]["score"] == "nan"
    assert rows[1]["error"] == "ValueError: no"
    assert [row["parent"] for row in rows] == ["", ""]
    assert lines[-1] == "# 2 evaluations, 1 failed, 3.0 seconds"
    assert run(capsys, "list", two / "a", "--task=beef").count("\n") == 3
    assert run(capsys, "list", two / "a", "--status=ok", "--seed=1").count("\n") == 2


def test_what_could_steer_a_terminal_is_printed_as_escapes(two, capsys):
    evil = "\x1b]0;owned\x07\u202e\x9b2J\r\t\N{GREEK SMALL LETTER ALPHA}"
    names = dict.fromkeys(("space", "cell", "task", "parent"), evil)
    with Ledger(two / "a") as ledger:
        ledger.put(KEY._replace(**names), dataclasses.replace(BAD, error=evil, unit=evil))
    with Ledger(two / "b") as ledger:
        ledger.put(KEY._replace(**names), GOOD)
    shown = run(capsys, "list", two / "a") + run(capsys, "merge", two / "a", two / "b")
    assert all(char.isprintable() or char in "\t\n" for char in shown)
    assert "\\x1b]0;owned\\x07\\u202e\\x9b2J\\r\\t\N{GREEK SMALL LETTER ALPHA}" in shown
    assert len({line.count("\t") for line in shown.splitlines()[:4]}) == 1


def test_export_writes_the_rows_that_are_asked_for(two, capsys):
    assert run(capsys, "export", two / "a", "--csv", two / "t.csv").startswith("2 evaluations")
    with Ledger(two / "a", read_only=True) as ledger:
        assert table.read(two / "t.csv") == list(ledger.items())
    run(capsys, "export", two / "b", "--csv", two / "t.csv", "--space=enas")
    assert table.read(two / "t.csv") == [(KEY._replace(space="enas"), GOOD)]
    assert files.read_csv(two / "t.csv")[0]["command"].endswith("ledger export b")


def test_export_never_writes_over_a_ledger_or_a_folder(two, capsys):
    for target, words in (
        (two / "a", "is a ledger"),
        (two / "b", "is a ledger"),
        (two, "is no file"),
    ):
        with pytest.raises(SystemExit, match=words):
            run(capsys, "export", two / "a", "--csv", target)
    assert run(capsys, "list", two / "a").count("\n") == 4


def test_retry_forgets_what_failed_and_nothing_else(two, capsys):
    assert run(capsys, "retry", two / "a", "--task=f00d").startswith("0 failed evaluations")
    assert run(capsys, "retry", two / "a").startswith("1 failed evaluation forgotten: ")
    with Ledger(two / "a") as ledger:
        assert list(ledger.items()) == [(KEY, GOOD)]
        ledger.put(KEY._replace(task="beef"), GOOD)
        ledger.forget_failed([KEY])
        assert len(ledger) == 2
        ledger.put(KEY._replace(seed=1), BAD)
        ledger.forget_failed([KEY._replace(seed=np.int64(1))])
        assert len(ledger) == 2


def test_merge_says_what_was_added_and_what_differs(two, capsys):
    lines = run(capsys, "merge", two / "new", two / "a", two / "b").splitlines()
    assert lines[0].endswith("/a: 2 evaluations added, 0 were there")
    assert lines[1].endswith("/b: 1 evaluation added, 1 was there")
    assert "b: 1 evaluation has another score in" in lines[2]
    assert lines[2].endswith(
        "which stays (the first: space 'nao', cell '0 1 0 1', task 'f00d', seed 0, budget 3)"
    )
    assert len(lines) == 3
    with Ledger(two / "new", read_only=True) as ledger:
        assert ledger.get(KEY) == GOOD
        assert len(ledger) == 3


def test_a_mistake_on_the_command_line_is_one_sentence(two):
    """In a process of its own: what a user sees, and the exit status."""
    (two / "text").write_text("no database, no database, no database" * 20)
    process = subprocess.run(
        [sys.executable, "-m", "spd_jax.ledger", "merge", "into", "a", "text"],
        cwd=two,
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert process.stdout == ""
    assert process.stderr.startswith("error: ")
    assert "text is damaged or no ledger" in process.stderr
    assert process.stderr.count("\n") == 1
    assert not (two / "into").exists()  # a bad source is found before anything is made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "none"], r"error: .*none is missing: give the file of a ledger"),
        (["export", "none", "--csv", "t.csv"], r"error: .*none is missing"),
        (["retry", "none"], r"error: .*none is missing"),
        (["export", "a", "--csv", "text/t.csv"], r"error: cannot write in text"),
        (["upgrade", "none", "t.csv"], r"error: none is missing"),
        (["upgrade", "text", "a"], r"error: a is a ledger, which stays: give another file"),
        (["merge", "text/c", "a"], r"error: .*text/c cannot be read or written"),
    ],
)
def test_mistakes_end_with_a_message(arguments, message, two, monkeypatch):
    monkeypatch.chdir(two)
    (two / "text").write_text("")
    with pytest.raises(SystemExit, match=message):
        ledger_cli.main(arguments)


def test_a_reader_that_stops_reading_is_no_error(two):
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [sys.executable, "-m", "spd_jax.ledger", "list", str(two / "a")],
        cwd=pathlib.Path(__file__).parents[1],
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert process.stderr == b""
    assert process.returncode == 0


def test_the_command_line_starts_without_jax():
    code = "import sys; import spd_jax.ledger.__main__; print('jax' in sys.modules)"
    folder = pathlib.Path(__file__).parents[1]
    assert subprocess.check_output([sys.executable, "-c", code], cwd=folder) == b"False\n"

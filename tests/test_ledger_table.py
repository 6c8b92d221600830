"""cell_table: CSV that other programs read, equal to the bit when read back."""

import csv
import math
import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spd_jax.errors import UserError
from spd_jax.ledger import Evaluation, EvaluationKey
from spd_jax.ledger import table as cell_table

KEY = EvaluationKey("nao", "0 1 0 1", "f00d", 0, 3)
GOOD = Evaluation("ok", -1.25, -1.5, (-3.0, -2.0, -1.25), 2.5)
BAD = Evaluation("failed", math.nan, math.nan, (), 0.5, 'Traceback\r\n  # "a", b\\n\nError: no')
HEADER = "space,cell,task,seed,epochs,valid_nll,test_nll,seconds,status,curve,error"
ROW = "nao,0 1,f00d,0,3,1.25,1.5,2.5,ok,3.0 2.0 1.25,"
FLOATS = st.floats(allow_infinity=True)


def bits(evaluation):
    numbers = (evaluation.score, evaluation.test_score, evaluation.seconds, *evaluation.curve)
    numbers = [math.nan if math.isnan(x) else x for x in numbers]
    return evaluation.status, evaluation.error, struct.pack(f"{len(numbers)}d", *numbers)


def test_the_file_is_what_the_contract_says(tmp_path):
    path = tmp_path / "new" / "t.csv"
    comments = {"command": "python -m x", "settings": "two\nlines", "cells": 2}
    cell_table.write(path, [(KEY, GOOD), (KEY._replace(seed=1), BAD)], comments)
    assert path.read_bytes().decode().split("\n") == [
        "# command: python -m x",
        "# settings: two lines",
        "# cells: 2",
        HEADER,
        "nao,0 1 0 1,f00d,0,3,1.25,1.5,2.5,ok,3.0 2.0 1.25,",
        'nao,0 1 0 1,f00d,1,3,,,0.5,failed,,"Traceback\\r\\n  # ""a"", b\\\\n\\nError: no"',
        "",
    ]
    assert cell_table.read(path) == [(KEY, GOOD), (KEY._replace(seed=1), BAD)]
    assert cell_table.read_comments(path) == comments | {"settings": "two lines", "cells": "2"}


EVALUATIONS = st.builds(
    Evaluation,
    st.just("failed"),
    FLOATS,
    FLOATS,
    st.lists(FLOATS, max_size=3).map(tuple),
    FLOATS,
    st.text(),
) | st.builds(
    Evaluation,
    st.just("ok"),
    st.floats(allow_nan=False),
    FLOATS,
    st.lists(FLOATS, max_size=3).map(tuple),
    FLOATS,
)
TEXTS = st.text(max_size=8) | st.sampled_from(["#", "# a: b", "\\n", "\n", "\r\n", "a,b", '"', " "])
KEYS = st.builds(EvaluationKey, TEXTS, TEXTS, TEXTS, st.integers(), st.integers(3, 99))


@given(items=st.dictionaries(KEYS, EVALUATIONS, max_size=5))
@settings(max_examples=150, deadline=None)
def test_what_is_read_is_what_was_written(tmp_path_factory, items):
    path = tmp_path_factory.getbasetemp() / "round.csv"
    cell_table.write(path, items.items(), {"from": "a test"})
    found = cell_table.read(path)
    assert [key for key, _ in found] == list(items)
    assert [bits(x) for _, x in found] == [bits(x) for x in items.values()]
    with open(path, encoding="utf-8", newline="") as stream:  # as another program reads it
        assert stream.readline() == "# from: a test\n"
        rows = list(csv.DictReader(stream))
    assert [int(row["seed"]) for row in rows] == [key.seed for key in items]
    for row, evaluation in zip(rows, items.values(), strict=True):
        nll = float(row["valid_nll"] or "nan")
        assert nll == -evaluation.score or (math.isnan(nll) and math.isnan(evaluation.score))


def test_an_empty_table_is_a_table(tmp_path):
    cell_table.write(tmp_path / "t.csv", [], {})
    assert cell_table.read(tmp_path / "t.csv") == []
    assert cell_table.read_comments(tmp_path / "t.csv") == {}


def test_other_columns_orders_line_ends_and_marks_are_read(tmp_path):
    path = tmp_path / "t.csv"
    names = ["note", *reversed(HEADER.split(","))]
    values = ["mine", *reversed(ROW.split(","))]
    text = f"\n# a: b\n\n{','.join(names)}\n{','.join(values)}\n\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert cell_table.read(path) == [(KEY._replace(cell="0 1"), GOOD)]
    path.write_bytes(f"# a: b\n{HEADER}\n{ROW}".encode())
    assert cell_table.read_comments(path) == {"a": "b"}
    assert cell_table.read(path) == [(KEY._replace(cell="0 1"), GOOD)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"t\.csv needs one column named 'space': give a table with the columns space, cell"),
        ("slope,accuracy\n1,2\n", "needs one column named 'space'"),
        (HEADER.replace("curve", "cell"), "needs one column named 'cell'"),
        (f"# a\n{HEADER}\n{ROW}\n{ROW}\n", r"t\.csv, line 4: this cell, .* there twice: drop one"),
        (f"{HEADER}\n{ROW},1\n", r"t\.csv, line 2: 12 values for 11 columns"),
        (f"{HEADER}\n{ROW[:-1]}\n", "line 2: 10 values for 11 columns"),
        (f"{HEADER}\n{ROW.replace(',0,3', ',0.5,3')}\n", r"line 2: seed is '0\.5': give a whole"),
        (f"{HEADER}\n{ROW.replace(',0,3', ',0,x')}\n", "line 2: epochs is 'x': give a whole"),
        (f"{HEADER}\n{ROW.replace(',0,3', ',0,2')}\n", "curve has 3 values for 2 epochs"),
        (f"{HEADER}\n{ROW.replace('1.5', 'one')}\n", "test_nll is 'one': give a number"),
        (f"{HEADER}\n{ROW.replace('2.0', 'two')}\n", "curve is 'two': give a number"),
        (f"{HEADER}\n{ROW.replace('ok', 'OK')}\n", "status is 'OK': give one of ok, failed"),
        (f"{HEADER}\n{ROW.replace(',1.25,', ',,')}\n", "valid_nll is missing, but the status is"),
        (f'{HEADER}\n"{ROW}\n', "line 2: unexpected end of data: give plain comma-separated"),
    ],
)
def test_a_wrong_table_is_one_sentence(text, message, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        cell_table.read(path)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(UserError, match=r"none is missing: give the path of a table"):
        cell_table.read(tmp_path / "none")
    with pytest.raises(UserError, match="cannot be read"):
        cell_table.read(tmp_path)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for reader in (cell_table.read, cell_table.read_comments):
        with pytest.raises(UserError, match=r"bytes cannot be read .*: give a CSV file in UTF-8"):
            reader(tmp_path / "bytes")
    with pytest.raises(UserError, match="cannot write in"):
        cell_table.write(tmp_path / "bytes" / "t.csv", [], {})


def test_a_write_that_fails_leaves_the_old_table(tmp_path):
    cell_table.write(tmp_path / "t.csv", [(KEY, GOOD)], {})

    def items():
        yield KEY, BAD
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cell_table.write(tmp_path / "t.csv", items(), {})
    assert cell_table.read(tmp_path / "t.csv") == [(KEY, GOOD)]
    assert os.listdir(tmp_path) == ["t.csv"]

"""ledger.table: CSV that other programs read, equal to the bit when read back."""

import csv
import dataclasses
import math
import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spd_jax import files
from spd_jax.errors import UserError
from spd_jax.ledger import Evaluation, EvaluationKey, table

KEY = EvaluationKey("nao", "0 1 0 1", "f00d", 0, 3)
GOOD = Evaluation("ok", -1.25, -1.5, (-3.0, -2.0, -1.25), 2.5)
BAD = Evaluation("failed", math.nan, math.nan, (), 0.5, 'Traceback\r\n  # "a", b\\n\nError: no')
HEADER = ",".join(table.COLUMNS)
ROW = "nao,0 1,f00d,0,3,,ok,-1.25,-1.5,,-3.0 -2.0 -1.25,2.5,,"
FLOATS = st.floats(allow_infinity=True)


def bits(evaluation):
    numbers = (evaluation.score, evaluation.test_score, evaluation.seconds, *evaluation.curve)
    numbers = [math.nan if math.isnan(x) else x for x in numbers]
    texts = (evaluation.status, evaluation.error, evaluation.unit, repr(evaluation.info))
    return *texts, struct.pack(f"{len(numbers)}d", *numbers)


def test_the_file_is_what_the_contract_says(tmp_path):
    path = tmp_path / "new" / "t.csv"
    child = KEY._replace(seed=1, parent="0 0 0 0")
    good = dataclasses.replace(GOOD, unit="accuracy", info={"loss": 0.1, "bad": math.nan})
    table.write(path, [(KEY, good), (child, BAD)], {"command": "python -m x", "cells": 2})
    assert path.read_bytes().decode().split("\n") == [
        "# command: python -m x",
        "# cells: 2",
        "space,cell,task,seed,budget,parent,status,score,test_score,unit,curve,seconds,info,error",
        "nao,0 1 0 1,f00d,0,3,,ok,-1.25,-1.5,accuracy,-3.0 -2.0 -1.25,2.5,"
        '"{""loss"": 0.1, ""bad"": null}",',
        "nao,0 1 0 1,f00d,1,3,0 0 0 0,failed,,,,,0.5,,"
        '"Traceback\\r\\n  # ""a"", b\\\\n\\nError: no"',
        "",
    ]
    assert table.read(path) == [(KEY, good), (child, BAD)]
    assert files.read_csv(path)[0] == {"command": "python -m x", "cells": "2"}


TEXTS = st.text(max_size=8) | st.sampled_from(
    ["#", "# a: b", "\\n", "\n", "\r\n", "a,b", '"', " ", "'", "''", "'=1", "''@", "'a"]
)
FORMULAS = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "'", "''", "\t", "' "]),
    st.sampled_from(["", "\t", " ", "\r\n"]),
    st.sampled_from("=+-@"),
    st.text(max_size=5),
)
FREE = TEXTS | FORMULAS
REST = (
    FLOATS,
    st.lists(FLOATS, max_size=3).map(tuple),
    FLOATS,
    FREE,
    FREE,
    st.dictionaries(FREE, st.none() | st.integers() | FLOATS | FREE, max_size=2),
)
EVALUATIONS = st.builds(Evaluation, st.just("failed"), FLOATS, *REST) | st.builds(
    Evaluation, st.just("ok"), st.floats(allow_nan=False, allow_infinity=False), *REST
)
WHOLE = st.integers(-(2**63), 2**63 - 1)
KEYS = st.builds(EvaluationKey, FREE, FREE, FREE, WHOLE, st.integers(3, 99), FREE)


@given(items=st.dictionaries(KEYS, EVALUATIONS, max_size=5))
@settings(max_examples=150)
def test_what_is_read_is_what_was_written(tmp_path_factory, items):
    path = tmp_path_factory.getbasetemp() / "round.csv"
    table.write(path, items.items(), {"from": "a test"})
    found = table.read(path)
    assert [key for key, _ in found] == list(items)
    assert [bits(x) for _, x in found] == [bits(x) for x in items.values()]
    with open(path, encoding="utf-8", newline="") as stream:  # as another program reads it
        assert stream.readline() == "# from: a test\n"
        rows = list(csv.DictReader(stream))
    assert [int(row["seed"]) for row in rows] == [key.seed for key in items]
    for row, evaluation in zip(rows, items.values(), strict=True):
        score = float(row["score"] or "nan")
        assert score == evaluation.score or (math.isnan(score) and math.isnan(evaluation.score))
        for name in ("space", "cell", "task", "parent", "unit", "error"):  # none is a formula
            assert row[name].lstrip()[:1] not in tuple("=+-@")


def test_a_table_from_elsewhere_needs_cells_and_scores_alone(tmp_path):
    (tmp_path / "t.csv").write_text("score,cell\n0.5,-1 2\n-1e-3,b\n")
    assert table.read(tmp_path / "t.csv") == [
        (EvaluationKey("", "-1 2", "", 0, 1), Evaluation("ok", 0.5)),
        (EvaluationKey("", "b", "", 0, 1), Evaluation("ok", -0.001)),
    ]
    (tmp_path / "t.csv").write_text("cell,score,seed\na,0.5,7\na,0.25,8\n")
    assert [(key.seed, x.score) for key, x in table.read(tmp_path / "t.csv")] == [
        (7, 0.5),
        (8, 0.25),
    ]


def test_an_empty_table_is_a_table(tmp_path):
    table.write(tmp_path / "t.csv", [], {})
    assert table.read(tmp_path / "t.csv") == []
    assert files.read_csv(tmp_path / "t.csv")[0] == {}


def test_other_columns_orders_line_ends_and_marks_are_read(tmp_path):
    path = tmp_path / "t.csv"
    names = ["note", *reversed(HEADER.split(","))]
    values = ["mine", *reversed(ROW.split(","))]
    text = f"\n# a: b\n\n{','.join(names)}\n{','.join(values)}\n\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert table.read(path) == [(KEY._replace(cell="0 1"), GOOD)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slope,accuracy\n1,2\n", r"t\.csv needs one column named 'cell': give a table with the"),
        (
            "cell,valid_nll\na,2\n",
            "needs one column named 'score'.*python -m spd_jax.ledger upgrade",
        ),
        (f"{HEADER},cell\n{ROW},\n", "has two columns named 'cell'"),
        (f"# a\n{HEADER}\n{ROW}\n{ROW}\n", r"t\.csv, line 4: this cell, .* there twice: drop one"),
        (f"{HEADER}\n{ROW},1\n", r"t\.csv, line 2: 15 values for 14 columns"),
        (f"{HEADER}\n{ROW[:-1]}\n", "line 2: 13 values for 14 columns"),
        (f"{HEADER}\n{ROW.replace(',0,3', ',0.5,3')}\n", r"line 2: seed is '0\.5': give a whole"),
        (
            f"{HEADER}\n{ROW.replace(',0,3', f',{2**63},3')}\n",
            "line 2: seed is 9223372036854775808",
        ),
        (f"{HEADER}\n{ROW.replace(',0,3', ',0,x')}\n", "line 2: budget is 'x': give a whole"),
        (f"{HEADER}\n{ROW.replace(',0,3', ',0,-3')}\n", "line 2: budget is -3: give a whole"),
        (f"{HEADER}\n{ROW.replace(',0,3', ',0,2')}\n", "curve has 3 values for a budget of 2"),
        (f"{HEADER}\n{ROW.replace('-1.5', 'one')}\n", "test_score is 'one': give a number"),
        (f"{HEADER}\n{ROW.replace('-2.0', 'two')}\n", "curve is 'two': give a number"),
        (f"{HEADER}\n{ROW.replace('ok', 'OK')}\n", "status is 'OK': give one of ok, failed"),
        (f"{HEADER}\n{ROW.replace(',-1.25,', ',,')}\n", "score is nan, but the status is ok"),
        (f"{HEADER}\n{ROW[:-1]}[],\n", r"info is '\[\]': give a JSON object"),
        (f"{HEADER}\n{ROW[:-1]}{{a: 1}},\n", r"info is '\{a: 1\}': give a JSON object"),
        (f"{HEADER}\n{ROW[:-1]}{'[' * 99999},\n", r"info is '\[+': give a JSON object"),
        ("cell,score\na,inf\n", "line 2: score is inf, but the status is ok: give a finite"),
        (f'{HEADER}\n"{ROW}\n', "line 2: unexpected end of data: give plain comma-separated"),
    ],
)
def test_a_wrong_table_is_one_sentence(text, message, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        table.read(path)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(UserError, match=r"none is missing: give the path of a CSV file"):
        table.read(tmp_path / "none")
    with pytest.raises(UserError, match="cannot be read"):
        table.read(tmp_path)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"bytes cannot be read .*: give a CSV file in UTF-8"):
        table.read(tmp_path / "bytes")
    with pytest.raises(UserError, match="cannot write in"):
        table.write(tmp_path / "bytes" / "t.csv", [], {})


def test_a_write_that_fails_leaves_the_old_table(tmp_path):
    table.write(tmp_path / "t.csv", [(KEY, GOOD)], {})

    def items():
        yield KEY, BAD
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        table.write(tmp_path / "t.csv", items(), {})
    assert table.read(tmp_path / "t.csv") == [(KEY, GOOD)]
    assert os.listdir(tmp_path) == ["t.csv"]

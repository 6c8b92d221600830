"""data.nas_bench: the formats of NAS benchmarks, against files written byte by byte."""

import copy
import hashlib
import json
import math

import nas_bench_files as written
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spd_jax.data import nas_bench
from spd_jax.data.nas_bench import Measurement, NasBench101Row
from spd_jax.errors import UserError

CELLS = [
    "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|",
    "|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|",
]


# NAS-Bench-201


def test_accuracies_of_a_csv_are_shares(tmp_path):
    path = written.write_nasbench201(
        tmp_path / "t.csv", [(CELLS[0], 93.5, 80), (CELLS[1], 0, "1e2")]
    )
    first, second = nas_bench.read_nasbench201(path)
    assert (first.cell, second.cell) == tuple(CELLS)
    assert first.accuracies == {"c10_test_200ep_mean": 0.935, "c10_val_12ep": 0.8}
    assert list(second.accuracies.values()) == [0, 1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(CELLS[0], 93.5, 101)], r"line 2: c10_val_12ep is '101': give an accuracy in per cent"),
        ([(CELLS[0], "nan", 9)], "line 2: c10_test_200ep_mean is 'nan'"),
        ([(CELLS[0], 1, 9), (CELLS[1], "x", 9)], "line 3: c10_test_200ep_mean is 'x'"),
        ([(CELLS[0], 1, 2), (CELLS[0], 1, 2)], "line 3: the cell .* is there twice"),
        ([], "has no rows"),
    ],
)
def test_a_bad_csv_is_refused_by_its_line(tmp_path, rows, message):
    path = written.write_nasbench201(tmp_path / "t.csv", rows)
    with pytest.raises(UserError, match=rf"t\.csv.*{message}"):
        nas_bench.read_nasbench201(path)


def test_another_csv_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("cell,score\na,1\n")
    with pytest.raises(UserError, match="needs one column named 'arch'"):
        nas_bench.read_nasbench201(tmp_path / "t.csv")


# EC-NAS


def write_json(path, content):
    path.write_text(json.dumps(content))
    return path


def test_a_run_of_ec_nas_is_a_row(tmp_path):
    cell = copy.deepcopy(written.EC_CELL)
    cell["runs"].append({**cell["runs"][0], "val_acc": 0.45})
    first, second = nas_bench.read_ec_nas(write_json(tmp_path / "e.json", [cell]))
    assert first == NasBench101Row(
        "011001000|input,conv3x3-bn-relu,output", "0" * 31 + "1", 4, 1234,
        first.halfway, Measurement(4.0, 70.5, 0.5, 0.4, 0.3),
    )  # fmt: skip
    assert (first.halfway.epoch, first.halfway.valid_accuracy) == (2.0, 0.2)
    assert first.halfway.test_accuracy == 0.1
    assert math.isnan(first.halfway.seconds)
    assert second.final.valid_accuracy == 0.45


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [0, 0, -2]}, "labels do not run from -1 to -2"),
        ({"labels": [-1, 3, -2]}, "labels are not all below 3"),
        ({"labels": []}, "cell 0"),
        ({"matrix": [[0, 1], [0, 0]]}, "matrix is not square or of another size"),
        ({"matrix": [[0, 1, 1], [0, 0, 2], [0, 0, 0]]}, "its adjacency is '011002000'"),
        ({"hash": "f00d"}, "its hash is not 32 hexadecimal digits"),
        ({"params": 1.5}, "1.5 is no whole number"),
        ({"params": float("inf")}, "cell 0"),
        ({"runs": [{**written.EC_CELL["runs"][0], "test_acc": 1.2}]}, "test_accuracy is 1.2"),
        ({"runs": [{**written.EC_CELL["runs"][0], "val_acc": None}]}, "cell 0"),
        ({"runs": [{}]}, "no 'halfway'"),
        ({"runs": 3}, "cell 0"),
    ],
)
def test_a_bad_cell_of_ec_nas_is_refused_by_its_number(tmp_path, changes, message):
    path = write_json(tmp_path / "e.json", [{**written.EC_CELL, **changes}])
    with pytest.raises(UserError, match=r"e\.json: cell 0 \(from 0\) cannot be read") as caught:
        nas_bench.read_ec_nas(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[", "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"{}", "holds no list of cells"),
        (b"[]", "holds no list of cells"),
        (b"[3]", "cell 0"),
        (b"[" * 100_000, "cannot be read"),
    ],
)
def test_what_is_no_file_of_ec_nas_is_refused(tmp_path, content, message):
    (tmp_path / "e.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"e\.json.*{message}"):
        nas_bench.read_ec_nas(tmp_path / "e.json")
    with pytest.raises(UserError, match=r"no\.json is missing"):
        nas_bench.read_ec_nas(tmp_path / "no.json")


# Checksums


def test_checksums_are_those_of_the_standard():
    texts = [b"123456789", bytes(32), b"\xff" * 32, b"", b"a"]  # RFC 3720, appendix B.4
    assert nas_bench.crc32c(texts)[:4].tolist() == [0xE3069283, 0x8A9136AA, 0x62A8AB43, 0]
    assert nas_bench.crc32c([]).tolist() == []


@settings(max_examples=30)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=6))
def test_many_checksums_at_once_are_those_of_each(texts):
    found = nas_bench.masked(nas_bench.crc32c(texts))
    assert [int(x).to_bytes(4, "little") for x in found] == list(map(written.masked_crc, texts))


# NAS-Bench-101


@pytest.fixture
def records(tmp_path):
    lists = [written.nasbench101_fields(i, valid=0.9 - i / 100) for i in range(5)]
    return written.write_records(tmp_path / "t.tfrecord", lists)


@pytest.mark.parametrize("block", [7, 64, 2**23])
def test_records_are_rows_however_the_file_is_cut_into_blocks(records, monkeypatch, block):
    monkeypatch.setattr(nas_bench, "BLOCK", block)
    rows = list(nas_bench.read_nasbench101(records))
    assert len(rows) == 5
    assert rows[1] == NasBench101Row(
        "0100001000010000|input,conv1x1-bn-relu,maxpool3x3,output", "2" * 32, 108, 70001,
        Measurement(54.0, 50.5, 0.6, 0.55, 0.5), Measurement(108.0, 101.0, 1.0, 0.89, 0.8),
    )  # fmt: skip
    assert [row.parameters for row in rows] == list(range(70000, 70005))


def test_a_file_is_read_while_it_is_asked_for(records, monkeypatch):
    monkeypatch.setattr(nas_bench, "BLOCK", 1000)
    whole = records.read_bytes()
    records.write_bytes(whole + b"nonsense" * 200)
    rows = nas_bench.read_nasbench101(records)
    assert next(rows).parameters == 70000  # the damage further on is not reached


def test_a_file_that_is_cut_off_anywhere_is_refused(records):
    whole = records.read_bytes()
    length = len(whole) // 5
    for end in (1, 8, 11, 12, length + 5, len(whole) - 4, len(whole) - 1):
        records.write_bytes(whole[:end])
        with pytest.raises(UserError, match=rf"t\.tfrecord is cut off in record {end // length}"):
            list(nas_bench.read_nasbench101(records))
    records.write_bytes(b"")
    with pytest.raises(UserError, match=r"t\.tfrecord is empty"):
        list(nas_bench.read_nasbench101(records))


def test_an_altered_byte_anywhere_is_refused(tmp_path):
    path = written.write_records(tmp_path / "t.tfrecord", [written.nasbench101_fields()] * 2)
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        altered = bytearray(whole)
        altered[position] ^= 0x10
        path.write_bytes(bytes(altered))
        with pytest.raises(UserError, match=r"checksum of record|bytes: give an und|is cut off"):
            list(nas_bench.read_nasbench101(path))


def replaced(place, value):
    fields = written.nasbench101_fields()
    fields[place] = value
    return fields


def metrics(message):
    return replaced(4, written.base64.b64encode(message).decode())


HALF = written.evaluation_data(54.0, 1, 0.5, 0.5, 0.5)
WHOLE = written.model_metrics(7, HALF, HALF, written.evaluation_data(108.0, 1, 0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "no list of five"),
        ([1, 2], "no list of five"),
        (replaced(0, "x" * 32), "its hash is not"),
        (replaced(1, "108"), "'108' is no whole number"),
        (replaced(1, 36), "measured after epoch 108.0 of 36"),
        (replaced(2, "0110"), "its adjacency is '0110', not 9 bits"),
        (replaced(2, "01100200x"), "its adjacency is"),
        (replaced(3, "input,conv5x5,output"), "its operations are 'input,conv5x5,output'"),
        (replaced(3, "output,conv3x3-bn-relu,input"), "its operations are"),
        (replaced(4, "?"), "record 0"),
        (replaced(4, None), "record 0"),
        (metrics(WHOLE[:-3]), "cut off or no message"),
        (metrics(b"\xff" * 12), "cut off or no message"),
        (metrics(b"\x0b"), "cut off or no message"),  # a group, wire type 3
        (metrics(written.model_metrics(7, HALF, HALF)), "it has 2 measurements"),
        (metrics(b"\x08\x01"), "a field has another type"),  # evaluation data as a number
        (metrics(b"\x0a\x02\x08\x01"), "a field has another type"),  # an epoch as a varint
    ],
)
def test_a_record_of_something_else_is_refused_by_its_number(tmp_path, fields, message):
    path = written.write_records(tmp_path / "t.tfrecord", [fields])
    with pytest.raises(UserError, match=r"t\.tfrecord: record 0 \(from 0\) is none of") as caught:
        list(nas_bench.read_nasbench101(path))
    assert message in str(caught.value)


def test_unknown_fields_are_passed_over(tmp_path):
    more = b"\x20\x05" + b"\x2d" + bytes(4) + b"\x32\x01x"  # 4: varint, 5: float, 6: bytes
    path = written.write_records(tmp_path / "t.tfrecord", [metrics(WHOLE + more)])
    (row,) = nas_bench.read_nasbench101(path)
    assert row.parameters == 7


def test_a_file_with_the_name_of_a_published_one_must_be_it(records, tmp_path, monkeypatch):
    assert nas_bench.recognised(records) == ""
    path = tmp_path / "nasbench_only108.tfrecord"
    path.write_bytes(records.read_bytes())
    with pytest.raises(UserError, match="is not the published nasbench_only108"):
        next(nas_bench.read_nasbench101(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(nas_bench.SHA256, path.name, digest)
    assert nas_bench.recognised(path) == path.name
    assert len(list(nas_bench.read_nasbench101(path))) == 5
    with pytest.raises(UserError, match="cannot be opened"):
        nas_bench.recognised(tmp_path / "no" / path.name)


@settings(max_examples=50)
@given(st.binary(max_size=60))
def test_any_bytes_are_metrics_or_a_value_error(message):
    try:
        parameters, measurements = nas_bench._model_metrics(message)
    except ValueError:
        return
    assert parameters >= 0
    assert np.shape(measurements) == (3, 5)

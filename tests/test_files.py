"""files: whole or not at all."""

import json
import os

import pytest

from spd_jax import files
from spd_jax.errors import UserError


def test_text_is_written_into_folders_that_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "note.txt"
    files.write_text(path, "café\n")
    assert path.read_bytes() == "café\n".encode()
    files.write_text(str(path), "again")
    assert path.read_text() == "again"
    assert os.listdir(path.parent) == ["note.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "state.npz"
    path.write_text("old")

    def write_and_die():
        with files.atomic_path(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_and_die()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["state.npz"]


def test_the_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "state.npz"
    with files.atomic_path(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent
        assert temporary.suffix == ".npz"
    assert path.read_text() == "new"


def test_a_folder_that_cannot_be_made_is_the_users_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write in .*file.*: give a folder"):
        files.write_text(tmp_path / "file" / "note.txt", "text")


ROWS = [
    ["a,b", 0.1, 3, ""],
    ['quote " and \\n, \\', -1e-300, -7, "two\nlines\r\n"],
    ["# no comment", float("inf"), 0, "é\ud800"],
]


def test_a_table_is_read_back_to_the_bit(tmp_path):
    path = tmp_path / "new" / "table.csv"
    comments = {"command": "python -m x\n  --y", "settings": {"rate": 0.1, "on": True}, "n": 3}
    files.write_csv(path, comments, ("text", "number", "whole", "more"), ROWS)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3 + 1 + len(ROWS)
    assert lines[0] == "# command: python -m x --y"
    read, rows = files.read_csv(path, ("whole", "text"))
    assert list(read) == list(comments)
    assert json.loads(read["settings"]) == comments["settings"]
    assert json.loads(read["n"]) == 3
    assert [line for line, _ in rows] == [5, 6, 7]
    for (_, row), (text, number, whole, more) in zip(rows, ROWS, strict=True):
        assert row["text"] == text
        assert float(row["number"]) == number
        assert int(row["whole"]) == whole
        assert row["more"] == more.replace("\ud800", "\\ud800")


def test_only_lines_above_the_header_are_comments_and_empty_lines_do_not_count(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes("\ufeff# a: 1: 2\n\n#note\na,b\r\n#1,2\r\n\r\n3,4\r\n".encode())
    comments, rows = files.read_csv(path)
    assert comments == {"a": "1: 2", "note": ""}
    assert rows == [(5, {"a": "#1", "b": "2"}), (7, {"a": "3", "b": "4"})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"table.csv is missing: give the path"),
        (b"a,b\n1,\xff\n", r"cannot be read .*give a CSV file in UTF-8"),
        (b"", r"needs one column named 'a': give a table with the columns a"),
        (b"# a: 1\nb,c\n1,2\n", r"needs one column named 'a'"),
        (b"a,b,a\n1,2,3\n", r"has two columns named 'a': drop one"),
        (b"# c: 1\na,b\n1,2\n1,2,3\n", r"table.csv, line 4: 3 values for 2 columns: give one"),
        (b"a,b\n1\n", r"line 2: 1 values for 2 columns"),
        (b'a,b\n1,"2\n', r"line 2: .*: give plain comma-separated values"),
        (b"a,b\n1," + b"2" * 200_000 + b"\n", r"line 2: .*: give plain comma-separated values"),
    ],
)
def test_a_damaged_table_is_one_sentence(tmp_path, content, message):
    if content is not None:
        (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        files.read_csv(tmp_path / "table.csv", ("a",))
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_table(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        files.read_csv(tmp_path)

"""files: whole or not at all."""

import errno
import json
import os
import resource

import jax
import jax.numpy as jnp
import numpy as np
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


def test_a_link_at_the_temporary_name_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in (".a.partial.txt", ".b.partial.npz"):
        (tmp_path / name).symlink_to(victim)
    files.write_text(tmp_path / "a.txt", "text")
    files.save_arrays(tmp_path / "b.npz", {"x": 1}, kind="k")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "a.txt").is_symlink()
    assert (tmp_path / "a.txt").read_text() == "text"
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.npz", "victim"]


@pytest.fixture
def small_disk():
    """Let no file grow beyond 1 kB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


WRITERS = {
    "text": lambda path: files.write_text(path, "x" * 100_000),
    "arrays": lambda path: files.save_arrays(path, {"x": np.ones(10_000)}, kind="k"),
    "csv": lambda path: files.write_csv(path, {}, ["a"], [["x" * 100_000]]),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(tmp_path, write):
    path = tmp_path / "file.npz"
    path.write_text("old")
    with pytest.raises(UserError, match=r"file\.npz cannot be written \(.+\): make room"):
        write(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.npz"]


def test_a_disk_without_space_is_named(tmp_path):
    def write():
        with files.atomic_path(tmp_path / "a"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=r"a cannot be written \(No space left on device\)"):
        write()


# Arrays

ARRAYS = {
    "whole": np.arange(3),
    "real": np.array([[0.1, np.nan]], np.float32),
    "text": np.array("é"),
}


def test_arrays_are_read_back_to_the_bit(tmp_path):
    path = tmp_path / "new" / "a.npz"
    files.save_arrays(path, ARRAYS | {"list": [1.5, 2.5]}, kind="mine")
    read = files.load_arrays(path, kind="mine")
    assert list(read) == [*ARRAYS, "list"]
    for name, array in ARRAYS.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)
    assert read["list"].tolist() == [1.5, 2.5]


def test_arrays_of_another_kind_and_missing_files_are_refused(tmp_path):
    files.save_arrays(tmp_path / "a.npz", ARRAYS, kind="mine")
    with pytest.raises(UserError, match=r"a\.npz is of 'mine', not of 'yours': give another"):
        files.load_arrays(tmp_path / "a.npz", kind="yours")
    with pytest.raises(UserError, match=r"b\.npz is missing: give the path of a saved file"):
        files.load_arrays(tmp_path / "b.npz", kind="mine")
    np.savez(tmp_path / "c.npz", x=np.ones(2))
    np.savez(tmp_path / "d.npz", kind="mine", x=np.array([{}], dtype=object))
    for name in ("c.npz", "d.npz", "."):
        with pytest.raises(UserError, match=r"cannot be read \(.+\): delete it"):
            files.load_arrays(tmp_path / name, kind="mine")


def test_every_damaged_file_is_one_sentence_or_read_unharmed(tmp_path):
    path = tmp_path / "a.npz"
    files.save_arrays(path, ARRAYS, kind="mine")
    whole = path.read_bytes()
    damaged = [whole[:cut] for cut in range(len(whole))]
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        damaged.append(bytes(flipped))
    refusals = []
    for content in damaged:
        path.write_bytes(content)
        try:
            read = files.load_arrays(path, kind="mine")
        except UserError as error:
            refusals.append(str(error))
        else:  # the byte was of no consequence: a date, for example
            jax.tree.map(np.testing.assert_array_equal, read, ARRAYS)
    assert len(refusals) > 0.8 * len(damaged)
    assert not any("\n" in refusal for refusal in refusals)


# Pytrees

TREE = {"w": np.ones((2, 3), np.float32), "n": np.int32(3), "key": jax.random.key(7)}


def assert_same_tree(tree, other):
    def plain(leaf):
        return np.asarray(jax.random.key_data(leaf) if leaf is tree["key"] else leaf)

    assert jax.tree.structure(tree) == jax.tree.structure(other)
    assert jnp.issubdtype(other["key"].dtype, jax.dtypes.prng_key)
    np.testing.assert_array_equal(*(jax.random.key_data(t["key"]) for t in (tree, other)))
    for name in ("w", "n"):
        assert other[name].dtype == tree[name].dtype
        np.testing.assert_array_equal(other[name], plain(tree[name]))


def test_a_pytree_is_read_back_to_the_bit(tmp_path):
    files.save_pytree(tmp_path / "a.npz", TREE, "mine")
    like = {"w": np.zeros((2, 3), np.float32), "n": 0, "key": jax.random.key(0)}
    assert_same_tree(TREE, files.load_pytree(tmp_path / "a.npz", like, "mine"))


def test_a_pytree_that_an_earlier_version_wrote_is_read(tmp_path):
    leaves = [np.asarray(jax.random.key_data(TREE["key"])), np.asarray(3, np.int32), TREE["w"]]
    arrays = {f"leaf{i}": leaf for i, leaf in enumerate(leaves)}
    np.savez(tmp_path / "a.npz", fingerprint=np.asarray("mine"), **arrays)
    assert_same_tree(TREE, files.load_pytree(tmp_path / "a.npz", TREE, "mine"))


@pytest.mark.parametrize(
    ("like", "fingerprint"),
    [
        (TREE, "yours"),
        (TREE | {"more": 1}, "mine"),
        ({"w": TREE["w"], "n": 3}, "mine"),
        (TREE | {"w": np.ones((3, 2), np.float32)}, "mine"),
        (TREE | {"w": np.ones((2, 3), np.int32)}, "mine"),
    ],
)
def test_a_pytree_of_something_else_is_refused(tmp_path, like, fingerprint):
    files.save_pytree(tmp_path / "a.npz", TREE, "mine")
    with pytest.raises(UserError, match="belongs to another run or other settings"):
        files.load_pytree(tmp_path / "a.npz", like, fingerprint)


def test_texts_in_place_of_numbers_are_refused(tmp_path):
    files.save_arrays(tmp_path / "a.npz", {"leaf0": np.array(["a", "b"])}, kind="")
    with pytest.raises(UserError, match="belongs to another run or other settings"):
        files.load_pytree(tmp_path / "a.npz", np.zeros(2))


# Tables

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

"""files: whole or not at all."""

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

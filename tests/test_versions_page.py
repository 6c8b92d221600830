"""docs/versions.md says what the code does."""

import pathlib
import re
import tomllib

import pytest

import spd_jax as spd
from spd_jax import files
from spd_jax.errors import UserError
from spd_jax.ledger import schema, table
from spd_jax.studies import run_folder

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "versions.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_formats_and_lowest_versions_are_those_of_the_code():
    assert f"format {schema.VERSION} |" in PAGE
    assert f"layout {run_folder.LAYOUT} |" in PAGE
    assert f"| Python | {PROJECT['requires-python'].removeprefix('>=')} |" in PAGE
    lowest = next(own for own in PROJECT["dependencies"] if own.startswith("jax>="))
    assert f"| jax | {lowest.removeprefix('jax>=')} |" in PAGE
    assert f"written by {'.'.join(spd.__version__.split('.')[:2])} |" in PAGE
    extras = set(PROJECT["optional-dependencies"]) - {"dev"}
    assert extras == extras & set(re.findall(r"`([\w-]+)`", PAGE))


def test_no_dependency_has_an_upper_bound_but_the_sites():
    bounds = [own for own in PROJECT["dependencies"] if re.search(r"<|==|~=", own)]
    assert bounds == []


def test_a_later_ledger_is_refused_and_other_columns_are_ignored(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with spd.Ledger(path):
        pass
    import sqlite3

    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    database.close()
    with pytest.raises(UserError, match="was written by a later version of spd_jax"):
        spd.Ledger(path).__enter__()
    rows = [["a", 0, 0.5, "more"]]
    files.write_csv(tmp_path / "table.csv", {}, ["cell", "seed", "score", "new"], rows)
    ((key, own),) = table.read(tmp_path / "table.csv")
    assert (key.cell, own.score) == ("a", 0.5)

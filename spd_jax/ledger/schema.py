"""What a ledger's file must look like, and how one of an older version becomes one of this."""

import contextlib
import pathlib
import sqlite3

from spd_jax import files
from spd_jax.errors import UserError
from spd_jax.ledger import rows

APPLICATION_ID = 0x53504454  # marks our files among SQLite's: "SPDT"
VERSION = 3
# The three numbers have no declared type: SQLite then stores them to the bit (a REAL column
# turns -0.0 into 0). It has no NaN: NULL stands for it. The curve is little-endian float64.
SCHEMAS = {
    1: """\
CREATE TABLE evaluations (
  purchase INTEGER PRIMARY KEY,
  space TEXT NOT NULL, cell TEXT NOT NULL, task TEXT NOT NULL,
  seed INTEGER NOT NULL, budget INTEGER NOT NULL,
  status TEXT NOT NULL, score, test_score, seconds,
  curve BLOB NOT NULL, error TEXT NOT NULL, bought_at TEXT NOT NULL,
  UNIQUE (space, cell, task, seed, budget)
)""",
    2: """\
CREATE TABLE evaluations (
  purchase INTEGER PRIMARY KEY,
  space TEXT NOT NULL, cell TEXT NOT NULL, task TEXT NOT NULL,
  seed INTEGER NOT NULL, budget INTEGER NOT NULL, parent TEXT NOT NULL,
  status TEXT NOT NULL, score, test_score, seconds, unit TEXT NOT NULL,
  curve BLOB NOT NULL, info TEXT NOT NULL, error TEXT NOT NULL, bought_at TEXT NOT NULL,
  UNIQUE (space, cell, task, seed, budget, parent)
)""",
    3: """\
CREATE TABLE evaluations (
  purchase INTEGER PRIMARY KEY,
  space TEXT NOT NULL, cell TEXT NOT NULL, task TEXT NOT NULL,
  seed INTEGER NOT NULL, budget INTEGER NOT NULL, parent TEXT NOT NULL,
  status TEXT NOT NULL, score, test_score, seconds, unit TEXT NOT NULL,
  curve BLOB NOT NULL, info TEXT NOT NULL, error TEXT NOT NULL, bought_at TEXT NOT NULL,
  checksum INTEGER NOT NULL,
  UNIQUE (space, cell, task, seed, budget, parent)
)""",
}
KINDS = ("table", "index", "view", "trigger")  # of SQLite
# By version: what the columns hold that it does not have.
DEFAULTS = {
    1: {
        "parent": "'' AS parent", "unit": "'' AS unit", "info": "'{}' AS info",
        "checksum": "0 AS checksum",
    },
    2: {"checksum": "0 AS checksum"},
    3: {},
}  # fmt: skip


def columns(version: int) -> str:
    """Return the SQL that selects `rows.COLUMNS` from a ledger of a version."""
    return ", ".join(DEFAULTS[version].get(name, name) for name in rows.COLUMNS)


def check(database: sqlite3.Connection, path: pathlib.Path) -> int:
    """Return the version of a ledger, 0 of an empty file, and see that it is whole.

    A view or a trigger runs code of whoever made the file: anything but our one table, in
    exactly the words that made it, is refused before a row is read.

    Raises:
      UserError: it is no ledger, one of a later version, or holds something else besides.
      sqlite3.DatabaseError: it is damaged.
    """
    (identity,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    found = database.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
    if (identity, version, found) == (0, 0, []):
        return 0
    if identity == APPLICATION_ID and version > VERSION:
        raise UserError(f"{path} was written by a later version of spd_jax: update spd_jax")
    if identity != APPLICATION_ID or version not in SCHEMAS:
        raise UserError(f"{path} is no ledger of this program: give another file")
    ours = [
        ("table", "evaluations", SCHEMAS[version]),
        ("index", "sqlite_autoindex_evaluations_1", None),
    ]
    for kind, name, sql in found:
        if (kind, name, sql) not in ours:
            what = kind if kind in KINDS else "thing"
            raise UserError(
                f"{path} holds the {what} {str(name)[:60]!r}, which is not of this program: give "
                "a ledger that nobody else changed"
            )
    (verdict,) = database.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)
    if len(found) != len(ours):
        raise sqlite3.DatabaseError("it has no table of evaluations")
    return version


def create(database: sqlite3.Connection) -> None:
    """Make the table of an empty file."""
    with database:
        database.execute("BEGIN IMMEDIATE")
        _make_table(database)
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def upgrade(database: sqlite3.Connection, path: pathlib.Path, version: int) -> None:
    """Bring a ledger of an older version to `VERSION`, after it has been copied beside itself.

    The copy of one of version 1 is `<path>.v1.backup`, with a number behind it when there is
    one already. A kill leaves the old ledger or the new one. The caller holds the writer's lock.

    Raises:
      UserError: the copy cannot be written.
      sqlite3.DatabaseError: the disk is full or fails; the ledger stays as it was.
    """
    _back_up(database, path.with_name(f"{path.name}.v{version}.backup"))
    with database:
        database.execute("BEGIN IMMEDIATE")
        database.execute("ALTER TABLE evaluations RENAME TO older")
        _make_table(database)
        database.execute(
            f"INSERT INTO evaluations (purchase, {', '.join(rows.COLUMNS)}) "
            f"SELECT purchase, {columns(version)} FROM older ORDER BY purchase"
        )
        database.execute("DROP TABLE older")
        found = database.execute(f"SELECT purchase, {', '.join(rows.VALUES)} FROM evaluations")
        database.executemany(
            "UPDATE evaluations SET checksum = ? WHERE purchase = ?",
            [(rows.checksum(values), number) for number, *values in found],
        )


def _make_table(database: sqlite3.Connection) -> None:
    database.execute(SCHEMAS[VERSION])
    database.execute(f"PRAGMA user_version = {VERSION}")


def _back_up(database: sqlite3.Connection, path: pathlib.Path) -> None:
    backup, number = path, 1
    while backup.exists():
        number += 1
        backup = path.with_name(f"{path.name}{number}")
    with (
        files.atomic_path(backup) as temporary,
        contextlib.closing(sqlite3.connect(temporary)) as copy,
    ):
        database.backup(copy)

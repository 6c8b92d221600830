"""Every ground-truth evaluation ever bought, in one SQLite file: resume starts here.

`python -m spd_jax.ledger --help` lists, exports and merges ledgers, and retries.
"""

import contextlib
import dataclasses
import datetime
import math
import os
import pathlib
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Self

from spd_jax.errors import UserError

STATUSES = ("ok", "failed")
APPLICATION_ID = 0x53504454  # marks our files among SQLite's: "SPDT"
VERSION = 1
# The three numbers have no declared type: SQLite then stores them to the bit (a REAL column
# turns -0.0 into 0). It has no NaN: NULL stands for it. The curve is little-endian float64.
SCHEMA = """
CREATE TABLE evaluations (
  purchase INTEGER PRIMARY KEY,
  space TEXT NOT NULL, cell TEXT NOT NULL, task TEXT NOT NULL,
  seed INTEGER NOT NULL, budget INTEGER NOT NULL,
  status TEXT NOT NULL, score, test_score, seconds,
  curve BLOB NOT NULL, error TEXT NOT NULL, bought_at TEXT NOT NULL,
  UNIQUE (space, cell, task, seed, budget)
)"""
COLUMNS = (
    "space, cell, task, seed, budget, status, score, test_score, seconds, curve, error, bought_at"
)
KEY_MATCHES = "space = ? AND cell = ? AND task = ? AND seed = ?"


class EvaluationKey(NamedTuple):
    """What an evaluation is of: two with equal keys are the same purchase."""

    space: str  # name of the search space
    cell: str  # canonical text of the arch
    task: str  # fingerprint of settings and data
    seed: int
    budget: int  # units of training, such as epochs


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What one training gave.

    Attributes:
      status: "ok" or "failed".
      score: on validation data after `budget` units, higher is better; NaN when failed.
      test_score: the same on test data; NaN when failed or not measured.
      curve: validation score after each unit, at most `budget` of them; the last one
        is `score` when ok.
      seconds: spent.
      error: why it failed: one line, or a traceback.
    """

    status: str
    score: float = math.nan
    test_score: float = math.nan
    curve: tuple[float, ...] = ()
    seconds: float = 0.0
    error: str = ""


class Purchase(NamedTuple):
    """A row of a ledger; `bought_at` is UTC in ISO 8601."""

    key: EvaluationKey
    evaluation: Evaluation
    bought_at: str


class Merged(NamedTuple):
    """What `Ledger.merge` did: rows added, keys that were there, those whose score differs."""

    added: int
    known: int
    conflicts: list[EvaluationKey]


class Ledger:
    """Evaluations by key, on disk when `put` returns; a kill at any moment is safe.

    One process writes (a second is refused for as long as the first lives); any
    number read. Use it as a context manager, or `close` it.
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        """Open a ledger; a writer makes the file and its folder when they are missing.

        Args:
          path: the file. A writer holds `<path>.lock` beside it, which may stay behind.
          read_only: only look, also while another process writes.

        Raises:
          UserError: the file is missing (`read_only`), damaged, no ledger, cannot be
            written, or another process writes it.
        """
        self.path = pathlib.Path(os.path.realpath(path))  # one lock, whatever link leads here
        self._read_only = read_only
        with contextlib.ExitStack() as stack, self._explained():
            if self.path.is_dir() or (read_only and not self.path.exists()):
                what = "a folder" if self.path.is_dir() else "missing"
                raise UserError(f"{self.path} is {what}: give the file of a ledger")
            if not read_only:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(contextlib.closing(self._lock()))
            self._database = stack.enter_context(contextlib.closing(self._open()))
            self._check()
            self._open_files = stack.pop_all()

    def __enter__(self) -> Self:
        """Return the ledger itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file and let another process write it."""
        self._open_files.close()

    def __len__(self) -> int:
        """Return the number of evaluations."""
        with self._explained():
            (count,) = self._database.execute("SELECT count(*) FROM evaluations").fetchone()
        return int(count)

    def get(self, key: EvaluationKey) -> Evaluation | None:
        """Return the evaluation of `key`, equal to the bit to what was put, or `None`."""
        found = self._select(f"{KEY_MATCHES} AND budget = ?", key)
        return found[0].evaluation if found else None

    def get_longer(self, key: EvaluationKey) -> Purchase | None:
        """Return the evaluation of the same cell, task and seed with the next larger budget.

        One that did not fail comes before any that did.
        """
        found = self._select(
            f"{KEY_MATCHES} AND budget > ? ORDER BY status = 'failed', budget LIMIT 1", key
        )
        return found[0] if found else None

    def put(self, key: EvaluationKey, evaluation: Evaluation) -> None:
        """Write an evaluation; it is on the disk when this returns.

        A key that is there already keeps its first evaluation.

        Raises:
          UserError: the disk is full or fails.
          ValueError: `evaluation.status` is neither "ok" nor "failed".
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        with self._explained():
            self._insert(Purchase(key, evaluation, now))

    def items(self) -> Iterator[tuple[EvaluationKey, Evaluation]]:
        """Yield keys and evaluations in order of purchase."""
        for key, evaluation, _ in self.purchases():
            yield key, evaluation

    def purchases(self) -> list[Purchase]:
        """Return all rows in order of purchase."""
        return self._select("TRUE ORDER BY purchase")

    def merge(self, other: "Ledger") -> Merged:
        """Add what another ledger has and this one lacks, all of it or nothing.

        Of equal keys this ledger's evaluation stays. A conflict is an equal key
        with another score (two NaN are equal).
        """
        added, known, conflicts = 0, 0, []
        rows = other.purchases()
        with self._explained(), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            for row in rows:
                mine = self.get(row.key)
                if mine is None:
                    self._insert(row)
                    added += 1
                    continue
                known += 1
                if not _same(mine.score, row.evaluation.score):
                    conflicts.append(row.key)
        return Merged(added, known, conflicts)

    def forget_failed(self, keys: Iterable[EvaluationKey]) -> None:
        """Delete failed evaluations, all of them or none; one that succeeded stays.

        Raises:
          UserError: the disk is full or fails.
        """
        rows = [(*key[:3], int(key.seed), int(key.budget)) for key in keys]
        with self._explained(), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(
                f"DELETE FROM evaluations WHERE status = 'failed' AND {KEY_MATCHES} AND budget = ?",
                rows,
            )

    def _insert(self, purchase: Purchase) -> None:
        key, evaluation, bought_at = purchase
        if evaluation.status not in STATUSES:
            raise ValueError(f"status {evaluation.status!r} must be one of {', '.join(STATUSES)}")
        curve = [float(score) for score in evaluation.curve]
        numbers = (evaluation.score, evaluation.test_score, evaluation.seconds)
        # What cannot be encoded (half a surrogate in a message) must not lose an evaluation.
        error = evaluation.error.encode("utf-8", "backslashreplace").decode()
        self._database.execute(
            f"INSERT INTO evaluations ({COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?) "
            "ON CONFLICT (space, cell, task, seed, budget) DO NOTHING",
            (
                *(key.space, key.cell, key.task, int(key.seed), int(key.budget)),
                evaluation.status,
                *map(float, numbers),
                struct.pack(f"<{len(curve)}d", *curve),
                error,
                bought_at,
            ),
        )

    def _select(self, where: str, values: Sequence[str | int] = ()) -> list[Purchase]:
        values = [value if isinstance(value, str) else int(value) for value in values]
        with self._explained():
            rows = self._database.execute(
                f"SELECT {COLUMNS} FROM evaluations WHERE {where}", values
            ).fetchall()
        return [_purchase(row) for row in rows]

    def _lock(self) -> sqlite3.Connection:
        """Take the writer's lock: SQLite's own on an empty file, which ends with the process."""
        path = self.path.with_name(self.path.name + ".lock")
        lock = sqlite3.connect(path, timeout=0, isolation_level=None)
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.DatabaseError as error:
            lock.close()
            if "locked" in str(error):
                raise UserError(
                    f"{self.path} is being written by another process: "
                    "wait until it has ended, or use another folder"
                ) from error
            if not isinstance(error, sqlite3.OperationalError):
                raise UserError(f"{path} is no lock ({error}): delete it") from error
            raise
        return lock

    def _open(self) -> sqlite3.Connection:
        mode = "ro" if self._read_only else "rwc"
        # A reader may meet the moment in which a writer rewinds its log: it waits for that.
        return sqlite3.connect(
            f"{self.path.as_uri()}?mode={mode}", uri=True, timeout=30, isolation_level=None
        )

    def _check(self) -> None:
        """See that the file is a whole ledger of ours; make one of an empty file."""
        run = self._database.execute
        (identity,) = run("PRAGMA application_id").fetchone()
        (version,) = run("PRAGMA user_version").fetchone()
        (tables,) = run("SELECT count(*) FROM sqlite_master").fetchone()
        empty = (identity, version, tables) == (0, 0, 0) and not self._read_only
        if not empty and (identity, version) != (APPLICATION_ID, VERSION):
            raise UserError(f"{self.path} is no ledger of this program: give another file")
        (verdict,) = run("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(" ".join(verdict.split()))
        if not self._read_only:
            run("PRAGMA journal_mode = WAL")
            run("PRAGMA synchronous = FULL")
        if empty:
            with self._database:
                run("BEGIN IMMEDIATE")
                run(SCHEMA)
                run(f"PRAGMA application_id = {APPLICATION_ID}")
                run(f"PRAGMA user_version = {VERSION}")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn SQLite's errors into one sentence."""
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            raise UserError(
                f"{self.path} cannot be read or written ({error}): see that it is a file in a "
                "folder that you may write to, on a disk with free space"
            ) from error
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{self.path} is damaged or no ledger ({error}): "
                "put a copy in its place, or move it away to begin anew"
            ) from error


def _purchase(row: tuple[Any, ...]) -> Purchase:
    key = EvaluationKey(*row[:5])
    status, *numbers, curve, error, bought_at = row[5:]
    score, test_score, seconds = (math.nan if x is None else x for x in numbers)
    values = struct.unpack(f"<{len(curve) // 8}d", curve)
    return Purchase(key, Evaluation(status, score, test_score, values, seconds, error), bought_at)


def _same(first: float, second: float) -> bool:
    return first == second or (math.isnan(first) and math.isnan(second))

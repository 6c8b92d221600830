"""Every ground-truth evaluation ever bought, in one SQLite file: resume starts here.

`python -m spd_jax.ledger --help` lists, exports and merges ledgers, and retries.
"""

import contextlib
import datetime
import math
import os
import pathlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Self

from spd_jax.errors import UserError
from spd_jax.ledger import rows, schema
from spd_jax.ledger.evaluation import Evaluation, EvaluationKey, Purchase

# Equal keys but for the budget.
MATCHES = "space = :space AND cell = :cell AND task = :task AND seed = :seed AND parent = :parent"


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

        A ledger of an older version is read as it is. A writer brings it to the present one
        and leaves a copy of the old one, for example as `<path>.v2.backup`.

        Args:
          path: the file. A writer holds `<path>.lock` beside it, which may stay behind.
          read_only: only look, also while another process writes. What is seen of a ledger
            that nobody writes is what it holds at this moment.

        Raises:
          UserError: the file is missing (`read_only`), damaged, no ledger, cannot be
            written, holds more than a ledger's table, or another process writes it.
        """
        self.path = pathlib.Path(os.path.realpath(path))  # one lock, whatever link leads here
        self._read_only = read_only
        with contextlib.ExitStack() as stack, self._explained():
            if not self.path.is_file() and (read_only or self.path.exists()):
                what = "a folder" if self.path.is_dir() else "no file"
                what = what if self.path.exists() else "missing"
                raise UserError(f"{self.path} is {what}: give the file of a ledger")
            if not read_only:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(contextlib.closing(self._lock()))
            self._database = stack.enter_context(contextlib.closing(self._open()))
            self._database.text_factory = rows.text
            version = schema.check(self._database, self.path)
            if read_only:
                if version == 0:
                    raise UserError(f"{self.path} is empty: give the file of a ledger")
                self._database.execute("PRAGMA query_only = ON")
            else:
                version = self._prepare(version)
            self._columns = f"purchase, {schema.columns(version)}"
            self._sealed = version == schema.VERSION
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
        found = self._select(f"{MATCHES} AND budget = :budget", _values(key))
        return found[0].evaluation if found else None

    def get_longer(self, key: EvaluationKey) -> Purchase | None:
        """Return the evaluation of the same key but for the next larger budget.

        One that did not fail comes before any that did.
        """
        found = self._select(
            f"{MATCHES} AND budget > :budget ORDER BY status = 'failed', budget LIMIT 1",
            _values(key),
        )
        return found[0] if found else None

    def put(self, key: EvaluationKey, evaluation: Evaluation) -> None:
        """Write an evaluation; it is on the disk when this returns.

        A key that is there already keeps its first evaluation.

        Raises:
          UserError: the disk is full or fails.
          ValueError: no ledger may hold such an evaluation, see `evaluation.fault`.
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
        bought = other.purchases()
        with self._explained(), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            for row in bought:
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
        failed = [_values(key) for key in keys]
        with self._explained(), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(
                f"DELETE FROM evaluations WHERE status = 'failed' AND {MATCHES} "
                "AND budget = :budget",
                failed,
            )

    def forget_damaged(self) -> int:
        """Delete the rows that cannot be read, all of them or none, and return their number.

        Raises:
          UserError: the disk is full or fails.
        """
        with self._explained(), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            found = self._database.execute(f"SELECT {self._columns} FROM evaluations").fetchall()
            damaged = [(number,) for number, *row in found if not self._is_whole(row)]
            self._database.executemany("DELETE FROM evaluations WHERE purchase = ?", damaged)
        return len(damaged)

    def _is_whole(self, row: list[object]) -> bool:
        try:
            rows.decode(row, sealed=self._sealed)
        except ValueError:
            return False
        return True

    def _insert(self, purchase: Purchase) -> None:
        places = ", ".join("?" * len(rows.COLUMNS))
        self._database.execute(
            f"INSERT INTO evaluations ({', '.join(rows.COLUMNS)}) VALUES ({places}) "
            f"ON CONFLICT ({', '.join(rows.KEY_COLUMNS)}) DO NOTHING",
            rows.encode(purchase),
        )

    def _select(self, where: str, values: Mapping[str, str | int] | None = None) -> list[Purchase]:
        with self._explained():
            found = self._database.execute(
                f"SELECT {self._columns} FROM evaluations WHERE {where}", values or {}
            ).fetchall()
        return [self._purchase(number, row) for number, *row in found]

    def _purchase(self, number: int, row: list[object]) -> Purchase:
        try:
            return rows.decode(row, sealed=self._sealed)
        except ValueError as error:
            raise UserError(
                f"{self.path}, row {number}: {error} (the disk or another program changed this "
                "ledger: put a copy in its place, or let `python -m spd_jax.ledger repair` forget "
                "such rows)"
            ) from error

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
        snapshot = self._snapshot() if self._read_only else None
        if snapshot is not None:
            database = sqlite3.connect(":memory:", isolation_level=None)
            database.deserialize(snapshot)
            return database
        mode = "ro" if self._read_only else "rwc"
        # A reader may meet the moment in which a writer rewinds its log: it waits for that.
        return sqlite3.connect(
            f"{self.path.as_uri()}?mode={mode}", uri=True, timeout=30, isolation_level=None
        )

    def _snapshot(self) -> bytes | None:
        """Return the file's content, or `None` while somebody writes it or it is empty.

        A ledger that nobody writes is read from memory: SQLite itself would leave two files
        beside it, which a folder that one may only read cannot even take.
        """
        before = self._state()
        content = self.path.read_bytes()
        (_, _, written), after = before, self._state()
        if written or after != before or not content:
            return None
        if content[18:20] == b"\2\2":  # says that there is a log, which memory does not have
            content = content[:18] + b"\1\1" + content[20:]
        return content

    def _state(self) -> tuple[int, int, bool]:
        """Return when the file was changed, its size, and whether somebody writes it."""
        logs = (self.path.with_name(self.path.name + end) for end in ("-wal", "-journal"))
        written, status = any(log.exists() for log in logs), self.path.stat()
        return status.st_mtime_ns, status.st_size, written

    def _prepare(self, version: int) -> int:
        """Make a writer's file one of this version, and return that."""
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        if version == 0:
            schema.create(self._database)
        elif version < schema.VERSION:
            schema.upgrade(self._database, self.path, version)
        return schema.VERSION

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn SQLite's errors into one sentence."""
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            why = " ".join(str(error).split())
            raise UserError(
                f"{self.path} cannot be read or written ({why}): see that it is a file in a "
                "folder that you may write to, on a disk with free space"
            ) from error
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # of SQLite's own message
            why = " ".join(str(error).split())
            raise UserError(
                f"{self.path} is damaged or no ledger ({why}): "
                "put a copy in its place, or move it away to begin anew"
            ) from error


def _values(key: EvaluationKey) -> dict[str, str | int]:
    return {**key._asdict(), "seed": int(key.seed), "budget": int(key.budget)}


def _same(first: float, second: float) -> bool:
    return first == second or (math.isnan(first) and math.isnan(second))

"""What an iteration of a search chose and bought, and how such records are kept.

A record is the list of a search's iterations. Records go to JSON one by one, and to CSV many
at a time; both give back the same numbers to the bit.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from spd_jax import files
from spd_jax.errors import UserError

COLUMNS = (
    "method", "run", "iteration", "cell", "predicted", "score", "test_score", "tau", "cost",
    "seconds", "notes",
)  # fmt: skip
_DAMAGES = (TypeError, ValueError, OverflowError)  # what reading a damaged record raises


class _Entry:
    """What a dataclass of a record has besides its fields."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data; a number that is not finite is None."""
        plain: dict[str, Any] = files.to_json(self)
        return plain

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """Undo `to_json`; raises UserError when it is not such an entry."""
        return cls(**_from_json(cls, entry))


@dataclasses.dataclass(frozen=True)
class Choice(_Entry):
    """What an iteration is going to buy, and why.

    Attributes:
      cells: names `[K]`, in order of purchase.
      predicted: the surrogate's scores `[K]` float64, in its unit; NaN where it gave none.
      cost: what the surrogate itself spent on its predictions, in full evaluations.
      seconds: spent in proposing, fitting and predicting, but for the training of a surrogate that
        trains cells to predict them; of a fit that was killed and went on, those since then.
      notes: figures of the proposer, such as the share of random cells that filled up.
      known: `fingerprint` of the cells and scores that the choice was made from.
    """

    cells: tuple[str, ...]
    predicted: np.ndarray
    cost: float = 0.0
    seconds: float = 0.0
    notes: Mapping[str, float] = dataclasses.field(default_factory=dict)
    known: str = ""


@dataclasses.dataclass(frozen=True)
class Iteration(_Entry):
    """What one iteration bought; number 0 is the warm start.

    Attributes:
      index: its number.
      cells: names `[K]`, in order of purchase.
      predicted: the surrogate's scores `[K]` float64, in its unit, highest first; NaN where it
        gave none, in the warm start, and without a surrogate.
      scores: ground truth on validation data `[K]` float64, higher is better; NaN = failed.
      test_scores: the same on test data; NaN also where it was not measured.
      tau: Kendall's tau-b of `predicted` and `scores`; NaN without a surrogate.
      cost: ground truths spent so far, in full evaluations, the surrogate's own included.
      seconds: spent in proposing, fitting and predicting; not in evaluating, whoever evaluates.
      notes: figures of the proposer.
    """

    index: int
    cells: tuple[str, ...]
    predicted: np.ndarray
    scores: np.ndarray
    test_scores: np.ndarray
    tau: float
    cost: float
    seconds: float
    notes: Mapping[str, float] = dataclasses.field(default_factory=dict)


Record = list[Iteration]
Records = dict[tuple[str, int], Record]  # by method and run


class Best(NamedTuple):
    """The cell that is best on validation data.

    Attributes:
      cell: its name; empty while every evaluation failed.
      score: on validation data, higher is better.
      test_score: on test data, not looked at in choosing.
    """

    cell: str
    score: float
    test_score: float


def best(record: Sequence[Iteration]) -> Best:
    """Return the cell with the highest validation score, the one bought first among equals.

    Args:
      record: of a search, or its first iterations.

    Raises:
      UserError: every evaluation failed.
    """
    found = best_by_iteration(record)
    if not found or not found[-1].cell:
        count = sum(len(iteration.cells) for iteration in record)
        raise UserError(f"all {count} evaluations failed: read in the ledger why")
    return found[-1]


def best_by_iteration(record: Sequence[Iteration]) -> list[Best]:
    """Return the best cell after every iteration; its scores are -inf and NaN before any."""
    leader, leaders = Best("", -math.inf, math.nan), []
    for iteration in record:
        rows = zip(iteration.cells, iteration.scores, iteration.test_scores, strict=True)
        for cell, score, test_score in rows:
            if math.isfinite(score) and score > leader.score:
                leader = Best(cell, float(score), float(test_score))
        leaders.append(leader)
    return leaders


def fingerprint(cells: Iterable[str], scores: np.ndarray) -> str:
    """Return 16 hexadecimal digits of cells `[K]` and their scores `[K]`."""
    digest = hashlib.sha256("\n".join(cells).encode())
    digest.update(np.asarray(scores, np.float64).tobytes())
    return digest.hexdigest()[:16]


def write_history(
    path: str | os.PathLike[str], records: Records, comments: Mapping[str, object]
) -> None:
    """Write every cell of every search as CSV, one line for each; `read_history` reads it.

    Args:
      path: the file.
      records: of searches, by method and run.
      comments: where they come from; they stand above the header.
    """
    rows = []
    for (method, run), record in records.items():
        for own in record:
            head, tail = [method, run, own.index], [*map(_text, (own.tau, own.cost, own.seconds))]
            tail.append(json.dumps(files.to_json(own.notes)) if own.notes else "")
            for cell, *figures in zip(
                own.cells, own.predicted, own.scores, own.test_scores, strict=True
            ):
                rows.append([*head, cell, *map(_text, figures), *tail])
    files.write_csv(path, comments, COLUMNS, rows)


def read_history(path: str | os.PathLike[str]) -> tuple[Records, dict[str, str]]:
    """Return the records of a history, and its comments.

    Raises:
      UserError: the file is missing or is no such history; the sentence names the line.
    """
    comments, rows = files.read_csv(path, COLUMNS)
    records: Records = {}
    for line, row in rows:
        try:
            _add_row(records, row)
        except (*_DAMAGES, RecursionError) as error:
            raise UserError(
                f"{path}, line {line}, is damaged ({error}): give a history as it was written"
            ) from error
    if not records:
        raise UserError(f"{path} holds no search: give a history of searches")
    return records, comments


def _add_row(records: Records, row: Mapping[str, str]) -> None:
    """Add one cell to its iteration, or begin the next one with it."""
    record = records.setdefault((row["method"], int(row["run"])), [])
    index = int(row["iteration"])
    if index == len(record):
        nothing = np.zeros(0)
        tau, cost, seconds = (_parsed(row[name]) for name in ("tau", "cost", "seconds"))
        notes = _notes(json.loads(row["notes"] or "{}"))
        record.append(Iteration(index, (), nothing, nothing, nothing, tau, cost, seconds, notes))
    elif not record or index != len(record) - 1:
        raise ValueError(f"iteration {index} follows iteration {len(record) - 1}")
    own = record[-1]
    record[-1] = dataclasses.replace(
        own,
        cells=(*own.cells, row["cell"]),
        predicted=np.append(own.predicted, _parsed(row["predicted"])),
        scores=np.append(own.scores, _parsed(row["score"])),
        test_scores=np.append(own.test_scores, _parsed(row["test_score"])),
    )


def _from_json(kind: Any, entry: Any) -> dict[str, Any]:
    """Return the fields of a `Choice` or an `Iteration`."""
    try:
        _checked(entry, Mapping, "object")
        missing = [x.name for x in dataclasses.fields(kind) if x.name not in entry]
        if missing:
            raise ValueError(f"it has no {missing[0]!r}")
        values = {x.name: _READERS[x.type](entry[x.name]) for x in dataclasses.fields(kind)}
        lengths = {len(x) for x in values.values() if isinstance(x, tuple | np.ndarray)}
        if len(lengths) != 1:
            raise ValueError(f"lists of lengths {sorted(lengths)}")
    except _DAMAGES as error:
        raise UserError(
            f"a record of a search is damaged ({error}): delete its file to make it anew"
        ) from error
    return values


def _checked(value: Any, kinds: Any, what: str) -> Any:
    """Return `value`; raise TypeError when it is not `what`."""
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise TypeError(f"{value!r:.60} is no {what}")
    return value


def _number(value: Any) -> float:
    """Return a number of JSON; None stands for NaN."""
    return math.nan if value is None else float(_checked(value, (int, float), "number"))


def _string(value: Any) -> str:
    return _checked(value, str, "text")


def _list(value: Any) -> Sequence[Any]:
    return _checked(value, (list, tuple), "list")


def _notes(value: Any) -> dict[str, float]:
    entries = _checked(value, Mapping, "object of notes")
    return {_string(name): _number(figure) for name, figure in entries.items()}


# Makes a field of a type from plain data; raises one of `_DAMAGES` where it cannot be made.
_READERS: dict[Any, Callable[[Any], Any]] = {
    int: lambda value: _checked(value, int, "whole number"),
    float: _number,
    str: _string,
    np.ndarray: lambda value: np.array([_number(x) for x in _list(value)], float),
    tuple[str, ...]: lambda value: tuple(_string(x) for x in _list(value)),
    Mapping[str, float]: _notes,
}


def _text(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))


def _parsed(text: str) -> float:
    return float(text) if text else math.nan

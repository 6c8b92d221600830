"""Tables of evaluated cells: CSV for any program, equal to the bit when read back."""

import collections
import csv
import math
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from spd_jax import files, metrics
from spd_jax.errors import UserError
from spd_jax.ledger import STATUSES, Evaluation, EvaluationKey

COLUMNS = (
    "space", "cell", "task", "seed", "epochs", "valid_nll", "test_nll", "seconds", "status",
    "curve", "error",
)  # fmt: skip
ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}  # so that each evaluation is one line
Path = str | os.PathLike[str]
Items = Iterable[tuple[EvaluationKey, Evaluation]]


def write(path: Path, items: Items, comments: Mapping[str, object]) -> None:
    """Write evaluations as a table, in one piece.

    Above the header stand the comments, one `# key: value` a line. The columns
    `valid_nll`, `test_nll` and `curve` (after each epoch, separated by spaces) are
    minus the scores: in nats per token where scores are minus those. An empty
    number is NaN. In texts, a line break is written as a backslash and an n.

    Args:
      path: the file, CSV in UTF-8.
      items: keys and evaluations; rows keep their order.
      comments: where the table comes from.

    Raises:
      UserError: the file cannot be written.
    """
    with (
        files.atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as stream,
    ):
        for name, value in comments.items():
            stream.write(f"# {name}: {' '.join(str(value).split())}\n")
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for key, evaluation in items:
            writer.writerow(
                [
                    *map(_escape, (key.space, key.cell, key.task)),
                    key.seed,
                    key.budget,
                    _text(-evaluation.score),
                    _text(-evaluation.test_score),
                    _text(evaluation.seconds),
                    evaluation.status,
                    " ".join(repr(-float(score)) for score in evaluation.curve),
                    _escape(evaluation.error),
                ]
            )


def read(path: Path) -> list[tuple[EvaluationKey, Evaluation]]:
    """Read what `write` wrote: the same keys and evaluations, equal to the bit.

    The columns may stand in any order, and there may be others.

    Args:
      path: the file.

    Returns:
      Keys (all different) and evaluations, in order of the rows.

    Raises:
      UserError: the file is missing or not such a table; the sentence names the
        line and what to do about it.
    """
    items: dict[EvaluationKey, Evaluation] = {}
    for where, row in _rows(pathlib.Path(path)):
        key, evaluation = _item(where, row)
        if key in items:
            raise UserError(f"{where}: this cell, task, seed and epochs are there twice: drop one")
        items[key] = evaluation
    return list(items.items())


def read_comments(path: Path) -> dict[str, str]:
    """Return the comments above the header.

    Raises:
      UserError: the file is missing or cannot be read.
    """
    lines = _lines(pathlib.Path(path))
    heads = (line[1:].partition(":") for line in lines[: _comment_count(lines)])
    return {name.strip(): value.strip() for name, _, value in heads}


def _lines(path: pathlib.Path) -> list[str]:
    """Return the lines of a text file."""
    try:
        with open(path, encoding="utf-8-sig") as stream:
            return list(stream)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: give the path of a table of cells") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): give a CSV file in UTF-8") from error


def _comment_count(lines: list[str]) -> int:
    """Return how many lines stand above the header: a `#` below it belongs to a value."""
    for count, line in enumerate(lines):
        if line.strip() and not line.startswith("#"):
            return count
    return len(lines)


def _rows(path: pathlib.Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield where a row stands (for messages) and its values by column."""
    lines = _lines(path)
    above = _comment_count(lines)
    reader = csv.reader(lines[above:], strict=True)
    try:
        names = next(reader, [])
        missing = [column for column in COLUMNS if names.count(column) != 1]
        if missing:
            raise UserError(
                f"{path} needs one column named {missing[0]!r}: give a table with the columns "
                f"{', '.join(COLUMNS)}"
            )
        for fields in reader:
            where = f"{path}, line {above + reader.line_num}"
            if fields and len(fields) != len(names):
                raise UserError(
                    f"{where}: {len(fields)} values for {len(names)} columns: "
                    "give one value per column, separated by commas"
                )
            if fields:
                yield where, dict(zip(names, fields, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{path}, line {above + reader.line_num}: {error}: give plain comma-separated values"
        ) from error


def _item(where: str, row: Mapping[str, str]) -> tuple[EvaluationKey, Evaluation]:
    key = EvaluationKey(
        _unescape(row["space"]),
        _unescape(row["cell"]),
        _unescape(row["task"]),
        _whole_number(row["seed"], f"{where}: seed"),
        _whole_number(row["epochs"], f"{where}: epochs"),
    )
    status = row["status"]
    if status not in STATUSES:
        raise UserError(f"{where}: status is {status!r}: give one of {', '.join(STATUSES)}")
    score = _score(row["valid_nll"], f"{where}: valid_nll")
    if status == "ok" and math.isnan(score):
        raise UserError(f"{where}: valid_nll is missing, but the status is ok: give a number")
    curve = tuple(_score(text, f"{where}: curve") for text in row["curve"].split())
    if len(curve) > key.budget:
        raise UserError(
            f"{where}: the curve has {len(curve)} values for {key.budget} epochs: "
            "give at most one per epoch"
        )
    return key, Evaluation(
        status,
        score,
        _score(row["test_nll"], f"{where}: test_nll"),
        curve,
        _number(row["seconds"], f"{where}: seconds"),
        _unescape(row["error"]),
    )


def _text(number: float) -> str:
    return "" if math.isnan(number) else repr(float(number))


def _score(text: str, what: str) -> float:
    loss = _number(text, what)
    return math.nan if math.isnan(loss) else -loss  # one NaN object: equal evaluations compare so


def _number(text: str, what: str) -> float:
    try:
        return float(text) if text.strip() else math.nan
    except ValueError:
        raise UserError(f"{what} is {text!r}: give a number, or nothing for NaN") from None


def _whole_number(text: str, what: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{what} is {text!r}: give a whole number") from None


def _escape(text: str) -> str:
    return re.sub(r"[\\\n\r]", lambda found: ESCAPES[found[0]], text)


def _unescape(text: str) -> str:
    originals = {escaped: original for original, escaped in ESCAPES.items()}
    return re.sub(r"\\[\\nr]", lambda found: originals[found[0]], text)


def noise_ceiling(items: Items) -> dict[str, Any]:
    """Return the mean tau between one seed and the mean of the others, and what it rests on.

    Of the cells that have every seed that any cell has.
    """
    by_cell: dict[str, dict[int, float]] = collections.defaultdict(dict)
    for key, evaluation in items:
        by_cell[key.cell][key.seed] = evaluation.score
    most = max(map(len, by_cell.values()))
    rows = np.array([list(v.values()) for v in by_cell.values() if len(v) == most])
    return {"noise_ceiling": metrics.noise_ceiling(rows), "cells": len(rows), "seeds": most}


def agreement(items: Items, others: Items) -> dict[str, Any]:
    """Return how two tables order the cells that both have (means over seeds)."""
    first, second = map(_means, (items, others))
    shared = [cell for cell in first if cell in second]
    pair = [[table[cell] for cell in shared] for table in (second, first)]
    return {
        "cells": len(shared),
        "kendall_tau": metrics.kendall_tau(*pair),
        "spearman": metrics.spearman(*pair),
        "precision_at_10": metrics.precision_at(10, *pair),
    }


def _means(items: Items) -> dict[str, float]:
    scores: dict[str, list[float]] = collections.defaultdict(list)
    for key, evaluation in items:
        scores[key.cell].append(evaluation.score)
    return {cell: float(np.mean(values)) for cell, values in scores.items()}

"""The CSV of a ledger: for any program, and equal to the bit when it is read back."""

import json
import math
import re
from collections.abc import Iterable, Mapping

from spd_jax import files
from spd_jax.errors import UserError
from spd_jax.ledger.evaluation import Evaluation, EvaluationKey, fault, info_of

COLUMNS = (
    "space", "cell", "task", "seed", "budget", "parent", "status", "score", "test_score", "unit",
    "curve", "seconds", "info", "error",
)  # fmt: skip
REQUIRED = ("cell", "score")
# Spreadsheets run a text that begins so as a formula. It is written with a quote in front, and
# so is one that already has quotes there: one quote is taken away again from all that match.
FORMULA = re.compile(r"'*\s*[=+\-@]")
Items = Iterable[tuple[EvaluationKey, Evaluation]]


def write(path: files.Path, items: Items, comments: Mapping[str, object]) -> None:
    """Write evaluations as a table, in one piece.

    `score`, `test_score` and `curve` (numbers separated by spaces) are higher-is-better, as in
    the ledger; `info` is JSON; an empty number is NaN.

    Args:
      path: the file, CSV in UTF-8.
      items: keys and evaluations; rows keep their order.
      comments: where the table comes from: one `# name: value` a line above the header.

    Raises:
      UserError: the file cannot be written.
    """
    files.write_csv(path, comments, COLUMNS, (_row(*item) for item in items))


def is_table(path: files.Path) -> bool:
    """Return whether the header of a file names the columns that `read` needs.

    False, too, where the file cannot be read as text.
    """
    try:
        with open(path, encoding="utf-8-sig") as stream:
            lines = (line for line in stream if line.strip() and not line.startswith("#"))
            header = next(lines, "")
    except (OSError, UnicodeDecodeError):
        return False
    return set(REQUIRED) <= {name.strip() for name in header.split(",")}


def read(path: files.Path) -> list[tuple[EvaluationKey, Evaluation]]:
    """Read what `write` wrote: the same keys and evaluations, equal to the bit.

    A table from elsewhere needs the columns `cell` and `score` alone. Columns may stand in any
    order; the others of `write` have defaults: empty texts, seed 0, budget 1, status "ok"; further
    ones are ignored.

    Args:
      path: the file.

    Returns:
      Keys (all different) and evaluations, in order of the rows.

    Raises:
      UserError: the file is missing or not such a table; the sentence names the
        line and what to do about it.
    """
    _, rows = files.read_csv(path)
    missing = [name for name in REQUIRED if rows and name not in rows[0][1]]
    if missing:
        raise UserError(
            f"{path} needs one column named {missing[0]!r}: give a table with the columns "
            f"{', '.join(REQUIRED)}, or convert an older one with `python -m spd_jax.ledger "
            "upgrade`"
        )
    items: dict[EvaluationKey, Evaluation] = {}
    for line, row in rows:
        try:
            key, evaluation = _item(row)
        except ValueError as error:
            raise UserError(f"{path}, line {line}: {error}") from error
        if key in items:
            raise UserError(
                f"{path}, line {line}: this cell, task, seed and budget are there twice: drop one"
            )
        items[key] = evaluation
    return list(items.items())


def _row(key: EvaluationKey, evaluation: Evaluation) -> list[object]:
    """Return the values of `COLUMNS`."""
    return [
        *map(_guarded, (key.space, key.cell, key.task)),
        *(int(key.seed), int(key.budget), _guarded(key.parent)),
        *(evaluation.status, _text(evaluation.score), _text(evaluation.test_score)),
        _guarded(evaluation.unit),
        " ".join(repr(float(score)) for score in evaluation.curve),
        _text(evaluation.seconds),
        json.dumps(evaluation.info) if evaluation.info else "",
        _guarded(evaluation.error),
    ]


def _item(row: Mapping[str, str]) -> tuple[EvaluationKey, Evaluation]:
    """Read one row; raises ValueError with what is wrong with it."""

    def text(name: str) -> str:
        return _unguarded(row.get(name, ""))

    seed = _whole_number("seed", row.get("seed", "0"))
    budget = _whole_number("budget", row.get("budget", "1"))
    key = EvaluationKey(text("space"), text("cell"), text("task"), seed, budget, text("parent"))
    evaluation = Evaluation(
        row.get("status", "ok"),
        _number("score", row["score"]),
        _number("test_score", row.get("test_score", "")),
        tuple(_number("curve", word) for word in row.get("curve", "").split()),
        _number("seconds", row.get("seconds", "0")),
        text("error"),
        text("unit"),
        info_of(row.get("info") or "{}"),
    )
    wrong = fault(key, evaluation)
    if wrong:
        raise ValueError(wrong)
    return key, evaluation


def _text(number: float) -> str:
    return "" if math.isnan(number) else repr(float(number))


def _number(name: str, text: str) -> float:
    try:
        return float(text) if text.strip() else math.nan
    except ValueError:
        raise ValueError(f"{name} is {text[:40]!r}: give a number, or nothing for NaN") from None


def _whole_number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{name} is {text[:40]!r}: give a whole number") from None


def _guarded(text: str) -> str:
    return f"'{text}" if FORMULA.match(text) else text


def _unguarded(text: str) -> str:
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text

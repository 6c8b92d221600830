"""Tables of the two older formats become tables of `spd_jax.ledger.table`, equal to the bit.

Recurrent cells had the columns `cell, valid_nll, test_nll, epochs`, with minus the scores;
sigmoid slopes had `slope, accuracy`. Nothing else in the program knows these formats.
"""

import math
import struct
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from spd_jax import files
from spd_jax.errors import UserError
from spd_jax.ledger import table
from spd_jax.ledger.evaluation import Evaluation, EvaluationKey, fault

Row = Mapping[str, str]
Item = tuple[EvaluationKey, Evaluation]
INFO = ("loss", "final_accuracy")  # columns of slopes that become an evaluation's `info`


def upgrade(old: files.Path, new: files.Path, given: Mapping[str, str]) -> int:
    """Rewrite a table of an older format; what was written is compared before it is kept.

    Args:
      old: a table with the columns `cell, valid_nll` or `slope, accuracy`, and others.
      new: the file to write, with the same comments.
      given: any of `space`, `task`, `unit` and `budget`, which then hold for every row.

    Returns:
      The number of evaluations.

    Raises:
      UserError: a file cannot be read or written, or `old` is no such table.
    """
    comments, rows = files.read_csv(old)
    known = [
        item for columns, item in FORMATS.items() if rows and set(columns) <= rows[0][1].keys()
    ]
    if not known:
        raise UserError(
            f"{old} is no table of an older format: give rows with the columns "
            f"{' or '.join(', '.join(columns) for columns in FORMATS)}"
        )
    items: dict[EvaluationKey, Evaluation] = {}
    for line, row in rows:
        try:
            key, evaluation = known[0]({**row, **given})
            wrong = "it is there twice: drop one" if key in items else fault(key, evaluation)
            if wrong:
                raise ValueError(wrong)
        except ValueError as error:
            raise UserError(f"{old}, line {line}: {error}") from error
        items[key] = evaluation
    with files.atomic_path(new) as temporary:
        table.write(temporary, items.items(), comments)
        written = table.read(temporary)
        expected = list(items.items())
        if written != expected or _bits(written) != _bits(expected):
            raise RuntimeError(f"{new} would not equal {old}, and is not written")
    return len(items)


def _cell(row: Row) -> Item:
    """Read a recurrent cell: minus its losses are the scores."""
    error, unit = row.get("error", ""), row.get("unit", "negative nats per token")
    return _key(row, row.get("space", ""), row["cell"]), Evaluation(
        row.get("status", "ok"),
        -_number(row["valid_nll"]),
        -_number(row.get("test_nll", "")),
        tuple(-float(text) for text in row.get("curve", "").split()),
        _number(row.get("seconds", "0")),
        error,
        unit,
    )


def _slope(row: Row) -> Item:
    """Read a sigmoid slope."""
    slope, accuracy = str(np.float32(row["slope"])), float(row["accuracy"])
    info = {name: float(row[name]) for name in INFO if name in row}
    evaluation = Evaluation("ok", accuracy, unit=row.get("unit", "accuracy"), info=info)
    return _key(row, row.get("space", "sigmoid_slope"), slope), evaluation


def _key(row: Row, space: str, cell: str) -> EvaluationKey:
    seed, budget = row.get("seed", "0"), row.get("budget", row.get("epochs", "1"))
    return EvaluationKey(space, cell, row.get("task", ""), int(seed), int(budget))


def _number(text: str) -> float:
    return float(text) if text.strip() else math.nan


def _bits(items: Iterable[Item]) -> bytes:
    """Return the bits of all numbers: equal evaluations may differ in the sign of a zero."""
    numbers = [x for _, own in items for x in (own.score, own.test_score, own.seconds, *own.curve)]
    return struct.pack(f"{len(numbers)}d", *(math.nan if math.isnan(x) else x for x in numbers))


# By the columns by which a format is known: what makes an evaluation of a row.
FORMATS: dict[tuple[str, ...], Callable[[Row], Item]] = {
    ("cell", "valid_nll"): _cell,
    ("slope", "accuracy"): _slope,
}

"""Tables of the two older formats become tables of `spd_jax.ledger.table`, equal to the bit.

Recurrent cells had the columns `cell, valid_nll, test_nll, epochs`, with minus the scores;
sigmoid slopes had `slope, accuracy`. Nothing else in the program knows these formats.
"""

import math
import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from spd_jax import files
from spd_jax.errors import UserError
from spd_jax.ledger import table
from spd_jax.ledger.evaluation import Evaluation, EvaluationKey, fault

Row = Mapping[str, str]
Item = tuple[EvaluationKey, Evaluation]
INFO = ("loss", "final_accuracy")  # columns of slopes that become an evaluation's `info`


class Format(NamedTuple):
    """An older format.

    Attributes:
      columns: by which it is known.
      defaults: what a row holds in columns that the format does not have.
      item: from a row to key and evaluation.
      old: all numbers of a row, higher is better where they are scores.
      new: the same numbers, of an evaluation that was written.
    """

    columns: tuple[str, ...]
    defaults: Row
    item: Callable[[Row], Item]
    old: Callable[[Row], list[float]]
    new: Callable[[EvaluationKey, Evaluation], list[float]]


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
    known = [kind for kind in FORMATS if rows and set(kind.columns) <= rows[0][1].keys()]
    if not known:
        raise UserError(
            f"{old} is no table of an older format: give rows with the columns "
            f"{' or '.join(', '.join(kind.columns) for kind in FORMATS)}"
        )
    kind = known[0]
    items: dict[EvaluationKey, Evaluation] = {}
    for line, row in rows:
        try:
            key, evaluation = kind.item({**kind.defaults, **row, **given})
            wrong = "it is there twice: drop one" if key in items else fault(key, evaluation)
            if wrong:
                raise ValueError(wrong)
        except ValueError as error:
            raise UserError(f"{old}, line {line}: {error}") from error
        items[key] = evaluation
    with files.atomic_path(new) as temporary:
        table.write(temporary, items.items(), comments)
        written = table.read(temporary)
        new_numbers = [_bits(kind.new(*item)) for item in written]
        if written != list(items.items()) or new_numbers != [
            _bits(kind.old(row)) for _, row in rows
        ]:
            raise RuntimeError(f"{new} would not equal {old}, and is not written")
    return len(items)


def _cell(row: Row) -> Item:
    valid, test, seconds, *curve = _cell_numbers(row)
    error, unit = row.get("error", ""), row["unit"]
    return _key(row, row["cell"]), Evaluation(
        row.get("status", "ok"), valid, test, tuple(curve), seconds, error, unit
    )


def _cell_numbers(row: Row) -> list[float]:
    losses = [_number(text) for text in (row["valid_nll"], row.get("test_nll", ""))]
    curve = [-float(text) for text in row.get("curve", "").split()]
    return [-losses[0], -losses[1], _number(row.get("seconds", "0")), *curve]


def _new_cell_numbers(key: EvaluationKey, evaluation: Evaluation) -> list[float]:
    return [evaluation.score, evaluation.test_score, evaluation.seconds, *evaluation.curve]


def _slope(row: Row) -> Item:
    slope, accuracy, *measured = _slope_numbers(row)
    info = dict(zip([name for name in INFO if name in row], measured, strict=True))
    evaluation = Evaluation("ok", accuracy, unit=row["unit"], info=info)
    return _key(row, str(np.float32(slope))), evaluation


def _slope_numbers(row: Row) -> list[float]:
    measured = [float(row[name]) for name in INFO if name in row]
    return [float(np.float32(row["slope"])), float(row["accuracy"]), *measured]


def _new_slope_numbers(key: EvaluationKey, evaluation: Evaluation) -> list[float]:
    return [float(np.float32(key.cell)), evaluation.score, *evaluation.info.values()]


def _key(row: Row, cell: str) -> EvaluationKey:
    budget = row.get("budget", row.get("epochs", "1"))
    return EvaluationKey(row["space"], cell, row["task"], int(row.get("seed", "0")), int(budget))


def _number(text: str) -> float:
    return float(text) if text.strip() else math.nan


def _bits(numbers: list[float]) -> bytes:
    return struct.pack(f"{len(numbers)}d", *(math.nan if math.isnan(x) else x for x in numbers))


FORMATS = (
    Format(
        ("cell", "valid_nll"),
        {"space": "", "task": "", "unit": "negative nats per token"},
        _cell,
        _cell_numbers,
        _new_cell_numbers,
    ),
    Format(
        ("slope", "accuracy"),
        {"space": "sigmoid_slope", "task": "", "unit": "accuracy"},
        _slope,
        _slope_numbers,
        _new_slope_numbers,
    ),
)

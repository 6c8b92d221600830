"""How a purchase is a row of SQLite, equal to the bit when it is read back.

What is read may come from a stranger: SQLite keeps any type in any column, so that every value
is checked.
"""

import json
import math
import operator
import struct
from collections.abc import Sequence
from typing import Any

from spd_jax.ledger.evaluation import Evaluation, EvaluationKey, Purchase, fault, info_of

KEY_COLUMNS = EvaluationKey._fields
NUMBERS = ("score", "test_score", "seconds")
COLUMNS = (*KEY_COLUMNS, "status", *NUMBERS, "unit", "curve", "info", "error", "bought_at")
WHOLE_NUMBERS = ("seed", "budget")


def encode(purchase: Purchase) -> tuple[str | int | float | bytes, ...]:
    """Return the values of `COLUMNS`.

    Raises:
      ValueError: no ledger may hold such an evaluation.
      TypeError: a seed or budget is no whole number.
    """
    key, evaluation, bought_at = purchase
    wrong = fault(key, evaluation)
    if wrong:
        raise ValueError(wrong)
    curve = [float(score) for score in evaluation.curve]
    return (
        *(key.space, key.cell, key.task),
        *(operator.index(key.seed), operator.index(key.budget), key.parent),
        evaluation.status,
        *(float(evaluation.score), float(evaluation.test_score), float(evaluation.seconds)),
        evaluation.unit,
        struct.pack(f"<{len(curve)}d", *curve),
        json.dumps(evaluation.info),
        # What cannot be encoded (half a surrogate in a message) must not lose an evaluation.
        evaluation.error.encode("utf-8", "backslashreplace").decode(),
        bought_at,
    )


def text(raw: bytes) -> str:
    """Decode a text of SQLite's so that bytes that are no UTF-8 can be found by `decode`."""
    return raw.decode("utf-8", "surrogateescape")


def decode(values: Sequence[Any]) -> Purchase:
    """Read a purchase from the values of `COLUMNS`, texts decoded by `text`.

    Raises:
      ValueError: a value is not what `encode` writes; the message names the column.
    """
    row = dict(zip(COLUMNS, values, strict=True))
    for name, value in row.items():
        _check_type(name, value)
    for name in NUMBERS:
        row[name] = math.nan if row[name] is None else float(row[name])
    count, rest = divmod(len(row["curve"]), 8)
    if rest:
        raise ValueError(f"curve has {len(row['curve'])} bytes: give eight for each value")
    row["curve"] = struct.unpack(f"<{count}d", row["curve"])
    row["info"] = info_of(row["info"])
    key = EvaluationKey(*(row.pop(name) for name in KEY_COLUMNS))
    bought_at = row.pop("bought_at")
    evaluation = Evaluation(**row)
    wrong = fault(key, evaluation)
    if wrong:
        raise ValueError(wrong)
    return Purchase(key, evaluation, bought_at)


def _check_type(name: str, value: Any) -> None:
    if name in NUMBERS:
        right, what = value is None or type(value) in (float, int), "a number"
    elif name in WHOLE_NUMBERS:
        right, what = type(value) is int, "a whole number"
    elif name == "curve":
        right, what = type(value) is bytes, "bytes"
    else:
        right = type(value) is str and not any("\ud800" <= char <= "\udfff" for char in value)
        what = "text in UTF-8"
    if not right:
        raise ValueError(f"{name} is {str(value)[:40]!r}: give {what}")

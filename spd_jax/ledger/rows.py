"""How a purchase is a row of SQLite, equal to the bit when it is read back.

What is read may come from a stranger: SQLite keeps any type in any column, so that every value
is checked.
"""

import json
import math
import operator
import struct
import zlib
from collections.abc import Sequence
from typing import Any

from spd_jax.ledger.evaluation import Evaluation, EvaluationKey, Purchase, fault, info_of

KEY_COLUMNS = EvaluationKey._fields
NUMBERS = ("score", "test_score", "seconds")
VALUES = (*KEY_COLUMNS, "status", *NUMBERS, "unit", "curve", "info", "error", "bought_at")
COLUMNS = (*VALUES, "checksum")
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
    values = (
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
    for name, value in zip(VALUES, values, strict=True):
        _check_type(name, value)
    return *values, checksum(values)


def checksum(values: Sequence[Any]) -> int:
    """Return 32 bits that `VALUES` decide: SQLite itself does not notice a flipped one.

    NaN counts as None, because SQLite reads it back as that.
    """
    plain = [None if value != value else value for value in values]
    return zlib.crc32(ascii(plain).encode())


def text(raw: bytes) -> str:
    """Decode a text of SQLite's so that bytes that are no UTF-8 can be found by `decode`."""
    return raw.decode("utf-8", "surrogateescape")


def decode(values: Sequence[Any], *, sealed: bool = True) -> Purchase:
    """Read a purchase from the values of `COLUMNS`, texts decoded by `text`.

    Args:
      values: one for each column.
      sealed: whether the last one is a checksum; older versions wrote none.

    Raises:
      ValueError: a value is not what `encode` writes; the message names the column.
    """
    *values, found = values
    row = dict(zip(VALUES, values, strict=True))
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
    if sealed and found != checksum(values):
        raise ValueError("its checksum is another")
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

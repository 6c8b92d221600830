"""What a ledger holds: keys, evaluations, purchases, and what none of them may be."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

STATUSES = ("ok", "failed")
LARGEST = 2**63 - 1  # of SQLite's whole numbers


class EvaluationKey(NamedTuple):
    """What an evaluation is of: two with equal keys are the same purchase.

    Attributes:
      space: name of the search space.
      cell: canonical text of the arch.
      task: fingerprint of settings and data.
      seed: of everything random in the training.
      budget: units of training, such as epochs.
      parent: name of the cell whose weights were inherited; "" when trained from scratch.
    """

    space: str
    cell: str
    task: str
    seed: int
    budget: int
    parent: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What one training gave. Equal evaluations compare equal, also where they hold NaN.

    Attributes:
      status: "ok" or "failed".
      score: on validation data after `budget` units, higher is better; finite when ok.
      test_score: the same on test data; NaN when failed or not measured.
      curve: validation score after each unit, at most `budget` of them.
      seconds: spent.
      error: why it failed: one line, or a traceback.
      unit: what a score is, such as "accuracy" or "negative nats per token".
      info: whatever else was measured (loss, final accuracy, multiply-adds), as JSON knows it:
        texts, numbers, booleans, None, lists and dicts. A number that is not finite becomes
        None.

    Raises:
      TypeError: `info` holds something that JSON does not know.
    """

    status: str
    score: float = math.nan
    test_score: float = math.nan
    curve: tuple[float, ...] = ()
    seconds: float = 0.0
    error: str = ""
    unit: str = ""
    info: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Bring `info` into the form in which it will be read back."""
        object.__setattr__(self, "info", info_of(json.dumps(dict(self.info))))

    def __eq__(self, other: object) -> bool:
        """Compare field by field; two NaN are equal."""
        if not isinstance(other, Evaluation):
            return NotImplemented
        return self._compared() == other._compared()

    def __hash__(self) -> int:
        """Return the same number for equal evaluations."""
        return hash(self._compared())

    def _compared(self) -> tuple[object, ...]:
        # Python 3.13 compares dataclasses field by field, so that a NaN makes them unequal.
        numbers = (self.score, self.test_score, self.seconds, *self.curve)
        info = json.dumps(self.info, sort_keys=True)
        plain = tuple(None if math.isnan(x) else float(x) for x in numbers)
        return self.status, self.error, self.unit, info, plain


class Purchase(NamedTuple):
    """A row of a ledger; `bought_at` is UTC in ISO 8601."""

    key: EvaluationKey
    evaluation: Evaluation
    bought_at: str


def info_of(text: str) -> dict[str, Any]:
    """Read an `Evaluation.info` from JSON; numbers that are not finite become None.

    Raises:
      ValueError: the text is no JSON object.
    """
    try:
        info = json.loads(text, parse_constant=lambda constant: None)
    except (ValueError, RecursionError):
        info = None
    if not isinstance(info, dict):
        raise ValueError(f"info is {text[:40]!r}: give a JSON object")
    return info


def fault(key: EvaluationKey, evaluation: Evaluation) -> str:
    """Return why no ledger or table may hold an evaluation: part of a sentence, or ""."""
    if evaluation.status not in STATUSES:
        return f"status is {evaluation.status[:40]!r}: give one of {', '.join(STATUSES)}"
    if evaluation.status == "ok" and not math.isfinite(evaluation.score):
        return f"score is {evaluation.score}, but the status is ok: give a finite number"
    if not -LARGEST - 1 <= key.seed <= LARGEST:
        return f"seed is {key.seed}: give a whole number of at most 64 bits"
    if not 0 <= key.budget <= LARGEST:
        return f"budget is {key.budget}: give a whole number from 0 on, of at most 64 bits"
    if len(evaluation.curve) > key.budget:
        return (
            f"the curve has {len(evaluation.curve)} values for a budget of {key.budget}: give at "
            "most one for each unit"
        )
    return ""

"""Learning curves of a run's ground truths, as lines of a small vector picture."""

import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from spd_jax.ledger import Evaluation, EvaluationKey, Ledger, table

WIDTH, HEIGHT = 640, 260  # of the lines, in units of the picture
MOST_LINES, MOST_PICTURES = 300, 4


class Curves(NamedTuple):
    """The curves of one task.

    Attributes:
      title: space, task and budget.
      lines: points "x,y x,y ..." of each curve; the best is the last.
      total: how many curves there are; at most 300 are drawn.
      failed: evaluations that failed.
      low: score at the bottom.
      high: score at the top.
      units: where the longest curve ends.
      unit: of the scores.
    """

    title: str
    lines: list[str]
    total: int
    failed: int
    low: float
    high: float
    units: int
    unit: str

    @property
    def opacity(self) -> float:
        """How much of the page a line covers: less where there are many."""
        return min(0.5, max(0.08, 15 / len(self.lines)))


def of_folder(folder: pathlib.Path) -> list[Curves]:
    """Return the curves in a run's ledger or, where there is none, in its table; most first.

    Raises:
      UserError: the ledger or the table is damaged.
    """
    by_task: dict[tuple[str, str, int], list[Evaluation]] = {}
    for key, evaluation in _evaluations(folder):
        by_task.setdefault((key.space, key.task, key.budget), []).append(evaluation)
    drawn = [_curves(*names, bought) for names, bought in by_task.items()]
    kept = sorted((own for own in drawn if own.lines), key=lambda own: -own.total)
    return kept[:MOST_PICTURES]


def _evaluations(folder: pathlib.Path) -> list[tuple[EvaluationKey, Evaluation]]:
    ledger = folder / "ledger.sqlite"
    if ledger.is_file():
        with Ledger(ledger, read_only=True) as opened:
            return list(opened.items())
    for path in sorted(folder.glob("*.csv")):
        if table.is_table(path) and "curve" in path.read_text("utf-8", "replace")[:10_000]:
            return table.read(path)
    return []


def _curves(space: str, task: str, budget: int, bought: Sequence[Evaluation]) -> Curves:
    """Return the curves of one task, of those evaluations that have more than one point."""
    curved = [own for own in bought if sum(map(math.isfinite, own.curve)) > 1]
    curved.sort(key=lambda own: own.score if math.isfinite(own.score) else -math.inf)
    scores = [score for own in curved for score in own.curve if math.isfinite(score)]
    low, high = (min(scores), max(scores)) if scores else (0.0, 0.0)
    units = max((len(own.curve) for own in curved), default=1)
    shown = curved[:: -(-len(curved) // MOST_LINES) or 1]
    shown = shown if not curved or shown[-1] is curved[-1] else [*shown, curved[-1]]
    return Curves(
        f"{space}, {_short(task)}, budget {budget}",
        [_points(own.curve, low, high, units) for own in shown],
        len(curved), sum(own.status == "failed" for own in bought), low, high, units,
        next((own.unit for own in bought if own.unit), "score"),
    )  # fmt: skip


def _short(task: str) -> str:
    return task if len(task) <= 60 else f"{task[:57]}..."


def _points(curve: Sequence[float], low: float, high: float, units: int) -> str:
    """Return a curve as points of the picture, whose vertical axis points down."""
    height, width = (high - low) or 1.0, max(units - 1, 1)
    return " ".join(
        f"{WIDTH * place / width:.1f},{HEIGHT * (1 - (score - low) / height):.1f}"
        for place, score in enumerate(curve)
        if math.isfinite(score)
    )

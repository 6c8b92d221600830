"""A search while it runs: a live table on a terminal, plain lines elsewhere; units of scores."""

import io
import math
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self, TextIO

import numpy as np
from numpy.typing import ArrayLike

from spd_jax.errors import UserError
from spd_jax.report.progress import Progress, is_terminal

# From a score (negative nats per token) to what is shown; all but the last: lower is better.
UNITS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bits per character": lambda score: -score / math.log(2),
    "perplexity": lambda score: np.exp(np.minimum(-score, 700.0)),
    "score": lambda score: score,
}


def in_unit(scores: ArrayLike, unit: str) -> np.ndarray:
    """Return scores (negative nats per token; higher is better) in one of `UNITS`.

    Bits per character are nats / ln 2, perplexity is exp(nats).

    Raises:
      UserError: an unknown unit.

    >>> in_unit([-1.0, float("nan")], "bits per character").round(3).tolist()
    [1.443, nan]
    """
    if unit not in UNITS:
        raise UserError(f"unknown unit {unit!r}: use one of {', '.join(UNITS)}")
    return UNITS[unit](np.asarray(scores, float))


def results(summary: Mapping[str, Any]) -> str:
    """Return a finished comparison as text: one row for every method.

    Args:
      summary: what experiments.rnn_cell_search writes as summary.json.
    """
    equal, unit = summary["ground_truths"], summary["unit"]
    lines = [f"test {unit} of the cell best on validation"]
    heads = f"{'runs':>5}{'mean at ' + str(equal):>14}{'std':>9}{'spent':>8}"
    lines.append(f"{'method':14}{heads}  median tau by iteration")
    for method, row in summary["methods"].items():
        test = row["at_equal_ground_truths"]["test"]
        taus = ", ".join(f"{t['median']:.2f}" for t in row["tau_by_iteration"].values()) or "-"
        std = "-" if test["std"] is None else f"{test['std']:.4f}"
        mean = "-" if test["mean"] is None else f"{test['mean']:.4f}"
        lines.append(f"{method:14}{row['runs']:>5}{mean:>14}{std:>9}{row['spent']:>8.0f}  {taus}")
    ceiling = (summary["noise_ceiling"] or {}).get("noise_ceiling")
    known = "not known" if ceiling is None else f"{ceiling:.2f}, over random cells"
    lines.append(f"noise ceiling of tau: {known}")
    if summary["failed"]:
        lines.append(f"{summary['failed']} cells failed; the ledger of their run says why")
    best = summary["best_cell"]
    lines.append(f"best cell: {best['cell']} (test {best['test']:.4f} {unit})")
    if any(method.startswith("dish_") for method in summary["methods"]):
        words = "motif-network: {parameters} parameters, {parameters_in_the_paper} in the paper"
        lines.append(words.format(**summary["motif_network"]))
    return "\n".join(lines)


class _Row(NamedTuple):
    """What the table shows of one iteration."""

    best: float
    tau: float
    ground_truths: float
    elapsed: str
    finished: bool


class SearchTable:
    """Show a search while a `with` block runs: one line for each iteration.

    On a terminal it is a live table (rich's); in a file, in a pipe or without rich, a plain
    line when an iteration is finished, and at most one every `every` seconds
    before that. The time left is estimated as `report.progress.Progress` does.

    >>> with SearchTable("ga", 100, unit="perplexity", ceiling=0.9, stream=sys.stdout) as table:
    ...     table.update(0, 40, best=-4.5, finished=True)
    ...     table.update(1, 60, best=-4.0, tau=0.5, finished=True)
    ga, iteration 0: best 90.02 perplexity, tau - (ceiling of random cells 0.90), \
40/100 ground truths, 0:00:00 elapsed
    ga, iteration 1: best 54.60 perplexity, tau 0.50 (ceiling of random cells 0.90), \
60/100 ground truths, 0:00:00 elapsed, ~0:00:00 left
    """

    def __init__(
        self,
        description: str,
        total: float,
        *,
        unit: str = "score",
        ceiling: float | None = None,
        stream: TextIO | None = None,
        every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set a display up; nothing is shown before the block is entered.

        Args:
          description: which search, such as "dish_nao, run 2 of 5".
          total: ground truths that it will have spent, in full evaluations.
          unit: one of `UNITS`, of the best score.
          ceiling: noise ceiling of tau over random cells, which is shown beside it (over the
            best of them, which a search buys, it is lower); None: not known.
          stream: where to show it; standard error when None.
          every: the least number of seconds between two plain lines of one iteration.
          clock: returns seconds, and never goes back.

        Raises:
          UserError: an unknown unit.
        """
        in_unit(0.0, unit)
        self._description, self._total, self._unit = description, total, unit
        self._ceiling = "" if ceiling is None else f" (ceiling of random cells {ceiling:.2f})"
        self._stream = sys.stderr if stream is None else stream
        self._every, self._clock = every, clock
        # Only its estimate is shown.
        self._progress = Progress("", round(total), stream=io.StringIO(), every=1e9, clock=clock)
        self._rows: dict[int, _Row] = {}
        self._printed: float | None = None
        self._unprinted = False
        self._live: Any = None

    def __enter__(self) -> Self:
        """Start the clock, and the table on a terminal."""
        self._progress.__enter__()
        if is_terminal(self._stream):
            self._live = _live(self._stream, self._table)
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the last state behind, whether the block succeeded or not."""
        if self._live is not None:
            self._live.stop()
        elif self._unprinted:
            self._print()

    def update(
        self,
        iteration: int,
        ground_truths: float,
        *,
        best: float,
        tau: float = math.nan,
        finished: bool = False,
    ) -> None:
        """Tell how far the search is, as often as there is news.

        Args:
          iteration: its number; 0 is the warm start.
          ground_truths: spent so far, in full evaluations; call once with what an earlier
            run had spent, so that the time left counts this run's work alone.
          best: best validation score so far, higher is better; NaN while there is none.
          tau: Kendall's tau of predicted and true scores of this iteration's cells.
          finished: whether the iteration is.
        """
        self._progress.update(round(ground_truths))
        elapsed, _, _ = self._progress.status().partition(" elapsed")
        shown = float(in_unit(best, self._unit))
        self._rows[iteration] = _Row(shown, tau, ground_truths, elapsed, finished)
        if self._live is not None:
            self._live.refresh()
            return
        self._unprinted = True
        late = self._printed is None or self._clock() - self._printed >= self._every
        if finished or late:
            self._print()

    def _print(self) -> None:
        index, row = list(self._rows.items())[-1]
        best, tau, spent = _words(row)
        print(
            f"{self._description}, iteration {index}: best {best} {self._unit}, "
            f"tau {tau}{self._ceiling}, {spent}/{self._total:g} ground truths, "
            f"{self._progress.status()}",
            file=self._stream,
            flush=True,
        )
        self._printed, self._unprinted = self._clock(), False

    def _table(self) -> Any:
        """Return the table as it is now; rich asks several times a second."""
        from rich import table, text

        elapsed, _, left = self._progress.status().partition(" elapsed")
        title = text.Text(self._description, style="bold")
        shown = table.Table(title=title, title_justify="left")
        headers = (
            "iteration",
            f"best {self._unit}",
            f"tau{self._ceiling}",
            f"ground truths of {self._total:g}",
        )
        for header in (*headers, "spent", "left"):
            shown.add_column(header, justify="right")
        rows = list(self._rows.items())  # a copy: rich's own thread asks, too
        for index, row in rows:
            spent = row.elapsed if row.finished else elapsed
            latest = index == rows[-1][0]
            to_go = left.removeprefix(", ").removesuffix(" left") if latest else ""
            name = "warm start" if index == 0 else str(index)
            style = None if row.finished else "cyan"
            shown.add_row(name, *_words(row), spent, to_go, style=style)
        return shown


def _words(row: _Row) -> tuple[str, str, str]:
    """Return best, tau and ground truths as they are shown."""
    best = f"{row.best:#.4g}" if math.isfinite(row.best) else "-"
    tau = f"{row.tau:.2f}" if math.isfinite(row.tau) else "-"
    return best, tau, f"{row.ground_truths:g}"


def _live(stream: TextIO, table: Callable[[], Any]) -> Any:
    """Return rich's live display of `table()`; None where rich is not installed."""
    try:
        from rich import console, live
    except ImportError:
        return None
    return live.Live(get_renderable=table, console=console.Console(file=stream))

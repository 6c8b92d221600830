"""How a stage of work and a search look while they go on: as plain lines, and drawn by rich.

rich is imported when something is drawn, so that plain lines do without it.
"""

import collections
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from spd_jax.report.pace import Pace
from spd_jax.report.text import wrapped
from spd_jax.studies.events import Advanced, SearchAdvanced, SearchStage, Stage
from spd_jax.units import in_unit, named

SHOWN = 12  # latest rows of a stage's table


class StageView:
    """A stage of work: one line, or a bar."""

    def __init__(self, stage: Stage, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the stage's clock."""
        self._name, self._total, self._note = stage.name, stage.total, stage.note
        self._done, self._pace = stage.done, Pace(stage.total, stage.done, clock)
        self._columns = stage.columns
        self._rows: collections.deque[tuple[str, ...]] = collections.deque(maxlen=SHOWN)

    def advance(self, event: Advanced) -> None:
        """Take note of how far it is."""
        self._done, self._note = event.done, event.note
        if event.row:
            self._rows.append(event.row)
        self._pace.advance(event.done)

    def heading(self) -> list[str]:
        """Return lines that are printed once; a stage needs none."""
        return []

    def line(self, indent: str = "") -> str:
        """Return where the stage is, such as `seeds: 1/5 (20%), 0:17 elapsed, ~1:07 left`."""
        share = f" ({self._done / self._total:.0%})" if self._total else ""
        parts = [f"{self._name}: {self._count()}{share}", self._pace.status(), self._note]
        return wrapped(", ".join(part for part in parts if part), indent)

    def drawn(self, width: int) -> Any:
        """Return one line with a bar, for a terminal of so many columns; its table above it."""
        from rich import console, progress_bar, table, text

        grid = table.Table.grid(padding=(0, 1))
        for _ in range(4):
            grid.add_column(no_wrap=True)
        grid.add_column()  # the latest figures: this column alone may shrink
        bar = progress_bar.ProgressBar(
            total=self._total or None,
            completed=min(self._done, self._total or self._done),
            width=20 if width >= 100 else 10,
            pulse=not self._total,
        )
        note = "" if self._rows else self._note
        figures = text.Text(note, style="cyan", no_wrap=True, overflow="ellipsis")
        status = text.Text(self._pace.status(), style="dim")
        grid.add_row(text.Text(self._name), bar, text.Text(self._count()), status, figures)
        if not self._columns:
            return grid
        shown = table.Table()
        for head in self._columns:
            shown.add_column(head, justify="right", no_wrap=True)
        for row in list(self._rows):  # a copy: rich draws in a thread of its own
            shown.add_row(*map(text.Text, row))
        return console.Group(shown, grid)

    def _count(self) -> str:
        return f"{self._done:g}" + (f"/{self._total:g}" if self._total else "")


class _Row(NamedTuple):
    """What is shown of one iteration, `elapsed` while it was the latest."""

    best: str
    tau: str
    ground_truths: float
    elapsed: str
    finished: bool


class SearchView:
    """A search: a table with a row for each iteration.

    An iteration fits a surrogate and then buys, so that no part of it tells what the rest will
    take: the time left is known by whole iterations. Before the first one has ended, the warm
    start, which fits nothing, tells the least that it can be.
    """

    def __init__(self, stage: SearchStage, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the search's clock; raises UserError where its unit is unknown."""
        self._stage, self._unit = stage, named(stage.unit)
        self._clock = clock
        self._warm_start, self._iterations = Pace(stage.total, 0, clock), Pace(0, 0, clock)
        self._rows: dict[int, _Row] = {}

    def advance(self, event: SearchAdvanced) -> None:
        """Take note of what was bought."""
        if event.iteration == 0:
            self._warm_start.advance(event.ground_truths)
            if event.finished:
                self._iterations = Pace(self._stage.total, event.ground_truths, self._clock)
        elif event.finished:
            self._iterations.advance(event.ground_truths)
        best = float(in_unit(event.best, self._unit.name))
        self._rows[event.iteration] = _Row(
            f"{best:#.4g}" if math.isfinite(best) else "-",
            f"{event.tau:.2f}" if math.isfinite(event.tau) else "-",
            event.ground_truths,
            self._warm_start.elapsed(),
            event.finished,
        )

    def over(self) -> bool:
        """Return whether the search has spent all it may and its last iteration is finished."""
        latest = list(self._rows.values())[-1:]
        return any(row.finished and row.ground_truths >= self._stage.total for row in latest)

    def heading(self) -> list[str]:
        """Return what the search is, and what stands in its columns."""
        noise = self._noise()
        lines = [wrapped(f"{self._stage.name}, best validation {self._unit.name}")]
        lines += [f"  {noise}"] if noise else []
        heads = ("iteration", "best", "tau", "ground truths", "elapsed", "left")
        return [*lines, _columns(heads)]

    def line(self) -> str:
        """Return the latest row."""
        if not self._rows:
            elapsed = self._warm_start.elapsed()
            return _columns(("warm start", "-", "-", f"0/{self._stage.total:g}", elapsed))
        index, row = list(self._rows.items())[-1]
        spent = f"{row.ground_truths:g}/{self._stage.total:g}"
        elapsed = self._warm_start.elapsed()
        return _columns((_name(index), row.best, row.tau, spent, elapsed, self._left()))

    def drawn(self, width: int) -> Any:
        """Return the table as rich draws it; it fits a terminal of any width."""
        from rich import table, text

        shown = table.Table(
            title=text.Text(self._stage.name, style="bold"),
            title_justify="left",
            caption=self._noise() or None,
            caption_justify="left",
        )
        heads = ("iteration", f"best {self._unit.name}", "tau")
        for head in (*heads, f"ground truths of {self._stage.total:g}", "elapsed", "left"):
            shown.add_column(head, justify="right")
        rows = list(self._rows.items())  # a copy: rich draws in a thread of its own
        for index, row in rows:
            latest = index == rows[-1][0]
            times = (self._warm_start.elapsed(), self._left()) if latest else (row.elapsed, "")
            if row.finished:
                times = (row.elapsed, times[1])
            style = None if row.finished else "cyan"
            cells = (_name(index), row.best, row.tau, f"{row.ground_truths:g}", *times)
            shown.add_row(*cells, style=style)
        return shown

    def _left(self) -> str:
        """Return the time left, in words that say how well it is known."""
        spent = list(self._rows.values())[-1].ground_truths
        ahead = self._stage.total - spent
        return self._iterations.left() or self._warm_start.at_least(ahead)

    def _noise(self) -> str:
        ceiling = self._stage.ceiling
        return "" if ceiling is None else f"noise ceiling of tau over random cells: {ceiling:.2f}"


def _name(index: int) -> str:
    return "warm start" if index == 0 else str(index)


def _columns(cells: tuple[str, ...]) -> str:
    """Return a row of the plain table, all but the last cell to the right."""
    widths = (12, 10, 6, 15, 9)
    padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=False)]
    return "".join(padded) + "".join(f"  {cell}" for cell in cells[5:] if cell)

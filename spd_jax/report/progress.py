"""How far a long job is: a live bar on a terminal, a plain line now and then elsewhere."""

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TextIO


class Progress:
    """Show a job's progress while a `with` block runs.

    On a terminal it is one live bar (rich's); in a file, in a pipe or without rich
    it is at most one line every `every` seconds, and a last one when the block ends.
    The time left is estimated from the work between the first call of `update` and
    the latest, so that neither what an earlier run did nor the time to start up counts.

    >>> with Progress("outer steps", 2, stream=sys.stdout) as progress:
    ...     for step in range(3):
    ...         progress.update(step)
    outer steps: 0/2 (0%), 0:00:00 elapsed
    outer steps: 2/2 (100%), 0:00:00 elapsed
    """

    def __init__(
        self,
        description: str,
        total: int,
        *,
        stream: TextIO | None = None,
        every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set a display up; nothing is shown before the block is entered.

        Args:
          description: what is counted, such as "outer steps".
          total: how many there are; 0 is a job without work.
          stream: where to show it; standard error when None.
          every: the least number of seconds between two plain lines.
          clock: returns seconds, and never goes back.
        """
        self._description = description
        self._total = total
        self._stream = sys.stderr if stream is None else stream
        self._every = every
        self._clock = clock
        self._done = 0
        self._text = ""
        self._started = clock()
        self._first: tuple[float, int] | None = None
        self._latest = self._started
        self._printed: float | None = None
        self._unprinted = False
        self._bar: Any = None

    def __enter__(self) -> Self:
        """Start the clock, and the bar on a terminal."""
        self._started = self._latest = self._clock()
        if is_terminal(self._stream):
            self._bar = _bar(self._stream, self.status)
        if self._bar is not None:
            self._bar.add_task(self._description, total=self._total, text="")
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the last state behind, whether the block succeeded or not."""
        if self._bar is not None:
            self._bar.stop()
        elif self._unprinted:
            self._print(self._clock())

    def update(self, done: int, text: str = "") -> None:
        """Tell how much is done.

        Call it once before the work starts, with 0 or with what an earlier run did:
        the time left is then known after the first piece of work. A `done` smaller
        than the last starts the estimate anew.

        Args:
          done: pieces of work that are done, of `total`.
          text: the latest figures, in a few words.
        """
        now = self._clock()
        if self._first is None or done < self._done:
            self._first = now, done
        self._done, self._text, self._latest = done, text, now
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, text=text)
            return
        self._unprinted = True
        if self._printed is None or now - self._printed >= self._every:
            self._print(now)

    def status(self) -> str:
        """Return elapsed time and, where it can be told, the time left: `0:01:05 elapsed, ...`."""
        now = self._clock()
        status = f"{_clock_face(now - self._started)} elapsed"
        left = self._seconds_left(now)
        return status if left is None else f"{status}, ~{_clock_face(left)} left"

    def _seconds_left(self, now: float) -> float | None:
        if self._first is None or self._done >= self._total:
            return None
        start, already = self._first
        if self._done == already:
            return None
        pace = (self._latest - start) / (self._done - already)
        return max(0.0, pace * (self._total - self._done) - (now - self._latest))

    def _print(self, now: float) -> None:
        share = f" ({self._done / self._total:.0%})" if self._total else ""
        count = f"{self._description}: {self._done}/{self._total}{share}"
        parts = [count, self.status(), *([self._text] if self._text else [])]
        print(", ".join(parts), file=self._stream, flush=True)
        self._printed, self._unprinted = now, False


def is_terminal(stream: TextIO) -> bool:
    """Return whether a live display makes sense there."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def _bar(stream: TextIO, status: Callable[[], str]) -> Any:
    """Return rich's bar, whose times come from `status`; None where rich is not installed."""
    try:
        from rich import console, progress, table, text
    except ImportError:
        return None

    class Status(progress.ProgressColumn):
        def render(self, task: progress.Task) -> text.Text:
            return text.Text(status(), style="progress.elapsed")

    class Figures(progress.ProgressColumn):
        # Only this column may shrink in a narrow terminal, and it never breaks the line.
        def render(self, task: progress.Task) -> text.Text:
            shown = task.fields["text"]
            return text.Text(shown, style="cyan", no_wrap=True, overflow="ellipsis")

    def rigid() -> table.Column:
        return table.Column(no_wrap=True)

    screen = console.Console(file=stream)
    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False, table_column=rigid()),
        progress.BarColumn(bar_width=20 if screen.width >= 100 else 10, table_column=rigid()),
        progress.MofNCompleteColumn(table_column=rigid()),
        Status(table_column=rigid()),
        Figures(),
        console=screen,
    )


def _clock_face(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"

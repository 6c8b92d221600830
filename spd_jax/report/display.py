"""Show what a study tells while it works: live on a terminal, plain lines elsewhere."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TextIO

from spd_jax.report.views import SearchView, StageView
from spd_jax.studies.events import Advanced, Event, SearchAdvanced, SearchStage, Stage

PATIENCE = 600.0  # seconds: the longest that plain lines are silent


class Display:
    """Listen to a study's events while a `with` block runs, and show where it is.

    On a terminal there is one live picture (rich's): a bar, or a search's table with the
    stage that it is at below it, which vanishes when the stage is over. In a file, in a pipe
    or without rich there are plain lines: at most one every `every` seconds, besides the first
    and the last of a stage and of an iteration. While nothing happens a line is repeated ever
    less often, so that one sees that the job lives.

    >>> with Display(sys.stdout) as show:
    ...     show(Stage("outer steps", 2, note="compiling"))
    ...     show(Advanced(1, "outer loss 0.135"))
    ...     show(Advanced(2, "outer loss 0.041"))
    outer steps: 0/2 (0%), 0:00 elapsed, compiling
    outer steps: 2/2 (100%), 0:00 elapsed, outer loss 0.041
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set a display up; nothing is shown before the first event.

        Args:
          stream: where to show it; standard error when None.
          every: the least number of seconds between two plain lines.
          clock: returns seconds, and never goes back.
        """
        self._stream = sys.stderr if stream is None else stream
        self._every, self._clock = every, clock
        self._search: SearchView | None = None
        self._stage: StageView | None = None
        self._console = _console(self._stream)
        self._live: Any = None
        self._printed, self._patience, self._news = -PATIENCE, every, False
        # Workers' results and the heartbeat come from threads of their own.
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        """Start the heartbeat of plain lines."""
        if self._console is None:
            self._heart.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the last state behind, whether the block succeeded or not."""
        self._closed.set()
        if self._heart.is_alive():
            self._heart.join()
        with self._lock:
            self._finish()

    def __call__(self, event: Event) -> None:
        """Show an event; raises UserError where a search has an unknown unit."""
        with self._lock:
            match event:
                case Stage():
                    self._enter_stage(StageView(event, self._clock))
                case Advanced():
                    if self._stage is not None:
                        self._stage.advance(event)
                        self._changed()
                case SearchStage():
                    view = SearchView(event, self._clock)
                    self._finish()
                    self._search = view
                    self._begin(view)
                case SearchAdvanced():
                    self._stage = None
                    if self._search is not None:
                        self._search.advance(event)
                        self._changed(urgent=event.finished)

    def _enter_stage(self, view: StageView) -> None:
        """Show a stage on its own, or below the search that it is a part of."""
        if self._search is not None and not self._search.over():
            self._stage = view
            self._changed()
            return
        self._finish()
        self._stage = view
        self._begin(view)

    def _begin(self, view: SearchView | StageView) -> None:
        if self._console is not None:
            self._live = _live(self._console, self._drawn)
            self._live.start()
            return
        for line in view.heading():
            print(line, file=self._stream)
        self._changed(urgent=True)

    def _finish(self) -> None:
        """Leave the last state of what is shown, if anything is."""
        if self._live is not None:
            if self._search is not None:
                self._stage = None  # a part of the search: what it did is in the table
            self._live.stop()
        elif self._news and (self._stage or self._search):
            self._print()
        self._search = self._stage = self._live = None
        self._news = False

    def _changed(self, urgent: bool = False) -> None:
        """Show the latest state, on plain streams only when it is time to."""
        if self._live is not None:
            self._live.refresh()
            return
        self._news, self._patience = True, self._every
        if urgent or self._clock() - self._printed >= self._every:
            self._print()

    def _print(self) -> None:
        if self._stage is not None:
            text = self._stage.line("  " if self._search else "")
        else:
            assert self._search is not None
            text = self._search.line()
        print(text, file=self._stream, flush=True)
        self._printed, self._news = self._clock(), False

    def _beat(self) -> None:
        """Say that the job lives, after `every` seconds of silence and then ever more rarely."""
        with contextlib.suppress(OSError, ValueError):  # nobody reads the stream any more
            while not self._closed.wait(self._every):
                with self._lock:
                    silent = self._clock() - self._printed
                    if (self._stage or self._search) and silent >= self._patience:
                        self._print()
                        self._patience = min(2 * self._patience, PATIENCE)

    def _drawn(self) -> Any:
        """Return what rich shall show, several times a second."""
        from rich import console

        views = [view for view in (self._search, self._stage) if view is not None]
        return console.Group(*(view.drawn(self._console.width) for view in views))


def _console(stream: TextIO) -> Any:
    """Return rich's console where a live display makes sense and rich is installed, else None."""
    if not stream.isatty() or os.environ.get("TERM") in ("dumb", "unknown"):
        return None
    try:
        from rich import console
    except ImportError:
        return None
    return console.Console(file=stream)


def _live(console: Any, drawn: Callable[[], Any]) -> Any:
    from rich import live

    return live.Live(get_renderable=drawn, console=console)

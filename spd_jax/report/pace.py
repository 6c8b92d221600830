"""How long a job has taken and how long it will: one estimate for every display."""

import collections
import time
from collections.abc import Callable

from spd_jax.report.text import clock_face

WINDOW = 24  # pieces of work that the estimate looks back on
READ = 0.01  # of the longest piece: what took less was read from somewhere, not worked for


class Pace:
    """Tells elapsed time and time left of a job that says now and then how much is done.

    What is done between two calls of `advance` is a piece of work. The first piece of a job
    often includes compiling, so it counts only while there is no other: the time left is then
    called "up to". From the second piece on, the pace is the mean over the latest pieces.
    Pieces that took next to no time were read from a ledger or a folder, and are left out.

    >>> seconds = iter([0, 84, 84, 100, 104])
    >>> pace = Pace(5, clock=lambda: next(seconds))
    >>> pace.advance(1)
    >>> pace.status()
    '1:24 elapsed, up to 5:36 left'
    >>> pace.advance(2)
    >>> pace.status()
    '1:44 elapsed, ~0:44 left'
    """

    def __init__(
        self, total: float, done: float = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start the clock.

        Args:
          total: how much there is to do, in any unit; 0 where nobody knows.
          done: how much of it an earlier run did, which says nothing about this run's pace.
          clock: returns seconds, and never goes back.
        """
        self._total, self._done, self._clock = total, done, clock
        self._began = self._latest = clock()
        # Seconds and amount of every piece.
        self._pieces: collections.deque[tuple[float, float]] = collections.deque(maxlen=WINDOW)

    def advance(self, done: float) -> None:
        """Tell how much is done; less than before starts the estimate anew."""
        if done == self._done:
            return
        now = self._clock()
        if done > self._done:
            self._pieces.append((now - self._latest, done - self._done))
        else:
            self._pieces.clear()
        self._done, self._latest = done, now

    def elapsed(self) -> str:
        """Return the time since the start, such as `1:05`."""
        return clock_face(self._clock() - self._began)

    def left(self, now: float | None = None) -> str:
        """Return the time left, such as `~0:48` or `up to 5:36`; empty where nobody knows."""
        pieces = self._measured()
        if not pieces or self._done >= self._total:
            return ""
        now = self._clock() if now is None else now
        seconds, amount = (sum(column) for column in zip(*pieces, strict=True))
        # The piece in progress shortens the wait, though never by more than a usual piece.
        running = min(now - self._latest, seconds / len(pieces))
        ahead = max(0.0, seconds / amount * (self._total - self._done) - running)
        return ("up to " if len(self._pieces) == 1 else "~") + clock_face(ahead)

    def at_least(self, amount: float) -> str:
        """Return what so much work takes at this pace, such as `at least 0:48`, or nothing."""
        pieces = self._measured() if amount > 0 and len(self._pieces) > 1 else []
        if not pieces:
            return ""
        seconds, done = (sum(column) for column in zip(*pieces, strict=True))
        return f"at least {clock_face(seconds / done * amount)}"

    def _measured(self) -> list[tuple[float, float]]:
        """Return the pieces that tell the pace; none where nothing was measured yet."""
        pieces = list(self._pieces)[1:] or list(self._pieces)
        longest = max((seconds for seconds, _ in pieces), default=0.0)
        pieces = [piece for piece in pieces if piece[0] >= READ * longest]
        return pieces if sum(seconds for seconds, _ in pieces) >= 1 else []

    def status(self) -> str:
        """Return both: `1:44 elapsed, ~0:48 left`."""
        now = self._clock()
        left = self.left(now)
        return f"{clock_face(now - self._began)} elapsed" + (f", {left} left" if left else "")

"""Entry points: flags become settings, settings go into one call. Run from a clone."""

import os
import signal
import sys
from typing import Any

INTERRUPTED = "interrupted: the same command goes on from here"
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def handle(handler: Any) -> None:
    """Let a handler have Ctrl-C and SIGTERM, unless whoever started the process ignores them."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def leave(number: int, frame: Any) -> None:
    """End at once: before anything has been begun, or after everything has been closed."""
    os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(128 + number)


if sys.argv[0] == "-m":  # `python -m experiments.name` imports this first, before what takes long
    handle(leave)

"""Entry points: flags become settings, settings go into one call. Run from a clone."""

import importlib.util
import os
import signal
import sys
from typing import Any

INTERRUPTED = "interrupted: the same command goes on from here"
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# What the library and the extra "experiments" install: names to install by names to import.
PACKAGES = {
    "absl": "absl-py", "chex": "chex", "distributed": "distributed", "flax": "flax", "jax": "jax",
    "matplotlib": "matplotlib", "numpy": "numpy", "optax": "optax", "pooch": "pooch",
    "rich": "rich", "scipy": "scipy", "sklearn": "scikit-learn",
}  # fmt: skip


def handle(handler: Any) -> None:
    """Let a handler have Ctrl-C and SIGTERM, unless whoever started the process ignores them."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def leave(number: int, frame: Any) -> None:
    """End at once: before anything has been begun, or after everything has been closed."""
    os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(128 + number)


def check_packages() -> None:
    """End with one sentence where a package is missing: not in the middle of a long run."""
    missing = [name for module, name in PACKAGES.items() if not importlib.util.find_spec(module)]
    if missing:
        sys.exit(f"error: an experiment needs {', '.join(missing)}: pip install '.[experiments]'")


if sys.argv[0] == "-m":  # `python -m experiments.name` imports this first, before what takes long
    handle(leave)
    check_packages()

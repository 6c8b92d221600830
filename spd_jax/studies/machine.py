"""What a run ran on: versions, devices, and the time that compiling took."""

import contextlib
import importlib.metadata
import math
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax

ROOT = pathlib.Path(__file__).resolve().parents[2]  # of the clone, where there is one
QUOTA = pathlib.Path("/sys/fs/cgroup/cpu.max")  # of a Linux container: CPU time, in what time
PACKAGES = (
    "spd_jax", "jax", "jaxlib", "flax", "optax", "numpy", "chex", "absl-py", "scipy",
    "scikit-learn",
)  # fmt: skip


def commit() -> str:
    """Return the commit of the clone, "-dirty" behind it when files differ, or "unknown"."""
    if not (ROOT / ".git").exists():  # installed: a repository around it would be another one
        return "unknown"
    described = _git("describe", "--always", "--abbrev=12")
    # `describe --dirty` writes git's index: a kill or a full disk there would lock the clone.
    changed = _git("--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
    return f"{described}-dirty" if described and changed else described or "unknown"


def _git(*arguments: str) -> str:
    """Return what git says about the clone; "" where there is no git."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip()


def cores() -> int:
    """Return how many CPU cores this process may use: by its affinity and its container's quota."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        allowed = os.cpu_count() or 1
    try:
        quota, period = QUOTA.read_text().split()
        return max(min(allowed, math.ceil(int(quota) / int(period))), 1)
    except (OSError, ValueError):  # no such file, or "max": no quota
        return allowed


def versions() -> dict[str, Any]:
    """Return packages, devices, commit and command, JSON-ready; a missing package is None."""
    return {
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": cores(),
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "commit": commit(),
        "command": command(),
    }


def command() -> str:
    """Return the command that runs, as it may be typed again."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = sys.argv[:1] if spec is None else ["-m", spec.name.removesuffix(".__main__")]
    return shlex.join(["python", *program, *sys.argv[1:]])


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


class CompileClock:
    """Counts the seconds that XLA spends compiling, so that they can be told from running."""

    def __init__(self) -> None:
        """Start to listen."""
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.seconds += duration_secs


COMPILE_CLOCK = CompileClock()


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the block's seconds to `name`, those of compiling apart to "compile"."""
    started, compiled = time.perf_counter(), COMPILE_CLOCK.seconds
    yield
    compiling = COMPILE_CLOCK.seconds - compiled
    seconds["compile"] += compiling
    seconds[name] = time.perf_counter() - started - compiling


def motif_sharding() -> jax.sharding.Sharding | None:
    """Return how a batch's motif axis is spread over all devices; `None` with one device."""
    if jax.device_count() == 1:
        return None
    mesh = jax.make_mesh(
        (jax.device_count(),), ("motif",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("motif"))

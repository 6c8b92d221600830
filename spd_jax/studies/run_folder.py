"""The folder of one run: what was asked, with which versions, and how to go on after a kill."""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import app, flags, logging

from spd_jax import files
from spd_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORKDIR = flags.DEFINE_string("workdir", None, "folder of this run; default runs/<experiment>")
DEVICES = flags.DEFINE_integer(
    "cpu_devices", os.cpu_count(), "host devices that motifs are spread over on CPU", lower_bound=1
)


def run_main(main: Callable[[Sequence[str]], None]) -> None:
    """Run an absl main; a user's mistake becomes one sentence and exit status 1."""

    def guarded(argv: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        if len(argv) > 1:
            sys.exit(f"error: {argv[1]!r} is no flag: write --name=value")
        jax.config.update("jax_num_cpu_devices", DEVICES.value)
        if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # the next run need not compile
            jax.config.update("jax_compilation_cache_dir", str(ROOT / ".jax_cache"))
        try:
            main(argv)
        except UserError as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            print("interrupted: the same command goes on from here", file=sys.stderr)
            sys.exit(130)

    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("experiments."):  # so that --help shows these, too
            for flag in defined:
                flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    app.run(guarded)


def commit() -> str:
    """Return the commit of the clone, "-dirty" behind it when files differ, or "unknown"."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


def versions() -> dict[str, Any]:
    """Return packages, device and commit, for versions.json."""
    names = ("jax", "jaxlib", "flax", "optax", "numpy", "chex", "absl-py", "scipy", "scikit-learn")
    return {
        "packages": {name: importlib.metadata.version(name) for name in names},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "commit": commit(),
    }


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


def motif_sharding() -> jax.sharding.Sharding | None:
    """Return how a batch's motif axis is spread over all devices; `None` with one device."""
    if jax.device_count() == 1:
        return None
    mesh = jax.make_mesh(
        (jax.device_count(),), ("motif",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("motif"))


def _refuse_changes(
    path: pathlib.Path, before: dict[str, Any], config: dict[str, Any], may_grow: Sequence[str]
) -> None:
    """Refuse to go on with other settings than before, and name those that differ."""
    names = sorted(before.keys() | config.keys())
    if 2 * len(before.keys() & config.keys()) < len(names):
        raise UserError(f"{path} holds a run of another experiment: use another --workdir")
    for name in names:
        old, new = before.get(name), config.get(name)
        if old == new or (name in may_grow and old is not None and new is not None and new >= old):
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            parts = sorted(old.keys() | new.keys())
            differ = (part for part in parts if old.get(part) != new.get(part))
            name = next(differ, name)  # none: a part that is None is absent in the other
            old, new = old.get(name), new.get(name)
        what = " (language model and text)" if name == "task" else ""
        raise UserError(
            f"{path} holds a run with {name}={old}, not {new}{what}: "
            "use its flags to go on with it, or another --workdir"
        )


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A `--workdir`. Everything in it is written in one piece."""

    path: pathlib.Path

    @classmethod
    def open(
        cls, workdir: str, config: dict[str, Any], may_grow: Sequence[str] = ()
    ) -> "RunFolder":
        """Begin a run, or go on with one of the same settings.

        Args:
          workdir: the folder; made when missing.
          config: JSON-ready settings, kept as config.json.
          may_grow: names of settings that may be larger than before: a larger
            budget extends the run.

        Raises:
          UserError: the folder cannot be written, or holds a run of other settings.
        """
        path = pathlib.Path(workdir)
        config = json.loads(json.dumps(config))
        saved = path / "config.json"
        if saved.exists():
            try:
                before = json.loads(saved.read_text())
                before.keys()
            except (OSError, ValueError, AttributeError) as error:
                raise UserError(
                    f"{saved} cannot be read: delete it to go on with the same flags as before, "
                    "or use another --workdir"
                ) from error
            _refuse_changes(path, before, config, may_grow)
        folder = cls(path)
        folder.write_json("config.json", config)
        folder.write_json("versions.json", versions())
        return folder

    def write_json(self, name: str, content: Any) -> pathlib.Path:
        """Write `content` to the file `name` of the folder."""
        files.write_text(self.path / name, json.dumps(content, indent=1, allow_nan=False) + "\n")
        return self.path / name

    def read_json(self, name: str) -> Any:
        """Return the content of the file `name`, or `None` when there is none."""
        path = self.path / name
        try:
            return json.loads(path.read_text()) if path.exists() else None
        except ValueError as error:
            raise UserError(f"{path} is damaged: delete it to compute it anew") from error

    def add_metrics(self, line: dict[str, Any]) -> None:
        """Append one JSON object to metrics.jsonl."""
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def keep_metrics(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Drop the lines that `keep` refuses: what a killed run did after its last saved state.

        A last line that the kill cut short is dropped too.
        """
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                if keep(json.loads(line)):
                    kept.append(line + "\n")
            except ValueError:
                continue
        files.write_text(path, "".join(kept))

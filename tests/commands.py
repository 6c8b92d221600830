"""Commands of one experiment, run one after the other in a process that all tests share.

Experiments define flags of the same names, so that each needs a process of its own; what its
commands compile is compiled once.
"""

import atexit
import functools
import json
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

import jax

ROOT = pathlib.Path(__file__).resolve().parents[1]
SERVER = """
import contextlib, importlib, io, json, sys
name = sys.argv.pop(1)
experiment = importlib.import_module(f"experiments.{name}")
from absl import app, flags
from absl.testing import flagsaver
import toy_widths
from experiments import launch

app.define_help_flags()  # absl defines them once, and flagsaver would take them away again
for line in sys.stdin:
    sys.argv[1:] = json.loads(line)
    output, errors, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        with flagsaver.flagsaver():
            try:
                flags.FLAGS.unparse_flags()
                launch.run_main(experiment.main)
            except SystemExit as end:
                code = end.code or 0
                if isinstance(code, str):  # Python itself would print it
                    errors.write(code + "\\n")
                    code = 1
            except Exception as error:
                code = 2
                errors.write(f"Traceback: {error!r}\\n")
    print(json.dumps([code, output.getvalue(), errors.getvalue()]), flush=True)
"""


class Done(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


def environment():
    """Return the variables of a process that compiles into the tests' cache."""
    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    }


@functools.cache
def _server(experiment):
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, experiment], cwd=ROOT, env=environment(), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    atexit.register(_end, process)
    return process


def _end(process):
    with process:
        process.stdin.close()


def run(experiment, *flags):
    """Run one command of an experiment."""
    process = _server(experiment)
    process.stdin.write(json.dumps(["--cpu_devices=1", *map(str, flags)]) + "\n")
    process.stdin.flush()
    return Done(*json.loads(process.stdout.readline()))


def contents(folder):
    """Return the bytes of every file below a folder, apart from locks."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path: path.read_bytes() for path in paths if not path.name.endswith("lock")}

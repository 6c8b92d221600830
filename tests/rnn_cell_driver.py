"""Experiments from their command lines, in processes of their own, on a tiny language model.

As a program, `rnn_cell_driver.py EXPERIMENT` runs one command for each line of JSON on its
standard input, and answers with a line of JSON. Experiments define flags of the same names, so
that each needs its own process; many commands share one, and what it compiled. A command logs
every evaluation, purchase, outer step and file to the file `log`.
"""

import atexit
import contextlib
import dataclasses
import functools
import importlib
import io
import json
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
TINY = {"hidden_size": 4, "epochs": 2, "train_tokens": 300, "eval_tokens": 150}
TINY |= {"batch_size": 4, "eval_batch_size": 4, "sequence_length": 8}
METHODS = ["dish_nao", "dish_ga", "dish_random", "nao", "ga", "random", "partial"]
DISH = ["--cpu_devices=1", "--inner_steps=2", "--train_samples=2", "--valid_samples=2"]
DISH += ["--num_dishes=2", "--hidden_size=1", "--outer_learning_rate=0.05"]
SEARCH = [*DISH, "--outer_steps=2", "--warm_start=5", "--proposals=5", "--evaluations=2"]
SEARCH += ["--iterations=2", "--seeds=1", "--nao_epochs=2"]


class Done(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


def write_text(folder):
    """Write a text of three parts in 12 letters and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["the", "cat", "saw", "a", "dog", "and", "ate", "his", "old", "hat", "on", "road"]
    words += ["at", "noon", "the"]
    state = 1
    for part, count in {"train": 120, "valid": 60, "test": 60}.items():
        lines = []
        for _ in range(count // 6):
            line = []
            for _ in range(6):
                state = 48271 * state % 2147483647
                line.append(words[state % len(words)])
            lines.append(" ".join(line))
        (folder / f"{part}.txt").write_text("\n".join(lines) + "\n")
    return folder


def environment():
    """Return the variables of a process that compiles into the tests' cache."""
    import jax

    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
    }


def begin(experiment):
    """Start a process for one experiment; it waits for commands."""
    return subprocess.Popen(
        [sys.executable, __file__, experiment],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def end(process):
    """End a process that waits for commands."""
    with process:
        process.stdin.close()


@functools.cache
def process_of(experiment):
    """Return the process that all tests of an experiment share."""
    process = begin(experiment)
    atexit.register(end, process)
    return process


def send(process, log, flags, **tiny):
    """Hand a command to a process; `tiny` changes the language model."""
    command = {"log": str(log), "flags": list(map(str, flags)), "tiny": TINY | tiny}
    process.stdin.write(json.dumps(command) + "\n")
    process.stdin.flush()


def run(experiment, *flags, log=os.devnull, **tiny):
    """Run one command in the experiment's shared process."""
    process = process_of(experiment)
    send(process, log, flags, **tiny)
    return Done(*json.loads(process.stdout.readline()))


def contents(folder):
    """Return the bytes of every file below a folder."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def events(log):
    """Return the whole lines of a log, split into words."""
    text = log.read_text() if log.exists() else ""
    return [line[:-1].split(" ") for line in text.splitlines(keepends=True) if line[-1] == "\n"]


def place(factory):
    """Return the folder that all tests of a session share, with `text` in it."""
    folder = factory.getbasetemp() / "rnn_cells"
    if not folder.exists():
        write_text(folder / "text")
    return folder


def finished(factory):
    """Return the folder of an uninterrupted search with all methods, and its log."""
    folder = place(factory)
    path, log = folder / "finished", folder / "finished.log"
    if not path.exists():
        flags = [*SEARCH, f"--data_dir={folder / 'text'}", f"--workdir={path}"]
        done = run("rnn_cell_search", *flags, log=log)
        assert done.code == 0, done.stderr
        (folder / "finished.stdout").write_text(done.stdout)
    return path, log


# The program


def log_to(write, files, ledger, task):
    """Make the experiment tell what it does, through `write`."""
    evaluate, put = task.evaluate, ledger.put
    replace, load, save = os.replace, files.load_pytree, files.save_pytree

    def logged_evaluate(self, cell, seed, budget):
        write("begin", cell.replace(" ", "_"), seed, budget)
        return evaluate(self, cell, seed, budget)

    def logged_put(self, key, evaluation):
        put(self, key, evaluation)
        write("put", key.cell.replace(" ", "_"), key.seed, key.budget)

    def logged_replace(source, target):
        write("write", pathlib.Path(target).name)
        replace(source, target)

    def logged_load(path, like, fingerprint=""):
        write("load", pathlib.Path(path).name)
        return load(path, like, fingerprint)

    def logged_save(path, tree, fingerprint=""):
        step = int(tree.step) if hasattr(tree, "step") else 0
        write("save", pathlib.Path(path).name, step)
        save(path, tree, fingerprint)

    task.evaluate, ledger.put, os.replace = logged_evaluate, logged_put, logged_replace
    files.load_pytree, files.save_pytree = logged_load, logged_save


def answer(experiment, command):
    """Run one command as `python -m experiments.NAME` would; return how it ended."""
    from absl import flags
    from absl.testing import flagsaver

    from experiments import launch

    sys.argv[1:] = command["flags"]
    output, errors, code = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        flagsaver.flagsaver(),
    ):
        try:
            flags.FLAGS.unparse_flags()
            launch.run_main(experiment.main)
        except SystemExit as end:  # a text is what Python itself would print
            if isinstance(end.code, str):
                errors.write(end.code + "\n")
            code = 1 if isinstance(end.code, str) else end.code or 0
        except Exception as error:
            code = 2
            errors.write(f"Traceback: {error!r}\n")
    return Done(code, output.getvalue(), errors.getvalue())


def main():
    experiment = importlib.import_module(f"experiments.{sys.argv[1]}")
    from spd_jax import files, ledger
    from spd_jax.trainers import language_model

    tiny, log = language_model.PRESETS["tiny"], None

    def write(*words):
        os.write(log, (" ".join(map(str, words)) + "\n").encode())

    log_to(write, files, ledger.Ledger, language_model.LanguageModelTask)
    for line in sys.stdin:
        command = json.loads(line)
        log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        write("start")
        language_model.PRESETS["tiny"] = dataclasses.replace(tiny, **command["tiny"])
        ended = answer(experiment, command)
        os.close(log)
        print(json.dumps(ended), flush=True)


if __name__ == "__main__":
    main()

"""One command of the experiment in a process of its own, at a tiny size, with a log of writes.

`forward_search_driver.py LOG FLAG...` runs it; each purchase is a line of LOG.
"""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
TINY = [
    "--filters=2", "--ops=max3,identity", "--transitions=0", "--halved", "--train_images=64",
    "--valid_images=50", "--test_images=50", "--batch_size=32", "--seed_epochs=1",
    "--weak_epochs=1", "--child_epochs=1", "--growths=2", "--cpu_devices=1",
]  # fmt: skip


def begin(log, *flags):
    """Start the experiment; its output is hidden, its errors are kept."""
    import jax

    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        [sys.executable, __file__, str(log), *TINY, *map(str, flags)],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def main():
    log = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    from experiments import forward_search, launch
    from spd_jax.forward_search import jobs
    from spd_jax.ledger import Ledger

    run, put = jobs.run, Ledger.put

    def logged_run(own, job):
        os.write(log, f"begin {own.seed} {job.name}\n".encode())
        return run(own, job)

    def logged_put(self, key, evaluation):
        put(self, key, evaluation)
        os.write(log, f"put {key.seed} {key.cell.replace(' ', '_')}\n".encode())

    jobs.run, Ledger.put = logged_run, logged_put
    launch.run_main(forward_search.main)


if __name__ == "__main__":
    main()

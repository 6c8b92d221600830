# %% [markdown]
# # A search on a cluster
#
# One machine is too slow once an evaluation takes an hour. The workers of a Dask cluster can train,
# on as many machines as there are, and nothing else changes: the ledger stays here. This page
# starts a scheduler and two workers as processes of this computer; on a real cluster you or SLURM
# start them, see `docs/cluster.md`. (It needs the extra `cluster`.)
#
# **A worker must be able to import your task.** So the task stands in a module of its own, and the
# workers find that module: here in the folder they are started in.

# %%
import json
import pathlib
import subprocess
import sys
import time

import jax
import spd_jax as spd

pathlib.Path("my_task.py").write_text("""
import os
import spd_jax as spd

class Train:
    budget, unit, fingerprint, answers_smaller_budgets = 1, "score", "my-task-1", False

    def evaluate(self, cell, seed, budget):  # yours trains a network
        score = -(float(cell) - 0.3) ** 2
        return spd.Evaluation("ok", score, test_score=score, info={"process": os.getpid()})
""")
sys.path.insert(0, "")
from my_task import Train


# %% [markdown]
# The scheduler writes its address into a file that the workers read. One thread for each worker: it
# has one cell at a time.


# %%
def started(program, *options):
    command = [sys.executable, "-m", f"distributed.cli.{program}", "--no-dashboard"]
    command += ["--scheduler-file=cluster.json", *options]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


cluster = [started("dask_scheduler", "--host=127.0.0.1", "--port=0")]
cluster += [started("dask_worker", "--nthreads=1") for _ in range(2)]
while not pathlib.Path("cluster.json").exists():
    time.sleep(0.1)
address = json.loads(pathlib.Path("cluster.json").read_text())["address"]

# %% [markdown]
# Where a count of workers stands otherwise (`workers=2`), the scheduler's address stands now. The
# space is one that ships, slopes from 0 to 2; a space of your own is another page.

# %%
try:
    space = spd.problems.get("sigmoid_slope").space
    config = spd.SearchConfig(warm_start=10, iterations=2, evaluations=5)
    with spd.Ledger("slopes.sqlite") as ledger:
        truth = spd.GroundTruth(space.name, Train(), ledger, workers=address)
        history = spd.run_search(jax.random.key(0), space, truth, spd.Genetic(), config=config)
        trained_by = {own.info["process"] for _, own in ledger.items()}
finally:
    for process in reversed(cluster):
        process.terminate()
        process.wait()
print(f"{int(history[-1].cost)} cells by {len(trained_by)} workers; best {spd.best(history).cell}")

# %% [markdown]
# Kill a worker meanwhile, and its cell goes to another. Kill this program, and the same command
# goes on with what the ledger holds: `python -m spd_jax.ledger list slopes.sqlite` shows it.

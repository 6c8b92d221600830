"""The experiments of the matrix of faults: their commands, what these read, the program.

As a program, `fault_commands.py EXPERIMENT FLAG...` runs one, more talkative than it is: every
purchase and every file is a line of the file FAULTS_LOG.
"""

import dataclasses
import importlib
import os
import pathlib
import resource
import sys
import time
import types
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import forward_search_driver as forward  # noqa: E402
import numpy as np  # noqa: E402
import rnn_cell_driver as driver  # noqa: E402

DISH = ["--inner_steps=2", "--train_samples=2", "--valid_samples=2", "--num_dishes=2"]
COMMANDS = {
    "sigmoid_slope": [
        "--compute_ground_truth", "--dataset=digits", "--ground_truth_epochs=2",
        "--ground_truth_seeds=2", "--num_seeds=2", "--preset=paper", "--num_train=6",
        "--inner_steps=4", "--outer_steps=6", "--num_dishes=2",
    ],
    "rnn_cell_search": [*driver.SEARCH, "--data_dir={place}/text"],
    "compare_surrogates": [
        *DISH, "--outer_steps=2", "--space=toy_widths", "--table={place}/table.csv", "--known=5,8",
        "--splits=4", "--held_out=12", "--proxy_hidden_size=2",
        "--surrogates=dish,dish_untrained,random_forest,gaussian_process,stacked",
    ],
    "search": [
        *DISH, "--space=toy_faults", "--outer_steps=2", "--hidden_size=1", "--warm_start=5",
        "--proposals=5", "--evaluations=2", "--iterations=2", "--seeds=1",
    ],
    "carry_over": [
        *DISH, "--source={place}/slopes.csv", "--target={place}/others.csv", "--known=0,5",
        "--num_seeds=4", "--outer_steps=2", "--more_steps=1", "--hidden_size=1",
        "--proxy_hidden_size=2",
    ],
    "ablation": [
        *DISH, "--problem=toy_widths", "--table={place}/table.csv", "--known=8", "--held_out=12",
        "--num_seeds=4", "--outer_steps=2", "--hidden_size=2",
        "--rows=base,no_outer_steps,outer_rate_x0.1,init_scale_x2",
    ],
    "image_cells": [
        "--preset=paper", "--table={place}/image_cells.csv", "--motif_network=C", "--stem=2",
        "--image_size=4", "--num_train=9", "--num_test=8", "--look_every=2", "--inner_steps=4",
        "--train_samples=10", "--valid_samples=10", "--inner_batch_size=5", "--outer_steps=4",
        "--short_epochs=1", "--motif_batch=3", "--num_dishes=1",
    ],
    "forward_search": forward.TINY,
    "buy_table": [
        "--problem=toy_faults", "--preset=formula", "--num_cells=25", "--num_seeds=2",
        "--cells_with_all_seeds=5",
    ],
    "tune": [
        *DISH, "--splits=2", "--draws=2", "--known=8", "--steps=2", "--every=1", "--random=0",
        "--candidates=init_scale=0.2,hidden_size=1,outer_loss=absolute_pearson",
    ],
}  # fmt: skip
WITH_WORKERS = ("rnn_cell_search", "buy_table", "search", "forward_search")
UNTOLD = ("config.json", "versions.json", "part.npz")  # which every process writes
KINDS = ["matches", "trials", "rows", "results", "records"]
PAID = ("put", *(f"write {kind}" for kind in KINDS))  # what a kill must not lose


def prepare(place: pathlib.Path) -> None:
    """Write what the commands read."""
    import image_cells_runs
    import jax
    from toy_widths import TOY, Formula

    from spd_jax.ledger import EvaluationKey
    from spd_jax.ledger import table as ledger_table

    driver.write_text(place / "text")
    space, task = TOY.space, Formula()
    names = dict.fromkeys(map(space.encode, space.sample(jax.random.key(5), 40)))
    keys = [EvaluationKey(space.name, cell, task.fingerprint, 0, 4) for cell in names]
    items = [(key, task.evaluate(key.cell, 0, 4)) for key in keys]
    ledger_table.write(place / "table.csv", items, {})
    image_cells_runs.write_table(place / "image_cells.csv")
    for name, peak in {"slopes": 0.5, "others": 0.7}.items():
        lines = [
            f"sigmoid_slope,{slope},0,{1 - (slope - peak) ** 2}"
            for slope in [0.1, 0.3, 0.45, 0.6, 0.8, 0.95, 1.1, 1.25, 1.4, 1.55, 1.7, 1.9]
        ]
        (place / f"{name}.csv").write_text("\n".join(["space,cell,seed,score", *lines, ""]))


# The program that is ill-treated


def child() -> None:
    """Run an experiment that writes every purchase and every file into the log, and more slowly."""
    import experiments

    experiments.handle(experiments.leave)
    name, log = sys.argv[1], os.open(os.environ["FAULTS_LOG"], os.O_WRONLY | os.O_APPEND)
    sys.argv = [f"experiments.{name}", "--cpu_devices=1", *sys.argv[2:]]
    experiment = importlib.import_module(f"experiments.{name}")
    if "FAULTS_LIMIT" in os.environ:
        size = int(os.environ["FAULTS_LIMIT"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    import toy_faults  # noqa: F401  (registers a problem)

    from experiments import launch
    from spd_jax.ledger import Ledger
    from spd_jax.trainers import language_model

    presets = language_model.PRESETS
    presets["tiny"] = dataclasses.replace(presets["tiny"], **driver.TINY)
    if name == "sigmoid_slope":
        slopes = np.array([0.05, 0.12, 0.2, 0.3, 0.4, 0.55, 0.7, 0.85, 1, 1.2, 1.4, 1.6, 1.8, 2])
        experiment.table_slopes = lambda: slopes
    put, replace = Ledger.put, os.replace

    def tell(*words: object) -> None:
        os.write(log, (" ".join(str(word).replace(" ", "_") for word in words) + "\n").encode())

    def told_put(ledger: Any, key: Any, evaluation: Any) -> None:
        put(ledger, key, evaluation)
        tell("put", *key)

    def told_replace(source: Any, target: Any) -> None:
        replace(source, target)
        path = pathlib.Path(target)
        if path.name not in UNTOLD and ".jax_cache" not in path.parts:
            tell("write", f"{path.parent.name}/{path.name}")

    Ledger.put, os.replace = told_put, told_replace  # type: ignore[method-assign]
    if os.environ.get("FAULTS_CLOCK"):
        turn_the_clock_back()
    launch.run_main(experiment.main)


def turn_the_clock_back() -> None:
    """Let every look at the time of day be a minute before the last one."""
    import datetime

    from spd_jax.ledger import store

    looks, now = iter(range(10**9)), time.time

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.datetime.now(tz) - datetime.timedelta(minutes=next(looks))

    store.datetime = types.SimpleNamespace(datetime=Clock, UTC=datetime.UTC)  # type: ignore
    time.time = lambda: now() - 60 * next(looks)


if __name__ == "__main__":
    child()

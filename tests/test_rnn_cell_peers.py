"""The recurrent-cell benchmark: its peers compute what the dish computes; a tiny run; its gate."""

import dataclasses
import functools
import importlib
import json
import os
import pathlib
import subprocess
import sys

import jax
import matplotlib.image
import numpy as np
import pytest

from experiments.benchmark import report_rnn_cell as report
from experiments.benchmark import rnn_cell as benchmark
from experiments.benchmark.peers import rnn_cell_problem as problems
from spd_jax.dish import losses
from spd_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
SIZES = {"samples": 3, "length": 4, "inputs": 5, "hidden": 2, "outputs": 6}


@functools.cache
def small_problem():
    """Draw a problem in which no two axes and no two arrays agree; its L2 factors are felt."""
    problem = problems.make(0, 4, 3, **SIZES)
    other = problems.make(1, 4, 3, **SIZES).state.data
    data = problem.state.data._replace(
        valid_inputs=other.valid_inputs, valid_labels=other.valid_labels
    )
    config = dataclasses.replace(
        problem.config, inner_l2=0.01, outer_l2=0.003, inner_learning_rate=0.05
    )
    state = dataclasses.replace(problem.state, data=data)
    return dataclasses.replace(problem, state=state, config=config)


@functools.cache
def answer_of_the_dish():
    return benchmark.dish_outer_gradient(small_problem())()


@pytest.mark.parametrize("name", benchmark.PEERS)
def test_losses_and_outer_gradient_are_those_of_the_dish(name):
    pytest.importorskip(benchmark.PEERS[name][1])
    peer = importlib.import_module(f"experiments.benchmark.peers.{name}")
    outer_gradient = peer.make_outer_gradient(small_problem())
    losses, gradient = outer_gradient()
    expected_losses, expected = answer_of_the_dish()
    assert np.ptp(expected_losses) > 1e-2
    np.testing.assert_allclose(losses, expected_losses, atol=1e-5)
    assert gradient.shape == (2, 3, 4, 5)
    for half, expected_half in zip(gradient, expected, strict=True):
        largest = np.abs(expected_half).max()
        assert largest > 1e-2
        np.testing.assert_allclose(half, expected_half, rtol=0, atol=1e-3 * largest)
    np.testing.assert_array_equal(outer_gradient()[0], losses)  # a call changes nothing


def test_the_outer_gradient_is_the_slope_of_the_outer_loss():
    """Finite differences of the dish's losses along the gradient, and along another direction."""
    problem = small_problem()
    _, gradient = answer_of_the_dish()

    def loss(inputs):
        data = problem.state.data._replace(
            train_inputs=inputs[0][None], valid_inputs=inputs[1][None]
        )
        moved = dataclasses.replace(problem, state=dataclasses.replace(problem.state, data=data))
        scores = -benchmark.dish_outer_gradient(moved)()[0]
        outer = losses.zscored_mse(scores, problem.ground_truth, np.ones(4, np.float32))
        return float(outer) + problem.config.outer_l2 * float(np.sum(np.square(inputs)))

    random = np.random.default_rng(0).standard_normal(gradient.shape)
    for direction in (gradient, random):
        unit = direction / np.linalg.norm(direction)
        ahead, behind = (problem.data + sign * 0.01 * unit for sign in (1, -1))
        slope = (loss(ahead.astype(np.float32)) - loss(behind.astype(np.float32))) / 0.02
        np.testing.assert_allclose(slope, np.sum(gradient * unit), rtol=0.02, atol=2e-3)


def test_another_answer_is_refused():
    good = np.ones(3), np.ones((2, 1, 1, 1))
    differences = benchmark.check_same("peer", good, good)
    assert differences == {"inner_loss_difference": 0, "outer_gradient_difference": 0}
    for wrong in (
        (good[0] + 2e-4, good[1]),
        (good[0], 1.02 * good[1]),
        (np.nan * good[0], good[1]),
    ):
        with pytest.raises(UserError, match="peer trains another dish"):
            benchmark.check_same("peer", wrong, good)


def run(folder, *flags):
    """Run the command in a process of its own, compiling fast rather than well."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-m", "experiments.benchmark", "--suite=rnn_cell", "--quick"]
    return subprocess.run(
        [*command, f"--workdir={folder}", *flags],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_tiny_run(tmp_path):
    done = run(tmp_path, "--cpu_devices=2", "--rnn_cell_outer_steps=7")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert json.loads(done.stdout.splitlines()[-1]) == summary
    assert (summary["suite"], summary["cells"], summary["outer_steps"]) == ("rnn_cell", 4, 7)
    rows = summary["peers"]["rows"]
    assert rows.keys() == {"this_dish", "this_dish_sharded", *benchmark.PEERS}
    reference = rows["this_dish"]["step_seconds"]["median"]
    for row in rows.values():
        assert row["label"] in done.stdout
        if row["status"] != "timed":
            assert row["library"] == "torch"
            continue
        assert len(row["step_seconds"]["values"]) == benchmark.QUICK.rounds
        assert row["step_seconds"]["median"] == pytest.approx(row["ratio"] * reference)
        assert row["seconds"]["median"] == pytest.approx(7 * row["step_seconds"]["median"])
        ours = row["label"].startswith("this dish")
        assert row["inner_steps_timed"] == (2 if ours else 1)
    assert summary["peers"]["bar"]["by"] == "this dish, 2 devices"
    for row in summary["ranking"]["rows"].values():
        rate = row["cells_per_second"]["median"]
        assert rate == pytest.approx(8 / row["seconds"]["median"], rel=0.5)
    assert report.tables(summary) in done.stdout
    assert matplotlib.image.imread(tmp_path / "benchmark.png")[..., :3].std() > 0.05


def test_bars_say_whether_they_are_met():
    bars = {
        "peers": {"outer_steps": 200, "bar": {"seconds": 300, "measured": 299.0, "by": "us"}},
        "ranking": {"bar": {"cells_per_second": 60, "measured": 59.0, "by": "us"}},
    }
    training, ranking = report._bars(bars)
    assert training.endswith("at most 300 s: met")
    assert ranking.endswith("at least 60: NOT met")


def test_a_mistake_is_one_sentence(tmp_path):
    done = run(tmp_path, "--parts=growth")
    assert done.returncode == 1
    assert done.stderr.strip() == "error: --parts=growth: give some of peers,ranking"


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"inner_steps": 2}, "peer_inner_steps=10 is more than inner_steps=2: give at most"),
        ({"cells": 1}, "cells=1: the outer loss compares at least 2"),
    ],
)
def test_sizes_that_cannot_be_measured_are_refused(sizes, words):
    with pytest.raises(UserError, match=words):
        benchmark.Plan(**sizes)

"""Members and motifs over a mesh of devices, and of processes that stand for hosts."""

import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from spd_jax import dish, problems
from spd_jax.dish import mesh
from spd_jax.errors import UserError

PROGRAM = pathlib.Path(__file__).with_name("mesh_process.py")


def free_port():
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        return taken.getsockname()[1]


def start(processes, number, port, devices):
    given = map(str, (PROGRAM, processes, number, port, devices))
    return subprocess.Popen(
        [sys.executable, "-W", "error", *given],
        cwd=PROGRAM.parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def numbers(process):
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors[-2000:]
    return np.array(output.splitlines()[-1].split(), float)  # Gloo talks before


def test_two_hosts_step_as_one_device_does():
    alone = start(1, 0, 0, 1)
    port = free_port()
    hosts = [start(2, number, port, 2) for number in range(2)]
    expected, *found = map(numbers, (alone, *hosts))
    assert expected.size == 16 + 2 + 60  # scores, losses, train inputs
    for host in found:
        np.testing.assert_allclose(host, expected, rtol=2e-3, atol=2e-3)


def test_what_does_not_divide_is_one_sentence():
    problem = problems.get("sigmoid_slope")
    config = dish.DishConfig(inner_steps=1, ensemble_size=3, train_samples=2, valid_samples=2)
    state = dish.init(jax.random.key(0), problem.family(1), config)
    archs = problem.space.sample(jax.random.key(1), 5)
    with pytest.raises(UserError, match=r"members=7 must be a whole number that divides"):
        mesh.make(7)
    pairs = jax.sharding.AbstractMesh((2, 1), ("member", "motif"))
    with pytest.raises(UserError, match="3 members cannot be divided over 2 groups"):
        mesh.divide(state, archs, pairs)
    pairs = jax.sharding.AbstractMesh((1, 2), ("member", "motif"))
    with pytest.raises(UserError, match="5 motifs cannot be divided over 2 groups"):
        mesh.divide(state, archs, pairs)

"""The benchmark: a tiny run from end to end, its gate, its count of arithmetic and its picture."""

import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys
from collections import Counter
from typing import ClassVar

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest

from experiments.benchmark import against_peers as benchmark_peers
from experiments.benchmark import limit as benchmark_limit
from experiments.benchmark import report
from experiments.benchmark.peers import naive_vmap
from experiments.benchmark.peers import problem as problems
from spd_jax.dish import DishConfig, inner_loop
from spd_jax.errors import UserError
from spd_jax.spaces import sigmoid_slope
from spd_jax.studies import machine

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(folder, *flags):
    """Run the command in a process of its own, compiling fast rather than well."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-m", "experiments.benchmark", "--quick", f"--workdir={folder}"]
    return subprocess.run(
        [*command, *flags], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the folder and the output of a quick run on two host devices."""
    folder = tmp_path_factory.mktemp("benchmark")
    done = run(folder, "--cpu_devices=2")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture
def summary(finished):
    return json.loads((finished[0] / "summary.json").read_text())


def numbers(tree):
    """Yield all numbers of a JSON value."""
    if isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from numbers(value)
    elif isinstance(tree, int | float) and not isinstance(tree, bool):
        yield tree


def check_spread(spread, count):
    assert len(spread["values"]) == count
    assert 0 < spread["q25"] <= spread["median"] <= spread["q75"]


def test_last_line_is_the_summary(finished, summary):
    assert json.loads(finished[1].splitlines()[-1]) == summary
    assert summary["suite"] == "sigmoid"
    assert summary["quick"] is True
    assert all(math.isfinite(n) and n >= 0 for n in numbers(summary))


def test_peers_are_timed_in_one_run(summary):
    peers = summary["peers"]
    names = {"this_dish", "this_dish_sharded", *benchmark_peers.PEERS}
    assert peers["rows"].keys() == names
    timed = [row for row in peers["rows"].values() if row["status"] == "timed"]
    assert len(timed) >= 5
    reference = peers["rows"]["this_dish"]["seconds"]["median"]
    for row in timed:
        check_spread(row["seconds"], peers["rounds"])
        assert 1 <= row["steps_timed"] <= peers["outer_steps"]
        assert row["ratio"] == pytest.approx(row["seconds"]["median"] / reference)
        assert row["inner_loss_difference"] <= benchmark_peers.TOLERANCE
        assert (row["compile_seconds"] is None) == (row["library"] != "jax")


def test_growth_has_a_row_for_every_size(summary):
    growth = summary["growth"]
    for name, axis in (("predict", "motifs"), ("fit", "motifs"), ("ensemble", "dishes")):
        assert growth[name]
        for row in growth[name]:
            check_spread(row["seconds"], growth["rounds"])
            assert row["compile_seconds"] > 0
            assert row[axis] > 0
    for row in growth["unroll"]:
        ratio = row["nested"]["seconds"]["median"] / row["step"]["seconds"]["median"]
        assert row["nested_over_step"] == pytest.approx(ratio)
    counts = [row["devices"] for row in growth["devices"]]
    assert counts == ([1, 2] if machine.cores() > 1 else [1])  # 18 motifs
    for row in growth["devices"]:
        check_spread(row["predict"]["seconds"], growth["rounds"] * growth["device_rounds"])
    assert growth["unroll"][-1]["nested"]["temp_mib"] < growth["unroll"][-1]["step"]["temp_mib"]


def test_limit_compares_with_the_machine(summary):
    for part in summary["limit"]["programs"].values():
        achieved, attainable = part["achieved_gop_per_second"], part["attainable_gop_per_second"]
        assert part["arithmetic_share"] == pytest.approx(achieved / attainable)
        assert 0 < part["arithmetic_share"] < 1.5
        assert part["operations_per_step"] == sum(part["arithmetic_per_step"].values())
        assert part["bound"] in ("arithmetic", "bytes")


def test_tables_are_printed(finished, summary):
    assert report.tables(summary) in finished[1]
    for row in summary["peers"]["rows"].values():
        assert row["label"] in finished[1]


def test_picture_is_not_blank(finished):
    image = matplotlib.image.imread(finished[0] / "benchmark.png")[..., :3]
    assert min(image.shape[:2]) > 600
    assert image.std() > 0.05


def test_picture_of_one_part(summary, tmp_path):
    for part in ("peers", "growth", "limit"):
        (tmp_path / "summary.json").write_text(json.dumps({part: summary[part]}))
        assert matplotlib.image.imread(report.draw(tmp_path)).std() > 0.05
    (tmp_path / "summary.json").write_text('{"peers": {}}')
    with pytest.raises(UserError, match="no benchmark"):
        report.draw(tmp_path)


def test_a_missing_library_is_a_plain_row(monkeypatch, summary):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "experiments.benchmark.peers.torch_eager", raising=False)
    monkeypatch.delattr("experiments.benchmark.peers.torch_eager", raising=False)
    assert benchmark_peers.contestants(4)["torch_eager"][2] is None
    row = summary["peers"]["rows"]["torch_eager"]
    missing = {name: row[name] for name in ("label", "library")}
    summary["peers"]["rows"]["torch_eager"] = missing | {"status": "not installed (make bench)"}
    assert "not installed (make bench)" in report.tables(summary)
    assert report.picture(summary).axes


def test_an_unknown_part_is_refused(tmp_path):
    done = run(tmp_path, "--parts=speed")
    assert done.returncode == 1
    assert done.stderr.strip() == "error: --parts=speed: give some of peers,growth,limit"


@pytest.fixture
def alone(monkeypatch):
    """Let one peer be the only contestant, so that the others need not be compiled."""
    row = benchmark_peers.contestants(4)["naive_vmap"]
    monkeypatch.setattr(benchmark_peers, "contestants", lambda motifs: {"naive_vmap": row})


def test_a_wrong_peer_is_refused(alone, monkeypatch):
    right = naive_vmap.inner_losses
    monkeypatch.setattr(naive_vmap, "inner_losses", lambda problem: right(problem) + 2e-4)
    with pytest.raises(UserError, match="naive_vmap trains another dish"):
        benchmark_peers.measure(benchmark_peers.QUICK)


def test_a_peer_with_nan_is_refused():
    with pytest.raises(UserError, match="trains another dish"):
        benchmark_peers.check_inner_losses("peer", np.array([np.nan, 1]), np.ones(2))


def test_a_wrong_outer_loss_is_refused(alone, monkeypatch):
    monkeypatch.setattr(naive_vmap, "make_outer_step", lambda problem: lambda: 17.0)
    with pytest.raises(UserError, match="first outer loss"):
        benchmark_peers.measure(benchmark_peers.QUICK)


def test_this_dish_solves_the_peers_problem():
    problem = problems.make(3, 5, samples=4, inputs=6, hidden=2, outputs=3, inner_steps=7)
    problem = dataclasses.replace(problem, valid_inputs=problem.valid_inputs[:, ::-1].copy())
    dish = benchmark_peers.ThisDish()
    np.testing.assert_allclose(
        dish.inner_losses(problem), naive_vmap.inner_losses(problem), atol=1e-5
    )
    ours, expected = dish.make_outer_step(problem), naive_vmap.make_outer_step(problem)
    for _ in range(2):
        assert ours() == pytest.approx(expected(), rel=1e-3)


class Counted(float):
    """A number that counts what is done to it."""

    done: ClassVar[Counter] = Counter()

    def _do(kind, function):  # noqa: N805
        def method(self, *others):
            Counted.done[kind] += 1
            return Counted(function(float(self), *map(float, others)))

        return method

    __add__ = _do("simple", lambda a, b: a + b)
    __sub__ = _do("simple", lambda a, b: a - b)
    __mul__ = _do("simple", lambda a, b: a * b)
    __rsub__ = _do("simple", lambda a, b: b - a)
    __rmul__ = __mul__
    __truediv__ = _do("divide", lambda a, b: a / b)
    exp = _do("exp", math.exp)
    sqrt = _do("sqrt", math.sqrt)


def total(values):
    """Add up without a start from 0, which would count."""
    first, *others = values
    for value in others:
        first = first + value
    return first


def scalar_inner_step(layers, slope, inputs, labels, correction):
    """Take one inner step number by number, with `Counted` numbers; return the parameters."""
    one, hidden, before = Counted(1), inputs, []
    for depth, (weight, bias) in enumerate(layers):
        before.append(hidden)
        columns = list(zip(*weight, strict=True))
        hidden = [
            [
                total([*(h * w for h, w in zip(row, column, strict=True)), b])
                for column, b in zip(columns, bias, strict=True)
            ]
            for row in hidden
        ]
        squash = (lambda z: z) if depth == 2 else (lambda z: slope * z)
        hidden = [[one / (one + Counted(-float(squash(z))).exp()) for z in row] for row in hidden]
    scale = Counted(1 / (len(labels) * len(labels[0])))
    delta = [
        [(p - y) * scale for p, y in zip(*rows, strict=True)]
        for rows in zip(hidden, labels, strict=True)
    ]
    gradients = []
    for depth in (2, 1, 0):
        weight = layers[depth][0]
        by_column = list(zip(*delta, strict=True))
        below = list(zip(*before[depth], strict=True))
        by_weight = [
            [total([h * d for h, d in zip(hs, ds, strict=True)]) for ds in by_column]
            for hs in below
        ]
        gradients.append((by_weight, [total(ds) for ds in by_column]))
        if depth:
            delta = [
                [
                    total([d * w for d, w in zip(ds, ws, strict=True)]) * (slope * (h * (one - h)))
                    for ws, h in zip(weight, hs, strict=True)
                ]
                for ds, hs in zip(delta, before[depth], strict=True)
            ]
    flat = [
        (p, g)
        for (weight, bias), (by_weight, by_bias) in zip(layers, gradients[::-1], strict=True)
        for rows in ((bias, by_bias), *zip(weight, by_weight, strict=True))
        for p, g in zip(*rows, strict=True)
    ]
    return [scalar_adam(p, g, *correction) for p, g in flat]


def scalar_adam(theta, gradient, mu_correction, nu_correction):
    config, zero = DishConfig(), Counted(0)
    gradient = gradient + Counted(2 * config.inner_l2) * theta
    mu = 0.9 * zero + 0.1 * gradient
    nu = 0.999 * zero + 0.001 * (gradient * gradient)
    size = (nu_correction * nu + 1e-16).sqrt() + 1e-8
    return theta - Counted(config.inner_learning_rate * mu_correction) * mu / size


@pytest.mark.parametrize("sizes", [(2, 3, 2, 4), (3, 1, 4, 2)])
def test_arithmetic_of_an_inner_step_number_by_number(sizes):
    inputs, hidden, outputs, samples = sizes
    problem = problems.make(
        0, 1, samples=samples, inputs=inputs, hidden=hidden, outputs=outputs, inner_steps=1
    )
    numbers = [
        np.vectorize(Counted, otypes=[object])(array).tolist()
        for array in (*problem.weights, problem.train_inputs, problem.train_labels)
    ]
    layers = list(zip(numbers[0:6:2], numbers[1:6:2], strict=True))
    Counted.done = Counter()
    slope = Counted(problem.slopes[0])
    found = scalar_inner_step(layers, slope, *numbers[6:], (1 / 0.1, Counted(1 / 0.001)))
    assert Counted.done == benchmark_limit.inner_step_arithmetic(*sizes)
    family, config, state = benchmark_peers.dish_of(problem)
    params, data = jax.tree.map(lambda x: x[0], (state.params, state.data))
    trained = inner_loop.train(family, config, params, problem.slopes[0], data, state.key)
    expected = jax.flatten_util.ravel_pytree(trained)[0]
    np.testing.assert_allclose(np.array(found, float), expected, atol=1e-5)


def test_the_programs_arithmetic_is_little_more_than_the_least():
    config = DishConfig(inner_steps=3, remat="step")
    family = sigmoid_slope.family()
    params, archs = family.init(jax.random.key(0)), jnp.linspace(0.1, 2, 8)
    data = inner_loop.SyntheticData(*[jnp.ones((10, 10))] * 4)

    def train(arch):
        return inner_loop.train(family, config, params, arch, data, jax.random.key(0))

    (body,) = benchmark_limit.scan_bodies(jax.make_jaxpr(jax.vmap(train))(archs).jaxpr)
    least = benchmark_limit.inner_step_arithmetic(10, 1, 10, 10)
    found = benchmark_limit.count(body)
    for kind, number in least.items():
        assert number <= found[kind] / len(archs) <= 1.1 * number
    both = benchmark_limit.outer_gradient_arithmetic(config, len(archs))
    assert 2 < both.total() / len(archs) / least.total() < 5


def test_count_by_hand():
    def function(x, y):
        jnp.exp(y)  # dead
        start = jnp.sqrt(x @ y) + 1
        return jax.lax.scan(lambda z, _: (z / 2, None), start, length=5)[0].sum()

    jaxpr = jax.make_jaxpr(function)(jnp.ones((2, 3)), jnp.ones((3, 4))).jaxpr
    assert benchmark_limit.count(jaxpr) == {
        "simple": 2 * 4 * 5 + 8 + 7,
        "sqrt": 8,
        "divide": 5 * 8,
    }


def test_the_kernel_has_the_programs_mix():
    least = benchmark_limit.inner_step_arithmetic(10, 1, 10, 10)
    mix = benchmark_limit.mix_of(least)
    jaxpr = jax.make_jaxpr(lambda x: benchmark_limit.mixed(x, 0.1, 0.1, mix))(jnp.ones(1)).jaxpr
    found = benchmark_limit.count(jaxpr)
    for kind, number in least.items():
        assert found[kind] / found.total() == pytest.approx(number / least.total(), rel=0.05)

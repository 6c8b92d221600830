"""The benchmark of forward search at a tiny size, and what it does with ways that disagree."""

import numpy as np
import pytest

from experiments.benchmark import forward_search as benchmark
from experiments.benchmark import report_forward_search as report
from spd_jax.errors import UserError
from spd_jax.forward_search.ops import CONV_FORMS


def test_every_form_is_timed():
    own = benchmark.measure(benchmark.QUICK, "seed")
    assert set(CONV_FORMS) <= set(own["seconds"])
    for name, seconds in own["seconds"].items():
        wanted = np.divide(own["batch"], seconds["values"])
        assert own["images_per_second"][name]["values"] == pytest.approx(wanted)
    text = report.tables({"seed": own})
    assert all(form in text for form in CONV_FORMS)


def test_the_bar_is_about_the_slowest_phase_in_its_fastest_form():
    def seconds(*values):
        names = ("composed", "grouped", benchmark.TORCH)
        return {name: {"median": x, "values": [x]} for name, x in zip(names, values, strict=True)}

    net = {
        "multiply_adds": 1e6, "torch_threads": 1, "images_per_second": seconds(1.0, 1.0, 1.0),
        "batch": 8, "rounds": 1, "bar": 1.0,
    }  # fmt: skip
    nets = {
        "seed": net | {"seconds": seconds(1.0, 2.0, 3.0)},
        "weak": net | {"seconds": seconds(4.0, 2.0, 1.0)},
    }
    assert "0.50 x PyTorch's, at least 1: NOT met" in report.tables(nets)
    nets.pop("weak")
    assert "3.00 x PyTorch's, at least 1: met" in report.tables(nets)


def test_ways_that_disagree_are_not_timed():
    right = {"stem/kernel": 1.0, "head/dense": 2.0, "alpha/normal": 3.0, "cell0/eta": 4.0}
    near = {path: own * 1.0005 for path, own in right.items()} | {"cell0/eta": 9.0}
    benchmark.check_same({"one": (1.0, right), "two": (1.0005, near)})
    for path in ("stem/kernel", "head/dense", "alpha/normal"):
        with pytest.raises(UserError, match="two and one disagree"):
            benchmark.check_same({"one": (1.0, right), "two": (1.0, near | {path: 9.0})})
    with pytest.raises(UserError, match="two and one disagree"):
        benchmark.check_same({"one": (1.0, right), "two": (1.1, near)})

"""The benchmark of image cells on tiny dishes: what it measures, what it says, and its gate."""

import json
import math

import numpy as np
import pytest

from experiments.benchmark import image_cells as benchmark
from experiments.benchmark import report_image_cells as report
from spd_jax.dish import DishConfig
from spd_jax.errors import UserError
from spd_jax.problems import nasbench201
from spd_jax.spaces.image_network import Skeleton

SMALL = Skeleton(stacks=1, cells=1, stem=1, image_size=4)
CONFIG = DishConfig(
    inner_steps=2, outer_steps=7, train_samples=10, valid_samples=10, motif_batch=3,
    inner_loss="softmax_cross_entropy", inner_metric="standardised_loss",
)  # fmt: skip


@pytest.fixture(scope="module")
def measured():
    with pytest.MonkeyPatch.context() as patch:
        family = nasbench201.network.family(SMALL)
        dishes = {"first": (family, CONFIG), "second": (family, CONFIG)}
        patch.setattr(benchmark, "dishes", lambda: dishes)
        return {
            "query": benchmark.measure_query(benchmark.QUICK),
            "fit": benchmark.measure_fit(benchmark.QUICK),
        }


def test_every_dish_is_timed_and_the_plain_way_beside_the_first(measured):
    query = measured["query"]
    assert list(query["rows"]) == ["first", "vmapped", "second"]
    for row in query["rows"].values():
        each = np.divide(row["seconds"]["values"], benchmark.QUICK.ranked_cells)
        np.testing.assert_allclose(row["seconds_per_cell"]["values"], each)
        assert row["seconds"]["median"] > 0
    assert query["rows"]["first"]["ratio"] == 1
    slower = max(query["rows"][name]["seconds_per_cell"]["median"] for name in ("first", "second"))
    assert query["bar"] == {"seconds_per_cell": 0.3, "measured": slower}


def test_a_fit_takes_all_outer_steps(measured):
    fit = measured["fit"]
    np.testing.assert_allclose(
        fit["seconds"]["values"], np.multiply(7, fit["step_seconds"]["values"])
    )
    assert fit["outer_steps"] == 7
    assert fit["bar"]["measured"] == fit["seconds"]["median"]
    # Table 2 of the paper: 6 cells x 170 outer steps x 100 epochs of 3.471 s.
    assert fit["paper_seconds"]["B"] == pytest.approx(354_042)


def test_the_tables_say_whether_the_bars_are_met(measured):
    text = report.tables(measured)
    assert "the same, vmapped over cells" in text
    assert max(map(len, text.splitlines())) <= 80
    assert json.loads(json.dumps(measured, allow_nan=False)) == measured
    measured = json.loads(json.dumps(measured))
    measured["query"]["bar"]["measured"], measured["fit"]["bar"]["measured"] = 0.31, 1799.0
    lines = report.tables(measured).splitlines()
    assert lines[-2].endswith("at most 0.3: NOT met")
    assert lines[-1].endswith(": met")


def test_the_dishes_are_those_of_preset_best():
    found = benchmark.dishes()
    problem = nasbench201.problem()
    assert found["first"][1] == problem.dish_presets["best"]
    assert found["second"][1] == problem.second_dish.config


def test_other_scores_are_refused():
    scores = np.append(np.linspace(0, 1, 19), np.nan)
    benchmark.check_same(scores + 1e-5, scores)
    odd = scores.copy()
    odd[:2] += 0.3
    benchmark.check_same(odd, scores)  # one in ten
    odd[2] += 0.3
    for other in (odd, np.nan_to_num(scores + 1e-2), np.full(20, math.inf)):
        with pytest.raises(UserError, match="of the cells differently"):
            benchmark.check_same(other, scores)

"""report.search: what figure 3 and the scatters draw, and the table of a comparison."""

import itertools
import math
from typing import NamedTuple

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgba

from spd_jax.errors import UserError
from spd_jax.report import search as report
from spd_jax.report import style
from spd_jax.report.search import LOOKS, curve, figure3, looks, pictures, results, scatter
from spd_jax.search.record import Iteration

BITS = "bits per character"
LN2 = math.log(2)


class Method(NamedTuple):
    label: str
    uses_dish: bool


METHODS = {
    "dish_nao": Method("dish + NAO", True),
    "dish_ga": Method("dish + GA", True),
    "dish_random": Method("dish + random", True),
    "nao": Method("NAO", False),
    "ga": Method("GA", False),
    "random": Method("random", False),
    "partial": Method("partial training", False),
    "mine": Method("my method", False),
}


def iteration(index, scores, predicted=None, *, tau=math.nan, cost=0.0, tests=None):
    scores = np.array(scores, float)
    predicted = np.full(len(scores), np.nan) if predicted is None else np.array(predicted, float)
    cells = tuple(f"{index}.{k}" for k in range(len(scores)))
    tests = scores if tests is None else np.array(tests, float)
    return Iteration(index, cells, predicted, scores, tests, tau, cost, 1.0)


def record(costs, tests):
    """Return a search whose best cell so far has these test scores; each buys a better one."""
    return [
        iteration(k, [-9 + 0.01 * k], cost=cost, tests=[test])
        for k, (cost, test) in enumerate(zip(costs, tests, strict=True))
    ]


def searches(runs=5, names=tuple(LOOKS)):
    """Return searches of three iterations; the one by partial training stops at another cost."""
    rng = np.random.default_rng(0)
    start = rng.normal(-1.42, 0.01, runs)
    found = {}
    for rank, name in enumerate(names):
        costs = np.array([40, 60, 80, 100]) + (8.25 * np.arange(4) if name == "partial" else 0)
        gains = np.cumsum(rng.uniform(0, 0.02 / (1 + rank), (runs, 4)), axis=1) * (costs > 40)
        found |= {(name, i): record(costs, start[i] + gains[i]) for i in range(runs)}
    return found


def of(records, name):
    return [own for (method, _), own in records.items() if method == name]


def line(axes, words):
    (own,) = [line for line in axes.lines if line.get_label() == words]
    return own


def words_of(axes):
    return [text.get_text() for text in axes.texts]


runs_of_points = st.lists(
    st.lists(st.tuples(st.integers(0, 30), st.floats(-5, 0)), min_size=1, max_size=6),
    min_size=1,
    max_size=4,
)


@given(runs_of_points)
@settings(max_examples=60)
def test_the_mean_curve_against_a_loop(drawn):
    drawn = [sorted(dict(run).items()) for run in drawn]
    found = curve([record(*zip(*run, strict=True)) for run in drawn], "score")
    assert found.ground_truths.tolist() == sorted({cost for run in drawn for cost, _ in run})
    for place, cost in enumerate(found.ground_truths):
        values = [[score for own, score in run if own <= cost] for run in drawn]
        if not all(values):
            assert np.isnan([found.mean[place], found.low[place], found.high[place]]).all()
            continue
        latest = [own[-1] for own in values]
        mean = sum(latest) / len(latest)
        squares = sum((value - mean) ** 2 for value in latest)
        std = math.sqrt(squares / max(len(latest) - 1, 1)) if len(drawn) > 1 else 0
        assert found.mean[place] == pytest.approx(mean)
        ends = (found.low[place], found.high[place])
        assert ends == pytest.approx((mean - std, mean + std), abs=1e-6)


def test_the_band_is_a_standard_deviation():
    runs = [record([1, 2], [-LN2, -LN2]), record([1, 2], [-3 * LN2, math.nan])]
    found = curve(runs, BITS)
    half = math.sqrt(2)
    assert found.mean == pytest.approx([2, math.nan], nan_ok=True)
    assert found.low == pytest.approx([2 - half, math.nan], nan_ok=True)
    assert found.high == pytest.approx([2 + half, math.nan], nan_ok=True)
    alone = curve(runs[:1], BITS)
    assert alone.low.tolist() == alone.high.tolist() == alone.mean.tolist()


def test_figure3_draws_the_mean_of_every_method():
    drawn = searches()
    axes = figure3(drawn, METHODS, BITS, warm_start=40).axes[0]
    for name, (colour, _) in LOOKS.items():
        label, uses_dish = METHODS[name]
        own = line(axes, label)
        assert own.get_drawstyle() == "steps-post"
        assert to_rgba(own.get_color()) == to_rgba(colour)
        assert (own.get_linestyle() == "-") == uses_dish
        x, y = own.get_data()
        runs = of(drawn, name)
        assert x[:-1].tolist() == [iteration.cost for iteration in runs[0]]
        expected = [np.mean([-run[k].test_scores[0] / LN2 for run in runs]) for k in range(4)]
        assert y.tolist() == pytest.approx([*expected, expected[-1]])
        assert f"{label}  {expected[-1]:#.4g}" in words_of(axes)
    assert axes.get_ylabel() == "bits per character, lower is better"
    assert "ground truths" in axes.get_xlabel()


def test_figure3_draws_the_spread_on_the_treads():
    drawn = searches()
    figure = figure3(drawn, METHODS, BITS, warm_start=40)
    axes = figure.axes[0]
    assert len(axes.collections) == len(LOOKS)
    for whiskers, name in zip(axes.collections, LOOKS, strict=True):
        runs = of(drawn, name)
        for k, segment in enumerate(whiskers.get_segments()):
            values = [-run[k].test_scores[0] / LN2 for run in runs]
            mean, std = np.mean(values), np.std(values, ddof=1)
            assert segment[:, 1].tolist() == pytest.approx([mean - std, mean + std])
            assert 0 < segment[0, 0] - runs[0][k].cost < 20
    at_start = [whiskers.get_segments()[0][0, 0] for whiskers in axes.collections]
    assert len(set(at_start)) == len(LOOKS)
    (caption,) = (text.get_text() for text in figure.texts)
    bars = "bars: ± one standard deviation, side by side."
    assert caption.startswith(f"Lines: mean of 5 runs; {bars}")


def test_figure3_labels_and_title_do_not_overlap_and_stay_inside():
    drawn = {(name, 0): record([40, 100], [-1.4, -1.3]) for name in LOOKS}
    title = "A data set with a long name, medium language model: test result of the cell that is "
    figure = figure3(drawn, METHODS, "perplexity", title=title + "best on validation")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in [*axes.texts, axes._left_title]]
    assert len(boxes) == len(LOOKS) + 1
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert all(box.y1 <= figure.bbox.y1 for box in boxes)
    assert "mean of 1 run." in figure.texts[0].get_text()


def test_figure3_with_a_point_for_every_ground_truth():
    costs = np.arange(1, 101)
    scores = np.maximum.accumulate(np.random.default_rng(0).normal(-4.2, 0.1, 100))
    scores[:3] = [-9, -8, -7]
    figure = figure3({("ga", 0): record(costs, scores)}, METHODS, "perplexity", warm_start=40)
    axes = figure.axes[0]
    assert axes.get_ylim()[1] < math.exp(-scores[39]) + 5  # the warm start does not stretch it
    assert len(axes.collections[0].get_segments()) == 4
    (marks,) = [own for own in axes.lines if own.get_marker() == "s"]
    x, y = line(axes, "GA").get_data()
    expected = [y[np.searchsorted(x, place, side="right") - 1] for place in marks.get_xdata()]
    assert marks.get_ydata().tolist() == expected
    assert "warm start, shared" in words_of(axes)


def test_figure3_of_failures_and_of_methods_nobody_knows():
    nothing = [iteration(0, [math.nan], cost=40), iteration(1, [math.nan], cost=60)]
    drawn = {("ga", 0): nothing}
    drawn |= {("mine", 0): record([40], [-1]), ("mine", 1): record([40], [-2])}
    figure = figure3(drawn, METHODS, "score")
    (axes,) = figure.axes
    assert "GA: no result" in words_of(axes)
    assert "my method  -1.500" in words_of(axes)
    assert np.isfinite(axes.get_ylim()).all()
    assert axes.get_ylabel() == "score, higher is better"
    assert "mean of 1 to 2 runs" in figure.texts[0].get_text()
    assert np.isfinite(figure3({("ga", 0): nothing}, METHODS, BITS).axes[0].get_ylim()).all()


def test_unknown_methods_take_colours_that_are_free():
    found = looks(["dish_nao", "mine", "ga", "yours"])
    assert (found["dish_nao"], found["ga"]) == (LOOKS["dish_nao"], LOOKS["ga"])
    assert len({colour for colour, _ in found.values()}) == 4
    many = looks([*LOOKS, *map(str, range(12))])
    assert len(set(many.values())) == len(many)


@pytest.mark.parametrize(
    ("drawn", "options", "words"),
    [
        ({}, {}, "no method"),
        ({("ga", 0): []}, {}, "no points"),
        (searches(1), {"unit": "nats"}, "unknown unit"),
    ],
)
def test_figure3_refuses(drawn, options, words):
    with pytest.raises(UserError, match=words):
        figure3(drawn, METHODS, **{"unit": BITS, **options})


WARM = iteration(0, [-1.0, -2.0, -3.0])


def test_scatter_draws_every_cell_with_tau_in_the_title():
    own = [WARM, iteration(1, [-LN2, -2 * LN2], [0.1, 0.2], tau=0.613)]
    own += [iteration(k, [-1.0, -1.0], [1.0, 2.0]) for k in (2, 3, 4)]
    figure = scatter(own, BITS, ceiling=0.68, title="Penn Treebank: dish + GA, run 1 of 5")
    shown = [axes for axes in figure.axes if axes.axison]
    titles = [axes.get_title(loc="left") for axes in shown]
    assert titles[0] == "iteration 1: τ = 0.61"
    assert titles[1:] == [f"iteration {k}: τ is not defined" for k in (2, 3, 4)]
    assert len(figure.axes) == 6
    cloud = shown[0].collections[0].get_offsets()
    np.testing.assert_allclose(cloud, [[0.1, 1], [0.2, 2]])
    assert all(axes.yaxis_inverted() for axes in shown)  # better is up
    assert "axis turned round: better is up" in shown[0].get_ylabel()
    assert "τ = 0.68" in figure.get_supxlabel()
    assert figure.get_suptitle() == "Penn Treebank: dish + GA, run 1 of 5"
    plain = scatter(own, "accuracy").axes[0]
    assert not plain.yaxis_inverted()
    assert plain.get_ylabel() == "validation accuracy"


def test_scatter_shows_what_failed():
    nan = math.nan
    own = iteration(1, [-1.0, nan, -2.0, nan, -4.0], [0.1, 0.2, nan, nan, 0.5])
    axes = scatter([own]).axes[0]
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), [[0.1, -1], [0.5, -4]])
    failed, unranked = axes.lines
    assert failed.get_xdata().tolist() == [0.2]
    assert unranked.get_ydata().tolist() == [-2]
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert words == ["2 failed", "1 without a prediction"]


def test_scatter_without_predictions_says_so():
    assert "nothing was predicted" in scatter([WARM]).axes[0].texts[0].get_text()
    assert scatter([]).axes[0].texts


@pytest.mark.parametrize("length", [20, 200])
def test_the_words_of_a_scatter_stay_inside(length):
    own = [iteration(k, [1.0, 2.0], [1.0, 2.0], tau=1.0) for k in range(1, 3)]
    figure = scatter(own, BITS, ceiling=0.5, title="words " * (length // 6))
    figure.draw_without_rendering()
    texts = [figure._suptitle, figure._supxlabel, *(axes._left_title for axes in figure.axes)]
    boxes = [text.get_window_extent() for text in texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert all(box.y0 >= -1 and box.y1 <= figure.bbox.y1 + 1 for box in boxes)


def test_the_pictures_of_a_comparison(tmp_path):
    ranked = [WARM, iteration(1, [-1.0, -2.0], [0.2, 0.1], tau=1.0, cost=60)]
    records = {("dish_ga", 0): ranked, ("dish_ga", 1): ranked, ("ga", 0): record([40], [-1])}
    records |= {("partial", 0): ranked}
    drawn = pictures(records, METHODS, BITS, data="A corpus", warm_start=40, ceiling=0.9)
    assert list(drawn) == ["figure3.png", "scatter.png", "scatter_partial.png"]
    title = drawn["figure3.png"].axes[0].get_title(loc="left")
    assert title == "A corpus: test result of the cell that is best on validation"
    assert drawn["scatter.png"].get_suptitle() == "A corpus: dish + GA, run 1 of 2"
    assert drawn["scatter_partial.png"].get_suptitle() == "A corpus: partial training, run 1 of 1"
    points = drawn["scatter_partial.png"].axes[0].collections[0].get_facecolor()[0]
    assert to_rgba(LOOKS["partial"][0])[:3] == tuple(points[:3])
    paths = style.save_all(tmp_path / "new", drawn)
    assert paths == [tmp_path / "new" / name for name in drawn]
    assert sorted((tmp_path / "new").iterdir()) == sorted(paths)
    assert all(matplotlib.image.imread(path).std() > 0.01 for path in paths)


def test_a_picture_that_cannot_be_written_is_one_sentence(tmp_path):
    figure = scatter([WARM])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write in"):
        style.save(tmp_path / "file" / "a.png", figure)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    figure.savefig = full
    with pytest.raises(UserError, match=r"a\.png cannot be written \(No space left on device\)"):
        style.save(tmp_path / "a.png", figure)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


places = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(places, st.floats(0, 0.08))
@settings(max_examples=100)
def test_spread_out_keeps_order_gap_and_what_already_fits(drawn, gap):
    moved = style.spread_out(drawn, gap)
    order = np.argsort(drawn, kind="stable")
    assert np.all(np.diff(moved[order]) >= gap - 1e-9)
    assert moved.min() >= -1e-9
    assert moved.max() <= 1 + 1e-9
    if np.all(np.diff(np.sort(drawn)) >= gap):
        np.testing.assert_allclose(moved, drawn, atol=1e-9)
    # as little as possible: no shift of a whole block would be better
    if moved.min() > 1e-6 and moved.max() < 1 - 1e-6:
        assert moved.sum() == pytest.approx(sum(drawn))


def summary(**changes):
    test = {"mean": 2.75, "std": None}
    row = {"runs": 1, "at_equal_ground_truths": {"test": test}, "spent": 85.0}
    return {
        "unit": "bits per character",
        "ground_truths": 100,
        "noise_ceiling": {"kendall_tau": 0.9},
        "failed": 2,
        "methods": {"ga": row | {"tau_by_iteration": {"1": {"median": 0.5}}}},
        "best_cell": {"cell": "0 1", "test": 2.5},
        **changes,
    }


def test_the_results_of_a_comparison_as_text():
    lines = results(summary()).splitlines()
    assert lines[2].split() == ["ga", "1", "2.7500", "-", "85", "0.50"]
    assert "0.90, over random cells" in lines[3]
    assert lines[4].startswith("(A method's tau is over the cells that it chose itself")
    assert lines[6].startswith("2 cells failed; the ledger says why")
    assert "\n1 cell failed; " in results(summary(failed=1))
    assert lines[-2:] == ["best cell (test 2.5000 bits per character):", "  0 1"]
    network = {"parameters": 7, "parameters_in_the_paper": 140}
    shown = results(summary(motif_network=network)).splitlines()
    assert shown[-1] == "motif-network: 7 parameters, 140 in the paper"
    assert "chose itself" not in results(summary(noise_ceiling=None))


def test_results_of_many_iterations_stay_within_80_columns():
    taus = {str(k): {"median": None if k == 3 else -0.123 * k} for k in range(1, 9)}
    row = summary()["methods"]["ga"] | {"tau_by_iteration": taus}
    cell = " ".join("0123456789" * 6)
    shown = results(
        summary(methods={"a_method_of_a_long_name": row}, best_cell={"cell": cell, "test": 2.5})
    )
    assert max(map(len, shown.splitlines())) <= 80
    assert "-0.12, -0.25, -" in shown
    assert cell in " ".join(shown.split())


def test_figure3_of_a_warm_start_alone_has_whole_numbers_and_room():
    figure = figure3({("partial", 0): record([6], [-2.4])}, METHODS, BITS, warm_start=6)
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    assert [x for x in axes.get_xticks() if low <= x <= high] == [6]
    low, high = axes.get_ylim()
    assert high - low > 0.01 * low
    figure.draw_without_rendering()
    assert axes.yaxis.get_offset_text().get_text() == ""


def test_a_search_of_ones_own_has_a_table_and_pictures(tmp_path):
    nan = np.nan
    record = [
        Iteration(0, ("a", "b"), *np.array([[nan, nan], [1.0, nan], [0.5, nan]]), nan, 2.0, 0.1),
        Iteration(1, ("c", "d"), *np.array([[2.0, 1.0], [3.0, 2.0], [2.5, 1.5]]), 1.0, 4.0, 0.1),
    ]
    lines = report.search_table(record).splitlines()
    assert lines[2].split() == ["0", "2", "1", "1", "0.5", "-", "2"]
    assert lines[3].split() == ["1", "2", "0", "3", "2.5", "1", "4"]
    written = report.draw_search(tmp_path / "pictures", record, label="mine")
    assert [path.name for path in written] == ["figure3.png", "scatter.png"]
    assert all(path.stat().st_size > 5000 for path in written)
    (only,) = report.draw_search(tmp_path, record[:1])
    assert only.name == "figure3.png"

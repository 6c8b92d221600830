"""report.search_run and search_table: the numbers behind figure 3, what is drawn, what is shown."""

import io
import itertools
import math
import re

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgba

from spd_jax.errors import UserError
from spd_jax.report import search as search_run
from spd_jax.report import style
from spd_jax.report.search import METHODS, comparison, curve, predictions
from spd_jax.report.search_table import SearchTable, in_unit, results

BITS = "bits per character"
LN2 = math.log(2)


def points(costs, scores):
    return [
        {"ground_truths": c, "valid_score": None if s is None else s + 0.5, "test_score": s}
        for c, s in zip(costs, scores, strict=True)
    ]


def histories(runs=5, methods=tuple(METHODS)):
    """Return runs of three iterations whose partial method stops at another cost."""
    rng = np.random.default_rng(0)
    start = rng.normal(-1.42, 0.01, runs)
    found = {}
    for rank, method in enumerate(methods):
        costs = np.array([40, 60, 80, 100]) + (8.25 * np.arange(4) if method == "partial" else 0)
        gains = np.cumsum(rng.uniform(0, 0.02 / (1 + rank), (runs, 4)), axis=1) * (costs > 40)
        found[method] = [points(costs, start[i] + gains[i]) for i in range(runs)]
    return found


def line(axes, words):
    (own,) = [line for line in axes.lines if line.get_label() == words]
    return own


def words_of(axes):
    return [text.get_text() for text in axes.texts]


def test_units():
    score = [-1.0, -2 * LN2, math.nan]
    assert in_unit(score, BITS) == pytest.approx([1 / LN2, 2, math.nan], nan_ok=True)
    assert in_unit(score, "perplexity") == pytest.approx([math.e, 4, math.nan], nan_ok=True)
    assert in_unit(score, "score") == pytest.approx(score, nan_ok=True)
    assert np.isfinite(in_unit(-1e9, "perplexity"))
    with pytest.raises(UserError, match="use one of bits per character, perplexity, score"):
        in_unit(score, "nats")


def test_spread_has_a_mean_and_hides_no_failure():
    assert search_run.with_mean([1.0, 2.0, 6.0]) == {
        "median": 2.0,
        "q25": 1.5,
        "q75": 4.0,
        "values": [1.0, 2.0, 6.0],
        "mean": 3.0,
        "std": pytest.approx(math.sqrt(7)),
    }
    failed = search_run.with_mean([1.0, math.inf])
    assert failed["values"] == [1.0, None]
    assert [failed[name] for name in ("median", "mean", "std")] == [None] * 3
    assert search_run.with_mean([1.0])["std"] is None


def test_a_run_has_nothing_before_its_first_point_and_keeps_its_last():
    runs = [points([40, 60], [-2, -1]), points([10, 70.5], [-3, None])]
    found = search_run.at_cost(runs, [9, 10, 40, 59.9, 60 - 1e-9, 70.5, 1e9])
    nan = math.nan
    expected = [[nan, nan, -2, -2, -1, -1, -1], [nan, -3, -3, -3, -3, nan, nan]]
    np.testing.assert_array_equal(found, expected)
    # points in any order; an absent value is not known
    assert search_run.at_cost([runs[0][::-1]], [50, 60]).tolist() == [[-2, -1]]
    assert np.isnan(search_run.at_cost([[{"ground_truths": 1}]], [1])).all()


runs_of_points = st.lists(
    st.lists(st.tuples(st.integers(0, 30), st.floats(-5, 0)), min_size=1, max_size=6),
    min_size=1,
    max_size=4,
)


@given(runs_of_points)
@settings(max_examples=60, deadline=None)
def test_the_mean_curve_against_a_loop(drawn):
    drawn = [sorted(dict(run).items()) for run in drawn]
    found = curve([points(*zip(*run, strict=True)) for run in drawn], "score", "range")
    assert found.ground_truths.tolist() == sorted({cost for run in drawn for cost, _ in run})
    for place, cost in enumerate(found.ground_truths):
        values = [[score for own, score in run if own <= cost] for run in drawn]
        if not all(values):
            assert np.isnan([found.mean[place], found.low[place], found.high[place]]).all()
            continue
        latest = [own[-1] for own in values]
        assert found.mean[place] == pytest.approx(sum(latest) / len(latest))
        assert (found.low[place], found.high[place]) == (min(latest), max(latest))


def test_the_band_is_a_standard_deviation():
    runs = [points([1, 2], [-LN2, -LN2]), points([1, 2], [-3 * LN2, math.nan])]
    found = curve(runs, BITS)
    half = math.sqrt(2)
    assert found.mean == pytest.approx([2, math.nan], nan_ok=True)
    assert found.low == pytest.approx([2 - half, math.nan], nan_ok=True)
    assert found.high == pytest.approx([2 + half, math.nan], nan_ok=True)
    alone = curve(runs[:1], BITS)
    assert alone.low.tolist() == alone.high.tolist() == alone.mean.tolist()


def test_summary_at_a_number_of_ground_truths():
    runs = [points([40, 60, 100], [-3, -2, -1]), points([40, 60, 100], [-5, -4, -3])]
    found = search_run.summary_at({"nao": runs}, "score", 60)
    assert list(found) == ["nao"]
    assert found["nao"]["test"]["mean"] == -3
    assert found["nao"]["test"]["values"] == [-2, -4]
    assert found["nao"]["valid"]["values"] == [-1.5, -3.5]
    assert search_run.summary_at({"nao": runs}, "score")["nao"]["test"]["values"] == [-1, -3]
    assert search_run.summary_at({"nao": runs}, "score", 39)["nao"]["test"]["mean"] is None


def test_figure3_draws_the_mean_of_every_method():
    drawn = histories()
    axes = comparison(drawn, BITS, warm_start=40).axes[0]
    for method, runs in drawn.items():
        words, colour, _ = METHODS[method]
        own = line(axes, words)
        assert own.get_drawstyle() == "steps-post"
        assert to_rgba(own.get_color()) == to_rgba(colour)
        assert (own.get_linestyle() == "-") == method.startswith("dish")
        x, y = own.get_data()
        assert x[:-1].tolist() == [point["ground_truths"] for point in runs[0]]
        expected = [np.mean([-run[k]["test_score"] / LN2 for run in runs]) for k in range(4)]
        assert y.tolist() == pytest.approx([*expected, expected[-1]])
        assert f"{words}  {expected[-1]:#.4g}" in words_of(axes)
    assert axes.get_ylabel() == "bits per character, lower is better"
    assert "ground truths" in axes.get_xlabel()


def test_figure3_draws_the_spread_on_the_treads():
    drawn = histories()
    figure = comparison(drawn, BITS, "range", warm_start=40)
    axes = figure.axes[0]
    assert len(axes.collections) == len(drawn)
    for whiskers, runs in zip(axes.collections, drawn.values(), strict=True):
        for k, segment in enumerate(whiskers.get_segments()):
            values = [-run[k]["test_score"] / LN2 for run in runs]
            assert segment[:, 1].tolist() == pytest.approx([min(values), max(values)])
            assert 0 < segment[0, 0] - runs[0][k]["ground_truths"] < 20
    at_start = [whiskers.get_segments()[0][0, 0] for whiskers in axes.collections]
    assert len(set(at_start)) == len(drawn)
    (caption,) = (text.get_text() for text in figure.texts)
    assert caption.startswith("Lines: mean of 5 runs; bars: lowest to highest, side by side.")
    (caption,) = (text.get_text() for text in comparison(drawn, BITS).texts)
    assert "± one standard deviation" in caption


def test_figure3_labels_do_not_overlap_and_stay_inside():
    drawn = {method: [points([40, 100], [-1.4, -1.3])] for method in METHODS}
    figure = comparison(drawn, "perplexity")
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == len(METHODS)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert "mean of 1 run." in figure.texts[0].get_text()


def test_figure3_with_a_point_for_every_ground_truth():
    costs = np.arange(1, 101)
    scores = np.maximum.accumulate(np.random.default_rng(0).normal(-4.2, 0.1, 100))
    scores[:3] = [-9, -8, -7]
    figure = comparison({"ga": [points(costs, scores)]}, "perplexity", warm_start=40)
    axes = figure.axes[0]
    assert axes.get_ylim()[1] < math.exp(-scores[39]) + 5  # the warm start does not stretch it
    assert len(axes.collections[0].get_segments()) == 4
    (marks,) = [own for own in axes.lines if own.get_marker() == "s"]
    x, y = line(axes, "GA").get_data()
    expected = [y[np.searchsorted(x, place, side="right") - 1] for place in marks.get_xdata()]
    assert marks.get_ydata().tolist() == expected
    assert "warm start, shared" in words_of(axes)


def test_figure3_of_failures_and_of_methods_nobody_knows():
    nothing = points([40, 60], [math.nan, None])
    drawn = {"ga": [nothing], "mine": [points([40], [-1]), points([40], [-2])]}
    axes = comparison(drawn, "score").axes[0]
    assert "GA: no result" in words_of(axes)
    assert "mine  -1.500" in words_of(axes)
    assert np.isfinite(axes.get_ylim()).all()
    assert axes.get_ylabel() == "score, higher is better"
    assert "mean of 1 to 2 runs" in comparison(drawn, "score").texts[0].get_text()
    assert np.isfinite(comparison({"ga": [nothing]}, BITS).axes[0].get_ylim()).all()


@pytest.mark.parametrize(
    ("drawn", "options", "words"),
    [
        ({}, {}, "no method"),
        ({"ga": []}, {}, "no run"),
        ({"ga": [[]]}, {}, "no run"),
        (histories(1), {"band": "quartiles"}, "use one of std, range"),
    ],
)
def test_figure3_refuses(tmp_path, drawn, options, words):
    with pytest.raises(UserError, match=words):
        search_run.figure3(tmp_path / "figure3.png", drawn, BITS, **options)
    assert not list(tmp_path.iterdir())


def iteration(index, predicted, scores, tau=0.5):
    return {"index": index, "predicted": predicted, "scores": np.array(scores), "tau": tau}


WARM = iteration(0, np.full(3, np.nan), [-1.0, -2.0, -3.0], math.nan)


def test_scatter_draws_every_cell_with_tau_in_the_title():
    own = [WARM, iteration(1, [0.1, 0.2], [-LN2, -2 * LN2], 0.613)]
    own += [iteration(k, [1.0, 2.0], [-1.0, -1.0], math.nan) for k in (2, 3, 4)]
    figure = predictions(own, BITS, 0.68)
    shown = [axes for axes in figure.axes if axes.axison]
    titles = [axes.get_title(loc="left") for axes in shown]
    assert titles[0] == "iteration 1: τ = 0.61"
    assert titles[1:] == [f"iteration {k}: τ is not defined" for k in (2, 3, 4)]
    assert len(figure.axes) == 6
    cloud = shown[0].collections[0].get_offsets()
    np.testing.assert_allclose(cloud, [[0.1, 1], [0.2, 2]])
    assert all(axes.yaxis_inverted() for axes in shown)  # better is up
    assert "τ = 0.68" in figure.get_suptitle()
    assert not predictions(own, "score").axes[0].yaxis_inverted()


def test_scatter_shows_what_failed():
    nan = math.nan
    own = iteration(1, [0.1, 0.2, nan, nan, 0.5], [-1.0, nan, -2.0, nan, -4.0])
    axes = predictions([own]).axes[0]
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), [[0.1, -1], [0.5, -4]])
    failed, unranked = axes.lines
    assert failed.get_xdata().tolist() == [0.2]
    assert unranked.get_ydata().tolist() == [-2]
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert words == ["2 failed", "1 without a prediction"]


def test_scatter_without_predictions_says_so(tmp_path):
    axes = predictions([WARM]).axes[0]
    assert "nothing was predicted" in axes.texts[0].get_text()
    assert predictions([]).axes[0].texts
    for name, own in (("a", [WARM]), ("b", [iteration(1, [1.0], [2.0])])):
        path = search_run.scatter(tmp_path / f"{name}.png", own)
        assert matplotlib.image.imread(path).std() > 0.01
    figure3 = search_run.figure3(tmp_path / "c.png", histories(2), BITS)
    assert matplotlib.image.imread(figure3).std() > 0.05


places = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(places, st.floats(0, 0.08))
@settings(max_examples=100, deadline=None)
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


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def show(stream, calls, *, unit=BITS, fail=False):
    """Tell a table `calls` of (second, iteration, ground truths, options)."""
    clock = Clock()
    with SearchTable("ga", 100, unit=unit, stream=stream, clock=clock) as table:
        for second, index, spent, options in calls:
            clock.now = 100.0 + second
            table.update(index, spent, **options)
        if fail:
            raise RuntimeError
    return stream.getvalue()


CALLS = [
    (0, 0, 0, {"best": math.nan}),
    (5, 0, 20, {"best": -1.5}),
    (8, 0, 40, {"best": -1.4, "finished": True}),
    (12, 1, 41, {"best": -1.4}),
    (30, 1, 60.25, {"best": -2 * LN2, "tau": 0.613, "finished": True}),
    (31, 2, 61, {"best": -2 * LN2}),
]


def test_plain_lines_when_an_iteration_is_finished_and_now_and_then():
    line = "ga, iteration {}: best {} bits per character, tau {}, {}/100 ground truths, {} elapsed"
    assert show(io.StringIO(), CALLS).splitlines() == [
        line.format(0, "-", "-", 0, "0:00:00"),
        line.format(0, "2.020", "-", 40, "0:00:08") + ", ~0:00:12 left",
        line.format(1, "2.000", "0.61", 60.25, "0:00:30") + ", ~0:00:20 left",
        line.format(2, "2.000", "-", 61, "0:00:31") + ", ~0:00:20 left",
    ]
    assert show(io.StringIO(), []) == ""


def test_a_failed_search_leaves_its_last_state():
    stream = io.StringIO()
    with pytest.raises(RuntimeError):
        show(stream, CALLS[:2], fail=True)
    assert "20/100" in stream.getvalue().splitlines()[-1]


def test_a_terminal_gets_a_live_table(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "110")
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", show(Terminal(), CALLS))
    last = [re.split(r"\s*│\s*", row)[1:-1] for row in shown.splitlines() if "│" in row][-3:]
    assert last == [
        ["warm start", "2.020", "-", "40", "0:00:08", ""],
        ["1", "2.000", "0.61", "60.25", "0:00:30", ""],
        ["2", "2.000", "-", "61", "0:00:31", "~0:00:20"],
    ]
    for header in ("iteration", "best bits per character", "tau", "ground truths of 100", "left"):
        assert header in shown
    monkeypatch.setenv("TERM", "dumb")
    assert "│" not in show(Terminal(), CALLS)


def test_a_table_of_an_unknown_unit_is_refused():
    with pytest.raises(UserError, match="unknown unit"):
        SearchTable("ga", 100, unit="nats")


def test_the_results_of_a_comparison_as_text():
    test = {"mean": 2.75, "std": None}
    row = {"runs": 1, "at_equal_ground_truths": {"test": test}, "spent": 85.0}
    summary = {
        "unit": "bits per character",
        "ground_truths": 100,
        "noise_ceiling": {"noise_ceiling": 0.9},
        "failed": 2,
        "methods": {"ga": row | {"tau_by_iteration": {"1": {"median": 0.5}}}},
        "best_cell": {"cell": "0 1", "test": 2.5},
        "motif_network": {"parameters": 7, "parameters_in_the_paper": 140},
    }
    lines = results(summary).splitlines()
    assert lines[2].split() == ["ga", "1", "2.7500", "-", "85", "0.50"]
    assert "0.90, over random cells" in lines[3]
    assert lines[4].startswith("2 cells failed")
    assert lines[-1] == "best cell: 0 1 (test 2.5000 bits per character)"
    summary["methods"] = {"dish_ga": summary["methods"]["ga"]}
    assert results(summary).splitlines()[-1].startswith("motif-network: 7 parameters")


def test_figure3_of_a_warm_start_alone_has_whole_numbers_and_room():
    point = {"ground_truths": 6, "valid_score": -2.4, "test_score": -2.4, "cell": "0"}
    figure = comparison({"partial": [[point]]}, "bits per character", warm_start=6)
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    assert [x for x in axes.get_xticks() if low <= x <= high] == [6]
    low, high = axes.get_ylim()
    assert high - low > 0.01 * low
    figure.canvas.draw()
    assert axes.yaxis.get_offset_text().get_text() == ""

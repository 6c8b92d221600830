"""report.extrapolation: what a run folder becomes, number by number, picture by picture."""

import contextlib
import csv
import dataclasses
import json
import pathlib
import tempfile

import matplotlib.image
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib._pylab_helpers import Gcf

from spd_jax import files
from spd_jax.errors import UserError
from spd_jax.report import extrapolation as report
from spd_jax.report import style
from spd_jax.studies.predictions import METHODS, SAMPLES, SOURCE, quartiles, read

PICTURES = ["figure1.png", "figure4.png", "convergence.png", "synthetic_data.png"]
ENDS = ("", "_low", "_high")
COLUMNS = ["seed", "slope", "true", "true_standard_error", "split"]
COLUMNS += [f"{dish}{end}" for dish in ("dish", "dish_untrained") for end in ENDS]
COLUMNS += ["slope_mlp", "gaussian_process"]
SLOPES = np.round(np.concatenate([np.arange(0.01, 0.36, 0.02), np.arange(0.37, 2.02, 0.04)]), 2)
KNOTS = [0.01, 0.03, 0.05, 0.11, 0.23, 0.31, 2.01], [0.70, 0.88, 0.926, 0.957, 0.968, 0.968, 0.95]


def spread(values):
    q25, median, q75 = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return {"median": median, "q25": q25, "q75": q75, "values": list(values)}


def fake_predictions(rng, z, inside):
    """Return what a seed's dish, untrained dish, MLP and Gaussian process might predict."""
    x = np.log(SLOPES / (0.3 * np.exp(rng.normal(0, 0.12))))
    dish = 1.7 - np.where(x < 0, 3.5 * np.abs(x) ** 2.2, 0.65 * np.abs(x) ** 1.8)
    dish += rng.normal(0, 0.1)
    untrained = -1.5 + 2.2 * np.tanh(SLOPES / rng.uniform(0.3, 0.9))
    chosen = rng.permutation(np.flatnonzero(inside))[:30]
    mlp, gaussian = (np.poly1d(np.polyfit(SLOPES[chosen], z[chosen], k))(SLOPES) for k in (2, 3))
    return {
        **{f"dish{end}": dish + shift for end, shift in zip(ENDS, (0, -0.3, 0.3), strict=True)},
        **{f"dish_untrained{end}": untrained for end in ENDS},
        "slope_mlp": mlp,
        "gaussian_process": gaussian * (1 - np.exp(-SLOPES / 0.2)),
    }


def write_run(folder, *, seeds=5, members=8, steps=60, failed=(), error=0.0005, samples=(10, 10)):
    """Write a run folder like one of the experiment's; return its predictions by seed."""
    rng = np.random.default_rng(0)
    true = np.interp(SLOPES, *KNOTS) + rng.normal(0, 0.0008, len(SLOPES))
    inside = SLOPES >= 0.37
    z = (true - true[inside].mean()) / true[inside].std()
    predictions = [fake_predictions(rng, z, inside) for _ in range(seeds)]
    rows = []
    for seed, predicted in enumerate(predictions):
        predicted["dish"][list(failed)] = -np.inf
        for k, slope in enumerate(SLOPES):
            row = {"seed": seed, "slope": slope, "true": true[k], "true_standard_error": error}
            rows.append({**row, **{name: values[k] for name, values in predicted.items()}})
    write_predictions(folder, rows)
    peaks = [float(SLOPES[np.argmax(predicted["dish"])]) for predicted in predictions]
    write_summary(folder, [0.37, 2.01], float(SLOPES[np.argmax(true)]), spread(peaks))
    rates = rng.uniform(0.05, 0.12, (seeds, members))
    losses = 1.6 * np.exp(-rates[:, None] * np.arange(steps)[:, None]) + 0.02
    losses *= rng.lognormal(0, 0.1, losses.shape)
    entries = [(e, t, losses[e, t].tolist()) for e in range(seeds) for t in range(steps)]
    write_metrics(folder, entries)
    write_samples(folder, rng, samples)
    return predictions


def write_predictions(folder, rows):
    with (folder / "predictions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="0")
        writer.writeheader()
        writer.writerows(rows)


def write_summary(folder, interval, true_peak, dish_peak, tau=None):
    tau = tau or spread([0.8, 0.85, 0.9])
    method = {"predicted_peak_slope": dish_peak, "kendall_tau": tau}
    summary = dict.fromkeys(METHODS, method)
    summary |= {"train_interval": interval, "true_peak_slope": true_peak}
    summary |= {"dataset": "MNIST", "preset": "best"}
    (folder / "summary.json").write_text(json.dumps(summary))


def write_metrics(folder, entries):
    names = ("seed", "step", "outer_loss")
    lines = [json.dumps(dict(zip(names, entry, strict=True))) + "\n" for entry in entries]
    (folder / "metrics.jsonl").write_text("".join(lines))


def write_samples(folder, rng, sizes=(10, 10), names=SAMPLES):
    arrays = {}
    for name in names:
        count = sizes["valid" in name]
        labels = rng.integers(0, 2, (count, 10))
        arrays[name] = labels if "labels" in name else rng.normal(size=(count, 10))
    files.save_arrays(folder / "synthetic_data.npz", arrays, kind="synthetic data")


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    small_run(folder)
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, write_run(folder)


def small_run(folder):
    """Two seeds at four slopes; the truth inside [0.4, 0.6] has mean 0.92."""
    names = ("slope", "true", "true_standard_error", "dish", "seed")
    motifs = [(0.6, 0.92, 0.01), (0.5, 0.94, 0.02), (0.4, 0.90, 0.01), (0.1, 0.70, "")]
    values = [(*motif, d, 0) for motif, d in zip(motifs, [3, 2, 1, -np.inf], strict=True)]
    values += [(*motif, d, 1) for motif, d in zip(motifs, [3, 4, 3, 5], strict=True)]
    write_predictions(folder, [dict(zip(names, row, strict=True)) for row in values])
    write_summary(folder, [0.4, 0.6], 0.5, {"median": 0.45, "q25": 0.4, "q75": 0.525})
    write_metrics(folder, [(0, 0, [1.0, 3.0]), (0, 1, [0.5, 1.0]), (1, 0, [2.0, None])])
    write_samples(folder, np.random.default_rng(0))
    return read(folder)


def test_read_puts_the_truth_in_units_of_the_training_interval(tmp_path):
    run = small_run(tmp_path)
    std = np.sqrt((0.02**2 + 0.02**2 + 0) / 3)
    np.testing.assert_array_equal(run.slopes, [0.1, 0.4, 0.5, 0.6])
    np.testing.assert_array_equal(run.inside, [False, True, True, True])
    np.testing.assert_allclose(run.truth, np.array([-0.22, -0.02, 0.02, 0]) / std, atol=1e-12)
    np.testing.assert_allclose(run.truth_error, np.array([np.nan, 0.01, 0.02, 0.01]) / std)
    # quartiles of two numbers lie a quarter of the way in; a failed seed leaves no median
    np.testing.assert_allclose(run.bands["dish"].median, [np.nan, 2.0, 3.0, 3.0])
    np.testing.assert_allclose(run.bands["dish"].low, [np.nan, 1.5, 2.5, 3.0])
    np.testing.assert_allclose(run.bands["dish"].high, [np.nan, 2.5, 3.5, 3.0])


def test_a_single_seed_shows_the_spread_of_its_members(tmp_path):
    (predicted,) = write_run(tmp_path, seeds=1)
    band = read(tmp_path).bands["dish"]
    np.testing.assert_allclose(band, [predicted[f"dish{end}"] for end in ENDS])


def test_quartiles_count_failures_as_worst_and_never_interpolate_into_them():
    values = np.array([[-np.inf, 1.0], [np.nan, 2.0], [3.0, 3.0], [4.0, 4.0], [5.0, 5.0]])
    band = quartiles(values)
    np.testing.assert_array_equal(band.median, [3.0, 3.0])
    np.testing.assert_array_equal(band.low, [np.nan, 2.0])
    np.testing.assert_array_equal(band.high, [4.0, 4.0])
    losses = quartiles(values[1:4, :1], failed=1.0)
    np.testing.assert_array_equal(np.ravel(losses), [4.0, 3.5, np.nan])


def test_focus_keeps_to_the_training_interval_and_the_peak(tmp_path):
    run = small_run(tmp_path)
    std = np.sqrt(0.0008 / 3)
    bottom, top = -0.02 / std, 0.02 / std
    # dish: median 3 at most; nothing lies lower inside than the truth
    span = top - bottom
    assert report.focus(run) == pytest.approx((bottom - 0.25 * span, 3.0 + 0.35 * span))


def test_peaks_are_those_of_the_summary(tmp_path):
    (true, true_words, _), (dish, dish_words, _) = report.peaks(small_run(tmp_path))
    assert (true, true_words) == (0.5, "true peak: c = 0.5")
    assert (dish, dish_words) == (0.45, "dish's peak: c = 0.45 (quartiles 0.4 to 0.525)")
    unknown = dict.fromkeys(("median", "q25", "q75"))
    write_summary(tmp_path, [0.4, 0.6], None, unknown, tau=unknown)
    assert report.peaks(read(tmp_path)) == []
    assert len(report.pictures(read(tmp_path))) == 4


def test_figure1_marks_the_peaks_and_draws_the_median_over_seeds(finished):
    folder, predictions = finished
    run = read(folder)
    near, whole = report.figure1(run).axes
    median = np.median([predicted["dish"] for predicted in predictions], axis=0)
    for axes in (near, whole):
        lines = {line.get_label(): line for line in axes.lines}
        np.testing.assert_allclose(
            lines["Synthetic Petri Dish (median, quartiles of 5 seeds)"].get_ydata(), median
        )
        marked = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"]
        assert [run.true_peak.median, run.dish_peak.median] == [x for x in marked if x > 0.01]
        assert axes.get_xlabel()
        assert axes.get_ylabel()
    words = [text.get_text() for text in near.get_legend().get_texts()]
    assert words == [words for _, words, _ in report.peaks(run)]
    # the truth falls to -50: the first panel leaves that out and says so, the second shows it
    assert near.get_ylim()[0] > -6
    assert any("falls to $-$" in text.get_text() for text in near.texts)
    assert whole.get_ylim()[0] < np.nanmin(run.truth) < -40


def test_figure4_shows_the_untrained_dish_first(finished):
    run = read(finished[0])
    panels = report.figure4(run).axes
    for axes, name in zip(panels, ("dish_untrained", "dish"), strict=True):
        (line,) = (line for line in axes.lines if line.get_label().startswith("Synthetic"))
        np.testing.assert_array_equal(line.get_ydata(), run.bands[name].median)
        assert "Kendall's τ = 0.85 (quartiles 0.82 to 0.88)" in [t.get_text() for t in axes.texts]


def test_the_legend_of_figure4_names_no_tau_since_its_panels_differ(finished):
    run = dataclasses.replace(read(finished[0]), source="other")  # all learned from another table
    labels = {
        figure: [text.get_text() for own in figure(run).legends for text in own.get_texts()]
        for figure in (report.figure1, report.figure4)
    }
    assert any("τ" in label for label in labels[report.figure1])
    assert labels[report.figure4]
    assert not any("τ" in label for label in labels[report.figure4])


def test_figure1_says_whether_a_simple_rival_is_better(finished):
    run = dataclasses.replace(read(finished[0]), source="other")
    for rival, words in ((0.9, "is better: 0.90"), (0.1, "is not better: 0.10")):
        medians = {
            "dish": 0.8, "dish_untrained": -0.5, "slope_mlp": rival, "gaussian_process": 0.0
        }  # fmt: skip
        tau = {name: quartiles(np.array([median])) for name, median in medians.items()}
        title = report.figure1(dataclasses.replace(run, tau=tau)).get_suptitle()
        assert "from -0.50 to 0.80" in title
        assert f"MLP on the slope, {words}" in title


def test_a_seed_that_stopped_early_keeps_its_last_loss(tmp_path):
    run = small_run(tmp_path)
    (axes,) = report.convergence(run).axes
    (line,) = (line for line in axes.lines if line.get_label() == "median of 4 dishes")
    np.testing.assert_array_equal(line.get_xdata(), [0, 1])
    # members: 1, 3, 2, infinite and then 0.5, 1, 2, infinite
    np.testing.assert_allclose(line.get_ydata(), [2.5, 1.5])
    assert axes.get_yscale() == "log"


def test_steps_that_go_back_void_the_later_ones(tmp_path):
    small_run(tmp_path)
    entries = [(0, step, [5.0]) for step in range(4)] + [(1, 0, [None])]
    entries += [(0, 2, [0.0]), (0, 3, [float("nan")]), (0, 1, [4.0])]
    write_metrics(tmp_path, entries)
    run = read(tmp_path)
    np.testing.assert_array_equal(run.losses[0][0], [0, 1])
    np.testing.assert_array_equal(run.losses[0][1], [[5.0], [4.0]])
    np.testing.assert_array_equal(run.losses[1][1], [[np.nan]])


@pytest.mark.parametrize(
    ("options", "pictures"),
    [
        ({}, PICTURES),
        ({"seeds": 1, "members": 1, "steps": 1, "error": ""}, PICTURES[:2]),
        ({"failed": (0, 1, 40), "samples": (20, 7)}, PICTURES),
        ({"failed": range(len(SLOPES)), "samples": (1, 1)}, PICTURES),
    ],
    ids=["usual", "no outer step", "failed motifs", "all failed"],
)
def test_every_picture_that_shows_something_is_drawn(tmp_path, options, pictures):
    write_run(tmp_path, **options)
    run = read(str(tmp_path))
    paths = style.save_all(tmp_path, report.pictures(run))
    assert paths == [tmp_path / name for name in pictures]
    assert sorted(tmp_path.glob("*.png")) == sorted(paths)
    for path in paths:
        picture = matplotlib.image.imread(path)
        height, width = picture.shape[:2]
        assert 900 < width < 2600
        assert 150 < height < 1400
        ink = np.mean(picture[..., :3].min(axis=-1) < 0.9)
        assert 0.005 < ink < 0.8
    assert not Gcf.figs  # pyplot keeps no figure


def test_a_training_interval_far_wider_than_the_slopes_widens_no_axis(tmp_path):
    write_run(tmp_path)
    figures = [report.figure1(read(tmp_path))]
    write_summary(tmp_path, [-1e18, 1e18], 0.5, spread([0.5]))
    figures.append(report.figure1(read(tmp_path)))
    figures[1].draw_without_rendering()
    assert figures[0].axes[0].get_xlim() == figures[1].axes[0].get_xlim()


def test_pictures_say_whose_results_they_show(finished, tmp_path):
    for name, figure in report.pictures(read(finished[0])).items():
        start = "Synthetic data of one dish after 59 outer steps: "
        start = start if name == "synthetic_data.png" else "Sigmoid slopes: "
        assert figure.get_suptitle() == start + "MNIST, preset best, 5 seeds"
    write_run(tmp_path, seeds=1, steps=1)
    summary = json.loads((tmp_path / "summary.json").read_text())
    del summary["dataset"], summary["preset"]
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert report.figure1(read(tmp_path)).get_suptitle() == "Sigmoid slopes: 1 seed"


def test_figure4_without_an_outer_step_has_one_panel(tmp_path):
    write_run(tmp_path, steps=1)
    (axes,) = report.figure4(read(tmp_path)).axes
    assert axes.get_title(loc="left") == "random data, no outer step was taken"


def summary(**changes):
    spreads = {figure: spread([-0.9876, -0.98, -0.97]) for figure in report.FIGURES}
    return {
        **dict.fromkeys((*METHODS, SOURCE), spreads),
        "methods": list(METHODS),
        "source": "",
        "train_interval": [0.37, 2.01],
        "seeds": [0, 1, 2],
        "noise_ceiling": 0.9039,
        "true_peak_slope": 0.15,
        "slopes": 60,
        "ground_truth_rows": 120,
        **changes,
    }


def test_the_results_as_text():
    nothing = dict.fromkeys(("median", "q25", "q75"))
    figures = summary()["dish"] | {"peak_error": nothing}
    shown = report.results(summary(dish=figures)).splitlines()
    assert max(map(len, shown)) <= 80
    assert shown[0] == "medians, quartiles below, over 3 seeds"
    assert shown[1].split() == ["dish", "untrained", "MLP", "process"]
    assert shown[2].split() == ["tau", *["-0.980"] * 4]
    assert shown[3].split() == ["-0.98..-0.97"] * 4
    assert shown[10].split() == ["peak", "error", "-", *["-0.980"] * 3]
    assert "true peak at 0.15; 60 slopes, 120 trained networks" in shown
    assert shown[-1] == "tau between one seed of the ground truth and the others: 0.904"
    unknown = report.results(summary(noise_ceiling=None, true_peak_slope=None, seeds=[0]))
    assert "over 1 seed\n" in unknown
    assert "true peak at -;" in unknown
    assert unknown.endswith("the others: -")


def test_the_results_of_another_tables_dish_as_text():
    shown = report.results(summary(source="other", methods=[*METHODS, SOURCE])).splitlines()
    assert max(map(len, shown)) <= 80
    assert shown[1].split() == ["dish", "untrained", "MLP", "process", "source"]
    assert not any("held out" in line for line in shown)  # nothing else was
    assert shown[-3].startswith("all learned from another table")


@pytest.mark.parametrize("losses", [[float("nan"), float("inf")], [0.0, -1.0]])
def test_losses_that_a_logarithm_cannot_show_are_no_error(tmp_path, losses):
    small_run(tmp_path)
    write_metrics(tmp_path, [(0, 0, losses), (0, 1, losses)])
    figure = report.convergence(read(tmp_path))
    figure.draw_without_rendering()
    assert figure.axes[0].get_yscale() == "linear"


def rows_of(value):
    """Return the text of predictions with one row, which holds the same value everywhere."""
    return "\n".join(",".join(row) for row in (COLUMNS, [value] * len(COLUMNS)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("predictions.csv", None, "predictions.csv is missing: draw the folder of a finished run"),
        ("summary.json", None, "summary.json is missing"),
        ("metrics.jsonl", None, "metrics.jsonl is missing"),
        ("synthetic_data.npz", None, "synthetic_data.npz is missing"),
        ("predictions.csv", "", "predictions.csv cannot be read \\(no rows"),
        ("predictions.csv", "seed,slope\n0,1\n", "predictions.csv cannot be read \\(no 'true'"),
        ("predictions.csv", rows_of("x"), "predictions.csv cannot be .*'x'"),
        ("predictions.csv", rows_of(""), "predictions.csv cannot be read .*seed or a slope"),
        ("predictions.csv", rows_of("1")[:-3], "predictions.csv cannot be .* 12 values for 13"),
        ("predictions.csv", "\xff", "predictions.csv cannot be read"),
        ("summary.json", '{"train_interval": [0, 1]}', "summary.json .*no 'true_peak_slope'"),
        ("summary.json", '{"train_interval": 3}', "summary.json cannot be read"),
        ("summary.json", "[3]", "summary.json cannot be read"),
        ("metrics.jsonl", "", "metrics.jsonl cannot be read \\(no lines"),
        ("metrics.jsonl", '{"seed": 0, "st', "metrics.jsonl cannot be read"),
        ("metrics.jsonl", '{"seed": 0, "step": 1e30, "outer_loss": [1]}', "metrics.jsonl cannot"),
        ("synthetic_data.npz", "PK", "synthetic_data.npz cannot be read"),
    ],
)
def test_a_folder_that_is_no_finished_run(tmp_path, name, content, message):
    small_run(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=message):
        read(tmp_path)


def test_other_mistakes_in_a_run_folder(tmp_path):
    small_run(tmp_path)
    write_metrics(tmp_path, [(0, 0, [1.0]), (0, 1, [1.0, 2.0])])
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be read"):
        read(tmp_path)
    small_run(tmp_path)
    write_samples(tmp_path, np.random.default_rng(0), names=["train_inputs_start"])
    with pytest.raises(UserError, match=r"synthetic_data\.npz cannot .*train_inputs"):
        read(tmp_path)
    vectors = dict.fromkeys(SAMPLES, np.ones(3))
    files.save_arrays(tmp_path / "synthetic_data.npz", vectors, kind="synthetic data")
    with pytest.raises(UserError, match=r"its arrays are not \[N, D\]"):
        read(tmp_path)
    small_run(tmp_path)
    write_summary(tmp_path, [0.55, 0.65], 0.5, spread([0.5]))
    with pytest.raises(UserError, match="the truth does not vary in the training interval"):
        read(tmp_path)


FILES = ("predictions.csv", "summary.json", "metrics.jsonl", "synthetic_data.npz")


@given(st.sampled_from(FILES), st.integers(0, 2**32), st.integers(1, 8), st.booleans())
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_a_damaged_file_is_read_or_refused_in_one_sentence(undamaged, name, seed, count, cut):
    rng = np.random.default_rng(seed)
    content = bytearray(undamaged[name])
    for place in rng.integers(0, len(content), count):
        content[place] = rng.choice(np.frombuffer(b'0159-e."[]{},\n\x00\xff', np.uint8))
    content = content[: rng.integers(len(content))] if cut else content
    with tempfile.TemporaryDirectory() as folder:
        for own, text in undamaged.items():
            pathlib.Path(folder, own).write_bytes(bytes(content) if own == name else text)
        with contextlib.suppress(UserError):
            report.pictures(read(folder))

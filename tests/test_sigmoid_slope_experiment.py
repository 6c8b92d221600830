"""The sigmoid-slope experiment from its command line: whole, killed and resumed."""

import concurrent.futures
import dataclasses
import json
import shutil

import jax
import matplotlib.image
import numpy as np
import pytest
from scipy import stats
from sigmoid_slope_runs import (
    CONFIG,
    FIGURES,
    FILES,
    METHODS,
    PICTURES,
    SLOPES,
    assert_same_outcome,
    contents,
    die,
    outcome,
    predictions,
    run,
    succeed,
    write_table,
)

from spd_jax import dish
from spd_jax.report import extrapolation as report
from spd_jax.spaces import sigmoid_slope
from spd_jax.surrogates.dish_surrogate import DishSurrogate
from spd_jax.surrogates.regressors import GaussianProcess
from spd_jax.surrogates.slope_mlp import SlopeMlp

# The whole run


def test_a_run_leaves_what_it_promises(finished):
    folder, output = finished
    for name in FILES:
        assert (folder / name).stat().st_size > 0, name
        assert str(folder / name) in output.splitlines()[-1]
    for name in PICTURES:
        assert np.std(matplotlib.image.imread(folder / name)) > 0.01, name
    assert [line.split()[0] for line in output.splitlines()[:5]] == ["method", *METHODS]
    assert not [path for path in contents(folder) if path.name.startswith(".")]


def test_the_summary_is_strict_json_with_every_figure(finished, summary, table):
    text = (finished[0] / "summary.json").read_text()
    json.loads(text, parse_constant=pytest.fail)
    for method in METHODS:
        assert sorted(summary[method]) == sorted(FIGURES)
    spreads = [summary[method][figure] for method in METHODS for figure in FIGURES]
    for name in ("compile", "fit", "predict"):
        spreads.append(summary["seconds"][name])
        assert min(summary["seconds"][name]["values"]) >= 0
    for spread in spreads:
        assert len(spread["values"]) == 2
        q25, median, q75 = np.percentile(spread["values"], [25, 50, 75])
        assert [spread[key] for key in ("q25", "median", "q75")] == pytest.approx(
            [q25, median, q75], abs=1e-12
        )
    assert summary["seeds"] == [0, 1]
    assert (summary["num_train"], summary["num_dishes"], summary["slopes"]) == (6, 2, 14)
    assert summary["ground_truth_rows"] == 28
    assert summary["true_peak_slope"] == table.slopes[np.argmax(table.accuracy)] == 0.3


def test_the_settings_and_the_progress_are_kept(finished, place):
    folder = finished[0]
    config = json.loads((folder / "config.json").read_text())
    assert config["dish"] == json.loads(json.dumps(dataclasses.asdict(CONFIG)))
    assert config["ground_truth"] == str(place / "table.csv")
    assert config["train_interval"] == [0.37, 2.01]
    assert (config["seed"], config["num_seeds"], config["num_train"]) == (0, 2, 6)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["seed"] for line in lines] == sorted(line["seed"] for line in lines)
    for seed in (0, 1):
        mine = [line for line in lines if line["seed"] == seed]
        assert {line["phase"] for line in mine} == {"fit"}
        steps = [line["step"] for line in mine]
        assert steps == list(range(steps[0], steps[0] + len(steps)))
        assert len(steps) >= 6
        assert all(len(line["outer_loss"]) == 2 for line in mine)
        assert np.isfinite([line["outer_loss"] for line in mine]).all()


def test_a_seed_has_one_row_for_each_slope_and_knows_its_own_part(finished, table):
    seeds = predictions(finished[0])
    assert list(seeds) == [0, 1]
    known = []
    for columns in seeds.values():
        assert columns["slope"].tolist() == SLOPES
        np.testing.assert_allclose(columns["true"], table.accuracy, atol=5e-7)
        np.testing.assert_allclose(columns["true_standard_error"], table.standard_error, atol=5e-7)
        train = columns["split"] == "train"
        assert set(columns["split"]) == {"train", "test"}
        assert train.sum() == 6
        assert columns["slope"][train].min() >= 0.37
        known.append(train.tolist())
        for method in METHODS[:2]:
            low, high = columns[f"{method}_low"], columns[f"{method}_high"]
            assert (low <= columns[method]).all()
            assert (columns[method] <= high).all()
            assert (low < high).any()
    assert known[0] != known[1]


def test_figures_are_those_of_the_predictions(finished, summary):
    seeds = predictions(finished[0])
    for number, columns in enumerate(seeds.values()):
        slopes, true = columns["slope"], columns["true"]
        parts = {
            "kendall_tau": np.full(14, True),
            "kendall_tau_test": columns["split"] == "test",
            "kendall_tau_left": slopes < 0.37,
        }
        for method in METHODS:
            for figure, part in parts.items():
                tau = stats.kendalltau(columns[method][part], true[part]).statistic
                assert summary[method][figure]["values"][number] == pytest.approx(tau, abs=1e-9)
            peak = slopes[np.argmax(columns[method])]
            assert summary[method]["predicted_peak_slope"]["values"][number] == peak
            assert summary[method]["peak_error"]["values"][number] == pytest.approx(
                abs(peak - slopes[np.argmax(true)])
            )


def test_predictions_are_those_of_the_surrogates_on_the_known_slopes(finished):
    surrogate = DishSurrogate(sigmoid_slope.family(), CONFIG)
    gaussian = GaussianProcess(sigmoid_slope.SigmoidSlopeSpace().features)
    for seed, columns in predictions(finished[0]).items():
        key, slopes = jax.random.key(seed), columns["slope"].astype(np.float32)
        train = columns["split"] == "train"
        truth = columns["true"][train]
        fitted = surrogate.fit(key, slopes[train], truth)
        np.testing.assert_allclose(fitted.predict(slopes), columns["dish"], atol=2e-3)
        start = dish.raw_scores(surrogate.start(key), surrogate.family, CONFIG, slopes)
        z = (start - start[:, train].mean(1, keepdims=True)) / start[:, train].std(1)[:, None]
        np.testing.assert_allclose(np.median(z, axis=0), columns["dish_untrained"], atol=2e-3)
        for name, rival in (("slope_mlp", SlopeMlp()), ("gaussian_process", gaussian)):
            values = rival.fit(key, slopes[train], truth).predict(slopes)
            z = (values - truth.mean()) / truth.std()
            np.testing.assert_allclose(z, columns[name], atol=2e-3)


def test_the_pictures_show_the_first_seeds_samples(finished):
    surrogate = DishSurrogate(sigmoid_slope.family(), CONFIG)
    start = surrogate.start(jax.random.key(0)).data
    with np.load(finished[0] / "synthetic_data.npz") as samples:
        assert sorted(samples) == sorted(report.SAMPLES)
        np.testing.assert_array_equal(samples["train_inputs_start"], start.train_inputs[0])
        np.testing.assert_array_equal(samples["train_labels"], start.train_labels[0])
        assert np.all(samples["train_inputs"] != samples["train_inputs_start"])


# Killed and resumed


def test_a_run_killed_three_times_ends_as_an_uninterrupted_one(finished, two_seeds, place):
    folder = place / "killed"
    die(folder, "SIGKILL:line:6", *two_seeds)  # seed 0 has a saved state of step 5
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 6
    assert not (folder / "summary.json").exists()
    die(folder, "SIGKILL:dish_seed1.npz:1", *two_seeds)  # seed 1 has none yet
    assert list(folder.glob("states/*/result_seed0.json"))
    die(folder, "SIGKILL:result_seed1.json:1", *two_seeds)  # seed 1 is fitted, but not written
    assert not (folder / "summary.json").exists()
    succeed(folder, *two_seeds)
    assert_same_outcome(folder, finished[0])


def test_early_stopping_killed_in_either_phase_ends_as_uninterrupted(place):
    flags = [f"--ground_truth={place / 'table.csv'}", "--num_seeds=1", "--held_out_share=0.5"]
    flags += ["--valid_every=2", "--outer_learning_rate=0.2"]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        whole = pool.submit(succeed, place / "held_out", *flags)
        folder = place / "held_out_killed"
        die(folder, "SIGKILL:line:8", *flags)  # the fit has begun, the state is from before
        lines = [json.loads(line) for line in read_whole_lines(folder / "metrics.jsonl")]
        assert [line["phase"] for line in lines] == ["early_stopping"] * 6 + ["fit"]
        die(folder, "SIGINT:line:7", *flags)  # the state is from the fit
        lines = [json.loads(line) for line in read_whole_lines(folder / "metrics.jsonl")]
        assert [line["phase"] for line in lines] == ["early_stopping"] * 6 + ["fit"] * 5
        succeed(folder, *flags)
        whole.result()
    assert_same_outcome(folder, place / "held_out")


def read_whole_lines(path):
    return path.read_text().splitlines()[:-1]


def test_a_finished_run_is_only_read_again_and_more_seeds_extend_it(finished, two_seeds, place):
    folder = place / "extended"
    shutil.copytree(finished[0], folder)
    before = contents(folder)
    succeed(folder, *two_seeds)
    after = contents(folder)
    # "seconds" are the same too: nothing was computed anew.
    assert [path.name for path in after if after[path] != before.get(path)] == []
    assert list(after) == list(before)
    succeed(folder, *two_seeds, "--num_seeds=3")
    old, new = outcome(finished[0]), outcome(folder)
    for name in ("metrics.jsonl", "predictions.csv"):
        assert new[name].startswith(old[name])
        assert len(new[name]) > len(old[name])
    assert new["summary"]["seeds"] == [0, 1, 2]
    for method in METHODS:
        for figure in FIGURES:
            values = new["summary"][method][figure]["values"]
            assert values[:2] == old["summary"][method][figure]["values"]
            assert len(values) == 3


def test_another_table_of_the_same_name_is_refused(place, finished):
    """Its figures would be a mixture of both tables."""
    path = write_table(place / "moving.csv")
    flags = [f"--ground_truth={path}", "--num_seeds=1", "--outer_steps=0"]
    succeed(place / "moving", *flags)
    before = contents(place / "moving")
    write_table(path, slopes=SLOPES[:-1], seeds=(0, 1, 2))
    done = run(place / "moving", *flags)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert contents(place / "moving") == before


# The ground truth computed anew


def rows_of(path):
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


def test_a_ground_truth_killed_half_way_ends_as_an_uninterrupted_one(place):
    flags = ["--dataset=digits", "--compute_ground_truth", "--ground_truth_epochs=2"]
    flags += ["--ground_truth_seeds=1", "--num_seeds=1"]
    whole, folder = place / "digits", place / "digits_killed"
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        done = pool.submit(succeed, whole, *flags)
        die(folder, "SIGKILL:mlp_classifier_seed0.npz:2", *flags)
        half = rows_of(folder / "ground_truth.csv")
        assert {row.split(",")[2] for row in half[1:]} == {"1"}
        assert not (folder / "summary.json").exists()
        resumed = succeed(folder, *flags)
        done.result()
    assert "2/2" in resumed.stderr
    assert "1/2" not in resumed.stderr  # the first epoch was not trained again
    rows = rows_of(folder / "ground_truth.csv")
    assert rows == rows_of(whole / "ground_truth.csv")
    assert len(rows) == 61
    assert {row.split(",")[2] for row in rows[1:]} == {"2"}
    assert_same_outcome(folder, whole)
    for name in FILES:
        assert (folder / name).stat().st_size > 0, name
    truth = {float(row.split(",")[0]): float(row.split(",")[3]) for row in rows[1:]}
    columns = predictions(folder)[0]
    assert dict(zip(columns["slope"], columns["true"], strict=True)) == truth


def test_more_runs_for_each_slope_renew_every_figure(place):
    """After the test above: a second seed changes the truth, so nothing old may stay."""
    folder = place / "digits"
    flags = ["--dataset=digits", "--compute_ground_truth", "--ground_truth_epochs=2"]
    flags += ["--num_seeds=1"]
    succeed(folder, *flags, "--ground_truth_seeds=1")
    old = predictions(folder)[0]["true"]
    succeed(folder, *flags, "--ground_truth_seeds=2")
    columns = predictions(folder)[0]
    assert np.any(columns["true"] != old)
    summary = json.loads((folder / "summary.json").read_text())
    for method in METHODS:
        tau = stats.kendalltau(columns[method], columns["true"]).statistic
        assert summary[method]["kendall_tau"]["values"] == [pytest.approx(tau, abs=1e-3)]

"""The sigmoid-slope experiment from its command line: whole, killed and resumed, refused.

Each command runs in a process of its own. Settings are given as flags, so that
nothing here depends on what preset `best` holds.
"""

import concurrent.futures
import csv
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import matplotlib.image
import numpy as np
import pytest
from scipy import stats

from experiments import sigmoid_slope as experiment
from experiments import sigmoid_slope_seed
from experiments.run_folder import RunFolder
from experiments.sigmoid_slope_seed import Split
from spd_jax import dish, tuning
from spd_jax.dish import DishConfig
from spd_jax.errors import UserError
from spd_jax.ground_truth import tabular
from spd_jax.report import sigmoid_slope as report
from spd_jax.spaces import sigmoid_slope
from spd_jax.surrogates.dish_surrogate import DishSurrogate
from spd_jax.surrogates.regressors import GaussianProcess
from spd_jax.surrogates.slope_mlp import SlopeMlp

ROOT = pathlib.Path(__file__).resolve().parents[1]
SLOPES = [0.05, 0.12, 0.2, 0.3, 0.4, 0.55, 0.7, 0.85, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0]
CONFIG = DishConfig(inner_steps=4, outer_steps=6, ensemble_size=2)
SETTINGS = ["--cpu_devices=1", "--preset=paper", "--num_train=6", "--inner_steps=4"]
SETTINGS += ["--outer_steps=6", "--num_dishes=2"]
METHODS = ["dish", "dish_untrained", "slope_mlp", "gaussian_process"]
FIGURES = ["kendall_tau", "kendall_tau_test", "kendall_tau_left"]
FIGURES += ["predicted_peak_slope", "peak_error"]
PICTURES = ["figure1.png", "figure4.png", "convergence.png", "synthetic_data.png"]
FILES = ["summary.json", *PICTURES, "predictions.csv", "metrics.jsonl", "config.json"]
FILES += ["versions.json"]


# The same main, but it sends itself a signal at a stated point: in the midst of its n-th line
# of metrics.jsonl, or when a file has been written whole but not yet put in its place.
DEADLY = """
import os, pathlib, signal, sys
from experiments import run_folder, sigmoid_slope

which, where, count = sys.argv.pop(1).split(":")
left = int(count)
replace, add_metrics = os.replace, run_folder.RunFolder.add_metrics

def count_down():
    global left
    left -= 1
    return left == 0

def deadly_replace(source, target):
    if pathlib.Path(target).name == where and count_down():
        os.kill(os.getpid(), getattr(signal, which))
    replace(source, target)

def deadly_add_metrics(folder, line):
    if where == "line" and count_down():
        with open(folder.path / "metrics.jsonl", "a") as stream:
            stream.write('{"seed": 0, "ph')
        os.kill(os.getpid(), getattr(signal, which))
    add_metrics(folder, line)

os.replace, run_folder.RunFolder.add_metrics = deadly_replace, deadly_add_metrics
run_folder.run_main(sigmoid_slope.main)
"""


def run(folder, *flags, die=None):
    """Run the experiment in a process of its own; `die` is where a signal ends it."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    program = ["-m", "experiments.sigmoid_slope"] if die is None else ["-c", DEADLY, die]
    command = [sys.executable, *program, f"--workdir={folder}", *SETTINGS, *flags]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def succeed(folder, *flags):
    done = run(folder, *flags)
    assert done.returncode == 0, done.stderr
    return done


def die(folder, where, *flags):
    done = run(folder, *flags, die=where)
    if where.startswith("SIGKILL"):
        assert done.returncode == -9, done.stderr
    else:
        assert done.returncode == 130, done.stderr
        assert done.stderr.splitlines()[-1] == "interrupted: the same command goes on from here"
    assert "Traceback" not in done.stderr


def write_table(path, *, accuracy=None, slopes=SLOPES, seeds=(0, 1)):
    """Write a ground-truth table: a smooth curve with its peak near 0.3, and a little noise."""
    if accuracy is None:

        def accuracy(slope, seed):
            noise = 4e-4 * np.sin(9 * slope + 5 * seed)
            return 2 * round((0.97 - 0.03 * np.log(slope / 0.28) ** 2 + noise) / 2, 6)

    rows = [f"{c},{seed},{accuracy(c, seed)}\n" for seed in seeds for c in slopes]
    path.write_text("# made for a test\nslope,seed,accuracy\n" + "".join(rows))
    return path


def contents(folder):
    """Return the bytes of every file below a folder."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def outcome(folder):
    """Return all that a run leaves behind, apart from how long it took."""
    summary = json.loads((folder / "summary.json").read_text())
    del summary["seconds"]
    with np.load(folder / "synthetic_data.npz") as arrays:
        samples = {name: arrays[name].tolist() for name in arrays}
    texts = {name: (folder / name).read_text() for name in ("predictions.csv", "metrics.jsonl")}
    return {"summary": summary, "samples": samples, **texts}


def assert_same_outcome(folder, other):
    one, another = outcome(folder), outcome(other)
    for name in one:
        assert one[name] == another[name], name


def predictions(folder):
    """Return predictions.csv as columns by seed."""
    with (folder / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    seeds = {}
    for row in rows:
        columns = seeds.setdefault(int(row.pop("seed")), {name: [] for name in row})
        for name, text in row.items():
            columns[name].append(text if name == "split" else float(text or "nan"))
    return {
        seed: {name: np.array(column) for name, column in columns.items()}
        for seed, columns in seeds.items()
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with table.csv."""
    folder = tmp_path_factory.mktemp("sigmoid_slope")
    write_table(folder / "table.csv")
    return folder


@pytest.fixture(scope="module")
def two_seeds(place):
    return [f"--ground_truth={place / 'table.csv'}", "--num_seeds=2"]


@pytest.fixture(scope="module")
def finished(place, two_seeds):
    """Return the folder and the output of an uninterrupted run; no test may change it."""
    done = succeed(place / "finished", *two_seeds)
    return place / "finished", done.stdout


@pytest.fixture(scope="module")
def summary(finished):
    return json.loads((finished[0] / "summary.json").read_text())


@pytest.fixture(scope="module")
def table(place):
    return tabular.read(place / "table.csv")


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


# Refusals

REFUSED = {  # flags, and what the sentence says; in the folder of a finished run
    "missing file": (["--ground_truth={place}/none.csv"], "none.csv is missing"),
    "missing column": (["--ground_truth={place}/column.csv"], "one column named 'accuracy'"),
    "failed run": (["--ground_truth={place}/nan.csv"], "line 5: accuracy is 'nan'"),
    "few motifs": (["--num_train=11"], "10 slopes in [0.37, 2.01], but --num_train=11"),
    "other setting": (["--outer_steps=7"], "use its flags to go on with it"),
    "fewer seeds": (["--num_seeds=1"], "num_seeds=2, not 1"),
    "stray word": (["runs/here"], "'runs/here' is no flag"),
    "no number": (["--outer_l2=abc"], "--outer_l2=abc: give numbers"),
    "no dish": (["--num_dishes=0"], "must be at least 1"),
    "no width": (["--hidden_size=0"], "--hidden_size=0 must be at least 1"),
    "below a file": (["--workdir={place}/table.csv/run"], "cannot write in"),
    "table is a folder": (["--ground_truth={place}"], "cannot be read"),
}
REFUSED_BY_PARSER = {
    "preset": ["--preset=foo"],
    "nonsense": ["--nonsense=1"],
    "num_train": ["--num_train=1"],
    "held_out_share": ["--held_out_share=0.95"],
}
REFUSED_IN_A_NEW_FOLDER = {
    "infinite interval": ["--train_slope_max=inf"],
    "share that is no number": ["--held_out_share=nan"],
    "negative seed": ["--seed=-1"],
    "too few to hold out": ["--num_train=3", "--held_out_share=0.5"],
    "equal accuracies": ["--ground_truth={place}/equal.csv"],
}


@pytest.fixture(scope="module")
def refusals(finished, two_seeds, place):
    """Return how each refused command ended; the finished folder's bytes before and after."""
    write_table(place / "equal.csv", accuracy=lambda slope, seed: 0.5)
    (place / "column.csv").write_text("slope,score\n0.1,0.9\n")
    (place / "nan.csv").write_text("slope,accuracy\n0.1,0.9\n0.2,0.9\n0.3,0.9\n0.4,nan\n")
    jobs = {name: (finished[0], words) for name, (words, _) in REFUSED.items()}
    jobs |= {name: (finished[0], words) for name, words in REFUSED_BY_PARSER.items()}
    jobs |= {
        name: (place / "new" / str(number), words)
        for number, (name, words) in enumerate(REFUSED_IN_A_NEW_FOLDER.items())
    }

    def refuse(job):
        folder, words = job
        return run(folder, *two_seeds, *(word.format(place=place) for word in words))

    before = contents(finished[0])
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        ended = dict(zip(jobs, pool.map(refuse, jobs.values()), strict=True))
    return ended, before, contents(finished[0])


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_one_sentence(name, refusals):
    done = refusals[0][name]
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert REFUSED[name][1] in done.stderr


@pytest.mark.parametrize("name", REFUSED_BY_PARSER)
def test_a_flag_that_the_parser_refuses_is_named(name, refusals):
    done = refusals[0][name]
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"--{name}" in done.stderr or f"'{name}'" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("name", REFUSED_IN_A_NEW_FOLDER)
def test_a_mistake_that_only_the_run_sees_is_a_sentence_too(name, refusals):
    done = refusals[0][name]
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_mistakes_leave_earlier_results_as_they_were(refusals, place):
    _, before, after = refusals
    assert after == before
    assert (place / "table.csv").is_file()


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


# The parts


def test_a_split_knows_slopes_of_the_interval_alone(table):
    splits = [Split.draw(table, seed, 6, 0.4, 1.8) for seed in range(20)]
    for split in splits:
        assert len(set(split.train.tolist())) == 6
        assert split.train.tolist() == sorted(split.train.tolist())
        assert table.slopes[split.train].min() >= 0.4
        assert table.slopes[split.train].max() <= 1.8
        assert sorted([*split.train, *split.test]) == list(range(14))
        assert table.slopes[split.left].tolist() == [0.05, 0.12, 0.2, 0.3]
    assert set(np.concatenate([split.train for split in splits])) == set(range(4, 13))
    again = Split.draw(table, 7, 6, 0.4, 1.8)
    np.testing.assert_array_equal(again.train, splits[7].train)
    assert Split.draw(table, 0, 9, 0.4, 1.8).train.tolist() == list(range(4, 13))


@pytest.mark.parametrize(("count", "low", "high"), [(10, 0.4, 1.8), (2, 0.41, 0.54), (2, 3, 1)])
def test_a_split_of_too_few_slopes_is_refused(count, low, high, table):
    with pytest.raises(UserError, match=rf"--num_train={count} .*lower --num_train or widen"):
        Split.draw(table, 0, count, low, high)


def hand_made(slopes, *runs):
    """Return a table with one accuracy per run and slope."""
    values = tuple(np.array(column) for column in zip(*runs, strict=True))
    return tabular.Table(
        np.array(slopes),
        np.array([np.mean(value) for value in values]),
        np.zeros(len(slopes)),
        np.array([len(value) for value in values]),
        values,
        pathlib.Path("hand-made"),
    )


def test_scores_by_hand():
    table = hand_made([0.1, 0.2, 0.3, 0.4, 0.5], [1.0, 3.0, 5.0, 4.0, 2.0])
    split = Split(np.array([3, 4]), np.array([0, 1, 2]), np.array([0, 1]))
    figures = sigmoid_slope_seed.score(table, split, np.array([2.0, 1.0, 3.0, 5.0, 4.0]))
    # Of ten pairs, 6 agree; (0, 1), (1, 4), (2, 3) and (2, 4) do not.
    assert figures["kendall_tau"] == pytest.approx(0.2)
    assert figures["kendall_tau_test"] == pytest.approx(1 / 3)
    assert figures["kendall_tau_left"] == -1
    assert figures["predicted_peak_slope"] == 0.4
    assert figures["peak_error"] == pytest.approx(0.1)


def test_scores_at_degenerate_points_are_ready_for_json():
    table = hand_made([0.1, 0.2, 0.3], [0.5, 0.5, 0.5])
    split = Split(np.array([1, 2]), np.array([0]), np.array([], int))
    figures = sigmoid_slope_seed.score(table, split, np.array([1.0, 2.0, 3.0]))
    assert figures["kendall_tau"] is None  # a constant truth asks for no ranking
    assert figures["kendall_tau_test"] is None
    assert figures["kendall_tau_left"] is None
    for failed in (np.full(3, -np.inf), np.full(3, np.nan)):
        figures = sigmoid_slope_seed.score(hand_made([1, 2, 3], [1, 2, 3]), split, failed)
        assert figures["kendall_tau"] == 0
        assert json.dumps(figures["predicted_peak_slope"], allow_nan=False) == "null"
        assert json.dumps(figures["peak_error"], allow_nan=False) == "null"


def test_the_noise_ceiling_is_a_seed_against_the_mean_of_the_others():
    runs = np.array([[1.0, 2, 3, 4], [1, 3, 2, 4], [4, 2, 3, 0]])
    expected = np.mean(
        [
            stats.kendalltau(runs[0], runs[1] + runs[2]).statistic,
            stats.kendalltau(runs[1], runs[0] + runs[2]).statistic,
            stats.kendalltau(runs[2], runs[0] + runs[1]).statistic,
        ]
    )
    ceiling = experiment.noise_ceiling(hand_made([1, 2, 3, 4], *runs))
    assert ceiling == pytest.approx(expected)


def test_a_table_without_repeats_has_no_noise_ceiling():
    assert experiment.noise_ceiling(hand_made([1, 2], [0.5, 0.6])) is None
    uneven = dataclasses.replace(
        hand_made([1, 2], [0.5, 0.6], [0.5, 0.6]),
        seeds_per_slope=np.array([2, 1]),
        values=(np.array([0.5, 0.5]), np.array([0.6])),
    )
    assert experiment.noise_ceiling(uneven) is None
    assert experiment.noise_ceiling(hand_made([1, 2], [0.5, 0.5], [0.5, 0.5])) is None


def test_scores_of_any_scale_keep_their_order_in_the_file(finished, table, tmp_path):
    paths = [next(finished[0].glob(f"states/*/result_seed{seed}.json")) for seed in (0, 1)]
    results = {seed: json.loads(path.read_text()) for seed, path in enumerate(paths)}
    small = dataclasses.replace(table, accuracy=1e-6 * table.accuracy)
    experiment.write_predictions(RunFolder(tmp_path), small, results)
    written = predictions(tmp_path)[0]["true"]
    assert np.argsort(written).tolist() == np.argsort(table.accuracy).tolist()
    np.testing.assert_allclose(written, small.accuracy, rtol=1e-5)


def test_a_summary_hides_no_failure(finished, summary, table, capsys):
    config = json.loads((finished[0] / "config.json").read_text())
    paths = [next(finished[0].glob(f"states/*/result_seed{seed}.json")) for seed in (0, 1)]
    results = {seed: json.loads(path.read_text()) for seed, path in enumerate(paths)}
    assert experiment.summarise(table, config, results) == summary
    results[1]["figures"]["dish"]["kendall_tau_left"] = None
    failed = experiment.summarise(table, config, results)["dish"]["kendall_tau_left"]
    value = summary["dish"]["kendall_tau_left"]["values"][0]
    assert failed == {"median": None, "q25": None, "q75": None, "values": [value, None]}
    experiment.print_table(experiment.summarise(table, config, results))
    assert " - " in capsys.readouterr().out


def test_nothing_is_learned_from_slopes_that_a_seed_does_not_know(table, tmp_path):
    """Nor are its settings chosen by them: two dishes stand for choice here."""
    candidates = {
        f"width {hidden}": DishSurrogate(
            sigmoid_slope.family(hidden=hidden), dataclasses.replace(CONFIG, outer_steps=1)
        )
        for hidden in (1, 2)
    }
    split = Split.draw(table, 0, 6, 0.37, 2.01)
    changed = table.accuracy.copy()
    changed[split.test] = np.linspace(5, -5, len(split.test))
    results = []
    for number, accuracy in enumerate((table.accuracy, changed)):
        folder = RunFolder(tmp_path / str(number))
        altered = dataclasses.replace(table, accuracy=accuracy)
        results.append(sigmoid_slope_seed.run_seed(folder, 0, altered, split, candidates))
    assert results[0]["predictions"] == results[1]["predictions"]
    assert results[0]["setting"] == results[1]["setting"]
    assert results[0]["figures"] != results[1]["figures"]
    log = json.loads(next(tmp_path.glob("0/states/*/tuning_seed0.json")).read_text())
    assert log["chosen"] == results[0]["setting"]
    for trial in log["trials"]:
        seen = trial["fitted_slopes"] + trial["held_out_slopes"]
        assert sorted(seen) == table.slopes[split.train].tolist()
    means = {
        name: np.mean([t["outer_loss"] for t in log["trials"] if t["setting"] == name])
        for name in candidates
    }
    assert log["chosen"] == min(means, key=means.get)


def test_a_known_slope_that_explodes_spoils_no_other(table, tmp_path):
    whole = sigmoid_slope.family()

    def apply(params, slope, inputs):
        return whole.apply(params, slope, inputs) / jax.numpy.where(slope > 1.9, 0.0, 1.0)

    family = dataclasses.replace(whole, apply=apply)
    split = Split.draw(table, 0, 10, 0.37, 2.01)
    assert table.slopes[split.train].max() == 2.0
    result = sigmoid_slope_seed.run_seed(
        RunFolder(tmp_path), 0, table, split, {"one": DishSurrogate(family, CONFIG)}
    )
    json.dumps(result, allow_nan=False)
    for method in ("dish", "dish_untrained"):
        failed = [value is None for value in result["predictions"][method]]
        assert failed == [False] * 13 + [True], method


def test_the_choice_is_not_made_again_after_a_kill(table, tmp_path, monkeypatch):
    candidates = dict.fromkeys(
        ("one", "two"),
        DishSurrogate(sigmoid_slope.family(), dataclasses.replace(CONFIG, outer_steps=1)),
    )
    folder = RunFolder(tmp_path)
    split = Split.draw(table, 0, 6, 0.37, 2.01)
    first = sigmoid_slope_seed.run_seed(folder, 0, table, split, candidates)
    monkeypatch.setattr(tuning, "choose", lambda *args, **options: pytest.fail("chosen again"))
    again = sigmoid_slope_seed.run_seed(folder, 0, table, split, candidates)
    assert again["predictions"] == first["predictions"]

"""The sigmoid-slope experiment from its command line: whole, killed, resumed, extended."""

import dataclasses
import json
import shutil

import commands
import jax
import matplotlib.image
import numpy as np
import pytest
from commands import contents
from scipy import stats
from sigmoid_slope_runs import (
    CONFIG,
    FILES,
    FLAGS,
    PICTURES,
    PROBLEM,
    SETTINGS,
    SLOPES,
    assert_same_outcome,
    die,
    lines,
    outcome,
    predictions,
    read_table,
    run,
    succeed,
    write_table,
)

from spd_jax import dish
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup
from spd_jax.ledger import Ledger
from spd_jax.report import extrapolation as report
from spd_jax.studies import events, run_folder, settings
from spd_jax.studies.extrapolation import ComputedTable
from spd_jax.studies.predictions import FIGURES, METHODS, SAMPLES
from spd_jax.surrogates.dish_surrogate import DishSurrogate
from spd_jax.surrogates.regressors import GaussianProcess
from spd_jax.surrogates.slope_mlp import SlopeMlp
from spd_jax.trainers import mlp_classifier

ONE_SEED = dataclasses.replace(SETTINGS, num_seeds=1)
UNTRAINED = dataclasses.replace(ONE_SEED, dish=dataclasses.replace(CONFIG, outer_steps=0))


class Killed(BaseException):
    """What stands for a kill in this process: nothing catches it."""


# The whole run


def test_a_run_leaves_what_it_promises(slope_run):
    for name in FILES:
        assert (slope_run.folder / name).stat().st_size > 0, name
    for name in PICTURES:
        assert np.std(matplotlib.image.imread(slope_run.folder / name)) > 0.01, name
        assert str(slope_run.folder / name) in slope_run.output.splitlines()[-1]
    assert slope_run.output.splitlines()[1].split() == ["dish", "untrained", "MLP", "process"]
    assert not [path for path in contents(slope_run.folder) if path.name.startswith(".")]


def test_the_summary_is_strict_json_with_every_figure(slope_run):
    text = (slope_run.folder / "summary.json").read_text()
    summary = json.loads(text, parse_constant=pytest.fail)
    for method in METHODS:
        assert sorted(summary[method]) == sorted(FIGURES)
    spreads = [summary[method][figure] for method in METHODS for figure in FIGURES]
    for name in ("compile", "fit", "predict"):
        spreads.append(summary["seconds"][name])
        assert min(summary["seconds"][name]["values"]) >= 0
    for spread in spreads:
        assert len(spread["values"]) == 2
        quartiles = np.percentile(spread["values"], [25, 50, 75])
        found = [spread[key] for key in ("q25", "median", "q75")]
        assert found == pytest.approx(quartiles.tolist(), abs=1e-12)
    assert summary["seeds"] == [0, 1]
    assert (summary["num_train"], summary["num_dishes"], summary["slopes"]) == (6, 2, 14)
    assert (summary["ground_truth_rows"], summary["dataset"]) == (28, "table")
    assert summary["true_peak_slope"] == SLOPES[np.argmax(slope_run.table.scores)] == 0.3


def test_the_settings_and_the_progress_are_kept(slope_run):
    config = json.loads((slope_run.folder / "config.json").read_text())
    recorded = settings.to_json(CONFIG)
    del recorded["inner_learning_rate"]  # it is one of those to choose from
    assert config["dish"] == recorded
    assert config["inner_learning_rates"] == [0.01]
    assert config["table"] == slope_run.table.identity
    assert (config["train_slope_min"], config["train_slope_max"]) == (0.37, 2.01)
    assert (config["seed"], config["num_seeds"], config["num_train"]) == (0, 2, 6)
    found = lines(slope_run.folder)
    places = [(line["seed"], line["phase"], line["step"]) for line in found]
    assert places == [(seed, "fit", step) for seed in (0, 1) for step in range(7)]
    losses = np.array([line["outer_loss"] for line in found])
    assert losses.shape == (14, 2)
    assert np.isfinite(losses).all()


def test_a_seed_has_one_row_for_each_slope_and_knows_its_own_part(slope_run):
    seeds, table = predictions(slope_run.folder), slope_run.table
    assert list(seeds) == [0, 1]
    known = []
    for columns in seeds.values():
        assert columns["slope"].tolist() == SLOPES
        np.testing.assert_allclose(columns["true"], table.scores, rtol=1e-8)
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


def test_figures_are_those_of_the_predictions(slope_run):
    for number, columns in enumerate(predictions(slope_run.folder).values()):
        slopes, true = columns["slope"], columns["true"]
        parts = {
            "kendall_tau": np.full(14, True),
            "kendall_tau_test": columns["split"] == "test",
            "kendall_tau_left": slopes < 0.37,
        }
        for method in METHODS:
            found = {name: slope_run.summary[method][name]["values"][number] for name in FIGURES}
            for figure, part in parts.items():
                tau = stats.kendalltau(columns[method][part], true[part]).statistic
                assert found[figure] == pytest.approx(tau, abs=1e-9)
            peak = slopes[np.argmax(columns[method])]
            assert found["predicted_peak_slope"] == peak
            assert found["peak_error"] == pytest.approx(abs(peak - slopes[np.argmax(true)]))


def test_predictions_are_those_of_the_surrogates_on_the_known_slopes(slope_run):
    surrogate = DishSurrogate(PROBLEM.family(1), CONFIG)
    rivals = {
        "dish": surrogate,
        "slope_mlp": SlopeMlp(),
        "gaussian_process": GaussianProcess(PROBLEM.features.features),
    }
    for seed, columns in predictions(slope_run.folder).items():
        key, slopes = jax.random.key(seed), columns["slope"].astype(np.float32)
        train = columns["split"] == "train"
        truth = columns["true"][train]
        for name, rival in rivals.items():
            values = rival.fit(key, slopes[train], truth).predict(slopes)
            z = (values - truth.mean()) / truth.std()
            np.testing.assert_allclose(z, columns[name], atol=2e-3)
        start = dish.raw_scores(surrogate.start(key), surrogate.family, CONFIG, slopes)
        z = (start - start[:, train].mean(1, keepdims=True)) / start[:, train].std(1)[:, None]
        np.testing.assert_allclose(np.median(z, axis=0), columns["dish_untrained"], atol=2e-3)


def test_the_pictures_show_the_first_seeds_samples(slope_run):
    start = DishSurrogate(PROBLEM.family(1), CONFIG).start(jax.random.key(0)).data
    with np.load(slope_run.folder / "synthetic_data.npz") as samples:
        assert set(SAMPLES) <= set(samples)
        np.testing.assert_array_equal(samples["train_inputs_start"], start.train_inputs[0])
        np.testing.assert_array_equal(samples["train_labels"], start.train_labels[0])
        assert np.all(samples["train_inputs"] != samples["train_inputs_start"])


# Killed, resumed, extended


def test_a_run_killed_three_times_ends_as_an_uninterrupted_one(slope_run, tmp_path):
    flags = slope_run.flags
    die(tmp_path, "SIGKILL:line:6", *flags)  # seed 0 has a saved state of step 5
    assert len(lines(tmp_path)) == 5
    assert not (tmp_path / "summary.json").exists()
    die(tmp_path, "SIGINT:dish_seed1:1", *flags)  # seed 1 has none yet
    assert list(tmp_path.glob("states/*/result_seed0.json"))
    die(tmp_path, "SIGKILL:result_seed1.json:1", *flags)  # seed 1 is fitted, but not written
    assert not (tmp_path / "summary.json").exists()
    succeed(tmp_path, *flags)
    assert_same_outcome(tmp_path, slope_run.folder)


@pytest.fixture(scope="module")
def held_out():
    """Return settings of early stopping whose dishes take some of the steps."""
    config = dataclasses.replace(CONFIG, valid_every=2, outer_learning_rate=0.2)
    return dataclasses.replace(ONE_SEED, dish=config, held_out_share=0.5)


@pytest.fixture(scope="module")
def early_stopping(slope_run, held_out, tmp_path_factory):
    """Return the folder of an uninterrupted run with early stopping."""
    folder = tmp_path_factory.mktemp("early_stopping")
    run(folder, slope_run.table, held_out)
    return folder


def test_the_steps_of_both_phases_are_logged(early_stopping):
    places = [(line["phase"], line["step"]) for line in lines(early_stopping)]
    steps = json.loads((early_stopping / "summary.json").read_text())["outer_steps"]
    assert steps >= 2
    assert places == [("early_stopping", step) for step in range(6)] + [
        ("fit", step) for step in range(steps + 1)
    ]


@pytest.mark.parametrize("count", [3, 7, 8])  # in either phase, before and after a saved state
def test_early_stopping_killed_in_either_phase_ends_as_uninterrupted(
    count, early_stopping, held_out, slope_run, tmp_path, monkeypatch
):
    added, add = [], run_folder.RunFolder.add_metrics

    def deadly(folder, line):
        add(folder, line)
        added.append(line)
        if len(added) == count:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(run_folder.RunFolder, "add_metrics", deadly)
        with pytest.raises(Killed):
            run(tmp_path, slope_run.table, held_out)
    assert lines(tmp_path) == lines(early_stopping)[:count]
    run(tmp_path, slope_run.table, held_out)
    assert_same_outcome(tmp_path, early_stopping)


def test_a_finished_run_is_only_read_again_and_more_seeds_extend_it(slope_run, tmp_path):
    folder = tmp_path / "extended"
    shutil.copytree(slope_run.folder, folder)
    before = contents(folder)
    succeed(folder, *slope_run.flags)
    # "seconds" are the same too: nothing was computed anew. versions.json names the new command.
    assert contents(folder) | {folder / "versions.json": b""} == before | {
        folder / "versions.json": b""
    }
    # A table is known by its content, wherever it lies.
    shutil.copy(slope_run.table.source, tmp_path / "table.csv")
    succeed(folder, f"--ground_truth={tmp_path / 'table.csv'}", "--num_seeds=3")
    old, new = outcome(slope_run.folder), outcome(folder)
    for name in ("metrics.jsonl", "predictions.csv"):
        assert new[name].startswith(old[name])
        assert len(new[name]) > len(old[name])
    assert new["summary"]["seeds"] == [0, 1, 2]
    for method in METHODS:
        for figure in FIGURES:
            values = new["summary"][method][figure]["values"]
            assert values[:2] == old["summary"][method][figure]["values"]
            assert len(values) == 3


@pytest.fixture(scope="module")
def chosen(slope_run, tmp_path_factory):
    """Return the folder, table and settings of a run that chose between two dishes."""
    folder = tmp_path_factory.mktemp("chosen")
    config = dataclasses.replace(CONFIG, outer_steps=1)
    asked = dataclasses.replace(SETTINGS, dish=config, hidden_sizes=(1, 2))
    run(folder, slope_run.table, asked)
    return folder, slope_run.table, asked


@pytest.mark.parametrize("content", [b"", b"{}", b"[1, 2]", b'{"chosen": NaN}', bytes(500)])
@pytest.mark.parametrize("seed", [0, 1])
def test_damaged_files_are_made_anew(seed, content, chosen, tmp_path):
    """All files of a seed: its choice, its dish, its result."""
    finished, table, asked = chosen
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    damaged = sorted(folder.glob(f"states/*/*_seed{seed}*"))
    assert len(damaged) == 3
    for path in damaged:
        path.write_bytes(content)
    run(folder, table, asked)
    old, new = outcome(finished), outcome(folder)
    for found in (old, new):  # the lines of a seed are written again, behind those of the others
        found["metrics.jsonl"] = sorted(found["metrics.jsonl"].splitlines())
    assert new == old


@pytest.mark.parametrize("kind", ["tuning_seed", "dish_seed", "result_seed"])
def test_one_damaged_file_is_made_anew_from_the_others(kind, chosen, tmp_path):
    finished, table, asked = chosen
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (path,) = folder.glob(f"states/*/{kind}1*")
    path.write_bytes(path.read_bytes()[:100])
    run(folder, table, asked)
    assert_same_outcome(folder, finished)


def test_another_table_of_the_same_name_is_refused(slope_run, tmp_path):
    """Its figures would be a mixture of both tables."""
    path = write_table(tmp_path / "moving.csv")
    flags = [f"--workdir={tmp_path / 'run'}", f"--ground_truth={path}", *FLAGS, "--num_seeds=1"]
    done = commands.run("sigmoid_slope", *flags, "--outer_steps=0")
    assert done.code == 0, done.stderr
    drawn = {file.name for file in (tmp_path / "run").glob("*.png")}
    assert drawn == {"figure1.png", "figure4.png"}  # nothing was learned
    before = contents(tmp_path / "run")
    write_table(path, slopes=SLOPES[:-1], seeds=(0, 1, 2))
    done = commands.run("sigmoid_slope", *flags, "--outer_steps=0")
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "holds a run with table=" in done.stderr
    assert contents(tmp_path / "run") == before


# The ground truth computed anew

DIGITS = ComputedTable(tuple(map(str, SLOPES)), "digits", seeds=2, epochs=2)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Return the folder of a run that trained its table of two seeds, and what it told."""
    folder, told = tmp_path_factory.mktemp("digits"), []
    run(folder, DIGITS, UNTRAINED, listen=told.append)
    return folder, told


def test_a_computed_table_is_that_of_the_ledger(digits):
    folder, _ = digits
    table = read_table(folder / "ground_truth.csv")
    assert (table.unit, table.budget, table.space) == ("accuracy", 2, "sigmoid_slope")
    columns = predictions(folder)[0]
    np.testing.assert_allclose(columns["true"], table.scores, rtol=1e-8)
    with Ledger(folder / "ledger.sqlite", read_only=True) as ledger:
        assert len(ledger) == 2 * len(SLOPES)
        items = lookup.open_task(folder / "ground_truth.csv", PROBLEM.space).items
        assert [(key.cell, key.seed) for key, _ in items] == [
            (cell, seed) for seed in (0, 1) for cell in DIGITS.slopes
        ]
        for key, evaluation in items:  # to the bit
            assert repr(ledger.get(key)) == repr(evaluation)
    task = PROBLEM.ground_truth("digits").task(None, None)
    ((_, first),) = task.evaluate_many(["0.05"], [0], 2)
    assert first.score == items[0][1].score


def test_progress_is_told_while_a_batch_trains(digits):
    """Each of two seeds trains for two epochs before its fourteen slopes are known."""
    told = digits[1]
    stage = told.index(next(event for event in told if isinstance(event, events.Stage)))
    assert (told[stage].name, told[stage].total, told[stage].done) == ("ground truth", 28, 0)
    done = [event.done for event in told[stage + 1 :] if isinstance(event, events.Advanced)]
    done = done[: done.index(28) + 1]
    assert done[:3] == [7, 14, 14]
    assert sorted(done) == done
    assert 21 in done


def test_a_ground_truth_killed_half_way_ends_as_an_uninterrupted_one(digits, tmp_path, monkeypatch):
    saved, save = [], mlp_classifier.files.save_pytree

    def deadly(path, *others):
        save(path, *others)
        saved.append(path)
        if len(saved) == 3:  # the first epoch of the second seed
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(mlp_classifier.files, "save_pytree", deadly)
        with pytest.raises(Killed):
            run(tmp_path, DIGITS, UNTRAINED)
    with Ledger(tmp_path / "ledger.sqlite", read_only=True) as ledger:
        assert len(ledger) == len(SLOPES)
    told, epochs = [], mlp_classifier._train_epoch
    trained = []
    monkeypatch.setattr(
        mlp_classifier, "_train_epoch", lambda *given: trained.append(1) or epochs(*given)
    )
    run(tmp_path, DIGITS, UNTRAINED, listen=told.append)
    assert len(trained) == 2  # the second epoch, in two chunks of slopes
    assert (told[0].name, told[0].total, told[0].done) == ("ground truth", 28, 14)
    assert_same_outcome(tmp_path, digits[0])
    for name in ("ground_truth.csv", "config.json"):
        text, whole = ((folder / name).read_text() for folder in (tmp_path, digits[0]))
        assert drop_seconds(text) == drop_seconds(whole)


def drop_seconds(text):
    """Return the lines of a table without the only column that differs from run to run."""
    seconds = 11
    return [",".join(line.split(",")[:seconds]) for line in text.splitlines()]


def test_more_runs_for_each_slope_renew_every_figure(tmp_path):
    """A second seed changes the truth, so nothing old may stay."""
    run(tmp_path, dataclasses.replace(DIGITS, seeds=1), UNTRAINED)
    old = predictions(tmp_path)[0]["true"]
    run(tmp_path, DIGITS, UNTRAINED)
    columns = predictions(tmp_path)[0]
    assert np.any(columns["true"] != old)
    summary = json.loads((tmp_path / "summary.json").read_text())
    for method in METHODS:
        tau = stats.kendalltau(columns[method], columns["true"]).statistic
        assert summary[method]["kendall_tau"]["values"] == [pytest.approx(tau, abs=1e-3)]
    assert len({line["seed"] for line in lines(tmp_path)}) == len(lines(tmp_path)) == 1
    with pytest.raises(UserError, match="holds a run with ground_truth_seeds=2, not 1"):
        run(tmp_path, dataclasses.replace(DIGITS, seeds=1), UNTRAINED)


def test_a_command_computes_the_whole_table(tmp_path):
    flags = ["--dataset=digits", "--compute_ground_truth", "--ground_truth_epochs=1"]
    flags += ["--ground_truth_seeds=1", "--num_seeds=1", "--outer_steps=0"]
    done = succeed(tmp_path, *flags)
    assert "ground truth: 60/60 (100%)" in done.stderr
    assert len(read_table(tmp_path / "ground_truth.csv")) == 60
    assert report.read(tmp_path).dataset == "digits"

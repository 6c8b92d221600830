"""The parts of the sigmoid-slope experiment, called in process."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
from scipy import stats
from sigmoid_slope_runs import CONFIG, PROBLEM, SETTINGS, SLOPES, predictions

from spd_jax.archs import Cells
from spd_jax.errors import UserError
from spd_jax.ground_truth.lookup import TruthTable
from spd_jax.problems import sigmoid_slope
from spd_jax.report import extrapolation as report
from spd_jax.studies import events, extrapolation, one_split, tuning
from spd_jax.studies import predictions as files_of_a_run
from spd_jax.studies.extrapolation import ComputedTable
from spd_jax.studies.one_split import Split
from spd_jax.studies.run_folder import RunFolder
from spd_jax.surrogates.dish_surrogate import DishSurrogate
from spd_jax.surrogates.regressors import GaussianProcess

# Splits


def draw(table, seed, num_train, low, high):
    settings = dataclasses.replace(
        SETTINGS, num_train=num_train, train_slope_min=low, train_slope_max=high
    )
    return extrapolation.draw_split(table, seed, settings)


@pytest.fixture
def table(slope_run):
    return slope_run.table


def test_a_split_knows_slopes_of_the_interval_alone(table):
    splits, slopes = [draw(table, seed, 6, 0.4, 1.8) for seed in range(20)], np.array(SLOPES)
    for split in splits:
        assert len(set(split.train.tolist())) == 6
        assert split.train.tolist() == sorted(split.train.tolist())
        assert slopes[split.train].min() >= 0.4
        assert slopes[split.train].max() <= 1.8
        assert sorted([*split.train, *split.test]) == list(range(14))
        assert slopes[split.left].tolist() == [0.05, 0.12, 0.2, 0.3]
    assert set(np.concatenate([split.train for split in splits])) == set(range(4, 13))
    again = draw(table, 7, 6, 0.4, 1.8)
    np.testing.assert_array_equal(again.train, splits[7].train)
    assert draw(table, 0, 9, 0.4, 1.8).train.tolist() == list(range(4, 13))


@pytest.mark.parametrize(("count", "low", "high"), [(10, 0.4, 1.8), (2, 0.41, 0.54), (2, 3, 1)])
def test_a_split_of_too_few_slopes_is_refused(count, low, high, table):
    with pytest.raises(UserError, match=rf"num_train={count} .*ask for fewer or widen"):
        draw(table, 0, count, low, high)


@pytest.mark.parametrize("wrong", [{"num_train": 11}, {"hidden_sizes": ()}])
def test_settings_that_do_not_fit_are_refused_before_a_table_is_trained(wrong, tmp_path):
    """Training it takes long, and the folder would keep the settings for good."""
    asked = dataclasses.replace(SETTINGS, **wrong)
    given = ComputedTable(tuple(map(str, SLOPES)), "digits")
    with pytest.raises(UserError, match=r"num_train=11|hidden_sizes is empty"):
        extrapolation.run(PROBLEM, given, asked, tmp_path / "run", listen=pytest.fail)
    assert not (tmp_path / "run").exists()


def test_a_table_is_put_in_order_of_slope(table):
    shuffled = table.take(np.random.default_rng(0).permutation(14))
    ordered = extrapolation.in_order(shuffled)
    assert ordered.cells.names == table.cells.names
    assert ordered.scores.tolist() == table.scores.tolist()
    assert ordered.identity == table.identity != shuffled.identity


# Candidates


def test_candidates_are_every_width_with_every_rate():
    asked = dataclasses.replace(SETTINGS, hidden_sizes=(1, 3), inner_learning_rates=(0.1, 1.0))
    found = extrapolation.candidates_of(PROBLEM, asked)
    assert list(found) == [f"hidden {h}, inner rate {rate}" for h in (1, 3) for rate in (0.1, 1.0)]
    last = found["hidden 3, inner rate 1.0"]
    assert last.family == PROBLEM.family(3)
    assert last.config == dataclasses.replace(CONFIG, inner_learning_rate=1.0)


@pytest.mark.parametrize("rate", [0.5, (0.1, 0.3)])
def test_without_rates_to_choose_from_the_dishs_own_is_used(rate):
    config = dataclasses.replace(CONFIG, inner_learning_rate=rate)
    asked = dataclasses.replace(SETTINGS, dish=config, inner_learning_rates=())
    (only,) = extrapolation.candidates_of(PROBLEM, asked).values()
    assert only.config == config


def test_a_rate_that_no_dish_can_have_is_refused():
    asked = dataclasses.replace(SETTINGS, inner_learning_rates=(0.1, -1.0))
    with pytest.raises(UserError, match=r"inner_learning_rate=-1\.0 must be"):
        extrapolation.candidates_of(PROBLEM, asked)


def test_motif_networks_without_biases_are_other_ones(table, tmp_path):
    asked = dataclasses.replace(
        SETTINGS, num_seeds=1, dish=dataclasses.replace(CONFIG, outer_steps=0)
    )
    found = []
    for use_bias in (True, False):
        problem, folder = sigmoid_slope.problem(use_bias), tmp_path / str(use_bias)
        extrapolation.run(problem, table, asked, folder, listen=events.ignore)
        found.append(predictions(folder)[0]["dish"].tolist())
    assert found[0] != found[1]


# Figures


def hand_made(slopes, *runs):
    """Return a table with one score per run and slope."""
    values = tuple(np.array(column, float) for column in zip(*runs, strict=True))
    return TruthTable(
        cells=Cells(tuple(map(str, slopes)), np.array(slopes, np.float32)),
        scores=np.array([np.mean(value) for value in values]),
        seeds=values,
        curves=((),) * len(slopes),
        budget=1,
        unit="accuracy",
        space="sigmoid_slope",
        task="",
        source=pathlib.Path("hand-made"),
    )


def split_of(table, train, test, left):
    return Split(table.take(train), *(np.array(own, int) for own in (train, test, left, train)))


def test_scores_by_hand():
    table = hand_made([0.1, 0.2, 0.3, 0.4, 0.5], [1.0, 3.0, 5.0, 4.0, 2.0])
    split = split_of(table, [3, 4], [0, 1, 2], [0, 1])
    figures = one_split.score(table, split, np.array([2.0, 1.0, 3.0, 5.0, 4.0]))
    # Of ten pairs, 6 agree; (0, 1), (1, 4), (2, 3) and (2, 4) do not.
    assert figures["kendall_tau"] == pytest.approx(0.2)
    assert figures["kendall_tau_test"] == pytest.approx(1 / 3)
    assert figures["kendall_tau_left"] == -1
    assert figures["predicted_peak_slope"] == 0.4
    assert figures["peak_error"] == pytest.approx(0.1)


def test_scores_at_degenerate_points_are_ready_for_json():
    table = hand_made([0.1, 0.2, 0.3], [0.5, 0.5, 0.5])
    split = split_of(table, [1, 2], [0], [])
    figures = one_split.score(table, split, np.array([1.0, 2.0, 3.0]))
    assert figures["kendall_tau"] is None  # a constant truth asks for no ranking
    assert figures["kendall_tau_test"] is None
    assert figures["kendall_tau_left"] is None
    for failed in (np.full(3, -np.inf), np.full(3, np.nan)):
        figures = one_split.score(hand_made([1, 2, 3], [1, 2, 3]), split, failed)
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
    ceiling = extrapolation.noise_ceiling(hand_made([1, 2, 3, 4], *runs))
    assert ceiling == pytest.approx(expected)


def test_a_table_without_repeats_has_no_noise_ceiling():
    assert extrapolation.noise_ceiling(hand_made([1, 2], [0.5, 0.6])) is None
    uneven = dataclasses.replace(
        hand_made([1, 2], [0.5, 0.6], [0.5, 0.6]), seeds=(np.array([0.5, 0.5]), np.array([0.6]))
    )
    assert extrapolation.noise_ceiling(uneven) is None
    assert extrapolation.noise_ceiling(hand_made([1, 2], [0.5, 0.5], [0.5, 0.5])) is None


def results_of(slope_run):
    """Return what the folder of a run holds of each seed."""
    paths = [next(slope_run.folder.glob(f"states/*/result_seed{seed}.json")) for seed in (0, 1)]
    return {seed: json.loads(path.read_text()) for seed, path in enumerate(paths)}


def test_scores_of_any_scale_keep_their_order_in_the_file(slope_run, table, tmp_path):
    small = dataclasses.replace(table, scores=1e-6 * table.scores)
    files_of_a_run.write_curves(RunFolder(tmp_path), small, results_of(slope_run))
    written = predictions(tmp_path)[0]["true"]
    assert np.argsort(written).tolist() == np.argsort(table.scores).tolist()
    np.testing.assert_allclose(written, small.scores, rtol=1e-5)


def test_a_summary_hides_no_failure(slope_run, table):
    results, whole = results_of(slope_run), slope_run.summary
    found = extrapolation.summarise(table, SETTINGS, results)
    assert {"dataset": "table", "source": "", **found} == whole
    results[1]["figures"]["dish"]["kendall_tau_left"] = None
    found = extrapolation.summarise(table, SETTINGS, results)
    value = whole["dish"]["kendall_tau_left"]["values"][0]
    assert found["dish"]["kendall_tau_left"] == {
        "median": None, "q25": None, "q75": None, "values": [value, None],
    }  # fmt: skip
    (row,) = [line for line in report.results(whole | found).splitlines() if "tau, left" in line]
    assert row.split()[2] == "-"


# What a seed knows


def test_nothing_is_learned_from_slopes_that_a_seed_does_not_know(table, tmp_path):
    """Nor are its settings chosen by them: two dishes stand for choice here."""
    candidates = {
        f"width {hidden}": DishSurrogate(
            PROBLEM.family(hidden), dataclasses.replace(CONFIG, outer_steps=1)
        )
        for hidden in (1, 2)
    }
    split = draw(table, 0, 6, 0.37, 2.01)
    changed = table.scores.copy()
    changed[split.test] = np.linspace(5, -5, len(split.test))
    results = []
    for number, scores in enumerate((table.scores, changed)):
        folder = RunFolder(tmp_path / str(number))
        altered = dataclasses.replace(table, scores=scores)
        results.append(one_split.run_seed(folder, 0, altered, split, candidates))
    assert results[0]["predictions"] == results[1]["predictions"]
    assert results[0]["setting"] == results[1]["setting"]
    assert results[0]["figures"] != results[1]["figures"]
    log = json.loads(next(tmp_path.glob("0/states/*/tuning_seed0.json")).read_text())
    assert log["chosen"] == results[0]["setting"]
    for trial in log["trials"]:
        seen = trial["fitted_slopes"] + trial["held_out_slopes"]
        assert sorted(seen) == [SLOPES[i] for i in split.train]
    means = {
        name: np.mean([t["outer_loss"] for t in log["trials"] if t["setting"] == name])
        for name in candidates
    }
    assert log["chosen"] == min(means, key=means.get)


# From another table


@pytest.fixture(scope="module")
def from_elsewhere(slope_run, tmp_path_factory):
    """Return a source of other slopes, and the folders of runs on two truths of one table."""
    slopes = [0.02, 0.1, 0.25, 0.5, 0.9, 1.3, 1.7, 2.01]
    source = dataclasses.replace(
        hand_made(slopes, [0.2, 0.7, 0.9, 0.85, 0.8, 0.6, 0.5, 0.4]),
        source=pathlib.Path("other_sigmoid_slope.csv"),
    )
    folders = []
    turned = dataclasses.replace(slope_run.table, scores=-slope_run.table.scores)
    for table in (slope_run.table, turned):
        folders.append(tmp_path_factory.mktemp("source"))
        extrapolation.run(PROBLEM, table, SETTINGS, folders[-1], source=source)
    return source, folders


def test_from_another_table_no_truth_of_this_one_is_used(from_elsewhere):
    _, folders = from_elsewhere
    for one, other in zip(*(predictions(folder).values() for folder in folders), strict=True):
        assert set(one["split"]) == {"test"}
        assert np.any(one["true"] != other["true"])
        for method in (*files_of_a_run.METHODS, "source_table"):
            assert one[method].tolist() == other[method].tolist()


def test_methods_learn_from_all_of_the_source_and_it_is_read_itself(from_elsewhere):
    source, (folder, _) = from_elsewhere
    own = np.array([float(name) for name in source.cells.names])
    rivals = {
        "dish": DishSurrogate(PROBLEM.family(1), CONFIG),
        "gaussian_process": GaussianProcess(PROBLEM.features.features),
    }
    for seed, columns in predictions(folder).items():
        inside = columns["slope"] >= 0.37
        expected = {"source_table": np.interp(columns["slope"], own, source.scores)}
        for name, rival in rivals.items():
            fitted = rival.fit(jax.random.key(seed), source.cells.archs, source.scores)
            expected[name] = fitted.predict(columns["slope"].astype(np.float32))
        for name, values in expected.items():
            z = (values - values[inside].mean()) / values[inside].std()
            np.testing.assert_allclose(z, columns[name], atol=2e-3)
        assert (columns["dish_low"] <= columns["dish"]).all()


def test_the_summary_and_the_pictures_say_where_was_learned(from_elsewhere):
    folder = from_elsewhere[1][0]
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["dataset"], summary["source"]) == ("table", "other")
    assert summary["methods"] == [*files_of_a_run.METHODS, "source_table"]
    (row,) = [line for line in report.results(summary).splitlines() if "tau, left" in line]
    assert len(row.split()) == 7
    drawn = files_of_a_run.read(folder)
    near = report.figure1(drawn).axes[0]
    lines = {line.get_label(): line for line in near.lines}
    band = drawn.bands["source_table"].median
    tau = summary["source_table"]["kendall_tau"]["median"]
    label = f"other's table itself, τ = {tau:.2f}"
    np.testing.assert_array_equal(lines[label].get_ydata(), band)
    tau = summary["dish_untrained"]["kendall_tau"]["median"]
    assert f"dish, untrained, τ = {tau:.2f}" in lines
    assert "learned from other" in report.figure4(drawn).get_suptitle()
    assert "training interval " not in [text.get_text() for text in near.texts]


def test_a_known_slope_that_explodes_spoils_no_other(table, tmp_path):
    whole = PROBLEM.family(1)

    def apply(params, slope, inputs):
        return whole.apply(params, slope, inputs) / jax.numpy.where(slope > 1.9, 0.0, 1.0)

    family = dataclasses.replace(whole, apply=apply)
    split = draw(table, 0, 10, 0.37, 2.01)
    assert SLOPES[split.train.max()] == 2.0
    result = one_split.run_seed(
        RunFolder(tmp_path), 0, table, split, {"one": DishSurrogate(family, CONFIG)}
    )
    json.dumps(result, allow_nan=False)
    for method in ("dish", "dish_untrained"):
        failed = [value is None for value in result["predictions"][method]]
        assert failed == [False] * 13 + [True], method


def test_the_choice_is_not_made_again_after_a_kill(table, tmp_path, monkeypatch):
    candidates = dict.fromkeys(
        ("one", "two"),
        DishSurrogate(PROBLEM.family(1), dataclasses.replace(CONFIG, outer_steps=1)),
    )
    folder = RunFolder(tmp_path)
    split = draw(table, 0, 6, 0.37, 2.01)
    first = one_split.run_seed(folder, 0, table, split, candidates)
    monkeypatch.setattr(tuning, "choose", lambda *args, **options: pytest.fail("chosen again"))
    again = one_split.run_seed(folder, 0, table, split, candidates)
    assert again["predictions"] == first["predictions"]

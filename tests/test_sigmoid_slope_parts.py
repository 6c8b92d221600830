"""The parts of the sigmoid-slope experiment, called in process."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
from scipy import stats
from sigmoid_slope_runs import (
    CONFIG,
    predictions,
)

from experiments import sigmoid_slope as experiment
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup as tabular
from spd_jax.spaces import sigmoid_slope
from spd_jax.studies import extrapolation as sigmoid_slope_seed
from spd_jax.studies import tuning
from spd_jax.studies.extrapolation import Split
from spd_jax.studies.run_folder import RunFolder
from spd_jax.surrogates.dish_surrogate import DishSurrogate

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

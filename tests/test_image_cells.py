"""studies.image_cells, outer_loop, image_costs, image_ablation and their reports."""

import csv
import dataclasses
import json

import commands
import image_cells_runs as runs
import numpy as np
import pytest
from image_cells_runs import SETTINGS

from spd_jax import metrics
from spd_jax.errors import UserError
from spd_jax.problems import nasbench201
from spd_jax.report import ablation as ablation_report
from spd_jax.report import image_cells as report
from spd_jax.studies import image_ablation, image_cells, image_costs, outer_loop
from spd_jax.studies.outer_loop import OuterLoop

PARAMETERS = {"A": lambda archs: archs[:, 0] + 0.5, "B": lambda archs: archs[:, 1] + 0.0}
PICTURES = ["scatter", "outer_loop", "inner_curves", "max_accuracy", "synthetic_images"]


class KilledError(Exception):
    """What ends a run in the middle."""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = runs.write_table(tmp_path_factory.mktemp("image_cells") / "cells.csv")
    return runs.problem().truth_table(path)


def run(table, folder, settings=SETTINGS, **options):
    return image_cells.run(
        runs.problem(), table, settings, folder, parameters=PARAMETERS, **options
    )


@pytest.fixture(scope="module")
def finished(table):
    """Return an uninterrupted run; no test may change it."""
    return run(table, table.source.parent / "finished")


def ablate(table, folder, **changes):
    settings = dataclasses.replace(SETTINGS, losses_table=str(table.source), **changes)
    return image_ablation.run(
        runs.problem(), table, settings, folder, problem_of=runs.problem,
        table_of=lambda name: table,
    )  # fmt: skip


def without_times(found):
    """Return what a run found, apart from how long it took."""
    summary = json.loads(json.dumps(found.summary))
    for own in summary["trainings"].values():
        del own["costs"]
    records = {
        name: [{key: value for key, value in own.items() if key != "seconds"} for own in records]
        for name, records in found.records.items()
    }
    images = {
        f"{name} {key}": array.tolist()
        for name, own in found.samples.items()
        for key, array in own.items()
    }
    predicted = {key: np.asarray(own).tolist() for key, own in found.predictions.items()}
    return summary, records, images, predicted


# Splits


def test_twins_of_a_cell_are_on_one_side(tmp_path):
    same = [
        "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|",
        "|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|",
        "|none~0|+|nor_conv_3x3~0|none~1|+|none~0|none~1|skip_connect~2|",
    ]
    others = [
        f"|none~0|+|none~0|none~1|+|{name}~0|none~1|none~2|"
        for name in ("nor_conv_1x1", "avg_pool_3x3", "skip_connect")
    ]
    lines = [f"{cell},{50 + i}" for i, cell in enumerate(same + others)]
    path = tmp_path / "twins.csv"
    path.write_text("arch,c10_test_200ep_mean\n" + "\n".join(lines) + "\n")
    table = nasbench201.problem().truth_table(path, "cifar10_200")
    assert len(table) == 4
    assert table.scores[0] == pytest.approx(0.51)  # the mean of the three twins
    settings = dataclasses.replace(SETTINGS, num_train=2, num_test=2)
    for seed in range(5):
        split = image_cells.draw_split(table, dataclasses.replace(settings, seed=seed))
        assert sorted([*split.known, *split.held_out]) == [0, 1, 2, 3]


def test_more_known_cells_leave_the_held_out_ones_and_the_first_known_ones(table):
    few = image_cells.draw_split(table, dataclasses.replace(SETTINGS, num_train=4))
    many = image_cells.draw_split(table, SETTINGS)
    np.testing.assert_array_equal(few.held_out, many.held_out)
    np.testing.assert_array_equal(few.known, many.known[:4])
    assert not set(many.known) & set(many.held_out)


def test_a_small_table_leaves_fewer_held_out_cells(table):
    small = image_cells.draw_split(table, dataclasses.replace(SETTINGS, num_train=20))
    assert (len(small.known), len(small.held_out)) == (20, 4)
    plenty = image_cells.draw_split(table, SETTINGS)
    np.testing.assert_array_equal(small.held_out, plenty.held_out[:4])


@pytest.mark.parametrize("count", [12, 14])
def test_every_cell_is_used_before_one_is_used_again(count):
    config = dataclasses.replace(runs.CONFIG, motif_batch=4)
    loop = OuterLoop(None, config, None, np.zeros(count), np.zeros(count), 0)
    first = np.concatenate([loop.chosen(step) for step in range(3)])
    assert sorted(first) == list(range(12))
    second = [loop.chosen(step) for step in range(3, 6)]
    assert len(np.unique(np.concatenate(second))) == 12
    assert not np.array_equal(np.concatenate(second), first)


def test_a_batch_of_all_cells_is_taken_at_every_step():
    loop = OuterLoop(None, runs.CONFIG, None, np.zeros(3), np.zeros(3), 0)
    assert [loop.chosen(step).tolist() for step in (0, 7)] == [[0, 1, 2]] * 2


# Figures


def test_figures_of_an_outer_loop_are_the_papers():
    own = {"tau_scores": 0.5, "perfect": False}
    records = [
        own | {"loss": 1.0, "tau": 0.4, "max_accuracy": [0.5, 0.7]},
        own | {"loss": 1.0, "tau": None, "max_accuracy": [1.0, 1.0], "perfect": True},
        own | {"loss": 1.0, "tau": -0.1, "max_accuracy": [0.8, 0.8], "tau_scores": None},
        {"step": 3, "tau_held_out": 0.2},
    ]
    figures = outer_loop.figures(records)
    assert figures["tau"] == pytest.approx(0.1)
    assert figures["tau_without_undefined"] == pytest.approx(0.15)
    assert figures["undefined_share"] == figures["perfect_share"] == pytest.approx(1 / 3)
    assert figures["max_accuracy_first"] == pytest.approx((0.6 + 1.0 + 0.8) / 3)
    assert figures["tau_scores"] == 0.5


def test_the_papers_costs_are_those_of_its_table_2():
    costs = image_costs.paper("A")
    assert costs["initialisation_seconds"] == pytest.approx(436_764)
    assert costs["rawal_seconds"] == pytest.approx(2.184e6, rel=1e-3)
    assert costs["ground_truth_seconds"] == pytest.approx(1.971e6, rel=1e-3)


def test_a_moving_average_is_over_what_there_is_at_the_ends():
    values = report.smoothed(np.array([0.0, 3.0, 6.0, 0.0]))
    np.testing.assert_allclose(values, [1.5, 3.0, 3.0, 3.0])


# A run


def test_tau_is_that_of_the_predictions(finished):
    with (finished.path / "predictions.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "held_out"]
    assert len(rows) == SETTINGS.num_test
    for name, own in finished.summary["trainings"].items():
        predicted = [float(row[f"{name}_trained"]) for row in rows]
        tau = metrics.kendall_tau(predicted, [float(row["true"]) for row in rows])
        assert own["kendall_tau"] == pytest.approx(tau)
        assert own["kendall_tau"] == finished.records[name][-1]["tau_held_out"]
        assert own["kendall_tau_untrained"] == finished.records[name][0]["tau_held_out"]
    assert tau > 0.5  # the cheap network ranks these cells before it learns


def test_records_hold_every_step_and_the_curves_of_three(finished):
    whole = finished.records["whole"]
    assert [own["step"] for own in whole] == [0, 1, 2, 3, 4]
    assert [own["step"] for own in whole if "curves" in own] == [0, 2, 3]
    assert [own["step"] for own in whole if "tau_held_out" in own] == [0, 2, 4]
    curves = whole[0]["curves"]
    assert curves["epochs"] == [1, 2, 3]
    assert np.shape(curves["accuracy"]) == (4, 3)
    np.testing.assert_allclose(whole[0]["max_accuracy"], np.max(curves["accuracy"], axis=1))
    assert finished.records["short"][0]["curves"]["epochs"] == [1, 2]


def test_learning_moves_the_images_and_not_the_classes(finished):
    own = finished.samples["whole"]
    assert own["learned"].shape == (20, 4, 4, 3)
    assert 0 < np.abs(own["learned"] - own["start"]).max() < 0.1
    assert np.bincount(own["classes"]).tolist() == [2] * 10


def test_the_share_of_larger_networks_is_over_the_whole_table(finished, table):
    archs = table.cells.archs
    expected = np.mean(archs[:, 1] > archs[:, 0] + 0.5)
    assert finished.summary["share_larger_in_b"] == pytest.approx(expected)


def test_a_run_that_was_ended_goes_on_to_the_same_results(finished, table, tmp_path, monkeypatch):
    monkeypatch.setattr(outer_loop, "SAVE_EVERY", 2)
    steps = 0

    def listen(event):
        nonlocal steps
        steps += getattr(event, "done", 0) == 3
        if steps:
            raise KilledError

    with pytest.raises(KilledError):
        run(table, tmp_path, listen=listen)
    taken = []
    step = OuterLoop.step
    monkeypatch.setattr(
        OuterLoop, "step", lambda loop, state: (taken.append(1), step(loop, state))[1]
    )
    found = run(table, tmp_path)
    assert len(taken) == 2 + 4  # two of the whole training, four of the short one
    assert without_times(found) == without_times(finished)
    run(table, tmp_path)
    assert len(taken) == 6


def test_a_report_names_what_it_shows(finished):
    words = report.results(finished.summary)
    assert "3 epochs" in words
    assert "2 epochs" in words
    assert "cells.csv" in words
    assert all(len(line) <= 80 for line in words.splitlines())
    paths = report.draw(finished)
    assert [path.stem for path in paths] == PICTURES
    assert all(path.stat().st_size > 10_000 for path in paths)


# Ablation


def test_an_ablation_changes_one_thing_at_a_time(table):
    for name, variant in image_ablation.variants(SETTINGS).items():
        changed = [*variant.dish, *variant.problem, *(["targets"] * (variant.targets != "truth"))]
        if name == "paper":
            assert changed == []
        elif name not in ("all", "raw_mse_unit", "thirty_cells"):
            assert len({word.partition("_samples")[0] for word in changed}) <= 2


def test_an_ablation_keeps_rows_and_goes_on(table, tmp_path):
    rows = ("paper", "own_losses")
    first = ablate(table, tmp_path, ablation_rows=rows[:1])
    kept = (tmp_path / "rows" / "paper-seed0.json").read_bytes()
    found = ablate(table, tmp_path, ablation_rows=rows)
    assert [row["variant"] for row in found.rows] == list(rows)
    assert found.rows[0] == first.rows[0]
    assert (tmp_path / "rows" / "paper-seed0.json").read_bytes() == kept
    assert found.summary["rows"]["paper"]["tau_after"]["mean"] == found.rows[0]["tau_after"]
    assert "real losses" in ablation_report.results(found)
    assert [path.name for path in ablation_report.draw(found)][1:] == [
        "ablation.csv", "ablation.png",
    ]  # fmt: skip


def test_losses_are_the_last_ones_of_the_table(table):
    np.testing.assert_allclose(image_ablation.losses_of(table), 2 - table.scores, atol=1e-6)


# Mistakes


def test_a_table_with_too_few_cells_is_refused(table, tmp_path):
    with pytest.raises(UserError, match="24 cells that did not fail, of which num_train=23"):
        run(table, tmp_path, dataclasses.replace(SETTINGS, num_train=23))
    assert not list(tmp_path.iterdir())


def test_another_runs_folder_is_refused(finished, table):
    with pytest.raises(UserError, match="num_train=9, not 8"):
        run(table, finished.path, dataclasses.replace(SETTINGS, num_train=8))


def test_a_table_without_losses_is_refused(tmp_path):
    table = runs.problem().truth_table(runs.write_table(tmp_path / "t.csv", losses=False))
    with pytest.raises(UserError, match="has no valid_losses for the cell"):
        ablate(table, tmp_path / "run")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--ablation"], "add --preset=reduced, or paper"),
        (["--space=nasbench101"], "no table of nasbench101 comes with spd_jax: give one"),
        (["--image_size=2"], "image_size=2 cannot be halved"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(flags, words, table, tmp_path):
    given = [] if "--space=nasbench101" in flags else [f"--table={table.source}"]
    done = commands.run("image_cells", f"--workdir={tmp_path}/run", *given, *flags)
    assert done.code == 1
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr

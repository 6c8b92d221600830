"""studies.ablation, dish_ablation, report.ablation, experiments.ablation."""

import csv
import dataclasses
import json

import commands
import jax
import numpy as np
import pytest

from spd_jax import dish, metrics
from spd_jax.dish import DishConfig
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup
from spd_jax.problems import sigmoid_slope
from spd_jax.report import ablation as report
from spd_jax.studies import ablation, dish_ablation, events
from spd_jax.studies.dish_ablation import DishAblationSettings, Variant
from spd_jax.studies.run_folder import RunFolder
from spd_jax.surrogates.dish_surrogate import DishSurrogate

PROBLEM = sigmoid_slope.problem()
CONFIG = DishConfig(inner_steps=10, outer_steps=3, ensemble_size=2, train_samples=4,
                    valid_samples=4, inner_learning_rate=0.1)  # fmt: skip
SETTINGS = DishAblationSettings(
    num_seeds=2, dish=CONFIG, hidden_size=1, known=6, rows=("base", "no_outer_steps")
)
FLAGS = ["--num_seeds=1", "--inner_steps=2", "--outer_steps=1", "--num_dishes=1"]
FLAGS += ["--train_samples=2", "--valid_samples=2", "--known=4"]


class KilledError(Exception):
    """What ends a run in the middle."""


def table(name="mnist"):
    return lookup.read(lookup.shipped(f"{name}_sigmoid_slope"), PROBLEM.space)


ASK = dish_ablation.ask_of_slopes(table(), table("fashion_mnist"), SETTINGS)


def run(folder, settings=SETTINGS, **options):
    about = {"part": "slopes below 0.37"}
    return dish_ablation.run(PROBLEM, settings, folder, ask=ASK, about=about, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return an uninterrupted run; no test may change it."""
    return run(tmp_path_factory.mktemp("ablation") / "finished", words="slopes")


def slopes(own):
    return np.array([float(name) for name in own.cells.names])


# Rows


def test_each_row_changes_one_thing():
    found = dish_ablation.variants(dataclasses.replace(CONFIG, init_scale=0.4), 3)
    base = dataclasses.asdict(found["base"].dish)
    changed = {
        name: {field for field in base if dataclasses.asdict(own.dish)[field] != base[field]}
        | ({"hidden_size"} if own.hidden_size != 3 else set())
        for name, own in found.items()
    }
    assert changed.pop("base") == set()
    pairs = [
        {"train_samples", "valid_samples"}, {"gradient", "truncation"},
        {"inner_optimiser", "inner_learning_rate"},
    ]  # fmt: skip
    assert all(len(fields) == 1 or fields in pairs for fields in changed.values())
    everything = set().union(*changed.values())
    assert everything >= {
        *("train_samples", "shared_data", "gradient", "inner_steps", "inner_learning_rate"),
        *("outer_steps", "outer_learning_rate", "targets", "outer_loss", "init_scale"),
        *("hidden_size", "shared_weights", "learn_labels", "ensemble_size", "inner_optimiser"),
    }
    for own in found.values():
        dish.check(own.dish)


def test_a_row_that_is_the_base_is_none():
    found = dish_ablation.variants(dataclasses.replace(CONFIG, outer_steps=0), 1)
    assert "no_outer_steps" not in found
    assert "width_1" not in found
    assert "width_2" in found


# Questions


def test_what_is_known_of_a_source_is_nothing_of_the_target():
    source = table("fashion_mnist")
    question = ASK(3)
    assert question.known.source == source.source
    assert len(question.known) == 6
    assert question.held_out.cells.names == table().cells.names
    left = np.flatnonzero(slopes(table()) < 0.37)
    np.testing.assert_array_equal(question.part, left)
    assert ASK(3).known.cells.names == question.known.cells.names
    assert ASK(4).known.cells.names != question.known.cells.names


def test_without_a_source_slopes_of_the_interval_are_known_and_not_asked_about():
    settings = dataclasses.replace(SETTINGS, train_slope_min=0.5, train_slope_max=1.5)
    question = dish_ablation.ask_of_slopes(table(), None, settings)(0)
    known, asked = slopes(question.known), slopes(question.held_out)
    assert ((known >= 0.5) & (known <= 1.5)).all()
    assert sorted([*known, *asked]) == sorted(slopes(table()))
    assert (asked[question.part] < 0.5).all()
    assert (np.delete(asked, question.part) >= 0.5).all()


def test_cells_are_held_out_and_the_better_half_is_the_part():
    settings = dataclasses.replace(SETTINGS, known=10, held_out=8)
    question = dish_ablation.ask_of_cells(table(), settings)(0)
    assert not set(question.known.cells.names) & set(question.held_out.cells.names)
    scores = question.held_out.scores
    assert len(scores) == 8
    assert scores[question.part].min() >= np.delete(scores, question.part).max()
    assert len(question.part) == 4


@pytest.mark.parametrize("source", [None, "fashion_mnist"])
def test_too_few_motifs_are_refused(source):
    settings = dataclasses.replace(SETTINGS, known=59 if source is None else 61)
    with pytest.raises(UserError, match="slopes to learn from, but known="):
        dish_ablation.ask_of_slopes(table(), source and table(source), settings)
    with pytest.raises(UserError, match="leaves fewer than 2 to rank"):
        dish_ablation.ask_of_cells(table(), settings)


# A run


def test_figures_are_those_of_a_fit_by_hand(finished):
    question = ASK(1)
    surrogate = DishSurrogate(PROBLEM.family(1), CONFIG)
    known = question.known
    fitted = surrogate.fit(jax.random.key(1), known.cells.archs, known.scores)
    predicted = fitted.predict(question.held_out.cells.archs)
    truth, left = question.held_out.scores, question.part
    row = next(own for own in finished.rows if (own["variant"], own["seed"]) == ("base", 1))
    assert row["tau_after"] == pytest.approx(metrics.kendall_tau(predicted, truth))
    expected = metrics.kendall_tau(predicted[left], truth[left])
    assert row["tau_part_after"] == pytest.approx(expected)
    assert row["outer_loss_first"] == pytest.approx(fitted.info.loss[0].mean(), rel=1e-5)
    assert row["outer_loss_last"] == pytest.approx(fitted.info.final_loss.mean(), rel=1e-5)
    assert (row["num_train"], row["num_test"]) == (6, 60)


def test_without_outer_steps_before_is_after(finished):
    for row in finished.rows:
        if row["variant"] == "no_outer_steps":
            for figure in ("tau", "tau_part", "inner_loss", "converged"):
                assert row[f"{figure}_before"] == row[f"{figure}_after"]
        else:
            assert row["inner_loss_before"] != row["inner_loss_after"]


def test_a_training_whose_loss_falls_little_at_the_end_has_converged(tmp_path):
    seen = set()
    for rate in (0.0, 0.3, 1.0):
        config = dataclasses.replace(CONFIG, inner_learning_rate=rate, outer_steps=0)
        settings = dataclasses.replace(SETTINGS, dish=config, num_seeds=1, rows=("base",))
        state = dish.init(jax.random.split(jax.random.key(0))[0], PROBLEM.family(1), config)
        known = ASK(0).known.cells.archs
        losses = dish.inner_curves(state, PROBLEM.family(1), config, known).train_loss
        nine, ten = losses[..., 8], losses[..., 9]
        found = run(tmp_path / str(rate), settings).rows[0]
        assert found["converged_before"] == pytest.approx(np.mean((nine - ten) / nine < 0.01))
        seen.add(found["converged_before"])
    assert max(seen) == 1.0  # nothing moves at rate 0
    assert min(seen) < 1.0


def test_curves_of_the_base_end_at_its_losses(finished):
    with open(finished.path / "curves.csv", encoding="utf-8") as stream:
        lines = list(csv.DictReader(line for line in stream if not line.startswith("#")))
    assert {line["variant"] for line in lines} == {"base"}
    assert {line["when"] for line in lines} == {"before", "after"}
    last = [line for line in lines if line["inner_step"] == "10"]
    for line in last:
        row = next(own for own in finished.rows if own["seed"] == int(line["seed"]))
        assert float(line["train_loss"]) == pytest.approx(row[f"inner_loss_{line['when']}"])
    assert len(last) == 4


def without_seconds(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_a_run_that_was_killed_goes_on_and_ends_alike(finished, tmp_path):
    told = 0

    def kill(event):
        nonlocal told
        told += isinstance(event, events.Advanced)
        if told == 8:
            raise KilledError

    with pytest.raises(KilledError):
        run(tmp_path, listen=kill)
    kept = {path: path.read_bytes() for path in (tmp_path / "rows").iterdir()}
    assert 0 < len(kept) < 4
    again = run(tmp_path)
    assert without_seconds(again.rows) == without_seconds(finished.rows)
    assert all(path.read_bytes() == content for path, content in kept.items())


def test_more_seeds_and_rows_of_full_size_extend_a_run(finished, tmp_path):
    first = run(tmp_path, dataclasses.replace(SETTINGS, num_seeds=1))
    full = {"tiny": Variant("a tiny preset", dataclasses.replace(CONFIG, outer_steps=1), 1)}
    rows = ("base", "full_tiny")
    found = run(tmp_path, dataclasses.replace(SETTINGS, rows=rows), full_size=full)
    assert [(own["variant"], own["seed"]) for own in found.rows] == [
        ("base", 0), ("full_tiny", 0), ("base", 1), ("full_tiny", 1),
    ]  # fmt: skip
    assert found.rows[0] == first.rows[0]
    assert found.summary["rows"]["full_tiny"]["words"] == "a tiny preset"


def test_an_unknown_row_is_refused(tmp_path):
    with pytest.raises(UserError, match="rows=base,odd: give some of base,no_outer_steps"):
        ablation.chosen(("base", "odd"), ("base", "no_outer_steps"), "rows")
    with pytest.raises(UserError, match="rows=odd: give some of base,"):
        run(tmp_path / "new", dataclasses.replace(SETTINGS, rows=("odd",)))
    assert not (tmp_path / "new").exists()


# Reports


def test_the_summary_is_the_table(finished):
    summary = json.loads((finished.path / "summary.json").read_text("utf-8"))
    taus = [row["tau_after"] for row in finished.rows if row["variant"] == "base"]
    base = summary["rows"]["base"]["tau_after"]
    assert base["mean"] == pytest.approx(np.mean(taus))
    assert base["std"] == pytest.approx(np.std(taus, ddof=1))
    text = report.results(finished)
    assert f"{np.mean(taus):.2f} ± {np.std(taus, ddof=1):.2f}" in text
    assert "no_outer_steps: no outer step" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_picture_has_a_panel_for_each_pair_and_one_for_the_curves(finished):
    figure = report.picture(finished)
    all_held_out, part, curves = figure.axes
    words = [label.get_text() for label in all_held_out.get_yticklabels()]
    assert words == ["the base", "no outer step"]
    assert part.get_title(loc="left") == "slopes below 0.37"
    assert len(curves.lines) == 2 * 2 * 2  # seeds, before and after, train and valid
    drawn = all_held_out.lines[0].get_xdata()
    np.testing.assert_allclose(
        drawn, [own["tau_before"]["mean"] for own in finished.summary["rows"].values()]
    )
    paths = report.draw(finished)
    assert [path.name for path in paths] == ["summary.json", "ablation.csv", "ablation.png"]
    assert paths[-1].stat().st_size > 10_000


# The command


@pytest.mark.parametrize("problem", ["sigmoid_slope", "rnn_cell"])
def test_the_command_runs_and_goes_on(problem, tmp_path):
    flags = [f"--problem={problem}", "--rows=base", f"--workdir={tmp_path}", *FLAGS]
    done = commands.run("ablation", *flags)
    assert done.code == 0, done.stderr
    assert "base: the base" in done.stdout
    assert f"wrote {tmp_path / 'summary.json'}" in done.stdout
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert config["dish"]["inner_steps"] == 2
    again = commands.run("ablation", *flags)
    assert again.stdout == done.stdout


def test_a_preset_is_as_wide_as_where_it_is_used(tmp_path):
    def ablation_of(rows):
        flags = [f"--workdir={tmp_path}", "--preset=fashion_mnist_blind", "--truncation=1"]
        done = commands.run("ablation", *flags, f"--rows={rows}", *FLAGS)
        assert done.code == 0, done.stderr
        return " ".join(done.stdout.split())

    (width,), _ = sigmoid_slope.CANDIDATES["fashion_mnist_blind"]
    assert width != PROBLEM.hidden_size
    ablation_of("no_outer_steps")
    assert json.loads((tmp_path / "config.json").read_text("utf-8"))["hidden_size"] == width
    names = ("full_best", "full_mnist_blind", "full_fashion_mnist_blind")
    folder = RunFolder(tmp_path)
    row = folder.read_json("rows/no_outer_steps-seed0.json", dict)
    for name in names:  # stands for what would take long
        folder.keep_json(f"rows/{name}-seed0.json", row | {"variant": name})
    text = ablation_of(",".join(names))
    assert "preset best, 1 wide (it also chooses from 3)" in text
    assert f"preset mnist_blind, {sigmoid_slope.CANDIDATES['mnist_blind'][0][0]} wide" in text
    assert f"preset fashion_mnist_blind, {width} wide" in text


def test_slopes_can_be_learned_from_the_interval_and_from_any_table(tmp_path):
    path = lookup.shipped("fashion_mnist_sigmoid_slope")
    for source, known in (("interval", None), (str(path), table("fashion_mnist").identity)):
        folder = tmp_path / source.replace("/", "_")
        flags = [f"--source={source}", f"--workdir={folder}", "--rows=no_outer_steps", *FLAGS]
        done = commands.run("ablation", *flags)
        assert done.code == 0, done.stderr
        assert json.loads((folder / "config.json").read_text("utf-8"))["source"] == known


def test_a_mistake_is_one_sentence(tmp_path):
    done = commands.run("ablation", f"--workdir={tmp_path}/run", "--rows=odd")
    assert done.code == 1
    assert "--rows=odd: give some of base," in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("problem", "flag"),
    [
        ("rnn_cell", "--source=fashion_mnist"),
        ("rnn_cell", "--train_slope_max=1"),
        ("sigmoid_slope", "--train_slope_max=1"),
        ("sigmoid_slope", "--held_out=5"),
    ],
)
def test_a_flag_that_would_decide_nothing_is_refused(problem, flag, tmp_path):
    done = commands.run("ablation", f"--problem={problem}", flag, f"--workdir={tmp_path}/run")
    assert done.code == 1
    assert f"{flag.partition('=')[0]} has no effect, since" in done.stderr
    assert not (tmp_path / "run").exists()

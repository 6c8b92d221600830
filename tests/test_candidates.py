"""studies.candidates: settings of a dish compared on motifs that no figure uses."""

import csv
import dataclasses
import json
import math
import shutil

import commands
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import contents
from toy_widths import TOY, Formula

from spd_jax import archs, dish, files, metrics, problems
from spd_jax.dish import DishConfig, losses
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup
from spd_jax.ledger import EvaluationKey
from spd_jax.ledger import table as ledger_table
from spd_jax.problems import sigmoid_slope
from spd_jax.report.tables import candidates_table
from spd_jax.studies import candidates, events, exams
from spd_jax.studies.candidates import COLUMNS, CandidateSettings, Look, surrogate_of
from spd_jax.surrogates.dish_surrogate import DishSurrogate

PROBLEM = dataclasses.replace(
    TOY,
    ground_truths={
        "formula": dataclasses.replace(TOY.ground_truths["formula"], tuning_table="toy_tuning")
    },
)
SETTINGS = CandidateSettings(
    preset="formula",
    dish=TOY.dish_presets["best"],
    candidates=("init_scale=0.2", "outer_loss=absolute_pearson+hidden_size=2"),
    random=0,
    criterion="loss",
    splits=2,
    draws=1,
    known=8,
    steps=2,
    every=1,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return the path of a tuning table of twelve cells."""
    path = tmp_path_factory.mktemp("tuning") / "toy_tuning.csv"
    task, space = Formula(), TOY.space
    cells = [space.encode(arch) for arch in space.sample(jax.random.key(5), 12)]
    items = [
        (EvaluationKey(space.name, cell, task.fingerprint, 0, 4), task.evaluate(cell, 0, 4))
        for cell in cells
    ]
    ledger_table.write(path, items, {})
    return path


@pytest.fixture(autouse=True)
def shipped(place, monkeypatch):
    """Let the toy's tuning table be one that comes with the package."""
    monkeypatch.setattr(candidates.lookup, "shipped", lambda name: place.with_name(f"{name}.csv"))


def run(folder, listen=events.ignore, **changes):
    asked = dataclasses.replace(SETTINGS, **changes)
    return candidates.run(PROBLEM, asked, folder, listen=listen)


@pytest.fixture(scope="module")
def compared(place, tmp_path_factory):
    """Return the folder of a comparison, its looks and what it told."""
    folder, told = tmp_path_factory.mktemp("compared"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates.lookup, "shipped", lambda name: place)
        looks = run(folder, told.append)
    return folder, looks, told


def rows_of(folder):
    with (folder / "tuning.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


# The comparison


def test_every_candidate_is_looked_at_in_every_trial_after_every_few_steps(compared):
    _, looks, told = compared
    places = [(look.candidate, look.exam, look.draw, look.step) for look in looks]
    assert places == [
        (candidate, exam, 0, step)
        for candidate in SETTINGS.candidates
        for exam in ("split0", "split1")
        for step in range(3)
    ]
    assert all(math.isfinite(look.loss) and -1 <= look.tau <= 1 for look in looks)
    assert len({look.loss for look in looks}) == len(looks)
    assert [(type(event).__name__, event.done) for event in told] == [
        ("Stage", 0), *(("Advanced", done) for done in range(1, 5))
    ]  # fmt: skip


def test_a_look_is_what_the_dish_says_of_the_motifs_that_it_did_not_learn_from(compared, place):
    folder, looks, _ = compared
    table = lookup.read(place, TOY.space)
    surrogate, _ = surrogate_of(SETTINGS.candidates[0], PROBLEM, SETTINGS)
    shown = json.loads((folder / "exams.json").read_text())["split1"]
    known = [table.cells.names.index(name) for name in shown["learned_from"]["motifs"]]
    others = np.setdiff1d(np.arange(12), known)
    assert [table.cells.names[i] for i in others] == shown["asked"]["motifs"]
    assert (len(known), known) == (8, sorted(set(known)))
    key = jax.random.key(0)
    fitted = surrogate.fit(key, archs.take(table.cells.archs, known), table.scores[known])
    unseen, truth = archs.take(table.cells.archs, others), table.scores[others]
    for step, state in ((0, surrogate.start(key)), (2, fitted.state)):
        (look,) = (
            look for look in looks
            if (look.candidate, look.exam, look.step) == (SETTINGS.candidates[0], "split1", step)
        )  # fmt: skip
        predicted = dish.predict(state, surrogate.family, surrogate.config, unseen)
        assert look.tau == pytest.approx(metrics.kendall_tau(predicted, truth))
        given = (jnp.asarray(x, jnp.float32) for x in (predicted, truth, np.ones(4)))
        loss = float(losses.OUTER_LOSSES["zscored_mse"](*given))
        assert look.loss == pytest.approx(loss, rel=1e-4)


def test_the_log_names_every_motif_that_a_candidate_saw(compared):
    folder, looks, _ = compared
    rows = rows_of(folder)
    assert tuple(rows[0]) == COLUMNS
    found = {
        (row["candidate"], row["exam"], int(row["draw"]), int(row["outer_step"])):
        (float(row["held_out_loss"]), float(row["held_out_tau"]))
        for row in rows
    }  # fmt: skip
    assert len(found) == len(rows) == len(looks)
    for look in looks:
        expected = pytest.approx((look.loss, look.tau), abs=5e-5)
        assert found[look.candidate, look.exam, look.draw, look.step] == expected
    assert {(row["learned_from"], row["asked"]) for row in rows} == {
        ("8 of toy_tuning", "4 of toy_tuning")
    }


def test_the_table_has_means_over_trials_best_first(compared):
    text = candidates_table(compared[1])
    losses_shown = [float(line.split()[2]) for line in text.splitlines()[2:]]
    assert len(losses_shown) == 6
    assert losses_shown == sorted(losses_shown)
    looks = [Look("a=1", "x", 0, 0, 1.0, 0.5), Look("a=1", "y", 0, 0, 2.0, 0.0)]
    looks += [Look("a=2", "x", 0, 4, math.inf, -1.0)]
    *_, first, last = candidates_table(looks).splitlines()
    assert first.split() == ["a=1", "0", "1.500", "0.250", "2"]
    assert last.split() == ["a=2", "4", "inf", "-1.000", "1"]


def test_looks_are_only_taken_where_they_are_asked_for(tmp_path):
    looks = run(tmp_path, steps=3, every=2, splits=1)
    assert {look.step for look in looks} == {0, 2}


def test_a_motif_that_diverges_is_an_infinite_loss(monkeypatch, tmp_path):
    predict = dish.predict

    def diverged(*given, **options):
        return np.where(np.arange(4) == 1, -np.inf, predict(*given, **options))

    monkeypatch.setattr(candidates.dish, "predict", diverged)
    looks = run(tmp_path, splits=1)
    assert {look.loss for look in looks} == {math.inf}
    monkeypatch.setattr(candidates, "_try_out", lambda *given: pytest.fail("was tried again"))
    assert run(tmp_path, splits=1) == looks
    assert {row["held_out_loss"] for row in rows_of(tmp_path)} == {"inf"}


# Going on


def test_a_comparison_killed_at_any_trial_ends_as_an_uninterrupted_one(
    compared, tmp_path, monkeypatch
):
    folder, looks, _ = compared
    tried, try_out = [], candidates._try_out

    def deadly(*given):
        if len(tried) == 2:
            tried.append("killed")
            raise KeyboardInterrupt
        tried.append(given)
        return try_out(*given)

    monkeypatch.setattr(candidates, "_try_out", deadly)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert not (tmp_path / "tuning.csv").exists()
    assert run(tmp_path) == looks
    assert len(tried) == 5  # four trials and the kill
    before, after = (contents(path).values() for path in (folder, tmp_path))
    assert list(after) == list(before)


def test_a_finished_trial_is_only_read_again_and_more_are_added(compared, tmp_path, monkeypatch):
    folder, tried = tmp_path / "run", []
    shutil.copytree(compared[0], folder)
    try_out = candidates._try_out
    monkeypatch.setattr(
        candidates, "_try_out", lambda *given: tried.append(given) or try_out(*given)
    )
    assert run(folder) == compared[1]
    assert tried == []
    # Other candidates, another number of splits; the log keeps what the folder holds.
    looks = run(folder, candidates=("init_scale=0.3", "init_scale=0.2", "init_scale=0.3"), splits=1)
    assert len(tried) == 1
    assert [look.candidate for look in looks] == ["init_scale=0.3"] * 3 + ["init_scale=0.2"] * 3
    assert looks[3:] == [look for look in compared[1] if look.exam == "split0"][:3]
    assert len(rows_of(folder)) == len(compared[1]) + 3


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"{no such thing", b'{"looks": []}'])
def test_a_damaged_trial_is_made_anew(content, compared, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(compared[0], folder)
    (folder / "trials" / "init_scale=0.2_split0_draw0.json").write_bytes(content)
    assert run(folder) == compared[1]
    before, after = (contents(path).values() for path in (compared[0], folder))
    assert list(after) == list(before)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"known": 7}, "holds a run with known=8, not 7"),
        ({"steps": 3}, "holds a run with steps=2, not 3"),
        (
            {"dish": dataclasses.replace(SETTINGS.dish, inner_steps=4)},
            "holds a run with inner_steps=3, not 4",
        ),
    ],
)
def test_other_settings_are_refused(changes, words, compared):
    before = contents(compared[0])
    with pytest.raises(UserError, match=words):
        run(compared[0], **changes)
    assert contents(compared[0]) == before


# Candidates


def test_a_candidate_changes_the_settings_that_it_names():
    found, width = surrogate_of("init_scale=0.5+shared_data=True+hidden_size=2", PROBLEM, SETTINGS)
    assert width == 2
    config = dataclasses.replace(SETTINGS.dish, init_scale=0.5, shared_data=True, outer_steps=2)
    assert found == DishSurrogate(PROBLEM.family(2), config)
    assert surrogate_of("inner_steps=4", PROBLEM, SETTINGS)[0].family == PROBLEM.family(3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"candidates": ("init_scale=abc",)}, "'init_scale=abc' sets nothing"),
        ({"candidates": ("init_scale=0.2+nonsense=1",)}, "'nonsense=1' sets nothing"),
        ({"candidates": ("decay_steps=100",)}, "'decay_steps=100' sets nothing"),
        ({"candidates": ("shared_data=yes",)}, "'shared_data=yes' sets nothing"),
        ({"candidates": ("outer_steps=3",)}, "outer_steps, which is the same for all: set steps"),
        ({"candidates": ("outer_loss=foo",)}, "outer_loss='foo'"),
        ({"candidates": ("schedule=cosine",)}, "compare staircase or constant"),
        ({"target": "formula"}, "toy_widths has no table beside target=formula"),
        ({"target": "nothing"}, "no ground truth 'nothing'"),
        ({"candidates": ("",)}, "there are no candidates"),
        ({"candidates": ()}, "there are no candidates"),
        ({"exams": "within"}, "exams=within is about the tables beside a target"),
        ({"known": 11}, "known=11 of 12 tuning motifs leaves none to predict: give at most 10"),
        ({"preset": "huge"}, "no ground truth 'huge'"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_written(changes, words, tmp_path):
    with pytest.raises(UserError, match=words) as caught:
        run(tmp_path / "run", **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_problem_without_tuning_motifs_is_refused(tmp_path):
    with pytest.raises(UserError, match="toy_widths has no tuning motifs with preset formula"):
        candidates.run(TOY, SETTINGS, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Other tables


@pytest.fixture
def by_target(place):
    """Return a problem with three ground truths that have a table of the twelve cells."""
    preset = dataclasses.replace(TOY.ground_truths["formula"], table="toy_tuning")
    return dataclasses.replace(TOY, ground_truths=dict.fromkeys(("one", "two", "three"), preset))


def test_the_tables_beside_the_target_are_learned_from_and_asked_about_in_turn(
    by_target, tmp_path, place
):
    asked = dataclasses.replace(SETTINGS, target="two", candidates=("init_scale=0.2",), steps=1)
    looks = candidates.run(by_target, asked, tmp_path)
    assert {look.exam for look in looks} == {"one-to-three", "three-to-one"}
    shown = json.loads((tmp_path / "exams.json").read_text())
    names = list(lookup.read(place, TOY.space).cells.names)
    for exam in shown.values():
        assert exam["learned_from"]["motifs"] == exam["asked"]["motifs"] == names
    every = exams.tables_beside(by_target, "unseen")
    assert [exam.name for exam in exams.of_pairs(every)] == [
        "one-to-two", "one-to-three", "two-to-one", "two-to-three", "three-to-one", "three-to-two"
    ]  # fmt: skip


def test_each_table_beside_the_target_is_split_into_known_and_asked(by_target, place):
    asked = exams.within(exams.tables_beside(by_target, "two"), known=8, splits=2)
    assert [exam.name for exam in asked] == [
        "one-split0", "one-split1", "three-split0", "three-split1"
    ]  # fmt: skip
    names = set(lookup.read(place, TOY.space).cells.names)
    for exam in asked:
        known, rest = set(exam.known.cells.names), set(exam.asked.cells.names)
        assert len(known) == 8
        assert known | rest == names
        assert not known & rest


def test_exams_within_tables_need_one_table_and_those_between_two(by_target, tmp_path):
    truths = {name: by_target.ground_truths[name] for name in ("one", "two")}
    alone = dataclasses.replace(by_target, ground_truths=truths)
    asked = dataclasses.replace(SETTINGS, target="two", candidates=("init_scale=0.2",), steps=0)
    with pytest.raises(UserError, match="one is the only table to choose on"):
        candidates.run(alone, asked, tmp_path / "between")
    looks = candidates.run(alone, dataclasses.replace(asked, exams="within"), tmp_path / "within")
    assert {look.exam for look in looks} == {"one-split0", "one-split1"}


def test_slopes_for_a_data_set_are_never_chosen_on_it(monkeypatch):
    monkeypatch.undo()  # the shipped tables themselves
    problem = problems.get("sigmoid_slope")
    datasets = ("mnist", "fashion_mnist", "digits", "cifar10")
    for target in datasets:
        others = [name for name in datasets if name != target]
        for only in ((), others[:2]):
            pairs = exams.of_pairs(exams.tables_beside(problem, target, only))
            seen = {table.source.stem for pair in pairs for table in (pair.known, pair.asked)}
            assert seen == {f"{name}_sigmoid_slope" for name in only or others}
    for only in (["mnist"], ["digits", "digits"]):
        words = f"tables={','.join(only)}: give some of fashion_mnist,digits,cifar10, each once"
        with pytest.raises(UserError, match=words):
            exams.tables_beside(problem, "mnist", only)


# Drawing and choosing


def test_more_random_candidates_begin_with_the_same_ones_and_all_are_dishes():
    few, many = (dataclasses.replace(SETTINGS, random=count) for count in (5, 40))
    found = candidates.drawn(PROBLEM, many)
    assert candidates.drawn(PROBLEM, few) == found[:5]
    assert len(set(found)) == 40
    for text in found:
        surrogate, width = surrogate_of(text, PROBLEM, SETTINGS)
        assert surrogate.config.valid_samples == surrogate.config.train_samples in (10, 20)
        assert width in (1, 3, 5)
        assert 1e-3 <= surrogate.config.inner_learning_rate <= 1
    gradients = {surrogate_of(text, PROBLEM, SETTINGS)[0].config.gradient for text in found}
    assert gradients == {"full", "truncated", "evaluation_only"}
    narrow = dataclasses.replace(SETTINGS, random=40, wider=False)
    for text in candidates.drawn(PROBLEM, narrow):
        config = surrogate_of(text, PROBLEM, SETTINGS)[0].config
        assert (config.gradient, config.targets) == ("full", "values")
        assert config.inner_learning_rate <= 0.01


def test_cells_are_drawn_from_their_own_table_of_ranges():
    asked = dataclasses.replace(SETTINGS, random=40, wider=False)
    cells, slopes = map(problems.get, ("rnn_cell", "sigmoid_slope"))

    def steps(problem, **changes):
        found = candidates.drawn(problem, dataclasses.replace(asked, **changes))
        return {surrogate_of(own, problem, SETTINGS)[0].config.inner_steps for own in found}

    assert steps(cells) == steps(slopes, ranges="table_4") == {50, 100}
    assert steps(slopes) == steps(cells, ranges="table_2") == {200, 250}


def test_the_choice_takes_outer_steps_and_has_the_best_mean():
    looks = [
        Look("a=1", exam, 0, step, loss, tau)
        for exam, step, loss, tau in [
            ("x", 0, 0.0, 1.0), ("y", 0, 0.0, 1.0), ("x", 4, 3.0, 0.9), ("y", 4, 1.0, 0.1),
        ]
    ]  # fmt: skip
    looks += [Look("a=2", "x", 0, 4, 1.0, math.nan), Look("a=2", "y", 0, 4, 2.0, 0.8)]
    assert candidates.choose(looks, "tau") == ("a=1", 4, 2.0, 0.5, 2)
    assert candidates.choose(looks, "loss") == ("a=2", 4, 1.5, pytest.approx(-0.1), 2)
    untrained = [look for look in looks if look.step == 0]
    assert candidates.choose(untrained, "tau").step == 0


def test_finalists_alone_are_tried_with_every_dish(tmp_path, compared):
    looks = run(tmp_path, draws=2, finalists=1)
    best = min(candidates.means(compared[1]), key=lambda own: own.loss if own.step else math.inf)
    draws = {own: {x.draw for x in looks if x.candidate == own} for own in SETTINGS.candidates}
    assert draws.pop(best.candidate) == {0, 1}
    assert list(draws.values()) == [{0}]
    choice = candidates.choose(looks, "loss")  # whatever the other one's single draw says
    assert (choice.candidate, choice.trials) == (best.candidate, 4)


# The command

FLAGS = ["--inner_steps=2", "--train_samples=2", "--valid_samples=2", "--num_dishes=2"]
FLAGS += ["--splits=1", "--draws=1", "--known=4", "--steps=0", "--random=0"]


def test_a_command_compares_on_the_shipped_tuning_cells(tmp_path):
    done = commands.run("tune", *FLAGS, f"--workdir={tmp_path}", "--candidates=hidden_size=1")
    assert done.code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert {line.split()[0] for line in lines if "hidden" in line} >= {"hidden_size=1"}
    assert lines[-1] == f"wrote {tmp_path / 'tuning.csv'}, {tmp_path / 'exams.json'}"
    assert "--hidden_size=1 " in lines[-3]
    assert "--inner_steps=2 " in lines[-3]
    given = lines[-2].partition(", ")[2]
    assert eval(given, {"DishConfig": DishConfig}).inner_steps == 2
    rows = rows_of(tmp_path)
    assert [row["outer_step"] for row in rows] == ["0"]


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--candidates=init_scale=abc", "'init_scale=abc' sets nothing"),
        ("--candidates=outer_steps=3", "outer_steps, which is the same for all"),
        ("--candidates=", "there are no candidates"),
        ("--known=100000", "--known=100000 of 120 tuning motifs leaves none to predict"),
        ("--steps=-1", "--steps=-1"),
        ("--dish=foo", "--dish=foo is unknown: use one of best, paper"),
        ("--problem=sigmoid_slope", "no ground truth 'tiny'"),
        ("--exams=within", "--exams=within is about the tables beside a target"),
        ("--outer_steps=3", "--outer_steps has no effect, since the looks choose"),
        ("--ranges=table_2", "--ranges has no effect, since nothing is drawn at random"),
        ("--finalists=2", "--finalists has no effect, since all candidates have one draw"),
        ("--problem=sigmoid_slope --target=mnist", "--known has no effect, since whole tables"),
        ("--target=tiny --preset=tiny", "--preset has no effect, since the motifs are those"),
        ("--ground_truth=x", "--ground_truth has no effect, since it is about a table"),
    ],
)
def test_a_mistake_is_one_sentence(flag, words, tmp_path):
    done = commands.run("tune", *FLAGS, f"--workdir={tmp_path / 'run'}", *flag.split())
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert not (tmp_path / "run").exists()


def test_cells_of_a_given_table_can_be_tuned_on(tmp_path):
    path, cells = tmp_path / "table.csv", tmp_path / "cells.txt"
    path.write_text("cell,score\n" + "".join(f"{c / 10},{c}\n" for c in range(1, 11)))
    cells.write_text("".join(f"{c / 10}\n" for c in range(1, 9)))
    flags = [*FLAGS, "--problem=sigmoid_slope", f"--table={path}", "--candidates=hidden_size=1"]
    done = commands.run("tune", *flags, f"--cells={cells}", f"--workdir={tmp_path / 'run'}")
    assert done.code == 0, done.stderr
    shown = json.loads((tmp_path / "run" / "exams.json").read_text())["split0"]
    assert {*shown["learned_from"]["motifs"], *shown["asked"]["motifs"]} == {
        str(c / 10) for c in range(1, 9)
    }
    done = commands.run("tune", *flags, f"--workdir={tmp_path / 'other'}")
    assert "error: --table needs --cells" in done.stderr


def test_help_says_what_a_setting_means():
    done = commands.run("tune", "--help")
    assert done.stderr == ""
    for flag in ("candidates", "workdir", "num_dishes", "dish"):
        assert f"\n  --{flag}: " in done.stdout


# What was chosen


@pytest.mark.parametrize(
    ("name", "other", "trials", "steps"),
    [("mnist_blind", "cifar10", 6, 200), ("fashion_mnist_blind", "digits", 4, 60)],
)
def test_a_blind_preset_is_what_its_log_chooses_and_the_log_never_saw_its_table(
    name, other, trials, steps
):
    """The ensemble alone is larger than that of the trials."""
    _, rows = files.read_csv(
        commands.ROOT / "experiments" / "results" / f"{name}_tuning.csv", COLUMNS
    )
    looks = [
        Look(row["candidate"], row["exam"], int(row["draw"]), int(row["outer_step"]),
             float(row["held_out_loss"]), float(row["held_out_tau"]))
        for _, row in rows
    ]  # fmt: skip
    dataset, source = sigmoid_slope.TRANSFERS[name]
    tables = {table for _, row in rows for table in (row["learned_from"], row["asked"])}
    assert tables == {f"60 of {own}_sigmoid_slope" for own in (source, other)}
    assert dataset not in (source, other)
    problem = problems.get("sigmoid_slope")
    tried = CandidateSettings(dish=DishConfig(ensemble_size=4, motif_batch=20), steps=steps)
    choice = candidates.choose(looks, "tau")
    assert choice.trials == trials
    found, width = candidates.chosen_dish(choice, problem, tried)
    preset = problem.dish_presets[name]
    assert found.config == dataclasses.replace(preset, ensemble_size=4)
    assert sigmoid_slope.CANDIDATES[name] == ((width,), (preset.inner_learning_rate,))

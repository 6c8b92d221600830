"""experiments.compare_surrogates: splits, figures and refusals; killed at any match and resumed."""

import csv
import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from compare_surrogates_table import CELLS, FAILED, SPACE, evaluation, rows

from spd_jax import metrics
from spd_jax.errors import UserError
from spd_jax.ledger import table as cell_table
from spd_jax.spaces import rnn_cell, sigmoid_slope
from spd_jax.spaces.rnn_cell import network as rnn_cell_network
from spd_jax.studies import known_truth as problems
from spd_jax.studies import league as matches
from spd_jax.surrogates.dish_surrogate import DishSurrogate
from spd_jax.surrogates.partial_training import PartialTraining
from spd_jax.surrogates.proxies import MEASURES
from spd_jax.surrogates.regressors import RandomForest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PLAYERS = ["dish", "dish_untrained", "partial_1", "random_forest_structure", "stacked_untrained"]
SETTINGS = ["--cpu_devices=1", "--known=4,8", "--splits=2", "--held_out=12", "--hidden_size=1"]
SETTINGS += ["--inner_steps=2", "--outer_steps=1", "--train_samples=2", "--valid_samples=2"]
SETTINGS += ["--init_scale=0.1", "--outer_learning_rate=0.05", "--num_dishes=1"]
SETTINGS += [f"--surrogates={','.join(PLAYERS)}"]
FEW = "--surrogates=random_forest_structure,partial_1"

# The same main, but it kills itself when its n-th match is written whole and not yet in place.
DEADLY = """
import os, pathlib, signal, sys
from experiments import compare_surrogates
from spd_jax.studies import run_folder

left, replace = int(sys.argv.pop(1)), os.replace

def deadly(source, target):
    global left
    left -= "known" in pathlib.Path(target).name
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = deadly
run_folder.run_main(compare_surrogates.main)
"""
# Several commands in one process of their own: other experiments define flags of the same names.
SEVERAL = """
import contextlib, io, json, sys
from absl import flags
from absl.testing import flagsaver
from experiments import compare_surrogates
from spd_jax.errors import UserError

ended = []
for words in json.load(sys.stdin):
    out, err, mistake = io.StringIO(), io.StringIO(), None
    with flagsaver.flagsaver(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            compare_surrogates.main(flags.FLAGS(["compare_surrogates", *words]))
        except UserError as error:
            mistake = str(error)
    ended.append({"mistake": mistake, "out": out.getvalue(), "err": err.getvalue()})
print(json.dumps(ended))
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("league") / "cells.csv"
    cell_table.write(path, rows(), {"made": "for a test"})
    return path


@pytest.fixture(scope="module")
def problem(table):
    return problems.read_cells(table)


def child(arguments, text=None):
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )


def run(*commands):
    """Run several commands after each other, and return how each ended."""
    words = [[f"--workdir={folder}", *SETTINGS, *flags] for folder, *flags in commands]
    done = child(["-c", SEVERAL], json.dumps(words))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def finished(table):
    """Return the folder and the outputs of an uninterrupted run; no test may change it.

    Beside it lies the folder `extended`, of one surrogate, to which a second split was added.
    """
    place, given = table.parent, f"--table={table}"
    ended = run(
        (place / "finished", given),
        (place / "extended", given, FEW, "--splits=1"),
        (place / "extended", given, FEW),
    )
    assert [end["mistake"] for end in ended] == [None] * 3
    return place / "finished", ended[0]


def outcome(folder):
    """Return all results of a run, apart from how long they took."""
    with (folder / "league.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    results = [
        {name: text for name, text in line.items() if not name.endswith("_seconds")}
        for line in lines
    ]
    return results, (folder / "splits.json").read_text(), (folder / "config.json").read_text()


def test_a_table_becomes_means_over_seeds_and_first_curves(problem):
    assert problem.names == CELLS
    assert problem.budget == 3
    for name, score, curve in zip(CELLS, problem.scores, problem.curves, strict=True):
        runs = [evaluation(name, s).score for s in range(3 if CELLS.index(name) < 12 else 1)]
        np.testing.assert_allclose(score, np.mean(runs), atol=1e-6)
        np.testing.assert_allclose(curve, evaluation(name, 0).curve, atol=1e-6)
    assert np.isnan(problem.scores[CELLS.index(FAILED)])


def test_the_noise_ceiling_is_the_tau_of_one_seed_against_the_two_others(problem):
    values = np.array([[evaluation(cell, s).score for cell in CELLS[:12]] for s in range(3)])
    taus = [
        metrics.kendall_tau(values[0], (values[1] + values[2]) / 2),
        metrics.kendall_tau(values[1], (values[0] + values[2]) / 2),
        metrics.kendall_tau(values[2], (values[0] + values[1]) / 2),
    ]
    ceiling = problem.noise_ceiling()
    assert ceiling == {"kendall_tau": pytest.approx(np.mean(taus), abs=0.02), "motifs": 12}
    single = dataclasses.replace(problem, seeds=[own[:1] for own in problem.seeds])
    assert single.noise_ceiling() == {"kendall_tau": None, "motifs": 0}


def test_of_several_budgets_the_largest_counts(tmp_path):
    short = [
        (key._replace(budget=1), dataclasses.replace(e, score=-9.0, curve=(-9.0,)))
        for key, e in rows(seeds=1)
    ]
    cell_table.write(tmp_path / "t.csv", short + rows(seeds=1), {})
    read = problems.read_cells(tmp_path / "t.csv")
    assert read.budget == 3
    assert np.nanmin(read.scores) > -3


@pytest.mark.parametrize("form", ["csv", "lines"])
def test_cells_of_a_tuning_log_are_left_out_in_any_numbering(problem, tmp_path, form):
    cell = rnn_cell.RnnCell(np.zeros(11, np.int32), np.array([1, *[0] * 10, 2], np.int32))
    renamed = SPACE.encode(cell)
    assert SPACE.canonical_text(cell) != SPACE.encode(rnn_cell.RnnCell(cell[0], cell[1][::-1]))
    written = [renamed, CELLS[3], CELLS[7]]
    text = "# tuned on\n" + "\n".join(written) + "\n"
    if form == "csv":
        text = "# tuned on\nspace,cell\n" + "".join(f"s,{name}\n" for name in written)
    (tmp_path / "log").write_text(text)
    excluded = problems.read_excluded(tmp_path / "log", SPACE)
    assert excluded == {SPACE.canonical_text(cell), CELLS[3], CELLS[7]}
    left = problem.without(excluded)
    assert left.names == [name for name in CELLS if name not in excluded]
    assert len(left.archs.predecessor) == len(left.scores) == len(left.seeds) == 28
    assert SPACE.canonical_text(rnn_cell.unstack(left.archs)[3]) == CELLS[4]
    assert left.identity != problem.identity


def test_known_sets_are_nested_and_nothing_known_is_held_out(problem):
    splits = problems.draw_splits(problem, 0, 5, known=[4, 8], held_out=12)
    for split in splits:
        assert len(split.known) == 8
        assert len(split.held_out) == 12
        assert len(set(split.known) | set(split.held_out)) == 20
    assert len({tuple(split.known) for split in splits}) == 5
    more = problems.draw_splits(problem, 0, 6, known=[8, 4], held_out=12)
    for split, same in zip(splits, more, strict=False):
        np.testing.assert_array_equal(np.concatenate(split), np.concatenate(same))
    everything = problems.draw_splits(problem, 0, 1, known=[8], held_out=200)[0]
    assert len(everything.held_out) == 22


def test_a_split_that_knows_next_to_nothing_is_refused(problem):
    failed = dataclasses.replace(problem, scores=np.where(np.arange(30) < 27, np.nan, -2.0))
    with pytest.raises(UserError, match=r"split \d knows [0-2] motifs that did not fail, of 4"):
        problems.draw_splits(failed, 0, 3, known=[4], held_out=12)


def settings(space="rnn_cell"):
    wide = rnn_cell_network.family(SPACE.variant, hidden=2)
    dish = DishSurrogate(rnn_cell_network.family(SPACE.variant, hidden=1), held_out_share=0.5)
    if space == "sigmoid_slope":
        wide = sigmoid_slope.family(hidden=2)
        dish = DishSurrogate(sigmoid_slope.family())
    return matches.Settings(dish, wide, 0.5, 2)


def test_everyone_that_was_asked_for_takes_part(problem):
    learners = matches.learners(problem, settings(), known=40)
    free = matches.without_truth(problem, settings())
    assert set(learners) == {
        *("dish", "random_forest", "random_forest_structure", "gaussian_process"),
        *("gaussian_process_structure", "nao", "stacked", "stacked_untrained", "averaged"),
    }
    assert set(free) == {"dish_untrained", "partial_1", "partial_2", *MEASURES}
    assert free["partial_2"].cost_per_query == pytest.approx(2 / 3)
    assert learners["dish"].held_out_share == 0.5
    assert matches.learners(problem, settings(), known=5)["dish"].held_out_share == 0


def test_slopes_are_a_problem_too(tmp_path):
    lines = [f"{c},{s},{0.9 + 0.01 * c + 0.001 * s}\n" for c in (0.1, 0.5, 1.0) for s in range(3)]
    (tmp_path / "slopes.csv").write_text("slope,seed,accuracy\n" + "".join(lines))
    slopes = problems.read_slopes(tmp_path / "slopes.csv")
    assert slopes.noise_ceiling() == {"kendall_tau": pytest.approx(1.0), "motifs": 3}
    assert "slope_mlp" in matches.learners(slopes, settings("sigmoid_slope"), known=5)
    free = matches.without_truth(slopes, settings("sigmoid_slope"))
    assert set(free) == {"dish_untrained", *MEASURES}
    excluded = slopes.without({slopes.names[1]})
    np.testing.assert_allclose(excluded.archs, [0.1, 1.0])


def test_a_match_scores_what_a_surrogate_predicts_of_cells_that_it_does_not_know(problem):
    split = problems.draw_splits(problem, 0, 1, known=[8], held_out=12)[0]
    truth = problem.scores[split.held_out]
    partial = matches.without_truth(problem, settings())["partial_2"]
    result = matches.match(partial, problem, split, known=0, key=jax.random.key(0))
    curves = [problem.curves[i] for i in split.held_out]
    predicted = np.array([c[1] if len(c) > 1 else np.nan for c in curves])
    assert result["kendall_tau"] == metrics.kendall_tau(predicted, truth)
    assert result["spearman"] == metrics.spearman(predicted, truth)
    assert result["precision_at_10"] == metrics.precision_at(10, predicted, truth)
    assert result["regret"] == metrics.regret(predicted, truth)
    assert [v is None for v in result["predicted"]] == np.isnan(predicted).tolist()
    seen = []

    class Spy(RandomForest):
        def fit(self, key, archs, scores):
            seen.append([SPACE.canonical_text(cell) for cell in rnn_cell.unstack(archs)])
            return super().fit(key, archs, scores)

    forest = matches.match(Spy(SPACE.structure, 50), problem, split, known=6, key=jax.random.key(0))
    assert seen == [[CELLS[i] for i in split.known[:6]]]
    assert not set(seen[0]) & {CELLS[i] for i in split.held_out}
    assert forest["fit_seconds"] > 0
    assert forest["query_seconds"] > 0


def test_a_best_cell_that_failed_is_an_infinite_regret_in_the_rows(problem):
    split = problems.Split(np.arange(8, 20), np.array([4, *range(20, 30)]))

    def lookup(archs, epochs):
        return [(0.0,)] + [(-5.0 - i,) for i in range(10)]

    result = matches.match(
        PartialTraining(lookup, 1, 3), problem, split, known=0, key=jax.random.key(0)
    )
    assert result["regret"] is None
    entry = matches.Entry("partial_1", 0, 0)
    (row,) = matches.rows_of({entry: dataclasses.asdict(entry) | result})
    assert row["regret"] == np.inf
    assert "predicted" not in row


def test_every_match_is_a_row_and_every_figure_has_its_spread(finished, problem):
    folder, done = finished
    lines, splits, _ = outcome(folder)
    learning = [name for name in PLAYERS if name not in ("dish_untrained", "partial_1")]
    places = {(name, known) for name in learning for known in (4, 8)}
    places |= {("dish_untrained", 0), ("partial_1", 0)}
    found = [(line["surrogate"], int(line["known"]), int(line["split"])) for line in lines]
    assert sorted(found) == sorted((*place, split) for place in places for split in (0, 1))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["noise_ceiling"] == problem.noise_ceiling()
    assert (summary["motifs"], summary["failed"]) == (30, 1)
    for name, known in places:
        figures = summary["surrogates"][name][str(known)]
        taus = [
            float(line["kendall_tau"])
            for line in lines
            if (line["surrogate"], int(line["known"])) == (name, known)
        ]
        assert figures["kendall_tau"]["values"] == pytest.approx(taus)
        assert figures["kendall_tau"]["mean"] == pytest.approx(np.mean(taus))
    assert summary["surrogates"]["partial_1"]["0"]["cost_per_query"] == pytest.approx(1 / 3)
    held_out = [json.loads(splits)[split]["held_out"] for split in (0, 1)]
    assert all(len(cells) == 12 for cells in held_out)
    ceiling = problem.noise_ceiling()["kendall_tau"]
    assert f"{ceiling:.3f}" in done["out"]
    assert all(name in done["out"] for name in PLAYERS)
    assert "matches: 16/16 (100%)" in done["err"]
    assert (folder / "league.png").read_bytes().startswith(b"\x89PNG")


def test_the_untrained_dish_is_the_one_that_the_fit_starts_from(finished):
    config = json.loads((finished[0] / "config.json").read_text())
    assert config["dish"]["outer_steps"] == 1
    values = [
        json.loads((finished[0] / f"matches/{name}-split0.json").read_text())["predicted"]
        for name in ("dish_untrained-known0", "dish-known8")
    ]
    # One outer step moves little: nearly the same order.
    assert metrics.kendall_tau(*[[np.nan if v is None else v for v in x] for x in values]) > 0.8


def test_a_killed_run_goes_on_and_ends_alike(finished, table):
    folder, decided = table.parent / "killed", 0
    words = [f"--workdir={folder}", *SETTINGS, FEW, f"--table={table}"]
    for kill in (2, 3):
        done = child(["-c", DEADLY, str(kill), *words])
        assert done.returncode == -9, done.stderr
        decided += kill - 1
        assert len(list((folder / "matches").glob("[!.]*"))) == decided
        assert not (folder / "league.csv").exists()
    before = {path: path.stat().st_mtime_ns for path in (folder / "matches").glob("[!.]*")}
    done = child(["-m", "experiments.compare_surrogates", *words])
    assert done.returncode == 0, done.stderr
    assert outcome(folder) == outcome(table.parent / "extended")
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_more_splits_extend_a_run(finished, table):
    whole = [line for line in outcome(finished[0])[0] if line["surrogate"] in FEW]
    assert len(whole) == 6
    assert outcome(table.parent / "extended")[0] == whole


REFUSED = {  # flags, and what the sentence says; in the folder of a finished run
    "missing table": (["--table={place}/none.csv"], "none.csv"),
    "no cell": (
        ["--exclude={place}/words.txt"],
        "words.txt lists something else than motifs: 'no cell at all' is no cell of variant",
    ),
    "missing log": (["--exclude={place}/none.txt"], "none.txt cannot be read"),
    "too many known": (["--known=4,25"], "the table has 30 motifs, but 25 known"),
    "no number": (["--known=4,many"], "--known=4,many: give whole numbers of 3 or more"),
    "too few known": (["--known=2"], "--known=2: give whole numbers of 3 or more"),
    "stranger": (["--surrogates=dish,oracle"], "--surrogates=dish,oracle: give some of"),
    "other setting": (["--outer_steps=2"], "use its flags to go on with it"),
    "fewer splits": (["--splits=1"], "splits=2, not 1"),
    "other table": (["--table={place}/other.csv"], "use its flags to go on with it"),
    "two variants": (["--table={place}/mixed.csv"], "2 pairs of space and task"),
}


@pytest.fixture(scope="module")
def refusals(finished, table):
    place = table.parent
    (place / "words.txt").write_text("no cell at all\n")
    cell_table.write(place / "other.csv", rows()[:-1], {})
    foreign = [(rows()[0][0]._replace(task="another"), rows()[0][1])]
    cell_table.write(place / "mixed.csv", rows() + foreign, {})

    before = {path: path.read_bytes() for path in finished[0].rglob("*") if path.is_file()}
    commands = [
        (finished[0], f"--table={table}", *(word.format(place=place) for word in words))
        for words, _ in REFUSED.values()
    ]
    ended = dict(zip(REFUSED, run(*commands), strict=True))
    assert before == {path: path.read_bytes() for path in before}
    return ended


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_one_sentence(name, refusals):
    assert REFUSED[name][1] in refusals[name]["mistake"]
    assert "\n" not in refusals[name]["mistake"]
    assert refusals[name]["out"] == refusals[name]["err"] == ""


def test_a_mistake_ends_the_command_without_a_traceback(table):
    done = child(["-m", "experiments.compare_surrogates", "--table=none.csv", *SETTINGS])
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: none.csv is missing")
    assert done.stderr.count("\n") == 1

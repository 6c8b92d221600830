"""studies.league: splits, who takes part, figures; interrupted at any match and resumed."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from compare_surrogates_table import CELLS, FAILED, PROBLEM, SPACE, rows

from spd_jax import archs as batches
from spd_jax import files, metrics, problems
from spd_jax.adapters.sklearn import ThroughRegressor
from spd_jax.dish import DishConfig
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup
from spd_jax.ledger import table as ledger_table
from spd_jax.spaces import rnn_cell
from spd_jax.studies import league
from spd_jax.studies.league import LeagueSettings
from spd_jax.studies.run_folder import RunFolder
from spd_jax.surrogates.partial_training import PartialTraining
from spd_jax.surrogates.proxies import MEASURES
from spd_jax.surrogates.regressors import RandomForest
from spd_jax.surrogates.uncertainty import coverage

PLAYERS = ("dish", "dish_untrained", "partial_1", "random_forest_structure", "stacked_untrained")
FEW = ("random_forest_structure", "partial_1")
SETTINGS = LeagueSettings(
    known=(4, 8),
    splits=2,
    held_out=12,
    hidden_size=1,
    proxy_hidden_size=2,
    surrogates=PLAYERS,
    dish=DishConfig(
        inner_steps=2,
        outer_steps=1,
        train_samples=2,
        valid_samples=2,
        init_scale=0.1,
        outer_learning_rate=0.05,
    ),
)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("league") / "cells.csv"
    ledger_table.write(path, rows(), {"made": "for a test"})
    return lookup.read(path, SPACE)


@pytest.fixture(scope="module")
def finished(table, tmp_path_factory):
    """Return an uninterrupted league; no test may change its folder."""
    return league.run(PROBLEM, table, SETTINGS, tmp_path_factory.mktemp("finished"))


def outcome(folder):
    """Return all results of a run, apart from how long they took."""
    lines = [
        {name: text for name, text in line.items() if not name.endswith("_seconds")}
        for _, line in files.read_csv(folder / "league.csv", ())[1]
    ]
    return lines, (folder / "splits.json").read_text()


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# Splits


def test_known_sets_are_nested_and_nothing_known_is_held_out(table):
    settings = dataclasses.replace(SETTINGS, splits=5)
    splits = league.draw_splits(table, settings)
    for split in splits:
        assert len(split.known) == 8
        assert len(split.held_out) == 12
        assert len(set(split.known) | set(split.held_out)) == 20
    assert len({tuple(split.known) for split in splits}) == 5
    more = league.draw_splits(table, dataclasses.replace(settings, known=(8, 4), splits=6))
    for split, same in zip(splits, more, strict=False):
        np.testing.assert_array_equal(np.concatenate(split), np.concatenate(same))
    everything = league.draw_splits(table, dataclasses.replace(SETTINGS, held_out=200))[0]
    assert len(everything.held_out) == 30 - 8


def test_a_split_that_knows_next_to_nothing_is_refused(table):
    failed = dataclasses.replace(table, scores=np.where(np.arange(30) < 27, np.nan, -2.0))
    with pytest.raises(UserError, match=r"split \d knows [0-2] motifs that did not fail, of 4"):
        league.draw_splits(failed, dataclasses.replace(SETTINGS, splits=3))


@pytest.mark.parametrize("form", ["csv", "lines"])
def test_motifs_of_a_tuning_log_are_left_out_in_any_spelling(table, tmp_path, form):
    # Node 1 reads node 0, and node 2 does: their numbers can be exchanged.
    cell = rnn_cell.RnnCell(np.zeros(11, np.int32), np.array([1, *[0] * 10, 2], np.int32))
    other = cell._replace(activation=np.array([1, 2, *[0] * 10], np.int32))
    renamed, name = SPACE.encode(cell), SPACE.encode(SPACE.canonical(cell))
    assert SPACE.encode(SPACE.canonical(other)) == name
    written = [renamed, CELLS[3], CELLS[7]]
    text = "# tuned on\n" + "\n".join(written) + "\n"
    if form == "csv":
        text = "# tuned on\nspace,cell\n" + "".join(f"s,{cell}\n" for cell in written)
    (tmp_path / "log").write_text(text)
    excluded = league.read_excluded(tmp_path / "log", PROBLEM)
    assert excluded == {name, CELLS[3], CELLS[7]}
    left = table.without(excluded)
    assert left.cells.names == tuple(name for name in CELLS if name not in excluded)
    assert batches.count(left.cells.archs) == len(left.scores) == len(left.seeds) == 28
    assert SPACE.encode(batches.unstack(left.cells.archs)[3]) == CELLS[4]
    assert left.identity != table.identity


@pytest.mark.parametrize("content", [None, "no cell at all\n", b"\xff\xfe\x00"])
def test_a_file_that_names_no_motifs_is_refused(content, tmp_path):
    if content is not None:
        content = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "log").write_bytes(content)
    with pytest.raises(UserError, match=r"log (cannot be read|lists something else than motifs)"):
        league.read_excluded(tmp_path / "log", PROBLEM)


def test_shipped_tables_are_without_the_motifs_that_settings_saw():
    found = league.shipped_table(PROBLEM)
    tuning = lookup.read(lookup.shipped("rnn_cell_ptb_tiny_tuning"), SPACE)
    assert len(found) == 500
    assert not set(found.cells.names) & set(tuning.cells.names)
    with pytest.raises(UserError, match="no table of rnn_cell_enas comes with spd_jax"):
        league.shipped_table(problems.get("rnn_cell_enas"))


# Who takes part


def test_everyone_takes_part_unless_some_are_asked_for(table):
    everyone = league.line_up(PROBLEM, table, dataclasses.replace(SETTINGS, surrogates=()))
    learners = {
        *("dish", "random_forest", "random_forest_structure", "gaussian_process"),
        *("gaussian_process_structure", "nao", "stacked", "stacked_untrained", "averaged"),
        *("mlp", "mlp_structure", "curve_regression_1", "gaussian_process_ranks"),
    }
    # A cell that failed has a curve too, so that the first epochs of all are known.
    free = {"dish_untrained", "partial_1", "partial_2", *MEASURES}
    assert set(everyone) == {(name, known) for name in learners for known in (4, 8)} | {
        (name, 0) for name in free
    }
    assert everyone["partial_2", 0].cost_per_query == pytest.approx(2 / 3)
    asked = league.line_up(PROBLEM, table, SETTINGS)
    assert {name for name, _ in asked} == set(PLAYERS)


def test_few_motifs_tell_no_dish_when_to_stop(table):
    settings = dataclasses.replace(SETTINGS, held_out_share=0.5)
    everyone = league.line_up(PROBLEM, table, settings)
    assert everyone["dish", 8].held_out_share == 0.5
    assert everyone["dish", 4].held_out_share == 0


def test_slopes_are_a_problem_too(tmp_path):
    slopes = problems.get("sigmoid_slope")
    lines = [f"{c},{s},{0.9 + 0.01 * c + 0.001 * s}\n" for c in (0.1, 0.5, 1.0) for s in range(3)]
    (tmp_path / "slopes.csv").write_text("cell,seed,score\n" + "".join(lines))
    table = lookup.read(tmp_path / "slopes.csv", slopes.space)
    everyone = league.line_up(slopes, table, LeagueSettings(known=(5,)))
    names = {name for name, known in everyone if known}
    assert names == {
        *("dish", "averaged", "stacked", "stacked_untrained", "random_forest"),
        *("gaussian_process", "gaussian_process_ranks", "mlp", "slope_mlp"),
    }
    assert {name for name, known in everyone if not known} == {"dish_untrained", *MEASURES}


# A match


def test_a_match_scores_what_a_surrogate_predicts_of_motifs_that_it_does_not_know(table):
    split = league.draw_splits(table, SETTINGS)[0]
    truth = table.scores[split.held_out]
    everyone = league.line_up(PROBLEM, table, dataclasses.replace(SETTINGS, surrogates=()))
    partial = everyone["partial_2", 0]
    result = league.match(partial, table, split, known=0, key=jax.random.key(0))
    curves = [table.curves[i] for i in split.held_out]
    predicted = np.array([c[1] if len(c) > 1 else np.nan for c in curves])
    assert result["kendall_tau"] == metrics.kendall_tau(predicted, truth)
    assert result["spearman"] == metrics.spearman(predicted, truth)
    assert result["precision_at_10"] == metrics.precision_at(10, predicted, truth)
    assert result["regret"] == metrics.regret(predicted, truth)
    assert [v is None for v in result["predicted"]] == np.isnan(predicted).tolist()
    seen = []

    class Spy(RandomForest):
        def fit(self, key, archs, scores):
            seen.append([SPACE.encode(cell) for cell in batches.unstack(archs)])
            return super().fit(key, archs, scores)

    spy = Spy(SPACE.structure, 50)
    forest = league.match(spy, table, split, known=6, key=jax.random.key(0))
    assert seen == [[CELLS[i] for i in split.known[:6]]]
    assert not set(seen[0]) & {CELLS[i] for i in split.held_out}
    assert forest["fit_seconds"] > 0
    assert forest["query_seconds"] > 0


def test_a_best_motif_that_failed_is_an_infinite_regret_in_the_rows(table):
    assert CELLS[4] == FAILED
    split = league.Split(np.arange(8, 20), np.array([4, *range(20, 30)]))

    def curves(archs, epochs):
        return [(0.0,)] + [(-5.0 - i,) for i in range(10)]

    partial = PartialTraining(curves, 1, 3)
    result = league.match(partial, table, split, known=0, key=jax.random.key(0))
    assert result["regret"] is None
    entry = league.Entry("partial_1", 0, 0)
    (row,) = league.rows_of({entry: entry._asdict() | result})
    assert row["regret"] == np.inf
    assert "predicted" not in row


def test_coverage_counts_held_out_scores_within_the_members_spread(table):
    class Members:
        """Three members around the number of the cell's activations; one fails on a cell."""

        def by_member(self, archs):
            base = np.sum(archs.activation, axis=-1) / 50 - 2.0
            return base + np.array([[-0.05], [0.0], [0.05]])

        def predict(self, archs):
            return np.median(self.by_member(archs), axis=0)

        def save(self, path):
            raise NotImplementedError

    split, fitted = league.draw_splits(table, SETTINGS)[0], Members()
    predicted = fitted.predict(batches.take(table.cells.archs, split.held_out))
    found = league.covered(fitted, table, split.known, split.held_out, predicted)
    known = batches.take(table.cells.archs, split.known)
    errors = (table.scores[split.known] - fitted.predict(known))[
        np.isfinite(table.scores[split.known])
    ]
    std = np.sqrt(np.mean(errors**2))  # the members' spread is the same everywhere
    truth = table.scores[split.held_out]
    distance = np.abs(truth - predicted)[np.isfinite(truth)]
    shares = [np.mean(distance <= width * std) for width in (1, 2)]
    assert list(found.values()) == pytest.approx(shares)
    assert league.covered(fitted, table, split.known[:0], split.held_out, predicted) == {}
    forest = RandomForest(SPACE.structure, 5)
    assert league.covered(forest, table, split.known, split.held_out, predicted) == {}


def test_the_coverage_of_a_normal_law_is_that_of_its_standard_deviations():
    rng = np.random.default_rng(0)
    std = rng.uniform(0.5, 2.0, 20_000)
    truth = rng.normal(0.0, std)
    assert coverage(np.zeros(20_000), std, truth) == pytest.approx([0.683, 0.954], abs=0.01)
    assert coverage([np.nan, 0.0, 0.0], [np.nan, 1.0, 1.0], [0.0, 1.0, np.nan]) == [0.5, 0.5]
    assert np.isnan(coverage([0.0], [1.0], [np.nan])).all()


# The whole league


def test_every_match_is_a_row_and_every_figure_has_its_spread(finished, table):
    learning = [name for name in PLAYERS if name not in ("dish_untrained", "partial_1")]
    places = {(name, known) for name in learning for known in (4, 8)}
    places |= {("dish_untrained", 0), ("partial_1", 0)}
    found = [(row["surrogate"], row["known"], row["split"]) for row in finished.rows]
    assert sorted(found) == sorted((*place, split) for place in places for split in (0, 1))
    summary = json.loads((finished.path / "summary.json").read_text())
    assert summary == finished.summary
    assert summary["noise_ceiling"] == table.noise_ceiling(3)
    assert summary["noise_ceiling"]["motifs"] == 12  # those with three seeds
    assert (summary["motifs"], summary["failed"]) == (30, 1)
    for name, known in places:
        figures = summary["surrogates"][name][str(known)]
        taus = [
            row["kendall_tau"]
            for row in finished.rows
            if (row["surrogate"], row["known"]) == (name, known)
        ]
        assert figures["kendall_tau"]["values"] == pytest.approx(taus)
        assert figures["kendall_tau"]["mean"] == pytest.approx(np.mean(taus))
    assert summary["surrogates"]["partial_1"]["0"]["cost_per_query"] == pytest.approx(1 / 3)
    assert summary["surrogates"]["dish"]["8"]["cost_per_query"] == 0
    assert set(summary["coverage"]) == {"dish"}
    for row in finished.rows:
        ensemble = row["surrogate"] == "dish" and row["known"] > 0
        assert all(np.isfinite(row[share]) == ensemble for share in league.COVERAGE)
    spread = summary["coverage"]["dish"]["8"]["within_2_std"]
    assert spread["values"] == [
        row["within_2_std"]
        for row in finished.rows
        if (row["surrogate"], row["known"]) == ("dish", 8)
    ]
    splits = json.loads((finished.path / "splits.json").read_text())
    assert all(len(split["held_out"]) == 12 for split in splits)
    lines, _ = outcome(finished.path)
    assert [float(line["kendall_tau"]) for line in lines] == [
        row["kendall_tau"] for row in finished.rows
    ]


def test_the_face_of_scikit_learn_changes_nothing(table, finished, tmp_path):
    settings = dataclasses.replace(SETTINGS, surrogates=("dish", "dish_sklearn"), splits=1)
    faces = {"dish_sklearn": ThroughRegressor}
    shutil.copytree(finished.path / "matches", tmp_path / "matches")
    league.run(PROBLEM, table, settings, tmp_path, faces=faces)
    for known in (4, 8):
        own, face = (
            json.loads((tmp_path / f"matches/{name}-known{known}-split0.json").read_text())
            for name in ("dish", "dish_sklearn")
        )
        assert face["predicted"] == own["predicted"]
        assert [face[share] for share in league.COVERAGE] == [own[x] for x in league.COVERAGE]
    nobody = league.line_up(PROBLEM, table, SETTINGS, faces)
    assert "dish_sklearn" not in {name for name, _ in nobody}


def test_matches_of_before_there_was_a_coverage_are_kept(table, finished, tmp_path):
    folder = shutil.copytree(finished.path, tmp_path / "old")
    for path in (folder / "matches").iterdir():
        content = json.loads(path.read_text())
        for name in (*league.COVERAGE, "checksum"):
            content.pop(name, None)
        RunFolder(folder).keep_json(f"matches/{path.name}", content)
    before = contents(folder / "matches")
    found = league.run(PROBLEM, table, SETTINGS, folder)
    assert contents(folder / "matches") == before
    assert found.summary["coverage"] == {}


def test_the_untrained_dish_is_the_one_that_the_fit_starts_from(finished):
    values = [
        json.loads((finished.path / f"matches/{name}-split0.json").read_text())["predicted"]
        for name in ("dish_untrained-known0", "dish-known8")
    ]
    # One outer step moves little: nearly the same order.
    assert metrics.kendall_tau(*[[np.nan if v is None else v for v in x] for x in values]) > 0.8


def test_a_league_interrupted_at_any_match_goes_on_and_ends_alike(
    table, finished, tmp_path, monkeypatch
):
    settings, play, left = dataclasses.replace(SETTINGS, surrogates=FEW), league.match, 0

    def interrupted(*args, **options):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return play(*args, **options)

    monkeypatch.setattr(league, "match", interrupted)
    for own, decided in ((0, 0), (2, 2), (1, 3), (2, 5)):
        left = own
        with pytest.raises(KeyboardInterrupt):
            league.run(PROBLEM, table, settings, tmp_path)
        assert len(list((tmp_path / "matches").glob("*"))) == decided
        assert not (tmp_path / "league.csv").exists()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "matches").iterdir()}
    left = 1
    league.run(PROBLEM, table, settings, tmp_path)
    whole, splits = outcome(finished.path)
    own = [line for line in whole if line["surrogate"] in FEW]
    assert outcome(tmp_path) == (sorted(own, key=lambda line: int(line["split"])), splits)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_more_splits_and_others_extend_a_league(table, finished, tmp_path):
    few = dataclasses.replace(SETTINGS, surrogates=FEW, splits=1)
    league.run(PROBLEM, table, few, tmp_path)
    more = dataclasses.replace(few, surrogates=(*FEW, "stacked_untrained"), splits=2)
    found = league.run(PROBLEM, table, more, tmp_path)
    whole = {(row["surrogate"], row["known"], row["split"]): row for row in finished.rows}
    assert len(found.rows) == 6 + 4
    for row in found.rows:
        same = whole[row["surrogate"], row["known"], row["split"]]
        assert row["kendall_tau"] == same["kendall_tau"]
    before = contents(tmp_path)
    league.run(PROBLEM, table, more, tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("content", [b"", b"{ no such thing", b"[3]", b'{"surrogate": "dish"}'])
def test_a_damaged_match_is_played_again_with_a_warning(content, table, finished, tmp_path, caplog):
    folder = shutil.copytree(finished.path, tmp_path / "copy")
    path = folder / "matches" / "random_forest_structure-known8-split1.json"
    path.write_bytes(content)
    again = league.run(PROBLEM, table, SETTINGS, folder)
    assert outcome(folder) == outcome(finished.path)
    assert str(path) in caplog.text
    assert len(again.rows) == len(finished.rows)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"known": (4, 25)}, "the table has 30 motifs, but 25 known"),
        ({"known": (2,)}, r"known=\(2,\): give whole numbers of 3 or more"),
        ({"known": ()}, r"known=\(\): give whole numbers of 3 or more"),
        ({"held_out": 9}, "held_out=9 must be at least 10"),
        ({"surrogates": ("dish", "oracle")}, "surrogates=oracle: give some of dish_untrained,"),
        ({"dish": dataclasses.replace(SETTINGS.dish, outer_steps=2)}, "outer_steps=1, not 2"),
        ({"splits": 1}, "splits=2, not 1"),
    ],
)
def test_a_mistake_is_one_sentence_and_changes_nothing(changes, words, table, finished):
    before = contents(finished.path)
    with pytest.raises(UserError, match=words):
        league.run(PROBLEM, table, dataclasses.replace(SETTINGS, **changes), finished.path)
    assert contents(finished.path) == before


def test_another_table_is_refused_in_the_same_folder(table, finished):
    with pytest.raises(UserError, match="holds a run with table="):
        league.run(PROBLEM, table.take(range(29)), SETTINGS, finished.path)

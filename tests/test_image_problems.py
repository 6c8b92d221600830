"""problems.nasbench201 and nasbench101: tables of others, presets, and searches by look-up."""

import hashlib
import json
import math

import commands
import nas_bench_files as written
import numpy as np
import pytest

from experiments import compare_surrogates
from spd_jax import dish, problems
from spd_jax.archs import Cells
from spd_jax.data import nas_bench
from spd_jax.dish import DishConfig
from spd_jax.errors import UserError
from spd_jax.ground_truth.lookup import LookupTask
from spd_jax.ground_truth.task import ClosedTask
from spd_jax.ledger import table as ledger_table
from spd_jax.problems import image_cells, nasbench101, nasbench201
from spd_jax.spaces.nasbench201 import NasBench201Space
from spd_jax.studies import search_comparison, searches
from spd_jax.studies.searches import SearchSettings

SPACE = NasBench201Space()
# Two spellings of one function: an edge that leads nowhere may be anything.
ONE = "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"
TWIN = "|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"
OTHER = "|none~0|+|none~0|none~1|+|nor_conv_1x1~0|none~1|none~2|"
COLUMNS = ("c10_test_200ep_mean", "c10_val_12ep")
TINY = DishConfig(
    inner_steps=2,
    outer_steps=1,
    train_samples=10,
    valid_samples=10,
    inner_loss="softmax_cross_entropy",
)


@pytest.fixture
def theirs(tmp_path):
    """A table in the benchmark's form: one cell twice, in two spellings."""
    rows = [(TWIN, 90.0, 70.0), (OTHER, 80.0, 60.0), (ONE, 92.0, 75.0)]
    return written.write_nasbench201(tmp_path / "theirs.csv", rows, COLUMNS)


# NAS-Bench-201


def test_twins_are_the_seeds_of_one_cell(theirs):
    table = problems.get("nasbench201").truth_table(theirs)
    twin = SPACE.encode(SPACE.canonical(SPACE.decode(TWIN)))
    assert table.cells.names == (twin, OTHER)
    assert [own.tolist() for own in table.seeds] == [[0.9, 0.92], [0.8]]
    np.testing.assert_allclose(table.scores, [0.91, 0.8])
    assert (table.budget, table.unit, table.task) == (200, "accuracy", "nasbench201 cifar10_200")
    short = problems.get("nasbench201").truth_table(theirs, "cifar10_12")
    np.testing.assert_allclose(short.scores, [0.725, 0.6])
    assert short.budget == 12


def test_a_search_is_answered_by_the_mean_of_the_twins(theirs):
    task = problems.get("nasbench201").ground_truth("cifar10_12").task(str(theirs), None)
    assert isinstance(task, LookupTask)
    assert isinstance(task, ClosedTask)
    assert len(task.cells) == 2
    answer = task.evaluate(task.cells[0], 0, 12)
    assert (answer.score, answer.test_score) == pytest.approx((0.725, 0.91))
    assert answer.info == {"seeds": 2}
    assert (task.budget, task.unit) == (12, "accuracy")


def test_a_table_is_described_in_a_few_words(theirs, official, monkeypatch):
    describe = problems.get("nasbench201").ground_truth("cifar10_12").describe
    assert describe(str(theirs)) == f"2 cells are looked up in {theirs}"
    monkeypatch.setitem(
        nas_bench.SHA256, official.name, hashlib.sha256(official.read_bytes()).hexdigest()
    )
    words = problems.get("nasbench101").ground_truth("nasbench101").describe(str(official))
    assert words.endswith("(the published t.tfrecord)")


def test_a_column_that_is_not_there_is_named(theirs):
    problem = problems.get("nasbench201")
    with pytest.raises(UserError, match=r"theirs\.csv has no column c100_test_12ep: export it"):
        problem.truth_table(theirs, "cifar100_12")
    with pytest.raises(UserError, match="unknown ground truth 'own': use one of cifar10_200"):
        problem.truth_table(theirs, "own")


@pytest.mark.parametrize("name", ["nasbench201", "nasbench101"])
def test_a_ground_truth_without_its_table_says_where_to_get_it(name):
    for preset in problems.get(name).ground_truths.values():
        if preset.looked_up:
            words = "is looked up: let data_dir be the path of .*(nats-bench|EC-NAS|https://)"
            with pytest.raises(UserError, match=words):
                preset.task(None, None)


def test_our_own_tables_are_read_as_ever(tmp_path, theirs):
    problem = problems.get("nasbench201")
    (tmp_path / "own.csv").write_text(f"score,cell\n0.5,{OTHER}\n")
    assert problem.truth_table(tmp_path / "own.csv").scores.tolist() == [0.5]
    assert problem.truth_table(tmp_path / "own.csv", "cifar10_12").budget == 1
    for name, own in (("own.csv", True), ("theirs.csv", False), ("nothing.csv", False)):
        assert ledger_table.is_table(tmp_path / name) == own
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert not ledger_table.is_table(tmp_path / "binary")


# NAS-Bench-101


def ec_nas(path):
    """Write three cells of EC-NAS, one with two runs; return the file."""
    matrix = [[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
    cells = [
        written.EC_CELL,
        {**written.EC_CELL, "hash": "2" * 32, "matrix": matrix, "labels": [-1, 2, 1, -2]},
        {**written.EC_CELL, "hash": "0" * 32, "labels": [-1, 2, -2]},
    ]
    cells[1]["runs"] = [written.EC_CELL["runs"][0] | {"test_acc": acc} for acc in (0.5, 0.7)]
    path.write_text(json.dumps(cells))
    return path


def test_the_runs_of_ec_nas_are_seeds_with_curves_of_two_points(tmp_path):
    problem = problems.get("nasbench101")
    table = problem.truth_table(ec_nas(tmp_path / "ec.json"))
    np.testing.assert_allclose(table.scores, [0.3, 0.6, 0.3])
    assert [len(own) for own in table.seeds] == [1, 2, 1]
    np.testing.assert_equal(table.curves[1], (math.nan, 0.1, math.nan, 0.5))
    assert (table.budget, table.task) == (4, "nasbench101 ecnas_4")
    assert Cells.read(problem.space, table.cells.names).names == table.cells.names
    operations = [set(name.split("|")[1].split(",")) - {"-"} for name in table.cells.names]
    assert operations == [{"conv3x3"}, {"conv1x1", "maxpool3x3"}, {"maxpool3x3"}]


@pytest.fixture
def official(tmp_path):
    """A file in the official form: three trainings of each of three cells, one of 36 epochs."""
    lists = [written.nasbench101_fields(i, valid=0.9 - i / 100) for i in range(9)]
    lists.append(written.nasbench101_fields(0, valid=0.1, epochs=36))
    return written.write_records(tmp_path / "t.tfrecord", lists)


def test_the_official_scores_are_validation_accuracies_after_108_epochs(official):
    task = problems.get("nasbench101").ground_truth("nasbench101").task(str(official), None)
    assert len(task.cells) == 3
    answer = task.evaluate(task.cells[0], 0, 108)
    assert (answer.score, answer.test_score) == pytest.approx(((0.9 + 0.87 + 0.84) / 3, 0.8))
    assert answer.info == {"seeds": 3}
    table = problems.get("nasbench101").truth_table(official)
    np.testing.assert_allclose(table.seeds[1], [0.89, 0.86, 0.83])


def test_of_more_cells_those_with_the_smallest_hashes_are_kept(official):
    for most in (1, 2, 3):
        items = nasbench101.read_table(official, "nasbench101", most)
        assert len({key.cell for key, _ in items}) == most
        assert len(items) == 3 * most  # all trainings of each
        assert [key.seed for key, _ in items] == [0] * most + [1] * most + [2] * most
        first = nasbench101.read_table(official, "nasbench101")[0]
        assert items[0] == first  # the hash 111... is the smallest


def test_a_table_of_other_epochs_is_refused(tmp_path):
    path = written.write_records(tmp_path / "t", [written.nasbench101_fields(epochs=36)])
    with pytest.raises(UserError, match="holds no training of 108 epochs: give a table of nasb"):
        problems.get("nasbench101").truth_table(path)


# Problems


@pytest.mark.parametrize("module", [nasbench201, nasbench101])
def test_the_problem_s_width_and_image_size_are_those_of_its_motif_network(module):
    problem = module.problem("A", stem=2, image_size=4)
    family = problem.family(problem.hidden_size)
    assert family is problem.family(2)
    assert family.input_shape == (4, 4, 3)
    assert problem.settings["motif_network"] == "A"
    with pytest.raises(UserError, match="unknown motif-network 'D': use one of A, B, C"):
        module.problem("D")
    with pytest.raises(UserError, match="image_size=2 cannot be halved"):
        module.problem("B", image_size=2)
    with pytest.raises(UserError, match="stem=0 must be"):
        module.problem("B", stem=0)


def test_the_paper_s_preset_is_the_paper_s():
    paper = image_cells.DISH_PRESETS["paper"]
    dish.check(paper)
    epochs = paper.inner_steps * paper.inner_batch_size / paper.train_samples
    assert (epochs, paper.train_samples, paper.inner_batch_size) == (100, 200, 20)
    assert (paper.inner_learning_rate, paper.inner_l2) == (5e-5, 1e-6)
    assert (paper.outer_steps, paper.motif_batch, paper.outer_learning_rate) == (170, 6, 1e-2)
    assert (paper.outer_loss, paper.inner_metric) == (
        "absolute_pearson", "true_class_probability",
    )  # fmt: skip
    assert paper.shared_data
    assert paper.gradient == "evaluation_only"


# Studies


@pytest.fixture(scope="module")
def random_table(tmp_path_factory):
    """Every third cell out of 180, with made-up accuracies that its convolutions decide."""
    path = tmp_path_factory.mktemp("table") / "table.csv"
    numbers = np.random.default_rng(0).integers(5, size=(180, 6)).astype(np.int32)
    cells = list(dict.fromkeys(SPACE.encode(arch) for arch in numbers))[::3]
    rows = [
        (cell, 50 + 5 * cell.count("conv_3x3") + i % 7 / 10, 40 + 5 * cell.count("conv"))
        for i, cell in enumerate(cells)
    ]
    return written.write_nasbench201(path, rows, COLUMNS)


@pytest.mark.parametrize("method", ["dish_ga", "nao", "bananas", "local"])
def test_searches_by_look_up_stay_within_the_table(method, random_table, tmp_path):
    problem = nasbench201.problem("C", stem=1, image_size=4)
    settings = SearchSettings(
        method=method, preset="cifar10_12", dish=TINY, hidden_size=1, iterations=1, seeds=1,
        warm_start=8, proposals=10, evaluations=4, nao_epochs=1,
    )  # fmt: skip
    found = search_comparison.run(problem, settings, tmp_path, data_dir=str(random_table))
    task = problem.ground_truth("cifar10_12").task(str(random_table), None)
    (record,) = found.records.values()
    cells = [cell for iteration in record for cell in iteration.cells]
    assert len(set(cells)) == len(cells) == 12
    assert set(cells) <= set(task.cells)
    expected = [task.evaluate(cell, 0, 12) for cell in cells]
    scores = np.concatenate([iteration.scores for iteration in record])
    tests = np.concatenate([iteration.test_scores for iteration in record])
    np.testing.assert_array_equal(scores, [own.score for own in expected])
    np.testing.assert_array_equal(tests, [own.test_score for own in expected])


def test_the_search_of_any_problem_says_how_far_it_is_from_the_best(random_table, tmp_path):
    flags = [
        "--space=nasbench201", "--preset=cifar10_12", f"--data_dir={random_table}", "--seeds=1",
        "--method=dish_ga", "--iterations=1", "--warm_start=8",
        "--proposals=10", "--evaluations=4", "--hidden_size=1", "--train_samples=4",
        "--valid_samples=4", "--inner_steps=2", "--num_dishes=1", f"--workdir={tmp_path}",
    ]  # fmt: skip
    done = commands.run("search", *flags)
    assert done.code == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    task = nasbench201.problem().ground_truth("cifar10_12").task(str(random_table), None)
    best = max(task.evaluate(cell, 0, 12).test_score for cell in task.cells)
    assert summary["best_possible"] == best >= summary["best_cell"]["test"]
    assert f"of all cells that can be found: {best:.4f}" in done.stdout
    assert summary["ground_truths"] == 12
    assert (tmp_path / "figure3.png").exists()
    again = commands.run("search", *flags)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary, again.stderr


def test_a_search_of_a_problem_that_is_not_there_is_one_sentence(tmp_path):
    done = commands.run("search", "--space=widths", f"--workdir={tmp_path}")
    assert done.code == 1
    assert done.stderr.startswith("error: unknown problem 'widths'")
    done = commands.run("search", "--preset=cifar10_12", f"--workdir={tmp_path}")
    assert done.code == 1
    assert "the ground truth cifar10_12 is looked up" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_search_by_look_up_has_no_partial_training():
    problem = problems.get("nasbench201")
    methods = searches.methods_of(problem, SearchSettings(preset="cifar10_12"))
    assert [own.name for own in methods] == [
        "dish_nao", "dish_ga", "dish_random", "nao", "ga", "random", "bananas", "local",
    ]  # fmt: skip
    trained = searches.methods_of(problem, SearchSettings(preset="own"))
    assert {own.name for own in trained} - {own.name for own in methods} == {"partial"}


def test_the_comparison_of_surrogates_takes_a_table_of_others(random_table):
    problem, table = compare_surrogates.problem_and_table("nasbench201", str(random_table), None)
    assert problem is problems.get("nasbench201")
    assert table.budget == 200
    other = compare_surrogates.problem_and_table(
        "nasbench201", str(random_table), None, "cifar10_12"
    )[1]
    assert other.budget == 12
    assert other.cells.names == table.cells.names

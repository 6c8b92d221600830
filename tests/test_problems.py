"""problems: every registered one is whole, and what it names ships with the package."""

import dataclasses
import json

import jax
import nas_bench_files as written
import numpy as np
import pytest
import rnn_cell_driver
from matplotlib.figure import Figure

from spd_jax import dish, problems
from spd_jax.archs import Cells
from spd_jax.data import images
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup
from spd_jax.ground_truth.task import ClosedTask
from spd_jax.problems import nasbench201, rnn_cell
from spd_jax.search.record import read_history
from spd_jax.spaces.rnn_cell import VARIANTS
from spd_jax.studies import search_comparison
from spd_jax.studies.searches import SearchSettings
from spd_jax.trainers import image_classifier
from spd_jax.units import UNITS

# Other tests register problems of their own.
NAMES = ["rnn_cell", "sigmoid_slope", *(f"rnn_cell_{v}" for v in VARIANTS if v != rnn_cell.VARIANT)]
NAMES += ["nasbench201", "nasbench101", "activation_slope"]
each = pytest.mark.parametrize("problem", [problems.get(name) for name in NAMES], ids=NAMES)
PRESETS = [(name, preset) for name in NAMES for preset in problems.get(name).ground_truths]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return str(rnn_cell_driver.write_text(tmp_path_factory.mktemp("text")))


def test_problems_are_found_by_their_names_and_those_of_their_spaces():
    assert problems.names()[: len(NAMES)] == NAMES
    for name in NAMES:
        problem = problems.get(name)
        assert problem.name == name
        assert problems.of_space(problem.space.name) is problem
    with pytest.raises(
        UserError, match="unknown problem 'foo': use one of rnn_cell, sigmoid_slope"
    ):
        problems.get("foo")
    with pytest.raises(UserError, match="unknown space 'foo': use one of rnn_cell_enas_mean, sig"):
        problems.of_space("foo")


def test_tables_of_every_variant_of_the_cell_can_ship(monkeypatch):
    monkeypatch.setitem(rnn_cell.SHIPPED, "nao", {"small": {"table": "of_nao"}})
    tables = {
        variant: {name: own.table for name, own in rnn_cell.problem(variant).ground_truths.items()}
        for variant in VARIANTS
    }
    assert tables["nao"] == {"tiny": "", "small": "of_nao", "paper": ""}
    assert set(tables["enas"].values()) == {""}
    assert tables["enas_mean"]["tiny"] == "rnn_cell_ptb_tiny"
    assert tables["enas_mean"]["small"] == "rnn_cell_ptb_small"


@each
def test_the_presets_of_its_dish_can_be_run(problem):
    assert "best" in problem.dish_presets
    for config in problem.dish_presets.values():
        dish.check(config)


@each
def test_equal_families_are_one_object_so_that_nothing_is_compiled_twice(problem):
    assert problem.family(2) is problem.family(2)
    assert problem.family(2) is not problem.family(3)


@each
def test_its_motifs_run_in_its_network(problem):
    family = problem.family(2)
    params = family.init(jax.random.key(0))
    inputs = np.ones((3, *family.input_shape), np.float32)
    archs = problem.space.sample(jax.random.key(0), 2)
    arch = jax.tree.map(lambda leaf: leaf[0], archs)
    assert family.apply(params, arch, inputs).shape == (3, *family.output_shape)
    if problem.hidden_states is not None:
        states = problem.hidden_states(family)(params, arch, inputs)
        assert states.shape[0] == 3
    vectors = problem.strongest_vectors(archs)
    assert vectors.dtype == np.float64
    assert vectors.shape[0] == 2


@each
def test_its_drawing_is_a_picture(problem):
    arch = problem.space.decode(
        Cells.of(problem.space, problem.space.sample(jax.random.key(0), 1)).names[0]
    )
    assert isinstance(problem.drawing.draw(arch), Figure)


def data_of(name, preset, folder):
    """Return what a ground truth takes as `data_dir`, written into a folder."""
    if name == "nasbench201" and preset != "own":
        columns = sorted(set(nasbench201.COLUMNS[preset][:2]))
        cells = [
            ("|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|", *[90.0] * len(columns))
        ]
        return written.write_nasbench201(folder / "table.csv", cells, columns)
    if preset == "cifar10":
        for file in ("data_batch_1.bin", "test_batch.bin"):
            (folder / file).write_bytes(bytes(6 * images.CIFAR_RECORD))
    if preset == "ecnas_4":
        (folder / "table.json").write_text(json.dumps([written.EC_CELL]))
        return folder / "table.json"
    if preset == "nasbench101":
        return written.write_records(folder / "table", [written.nasbench101_fields()])
    return folder


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_a_ground_truth_is_that_of_its_task(name, preset, text, tmp_path, monkeypatch):
    digits = images.load_images("digits")
    monkeypatch.setattr(image_classifier, "_loaded", lambda *_: digits)
    found = problems.get(name).ground_truth(preset)
    data_dir = text if name.startswith("rnn_cell") else str(data_of(name, preset, tmp_path))
    task = found.task(data_dir, None)
    assert found.budget == task.budget
    assert found.unit in UNITS
    assert isinstance(found.describe(data_dir), str)
    assert found.looked_up == isinstance(task, ClosedTask)


def test_a_ground_truth_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="rnn_cell has no ground truth 'foo': use one of tiny, sm"):
        problems.get("rnn_cell").ground_truth("foo")


def test_a_text_that_fills_no_batch_is_refused_before_anything_is_trained(tmp_path):
    for part in ("train", "valid", "test"):
        (tmp_path / f"{part}.txt").write_text("cat\n")
    with pytest.raises(UserError, match="the train text has 4 tokens"):
        problems.get("rnn_cell").ground_truth("tiny").task(str(tmp_path), None)


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_shipped_tables_and_searches_are_of_its_space_and_budget(name, preset):
    problem = problems.get(name)
    found = problem.ground_truth(preset)
    for table in (found.table, found.tuning_table):
        if table:
            read = lookup.read(lookup.shipped(table), problem.space)
            assert read.budget == found.budget
    if found.history:
        records, comments = read_history(lookup.shipped(found.history))
        Cells.read(problem.space, sorted({own.cells[0] for r in records.values() for own in r}))
        assert comments["task"] == lookup.read(lookup.shipped(found.table), problem.space).task


def test_every_shipped_table_belongs_to_a_problem():
    folder = lookup.shipped("rnn_cell_ptb_tiny").parent
    used = {
        getattr(preset, field.name)
        for name in NAMES
        for preset in problems.get(name).ground_truths.values()
        for field in dataclasses.fields(preset)
        if field.name in ("table", "tuning_table", "history")
    }
    assert {path.stem for path in folder.glob("*.csv")} == used - {""}


def test_shipped_searches_are_replayed_by_the_library(tmp_path):
    settings = SearchSettings(dish=rnn_cell.DISH_PRESETS["best"])
    found = search_comparison.replay(rnn_cell.problem(), settings, tmp_path / "replay")
    methods = found.summary["methods"]
    means = {name: own["at_equal_ground_truths"]["test"]["mean"] for name, own in methods.items()}
    assert {name: round(mean, 4) for name, mean in means.items()} == {
        "dish_nao": 2.7551,
        "dish_ga": 2.7721,
        "dish_random": 2.7816,
        "nao": 2.7817,
        "ga": 2.7914,
        "random": 2.7967,
        "partial": 2.7898,
    }
    other = rnn_cell.problem(mutation_rate=0.2)
    with pytest.raises(UserError, match=r"had other settings \(mutation_rate\)"):
        search_comparison.replay(other, settings, tmp_path / "other")
    with pytest.raises(UserError, match="no searches of rnn_cell_nao with preset tiny"):
        search_comparison.replay(problems.get("rnn_cell_nao"), settings, tmp_path / "other")

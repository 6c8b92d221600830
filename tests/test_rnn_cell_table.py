"""experiments.rnn_cell_table: noise first, then the table; its two parts share no cell."""

import json

import jax
import pytest
import rnn_cell_driver as driver

from spd_jax.ledger import Ledger
from spd_jax.ledger import table as cell_table
from spd_jax.search.loop import warm_start
from spd_jax.spaces.rnn_cell import RnnCellSpace

FLAGS = ["--num_cells=22", "--num_seeds=2", "--cells_with_all_seeds=3", "--cpu_devices=1"]
NAME = "rnn_cell_ptb_tiny.csv"


@pytest.fixture(scope="module")
def bought(tmp_path_factory):
    """Return how a purchase was refused for its noise, how it went on, its log and its folder."""
    place = driver.place(tmp_path_factory)
    flags = [*FLAGS, f"--data_dir={place / 'text'}", f"--workdir={place / 'table'}"]
    log = place / "table.log"
    refused = driver.run("rnn_cell_table", *flags, "--min_ceiling=1.1", log=log, epochs=1)
    began = len([words for words in driver.events(log) if words[0] == "begin"])
    before = driver.contents(place / "table")
    done = driver.run("rnn_cell_table", *flags, "--min_ceiling=-1", log=log, epochs=1)
    return refused, began, before, done, driver.events(log), place / "table"


def test_nothing_more_is_bought_below_the_least_ceiling(bought):
    refused, began, before, *_, folder = bought
    assert refused.code == 1
    assert refused.stderr.splitlines()[-1].startswith("error: the noise ceiling is ")
    assert "below --min_ceiling=1.1" in refused.stderr
    assert began == 20 * 2  # two seeds of the first 20 cells
    assert folder / NAME not in before


def test_the_purchase_goes_on_without_buying_twice(bought):
    *_, done, events, folder = bought
    assert done.code == 0, done.stderr
    keys = [tuple(words[1:]) for words in events if words[0] == "begin"]
    assert len(keys) == len(set(keys)) == 20 * 2 + 2  # one seed of the two others
    items = cell_table.read(folder / NAME)
    assert [key.seed for key, _ in items] == [0, 1] * 3 + [0] * 19
    with Ledger(folder / "ledger.sqlite", read_only=True) as ledger:
        assert len(ledger) == 42
        for key, evaluation in items:  # to the bit
            assert repr(ledger.get(key)) == repr(evaluation)


def test_the_summary_is_that_of_the_rows(bought):
    folder = bought[-1]
    items = cell_table.read(folder / NAME)
    summary = json.loads((folder / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["evaluations"] == len(items) == 25
    assert summary["failed"] == 0
    assert summary["noise_ceiling"] == cell_table.noise_ceiling(items)
    assert summary["noise_ceiling"]["cells"] == 3
    assert summary["ceiling_before_purchase"]["cells"] == 20
    assert cell_table.read_comments(folder / NAME)["command"].startswith("python -m")


def test_the_table_begins_with_the_warm_start_of_the_first_search(bought):
    space = RnnCellSpace("enas_mean")
    first = [space.canonical_text(cell) for cell in warm_start(jax.random.key(0), space, 22)]
    cells = dict.fromkeys(key.cell for key, _ in cell_table.read(bought[-1] / NAME))
    assert list(cells) == first


def test_a_table_to_compare_with_is_read_before_anything_is_bought(tmp_path):
    flags = [*FLAGS, f"--workdir={tmp_path / 'run'}", f"--compare_with={tmp_path / 'none.csv'}"]
    text = driver.write_text(tmp_path / "text")
    done = driver.run("rnn_cell_table", *flags, f"--data_dir={text}")
    assert done.code == 1
    assert done.stderr.count("\n") == 1
    assert "none.csv is missing" in done.stderr
    assert not (tmp_path / "run").exists()


CELLS = """
space = experiment.RnnCellSpace("enas_mean")
cells = {part: experiment.cells_of(space, part, 60) for part in experiment.KEYS}
longer = {part: experiment.cells_of(space, part, 500) for part in experiment.KEYS}
experiment.KEYS["tuning"] = experiment.KEYS["reported"]  # both parts draw the same cells
collision = experiment.cells_of(space, "tuning", 60)
experiment.KEYS["tuning"] = 2000
answer = [cells, longer, collision]
"""


def test_the_parts_are_disjoint_and_a_smaller_one_begins_a_larger_one():
    cells, longer, collision = driver.ask("rnn_cell_table", CELLS)
    for part, names in cells.items():
        assert len(set(names)) == 60
        assert longer[part][:60] == names
        assert len(set(longer[part])) == 500
    assert not set(longer["tuning"]) & set(longer["reported"])
    # Of the same draw only what the reported part has no room for is left.
    assert not set(collision) & set(longer["reported"])

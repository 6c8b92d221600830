"""A space registered from outside gets all studies and reports: nothing else knows of it."""

import json

import matplotlib.image
import pytest
from toy_widths import TOY

from spd_jax import problems
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup
from spd_jax.ledger import Ledger
from spd_jax.report import league as league_report
from spd_jax.report import search as search_report
from spd_jax.studies import league, search_comparison, table_purchase
from spd_jax.studies.league import LeagueSettings
from spd_jax.studies.searches import SearchSettings
from spd_jax.studies.table_purchase import TableSettings

DISH = TOY.dish_presets["best"]
SEARCH = SearchSettings(
    preset="formula", dish=DISH, iterations=2, seeds=2, warm_start=6, proposals=10, evaluations=3
)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Return a bought table of the toy's cells."""
    folder = tmp_path_factory.mktemp("table")
    settings = TableSettings(
        preset="formula", num_cells=60, num_seeds=2, cells_with_all_seeds=30, min_ceiling=0.5
    )
    summary, path = table_purchase.run(TOY, settings, folder)
    assert summary["evaluations"] == 90
    assert summary["failed"] == 0
    return lookup.read(path, TOY.space)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    return search_comparison.run(TOY, SEARCH, tmp_path_factory.mktemp("search"))


def assert_pictures(paths):
    for path in paths:
        if path.suffix == ".png":
            assert matplotlib.image.imread(path)[..., :3].std() > 0.01


def test_it_is_known_by_its_names():
    assert problems.get("toy_widths") is problems.of_space("toy_widths") is TOY
    assert "toy_widths" in problems.names()


def test_it_is_searched_by_every_method_that_it_allows(comparison):
    methods = {method for method, _ in comparison.records}
    assert methods == {"dish_ga", "dish_random", "ga", "random", "partial"}  # no tokens, no NAO
    assert {len(record) for (name, _), record in comparison.records.items() if name == "ga"} == {3}
    saved = json.loads((comparison.path / "summary.json").read_text())
    assert saved == comparison.summary
    assert saved["best_cell"]["valid"] == max(
        score for record in comparison.records.values() for own in record for score in own.scores
    )


def test_its_ledger_holds_what_was_bought_and_the_same_call_buys_nothing(comparison):
    with Ledger(comparison.path / "ledger.sqlite", read_only=True) as ledger:
        bought = len(ledger)
        assert {key.space for key, _ in ledger.items()} == {"toy_widths"}
    again = search_comparison.run(TOY, SEARCH, comparison.path)
    assert again.summary == comparison.summary
    with Ledger(comparison.path / "ledger.sqlite", read_only=True) as ledger:
        assert len(ledger) == bought


def test_its_search_is_replayed_from_its_history(comparison, tmp_path):
    again = search_comparison.replay(TOY, SEARCH, tmp_path, history=comparison.path / "history.csv")
    before = {**comparison.summary, "noise_ceiling": None}
    assert again.summary == before


def test_its_search_has_pictures_and_a_table(comparison):
    written = search_report.draw(comparison)
    assert {"figure3.png", "best_cell.png"} <= {path.name for path in written}
    assert_pictures(written)
    text = search_report.results(comparison.summary)
    assert comparison.summary["best_cell"]["cell"] in text


def test_its_league_has_every_surrogate_that_needs_no_tokens(table, tmp_path):
    settings = LeagueSettings(known=(5, 10), splits=2, held_out=20, dish=DISH, hidden_size=2)
    found = league.run(TOY, table, settings, tmp_path)
    names = {row["surrogate"] for row in found.rows}
    assert {"dish", "averaged", "stacked", "random_forest", "partial_1", "synflow"} <= names
    assert "nao" not in names
    written = league_report.draw(found)
    assert_pictures(written)
    assert "dish" in league_report.results(found)


def test_a_cell_of_another_space_is_refused(table, tmp_path):
    with pytest.raises(UserError, match="is no cell of"):
        lookup.read(table.source, problems.get("rnn_cell").space)

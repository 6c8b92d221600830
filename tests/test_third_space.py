"""A space registered from outside gets all studies and reports: nothing else knows of it."""

import dataclasses

import matplotlib.image
import pytest
from toy_searches import finished
from toy_widths import TOY

from spd_jax import problems
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup
from spd_jax.report import league as league_report
from spd_jax.report import search as search_report
from spd_jax.studies import league, table_purchase
from spd_jax.studies.league import LeagueSettings
from spd_jax.studies.table_purchase import TableSettings
from spd_jax.surrogates.proxies import MEASURES

DISH = TOY.dish_presets["best"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Return a bought table of the toy's cells."""
    folder = tmp_path_factory.mktemp("table")
    settings = TableSettings(
        preset="formula", num_cells=30, num_seeds=2, cells_with_all_seeds=20, min_ceiling=0.5
    )
    summary, path = table_purchase.run(TOY, settings, folder)
    assert summary["evaluations"] == 50
    assert summary["failed"] == 0
    return lookup.read(path, TOY.space)


def assert_pictures(paths):
    for path in paths:
        if path.suffix == ".png":
            assert matplotlib.image.imread(path)[..., :3].std() > 0.01


def test_it_is_known_by_its_names():
    assert problems.get("toy_widths") is problems.of_space("toy_widths") is TOY
    assert "toy_widths" in problems.names()


def test_its_search_has_pictures_and_a_table(tmp_path_factory, tmp_path):
    """What is found is in test_searches.py."""
    comparison = dataclasses.replace(finished(tmp_path_factory)[0], path=tmp_path)
    written = search_report.draw(comparison)
    pictures = {"figure3.png", "figure3_seconds.png", "scatter.png"}
    pictures |= {"best_cell.png"}
    assert pictures <= {path.name for path in written}
    assert_pictures(written)
    text = search_report.results(comparison.summary)
    assert comparison.summary["best_cell"]["cell"] in text


def test_its_league_has_every_surrogate_that_needs_no_tokens(table, tmp_path):
    settings = LeagueSettings(
        known=(5,), splits=1, held_out=12, hidden_size=2, proxy_hidden_size=2, dish=DISH
    )
    found = league.run(TOY, table, settings, tmp_path)
    learners = {"dish", "averaged", "stacked", "stacked_untrained", "random_forest"}
    learners |= {"gaussian_process", "gaussian_process_ranks", "mlp", "curve_regression_2"}
    free = {"dish_untrained", "partial_1", "partial_2", *MEASURES}
    assert {(row["surrogate"], row["known"]) for row in found.rows} == {
        *((name, 5) for name in learners),
        *((name, 0) for name in free),
    }
    assert_pictures(league_report.draw(found))
    assert "dish" in league_report.results(found)


def test_its_table_is_refused_as_one_of_another_space(table):
    with pytest.raises(UserError, match="motifs of the space 'toy_widths': give a table of"):
        lookup.read(table.source, problems.get("rnn_cell").space)

"""Whatever happens to a file of a run folder: the same result, or one sentence what to do.

Every kind of run is finished once, and once stopped half-way. Then one file of the folder (or
two) is damaged, and the same call is made again.
"""

import json
import pathlib
import shutil
import warnings
from typing import NamedTuple

import compare_surrogates_table as cells
import numpy as np
import pytest
import toy_searches
from damage import cases, damaged
from hypothesis import given
from hypothesis import strategies as st
from sigmoid_slope_runs import SLOPES, read_table, write_table

from spd_jax import files
from spd_jax.dish import DishConfig
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup
from spd_jax.ledger import Ledger
from spd_jax.ledger import table as ledger_table
from spd_jax.problems import sigmoid_slope
from spd_jax.studies import extrapolation, league, search_comparison, table_purchase
from spd_jax.studies.extrapolation import ExtrapolationSettings
from spd_jax.studies.league import LeagueSettings
from spd_jax.studies.searches import SearchSettings
from spd_jax.studies.table_purchase import TableSettings

DISH = DishConfig(inner_steps=2, outer_steps=2, train_samples=2, valid_samples=2)
SEARCH = SearchSettings(
    method="dish_ga", preset="formula", dish=DISH, hidden_size=2, iterations=2, seeds=1,
    warm_start=6, proposals=10, evaluations=3,
)  # fmt: skip
LEAGUE = LeagueSettings(
    known=(4, 8), splits=2, held_out=12, hidden_size=1, dish=DISH, proxy_hidden_size=2,
    surrogates=("partial_1", "gaussian_process"),
)  # fmt: skip
SLOPE = ExtrapolationSettings(num_seeds=2, num_train=6, preset="paper", dish=DISH)
TABLE = TableSettings(preset="formula", num_cells=22, num_seeds=2, cells_with_all_seeds=3)


def search(folder):
    problem, _ = toy_searches.watched()
    search_comparison.run(problem, SEARCH, folder)


def purchase(folder):
    problem, _ = toy_searches.watched()
    table_purchase.run(problem, TABLE, folder)


def compare(folder):
    table = lookup.read(folder.parent / "cells.csv", cells.SPACE)
    league.run(cells.PROBLEM, table, LEAGUE, folder)


def extrapolate(folder):
    table = read_table(folder.parent / "slopes.csv")
    extrapolation.run(sigmoid_slope.problem(), table, SLOPE, folder)


RUNS = {"search": search, "purchase": purchase, "league": compare, "extrapolation": extrapolate}
STOP_AT = {"search": 8, "purchase": 31, "league": 6, "extrapolation": 9}  # files or purchases


class Stopped(BaseException):
    """The run ends here."""


class Snapshot(NamedTuple):
    """A folder's files, and the results that the run comes to from there."""

    folder: pathlib.Path
    content: dict[str, bytes]
    result: dict


def read(folder):
    """Return the bytes of every file below a folder, by relative path."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in paths if path.name != ".lock"
    }


def result(folder):
    """Return all results, without how long they took."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".json" and path.name != "versions.json":
            found[path.name] = timeless(json.loads(path.read_text()))
        elif path.suffix == ".csv":
            comments, rows = files.read_csv(path)
            found[path.name] = [comments.get("settings"), timeless([row for _, row in rows])]
        elif path.suffix == ".jsonl":
            found[path.name] = path.read_text()
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found[path.name] = {name: arrays[name].tolist() for name in arrays}
    return found


def timeless(content):
    if isinstance(content, dict):
        return {name: timeless(x) for name, x in content.items() if "seconds" not in name}
    return [timeless(x) for x in content] if isinstance(content, list) else content


def stopping(function, most):
    """Return a function that can be called so often, and then stops the run."""
    calls = iter(range(most))

    def stop(*given):
        if next(calls, None) is None:
            raise Stopped
        return function(*given)

    return stop


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory):
    """Return the folder of every kind of run, finished and stopped half-way."""
    place = tmp_path_factory.mktemp("fuzz")
    ledger_table.write(place / "cells.csv", cells.rows(), {})
    write_table(place / "slopes.csv", slopes=SLOPES)
    found = {}
    for name, run in RUNS.items():
        folder = place / name
        run(folder)
        whole = result(folder)
        found[name, "finished"] = Snapshot(folder, read(folder), whole)
        shutil.rmtree(folder)
        place_of = (Ledger, "put") if name in ("search", "purchase") else (files.os, "replace")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(*place_of, stopping(getattr(*place_of), STOP_AT[name]))
            with pytest.raises(Stopped):
                run(folder)
        found[name, "half-way"] = Snapshot(folder, read(folder), whole)
    return found


def restore(snapshot):
    """Make the folder what it was."""
    shutil.rmtree(snapshot.folder, ignore_errors=True)
    for name, content in snapshot.content.items():
        path = snapshot.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def must_end_well(name, snapshot, changes):
    """Damage files, make the same call again, and look at how it ends."""
    restore(snapshot)
    for victim, content in changes.items():
        path = snapshot.folder / victim
        path.unlink()
        if content is not None:
            path.write_bytes(content)
    why = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            RUNS[name](snapshot.folder)
    except UserError as error:
        why = str(error)
    assert "\n" not in why
    assert why or result(snapshot.folder) == snapshot.result
    return why


@pytest.mark.parametrize("state", ["finished", "half-way"])
@pytest.mark.parametrize("name", RUNS)
def test_damaged_files_are_made_anew_or_named(name, state, snapshots):
    snapshot = snapshots[name, state]
    victims = sorted(snapshot.content)

    @cases({"search": 14, "purchase": 14, "league": 12, "extrapolation": 6}[name])
    @given(st.data())
    def damage(data):
        chosen = data.draw(st.lists(st.sampled_from(victims), min_size=1, max_size=2, unique=True))
        changes = {
            victim: data.draw(damaged(victim, snapshot.content[victim]), label=victim)
            for victim in chosen
        }
        must_end_well(name, snapshot, changes)

    damage()


@pytest.mark.parametrize("state", ["finished", "half-way"])
@pytest.mark.parametrize("name", ["search", "purchase", "extrapolation"])
def test_every_file_may_be_gone(name, state, snapshots):
    """Only what was bought, and what was asked for, cannot be made anew from the rest."""
    snapshot = snapshots[name, state]
    for victim in snapshot.content:
        if victim.startswith(("states", "searches", "matches")) and len(snapshot.content) > 12:
            continue  # one by one in the tests above
        assert must_end_well(name, snapshot, {victim: None}) == ""

"""The page of a run: generic tables, escaping, damage, side by side, and in a real browser."""

import json
import re
import struct
import zlib

import browser
import pytest

from spd_jax.errors import UserError
from spd_jax.ledger import Evaluation, EvaluationKey, Ledger
from spd_jax.report import __main__ as command
from spd_jax.report import page, page_curves, page_tables, page_words
from spd_jax.studies import machine
from spd_jax.studies.run_folder import open_folder

EVIL = '<img src=x onerror="alert(1)"></script><script>alert(2)</script>&'


def png(width=900, height=300):
    """Return a grey picture."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x80" * width) * height)
    return page.PNG + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


SUMMARY = {
    "unit": EVIL,
    "noise_ceiling": {"kendall_tau": 0.9, "motifs": 3},
    "methods": {
        "b": {"label": "second", "tau": {"median": 0.25, "q25": 0.2, "q75": 0.3}, "spent": 10},
        "a": {"label": EVIL, "tau": {"median": 10.5, "q25": 10.5, "q75": 10.5}, "spent": 9},
        "c" * 60: {"label": "third", "tau": None, "spent": 100.0},
    },
}


def run_folder(path, seed=0, **summary):
    path.mkdir()
    config = {"layout": 3, "study": "search_comparison", "seed": seed, "dish": {"steps": 5}}
    versions = {"packages": {"jax": "1.2"}, "command": f"python -m experiments.search --x='{EVIL}'"}
    for name, content in (
        ("config", config), ("versions", versions), ("summary", SUMMARY | summary),
    ):  # fmt: skip
        (path / f"{name}.json").write_text(json.dumps(content))
    (path / "figure3.png").write_bytes(png())
    (path / "no_picture.png").write_bytes(b"<svg onload=alert(3)>")
    (path / "history.csv").write_text(f"# about: x\ncell,score\n{'y' * 200},2\n'{EVIL}',10\n")
    with Ledger(path / "ledger.sqlite") as ledger:
        for cell, curve in ((EVIL, (0.1, 0.4, 0.5)), ("b", (0.2, 0.3, 0.3))):
            key = EvaluationKey("toy", cell, EVIL, 0, 3)
            ledger.put(key, Evaluation("ok", curve[-1], curve=curve, unit="accuracy"))
        ledger.put(key._replace(cell="c"), Evaluation("failed"))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")
    return [run_folder(base / "first"), run_folder(base / "second", seed=1, unit="score")]


@pytest.fixture(scope="module")
def written(runs):
    return page.write(runs[:1]), page.write(runs, runs[0].parent / "both.html")


# Tables out of any summary


def shown(table):
    return [[cell.text for cell in row] for row in table.rows]


def test_mappings_that_have_figures_in_common_are_rows_and_the_rest_stands_alone():
    found = page_tables.content(
        {
            "seed": 3,
            "dish": {"tau": {"median": 0.5, "q25": 0.4, "q75": 0.6}, "regret": 1},
            "forest": {"tau": {"median": 0.25, "q25": 0.2, "q75": 0.3}, "regret": 2},
            "ceiling": {"tau_of_seeds": 0.9},
            "notes": {},
        },
        {"seed": 3},
    )
    (table,) = found.tables
    assert table.columns == ("results", "tau", "regret")
    assert shown(table) == [["dish", "0.5", "1"], ["forest", "0.25", "2"]]
    assert table.rows[0][1] == page_tables.Cell("0.5", "0.4 to 0.6", 0.5)
    assert {name: cell.text for name, cell in found.figures.items()} == {
        "ceiling tau of seeds": "0.9"
    }


def test_groups_of_groups_become_columns_that_name_a_row():
    found = page_tables.content(
        {
            "words": {"one": {"what": "x"}, "two": {"what": "y"}},
            "league": {"dish": {"5": {"tau": 0.5}, "20": {"tau": 0.6}}, "proxy": {"0": {"tau": 1}}},
            "growth": [{"motifs": 8, "seconds": 0.5}, {"motifs": 16, "seconds": None}],
        }
    )
    league, growth, words = found.tables  # without numbers comes last
    assert (league.title, league.keys, league.columns) == ("league", 2, ("league", "", "tau"))
    assert shown(league) == [["dish", "5", "0.5"], ["dish", "20", "0.6"], ["proxy", "0", "1"]]
    assert shown(growth) == [["8", "0.5"], ["16", "-"]]
    assert words.title == "words"
    assert found.figures == {}


@pytest.mark.parametrize(
    ("value", "text", "order"),
    [
        (float("inf"), "inf", None),
        (10**400, str(10**400), None),
        ([1, [2, None]], "1, 2, -", None),
        ({"median": None, "q25": None}, "-", None),
        ({"a": {"median": 1, "q25": 1, "q75": 2}}, "a: 1", None),
        (-2.191e307, "-2.191e+307", -2.191e307),
    ],
)
def test_odd_values_are_shown(value, text, order):
    assert page_tables.cell(value)[::2] == (text, order)


# The page


def test_nothing_in_a_run_folder_is_run_or_drawn(written):
    for path in written:
        text = path.read_text()
        assert EVIL not in text
        assert "&lt;img src=x onerror=" in text
        assert len(re.findall("<script", text)) == 1
        assert text.count("<img src=") == text.count('<img src="data:image/png;base64,')
        assert not re.search(r"(src|href)=\"(?!data:)", text)


def test_a_page_says_what_was_asked_with_what_and_how_to_go_on(written, runs):
    text = written[0].read_text()
    assert written[0] == runs[0] / "report.html"
    assert page_words.STUDIES["search_comparison"].asked in text
    for words in (
        "dish steps",
        "packages jax",
        "The command again",
        "python -m experiments.search",
    ):
        assert words in text
    assert f"python -m spd_jax.ledger list {runs[0]}/ledger.sqlite" in text
    assert "2 curves, 1 failed" in text
    assert "history.csv (2 rows)" in text
    assert page_words.PICTURES["figure3"].split(",")[0] in text


def test_runs_side_by_side_show_what_differs(runs):
    read = [page.read(run) for run in runs]
    assert shown(page.differing([run.settings for run in read], ["first", "second"])) == [
        ["seed", "0", "1"]
    ]
    text = page.render(read)
    assert "2 runs side by side" in text
    assert "b: tau" in text  # of the main table, and of both


def test_curves_are_drawn_higher_is_better_with_the_best_last(runs):
    (own,) = page_curves.of_folder(runs[0])
    assert (own.total, own.failed, own.units, own.unit) == (2, 1, 3, "accuracy")
    assert (own.low, own.high) == (0.1, 0.5)
    assert own.lines == ["0.0,195.0 320.0,130.0 640.0,130.0", "0.0,260.0 320.0,65.0 640.0,0.0"]


def test_a_page_repeats_what_a_run_wrote_of_itself(tmp_path):
    with open_folder(tmp_path / "run", {"study": "table", "num_cells": 22}) as folder:
        folder.write_json("summary.json", {"failed": 0})
    own = page.read(tmp_path / "run")
    assert own.study is page_words.STUDIES["table"]
    assert list(own.settings) == ["num cells"]
    assert own.versions["commit"].text == machine.commit()
    assert own.command == machine.command()
    assert own.command.startswith("python ")
    assert own.faults == []


@pytest.mark.parametrize("name", ["config", "summary", "versions"])
def test_what_is_damaged_is_said_on_the_page(name, tmp_path):
    folder = run_folder(tmp_path / "run")
    (folder / f"{name}.json").write_text('{"a": ')
    (folder / "history.csv").write_text("a,b\n1\n")
    (folder / "ledger.sqlite").write_bytes(b"x" * 4096)
    text = page.write([folder]).read_text()
    assert f"{name}.json cannot be read" in text
    assert "1 values for 2 columns" in text
    assert "ledger.sqlite is damaged or no ledger" in text


def test_a_run_that_has_not_ended_has_a_page_too(tmp_path):
    folder = run_folder(tmp_path / "run")
    (folder / "summary.json").unlink()
    assert "There is no summary.json yet." in page.write([folder]).read_text()


def test_the_command_writes_a_page_or_one_sentence(tmp_path, capsys, runs):
    command.main([str(runs[0]), "--output", str(tmp_path / "out.html")])
    assert capsys.readouterr().out == f"wrote {tmp_path}/out.html\n"
    assert (tmp_path / "out.html").is_file()
    with pytest.raises(SystemExit, match="no summary"):
        command.main([str(tmp_path)])
    with pytest.raises(UserError, match="cannot write in"):
        page.write(runs[:1], tmp_path / "out.html" / "page.html")


def test_every_picture_and_study_has_words():
    assert page_words.caption("figure3_seconds") == page_words.PICTURES["figure3_seconds"]
    assert page_words.caption("my_own") == "my own."
    assert page_words.study("my_study").title == "my study"


# In a browser


@pytest.fixture(scope="module")
def chromium():
    if browser.PATH is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with browser.browser() as opened:
        yield opened


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_fit_and_load_all_they_need_without_a_network(chromium, written, width, dark):
    for path in written:
        chromium.open(path, width, dark=dark)
        assert chromium.run("document.documentElement.scrollWidth") <= width
        chromium.run("document.querySelectorAll('details').forEach(own => own.open = true)")
        assert chromium.run("document.documentElement.scrollWidth") <= width
        loaded = "[...document.images].map(own => own.complete && own.naturalWidth)"
        assert set(chromium.run(loaded)) == {900}
        assert chromium.complaints() == []
        assert chromium.requests() == []
        lightness = chromium.run(
            "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
        )
        assert (max(lightness) < 80) == dark


def column(page, place):
    rows = "document.querySelector('table').tBodies[0].rows"
    cell = f"own.cells[{place}].childNodes[0].textContent"
    return page.run(f"[...{rows}].map(own => {cell})")


def test_a_click_sorts_by_number_or_by_letter_and_again_the_other_way(chromium, written):
    chromium.open(written[0])
    click = "document.querySelector('table').tHead.querySelectorAll('button')[{}].click()"
    assert column(chromium, 2) == ["0.25", "10.5", "-"]
    for place, rising in ((3, ["9", "10", "100"]), (0, ["a", "b", "c" * 60])):
        for expected, words in ((rising, "ascending"), (rising[::-1], "descending")):
            chromium.run(click.format(place))
            assert column(chromium, place) == expected
            head = f"document.querySelector('table').tHead.rows[0].cells[{place}]"
            assert chromium.run(f"{head}.getAttribute('aria-sort')") == words
    for expected in (["0.25", "10.5", "-"], ["10.5", "0.25", "-"]):  # what is not there stays last
        chromium.run(click.format(2))
        assert column(chromium, 2) == expected


def test_paper_shows_what_is_folded(chromium, written):
    chromium.open(written[0], media="print")
    chromium.run("dispatchEvent(new Event('beforeprint'))")
    assert chromium.run("[...document.querySelectorAll('details')].every(own => own.open)")
    assert (
        chromium.run("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    )

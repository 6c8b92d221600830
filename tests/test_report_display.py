"""report.pace and report.display: the time left, plain lines, and what a terminal shows."""

import io
import math
import re
import sys
import threading
import time

import pytest

from spd_jax.errors import UserError
from spd_jax.report.display import Display
from spd_jax.report.pace import WINDOW, Pace
from spd_jax.report.views import SearchView
from spd_jax.studies.events import Advanced, SearchAdvanced, SearchStage, Stage

BITS = "bits per character"
LN2 = math.log(2)


class Clock:
    """Seconds that pass only when told to."""

    now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def tell(stream, events, *, end=None, **options):
    """Return the lines shown for events of (second, event)."""
    clock = Clock()
    with Display(stream, clock=clock, **options) as show:
        for second, event in events:
            clock.now = 100.0 + second
            show(event)
        clock.now = clock.now if end is None else 100.0 + end
    return stream.getvalue().splitlines()


def left(total, pieces, *, now=None, done=0):
    """Return the time left after pieces of (second, done)."""
    clock = Clock()
    pace = Pace(total, done, clock)
    for second, own in pieces:
        clock.now = 100.0 + second
        pace.advance(own)
    clock.now = clock.now if now is None else 100.0 + now
    return pace.left()


def test_the_first_piece_may_compile_and_counts_only_while_it_is_alone():
    assert left(5, []) == ""
    assert left(5, [(84, 1)]) == "up to 5:36"
    assert left(5, [(84, 1), (100, 2)]) == "~0:48"
    assert left(5, [(84, 1), (100, 2), (112, 3)]) == "~0:28"
    assert left(2, [(84, 1), (100, 2)]) == ""


def test_time_left_counts_only_the_work_of_this_run():
    assert left(100, [(3600, 92)], done=90) == "up to 4:00:00"
    # the job starts anew, as a fit does after early stopping
    assert left(100, [(100, 50), (120, 0), (130, 10)]) == "up to 1:30"
    # what is read from a ledger in no time says nothing of the pace
    assert left(60, [*((0.001 * k, k) for k in range(1, 40)), (50, 40), (60, 41)]) == "~9:30"
    assert left(60, [(0.1, 40)]) == ""


def test_time_left_shrinks_within_a_piece_by_no_more_than_a_piece():
    pieces = [(10, 1), (20, 2), (30, 3)]
    assert left(5, pieces, now=34) == "~0:16"
    assert left(5, pieces, now=300) == "~0:10"


def test_an_old_pace_is_forgotten():
    slow = [(100 * k, k) for k in range(1, 11)]
    quick = [(1000 + 2 * k, 10 + k) for k in range(1, WINDOW + 1)]
    assert left(100, slow + quick) == f"~{2 * (100 - 10 - WINDOW) // 60}:12"


def test_plain_progress_is_a_line_now_and_then_and_a_last_one():
    events = [(0, Stage("steps", 12))]
    events += [(2 * k, Advanced(k, f"loss {k}")) for k in range(1, 13)]
    assert tell(io.StringIO(), events, end=25) == [
        "steps: 0/12 (0%), 0:00 elapsed",
        "steps: 5/12 (42%), 0:10 elapsed, ~0:14 left, loss 5",
        "steps: 10/12 (83%), 0:20 elapsed, ~0:04 left, loss 10",
        "steps: 12/12 (100%), 0:25 elapsed, loss 12",
    ]
    assert len(tell(io.StringIO(), events, every=1.0)) == 13
    assert len(tell(io.StringIO(), events, every=1e9)) == 2
    assert tell(io.StringIO(), []) == []
    assert tell(io.StringIO(), [(0, Advanced(1))]) == []
    assert tell(io.StringIO(), [(0, Stage("steps", 0))]) == ["steps: 0, 0:00 elapsed"]


def test_a_stage_says_what_an_earlier_run_did_and_what_it_is_at():
    events = [(0, Stage("seeds", 5, done=2, note="compiling")), (0, Stage("next", 1))]
    assert tell(io.StringIO(), events) == [
        "seeds: 2/5 (40%), 0:00 elapsed, compiling",
        "next: 0/1 (0%), 0:00 elapsed",
    ]


SEARCH = [
    (0, SearchStage("dish + GA, run 1 of 5", 100, BITS, 0.9)),
    (0, SearchAdvanced(0, 0, math.nan)),
    (5, SearchAdvanced(0, 20, -1.5)),
    (8, SearchAdvanced(0, 40, -1.4, finished=True)),
    (9, Stage("dish, iteration 1", 6, note="compiling")),
    (10, Advanced(1, "outer loss 0.5")),
    (20, Advanced(6, "outer loss 0.1")),
    (22, SearchAdvanced(1, 41, -1.4)),
    (40, SearchAdvanced(1, 60.25, -2 * LN2, 0.613, finished=True)),
    (41, SearchAdvanced(2, 61, -2 * LN2)),
]


def test_plain_lines_of_a_search():
    assert tell(io.StringIO(), SEARCH) == [
        "dish + GA, run 1 of 5, best validation bits per character",
        "  noise ceiling of tau over random cells: 0.90",
        "   iteration      best   tau  ground truths  elapsed  left",
        "  warm start         -     -          0/100     0:00",
        "  warm start     2.020     -         40/100     0:08  at least 0:09",
        "  dish, iteration 1: 6/6 (100%), 0:11 elapsed, outer loss 0.1",
        "           1     2.000  0.61      60.25/100     0:40  up to 1:03",
        "           2     2.000     -         61/100     0:41  up to 1:02",
    ]


def test_the_time_left_of_a_search_does_not_forget_its_fits():
    """Iterations of a fit of 100 s and 30 cells of 1 s: 4 of them are 8 minutes and 40 s."""
    clock, shown = Clock(), []
    view = SearchView(SearchStage("dish", 160, BITS), clock)
    for cell in range(1, 41):
        clock.now += 1
        view.advance(SearchAdvanced(0, cell, -1.0, finished=cell == 40))
    for iteration in (1, 2, 3, 4):
        shown.append(view.line().split("  ")[-1])
        clock.now += 100
        for cell in range(1, 31):
            clock.now += 1
            spent = 10 + 30 * iteration + cell
            view.advance(SearchAdvanced(iteration, spent, -1.0, finished=cell == 30))
            if (iteration, cell) == (3, 20):
                shown.append(view.line().split("  ")[-1])
    assert shown == ["at least 2:00", "up to 6:30", "~4:20", "~2:20", "~2:10"]


def test_nothing_is_wider_than_80_columns():
    long = "a long search of a long name, run 10 of 10, with a ranking that needs many words, too"
    events = [(0, SearchStage(long, 1e6 + 0.25, "perplexity", 0.9))]
    events += [(36000, SearchAdvanced(100, 123456.75, -9.0, 0.5, finished=True))]
    events += [(72000, SearchAdvanced(1000, 234567.75, -9.0, -0.5, finished=True))]
    events += [(90000, Stage("dish, iteration 1000", 6, note="a long note " * 10))]
    shown = tell(io.StringIO(), events)
    assert max(map(len, shown)) <= 80
    assert " ".join(" ".join(shown).split()).count("a long note") == 10


def test_a_stage_after_a_search_stands_alone():
    events = [*SEARCH, (50, SearchAdvanced(3, 100, -1.0, finished=True)), (51, Stage("tests", 2))]
    assert tell(io.StringIO(), events)[-1] == "tests: 0/2 (0%), 0:00 elapsed"
    again = [*SEARCH, (50, SearchStage("GA, run 1 of 5", 100, BITS))]
    assert tell(io.StringIO(), again)[-3:] == [
        "GA, run 1 of 5, best validation bits per character",
        "   iteration      best   tau  ground truths  elapsed  left",
        "  warm start         -     -          0/100     0:00",
    ]


@pytest.mark.parametrize(
    ("events", "words"),
    [([Stage("steps", 3), Advanced(2)], "steps: 2/3 (67%)"), (SEARCH[:3], "20/100")],
)
def test_a_failed_block_leaves_its_last_state(events, words):
    stream = io.StringIO()

    def job():
        with Display(stream, clock=Clock()) as show:
            for event in events:
                show(event if not isinstance(event, tuple) else event[1])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        job()
    assert words in stream.getvalue().splitlines()[-1]


def test_it_goes_to_standard_error(capsys):
    with Display() as show:
        show(Stage("steps", 1))
        show(Advanced(1))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1].startswith("steps: 1/1 (100%)")


def test_a_silent_job_says_ever_less_often_that_it_lives():
    stream, threads = io.StringIO(), threading.active_count()
    with Display(stream, every=0.05) as show:
        time.sleep(0.1)
        assert stream.getvalue() == ""
        show(Stage("steps", 2, note="compiling"))
        time.sleep(1.2)
    shown = stream.getvalue().splitlines()
    assert all(line.startswith("steps: 0/2 (0%), 0:0") for line in shown)
    assert 3 <= len(shown) <= 7  # at 0, 0.05, 0.15, 0.35, 0.75 s
    assert threading.active_count() == threads


def test_nobody_reads_any_more():
    stream = io.StringIO()
    with Display(stream, every=0.02) as show:
        show(Stage("steps", 2))
        stream.close()
        time.sleep(0.1)  # the heartbeat ends without a word


def screen(text):
    """Return the lines that stand on a terminal after `text`: cursor up, erase, return."""
    rows, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[^\x1b]", text):
        if part.startswith("\x1b"):
            if part[-1] == "A":
                row -= int(part[2:-1] or 1)
            elif part[-1] == "K":
                rows[row] = ""
        elif part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            rows += [""] * (row == len(rows))
        else:
            rows[row] = rows[row].ljust(column)[:column] + part + rows[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in rows if line.strip()]


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "110")
    return Terminal()


@pytest.mark.parametrize("total", [12, 0])
def test_a_terminal_gets_a_live_bar(terminal, total):
    events = [(0, Stage("steps [x]", total)), (30, Advanced(total // 2, "loss [0.5]"))]
    tell(terminal, events, end=35)
    (bar,) = screen(terminal.getvalue())
    count = f"{total // 2}/{total}" if total else "0"
    for part in ("steps [x]", f" {count} ", "0:35 elapsed", "loss [0.5]"):
        assert part in bar
    assert ("up to 0:25 left" in bar) == (total > 0)


def test_a_terminal_gets_one_table_for_each_search_and_no_stale_lines(terminal):
    again = [(50, SearchStage("GA [x]", 100, BITS)), (51, SearchAdvanced(0, 40, -1.0))]
    tell(terminal, SEARCH + again)
    shown = screen(terminal.getvalue())
    assert "dish, iteration 1" in terminal.getvalue()
    assert not any("dish, iteration 1" in line for line in shown)
    rows = [re.split(r"\s*│\s*", line)[1:-1] for line in shown if "│" in line]
    assert rows == [
        ["warm start", "2.020", "-", "40", "0:08", ""],
        ["1", "2.000", "0.61", "60.25", "0:40", ""],
        ["2", "2.000", "-", "61", "0:50", "up to 0:53"],
        ["warm start", "1.443", "-", "40", "0:01", ""],
    ]
    assert [line for line in shown if line.startswith(("dish + GA", "GA [x]"))] == [
        "dish + GA, run 1 of 5",
        "GA [x]",
    ]
    for header in ("iteration", "best bits per character", "tau", "ground truths of 100", "left"):
        assert any(header in line for line in shown)


@pytest.mark.parametrize("lacking", ["rich", "cursor control"])
def test_plain_lines_where_a_bar_cannot_be(terminal, monkeypatch, lacking):
    monkeypatch.setenv("TERM", "xterm" if lacking == "rich" else "dumb")
    if lacking == "rich":
        monkeypatch.setitem(sys.modules, "rich", None)
    shown = tell(terminal, [(0, Stage("steps", 2)), (10, Advanced(2))])
    assert shown[-1] == "steps: 2/2 (100%), 0:10 elapsed"


def test_a_search_in_an_unknown_unit_is_refused():
    with pytest.raises(UserError, match="unknown unit"):
        tell(io.StringIO(), [(0, SearchStage("ga", 100, "nats"))])

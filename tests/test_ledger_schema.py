"""ledger.schema: ledgers of older versions live on, and damage or a stranger does no harm."""

import contextlib
import functools
import math
import os
import pathlib
import random
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spd_jax.errors import UserError
from spd_jax.ledger import Evaluation, EvaluationKey, Ledger
from spd_jax.ledger import __main__ as ledger_cli
from spd_jax.ledger.schema import SCHEMAS

KEY = EvaluationKey("nao", "0 1 0 1", "f00d", 0, 3)
GOOD = Evaluation("ok", -1.25, -0.0, (-3.0, math.nan, -1.25), 2.5)
BAD = Evaluation("failed", math.nan, math.nan, (), 0.5, "ValueError: no")
OLD = [(KEY, GOOD), (KEY._replace(seed=-1, budget=9), BAD)]


def run(path, *statements):
    """Tell SQLite itself something, past the ledger; return the last answer."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        for statement in statements:
            answer = database.execute(
                *(statement if isinstance(statement, tuple) else (statement,))
            )
        return answer.fetchall()


def version_1(path, items=OLD):
    """Write a ledger as the first version of this program did."""
    run(
        path,
        "PRAGMA journal_mode = WAL",
        SCHEMAS[1],
        f"PRAGMA application_id = {0x53504454}",
        "PRAGMA user_version = 1",
        "BEGIN",
        *(
            (
                "INSERT INTO evaluations VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (
                    *(3 * place, *key[:5], x.status, x.score, x.test_score, x.seconds),
                    *(struct.pack(f"<{len(x.curve)}d", *x.curve), x.error),
                    "2020-02-02T02:02:02+00:00",
                ),
            )
            for place, (key, x) in enumerate(items)
        ),
        "COMMIT",
    )
    return path


def version_2(path, items=OLD):
    """Write a ledger as the second version of this program did: without checksums."""
    columns = "purchase, space, cell, task, seed, budget, status, score, test_score, seconds"
    columns += ", curve, error, bought_at"
    run(
        version_1(path, items),
        "ALTER TABLE evaluations RENAME TO older",
        SCHEMAS[2],
        f"INSERT INTO evaluations ({columns}, parent, unit, info) "
        f"SELECT {columns}, '', '', '{{}}' FROM older",
        "DROP TABLE older",
        "PRAGMA user_version = 2",
    )
    return path


OLDER = {1: version_1, 2: version_2}


# Older versions


@pytest.mark.parametrize("version", OLDER)
def test_a_reader_takes_an_older_version_as_it_is(version, tmp_path):
    path = OLDER[version](tmp_path / "l")
    content = path.read_bytes()
    with Ledger(path, read_only=True) as ledger:
        assert list(ledger.items()) == OLD
        assert ledger.get(KEY) == GOOD
        assert ledger.get(KEY._replace(parent="a")) is None
        assert ledger.get_longer(KEY._replace(seed=-1)).key.budget == 9
        assert {row.bought_at for row in ledger.purchases()} == {"2020-02-02T02:02:02+00:00"}
        with Ledger(tmp_path / "new") as into:
            assert into.merge(ledger) == (2, 0, [])
            assert into.purchases() == ledger.purchases()
    assert path.read_bytes() == content
    assert sorted(os.listdir(tmp_path)) == ["l", "new", "new.lock"]


@pytest.mark.parametrize("version", OLDER)
def test_a_writer_upgrades_it_and_leaves_a_copy(version, tmp_path):
    path, backup = OLDER[version](tmp_path / "l"), f"l.v{version}.backup"
    with Ledger(path, read_only=True) as before:
        old = before.purchases()
    for _ in range(2):
        with Ledger(path) as ledger:
            assert ledger.purchases() == old
            assert math.copysign(1, ledger.get(KEY).test_score) == -1
            ledger.put(KEY._replace(parent="a"), GOOD)
            assert len(ledger) == 3
            ledger.forget_failed([OLD[1][0]])
            with Ledger(tmp_path / backup, read_only=True) as before_again:
                ledger.merge(before_again)
                assert before_again.purchases() == old
        run(path, "DELETE FROM evaluations WHERE parent = 'a'")
        run(path, "UPDATE evaluations SET purchase = 3 WHERE seed = -1")
    assert run(path, "PRAGMA user_version") == [(3,)]
    assert run(path, "SELECT sql FROM sqlite_master WHERE sql NOT NULL") == [(SCHEMAS[3],)]
    assert sorted(os.listdir(tmp_path)) == ["l", "l.lock", backup]


def test_a_copy_is_never_overwritten(tmp_path):
    (tmp_path / "l.v1.backup").write_text("of another ledger")
    Ledger(version_1(tmp_path / "l")).close()
    assert (tmp_path / "l.v1.backup").read_text() == "of another ledger"
    with Ledger(tmp_path / "l.v1.backup2", read_only=True) as copy:
        assert list(copy.items()) == OLD


# A process whose files may not grow beyond a size: what a full disk does to it.
FULL_DISK = """
import os, resource, sys
from spd_jax.errors import UserError
from spd_jax.ledger import Ledger
size = os.path.getsize(sys.argv[1]) * int(sys.argv[2]) // 100
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
try:
    Ledger(sys.argv[1])
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("percent", [50, 110])  # while the copy is written, and after it
def test_a_full_disk_during_the_upgrade_is_one_sentence_and_leaves_version_1(percent, tmp_path):
    items = [(KEY._replace(seed=seed), GOOD) for seed in range(1500)]
    path = version_1(tmp_path / "l", items)
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), str(percent)],
        cwd=pathlib.Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "l cannot be read or written (" in done.stdout
    assert done.stdout.count("\n") == 1
    assert run(path, "PRAGMA user_version") == [(1,)]
    copies = [name for name in os.listdir(tmp_path) if name.endswith("backup")]
    assert copies == ["l.v1.backup"] * (percent > 100)
    with Ledger(path) as ledger:  # it was whole, and the refusal held no lock
        assert list(ledger.items()) == items


UPGRADER = """
import sys
from spd_jax.ledger import Ledger
print("up", flush=True)
Ledger(sys.argv[1]).close()
print("done", flush=True)
"""


def test_a_kill_during_the_upgrade_leaves_the_old_or_the_new_ledger(tmp_path):
    items = [(KEY._replace(seed=seed), GOOD) for seed in range(3000)]
    dice, versions = random.Random(1), []
    for turn in range(8):
        folder = tmp_path / str(turn)
        folder.mkdir()
        path = version_1(folder / "l", items)
        process = subprocess.Popen(
            [sys.executable, "-c", UPGRADER, str(path)],
            stdout=subprocess.PIPE,
            cwd=pathlib.Path(__file__).parents[1],
        )
        process.stdout.readline()
        time.sleep(dice.uniform(0, 0.06))
        process.kill()
        process.communicate()
        assert process.returncode in (0, -signal.SIGKILL)
        versions += run(path, "PRAGMA user_version")
        with Ledger(path, read_only=True) as ledger:
            assert list(ledger.items()) == items
        with Ledger(path) as ledger:
            assert list(ledger.items()) == items
        with Ledger(path.with_name("l.v1.backup"), read_only=True) as copy:
            assert list(copy.items()) == items
    assert set(versions) <= {(1,), (3,)}


# A stranger's ledger


def filled(path):
    with Ledger(path) as ledger:
        ledger.put(KEY, GOOD)
        ledger.put(KEY._replace(seed=1), BAD)
    return path


ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"
BESIDES = {
    "view": "CREATE VIEW more AS SELECT 1",
    "trigger": "CREATE TRIGGER more AFTER INSERT ON evaluations BEGIN DELETE FROM evaluations; END",
    "table": "CREATE TABLE more (a)",
    "index": "CREATE INDEX more ON evaluations (score)",
}


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("kind", BESIDES)
def test_what_is_in_the_file_besides_is_refused_by_name(kind, read_only, tmp_path):
    run(filled(tmp_path / "l"), BESIDES[kind])
    with pytest.raises(UserError, match=f"l holds the {kind} 'more', which is not of this program"):
        Ledger(tmp_path / "l", read_only=read_only)


@pytest.mark.parametrize(
    "statements",
    [
        ["DROP TABLE evaluations", f"CREATE VIEW evaluations AS {ENDLESS}"],
        ["ALTER TABLE evaluations ADD COLUMN more AS (score + 1)"],
        ["DROP TABLE evaluations", "CREATE VIRTUAL TABLE evaluations USING fts5(space, cell)"],
        ["DROP TABLE evaluations"],
    ],
)
def test_another_table_in_its_place_is_refused_and_never_asked(statements, tmp_path):
    run(filled(tmp_path / "l"), *statements)
    for read_only in (True, False):
        began = time.monotonic()
        with pytest.raises(UserError, match=r"which is not of this program|has no table"):
            Ledger(tmp_path / "l", read_only=read_only)
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("score = 'high'", "score is 'high': give a number"),
        ("test_score = x'00'", "test_score is .*: give a number"),
        ("seconds = ''", "seconds is '': give a number"),
        ("seed = 'one'", "seed is 'one': give a whole number"),
        ("seed = 0.5", "seed is '0.5': give a whole number"),
        ("budget = -1", "budget is -1: give a whole number from 0 on"),
        ("budget = 2", "the curve has 3 values for a budget of 2"),
        ("curve = 'text'", "curve is 'text': give bytes"),
        ("curve = x'0011'", "curve has 2 bytes: give eight for each value"),
        ("status = 'done'", "status is 'done': give one of ok, failed"),
        ("status = printf('%.*c', 9999, 'x')", "status is 'x{40}': give one of"),
        ("score = NULL", "score is nan, but the status is ok"),
        ("score = 9e999", "score is inf, but the status is ok"),
        ("info = '[1]'", r"info is '\[1\]': give a JSON object"),
        ("info = '{'", r"info is '\{': give a JSON object"),
        ("info = x'7b7d'", r"info is .*: give text in UTF-8"),
        ("cell = x'00'", r"cell is .*: give text in UTF-8"),
        ("error = CAST(x'ff' AS TEXT)", r"error is .*: give text in UTF-8"),
        ("bought_at = 1.5, parent = x'00'", r"parent is .*: give text in UTF-8"),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_the_row(change, message, tmp_path):
    run(filled(tmp_path / "l"), f"UPDATE evaluations SET {change} WHERE purchase = 1")
    with Ledger(tmp_path / "l", read_only=True) as ledger, pytest.raises(UserError) as caught:
        ledger.purchases()
    assert "l, row 1: " in str(caught.value)
    caught.match(message)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    into = filled(tmp_path / "into")
    for command in (["list"], ["export", f"--csv={tmp_path / 't.csv'}"], ["retry"]):
        with pytest.raises(SystemExit, match=r"error: .*row 1"):
            ledger_cli.main([command[0], str(tmp_path / "l"), *command[1:]])
    with pytest.raises(SystemExit, match=r"error: .*row 1"):
        ledger_cli.main(["merge", str(into), str(tmp_path / "l")])
    with Ledger(into, read_only=True) as ledger:
        assert len(ledger) == 2
    with Ledger(tmp_path / "l") as ledger:  # a writer that does not meet the row is not stopped
        assert ledger.get(KEY._replace(seed=1)) == BAD


def test_an_empty_file_is_no_ledger_to_a_reader(tmp_path):
    (tmp_path / "l").write_bytes(b"")
    with pytest.raises(UserError, match="l is empty: give the file of a ledger"):
        Ledger(tmp_path / "l", read_only=True)
    assert os.listdir(tmp_path) == ["l"]
    Ledger(tmp_path / "l").close()


def test_whole_scores_of_another_program_are_numbers(tmp_path):
    run(version_2(tmp_path / "l"), "UPDATE evaluations SET score = 3 WHERE purchase = 0")
    with Ledger(tmp_path / "l", read_only=True) as ledger:
        assert ledger.get(KEY).score == 3.0


@pytest.mark.parametrize(
    "change",
    [
        "score = -1.35",
        "score = -1.2500000000000002",
        "test_score = 0.0",
        "test_score = NULL",
        "seconds = 2",
        "seed = 7",
        "budget = 4",
        "parent = 'a'",
        "space = 'nap'",
        "curve = x'0000000000000000'",
        "curve = x''",
        "info = '{\"a\": 1}'",
        "unit = 'acuracy'",
        "error = 'x'",
        "bought_at = '2020-02-02T02:02:02+00:00'",
        "status = 'failed'",
        "checksum = checksum + 1",
        "checksum = ''",
    ],
)
def test_a_value_that_changed_and_may_stand_there_is_refused(change, tmp_path):
    path = filled(tmp_path / "l")
    run(path, f"UPDATE evaluations SET {change} WHERE purchase = 1")
    with Ledger(path, read_only=True) as ledger:
        with pytest.raises(UserError, match=r"l, row 1: its checksum is another \(.* repair"):
            ledger.purchases()
        assert ledger.get(KEY._replace(seed=1)) == BAD


def test_rows_that_another_program_copied_between_ledgers_are_read(tmp_path):
    path = filled(tmp_path / "l")
    Ledger(tmp_path / "into").close()
    run(
        tmp_path / "into",
        f"ATTACH '{path}' AS l",
        "INSERT INTO evaluations SELECT * FROM l.evaluations",
    )
    with Ledger(tmp_path / "into") as into, Ledger(path) as ledger:
        assert into.purchases() == ledger.purchases()


def test_repair_forgets_the_damaged_rows_and_no_other(tmp_path, capsys):
    path = filled(tmp_path / "l")
    with Ledger(path) as ledger:
        ledger.put(KEY._replace(seed=2), GOOD)
    ledger_cli.main(["repair", str(path)])
    assert capsys.readouterr().out.startswith("0 damaged evaluations forgotten")
    run(path, "UPDATE evaluations SET score = -1.35 WHERE purchase = 1")
    run(path, "UPDATE evaluations SET seed = 'one' WHERE purchase = 3")
    ledger_cli.main(["repair", str(path)])
    assert capsys.readouterr().out.startswith("2 damaged evaluations forgotten")
    with Ledger(path) as ledger:
        assert list(ledger.items()) == [(KEY._replace(seed=1), BAD)]
        ledger.put(KEY, GOOD)
        assert ledger.get(KEY) == GOOD
    with pytest.raises(SystemExit, match="none is missing: give the file of a ledger"):
        ledger_cli.main(["repair", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()


@functools.cache
def whole():
    with tempfile.TemporaryDirectory() as folder:
        return filled(pathlib.Path(folder) / "l").read_bytes()


@given(
    flips=st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 255)), min_size=1, max_size=4),
    cut=st.none() | st.integers(0, 2**20),
    read_only=st.booleans(),
)
@settings(max_examples=150)
def test_flipped_and_cut_bytes_are_answered_or_refused(tmp_path_factory, flips, cut, read_only):
    content = bytearray(whole())
    for place, bits in flips:
        # Half of them hit the headers: of the file, of the schema and of the pages.
        content[place % (len(content) if place % 2 else 200)] ^= bits
    path = tmp_path_factory.mktemp("flip") / "l"
    path.write_bytes(content[: None if cut is None else cut % len(content)])
    with contextlib.suppress(UserError), Ledger(path, read_only=read_only) as ledger:
        assert ledger.get(KEY) in (GOOD, None)
        longer = ledger.get_longer(KEY._replace(budget=0))
        assert longer is None or longer.evaluation == GOOD
        assert set(ledger.items()) <= {(KEY, GOOD), (KEY._replace(seed=1), BAD)}
        assert len(ledger.purchases()) == len(ledger)
        if not read_only:
            ledger.put(KEY._replace(seed=2), GOOD)
            ledger.forget_failed([KEY._replace(seed=1)])

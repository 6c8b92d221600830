"""ledger: exact, never lost, never overwritten; one writer; mistakes in one sentence."""

import dataclasses
import datetime
import math
import os
import pathlib
import random
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spd_jax.errors import UserError
from spd_jax.ledger import Evaluation, EvaluationKey, Ledger, Purchase

KEY = EvaluationKey("nao", "0 1 0 1", "f00d", 0, 3)
GOOD = Evaluation("ok", -1.25, -1.5, (-3.0, -2.0, -1.25), 2.5)
BAD = Evaluation("failed", math.nan, math.nan, (), 0.5, "Traceback\n  line\nValueError: no")
FLOATS = st.floats(allow_nan=True, allow_infinity=True)
# A process that buys for ever and says what is bought, for tests that kill it.
BUYER = """
import sys
from spd_jax.ledger import Evaluation, EvaluationKey, Ledger, Purchase
print("up", flush=True)
with Ledger(sys.argv[1]) as ledger:
    print("open", flush=True)
    for i in range(len(ledger), 10**9):
        ledger.put(
            EvaluationKey("s", f"cell {i}", "t", i, 2),
            Evaluation("ok", i / 7, -i / 3, (0.5, i / 7), 1.0),
        )
        print(i, flush=True)
"""


def bits(evaluation):
    """Return an evaluation with floats as bytes, so that NaN and -0.0 compare."""
    numbers = (evaluation.score, evaluation.test_score, evaluation.seconds, *evaluation.curve)
    texts = (evaluation.status, evaluation.error, evaluation.unit, repr(evaluation.info))
    return *texts, struct.pack(f"{len(numbers)}d", *numbers)


def raw(path, query):
    """Ask SQLite itself, past the ledger."""
    database = sqlite3.connect(path)
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


def buyer(path):
    return subprocess.Popen(
        [sys.executable, "-c", BUYER, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(__file__).parents[1],
    )


def test_an_evaluation_is_on_disk_once_put_returns(tmp_path):
    path = tmp_path / "new" / "ledger.sqlite"
    with Ledger(path) as ledger:
        assert ledger.get(KEY) is None
        ledger.put(KEY, GOOD)
        with Ledger(path, read_only=True) as reader:  # while the writer still has it
            assert reader.get(KEY) == GOOD
    with Ledger(path) as ledger:
        assert list(ledger.items()) == [(KEY, GOOD)]
    assert raw(path, "PRAGMA journal_mode") == [("wal",)]


def test_each_commit_waits_for_the_disk(tmp_path):
    with Ledger(tmp_path / "l") as ledger:
        assert ledger._database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert not ledger._database.in_transaction


REST = (
    FLOATS,
    st.lists(FLOATS, max_size=4).map(tuple),
    FLOATS,
    st.text(max_size=20),
    st.text(max_size=8),
    st.dictionaries(
        st.text(max_size=4),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
            lambda inner: (
                st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2)
            ),
            max_leaves=4,
        ),
        max_size=3,
    ),
)
EVALUATIONS = st.builds(Evaluation, st.just("failed"), FLOATS, *REST) | st.builds(
    Evaluation, st.just("ok"), st.floats(allow_nan=False, allow_infinity=False), *REST
)
ALL_KEYS = st.builds(
    EvaluationKey,
    *[st.text(max_size=8)] * 3,
    st.integers(-(2**63), 2**63 - 1),
    st.integers(4, 99),
    st.text(max_size=8),
)


@given(evaluations=st.dictionaries(ALL_KEYS, EVALUATIONS, max_size=6))
@settings(max_examples=20)
def test_what_comes_back_is_equal_to_the_bit(tmp_path_factory, evaluations):
    path = tmp_path_factory.mktemp("ledger") / "l"
    with Ledger(path) as ledger:
        for key, evaluation in evaluations.items():
            ledger.put(key, evaluation)
    with Ledger(path) as ledger:
        found = {key: bits(evaluation) for key, evaluation in ledger.items()}
        assert list(found) == list(evaluations)  # in order of purchase
        for key, evaluation in evaluations.items():
            assert found[key] == bits(ledger.get(key)) == bits(one_nan(evaluation))


def one_nan(evaluation):
    """SQLite has one NaN outside of curves, where each keeps its bits."""
    numbers = {name: getattr(evaluation, name) for name in ("score", "test_score", "seconds")}
    return dataclasses.replace(
        evaluation, **{name: math.nan for name, x in numbers.items() if math.isnan(x)}
    )


def test_numbers_that_sqlite_would_change(tmp_path):
    numbers = (-0.0, 0.0, math.inf, -math.inf, 5e-324, 0.1 + 0.2, 1e308, 3.0, math.nan)
    with Ledger(tmp_path / "l") as ledger:
        for seed, number in enumerate(numbers):
            evaluation = Evaluation("failed", number, number, (number,) * 2, number)
            ledger.put(KEY._replace(seed=seed), evaluation)
            assert bits(ledger.get(KEY._replace(seed=seed))) == bits(evaluation)


def test_an_error_that_no_file_can_hold_does_not_lose_the_evaluation(tmp_path):
    with Ledger(tmp_path / "l") as ledger:
        ledger.put(KEY, dataclasses.replace(BAD, error="bad file \udcff"))
        assert ledger.get(KEY).error == "bad file \\udcff"


def test_a_key_keeps_its_first_evaluation(tmp_path):
    with Ledger(tmp_path / "l") as ledger:
        ledger.put(KEY, GOOD)
        ledger.put(KEY, BAD)
        assert ledger.get(KEY) == GOOD
        assert len(ledger) == 1


@pytest.mark.parametrize("field", EvaluationKey._fields)
def test_each_part_of_the_key_counts(field, tmp_path):
    other = KEY._replace(**{field: 7 if field in ("seed", "budget") else "other"})
    with Ledger(tmp_path / "l") as ledger:
        ledger.put(KEY, GOOD)
        assert ledger.get(other) is None
        ledger.put(other, BAD)
        assert [key for key, _ in ledger.items()] == [KEY, other]  # in order of purchase
        assert ledger.get(other).error == BAD.error


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        (KEY, {"status": "done"}, "status is 'done': give one of ok, failed"),
        (KEY, {"score": math.nan}, "score is nan, but the status is ok: give a finite number"),
        (KEY, {"score": math.inf}, "score is inf, but the status is ok"),
        (KEY._replace(budget=2), {}, "the curve has 3 values for a budget of 2: give at most one"),
        (KEY._replace(cell=3), {}, "cell is '3': give text"),
        (KEY._replace(cell="\ud800"), {}, "cell is .* give text in UTF-8"),
        (KEY._replace(budget=-1), {}, "budget is -1: give a whole number from 0 on"),
        (KEY._replace(budget=2**63), {}, "budget is 9223372036854775808"),
        (KEY._replace(seed=-(2**63) - 1), {}, "seed is -9223372036854775809: give .* 64 bits"),
    ],
)
def test_what_no_ledger_may_hold_is_refused_and_nothing_is_written(key, change, message, tmp_path):
    with Ledger(tmp_path / "l") as ledger:
        with pytest.raises(ValueError, match=message):
            ledger.put(key, dataclasses.replace(GOOD, **change))
        with pytest.raises(TypeError):
            ledger.put(KEY._replace(seed=0.5), GOOD)
        assert len(ledger) == 0


def test_the_next_larger_budget_is_found(tmp_path):
    with Ledger(tmp_path / "l") as ledger:
        for budget, evaluation in [(9, GOOD), (4, BAD), (6, GOOD), (3, GOOD)]:
            ledger.put(KEY._replace(budget=budget), evaluation)
        budgets = []
        for budget in (1, 3, 5, 6, 9):
            longer = ledger.get_longer(KEY._replace(budget=budget))
            budgets.append(longer and longer.key.budget)
        assert budgets == [3, 6, 6, 9, None]  # 6 before the failed 4
        assert ledger.get_longer(KEY._replace(seed=1, budget=1)) is None


def test_info_comes_back_as_json_knows_it(tmp_path):
    info = {"loss": 0.1 + 0.2, "adds": 10**20, "bad": math.nan, "all": [-math.inf, {"a": None}]}
    evaluation = dataclasses.replace(GOOD, info=info, unit="accuracy")
    plain = info | {"bad": None, "all": [None, {"a": None}]}
    with Ledger(tmp_path / "l") as ledger:
        ledger.put(KEY, evaluation)
        assert ledger.get(KEY).info == evaluation.info == plain
        assert ledger.get(KEY) == evaluation
    for wrong in ({"a": np.float32(1)}, {"a": object()}):
        with pytest.raises(TypeError, match="not JSON serializable"):
            Evaluation("ok", 1.0, info=wrong)


def test_equal_evaluations_are_equal_whatever_nan_they_hold():
    first = Evaluation("failed", float("nan"), float("nan"), (float("nan"), 1), float("nan"))
    second = Evaluation("failed", math.nan, -math.nan, (math.nan, 1.0), math.nan)
    assert first == second
    assert hash(first) == hash(second)
    for field in ("status", "error", "unit"):
        assert first != dataclasses.replace(first, **{field: "other"})
    for field in ("score", "test_score", "seconds"):
        assert first != dataclasses.replace(first, **{field: 0.5})
    assert first != dataclasses.replace(first, curve=(math.nan,))
    assert first != dataclasses.replace(first, info={"a": 1})
    assert first != "failed"


def test_the_time_of_purchase_is_kept(tmp_path):
    before = time.time()
    with Ledger(tmp_path / "l") as ledger:
        ledger.put(KEY, GOOD)
        (row,) = ledger.purchases()
    bought = datetime.datetime.fromisoformat(row.bought_at)
    assert before - 1 <= bought.timestamp() <= time.time()
    assert row.bought_at.endswith("+00:00")


def test_a_kill_at_any_moment_loses_nothing(tmp_path):
    path = tmp_path / "ledger.sqlite"
    dice = random.Random(0)
    bought = 0
    for turn in range(12):
        process = buyer(path)
        seen = [process.stdout.readline()]  # "up": every second kill may be before the file is made
        if turn % 2:
            seen += [process.stdout.readline() for _ in range(dice.randint(1, 6))]
        time.sleep(dice.uniform(0, 0.04))
        process.kill()
        seen += process.communicate()[0].splitlines()
        assert process.returncode == -signal.SIGKILL
        returned = [int(line) + 1 for line in seen if line.strip().isdigit()]
        with Ledger(path) as ledger:  # the dead process's lock is gone
            rows = list(ledger.items())
        least = max([bought, *returned])
        assert least <= len(rows) <= least + 1  # one may be written and not reported
        bought = len(rows)
        for i, (key, evaluation) in enumerate(rows):
            assert key == ("s", f"cell {i}", "t", i, 2, "")
            assert evaluation == Evaluation("ok", i / 7, -i / 3, (0.5, i / 7), 1.0)
    assert bought >= 6
    assert raw(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_reader_sees_what_a_killed_writer_left(tmp_path):
    process = buyer(tmp_path / "l")
    while process.stdout.readline() != "5\n":
        pass
    process.kill()
    last = int((["5", *process.communicate()[0].split()])[-1])
    with Ledger(tmp_path / "l", read_only=True) as ledger:
        assert last + 1 <= len(ledger) <= last + 2


def test_a_second_writer_is_refused_until_the_first_has_ended(tmp_path):
    path = tmp_path / "l"
    (tmp_path / "link").symlink_to(path)
    message = r"l is being written by another process: wait until .* or use another folder$"
    with Ledger(path) as first:
        first.put(KEY, GOOD)
        for name in ("l", "link"):
            with pytest.raises(UserError, match=message):
                Ledger(tmp_path / name)
        first.put(KEY._replace(seed=1), GOOD)
    with Ledger(path) as second:
        assert len(second) == 2
    process = buyer(path)
    while process.stdout.readline() != "open\n":
        pass
    with pytest.raises(UserError, match=message):
        Ledger(path)
    process.kill()
    process.communicate()
    Ledger(path).close()


def test_a_full_disk_is_one_sentence_and_keeps_what_is_there(tmp_path):
    with Ledger(tmp_path / "l") as ledger:
        ledger.put(KEY, GOOD)
        (pages,) = ledger._database.execute("PRAGMA page_count").fetchone()
        ledger._database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(UserError, match=r"l cannot be read or written .*full.*free space"):
            ledger.put(KEY._replace(seed=1), big())
        assert [key for key, _ in ledger.items()] == [KEY]
        ledger._database.execute("PRAGMA max_page_count = 1000")
        ledger.put(KEY._replace(seed=1), big())
        assert len(ledger) == 2


def big():
    return dataclasses.replace(BAD, error="x" * 20_000)


def damaged(path, kind):
    with Ledger(path) as ledger:
        for seed in range(5):
            ledger.put(KEY._replace(seed=seed), big())
    content = path.read_bytes()
    if kind == "text":
        path.write_text("This is no database, but it is longer than a header of SQLite's.\n" * 9)
    elif kind == "short":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "holed":  # zeros in all pages but the first
        path.write_bytes(content[:4096] + bytes(len(content) - 4096))
    elif kind == "foreign":
        path.unlink()
        raw(path, "CREATE TABLE evaluations (a)")
    elif kind == "later":
        raw(path, "PRAGMA user_version = 4")


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", r"l is damaged or no ledger \(file is not a database\): put a copy"),
        ("short", r"l is damaged or no ledger \(.*\): put a copy .* move it away"),
        ("holed", r"l is damaged or no ledger \(.*\): put a copy"),
        ("foreign", "l is no ledger of this program: give another file"),
        ("later", "l was written by a later version of spd_jax: update spd_jax"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused_and_left_alone(kind, message, read_only, tmp_path):
    path = tmp_path / "l"
    damaged(path, kind)
    content = path.read_bytes()
    with pytest.raises(UserError, match=message) as caught:
        Ledger(path, read_only=read_only)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content
    shutil.move(path, tmp_path / "away")  # the refusal holds no lock
    Ledger(path).close()


def test_a_reader_leaves_nothing_behind_and_needs_no_writable_folder(tmp_path):
    path = tmp_path / "l"
    with Ledger(path) as ledger:
        ledger.put(KEY, GOOD)
    before = sorted(os.listdir(tmp_path))
    with Ledger(path, read_only=True) as reader:
        assert reader.get(KEY) == GOOD
        assert sorted(os.listdir(tmp_path)) == before
        with pytest.raises(UserError, match="readonly"):
            reader.put(KEY._replace(seed=1), GOOD)
    assert sorted(os.listdir(tmp_path)) == before == ["l", "l.lock"]


def test_places_where_no_ledger_can_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"none is missing: give the file of a ledger"):
        Ledger(tmp_path / "none", read_only=True)
    for read_only in (False, True):
        with pytest.raises(UserError, match="is a folder: give"):
            Ledger(tmp_path, read_only=read_only)
    with pytest.raises(UserError, match=r"cannot be read or written .*a folder that you may write"):
        Ledger(tmp_path / "file" / "ledger.sqlite")
    (tmp_path / "l.lock").write_text("no lock at all " * 100)
    with pytest.raises(UserError, match=r"l\.lock is no lock .*: delete it"):
        Ledger(tmp_path / "l")
    assert sorted(os.listdir(tmp_path)) == ["file", "l.lock"]


KEYS = st.integers(0, 5).map(lambda seed: KEY._replace(seed=seed))
SCORES = st.sampled_from([1.0, 2.0, math.nan])


@given(first=st.dictionaries(KEYS, SCORES), second=st.dictionaries(KEYS, SCORES))
@settings(max_examples=12)
def test_merging_is_a_union_that_keeps_the_first(tmp_path_factory, first, second):
    folder = tmp_path_factory.mktemp("merge")
    for name, scores in (("a", first), ("b", second)):
        with Ledger(folder / name) as ledger:
            for key, score in scores.items():
                ledger.put(key, Evaluation("failed", score, 0.0, (), 1.0))
    with Ledger(folder / "a") as a, Ledger(folder / "b", read_only=True) as b:
        merged = a.merge(b)
        assert a.merge(b) == (0, len(second), merged.conflicts)  # again: nothing new
        result = {key: repr(evaluation.score) for key, evaluation in a.items()}
    assert result == {key: repr(score) for key, score in (second | first).items()}
    common = [key for key in second if key in first]
    assert merged.added == len(second) - len(common)
    assert merged.known == len(common)
    assert merged.conflicts == [key for key in common if repr(first[key]) != repr(second[key])]


def test_a_merge_is_whole_or_not_at_all_and_keeps_times(tmp_path, monkeypatch):
    with Ledger(tmp_path / "b") as b:
        for seed in range(3):
            b._insert(Purchase(KEY._replace(seed=seed), GOOD, "2020-02-02T02:02:02+00:00"))
        with Ledger(tmp_path / "a") as a:
            insert, calls = a._insert, []

            def fail_at_the_third(row):
                calls.append(row)
                if len(calls) == 3:
                    raise KeyboardInterrupt
                insert(row)

            monkeypatch.setattr(a, "_insert", fail_at_the_third)
            with pytest.raises(KeyboardInterrupt):
                a.merge(b)
            assert len(a) == 0
            monkeypatch.undo()
            assert a.merge(b) == (3, 0, [])
            assert a.purchases() == b.purchases()

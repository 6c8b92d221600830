"""search.record: what an iteration was, to JSON and CSV and back to the bit; the best cell."""

import json
import math
import re
import struct

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spd_jax.errors import UserError
from spd_jax.search.record import (
    COLUMNS,
    Choice,
    Iteration,
    best,
    best_by_iteration,
    fingerprint,
    read_history,
    write_history,
)

NAN = math.nan
texts = st.text(st.characters(codec="utf-8"), max_size=6)
numbers = st.one_of(
    st.just(NAN), st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([-0.0, 5e-324])
)
notes = st.dictionaries(texts, numbers, max_size=2)


def vectors(size):
    return st.lists(numbers, min_size=size, max_size=size).map(np.array)


def names(size):
    return st.lists(texts, min_size=size, max_size=size).map(tuple)


choices = st.integers(1, 4).flatmap(
    lambda k: st.builds(Choice, names(k), vectors(k), numbers, numbers, notes, texts)
)


def iterations(index):
    return st.integers(1, 4).flatmap(
        lambda k: st.builds(
            Iteration, st.just(index), names(k), vectors(k), vectors(k), vectors(k), numbers,
            numbers, numbers, notes,
        )
    )  # fmt: skip


def bits(value):
    """Return a value in which every number is its bytes, and every NaN the same."""
    if isinstance(value, dict):
        return {name: bits(item) for name, item in value.items()}
    if isinstance(value, tuple | list | np.ndarray):
        return type(value), [bits(item) for item in value]
    if isinstance(value, float):
        return NAN.hex() if math.isnan(value) else struct.pack("<d", value)
    return value


def assert_same(entry, other):
    assert type(entry) is type(other)
    assert bits(vars(entry)) == bits(vars(other))


# JSON


@given(st.one_of(choices, st.integers(0, 9).flatmap(iterations)))
def test_what_goes_to_json_comes_back_to_the_bit(entry):
    text = json.dumps(entry.to_json(), allow_nan=False)
    back = type(entry).from_json(json.loads(text))
    assert_same(back, entry)
    assert all(x.dtype == np.float64 for x in vars(back).values() if isinstance(x, np.ndarray))
    assert json.dumps(back.to_json()) == text


def test_numpys_own_numbers_go_to_json():
    entry = Iteration(
        int(np.int64(2)), ("a",), *np.float32([[1], [2], [NAN]]), np.float64(0.5), np.int64(3), 1
    )
    back = Iteration.from_json(json.loads(json.dumps(entry.to_json())))
    assert (back.index, back.tau, back.cost, back.seconds) == (2, 0.5, 3.0, 1.0)
    assert back.predicted.tolist() == [1.0]
    assert np.isnan(back.test_scores).all()


def test_infinity_is_written_as_what_it_is_not_a_number():
    entry = Choice(("a", "b"), np.array([math.inf, -math.inf]), notes={"x": math.inf})
    assert entry.to_json()["predicted"] == [None, None]
    assert entry.to_json()["notes"] == {"x": None}


CHOICE = Choice(("a", "b"), np.array([1.5, NAN]), 2.0, 3.0, {"fill": 0.5}, "f" * 16).to_json()
ITERATION = Iteration(
    1, ("a", "b"), np.array([1, 2.0]), np.array([NAN, 1]), np.zeros(2), 0.5, 4.0, 5.0, {"x": NAN}
).to_json()
anything = st.recursive(
    st.one_of(
        # A whole number that no float holds comes back rounded.
        st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.just(10**400), st.floats(),
        st.text(max_size=5),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)  # fmt: skip


def read(kind, entry):
    """Return what an entry says, which must be what stands there, or None if it is refused."""
    try:
        found = kind.from_json(entry)
    except UserError as error:
        sentence = str(error)
    else:
        written = found.to_json()
        assert comparable(written) == comparable({name: entry[name] for name in written})
        return found
    assert re.fullmatch(r"a record of a search is damaged \(.*\): delete its file to .*", sentence)
    return None


def comparable(value):
    """Return JSON in which a number that is not finite is None, as `to_json` writes it."""
    if isinstance(value, dict):
        return {name: comparable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [comparable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@given(entry=anything)
@example(entry=[])
@example(entry="cells")
@example(entry={})
def test_any_json_at_all_is_refused_in_one_sentence(entry):
    for kind in (Choice, Iteration):
        assert read(kind, entry) is None


@settings(max_examples=300)
@given(data=st.data(), kind=st.sampled_from([Choice, Iteration]), value=anything)
def test_an_entry_with_any_json_in_a_place_is_read_as_it_stands_or_refused(data, kind, value):
    entry = dict(CHOICE if kind is Choice else ITERATION)
    field = data.draw(st.sampled_from(sorted(entry)))
    own = entry[field]
    if isinstance(own, list) and data.draw(st.booleans()):
        entry[field] = [value, *own[1:]]
    elif isinstance(own, dict) and data.draw(st.booleans()):
        entry[field] = {**own, "x": value}
    else:
        entry[field] = value
    read(kind, entry)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cells": "ab"}, "'ab' is no list"),
        ({"cells": ["a", 2]}, "2 is no text"),
        ({"cells": ["a"]}, r"lists of lengths \[1, 2\]"),
        ({"predicted": [1.0, "2"]}, "'2' is no number"),
        ({"predicted": [1.0, True]}, "True is no number"),
        ({"scores": [1.0, 2.0, 3.0]}, r"lists of lengths \[2, 3\]"),
        ({"index": 1.5}, "1.5 is no whole number"),
        ({"index": None}, "None is no whole number"),
        ({"tau": "0.5"}, "'0.5' is no number"),
        ({"cost": 10**400}, "too large"),
        ({"notes": []}, r"\[\] is no object of notes"),
        ({"notes": {"x": "y"}}, "'y' is no number"),
    ],
)
def test_the_reason_is_named(change, reason):
    with pytest.raises(UserError, match=rf"is damaged \(.*{reason}.*\): delete its file"):
        Iteration.from_json({**ITERATION, **change})


@pytest.mark.parametrize("entry", [CHOICE, ITERATION])
def test_every_field_is_needed_and_others_are_left_alone(entry):
    kind = Choice if entry is CHOICE else Iteration
    assert_same(kind.from_json({**entry, "new": 1}), kind.from_json(entry))
    for name in entry:
        with pytest.raises(UserError, match=f"it has no '{name}'"):
            kind.from_json({key: value for key, value in entry.items() if key != name})


# CSV


records = st.lists(st.none(), min_size=1, max_size=3).flatmap(
    lambda places: st.tuples(*(iterations(index) for index in range(len(places)))).map(list)
)


@settings(max_examples=50)
@given(st.dictionaries(st.tuples(texts, st.integers(0, 3)), records, min_size=1, max_size=3))
def test_histories_come_back_to_the_bit(tmp_path_factory, histories):
    path = tmp_path_factory.mktemp("history") / "history.csv"
    write_history(path, histories, {"task": "abc", "settings": {"runs": 3}})
    found, comments = read_history(path)
    assert list(found) == list(histories)
    assert comments == {"task": "abc", "settings": '{"runs": 3}'}
    for run, record in histories.items():
        assert len(found[run]) == len(record)
        for entry, other in zip(found[run], record, strict=True):
            assert_same(entry, other)


def row(**changes):
    """Return a line of a history."""
    values = {
        "method": "ga", "run": "0", "iteration": "0", "cell": "a", "predicted": "", "score": "1.5",
        "test_score": "", "tau": "", "cost": "1.0", "seconds": "0.5", "notes": "",
    }  # fmt: skip
    return ",".join((values | changes)[name] for name in COLUMNS) + "\n"


def written(tmp_path, *rows):
    path = tmp_path / "history.csv"
    path.write_text("# task: x\n" + ",".join(COLUMNS) + "\n" + "".join(rows))
    return path


def test_a_line_is_read_as_it_stands(tmp_path):
    lines = row(), row(cell="b", score=""), row(iteration="1", cell="c", notes='"{""fill"": null}"')
    history, comments = read_history(written(tmp_path, *lines, row(run="1")))
    assert comments == {"task": "x"}
    assert list(history) == [("ga", 0), ("ga", 1)]
    first, second = history["ga", 0]
    assert (first.cells, second.cells) == (("a", "b"), ("c",))
    np.testing.assert_array_equal(first.scores, [1.5, NAN])
    assert (first.cost, first.seconds, first.notes) == (1.0, 0.5, {})
    assert math.isnan(second.notes["fill"])


@pytest.mark.parametrize(
    "changes",
    [
        {"run": "one"},
        {"run": ""},
        {"iteration": "2"},
        {"iteration": "-1", "run": "7"},
        {"iteration": "1", "run": "7"},
        {"iteration": "0.5"},
        {"score": "high"},
        {"test_score": "0x1"},
        {"predicted": "1;5"},
        {"tau": "?", "run": "7"},
        {"cost": "?", "run": "7"},
        {"seconds": "?", "run": "7"},
        {"notes": "{", "run": "7"},
        {"notes": "[1]", "run": "7"},
        {"notes": "5", "run": "7"},
        {"notes": '"{""a"": ""b""}"', "run": "7"},
        {"notes": '"{""a"": 1' + "0" * 400 + '}"', "run": "7"},
        {"notes": "[" * 100_000, "run": "7"},
    ],
)
def test_a_damaged_line_is_named(tmp_path, changes):
    with pytest.raises(UserError, match=r"history.csv, line 4, is damaged \(.*give a history"):
        read_history(written(tmp_path, row(), row(**changes)))


def test_what_holds_no_search_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no search"):
        read_history(written(tmp_path))
    with pytest.raises(UserError, match="is missing"):
        read_history(tmp_path / "other.csv")
    (tmp_path / "other.csv").write_text("cell,score\na,1\n")
    with pytest.raises(UserError, match="needs one column named 'method'"):
        read_history(tmp_path / "other.csv")


# The best cell


def bought(index, cells, scores, test_scores=None):
    scores = np.array(scores, float)
    test_scores = scores + 10 if test_scores is None else np.array(test_scores, float)
    nothing = np.full(len(scores), NAN)
    return Iteration(index, tuple(cells), nothing, scores, test_scores, NAN, 0.0, 0.0)


def test_the_best_cell_is_chosen_by_validation_and_the_first_of_equals():
    start = bought(0, "ab", [NAN, 2], [9, 5])
    assert best([start, bought(1, "cd", [2, 1], [8, 7])]) == ("b", 2.0, 5.0)
    assert best([start, bought(1, "cd", [2, 2.5], [8, 7])]) == ("d", 2.5, 7.0)
    assert best([start, bought(1, "cd", [-math.inf, math.inf])]) == ("b", 2.0, 5.0)


def test_where_everything_failed_there_is_no_best():
    failed = [bought(0, "ab", [NAN, -math.inf]), bought(1, "cd", [math.inf, NAN])]
    with pytest.raises(UserError, match="all 4 evaluations failed: read in the ledger why"):
        best(failed)
    with pytest.raises(UserError, match="all 0 evaluations failed"):
        best([])
    for leader in best_by_iteration(failed):
        assert leader[:2] == ("", -math.inf)
        assert math.isnan(leader.test_score)


@given(st.lists(st.lists(st.sampled_from([NAN, 1.0, 2.0, -1.0]), min_size=1), min_size=1))
def test_the_best_after_every_iteration_is_the_best_of_its_beginning(scores):
    record = [
        bought(index, [f"{index}.{place}" for place in range(len(own))], own)
        for index, own in enumerate(scores)
    ]
    leaders = best_by_iteration(record)
    assert len(leaders) == len(record)
    for end, leader in enumerate(leaders, 1):
        rows = [row for x in record[:end] for row in zip(x.cells, x.scores.tolist(), strict=True)]
        alive = [row for row in rows if math.isfinite(row[1])]
        if alive:
            cell, score = max(alive, key=lambda row: row[1])  # the first of equals
            assert leader == best(record[:end]) == (cell, score, score + 10)
        else:
            assert leader.cell == ""


# Fingerprints


def test_a_fingerprint_depends_on_cells_scores_and_their_order_to_the_bit():
    scores = np.array([0.1, NAN])
    mark = fingerprint(["a", "b"], scores)
    assert len(mark) == 16
    assert int(mark, 16) >= 0
    assert mark == fingerprint(("a", "b"), scores.copy()) == fingerprint(iter("ab"), scores)
    others = [
        fingerprint(["b", "a"], scores),
        fingerprint(["a", "b"], scores[::-1]),
        fingerprint(["ab", ""], scores),
        fingerprint(["a", "c"], scores),
        fingerprint(["a", "b"], [np.nextafter(0.1, 1), NAN]),
        fingerprint(["a"], scores[:1]),
    ]
    assert len({mark, *others}) == 7


def test_the_fingerprint_of_saved_choices_stays_what_it_was():
    assert fingerprint(["a", "b"], np.array([0.5, -1.0])) == "1c522eccf86383f8"

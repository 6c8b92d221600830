"""A search killed again and again ends as an uninterrupted one, and buys nothing twice.

`SPD_JAX_KILLS=20 pytest tests/test_rnn_cell_kill.py` kills all methods 20 times; by default
one method is killed 4 times. What a search does after a kill on the toy space, at every
moment that matters, is in test_searches.py.
"""

import csv
import os
import random
import time

import pytest
import rnn_cell_driver as driver

from spd_jax.ledger import Ledger

KILLS = int(os.environ.get("SPD_JAX_KILLS", "4"))
METHOD = "all" if KILLS >= 20 else "dish_ga"
LONGEST = 600  # seconds that a process may take, on a busy machine


def rows(path):
    """Return a history without what is a matter of time."""
    with path.open(newline="") as stream:
        found = list(csv.DictReader(line for line in stream if not line.startswith("#")))
    for row in found:
        del row["seconds"]
    return [row for row in found if METHOD in ("all", row["method"])]


def moments(log):
    """Return the distinct things that an uninterrupted search does too, whoever did them."""
    return {" ".join(words) for words in driver.events(log) if words[0] not in ("start", "load")}


def expected(log, history):
    """Return how many moments the search will have."""
    if METHOD == "all":
        return len(moments(log))
    cells = {row["cell"].replace(" ", "_") for row in history}
    last = {"history.csv", "summary.json", "figure3.png", "scatter.png", "best_cell.png"}
    last |= {"figure3_seconds.png"}
    names = cells | last | {"config.json", "versions.json"}
    return sum(
        words[1] in names or words[1].startswith(f"{METHOD}_0")
        for words in map(str.split, moments(log))
    )


def kill_at(process, log, target, starts, draw):
    """Kill a process a random moment after so many moments of the search are over.

    Where they were before it began, it is killed while it finds its way back.
    """
    deadline = time.monotonic() + LONGEST
    while [["start"]] * starts != [words for words in driver.events(log) if words == ["start"]]:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    late = len(moments(log)) >= target
    while len(moments(log)) < target:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(draw.uniform(0, 2.0 if late else 0.06))
    process.kill()


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Return the folder of a search that was killed and finished, its log and the kills' places."""
    whole, whole_log = driver.finished(tmp_path_factory)
    history = rows(whole / "history.csv")
    folder, log = whole.parent / "killed", whole.parent / "killed.log"
    flags = [*driver.SEARCH, f"--method={METHOD}", f"--workdir={folder}"]
    flags += [f"--data_dir={whole.parent / 'text'}"]
    draw = random.Random(KILLS)
    total = expected(whole_log, history)
    # One kill in each of as many equal parts of the run: all of it is met.
    targets = [int(total * (i + draw.random()) / KILLS) for i in range(KILLS - 1)]
    targets.append(total - draw.randint(1, 4))  # among the files that are written last
    places = []
    for starts, target in enumerate(targets, 1):
        with driver.begin("rnn_cell_search") as process:
            driver.send(process, log, flags)
            kill_at(process, log, target, starts, draw)
        assert process.returncode == -9
        places.append(driver.events(log)[-1])
    with driver.begin("rnn_cell_search") as process:
        driver.send(process, log, flags)
        answer, _ = process.communicate()
    assert answer.startswith("[0,"), answer
    print(f"killed after: {', '.join(' '.join(place) for place in places)}")
    return folder, log, places, whole


def test_the_history_is_that_of_an_uninterrupted_search(chain):
    folder, _, _, whole = chain
    assert rows(folder / "history.csv") == rows(whole / "history.csv")
    names = {path.name for path in driver.contents(folder)}
    assert not {name for name in names if ".partial" in name or "unfinished" in name}


def test_no_evaluation_is_lost_or_bought_twice(chain):
    folder, log, _, whole = chain
    events = [words for words in driver.events(log) if words[0] in ("start", "begin", "put")]
    paid = set()
    for words, following in zip(events, [*events[1:], ["start"]], strict=True):
        if words[0] == "begin":
            assert tuple(words[1:]) not in paid
            # What was begun was written next, or a kill came between.
            assert following in (["put", *words[1:]], ["start"])
        elif words[0] == "put":
            paid.add(tuple(words[1:]))
    with Ledger(folder / "ledger.sqlite", read_only=True) as ledger:
        keys = [key for key, _ in ledger.items()]
        scores = {key: evaluation.score for key, evaluation in ledger.items()}
    assert len(keys) == len(set(keys))
    begun = {tuple(words[1:]) for words in events if words[0] == "begin"}
    assert {(key.cell.replace(" ", "_"), str(key.seed), str(key.budget)) for key in keys} == begun
    with Ledger(whole / "ledger.sqlite", read_only=True) as ledger:
        assert all(ledger.get(key).score == score for key, score in scores.items())
        if METHOD == "all":
            assert len(ledger) == len(keys)


def test_no_more_than_one_outer_step_is_lost_by_a_kill(chain):
    _, log, places, _ = chain
    steps = [tuple(words[1:]) for words in driver.events(log) if words[0] == "save"]
    assert len(steps) - len(set(steps)) <= len(places)
    assert len(places) == KILLS

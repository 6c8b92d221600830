"""studies.searches and search_comparison, on the toy space: records, replays, resumed searches."""

import dataclasses
import json
import math
import shutil
import time

import jax
import numpy as np
import pytest
from scipy import stats
from toy_searches import METHODS, SEARCH, contents, finished, watched
from toy_widths import TOY

from spd_jax import files
from spd_jax.errors import UserError
from spd_jax.ledger import Ledger
from spd_jax.report import search as search_report
from spd_jax.search import loop
from spd_jax.search.genetic import Genetic
from spd_jax.search.random_search import RandomSearch
from spd_jax.search.record import best, read_history, write_history
from spd_jax.studies import events, run_folder, saved_fits, search_comparison, searches
from spd_jax.studies.searches import SearchSettings
from spd_jax.surrogates.bananas import Bananas

GA = dataclasses.replace(SEARCH, method="ga")
DISH_GA = dataclasses.replace(SEARCH, method="dish_ga")


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """Return an uninterrupted comparison; no test may change its folder."""
    return finished(tmp_path_factory)[0]


@pytest.fixture
def copy(comparison, tmp_path):
    """Return a copy of its folder."""
    return shutil.copytree(comparison.path, tmp_path / "copy")


def assert_same(records, expected):
    """Refuse other records; how long they took is a matter of time."""
    assert list(records) == list(expected)
    for place, record in records.items():
        assert len(record) == len(expected[place])
        for own, other in zip(record, expected[place], strict=True):
            for field in dataclasses.fields(own):
                if field.name != "seconds":
                    np.testing.assert_equal(getattr(own, field.name), getattr(other, field.name))


def of(records, method):
    return {place: record for place, record in records.items() if place[0] == method}


def test_rivals_of_image_cells_search_other_spaces_only_when_they_are_asked_for():
    names = [own.name for own in searches.methods_of(TOY, SEARCH)]
    assert not {"bananas", "local"} & set(names)
    for name in ("bananas", "local"):
        asked = dataclasses.replace(SEARCH, method=name)
        assert [own.name for own in searches.methods_of(TOY, asked)] == [name]
    asked = dataclasses.replace(SEARCH, method="random, ga,ga")
    assert [own.name for own in searches.methods_of(TOY, asked)] == ["ga", "random"]
    with pytest.raises(UserError, match="method=nao cannot search toy_widths"):
        searches.methods_of(TOY, dataclasses.replace(SEARCH, method="nao"))


def test_bananas_sees_the_vectors_of_a_problem_without_paths(tmp_path, monkeypatch):
    seen = []

    class Small(Bananas):
        def __init__(self, paths):
            seen.append(paths)
            super().__init__(paths, members=2, layers=1, width=4, epochs=2)

    monkeypatch.setattr(searches, "Bananas", Small)
    asked = dataclasses.replace(SEARCH, method="bananas")
    record = search_comparison.run(watched()[0], asked, tmp_path).records["bananas", 0]
    assert [own.cost for own in record] == [6, 9, 12]
    archs = TOY.space.sample(jax.random.key(0), 3)
    np.testing.assert_array_equal(seen[0](archs), TOY.strongest_vectors(archs))


# What is found


def test_methods_share_the_warm_start_and_buy_new_cells_only(comparison):
    first = loop.warm_start(jax.random.key(0), TOY.space, 6).names
    assert [method for method, _ in comparison.records] == METHODS
    for (method, _), record in comparison.records.items():
        assert record[0].cells == first
        assert [own.cost for own in record] == [6, 9, 12]
        # Partial training pays a quarter for each of 9 proposals, and the rest of one of them.
        each = 1 if method == "partial" else 3
        assert [len(own.cells) for own in record] == [6, each, each]
        cells = [cell for own in record for cell in own.cells]
        assert len(set(cells)) == len(cells)


def test_a_figure_is_the_test_score_of_the_cell_best_on_validation(comparison):
    everything = []
    for (method, _), record in comparison.records.items():
        known = [
            row
            for own in record
            if own.cost <= 12  # all may spend 6 + 2 x 3
            for row in zip(own.scores, own.test_scores, own.cells, strict=True)
        ]
        everything += known
        row = comparison.summary["methods"][method]
        assert row["at_equal_ground_truths"]["test"]["mean"] == max(known)[1]
        assert row["at_equal_ground_truths"]["valid"]["mean"] == max(known)[0]
        assert row["at_equal_ground_truths"]["test"]["std"] is None  # one run
        assert row["by_ground_truths"]["6"]["valid"] == max(record[0].scores)
        assert row["spent"] == record[-1].cost
    best = comparison.summary["best_cell"]
    assert (best["valid"], best["test"], best["cell"]) == max(everything)


def test_tau_is_that_of_the_predictions(comparison):
    for (method, _), record in comparison.records.items():
        taus = comparison.summary["methods"][method]["tau_by_iteration"]
        ranked = method.startswith("dish_")  # partial training buys one cell: no order
        assert bool(taus) == ranked
        for own in record[1:] if ranked else []:
            assert own.predicted.tolist() == sorted(own.predicted, reverse=True)
            tau = stats.kendalltau(own.predicted, own.scores).statistic
            if math.isfinite(tau):  # three equal scores have none
                assert taus[str(own.index)]["values"] == [pytest.approx(tau)]


def test_partial_training_buys_what_it_ranks_for_a_few_units(tmp_path):
    problem, task = watched()
    settings = dataclasses.replace(SEARCH, method="partial")
    record = search_comparison.run(problem, settings, tmp_path).records["partial", 0]
    by_budget = {units: [s for s in task.sold if s[2] == units] for units in (1, 4)}
    assert len(by_budget[1]) == 2 * 9
    assert len(by_budget[4]) == 6 + 2 * 1
    assert {cell for cell, *_ in by_budget[1]} >= {*record[1].cells, *record[2].cells}


@pytest.mark.parametrize(("evaluations", "proposals"), [(20, 100), (3, 10), (1, 10), (7, 7)])
def test_partial_training_spends_what_the_others_do(evaluations, proposals):
    settings = dataclasses.replace(SEARCH, evaluations=evaluations, proposals=proposals)
    config = searches.sizes(TOY, settings, searches.METHODS["partial"])
    spent = config.proposals / 4 + config.evaluations * 3 / 4
    assert evaluations - 1 / 4 < spent <= evaluations
    assert 1 <= config.evaluations <= config.proposals
    if (evaluations, proposals) == (20, 100):
        assert (config.evaluations, config.proposals) == (10, 50)


def test_a_recorded_partial_training_is_cut_by_what_it_spent(comparison, tmp_path):
    """Its iterations may have had other sizes when it was recorded."""
    records, comments = read_history(comparison.path / "history.csv")
    start, first, second = records["partial", 0]
    history = tmp_path / "history.csv"
    partial = dataclasses.replace(SEARCH, method="partial")

    def replayed(costs, iterations):
        record = [dataclasses.replace(own, cost=cost) for own, cost in
                  zip((start, first, second), costs, strict=False)]  # fmt: skip
        write_history(history, {("partial", 0): record}, comments | {
            "settings": json.loads(comments["settings"])})  # fmt: skip
        settings = dataclasses.replace(partial, iterations=iterations)
        folder = tmp_path / f"{costs}{iterations}"
        found = search_comparison.replay(TOY, settings, folder, history=history)
        return [own.cost for own in found.records["partial", 0]]

    assert replayed([6, 11.5], 2) == [6, 11.5]  # what is left pays for no other such iteration
    assert replayed([6, 11.5], 1) == [6]
    assert replayed([6, 9, 12], 2) == [6, 9, 12]
    for missing in ([6, 9], [6]):
        with pytest.raises(UserError, match="outside the recorded runs"):
            replayed(missing, 2)


def test_the_history_and_the_folder_hold_what_was_found(comparison):
    read, comments = read_history(comparison.path / "history.csv")
    assert repr(read) == repr(comparison.records)
    assert comments["task"] == "toy-formula-1"
    saved = json.loads((comparison.path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert saved == comparison.summary
    for (method, number), record in comparison.records.items():
        kept = json.loads((comparison.path / f"searches/{method}_{number}.json").read_text())
        assert kept["iterations"] == json.loads(json.dumps([own.to_json() for own in record]))
        assert list(kept["choices"]) == [str(own.index) for own in record[1:]]
    assert not [path for path in contents(comparison.path) if "unfinished" in path.name]


def test_dish_methods_rank_by_untrained_dishes_and_a_process_when_asked(comparison, tmp_path):
    settings = dataclasses.replace(DISH_GA, rank_with="untrained", iterations=1)
    start, first = search_comparison.run(TOY, settings, tmp_path).records["dish_ga", 0]
    assert start.cells == comparison.records["dish_ga", 0][0].cells
    assert np.all(np.abs(first.predicted - start.scores.mean()) < 2 * np.ptp(start.scores))
    assert first.predicted.tolist() != comparison.records["dish_ga", 0][1].predicted.tolist()


def test_dish_methods_rank_by_the_mean_with_a_process_when_asked(comparison, tmp_path):
    settings = dataclasses.replace(DISH_GA, rank_with="averaged", iterations=1)
    found = search_comparison.run(TOY, settings, tmp_path / "averaged")
    start, first = found.records["dish_ga", 0]
    assert start.cells == comparison.records["dish_ga", 0][0].cells
    # In the unit of the scores.
    spread = np.ptp(start.scores)
    assert np.all(np.abs(first.predicted - start.scores.mean()) < 2 * spread)
    assert first.predicted.tolist() != comparison.records["dish_ga", 0][1].predicted.tolist()
    with pytest.raises(UserError, match=r"had other settings \(rank_with\)"):
        search_comparison.replay(
            TOY, dataclasses.replace(DISH_GA, iterations=1), tmp_path / "replay",
            history=found.path / "history.csv",
        )  # fmt: skip


def test_what_is_told_of_a_search(tmp_path):
    told = []
    search_comparison.run(TOY, DISH_GA, tmp_path, listen=told.append)
    assert told[0] == events.SearchStage("dish + GA, run 1 of 1", 12, "score", None)
    steps = [event for event in told if isinstance(event, events.SearchAdvanced)]
    assert [(event.iteration, event.ground_truths) for event in steps if event.finished] == [
        (0, 6),
        (1, 9),
        (2, 12),
    ]
    bests = [event.best for event in steps]
    assert math.isnan(bests[0])
    assert bests[1:] == sorted(bests[1:])
    assert [event.ground_truths for event in steps] == sorted(e.ground_truths for e in steps)
    fits = [i for i, event in enumerate(told) if isinstance(event, events.Stage)]
    for i in fits:
        assert told[i] == events.Stage("dish: outer steps", 2, 0)
        assert [event.done for event in told[i + 1 : i + 3]] == [1, 2]
    assert len(fits) == 2


# Fresh seeds and seconds


def test_the_best_cells_are_trained_anew_and_bought_once(comparison, tmp_path):
    folder = shutil.copytree(comparison.path, tmp_path / "fresh")
    problem, task = watched()
    settings = dataclasses.replace(SEARCH, fresh_seeds=2)
    found = search_comparison.run(problem, settings, folder)
    bests = {place: best(record).cell for place, record in found.records.items()}
    assert sorted(task.sold) == sorted(
        (cell, seed, 4) for cell in set(bests.values()) for seed in (1, 2)
    )
    assert_same(found.records, comparison.records)
    _, rows = files.read_csv(folder / "fresh_seeds.csv", ("method", "seed", "test_score"))
    assert len(rows) == 2 * len(METHODS)
    for (method, _), cell in bests.items():
        anew = [task.evaluate(cell, seed, 4).test_score for seed in (1, 2)]
        fresh = found.summary["methods"][method]["fresh"]["formula"]
        assert fresh["values"] == [pytest.approx(np.mean(anew))]
        assert found.summary["methods"][method]["spent"] == 12  # they are no part of the search
    text = search_report.results(found.summary)
    assert text.count("best cells with fresh seeds: formula") == len(METHODS)
    sold = len(task.sold)
    search_comparison.run(problem, settings, folder)
    assert len(task.sold) == sold


def test_a_replay_trains_only_the_best_cells_anew(comparison, tmp_path):
    settings = dataclasses.replace(SEARCH, fresh_seeds=1)
    history = comparison.path / "history.csv"
    with pytest.raises(UserError, match=r"fresh_seeds=1 trains the best cells .* give their data"):
        search_comparison.replay(TOY, settings, tmp_path / "none", history=history)
    assert not (tmp_path / "none").exists()
    problem, task = watched()
    found = search_comparison.replay(
        problem, settings, tmp_path / "fresh", history=history, data_dir=None
    )
    assert_same(found.records, comparison.records)
    bests = {best(record).cell for record in found.records.values()}
    assert sorted(task.sold) == sorted((cell, 1, 4) for cell in bests)
    assert "fresh" in found.summary["methods"]["dish_ga"]
    odd = dataclasses.replace(SEARCH, fresh_presets=("tiny",))
    with pytest.raises(UserError, match="toy_widths has no ground truth 'tiny'"):
        search_comparison.run(TOY, odd, tmp_path / "odd")


def test_a_replay_trains_on_no_other_data(comparison, tmp_path):
    text = (comparison.path / "history.csv").read_text("utf-8")
    other = tmp_path / "history.csv"
    other.write_text(text.replace("# task: ", "# task: another "))
    settings = dataclasses.replace(SEARCH, fresh_seeds=1)
    with pytest.raises(UserError, match=r"were made with another .*give the data"):
        search_comparison.replay(TOY, settings, tmp_path / "run", history=other, data_dir=None)


def test_seconds_count_evaluations_and_fits(comparison):
    with Ledger(comparison.path / "ledger.sqlite", read_only=True) as ledger:
        full = [own.seconds for key, own in ledger.items() if key.budget == 4]
    each = comparison.summary["seconds_per_evaluation"]
    assert each == pytest.approx(np.median(full))
    record = comparison.records["dish_ga", 0]
    expected = 12 * each + sum(own.seconds for own in record)
    assert comparison.summary["methods"]["dish_ga"]["seconds"] == pytest.approx(expected)
    shown = search_report.in_seconds(comparison.records, each)["dish_ga", 0]
    assert shown[-1].cost == pytest.approx(expected)
    assert shown[0].cost == pytest.approx(6 * each + record[0].seconds)


# Replay


def test_a_replay_gives_the_recorded_figures_and_trains_nothing(comparison, tmp_path):
    problem, task = watched(interrupt_at=0)
    history = comparison.path / "history.csv"
    again = search_comparison.replay(problem, SEARCH, tmp_path / "replay", history=history)
    assert again.summary == comparison.summary
    assert repr(again.records) == repr(comparison.records)
    assert (again.path / "history.csv").read_bytes() == history.read_bytes()
    # Fewer iterations are the beginning of the recorded ones, in a folder of their own.
    fewer = dataclasses.replace(GA, iterations=1)
    part = search_comparison.replay(problem, fewer, tmp_path / "part", history=history)
    assert repr(part.records["ga", 0]) == repr(comparison.records["ga", 0][:2])
    assert task.sold == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": 2}, "run 2 with 2 iterations is outside the recorded runs"),
        ({"iterations": 3}, "run 1 with 3 iterations is outside the recorded runs"),
        ({"crossover_rate": 0.2}, r"had other settings \(crossover_rate\)"),
        (
            {"dish": dataclasses.replace(SEARCH.dish, outer_steps=3)},
            r"had other settings \(outer_steps\)",
        ),
    ],
)
def test_what_was_not_recorded_is_refused(changes, words, comparison, tmp_path):
    settings = dataclasses.replace(SEARCH, **changes)
    with pytest.raises(UserError, match=f"{words}.*search anew"):
        search_comparison.replay(
            TOY, settings, tmp_path / "replay", history=comparison.path / "history.csv"
        )
    assert not (tmp_path / "replay").exists()


HISTORIES = {  # a file that is no history, and what the sentence says
    "missing": (None, "is missing"),
    "picture": (b"\x89PNG\r\n\x1a\n\xff\xfe", "cannot be read"),
    "empty": (b"", "needs one column named 'method'"),
    "other table": (b"slope,accuracy\n0.1,0.9\n", "needs one column named 'method'"),
    "remark": (b"# a remark\nslope\n0.1\n", "needs one column named 'method'"),
    "no settings": ("settings", "does not say with which settings"),
    "no number": ("number", "line {first}, is damaged"),
    "no cell": ("cell", "is damaged, or of another space: '9-9' is no cell of toy_widths"),
    "hole": ("hole", "line {hole}, is damaged"),
    "cut": ("cut", "line {last}: 3 values for 11 columns"),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_a_file_that_is_no_history_is_refused(name, comparison, tmp_path):
    content, words = HISTORIES[name]
    lines = (comparison.path / "history.csv").read_text().splitlines(keepends=True)
    head = next(i for i, line in enumerate(lines) if line.startswith("method,"))
    if content == "settings":
        lines = [line for line in lines if not line.startswith("# settings")]
    elif content == "number":
        lines[head + 1] = lines[head + 1].replace("dish_ga,0,0,", "dish_ga,zero,0,")
    elif content == "cell":
        own = lines[head + 1].split(",")
        lines[head + 1] = ",".join([*own[:3], "9-9", *own[4:]])
    elif content == "hole":  # the warm start's rows, and then those of iteration 2
        del lines[head + 7 : head + 10]
    elif content == "cut":
        lines = [*lines[:-1], ",".join(lines[-1].split(",")[:3])]
    path = tmp_path / "history.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else "".join(lines).encode())
    words = words.format(first=head + 2, hole=head + 8, last=len(lines))
    with pytest.raises(UserError) as caught:
        search_comparison.replay(TOY, SEARCH, tmp_path / "replay", history=path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "replay").exists()


def test_a_problem_without_recorded_searches_says_so(tmp_path):
    with pytest.raises(UserError, match="no searches of toy_widths with preset formula"):
        search_comparison.replay(TOY, SEARCH, tmp_path)


# Resumed and extended


def no_fits(monkeypatch):
    def fit(*args, **kwargs):
        pytest.fail("a surrogate was fitted")

    monkeypatch.setattr(saved_fits, "fit", fit)


def test_the_same_call_again_only_reads(copy, comparison, monkeypatch):
    no_fits(monkeypatch)
    problem, task = watched(interrupt_at=0)
    before = contents(copy)
    again = search_comparison.run(problem, SEARCH, copy)
    assert repr(again.records) == repr(comparison.records)
    assert contents(copy) == before
    assert task.sold == []


def test_more_runs_and_more_iterations_extend(copy, comparison):
    problem, task = watched()
    two = search_comparison.run(problem, dataclasses.replace(GA, seeds=2), copy)
    old, new = comparison.records["ga", 0], two.records["ga", 0]
    assert repr(new) == repr(old)
    other = [cell for own in two.records["ga", 1] for cell in own.cells]
    assert two.records["ga", 1][0].cells != old[0].cells
    before = {
        cell for record in comparison.records.values() for own in record for cell in own.cells
    }
    assert {cell for cell, *_ in task.sold} == set(other) - before
    more = search_comparison.run(problem, dataclasses.replace(GA, seeds=2, iterations=3), copy)
    assert repr(more.records["ga", 0][:3]) == repr(old)
    assert [len(record) for record in more.records.values()] == [4, 4]
    assert len(set(task.sold)) == len(task.sold)  # nothing was bought twice


@pytest.mark.parametrize("lost", ["searches/dish_ga_0.json", "states"])
def test_what_is_lost_is_made_anew_to_the_same_numbers(lost, copy, comparison, monkeypatch):
    """The record from the ledger and the saved fits, the fits from the record."""
    if lost == "states":
        shutil.rmtree(copy / lost)
    else:
        (copy / lost).unlink()
        monkeypatch.setattr(
            files, "save_pytree", lambda *args, **kwargs: pytest.fail("a fit was begun")
        )
    problem, task = watched()
    again = search_comparison.run(problem, DISH_GA, copy)
    assert_same(again.records, of(comparison.records, "dish_ga"))
    assert task.sold == []


@pytest.mark.parametrize("content", [b"{ no such thing", b"[1, 2]", b"", b"\xff\xfe", b'{"a": 1}'])
def test_a_damaged_search_is_made_anew_with_a_warning(content, copy, comparison, caplog):
    path = copy / "searches" / "ga_0.json"
    path.write_bytes(content)
    problem, task = watched()
    again = search_comparison.run(problem, GA, copy)
    assert_same(again.records, of(comparison.records, "ga"))
    assert task.sold == []
    (record,) = caplog.records
    assert str(path) in record.getMessage()
    assert json.loads(path.read_text())["iterations"]


@pytest.mark.parametrize("change", ["an iteration is missing", "a choice is damaged"])
def test_a_search_that_was_tampered_with_is_made_anew(change, copy, comparison, caplog):
    path = copy / "searches" / "ga_0.json"
    content = json.loads(path.read_text())
    if change == "an iteration is missing":
        del content["iterations"][1]
    else:
        content["choices"]["1"]["cells"] = "none"
    path.write_text(json.dumps(content))
    again = search_comparison.run(TOY, GA, copy)
    assert_same(again.records, of(comparison.records, "ga"))
    assert str(path) in caplog.text


def test_a_damaged_fit_is_made_anew_with_a_warning(copy, comparison, caplog):
    (copy / "searches" / "dish_ga_0.json").unlink()
    (state,) = (copy / "states").glob("dish_ga_0_1_*.npz")
    state.write_bytes(b"no such thing")
    again = search_comparison.run(TOY, DISH_GA, copy)
    assert_same(again.records, of(comparison.records, "dish_ga"))
    assert str(state) in caplog.text


@pytest.mark.parametrize("name", ["ledger.sqlite", "config.json"])
def test_a_damaged_file_that_cannot_be_made_anew_is_named_and_kept(name, copy):
    (copy / name).write_bytes(b"{ no such thing" * 300)
    before = contents(copy)
    with pytest.raises(UserError, match=name):
        search_comparison.run(TOY, SEARCH, copy)
    after = contents(copy)
    changed = {path.name for path in after if after[path] != before.get(path)}
    assert changed <= {"ledger.sqlite.lock"}


# Interrupted at any moment


@pytest.mark.parametrize("number", [0, 4, 6, 8, 9, 11])
def test_an_interrupted_search_goes_on_as_if_it_had_not_been(number, comparison, tmp_path):
    problem, first = watched(interrupt_at=number)
    with pytest.raises(KeyboardInterrupt):
        search_comparison.run(problem, DISH_GA, tmp_path)
    problem, second = watched()
    again = search_comparison.run(problem, DISH_GA, tmp_path)
    assert_same(again.records, of(comparison.records, "dish_ga"))
    assert not set(first.sold) & set(second.sold)
    assert len(first.sold) == number
    assert len(second.sold) == 12 - number


def test_a_choice_is_saved_before_anything_is_bought(tmp_path, comparison, monkeypatch):
    """So that the search goes on with the same cells where other arithmetic proposes others."""
    problem, first = watched(interrupt_at=6)
    with pytest.raises(KeyboardInterrupt):
        search_comparison.run(problem, DISH_GA, tmp_path)
    assert len(first.sold) == 6  # the warm start alone
    no_fits(monkeypatch)
    monkeypatch.setattr(searches.Searches, "proposer", lambda *own: RandomSearch())
    problem, second = watched(interrupt_at=3)  # the next iteration must choose anew
    with pytest.raises(pytest.fail.Exception, match="a surrogate was fitted"):
        search_comparison.run(problem, DISH_GA, tmp_path)
    expected = comparison.records["dish_ga", 0][1].cells
    assert tuple(cell for cell, *_ in second.sold) == expected


def test_proposals_are_saved_before_the_surrogate_is_fitted(tmp_path, comparison, monkeypatch):
    """A search that is killed in a fit chooses among the same cells, whoever would propose now."""
    once = dataclasses.replace(DISH_GA, iterations=1)
    propose = Genetic.propose

    def slow(*args):
        time.sleep(0.2)
        return propose(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Genetic, "propose", slow)
        patch.setattr(saved_fits, "fit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search_comparison.run(watched()[0], once, tmp_path)
    monkeypatch.setattr(searches.Searches, "proposer", lambda *own: RandomSearch())
    record = search_comparison.run(watched()[0], once, tmp_path).records["dish_ga", 0]
    assert_same({0: record}, {0: comparison.records["dish_ga", 0][:2]})
    assert record[1].seconds > 0.2  # of the first run


def interrupted(*args, **kwargs):
    """Stand for a fit in which the search is killed."""
    raise KeyboardInterrupt


def test_failures_that_are_forgotten_are_bought_anew_by_a_search_that_has_not_ended(
    comparison, tmp_path
):
    whole = comparison.records["ga", 0]
    problem, _ = watched(failing=frozenset([whole[0].cells[1]]))
    ended = search_comparison.run(
        problem, dataclasses.replace(GA, iterations=0), tmp_path / "ended"
    )
    assert np.isnan(ended.records["ga", 0][0].scores).tolist() == [False, True] + [False] * 4
    assert ended.summary["failed"] == 1
    with Ledger(tmp_path / "ended" / "ledger.sqlite") as ledger:
        ledger.forget_failed([key for key, own in ledger.items() if own.status == "failed"])
    # A search that has ended stays as it was; one that goes on is that of the new scores.
    problem, second = watched()
    again = search_comparison.run(
        problem, dataclasses.replace(GA, iterations=0), tmp_path / "ended"
    )
    assert repr(again.records) == repr(ended.records)
    assert second.sold == []
    longer = search_comparison.run(problem, GA, tmp_path / "ended")
    assert_same(longer.records, of(comparison.records, "ga"))
    assert second.sold[0] == (whole[0].cells[1], 0, 4)
    kept = json.loads((tmp_path / "ended" / "searches" / "ga_0.json").read_text())["iterations"]
    assert kept == json.loads(json.dumps([own.to_json() for own in longer.records["ga", 0]]))


def test_where_every_training_fails_the_search_says_so(tmp_path):
    problem, _ = watched(failing=None)
    with pytest.raises(UserError, match=r"all 6 cells of the warm start failed.*it exploded"):
        search_comparison.run(problem, GA, tmp_path)
    assert not (tmp_path / "history.csv").exists()


# Mistakes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"proposals": 11}, "proposals=10, not 11"),
        ({"iterations": 1}, "iterations=2, not 1"),
        ({"rank_with": "averaged"}, 'rank_with="dish", not "averaged"'),
        ({"dish": dataclasses.replace(SEARCH.dish, outer_steps=3)}, "outer_steps=2, not 3"),
    ],
)
def test_other_settings_are_refused_by_name_and_change_nothing(changes, words, copy):
    before = contents(copy)
    with pytest.raises(UserError, match=words):
        search_comparison.run(TOY, dataclasses.replace(SEARCH, **changes), copy)
    assert contents(copy) == before


def test_another_task_and_a_replay_are_refused_in_the_folder_of_a_search(copy, comparison):
    before = contents(copy)
    problem, _ = watched(fingerprint="toy-formula-2")
    with pytest.raises(UserError, match='task="toy-formula-1", not "toy-formula-2"'):
        search_comparison.run(problem, SEARCH, copy)
    with pytest.raises(UserError, match='mode="search", not "replay"'):
        search_comparison.replay(TOY, SEARCH, copy, history=comparison.path / "history.csv")
    assert contents(copy) == before


def test_a_second_process_is_refused_and_changes_nothing(copy):
    config = json.loads((copy / "config.json").read_text())
    del config["layout"]
    with run_folder.open_folder(copy, config):
        before = contents(copy)
        with pytest.raises(UserError, match="another process works in"):
            search_comparison.run(TOY, dataclasses.replace(SEARCH, iterations=3), copy)
        assert contents(copy) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"evaluations": 11}, "evaluations=11 must not exceed proposals=10"),
        ({"partial_epochs": 4}, "partial_epochs=4 must be below the 4 of a training"),
        ({"nao_epochs": 0}, "nao_epochs=0 must be at least 1"),
        ({"warm_start": 3}, "warm_start=3 must be at least 4"),
        ({"method": "nao"}, "method=nao cannot search toy_widths: give all, or some of dish_ga, "),
        ({"method": "ga,foo"}, "method=foo cannot search toy_widths: give all, or some of dish_ga"),
        ({"method": "ga,all"}, "method=all cannot search toy_widths"),
        ({"method": ""}, "method= cannot search toy_widths"),
        ({"preset": "tiny"}, "toy_widths has no ground truth 'tiny': use one of formula"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_begun(changes, words, tmp_path):
    """Also where only the last method minds."""
    with pytest.raises(UserError, match=words):
        search_comparison.run(TOY, dataclasses.replace(SEARCH, **changes), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_sizes_are_the_papers_by_default():
    assert SearchSettings().warm_start + 3 * SearchSettings().evaluations == 100

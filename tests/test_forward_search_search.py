"""The search as a function of results: growing, budgets, failures, and resuming after any kill."""

import csv
import dataclasses
import functools
import hashlib
import io
import json

import numpy as np
import pytest
from rich import console

from spd_jax.errors import UserError
from spd_jax.forward_search import arch as arch_lib
from spd_jax.forward_search import buying, jobs, search, selection, training
from spd_jax.forward_search.buying import Buyer
from spd_jax.forward_search.jobs import Job, Training
from spd_jax.forward_search.search import Rules
from spd_jax.ledger import Evaluation, Ledger
from spd_jax.report.views import StageView
from spd_jax.studies import (
    events,
    forward_controls,
    forward_runner,
    forward_search,
    forward_settings,
)
from spd_jax.studies.forward_controls import SEARCHES, changes_of
from spd_jax.studies.forward_settings import PRESETS, ForwardSettings, problem_of

SMALL = ForwardSettings(
    filters=2, train_images=64, valid_images=50, test_images=50, growths=3, num_seeds=2
)

# Networks that are recorded in a moment.
TINY = dataclasses.replace(SMALL, transitions=0, ops=("max3", "identity"))


def number_of(*words):
    """Return a number in [0, 1) that words decide."""
    digest = hashlib.sha256(json.dumps(words).encode()).hexdigest()
    return int(digest[:8], 16) / 16**8


def fake_run(own, job, fails=(), scale=1.0):
    """Stand for a training: write a file, and return what only the job and seed decide."""
    name, slots = f"{own.seed} {job.name}", job.slots
    if job.number in fails:
        raise LookupError("unlucky")
    for kind in [job.source] * (job.source is not None):
        jobs.load(own.path(kind))  # what is inherited must be there
    jobs.save(own.path(job.name), job.arch, {"w": np.zeros(1)}, {})
    need = training.recorded(own.problem.model, job.arch)
    error = scale * (0.1 + 0.1 * number_of(name, "error"))
    info = {
        "error": error, "cross_entropy": number_of(name, "nats"), "train_loss": 0.1,
        "test_error": number_of(name, "test"), "multiply_adds": need.multiply_adds,
        "parameters": need.parameters, "images": 64.0 * job.epochs, "kind": job.kind,
        "train_multiply_adds": 64 * job.epochs * need.multiply_adds,
    }  # fmt: skip
    if slots:
        counts = {slot: len(job.arch.candidates(slot)) for slot in slots}
        info["alphas"] = {
            slot: [number_of(name, slot, i) - 0.5 for i in range(count)]
            for slot, count in counts.items()
        }
        signals = {s: np.ones((3, len(own))) for s, own in info["alphas"].items()}
        info["scores"] = selection.scores_of(info["alphas"], signals, 10)
        info["scores"] |= {job.kind: info["alphas"]}
    return Evaluation("ok", 1 - error, 0.5, seconds=1.0, unit="accuracy", info=info)


@pytest.fixture
def fakes(monkeypatch):
    """Trainings that take no time; returns the names of those that ran."""
    ran = []

    def logged(own, job):
        ran.append((own.seed, job.name))
        return fake_run(own, job)

    monkeypatch.setattr(jobs, "run", logged)
    return ran


def run(folder, settings=SMALL, beside=("longer", "random"), **options):
    """Run the study on fake trainings; return its summary without times, and its table."""
    summary = forward_search.run(settings, folder, beside=beside, **options)
    for own in summary["methods"].values():
        del own["seconds"]
    return summary, (folder / "models.csv").read_text()


def test_a_search_grows_and_every_control_costs_the_same(tmp_path, fakes):
    summary, _ = run(tmp_path, beside=tuple(forward_controls.CONTROLS))
    costs = {name: own["compute"]["values"] for name, own in summary["methods"].items()}
    for name, values in costs.items():
        if name != "grown":
            assert np.allclose(values, costs["grown"], rtol=0.6), (name, values, costs["grown"])
    for own in summary["searches"]:
        growths = [model["growth"] for model in own["models"]]
        assert growths == [0, 1, 2, 3]
        assert sum(model["uses"] for model in own["models"]) == 3
        assert len(own["weak"]) == 3
    assert set(summary["paired"]) == set(forward_controls.CONTROLS)
    loaded, _, _ = jobs.load(tmp_path / "best.npz")
    assert loaded == arch_lib.from_json(json.loads((tmp_path / "best_arch.json").read_text()))
    assert str(loaded) == summary["best"]["arch"]


def test_controls_begin_with_the_searches_own_seed_and_weak_training(tmp_path, fakes):
    run(tmp_path, dataclasses.replace(SMALL, growths=1), ("random", "by_certain", "sum"))
    kinds = [key.space.partition("/")[2] for key, _ in ledger_items(tmp_path)]
    assert kinds.count("seed") == 2  # one for each seed, shared by four searches
    assert kinds.count("weak") == 2 * 2  # shared by those that only choose otherwise
    assert kinds.count("child") == 2 * 4
    folders = {path.parent.name for path in (tmp_path / "states").rglob("seed_*.npz")}
    assert len(folders) == 2
    parents = {key.parent for key, _ in ledger_items(tmp_path)}
    assert {name.partition("_")[0] for name in parents} == {"", "seed", "weak"}


def ledger_items(folder):
    with Ledger(folder / "ledger.sqlite", read_only=True) as ledger:
        return list(ledger.items())


def test_the_same_seed_twice_is_the_same_run(tmp_path, fakes):
    assert run(tmp_path / "a", TINY) == run(tmp_path / "b", TINY)
    other = dataclasses.replace(TINY, seed=7)
    assert run(tmp_path / "c", other)[1] != run(tmp_path / "b", TINY)[1]


@pytest.mark.parametrize("width", [1, 2])
def test_a_run_killed_after_any_write_ends_as_an_uninterrupted_one(
    tmp_path, fakes, monkeypatch, width
):
    settings = dataclasses.replace(TINY, width=width, num_seeds=1, growths=4)
    whole = run(tmp_path / "whole", settings)
    names = [name for _, name in fakes]
    put = Ledger.put

    class KilledError(BaseException):
        pass

    def killing(self, key, evaluation):
        put(self, key, evaluation)
        raise KilledError

    fakes.clear()
    kills = 0
    while True:  # every run comes one write further
        monkeypatch.setattr(Ledger, "put", killing)
        try:
            found = run(tmp_path / "killed", settings)
            break
        except KilledError:
            kills += 1
    assert kills == len(names) == len(set(names))
    assert [name for _, name in fakes] == names  # nothing was trained twice
    assert found == whole


@pytest.mark.parametrize("width", [1, 2])
def test_a_run_goes_on_with_more_growths(tmp_path, fakes, width):
    settings = dataclasses.replace(TINY, growths=4, width=width, num_seeds=1)
    beside = ("longer", "none")
    whole = run(tmp_path / "whole", settings, beside)
    trained = sorted(fakes)
    fakes.clear()
    run(tmp_path / "grown", dataclasses.replace(settings, growths=3), beside)
    assert run(tmp_path / "grown", settings, beside) == whole
    assert sorted(fakes) == trained  # nothing twice


def test_numbers_of_jobs_are_in_the_order_of_submission():
    """As counted by hand: side by side are as many growths as `width`."""
    rules = Rules(width=2)
    weak, child = ([search.number_of(rules, g, stage) for g in range(1, 6)] for stage in (0, -1))
    assert (weak, child) == ([1, 2, 5, 6, 9], [3, 4, 7, 8, 11])
    looks = Rules(select="dish")
    assert [search.number_of(looks, 2, stage) for stage in (0, 1, -1)] == [4, 5, 6]
    assert [search.number_of(Rules(select="none"), g, -1) for g in (1, 2)] == [1, 2]


def test_lost_weights_are_trained_anew_only_where_they_are_needed(tmp_path, fakes):
    settings = dataclasses.replace(SMALL, num_seeds=1)
    whole, _ = found = run(tmp_path, settings)
    names = [name for _, name in fakes]
    best = next(
        m for m in whole["searches"][0]["models"] if m["number"] == whole["searches"][0]["best"]
    )
    chain = 1 + best["arch"].count("[")  # two slots, and two jobs for each growth
    for place, path in enumerate((tmp_path / "states").rglob("*.npz")):
        path.unlink() if place % 2 else path.write_bytes(path.read_bytes()[:100])
    assert run(tmp_path, settings) == found
    again = [name for _, name in fakes[len(names) :]]
    assert len(again) == len(set(again)) == chain < len(names)  # what the best model came from
    count = len(fakes)
    assert run(tmp_path, settings) == found
    assert len(fakes) == count


def test_a_job_that_fails_is_tried_once_more_and_recorded(tmp_path, fakes, monkeypatch):
    tries = []

    def failing(own, job):
        tries.append(job.number)
        return fake_run(own, job, fails=(1,))

    monkeypatch.setattr(jobs, "run", failing)
    settings = dataclasses.replace(SMALL, num_seeds=1)
    summary, _ = run(tmp_path, settings)
    assert tries.count(1) == 2
    failed = [e for _, e in ledger_items(tmp_path) if e.status == "failed"]
    assert len(failed) == 1
    assert "unlucky" in failed[0].error
    (own,) = summary["searches"]
    assert [model["growth"] for model in own["models"]] == [0, 2, 3]  # its growth is lost
    assert own["failed"] == 1
    count = len(tries)
    run(tmp_path, settings)
    assert len(tries) == count  # a failure is not bought again


def test_a_seed_that_fails_ends_the_run_with_one_sentence(tmp_path, fakes, monkeypatch):
    monkeypatch.setattr(jobs, "run", functools.partial(fake_run, fails=(0,)))
    with pytest.raises(UserError, match=r"seed's training failed \(LookupError: unlucky"):
        run(tmp_path)


def test_too_little_memory_is_one_sentence(tmp_path, fakes, monkeypatch):
    def too_large(own, job):
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(jobs, "run", too_large)
    with pytest.raises(UserError, match="does not fit into the device's memory"):
        run(tmp_path)


def test_progress_counts_every_job_and_names_its_method(tmp_path, fakes):
    found = []
    settings = dataclasses.replace(TINY, num_seeds=1, growths=1, repeats=1)
    beside = ("none", "by_projection", "by_dish", "lambda_0", "longer", "wide", "selection")
    run(tmp_path, settings, beside, listen=found.append)
    (one, two) = [k for k, event in enumerate(found) if isinstance(event, events.Stage)]
    for stage, last in ((found[one], found[two - 1]), (found[two], found[-1])):
        assert last.done == stage.total
    assert found[one].total == 5 * 1 + (2 + 1 + 3 + 3 + 2) + 1 + 1
    rows = [event.row for event in found if isinstance(event, events.Advanced)]
    assert {row[0] for row in rows} == {"grown", *beside}
    assert {row[0] for row in rows if row[3] == "seed"} == {"grown"}  # of the first that asks


def test_every_method_is_judged_by_its_best_model_on_validation_data(tmp_path, fakes):
    _, text = run(tmp_path, TINY, ("longer", "random", "networks"))
    rows = list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
    later = [row for row in rows if row["growth"] != "0"]
    finals = [row for row in rows if row["final"] == "1"]
    assert len(finals) == 4 * 2
    for final in finals:
        own = [x for x in later if [x["method"], x["seed"]] == [final["method"], final["seed"]]]
        assert float(final["error"]) == min(float(row["error"]) for row in own)
    longer = [row["growth"] for row in finals if row["method"] == "longer"]
    assert longer != ["3", "3"]  # not simply its last phase


def test_the_live_table_has_a_row_for_each_job(tmp_path, fakes):
    found = []
    run(tmp_path, dataclasses.replace(SMALL, num_seeds=1), listen=found.append)
    rows = [event.row for event in found if isinstance(event, events.Advanced)]
    (summary,) = json.loads((tmp_path / "summary.json").read_text())["searches"]
    children = [row for row in rows if row[0] == "grown" and row[3] in ("seed", "child")]
    errors = [f"{model['error']:.4g}" for model in summary["models"]]
    assert [row[4] for row in children] == errors
    assert [row[6] for row in children] == ["", "1", "2", "3"]  # the pool before each
    shown = StageView(events.Stage("jobs", len(rows), columns=forward_runner.COLUMNS))
    for place, row in enumerate(rows):
        shown.advance(events.Advanced(place + 1, row=row))
    stream = io.StringIO()
    console.Console(file=stream, width=80).print(shown.drawn(80))
    assert all(error in stream.getvalue() for error in errors[-2:])


# Rules


@pytest.fixture
def grown(tmp_path, fakes):
    """Return a function that runs one search on fake trainings to its end."""

    def one(rules, arch=None, fails=()):
        problem = problem_of(SMALL, None)
        own = Training(problem, str(tmp_path), rules.seed)
        state = search.begin(arch or arch_lib.seed("cell", 1, 1), rules)
        while state.queue:
            (job, *_) = state.queue
            try:
                result = fake_run(own, job, fails)
            except LookupError:
                result = Evaluation("failed", error="unlucky")
            state = search.applied(search.taken(state, job), rules, problem, job, result)
            state = search.refilled(state, rules, problem)
        return state, problem

    return one


def test_no_child_exceeds_the_budget(grown):
    free, _ = grown(Rules(growths=2))
    dear = max(model.multiply_adds for model in free.models)
    budget = 1.6 * free.models[0].multiply_adds
    state, _ = grown(Rules(growths=2, max_multiply_adds=budget))
    costs = [model.multiply_adds for model in state.models]
    assert max(costs) <= budget < dear
    assert len(costs) > 1
    none, _ = grown(Rules(growths=1, max_multiply_adds=1.0))
    assert len(none.models) == 1
    assert none.closed == {0}


def test_one_slot_grows_where_the_rules_say_so(grown):
    state, _ = grown(Rules(growths=5, finalised_slots=1))
    assert all(len(chosen) == 1 for chosen in state.chosen.values())
    assert {slot for chosen in state.chosen.values() for slot in chosen} == {"normal", "reduction"}


def test_in_a_macro_search_every_cell_grows_alone(grown):
    state, _ = grown(Rules(growths=1), arch_lib.seed("macro", 1, 1))
    (chosen,) = state.chosen.values()
    assert set(chosen) == {"cell0", "cell1", "cell2"}
    assert len(set(chosen.values())) > 1


def test_a_deep_model_is_no_parent(grown):
    state, _ = grown(Rules(growths=6, max_depth=1, band=10.0))
    assert {model.parent for model in state.models[1:]} == {0}
    assert state.uses == {0: 6}


def test_without_weak_training_the_child_gets_its_cost(grown):
    state, problem = grown(Rules(growths=1, select="none"))
    assert [model.number for model in state.models] == [0, 1]
    seed, child = state.models
    weak = training.recorded(problem.model, seed.arch, seed.arch.slots).multiply_adds
    job = Job(0, "weak", seed.arch, 10, slots=seed.arch.slots)
    epochs = search._weak_epochs(Rules(), problem, job, child.arch)
    assert abs(epochs * child.multiply_adds - 10 * weak) <= child.multiply_adds / 2


def test_dropped_models_stay_out(grown):
    free, _ = grown(Rules(growths=6, band=0.5))
    state, _ = grown(Rules(growths=6, band=0.0, drop_outside=True))
    assert state.closed
    assert not state.closed & {m.number for m in search.parents(state, Rules(band=0.5))}
    assert not free.closed


def test_several_growths_under_way_are_all_finished(grown):
    state, _ = grown(Rules(growths=5, width=3))
    assert sorted(model.growth for model in state.models) == list(range(6))


def test_epochs_of_controls_cost_what_they_should():
    assert forward_controls.epochs_for(1000.0, 10.0, 5) == 20
    assert forward_controls.epochs_for(1.0, 10.0, 5) == 1


def test_random_networks_have_as_many_edges():
    seed = arch_lib.seed("cell", 1, 1)
    like = seed.grown({"normal": seed.candidates("normal")[:3]})
    like = like.grown({slot: like.candidates(slot)[-2:] for slot in like.slots})
    found = forward_controls.random_arch(seed, like, [0])
    assert [[len(own) for own in spec] for spec in found.specs] == [[3, 2], [2]]
    assert found != like


def test_the_wide_seed_costs_nearly_what_is_wanted():
    seed = arch_lib.seed("cell", 1, 1)
    problem = forward_controls.widened(SMALL, None, seed, 50_000.0, SMALL.filters)
    cost = training.recorded(problem.model, seed).multiply_adds
    assert 0.7 < cost / 50_000 < 1.4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_images": 1_800}, "ask for fewer"),
        ({"ops": ("tanh",)}, "none of search=cell"),
        ({"growths": 0}, "at least 1"),
        ({"select": "best"}, "unknown"),
        ({"dataset": "cifar10"}, "data_batch_1.bin is missing"),
        ({"search": "rnn"}, "holds neither"),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(tmp_path, changes, words):
    folder = tmp_path / "run"
    with pytest.raises(UserError, match=words) as error:
        forward_search.run(dataclasses.replace(SMALL, **changes), folder, data_dir=str(tmp_path))
    assert "\n" not in str(error.value)
    assert not folder.exists()


def test_an_unknown_control_is_refused(tmp_path):
    with pytest.raises(UserError, match="unknown control"):
        forward_search.run(SMALL, tmp_path, beside=("longest",))
    rnn = dataclasses.replace(SMALL, search="rnn")
    for name in ("by_dish", "scaled", "sum"):
        with pytest.raises(UserError, match=f"beside={name} is for image networks"):
            forward_search.run(rnn, tmp_path, beside=("longer", name))


@pytest.mark.parametrize("search", arch_lib.SEARCHES)
def test_controls_are_settings_of_their_search_and_change_it(search):
    settings = dataclasses.replace(SMALL, search=search)
    names = [name for name in forward_controls.available(search) if name in SEARCHES]
    searches = [dataclasses.replace(settings, **changes_of(name, settings)) for name in names]
    for own in searches:
        forward_settings.check(own)
    changes = {own for own in searches if own != settings}
    assert len(changes) == len(names) - 1  # by_alpha is the search itself
    if search == "rnn":  # by hand: what has no meaning without normalisation and concatenation
        assert not {"by_projection", "by_proxy", "by_dish", "scaled", "plain", "sum"} & {*names}
    else:
        assert set(names) == set(SEARCHES)


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_are_settings(name):
    settings = ForwardSettings(preset=name, **PRESETS[name])
    forward_search.settings_lib.check(settings)


def test_a_worker_that_dies_twice_is_a_failed_job(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        buyer = Buyer(ledger)
        assert buyer.buy([]) == []
    died = buying._evaluation(buying.executors.WorkerDied("it was killed"))
    assert (died.status, died.error) == ("failed", "it was killed")
    with pytest.raises(UserError, match="no data"):
        buying._evaluation(UserError("no data"))

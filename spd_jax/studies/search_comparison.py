"""Algorithm 1 with every proposer and ranker, at equal ground truths (Rawal et al., figure 3).

The methods of one run share its warm start. A search is a function of its run's number and
of what the ground truth answers; its choices and fits are saved, so that a killed comparison
goes on with the same call, and a recorded one is replayed without training anything.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from spd_jax import metrics, motif
from spd_jax.archs import Cells
from spd_jax.axes import Archs, Key
from spd_jax.dish import DishConfig
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup
from spd_jax.ground_truth.purchase import GroundTruth
from spd_jax.ledger import Evaluation, Ledger
from spd_jax.problems import Problem
from spd_jax.search import loop
from spd_jax.search.genetic import Genetic
from spd_jax.search.loop import SearchConfig
from spd_jax.search.protocol import Proposer
from spd_jax.search.random_search import RandomSearch
from spd_jax.search.record import (
    Choice,
    Iteration,
    Record,
    Records,
    best_by_iteration,
    read_history,
    write_history,
)
from spd_jax.studies import events, machine, saved_fits
from spd_jax.studies import settings as settings_lib
from spd_jax.studies.run_folder import RunFolder, open_folder
from spd_jax.studies.settings import setting
from spd_jax.surrogates.compose import Averaged
from spd_jax.surrogates.dish_surrogate import DishSurrogate
from spd_jax.surrogates.partial_training import PartialTraining, of_ground_truth
from spd_jax.surrogates.protocol import FitStep, Fitted, Surrogate
from spd_jax.surrogates.regressors import GaussianProcess
from spd_jax.units import in_unit


class Method(NamedTuple):
    """A row of the comparison: who proposes cells, and who ranks them.

    Attributes:
      name: in records and on the command line.
      label: for people.
      proposer: "nao", "genetic" or "random".
      ranker: "dish", "partial" (training for a few units), or empty: every proposal is bought.
    """

    name: str
    label: str
    proposer: str
    ranker: str = ""


METHODS = {
    method.name: method
    for method in (
        Method("dish_nao", "dish + NAO", "nao", "dish"),
        Method("dish_ga", "dish + GA", "genetic", "dish"),
        Method("dish_random", "dish + random", "random", "dish"),
        Method("nao", "NAO", "nao"),
        Method("ga", "GA", "genetic"),
        Method("random", "random", "random"),
        Method("partial", "partial training", "random", "partial"),
    )
}


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """Settings of a comparison of searches."""

    method: str = setting("all", "who searches", choices=("all", *METHODS), free=True)
    iterations: int = setting(3, "iterations after the warm start", at_least=0, grows=True)
    seeds: int = setting(5, "runs of every method", at_least=1, grows=True)
    warm_start: int = setting(40, "random cells to begin with", at_least=4)
    proposals: int = setting(100, "cells ranked each iteration", at_least=1)
    evaluations: int = setting(20, "cells trained of them", at_least=1)
    preset: str = setting("tiny", "how cells are trained at full size")
    dish_preset: str = setting("best", "settings of the dish, which flags change", flag="dish")
    dish: DishConfig = setting(DishConfig(), "", by_preset=True)
    rank_with: str = setting(
        "dish",
        "what dish methods rank proposals by: the dish, or its mean with a Gaussian process",
        choices=("dish", "averaged"),
    )
    hidden_size: int = setting(3, "width of the dish's network", at_least=1)
    held_out_share: float = setting(
        0.0, "share of the known cells that early stopping holds out", at_least=0, at_most=0.9
    )
    crossover_rate: float = setting(
        0.5, "probability that a child has two parents (the paper's is lost)",
        at_least=0, at_most=1,
    )  # fmt: skip
    nao_epochs: int = setting(300, "epochs of NAO's network; published: 1000", at_least=1)
    partial_epochs: int = setting(
        1, "units of training after which partial training ranks", at_least=1
    )


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A finished comparison.

    Attributes:
      problem: what was searched.
      settings: how.
      records: the searches, by method and run.
      summary: what summary.json holds.
      path: the run folder, with history.csv and summary.json.
    """

    problem: Problem
    settings: SearchSettings
    records: Records
    summary: dict[str, Any]
    path: pathlib.Path


def methods_of(problem: Problem, settings: SearchSettings) -> list[Method]:
    """Return the methods that the settings ask for and the problem allows.

    Raises:
      UserError: one was asked for by name that the problem does not allow.
    """
    budget = problem.ground_truth(settings.preset).budget
    allowed = [
        method
        for method in METHODS.values()
        if not (method.proposer == "nao" and problem.tokens is None)
        and not (method.ranker == "partial" and budget < 2)
    ]
    asked = [method for method in allowed if settings.method in ("all", method.name)]
    if not asked:
        raise UserError(
            f"method={settings.method} cannot search {problem.name}: use one of "
            f"{', '.join(method.name for method in allowed)}"
        )
    return asked


def sizes(problem: Problem, settings: SearchSettings, method: Method) -> SearchConfig:
    """Return the sizes of a method's search.

    Partial training pays for what it ranks: it takes as many iterations as the ground
    truths of the others pay for.

    Raises:
      UserError: sizes that cannot be.
    """
    config = SearchConfig(
        settings.warm_start, settings.iterations, settings.proposals, settings.evaluations
    )
    loop.check(config, ranked=bool(method.ranker))
    if method.ranker != "partial":
        return config
    budget = problem.ground_truth(settings.preset).budget
    if settings.partial_epochs >= budget:
        raise UserError(
            f"partial_epochs={settings.partial_epochs} must be below the {budget} of a training"
        )
    each = config.proposals * settings.partial_epochs / budget + config.evaluations
    affordable = max(int(config.iterations * config.evaluations / each), 1)
    return dataclasses.replace(config, iterations=min(affordable, config.iterations))


def run(
    problem: Problem,
    settings: SearchSettings,
    workdir: str | os.PathLike[str],
    *,
    data_dir: str | None = None,
    workers: int = 0,
    listen: events.Listener = events.ignore,
) -> Comparison:
    """Run every search, or go on with a comparison that was interrupted.

    Args:
      problem: what is searched.
      settings: how.
      workdir: the run folder.
      data_dir: folder of the data; None downloads them.
      workers: processes that train cells; 0 trains in this one.
      listen: told what happens.

    Raises:
      UserError: settings or data with which nothing can be run, or a folder of another run.
    """
    _check(problem, settings)
    path = pathlib.Path(workdir)
    task = problem.ground_truth(settings.preset).task(data_dir, str(path / "states"))
    config = {
        "study": "search_comparison",
        "mode": "search",
        "problem": problem.space.name,
        "task": task.fingerprint,
        **settings_lib.described(settings),
    }
    with open_folder(path, config, settings_lib.growing(settings)) as folder:
        ceiling = noise_ceiling(problem, settings, task.fingerprint)
        with Ledger(path / "ledger.sqlite") as ledger:
            truth = GroundTruth(problem.space.name, task, ledger, workers)
            searches = _Searches(folder, problem, settings, truth, listen)
            records = searches.all(None if ceiling is None else ceiling["kendall_tau"])
        return _finish(folder, problem, settings, records, task.fingerprint, ceiling)


def replay(
    problem: Problem,
    settings: SearchSettings,
    workdir: str | os.PathLike[str],
    *,
    history: str | os.PathLike[str] | None = None,
) -> Comparison:
    """Return recorded searches, cut to the iterations that are asked for; nothing is trained.

    Args:
      problem: what was searched.
      settings: as `run`.
      workdir: the run folder.
      history: a history.csv; None takes the shipped one.

    Raises:
      UserError: something is asked for that was not recorded.
    """
    _check(problem, settings)
    shipped = problem.ground_truth(settings.preset).history
    if history is None and not shipped:
        raise UserError(
            f"no searches of {problem.name} with preset {settings.preset} are recorded: search "
            "anew, which takes the data"
        )
    source = lookup.shipped(shipped) if history is None else pathlib.Path(history)
    recorded, comments = read_history(source)
    _check_recorded(source, problem, settings, recorded, comments)
    records: Records = {}
    for number in range(settings.seeds):
        for method in methods_of(problem, settings):
            record = recorded.get((method.name, number), [])
            wanted = sizes(problem, settings, method).iterations + 1
            if len(record) < wanted:
                raise UserError(
                    f"{method.name}, run {number + 1} with {wanted - 1} iterations is outside the "
                    "recorded runs: search anew to evaluate its cells"
                )
            records[method.name, number] = record[:wanted]
    fingerprint = comments.get("task", "")
    config = {
        "study": "search_comparison",
        "mode": "replay",
        "problem": problem.space.name,
        "task": fingerprint,
        **settings_lib.described(settings),
    }
    with open_folder(workdir, config, settings_lib.growing(settings)) as folder:
        ceiling = noise_ceiling(problem, settings, fingerprint)
        return _finish(folder, problem, settings, records, fingerprint, ceiling)


def identity(settings: SearchSettings) -> dict[str, Any]:
    """Return the settings that decide what a search finds, however long it is."""
    grows = settings_lib.growing(settings)
    described = settings_lib.described(settings)
    return {name: value for name, value in described.items() if name not in grows}


def _check_recorded(
    source: pathlib.Path,
    problem: Problem,
    settings: SearchSettings,
    recorded: Records,
    comments: Mapping[str, str],
) -> None:
    """Refuse a history of other settings or of another space."""
    names = {cell for record in recorded.values() for own in record for cell in own.cells}
    try:
        Cells.read(problem.space, sorted(names))
    except UserError as error:
        raise UserError(f"{source} is damaged, or of another space: {error}") from error
    try:
        before = settings_lib.from_json(comments.get("settings", ""))
    except ValueError as error:
        raise UserError(
            f"{source} does not say with which settings it was made: give a history.csv as it "
            "was written"
        ) from error
    differ = settings_lib.differing(before, identity(settings))
    if differ:
        raise UserError(
            f"the recorded runs of {source} had other settings ({', '.join(differ)}), so their "
            "cells do not answer: search anew"
        )


def noise_ceiling(
    problem: Problem, settings: SearchSettings, fingerprint: str
) -> dict[str, Any] | None:
    """Return the noise ceiling of a task in the shipped table, or None where it has none."""
    name = problem.ground_truth(settings.preset).table
    if not name:
        return None
    table = lookup.read(lookup.shipped(name), problem.space)
    return table.noise_ceiling() if table.task == fingerprint else None


class _Searches:
    """All searches of a comparison: what they are made of, and how one is run."""

    def __init__(
        self,
        folder: RunFolder,
        problem: Problem,
        settings: SearchSettings,
        truth: GroundTruth,
        listen: events.Listener,
    ) -> None:
        self.folder, self.problem, self.settings = folder, problem, settings
        self.truth, self.listen = truth, listen
        self.dish = DishSurrogate(
            problem.family(settings.hidden_size),
            settings.dish,
            settings.held_out_share,
            machine.motif_sharding(),
        )

    def all(self, ceiling: float | None) -> Records:
        """Run, resume or read every search, run by run."""
        records: Records = {}
        for number in range(self.settings.seeds):
            for method in methods_of(self.problem, self.settings):
                config = sizes(self.problem, self.settings, method)
                saved = _Saved(self.folder, f"searches/{method.name}_{number}.json")
                if len(saved.record) == config.iterations + 1:
                    records[method.name, number] = saved.record
                    continue
                total = config.warm_start + config.iterations * config.evaluations
                title = f"{method.label}, run {number + 1} of {self.settings.seeds}"
                unit = self.problem.ground_truth(self.settings.preset).unit
                self.listen(events.SearchStage(title, total, unit, ceiling))
                records[method.name, number] = self.one(method, number, config, saved)
        return records

    def one(self, method: Method, number: int, config: SearchConfig, saved: "_Saved") -> Record:
        """Run one search; what is known of it is read from folder and ledger."""
        teller = _Teller(self.listen, self.truth)

        def fit(
            index: int, surrogate: Surrogate, key: Key, archs: Archs, scores: np.ndarray
        ) -> Fitted:
            return saved_fits.fit(
                self.folder, f"{method.name}_{number}_{index}", surrogate, key, archs, scores,
                on_step=teller.fitting,
            )  # fmt: skip

        def keep(iteration: Iteration) -> None:
            saved.add(iteration)
            teller.iteration(iteration)

        return loop.search(
            jax.random.key(number),
            self.problem.space,
            self.truth,
            self.proposer(method),
            surrogate=self.surrogate(method),
            config=config,
            fit=fit,
            recall=saved.choices.get,
            on_choice=saved.choose,
            on_iteration=keep,
        )

    def proposer(self, method: Method) -> Proposer:
        """Return who proposes cells."""
        if method.proposer == "genetic":
            return Genetic(parents=20, crossover_rate=self.settings.crossover_rate)
        if method.proposer == "random" or self.problem.tokens is None:
            return RandomSearch()
        from spd_jax.search.nao import NaoProposer  # brings flax
        from spd_jax.surrogates.nao import NaoConfig

        return NaoProposer(self.problem.tokens, NaoConfig(epochs=self.settings.nao_epochs))

    def surrogate(self, method: Method) -> Surrogate | None:
        """Return who ranks them; `None` where every proposal is bought."""
        if method.ranker == "partial":
            lookup = of_ground_truth(self.truth, self.problem.space.encode)
            return PartialTraining(lookup, self.settings.partial_epochs, self.truth.task.budget)
        if method.ranker == "dish" and self.settings.rank_with == "averaged":
            return Averaged(self.dish, GaussianProcess(self.problem.strongest_vectors))
        return self.dish if method.ranker == "dish" else None


class _Saved:
    """What the folder holds of one search: its choices, and the iterations that are done."""

    def __init__(self, folder: RunFolder, name: str) -> None:
        self.folder, self.name = folder, name
        self.choices, self.record = folder.read_json(name, _read_saved) or ({}, [])
        self.seen = 0

    def choose(self, index: int, choice: Choice) -> None:
        """Keep a choice before anything is bought; what was recorded after it is void."""
        self.choices = {i: own for i, own in self.choices.items() if i < index} | {index: choice}
        self.record = self.record[:index]
        self._write()

    def add(self, iteration: Iteration) -> None:
        """Keep an iteration, unless it is there already."""
        if iteration.index >= len(self.record):
            self.record.append(iteration)
            self._write()

    def _write(self) -> None:
        content = {
            "choices": {str(index): own.to_json() for index, own in self.choices.items()},
            "iterations": [own.to_json() for own in self.record],
        }
        self.folder.write_json(self.name, content)


def _read_saved(content: Any) -> tuple[dict[int, Choice], Record]:
    choices = {int(i): Choice.from_json(own) for i, own in content["choices"].items()}
    return choices, [Iteration.from_json(own) for own in content["iterations"]]


class _Teller:
    """Tells the listener how far one search is."""

    def __init__(self, listen: events.Listener, truth: GroundTruth) -> None:
        self.listen, self.budget = listen, truth.task.budget
        self.index, self.spent, self.best, self.now = 0, 0.0, math.nan, 0.0
        listen(events.SearchAdvanced(0, 0.0, math.nan))
        truth.on_result = self.result

    def result(self, done: int, total: int, evaluation: Evaluation) -> None:
        """Take note of a cell that was bought."""
        del total
        whole = evaluation.status == "failed" or len(evaluation.curve) >= self.budget
        whole = whole or not evaluation.curve
        if evaluation.status == "ok" and whole:
            self.best = float(np.fmax(self.best, evaluation.score))
        share = 1.0 if whole else len(evaluation.curve) / self.budget
        self.now = self.spent + share * done
        self.listen(events.SearchAdvanced(self.index, self.now, self.best))

    def fitting(self, step: FitStep) -> None:
        """Take note of a step of the dish's fit."""
        note = f"dish: step {step.done}/{step.total}, loss {float(np.mean(step.losses)):.3f}"
        self.listen(events.SearchAdvanced(self.index, self.spent, self.best, note=note))

    def iteration(self, iteration: Iteration) -> None:
        """Take note of an iteration that is finished."""
        finite = iteration.scores[np.isfinite(iteration.scores)]
        self.best = float(np.fmax.reduce([self.best, *finite]))
        index, cost, tau = iteration.index, iteration.cost, iteration.tau
        self.listen(events.SearchAdvanced(index, cost, self.best, tau, finished=True))
        self.index, self.spent = index + 1, cost


def _check(problem: Problem, settings: SearchSettings) -> None:
    """Refuse settings with which nothing can be run, before anything is written."""
    settings_lib.check(settings)
    problem.ground_truth(settings.preset)
    for method in methods_of(problem, settings):
        sizes(problem, settings, method)


def _finish(
    folder: RunFolder,
    problem: Problem,
    settings: SearchSettings,
    records: Records,
    fingerprint: str,
    ceiling: dict[str, Any] | None,
) -> Comparison:
    """Write history.csv and summary.json."""
    summary = summarise(problem, settings, records, ceiling)
    comments = {
        "study": "search_comparison",
        "commit": machine.commit(),
        "task": fingerprint,
        "settings": identity(settings),
    }
    write_history(folder.path / "history.csv", records, comments)
    folder.write_json("summary.json", summary)
    return Comparison(problem, settings, records, summary, folder.path)


def summarise(
    problem: Problem,
    settings: SearchSettings,
    records: Records,
    ceiling: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return summary.json: one row for every method.

    Raises:
      UserError: every evaluation failed.
    """
    unit = problem.ground_truth(settings.preset).unit
    equal = float(settings.warm_start + settings.iterations * settings.evaluations)
    costs = sorted({own.cost for record in records.values() for own in record} | {equal})
    leaders = [best_by_iteration(record)[-1] for record in records.values()]
    best = max(leaders, key=lambda leader: leader.score)
    if not best.cell:
        raise UserError("every evaluation failed, so there is no best cell: see why in the ledger")
    failed = {
        (number, cell)
        for (_, number), record in records.items()
        for own in record
        for cell, score in zip(own.cells, own.scores, strict=True)
        if not np.isfinite(score)
    }
    by_method = histories(records)
    return {
        "problem": problem.name,
        "unit": unit,
        "runs": settings.seeds,
        "ground_truths": int(equal),
        "noise_ceiling": ceiling,
        "methods": {
            name: _row(name, runs, [c for c in costs if c <= equal], equal, unit)
            for name, runs in by_method.items()
        },
        "failed": len(failed),
        "best_cell": {
            "cell": best.cell,
            "space": problem.space.name,
            "valid": float(in_unit(best.score, unit)),
            "test": _finite(in_unit(best.test_score, unit)),
        },
        "motif_network": {
            "parameters": motif.num_parameters(problem.family(settings.hidden_size)),
            "parameters_in_the_paper": problem.parameters_in_the_paper,
        },
    }


def histories(records: Records) -> dict[str, list[Record]]:
    """Return the runs of every method, in order."""
    names = dict.fromkeys(method for method, _ in records)
    return {
        name: [record for (method, _), record in records.items() if method == name]
        for name in names
    }


def _row(
    name: str, runs: list[Record], costs: Sequence[float], equal: float, unit: str
) -> dict[str, Any]:
    """Return what summary.json says of one method."""
    at = {f"{cost:g}": summary_at(runs, cost, unit) for cost in costs}
    taus: dict[str, list[float]] = {}
    for record in runs:
        for own in record:
            if np.isfinite(own.tau):
                taus.setdefault(str(own.index), []).append(own.tau)
    noted = [own.notes for record in runs for own in record]
    return {
        "label": METHODS[name].label if name in METHODS else name,
        "runs": len(runs),
        "at_equal_ground_truths": at[f"{equal:g}"],
        "by_ground_truths": {
            cost: {part: figures[part]["mean"] for part in figures} for cost, figures in at.items()
        },
        "spent": float(np.mean([record[-1].cost for record in runs])),
        "tau_by_iteration": {index: metrics.spread(values) for index, values in taus.items()},
        "seconds_by_iteration": _mean([own.seconds for record in runs for own in record]),
        "notes": {
            note: _mean([own[note] for own in noted if note in own])
            for note in dict.fromkeys(note for own in noted for note in own)
        },
    }


def at_cost(runs: Sequence[Record], costs: ArrayLike, part: str = "test") -> np.ndarray:
    """Return what the best cell of every run had reached for at most so many ground truths.

    Args:
      runs: of one method.
      costs: `[G]`, in full evaluations.
      part: "test" or "valid" scores of the cell that is best on validation.

    Returns:
      float64 `[R, G]`, higher is better: NaN before a run's first iteration; after its last,
      what that one says.
    """
    rows = []
    for record in runs:
        spent = np.array([own.cost for own in record])
        leaders = best_by_iteration(record)
        scores = [own.test_score if part == "test" else own.score for own in leaders]
        # A sum of many partial evaluations may miss a round number by an ulp or two.
        place = np.searchsorted(spent, np.asarray(costs, float) + 1e-6, side="right")
        rows.append(np.array([math.nan, *scores])[place])
    return np.array(rows)


def summary_at(runs: Sequence[Record], cost: float, unit: str) -> dict[str, dict[str, Any]]:
    """Return test and validation results for at most so many ground truths, in `unit`.

    Returns:
      `{"test": ..., "valid": ...}`, each as `metrics.spread` with mean and standard deviation.
    """
    return {
        part: metrics.spread_with_mean(in_unit(at_cost(runs, [cost], part)[:, 0], unit))
        for part in ("test", "valid")
    }


def _mean(values: Sequence[float]) -> float | None:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else None


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None

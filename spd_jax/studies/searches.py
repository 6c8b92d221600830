"""The searches of a comparison: their methods and settings, and how one is run and resumed."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from spd_jax.axes import Archs, Key
from spd_jax.dish import DishConfig
from spd_jax.errors import UserError
from spd_jax.ground_truth.purchase import GroundTruth
from spd_jax.ledger import Evaluation
from spd_jax.problems import Problem
from spd_jax.search import asynchronous, loop
from spd_jax.search.bananas import BananasProposer
from spd_jax.search.genetic import Genetic
from spd_jax.search.local_search import LocalSearch
from spd_jax.search.loop import SearchConfig
from spd_jax.search.protocol import Proposer
from spd_jax.search.random_search import RandomSearch
from spd_jax.search.record import Choice, Iteration, Record, Records, fingerprint
from spd_jax.studies import events, line_up, machine, saved_fits, saved_proposals, trade_off
from spd_jax.studies.run_folder import RunFolder
from spd_jax.studies.settings import setting
from spd_jax.surrogates.bananas import Bananas
from spd_jax.surrogates.compose import Averaged, FrozenDish
from spd_jax.surrogates.dish_surrogate import DishSurrogate
from spd_jax.surrogates.partial_training import PartialTraining, of_ground_truth
from spd_jax.surrogates.protocol import FitStep, Fitted, Surrogate
from spd_jax.surrogates.regressors import GaussianProcess


class Method(NamedTuple):
    """A row of the comparison: who proposes cells, and who ranks them.

    Attributes:
      name: in records and on the command line.
      label: for people.
      proposer: "nao", "genetic", "random", "bananas" or "local".
      ranker: "dish", "partial" (training for a few units), or empty: every proposal is bought.
    """

    name: str
    label: str
    proposer: str
    ranker: str = ""

    @property
    def uses_dish(self) -> bool:
        """Whether a dish ranks its proposals."""
        return self.ranker == "dish"


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
        Method("bananas", "BANANAS", "bananas"),
        Method("local", "local search", "local"),
    )
}
# What is compared on spaces of graphs today; on the paper's own only where it is asked for by name.
# There BANANAS is like the original only: the ensemble sees the problem's vectors, not paths.
ON_GRAPHS = ("bananas", "local")


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """Settings of a comparison of searches."""

    method: str = setting(
        "all", f"who searches: all, or some of {', '.join(METHODS)}, joined by commas", free=True
    )
    iterations: int = setting(3, "iterations after the warm start", at_least=0, grows=True)
    seeds: int = setting(5, "runs of every method", at_least=1, grows=True)
    warm_start: int = setting(40, "random cells to begin with", at_least=4)
    proposals: int = setting(100, "cells ranked each iteration", at_least=1)
    evaluations: int = setting(20, "cells trained of them", at_least=1)
    asynchronous: bool = setting(
        False,
        "let a free worker train the best proposal at once, instead of waiting for the slowest "
        "of an iteration; needs workers or a scheduler",
    )
    preset: str = setting("tiny", "how cells are trained at full size")
    dish_preset: str = setting(
        "best", "settings of the dish, which flags change", flag="dish", free=True
    )
    dish: DishConfig = setting(DishConfig(), "", by_preset=True)
    rank_with: str = setting(
        "dish",
        "what dish methods rank proposals by: the dish, its mean with a Gaussian process "
        '("averaged"), or the mean of untrained dishes with a Gaussian process that sees their '
        'scores ("untrained")',
        choices=("dish", "averaged", "untrained"),
    )
    hidden_size: int = setting(3, "width of the dish's network", at_least=1, by_preset=True)
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
    fresh_seeds: int = setting(
        0,
        "at the end, seeds with which the best cell of every search is trained anew: they chose "
        "nothing, and are not counted as ground truths spent",
        at_least=0,
        grows=True,
    )
    cost: str | None = setting(
        None,
        "what a cell costs, for its trade-off against the score (pareto.csv and .png): a count "
        "that the problem knows, such as parameters or multiply_adds; seconds of an evaluation; "
        "or module:function of one arch, or of a cell's name where its argument is annotated str",
        free=True,
    )
    cost_limit: float | None = setting(
        None, "cells that cost more are neither proposed nor evaluated; needs a cost"
    )
    fresh_presets: tuple[str, ...] = setting(
        (), "how these cells are trained at full size; empty: as in the search", free=True
    )


def methods_of(problem: Problem, settings: SearchSettings) -> list[Method]:
    """Return the methods that the settings ask for and the problem allows.

    Raises:
      UserError: one was asked for by name that the problem does not allow.
    """
    preset = problem.ground_truth(settings.preset)
    trains = preset.budget >= 2 and not preset.looked_up
    allowed = [
        method
        for method in METHODS.values()
        if not (method.proposer == "nao" and problem.tokens is None)
        # Asynchronous searches leave it no workers: it trains cells to rank them.
        and not (method.ranker == "partial" and (not trains or settings.asynchronous))
    ]
    everyone = [m for m in allowed if m.proposer not in ON_GRAPHS or problem.paths is not None]
    if settings.method == "all":
        return everyone
    names = [name.strip() for name in settings.method.split(",")]
    for name in names:
        if name not in {method.name for method in allowed}:
            raise UserError(
                f"method={name} cannot search {problem.name}: give all, or some of "
                f"{', '.join(method.name for method in allowed)}, joined by commas"
            )
    return [method for method in allowed if method.name in names]


def sizes(problem: Problem, settings: SearchSettings, method: Method) -> SearchConfig:
    """Return the sizes of a method's search.

    Partial training pays for what it ranks. An iteration spends what those of the others do: it
    ranks and evaluates fewer cells, about as many for each one that is evaluated.

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
    share = settings.partial_epochs / budget
    each = config.proposals / config.evaluations * share + 1 - share  # for a cell that is chosen
    chosen = max(int(config.evaluations / each), 1)
    ranked = int((config.evaluations - chosen * (1 - share)) / share + 1e-6)
    return dataclasses.replace(config, proposals=ranked, evaluations=chosen)


def total_cost(settings: SearchSettings) -> int:
    """Return the ground truths that every method may spend, in full evaluations."""
    return settings.warm_start + settings.iterations * settings.evaluations


class Searches:
    """All searches of a comparison: what they are made of, and how one is run."""

    def __init__(
        self,
        folder: RunFolder,
        problem: Problem,
        settings: SearchSettings,
        truth: GroundTruth,
        listen: events.Listener,
        cost: trade_off.Cost | None = None,
    ) -> None:
        """Prepare them; nothing is run yet. `cost` may limit which cells there are."""
        self.folder, self.problem, self.settings = folder, problem, settings
        self.truth, self.listen = truth, listen
        self.space = trade_off.searched(problem.space, truth.task, cost)
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
                total = total_cost(self.settings)
                title = f"{method.label}, run {number + 1} of {self.settings.seeds}"
                unit = self.problem.ground_truth(self.settings.preset).unit
                self.listen(events.SearchStage(title, total, unit, ceiling))
                records[method.name, number] = self.one(method, number, config, saved)
        return records

    def one(self, method: Method, number: int, config: SearchConfig, saved: "_Saved") -> Record:
        """Run one search; what is known of it is read from folder and ledger."""
        teller = _Teller(self.listen, self.truth)
        proposals = f"proposals/{method.name}_{number}.json"

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

        what = jax.random.key(number), self.space, self.truth, self.proposer(method)
        how: dict[str, Any] = {
            "surrogate": self.surrogate(method), "config": config, "fit": fit,
            "propose": functools.partial(saved_proposals.propose, self.folder, proposals),
            "recall": saved.choices.get, "on_choice": saved.choose, "on_iteration": keep,
        }  # fmt: skip
        if self.settings.asynchronous:
            self.truth.on_result = lambda *result: None  # `arrived` counts what was found, too
            asynchronous.search(*what, **how, on_evaluation=teller.arrived)
        else:
            loop.search(*what, **how)
        return saved.record

    def proposer(self, method: Method) -> Proposer:
        """Return who proposes cells."""
        if method.proposer == "genetic":
            return Genetic(parents=20, crossover_rate=self.settings.crossover_rate)
        if method.proposer == "local":
            return LocalSearch()
        if method.proposer == "bananas":
            paths, others = self.problem.paths, self.problem.strongest_vectors
            return BananasProposer(Bananas(others if paths is None else paths.paths))
        if method.proposer == "random" or self.problem.tokens is None:
            return RandomSearch()
        from spd_jax.search.nao import NaoProposer  # brings flax
        from spd_jax.surrogates.nao import NaoConfig

        return NaoProposer(self.problem.tokens, NaoConfig(epochs=self.settings.nao_epochs))

    def surrogate(self, method: Method) -> Surrogate | None:
        """Return who ranks them; `None` where every proposal is bought."""
        if method.ranker == "partial":
            curves = of_ground_truth(self.truth, self.problem.space.encode)
            return PartialTraining(curves, self.settings.partial_epochs, self.truth.task.budget)
        if not method.uses_dish:
            return None
        if self.settings.rank_with == "averaged":
            return Averaged(self.dish, GaussianProcess(self.problem.strongest_vectors))
        if self.settings.rank_with == "untrained":
            return line_up.judges_and_process(self.problem, FrozenDish(self.dish))
        return self.dish


class _Saved:
    """What the folder holds of one search: its choices, and the iterations that are done."""

    def __init__(self, folder: RunFolder, name: str) -> None:
        self.folder, self.name = folder, name
        self.choices, self.record = folder.read_json(name, _read_saved) or ({}, [])

    def choose(self, index: int, choice: Choice) -> None:
        """Keep a choice before anything is bought; what was recorded after it is void."""
        self.choices = {i: own for i, own in self.choices.items() if i < index} | {index: choice}
        self.record = self.record[:index]
        self._write()

    def add(self, iteration: Iteration) -> None:
        """Keep an iteration, unless it is there already with the same scores.

        They are others where failures were forgotten and bought anew.
        """
        before = self.record[iteration.index : iteration.index + 1]
        if [_bought(own) for own in before] != [_bought(iteration)]:
            self.record = [*self.record[: iteration.index], iteration]
            self._write()

    def _write(self) -> None:
        content = {
            "choices": {str(index): own.to_json() for index, own in self.choices.items()},
            "iterations": [own.to_json() for own in self.record],
        }
        self.folder.keep_json(self.name, content)


def _bought(iteration: Iteration) -> str:
    """Return a text that an iteration's cells and scores decide."""
    scores = np.concatenate([iteration.scores, iteration.test_scores])
    return fingerprint(iteration.cells, scores)


def _read_saved(content: Any) -> tuple[dict[int, Choice], Record]:
    choices = {int(i): Choice.from_json(own) for i, own in content["choices"].items()}
    record = [Iteration.from_json(own) for own in content["iterations"]]
    if [own.index for own in record] != list(range(len(record))):
        raise ValueError("iterations are missing")
    return choices, record


class _Teller:
    """Tells the listener how far one search is."""

    def __init__(self, listen: events.Listener, truth: GroundTruth) -> None:
        self.listen, self.budget = listen, truth.task.budget
        self.index, self.spent, self.best, self.fit = 0, 0.0, math.nan, -1
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
        self.listen(events.SearchAdvanced(self.index, self.spent + share * done, self.best))

    def arrived(self, count: int, evaluation: Evaluation) -> None:
        """Take note of the latest of so many evaluations, of an asynchronous search."""
        if evaluation.status == "ok":
            self.best = float(np.fmax(self.best, evaluation.score))
        self.spent, self.fit = float(count), -1  # a fit that goes on is shown anew
        self.listen(events.SearchAdvanced(self.index, self.spent, self.best))

    def fitting(self, step: FitStep) -> None:
        """Take note of a step of the dish's fit."""
        if self.fit != self.index:
            self.fit = self.index
            self.listen(events.Stage("dish: outer steps", step.total, step.done - 1))
        self.listen(events.Advanced(step.done, f"loss {float(np.mean(step.losses)):.3f}"))

    def iteration(self, iteration: Iteration) -> None:
        """Take note of an iteration that is finished."""
        finite = iteration.scores[np.isfinite(iteration.scores)]
        self.best = float(np.fmax.reduce([self.best, *finite]))
        index, cost, tau = iteration.index, max(iteration.cost, self.spent), iteration.tau
        self.listen(events.SearchAdvanced(index, cost, self.best, tau, finished=True))
        self.index, self.spent = index + 1, cost

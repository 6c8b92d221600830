"""Trains the searches and controls of all seeds, whatever is independent side by side."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from spd_jax.errors import UserError
from spd_jax.forward_search import search, training
from spd_jax.forward_search.arch import Arch
from spd_jax.forward_search.buying import Buyer, Item
from spd_jax.forward_search.jobs import TRAINED, Job, Training
from spd_jax.forward_search.search import Grown, Rules, State
from spd_jax.ledger import Evaluation
from spd_jax.studies import events, forward_selection
from spd_jax.studies.forward_controls import (
    ABLATIONS,
    CONTROLS,
    GROWN,
    LONGER,
    SCRATCH,
    SEARCHES,
    SELECTION,
    changes_of,
    compute,
    epochs_for,
    random_arch,
    widened,
)
from spd_jax.studies.forward_settings import (
    ForwardSettings,
    problem_of,
    rules_of,
    seed_arch,
    training_of,
)
from spd_jax.studies.run_folder import RunFolder


@dataclasses.dataclass
class Search:
    """One search that goes on.

    Attributes:
      method: a name of its own.
      training: how its jobs train.
      rules: how it grows.
      state: where it is.
      records: its finished jobs with their results, in the order of submission.
    """

    method: str
    training: Training
    rules: Rules
    state: State
    records: list[tuple[Job, Evaluation]] = dataclasses.field(default_factory=list)

    @property
    def seed(self) -> int:
        """Return the seed."""
        return self.training.seed

    def next_jobs(self) -> tuple[Job, ...]:
        """Return the jobs that run next."""
        return self.state.queue[: self.rules.width]

    def apply(self, jobs_: Sequence[Job], results: Sequence[Evaluation]) -> None:
        """Take in the results of jobs, in the order of submission."""
        problem = self.training.problem
        for job in jobs_:
            self.state = search.taken(self.state, job)
        for job, result in sorted(
            zip(jobs_, results, strict=True), key=lambda pair: pair[0].number
        ):
            if job.kind == "seed" and result.status == "failed":
                raise UserError(
                    f"the seed's training failed ({result.error.strip().splitlines()[-1]}): use a "
                    "smaller learning_rate, or other data"
                )
            self.records.append((job, result))
            self.state = search.applied(self.state, self.rules, problem, job, result)
        self.state = search.refilled(self.state, self.rules, problem)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one method of one seed came to.

    Attributes:
      method: name.
      seed: number.
      models: trained, in order; the last of a growth is that growth's.
      final: the model that is evaluated on test data: the best on validation data of those that
        the method trained, whatever it is; None where it trained none after the seed.
      compute: training images times multiply-adds, of all its jobs.
      seconds: spent on them.
    """

    method: str
    seed: int
    models: tuple[Grown, ...]
    final: Grown | None
    compute: float
    seconds: float


class Runner:
    """Trains searches and controls of all seeds, whatever is independent at the same time."""

    def __init__(
        self,
        settings: ForwardSettings,
        folder: RunFolder,
        problem: Any,
        buyer: Buyer,
        data_dir: str | None,
        listen: events.Listener,
    ) -> None:
        """Set a run up; `Buyer.on_result` is taken."""
        self.settings, self.folder, self.problem = settings, folder, problem
        self.buyer, self.data_dir, self.listen = buyer, data_dir, listen
        self.seeds = range(settings.seed, settings.seed + settings.num_seeds)
        self.searches: list[Search] = []
        self._done = 0
        self._methods: dict[Item, str] = {}  # of jobs that belong to no search
        buyer.on_result = self._tell

    def training(
        self, seed: int, problem: Any = None, settings: ForwardSettings | None = None
    ) -> Training:
        """Return how jobs of a seed train, with other networks or settings where given."""
        states = str(self.folder.path / "states")
        return training_of(settings or self.settings, problem or self.problem, states, seed)

    def run(self, beside: Sequence[str]) -> list[Outcome]:
        """Return the outcomes of all methods and seeds.

        Args:
          beside: names in `forward_controls.ALL`; `SELECTION` is left to `agreement`.
        """
        methods = [GROWN, *(name for name in SEARCHES if name in beside)]
        self.searches = [self._search(name, seed) for name in methods for seed in self.seeds]
        others = [name for name in CONTROLS if name in beside and name not in SEARCHES]
        total = sum(
            1 + own.rules.growths * len(search.stages(own.rules.select)) for own in self.searches
        )
        total += len(self.seeds) * sum(
            self.settings.growths if name == "longer" else 1 for name in others
        )
        self.listen(events.Stage("jobs", total, note="compiling", columns=COLUMNS))
        self._run_searches()
        outcomes = [self._of(own.method, own.seed, own.records) for own in self.searches]
        mains = self.mains
        if "longer" in others:
            outcomes += self._longer(mains)
        scratch = [name for name in others if name != "longer"]
        return outcomes + self._scratch(scratch, mains)

    @property
    def mains(self) -> list[Search]:
        """Return the searches that all else is compared with."""
        return [own for own in self.searches if own.method == GROWN]

    def agreement(self) -> dict[str, Any]:
        """Return how well selectors agree with true gains, see `forward_selection`."""
        jobs_of = {
            own.seed: forward_selection.jobs_of(own.state.models[0], self.settings)
            for own in self.mains
        }
        total = sum(map(len, jobs_of.values()))
        self.listen(events.Stage("single edges", total, note="compiling", columns=COLUMNS))
        self._done = 0
        items = [(self.training(seed), job) for seed, own in jobs_of.items() for job in own]
        self._methods |= dict.fromkeys(items, SELECTION)
        weak_items = [item for item in items if item[1].kind == "weak"]
        found = dict(zip(weak_items, self._buy(weak_items), strict=True))
        others = [item for item in items if item not in found]
        found |= zip(others, self._buy(others), strict=True)
        records = {
            seed: [(item[1], found[item]) for item in items if item[0].seed == seed]
            for seed in jobs_of
        }
        return forward_selection.summarise(records)

    def _search(self, method: str, seed: int) -> Search:
        settings = dataclasses.replace(self.settings, **changes_of(method, self.settings))
        problem = self.problem
        if method in ABLATIONS:
            problem = problem_of(settings, self.data_dir)
        state = search.begin(seed_arch(settings), rules_of(settings, seed))
        training = self.training(seed, problem, settings)
        return Search(method, training, rules_of(settings, seed), state)

    def _run_searches(self) -> None:
        """Run the next jobs of all searches, take in their results, and again."""
        while going := [own for own in self.searches if own.state.queue]:
            batches = [own.next_jobs() for own in going]
            items: list[Item] = [
                (own.training, job)
                for own, batch in zip(going, batches, strict=True)
                for job in batch
            ]
            results = iter(self._buy(items))
            for own, batch in zip(going, batches, strict=True):
                own.apply(batch, [next(results) for _ in batch])

    def _buy(self, items: Sequence[Item]) -> list[Evaluation]:
        before = self._done
        results = self.buyer.buy(items)
        self._done = before + len(items)  # equal jobs are told once
        return results

    def _tell(self, item: Item, result: Evaluation) -> None:
        self._done += 1
        cells = row(item, result, self.searches, self._methods.get(item, ""))
        self.listen(events.Advanced(self._done, described(cells), cells))

    def _longer(self, mains: Sequence[Search]) -> list[Outcome]:
        """Train every seed on, one phase for each growth, for what that growth cost."""
        seeds = [own.state.models[0] for own in mains]
        sources: list[str] = [model.name for model in seeds]
        records: list[list[tuple[Job, Evaluation]]] = [own.records[:1] for own in mains]
        for growth in range(1, self.settings.growths + 1):
            items: list[Item] = []
            for place, (own, model) in enumerate(zip(mains, seeds, strict=True)):
                cost = compute(r for r in own.records if r[0].growth == growth)
                epochs = epochs_for(cost, model.multiply_adds, self.problem.count)
                number = LONGER + growth
                job = Job(number, "longer", model.arch, epochs, sources[place], 0, growth)
                items.append((own.training, job))
            self._methods |= dict.fromkeys(items, "longer")
            for place, result in enumerate(self._buy(items)):
                records[place].append((items[place][1], result))
                if result.status == "ok":
                    sources[place] = items[place][1].name
        return [
            self._of("longer", own.seed, found) for own, found in zip(mains, records, strict=True)
        ]

    def _scratch(self, names: Sequence[str], mains: Sequence[Search]) -> list[Outcome]:
        """Train networks of every seed from scratch, each for what its search cost."""
        items: list[Item] = []
        owners = [(name, own) for name in names for own in mains]
        for name, own in owners:
            problem, arch = self._network(name, own)
            cost = training.recorded(problem.model, arch).multiply_adds
            epochs = epochs_for(compute(own.records), cost, problem.count)
            number = SCRATCH + list(CONTROLS).index(name)
            job = Job(number, "scratch", arch, epochs, growth=self.settings.growths)
            items.append((self.training(own.seed, problem), job))
            self._methods[items[-1]] = name
        results = self._buy(items)
        return [
            self._of(name, own.seed, [(item[1], result)])
            for (name, own), item, result in zip(owners, items, results, strict=True)
        ]

    def _network(self, name: str, own: Search) -> tuple[Any, Arch]:
        """Return the networks and the architecture of a control from scratch."""
        seed, best = seed_arch(self.settings), search.best(own.state.models) or own.state.models[0]
        if name == "retrained":
            return self.problem, best.arch
        if name == "networks":
            return self.problem, random_arch(seed, best.arch, [own.seed, SCRATCH])
        width = self.settings.hidden if self.settings.search == "rnn" else self.settings.filters
        return widened(self.settings, self.data_dir, seed, best.multiply_adds, width), seed

    def _of(self, method: str, seed: int, records: list[tuple[Job, Evaluation]]) -> Outcome:
        """Return what a method came to by its jobs and their results."""
        floor = self.problem.floor()
        models = tuple(
            search.model_of(job, result, floor)
            for job, result in records
            if job.kind in TRAINED and result.status == "ok"
        )
        seconds = sum(result.seconds for _, result in records)
        return Outcome(method, seed, models, search.best(models), compute(records), seconds)


COLUMNS = ("method", "seed", "growth", "job", "error", "M mult-adds", "pool", "hull")


def row(item: Item, result: Evaluation, searches: Sequence[Search], method: str) -> tuple[str, ...]:
    """Return what a finished job was, by `COLUMNS`: "pool" are models, "hull" those in its band.

    Searches share jobs: a job is said to be of the first that asks for it; where none does, of
    `method`.
    """
    training_, job = item
    owner = next(
        (own for own in searches if own.training == training_ and job in own.state.queue), None
    )
    models = owner.state.models if owner else ()
    inside = len(search.band(owner.state, owner.rules)) if owner and models else 0
    info = result.info if result.status == "ok" and "error" in result.info else {}
    return (
        owner.method if owner else method, str(training_.seed), str(job.growth), job.kind,
        "failed" if result.status == "failed" else f"{info['error']:.4g}" if info else "",
        f"{info['multiply_adds'] / 1e6:.3g}" if info else "",
        str(len(models) or ""), str(inside or ""),
    )  # fmt: skip


def described(cells: Sequence[str]) -> str:
    """Return a row in a few words, for plain lines."""
    pairs = zip(COLUMNS, cells, strict=True)
    return ", ".join(f"{name} {cell}" for name, cell in pairs if cell)

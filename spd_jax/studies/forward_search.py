"""Forward architecture search (Hu et al., 2019) beside what it must be better than.

For every seed a search grows its networks; controls spend as much, counted in training images
times multiply-adds. All of them begin with the same trained seed, so that they are paired.
The method is unrelated to the Synthetic Petri Dish, whatever its authors call it.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from spd_jax import metrics
from spd_jax.data import images, texts
from spd_jax.errors import UserError, check_name
from spd_jax.files import write_csv
from spd_jax.forward_search import arch as arch_lib
from spd_jax.forward_search import jobs, search, selection, training, weak
from spd_jax.forward_search.arch import Arch
from spd_jax.forward_search.buying import Buyer, Item
from spd_jax.forward_search.image_data import ImageParts
from spd_jax.forward_search.image_data import load as load_images
from spd_jax.forward_search.image_model import ImageModel, ImageProblem
from spd_jax.forward_search.image_net import MERGES, ImageNet
from spd_jax.forward_search.jobs import Job, Training
from spd_jax.forward_search.ops import CONV_FORMS, default_conv_form
from spd_jax.forward_search.recurrent_net import RecurrentNet
from spd_jax.forward_search.search import Grown, Rules, State
from spd_jax.forward_search.text_model import UNITS, TextModel, TextProblem
from spd_jax.ledger import Evaluation, Ledger
from spd_jax.studies import events, forward_selection
from spd_jax.studies import settings as settings_lib
from spd_jax.studies.forward_controls import (
    ABLATIONS,
    ALL,
    CONTROLS,
    GROWN,
    LONGER,
    SCRATCH,
    SEARCHES,
    SELECTION,
    changes_of,
)
from spd_jax.studies.run_folder import RunFolder, open_folder
from spd_jax.studies.settings import setting


@dataclasses.dataclass(frozen=True)
class ForwardSettings:
    """Settings of a run. What a preset decides can be changed one by one."""

    preset: str = setting("digits", "settings that all others change")
    seed: int = setting(0, "first seed", at_least=0, at_most=2000)
    num_seeds: int = setting(1, "seeds to run", at_least=1, at_most=1000, grows=True, flag="seeds")
    search: str = setting("cell", "what grows as one", choices=arch_lib.SEARCHES, by_preset=True)
    growths: int = setting(2, "children that a search trains", at_least=1, grows=True,
                           by_preset=True)  # fmt: skip
    select: str = setting("alpha", "which candidates stay", choices=tuple(selection.SELECTORS))
    edges: int = setting(3, "operations of a new learner, the paper's I_max", at_least=1)
    dataset: str = setting("digits", "images", choices=images.IMAGE_NAMES, by_preset=True)
    train_images: int = setting(896, "images to train on", at_least=1, by_preset=True)
    valid_images: int = setting(400, "images that choose", at_least=1, by_preset=True)
    test_images: int = setting(501, "images of the final evaluation", at_least=1, by_preset=True)
    halved: bool = setting(False, "take means of 2 x 2 pixels", by_preset=True)
    crop: int = setting(0, "padding of random crops, pixels", at_least=0, by_preset=True)
    flip: bool = setting(False, "mirror images at random", by_preset=True)
    cutout: int = setting(0, "side of the square that is cut out", at_least=0, by_preset=True)
    normal: int = setting(1, "N, normal cells at each size", at_least=1, at_most=100,
                          by_preset=True)  # fmt: skip
    transitions: int = setting(1, "reductions of the size", at_least=0, at_most=6, by_preset=True)
    filters: int = setting(4, "F, width of the first cells", at_least=1, by_preset=True)
    stem_stride: int = setting(1, "stride of the stem", at_least=1, at_most=2, by_preset=True)
    ops: tuple[str, ...] = setting(
        (), "operations to choose from; default: all of the search",
        choices=(*arch_lib.IMAGE_OPS, *(op for op in arch_lib.HIGHWAY_OPS if op != "identity")),
    )  # fmt: skip
    conv_form: str = setting(
        "auto", "how separable convolutions are computed; auto: what is fastest on this device",
        choices=("auto", *CONV_FORMS), free=True,
    )  # fmt: skip
    merge: str = setting("concat", "how a learner's operations are joined", choices=MERGES)
    candidate_scale: bool = setting(False, "a learnt scale in the last normalisation of candidates")
    coupling: str = setting(
        "stopped", "how candidates are kept from their parent", choices=weak.COUPLINGS
    )
    drop_path: float = setting(0.0, "largest share of dropped operations", at_least=0,
                               at_most=0.99, by_preset=True)  # fmt: skip
    auxiliary: float = setting(0.0, "weight of an auxiliary head", at_least=0)
    level: str = setting("word", "tokens of a text", choices=texts.LEVELS, by_preset=True)
    train_tokens: int = setting(0, "first tokens to train on; 0: all", at_least=0, at_most=10**10,
                                by_preset=True)  # fmt: skip
    eval_tokens: int = setting(0, "first tokens to evaluate on; 0: all", at_least=0, by_preset=True)
    hidden: int = setting(32, "width of a recurrent cell", at_least=1, by_preset=True)
    sequence_length: int = setting(35, "tokens of a sequence", at_least=2, by_preset=True)
    dropout_input: float = setting(0.0, "of embeddings", at_least=0, at_most=0.99, by_preset=True)
    dropout_state: float = setting(0.0, "of states", at_least=0, at_most=0.99, by_preset=True)
    dropout_output: float = setting(0.0, "of outputs", at_least=0, at_most=0.99, by_preset=True)
    batch_size: int = setting(64, "images, or rows of text, in a batch", at_least=1, by_preset=True)
    optimiser: str = setting("sgd", "optimiser", choices=training.OPTIMISERS, by_preset=True)
    learning_rate: float = setting(0.05, "at the start of each phase", at_least=0, by_preset=True)
    schedule: str = setting("cosine", "of the rate", choices=training.SCHEDULES, by_preset=True)
    weight_decay: float = setting(3e-4, "L2 of kernels", at_least=0, by_preset=True)
    clip: float = setting(5.0, "largest norm of a gradient; 0: any", at_least=0, by_preset=True)
    penalty: float = setting(1e-3, "lambda, factor of sum |alpha|", at_least=0)
    gate: float = setting(
        1.0, "factor of the candidates' gradients; 0: 1 over the number of images", at_least=0
    )
    seed_epochs: int = setting(30, "epochs of the seed", at_least=1, by_preset=True)
    weak_epochs: int = setting(10, "epochs of a weak training", at_least=1, by_preset=True)
    child_epochs: int = setting(30, "epochs of a child", at_least=1, by_preset=True)
    width: int = setting(1, "growths of one search under way at once", at_least=1, by_preset=True)
    band: float = setting(0.025, "models so much above the hull may grow", at_least=0)
    finalised_slots: int = setting(0, "slots that grow at once; 0: all", at_least=0)
    max_depth: int = setting(8, "most learners of a slot", at_least=1)
    max_multiply_adds: int = setting(
        0, "budget that no grown network exceeds; 0: none", at_least=0, at_most=10**12
    )
    drop_outside: bool = setting(False, "a model outside the band never grows again")


PRESETS: dict[str, dict[str, Any]] = {
    "digits": {},
    "mnist_cpu": {
        "dataset": "mnist", "train_images": 4000, "valid_images": 2000, "test_images": 5000,
        "halved": True,
    },
    "cifar10_cpu": {
        "dataset": "cifar10", "train_images": 4000, "valid_images": 1000, "test_images": 2000,
        "crop": 4, "flip": True, "filters": 8, "stem_stride": 2, "transitions": 2,
        "seed_epochs": 40, "weak_epochs": 4, "child_epochs": 12, "growths": 6, "width": 2,
    },
    "rnn_cpu": {
        "search": "rnn", "level": "character", "train_tokens": 50_000, "eval_tokens": 25_000,
        "hidden": 32, "sequence_length": 32, "batch_size": 32, "optimiser": "adam",
        "learning_rate": 6e-3, "weight_decay": 0.0, "clip": 1.0, "seed_epochs": 6,
        "weak_epochs": 2, "child_epochs": 4,
    },
    "paper_rnn": {
        "search": "rnn", "hidden": 850, "optimiser": "adam", "learning_rate": 1e-4,
        "schedule": "decay", "weight_decay": 8e-7, "clip": 0.25, "dropout_input": 0.4,
        "dropout_state": 0.25, "dropout_output": 0.5, "seed_epochs": 300, "weak_epochs": 80,
        "child_epochs": 80, "growths": 20,
    },
}  # fmt: skip
_PAPER = {
    "normal": 3, "transitions": 2, "filters": 16, "batch_size": 32, "learning_rate": 0.025,
    "weight_decay": 2e-4, "crop": 4, "flip": True, "cutout": 16, "drop_path": 0.4,
    "dataset": "cifar10", "train_images": 45_000, "valid_images": 5_000, "test_images": 10_000,
    "seed_epochs": 200, "weak_epochs": 80, "child_epochs": 80, "growths": 20, "width": 4,
}  # fmt: skip
for _name in ("cell", "macro"):
    PRESETS[f"paper_{_name}"] = {**_PAPER, "search": _name}


def problem_of(settings: ForwardSettings, data_dir: str | None, filters: int | None = None) -> Any:
    """Return networks and data; raises UserError where data are missing."""
    if settings.search == "rnn":
        corpus = texts.load(data_dir, settings.level)
        keeps = (
            1 - own
            for own in (settings.dropout_input, settings.dropout_state, settings.dropout_output)
        )
        net = RecurrentNet(len(corpus.vocabulary), filters or settings.hidden, True, *keeps)
        model = TextModel(net, settings.batch_size, settings.sequence_length)
        return TextProblem(
            model, data_dir, settings.level, settings.train_tokens, settings.eval_tokens
        )
    parts = ImageParts(
        settings.dataset, data_dir, settings.train_images, settings.valid_images,
        settings.test_images, settings.halved,
    )  # fmt: skip
    found = load_images(parts)
    form = default_conv_form() if settings.conv_form == "auto" else settings.conv_form
    cell = ImageNet(
        found.train.inputs.shape[1:], found.classes, filters or settings.filters,
        stem_stride=settings.stem_stride, conv_form=form, merge=settings.merge,
        candidate_scale=settings.candidate_scale, drop_path=settings.drop_path,
        auxiliary=settings.auxiliary,
    )  # fmt: skip
    return ImageProblem(
        parts,
        ImageModel(cell, settings.batch_size, settings.crop, settings.flip, settings.cutout),
    )


def training_of(settings: ForwardSettings, problem: Any, folder: str, seed: int) -> Training:
    """Return how the jobs of a seed train."""
    optimiser = training.Optimiser(
        settings.optimiser, settings.clip, settings.weight_decay, settings.coupling
    )
    gate = settings.gate or 1 / problem.count
    return Training(
        problem, folder, seed, optimiser, settings.learning_rate, settings.schedule,
        settings.penalty, gate,
    )  # fmt: skip


def rules_of(settings: ForwardSettings, seed: int) -> Rules:
    """Return how a seed's search grows."""
    return Rules(
        seed, settings.growths, settings.seed_epochs, settings.weak_epochs, settings.child_epochs,
        settings.select, settings.edges, settings.band, settings.finalised_slots,
        settings.max_depth, settings.max_multiply_adds, settings.drop_outside,
    )  # fmt: skip


def seed_arch(settings: ForwardSettings) -> Arch:
    """Return the architecture that every search starts from."""
    return arch_lib.seed(settings.search, settings.normal, settings.transitions, settings.ops)


@dataclasses.dataclass
class Search:
    """One search that goes on.

    Attributes:
      method: a name of its own.
      training: how its jobs train.
      rules: how it grows.
      state: where it is.
      width: jobs that it may have under way at once.
      records: its finished jobs with their results, in the order of submission.
    """

    method: str
    training: Training
    rules: Rules
    state: State
    width: int
    records: list[tuple[Job, Evaluation]] = dataclasses.field(default_factory=list)

    @property
    def seed(self) -> int:
        """Return the seed."""
        return self.training.seed

    def next_jobs(self) -> tuple[Job, ...]:
        """Return the jobs that run next."""
        return self.state.queue[: self.width]

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
        self.state = search.refilled(self.state, self.rules, problem, self.width)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one method of one seed came to.

    Attributes:
      method: name.
      seed: number.
      models: trained, in order; the last of a growth is that growth's.
      final: the model that is evaluated on test data: the best on validation data.
      compute: training images times multiply-adds, of all its jobs.
      seconds: spent on them.
    """

    method: str
    seed: int
    models: tuple[Grown, ...]
    final: Grown | None
    compute: float
    seconds: float


def run(
    settings: ForwardSettings,
    workdir: str | os.PathLike[str],
    *,
    data_dir: str | None = None,
    beside: Sequence[str] = ("longer",),
    workers: int = 0,
    time_limit: float | None = None,
    listen: events.Listener = events.ignore,
) -> dict[str, Any]:
    """Search with every seed, train the controls, and write the run's files.

    Args:
      settings: of the run.
      workdir: the run folder; an earlier run of the same settings goes on.
      data_dir: folder of the data; None downloads them, or takes what is built in.
      beside: what stands beside the search: names in `forward_controls.ALL`.
      workers: processes that train; 0 trains in this one. It changes no result.
      time_limit: seconds that a job may take; needs workers.
      listen: told what happens.

    Returns:
      What summary.json holds.

    Raises:
      UserError: settings with which nothing can be run, missing data, or a seed that fails.
    """
    settings_lib.check(settings)
    for name in beside:
        check_name("control", name, ALL)
    _check(settings)
    problem = problem_of(settings, data_dir)
    config = {"study": "forward_search", **settings_lib.described(settings)}
    config["data"] = problem.identity()
    with (
        open_folder(workdir, config, settings_lib.growing(settings)) as folder,
        Ledger(folder.path / "ledger.sqlite") as ledger,
    ):
        runner = Runner(
            settings, folder, problem, Buyer(ledger, workers, time_limit), data_dir, listen
        )
        outcomes = runner.run(beside)
        summary = summarise(settings, outcomes, runner.searches)
        if SELECTION in beside:
            summary["selection"] = runner.agreement()
        write_models(folder.path / "models.csv", settings, outcomes)
        keep_best(folder, runner, summary)
        folder.write_json("summary.json", summary)
    return summary


def _check(settings: ForwardSettings) -> None:
    """Refuse settings that do not go together."""
    known = arch_lib.HIGHWAY_OPS if settings.search == "rnn" else arch_lib.IMAGE_OPS
    for op in settings.ops:
        if op not in known:
            raise UserError(
                f"ops={op} is none of search={settings.search}: use some of {', '.join(known)}"
            )
    if settings.select in ("projection", "proxy") and settings.search == "rnn":
        raise UserError(f"select={settings.select} is for image networks: use another selector")


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
        buyer.on_result = self._tell

    def training(
        self, seed: int, problem: Any = None, settings: ForwardSettings | None = None
    ) -> Training:
        """Return how jobs of a seed train, with other networks or settings where given."""
        states = str(self.folder.path / "states")
        return training_of(settings or self.settings, problem or self.problem, states, seed)

    def run(self, beside: Sequence[str]) -> list[Outcome]:
        """Return the outcomes of all methods and seeds, `beside` as in `run`."""
        methods = [GROWN, *(name for name in SEARCHES if name in beside)]
        self.searches = [self._search(name, seed) for name in methods for seed in self.seeds]
        others = [name for name in CONTROLS if name in beside and name not in SEARCHES]
        total = sum(1 + 2 * self.settings.growths for _ in self.searches)
        total += len(self.seeds) * sum(
            self.settings.growths if name == "longer" else 1 for name in others
        )
        self.listen(events.Stage("jobs", total, note="compiling"))
        self._run_searches()
        outcomes = [self._outcome(own) for own in self.searches]
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
        self.listen(events.Stage("single edges", total, note="compiling"))
        self._done = 0
        items = [(self.training(seed), job) for seed, own in jobs_of.items() for job in own]
        weak_items = [item for item in items if item[1].kind == "weak"]
        found = dict(zip(weak_items, self._buy(weak_items), strict=True))
        others = [item for item in items if item not in found]
        found |= zip(others, self._buy(others), strict=True)
        records = {
            seed: [(job, found[item]) for item in items if item[0].seed == seed for job in item[1:]]
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
        return Search(method, training, rules_of(settings, seed), state, self.settings.width)

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
        self.listen(events.Advanced(self._done, describe(item, result, self.searches)))

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
        results = self._buy(items)
        return [
            self._of(name, own.seed, [(item[1], result)])
            for (name, own), item, result in zip(owners, items, results, strict=True)
        ]

    def _network(self, name: str, own: Search) -> tuple[Any, Arch]:
        """Return the networks and the architecture of a control from scratch."""
        seed, best = seed_arch(self.settings), search.best(own.state) or own.state.models[0]
        if name == "retrained":
            return self.problem, best.arch
        if name == "networks":
            return self.problem, random_arch(seed, best.arch, [own.seed, SCRATCH])
        width = self.settings.hidden if self.settings.search == "rnn" else self.settings.filters
        return widened(self.settings, self.data_dir, seed, best.multiply_adds, width), seed

    def _outcome(self, own: Search) -> Outcome:
        found = self._of(own.method, own.seed, own.records)
        return dataclasses.replace(found, final=search.best(own.state))

    def _of(self, method: str, seed: int, records: list[tuple[Job, Evaluation]]) -> Outcome:
        """Return an outcome whose final model is the last; None where that failed."""
        floor = self.problem.floor()
        models = tuple(
            search.model_of(job, result, floor)
            for job, result in records
            if job.kind != "weak" and result.status == "ok"
        )
        ended = bool(models) and records[-1][1].status == "ok"
        seconds = sum(result.seconds for _, result in records)
        return Outcome(
            method, seed, models, models[-1] if ended else None, compute(records), seconds
        )


def compute(records: Any) -> float:
    """Return training images times multiply-adds of an image, of finished jobs."""
    return float(sum(result.info.get("train_multiply_adds", 0.0) for _, result in records))


def epochs_for(cost: float, multiply_adds: float, count: int) -> int:
    """Return how many epochs of a network cost so much, at least one."""
    return max(round(cost / (multiply_adds * count)), 1)


def random_arch(seed: Arch, like: Arch, draw: Sequence[int]) -> Arch:
    """Return an architecture with as many learners and edges as another, drawn at random."""
    generator = np.random.default_rng(list(draw))
    found = seed
    for depth in range(like.depth):
        chosen = {}
        for slot in like.slots:
            if depth < len(like.learners(slot)):
                edges = found.candidates(slot)
                size = min(len(like.learners(slot)[depth]), len(edges))
                picked = generator.choice(len(edges), size, replace=False)
                chosen[slot] = [edges[place] for place in picked]
        found = found.grown(chosen)
    return found


def widened(
    settings: ForwardSettings, data_dir: str | None, arch: Arch, wanted: float, width: int
) -> Any:
    """Return networks so wide that the seed has nearly so many multiply-adds."""
    costs: dict[int, float] = {}
    for own in range(width, 16 * width + 1):
        model = problem_of(settings, data_dir, own).model
        costs[own] = training.recorded(model, arch).multiply_adds
        if costs[own] >= wanted:
            break
    best = min(costs, key=lambda own: abs(math.log(costs[own] / wanted)))
    return problem_of(settings, data_dir, best)


def describe(item: Item, result: Evaluation, searches: Sequence[Search]) -> str:
    """Return what a finished job was, in a few words for a display."""
    training_, job = item
    words = [f"seed {training_.seed}", f"{job.kind} of growth {job.growth}"]
    if result.status == "failed":
        words.append("failed")
    else:
        words.append(f"error {result.info['error']:.4g}")
        words.append(f"{result.info['multiply_adds'] / 1e6:.3g}M multiply-adds")
    for own in searches:
        if own.method == GROWN and own.seed == training_.seed and own.state.models:
            on_band = len(search.band(own.state, own.rules))
            words.append(f"pool {len(own.state.models)}, band {on_band}")
    return ", ".join(words)


def summarise(
    settings: ForwardSettings, outcomes: Sequence[Outcome], searches: Sequence[Search]
) -> dict[str, Any]:
    """Return summary.json: every method with its spread over seeds, and paired differences."""
    names = list(dict.fromkeys(own.method for own in outcomes))
    by_name = {name: [own for own in outcomes if own.method == name] for name in names}
    grown = by_name[GROWN]
    paired = {
        name: _paired([_test(own) for own in grown], [_test(own) for own in by_name[name]])
        for name in names
        if name != GROWN
    }
    return {
        "preset": settings.preset,
        "search": settings.search,
        "select": settings.select,
        "unit": _unit(settings),
        "seeds": [own.seed for own in grown],
        "labels": {GROWN: f"grown, selected by {settings.select}"} | ALL,
        "methods": {name: _figures(own) for name, own in by_name.items()},
        "paired": paired,
        "growth": {name: _by_growth(own) for name, own in by_name.items()},
        "searches": [_search_summary(own) for own in searches if own.method == GROWN],
    }


def _unit(settings: ForwardSettings) -> str:
    """Return what an error is."""
    return UNITS[settings.level] if settings.search == "rnn" else "error"


def _test(own: Outcome) -> float:
    return own.final.test_error if own.final else math.nan


def _figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the figures of a method's final models."""
    finals = [own.final for own in outcomes]

    def figure(name: str) -> dict[str, Any]:
        values = [getattr(own, name) if own else math.nan for own in finals]
        return metrics.spread_with_mean(values)

    found = {
        name: figure(name)
        for name in ("test_error", "error", "cross_entropy", "multiply_adds", "parameters")
    }
    found["compute"] = metrics.spread_with_mean([own.compute for own in outcomes])
    found["seconds"] = metrics.spread_with_mean([own.seconds for own in outcomes])
    return found


def _paired(grown: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    """Return differences grown - other over seeds; below 0, the grown network is better."""
    difference = np.subtract(grown, other)
    found = metrics.spread_with_mean(difference)
    found["interval"] = None
    if found["std"] is not None:
        half = stats.t.ppf(0.975, len(difference) - 1) * found["std"] / len(difference) ** 0.5
        found["interval"] = [found["mean"] - float(half), found["mean"] + float(half)]
    return found


def _by_growth(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return errors of the best model so far after every growth, over seeds."""
    growths = range(max((m.growth for own in outcomes for m in own.models), default=0) + 1)
    found = []
    for growth in growths:
        best = [
            min(
                (model for model in own.models if model.growth <= growth),
                key=lambda model: (model.error, model.cross_entropy),
                default=None,
            )
            for own in outcomes
        ]
        if all(best):
            found.append(
                {
                    "growth": growth,
                    "error": metrics.spread([model.error for model in best if model]),
                    "test_error": metrics.spread([model.test_error for model in best if model]),
                }
            )
    return found


def _search_summary(own: Search) -> dict[str, Any]:
    """Return what pictures need of a search: its models, parents, and every alpha."""
    weak_jobs = [(job, result) for job, result in own.records if job.kind == "weak"]
    best = search.best(own.state)
    return {
        "seed": own.seed,
        "best": best.number if best else None,
        "models": [
            {
                "number": model.number, "parent": model.parent, "growth": model.growth,
                "arch": str(model.arch), "error": model.error, "test_error": model.test_error,
                "multiply_adds": model.multiply_adds, "parameters": model.parameters,
                "uses": own.state.uses.get(model.number, 0),
            }
            for model in own.state.models
        ],
        "weak": [
            {
                "growth": job.growth, "parent": job.parent, "arch": str(job.arch),
                "alphas": result.info["alphas"],
                "chosen": {
                    slot: [list(edge) for edge in edges]
                    for slot, edges in own.state.chosen.get(job.growth, {}).items()
                },
            }
            for job, result in weak_jobs
            if result.status == "ok"
        ],
        "failed": sum(result.status == "failed" for _, result in own.records),
    }  # fmt: skip


COLUMNS = (
    "method", "seed", "growth", "number", "parent", "arch", "error", "test_error",
    "cross_entropy", "multiply_adds", "parameters", "name", "final",
)  # fmt: skip


def write_models(
    path: pathlib.Path, settings: ForwardSettings, outcomes: Sequence[Outcome]
) -> None:
    """Write every trained model as a row of a table."""
    rows = [
        [
            own.method, own.seed, model.growth, model.number,
            "" if model.parent is None else model.parent, str(model.arch), model.error,
            model.test_error, model.cross_entropy, model.multiply_adds, model.parameters,
            model.name, int(own.final is not None and own.final.name == model.name),
        ]
        for own in outcomes
        for model in own.models
    ]  # fmt: skip
    comments: Mapping[str, object] = {"study": "forward_search", "preset": settings.preset}
    write_csv(path, comments, COLUMNS, rows)


def keep_best(folder: RunFolder, runner: Runner, summary: dict[str, Any]) -> None:
    """Write the best grown network of all seeds, by validation error: best.npz, best_arch.json.

    `forward_search.jobs.load` reads the former, `forward_search.arch.from_json` the latter.
    """
    found = [
        (model.error, model.cross_entropy, own.seed, model, own)
        for own in runner.searches
        if own.method == GROWN and (model := search.best(own.state))
    ]
    if not found:
        return
    *_, model, own = min(found, key=lambda item: item[:3])
    path = own.training.path(model.name)
    runner.buyer.restore([path])
    loaded = jobs.load(path)
    jobs.save(folder.path / "best.npz", *loaded)
    folder.write_json("best_arch.json", model.arch.to_json())
    summary["best"] = {
        "seed": own.seed, "arch": str(model.arch), "error": model.error,
        "test_error": model.test_error, "multiply_adds": model.multiply_adds,
        "parameters": model.parameters,
    }  # fmt: skip

"""The search itself: a pool of models, a queue of jobs, and what each result does to them.

Everything is a function of the settings and of the results in the order of submission. Random
choices are drawn from the seed and the growth's number. So a search that was killed comes back
by taking in the results that are on disk, one after the other.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from spd_jax.forward_search import hull, selection, training
from spd_jax.forward_search.arch import Arch, Edge
from spd_jax.forward_search.jobs import Job
from spd_jax.ledger import Evaluation

CHOICE, SLOTS, RANDOM = 2, 3, 4  # last numbers of seeds, by what is drawn


@dataclasses.dataclass(frozen=True)
class Rules:
    """How a search grows.

    Attributes:
      seed: of its random choices.
      growths: how many children it trains.
      seed_epochs, weak_epochs, child_epochs: of the three phases.
      select: name in `selection.SELECTORS`.
      edges: I_max, operations of a learner.
      band: see `hull.in_band`.
      finalised_slots: how many slots grow at once, drawn at random; 0 is all (the paper's).
      max_depth: learners of a slot after which a model is no parent any more.
      max_multiply_adds: budget that no child may exceed; 0 is none.
      drop_outside: whether a model that once lay outside the band is never a parent again (the
        released code's rule).
      width: growths under way at once, at least 1.
    """

    seed: int = 0
    growths: int = 2
    seed_epochs: int = 30
    weak_epochs: int = 10
    child_epochs: int = 30
    select: str = "alpha"
    edges: int = 3
    band: float = hull.BAND
    finalised_slots: int = 0
    max_depth: int = 8
    max_multiply_adds: float = 0.0
    drop_outside: bool = False
    width: int = 1


@dataclasses.dataclass(frozen=True)
class Grown:
    """A trained model.

    Attributes:
      number: of the job that trained it.
      name: of that job.
      parent: number of the model that it grew from; None is the seed.
      growth: number of the growth; 0 is the seed.
      arch: of the network.
      error: on validation data, lower is better, at least the problem's floor.
      cross_entropy: on validation data, in nats.
      test_error: never used here.
      multiply_adds: of one image or token.
      parameters: of the network.
    """

    number: int
    name: str
    parent: int | None
    growth: int
    arch: Arch
    error: float
    cross_entropy: float
    test_error: float
    multiply_adds: float
    parameters: int


@dataclasses.dataclass(frozen=True)
class State:
    """Where a search is.

    Attributes:
      models: trained so far, in the order of their jobs.
      uses: by number, how often a model was chosen as a parent.
      closed: numbers of models that are no parents any more.
      queue: jobs that wait, the next one first.
      growths: how many were begun.
      chosen: by growth, the edges of its new learners by slot.
    """

    models: tuple[Grown, ...] = ()
    uses: Mapping[int, int] = dataclasses.field(default_factory=dict)
    closed: frozenset[int | None] = frozenset()
    queue: tuple[Job, ...] = ()
    growths: int = 0
    chosen: Mapping[int, Mapping[str, tuple[Edge, ...]]] = dataclasses.field(default_factory=dict)


def begin(seed_arch: Arch, rules: Rules) -> State:
    """Return a search before its first job: the training of the seed."""
    return State(queue=(Job(0, "seed", seed_arch, rules.seed_epochs),))


def stages(select: str) -> tuple[str, ...]:
    """Return the kinds of the jobs of one growth, in their order.

    Args:
      select: name in `selection.SELECTORS`.
    """
    if select == "none":
        return ("child",)
    return ("weak", *([select] if select in selection.RANKED else []), "child")


def number_of(rules: Rules, growth: int, stage: int) -> int:
    """Return the number of a growth's job, which no other job of the search has.

    Growths that are under way at once go through their stages side by side. The number depends
    on nothing that comes later: with more growths, the first ones stay what they were.

    Args:
      rules: of the search.
      growth: from 1.
      stage: place in `stages`; -1 is the child's.
    """
    count = len(stages(rules.select))
    group, place = divmod(growth - 1, rules.width)
    return 1 + (group * count + stage % count) * rules.width + place


def model_of(job: Job, evaluation: Evaluation, floor: float) -> Grown:
    """Return the model that a finished job trained."""
    info = evaluation.info
    return Grown(
        job.number, job.name, job.parent, job.growth, job.arch, max(info["error"], floor),
        info["cross_entropy"], info["test_error"], info["multiply_adds"], info["parameters"],
    )  # fmt: skip


def taken(state: State, job: Job) -> State:
    """Return the state without a job that is being run."""
    return dataclasses.replace(state, queue=tuple(own for own in state.queue if own != job))


def applied(state: State, rules: Rules, problem: Any, job: Job, evaluation: Evaluation) -> State:
    """Return the state after a job's result: a model joins the pool, or a child is queued.

    A failed job ends its growth; nothing else changes.
    """
    if evaluation.status == "failed":
        return state
    if job.kind == "weak" and rules.select in selection.RANKED:
        look = dataclasses.replace(
            job, number=number_of(rules, job.growth, 1), kind=rules.select, epochs=0,
            source=job.name,
        )  # fmt: skip
        return dataclasses.replace(state, queue=(look, *state.queue))
    if job.slots:
        return _with_child(state, rules, problem, job, evaluation)
    models = (*state.models, model_of(job, evaluation, problem.floor()))
    return _forgetful(dataclasses.replace(state, models=models), rules)


def _forgetful(state: State, rules: Rules) -> State:
    """Close models outside the band for good, where the rules say so."""
    if not rules.drop_outside:
        return state
    inside = {model.number for model in band(state, rules)}
    outside = {model.number for model in state.models} - inside
    return dataclasses.replace(state, closed=state.closed | outside)


def _with_child(
    state: State, rules: Rules, problem: Any, job: Job, evaluation: Evaluation | None
) -> State:
    """Queue the child that a weak training, or no training at all, has chosen."""
    arch, counts = job.arch, {slot: len(job.arch.candidates(slot)) for slot in job.slots}
    measured = evaluation.info["scores"] if evaluation else None
    scores = selection.scores_by(rules.select, measured, [rules.seed, job.growth, RANDOM], counts)
    chosen = _chosen(rules, problem, job, scores)
    if not chosen:  # nothing fits the budget: the parent has come to its end
        return dataclasses.replace(state, closed=state.closed | {job.parent})
    grown = arch.grown(chosen)
    epochs = rules.child_epochs + (0 if evaluation else _weak_epochs(rules, problem, job, grown))
    source = job.name if job.kind == "weak" and evaluation else job.source
    number = number_of(rules, job.growth, -1)
    child = Job(number, "child", grown, epochs, source, job.parent, job.growth)
    return dataclasses.replace(
        state,
        queue=(child, *state.queue),
        chosen={**state.chosen, job.growth: chosen},
    )


def _chosen(
    rules: Rules, problem: Any, job: Job, scores: Mapping[str, Any]
) -> dict[str, tuple[Edge, ...]]:
    """Return the edges of the new learners by slot; slots whose edges do not fit are left out."""
    chosen: dict[str, tuple[Edge, ...]] = {}
    for slot in _finalised(rules, job):

        def fits(edges: tuple[Edge, ...], slot: str = slot) -> bool:
            return _fits(rules, problem, job.arch.grown({**chosen, slot: edges}))

        edges = selection.choose(job.arch.candidates(slot), scores[slot], rules.edges, fits)
        if edges:
            chosen[slot] = edges
    return chosen


def _finalised(rules: Rules, job: Job) -> tuple[str, ...]:
    """Return the slots that really grow, in their order."""
    if not 0 < rules.finalised_slots < len(job.slots):
        return job.slots
    generator = np.random.default_rng([rules.seed, job.growth, SLOTS])
    kept = generator.permutation(len(job.slots))[: rules.finalised_slots]
    return tuple(job.slots[place] for place in sorted(kept))


def _fits(rules: Rules, problem: Any, arch: Arch) -> bool:
    """Return whether a network keeps within the budget."""
    if not rules.max_multiply_adds:
        return True
    return training.recorded(problem.model, arch).multiply_adds <= rules.max_multiply_adds


def _weak_epochs(rules: Rules, problem: Any, job: Job, grown: Arch) -> int:
    """Return the child's epochs that cost what the weak training would have."""
    weak = training.recorded(problem.model, job.arch, job.slots).multiply_adds
    child = training.recorded(problem.model, grown).multiply_adds
    return round(rules.weak_epochs * weak / child)


def band(state: State, rules: Rules) -> list[Grown]:
    """Return the models on the hull or in the band above it."""
    costs = [model.multiply_adds for model in state.models]
    errors = [model.error for model in state.models]
    return [state.models[place] for place in hull.in_band(costs, errors, rules.band)]


def parents(state: State, rules: Rules) -> list[Grown]:
    """Return the models that may grow."""
    return [
        model
        for model in band(state, rules)
        if model.number not in state.closed and model.arch.depth < rules.max_depth
    ]


def refilled(state: State, rules: Rules, problem: Any) -> State:
    """Choose parents until so many jobs wait, or no growth is left to begin.

    Args:
      state: of the search.
      rules: of the search.
      problem: networks and data.
    """
    while len(state.queue) < rules.width and state.growths < rules.growths:
        eligible = parents(state, rules)
        if not eligible:
            return state
        growth = state.growths + 1
        generator = np.random.default_rng([rules.seed, growth, CHOICE])
        uses = [state.uses.get(model.number, 0) for model in eligible]
        costs = [model.multiply_adds for model in eligible]
        parent = eligible[hull.choose_parent(costs, uses, generator)]
        counted = {**state.uses, parent.number: state.uses.get(parent.number, 0) + 1}
        state = dataclasses.replace(state, uses=counted, growths=growth)
        weak = Job(
            number_of(rules, growth, 0), "weak", parent.arch, rules.weak_epochs, parent.name,
            parent.number, growth, parent.arch.slots,
        )  # fmt: skip
        if rules.select == "none":
            state = _with_child(state, rules, problem, weak, None)
        else:
            state = dataclasses.replace(state, queue=(*state.queue, weak))
    return state


def best(models: Iterable[Grown]) -> Grown | None:
    """Return the model with the least validation error, cross-entropy among equals.

    A seed, which everything begins with, is not looked at; None where there is nothing else.
    """
    found = [model for model in models if model.growth > 0]
    return min(
        found, key=lambda model: (model.error, model.cross_entropy, model.number), default=None
    )

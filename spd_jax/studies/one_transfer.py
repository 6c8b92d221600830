"""One seed of a carry-over: what every method says of a target's motifs, from a source's truths.

Truths of two tables are compared by their ranks, or by their standard scores, within each table:
accuracies of one data set say nothing of those of another.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from spd_jax import archs as batches
from spd_jax import files
from spd_jax.axes import Archs
from spd_jax.dish import DishConfig, KnownMotifs
from spd_jax.ground_truth.lookup import TruthTable
from spd_jax.problems import Problem
from spd_jax.studies import machine, saved_fits
from spd_jax.studies.run_folder import RunFolder
from spd_jax.surrogates import protocol, proxies
from spd_jax.surrogates.carried_dish import CarriedDish
from spd_jax.surrogates.compose import FrozenDish
from spd_jax.surrogates.costs import Cost
from spd_jax.surrogates.dish_surrogate import DishSurrogate, FittedDish
from spd_jax.surrogates.protocol import Surrogate
from spd_jax.surrogates.proxies import Proxy
from spd_jax.surrogates.regressors import GaussianProcess, RandomForest

SAVE_EVERY = 5  # outer steps between two saved states
LEAST_HELD_OUT = 5  # motifs that no number of known truths may leave fewer of
LEAST_TO_LEARN = 3  # known truths of the target that a regressor needs

Predictions = dict[int, dict[str, np.ndarray]]  # by number of known truths and method


@dataclasses.dataclass(frozen=True)
class Transfer:
    """From which table to which.

    Attributes:
      name: "all", or the group of motifs that the target is cut to.
      source_problem: of the source's motifs.
      source: what is known.
      problem: of the target's motifs.
      target: what is predicted.
    """

    name: str
    source_problem: Problem
    source: TruthTable
    problem: Problem
    target: TruthTable

    def embedded(self) -> Archs | None:
        """Return the source's archs, or their nearest relatives, in the target's space, or None."""
        space = self.source_problem.space.name
        if space == self.problem.space.name:
            return self.source.cells.archs
        embed = self.problem.embeddings.get(space)
        return None if embed is None else embed(self.source.cells.archs)

    def sizes(self, known: tuple[int, ...]) -> tuple[int, ...]:
        """Return the numbers of target truths that leave enough motifs to predict, rising."""
        most = len(self.target) - LEAST_HELD_OUT
        return tuple(size for size in sorted(set(known)) if size <= most)

    def order(self, seed: int) -> np.ndarray:
        """Return the target's indices in the order in which a seed buys their truths `[M]`."""
        return np.random.default_rng(seed).permutation(len(self.target))


@dataclasses.dataclass(frozen=True)
class Methods:
    """What the methods are made of.

    Attributes:
      config: of the dish; its outer steps are those on the source.
      hidden_size: width of the motif-network.
      more_steps: outer steps on source and target together, at most as many.
      proxy_hidden_size: width of the network that proxies look at.
    """

    config: DishConfig
    hidden_size: int
    more_steps: int
    proxy_hidden_size: int

    def dish(self, problem: Problem) -> DishSurrogate:
        """Return the dish in the motif-network of a problem."""
        return DishSurrogate(
            problem.family(self.hidden_size), self.config, sharding=machine.motif_sharding()
        )


def comparable(archs: Archs, scores: np.ndarray, config: DishConfig) -> KnownMotifs:
    """Return motifs with truths that can be compared with those of another table.

    Ranks, shifted and scaled to mean 0 and standard deviation 1, under `targets="ranks"`; standard
    scores under "values". Failed motifs are left out.
    """
    known = KnownMotifs.of(archs, scores).targets(config)
    truth = known.truth.astype(np.float64)
    return KnownMotifs(known.archs, ((truth - truth.mean()) / truth.std()).astype(np.float32))


def fit_source(folder: RunFolder, transfer: Transfer, seed: int, methods: Methods) -> FittedDish:
    """Fit the dish of a seed on the source, go on with it, or load it from the folder.

    It learns in the motif-network of the source's problem.
    """
    source = transfer.source
    known = comparable(source.cells.archs, source.scores, methods.config)
    surrogate = methods.dish(transfer.source_problem)
    name = f"{transfer.name}_seed{seed}_source"
    fitted: Any = saved_fits.fit(
        folder, name, surrogate, jax.random.key(seed), known.archs, known.truth, every=SAVE_EVERY
    )
    return fitted


def carried(transfer: Transfer, fitted: FittedDish, methods: Methods) -> FittedDish:
    """Return a fitted dish in the target's motif-network, after it was saved and loaded.

    Raises:
      UserError: that network has other parameters.
    """
    surrogate = methods.dish(transfer.problem)
    return protocol.from_bytes(protocol.to_bytes(fitted.save), surrogate.load, "the learned dish")


def predict(
    folder: RunFolder,
    transfer: Transfer,
    seed: int,
    sizes: tuple[int, ...],
    methods: Methods,
    listen: Callable[[str], None] = lambda note: None,
) -> tuple[Predictions, dict[str, float]]:
    """Return what every method says of all motifs of the target.

    What learns from no truth of the target stands below 0 known truths.

    Args:
      folder: of the run; long fits are saved in it.
      transfer: from which table to which.
      seed: of the dishes, and of the order in which the target's truths become known.
      sizes: numbers of them.
      methods: settings.
      listen: told which fit begins.

    Returns:
      Predictions `[M]` by number of truths and method, in units of the method's own; and seconds
      by method, those of all its fits, compiling apart.
    """
    key, archs = jax.random.key(seed), transfer.target.cells.archs
    seconds = {"compile": 0.0}
    listen("source")
    with machine.timed(seconds, "dish"):
        fitted = carried(transfer, fit_source(folder, transfer, seed, methods), methods)
        found: Predictions = {size: {} for size in sorted({0, *sizes})}
        found[0]["dish"] = fitted.predict(archs)
    for name, surrogate in without_truth(transfer, methods).items():
        found[0][name] = surrogate.prepare(key).predict(archs)
    reading = SourceReading.of(transfer)
    found[0] |= {} if reading is None else {"source_table": reading(archs)}
    for size in found:
        listen(f"{size} truths")
        known = _known(transfer, seed, size, methods)
        if size:
            assert known is not None
            with machine.timed(seconds, f"dish_{size}"):
                own = _go_on(folder, transfer, seed, size, known, fitted, methods)
                found[size]["dish"] = own.predict(archs)
        for name, (rival, learned) in _learners(transfer, known, methods, reading).items():
            values = rival.fit(key, learned.archs, learned.truth).predict(archs)
            found[size][name] = np.asarray(values, float)
    return found, dict(seconds)


def _known(transfer: Transfer, seed: int, size: int, methods: Methods) -> KnownMotifs | None:
    """Return the first `size` motifs of the target that a seed knows."""
    if not size:
        return None
    chosen = np.sort(transfer.order(seed)[:size])
    archs = batches.take(transfer.target.cells.archs, chosen)
    return comparable(archs, transfer.target.scores[chosen], methods.config)


def _joined(transfer: Transfer, known: KnownMotifs | None, methods: Methods) -> KnownMotifs | None:
    """Return the source's motifs and the known ones of the target; the latter alone if they must.

    They must where the source's motifs cannot be put into the target's network.
    """
    embedded = transfer.embedded()
    if embedded is None:
        return known
    source = comparable(embedded, transfer.source.scores, methods.config)
    return source if known is None else source.joined(known)


def _go_on(
    folder: RunFolder,
    transfer: Transfer,
    seed: int,
    size: int,
    known: KnownMotifs,
    fitted: FittedDish,
    methods: Methods,
) -> FittedDish:
    """Fit a carried dish further, on source and target together."""
    surrogate = CarriedDish(methods.dish(transfer.problem), fitted.state, methods.more_steps)
    joined = _joined(transfer, known, methods)
    assert joined is not None
    name = f"{transfer.name}_seed{seed}_known{size}"
    own: Any = saved_fits.fit(
        folder, name, surrogate, jax.random.key(seed), joined.archs, joined.truth, every=SAVE_EVERY
    )
    return own


def without_truth(transfer: Transfer, methods: Methods) -> dict[str, protocol.ScoreFree]:
    """Return what looks at no truth at all, by name: the dish before it learned, costs, proxies."""
    problem = transfer.problem
    found: dict[str, Any] = {"dish_untrained": FrozenDish(methods.dish(problem))}
    found |= {name: Cost(name, cost) for name, cost in problem.costs.items()}
    if problem.proxies is not None:
        return found | dict(problem.proxies(methods.hidden_size))
    wide = problem.family(methods.proxy_hidden_size)
    states = None if problem.hidden_states is None else problem.hidden_states(wide)
    scale = methods.proxy_hidden_size**-0.5
    return found | {name: Proxy(name, wide, states, init_scale=scale) for name in proxies.MEASURES}


def _learners(
    transfer: Transfer,
    known: KnownMotifs | None,
    methods: Methods,
    reading: "SourceReading | None",
) -> dict[str, tuple[Surrogate, KnownMotifs]]:
    """Return the rivals that learn, each with what it learns from.

    Plain names learn from source and target together, `<name>_target` from the target alone, and
    "reading_process" from the target's truths with the source's table as one more feature.
    """
    problem, vectors = transfer.problem, transfer.problem.strongest_vectors
    joined = _joined(transfer, known, methods)
    found: dict[str, tuple[Surrogate, KnownMotifs]] = {}
    if joined is not None and len(joined) >= LEAST_TO_LEARN:
        rivals: dict[str, Surrogate] = {
            "gaussian_process": GaussianProcess(vectors),
            "random_forest": RandomForest(vectors),
            **problem.rivals,
        }
        found |= {name: (rival, joined) for name, rival in rivals.items()}
    if known is None or len(known) < LEAST_TO_LEARN:
        return found
    found["gaussian_process_target"] = GaussianProcess(vectors), known
    if reading is not None and np.isfinite(reading(transfer.target.cells.archs)).all():

        def beside(archs: Archs) -> np.ndarray:
            return np.column_stack([vectors(archs), reading(archs)])

        found["reading_process"] = GaussianProcess(beside), known
    return found


@dataclasses.dataclass(frozen=True)
class SourceReading:
    """The simplest rival: what the source's table itself says of a motif.

    A motif that the table holds, itself or its relative (`Problem.embeddings`), gets its score
    there. Another one is interpolated over the problem's coordinate, among the motifs of its
    group, or, where the source has none of that group, in each of the source's groups, of which
    the mean is taken. Without a coordinate it is NaN.

    Attributes:
      problem: of the motifs.
      scores: of the source's motifs by name.
      lines: by group the coordinates and scores of its motifs, in order of coordinate.
    """

    problem: Problem
    scores: Mapping[str, float]
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]]

    @classmethod
    def of(cls, transfer: Transfer) -> "SourceReading | None":
        """Return the reading of a source; None where it can say nothing of the target's motifs."""
        archs, problem = transfer.embedded(), transfer.problem
        if archs is None:
            return None
        finite = np.isfinite(transfer.source.scores)
        archs, truth = batches.take(archs, finite), transfer.source.scores[finite]
        names = [problem.space.encode(arch) for arch in batches.unstack(archs)]
        lines = {}
        if problem.coordinate is not None:
            places, groups = problem.coordinate(archs), groups_of(problem, archs)
            for group in dict.fromkeys(groups):
                own = np.flatnonzero(np.array(groups) == group)
                own = own[np.argsort(places[own], kind="stable")]
                lines[group] = places[own], truth[own]
        found = cls(problem, dict(zip(names, truth.tolist(), strict=True)), lines)
        return found if np.isfinite(found(transfer.target.cells.archs)).any() else None

    def __call__(self, archs: Archs) -> np.ndarray:
        """Return what the table says of motifs `[M]`, float64, in the source's unit."""
        names = [self.problem.space.encode(arch) for arch in batches.unstack(archs)]
        groups = groups_of(self.problem, archs)
        coordinate = self.problem.coordinate
        places = np.full(len(names), np.nan) if coordinate is None else coordinate(archs)
        return np.array(
            [
                self.scores[name] if name in self.scores else self._between(group, place)
                for name, group, place in zip(names, groups, places, strict=True)
            ]
        )

    def _between(self, group: str, place: float) -> float:
        if not self.lines:
            return np.nan
        lines = [self.lines[group]] if group in self.lines else list(self.lines.values())
        return float(np.mean([np.interp(place, *line) for line in lines]))


def groups_of(problem: Problem, archs: Archs) -> list[str]:
    """Return the group of each motif `[M]`; "all" where the problem has no groups."""
    if problem.groups is None:
        return ["all"] * batches.count(archs)
    return problem.groups(archs)


def to_json(predictions: Predictions) -> dict[str, Any]:
    """Return predictions as plain data; what is not finite becomes None."""
    found: dict[str, Any] = files.to_json(predictions)
    return found


def from_json(content: Mapping[str, Any]) -> Predictions:
    """Read what `to_json` wrote; None becomes NaN."""
    return {
        int(size): {str(name): np.array(values, float) for name, values in own.items()}
        for size, own in content.items()
    }

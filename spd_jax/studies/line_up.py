"""Who takes part in a league, and its settings.

What a problem offers decides: structure, paths, tokens, costs, proxies, and whether the table has
learning curves. Nobody asks which problem it is.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from spd_jax import archs as batches
from spd_jax.axes import Archs
from spd_jax.dish import DishConfig
from spd_jax.errors import UserError
from spd_jax.ground_truth.lookup import TruthTable
from spd_jax.problems import Problem
from spd_jax.studies import machine
from spd_jax.studies.settings import setting
from spd_jax.surrogates import proxies
from spd_jax.surrogates.bananas import Bananas
from spd_jax.surrogates.columns import Calibrated, ColumnRegressor, MeanRank, RankTargets
from spd_jax.surrogates.compose import Averaged, FrozenDish, Stacked
from spd_jax.surrogates.costs import Cost
from spd_jax.surrogates.dish_surrogate import DishSurrogate
from spd_jax.surrogates.learning_curves import FEWEST_POINTS, CurveRegression, PowerLaw
from spd_jax.surrogates.partial_training import Lookup, PartialTraining
from spd_jax.surrogates.protocol import Surrogate, ToVectors
from spd_jax.surrogates.proxies import Proxy
from spd_jax.surrogates.regressors import GaussianProcess, Mlp, RandomForest, SupportVectors
from spd_jax.surrogates.tuned import Tuned

TOP = 10  # of precision@10: at least so many motifs are held out
NAO_EPOCHS = 300  # of 1,000 published: a quarter of the time, the same tau on the tuning cells
EARLY_STOPPING_FROM = 8  # known motifs: half of fewer decides nothing about when to stop
Everyone = dict[tuple[str, int], Surrogate]  # by name and number of known ground truths


@dataclasses.dataclass(frozen=True)
class LeagueSettings:
    """Settings of a league."""

    known: tuple[int, ...] = setting(
        (5, 10, 20, 40, 80), "numbers of ground truths to learn from, 3 or more each"
    )
    splits: int = setting(10, "splits of the table", at_least=1, grows=True)
    held_out: int = setting(200, "most motifs that a split predicts", at_least=TOP)
    seed: int = setting(0, "of splits and fits", at_least=0)
    surrogates: tuple[str, ...] = setting((), "who takes part; empty: everyone", free=True)
    dish_preset: str = setting(
        "best", "settings of the dish, which flags change", flag="preset", free=True
    )
    dish: DishConfig = setting(DishConfig(), "", by_preset=True)
    hidden_size: int = setting(3, "width of the dish's network", at_least=1, by_preset=True)
    held_out_share: float = setting(
        0.0,
        f"share of the known motifs, of {EARLY_STOPPING_FROM} or more, that tells the dish when "
        "to stop",
        at_least=0,
        at_most=0.9,
    )
    stacked_folds: int = setting(2, "dishes that a stack fits besides the last", at_least=2)
    proxy_hidden_size: int = setting(
        16, "width of the network that proxies of any network measure", at_least=1
    )
    full_size_proxies: bool = setting(
        False, "also the proxies of full-size networks, which take seconds for each motif"
    )


def line_up(
    problem: Problem,
    table: TruthTable,
    settings: LeagueSettings,
    faces: Mapping[str, Callable[[DishSurrogate], Surrogate]] = MappingProxyType({}),
) -> Everyone:
    """Return who takes part, by name and number of known ground truths.

    Args:
      problem: whose surrogates they are.
      table: motifs and their ground truths.
      settings: how, and who.
      faces: the dish as other libraries call it, by name: they return a surrogate that should
        predict what the dish does. They take part where they are asked for by name.

    Raises:
      UserError: somebody was asked for whom nobody knows.
    """
    dish = DishSurrogate(
        problem.family(settings.hidden_size), settings.dish, settings.held_out_share,
        machine.motif_sharding(),
    )  # fmt: skip
    everyone: Everyone = {
        (name, 0): surrogate
        for name, surrogate in without_truth(problem, table, settings, dish).items()
    }
    for known in sorted(set(settings.known)):
        entries = learners(problem, table, settings, dish, known)
        everyone |= {(name, known): surrogate for name, surrogate in entries.items()}
        own = _dish(settings, dish, known)
        asked_faces = [name for name in faces if name in settings.surrogates]
        everyone |= {(name, known): faces[name](own) for name in asked_faces}
    names = list(dict.fromkeys([*(name for name, _ in everyone), *faces]))
    unknown = set(settings.surrogates) - set(names)
    if unknown:
        raise UserError(f"surrogates={','.join(sorted(unknown))}: give some of {','.join(names)}")
    asked = settings.surrogates or names
    return {place: surrogate for place, surrogate in everyone.items() if place[0] in asked}


def without_truth(
    problem: Problem, table: TruthTable, settings: LeagueSettings, dish: DishSurrogate
) -> dict[str, Surrogate]:
    """Return the surrogates that use no ground truth, by name."""
    entries: dict[str, Surrogate] = {"dish_untrained": FrozenDish(dish)}
    if problem.second_dish is not None:
        second = FrozenDish(problem.second_dish)
        entries["second_untrained"] = second
        entries["dishes_untrained"] = MeanRank((FrozenDish(dish), second))
    entries |= {name: Cost(name, cost) for name, cost in problem.costs.items()}
    curves, units = _lookup(problem, table), measured_units(table)
    for unit in units[:2]:
        entries[f"partial_{unit}"] = PartialTraining(curves, unit, table.budget)
    beginning = _beginning(units, table.budget)
    if len(beginning) >= FEWEST_POINTS:
        law = PowerLaw(curves, beginning, table.budget)
        entries[f"power_law_{beginning[-1]}"] = law
    entries |= small_proxies(problem, settings)
    return entries | (dict(problem.full_size_proxies) if settings.full_size_proxies else {})


def small_proxies(problem: Problem, settings: LeagueSettings) -> dict[str, Surrogate]:
    """Return the proxies that look at motif-networks: the problem's, else those of any network."""
    if problem.proxies is not None:
        return dict(problem.proxies(settings.hidden_size))
    wide = problem.family(settings.proxy_hidden_size)
    states = None if problem.hidden_states is None else problem.hidden_states(wide)
    scale = settings.proxy_hidden_size**-0.5
    return {name: Proxy(name, wide, states, init_scale=scale) for name in proxies.MEASURES}


def measured_units(table: TruthTable) -> tuple[int, ...]:
    """Return the units below the budget after which the table knows scores, in rising order.

    None where a motif has no curve: those of failed motifs may be short.
    """
    if not all(table.curves):
        return ()
    known = {
        unit
        for curve in table.curves
        for unit, score in enumerate(curve, 1)
        if math.isfinite(score) and unit < table.budget
    }
    return tuple(sorted(known))


def _beginning(units: tuple[int, ...], budget: int) -> tuple[int, ...]:
    """Return the measured units of the first half of a training: what is extrapolated from."""
    return tuple(unit for unit in units if 2 * unit <= budget)


def learners(
    problem: Problem,
    table: TruthTable,
    settings: LeagueSettings,
    dish: DishSurrogate,
    known: int,
) -> dict[str, Surrogate]:
    """Return the surrogates that learn from `known` ground truths, by name."""
    dish = _dish(settings, dish, known)
    frozen = FrozenDish(dish)
    forest = RandomForest(problem.strongest_vectors)
    process = GaussianProcess(problem.strongest_vectors)
    # Two folds of three motifs would leave a dish one to learn from.
    folds = max(settings.stacked_folds, 3 if known < 4 else 2)
    entries: dict[str, Surrogate] = {
        "dish": dish,
        "gaussian_process_ranks": RankTargets(process),
        "averaged": Averaged(dish, process),
        "stacked": Stacked(dish, forest, folds),
        "stacked_untrained": Stacked(frozen, forest),
    }
    if problem.second_dish is not None:
        entries["columns_untrained"] = columns(problem, frozen)
        entries["columns"] = columns(problem, dish, folds)
        entries["dishes_averaged"] = judges_and_process(problem, frozen)
    entries |= regressors(problem)
    units = _beginning(measured_units(table), table.budget)
    if units:
        vectors = tuned(SupportVectors(problem.strongest_vectors), penalty=(1.0, 10.0))
        regression = CurveRegression(_lookup(problem, table), units, table.budget, vectors)
        entries[f"curve_regression_{units[-1]}"] = regression
    if problem.tokens is not None:
        from spd_jax.surrogates.nao import NaoConfig, NaoPredictor  # brings flax

        config = NaoConfig(epochs=NAO_EPOCHS, held_out_share=0.0)
        entries["nao"] = NaoPredictor(problem.tokens, config)
    return entries | dict(problem.rivals)


def _dish(settings: LeagueSettings, dish: DishSurrogate, known: int) -> DishSurrogate:
    """Return the dish that learns from so many ground truths: few tell it not when to stop."""
    share = settings.held_out_share if known >= EARLY_STOPPING_FROM else 0.0
    return dataclasses.replace(dish, held_out_share=share)


def judges_and_process(problem: Problem, dish: FrozenDish) -> Averaged:
    """Return the mean of untrained dishes and of `columns` on them.

    It begins as the dishes, and goes on learning.
    """
    second = () if problem.second_dish is None else (FrozenDish(problem.second_dish),)
    return Averaged(Calibrated((dish, *second)), columns(problem, dish))


def columns(problem: Problem, dish: Surrogate, folds: int = 2) -> ColumnRegressor:
    """Return a Gaussian process on ranks that sees what dishes and costs say of a motif.

    Args:
      problem: brings its second dish, untrained, and its costs, where it has them.
      dish: the first column.
      folds: see `ColumnRegressor`.
    """
    second = () if problem.second_dish is None else (FrozenDish(problem.second_dish),)
    costs = tuple(Cost(name, cost) for name, cost in problem.costs.items())
    process = RankTargets(GaussianProcess(problem.strongest_vectors))
    return ColumnRegressor((dish, *second, *costs), process, folds)


def regressors(problem: Problem) -> dict[str, Surrogate]:
    """Return the regressors on vectors that know nothing of networks, by name.

    Each chooses its settings by cross-validation within the motifs that it is fitted on.
    """
    encodings: dict[str, ToVectors] = {"": problem.features.features}
    if problem.structure is not None:
        encodings["_structure"] = problem.structure.structure
    if problem.paths is not None:
        encodings["_paths"] = problem.paths.paths
    entries: dict[str, Surrogate] = {}
    for suffix, vectors in encodings.items():
        forest, process = RandomForest(vectors), GaussianProcess(vectors)
        entries |= {
            f"random_forest{suffix}": tuned(forest, feature_share=(1.0, 1 / 3)),
            f"gaussian_process{suffix}": tuned(process, kernel=("rbf", "matern")),
            f"mlp{suffix}": tuned(Mlp(vectors), l2=(1.0, 0.1, 10.0)),
        }
    if problem.paths is not None:
        entries["bananas"] = Bananas(problem.paths.paths)
    return entries


def tuned(regressor: Any, **choices: tuple[Any, ...]) -> Tuned:
    """Return a regressor that chooses one of its fields by cross-validation; see `Tuned`."""
    ((name, values),) = choices.items()
    return Tuned(tuple(dataclasses.replace(regressor, **{name: value}) for value in values))


def _lookup(problem: Problem, table: TruthTable) -> Lookup:
    """Return a lookup of learning curves in a table."""
    by_name = dict(zip(table.cells.names, table.curves, strict=True))

    def lookup(archs: Archs, units: int) -> list[tuple[float, ...]]:
        del units
        return [by_name[problem.space.encode(arch)] for arch in batches.unstack(archs)]

    return lookup

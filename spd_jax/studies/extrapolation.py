"""The sigmoid-slope experiment (Rawal et al., section 4.1): a peak that nobody was shown.

The dish, its untrained self, the paper's MLP control and a Gaussian process know the scores
of slopes in a training interval alone, and predict those of all slopes of a table. Every seed
draws its own known slopes, and chooses the dish's settings on them (appendix A.1).

Or all of them learn from a whole table of another data set (ours), and that table, read
directly, is one more rival.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from spd_jax import dish, metrics
from spd_jax.dish import DishConfig
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup
from spd_jax.ground_truth.lookup import TruthTable
from spd_jax.ground_truth.purchase import GroundTruth
from spd_jax.ledger import Ledger
from spd_jax.ledger import table as ledger_table
from spd_jax.problems import Problem
from spd_jax.studies import events, machine, one_split, predictions, table_purchase
from spd_jax.studies import settings as settings_lib
from spd_jax.studies.one_split import Split
from spd_jax.studies.predictions import FIGURES, METHODS, slopes_of
from spd_jax.studies.run_folder import RunFolder, open_folder
from spd_jax.studies.settings import setting
from spd_jax.surrogates.dish_surrogate import DishSurrogate

FAR = 1e6  # no slope is larger


@dataclasses.dataclass(frozen=True)
class ExtrapolationSettings:
    """Settings of the experiment."""

    seed: int = setting(0, "first seed: of the split, the dishes and the rivals", at_least=0)
    num_seeds: int = setting(5, "seeds to run", at_least=1, grows=True)
    train_slope_min: float = setting(0.37, "smallest slope to train on", at_least=-FAR, at_most=FAR)
    train_slope_max: float = setting(2.01, "largest slope to train on", at_least=-FAR, at_most=FAR)
    num_train: int = setting(30, "known slopes of a seed", at_least=2)
    preset: str = setting("best", "settings of the dish, which flags change")
    dish: DishConfig = setting(DishConfig(), "", by_preset=True)
    hidden_sizes: tuple[int, ...] = setting(
        (1,),
        "widths of the motif-network to choose from",
        at_least=1,
        by_preset=True,
        flag="hidden_size",
    )
    inner_learning_rates: tuple[float, ...] = setting(
        (0.01,), "inner rates to choose from; none: that of the dish", by_preset=True
    )
    held_out_share: float = setting(
        0.0,
        "share of the known slopes that early stopping holds out",
        at_least=0,
        at_most=0.9,
        by_preset=True,
    )


@dataclasses.dataclass(frozen=True)
class ComputedTable:
    """How the table of ground truths is computed.

    Attributes:
      slopes: texts of the slopes in it.
      dataset: one of the problem's ground truths.
      seeds: trainings of every slope.
      epochs: of a training: the budget that is bought.
      data_dir: folder of the data; None downloads them.
    """

    slopes: tuple[str, ...]
    dataset: str = "mnist"
    seeds: int = 2
    epochs: int = 50
    data_dir: str | None = None


def draw_split(
    table: TruthTable, seed: int, settings: ExtrapolationSettings, source: TruthTable | None = None
) -> Split:
    """Draw the known slopes of a seed; raises UserError when the interval has too few.

    All slopes of `source`, in order, take their place where there is one.
    """
    slopes = slopes_of(table.cells.names)
    left = np.flatnonzero(slopes < settings.train_slope_min)
    if source is not None:
        inside = _inside(slopes, str(table.source), dataclasses.replace(settings, num_train=2))
        return Split(source, np.arange(0), np.arange(len(slopes)), left, inside)
    inside = _inside(slopes, str(table.source), settings)
    order = np.random.default_rng(seed).permutation(inside)
    train = np.sort(order[: settings.num_train])
    others = np.setdiff1d(np.arange(len(slopes)), train)
    return Split(table.take(train), train, others, left, inside)


def _inside(slopes: np.ndarray, source: str, settings: ExtrapolationSettings) -> np.ndarray:
    """Return the indices of the slopes in the training interval; refuse too few of them."""
    low, high = settings.train_slope_min, settings.train_slope_max
    inside = np.flatnonzero((slopes >= low) & (slopes <= high))
    if len(inside) < settings.num_train:
        raise UserError(
            f"{source} has {len(inside)} slopes in [{low}, {high}], but "
            f"num_train={settings.num_train} are asked for: ask for fewer or widen the interval"
        )
    return inside


def run(
    problem: Problem,
    table: TruthTable | ComputedTable,
    settings: ExtrapolationSettings,
    workdir: str | os.PathLike[str],
    *,
    source: TruthTable | None = None,
    listen: events.Listener = events.ignore,
) -> dict[str, Any]:
    """Run every seed that the folder does not hold yet, and write the run's files.

    Args:
      problem: the sigmoid-slope space.
      table: ground truths; or how to compute them into the folder, first.
      settings: of the experiment.
      workdir: the run folder.
      source: table of another data set, all of which is learned from in place of known slopes.
      listen: told what happens.

    Returns:
      What summary.json holds.

    Raises:
      UserError: settings or a table with which nothing can be run, or a folder of another run.
    """
    settings_lib.check(settings)
    candidates = candidates_of(problem, settings)
    source = None if source is None else in_order(source)
    if isinstance(table, TruthTable):
        table = in_order(table)
        name = _data_of(table, problem)
    else:
        name = table.dataset
    _check_table(table, settings, source)
    config, grows = _identity(table, settings, source)
    with open_folder(workdir, config, grows) as folder:
        if isinstance(table, ComputedTable):
            table = in_order(compute_table(folder, problem, table, listen))
        seeds = range(settings.seed, settings.seed + settings.num_seeds)
        splits = {seed: draw_split(table, seed, settings, source) for seed in seeds}
        results = _run_seeds(folder, table, splits, candidates, listen)
        origin = "" if source is None else _data_of(source, problem)
        summary = {"dataset": name, "source": origin, **summarise(table, settings, results)}
        predictions.write_curves(folder, table, results)
        _write_samples(folder, table, splits, candidates, results)
        folder.write_json("summary.json", summary)
    return summary


def _check_table(
    table: TruthTable | ComputedTable, settings: ExtrapolationSettings, source: TruthTable | None
) -> None:
    """Refuse settings that do not fit a table, before anything is written or trained."""
    if isinstance(table, TruthTable):
        draw_split(table, settings.seed, settings, source)
    else:
        least = settings if source is None else dataclasses.replace(settings, num_train=2)
        _inside(slopes_of(table.slopes), f"the table of {table.dataset}", least)


def _identity(
    table: TruthTable | ComputedTable, settings: ExtrapolationSettings, source: TruthTable | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what decides a run's results, and the names of what may grow when it goes on."""
    config = {"study": "extrapolation", **_described(settings)}
    grows = settings_lib.growing(settings)
    if source is not None:
        config["source"] = source.identity
    if isinstance(table, TruthTable):
        return config | {"table": table.identity}, grows
    described = {"slopes": table.slopes, "dataset": table.dataset, "epochs": table.epochs}
    config |= {"computed": settings_lib.to_json(described), "ground_truth_seeds": table.seeds}
    return config, (*grows, "ground_truth_seeds")


def _data_of(table: TruthTable, problem: Problem) -> str:
    """Return the data set that a table's file is called after."""
    return table.source.stem.removesuffix(f"_{problem.space.name}")


def _write_samples(
    folder: RunFolder,
    table: TruthTable,
    splits: Mapping[int, Split],
    candidates: Mapping[str, DishSurrogate],
    results: Mapping[int, Mapping[str, Any]],
) -> None:
    """Write the samples of the first seed's dish, before and after learning."""
    seed, first = next(iter(results.items()))
    surrogate = candidates[first["setting"]]
    fitted = one_split.find_dish(folder, seed, table, splits[seed], surrogate)
    start = surrogate.start(jax.random.key(seed))
    predictions.write_samples(folder, start.data, fitted.state.data)


def in_order(table: TruthTable) -> TruthTable:
    """Return a table in order of slope."""
    return table.take(np.argsort(slopes_of(table.cells.names), kind="stable"))


def candidates_of(problem: Problem, settings: ExtrapolationSettings) -> dict[str, DishSurrogate]:
    """Return the dishes that a seed chooses from, by name."""
    if not settings.hidden_sizes:
        raise UserError("hidden_sizes is empty: give at least one width of the motif-network")
    found = {
        f"hidden {hidden}, inner rate {rate}": DishSurrogate(
            problem.family(hidden),
            dataclasses.replace(settings.dish, inner_learning_rate=rate),
            settings.held_out_share,
            machine.motif_sharding(),
        )
        for hidden in settings.hidden_sizes
        for rate in _rates(settings)
    }
    for surrogate in found.values():
        dish.check(surrogate.config)
    return found


def _rates(settings: ExtrapolationSettings) -> tuple[Any, ...]:
    """Return the inner rates to choose from, each a number or one for every member."""
    return settings.inner_learning_rates or (settings.dish.inner_learning_rate,)


def _described(settings: ExtrapolationSettings) -> dict[str, Any]:
    """Return the settings; the inner rate is one of the candidates', not the dish's own."""
    described = settings_lib.described(settings)
    del described["dish"]["inner_learning_rate"]
    return described | {"inner_learning_rates": settings_lib.to_json(_rates(settings))}


def compute_table(
    folder: RunFolder, problem: Problem, settings: ComputedTable, listen: events.Listener
) -> TruthTable:
    """Train the table of all slopes into the run folder, or go on with it, and return it."""
    task = problem.ground_truth(settings.dataset).task(
        settings.data_dir, str(folder.path / table_purchase.CHECKPOINTS)
    )
    path = folder.path / "ground_truth.csv"
    with Ledger(folder.path / "ledger.sqlite") as ledger:
        truth = GroundTruth(problem.space.name, task, ledger)
        items = table_purchase.buy(
            truth, settings.slopes, range(settings.seeds), "ground truth", listen,
            budget=settings.epochs,
        )  # fmt: skip
    table_purchase.drop_checkpoints(folder, items)
    items.sort(key=lambda item: item[0].seed)  # seed by seed, in order of the slopes
    described = settings_lib.to_json(task).items()
    described = {name: value for name, value in described if not name.endswith("_dir")}
    comments = {"commit": machine.commit(), "task": described}
    ledger_table.write(path, items, comments)
    return lookup.read(path, problem.space)


def _run_seeds(
    folder: RunFolder,
    table: TruthTable,
    splits: Mapping[int, Split],
    candidates: Mapping[str, DishSurrogate],
    listen: events.Listener,
) -> dict[int, dict[str, Any]]:
    """Run every seed that the folder does not hold yet; return the results of all."""
    seeds = list(splits)
    names = {seed: f"states/{table.identity[:8]}/result_seed{seed}.json" for seed in seeds}
    found = {seed: folder.read_json(names[seed], _result) for seed in seeds}
    results = {seed: result for seed, result in found.items() if result is not None}
    already = len(results)
    listen(events.Stage("seeds", len(seeds), already, "" if already else "compiling"))
    for seed in seeds:
        if seed in results:
            continue
        results[seed] = one_split.run_seed(folder, seed, table, splits[seed], candidates)
        folder.keep_json(names[seed], results[seed])
        figures = results[seed]["figures"]["dish"]
        note = f"seed {seed}: dish peak {_rounded(figures['predicted_peak_slope'])}, "
        note += f"tau {_rounded(figures['kendall_tau'])}"
        listen(events.Advanced(len(results), note))
    folder.write_metrics(line for seed in seeds for line in results[seed]["metrics"])
    return {seed: results[seed] for seed in seeds}


def _result(content: Any) -> dict[str, Any]:
    """Return a seed's result, once it has all that the study reads."""
    return {
        "train": [int(i) for i in content["train"]],
        "setting": str(content["setting"]),
        "predictions": {str(name): list(own) for name, own in content["predictions"].items()},
        "figures": {
            method: {figure: content["figures"][method][figure] for figure in FIGURES}
            for method in dict.fromkeys((*METHODS, *content["figures"]))
        },
        "seconds": {str(name): float(value) for name, value in content["seconds"].items()},
        "outer_steps": int(content["outer_steps"]),
        "metrics": [dict(line) for line in content["metrics"]],
    }


def summarise(
    table: TruthTable, settings: ExtrapolationSettings, results: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return summary.json: every figure of every method with its spread over seeds."""
    found = list(results.values())
    chosen = [result["setting"] for result in found]
    return {
        "preset": settings.preset,
        "methods": list(found[0]["figures"]),
        "train_interval": [settings.train_slope_min, settings.train_slope_max],
        "num_train": settings.num_train,
        "num_dishes": settings.dish.ensemble_size,
        "outer_steps": max(result["outer_steps"] for result in found),
        "seeds": list(results),
        "slopes": len(table),
        "ground_truth_rows": sum(len(seeds) for seeds in table.seeds),
        "settings": {name: chosen.count(name) for name in sorted(set(chosen))},
        "noise_ceiling": noise_ceiling(table),
        "true_peak_slope": metrics.peak(slopes_of(table.cells.names), table.scores),
        **{
            method: {
                figure: metrics.spread([r["figures"][method][figure] for r in found])
                for figure in FIGURES
            }
            for method in found[0]["figures"]
        },
        "seconds": {
            name: metrics.spread([result["seconds"][name] for result in found])
            for name in found[0]["seconds"]
        },
    }


def noise_ceiling(table: TruthTable) -> float | None:
    """Return the mean Kendall tau between one seed of the table and the mean of its others.

    `None` unless every slope has the same two or more seeds.
    """
    if len({len(seeds) for seeds in table.seeds}) != 1 or len(table.seeds[0]) < 2:
        return None
    return metrics.noise_ceiling(np.stack(table.seeds))


def _rounded(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"

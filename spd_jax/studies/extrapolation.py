"""The sigmoid-slope experiment (Rawal et al., section 4.1): a peak that nobody was shown.

The dish, its untrained self, the paper's MLP control and a Gaussian process know the scores
of slopes in a training interval alone, and predict those of all slopes of a table. Every seed
draws its own known slopes, and chooses the dish's settings on them (appendix A.1).
"""

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from spd_jax import archs as batches
from spd_jax import dish, metrics
from spd_jax.dish import DishConfig, DishState
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup
from spd_jax.ground_truth.lookup import TruthTable
from spd_jax.ground_truth.purchase import GroundTruth
from spd_jax.ledger import Ledger
from spd_jax.ledger import table as ledger_table
from spd_jax.problems import Problem
from spd_jax.studies import events, machine, predictions, saved_fits, table_purchase, tuning
from spd_jax.studies import settings as settings_lib
from spd_jax.studies.predictions import FIGURES, METHODS, slopes_of
from spd_jax.studies.run_folder import RunFolder, open_folder
from spd_jax.studies.settings import setting
from spd_jax.surrogates.dish_surrogate import DishSurrogate, FittedDish
from spd_jax.surrogates.protocol import FitStep, Surrogate
from spd_jax.surrogates.regressors import GaussianProcess
from spd_jax.surrogates.slope_mlp import SlopeMlp

SAVE_EVERY = 5  # outer steps between two saved states


@dataclasses.dataclass(frozen=True)
class ExtrapolationSettings:
    """Settings of the experiment."""

    seed: int = setting(0, "first seed: of the split, the dishes and the rivals", at_least=0)
    num_seeds: int = setting(5, "seeds to run", at_least=1, grows=True)
    train_slope_min: float = setting(0.37, "smallest slope to train on")
    train_slope_max: float = setting(2.01, "largest slope to train on")
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
class TableSettings:
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


@dataclasses.dataclass(frozen=True)
class Split:
    """Which motifs of a table a seed knows.

    Attributes:
      train: indices of the known motifs, `[num_train]`.
      test: the others.
      left: the ones left of the training interval.
    """

    train: np.ndarray
    test: np.ndarray
    left: np.ndarray


def draw_split(table: TruthTable, seed: int, settings: ExtrapolationSettings) -> Split:
    """Draw the known slopes of a seed; raises UserError when the interval has too few."""
    slopes = slopes_of(table.cells.names)
    inside = _inside(slopes, str(table.source), settings)
    order = np.random.default_rng(seed).permutation(inside)
    train = np.sort(order[: settings.num_train])
    others = np.setdiff1d(np.arange(len(slopes)), train)
    return Split(train, others, np.flatnonzero(slopes < settings.train_slope_min))


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
    table: TruthTable | TableSettings,
    settings: ExtrapolationSettings,
    workdir: str | os.PathLike[str],
    *,
    listen: events.Listener = events.ignore,
) -> dict[str, Any]:
    """Run every seed that the folder does not hold yet, and write the run's files.

    Args:
      problem: the sigmoid-slope space.
      table: ground truths; or how to compute them into the folder, first.
      settings: of the experiment.
      workdir: the run folder.
      listen: told what happens.

    Returns:
      What summary.json holds.

    Raises:
      UserError: settings or a table with which nothing can be run, or a folder of another run.
    """
    settings_lib.check(settings)
    candidates = candidates_of(problem, settings)
    config = {"study": "extrapolation", **_described(settings)}
    grows = settings_lib.growing(settings)
    # Settings that do not fit the table are refused before anything is written or trained.
    if isinstance(table, TruthTable):
        table = in_order(table)
        draw_split(table, settings.seed, settings)
        config["table"] = table.identity
        name = table.source.stem
    else:
        name = table.dataset
        _inside(slopes_of(table.slopes), f"the table of {name}", settings)
        described = {"slopes": table.slopes, "dataset": name, "epochs": table.epochs}
        config["computed"] = settings_lib.to_json(described)
        config["ground_truth_seeds"] = table.seeds
        grows = (*grows, "ground_truth_seeds")
    with open_folder(workdir, config, grows) as folder:
        if isinstance(table, TableSettings):
            table = in_order(compute_table(folder, problem, table, listen))
        results = _run_seeds(folder, table, settings, candidates, listen)
        summary = {"dataset": name, **summarise(table, settings, results)}
        predictions.write_curves(folder, table, results)
        _write_samples(folder, table, settings, candidates, results)
        folder.write_json("summary.json", summary)
    return summary


def _write_samples(
    folder: RunFolder,
    table: TruthTable,
    settings: ExtrapolationSettings,
    candidates: Mapping[str, DishSurrogate],
    results: Mapping[int, Mapping[str, Any]],
) -> None:
    """Write the samples of the first seed's dish, before and after learning."""
    seed, first = next(iter(results.items()))
    surrogate = candidates[first["setting"]]
    fitted = _find_dish(folder, seed, table, draw_split(table, seed, settings), surrogate)
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
    folder: RunFolder, problem: Problem, settings: TableSettings, listen: events.Listener
) -> TruthTable:
    """Train the table of all slopes into the run folder, or go on with it, and return it."""
    task = problem.ground_truth(settings.dataset).task(
        settings.data_dir, str(folder.path / "states")
    )
    path = folder.path / "ground_truth.csv"
    with Ledger(folder.path / "ledger.sqlite") as ledger:
        truth = GroundTruth(problem.space.name, task, ledger)
        items = table_purchase.buy(
            truth, settings.slopes, range(settings.seeds), "ground truth", listen,
            budget=settings.epochs,
        )  # fmt: skip
    items.sort(key=lambda item: item[0].seed)  # seed by seed, in order of the slopes
    comments = {"commit": machine.commit(), "task": settings_lib.to_json(task)}
    ledger_table.write(path, items, comments)
    return lookup.read(path, problem.space)


def _run_seeds(
    folder: RunFolder,
    table: TruthTable,
    settings: ExtrapolationSettings,
    candidates: Mapping[str, DishSurrogate],
    listen: events.Listener,
) -> dict[int, dict[str, Any]]:
    """Run every seed that the folder does not hold yet; return the results of all."""
    seeds = range(settings.seed, settings.seed + settings.num_seeds)
    splits = {seed: draw_split(table, seed, settings) for seed in seeds}
    names = {seed: f"states/{table.identity[:8]}/result_seed{seed}.json" for seed in seeds}
    found = {seed: folder.read_json(names[seed], _result) for seed in seeds}
    results = {seed: result for seed, result in found.items() if result is not None}
    already = len(results)
    listen(events.Stage("seeds", len(seeds), already, "" if already else "compiling"))
    for seed in seeds:
        if seed in results:
            continue
        results[seed] = run_seed(folder, seed, table, splits[seed], candidates)
        folder.write_json(names[seed], results[seed])
        figures = results[seed]["figures"]["dish"]
        note = f"seed {seed}: dish peak {_rounded(figures['predicted_peak_slope'])}, "
        note += f"tau {_rounded(figures['kendall_tau'])}"
        listen(events.Advanced(len(results), note))
    return {seed: results[seed] for seed in seeds}


def _result(content: Any) -> dict[str, Any]:
    """Return a seed's result, once it has all that the study reads."""
    return {
        "train": [int(i) for i in content["train"]],
        "setting": str(content["setting"]),
        "predictions": {str(name): list(own) for name, own in content["predictions"].items()},
        "figures": {m: {f: content["figures"][m][f] for f in FIGURES} for m in METHODS},
        "seconds": {str(name): float(value) for name, value in content["seconds"].items()},
        "outer_steps": int(content["outer_steps"]),
    }


def run_seed(
    folder: RunFolder,
    seed: int,
    table: TruthTable,
    split: Split,
    candidates: Mapping[str, DishSurrogate],
) -> dict[str, Any]:
    """Choose the dish's settings, fit all methods on one split, score them on the whole table.

    Goes on from the dish's last saved state when there is one.

    Returns:
      JSON-ready: `predictions` (columns by name, in standard deviations over the known
      motifs), `figures` by method, `seconds`.
    """
    archs, truth = table.cells.archs, table.scores
    known, known_truth = batches.take(archs, split.train), truth[split.train]
    key = jax.random.key(seed)
    seconds = {"compile": 0.0}
    with _timed(seconds, "tune"):
        setting = _choose(folder, seed, key, table, split.train, candidates)
    surrogate = candidates[setting]
    with _timed(seconds, "fit"):
        fitted = _fit_dish(folder, seed, table, split, surrogate)
    with _timed(seconds, "predict"):
        members = _members(surrogate, fitted.state, archs)
    predicted = {"dish": np.median(members, axis=0)} | _quartiles("dish", members)
    if int(fitted.state.stop_step) > 0:
        members = _standardised(_members(surrogate, surrogate.start(key), archs), split.train)
    predicted |= {"dish_untrained": np.median(members, axis=0)}
    predicted |= _quartiles("dish_untrained", members)
    mean, std = known_truth.mean(), known_truth.std() or 1.0
    rivals: dict[str, Surrogate] = {
        "slope_mlp": SlopeMlp(),
        "gaussian_process": GaussianProcess(lambda slopes: np.asarray(slopes, float)[:, None]),
    }
    for name, rival in rivals.items():
        with _timed(seconds, name):
            values = rival.fit(key, known, known_truth).predict(archs)
        predicted[name] = (np.asarray(values) - mean) / std
    return {
        "train": split.train.tolist(),
        "setting": setting,
        "predictions": {name: _finite(values) for name, values in predicted.items()},
        "figures": {name: score(table, split, predicted[name]) for name in METHODS},
        "seconds": dict(seconds),
        "outer_steps": int(fitted.state.stop_step),
    }


def _members(surrogate: DishSurrogate, state: DishState, archs: Any) -> np.ndarray:
    """Return every member's scores `[E, M]`, in standard deviations where it was fitted."""
    return dish.predict(
        state, surrogate.family, surrogate.config, archs,
        per_member=True, sharding=surrogate.sharding,
    )  # fmt: skip


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the block's seconds to `name`, those of compiling apart to "compile"."""
    started, compiled = time.perf_counter(), machine.COMPILE_CLOCK.seconds
    yield
    compiling = machine.COMPILE_CLOCK.seconds - compiled
    seconds["compile"] += compiling
    seconds[name] = time.perf_counter() - started - compiling


def _choose(
    folder: RunFolder,
    seed: int,
    key: jax.Array,
    table: TruthTable,
    train: np.ndarray,
    candidates: Mapping[str, DishSurrogate],
) -> str:
    """Return the setting that A.1 takes; tuning_seed<n>.json names every slope it saw."""
    if len(candidates) == 1:
        return next(iter(candidates))
    name = f"states/{table.identity[:8]}/tuning_seed{seed}.json"
    known = folder.read_json(name, lambda log: str(log["chosen"]))
    if known is not None and known in candidates:
        return known
    trials: list[tuning.Trial] = []
    chosen = tuning.choose(
        jax.random.fold_in(key, 1),
        candidates,
        batches.take(table.cells.archs, train),
        table.scores[train],
        on_trial=trials.append,
    )
    seen = slopes_of(table.cells.names)[train]
    entries = [
        {
            "setting": trial.name,
            "fitted_slopes": seen[list(trial.train)].tolist(),
            "held_out_slopes": seen[list(trial.valid)].tolist(),
            "outer_loss": trial.loss if np.isfinite(trial.loss) else None,
        }
        for trial in trials
    ]
    folder.write_json(name, {"chosen": chosen, "trials": entries})
    return chosen


def _find_dish(
    folder: RunFolder,
    seed: int,
    table: TruthTable,
    split: Split,
    surrogate: DishSurrogate,
    *,
    on_start: Callable[[DishState], None] = lambda state: None,
    on_step: Callable[[FitStep], None] = lambda step: None,
) -> FittedDish:
    """Fit the dish of a seed, or go on with it, or load it; see `saved_fits.fit`."""
    fitted: Any = saved_fits.fit(
        folder,
        f"{table.identity[:8]}/dish_seed{seed}",
        surrogate,
        jax.random.key(seed),
        batches.take(table.cells.archs, split.train),
        table.scores[split.train],
        every=SAVE_EVERY,
        on_start=on_start,
        on_step=on_step,
    )
    return fitted


def _fit_dish(
    folder: RunFolder, seed: int, table: TruthTable, split: Split, surrogate: DishSurrogate
) -> FittedDish:
    """Return the dish of a seed, its outer losses logged in metrics.jsonl."""

    def log(phase: str, step: int, losses: np.ndarray) -> None:
        rounded = [float(f"{loss:.6g}") for loss in losses]
        folder.add_metrics({"seed": seed, "phase": phase, "step": step, "outer_loss": rounded})

    def keep_before(state: DishState) -> None:
        folder.keep_metrics(lambda line: line["seed"] != seed or _is_before(line, state))

    def on_step(step: FitStep) -> None:
        log(step.phase, int(step.state.step) - 1, step.losses)

    fitted = _find_dish(
        folder, seed, table, split, surrogate, on_start=keep_before, on_step=on_step
    )
    keep_before(fitted.state)  # a killed run may have written the last line already
    raw = dish.raw_scores(
        fitted.state, surrogate.family, surrogate.config,
        batches.take(table.cells.archs, split.train), sharding=surrogate.sharding,
    )  # fmt: skip
    losses = dish.outer_losses(surrogate.config, raw, table.scores[split.train])
    log("fit", int(fitted.state.stop_step), losses)
    return fitted


def _phase(state: DishState) -> str:
    return "early_stopping" if int(state.stop_step) < 0 else "fit"


def _is_before(line: Mapping[str, Any], state: DishState) -> bool:
    """Return whether a line of metrics.jsonl, the loss after `step` steps, led to `state`."""
    if line["phase"] != _phase(state):
        return bool(line["phase"] == "early_stopping")
    return bool(line["step"] < int(state.step))


def score(table: TruthTable, split: Split, predicted: np.ndarray) -> dict[str, float | None]:
    """Return every figure of one method's predictions `[M]`; `None` where it is not defined."""
    slopes, truth = slopes_of(table.cells.names), table.scores

    def tau(chosen: np.ndarray) -> float | None:
        if len(chosen) < 2:
            return None
        return _defined(metrics.kendall_tau(predicted[chosen], truth[chosen]))

    return {
        "kendall_tau": tau(np.arange(len(predicted))),
        "kendall_tau_test": tau(split.test),
        "kendall_tau_left": tau(split.left),
        "predicted_peak_slope": _defined(metrics.peak(slopes, predicted)),
        "peak_error": _defined(metrics.peak_error(slopes, predicted, truth)),
    }


def _standardised(members: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Standardise raw scores `[E, M]` over the training motifs; one that diverged stays worst."""
    finite = np.isfinite(members)
    known = np.where(finite, members, np.nan)[:, train]
    mean, std = np.nanmean(known, axis=1), np.nanstd(known, axis=1)
    scaled = (np.where(finite, members, 0) - mean[:, None]) / np.where(std > 0, std, 1)[:, None]
    return np.where(finite, scaled, -np.inf)


def _quartiles(name: str, members: np.ndarray) -> dict[str, np.ndarray]:
    """Return the quartiles over members `[E, M]` as the band `[M]` of a method."""
    # "lower" and "higher" take a member's value: minus infinity must not meet 0 times itself.
    low = np.quantile(members, 0.25, axis=0, method="lower")
    high = np.quantile(members, 0.75, axis=0, method="higher")
    return {f"{name}_low": low, f"{name}_high": high}


def summarise(
    table: TruthTable, settings: ExtrapolationSettings, results: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return summary.json: every figure of every method with its spread over seeds."""
    found = list(results.values())
    chosen = [result["setting"] for result in found]
    return {
        "preset": settings.preset,
        "train_interval": [settings.train_slope_min, settings.train_slope_max],
        "num_train": settings.num_train,
        "num_dishes": settings.dish.ensemble_size,
        "outer_steps": max(result["outer_steps"] for result in results.values()),
        "seeds": list(results),
        "slopes": len(table),
        "ground_truth_rows": sum(len(seeds) for seeds in table.seeds),
        "settings": {name: chosen.count(name) for name in sorted(set(chosen))},
        "noise_ceiling": noise_ceiling(table),
        "true_peak_slope": metrics.peak(slopes_of(table.cells.names), table.scores),
        **{
            method: {
                figure: metrics.spread(
                    [_nan(r["figures"][method][figure]) for r in results.values()]
                )
                for figure in FIGURES
            }
            for method in METHODS
        },
        "seconds": {
            name: metrics.spread([result["seconds"][name] for result in results.values()])
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


def _finite(values: np.ndarray) -> list[float | None]:
    """Return JSON-ready values; a diverged motif's is `None`."""
    return [_defined(float(value)) for value in values]


def _defined(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _nan(value: float | None) -> float:
    return math.nan if value is None else value


def _rounded(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"

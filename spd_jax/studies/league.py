"""Who takes part in the comparison of surrogates, the matches, and what they add up to."""

import csv
import dataclasses
import functools
import io
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from spd_jax import files, metrics
from spd_jax.axes import Archs
from spd_jax.motif import MotifFamily
from spd_jax.report import league
from spd_jax.report.progress import Progress
from spd_jax.spaces import rnn_cell, sigmoid_slope
from spd_jax.studies.known_truth import TOP, Problem, Split
from spd_jax.studies.run_folder import COMPILE_CLOCK, RunFolder
from spd_jax.surrogates import proxies
from spd_jax.surrogates.averaged import Averaged
from spd_jax.surrogates.dish_surrogate import DishSurrogate
from spd_jax.surrogates.partial_training import PartialTraining
from spd_jax.surrogates.protocol import Surrogate
from spd_jax.surrogates.proxies import Proxy
from spd_jax.surrogates.regressors import GaussianProcess, RandomForest
from spd_jax.surrogates.slope_mlp import SlopeMlp
from spd_jax.surrogates.stacked import FrozenDish, Stacked

FIGURES = ("kendall_tau", "spearman", "precision_at_10", "regret")
NAO_EPOCHS = 300  # of 1,000 published: a quarter of the time, the same tau on the tuning cells
EARLY_STOPPING_FROM = 8  # known motifs: half of fewer decides nothing about when to stop
Everyone = dict[tuple[str, int], Surrogate]  # by name and number of known ground truths


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the surrogates are set up.

    Attributes:
      dish: the dish.
      wide: the motif-network that proxies measure.
      proxy_scale: standard deviation of its weights.
      stacked_folds: dishes that a stack fits, besides the last.
    """

    dish: DishSurrogate
    wide: MotifFamily
    proxy_scale: float
    stacked_folds: int


def without_truth(problem: Problem, settings: Settings) -> dict[str, Surrogate]:
    """Return the surrogates that use no ground truth, by name."""
    entries: dict[str, Surrogate] = {"dish_untrained": FrozenDish(settings.dish)}
    for epochs in (1, 2) if problem.budget >= 2 else ():
        entries[f"partial_{epochs}"] = PartialTraining(
            functools.partial(_curves, problem), epochs, problem.budget
        )
    recurrent = isinstance(problem.space, rnn_cell.RnnCellSpace)
    states = proxies.readout_states(settings.wide) if recurrent else None
    for name in proxies.MEASURES:
        entries[name] = Proxy(name, settings.wide, states, init_scale=settings.proxy_scale)
    return entries


def learners(problem: Problem, settings: Settings, known: int) -> dict[str, Surrogate]:
    """Return the surrogates that learn from `known` ground truths, by name."""
    dish, space = settings.dish, problem.space
    if known < EARLY_STOPPING_FROM:
        dish = dataclasses.replace(dish, held_out_share=0.0)
    strongest = getattr(space, "structure", space.features)
    forest, process = RandomForest(strongest), GaussianProcess(strongest)
    entries: dict[str, Surrogate] = {
        "dish": dish,
        "random_forest": RandomForest(space.features),
        "gaussian_process": GaussianProcess(space.features),
        "averaged": Averaged(dish, process),
        # Two folds of three motifs would leave a dish one to learn from.
        "stacked": Stacked(dish, forest, max(settings.stacked_folds, 3 if known < 4 else 2)),
        "stacked_untrained": Stacked(FrozenDish(settings.dish), forest, 0),
    }
    if isinstance(space, sigmoid_slope.SigmoidSlopeSpace):
        return entries | {"slope_mlp": SlopeMlp()}
    from spd_jax.surrogates.nao import NaoConfig, NaoPredictor  # brings flax

    return entries | {
        "random_forest_structure": forest,
        "gaussian_process_structure": process,
        "nao": NaoPredictor(space, NaoConfig(epochs=NAO_EPOCHS, held_out_share=0.0)),
    }


def match(
    surrogate: Surrogate, problem: Problem, split: Split, *, known: int, key: jax.Array
) -> dict[str, Any]:
    """Fit on the first `known` motifs of a split, predict the held-out ones, and score that.

    Returns:
      JSON-ready: the `FIGURES` (None where not finite), seconds of fit and query without
      compiling, seconds of compiling, and the predictions.
    """
    chosen = split.known[:known]
    fitted, fit_seconds, fit_compile = _timed(
        lambda: surrogate.fit(key, problem.take(chosen), problem.scores[chosen])
    )
    held_out = problem.take(split.held_out)
    predicted, query_seconds, query_compile = _timed(lambda: fitted.predict(held_out))
    truth = problem.scores[split.held_out]
    figures = {
        "kendall_tau": metrics.kendall_tau(predicted, truth),
        "spearman": metrics.spearman(predicted, truth),
        "precision_at_10": metrics.precision_at(TOP, predicted, truth),
        "regret": metrics.regret(predicted, truth),
    }
    return {
        **dict(zip(figures, _json(list(figures.values())), strict=True)),
        "fit_seconds": fit_seconds,
        "query_seconds": query_seconds,
        "compile_seconds": fit_compile + query_compile,
        "predicted": _json(predicted),
    }


@dataclasses.dataclass(frozen=True)
class Entry:
    """One match: who plays it on which split, knowing how many ground truths."""

    surrogate: str
    known: int
    split: int

    @property
    def file(self) -> str:
        """Where the run folder keeps its result."""
        return f"matches/{self.surrogate}-known{self.known}-split{self.split}.json"


def play(
    folder: RunFolder,
    problem: Problem,
    splits: list[Split],
    everyone: Everyone,
    seed: int,
) -> dict[Entry, dict[str, Any]]:
    """Decide every match that the folder does not hold yet; return the results of all."""
    # Split by split: a run that is stopped early has compared everyone on the first ones.
    entries = [Entry(*place, split) for split in range(len(splits)) for place in everyone]
    results = {entry: folder.read_json(entry.file) for entry in entries}
    missing = [entry for entry in entries if results[entry] is None]
    with Progress("matches", len(entries)) as progress:
        progress.update(len(entries) - len(missing), "read from the folder")
        for done, entry in enumerate(missing, len(entries) - len(missing) + 1):
            surrogate = everyone[entry.surrogate, entry.known]
            key = jax.random.fold_in(jax.random.key(seed), entry.split)
            split = splits[entry.split]
            result = match(surrogate, problem, split, known=entry.known, key=key)
            results[entry] = dataclasses.asdict(entry) | result
            folder.write_json(entry.file, results[entry])
            tau = results[entry]["kendall_tau"]
            shown = "-" if tau is None else f"{tau:.2f}"
            progress.update(done, f"{entry.surrogate}, {entry.known} known: tau {shown}")
    return results


def rows_of(results: dict[Entry, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each match; a figure that JSON could not hold is NaN, a regret infinite.

    The regret is infinite where the predicted best motif failed.
    """
    rows = []
    for result in results.values():
        row = {name: value for name, value in result.items() if name != "predicted"}
        for figure in FIGURES:
            if row[figure] is None:
                row[figure] = np.inf if figure == "regret" else np.nan
        rows.append(row)
    return rows


def summarise(
    problem: Problem, rows: list[dict[str, Any]], everyone: Everyone, config: dict[str, Any]
) -> dict[str, Any]:
    """Return summary.json: every figure of every surrogate with its mean and spread over splits.

    `cost_per_query` is what one prediction costs in full evaluations.
    """
    surrogates: dict[str, dict[str, Any]] = {}
    for name, entries in league.aggregate(rows).items():
        surrogates[name] = {str(known): dict(figures) for known, figures in entries.items()}
    for (name, known), surrogate in everyone.items():
        cost = getattr(surrogate, "cost_per_query", 0.0)
        surrogates[name][str(known)]["cost_per_query"] = cost
    return {
        **config,
        "motifs": len(problem.names),
        "failed": int(np.sum(~np.isfinite(problem.scores))),
        "noise_ceiling": problem.noise_ceiling(),
        "surrogates": surrogates,
    }


def write_csv(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """Write one line for each match."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(path, text.getvalue())


def _curves(problem: Problem, archs: Archs, epochs: int) -> list[tuple[float, ...]]:
    """Look the learning curves of cells up in the table."""
    del epochs
    place = {name: i for i, name in enumerate(problem.names)}
    cells = rnn_cell.unstack(archs)
    return [problem.curves[place[problem.space.canonical_text(cell)]] for cell in cells]


def _timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what a call returns, its seconds without compiling, and those of compiling."""
    started, compiled = time.perf_counter(), COMPILE_CLOCK.seconds
    result = call()
    jax.block_until_ready(getattr(result, "__dict__", None))  # a fit may hand out work in progress
    compiling = COMPILE_CLOCK.seconds - compiled
    return result, time.perf_counter() - started - compiling, compiling


def _json(values: Any) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]

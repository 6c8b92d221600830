"""One seed of the extrapolation: every method on one split of a table of slopes.

What is known are some slopes of the training interval, or all slopes of another table; the dish
chooses its settings on them, all methods are fitted on them, and predict every slope of the
table.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from spd_jax import dish, files, metrics
from spd_jax.dish import DishState
from spd_jax.ground_truth.lookup import TruthTable
from spd_jax.studies import machine, saved_fits, tuning
from spd_jax.studies.predictions import METHODS, SOURCE, slopes_of
from spd_jax.studies.run_folder import RunFolder
from spd_jax.surrogates.dish_surrogate import DishSurrogate, FittedDish
from spd_jax.surrogates.protocol import FitStep, Surrogate
from spd_jax.surrogates.regressors import GaussianProcess
from spd_jax.surrogates.slope_mlp import SlopeMlp

SAVE_EVERY = 5  # outer steps between two saved states


@dataclasses.dataclass(frozen=True)
class Split:
    """Which motifs of a table a seed knows, as indices into it, and what it learns from.

    Attributes:
      known: what is learned from: the known motifs, or another table.
      train: the known motifs, `[num_train]`; none when another table is learned from.
      test: the others.
      left: the ones left of the training interval.
      inside: the ones in the interval.
    """

    known: TruthTable
    train: np.ndarray
    test: np.ndarray
    left: np.ndarray
    inside: np.ndarray


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
      motifs; from another table, over the table's motifs in the training interval), `figures`
      by method, `seconds`, and the seed's lines of metrics.jsonl.
    """
    archs, known = table.cells.archs, split.known.cells.archs
    key = jax.random.key(seed)
    seconds = {"compile": 0.0}
    with machine.timed(seconds, "tune"):
        setting = _choose(folder, seed, key, table, split, candidates)
    surrogate = candidates[setting]
    with machine.timed(seconds, "fit"):
        fitted, logged = _fit_dish(folder, seed, table, split, surrogate)
        if not _is_whole(logged, fitted.state, surrogate):  # metrics.jsonl was damaged meanwhile
            for path in _dish_folder(folder, table).glob(f"dish_seed{seed}_*.npz"):
                path.unlink()
            fitted, logged = _fit_dish(folder, seed, table, split, surrogate)
    with machine.timed(seconds, "predict"):
        members = _members(surrogate, fitted.state, archs)
    predicted = {"dish": np.median(members, axis=0)} | _quartiles("dish", members)
    if int(fitted.state.stop_step) > 0:
        members = _untrained(surrogate, key, known, archs)
    predicted |= {"dish_untrained": np.median(members, axis=0)}
    predicted |= _quartiles("dish_untrained", members)
    predicted |= _rivals(key, table, split, seconds)
    if len(split.train) == 0:
        predicted = _on_one_scale(predicted, split.inside)
    return {
        "train": split.train.tolist(),
        "setting": setting,
        "predictions": files.to_json(predicted),
        "figures": {
            name: score(table, split, predicted[name])
            for name in (*METHODS, SOURCE)
            if name in predicted
        },
        "seconds": dict(seconds),
        "outer_steps": int(fitted.state.stop_step),
        "metrics": logged,
    }


def _rivals(
    key: jax.Array, table: TruthTable, split: Split, seconds: dict[str, float]
) -> dict[str, np.ndarray]:
    """Return what the rivals predict, by name, in standard deviations over the known motifs.

    Another table that is learned from is itself a rival, read at the same slopes (between
    slopes of its own along a straight line).
    """
    known, truth = split.known.cells.archs, split.known.scores
    rivals: dict[str, Surrogate] = {
        "slope_mlp": SlopeMlp(),
        "gaussian_process": GaussianProcess(lambda slopes: np.asarray(slopes, float)[:, None]),
    }
    values = {}
    for name, rival in rivals.items():
        with machine.timed(seconds, name):
            values[name] = np.asarray(rival.fit(key, known, truth).predict(table.cells.archs))
    if len(split.train) == 0:
        own = slopes_of(split.known.cells.names)
        values[SOURCE] = np.interp(slopes_of(table.cells.names), own, truth)
    mean, std = truth.mean(), truth.std() or 1.0
    return {name: (value - mean) / std for name, value in values.items()}


def _on_one_scale(predicted: dict[str, np.ndarray], inside: np.ndarray) -> dict[str, np.ndarray]:
    """Return predictions shifted and scaled so that those `inside` have mean 0 and deviation 1.

    A method that learned from another table predicts in its unit: this makes the curves
    comparable and changes no order. A method's band moves with it.
    """
    found = {}
    for name, values in predicted.items():
        base = predicted[name.removesuffix("_low").removesuffix("_high")][inside]
        base = base[np.isfinite(base)]
        mean, std = (base.mean(), base.std() or 1.0) if len(base) else (0.0, 1.0)
        found[name] = (values - mean) / std
    return found


def _members(surrogate: DishSurrogate, state: DishState, archs: Any) -> np.ndarray:
    """Return every member's scores `[E, M]`, in standard deviations where it was fitted."""
    return dish.predict(
        state, surrogate.family, surrogate.config, archs,
        per_member=True, sharding=surrogate.sharding,
    )  # fmt: skip


def _choose(
    folder: RunFolder,
    seed: int,
    key: jax.Array,
    table: TruthTable,
    split: Split,
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
        split.known.cells.archs,
        split.known.scores,
        on_trial=trials.append,
    )
    seen = slopes_of(split.known.cells.names)
    entries = [
        {
            "setting": trial.name,
            "fitted_slopes": seen[list(trial.train)].tolist(),
            "held_out_slopes": seen[list(trial.valid)].tolist(),
            "outer_loss": files.to_json(trial.loss),
        }
        for trial in trials
    ]
    folder.keep_json(name, {"chosen": chosen, "trials": entries})
    return chosen


def _dish_folder(folder: RunFolder, table: TruthTable) -> pathlib.Path:
    return folder.path / "states" / table.identity[:8]


def find_dish(
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
        f"{_dish_folder(folder, table).name}/dish_seed{seed}",
        surrogate,
        jax.random.key(seed),
        split.known.cells.archs,
        split.known.scores,
        every=SAVE_EVERY,
        on_start=on_start,
        on_step=on_step,
    )
    return fitted


def _fit_dish(
    folder: RunFolder, seed: int, table: TruthTable, split: Split, surrogate: DishSurrogate
) -> tuple[FittedDish, list[dict[str, Any]]]:
    """Return the dish of a seed, and its outer losses as they are logged in metrics.jsonl."""

    def log(phase: str, step: int, losses: np.ndarray) -> None:
        rounded = [float(f"{loss:.6g}") for loss in losses]
        folder.add_metrics({"seed": seed, "phase": phase, "step": step, "outer_loss": rounded})

    def keep_before(state: DishState) -> None:
        folder.keep_metrics(lambda line: line["seed"] != seed or _is_before(line, state))

    def on_step(step: FitStep) -> None:
        log(step.phase, int(step.state.step) - 1, step.losses)

    fitted = find_dish(folder, seed, table, split, surrogate, on_start=keep_before, on_step=on_step)
    keep_before(fitted.state)  # a killed run may have written the last line already
    known = dish.KnownMotifs.of(split.known.cells.archs, split.known.scores)
    raw = dish.raw_scores(
        fitted.state, surrogate.family, surrogate.config, known.archs, sharding=surrogate.sharding
    )
    losses = dish.outer_losses(surrogate.config, raw, known.targets(surrogate.config).truth)
    log("fit", int(fitted.state.stop_step), losses)
    return fitted, folder.metrics(lambda line: line["seed"] == seed)


def _is_whole(logged: list[dict[str, Any]], state: DishState, surrogate: DishSurrogate) -> bool:
    """Return whether every outer step of a fitted dish is in the log, once and in order."""
    steps = range(surrogate.config.outer_steps if surrogate.held_out_share else 0)
    wanted = [("early_stopping", step) for step in steps]
    wanted += [("fit", step) for step in range(int(state.stop_step) + 1)]
    return [(line.get("phase"), line.get("step")) for line in logged] == wanted


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

    def tau(chosen: np.ndarray) -> float:
        if len(chosen) < 2:
            return math.nan
        return metrics.kendall_tau(predicted[chosen], truth[chosen])

    figures: dict[str, float | None] = files.to_json(
        {
            "kendall_tau": tau(np.arange(len(predicted))),
            "kendall_tau_test": tau(split.test),
            "kendall_tau_left": tau(split.left),
            "predicted_peak_slope": metrics.peak(slopes, predicted),
            "peak_error": metrics.peak_error(slopes, predicted, truth),
        }
    )
    return figures


def _untrained(surrogate: DishSurrogate, key: jax.Array, known: Any, archs: Any) -> np.ndarray:
    """Return every member's scores `[E, M]` before any outer step.

    They are standardised over the known motifs, as those of a fitted dish are; a motif that
    diverged stays worst.
    """
    state = surrogate.start(key)
    seen, members = (_members(surrogate, state, own) for own in (known, archs))
    seen, finite = np.where(np.isfinite(seen), seen, np.nan), np.isfinite(members)
    mean, std = np.nanmean(seen, axis=1), np.nanstd(seen, axis=1)
    scaled = (np.where(finite, members, 0) - mean[:, None]) / np.where(std > 0, std, 1)[:, None]
    return np.where(finite, scaled, -np.inf)


def _quartiles(name: str, members: np.ndarray) -> dict[str, np.ndarray]:
    """Return the quartiles over members `[E, M]` as the band `[M]` of a method."""
    # "lower" and "higher" take a member's value: minus infinity must not meet 0 times itself.
    low = np.quantile(members, 0.25, axis=0, method="lower")
    high = np.quantile(members, 0.75, axis=0, method="higher")
    return {f"{name}_low": low, f"{name}_high": high}

"""One seed of the sigmoid-slope experiment: split, fit every method, predict, score."""

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from spd_jax import dish, files, metrics
from spd_jax.errors import UserError
from spd_jax.ground_truth.lookup import Table
from spd_jax.spaces.sigmoid_slope import SigmoidSlopeSpace
from spd_jax.studies import tuning
from spd_jax.studies.run_folder import COMPILE_CLOCK, RunFolder
from spd_jax.surrogates.dish_surrogate import DishSurrogate, FittedDish
from spd_jax.surrogates.protocol import Surrogate
from spd_jax.surrogates.regressors import GaussianProcess
from spd_jax.surrogates.slope_mlp import SlopeMlp

METHODS = ("dish", "dish_untrained", "slope_mlp", "gaussian_process")
FIGURES = (
    "kendall_tau",
    "kendall_tau_test",
    "kendall_tau_left",
    "predicted_peak_slope",
    "peak_error",
)

SAVE_EVERY = 5  # outer steps between two saved states


def identity(table: Table) -> str:
    """Return a short hash of the table; what was computed from it lies in a folder of this name."""
    return hashlib.sha256(table.slopes.tobytes() + table.accuracy.tobytes()).hexdigest()[:8]


def state_name(seed: int, table_id: str) -> str:
    """Return the file of a seed's dish in the run folder."""
    return f"states/{table_id}/dish_seed{seed}.npz"


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

    @classmethod
    def draw(cls, table: Table, seed: int, num_train: int, low: float, high: float) -> "Split":
        """Draw `num_train` slopes of `[low, high]`; raises UserError when there are fewer."""
        inside = (table.slopes >= low) & (table.slopes <= high)
        if inside.sum() < num_train:
            raise UserError(
                f"{table.source} has {inside.sum()} slopes in [{low}, {high}], but "
                f"--num_train={num_train} are asked for: lower --num_train or widen the interval"
            )
        train = np.random.default_rng(seed).permutation(np.flatnonzero(inside))[:num_train]
        train = np.sort(train)
        others = np.setdiff1d(np.arange(len(table.slopes)), train)
        return cls(train, others, np.flatnonzero(table.slopes < low))


def run_seed(
    folder: RunFolder,
    seed: int,
    table: Table,
    split: Split,
    candidates: dict[str, DishSurrogate],
) -> dict[str, Any]:
    """Choose the dish's settings, fit all methods on one split, score them on the whole table.

    Goes on from the dish's last saved state when there is one.

    Returns:
      JSON-ready: `predictions` (columns by name), `figures` by method, `seconds`.
    """
    slopes = table.slopes.astype(np.float32)
    train, truth = split.train, table.accuracy
    key = jax.random.key(seed)
    seconds = {"compile": 0.0}
    with _timed(seconds, "tune"):
        setting = _choose(folder, seed, key, table, train, candidates)
    surrogate = candidates[setting]
    with _timed(seconds, "fit"):
        fitted, untrained = _fit_dish(
            folder, seed, identity(table), key, slopes[train], truth[train], surrogate
        )
    with _timed(seconds, "predict"):
        members = fitted.predict(slopes, per_member=True)
    predictions = {"dish": np.median(members, axis=0)} | _quartiles("dish", members)
    if int(fitted.state.stop_step) > 0:
        members = _standardised(untrained.predict(slopes, per_member=True), train)
    predictions |= {"dish_untrained": np.median(members, axis=0)}
    predictions |= _quartiles("dish_untrained", members)
    mean, std = truth[train].mean(), truth[train].std() or 1.0
    rivals: dict[str, Surrogate] = {
        "slope_mlp": SlopeMlp(),
        "gaussian_process": GaussianProcess(SigmoidSlopeSpace().features),
    }
    for name, rival in rivals.items():
        with _timed(seconds, name):
            values = rival.fit(key, slopes[train], truth[train]).predict(slopes)
        predictions[name] = (np.asarray(values) - mean) / std
    return {
        "train": train.tolist(),
        "setting": setting,
        "predictions": {name: _finite(values) for name, values in predictions.items()},
        "figures": {name: score(table, split, predictions[name]) for name in METHODS},
        "seconds": dict(seconds),
        "outer_steps": int(fitted.state.stop_step),
    }


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the block's seconds to `name`, those of compiling apart to "compile"."""
    started, compiled = time.perf_counter(), COMPILE_CLOCK.seconds
    yield
    compiling = COMPILE_CLOCK.seconds - compiled
    seconds["compile"] += compiling
    seconds[name] = time.perf_counter() - started - compiling


def _choose(
    folder: RunFolder,
    seed: int,
    key: jax.Array,
    table: Table,
    train: np.ndarray,
    candidates: dict[str, DishSurrogate],
) -> str:
    """Return the setting that A.1 takes; tuning_seed<n>.json names every slope it saw."""
    if len(candidates) == 1:
        return next(iter(candidates))
    name = f"states/{identity(table)}/tuning_seed{seed}.json"
    log = folder.read_json(name)
    if log is None:
        trials: list[tuning.Trial] = []
        chosen = tuning.choose(
            jax.random.fold_in(key, 1),
            candidates,
            table.slopes[train].astype(np.float32),
            table.accuracy[train],
            on_trial=trials.append,
        )
        seen = table.slopes[train]
        log = {
            "chosen": chosen,
            "trials": [
                {
                    "setting": trial.name,
                    "fitted_slopes": seen[list(trial.train)].tolist(),
                    "held_out_slopes": seen[list(trial.valid)].tolist(),
                    "outer_loss": trial.loss if np.isfinite(trial.loss) else None,
                }
                for trial in trials
            ],
        }
        folder.write_json(name, log)
    return str(log["chosen"])


def score(table: Table, split: Split, predicted: np.ndarray) -> dict[str, float | None]:
    """Return every figure of one method's predictions `[M]`; `None` where it is not defined."""

    def tau(chosen: np.ndarray) -> float | None:
        if len(chosen) < 2:
            return None
        value = metrics.kendall_tau(predicted[chosen], table.accuracy[chosen])
        return value if np.isfinite(value) else None

    peak = metrics.peak(table.slopes, predicted)
    error = metrics.peak_error(table.slopes, predicted, table.accuracy)
    return {
        "kendall_tau": tau(np.arange(len(predicted))),
        "kendall_tau_test": tau(split.test),
        "kendall_tau_left": tau(split.left),
        "predicted_peak_slope": peak if np.isfinite(peak) else None,
        "peak_error": error if np.isfinite(error) else None,
    }


def _standardised(members: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Standardise raw scores `[E, M]` over the training motifs; one that diverged stays worst."""
    finite = np.isfinite(members)
    known = np.where(finite, members, np.nan)[:, train]
    mean, std = np.nanmean(known, axis=1), np.nanstd(known, axis=1)
    scaled = (np.where(finite, members, 0) - mean[:, None]) / np.where(std > 0, std, 1)[:, None]
    return np.where(finite, scaled, -np.inf)


def _finite(values: np.ndarray) -> list[float | None]:
    """Return JSON-ready values; a diverged motif's is `None`."""
    return [float(value) if np.isfinite(value) else None for value in values]


def _quartiles(name: str, members: np.ndarray) -> dict[str, np.ndarray]:
    """Return the quartiles over members `[E, M]` as the band `[M]` of a method."""
    # "lower" and "higher" take a member's value: minus infinity must not meet 0 times itself.
    low = np.quantile(members, 0.25, axis=0, method="lower")
    high = np.quantile(members, 0.75, axis=0, method="higher")
    return {f"{name}_low": low, f"{name}_high": high}


def _fit_dish(
    folder: RunFolder,
    seed: int,
    table_id: str,
    key: jax.Array,
    slopes: np.ndarray,
    truth: np.ndarray,
    surrogate: DishSurrogate,
) -> tuple[FittedDish, FittedDish]:
    """Fit the dish, save it every few steps, and return it with the dish before training."""
    path = folder.path / state_name(seed, table_id)
    start = surrogate.start(key)
    fingerprint = f"seed {seed}"
    state = files.load_pytree(path, start, fingerprint) if path.exists() else start
    folder.keep_metrics(lambda line: line["seed"] != seed or _is_before(line, state))

    def log(phase: str, step: int, losses: np.ndarray) -> None:
        rounded = [float(f"{loss:.6g}") for loss in losses]
        folder.add_metrics({"seed": seed, "phase": phase, "step": step, "outer_loss": rounded})

    def on_step(state: dish.DishState, info: dish.OuterInfo) -> None:
        log(_phase(state), int(state.step) - 1, np.asarray(info.loss))
        if int(state.step) % SAVE_EVERY == 0:
            files.save_pytree(path, state, fingerprint)

    fitted = surrogate.fit(key, slopes, truth, state=state, on_step=on_step)
    assert fitted.info is not None  # only a loaded dish has none
    files.save_pytree(path, fitted.state, fingerprint)
    log("fit", fitted.info.stop_step, fitted.info.final_loss)
    return fitted, dataclasses.replace(fitted, state=start)


def _phase(state: dish.DishState) -> str:
    return "early_stopping" if int(state.stop_step) < 0 else "fit"


def _is_before(line: dict[str, Any], state: dish.DishState) -> bool:
    """Return whether a line of metrics.jsonl, the loss after `step` steps, led to `state`."""
    if line["phase"] != _phase(state):
        return line["phase"] == "early_stopping"
    return line["step"] < int(state.step)

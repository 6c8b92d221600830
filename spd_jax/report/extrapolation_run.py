"""Read a finished run folder of the sigmoid-slope experiment, and the numbers of its pictures."""

import contextlib
import csv
import dataclasses
import json
import os
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from spd_jax.errors import UserError

METHODS = ("dish", "dish_untrained", "slope_mlp", "gaussian_process")
SAMPLES = ("train_inputs_start", "train_inputs", "valid_inputs", "train_labels", "valid_labels")
_REMEDY = "draw the folder of a finished run"


class Band(NamedTuple):
    """Median and quartiles over seeds, numbers or `[K]`; NaN where a failure decides them."""

    median: Any
    low: Any
    high: Any


@dataclasses.dataclass(frozen=True)
class Run:
    """What the pictures show of a finished run.

    Attributes:
      slopes: `[K]` float64, strictly increasing, unitless.
      inside: `[K]` bool, which of them lie in the training interval.
      truth: `[K]`, validation accuracy in standard deviations (population) from the mean
        of the slopes inside; NaN where it is not known.
      truth_error: `[K]`, its standard error in the same unit; NaN where it is not known.
      bands: for each of `METHODS` the predictions `[K]`, in standard deviations over each
        seed's training motifs. With a single seed they are those of the dish's members.
      seeds: how many there are.
      train_interval: least and greatest slope that a motif was trained on.
      true_peak, dish_peak: slopes of the best truth and of the dish's best prediction; None
        where the run has none.
      tau: Kendall's tau of `dish` and `dish_untrained`; None where the run has none.
      losses: for each seed the outer steps `[S]` and outer losses `[S, E]`.
      samples: the arrays named in `SAMPLES`, inputs `[N, D]` and labels `[N, C]`.
    """

    slopes: np.ndarray
    inside: np.ndarray
    truth: np.ndarray
    truth_error: np.ndarray
    bands: dict[str, Band]
    seeds: int
    train_interval: tuple[float, float]
    true_peak: Band | None
    dish_peak: Band | None
    tau: dict[str, Band | None]
    losses: dict[int, tuple[np.ndarray, np.ndarray]]
    samples: dict[str, np.ndarray]


def read(workdir: str | os.PathLike[str]) -> Run:
    """Return what the pictures need of a run folder; arguments and errors are those of `draw`."""
    workdir = pathlib.Path(workdir)
    summary = _summary(workdir / "summary.json")
    path = workdir / "predictions.csv"
    columns = _columns(path)
    slopes, motif = np.unique(columns["slope"], return_inverse=True)
    seeds, seed = np.unique(columns["seed"], return_inverse=True)
    tables = {name: np.full((len(seeds), len(slopes)), np.nan) for name in columns}
    for name, table in tables.items():
        table[seed, motif] = columns[name]
    # A slope may have been rounded on its way into the table. Every seed has the same truth.
    low, high = summary["train_interval"]
    inside = (slopes >= low - 1e-6) & (slopes <= high + 1e-6)
    truth = np.where(np.isfinite(tables["true"][0]), tables["true"][0], np.nan)
    known = truth[inside & np.isfinite(truth)]
    if known.size == 0 or known.std() == 0:
        raise UserError(f"{path}: the truth does not vary in the training interval: {_REMEDY}")
    bands = {name: quartiles(tables[name]) for name in METHODS}
    if len(seeds) == 1:
        for name in METHODS[:2]:
            bands[name] = Band(*(quartiles(tables[name + end])[0] for end in ("", "_low", "_high")))
    return Run(
        slopes=slopes,
        inside=inside,
        truth=(truth - known.mean()) / known.std(),
        truth_error=tables["true_standard_error"][0] / known.std(),
        bands=bands,
        seeds=len(seeds),
        losses=_losses(workdir / "metrics.jsonl"),
        samples=_samples(workdir / "synthetic_data.npz"),
        **summary,
    )


def quartiles(values: np.ndarray, failed: float = -1.0) -> Band:
    """Return median and quartiles over the first axis of `[S, K]`.

    A value that is not finite belongs to something that failed; it counts as lower than
    all others (higher, with a positive `failed`), and a quantile that depends on it is NaN.
    """
    filled = np.where(np.isfinite(values), values, np.copysign(1e200, failed))
    found = np.quantile(filled, [0.5, 0.25, 0.75], axis=0)
    return Band(*np.where(np.abs(found) < 1e100, found, np.nan))


@contextlib.contextmanager
def _reading(what: pathlib.Path | str) -> Iterator[None]:
    """Turn whatever is wrong with a file into one sentence."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{what} is missing: {_REMEDY}") from error
    except KeyError as error:
        raise UserError(f"{what} has no {error}: {_REMEDY}") from error
    except (OSError, TypeError, ValueError, EOFError, csv.Error, zipfile.BadZipFile) as error:
        raise UserError(f"{what} cannot be read ({error}): {_REMEDY}") from error


def _columns(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Return the numeric columns of predictions.csv; an empty field is NaN."""
    names = ["seed", "slope", "true", "true_standard_error", *METHODS]
    names += [f"{name}_{end}" for name in METHODS[:2] for end in ("low", "high")]
    empty = dict.fromkeys(names[2:], "nan")
    rows = []
    with _reading(path):
        reader = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        for row in reader:
            with _reading(f"{path}, line {reader.line_num},"):
                rows.append([float(row[name] or empty.get(name, "")) for name in names])
    if not rows:
        raise UserError(f"{path} has no rows: {_REMEDY}")
    return dict(zip(names, np.array(rows).T, strict=True))


def _summary(path: pathlib.Path) -> dict[str, Any]:
    """Return the fields of `Run` that summary.json holds; a figure without a median is None."""

    def figure(spread: dict[str, Any]) -> Band | None:
        if spread["median"] is None:
            return None
        return Band(*(float(spread[key]) for key in ("median", "q25", "q75")))

    with _reading(path):
        summary = json.loads(path.read_text(encoding="utf-8"))
        low, high = map(float, summary["train_interval"])
        true = summary["true_peak_slope"]
        return {
            "train_interval": (low, high),
            "true_peak": None if true is None else Band(*[float(true)] * 3),
            "dish_peak": figure(summary["dish"]["predicted_peak_slope"]),
            "tau": {name: figure(summary[name]["kendall_tau"]) for name in METHODS[:2]},
        }


def _losses(path: pathlib.Path) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return each seed's steps and losses from metrics.jsonl.

    Where a seed's steps go back, a resumed run or the fit after early stopping starts
    from there, and what was written for later steps is void.
    """
    found: dict[int, list[tuple[int, list[float]]]] = {}
    with _reading(path):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            with _reading(f"{path}, line {number},"):
                entry = json.loads(line)
                step, mine = int(entry["step"]), found.setdefault(int(entry["seed"]), [])
                losses = [np.nan if loss is None else float(loss) for loss in entry["outer_loss"]]
            while mine and mine[-1][0] >= step:
                mine.pop()
            mine.append((step, losses))
        if not found:
            raise UserError(f"{path} has no lines: {_REMEDY}")
        columns = {seed: zip(*mine, strict=True) for seed, mine in found.items()}
        return {seed: (np.array(next(of)), np.array(next(of))) for seed, of in columns.items()}


def _samples(path: pathlib.Path) -> dict[str, np.ndarray]:
    with _reading(path), np.load(path) as stored:
        samples = {name: np.asarray(stored[name], np.float64) for name in SAMPLES}
    for name, array in samples.items():
        if array.ndim != 2 or array.size == 0:
            raise UserError(f"{path}: {name} has shape {array.shape}, not [N, D]: {_REMEDY}")
    return samples

"""The files of the sigmoid-slope experiment: written by the study, read for its pictures."""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from spd_jax import files
from spd_jax.dish.inner_loop import SyntheticData
from spd_jax.errors import UserError
from spd_jax.ground_truth.lookup import TruthTable
from spd_jax.studies.run_folder import DAMAGE, RunFolder

FIGURES = (
    "kendall_tau",
    "kendall_tau_test",
    "kendall_tau_left",
    "predicted_peak_slope",
    "peak_error",
)
METHODS = ("dish", "dish_untrained", "slope_mlp", "gaussian_process")
SOURCE = "source_table"  # one more method, where another table is learned from
SAMPLES = ("train_inputs_start", "train_inputs", "valid_inputs", "train_labels", "valid_labels")
KIND = "synthetic data"  # what the file of samples belongs to
HUGE = 1e30  # what is larger has diverged
_REMEDY = "draw the folder of a finished run"


def slopes_of(names: Sequence[str]) -> np.ndarray:
    """Return the slopes that motifs are called after, `[M]` float64."""
    return np.array([float(name) for name in names])


def write_curves(
    folder: RunFolder, table: TruthTable, results: Mapping[int, Mapping[str, Any]]
) -> None:
    """Write predictions.csv, one row for each seed and slope."""
    columns = list(next(iter(results.values()))["predictions"])
    slopes, errors = slopes_of(table.cells.names), table.standard_error
    rows = []
    for seed, result in results.items():
        known = set(result["train"])
        for i, slope in enumerate(slopes):
            values = [result["predictions"][name][i] for name in columns]
            rows.append(
                [
                    seed,
                    slope,
                    f"{table.scores[i]:.9g}",
                    f"{errors[i]:.6g}" if np.isfinite(errors[i]) else "",
                    "train" if i in known else "test",
                    *("-inf" if value is None else f"{value:.6g}" for value in values),
                ]
            )
    header = ["seed", "slope", "true", "true_standard_error", "split", *columns]
    files.write_csv(folder.path / "predictions.csv", {}, header, rows)


def write_samples(folder: RunFolder, start: SyntheticData, learned: SyntheticData) -> None:
    """Write synthetic_data.npz: the samples of a dish's first member, before and after."""
    arrays = {
        "train_inputs_start": start.train_inputs,
        "train_inputs": learned.train_inputs,
        "valid_inputs": learned.valid_inputs,
        "train_labels": learned.train_labels,
        "valid_labels": learned.valid_labels,
    }
    first = {name: np.asarray(array[0]) for name, array in arrays.items()}
    files.save_arrays(folder.path / "synthetic_data.npz", first, kind=KIND)


class Band(NamedTuple):
    """Median and quartiles over seeds, numbers or `[K]`; NaN where a failure decides them."""

    median: Any
    low: Any
    high: Any


@dataclasses.dataclass(frozen=True)
class Run:
    """What the pictures show of a finished run.

    Attributes:
      dataset: of the ground truth, in words; empty where it is not known.
      preset: name of the dish's settings; empty where it is not known.
      source: data set of the table that was learned from; empty where it is this one.
      slopes: `[K]` float64, strictly increasing, unitless.
      inside: `[K]` bool, which of them lie in the training interval.
      truth: `[K]`, validation accuracy in standard deviations (population) from the mean
        of the slopes inside; NaN where it is not known.
      truth_error: `[K]`, its standard error in the same unit; NaN where it is not known.
      bands: for each of `METHODS`, and `SOURCE` where there is one, the predictions `[K]`, in
        standard deviations over each seed's training motifs, or over the slopes inside where
        another table was learned from. With a single seed they are those of the dish's members.
      seeds: how many there are.
      train_interval: least and greatest slope that a motif was trained on.
      true_peak, dish_peak: slopes of the best truth and of the dish's best prediction; None
        where the run has none.
      tau: Kendall's tau of every method; None where the run has none.
      losses: for each seed the outer steps `[S]`, ascending, and outer losses `[S, E]`.
      samples: the arrays named in `SAMPLES`, inputs `[N, D]` and labels `[N, C]`.
    """

    dataset: str
    preset: str
    source: str
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
    """Return what the pictures need of a run folder.

    Args:
      workdir: holds predictions.csv, summary.json, metrics.jsonl and synthetic_data.npz.

    Raises:
      UserError: a file is missing or is not what the experiment writes.
    """
    workdir = pathlib.Path(workdir)
    with _reading(workdir / "summary.json") as path:
        summary = _summary(json.loads(path.read_text(encoding="utf-8")))
    with _reading(workdir / "predictions.csv") as path:
        curves = _curves(path, *summary["train_interval"])
    with _reading(workdir / "metrics.jsonl") as path:
        losses = _losses(path.read_text(encoding="utf-8").splitlines())
    with _reading(workdir / "synthetic_data.npz") as path:
        stored = files.load_arrays(path, kind=KIND)
        samples = {name: np.asarray(stored[name], np.float64) for name in SAMPLES}
        if any(array.ndim != 2 or array.size == 0 for array in samples.values()):
            raise ValueError("its arrays are not [N, D]")
    return Run(**summary, **curves, losses=losses, samples=samples)


def quartiles(values: np.ndarray, failed: float = -1.0) -> Band:
    """Return median and quartiles over the first axis of `[S, K]`.

    A value that is not finite belongs to something that failed; it counts as lower than
    all others (higher, with a positive `failed`), and a quantile that depends on it is NaN.
    """
    filled = np.where(np.isfinite(values), values, np.copysign(1e200, failed))
    found = np.quantile(filled, [0.5, 0.25, 0.75], axis=0)
    return Band(*np.where(np.abs(found) < 1e100, found, np.nan))


@contextlib.contextmanager
def _reading(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Turn whatever is wrong with a file into one sentence."""
    if not path.exists():
        raise UserError(f"{path} is missing: {_REMEDY}")
    try:
        yield path
    except DAMAGE as error:
        why = f"no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{path} cannot be read ({why}): {_REMEDY}") from error


def _summary(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of `Run` that summary.json holds; a figure without a median is None."""

    def number(value: Any) -> float:
        if not abs(float(value)) < HUGE:
            raise ValueError(f"{value} is no slope and no tau")
        return float(value)

    def figure(spread: dict[str, Any]) -> Band | None:
        if spread["median"] is None:
            return None
        return Band(*(number(spread[key]) for key in ("median", "q25", "q75")))

    low, high = map(number, summary["train_interval"])
    true = summary["true_peak_slope"]
    return {
        "dataset": str(summary.get("dataset", "")),
        "preset": str(summary.get("preset", "")),
        "source": str(summary.get("source", "")),
        "train_interval": (low, high),
        "true_peak": None if true is None else Band(*[number(true)] * 3),
        "dish_peak": figure(summary["dish"]["predicted_peak_slope"]),
        "tau": {
            name: figure(summary[name]["kendall_tau"])
            for name in (*METHODS, SOURCE)
            if name in summary
        },
    }


def _curves(path: pathlib.Path, low: float, high: float) -> dict[str, Any]:
    """Return the fields of `Run` that predictions.csv holds, a row for each seed and slope."""
    _, lines = files.read_csv(path)
    methods = [*METHODS, *[SOURCE for _, row in lines[:1] if SOURCE in row]]
    names = ["seed", "slope", "true", "true_standard_error", *methods]
    names += [f"{name}_{end}" for name in METHODS[:2] for end in ("low", "high")]
    rows = [[float(row[name] or "nan") for name in names] for _, row in lines]
    if not rows:
        raise ValueError("no rows")
    values = np.array(rows).T
    columns = dict(zip(names, _plausible(values), strict=True))
    slopes, motif = np.unique(columns["slope"], return_inverse=True)
    seeds, seed = np.unique(columns["seed"], return_inverse=True)
    if not np.isfinite([*slopes, *seeds]).all():
        raise ValueError("a seed or a slope is missing")
    if (columns["true_standard_error"] < 0).any():
        raise ValueError("a standard error is negative")
    tables = {name: np.full((len(seeds), len(slopes)), np.nan) for name in columns}
    for name, table in tables.items():
        table[seed, motif] = columns[name]
    # A slope may have been rounded on its way into the table. Every seed has the same truth.
    inside = (slopes >= low - 1e-6) & (slopes <= high + 1e-6)
    truth = tables["true"][0]
    known = truth[inside & np.isfinite(truth)]
    if known.size == 0 or known.std() == 0:
        raise ValueError("the truth does not vary in the training interval")
    bands = {name: quartiles(tables[name]) for name in methods}
    if len(seeds) == 1:
        for name in METHODS[:2]:
            bands[name] = Band(*(quartiles(tables[name + end])[0] for end in ("", "_low", "_high")))
    return {
        "slopes": slopes,
        "inside": inside,
        "truth": (truth - known.mean()) / known.std(),
        "truth_error": tables["true_standard_error"][0] / known.std(),
        "bands": bands,
        "seeds": len(seeds),
    }


def _losses(lines: list[str]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return each seed's steps and losses out of the lines of metrics.jsonl.

    Where a seed's steps go back, a resumed run or the fit after early stopping starts
    from there, and what was written for later steps is void.
    """
    found: dict[int, dict[int, list[float]]] = {}
    for line in lines:
        entry = json.loads(line)
        step, own = int(entry["step"]), found.setdefault(int(entry["seed"]), {})
        for later in [known for known in own if known >= step]:
            del own[later]
        own[step] = [np.nan if loss is None else float(loss) for loss in entry["outer_loss"]]
    if not found:
        raise ValueError("no lines")
    return {
        seed: (np.array(list(own), np.int64), _plausible(np.array(list(own.values()), float)))
        for seed, own in found.items()
    }


def _plausible(values: np.ndarray) -> np.ndarray:
    """Return values with NaN for what is not finite, or so large that no axis can show it."""
    return np.where(np.abs(values) < HUGE, values, np.nan)

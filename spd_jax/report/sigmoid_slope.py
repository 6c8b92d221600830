"""The sigmoid-slope experiment in four pictures: figures 1 and 4 of Rawal et al., and the fit."""

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
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spd_jax.errors import UserError
from spd_jax.files import atomic_path

METHODS = ("dish", "dish_untrained", "slope_mlp", "gaussian_process")
SAMPLES = ("train_inputs_start", "train_inputs", "valid_inputs", "train_labels", "valid_labels")
# Okabe and Ito (2008), told apart under every common colour blindness; hues as in the paper.
TRUTH, DISH, MLP, GAUSSIAN, INK = "#0072B2", "#009E73", "#D55E00", "#B0508A", "#333333"
SCORE = "validation accuracy\n(standard deviations over the training motifs)"
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


def draw(workdir: str | os.PathLike[str]) -> list[pathlib.Path]:
    """Draw a finished run: figure1, figure4, convergence and synthetic_data, as PNG.

    Args:
      workdir: a run folder with predictions.csv, summary.json, metrics.jsonl and
        synthetic_data.npz; the pictures are written beside them.

    Returns:
      The pictures' paths, in that order.

    Raises:
      UserError: a file is missing or is not what the experiment writes; no picture is
        then written.
    """
    workdir = pathlib.Path(workdir)
    run = read(workdir)
    paths = []
    for picture in (figure1, figure4, convergence, synthetic_data):
        paths.append(workdir / f"{picture.__name__}.png")
        with atomic_path(paths[-1]) as temporary:
            picture(run).savefig(temporary, dpi=150)
    return paths


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


def focus(run: Run) -> tuple[float, float]:
    """Return the ends of a score axis that shows the peak well.

    Left of the peak the truth falls by dozens of standard deviations. The axis keeps to
    what is drawn in and above the training interval, and goes no further than 1.2 times
    the distance between the true peak and the lowest truth inside.
    """
    curves = np.stack([run.truth, *(band.median for band in run.bands.values())])
    bottom, top = np.nanmin(run.truth[run.inside]), np.nanmax(run.truth)
    span = top - bottom
    low = max(np.nanmin(curves[:, run.inside]), bottom - 1.2 * span)
    high = min(np.nanmax(curves), top + 1.2 * span)
    return float(low - 0.25 * span), float(high + 0.35 * span)


def peaks(run: Run) -> list[tuple[float, str, str]]:
    """Return slope, words and colour of each peak to mark: the true one and the dish's."""
    found = ((run.true_peak, "true peak", TRUTH), (run.dish_peak, "dish's peak", DISH))
    return [
        (peak.median, f"{name}: c = {_words(peak, '.3g')}", colour)
        for peak, name, colour in found
        if peak is not None
    ]


def figure1(run: Run) -> Figure:
    """Return the paper's figure 1: truth, dish and rivals; (a) near the peak, (b) everywhere."""
    figure = Figure(figsize=(11.5, 5.2), layout="constrained")
    near, whole = figure.subplots(1, 2, width_ratios=[1.75, 1])
    for axes in (near, whole):
        _truth_and_dish(axes, run, "dish")
        _curve(axes, run, "slope_mlp", MLP, label="MLP on the slope", ls="-.")
        _curve(axes, run, "gaussian_process", GAUSSIAN, label="Gaussian process", ls="--", lw=1)
        lines = [axes.axvline(c, 0, 0.84, color=colour, ls="--") for c, _, colour in peaks(run)]
    _label(near, "(a)  around the peak", "sigmoid slope c", SCORE)
    _label(whole, "(b)  whole range", "sigmoid slope c (logarithmic)", SCORE)
    _look_near(near, run)
    words = [words for _, words, _ in peaks(run)]
    near.legend(lines, words, loc="upper right", frameon=False, labelcolor="linecolor")
    lowest = np.nanmin(run.truth)
    fall = max(np.nanmin(np.append(run.bands["dish"].median, lowest)), 4 * lowest)
    whole.set_ylim(min(near.get_ylim()[0], 1.1 * fall), near.get_ylim()[1])
    whole.set_xscale("log")
    whole.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 3.0)))
    whole.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    _legend(figure, near)
    return figure


def figure4(run: Run) -> Figure:
    """Return the paper's figure 4, the dish on random data, beside the dish on learned data."""
    figure = Figure(figsize=(11.5, 4.8), layout="constrained")
    panels = figure.subplots(1, 2)
    titles = ("(a)  random data, before training", "(b)  learned data, after training")
    for axes, name, title in zip(panels, ("dish_untrained", "dish"), titles, strict=True):
        _truth_and_dish(axes, run, name)
        _label(axes, title, "sigmoid slope c", SCORE)
        _look_near(axes, run)
        tau = run.tau[name]
        if tau is not None:
            place = {"transform": axes.transAxes, "ha": "right", "va": "top"}
            axes.text(0.97, 0.96, f"Kendall's τ = {_words(tau, '.2f')}", color=DISH, **place)
    _legend(figure, panels[0])
    return figure


def convergence(run: Run) -> Figure:
    """Return outer loss against outer step; a seed that stopped early keeps its last loss."""
    steps = np.unique(np.concatenate([own for own, _ in run.losses.values()]))
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.subplots()
    members: list[np.ndarray] = []
    for own, losses in run.losses.values():
        axes.plot(own, losses, color=INK, lw=0.5, alpha=0.2)
        latest = np.searchsorted(own, steps, side="right") - 1
        members.extend(losses[np.maximum(latest, 0)].T)
    axes.lines[0].set_label("single dishes")
    band = quartiles(np.array(members), failed=1.0)
    axes.fill_between(steps, band.low, band.high, color=DISH, alpha=0.3, lw=0, label="quartiles")
    style: dict[str, Any] = {"lw": 2.2, "marker": "o" if len(steps) == 1 else ""}
    axes.plot(steps, band.median, color=DISH, label=f"median of {len(members)} dishes", **style)
    if 0 < np.min(members, initial=np.inf, where=np.isfinite(members)) < np.inf:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(ticker.LogFormatter())
    _label(axes, "Learning the synthetic data", "outer step", "outer loss")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.margins(x=0.01)
    axes.legend(frameon=False, fontsize=9)
    return figure


def synthetic_data(run: Run) -> Figure:
    """Return heat maps of one dish's synthetic inputs, at the start and learned, and labels."""
    titles = ["inputs at the start", "learned train inputs", "learned valid inputs"]
    titles += ["train labels", "valid labels"]
    arrays = [run.samples[name] for name in SAMPLES]
    rows, columns = max(len(array) for array in arrays), [array.shape[1] for array in arrays]
    cell = min(10.5 / sum(columns), 8.0 / rows)
    size = (cell * sum(columns) + 4.2, cell * rows + 1.0)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, 5, width_ratios=columns, subplot_kw={"anchor": "N"})
    values, labels = (np.concatenate(part, axis=None) for part in (arrays[:3], arrays[3:]))
    largest = np.abs(values).max(initial=1e-6, where=np.isfinite(values))
    for k, (axes, array, title) in enumerate(zip(panels, arrays, titles, strict=True)):
        colours, low, high = "RdBu_r", -largest, largest
        if k >= 3:
            colours, low, high = "Greys", labels.min(initial=0), labels.max(initial=1)
        image = axes.imshow(array, cmap=colours, vmin=low, vmax=high)
        _label(axes, title, "input" if k < 3 else "output", "sample")
        axes.grid(visible=False)
        axes.spines[["top", "right"]].set_visible(True)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(ticker.MaxNLocator(5, integer=True, min_n_ticks=1))
        if k in (2, 4):
            bar = axes.inset_axes((1.05, 0.0, 0.06, 1.0))
            figure.colorbar(image, cax=bar, label="input value" if k == 2 else "label")
    return figure


def _label(axes: Axes, title: str, horizontal: str, vertical: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set(xlabel=horizontal, ylabel=vertical)
    axes.grid(color="#DDDDDD", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)


def _legend(figure: Figure, axes: Axes) -> None:
    style: dict[str, Any] = {"handlelength": 2.6, "columnspacing": 1.6, "frameon": False}
    # matplotlib lists error bars last.
    handles, labels = (found[-1:] + found[:-1] for found in axes.get_legend_handles_labels())
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=9, **style)


def _curve(axes: Axes, run: Run, name: str, colour: str, **style: Any) -> None:
    """Draw a band; a cross at the bottom is a motif whose median failed."""
    band, style = run.bands[name], {"lw": 1.6, "zorder": 3, **style}
    axes.fill_between(run.slopes, band.low, band.high, color=colour, alpha=0.2, lw=0, zorder=2)
    axes.plot(run.slopes, band.median, color=colour, **style)
    failed = run.slopes[~np.isfinite(band.median)]
    if failed.size:
        style = {"transform": axes.get_xaxis_transform(), "label": "failed"}
        axes.plot(failed, 0 * failed + 0.015, "x", color=colour, **style)


def _truth_and_dish(axes: Axes, run: Run, name: str) -> None:
    axes.axvspan(*run.train_interval, color="#56B4E9", alpha=0.13, lw=0, zorder=0)
    error = np.nan_to_num(run.truth_error)
    label = "ground truth (± standard error)" if error.any() else "ground truth"
    style: dict[str, Any] = {"fmt": "D", "ms": 4, "elinewidth": 1.2, "zorder": 4}
    axes.errorbar(run.slopes, run.truth, yerr=error, color=TRUTH, label=label, **style)
    spread = f"{run.seeds} seeds" if run.seeds > 1 else "its members"
    label = f"Synthetic Petri Dish (median, quartiles of {spread})"
    _curve(axes, run, name, DISH, label=label, lw=2, marker="o", ms=3)


def _look_near(axes: Axes, run: Run) -> None:
    """Keep the axes to the peak's neighbourhood, and say what is left out."""
    axes.set(ylim=focus(run), xlim=(min(0.0, run.slopes[0]), run.slopes[-1] * 1.02))
    style: dict[str, Any] = {"fontsize": 9, "in_layout": False, "color": TRUTH}
    style["transform"] = axes.get_xaxis_transform()
    axes.text(run.train_interval[1], 0.03, "training interval ", ha="right", **style)
    worst = int(np.nanargmin(run.truth))
    if run.truth[worst] < axes.get_ylim()[0]:
        note = f"  ← truth falls to $-${-run.truth[worst]:.0f} at c = {run.slopes[worst]:.3g}"
        axes.text(run.train_interval[0], 0.03, note, **style)


def _words(spread: Band, digits: str) -> str:
    """Return `0.27 (quartiles 0.25 to 0.31)`, or the median alone where nothing is spread."""
    words = format(spread.median, digits)
    if spread.low < spread.high:
        words += f" (quartiles {spread.low:{digits}} to {spread.high:{digits}})"
    return words


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

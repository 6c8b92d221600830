"""The sigmoid-slope experiment in four pictures: figures 1 and 4 of Rawal et al., and the fit."""

import os
import pathlib
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spd_jax.files import atomic_path
from spd_jax.report.extrapolation_run import SAMPLES, Band, Run, quartiles, read
from spd_jax.report.style import INK, label_axes

# Okabe and Ito (2008), told apart under every common colour blindness; hues as in the paper.
TRUTH, DISH, MLP, GAUSSIAN = "#0072B2", "#009E73", "#D55E00", "#B0508A"
SCORE = "validation accuracy\n(standard deviations over the training motifs)"


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
    label_axes(near, "(a)  around the peak", "sigmoid slope c", SCORE)
    label_axes(whole, "(b)  whole range", "sigmoid slope c (logarithmic)", SCORE)
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
    titles = ("(a)  random data, before training", f"(b)  {_after(run)}")
    for axes, name, title in zip(panels, ("dish_untrained", "dish"), titles, strict=True):
        _truth_and_dish(axes, run, name)
        label_axes(axes, title, "sigmoid slope c", SCORE)
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
    label_axes(axes, "Learning the synthetic data", "outer step", "outer loss")
    if steps.max() == 0:
        note = "no outer step was taken:\nthis run's dishes keep their random data"
        axes.text(0.5, 0.75, note, transform=axes.transAxes, ha="center", color=INK)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.margins(x=0.01)
    axes.legend(frameon=False, fontsize=9)
    return figure


def synthetic_data(run: Run) -> Figure:
    """Return heat maps of one dish's synthetic inputs, at the start and learned, and labels."""
    titles = ["inputs at the start", "train inputs", "valid inputs", "train labels", "valid labels"]
    arrays = [run.samples[name] for name in SAMPLES]
    rows, columns = max(len(array) for array in arrays), [array.shape[1] for array in arrays]
    cell = min(10.5 / sum(columns), 8.0 / rows)
    size = (cell * sum(columns) + 4.2, cell * rows + 1.0)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(f"Synthetic data of one dish {_after(run)}", fontsize=11)
    panels = figure.subplots(1, 5, width_ratios=columns, subplot_kw={"anchor": "N"})
    values, labels = (np.concatenate(part, axis=None) for part in (arrays[:3], arrays[3:]))
    largest = np.abs(values).max(initial=1e-6, where=np.isfinite(values))
    for k, (axes, array, title) in enumerate(zip(panels, arrays, titles, strict=True)):
        colours, low, high = "RdBu_r", -largest, largest
        if k >= 3:
            colours, low, high = "Greys", labels.min(initial=0), labels.max(initial=1)
        image = axes.imshow(array, cmap=colours, vmin=low, vmax=high)
        label_axes(axes, title, "input" if k < 3 else "output", "sample")
        axes.grid(visible=False)
        axes.spines[["top", "right"]].set_visible(True)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(ticker.MaxNLocator(5, integer=True, min_n_ticks=1))
        if k in (2, 4):
            bar = axes.inset_axes((1.05, 0.0, 0.06, 1.0))
            figure.colorbar(image, cax=bar, label="input value" if k == 2 else "label")
    return figure


def _after(run: Run) -> str:
    """Return how many outer steps the dishes took, in words."""
    last = sorted({int(own.max()) for own, _ in run.losses.values()})
    count = str(last[0]) if len(last) == 1 else f"{last[0]} to {last[-1]}"
    return f"after {count} outer step" + ("" if last == [1] else "s")


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

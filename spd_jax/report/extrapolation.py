"""The sigmoid-slope experiment: its table, and figures 1 and 4 of Rawal et al. and the fit."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spd_jax.report import style
from spd_jax.report.style import INK, label_axes
from spd_jax.report.text import table, wrapped
from spd_jax.studies.predictions import SAMPLES, SOURCE, Band, Run, quartiles, read

# Hues as in the paper.
TRUTH, DISH, MLP, GAUSSIAN = style.BLUE, style.GREEN, style.VERMILION, style.PURPLE
TABLE, UNTRAINED = style.ORANGE, style.GREY
NAMES = {
    "dish": "dish",
    "dish_untrained": "untrained",
    "slope_mlp": "MLP",
    "gaussian_process": "process",
    SOURCE: "source",
}
SCORE = "validation accuracy\n(standard deviations over the {})"
FIGURES = {
    "kendall_tau": "tau",
    "kendall_tau_test": "tau, held out",
    "kendall_tau_left": "tau, left",
    "predicted_peak_slope": "peak slope",
    "peak_error": "peak error",
}


def results(summary: Mapping[str, Any]) -> str:
    """Return a finished run as text of at most 80 columns: every figure of every method.

    Args:
      summary: of the experiment, as its summary.json holds it.
    """
    rows = []
    methods = summary["methods"]
    for figure, words in FIGURES.items():
        if summary["source"] and figure == "kendall_tau_test":
            continue  # all of them are held out
        spreads = [summary[method][figure] for method in methods]
        known = [spread["median"] is not None for spread in spreads]
        pairs = list(zip(spreads, known, strict=True))
        rows.append([words, *(f"{s['median']:.3f}" if k else "-" for s, k in pairs)])
        rows.append(["", *(f"{s['q25']:.2f}..{s['q75']:.2f}" if k else "" for s, k in pairs)])
    seeds = len(summary["seeds"])
    title = f"medians, quartiles below, over {seeds} seed" + ("s" if seeds > 1 else "")
    ceiling = summary["noise_ceiling"]
    words = "-" if ceiling is None else f"{ceiling:.3f}"
    peak = summary["true_peak_slope"]
    notes = [
        "held out: slopes not trained on; left: those left of the training interval",
        f"true peak at {'-' if peak is None else format(peak, '.2f')}; {summary['slopes']} slopes, "
        f"{summary['ground_truth_rows']} trained networks",
        f"tau between one seed of the ground truth and the others: {words}",
    ]
    if summary["source"]:
        notes[0] = "all learned from another table, which source reads directly; "
        notes[0] += f"left: of {summary['train_interval'][0]:g}"
    head = ["", *(NAMES[method] for method in methods)]
    return table(title, head, rows) + "\n".join(map(wrapped, notes))


def draw(workdir: str | os.PathLike[str]) -> list[pathlib.Path]:
    """Draw a finished run folder and return the pictures' paths.

    Raises:
      UserError: a file is missing or is not what the experiment writes.
    """
    return style.save_all(workdir, pictures(read(workdir)))


def pictures(run: Run) -> dict[str, Figure]:
    """Return the pictures of a run by file name.

    Where no outer step was taken, nothing was learned: convergence and synthetic data are left
    out, and figure 4 has one panel.
    """
    drawn = {"figure1.png": figure1(run), "figure4.png": figure4(run)}
    if _learned(run):
        drawn |= {"convergence.png": convergence(run), "synthetic_data.png": synthetic_data(run)}
    return drawn


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
    figure = _titled(run, (11.5, 5.5), verdict=_verdict(run))
    near, whole = figure.subplots(1, 2, width_ratios=[1.75, 1])
    for axes in (near, whole):
        _truth_and_dish(axes, run, "dish", _with_tau(run, "dish"))
        label = "MLP on the slope" + _with_tau(run, "slope_mlp")
        _curve(axes, run, "slope_mlp", MLP, label=label, ls="-.")
        label = "Gaussian process" + _with_tau(run, "gaussian_process")
        _curve(axes, run, "gaussian_process", GAUSSIAN, label=label, ls="--", lw=1)
        if SOURCE in run.bands:
            label = f"{run.source}'s table itself" + _with_tau(run, SOURCE)
            _curve(axes, run, SOURCE, TABLE, label=label, lw=1.2)
            label = "dish, untrained" + _with_tau(run, "dish_untrained")
            _curve(axes, run, "dish_untrained", UNTRAINED, label=label, ls=":", lw=1.2)
        lines = [axes.axvline(c, 0, 0.84, color=colour, ls="--") for c, _, colour in peaks(run)]
    label_axes(near, "(a)  around the peak", "sigmoid slope c", _score(run))
    label_axes(whole, "(b)  whole range", "sigmoid slope c (logarithmic)", _score(run))
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
    """Return the paper's figure 4: the dish on random data and, if it learned, on learned data."""
    panels = {"dish_untrained": "(a)  random data, before training", "dish": f"(b)  {_after(run)}"}
    if not _learned(run):
        panels = {"dish_untrained": "random data, no outer step was taken"}
    figure = _titled(run, (11.5, 5.1) if len(panels) > 1 else (7.2, 5.1))
    for axes, (name, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0],
                                   panels.items(), strict=True):  # fmt: skip
        _truth_and_dish(axes, run, name)
        label_axes(axes, title, "sigmoid slope c", _score(run))
        _look_near(axes, run)
        tau = run.tau[name]
        if tau is not None:
            place = {"transform": axes.transAxes, "ha": "right", "va": "top"}
            axes.text(0.97, 0.96, f"Kendall's τ = {_words(tau, '.2f')}", color=DISH, **place)
    _legend(figure, figure.axes[0])
    return figure


def convergence(run: Run) -> Figure:
    """Return outer loss against outer step; a seed that stopped early keeps its last loss."""
    steps = np.unique(np.concatenate([own for own, _ in run.losses.values()]))
    figure = _titled(run, (7.5, 4.9))
    axes = figure.subplots()
    members: list[np.ndarray] = []
    for own, losses in run.losses.values():
        axes.plot(own, losses, color=INK, lw=0.5, alpha=0.2)
        latest = np.searchsorted(own, steps, side="right") - 1
        members.extend(losses[np.maximum(latest, 0)].T)
    axes.lines[0].set_label("single dishes")
    band = quartiles(np.array(members), failed=1.0)
    axes.fill_between(steps, band.low, band.high, color=DISH, alpha=0.3, lw=0, label="quartiles")
    label = f"median of {len(members)} dishes"
    axes.plot(steps, band.median, color=DISH, label=label, lw=2.2)
    label_axes(axes, "Learning the synthetic data", "outer step", "outer loss")
    finite = np.array(members)[np.isfinite(members)]
    if finite.size and finite.min() > 0 and finite.max() > 3 * finite.min():
        axes.set_yscale("log")
        subs = (1.0, 2.0, 5.0) if finite.max() < 1e3 * finite.min() else (1.0,)
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=subs))
        axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
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
    size = (cell * sum(columns) + 4.2, cell * rows + 1.1)
    figure = _titled(run, size, f"Synthetic data of one dish {_after(run)}: ")
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


def _score(run: Run) -> str:
    """Return what the vertical axis shows."""
    if run.source:
        return SCORE.format(f"slopes from {run.train_interval[0]:g} on")
    return SCORE.format("training motifs")


def _with_tau(run: Run, name: str) -> str:
    """Return `, τ = 0.70` of a method, where all learned from another table; else nothing."""
    tau = run.tau.get(name) if run.source else None
    return "" if tau is None else f", τ = {tau.median:.2f}"


def _learned(run: Run) -> bool:
    return any(own.max() > 0 for own, _ in run.losses.values())


def _verdict(run: Run) -> str:
    """Return what learning brought and whether a simple rival is better, of another table."""
    taus = {name: own.median for name, own in run.tau.items() if own is not None}
    rivals = {
        words: taus[name]
        for name, words in (
            ("slope_mlp", "MLP on the slope"), ("gaussian_process", "Gaussian process"),
            (SOURCE, f"{run.source}'s table itself"),
        )
        if name in taus
    }  # fmt: skip
    if not run.source or not rivals or not {"dish", "dish_untrained"} <= taus.keys():
        return ""
    best = max(rivals, key=lambda words: rivals[words])
    before, after = taus["dish_untrained"], taus["dish"]
    worth = "is better" if rivals[best] > after else "is not better"
    return (
        f"Learning takes the dish's τ from {before:.2f} to {after:.2f}. "
        f"The best simple rival, {best}, {worth}: {rivals[best]:.2f}"
    )


def _titled(
    run: Run, size: tuple[float, float], what: str = "Sigmoid slopes: ", verdict: str = ""
) -> Figure:
    """Return a figure whose title says whose results it shows, and perhaps what they mean."""
    figure = Figure(figsize=size, layout="constrained")
    seeds = f"{run.seeds} seed" + ("s" if run.seeds > 1 else "")
    parts = [run.dataset, f"learned from {run.source}" if run.source else ""]
    parts += [f"preset {run.preset}" if run.preset else "", seeds]
    words = what + ", ".join(part for part in parts if part)
    words += f"\n{verdict}" if verdict else ""
    figure.suptitle(words, x=0.01, ha="left", fontsize=12, color=INK)
    return figure


def _after(run: Run) -> str:
    """Return how many outer steps the dishes took, in words."""
    last = sorted({int(own.max()) for own, _ in run.losses.values()})
    count = str(last[0]) if len(last) == 1 else f"{last[0]} to {last[-1]}"
    return f"after {count} outer step" + ("" if last == [1] else "s")


def _legend(figure: Figure, axes: Axes) -> None:
    options: dict[str, Any] = {"handlelength": 2.6, "columnspacing": 1.6, "frameon": False}
    options |= {"loc": "outside lower center", "fontsize": 9}
    # matplotlib lists error bars last.
    handles, labels = (found[-1:] + found[:-1] for found in axes.get_legend_handles_labels())
    figure.legend(handles, labels, ncols=5 if len(labels) <= 5 else 3, **options)


def _curve(axes: Axes, run: Run, name: str, colour: str, **line: Any) -> None:
    """Draw a band; a cross at the bottom is a motif whose median failed."""
    band, line = run.bands[name], {"lw": 1.6, "zorder": 3, **line}
    axes.fill_between(run.slopes, band.low, band.high, color=colour, alpha=0.2, lw=0, zorder=2)
    axes.plot(run.slopes, band.median, color=colour, **line)
    failed = run.slopes[~np.isfinite(band.median)]
    if failed.size:
        line = {"transform": axes.get_xaxis_transform(), "label": "failed"}
        axes.plot(failed, 0 * failed + 0.015, "x", color=colour, **line)


def _truth_and_dish(axes: Axes, run: Run, name: str, words: str = "") -> None:
    if not run.source:
        axes.axvspan(*_shown_interval(run), color="#56B4E9", alpha=0.13, lw=0, zorder=0)
    error = np.nan_to_num(run.truth_error)
    label = "ground truth (± standard error)" if error.any() else "ground truth"
    marks: dict[str, Any] = {"fmt": "D", "ms": 4, "elinewidth": 1.2, "zorder": 4}
    axes.errorbar(run.slopes, run.truth, yerr=error, color=TRUTH, label=label, **marks)
    spread = f"{run.seeds} seeds" if run.seeds > 1 else "its members"
    label = f"Synthetic Petri Dish (median, quartiles of {spread}){words}"
    _curve(axes, run, name, DISH, label=label, lw=2, marker="o", ms=3)


def _look_near(axes: Axes, run: Run) -> None:
    """Keep the axes to the peak's neighbourhood, and say what is left out."""
    axes.set(ylim=focus(run), xlim=(min(0.0, run.slopes[0]), run.slopes[-1] * 1.02))
    words: dict[str, Any] = {"fontsize": 9, "in_layout": False, "color": TRUTH, "zorder": 5}
    words |= {"transform": axes.get_xaxis_transform()}
    words["bbox"] = {"facecolor": "#E9F5FC", "alpha": 0.85, "lw": 0, "pad": 1}
    low, high = _shown_interval(run)
    if not run.source:
        axes.text(high, 0.03, "training interval ", ha="right", **words)
    worst = int(np.nanargmin(run.truth))
    if run.truth[worst] < axes.get_ylim()[0]:
        note = f"  ← truth falls to $-${-run.truth[worst]:.0f} at c = {run.slopes[worst]:.3g}"
        axes.text(low, 0.03, note, **words)


def _shown_interval(run: Run) -> tuple[float, float]:
    """Return the part of the training interval that has slopes: it may be much wider."""
    low, high = np.clip(run.train_interval, run.slopes[0], run.slopes[-1]).tolist()
    return low, high


def _words(spread: Band, digits: str) -> str:
    """Return `0.27 (quartiles 0.25 to 0.31)`, or the median alone where nothing is spread."""
    words = format(spread.median, digits)
    if spread.low < spread.high:
        words += f" (quartiles {spread.low:{digits}} to {spread.high:{digits}})"
    return words

"""The image-cells experiment as text and pictures: figures 2 to 7 of Cassimon et al., and more."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spd_jax import metrics
from spd_jax.report import style
from spd_jax.report.style import INK, label_axes
from spd_jax.report.text import clock_face, duration, table, wrapped
from spd_jax.studies.image_cells import SHORT, WHOLE, ImageCellsRun

COLOURS = {WHOLE: style.GREEN, SHORT: style.PURPLE}
FILTER = 3  # outer steps of the paper's moving average
CLASSES_SHOWN = 10
LOSSES = {
    "absolute_pearson": "1 - |Pearson's r|",
    "zscored_mse": "MSE between z-scores",
    "raw_mse": "mean squared error",
    "pairwise_rank": "pairwise logistic loss (nats)",
}
DAY = 86400.0


def results(summary: Mapping[str, Any]) -> str:
    """Return a finished run as text of at most 80 columns.

    Args:
      summary: as summary.json holds it.
    """
    trainings = summary["trainings"]
    names = [f"{own['epochs']:g} epochs" for own in trainings.values()]
    rows = [
        [words, *(_number(_find(own, path)) for own in trainings.values())]
        for words, path in FIGURES.items()
    ]
    notes = [
        f"{summary['num_train']} known and {summary['num_test']} held-out cells of "
        f"{summary['table']} ({summary['ground_truth_words']}); motif-network "
        f"{summary['motif_network']}, stem {summary['stem']}, preset {summary['preset']}",
        "undefined: outer steps in which all cells being fitted are equally accurate",
    ]
    if "share_larger_in_b" in summary:
        notes.append(
            f"motif-network B has more parameters than A for {summary['share_larger_in_b']:.0%} "
            "of the cells (paper: 80 %)"
        )
    return (
        table("ranking", ["", *names], rows)
        + "\n".join(map(wrapped, notes))
        + "\n\n"
        + _costs(summary, names)
    )


FIGURES = {
    "held-out tau": ("kendall_tau",),
    "  before the outer loop": ("kendall_tau_untrained",),
    "held-out rho": ("spearman",),
    "regret of the predicted best": ("regret",),
    "tau of fitted cells, undefined = 0": ("fitted_cells", "tau"),
    "  without undefined steps": ("fitted_cells", "tau_without_undefined"),
    "  of their scores": ("fitted_cells", "tau_scores"),
    "share of undefined steps": ("fitted_cells", "undefined_share"),
    "share of steps with all perfect": ("fitted_cells", "perfect_share"),
    "max accuracy, first five steps": ("fitted_cells", "max_accuracy_first"),
    "  last five steps": ("fitted_cells", "max_accuracy_last"),
}


def _costs(summary: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return the paper's tables 1 and 2, with ours beside them."""
    paper = summary["paper_costs"]
    ours = [own["costs"] for own in summary["trainings"].values()]
    rows = [
        [f"an inner epoch of a cell, {key}", duration(paper["epoch_seconds"][key])]
        + [duration(own["epoch_seconds"][key]) for own in ours]
        for key in ("min", "mean", "max")
    ]
    for words, key in {
        "initialisation, truths excluded": "initialisation_seconds",
        "query of a cell": "query_seconds",
        "ground truths, estimated": "ground_truth_seconds",
        "the procedure of Rawal et al., est.": "rawal_seconds",
    }.items():
        rows.append([words, _time(paper[key]), *(_time(own[key]) for own in ours)])
    own = summary["nasbench101_epoch_seconds"]
    note = (
        "estimates: ground truths at NAS-Bench-101's own "
        f"{own['mean']:g} s an epoch ({own['min']:g} to {own['max']:g}); Rawal et al. train 30 "
        "cells at each outer step. Times leave compiling out; the paper's are for its own sizes."
    )
    return table("cost", ["", "paper", *names], rows) + wrapped(note)


def _time(seconds: float) -> str:
    if seconds >= DAY:
        return f"{seconds / DAY:.1f} d"
    return duration(seconds) if seconds < 600 else clock_face(seconds)


def _find(own: Any, path: Sequence[str]) -> float | None:
    for name in path:
        own = own.get(name) if own else None
    return None if own is None else float(own)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def draw(run: ImageCellsRun) -> list[pathlib.Path]:
    """Draw a finished run into its folder and return the pictures' paths."""
    return style.save_all(run.path, pictures(run))


def pictures(run: ImageCellsRun) -> dict[str, Figure]:
    """Return the pictures by file name; those of an outer loop only where there was one."""
    drawn = {"scatter.png": scatter(run), "outer_loop.png": outer_loop(run)}
    if run.summary["outer_steps"]:
        drawn |= {"inner_curves.png": inner_curves(run), "max_accuracy.png": max_accuracy(run)}
    return drawn | {"synthetic_images.png": synthetic_images(run)}


def scatter(run: ImageCellsRun) -> Figure:
    """Return true against predicted scores, before the outer loop and after, with tau."""
    columns = run.predictions
    held_out = np.array(columns["split"]) == "held_out"
    truth = np.asarray(columns["true"], float)
    figure = _titled(run, (10.4, 4.5 * len(run.records)))
    panels = figure.subplots(len(run.records), 2, squeeze=False, sharey=True)
    for row, name in zip(panels, run.records, strict=True):
        for axes, when in zip(row, ("untrained", "trained"), strict=True):
            scores = np.asarray(columns[f"{name}_{when}"], float)
            for split, colour, words in (
                (~held_out, style.GREY, "known"), (held_out, COLOURS[name], "held out"),
            ):  # fmt: skip
                shown = split & np.isfinite(scores)
                marks: dict[str, Any] = {"s": 16, "alpha": 0.7, "lw": 0}
                label = f"{shown.sum()} {words} cells"
                axes.scatter(scores[shown], truth[shown], color=colour, label=label, **marks)
            tau = metrics.kendall_tau(scores[held_out], truth[held_out])
            steps = run.summary["outer_steps"]
            after = "before the outer loop" if when == "untrained" else f"after {steps} steps of it"
            title = f"{_epochs(run, name)}, {after}: τ = {tau:.2f}"
            label_axes(axes, title, "dish's score (SD over known cells)", "ground truth")
            axes.legend(frameon=False, fontsize=9, loc="lower right")
    for axes in panels[:, 1]:
        axes.set_ylabel("")
    _look_at_most(panels, truth)
    return figure


def _look_at_most(panels: Any, truth: np.ndarray) -> None:
    """Leave a few very bad cells out of sight, and say how many."""
    low, high = np.quantile(truth, 0.25), truth.max()
    floor = high - 6 * max(high - low, 1e-9)
    hidden = int(np.sum(truth < floor))
    if hidden:
        for axes in panels.flat:
            axes.set_ylim(floor, high + 0.05 * (high - floor))
            words = f"{hidden} cells lie below"
            axes.text(0.02, 0.02, words, transform=axes.transAxes, fontsize=8.5, color=INK)


def outer_loop(run: ImageCellsRun) -> Figure:
    """Return outer loss, tau of the fitted cells and held-out tau against outer steps."""
    figure = _titled(run, (4.6 * 3, 4.3))
    loss, fitted, held_out = figure.subplots(1, 3)
    for name, records in run.records.items():
        steps = [own for own in records if "loss" in own]
        options: dict[str, Any] = {"color": COLOURS[name], "label": _epochs(run, name)}
        at = np.array([own["step"] for own in steps])
        loss.plot(at, [own["loss"] for own in steps], lw=1.6, **options)
        # As in the paper: what is undefined counts as 0.
        tau = smoothed(np.array([own["tau"] or 0.0 for own in steps]))
        fitted.plot(at, tau, lw=1.6, **options)
        looks = [own for own in records if own.get("tau_held_out") is not None]
        taus = [own["tau_held_out"] for own in looks]
        held_out.plot([own["step"] for own in looks], taus, marker="o", ms=4, lw=1.6, **options)
    batch = run.summary["cells_in_step"]
    words = LOSSES.get(run.summary["outer_loss"], run.summary["outer_loss"])
    label_axes(loss, "Outer loss", "outer step", words)
    label_axes(
        fitted, f"Cells being fitted ({batch} a step)", "outer step",
        "Kendall's τ of accuracies\n(moving average of 3; undefined = 0)",
    )  # fmt: skip
    count = run.summary["num_test"]
    label_axes(held_out, f"{count} held-out cells", "outer step", "Kendall's τ of scores")
    for axes in (fitted, held_out):
        axes.axhline(0, color=INK, lw=0.8, ls=":")
    for axes in (loss, fitted, held_out):
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    held_out.legend(frameon=False, fontsize=9)
    return figure


def smoothed(values: np.ndarray) -> np.ndarray:
    """Return the moving average over `FILTER` values `[K]`, over those there are at the ends.

    >>> smoothed(np.array([0.0, 3.0, 6.0, 0.0])).tolist()
    [1.5, 3.0, 3.0, 3.0]
    """
    reach = FILTER // 2
    return np.array([values[max(0, i - reach) : i + reach + 1].mean() for i in range(len(values))])


def inner_curves(run: ImageCellsRun) -> Figure:
    """Return loss and accuracy against inner epochs, at the start, middle and end (figure 3)."""
    chosen = {
        name: [own for own in records if "curves" in own] for name, records in run.records.items()
    }
    count = max(map(len, chosen.values()))
    figure = _titled(run, (4.2 * count, 6.6))
    panels = figure.subplots(2, count, squeeze=False, sharex=True, sharey="row")
    for name, records in chosen.items():
        for column, record in zip(panels.T, records, strict=False):
            for axes, measure in zip(column, ("loss", "accuracy"), strict=True):
                curves = record["curves"]
                values = np.array(curves[measure], float)
                _band(axes, np.array(curves["epochs"]), values, COLOURS[name], _epochs(run, name))
    records = chosen[WHOLE]
    for column, record in zip(panels.T, records, strict=True):
        label_axes(column[0], f"outer step {record['step']}", "", "training loss (nats)")
        label_axes(column[1], "", "inner epoch", "accuracy on the validation images")
        column[1].set_ylim(-0.03, 1.03)
        column[1].xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    for axes in panels[:, 1:].flat:
        axes.set_ylabel("")
    batch = run.summary["cells_in_step"]
    title = f"mean of {batch} cells, ± 1 SD"
    panels[0, -1].legend(frameon=False, fontsize=9, title=title, title_fontsize=9)
    return figure


def _band(axes: Axes, at: np.ndarray, values: np.ndarray, colour: str, label: str) -> None:
    """Draw mean and standard deviation over cells of curves `[M, K]`."""
    mean, spread = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
    axes.fill_between(at, mean - spread, mean + spread, color=colour, alpha=0.2, lw=0)
    axes.plot(at, mean, color=colour, label=label, lw=1.6)


def max_accuracy(run: ImageCellsRun) -> Figure:
    """Return the highest inner accuracy: against outer steps (figure 2), and how it spreads."""
    figure = _titled(run, (11.5, 4.5))
    axes, histogram = figure.subplots(1, 2, width_ratios=[1.5, 1])
    edges = np.linspace(0, 1, 26)
    for name, records in run.records.items():
        best = np.array([own["max_accuracy"] for own in records if "loss" in own], float)
        at = np.array([own["step"] for own in records if "loss" in own])
        mean, spread = smoothed(best.mean(axis=1)), smoothed(best.std(axis=1))
        options: dict[str, Any] = {"color": COLOURS[name]}
        axes.fill_between(at, mean - spread, mean + spread, alpha=0.2, lw=0, **options)
        share = run.summary["trainings"][name]["fitted_cells"]["perfect_share"]
        words = f"{_epochs(run, name)}: all perfect in {share:.0%} of steps"
        axes.plot(at, mean, lw=1.6, label=words, **options)
        histogram.hist(best.ravel(), edges, alpha=0.55, label=_epochs(run, name), **options)
    batch = run.summary["cells_in_step"]
    label_axes(
        axes, f"Mean of {batch} cells, ± 1 SD", "outer step",
        "highest accuracy in the inner training\n(moving average of 3)",
    )  # fmt: skip
    axes.set_ylim(-0.03, 1.03)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=9)
    label_axes(
        histogram, "All outer steps", "highest accuracy in the inner training", "cells fitted"
    )
    histogram.legend(frameon=False, fontsize=9)
    return figure


def synthetic_images(run: ImageCellsRun) -> Figure:
    """Return one image of every class, at the start and learned, and their difference."""
    rows = [(name, what) for name in run.samples for what in ("start", "learned", "difference")]
    classes = [c for c in range(CLASSES_SHOWN) if np.any(run.samples[WHOLE]["classes"] == c)]
    figure = _titled(run, (1.05 * len(classes) + 1.6, 1.12 * len(rows) + 0.8))
    panels = figure.subplots(len(rows), len(classes), squeeze=False)
    for axes, label in zip(panels[0], classes, strict=True):
        axes.set_title(f"class {label}", fontsize=9, color=INK)
    for row, (name, what) in zip(panels, rows, strict=True):
        own = run.samples[name]
        places = [int(np.flatnonzero(own["classes"] == c)[0]) for c in classes]
        images, scale = _shades(own, what)
        for axes, place in zip(row, places, strict=True):
            axes.imshow(images[place], interpolation="nearest")
            axes.set(xticks=[], yticks=[])
        words = {"start": "start", "learned": "learned", "difference": f"change\nx {scale:.2g}"}
        text = f"{_epochs(run, name)}\n{words[what]}"
        row[0].set_ylabel(text, fontsize=8.5, rotation=0, ha="right", va="center", color=INK)
    return figure


def _shades(own: Mapping[str, np.ndarray], what: str) -> tuple[np.ndarray, float]:
    """Return images in [0, 1]: 0.5 is the value 0, the ends are 3 SD; and how much is magnified."""
    if what != "difference":
        return np.clip(0.5 + own[what] / 6, 0, 1), 1.0
    change = own["learned"] - own["start"]
    largest = np.abs(change).max()
    scale = 3 / largest if largest > 0 else 1.0
    return np.clip(0.5 + change * scale / 6, 0, 1), scale


def _epochs(run: ImageCellsRun, name: str) -> str:
    return f"{run.summary['trainings'][name]['epochs']:g} inner epochs"


def _titled(run: ImageCellsRun, size: tuple[float, float]) -> Figure:
    """Return a figure whose title says whose results it shows."""
    own = run.summary
    figure = Figure(figsize=size, layout="constrained")
    words = (
        f"{own['problem']}, {own['ground_truth_words']}; motif-network {own['motif_network']}, "
        f"stem {own['stem']}, {own['image_size']}x{own['image_size']} images; "
        f"preset {own['preset']}, seed {own['seed']}"
    )
    figure.suptitle(words, x=0.01, ha="left", fontsize=11, color=INK)
    return figure

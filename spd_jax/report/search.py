"""A finished comparison of searches: its table, figure 3 of Rawal et al., and scatters."""

import dataclasses
import math
import os
import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spd_jax.errors import UserError
from spd_jax.report import style, trade_off
from spd_jax.report.style import INK, end_labels, label_axes
from spd_jax.report.text import WIDTH, table, wrapped
from spd_jax.search.record import Iteration, Record, Records, best_by_iteration
from spd_jax.studies import search_seconds
from spd_jax.studies.search_comparison import Comparison
from spd_jax.studies.searches import METHODS, Method
from spd_jax.studies.spreads import result_at
from spd_jax.units import in_unit, named

# Colour and marker of the methods of the paper and their rivals; others take what is left.
LOOKS = {
    "dish_nao": (style.GREEN, "o"),
    "dish_ga": (style.BLUE, "s"),
    "dish_random": (style.SKY, "^"),
    "nao": (style.VERMILION, "o"),
    "ga": (style.ORANGE, "s"),
    "random": (style.GREY, "^"),
    "partial": (style.PURPLE, "D"),
}
MARKERS = "vPX*hd"


class Curve(NamedTuple):
    """What a method found against what it spent, over runs; NaN where a run has no value.

    Attributes:
      ground_truths: `[G]` float64, ascending: every cost at which a run has a point.
      mean: `[G]`, in the unit of the picture.
      low: `[G]`, the mean minus one standard deviation (n - 1); the mean itself of a single run.
      high: `[G]`, plus one.
      runs: how many.
    """

    ground_truths: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    runs: int


def results(summary: Mapping[str, Any]) -> str:
    """Return a finished comparison as text of at most 80 columns: one row for every method.

    Args:
      summary: of a comparison of searches, as its summary.json holds it: `unit`,
        `ground_truths`, `methods`, `noise_ceiling`, `failed`, `best_cell`, and where a method
        uses a dish `motif_network` with its `parameters` and, where the paper has one,
        `parameters_in_the_paper`. `best_possible` is shown where it is known.
    """
    equal, unit = summary["ground_truths"], summary["unit"]
    first = max(14, 2 + max(map(len, summary["methods"])))
    heads = f"{'runs':>5}{'mean at ' + str(equal):>14}{'std':>9}{'spent':>8}"
    lines = [f"test {unit} of the cell best on validation"]
    taus = "median tau by iteration" if first < 20 else "median taus"
    lines.append(f"{'method':{first}}{heads}  {taus}")
    for method, row in summary["methods"].items():
        lines += _row(f"{method:{first}}", row)
    lines += _fresh(summary)
    ceiling = (summary["noise_ceiling"] or {}).get("kendall_tau")
    known = "not known" if ceiling is None else f"{ceiling:.2f}, over random cells"
    lines.append(f"noise ceiling of tau: {known}")
    if ceiling is not None and any(row["tau_by_iteration"] for row in summary["methods"].values()):
        lines.append(
            "(A method's tau is over the cells that it chose itself: they are much alike, and\n"
            "harder to rank than the random cells of the ceiling.)"
        )
    if summary.get("best_possible") is not None:
        lines.append(
            f"best test {unit} of all cells that can be found: {summary['best_possible']:.4f}"
        )
    if summary["failed"]:
        cells = "1 cell" if summary["failed"] == 1 else f"{summary['failed']} cells"
        lines.append(f"{cells} failed; the ledger says why, unless `retry` forgot it since")
    lines += trade_off.lines(summary)
    best = summary["best_cell"]
    test = "not measured" if best["test"] is None else f"{best['test']:.4f} {unit}"
    lines += [f"best cell (test {test}):", wrapped(best["cell"], "  ")]
    network = summary.get("motif_network")
    if network:
        paper = network.get("parameters_in_the_paper")
        words = "" if paper is None else f", {paper} in the paper"
        lines.append(f"motif-network: {network['parameters']} parameters{words}")
    return "\n".join(lines)


def _row(name: str, row: Mapping[str, Any]) -> list[str]:
    """Return a method's row, and more lines where it has many iterations."""
    test = row["at_equal_ground_truths"]["test"]
    std = "-" if test["std"] is None else f"{test['std']:.4f}"
    mean = "-" if test["mean"] is None else f"{test['mean']:.4f}"
    start = f"{name}{row['runs']:>5}{mean:>14}{std:>9}{row['spent']:>8.0f}  "
    taus = ", ".join(_fixed(tau["median"]) for tau in row["tau_by_iteration"].values()) or "-"
    broken = textwrap.wrap(taus, max(WIDTH - len(start), 12))
    return [start + broken[0], *(" " * len(start) + more for more in broken[1:])]


def _fresh(summary: Mapping[str, Any]) -> list[str]:
    """Return what the best cells are worth when they are trained anew, and what all took."""
    lines = []
    for method, row in summary["methods"].items():
        words = [
            f"{preset} {_fixed(own['mean'], 4)} ± {_fixed(own['std'], 4)}"
            for preset, own in row.get("fresh", {}).items()
        ]
        if words:
            lines.append(f"{method}: best cells with fresh seeds: {', '.join(words)}")
    taken = [
        f"{method} {row['seconds']:.0f} s"
        for method, row in summary["methods"].items()
        if row.get("seconds") is not None
    ]
    if taken:
        lines.append(wrapped(f"a run in one process, fits included: {', '.join(taken)}"))
    return lines


def _fixed(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def draw(comparison: Comparison) -> list[pathlib.Path]:
    """Draw a comparison into its run folder: figure 3, scatters, and the best cell.

    Returns:
      The pictures' paths; the best cell has one where its space can draw.

    Raises:
      UserError: the folder cannot be written.
    """
    problem, settings, summary = comparison.problem, comparison.settings, comparison.summary
    data = f"{problem.name}, {settings.preset}"
    each = summary.get("seconds_per_evaluation")
    drawn = pictures(
        comparison.records,
        METHODS,
        summary["unit"],
        data=data,
        warm_start=settings.warm_start,
        ceiling=(summary["noise_ceiling"] or {}).get("kendall_tau"),
    )
    if each is not None:
        drawn["figure3_seconds.png"] = figure3(
            in_seconds(comparison.records, each), METHODS, summary["unit"],
            title=f"{data}: test result against time, fits included",
            horizontal=f"seconds of one process ({each:.3g} s an evaluation)",
        )  # fmt: skip
    if comparison.points:
        names = list(dict.fromkeys(name for name, _ in comparison.records))
        drawn["pareto.png"] = trade_off.picture(
            comparison.points, settings.cost or "cost", summary["unit"], looks(names),
            {name: METHODS[name].label for name in names}, limit=settings.cost_limit,
            title=f"{data}: cost and score of the cells that were bought",
        )  # fmt: skip
    if problem.drawing is not None:
        best = summary["best_cell"]
        cell = problem.space.decode(best["cell"])
        test = "" if best["test"] is None else f": test {best['test']:.4g} {summary['unit']}"
        drawn["best_cell.png"] = problem.drawing.draw(cell, f"best cell of {data}{test}")
    return style.save_all(comparison.path, drawn)


def in_seconds(records: Records, each: float) -> Records:
    """Return searches whose cost is seconds: evaluations of `each`, proposals and fits."""
    return {
        place: [
            dataclasses.replace(own, cost=float(seconds))
            for own, seconds in zip(record, search_seconds.spent(record, each), strict=True)
        ]
        for place, record in records.items()
    }


def search_table(record: Record, unit: str = "score") -> str:
    """Return one search as text: what every iteration bought, and the best cell after it.

    Args:
      record: of `search.loop.search`.
      unit: name in `units.UNITS`.
    """
    rows = []
    for own, best in zip(record, best_by_iteration(record), strict=True):
        found = in_unit([best.score, best.test_score], unit) if best.cell else [math.nan] * 2
        figures = [f"{x:.4g}" if math.isfinite(x) else "-" for x in (*found, own.tau)]
        failed = int(np.sum(~np.isfinite(own.scores)))
        rows.append([str(own.index), str(len(own.cells)), str(failed), *figures, f"{own.cost:g}"])
    headers = ["iteration", "bought", "failed", "best valid", "its test", "tau", "spent"]
    return table(f"{unit} of the cell that is best on validation", headers, rows)


def draw_search(
    folder: str | os.PathLike[str], record: Record, *, unit: str = "score", label: str = "search"
) -> list[pathlib.Path]:
    """Draw one search of a program of your own as figure3.png and, if it ranked, scatter.png.

    Args:
      folder: of the pictures; made when missing.
      record: of `search.loop.search`, with test scores.
      unit: name in `units.UNITS`.
      label: what the search is called in the pictures.

    Returns:
      The pictures' paths.

    Raises:
      UserError: an unknown unit, or the folder cannot be written.
    """
    ranked = any(math.isfinite(own.tau) for own in record)
    method = Method("search", label, "", "dish" if ranked else "")
    drawn = pictures({("search", 0): record}, {"search": method}, unit, warm_start=record[0].cost)
    return style.save_all(folder, drawn)


def pictures(
    records: Records,
    methods: Mapping[str, Method],
    unit: str,
    *,
    data: str = "",
    warm_start: float | None = None,
    ceiling: float | None = None,
) -> dict[str, Figure]:
    """Return a comparison's pictures by file name: figure 3, and one scatter for each method.

    Args:
      records: of all searches; a method's scatter shows its first run.
      methods: every method of `records`, by name.
      unit: name in `units.UNITS`.
      data: on what they searched, in words, such as "Penn Treebank, tiny language model".
      warm_start: ground truths that all methods share.
      ceiling: noise ceiling of Kendall's tau over random cells; None where not known.

    Raises:
      UserError: no records, a search without iterations, or an unknown unit.
    """
    start = f"{data}: test" if data else "Test"
    title = f"{start} result of the cell that is best on validation"
    drawn = {"figure3.png": figure3(records, methods, unit, warm_start=warm_start, title=title)}
    names = list(dict.fromkeys(name for name, _ in records))
    for name, (colour, _) in looks(names).items():
        runs = [record for (own, _), record in records.items() if own == name]
        if any(math.isfinite(iteration.tau) for iteration in runs[0]):
            whose = f"{methods[name].label}, run 1 of {len(runs)}"
            title = f"{data}: {whose}" if data else whose
            file = "scatter.png" if name == names[0] else f"scatter_{name}.png"
            options: dict[str, Any] = {"ceiling": ceiling, "title": title, "colour": colour}
            drawn[file] = scatter(runs[0], unit, **options)
    return drawn


def looks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return colour and marker of each method; unknown ones take what is left, in order."""
    taken = {LOOKS[name][0] for name in names if name in LOOKS}
    free = [colour for colour in style.COLOURS if colour not in taken] or list(style.COLOURS)
    others = [name for name in names if name not in LOOKS]
    found = {
        name: (free[k % len(free)], MARKERS[k % len(MARKERS)]) for k, name in enumerate(others)
    }
    return {name: LOOKS.get(name) or found[name] for name in names}


def curve(records: Sequence[Sequence[Iteration]], unit: str) -> Curve:
    """Return mean and spread of the test result over the runs of one method.

    Args:
      records: at least one run with one iteration.
      unit: name in `units.UNITS`.

    Raises:
      UserError: no iterations, or an unknown unit.
    """
    if not records or not all(records):
        raise UserError("a method has no run, or a run has no points: give finished searches")
    costs = np.unique([iteration.cost for record in records for iteration in record])
    values = in_unit(np.array([result_at(record, costs) for record in records]), unit)
    mean = values.mean(axis=0)
    half = values.std(axis=0, ddof=1) if len(records) > 1 else 0 * mean
    return Curve(costs, mean, mean - half, mean + half, len(records))


def figure3(
    records: Records,
    methods: Mapping[str, Method],
    unit: str,
    *,
    warm_start: float | None = None,
    title: str = "Test result of the cell that is best on validation",
    horizontal: str = "ground truths spent (full evaluations)",
) -> Figure:
    """Return figure 3 of the paper: test result against ground truths spent, every method.

    Args:
      records: of all searches. A run that ends keeps its last value.
      methods: every method of `records`, by name.
      unit: name in `units.UNITS`.
      warm_start: ground truths that all methods share; what lies before is shaded, and
        does not stretch the vertical axis.
      title: of the picture.
      horizontal: what the records' cost is.

    Raises:
      UserError: no method, a method without iterations, or an unknown unit.
    """
    if not records:
        raise UserError("no method to draw: give the records of at least one search")
    figure = Figure(figsize=(9.5, 5.2))
    title = textwrap.fill(title, 88)
    axes = figure.add_axes((0.085, 0.17, 0.68, 0.75 - 0.04 * title.count("\n")))
    names = list(dict.fromkeys(name for name, _ in records))
    curves = {
        name: curve([record for (own, _), record in records.items() if own == name], unit)
        for name in names
    }
    first = min(found.ground_truths[0] for found in curves.values())
    last = max(found.ground_truths[-1] for found in curves.values())
    width, ends = max(last - first, 1.0), []
    for place, (name, (colour, marker)) in enumerate(looks(names).items()):
        found, words = curves[name], methods[name].label
        line = {"color": colour, "ls": "-" if methods[name].uses_dish else (0, (4, 1.5))}
        _treads(axes, found, words, tail=0.009 * width * (len(curves) + 2), **line)
        shift = 0.009 * width * (place + 1)
        _whiskers(axes, found, shift, max(first, warm_start or first), colour, marker)
        known = found.mean[np.isfinite(found.mean)]
        words += f"  {known[-1]:#.4g}" if known.size else ": no result"
        ends.append((known[-1] if known.size else math.nan, words, colour))
    axes.set_xlim(first - 0.02 * width, last + 0.009 * width * (len(curves) + 2))
    axes.set_ylim(*_limits(curves, warm_start or first))
    if warm_start is not None and warm_start > first:
        _shade(axes, first, warm_start)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.xaxis.set_major_locator(
        ticker.MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
    )
    better = "higher" if named(unit).higher_is_better else "lower"
    label_axes(axes, title, horizontal, f"{unit}, {better} is better")
    end_labels(axes, ends)
    figure.text(0.085, 0.03, _caption(curves), fontsize=8.5, color=INK)
    return figure


def _treads(axes: Axes, found: Curve, words: str, *, tail: float, **line: Any) -> None:
    """Draw the mean as steps; the last value goes on for `tail`, so that it is seen."""
    x, mean = (np.append(a, a[-1]) for a in (found.ground_truths, found.mean))
    x[-1] += tail
    axes.step(x, mean, where="post", lw=1.9, label=words, zorder=3, **line)


def _whiskers(
    axes: Axes, found: Curve, shift: float, first: float, colour: str, marker: str
) -> None:
    """Draw the spread, for each method a little further right on its treads.

    Seven bands on one another are mud. A curve of many points has whiskers at four of them.
    """
    costs = found.ground_truths[found.ground_truths >= first - 1e-6]
    if costs.size > 15:
        costs = np.linspace(costs[0], costs[-1], 4)
    x, line = costs + shift, dict[str, Any](color=colour, zorder=4)
    place = np.searchsorted(found.ground_truths, x + 1e-6, side="right") - 1
    axes.vlines(x, found.low[place], found.high[place], lw=1.3, alpha=0.75, **line)
    axes.plot(x, found.mean[place], ls="", marker=marker, ms=6.5, mec="white", mew=0.8, **line)


def _shade(axes: Axes, first: float, warm_start: float) -> None:
    axes.axvspan(axes.get_xlim()[0], warm_start, color="#F0F0F0", lw=0, zorder=0)
    note: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "ha": "center"}
    axes.text((first + warm_start) / 2, 0.02, "warm start, shared", color=INK, **note)


def _caption(curves: Mapping[str, Curve]) -> str:
    counts = sorted({found.runs for found in curves.values()})
    words = " to ".join(str(number) for number in dict.fromkeys((counts[0], counts[-1])))
    words += " run" if counts == [1] else " runs"
    spread = "" if counts == [1] else "; bars: ± one standard deviation, side by side"
    return f"Lines: mean of {words}{spread}. A run that ended keeps its last value."


def _limits(curves: Mapping[str, Curve], first: float) -> tuple[float, float]:
    """Return ends of the vertical axis that hold every band from `first` ground truths on."""
    ends = []
    for found in curves.values():
        late = found.ground_truths >= first - 1e-6
        ends += [found.low[late], found.high[late]]
    shown = np.concatenate(ends)
    shown = shown[np.isfinite(shown)]
    low, high = (shown.min(), shown.max()) if shown.size else (0.0, 1.0)
    flat = max(1e-2 * abs(high), 1e-9) - (high - low)  # a line alone needs ticks around it, too
    low, high = low - max(flat, 0) / 2, high + max(flat, 0) / 2
    room = 0.06 * (high - low)
    return low - room, high + room


def scatter(
    record: Sequence[Iteration],
    unit: str = "score",
    *,
    ceiling: float | None = None,
    title: str = "",
    colour: str = style.GREEN,
) -> Figure:
    """Return predicted against true scores of one search, one panel for each iteration.

    Args:
      record: of the search. An iteration in which nothing was predicted, such as the warm
        start, has no panel.
      unit: name in `units.UNITS`, of the true scores; better is up in all of them.
      ceiling: Kendall's tau that noise in the ground truth allows over random cells.
      title: whose predictions they are.
      colour: of the points.

    Raises:
      UserError: an unknown unit.
    """
    turned = not named(unit).higher_is_better
    ranked = [own for own in record if np.isfinite(own.predicted).any()]
    columns = max(1, min(len(ranked), 3))
    rows = max(1, math.ceil(len(ranked) / columns))
    size = (max(3.3 * columns, 7.2), 3.3 * rows + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    shown: dict[str, Any] = {"fontsize": 11, "fontweight": "bold", "color": INK, "ha": "left"}
    title = title or "Predicted and true scores"
    figure.suptitle(textwrap.fill(title, int(9.5 * size[0])), x=0.02, **shown)
    note = "Points: cells that the method itself chose, which are alike and so harder to rank."
    if ceiling is not None:
        note += f"\nNoise ceiling over random cells: τ = {ceiling:.2f}."
    figure.supxlabel(note, fontsize=8.5, color=INK, x=0.02, ha="left")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes in panels[len(ranked) :]:
        axes.set_axis_off()
    if not ranked:
        words = (
            "nothing was predicted:\nthis search has no surrogate, or bought its warm start only"
        )
        panels[0].text(0.5, 0.5, words, ha="center", va="center", color=INK)
    vertical = f"validation {unit}" + ("\n(axis turned round: better is up)" if turned else "")
    for place, (axes, own) in enumerate(zip(panels, ranked, strict=False)):
        tau = f"τ = {own.tau:.2f}" if math.isfinite(own.tau) else "τ is not defined"
        words = vertical if place % columns == 0 else ""
        label_axes(axes, f"iteration {own.index}: {tau}", "predicted (higher is better)", words)
        _cloud(axes, own.predicted, in_unit(own.scores, unit), colour)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
    if ranked and turned:
        panels[0].invert_yaxis()
    return figure


def _cloud(axes: Axes, predicted: np.ndarray, true: np.ndarray, colour: str) -> None:
    """Draw one iteration; what failed is a cross at the edge."""
    has_prediction, has_truth = np.isfinite(predicted), np.isfinite(true)
    both = has_prediction & has_truth
    axes.scatter(predicted[both], true[both], color=colour, alpha=0.8, s=28, lw=0)
    line: dict[str, Any] = {"color": INK, "ms": 6, "ls": "", "marker": "x", "clip_on": False}
    failed = predicted[has_prediction & ~has_truth]
    if not has_truth.all():
        count = np.sum(~has_truth)
        line |= {"transform": axes.get_xaxis_transform(), "label": f"{count} failed"}
        axes.plot(failed, np.full(failed.size, 0.02), **line)
    unranked = true[has_truth & ~has_prediction]
    if unranked.size:
        line |= {"transform": axes.get_yaxis_transform(), "marker": "+"}
        line["label"] = f"{unranked.size} without a prediction"
        axes.plot(np.full(unranked.size, 0.02), unranked, **line)
    if not both.all():
        axes.legend(frameon=False, fontsize=8, loc="upper left", handletextpad=0.2)

"""Searches as pictures: figure 3 of Rawal et al., and predicted against true scores."""

import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from spd_jax import metrics
from spd_jax.errors import UserError
from spd_jax.files import atomic_path
from spd_jax.report.search_table import in_unit
from spd_jax.report.style import INK, end_labels, label_axes

FAILED = "#D55E00"
BANDS = {"std": "± one standard deviation", "range": "lowest to highest"}
# Words, colour (Okabe and Ito, 2008) and marker: solid with a dish, dashed without.
METHODS = {
    "dish_nao": ("dish + NAO", "#009E73", "o"),
    "dish_ga": ("dish + GA", "#0072B2", "s"),
    "dish_random": ("dish + random", "#56B4E9", "^"),
    "nao": ("NAO", "#D55E00", "o"),
    "ga": ("GA", "#E69F00", "s"),
    "random": ("random", "#777777", "^"),
    "partial": ("partial training", "#B0508A", "D"),
}
Point = Mapping[str, Any]
Histories = Mapping[str, Sequence[Sequence[Point]]]


class Curve(NamedTuple):
    """What a method found against what it spent, over runs; NaN where a run has no value.

    Attributes:
      ground_truths: `[G]` float64, ascending: every cost at which a run has a point.
      mean: `[G]`, in the unit of the picture.
      low: `[G]`, the band's lower end.
      high: `[G]`, its upper end.
      runs: how many.
    """

    ground_truths: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    runs: int


def with_mean(values: ArrayLike) -> dict[str, Any]:
    """Return `metrics.spread` with `mean` and `std` (n - 1) beside it.

    A value that is not finite makes every summary None; one value alone has no `std`.

    >>> with_mean([1.0, 3.0])["mean"]
    2.0
    """
    summary, array = metrics.spread(values), np.asarray(values, float)
    known = summary["median"] is not None
    summary["mean"] = float(array.mean()) if known else None
    summary["std"] = float(array.std(ddof=1)) if known and array.size > 1 else None
    return summary


def at_cost(
    runs: Sequence[Sequence[Point]], ground_truths: ArrayLike, name: str = "test_score"
) -> np.ndarray:
    """Return what every run had found for at most so many ground truths.

    Args:
      runs: points with `ground_truths` and `name`; None and absent values are NaN.
      ground_truths: costs `[G]`, in full evaluations.
      name: of the value.

    Returns:
      float64 `[R, G]`: NaN before a run's first point; after its last, what that one says.
    """
    rows = []
    for run in runs:
        costs = np.array([_number(point, "ground_truths") for point in run])
        # A sum of many partial evaluations may miss a round number by an ulp or two.
        order = np.argsort(costs, kind="stable")
        values = np.array([math.nan, *(_number(run[i], name) for i in order)])
        place = np.searchsorted(costs[order], np.asarray(ground_truths) + 1e-6, side="right")
        rows.append(values[place])
    return np.array(rows)


def curve(runs: Sequence[Sequence[Point]], unit: str, band: str = "std") -> Curve:
    """Return mean and band over the runs of one method.

    Args:
      runs: points with `ground_truths` and `test_score`, at least one run with one point.
      unit: one of `UNITS`.
      band: one of `BANDS`.

    Raises:
      UserError: no points, an unknown unit or band.
    """
    if band not in BANDS:
        raise UserError(f"unknown band {band!r}: use one of {', '.join(BANDS)}")
    if not runs or not all(runs):
        raise UserError("a method has no run, or a run has no points: give finished searches")
    costs = np.unique([_number(point, "ground_truths") for run in runs for point in run])
    values = in_unit(at_cost(runs, costs), unit)
    mean = values.mean(axis=0)
    low, high = values.min(axis=0), values.max(axis=0)
    if band == "std":
        half = values.std(axis=0, ddof=1) if len(runs) > 1 else 0 * mean
        low, high = mean - half, mean + half
    return Curve(costs, mean, low, high, len(runs))


def summary_at(
    histories: Histories, unit: str, ground_truths: float = math.inf
) -> dict[str, dict[str, Any]]:
    """Return each method's test and validation result for at most so many ground truths.

    Returns:
      By method `{"test": ..., "valid": ...}`, each as `with_mean` over its runs, in `unit`.
    """
    return {
        method: {
            name: with_mean(in_unit(at_cost(runs, [ground_truths], f"{name}_score")[:, 0], unit))
            for name in ("test", "valid")
        }
        for method, runs in histories.items()
    }


def figure3(
    path: str | os.PathLike[str],
    histories: Histories,
    unit: str,
    *,
    band: str = "std",
    warm_start: float | None = None,
    title: str = "Test result of the cell that is best on validation",
) -> pathlib.Path:
    """Draw figure 3 as a PNG: test result against ground truths spent, every method.

    Args:
      path: the picture.
      histories: for each method its runs, each a list of points with `ground_truths` (full
        evaluations spent so far) and `test_score` (of the cell best on validation so far; nats,
        higher is better). A run that ends keeps its last value.
      unit: one of `UNITS`.
      band: one of `BANDS`; the picture says which.
      warm_start: ground truths that all methods share; what lies before is shaded, and
        does not stretch the vertical axis.
      title: of the picture.

    Returns:
      The picture's path.

    Raises:
      UserError: no method, a method without points, an unknown unit or band.
    """
    figure = comparison(histories, unit, band, warm_start=warm_start, title=title)
    return _save(path, figure)


def comparison(
    histories: Histories,
    unit: str,
    band: str = "std",
    *,
    warm_start: float | None = None,
    title: str = "",
) -> Figure:
    """Return the picture of `figure3`, whose arguments and errors these are."""
    if not histories:
        raise UserError("no method to draw: give the histories of at least one search")
    figure = Figure(figsize=(9.5, 5.2))
    axes = figure.add_axes((0.085, 0.17, 0.68, 0.75))
    curves = {method: curve(runs, unit, band) for method, runs in histories.items()}
    first = min(found.ground_truths[0] for found in curves.values())
    last = max(found.ground_truths[-1] for found in curves.values())
    width, ends = max(last - first, 1.0), []
    for place, (method, found) in enumerate(curves.items()):
        words, colour, marker = METHODS.get(method, (method, f"C{place}", "v"))
        shift = 0.009 * width * (place + 1)
        style = {"color": colour, "ls": "-" if words.startswith("dish") else (0, (4, 1.5))}
        _treads(axes, found, words, tail=0.009 * width * (len(curves) + 2), **style)
        _whiskers(axes, found, shift, max(first, warm_start or first), colour, marker)
        known = found.mean[np.isfinite(found.mean)]
        words += f"  {known[-1]:#.4g}" if known.size else ": no result"
        ends.append((known[-1] if known.size else math.nan, words, colour))
    axes.set_xlim(first - 0.02 * width, last + 0.009 * width * (len(curves) + 2))
    axes.set_ylim(*_limits(curves, warm_start or first))
    if warm_start is not None and warm_start > first:
        axes.axvspan(axes.get_xlim()[0], warm_start, color="#F0F0F0", lw=0, zorder=0)
        note: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "ha": "center"}
        axes.text((first + warm_start) / 2, 0.02, "warm start, shared", color=INK, **note)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.xaxis.set_major_locator(
        ticker.MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
    )
    direction = "higher" if unit == "score" else "lower"
    label_axes(
        axes, title, "ground truths spent (full evaluations)", f"{unit}, {direction} is better"
    )
    end_labels(axes, ends)
    figure.text(0.085, 0.03, _caption(curves, band), fontsize=8.5, color=INK)
    return figure


def _treads(axes: Axes, found: Curve, words: str, *, tail: float, **style: Any) -> None:
    """Draw the mean as steps; the last value goes on for `tail`, so that it is seen."""
    x, mean = (np.append(a, a[-1]) for a in (found.ground_truths, found.mean))
    x[-1] += tail
    axes.step(x, mean, where="post", lw=1.9, label=words, zorder=3, **style)


def _whiskers(
    axes: Axes, found: Curve, shift: float, first: float, colour: str, marker: str
) -> None:
    """Draw the spread, for each method a little further right on its treads.

    Seven bands on one another are mud. A curve of many points has whiskers at four of them.
    """
    costs = found.ground_truths[found.ground_truths >= first - 1e-6]
    if costs.size > 15:
        costs = np.linspace(costs[0], costs[-1], 4)
    x, style = costs + shift, dict[str, Any](color=colour, zorder=4)
    place = np.searchsorted(found.ground_truths, x + 1e-6, side="right") - 1
    axes.vlines(x, found.low[place], found.high[place], lw=1.3, alpha=0.75, **style)
    axes.plot(x, found.mean[place], ls="", marker=marker, ms=6.5, mec="white", mew=0.8, **style)


def _caption(curves: Mapping[str, Curve], band: str) -> str:
    counts = sorted({found.runs for found in curves.values()})
    words = " to ".join(str(number) for number in dict.fromkeys((counts[0], counts[-1])))
    words += " run" if counts == [1] else " runs"
    spread = "" if counts == [1] else f"; bars: {BANDS[band]}, side by side"
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
    path: str | os.PathLike[str],
    iterations: Sequence[Mapping[str, Any]],
    *,
    unit: str = "score",
    ceiling: float | None = None,
    title: str = "",
) -> pathlib.Path:
    """Draw predicted against true scores as a PNG, one panel for each iteration.

    Args:
      path: the picture.
      iterations: mappings with `index`, `predicted` `[K]` (the surrogate's unit), `scores` `[K]`
        (higher is better; NaN for a cell that failed) and `tau`: `Iteration._asdict()` of
        `search.loop`. One in which nothing was predicted, such as the warm start, has no panel.
      unit: one of `UNITS`, of the true scores; better is up in all of them.
      ceiling: Kendall's tau that noise in the ground truth allows over random cells; in the title.
      title: whose predictions they are.

    Returns:
      The picture's path.

    Raises:
      UserError: an unknown unit.
    """
    return _save(path, predictions(iterations, unit, ceiling, title))


def predictions(
    iterations: Sequence[Mapping[str, Any]],
    unit: str = "score",
    ceiling: float | None = None,
    title: str = "",
) -> Figure:
    """Return the picture of `scatter`, whose arguments and errors these are."""
    ranked = [own for own in iterations if np.isfinite(np.asarray(own["predicted"], float)).any()]
    columns = max(1, min(len(ranked), 3))
    rows = max(1, math.ceil(len(ranked) / columns))
    figure = Figure(figsize=(max(3.3 * columns, 5), 3.3 * rows + 0.7), layout="constrained")
    noise = "" if ceiling is None else f"\nnoise ceiling over random cells: τ = {ceiling:.2f}"
    whose = f"{title}: p" if title else "P"
    style: dict[str, Any] = {"fontsize": 11, "fontweight": "bold", "color": INK, "ha": "left"}
    figure.suptitle(f"{whose}redicted and true scores{noise}", x=0.02, **style)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes in panels[len(ranked) :]:
        axes.set_axis_off()
    if not ranked:
        note = "nothing was predicted:\nthis search has no surrogate, or bought its warm start only"
        panels[0].text(0.5, 0.5, note, ha="center", va="center", color=INK)
    for place, (axes, own) in enumerate(zip(panels, ranked, strict=False)):
        tau = f"τ = {own['tau']:.2f}" if np.isfinite(own["tau"]) else "τ is not defined"
        vertical = f"validation {unit}" if place % columns == 0 else ""
        label_axes(
            axes, f"iteration {own['index']}: {tau}", "predicted (higher is better)", vertical
        )
        _cloud(axes, np.asarray(own["predicted"], float), in_unit(own["scores"], unit))
    if ranked and unit != "score":
        panels[0].invert_yaxis()
    return figure


def _cloud(axes: Axes, predicted: np.ndarray, true: np.ndarray) -> None:
    """Draw one iteration; what failed is a cross at the edge."""
    has_prediction, has_truth = np.isfinite(predicted), np.isfinite(true)
    both = has_prediction & has_truth
    style: dict[str, Any] = {"color": "#009E73", "alpha": 0.8, "s": 28, "lw": 0}
    axes.scatter(predicted[both], true[both], **style)
    style = {"color": FAILED, "ms": 6, "ls": "", "marker": "x", "clip_on": False}
    failed = predicted[has_prediction & ~has_truth]
    if not has_truth.all():
        count = np.sum(~has_truth)
        style |= {"transform": axes.get_xaxis_transform(), "label": f"{count} failed"}
        axes.plot(failed, np.full(failed.size, 0.02), **style)
    unranked = true[has_truth & ~has_prediction]
    if unranked.size:
        style |= {"transform": axes.get_yaxis_transform(), "marker": "+"}
        style["label"] = f"{unranked.size} without a prediction"
        axes.plot(np.full(unranked.size, 0.02), unranked, **style)
    if not both.all():
        axes.legend(frameon=False, fontsize=8, loc="upper left", handletextpad=0.2)


def _save(path: str | os.PathLike[str], figure: Figure) -> pathlib.Path:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)
    return pathlib.Path(path)


def _number(point: Point, name: str) -> float:
    value = point.get(name)
    return math.nan if value is None else float(value)

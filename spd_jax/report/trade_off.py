"""The trade-off between cost and score that searches found: a picture and lines of a table."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spd_jax.report.style import INK, label_axes
from spd_jax.report.text import wrapped
from spd_jax.studies.trade_off import Point
from spd_jax.units import named

WIDE = 30.0  # costs whose largest is so many times the smallest are drawn on a logarithmic axis


def lines(summary: Mapping[str, Any]) -> list[str]:
    """Return the front of every method in one line each; none where no cost was asked for.

    Args:
      summary: of a comparison of searches, as its summary.json holds it.
    """
    found = summary.get("trade_off")
    if found is None:
        return []
    limit = "" if found["limit"] is None else f", at most {found['limit']:g}"
    shown = [f"trade-off of {found['cost']}{limit} and validation {summary['unit']} (pareto.csv):"]
    for method, own in found["methods"].items():
        head = f"{method}: {own['front']} of {own['bought']} cells are on the front"
        if own["front"]:
            ends = [f"{x['valid']:.4f} at {x['cost']:g}" for x in (own["cheapest"], own["best"])]
            head += f", {' to '.join(ends if own['front'] > 1 else ends[:1])}"
        shown.append(wrapped(head, "  "))
    return shown


def picture(
    found: Sequence[Point],
    cost: str,
    unit: str,
    looks: Mapping[str, tuple[str, str]],
    labels: Mapping[str, str],
    *,
    limit: float | None = None,
    title: str = "Cost and score of the cells that were bought",
) -> Figure:
    """Return the fronts of all methods as steps, over every cell that was bought.

    Args:
      found: of `studies.trade_off.points`, at least one.
      cost: what the horizontal axis is called.
      unit: name in `units.UNITS`.
      looks: colour and marker of every method.
      labels: its name for people.
      limit: drawn as a line; None: there is none.
      title: of the picture.

    Raises:
      UserError: an unknown unit.
    """
    figure = Figure(figsize=(8.5, 5.2), layout="constrained")
    axes = figure.subplots()
    for method in dict.fromkeys(own.method for own in found):
        points = [own for own in found if own.method == method]
        _draw(axes, points, labels.get(method, method), *looks[method])
    costs = np.array([own.cost for own in found if math.isfinite(own.cost)])
    if costs.size and costs.min() > 0 and costs.max() > WIDE * costs.min():
        axes.set_xscale("log")
    if limit is not None:
        axes.axvline(limit, color=INK, ls=(0, (2, 2)), lw=1.2, label=f"limit: {limit:g}")
    higher = named(unit).higher_is_better
    if not higher:
        axes.invert_yaxis()
    better = "higher is better" if higher else "lower is better: axis turned round"
    label_axes(axes, textwrap.fill(title, 80), f"{cost} of a cell", f"validation {unit}, {better}")
    note = "Line and large markers: the Pareto front of a method, all its runs together."
    figure.supxlabel(note, fontsize=8.5, color=INK, x=0.02, ha="left")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)
    return figure


def _draw(axes: Axes, points: Sequence[Point], label: str, colour: str, marker: str) -> None:
    """Draw one method: all its cells, and its front from the cheapest to the best."""
    usable = [own for own in points if math.isfinite(own.cost) and math.isfinite(own.score)]
    if not usable:
        return
    everything = np.array([(own.cost, own.score) for own in usable])
    cost, score = everything.T
    axes.scatter(cost, score, color=colour, marker=marker, s=10, alpha=0.35, lw=0)
    front = np.array(sorted({(own.cost, own.score) for own in usable if own.on_front}))
    shown: dict[str, Any] = {"marker": marker, "ms": 7, "mec": "white", "mew": 0.8, "label": label}
    axes.step(*front.T, where="post", color=colour, lw=1.6, **shown)

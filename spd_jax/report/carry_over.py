"""What a learned dish says of another table: figures as text, and a picture."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spd_jax.report import style
from spd_jax.report.style import INK, end_labels, label_axes
from spd_jax.report.text import table
from spd_jax.studies.carry_over import CarryOver

# Words and colours of methods; others are grey and called as they are.
LOOKS = {
    "dish": ("learned dish", style.GREEN),
    "dish_untrained": ("untrained dish", style.SKY),
    "source_table": ("source's table", style.VERMILION),
    "reading_process": ("process, source's table as feature", "#8C2D04"),
    "gaussian_process": ("process, source + target", style.PURPLE),
    "gaussian_process_target": ("process, target alone", style.ORANGE),
    "random_forest": ("forest, source + target", style.BLUE),
    "grasp": ("GraSP (zero-cost)", "#111111"),  # the strongest proxy of slopes
}


def results(found: CarryOver) -> str:
    """Return a table for each number of known truths, the best held-out tau first."""
    summary = found.summary
    parts = [f"{summary['source']['table']} -> {summary['target']['table']}"]
    for scope, sizes in summary["figures"].items():
        over = "over seeds" if scope == "all" else "over groups and seeds, within each group"
        for known, methods in sizes.items():
            lines = [
                [LOOKS.get(name, (name, ""))[0], *_cells(summary, scope, known, name, own)]
                for name, own in methods.items()
            ]
            lines.sort(key=lambda line: -_number(line[2]))
            title = f"{known} truths of the target: medians {over}"
            headers = ["", "tau", "unseen", "left", "peak", "dish -", "wins"]
            parts.append(table(title, headers, lines))
    parts.append("unseen: tau of the held-out motifs; peak: how far off the predicted one is")
    parts.append("dish -: mean paired difference of held-out tau to the method ± its std error")
    return "\n".join(parts)


def _cells(
    summary: Mapping[str, Any], scope: str, known: str, name: str, own: Mapping[str, Any]
) -> list[str]:
    cells = [
        _fixed(own[figure]["median"])
        for figure in ("kendall_tau", "kendall_tau_test", "kendall_tau_left", "peak_error")
    ]
    pair = summary["paired"][scope][known].get(name, {}).get("kendall_tau_test")
    if pair is None or pair["mean"] is None:
        return [*cells, "", ""]
    error = "" if pair["standard_error"] is None else f"±{pair['standard_error']:.3f}"
    return [*cells, f"{pair['mean']:+.3f}{error}", f"{pair['wins']}/{pair['pairs']}"]


def _fixed(number: float | None) -> str:
    return "-" if number is None else f"{number:.2f}"


def _number(text: str) -> float:
    return -math.inf if text == "-" else float(text)


def draw(found: CarryOver) -> list[pathlib.Path]:
    """Draw a run into its folder and return the picture's path."""
    return style.save_all(found.path, {"carry_over.png": picture(found)})


def picture(found: CarryOver) -> Figure:
    """Return held-out tau against the number of known truths, beside tau with none by group.

    Where motifs have no groups, the second panel shows predictions of the first seed over the
    coordinate, or nothing where there is none.
    """
    summary = found.summary
    scope = "groups" if "groups" in summary["figures"] else "all"
    figure = Figure(figsize=(13.5, 5.2))
    axes = figure.add_axes((0.055, 0.13, 0.32, 0.74))
    _lines(axes, summary, scope)
    source, target = (summary[part]["table"].removesuffix(".csv") for part in ("source", "target"))
    title = f"{target}\nlearned on {source}"
    label_axes(axes, title, "known truths of the target", "Kendall's τ, held-out motifs")
    other = figure.add_axes((0.68, 0.13, 0.3, 0.74))
    if summary["by_group"] or len(found.transfers) > 1:
        _groups(other, summary)
    elif found.transfers[0].problem.coordinate is not None:
        _curves(other, found)
    else:
        other.set_axis_off()
    figure.text(
        0.055, 0.02, "Medians and quartiles over " + ("groups and seeds." if scope == "groups"
        else "seeds.") + " Dotted: learns from no truth of the target.", fontsize=8.5, color=INK,
    )  # fmt: skip
    return figure


def _lines(axes: Axes, summary: Mapping[str, Any], scope: str) -> None:
    """Draw the median of held-out tau, a line for each method of `LOOKS`."""
    sizes = summary["figures"][scope]
    ends = []
    shown = [name for name in LOOKS if any(name in own for own in sizes.values())]
    for number, name in enumerate(shown):
        words, colour = LOOKS[name]
        spreads = [own.get(name, {}).get("kendall_tau_test") for own in sizes.values()]
        rows = [
            (place + 0.4 * ((number + 1) / (len(shown) + 1) - 0.5), *_quartiles(spread))
            for place, spread in enumerate(spreads)
            if spread is not None
        ]
        places, median, low, high = np.array(rows, float).T
        # What learns from no truth of the target.
        once = name in ("dish_untrained", "source_table", "grasp")
        axes.vlines(places, low, high, color=colour, lw=1.3, alpha=0.65)
        axes.plot(places, median, color=colour, marker="o", ms=6, mec="white", lw=1.8)
        if once:
            axes.axhline(median[0], color=colour, lw=1, ls=":")
        ends.append((float(median[-1]), f"{words}  {median[-1]:.2f}", colour))
    axes.set_xticks(range(len(sizes)), list(sizes))
    axes.set_xlim(-0.4, len(sizes) - 0.6)
    end_labels(axes, ends)


def _quartiles(spread: Mapping[str, Any]) -> tuple[float, float, float]:
    """Return median and quartiles; NaN where a value that is not finite decides them."""
    low, median, high = np.array([spread[name] for name in ("q25", "median", "q75")], float)
    return float(median), float(low), float(high)


def _groups(axes: Axes, summary: Mapping[str, Any]) -> None:
    """Draw tau within each group with no truth known, a mark for each method of `LOOKS`."""
    groups = list(summary["by_group"])
    for number, (name, (words, colour)) in enumerate(LOOKS.items()):
        own = [summary["by_group"][group]["0"].get(name) for group in groups]
        if all(entry is None for entry in own):
            continue
        rows = np.array(
            [(math.nan,) * 3 if e is None else _quartiles(e["kendall_tau"]) for e in own], float
        )
        places = np.arange(len(groups)) + 0.1 * (number - len(LOOKS) / 2)
        axes.vlines(places, rows[:, 1], rows[:, 2], color=colour, lw=1.3, alpha=0.65)
        axes.plot(places, rows[:, 0], "o", color=colour, mec="white", ms=7, label=words)
    axes.set_xticks(range(len(groups)), groups)
    axes.axhline(0, color=INK, lw=0.8)
    label_axes(axes, "no truth of the target known", "", "Kendall's τ within the group")
    axes.legend(frameon=False, fontsize=8)


def _curves(axes: Axes, found: CarryOver) -> None:
    """Draw what the first seed's dishes and the source say, in standard scores, and the truth."""
    transfer = found.transfers[0]
    coordinate = transfer.problem.coordinate
    assert coordinate is not None
    places = coordinate(transfer.target.cells.archs)
    order = np.argsort(places)
    predictions = found.predictions[0]
    shown = {"truth": transfer.target.scores}
    shown |= {name: predictions[name] for name in LOOKS if name in predictions}
    for name in ("truth", "dish", "dish_untrained", "source_table"):
        if name in shown:
            values = shown[name][order]
            finite = np.isfinite(values)
            scaled = (values - values[finite].mean()) / (values[finite].std() or 1.0)
            words, colour = LOOKS.get(name, ("truth", INK))
            axes.plot(places[order], scaled, color=colour, lw=1.8, label=words)
    title = "no truth of the target known, first seed"
    label_axes(axes, title, "coordinate", "standard deviations")
    axes.legend(frameon=False, fontsize=8)

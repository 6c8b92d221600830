"""An ablation as text and as one picture."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spd_jax.report import style
from spd_jax.report.style import INK, label_axes
from spd_jax.report.text import table, wrapped
from spd_jax.studies.ablation import Ablation

WHEN = {"before": style.GREY, "after": style.GREEN}


def results(found: Ablation) -> str:
    """Return an ablation as text of at most 80 columns: means, and spreads of tau afterwards."""
    rows = []
    for name, own in found.summary["rows"].items():
        cells = [_mean(own[figure]) for figure in found.layout.shown.values()]
        place = list(found.layout.shown.values()).index("tau_after")
        cells[place] += _spread(own["tau_after"])
        rows.append([name, *cells, str(len(own["seconds"]["values"]))])
    notes = [f"{name}: {own['words']}" for name, own in found.summary["rows"].items()]
    left_out = found.summary.get("left_out", {})
    notes += [f"left out, {name}: {why}" for name, why in left_out.items()]
    if found.summary.get("part"):
        notes.append(f"part: {found.summary['part']}")
    title = "held-out tau before and after the outer loop, means over seeds (± 1 SD)"
    return table(title, ["", *found.layout.shown, "seeds"], rows) + "\n".join(map(wrapped, notes))


def _mean(spread: Mapping[str, Any]) -> str:
    return "-" if spread["mean"] is None else f"{spread['mean']:.2f}"


def _spread(spread: Mapping[str, Any]) -> str:
    return "" if spread["std"] is None else f" ± {spread['std']:.2f}"


def draw(found: Ablation) -> list[pathlib.Path]:
    """Draw ablation.png into the run folder and return the files' paths."""
    pictures = style.save_all(found.path, {"ablation.png": picture(found)})
    return [found.path / "summary.json", found.path / "ablation.csv", *pictures]


def picture(found: Ablation) -> Figure:
    """Return held-out tau before and after the outer loop, a line for each row.

    One panel for each of the layout's pairs, and the inner losses of the rows that have them.
    """
    rows, pairs = found.summary["rows"], found.layout.pairs
    curves = [(row["variant"], row["curves"]) for row in found.rows if "curves" in row]
    panels = len(pairs) + bool(curves)
    width = 4.0 + 5.0 * panels
    figure = Figure(figsize=(width, max(0.42 * len(rows), 2.5) + 2.0), layout="constrained")
    figure.suptitle(found.summary["words"], x=0.01, ha="left", fontsize=11, color=INK)
    own: list[Axes] = list(np.ravel(figure.subplots(1, panels)))
    for place, (axes, (title, names)) in enumerate(zip(own, pairs.items(), strict=False)):
        words = found.summary.get("part", title) if place else title
        _draw_pair(axes, rows, names, words if panels > 1 else "")
        axes.set_yticks(
            np.arange(len(rows))[::-1], ["" if place else row["words"] for row in rows.values()]
        )
    if curves:
        _draw_curves(own[-1], curves)
    handles, labels = own[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=2, frameon=False, fontsize=9)
    return figure


def _draw_pair(
    axes: Axes, rows: Mapping[str, Mapping[str, Any]], names: tuple[str, str], title: str
) -> None:
    """Draw one figure before and after learning, the base's line at the top."""
    heights = np.arange(len(rows))[::-1]
    before, after = (
        np.array([row[name]["mean"] for row in rows.values()], float) for name in names
    )
    spread = np.array([row[names[1]]["std"] for row in rows.values()], float)
    seeds = max(len(row["seconds"]["values"]) for row in rows.values())
    axes.hlines(heights, before, after, color=WHEN["before"], lw=1, alpha=0.6)
    axes.plot(before, heights, "o", mfc="white", color=WHEN["before"], label="before")
    axes.errorbar(
        after, heights, xerr=np.nan_to_num(spread), fmt="o", color=WHEN["after"], capsize=2,
        label=f"after the outer loop (mean, ± 1 SD of {seeds} seeds)",
    )  # fmt: skip
    axes.axvline(after[0], color=WHEN["after"], lw=0.8, ls=":")
    axes.axvline(0, color=INK, lw=0.8)
    label_axes(axes, title, "Kendall's τ", "")
    axes.grid(visible=False, axis="y")


def _draw_curves(axes: Axes, curves: list[tuple[str, Mapping[str, Any]]]) -> None:
    """Draw the inner losses of every seed, before and after learning."""
    for _, own in curves:
        for when, colour in WHEN.items():
            for part, dashes in (("train_loss", "-"), ("valid_loss", ":")):
                axes.plot(own[when]["step"], own[when][part], dashes, color=colour, lw=1)
    label_axes(axes, "inner loss (dotted: validation)", "inner steps", "mean over motifs")

"""The ablation of the image cells as text and as one picture."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from spd_jax.report import style
from spd_jax.report.style import INK, label_axes
from spd_jax.report.text import table, wrapped
from spd_jax.studies.image_ablation import Ablation


def results(found: Ablation) -> str:
    """Return an ablation as text of at most 80 columns: means, and spreads of the main figure."""
    rows = [
        [
            name,
            _mean(own["tau_before"]),
            f"{_mean(own['tau_after'])} {_spread(own['tau_after'])}",
            _mean(own["tau_fitted"]),
            _mean(own["perfect_share"]),
            str(len(own["seconds"]["values"])),
        ]
        for name, own in found.summary["rows"].items()
    ]
    headers = ["", "tau before", "tau after", "fitted", "perfect", "seeds"]
    notes = [f"{name}: {own['words']}" for name, own in found.summary["rows"].items()]
    notes += [f"left out, {name}: {why}" for name, why in found.summary["left_out"].items()]
    title = "held-out tau before and after the outer loop, means over seeds"
    return table(title, headers, rows) + "\n".join(map(wrapped, notes))


def _mean(spread: Mapping[str, Any]) -> str:
    return "-" if spread["mean"] is None else f"{spread['mean']:.2f}"


def _spread(spread: Mapping[str, Any]) -> str:
    return "" if spread["std"] is None else f"± {spread['std']:.2f}"


def draw(found: Ablation) -> list[pathlib.Path]:
    """Draw ablation.png into the run folder and return the files' paths."""
    pictures = style.save_all(found.path, {"ablation.png": picture(found)})
    return [found.path / "summary.json", found.path / "ablation.csv", *pictures]


def picture(found: Ablation) -> Figure:
    """Return held-out tau before and after the outer loop, a line for each row."""
    own, rows = found.summary, found.summary["rows"]
    figure = Figure(figsize=(9.5, 0.42 * len(rows) + 2.0), layout="constrained")
    seeds = max(len(row["seconds"]["values"]) for row in rows.values())
    figure.suptitle(
        f"{own['problem']}, {own['ground_truth_words']}: one suspect removed at a time\n"
        f"motif-network {own['motif_network']}, stem {own['stem']}, "
        f"{own['image_size']}x{own['image_size']} images, {own['outer_steps']} outer steps",
        x=0.01, ha="left", fontsize=11, color=INK,
    )  # fmt: skip
    axes = figure.subplots()
    heights = np.arange(len(rows))[::-1]
    values = {
        when: np.array([row[f"tau_{when}"]["mean"] for row in rows.values()], float)
        for when in ("before", "after")
    }
    spread = [row["tau_after"]["std"] for row in rows.values()]
    axes.hlines(heights, values["before"], values["after"], color=style.GREY, lw=1, alpha=0.6)
    axes.plot(values["before"], heights, "o", mfc="white", color=style.GREY, label="before")
    bars = np.array([0.0 if value is None else value for value in spread])
    label = f"after the outer loop (mean, ± 1 SD of {seeds} seeds)"
    axes.errorbar(
        values["after"], heights, xerr=bars, fmt="o", color=style.GREEN, label=label, capsize=2
    )
    axes.axvline(values["after"][0], color=style.GREEN, lw=0.8, ls=":")
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_yticks(heights, [row["words"] for row in rows.values()])
    label_axes(axes, "", "Kendall's τ over held-out cells", "")
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=9)
    return figure

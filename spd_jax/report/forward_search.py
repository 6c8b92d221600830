"""Forward search: its table, the hull, errors by growth, the grown cell, and the alphas."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from spd_jax.forward_search import arch as arch_lib
from spd_jax.forward_search import hull
from spd_jax.forward_search.arch import RECURRENT_SEED, Arch
from spd_jax.report import style
from spd_jax.report.style import COLOURS, INK, label_axes
from spd_jax.report.text import duration, table, wrapped
from spd_jax.studies.forward_cost import Phase

NAMES = {
    "grown": "grown", "longer": "seed for longer", "random": "random choice",
    "none": "random, no weak phase", "wide": "wide seed", "networks": "random network",
    "retrained": "grown, from scratch",
}  # fmt: skip

MOST_SLOTS = 4  # that one picture shows: a macro search has one for each cell


def results(summary: Mapping[str, Any]) -> str:
    """Return a finished run as text of at most 80 columns.

    Args:
      summary: of the study, as its summary.json holds it.
    """
    rows = []
    for name, figures in summary["methods"].items():
        test, valid = figures["test_error"], figures["error"]
        cost, paired = figures["multiply_adds"]["median"], summary["paired"].get(name)
        rows.append(
            [
                NAMES.get(name, name), _number(test["mean"]), _number(test["std"], 2),
                _number(valid["mean"]), "-" if cost is None else f"{cost / 1e6:.3g}",
                duration(figures["seconds"]["median"], 2),
                "" if paired is None else _difference(paired),
            ]
        )  # fmt: skip
    heads = ["", f"test {summary['unit']}", "sd", "valid", "M", "time", "grown - it"]
    seeds = len(summary["seeds"])
    title = f"means and standard deviations over {seeds} seed" + ("s" if seeds > 1 else "")
    notes = [
        "M: millions of multiply-adds; time: of all its trainings; last column: below 0 the grown "
        "network is better, with the 95 % interval over seeds"
    ]
    if "best" in summary:
        notes.append(f"best on validation data: {summary['best']['arch']}")
    text = table(title, heads, rows) + "\n".join(wrapped(note, "  ") for note in notes)
    return text + ("\n" + selection(summary["selection"]) if "selection" in summary else "")


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def _difference(paired: Mapping[str, Any]) -> str:
    if paired["mean"] is None:
        return "-"
    if paired["interval"] is None:
        return f"{paired['mean']:+.2g}"
    half = (paired["interval"][1] - paired["interval"][0]) / 2
    return f"{paired['mean']:+.2g} ± {half:.1g}"


def selection(found: Mapping[str, Any]) -> str:
    """Return how selectors agree with the true gains of single edges, as text."""
    rows = []
    for name, own in sorted(found["selectors"].items(), key=lambda item: -(item[1]["mean"] or 0)):
        interval = own["interval"]
        words = "-" if interval is None else f"[{interval[0]:+.2f}, {interval[1]:+.2f}]"
        pooled = [tau for tau in found["pooled"][name].values() if tau is not None]
        mean = sum(pooled) / max(len(pooled), 1)
        rows.append(
            [name, _signed(own), words, f"{mean:+.2f}", _signed(found["stability"][name])]
        )  # fmt: skip
    heads = ["selector", "tau", "95 % interval", "of means", "two weak trainings"]
    title = "tau of selectors with the true gains of single edges"
    return (
        table(title, heads, rows)
        + f"  tau of one training of the edges with another: {_signed(found['noise_ceiling'])}\n"
        + f"  tau of a seed's gains with the other seeds' mean gains: {_signed(found['others'])}"
    )


def _signed(spread: Mapping[str, Any]) -> str:
    """Return a mean with its sign; "-" where nothing was measured."""
    return "-" if spread["mean"] is None else f"{spread['mean']:+.2f}"


def phases(found: Sequence[Phase]) -> str:
    """Return what the phases of a preset cost, as text."""
    heads = ["", "M mult-adds", "M params", "compile", "step", "MiB", "items/s", "epochs", "hours"]
    rows = [
        [
            own.name, f"{own.multiply_adds / 1e6:.4g}", f"{own.parameters / 1e6:.3g}",
            duration(own.compile_seconds), duration(own.step_seconds), f"{own.mebibytes:.0f}",
            f"{own.items_per_second:.0f}", str(own.epochs), f"{own.hours:.3g}",
        ]
        for own in found
    ]  # fmt: skip
    notes = ["hours: what so many epochs would take at this pace; items: images or tokens"]
    return table("one step of each phase at full size", heads, rows) + f"  {notes[0]}"


def final(summary: Mapping[str, Any]) -> str:
    """Return what a final training came to, as text."""
    names = ("test_error", "error", "multiply_adds", "parameters", "seconds")
    rows = [
        [name.replace("_", " "), *(_number(summary[name][x]) for x in ("mean", "std"))]
        for name in names
        if name in summary
    ]
    title = f"{summary['epochs']} epochs from scratch, {len(summary['seeds'])} seed(s)"
    return table(title, ["", "mean", "sd"], rows) + wrapped(summary["arch"], "  ")


def draw(workdir: str | os.PathLike[str]) -> list[pathlib.Path]:
    """Write the pictures of a finished run into its folder and return their paths."""
    folder = pathlib.Path(workdir)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    figures = {"hull.png": hull_figure(summary), "growth.png": growth_figure(summary)}
    if "best" in summary:
        figures["cell.png"] = cell_figure(arch_lib.parse(summary["best"]["arch"]))
    if any(own["weak"] for own in summary["searches"]):
        figures["alphas.png"] = alphas_figure(summary)
    return style.save_all(folder, figures)


def hull_figure(summary: Mapping[str, Any]) -> Figure:
    """Return error against multiply-adds: parents joined to children, the hull and its band."""
    figure = Figure(figsize=(7.5, 5.0), layout="constrained")
    axes = figure.subplots()
    for place, own in enumerate(summary["searches"]):
        colour = COLOURS[place % len(COLOURS)]
        models = {model["number"]: model for model in own["models"]}
        for model in models.values():
            parent = models.get(model["parent"])
            if parent:
                ends = [(m["multiply_adds"] / 1e6, m["error"]) for m in (parent, model)]
                axes.plot(*zip(*ends, strict=True), color=colour, lw=0.8, alpha=0.6)
        x, y = _points(own)
        axes.plot(x, y, "o", color=colour, ms=5, label=f"seed {own['seed']}")
        best = models.get(own["best"])
        if best:
            at = best["multiply_adds"] / 1e6, best["error"]
            axes.plot(*at, "o", mfc="none", mec=colour, ms=11)
    _draw_hull(axes, summary["searches"][0], summary["band"])
    what = f"validation {summary['unit']}"
    label_axes(axes, _title("Models found", summary), "multiply-adds (millions)", what)
    axes.legend(frameon=False, fontsize=9)
    return figure


def _title(shown: str, summary: Mapping[str, Any]) -> str:
    """Return what a picture shows, and of which runs."""
    seeds = f"{len(summary['seeds'])} seed" + ("s" if len(summary["seeds"]) > 1 else "")
    chosen = f"{summary['search']} search by {summary['select']}"
    return f"{shown}: preset {summary['preset']}, {chosen}, {seeds}"


def _points(own: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    x = np.array([model["multiply_adds"] for model in own["models"]], float) / 1e6
    return x, np.array([model["error"] for model in own["models"]], float)


def _draw_hull(axes: Axes, own: Mapping[str, Any], band: float) -> None:
    """Draw the hull of one search, and the band in which models may grow."""
    x, y = _points(own)
    places = hull.lower_hull(x, y)
    grid = np.linspace(x.min(), x.max() * 1.02, 200)
    level = hull.hull_at(x, y, grid)
    axes.plot(x[places], y[places], color=INK, lw=1.4, label=f"hull of seed {own['seed']}")
    axes.fill_between(grid, level, level * (1 + band), color=INK, alpha=0.15, lw=0)


def growth_figure(summary: Mapping[str, Any]) -> Figure:
    """Return the test error of the best model so far by growth, every control beside it."""
    figure = Figure(figsize=(8.5, 5.0), layout="constrained")
    axes = figure.subplots()
    for place, (name, found) in enumerate(summary["growth"].items()):
        colour, many = COLOURS[place % len(COLOURS)], len(found) > 1
        x = np.array([own["growth"] for own in found]) + 0.03 * place
        spread = [own["test_error"] for own in found]
        middle = [own["median"] for own in spread]
        low, high = ([own[q] for own in spread] for q in ("q25", "q75"))
        style_: dict[str, Any] = {"marker": "o", "ms": 5, "lw": 2 if name == "grown" else 1.2}
        axes.plot(
            x, middle, color=colour, label=NAMES.get(name, name), ls="-" if many else "", **style_
        )
        axes.vlines(x, low, high, color=colour, lw=1, alpha=0.8)
    what = f"test {summary['unit']}, median and quartiles"
    label_axes(axes, _title("Growth", summary), "growth", what)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def alphas_figure(summary: Mapping[str, Any]) -> Figure:
    """Return every weak training's alphas of the first search, the chosen ones filled."""
    found = next(own for own in summary["searches"] if own["weak"])
    rows = found["weak"]
    every = list(dict.fromkeys(slot for own in rows for slot in own["alphas"]))
    slots = every[:MOST_SLOTS]
    size = (3.2 + 4.2 * len(slots), 0.6 + 2.4 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(rows), len(slots), squeeze=False)
    for own, line in zip(rows, panels, strict=True):
        arch = arch_lib.parse(own["arch"])
        for slot, axes in zip(slots, line, strict=True):
            edges = [list(edge) for edge in arch.candidates(slot)]
            alphas, chosen = own["alphas"][slot], own["chosen"].get(slot, [])
            colours = [style.GREEN if edge in chosen else "#BBBBBB" for edge in edges]
            axes.bar(range(len(edges)), alphas, color=colours)
            axes.axhline(0, color=INK, lw=0.6)
            words = [f"{source}:{op}" for source, op in edges]
            axes.set_xticks(range(len(edges)), words, rotation=90, fontsize=7)
            title = f"growth {own['growth']}, {slot}"
            label_axes(axes, title, "", "alpha")
    title = f"Weights of the candidates, seed {found['seed']}; green: chosen"
    figure.suptitle(title + _left_out(len(every)), fontsize=11)
    return figure


def _left_out(slots: int) -> str:
    """Return the words of a picture that cannot show all slots."""
    return f"; the first {MOST_SLOTS} of {slots} slots" if slots > MOST_SLOTS else ""


def cell_figure(arch: Arch) -> Figure:
    """Return the grown cells: inputs on the left, what ends in the sum on the right."""
    every = [slot for slot in arch.slots if arch.learners(slot)] or [arch.slots[0]]
    slots = every[:MOST_SLOTS]
    heights = [max(3.2, 1.0 + 0.55 * sum(map(len, arch.learners(slot)))) for slot in slots]
    figure = Figure(figsize=(9.5, sum(heights)), layout="constrained")
    panels = figure.subplots(len(slots), 1, squeeze=False, height_ratios=heights)[:, 0]
    for slot, axes in zip(slots, panels, strict=True):
        _draw_cell(axes, arch, slot)
        axes.set_title(slot, loc="left", fontsize=11, fontweight="bold", color=INK)
    if len(every) > MOST_SLOTS:
        figure.suptitle(f"Grown cells{_left_out(len(every))}", fontsize=11)
    return figure


def _input_names(arch: Arch) -> list[str]:
    if arch.search != "rnn":
        return ["cell before the previous", "previous cell"]
    return ["[x; h]", *(f"node {i}" for i in range(len(RECURRENT_SEED) + 1))]


def _draw_cell(axes: Axes, arch: Arch, slot: str) -> None:
    """Draw one slot: columns of inputs, operations, learners, and the sum."""
    axes.set_axis_off()
    learners = arch.learners(slot)
    used = {edge.input for own in learners for edge in own}
    names = _input_names(arch)
    shown = [i for i in range(len(names)) if arch.search != "rnn" or i in used]
    places: dict[int, tuple[float, float]] = {}
    rows = max(sum(map(len, learners)) + 1, len(shown), 2)
    for row, source in enumerate(shown):
        places[source] = (0.0, rows * (1 - (row + 0.5) / len(shown)))
        _box(axes, places[source], names[source], style.BLUE)
    end = (3.4, rows / 2)
    body = "mean of nodes" if arch.search == "rnn" else "sep3 + identity"
    _box(axes, (1.2, rows - 0.5), body, style.GREY)
    if arch.search != "rnn":
        _arrow(axes, places[1], (1.2, rows - 0.5), style.GREY)
    _arrow(axes, (1.2, rows - 0.5), end, style.GREY)
    level = rows - 1.5
    for k, learner in enumerate(learners):
        middle = level - (len(learner) - 1) / 2
        colour = COLOURS[(k + 3) % len(COLOURS)]
        for edge in learner:
            _box(axes, (1.2, level), edge.op, colour)
            _arrow(axes, places[edge.input], (1.2, level), colour)
            _arrow(axes, (1.2, level), (2.4, middle), colour)
            level -= 1
        places[arch.fixed_inputs + k] = (2.4, middle)
        _box(axes, (2.4, middle), f"learner {k}", colour)
        _arrow(axes, (2.4, middle), end, colour)
    _box(axes, end, "sum", INK)
    axes.set(xlim=(-0.6, 3.9), ylim=(-0.2, rows + 0.2))


def _box(axes: Axes, at: tuple[float, float], words: str, colour: str) -> None:
    style_: dict[str, Any] = {"boxstyle": "round,pad=0.3", "fc": "white", "ec": colour, "lw": 1.4}
    axes.text(
        at[0], at[1], words, ha="center", va="center", fontsize=8, bbox=style_, zorder=3, color=INK
    )


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    line: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 9, "lw": 1.0, "alpha": 0.7}
    # It bends, so that arrows back from a learner do not hide behind boxes.
    bend = "arc3,rad=0.25" if start[0] >= end[0] else "arc3"
    axes.add_patch(
        FancyArrowPatch(
            start, end, color=colour, shrinkA=28, shrinkB=26,
            connectionstyle=bend, zorder=1, **line,
        )
    )  # fmt: skip

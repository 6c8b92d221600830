"""The league of surrogates: tables and a picture of who ranks held-out motifs best."""

import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spd_jax.errors import UserError
from spd_jax.files import atomic_path
from spd_jax.report.search import with_mean
from spd_jax.report.style import INK, end_labels, label_axes
from spd_jax.report.text import duration, table

MEASURES = ("kendall_tau", "spearman", "precision_at_10", "regret", "fit_seconds", "query_seconds")
# Words, colour (Okabe and Ito, 2008) and marker of the surrogates that are known by name.
SURROGATES = {
    "dish": ("dish", "#009E73", "o"),
    "dish_untrained": ("untrained dish", "#009E73", "o"),
    "averaged": ("mean of dish and process", "#006B4E", "p"),
    "stacked": ("dish + forest", "#0072B2", "s"),
    "stacked_untrained": ("untrained dish + forest", "#56B4E9", "s"),
    "random_forest": ("random forest", "#E69F00", "^"),
    "random_forest_structure": ("random forest, structure", "#D55E00", "^"),
    "gaussian_process": ("Gaussian process", "#CC79A7", "v"),
    "gaussian_process_structure": ("Gaussian process, structure", "#8A4A76", "v"),
    "nao": ("NAO's predictor", "#222222", "D"),
    "slope_mlp": ("MLP", "#222222", "D"),
    "partial_1": ("1 epoch of training", "#777777", "P"),
    "partial_2": ("2 epochs of training", "#777777", "P"),
}
Row = Mapping[str, Any]
League = dict[str, dict[int, dict[str, dict[str, Any]]]]


def aggregate(rows: Sequence[Row]) -> League:
    """Return every figure's mean and spread over splits.

    Args:
      rows: one for each match: `surrogate`, `known` (ground truths it learned from), `split`
        and `MEASURES`; None and absent figures are NaN.

    Returns:
      `[surrogate][known][measure]`, each as `search_run.with_mean`: surrogates in order of
      appearance, `known` ascending. A figure that is not finite in some split has no mean.

    Raises:
      UserError: no rows, or two rows of one match.
    """
    if not rows:
        raise UserError("the league has no rows: give the results of at least one match")
    matches = [(str(row["surrogate"]), int(row["known"]), row["split"]) for row in rows]
    if len(set(matches)) < len(matches):
        twice = next(match for match in matches if matches.count(match) > 1)
        raise UserError(
            f"{twice[0]} met split {twice[2]} twice with {twice[1]} known: give one row for it"
        )
    league: League = {name: {} for name, _, _ in matches}
    for name, known in sorted({match[:2] for match in matches}, key=lambda place: place[1]):
        mine = [r for r, match in zip(rows, matches, strict=True) if match[:2] == (name, known)]
        league[name][known] = {
            measure: with_mean([_number(row.get(measure)) for row in mine]) for measure in MEASURES
        }
    return league


def tables(rows: Sequence[Row], *, ceiling: float | None = None) -> str:
    """Return one aligned table for each number of ground truths, the best tau first.

    Args:
      rows: as in `aggregate`.
      ceiling: Kendall's tau that noise in the ground truth allows; None where not known.
    """
    league = aggregate(rows)
    headers = ["", "Kendall tau", *([] if ceiling is None else ["of ceiling"])]
    headers += ["Spearman", "precision@10", "regret", "fit", "query"]
    noise = "" if ceiling is None else f"; noise ceiling: tau {ceiling:.3f}"
    made = []
    for known in sorted({known for own in league.values() for known in own}):
        entries = {name: own[known] for name, own in league.items() if known in own}
        splits = _splits([*entries.values()])
        over = f"mean ± standard deviation over {splits} splits" if splits != "1" else "one split"
        title = f"{known} ground truths ({over}{noise})"
        order = sorted(entries, key=lambda name: -_rank(entries[name]["kendall_tau"]["mean"]))
        made.append(table(title, headers, [_cells(n, entries[n], ceiling) for n in order]))
    return "\n".join(made)


def _cells(name: str, entry: Mapping[str, Any], ceiling: float | None) -> list[str]:
    words = {measure: _words(entry[measure]) for measure in MEASURES[:4]}
    tau = entry["kendall_tau"]["mean"]
    cells = [name, words["kendall_tau"]]
    if ceiling is not None:
        cells.append("-" if tau is None else f"{tau / ceiling:.0%}")
    cells += [words[measure] for measure in MEASURES[1:4]]
    return cells + [duration(entry[measure]["mean"]) for measure in MEASURES[4:]]


def draw(
    path: str | os.PathLike[str],
    rows: Sequence[Row],
    *,
    ceiling: float | None = None,
    title: str = "Agreement with the ground truth of held-out motifs",
) -> pathlib.Path:
    """Draw Kendall's tau against the number of ground truths as a PNG.

    Args:
      path: the picture.
      rows: as in `aggregate`.
      ceiling: Kendall's tau that noise in the ground truth allows: a dashed line.
      title: of the picture.

    Returns:
      The picture's path.

    Raises:
      UserError: no rows, or two rows of one match.
    """
    figure = picture(rows, ceiling, title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)
    return pathlib.Path(path)


def picture(rows: Sequence[Row], ceiling: float | None = None, title: str = "") -> Figure:
    """Return the picture of `draw`: a line for each surrogate that learns, with its spread.

    What uses no ground truth is a dotted line across, its spread at 0.
    """
    league = aggregate(rows)
    counts = sorted({known for own in league.values() for known in own})
    height = max(5.2, 1.3 + 0.2 * len(league))
    figure = Figure(figsize=(9.5, height))
    axes = figure.add_axes((0.08, 0.88 / height, 0.62, 1 - 1.28 / height))
    learners = [name for name, own in league.items() if list(own) != [0]]
    others = [name for name in league if name not in learners]
    ends = []
    for names, width in ((learners, 0.45), (others, 0.3)):
        for place, name in enumerate(names):
            # Spreads at one number of ground truths stand side by side.
            shift = width * ((place + 1) / (len(names) + 1) - 0.5)
            ends.append(_line(axes, name, league[name], counts, shift))
    if ceiling is not None:
        axes.axhline(ceiling, color=INK, lw=1.2, ls="--", label="noise ceiling")
        ends.append((ceiling, f"noise ceiling  {ceiling:.2f}", INK))
    axes.set_xticks(range(len(counts)), [str(known) for known in counts])
    axes.set_xlim(-0.35, len(counts) - 0.65)
    label_axes(axes, title, "ground truths to learn from", "Kendall's τ, higher is better")
    axes.grid(visible=False, axis="x")
    end_labels(axes, ends)
    entries = [entry for own in league.values() for entry in own.values()]
    splits = _splits(entries)
    note = f"Mean over {splits} splits; bars: ± one standard deviation."
    note = "One split." if splits == "1" else note
    note += " Dotted: learns from no ground truth." if others else ""
    figure.text(0.08, 0.16 / height, note, fontsize=8.5, color=INK)
    return figure


def _line(
    axes: Axes, name: str, own: Mapping[int, Any], counts: list[int], shift: float
) -> tuple[float, str, str]:
    """Draw one surrogate; return its last tau, words and colour for the label."""
    words, colour, marker = SURROGATES.get(name, (name.replace("_", " "), _any_colour(name), "X"))
    learns = list(own) != [0]
    places = np.array([counts.index(known) for known in own]) + shift
    tau = [entry["kendall_tau"] for entry in own.values()]
    mean = np.array([_number(figures["mean"]) for figures in tau])
    std = np.nan_to_num([_number(figures["std"]) for figures in tau])
    style: dict[str, Any] = {"marker": marker, "ms": 7, "mec": "white", "mew": 0.7}
    style |= {"lw": 2.6 if name == "dish" else 1.6, "zorder": 4 if name == "dish" else 3}
    axes.vlines(places, mean - std, mean + std, color=colour, lw=1.3, alpha=0.65, zorder=2)
    axes.plot(places, mean, color=colour, label=words, ls="-" if learns else "", **style)
    if not learns:
        axes.axhline(mean[0], color=colour, lw=1, ls=":", zorder=1)
    last = mean[np.isfinite(mean)][-1:]
    if not last.size:
        return math.nan, f"{words}: no result", colour
    return float(last[0]), f"{words}  {last[0]:.2f}", colour


def _any_colour(name: str) -> str:
    """Return a dark colour for a surrogate without its own: the same for the same name."""
    return ("#666666", "#6B4C2A", "#4B3F8F", "#8C2D04")[sum(name.encode()) % 4]


def _splits(entries: Sequence[Mapping[str, Any]]) -> str:
    counts = sorted(len(entry["kendall_tau"]["values"]) for entry in entries)
    return " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))


def _words(figures: Mapping[str, Any]) -> str:
    """Return `0.612 ± 0.041`, or in how many splits there is no finite figure."""
    if figures["mean"] is None:
        values = figures["values"]
        return f"none in {values.count(None)}/{len(values)}"
    spread = "" if figures["std"] is None else f" ± {figures['std']:.3f}"
    return f"{figures['mean']:.3f}{spread}"


def _rank(mean: float | None) -> float:
    return -math.inf if mean is None else mean


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)

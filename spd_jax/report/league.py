"""The league of surrogates: tables and a picture of who ranks held-out motifs best."""

import itertools
import math
import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spd_jax.report import style
from spd_jax.report.style import INK, end_labels, label_axes
from spd_jax.report.text import duration, table
from spd_jax.studies.league import COVERAGE, League
from spd_jax.studies.spreads import aggregate

SOLID, DASHED, DASHDOT = "-", (0, (5, 1.5)), (0, (6, 1.5, 1.2, 1.5))
Row = Mapping[str, Any]


class Look(NamedTuple):
    """How a surrogate's line is told from the others.

    Attributes:
      label: its name in the picture.
      colour: of line, marker and label.
      marker: at every number of ground truths.
      dash: of the line; what learns from no ground truth is dotted instead.
    """

    label: str
    colour: str
    marker: str
    dash: Any = SOLID


LOOKS = {
    "dish": Look("dish", style.GREEN, "o"),
    "dish_untrained": Look("untrained dish", "#00B894", "o"),
    "averaged": Look("mean of dish and process", "#00543D", "p", DASHED),
    "stacked": Look("dish + forest", style.BLUE, "s"),
    "stacked_untrained": Look("untrained dish + forest", style.SKY, "s", DASHDOT),
    "random_forest": Look("random forest", style.ORANGE, "^"),
    "random_forest_structure": Look("random forest, structure", "#A85C00", "v", DASHED),
    "gaussian_process": Look("Gaussian process", "#D982B5", "<"),
    "gaussian_process_structure": Look("Gaussian process, structure", "#7E3F6B", ">", DASHED),
    "gaussian_process_ranks": Look("Gaussian process on ranks", "#C06090", "<", DASHDOT),
    "mlp": Look("MLP", "#C23B00", "d"),
    "mlp_structure": Look("MLP, structure", "#8F2B00", "d", DASHED),
    "nao": Look("NAO's predictor", "#111111", "D"),
    "slope_mlp": Look("MLP", style.VERMILION, "d", DASHDOT),
    "partial_1": Look("1 epoch of training", "#8A8A8A", "P"),
    "partial_2": Look("2 epochs of training", "#555555", "P"),
    "curve_regression_2": Look("2 epochs and regression", "#777777", "P", DASHDOT),
    "grad_norm": Look("gradient norm", "#B8860B", "h"),
    "snip": Look("SNIP", "#8C2D04", "X"),
    "grasp": Look("GraSP", "#4B3F8F", "X"),
    "synflow": Look("SynFlow", "#C2185B", "*"),
    "jacobian_covariance": Look("Jacobian covariance", "#2F6F9F", "H"),
    "hidden_covariance": Look("covariance of hidden states", "#5F7F1F", "H"),
}
# Of surrogates without a look of their own, in order of appearance.
OTHERS = list(
    itertools.product((DASHDOT, SOLID, DASHED), zip(style.COLOURS, "Xv*dPh8", strict=True))
)


def looks(names: Sequence[str]) -> dict[str, Look]:
    """Return how each surrogate is drawn; any name has a look, and the first 40 differ."""
    others = [name for name in names if name not in LOOKS]
    found = {}
    for name, (dash, (colour, marker)) in zip(others, itertools.cycle(OTHERS), strict=False):
        found[name] = Look(name.replace("_", " "), colour, marker, dash)
    return {name: LOOKS.get(name) or found[name] for name in names}


def results(league: League) -> str:
    """Return a finished league as text, see `tables`, with a word on a missing noise ceiling."""
    ceiling = league.summary["noise_ceiling"]["kendall_tau"]
    text = tables(league.rows, ceiling=ceiling)
    if ceiling is None:
        text += "\nno noise ceiling: the table has fewer than 3 motifs with 3 seeds"
    covered = coverage(league.summary["coverage"])
    return f"{text}\n{covered}" if covered else text


def coverage(shares: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return how often a held-out score lies within the spread of an ensemble's members.

    Args:
      shares: of `studies.league.coverages`; nothing where there was no ensemble.
    """
    rows = [
        [name, known, *(f"{own[share]['mean']:.2f}" for share in COVERAGE)]
        for name, entries in shares.items()
        for known, own in entries.items()
    ]
    title = "held-out scores within 1 and 2 calibrated standard deviations (normal: 0.68, 0.95)"
    return table(title, ["", "known", "within 1", "within 2"], rows) if rows else ""


def draw(league: League) -> list[pathlib.Path]:
    """Draw a league into its run folder and return the picture's path."""
    summary = league.summary
    title = f"{summary['problem']}, {summary['table']}: agreement with held-out ground truth"
    figure = picture(league.rows, summary["noise_ceiling"]["kendall_tau"], title)
    return style.save_all(league.path, {"league.png": figure})


def tables(rows: Sequence[Row], *, ceiling: float | None = None) -> str:
    """Return one aligned table for each number of ground truths, the best tau first.

    The columns: tau with its standard deviation, its share of the ceiling, Spearman's rho, the
    precision among the best ten, the regret, and the time of a fit and of a query.

    Args:
      rows: as in `studies.spreads.aggregate`.
      ceiling: Kendall's tau that noise in the ground truth allows; None where not known.

    Raises:
      UserError: no rows, or two rows of one match.
    """
    league = aggregate(rows)
    headers = ["", "Kendall tau", *([] if ceiling is None else ["/ceil"])]
    headers += ["rho", "p@10", "regret", "fit", "query"]
    noise = "" if ceiling is None else f"; noise ceiling of tau {ceiling:.3f}"
    made = []
    for known in sorted({known for own in league.values() for known in own}):
        entries = {name: own[known] for name, own in league.items() if known in own}
        splits = _splits([*entries.values()])
        over = f"means over {splits} splits, tau ± std" if splits != "1" else "one split"
        order = sorted(entries, key=lambda name: -_rank(entries[name]["kendall_tau"]["mean"]))
        lines = [_cells(name, entries[name], ceiling) for name in order]
        made.append(table(f"{known} ground truths: {over}{noise}", headers, lines))
    return "\n".join(made)


def _cells(name: str, entry: Mapping[str, Any], ceiling: float | None) -> list[str]:
    tau = entry["kendall_tau"]
    spread = "" if tau["std"] is None else f"±{tau['std']:.3f}"
    cells = [name, _fixed(tau, 3) + spread]
    if ceiling is not None:
        cells.append("-" if tau["mean"] is None else f"{tau['mean'] / ceiling:.0%}")
    cells += [_fixed(entry["spearman"], 2), _fixed(entry["precision_at_10"], 2)]
    cells += [_fixed(entry["regret"], 3)]
    return cells + [duration(entry[name]["mean"], 2) for name in ("fit_seconds", "query_seconds")]


def _fixed(figures: Mapping[str, Any], digits: int) -> str:
    """Return a mean, or in how many splits there is no finite figure, such as `none 1/2`."""
    if figures["mean"] is None:
        return f"none {figures['values'].count(None)}/{len(figures['values'])}"
    return f"{figures['mean']:.{digits}f}"


def picture(
    rows: Sequence[Row],
    ceiling: float | None = None,
    title: str = "Agreement with the ground truth of held-out motifs",
) -> Figure:
    """Return Kendall's tau against the number of ground truths, a line for each surrogate.

    What uses no ground truth is a dotted line across, its spread at 0.

    Args:
      rows: as in `studies.spreads.aggregate`.
      ceiling: Kendall's tau that noise in the ground truth allows: a dashed line.
      title: what was ranked: space, data set, preset.

    Raises:
      UserError: no rows, or two rows of one match.
    """
    league = aggregate(rows)
    counts = sorted({known for own in league.values() for known in own})
    height = max(5.2, 1.3 + 0.24 * len(league))
    figure = Figure(figsize=(10, height))
    title = textwrap.fill(title, 62)  # as wide as the axes: labels begin right of them
    lines = 0.2 * title.count("\n")
    axes = figure.add_axes((0.075, 0.88 / height, 0.62, 1 - (1.28 + lines) / height))
    learners = [name for name, own in league.items() if list(own) != [0]]
    others = [name for name in league if name not in learners]
    shown, ends = looks(list(league)), []
    for names, width in ((learners, 0.5), (others, 0.6)):
        for place, name in enumerate(names):
            # Spreads at one number of ground truths stand side by side.
            shift = width * ((place + 1) / (len(names) + 1) - 0.5)
            ends.append(_line(axes, shown[name], league[name], counts, shift))
    if ceiling is not None:
        axes.axhline(ceiling, color=INK, lw=1.2, ls="--", label="noise ceiling")
        ends.append((ceiling, f"noise ceiling  {ceiling:.2f}", INK))
    axes.set_xticks(range(len(counts)), [str(known) for known in counts])
    axes.set_xlim(-0.35, len(counts) - 0.65)
    label_axes(axes, title, "ground truths to learn from", "Kendall's τ, higher is better")
    axes.grid(visible=False, axis="x")
    end_labels(axes, ends)
    splits = _splits([entry for own in league.values() for entry in own.values()])
    note = f"Mean over {splits} splits; bars: ± one standard deviation."
    note = "One split." if splits == "1" else note
    note += " Dotted: learns from no ground truth." if others else ""
    figure.text(0.075, 0.16 / height, note, fontsize=8.5, color=INK)
    return figure


def _line(
    axes: Axes, look: Look, own: Mapping[int, Any], counts: list[int], shift: float
) -> tuple[float, str, str]:
    """Draw one surrogate; return its last tau, words and colour for the label."""
    learns = list(own) != [0]
    places = np.array([counts.index(known) for known in own]) + shift
    tau = [entry["kendall_tau"] for entry in own.values()]
    mean = np.array([figures["mean"] for figures in tau], float)  # None becomes NaN
    std = np.nan_to_num(np.array([figures["std"] for figures in tau], float))
    main = look == LOOKS["dish"]
    line: dict[str, Any] = {"marker": look.marker, "ms": 11 if look.marker == "*" else 7}
    line |= {"mec": "white", "mew": 0.7, "color": look.colour}
    line |= {"lw": 2.6 if main else 1.6, "zorder": 4 if main else 3}
    axes.vlines(places, mean - std, mean + std, color=look.colour, lw=1.3, alpha=0.65, zorder=2)
    axes.plot(places, mean, label=look.label, ls=look.dash if learns else "", **line)
    if not learns:
        axes.axhline(mean[0], color=look.colour, lw=1, ls=":", zorder=1)
    last = mean[np.isfinite(mean)][-1:]
    if not last.size:
        return math.nan, f"{look.label}: no result", look.colour
    return float(last[0]), f"{look.label}  {last[0]:.2f}", look.colour


def _splits(entries: Sequence[Mapping[str, Any]]) -> str:
    counts = sorted(len(entry["kendall_tau"]["values"]) for entry in entries)
    return " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))


def _rank(mean: float | None) -> float:
    return -math.inf if mean is None else mean

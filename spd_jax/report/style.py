"""What all pictures share: colours, a panel's labels, names at the ends of lines, the file."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from spd_jax.files import atomic_path

INK = "#333333"
# Okabe and Ito (2008), told apart under every common colour blindness; yellow is too pale here.
GREEN, BLUE, SKY = "#009E73", "#0072B2", "#56B4E9"
VERMILION, ORANGE, PURPLE, GREY = "#D55E00", "#E69F00", "#B0508A", "#777777"
COLOURS = (GREEN, BLUE, SKY, VERMILION, ORANGE, PURPLE, GREY)
DPI = 150


def save(path: str | os.PathLike[str], figure: Figure) -> pathlib.Path:
    """Write a picture as PNG in one piece and return its path; errors as `files.atomic_path`."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI)
    return pathlib.Path(path)


def save_all(folder: str | os.PathLike[str], figures: Mapping[str, Figure]) -> list[pathlib.Path]:
    """Write pictures, by file name, into a folder; arguments and errors are those of `save`."""
    return [save(pathlib.Path(folder) / name, figure) for name, figure in figures.items()]


def label_axes(axes: Axes, title: str, horizontal: str, vertical: str) -> None:
    """Give a panel the house's title, axis labels and grid."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set(xlabel=horizontal, ylabel=vertical)
    axes.grid(color="#DDDDDD", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)


def end_labels(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write (value, words, colour) to the right of the axes, each line's at its end.

    Words never overlap: those of near lines are moved apart, and joined to their place by a
    thin line. A value that is not finite gets its words below all others. Call it once the
    axes have their place and limits.
    """
    values = np.array([value for value, _, _ in ends], float)
    known = np.isfinite(values)
    low, high = axes.get_ylim()
    place = np.where(known, (np.where(known, values, low) - low) / (high - low), -1.0)
    height = axes.bbox.height / axes.figure.dpi * 72  # points
    spots = spread_out(place, 13 / height)
    style: dict[str, Any] = {"transform": axes.transAxes, "va": "center", "fontsize": 9}
    for (_, words, colour), start, spot in zip(ends, place, spots, strict=True):
        axes.text(1.05, spot, words, color=colour, **style)
        if 0 <= start <= 1:
            ends_at: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
            axes.plot([1.005, 1.04], [start, spot], color=colour, lw=0.8, alpha=0.7, **ends_at)


def spread_out(places: ArrayLike, gap: float) -> np.ndarray:
    """Move places `[K]` of [0, 1] apart, by as little as possible in squares, in their order.

    They end at least `gap` from one another and in [0, 1], where there is room for all.

    >>> spread_out([0.5, 0.5, 0.9], 0.2).round(3).tolist()
    [0.4, 0.6, 0.9]
    """
    places = np.asarray(places, float)
    order = np.argsort(places, kind="stable")
    # Pool adjacent violators: without the gaps the places must not descend.
    blocks: list[list[float]] = []
    for rank, place in enumerate(places[order]):
        blocks.append([place - rank * gap])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    pooled = np.concatenate([np.full(len(own), np.mean(own)) for own in blocks])
    pooled = np.clip(pooled, 0.0, max(0.0, 1.0 - (len(places) - 1) * gap))
    moved = np.empty_like(places)
    moved[order] = pooled + gap * np.arange(len(places))
    return moved

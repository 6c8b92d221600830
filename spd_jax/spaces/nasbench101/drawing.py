"""A NAS-Bench-101 cell as a picture: its graph from the input down to the output."""

import itertools
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path

from spd_jax.errors import UserError
from spd_jax.spaces.nasbench101.graph import (
    INTERIOR,
    OPERATIONS,
    OUTPUT,
    VERTICES,
    NasBench101Cell,
    is_valid,
)
from spd_jax.spaces.nasbench101.layout import Layout, layout

# Okabe and Ito (2008), lightened under dark letters: one hue per operation.
FILLS = dict(zip(OPERATIONS[1:], ("#F6C977", "#A9D4F2", "#8FD3BC"), strict=True))
LABELS = dict(zip(OPERATIONS[1:], ("conv 3x3", "conv 1x1", "pool 3x3"), strict=True))
INK, EDGE, END = "#222222", "#444444", "#0072B2"
# Inches: a vertex, from one level to the next, and between the ends of edges at one vertex.
WIDTH, HEIGHT, LEVEL, PORT = 0.88, 0.31, 0.68, 0.16


def draw(arch: NasBench101Cell, title: str = "") -> Figure:
    """Draw one cell; what lies on no path from input to output is left out.

    Args:
      arch: one arch, adjacency `[7, 7]` and operations `[5]`.
      title: stands above the picture.

    Raises:
      UserError: a batch of cells, or a cell that is not valid.
    """
    adjacency, operation = np.asarray(arch.adjacency), np.asarray(arch.operation)
    one = adjacency.shape == (VERTICES, VERTICES) and operation.shape == (INTERIOR,)
    if not one or not is_valid(arch):
        raise UserError(
            f"an adjacency of shape {adjacency.shape} cannot be drawn: give one valid cell, with a "
            "path from input to output and at most nine edges"
        )
    places = layout(arch)
    x, level = list(places.x.values()), places.level[OUTPUT,]
    left = min(-WIDTH / 2, min(x) - WIDTH / 2) - 0.12
    right = max(max(x) + WIDTH / 2 + 0.12, left + 0.095 * len(title) + 0.2)
    bottom = -LEVEL * level - HEIGHT / 2 - 0.12
    top = HEIGHT / 2 + (0.4 if title else 0.12)
    figure = Figure(figsize=(right - left, top - bottom))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(left, right), ylim=(bottom, top), frame_on=False)
    axes.set(xticks=[], yticks=[])
    style: dict[str, Any] = {"fontsize": 11, "fontweight": "bold", "color": INK}
    axes.set_title(title, x=0.12 / (right - left), y=1, pad=-17, loc="left", **style)
    for points in _lines(places):
        _line(axes, points)
    _vertex(axes, places.x[0,], 0, "input", "#DCEBF7", END)
    _vertex(axes, places.x[OUTPUT,], -LEVEL * level, "output", "#DCEBF7", END)
    for vertex in range(1, OUTPUT):
        if (vertex,) in places.x:
            name = OPERATIONS[operation[vertex - 1]]
            y = -LEVEL * places.level[vertex,]
            _vertex(axes, places.x[vertex,], y, LABELS[name], FILLS[name], EDGE)
    return figure


def _lines(places: Layout) -> list[list[tuple[float, float]]]:
    """Return the points that every edge visits: side by side where several meet a vertex."""
    lines = []
    for edge in places.edges:
        at = [(places.x[item], -LEVEL * places.level[item]) for item in edge]
        # Past the vertices of a level a line runs straight down.
        past = [(x, y + by) for x, y in at[1:-1] for by in (HEIGHT / 2, -HEIGHT / 2)]
        lines.append([at[0], *past, at[-1]])
    for end, towards, sign in ((0, 1, -1), (-1, -2, 1)):
        for vertex in {edge[end] for edge in places.edges}:
            meeting = [i for i, edge in enumerate(places.edges) if edge[end] == vertex]
            meeting.sort(key=lambda i: lines[i][towards])
            for place, i in enumerate(meeting):
                x, y = lines[i][end]
                port = PORT * (place - (len(meeting) - 1) / 2)
                lines[i][end] = (x + port, y + sign * HEIGHT / 2)
    return lines


def _line(axes: Axes, points: list[tuple[float, float]]) -> None:
    """Draw an arrow through points from top to bottom; it runs straight down at each."""
    path, codes = [points[0]], [Path.MOVETO]
    for (x, y), (to, under) in itertools.pairwise(points):
        middle = (y + under) / 2
        path += [(x, middle), (to, middle), (to, under)]
        codes += [Path.CURVE4] * 3
    axes.add_patch(PathPatch(Path(path, codes), fill=False, edgecolor=EDGE, lw=1.4, zorder=1))
    x, y = points[-1]
    axes.plot(x, y + 0.03, color=EDGE, marker="v", ms=4.5, mew=0, zorder=2)


def _vertex(axes: Axes, x: float, y: float, name: str, fill: str, edge: str) -> None:
    corner = (x - WIDTH / 2, y - HEIGHT / 2)
    shape = FancyBboxPatch(corner, WIDTH, HEIGHT, "round,pad=0,rounding_size=0.1", zorder=3)
    shape.set(facecolor=fill, edgecolor=edge, linewidth=1)
    axes.add_patch(shape)
    style: dict[str, Any] = {"ha": "center", "va": "center_baseline", "fontsize": 10}
    axes.text(x, y, name, color=INK, **style)

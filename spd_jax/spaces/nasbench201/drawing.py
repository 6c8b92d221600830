"""A NAS-Bench-201 cell as a picture: four nodes, and an arrow with its operation for each edge.

The input stands on the left, the output on the right, nodes 1 and 2 above and below; the edge
from input to output runs underneath, so that no two arrows cross. Edges that reach the output
from the input are drawn in ink, the others are pale, and an edge with `none` is only dotted.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from spd_jax.errors import UserError
from spd_jax.spaces.nasbench201.graph import EDGES, NONE, OPERATIONS, live_edges

# Okabe and Ito (2008), lightened under dark letters: one hue per operation.
FILLS = dict(zip(OPERATIONS, ("#FFFFFF", "#E4E4E4", "#A9D4F2", "#F6C977", "#8FD3BC"), strict=True))
LABELS = dict(zip(OPERATIONS, ("none", "skip", "conv 1x1", "conv 3x3", "pool 3x3"), strict=True))
INK, EDGE, PALE, OUTPUT = "#222222", "#444444", "#BBBBBB", "#0072B2"
# Inches: centres of the nodes, size of a node and of a label.
NODES = np.array([(0.0, 0.0), (1.75, 0.85), (1.75, -0.85), (3.5, 0.0)])
RADIUS, WIDTH, HEIGHT = 0.2, 0.84, 0.27
DEPTH = -1.55  # how deep the arrow from input to output hangs


def draw(arch: np.ndarray, title: str = "") -> Figure:
    """Draw one cell.

    Args:
      arch: int32 `[6]`, indices into `OPERATIONS`.
      title: stands above the picture.

    Raises:
      UserError: a batch of cells, or an operation that there is not.
    """
    cell = np.asarray(arch)
    if cell.shape != (len(EDGES),) or np.any((cell < 0) | (cell >= len(OPERATIONS))):
        raise UserError(
            f"{cell.tolist()} cannot be drawn: give one cell, six indices of operations from 0 to "
            f"{len(OPERATIONS) - 1}"
        )
    left, right, bottom = -0.42, 3.92, DEPTH - HEIGHT / 2 - 0.1
    right = max(right, left + 0.095 * len(title) + 0.2)
    top = 0.85 + RADIUS + (0.42 if title else 0.12)
    figure = Figure(figsize=(right - left, top - bottom))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(left, right), ylim=(bottom, top), frame_on=False)
    axes.set(xticks=[], yticks=[])
    style: dict[str, Any] = {"fontsize": 11, "fontweight": "bold", "color": INK}
    axes.set_title(title, x=0.12 / (right - left), y=1, pad=-17, loc="left", **style)
    used = live_edges(cell[None])[0]
    for edge, operation, live in zip(EDGES, cell.tolist(), used.tolist(), strict=True):
        _edge(axes, edge, OPERATIONS[operation], live)
    reached = {0, 3} | {
        node for edge, live in zip(EDGES, used, strict=True) if live for node in edge
    }
    for node, name in enumerate(("in", "1", "2", "out")):
        _node(axes, NODES[node], name, node in reached)
    return figure


def _edge(axes: Axes, edge: tuple[int, int], operation: str, live: bool) -> None:
    """Draw an arrow and, on its middle, the operation."""
    start, end = NODES[list(edge)]
    if edge == (0, 3):  # from below the one to below the other
        start, end = start - (0, RADIUS), end - (0, RADIUS)
        handle = (0, (DEPTH + RADIUS) * 4 / 3)  # a cubic hangs 3/4 as deep as its handles
        path = Path([start, start + handle, end + handle, end], [Path.MOVETO, *[Path.CURVE4] * 3])
        middle = np.array([(start + end)[0] / 2, DEPTH])
    else:
        edge_of_node = RADIUS * (end - start) / np.linalg.norm(end - start)
        path = Path([start + edge_of_node, end - edge_of_node], [Path.MOVETO, Path.LINETO])
        middle = (start + end) / 2
    none = operation == OPERATIONS[NONE]
    colour = EDGE if live else PALE
    arrow = FancyArrowPatch(
        path=path,
        arrowstyle="-" if none else "-|>,head_length=6,head_width=3",
        mutation_scale=1,
        shrinkA=0,
        shrinkB=0,
        color=colour,
        linewidth=1.5 if live else 1,
        linestyle=":" if none else "-",
        zorder=2 if live else 1,
        label=f"{edge[0]} to {edge[1]}",
    )
    axes.add_patch(arrow)
    if none:
        return
    x, y = middle.tolist()
    corner = (x - WIDTH / 2, y - HEIGHT / 2)
    shape = FancyBboxPatch(corner, WIDTH, HEIGHT, "round,pad=0,rounding_size=0.1", zorder=3)
    shape.set(facecolor=FILLS[operation] if live else "white", edgecolor=colour, linewidth=1)
    axes.add_patch(shape)
    style: dict[str, Any] = {"ha": "center", "va": "center_baseline", "fontsize": 10}
    axes.text(x, y, LABELS[operation], color=INK if live else PALE, **style)


def _node(axes: Axes, centre: np.ndarray, name: str, reached: bool) -> None:
    x, y = centre.tolist()
    ends = name in ("in", "out")
    colour = OUTPUT if ends else EDGE if reached else PALE
    fill = "#DCEBF7" if ends else "white"
    axes.add_patch(
        Circle((x, y), RADIUS, facecolor=fill, edgecolor=colour, linewidth=1.2, zorder=4)
    )
    style: dict[str, Any] = {"ha": "center", "va": "center_baseline", "fontsize": 10, "zorder": 5}
    axes.text(x, y, name, color=INK if reached else PALE, **style)

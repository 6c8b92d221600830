"""A recurrent cell as a picture: a tree of nodes from the top down, like figure 5 of Rawal et al.

The layout is a tidy tree (after Reingold and Tilford, 1981): subtrees stand side by side, as close
as their outlines allow, and a node above the middle of its readers. The line from an averaged
node to the new state takes part as one more, narrow, child that reaches the bottom; so no
line crosses another, and none runs through a node.
"""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path

from spd_jax.errors import UserError
from spd_jax.spaces.rnn_cell.cells import ACTIVATIONS, NODES, RnnCell, check_variant
from spd_jax.spaces.rnn_cell.network import output_weights

# Okabe and Ito (2008), lightened under dark letters: one hue per activation.
FILLS = dict(zip(ACTIVATIONS, ("#F6C977", "#8FD3BC", "#E4E4E4", "#A9D4F2"), strict=True))
INK, EDGE, OUTPUT = "#222222", "#444444", "#0072B2"
# Inches: a node, the room beside it, a line to the new state, from one level to the next.
WIDTH, HEIGHT, GAP, LANE, LEVEL = 0.88, 0.31, 0.12, 0.06, 0.68


class Layout(NamedTuple):
    """Where everything stands.

    Attributes:
      x: centres of the nodes, inches from node 0 to the right, float64 `[12]`.
      depth: how many nodes are above each, int `[12]`.
      lanes: for each averaged node, where its line to the new state runs down, in inches.
    """

    x: np.ndarray
    depth: np.ndarray
    lanes: dict[int, float]


class _Part(NamedTuple):
    """A subtree, or a lane, that is laid out: where its root is, and how far it reaches.

    `left` and `right` are its ends at every level of the picture; a level without it
    has plus and minus infinity.
    """

    root: float
    nodes: dict[int, float]
    lanes: dict[int, float]
    left: np.ndarray
    right: np.ndarray

    def moved(self, by: float) -> "_Part":
        nodes, lanes = ({i: x + by for i, x in of.items()} for of in (self.nodes, self.lanes))
        return _Part(self.root + by, nodes, lanes, self.left + by, self.right + by)


def draw(cell: RnnCell, variant: str = "nao", title: str = "") -> Figure:
    """Draw one cell.

    Args:
      cell: one arch, predecessors `[11]` and activations `[12]`.
      variant: one of `spaces.rnn_cell.VARIANTS`; it decides which nodes are averaged.
      title: stands above the picture.

    Returns:
      The picture, as wide and as high as the cell needs.

    Raises:
      UserError: an unknown variant, a batch of cells, or a node that reads none before it.
    """
    places = layout(cell, variant)
    depth, bar = places.depth, -LEVEL * (places.depth.max() + 1)
    words = _mean_of(sorted(places.lanes))
    ends = [*places.lanes.values()]
    middle = (min(ends) + max(ends)) / 2
    half = max((max(ends) - min(ends)) / 2 + 0.25, 0.04 * len(words) + 0.1)
    left = min(places.x.min() - WIDTH / 2, middle - half, -0.9) - 0.12
    right = max(places.x.max() + WIDTH / 2, middle + half, 0.9) + 0.12
    right = max(right, left + 0.095 * len(title) + 0.2)
    bottom = bar - HEIGHT / 2 - 0.12
    top = LEVEL + HEIGHT / 2 + (0.4 if title else 0.12)
    figure = Figure(figsize=(right - left, top - bottom))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(left, right), ylim=(bottom, top), frame_on=False)
    axes.set(xticks=[], yticks=[])
    style: dict[str, Any] = {"fontsize": 11, "fontweight": "bold", "color": INK}
    axes.set_title(title, x=0.12 / (right - left), y=1, pad=-17, loc="left", **style)
    _inputs(axes)
    predecessor = np.asarray(cell.predecessor)
    for node, parent in enumerate(predecessor, 1):
        _line(axes, (places.x[parent], depth[parent]), (places.x[node], depth[node]), f"{node}")
    for node, x in places.lanes.items():
        lane = (x, depth.max() + 1)
        _line(axes, (places.x[node], depth[node]), lane, f"{node} to h", OUTPUT)
    for node, activation in enumerate(np.asarray(cell.activation)):
        _node(axes, places.x[node], -LEVEL * depth[node], node, ACTIVATIONS[activation])
    _box(axes, middle, bar, 2 * half, "#DCEBF7", OUTPUT)
    axes.text(middle, bar, words, ha="center", va="center", color=INK, fontsize=10)
    return figure


def averaged(cell: RnnCell, variant: str) -> list[int]:
    """Return the nodes whose mean is the new state, in ascending order."""
    return np.flatnonzero(np.asarray(output_weights(cell, variant)) > 0).tolist()


def layout(cell: RnnCell, variant: str = "nao") -> Layout:
    """Return where everything stands; arguments and errors are those of `draw`."""
    check_variant(variant)
    predecessor, activation = np.asarray(cell.predecessor), np.asarray(cell.activation)
    one = predecessor.shape == (NODES - 1,) and activation.shape == (NODES,)
    if not one or np.any((predecessor < 0) | (predecessor >= np.arange(1, NODES))):
        raise UserError(
            f"predecessors {predecessor.tolist()} are no cell: give one cell in which every "
            f"node 1 to {NODES - 1} reads an earlier one"
        )
    depth = np.zeros(NODES, int)
    for node, parent in enumerate(predecessor, 1):
        depth[node] = depth[parent] + 1
    shown = averaged(cell, variant)
    subtrees: dict[int, _Part] = {}
    for node in reversed(range(NODES)):  # readers have higher numbers than what they read
        readers = [subtrees.pop(int(reader)) for reader in 1 + np.flatnonzero(predecessor == node)]
        subtrees[node] = _subtree(node, depth, readers, averaged=node in shown)
    whole = subtrees[0].moved(-subtrees[0].root)
    return Layout(np.array([whole.nodes[i] for i in range(NODES)]), depth, whole.lanes)


def _subtree(node: int, depth: np.ndarray, readers: list[_Part], *, averaged: bool) -> _Part:
    """Set a node above its readers' subtrees and, where it is averaged, its own lane."""
    level, levels = depth[node], depth.max() + 2  # the last level is the new state's
    parts = list(readers)
    if averaged:
        reach = np.where(np.arange(levels) > level, LANE / 2, -np.inf)
        # Among several readers in the middle; beside a single one, left and right in turn.
        place = len(readers) // 2 if len(readers) != 1 else level % 2
        parts.insert(place, _Part(0.0, {}, {node: 0.0}, -reach, reach))
    left, right = np.full(levels, np.inf), np.full(levels, -np.inf)
    nodes: dict[int, float] = {}
    lanes: dict[int, float] = {}
    roots = []
    for part in parts:
        nearest = np.max(right - part.left)
        part = part.moved(nearest + GAP if np.isfinite(nearest) else 0.0)
        left, right = np.minimum(left, part.left), np.maximum(right, part.right)
        nodes |= part.nodes
        lanes |= part.lanes
        if part.nodes or not readers:
            roots.append(part.root)
    root = (roots[0] + roots[-1]) / 2
    left[level], right[level] = root - WIDTH / 2, root + WIDTH / 2
    return _Part(root, {node: root, **nodes}, lanes, left, right)


def _mean_of(nodes: list[int]) -> str:
    """Return what the new state is, in words: `h = mean of nodes 1 to 11`."""
    if len(nodes) == 1:
        return f"$h_t$ = node {nodes[0]}"
    if nodes == list(range(nodes[0], nodes[-1] + 1)) and len(nodes) > 2:
        return f"$h_t$ = mean of nodes {nodes[0]} to {nodes[-1]}"
    return f"$h_t$ = mean of nodes {', '.join(map(str, nodes[:-1]))} and {nodes[-1]}"


def _inputs(axes: Axes) -> None:
    """Draw the input and the last state, and their lines into node 0."""
    for x, name in ((-0.55, "$x_t$"), (0.55, "$h_{t-1}$")):
        _box(axes, x, LEVEL, 0.6, "white", OUTPUT if x > 0 else EDGE)
        axes.text(x, LEVEL, name, ha="center", va="center", color=INK, fontsize=11)
        _line(axes, (x, -1), (np.sign(x) * 0.12, 0), name, OUTPUT if x > 0 else EDGE)


def _node(axes: Axes, x: float, y: float, number: int, name: str) -> None:
    _box(axes, x, y, WIDTH, FILLS[name], EDGE)
    style: dict[str, Any] = {"va": "center_baseline", "color": INK}
    axes.text(x + 0.08, y, name, ha="center", fontsize=10, **style)
    style = {"va": "center_baseline", "color": EDGE}
    axes.text(x - WIDTH / 2 + 0.06, y, str(number), ha="left", fontsize=7.5, **style)


def _box(axes: Axes, x: float, y: float, width: float, fill: str, edge: str) -> None:
    corner = (x - width / 2, y - HEIGHT / 2)
    shape = FancyBboxPatch(corner, width, HEIGHT, "round,pad=0,rounding_size=0.1", zorder=3)
    shape.set(facecolor=fill, edgecolor=edge, linewidth=1)
    axes.add_patch(shape)


def _line(
    axes: Axes,
    start: tuple[float, int],
    end: tuple[float, int],
    label: str,
    colour: str = EDGE,
) -> None:
    """Draw an arrow from below one place (x, level) to the top of another.

    It reaches its x within one level, and all lines between two levels bend alike, so
    that they keep their order; from there it runs straight down.
    """
    (x, level), (to, last) = start, end
    y, under = -LEVEL * level - HEIGHT / 2, -LEVEL * (level + 1) + HEIGHT / 2
    tip = -LEVEL * last + HEIGHT / 2
    points = [(x, y), (x, (y + under) / 2), (to, (y + under) / 2), (to, under), (to, tip)]
    path = Path(points, [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO])
    thin = colour == OUTPUT
    style: dict[str, Any] = {"fill": False, "edgecolor": colour, "label": label}
    axes.add_patch(PathPatch(path, lw=0.9 if thin else 1.5, zorder=1 if thin else 2, **style))
    marker: dict[str, Any] = {"marker": "v", "ms": 3.5 if thin else 4.5, "mew": 0, "zorder": 2}
    axes.plot(to, tip + 0.03, color=colour, **marker)

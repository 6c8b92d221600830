"""spaces.rnn_cell.drawing: what is drawn is the cell, and nothing touches what it should not."""

import io
import itertools

import jax
import matplotlib.image
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.patches import FancyBboxPatch, PathPatch

from spd_jax.archs import unstack
from spd_jax.errors import UserError
from spd_jax.spaces.rnn_cell import (
    ACTIVATIONS,
    PUBLISHED,
    VARIANTS,
    RnnCell,
    RnnCellSpace,
    drawing,
)

KINDS = np.arange(12) % 4
CHAIN = RnnCell(np.arange(11), KINDS)
STAR = RnnCell(np.zeros(11, int), KINDS)


def example_cells():
    cells = [(v, RnnCellSpace(v).decode(text)) for v, text in PUBLISHED.values()]
    cells += [(v, cell) for v in VARIANTS for cell in (CHAIN, STAR)]
    for variant in VARIANTS:
        sampled = unstack(RnnCellSpace(variant).sample(jax.random.key(3), 3))
        cells += [(variant, cell) for cell in sampled]
    return cells


@st.composite
def any_cell(draw):
    """Draw a variant and a cell; a low reach makes stars, a high one chains."""
    reach = draw(st.integers(1, 11))
    least = draw(st.booleans())
    bounds = [(max(0, i - reach), i - 1) if least else (0, min(i, reach) - 1) for i in range(1, 12)]
    predecessor = [draw(st.integers(*bound)) for bound in bounds]
    return draw(st.sampled_from(VARIANTS)), RnnCell(np.array(predecessor), KINDS)


def averaged(cell, variant):
    if variant == "enas":
        return set(range(12)) - set(np.asarray(cell.predecessor).tolist())
    return set(range(12)) - ({0} if variant == "nao" else set())


@given(any_cell())
@settings(max_examples=150)
def test_nodes_keep_their_distance_and_no_lines_cross(drawn):
    variant, cell = drawn
    x, depth, lanes = drawing.layout(cell, variant)
    assert set(lanes) == averaged(cell, variant)
    assert x[0] == 0
    bottom = depth.max() + 1
    for level in range(bottom + 1):
        # who is met on this level, with half its width: nodes, and lanes on their way down
        met = [(x[i], drawing.WIDTH / 2) for i in range(12) if depth[i] == level]
        met += [(lanes[i], drawing.LANE / 2) for i in lanes if depth[i] < level]
        for (left, half), (right, other) in itertools.pairwise(sorted(met)):
            assert right - left >= half + other + drawing.GAP - 1e-9
    for level in range(bottom):
        lines = [(x[p], x[i]) for i, p in enumerate(cell.predecessor, 1) if depth[p] == level]
        lines += [(x[i], lanes[i]) for i in lanes if depth[i] == level]
        lines += [(lanes[i], lanes[i]) for i in lanes if depth[i] < level]
        for (a, b), (c, d) in itertools.combinations(lines, 2):
            assert (a - c) * (b - d) >= 0
    for node in range(12):
        readers = [x[i] for i, p in enumerate(cell.predecessor, 1) if p == node]
        if readers:
            assert depth[1 + list(cell.predecessor).index(node)] == depth[node] + 1
            assert x[node] == pytest.approx((min(readers) + max(readers)) / 2, abs=1e-9)


def test_a_chain_has_its_lines_on_both_sides():
    x, _, lanes = drawing.layout(CHAIN, "enas_mean")
    assert x.tolist() == pytest.approx([0] * 12)
    assert [np.sign(lanes[i]) for i in range(11)] == [-1, 1] * 5 + [-1]
    assert lanes[11] == pytest.approx(0)


@pytest.mark.parametrize(("variant", "cell"), example_cells())
def test_every_node_edge_and_word_is_drawn(variant, cell):
    axes = drawing.draw(cell, variant, "A title").axes[0]
    words = [text.get_text() for text in axes.texts]
    names = [ACTIVATIONS[a] for a in cell.activation]
    assert sorted(words[2:-1]) == sorted([*names, *map(str, range(12))])
    assert words[:2] == ["$x_t$", "$h_{t-1}$"]
    assert axes.get_title(loc="left") == "A title"
    lines = {patch.get_label(): patch for patch in axes.patches if isinstance(patch, PathPatch)}
    assert len(lines) == 2 + 11 + len(averaged(cell, variant))
    x, depth, lanes = drawing.layout(cell, variant)

    def ends(name):
        path = lines[name].get_path().vertices
        # All bend alike: x and y of all lines between two levels depend on the way in one form.
        assert path[:, 0].tolist() == [path[0, 0]] * 2 + [path[-1, 0]] * 3
        assert path[1, 1] == path[2, 1] == pytest.approx((path[0, 1] + path[3, 1]) / 2)
        return path[[0, -1]].ravel().tolist()

    top, low = (-drawing.LEVEL * depth + sign * drawing.HEIGHT / 2 for sign in (1, -1))
    for node, parent in enumerate(cell.predecessor, 1):
        assert ends(str(node)) == pytest.approx([x[parent], low[parent], x[node], top[node]])
    bar = -drawing.LEVEL * (depth.max() + 1) + drawing.HEIGHT / 2
    for node in averaged(cell, variant):
        assert ends(f"{node} to h") == pytest.approx([x[node], low[node], lanes[node], bar])


@pytest.mark.parametrize(("variant", "cell"), example_cells())
def test_words_lie_inside_their_boxes_and_the_picture_holds_all(variant, cell):
    figure = drawing.draw(cell, variant, "Published cell, drawn as in the paper")
    axes = figure.axes[0]
    figure.draw_without_rendering()
    boxes = [p.get_window_extent() for p in axes.patches if isinstance(p, FancyBboxPatch)]
    texts = [text.get_window_extent() for text in axes.texts]
    for text in texts:
        middle = (text.x0 + text.x1) / 2, (text.y0 + text.y1) / 2
        (box,) = [box for box in boxes if box.contains(*middle)]
        assert box.x0 < text.x0 < text.x1 < box.x1
        assert box.y0 < text.y0 < text.y1 < box.y1
    assert not any(a.overlaps(b) for a, b in itertools.combinations(texts, 2))
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    title = axes._left_title.get_window_extent()
    assert not any(title.overlaps(box) for box in boxes)
    for extent in (*boxes, title):
        assert extent.x0 >= 0
        assert extent.y0 >= 0
        assert extent.x1 <= figure.bbox.x1
        assert extent.y1 <= figure.bbox.y1


@pytest.mark.parametrize(
    ("variant", "cell", "words"),
    [
        ("nao", CHAIN, "mean of nodes 1 to 11"),
        ("enas_mean", CHAIN, "mean of nodes 0 to 11"),
        ("enas", CHAIN, "node 11"),
        ("enas", RnnCell(np.array([*range(10), 9]), KINDS), "mean of nodes 10 and 11"),
        ("enas", RnnCellSpace("enas").decode(PUBLISHED["enas"][1]), "nodes 3, 4, 7, 9, 10 and 11"),
    ],
)
def test_the_bar_says_what_the_new_state_is(variant, cell, words):
    shown = drawing.draw(cell, variant).axes[0].texts[-1].get_text()
    assert shown.startswith("$h_t$ = ")
    assert shown.endswith(words)


def test_each_activation_has_its_colour():
    axes = drawing.draw(STAR).axes[0]
    fills = [p.get_facecolor() for p in axes.patches if isinstance(p, FancyBboxPatch)][2:-1]
    assert fills == fills[:4] * 3
    assert len(set(fills)) == 4


def test_the_picture_is_the_same_every_time_and_can_be_read():
    files = [io.BytesIO() for _ in range(2)]
    for file in files:
        drawing.draw(CHAIN, "enas", "Chain").savefig(file, format="png")
    assert files[0].getvalue() == files[1].getvalue()
    files[0].seek(0)
    assert matplotlib.image.imread(files[0]).std() > 0.05


@pytest.mark.parametrize(
    ("cell", "variant", "words"),
    [
        (CHAIN, "lstm", "unknown cell variant"),
        (RnnCell(np.zeros((2, 11), int), np.zeros((2, 12), int)), "nao", "give one cell"),
        (RnnCell(np.arange(1, 12), KINDS), "nao", "reads an earlier one"),
        (RnnCell(np.full(11, -1), KINDS), "nao", "reads an earlier one"),
    ],
)
def test_what_is_no_cell_is_refused(cell, variant, words):
    with pytest.raises(UserError, match=words):
        drawing.draw(cell, variant)

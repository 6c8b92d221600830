"""spaces.nasbench201: text, one form per function, what vectors count, and the picture."""

import collections
import itertools
import os
import pathlib

import jax
import nasbench201_oracle as oracle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

from spd_jax.errors import UserError
from spd_jax.spaces.nasbench201 import EDGES, NasBench201Space, graph

SPACE = NasBench201Space()
ALL = np.array(list(itertools.product(range(5), repeat=6)), np.int32)
NONE, SKIP, CONV1, CONV3, POOL = range(5)
seeds = st.integers(0, 2**32 - 1)
keys = seeds.map(jax.random.key)
few = settings(max_examples=15)
archs = st.tuples(*[st.integers(0, 4)] * 6).map(lambda cell: np.array(cell, np.int32))


# Text


def test_a_cell_is_written_as_the_benchmark_writes_it():
    text = "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|avg_pool_3x3~0|nor_conv_1x1~1|skip_connect~2|"
    cell = SPACE.decode(text)
    assert cell.dtype == np.int32
    assert cell.tolist() == [CONV3, SKIP, NONE, POOL, CONV1, SKIP]
    assert SPACE.encode(cell) == text
    assert SPACE.decode(f" {text}\n").tolist() == cell.tolist()


def test_every_cell_has_its_own_text():
    chosen = ALL[::7]
    texts = [SPACE.encode(cell) for cell in chosen]
    assert len(set(texts)) == len(chosen)
    np.testing.assert_array_equal([SPACE.decode(text) for text in texts], chosen)


GOOD = SPACE.encode(ALL[0])
MALFORMED = {
    "two nodes": "|none~0|+|none~0|none~1|",
    "four nodes": GOOD + "+|none~0|",
    "other start": "|none~0|+|none~0|none~0|+|none~0|none~1|none~2|",
    "other order": "|none~0|+|none~1|none~0|+|none~0|none~1|none~2|",
    "an edge too few": "|none~0|+|none~0|none~1|+|none~0|none~1|",
    "an edge elsewhere": "|none~0|none~0|+|none~1|+|none~0|none~1|none~2|",
    "no bars": GOOD.replace("|", ""),
    "no start": GOOD.replace("~2", ""),
    "something before": "x" + GOOD,
    "spaces inside": GOOD.replace("+", " + "),
    "a line between": GOOD.replace("+", "\n+"),
    "another digit": GOOD.replace("~2", "~\N{ARABIC-INDIC DIGIT TWO}"),
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_another_form_is_refused(text):
    with pytest.raises(UserError, match=r"is no cell of nasbench201: write \|op~0\|"):
        SPACE.decode(text)


def test_an_unknown_operation_is_refused_by_name():
    with pytest.raises(UserError, match="sep_conv_5x5 must be one of none, skip_connect"):
        SPACE.decode(GOOD.replace("none~1|+", "sep_conv_5x5~1|+"))


@given(st.text(alphabet="|~+_0123none conv", max_size=60))
def test_no_text_breaks_the_reader(text):
    with pytest.raises(UserError):
        SPACE.decode(text)


# One form per function


def test_cells_share_a_form_exactly_when_they_compute_the_same():
    form = graph.first_cells()
    groups = collections.defaultdict(set)
    for number, cell in enumerate(ALL.tolist()):
        groups[oracle.output(cell)].add(form[number])
    assert all(len(forms) == 1 for forms in groups.values())
    assert len({min(forms) for forms in groups.values()}) == len(groups) == 4930


def test_the_form_is_the_first_of_its_cells():
    for same in list(oracle.twins().values())[::40]:
        for cell in same[:: max(1, len(same) // 4)]:
            assert tuple(SPACE.canonical(np.array(cell)).tolist()) == min(same)


def test_what_the_benchmarks_authors_call_one_cell_is_one():
    """Their own text of a function keeps zeros in its sums: 6,466 cells (Dong and Yang, 2020)."""
    form, groups = graph.first_cells(), collections.defaultdict(set)
    for number, cell in enumerate(ALL.tolist()):
        nodes = {0: "0"}
        for end in (1, 2, 3):
            terms = []
            for edge, operation in zip(EDGES, cell, strict=True):
                if edge[1] == end:
                    source = nodes[edge[0]]
                    if operation == NONE or source == "#":
                        terms.append("#")
                    else:
                        terms.append(source if operation == SKIP else f"({source})@{operation}")
            nodes[end] = "+".join(sorted(terms))
        groups[nodes[3]].add(form[number])
    assert len(groups) == 6466
    assert all(len(forms) == 1 for forms in groups.values())


SAME = {
    "node 2 reaches nothing": ([CONV3, POOL, CONV1, SKIP, CONV3, NONE], [3, 0, 0, 1, 3, 0]),
    "nothing reaches node 1": ([NONE, CONV3, CONV3, SKIP, CONV1, POOL], [0, 3, 0, 1, 0, 4]),
    "nodes 1 and 2 change places": ([CONV3, POOL, NONE, NONE, CONV1, SKIP], [4, 3, 0, 0, 1, 2]),
    "a chain of skips": ([SKIP, NONE, SKIP, NONE, NONE, CONV3], [0, 0, 0, 3, 0, 0]),
    "skip before and after": ([SKIP, NONE, NONE, NONE, CONV3, NONE], [3, 0, 0, 0, 1, 0]),
    "a sum passed on": ([CONV3, CONV1, SKIP, NONE, NONE, SKIP], [3, 2, 0, 0, 1, 1]),
    "nothing at all": ([CONV3, CONV3, CONV3, NONE, NONE, NONE], [0, 0, 0, 0, 0, 0]),
}
OTHER = {
    "a term twice": ([SKIP, NONE, NONE, SKIP, SKIP, NONE], [NONE, NONE, NONE, SKIP, NONE, NONE]),
    "other order": ([CONV3, NONE, NONE, NONE, CONV1, NONE], [CONV1, NONE, NONE, NONE, CONV3, NONE]),
    "sum before": ([SKIP, CONV1, SKIP, NONE, NONE, CONV3], [SKIP, CONV1, NONE, NONE, CONV3, CONV3]),
}


@pytest.mark.parametrize("pair", SAME.values(), ids=SAME)
def test_twins_have_one_form(pair):
    first, second = (SPACE.canonical(np.array(cell)).tolist() for cell in pair)
    assert first == second


@pytest.mark.parametrize("pair", OTHER.values(), ids=OTHER)
def test_what_differs_has_two_forms(pair):
    first, second = (SPACE.canonical(np.array(cell)).tolist() for cell in pair)
    assert first != second


# Drawing, mutating, crossing


@few
@given(keys)
def test_samples_are_uniform_over_operations(key):
    drawn = SPACE.sample(key, 400)
    assert drawn.shape == (400, 6)
    assert drawn.dtype == np.int32
    counts = np.stack([np.sum(drawn == kind, axis=0) for kind in range(5)])
    assert counts.sum() == 2400
    assert counts.min() > 40  # 80 expected, standard deviation 8
    assert counts.max() < 120


@few
@given(keys, st.sampled_from([0.0, 0.3, 1.0]))
def test_mutants_compute_something_else(key, rate):
    parents = SPACE.sample(jax.random.key(1), 50)
    mutants = NasBench201Space(rate).mutate(key, parents)
    changed = np.sum(mutants != parents, axis=1)
    assert mutants.dtype == np.int32
    assert 0 <= mutants.min() <= mutants.max() < 5
    assert np.all(graph.function_of(mutants) != graph.function_of(parents))
    low, high = {0.0: (1, 1), 0.3: (1, 6), 1.0: (6, 6)}[rate]
    assert low <= changed.min() <= changed.max() <= high


@few
@given(keys)
def test_children_have_every_edge_from_a_parent(key):
    first, second = (SPACE.sample(jax.random.key(seed), 200) for seed in (1, 2))
    children = SPACE.crossover(key, first, second)
    assert np.all((children == first) | (children == second))
    share = np.mean((children == first)[first != second])
    assert 0.4 < share < 0.6


@pytest.mark.parametrize("rate", [-0.1, 1.1, np.nan])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(UserError, match="must lie between 0 and 1"):
        NasBench201Space(rate)


# Vectors

CELL = np.array([[CONV3, SKIP, NONE, POOL, CONV1, SKIP]])  # pool + conv1(conv3) + identity


def test_features_are_one_hot_edge_by_edge():
    vector = SPACE.features(CELL)[0]
    assert np.flatnonzero(vector).tolist() == [3, 6, 10, 19, 22, 26]


def test_tokens_are_operations_plus_one():
    np.testing.assert_array_equal(SPACE.to_tokens(CELL), CELL + 1)


def test_paths_are_sequences_of_operations():
    vector = SPACE.paths(CELL)[0]
    # Of one: pool is the last of 4. Of two, after those 4: (skip, skip) and (conv3, conv1),
    # with digits skip 0, conv1 1, conv3 2, pool 3, the first operation counting least.
    assert np.flatnonzero(vector).tolist() == [3, 4 + 0, 4 + 2 + 4 * 1]
    chain = np.array([[CONV1, NONE, POOL, NONE, NONE, CONV3]])
    assert np.flatnonzero(SPACE.paths(chain)).tolist() == [20 + 1 + 4 * 3 + 16 * 2]
    assert not SPACE.paths(np.zeros((1, 6), int)).any()


def test_every_sequence_has_its_own_bit():
    found = []
    for path in graph.PATHS:
        for operations in itertools.product(range(1, 5), repeat=len(path)):
            cell = np.zeros((1, 6), int)
            cell[0, list(path)] = operations
            found.append((operations, tuple(np.flatnonzero(SPACE.paths(cell)).tolist())))
    assert len(found) == 4 + 2 * 16 + 64
    places = dict(found)
    assert all(places[operations] == place for operations, place in found)  # two ways, one bit
    assert sorted(places.values()) == [(bit,) for bit in range(84)]


def test_structure_counts_by_hand():
    # One path: 0 -conv1-> 1 -pool-> 2 -conv3-> 3, the only spelling but for nothing.
    chain = SPACE.structure(np.array([[CONV1, NONE, POOL, NONE, NONE, CONV3]]))[0]
    expected = [0, 1, 1, 1, 1, 1, *[0, 0], *[1, 1], *[1, 1], *[1, 1], *[2, 2], *[3, 3]]
    assert chain.tolist() == expected
    # conv3(x) + conv1(pool(x)): edges, edges into the output, paths, ends of each.
    two = SPACE.structure(np.array([[POOL, NONE, NONE, CONV3, CONV1, NONE]]))[0]
    assert two.tolist() == [0, 1, 1, 1, 2, 2, 0, 0, 0, 1, 0, 1, 0, 1, 1, 1, 1, 2]
    assert not SPACE.structure(np.zeros((1, 6), int)).any()


@given(archs, seeds)
def test_twins_have_one_structure(cell, seed):
    other = oracle.twin(cell, np.random.default_rng(seed))
    np.testing.assert_array_equal(SPACE.structure(cell[None]), SPACE.structure(other[None]))


@given(archs)
def test_used_edges_are_those_whose_end_makes_a_difference(cell):
    used = graph.live_edges(cell[None])[0]
    for edge in range(6):
        without = cell.copy()
        without[edge] = NONE
        same = graph.function_of(without) == graph.function_of(cell)
        assert used[edge] == (not same)


# The picture


def test_the_picture_shows_the_cell():
    # Node 2 is dead: its edge from the input is pale, the other two are not there.
    axes = SPACE.draw(np.array([CONV3, POOL, NONE, SKIP, CONV1, NONE]), "A title").axes[0]
    arrows = {p.get_label(): p for p in axes.patches if isinstance(p, FancyArrowPatch)}
    assert set(arrows) == {f"{start} to {end}" for start, end in EDGES}
    dotted = {label for label, arrow in arrows.items() if arrow.get_linestyle() == ":"}
    assert dotted == {"1 to 2", "2 to 3"}
    strong = {label for label, arrow in arrows.items() if arrow.get_linewidth() > 1}
    assert strong == {"0 to 1", "0 to 3", "1 to 3"}
    words = [text.get_text() for text in axes.texts]
    assert sorted(words) == sorted(
        ["in", "1", "2", "out", "conv 3x3", "pool 3x3", "skip", "conv 1x1"]
    )
    assert axes.get_title(loc="left") == "A title"
    assert sum(isinstance(p, Circle) for p in axes.patches) == 4
    assert sum(isinstance(p, FancyBboxPatch) for p in axes.patches) == 4


@pytest.mark.parametrize("wrong", [ALL[:2], np.zeros(5, int), np.full(6, 5), np.full(6, -1)])
def test_what_is_no_single_cell_is_not_drawn(wrong):
    with pytest.raises(UserError, match="cannot be drawn: give one cell"):
        SPACE.draw(wrong)


# The table, where it is at hand


@pytest.mark.skipif("SPD_JAX_BENCHMARKS" not in os.environ, reason="needs the benchmarks' tables")
def test_the_table_of_others_reads_back():
    path = pathlib.Path(os.environ["SPD_JAX_BENCHMARKS"], "nas-bench-201", "nb201_13625.csv")
    texts = [line.split(",")[1] for line in path.read_text("utf-8").splitlines()[1:]]
    read = np.array([SPACE.decode(text) for text in texts])
    assert [SPACE.encode(cell) for cell in read] == texts
    known = set(graph.function_of(read).tolist())
    rest = ALL[~np.isin(np.arange(len(ALL)), read @ graph.PLACE_VALUES)]
    assert len(rest) == 2000
    # Of the cells that the table lacks so many have a twin in it.
    assert sum(number in known for number in graph.function_of(rest).tolist()) == 1520

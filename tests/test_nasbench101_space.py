"""spaces.nasbench101: graphs and fingerprints, one form per cell, text, vectors, the picture."""

import itertools
import json
import os
import pathlib

import jax
import nasbench101_oracle as oracle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.patches import FancyBboxPatch, PathPatch

from spd_jax.archs import Cells, stack, take, unstack
from spd_jax.errors import UserError
from spd_jax.spaces.nasbench101 import (
    OPERATIONS,
    NasBench101Cell,
    NasBench101Space,
    drawing,
    fingerprint,
    from_matrix,
    is_valid,
    layout,
    prune,
    to_matrix,
)
from spd_jax.spaces.nasbench101.wirings import wiring_code, wirings

SPACE = NasBench101Space()
C3, C1, MP = OPERATIONS[1:]
seeds = st.integers(0, 2**32 - 1)
keys = seeds.map(jax.random.key)
few = settings(max_examples=15)
some = settings(max_examples=60)


def cell_of(edges, operation):
    """Return an arch with these edges, whatever it is."""
    adjacency = np.zeros((7, 7), np.int32)
    for start, end in edges:
        adjacency[start, end] = 1
    return NasBench101Cell(adjacency, np.array(operation, np.int32))


@st.composite
def graphs(draw, fewest=0, most=14):
    """Draw an arch with any edges between present vertices, valid or not."""
    operation = draw(st.tuples(*[st.integers(0, 3)] * 5))
    there = [0, *(v for v in range(1, 6) if operation[v - 1]), 6]
    places = list(itertools.combinations(there, 2))
    edges = draw(st.sets(st.sampled_from(places), min_size=min(fewest, len(places)), max_size=most))
    return cell_of(edges, operation)


valid = graphs(3, 11).filter(lambda cell: bool(is_valid(cell)))


def assert_same(cell, other):
    for field, expected in zip(cell, other, strict=True):
        assert field.dtype == expected.dtype == np.int32
        np.testing.assert_array_equal(field, expected)


def same(cell, other):
    return all(np.array_equal(x, y) for x, y in zip(cell, other, strict=True))


def assert_pruned(archs):
    assert np.all(is_valid(archs))
    for field, expected in zip(archs, prune(archs), strict=True):
        np.testing.assert_array_equal(field, expected)
    assert not np.tril(archs.adjacency).any()


# Pruning and validity


def test_what_lies_on_no_path_is_pruned():
    # 0 -> 1 -> 6 is the path; 2 is a dead end, nothing leads to 3, 4 stands alone, 5 is absent.
    cell = cell_of([(0, 1), (1, 6), (1, 2), (3, 6), (3, 2)], [1, 2, 3, 1, 0])
    assert_same(prune(cell), cell_of([(0, 1), (1, 6)], [1, 0, 0, 0, 0]))
    assert is_valid(cell)
    nothing = cell_of([(0, 1), (2, 6)], [1, 1, 0, 0, 0])
    assert_same(prune(nothing), cell_of([], [0] * 5))
    assert not is_valid(nothing)


@given(graphs())
def test_an_edge_is_kept_if_a_path_runs_over_it(cell):
    paths = oracle.paths(oracle.edges_of(cell))
    kept = {edge for path in paths for edge in itertools.pairwise(path)}
    pruned = prune(cell)
    assert oracle.edges_of(pruned) == kept
    used = {vertex for edge in kept for vertex in edge}
    expected = [op if v in used else 0 for v, op in enumerate(cell.operation, 1)]
    assert pruned.operation.tolist() == expected
    assert is_valid(cell) == (0 < len(kept) <= 9)


def test_nine_edges_are_counted_after_pruning():
    chain = [(0, 1), (1, 2), (2, 3), (3, 6)]
    nine = [*chain, (0, 2), (0, 3), (1, 3), (1, 6), (0, 6)]
    assert is_valid(cell_of(nine, [1, 1, 1, 1, 1]))
    assert is_valid(cell_of([*nine, (4, 6), (3, 5)], [1, 1, 1, 1, 1]))
    assert not is_valid(cell_of([*nine, (2, 6)], [1, 1, 1, 1, 1]))


def test_a_batch_is_pruned_cell_by_cell():
    batch = SPACE.from_tokens(SPACE.to_tokens(SPACE.sample(jax.random.key(0), 5)))
    dead = NasBench101Cell(batch.adjacency.copy(), batch.operation)
    dead.adjacency[:, 0, 1:6] = 1
    for i, pruned in enumerate(unstack(prune(dead))):
        assert_same(pruned, prune(take(dead, i)))
    assert is_valid(dead).tolist() == [bool(is_valid(cell)) for cell in unstack(dead)]


# Names and forms

OFFICIAL = {  # bits and labels of cells of the EC-NAS table, with their names there
    "043721b9c7fe8c5fad811d47d83132ec": ("0100", ()),
    "b49ac8c578b4561d79ac7087988f1c61": ("010001000", (C3,)),
    "d32d0b26d534203b48d866facd98cc3e": ("011001000", (C3,)),
    "53cee42601ad14d661bb6878031d6acb": ("010001000", (MP,)),
    "2a52c4ead5953583354572b64675c153": ("0111000100010000", (C1, C1)),
    "c6705a91351a406fb50dd5d79bb718f3": ("0111001100010000", (C3, C1)),
    "70233794dd25bd1e496a3868f03c139a": ("0100100110000110000100000", (C3, C3, C3)),
    "333aa56d54e11f2dbefde40fb493296c": ("0101100100000100000100000", (C1, C3, C3)),
    "c154f2b51f9d6c17d9d5ecf829ccf6bf": ("0100000111000010000100000", (MP, MP, MP)),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_fingerprints_are_the_benchmarks(name):
    bits, operations = OFFICIAL[name]
    cell = SPACE.decode(f"{bits}|{','.join(['input', *operations, 'output'])}")
    assert fingerprint(cell) == name
    for seed in range(5):
        assert fingerprint(oracle.twin(cell, np.random.default_rng(seed))) == name


@pytest.mark.skipif("SPD_JAX_BENCHMARKS" not in os.environ, reason="needs the benchmarks' tables")
def test_all_fingerprints_of_the_table_of_others():
    folder = pathlib.Path(os.environ["SPD_JAX_BENCHMARKS"], "ec-nas")
    for table, count in (("ecnas_4V9E_4epochs.json", 91), ("ecnas_5V9E_4epochs.json", 2532)):
        rows = json.loads((folder / table).read_text("utf-8"))
        assert len(rows) == count
        for row in rows:
            names = [OPERATIONS[label + 1] for label in row["labels"][1:-1]]
            assert fingerprint(from_matrix(row["matrix"], names)) == row["hash"]


def test_the_benchmark_has_2532_cells_of_at_most_five_vertices():
    forms, names = set(), set()
    for i in np.flatnonzero((wirings().chance > 0) & (wirings().present.sum(1) <= 3)):
        for operation in itertools.product((1, 2, 3), repeat=int(wirings().present[i].sum())):
            padded = np.array([[*operation, *[0] * (5 - len(operation))]])
            cell = take(wirings().take(np.array([i]), padded), 0)
            forms.add(SPACE.encode(SPACE.canonical(cell)))
            names.add(fingerprint(cell))
    assert len(forms) == len(names) == 2532


@some
@given(valid, seeds)
def test_the_form_is_one_for_all_spellings(cell, seed):
    form = SPACE.canonical(cell)
    assert_pruned(form)
    assert_same(SPACE.canonical(form), form)
    assert_same(SPACE.canonical(oracle.twin(cell, np.random.default_rng(seed))), form)
    interior = np.count_nonzero(form.operation)
    assert np.all(form.operation[:interior] > 0)  # interior vertices are 1..K
    assert fingerprint(form) == fingerprint(cell)


def test_the_form_is_the_smallest_numbering():
    cell = SPACE.decode("111000.00100.0010.001.01.1|conv1x1,conv3x3,conv3x3,maxpool3x3,conv1x1")
    matrix, names = to_matrix(cell)
    smallest = None
    for order in itertools.permutations(range(1, 6)):
        moved = matrix[np.ix_([0, *order, 6], [0, *order, 6])]
        kinds = [OPERATIONS.index(names[v - 1]) for v in order]
        if not np.tril(moved).any():
            key = (kinds, moved[np.triu_indices(7, 1)].tolist())
            smallest = min(smallest, key) if smallest else key
    form = SPACE.canonical(cell)
    assert smallest == (form.operation.tolist(), form.adjacency[np.triu_indices(7, 1)].tolist())


@few
@given(keys)
def test_cells_have_one_name_exactly_when_they_have_one_form(key):
    parents = SPACE.sample(key, 3)
    batch = [SPACE.mutate(jax.random.fold_in(key, i), parents) for i in range(12)]
    near = [cell for cells in [parents, *batch] for cell in unstack(cells)]
    both = {(SPACE.encode(SPACE.canonical(cell)), fingerprint(cell)) for cell in near}
    assert len({form for form, _ in both}) == len({name for _, name in both}) == len(both) > 20


# The benchmark's own form


@given(valid)
def test_the_benchmarks_form_is_the_pruned_cell(cell):
    matrix, names = to_matrix(cell)
    assert len(matrix) == len(names) + 2 == np.count_nonzero(prune(cell).operation) + 2
    back = from_matrix(matrix, names)
    assert_same(SPACE.canonical(back), SPACE.canonical(cell))
    bits = "".join(str(bit) for row in matrix.tolist() for bit in row)
    as_lists = f"{matrix.tolist()} | {['input', *names, 'output']}"
    for text in (f"{bits}|{','.join(['input', *names, 'output'])}", as_lists):
        assert_same(SPACE.decode(text), back)


def test_a_matrix_keeps_its_numbers_and_unused_vertices():
    cell = from_matrix([[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]], [C1, MP])
    assert_same(cell, cell_of([(0, 1), (0, 2), (1, 6)], [2, 3, 0, 0, 0]))


PATH = [[0, 1, 0], [0, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("matrix", "names", "message"),
    [
        (PATH, [], "give V rows and columns"),
        (np.zeros((8, 8), int), [C3] * 6, "give V rows and columns"),
        ([[0]], [], "give V rows and columns"),
        ([[0, 1, 0], [0, 0, 1]], [C3], "give V rows and columns"),
        ([], [], "give V rows and columns"),
        ([[0, 2, 0], [0, 0, 1], [0, 0, 0]], [C3], "give 0 and 1"),
        ([[0, 1, 0], [0, 0, 1], [1, 0, 0]], [C3], "ones above the diagonal only"),
        ([[0, 1, 0], [0, 1, 1], [0, 0, 0]], [C3], "ones above the diagonal only"),
        (PATH, ["conv5x5"], "'conv5x5' must be one of conv3x3-bn-relu"),
        (PATH, ["absent"], "'absent' must be one of conv3x3-bn-relu"),
        ([[0, 1, 0], [0, 0, 0], [0, 0, 0]], [C3], "give a path from input to output"),
        (np.triu(np.ones((7, 7), int), 1), [C3] * 5, "at most 9 edges"),
    ],
)
def test_a_matrix_that_is_no_cell_is_refused(matrix, names, message):
    with pytest.raises(UserError, match=message):
        from_matrix(matrix, names)


# Text


def test_a_cell_is_written_as_rows_and_operations():
    cell = cell_of([(0, 1), (0, 2), (1, 2), (1, 6), (2, 6)], [1, 3, 0, 0, 0])
    text = "110000.10001.0001.000.00.0|conv3x3,maxpool3x3,-,-,-"
    assert SPACE.encode(cell) == text
    assert_same(SPACE.decode(text), cell)
    assert_same(SPACE.decode(" 110000 10001 0001 000 00 0 | conv3x3 maxpool3x3 - - - "), cell)


@given(valid)
def test_a_cell_comes_back_from_its_text_unused_parts_included(cell):
    assert_same(SPACE.decode(SPACE.encode(cell)), cell)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("110000.10001.0001.000.00.0", "is no cell of nasbench101: write 21 bits"),
        ("110000.10001.0001.000.00|conv3x3,maxpool3x3,-,-,-", "write 21 bits"),
        ("110000.10001.0001.000.00.0|conv3x3,maxpool3x3,-,-", "write 21 bits"),
        ("110000.10001.0001.000.00.0|conv3x3,conv5x5,-,-,-", "write 21 bits"),
        ("110000.10001.0001.000.00.2|conv3x3,maxpool3x3,-,-,-", "write 21 bits"),
        ("110000.10001.0001.000.00.0|conv3x3,maxpool3x3,-,-,-|", "write 21 bits"),
        ("|", "write 21 bits"),
        ("1" * 5000 + "|input,output", "write 21 bits"),
        ("0110|output,input", "write 21 bits"),
        ("0100|input,conv3x3-bn-relu,output", "write 21 bits"),
        ("110000.10001.0001.000.00.0|conv3x3,-,-,-,-", r"no edges to the absent vertices \[2, 3"),
        ("100000.10000.0000.000.00.0|conv3x3,conv3x3,-,-,-", "give a path from input"),
        ("111111.11111.1111.111.11.1|" + ",".join(["conv3x3"] * 5), "at most 9 edges"),
        ("0000|input,output", "give a path from input"),
        ("010001000|input,conv3x3,output", "'conv3x3' must be one of conv3x3-bn-relu"),
    ],
)
def test_what_is_no_cell_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        SPACE.decode(text)


# Drawing, mutating, crossing


def test_the_catalogue_has_every_wiring_once():
    found = wirings()
    assert len(found.code) == 13839
    assert np.all(np.diff(found.code) > 0)
    np.testing.assert_array_equal(found.code, wiring_code(found.adjacency))
    assert_pruned(found.take(np.arange(13839), np.ones((13839, 5), int)))
    # Of all matrices over 0, 1, 2 and 6 exactly these are valid and pruned.
    small = []
    for bits in itertools.product((0, 1), repeat=6):
        edges = set(itertools.compress(itertools.combinations((0, 1, 2, 6), 2), bits))
        kept = {e for path in oracle.paths(edges) for e in itertools.pairwise(path)}
        if edges and kept == edges:
            small.append(int(wiring_code(cell_of(edges, [0] * 5).adjacency)))
    among = found.code[~found.present[:, 2:].any(1)]
    assert sorted(small) == among.tolist()


@few
@given(keys)
def test_samples_are_pruned_valid_and_mostly_large(key):
    drawn = SPACE.sample(key, 300)
    assert drawn.adjacency.shape == (300, 7, 7)
    assert drawn.adjacency.dtype == drawn.operation.dtype == np.int32
    assert_pruned(drawn)
    sizes = np.count_nonzero(drawn.operation, axis=1)
    assert np.mean(sizes == 5) == pytest.approx(1164699 / 1293208, abs=0.07)
    assert np.bincount(drawn.operation.ravel(), minlength=4)[1:].min() > 380  # of about 490


@few
@given(keys, st.sampled_from([0.0, 0.5, 1.0]))
def test_mutants_are_near_their_parents(key, rate):
    parents = Cells.of(SPACE, SPACE.sample(jax.random.key(1), 40)).archs
    mutants = NasBench101Space(rate).mutate(key, parents)
    assert_pruned(mutants)
    edges = np.abs(mutants.adjacency.sum((1, 2)) - parents.adjacency.sum((1, 2)))
    assert edges.max() <= 2
    kinds = np.arange(1, 4)
    old, new = (np.sum(x.operation[..., None] == kinds, axis=1) for x in (parents, mutants))
    changed = np.abs(old - new).sum(1)  # one vertex comes or goes: 1; other operation: 2
    assert changed.any()
    assert changed.max() <= (2 if rate == 0 else 10)
    names = [[fingerprint(cell) for cell in unstack(archs)] for archs in (parents, mutants)]
    assert sum(a == b for a, b in zip(*names, strict=True)) <= 6


def test_mutation_reaches_other_sizes_and_comes_back():
    cells = stack([SPACE.decode("0100|input,output")] * 30)
    sizes = []
    for step in range(30):
        cells = SPACE.mutate(jax.random.key(step), cells)
        sizes.append(np.count_nonzero(cells.operation, axis=1).mean())
    assert sizes[0] == 1  # nothing else is one step away
    assert sizes[-1] > 3.5


def test_a_new_vertex_may_stand_before_the_others():
    old = cell_of([(0, 1), (1, 6)], [3, 0, 0, 0, 0])
    mutants = NasBench101Space(0.0).mutate(jax.random.key(0), stack([old] * 200))
    two = [cell for cell in unstack(mutants) if np.count_nonzero(cell.operation) == 2]
    ways = {edge for cell in two for edge in oracle.edges_of(SPACE.canonical(cell))}
    assert (1, 2) in ways
    orders = {tuple(cell.operation[cell.operation > 0].tolist()) for cell in two}
    assert {(3, 1), (3, 2), (1, 3), (2, 3)} <= orders


@few
@given(keys)
def test_children_keep_what_their_parents_share(key):
    first, second = (SPACE.sample(jax.random.key(seed), 60) for seed in (1, 2))
    children = SPACE.crossover(key, first, second)
    assert_pruned(children)
    agreed = first.adjacency == second.adjacency
    np.testing.assert_array_equal(children.adjacency[agreed], first.adjacency[agreed])
    present = children.operation > 0
    inherited = (children.operation == first.operation) | (children.operation == second.operation)
    assert np.all(inherited[present])
    new = [
        not same(c, a) and not same(c, b)
        for c, a, b in zip(*map(unstack, (children, first, second)), strict=True)
    ]
    assert np.mean(new) > 0.7
    assert_same(SPACE.crossover(key, first, first), first)


@pytest.mark.parametrize("rate", [-0.1, 1.1, np.nan])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(UserError, match="must lie between 0 and 1"):
        NasBench101Space(rate)


# Vectors

# 0 -> 1 (conv3) -> 2 (pool) -> 6, 0 -> 2, 1 -> 6
EXAMPLE = stack([cell_of([(0, 1), (0, 2), (1, 2), (1, 6), (2, 6)], [1, 3, 0, 0, 0])])


def test_features_are_bits_and_one_hot_operations():
    on = np.flatnonzero(SPACE.features(EXAMPLE)[0])
    assert on.tolist() == [0, 1, 6, 10, 14, 21 + 1, 25 + 3, 29, 33, 37]


def test_paths_are_sequences_of_operations():
    # Of no operation 1 bit, of one 3, of two 9: (conv3), (pool) and (conv3, pool), 0 * 3 + 2.
    assert np.flatnonzero(SPACE.paths(EXAMPLE)).tolist() == [1 + 0, 1 + 2, 4 + 2]
    assert np.flatnonzero(SPACE.paths(stack([cell_of([(0, 6)], [0] * 5)]))).tolist() == [0]
    chain = cell_of([(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6)], [3] * 5)
    assert np.flatnonzero(SPACE.paths(stack([chain]))).tolist() == [363]


@given(valid)
def test_there_is_a_bit_for_each_sequence(cell):
    sequences = {
        tuple(int(cell.operation[v - 1]) for v in path[1:-1])
        for path in oracle.paths(oracle.edges_of(cell))
    }
    vector = SPACE.paths(stack([cell]))[0]
    expected = {
        sum(3**n for n in range(len(ops))) + int("0" + "".join(str(op - 1) for op in ops), 3)
        for ops in sequences
    }
    assert set(np.flatnonzero(vector).tolist()) == expected


def test_structure_counts_by_hand():
    vector = SPACE.structure(EXAMPLE)[0].tolist()
    assert vector[:6] == [1, 0, 1, 2, 5, 3]  # conv3, conv1, pool, vertices, edges, paths
    assert vector[6:10] == [0, 0, 0, 1]  # least on a path of each, and of all
    assert vector[10:14] == [1, 0, 1, 2]  # largest
    assert vector[14:19] == [1, 1, 0, 0, 0]  # one vertex at distance 1, one at 2
    edges = np.reshape(vector[19:], (4, 4))  # from input, conv3, conv1, pool to output, conv3, ...
    assert edges.tolist() == [[0, 1, 0, 1], [1, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]


@some
@given(valid, seeds)
def test_twins_have_one_structure(cell, seed):
    other = oracle.twin(cell, np.random.default_rng(seed))
    np.testing.assert_array_equal(*(SPACE.structure(stack([x])) for x in (cell, other)))


# Tokens


def test_tokens_are_bits_and_operations():
    tokens = SPACE.to_tokens(EXAMPLE)[0]
    bits = [2, 2, 1, 1, 1, 1, 2, 1, 1, 1, 2, 1, 1, 1, 2, 1, 1, 1, 1, 1, 1]
    assert tokens.tolist() == [*bits, 3, 5, 3, 3, 3]


@some
@given(st.tuples(*[st.integers(1, 2)] * 21), st.tuples(*[st.integers(3, 5)] * 5))
def test_any_legal_tokens_are_the_nearest_cell(bits, operations):
    tokens = np.array([[*bits, *operations]])
    cell = take(SPACE.from_tokens(tokens), 0)
    assert_pruned(cell)
    written = cell_of([], [op - 2 for op in operations])
    written.adjacency[np.triu_indices(7, 1)] = np.array(bits) - 1
    if is_valid(written):
        assert_same(cell, prune(written))
    else:
        distance = np.bitwise_count(wirings().code ^ wiring_code(written.adjacency))
        moved = wiring_code(cell.adjacency) ^ wiring_code(written.adjacency)
        assert np.bitwise_count(moved) == distance.min()
        present = cell.operation > 0
        np.testing.assert_array_equal(cell.operation[present], written.operation[present])
    again = SPACE.from_tokens(SPACE.to_tokens(stack([cell])))
    assert_same(take(again, 0), cell)


# The picture


@settings(max_examples=40)
@given(valid)
def test_lines_keep_clear_of_vertices_and_neighbours_of_each_other(cell):
    places = layout.layout(cell)
    pruned = prune(cell)
    ends = {(edge[0][0], edge[-1][0]) for edge in places.edges}
    assert ends == oracle.edges_of(pruned)
    for edge in places.edges:
        assert [places.level[item] for item in edge] == list(
            range(places.level[edge[0]], places.level[edge[-1]] + 1)
        )
    half = {1: layout.HALF_VERTEX, 3: layout.HALF_LANE}
    for level in set(places.level.values()):
        row = sorted(
            (places.x[item], half[len(item)]) for item in places.x if places.level[item] == level
        )
        for (left, one), (right, two) in itertools.pairwise(row):
            assert right - left >= one + two - 1e-6
    assert layout.HALF_VERTEX > drawing.WIDTH / 2
    assert places.x[0,] == 0


def test_a_chain_is_drawn_straight_and_planar_cells_do_not_cross():
    chain = cell_of([(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6)], [1, 2, 3, 1, 2])
    assert max(map(abs, layout.layout(chain).x.values())) < 1e-6
    star = cell_of(
        [(0, 1), (0, 2), (0, 3), (0, 4), (1, 6), (2, 6), (3, 6), (4, 6), (0, 6)], [1] * 4 + [0]
    )
    ladder = cell_of([(0, 1), (0, 2), (1, 4), (2, 3), (3, 6), (4, 6), (0, 6)], [1, 2, 3, 1, 0])
    for cell in (star, ladder):
        places = layout.layout(cell)
        steps = [pair for edge in places.edges for pair in itertools.pairwise(edge)]
        for (a, b), (c, d) in itertools.combinations(steps, 2):
            if places.level[a] == places.level[c]:
                assert (places.x[a] - places.x[c]) * (places.x[b] - places.x[d]) >= -1e-9


def test_a_diamond_is_drawn_symmetric():
    places = layout.layout(cell_of([(0, 1), (0, 2), (1, 6), (2, 6)], [1, 2, 0, 0, 0]))
    assert places.x[6,] == pytest.approx(0, abs=1e-6)
    assert sorted([places.x[1,], places.x[2,]]) == pytest.approx(
        [-layout.HALF_VERTEX, layout.HALF_VERTEX], abs=1e-4
    )


def test_the_picture_shows_the_pruned_cell():
    cell = cell_of([(0, 1), (0, 2), (1, 2), (1, 6), (2, 6), (0, 3)], [1, 3, 2, 0, 0])
    axes = SPACE.draw(cell, "A title").axes[0]
    words = [text.get_text() for text in axes.texts]
    assert sorted(words) == ["conv 3x3", "input", "output", "pool 3x3"]
    assert sum(isinstance(p, FancyBboxPatch) for p in axes.patches) == 4
    assert sum(isinstance(p, PathPatch) for p in axes.patches) == 5
    assert axes.get_title(loc="left") == "A title"


@pytest.mark.parametrize("wrong", [EXAMPLE, cell_of([], [0] * 5), cell_of([(1, 6)], [1] * 5)])
def test_what_is_no_single_valid_cell_is_not_drawn(wrong):
    with pytest.raises(UserError, match="cannot be drawn: give one valid cell"):
        SPACE.draw(wrong)

"""spaces.rnn_cell: the space by property, its canonical form against brute force."""

import inspect
import math

import jax
import numpy as np
import pytest
import rnn_cell_oracle as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from spd_jax.archs import Cells, stack, unstack
from spd_jax.errors import UserError
from spd_jax.motif import SearchSpace
from spd_jax.spaces.rnn_cell import PUBLISHED, VARIANTS, RnnCell, RnnCellSpace

SPACES = {variant: RnnCellSpace(variant) for variant in VARIANTS}
PREDECESSORS = range(1, 12)  # node i has i of them to choose from
COUNTS = {"nao": 22, "enas": 23, "enas_mean": 23}
BATCH = 6

variants = st.sampled_from(VARIANTS)
seeds = st.integers(0, 2**32 - 1)
keys = seeds.map(jax.random.key)
few = settings(max_examples=40)


def numbers(variant, kinds=4, reach=11):
    """Draw the numbers of a cell; few activations and low predecessors make equal subtrees."""
    pairs = [(st.integers(0, min(i, reach) - 1), st.integers(0, kinds - 1)) for i in PREDECESSORS]
    first = () if variant == "nao" else (st.integers(0, kinds - 1),)
    return st.tuples(*first, *(x for pair in pairs for x in pair))


def cells(kinds=4, reach=11):
    """Draw a space and one cell of it."""
    return variants.flatmap(
        lambda v: numbers(v, kinds, reach).map(
            lambda loci: (SPACES[v], SPACES[v].from_loci(np.array(loci)))
        )
    )


repetitive = st.one_of(cells(1, 3), cells(2, 2), cells(2), cells())
batches = variants.flatmap(
    lambda v: st.lists(numbers(v), min_size=BATCH, max_size=BATCH).map(
        lambda loci: (SPACES[v], SPACES[v].from_loci(np.array(loci)))
    )
)


def text_of(loci):
    return " ".join(map(str, loci))


def assert_same(cell, other):
    for field, expected in zip(cell, other, strict=True):
        np.testing.assert_array_equal(field, expected)


def assert_valid(space, archs):
    predecessor, activation = archs
    assert predecessor.dtype == activation.dtype == np.int32
    assert predecessor.shape[-1] == 11
    assert activation.shape == (*predecessor.shape[:-1], 12)
    assert predecessor.min() >= 0
    assert np.all(predecessor < np.arange(1, 12))
    assert activation.min() >= 0
    assert activation.max() <= 3
    if space.variant == "nao":
        assert np.all(activation[..., 0] == 0)


def test_the_space_has_the_methods_of_the_protocol():
    for name, method in inspect.getmembers(SearchSpace, inspect.isfunction):
        if not name.startswith("_"):
            expected = list(inspect.signature(method).parameters)
            assert list(inspect.signature(getattr(RnnCellSpace, name)).parameters) == expected


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_space_is_as_large_as_said(variant):
    size = math.prod(SPACES[variant].choices.tolist())
    assert size == math.factorial(11) * 4 ** (11 if variant == "nao" else 12)
    assert SPACES["nao"].name == "rnn_cell_nao"
    assert len({space.name for space in SPACES.values()}) == 3


def test_what_cannot_be_a_space_is_refused():
    with pytest.raises(UserError, match="use one of nao, enas, enas_mean"):
        RnnCellSpace("lstm")
    for rate in (-0.1, 1.1, math.nan):
        with pytest.raises(UserError, match=r"mutation_rate=\S+ must lie between 0 and 1"):
            RnnCellSpace("nao", rate)


# Text


@given(cells())
def test_a_cell_comes_back_from_its_text(drawn):
    space, cell = drawn
    back = space.decode(space.encode(cell))
    assert_same(back, cell)
    assert_valid(space, back)


@given(data=st.data(), variant=variants)
def test_any_legal_numbers_decode_and_print_back(data, variant):
    loci = data.draw(numbers(variant))
    cell = SPACES[variant].decode("  " + "\t ".join(map(str, loci)) + "\n")
    assert_valid(SPACES[variant], cell)
    assert SPACES[variant].encode(cell) == text_of(loci)
    pairs = loci if variant == "nao" else loci[1:]
    first = 0 if variant == "nao" else loci[0]
    assert tuple(cell.predecessor) == pairs[::2]
    assert tuple(cell.activation) == (first, *pairs[1::2])


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_cells_print_back(name):
    variant, text = PUBLISHED[name]
    cell = SPACES[variant].decode(text)
    assert SPACES[variant].encode(cell) == text
    for other in [v for v in VARIANTS if COUNTS[v] != COUNTS[variant]]:
        with pytest.raises(UserError, match=f"give {COUNTS[other]} numbers"):
            SPACES[other].decode(text)


DIGITS = ["\N{SUPERSCRIPT TWO}", "\N{ARABIC-INDIC DIGIT ONE}", "\N{FULLWIDTH DIGIT ONE}"]
WRONG_WORDS = ["x", "-1", "+1", "1.0", "1_0", "0x1", "1e0", "nan", "1,", "''", *DIGITS]
TOO_LARGE = ["16", "99", "100", "1" + "0" * 5000]


@given(data=st.data(), variant=variants)
def test_a_word_that_is_no_number_is_refused(data, variant):
    words = text_of(data.draw(numbers(variant))).split()
    words[data.draw(st.integers(0, len(words) - 1))] = data.draw(st.sampled_from(WRONG_WORDS))
    with pytest.raises(UserError, match=f"give {COUNTS[variant]} numbers"):
        SPACES[variant].decode(" ".join(words))


@given(data=st.data(), variant=variants)
def test_the_wrong_count_is_refused(data, variant):
    words = text_of(data.draw(numbers(variant))).split()
    count = data.draw(st.integers(0, 50).filter(lambda n: n != len(words)))
    with pytest.raises(UserError, match=f"give {COUNTS[variant]} numbers"):
        SPACES[variant].decode(" ".join((3 * words)[:count]))


@given(data=st.data(), variant=variants)
def test_a_number_that_its_place_does_not_allow_is_refused(data, variant):
    words = text_of(data.draw(numbers(variant))).split()
    place = data.draw(st.integers(0, len(words) - 1))
    count = int(SPACES[variant].choices[place])
    words[place] = data.draw(st.sampled_from([str(count), *TOO_LARGE]))
    with pytest.raises(UserError, match=rf"number {place + 1} must lie between 0 and {count - 1}$"):
        SPACES[variant].decode(" ".join(words))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("text", ["", " \n", "0", "0,0", "tanh"])
def test_short_nonsense_is_refused(text, variant):
    with pytest.raises(UserError, match=f"is no cell of variant {variant}"):
        SPACES[variant].decode(text)


# Tokens


def test_the_legal_tokens_of_nao():
    legal = SPACES["nao"].legal_tokens()
    assert legal.shape == (22, 16)
    assert legal.dtype == bool
    for i in PREDECESSORS:
        assert np.flatnonzero(legal[2 * i - 2]).tolist() == list(range(1, i + 1))
        assert np.flatnonzero(legal[2 * i - 1]).tolist() == [12, 13, 14, 15]


@pytest.mark.parametrize("variant", ["enas", "enas_mean"])
def test_the_other_variants_have_node_0s_activation_in_front(variant):
    legal = SPACES[variant].legal_tokens()
    assert np.flatnonzero(legal[0]).tolist() == [12, 13, 14, 15]
    np.testing.assert_array_equal(legal[1:], SPACES["nao"].legal_tokens())


@few
@given(data=st.data(), variant=variants)
def test_any_legal_tokens_are_a_cell(data, variant):
    space = SPACES[variant]
    legal = [np.flatnonzero(row).tolist() for row in space.legal_tokens()]
    tokens = data.draw(st.lists(st.tuples(*map(st.sampled_from, legal)), min_size=1, max_size=4))
    archs = space.from_tokens(np.array(tokens))
    assert_valid(space, archs)
    back = space.to_tokens(archs)
    assert back.dtype == np.int32
    np.testing.assert_array_equal(back, tokens)


@few
@given(batches)
def test_cells_come_back_from_loci_tokens_and_lists(drawn):
    space, archs = drawn
    assert np.all(np.take_along_axis(space.legal_tokens(), space.to_tokens(archs).T, axis=1))
    assert_same(space.from_tokens(space.to_tokens(archs)), archs)
    assert_same(space.from_loci(space.to_loci(archs)), archs)
    for cell, loci in zip(unstack(archs), space.to_loci(archs), strict=True):
        np.testing.assert_array_equal(space.to_loci(cell), loci)


# Sampling, mutation, crossover


def assert_uniform(values, count):
    """Refuse values whose chi-square is five standard deviations above its mean."""
    expected = len(values) / count
    counts = np.bincount(values, minlength=count)
    assert len(counts) == count
    freedom = count - 1
    assert np.sum((counts - expected) ** 2) / expected <= freedom + 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("variant", VARIANTS)
def test_samples_are_uniform(variant):
    space = SPACES[variant]
    archs = space.sample(jax.random.key(0), 4000)
    assert_valid(space, archs)
    loci = space.to_loci(archs)
    assert loci.shape == (4000, COUNTS[variant])
    for place, count in enumerate(space.choices.tolist()):
        assert_uniform(loci[:, place], count)
    assert_uniform(4 * loci[:, -2] + loci[:, -1], 44)  # loci are independent
    assert_uniform(11 * loci[:, -4] + loci[:, -2], 110)


@few
@given(key=keys, variant=variants)
def test_a_sample_depends_on_the_key_alone(key, variant):
    archs = SPACES[variant].sample(key, 8)
    assert_valid(SPACES[variant], archs)
    assert_same(RnnCellSpace(variant, 0.7).sample(key, 8), archs)
    other = SPACES[variant].sample(jax.random.fold_in(key, 1), 8)
    assert np.any(other.predecessor != archs.predecessor)


@few
@given(drawn=batches, key=keys, rate=st.floats(0, 1))
def test_mutants_are_cells(drawn, key, rate):
    space, archs = drawn
    mutants = RnnCellSpace(space.variant, rate).mutate(key, archs)
    assert len(mutants.predecessor) == BATCH
    assert_valid(space, mutants)


@few
@given(drawn=batches, key=keys)
def test_rate_0_changes_nothing_and_rate_1_all_that_can_change(drawn, key):
    space, archs = drawn
    assert_same(RnnCellSpace(space.variant, 0.0).mutate(key, archs), archs)
    mutants = RnnCellSpace(space.variant, 1.0).mutate(key, archs)
    changed = space.to_loci(mutants) != space.to_loci(archs)
    np.testing.assert_array_equal(changed, np.broadcast_to(space.choices > 1, changed.shape))


@pytest.mark.parametrize("variant", VARIANTS)
def test_mutations_are_as_frequent_as_said_and_uniform_over_the_other_values(variant):
    space = RnnCellSpace(variant, 0.3)
    loci = np.tile(space.choices // 2, (3000, 1))
    mutated = space.to_loci(space.mutate(jax.random.key(1), space.from_loci(loci)))
    changed = (mutated != loci)[:, space.choices > 1]
    assert np.abs(changed.mean(axis=0) - 0.3).max() < 5 * math.sqrt(0.3 * 0.7 / 3000)
    for place in np.flatnonzero(space.choices > 1):
        step = (mutated[:, place] - loci[:, place]) % space.choices[place]
        assert_uniform(step[step > 0] - 1, int(space.choices[place]) - 1)


@few
@given(drawn=batches, key=keys, seed=seeds)
def test_crossover_has_one_point(drawn, key, seed):
    space, first = drawn
    second = space.sample(jax.random.key(seed), BATCH)
    children = space.crossover(key, first, second)
    assert_valid(space, children)
    rows = [space.to_loci(archs).tolist() for archs in (first, second, children)]
    for left, right, child in zip(*rows, strict=True):
        assert child in [left[:cut] + right[cut:] for cut in range(1, len(left))]


def test_every_crossover_point_is_equally_likely():
    space = SPACES["nao"]
    parents = space.sample(jax.random.key(2), 4000)
    others = RnnCellSpace("nao", 1.0).mutate(jax.random.key(3), parents)  # differ from place 1 on
    children = space.to_loci(space.crossover(jax.random.key(4), parents, others))
    kept = np.sum((children == space.to_loci(parents))[:, 1:], axis=1)
    assert_uniform(kept, 21)


# The canonical form


@given(drawn=repetitive, seed=seeds)
def test_the_canonical_form_is_one_for_all_numberings(drawn, seed):
    space, cell = drawn
    canonical = space.canonical(cell)
    assert_valid(space, canonical)
    assert oracle.tree(canonical) == oracle.tree(cell)
    assert_same(space.canonical(canonical), canonical)
    other = oracle.renumbered(cell, np.random.default_rng(seed))
    assert oracle.tree(other) == oracle.tree(cell)  # or the oracle would be wrong
    assert_same(space.canonical(other), canonical)
    named = Cells.of(space, stack([cell, other]))
    assert set(named.names) == {space.encode(canonical)}
    structure = space.structure(stack([cell, other]))
    np.testing.assert_array_equal(structure[0], structure[1])


@given(drawn=repetitive, seed=seeds, changes=st.integers(1, 2))
def test_names_are_equal_exactly_for_equal_trees(drawn, seed, changes):
    space, cell = drawn
    rng = np.random.default_rng(seed)
    loci = space.to_loci(oracle.renumbered(cell, rng))
    for place in rng.integers(len(loci), size=changes):
        loci[place] = rng.integers(space.choices[place])
    other = space.from_loci(loci)
    equal = oracle.tree(cell) == oracle.tree(other)
    first, second = Cells.of(space, stack([cell, other])).names
    assert (first == second) == equal


def test_there_are_as_many_canonical_cells_as_rooted_trees():
    """Nodes 0..6 in all 720 numberings are the 48 rooted trees of 7 nodes (OEIS A000081)."""
    space, marked = SPACES["nao"], [x for _ in range(5) for x in (0, 3)]
    names = set()
    for index in np.ndindex(1, 2, 3, 4, 5, 6):
        loci = [x for predecessor in index for x in (predecessor, 0)] + marked
        names.add(space.encode(space.canonical(space.from_loci(np.array(loci)))))
    assert len(names) == 48


# Vectors for regressors


@few
@given(batches)
def test_features_are_one_hot_by_locus(drawn):
    space, drawn_archs = drawn
    canonical = Cells.of(space, drawn_archs).archs
    features = space.features(canonical)
    assert features.dtype == np.float64
    assert features.shape == (BATCH, space.choices.sum())
    places = np.split(features, np.cumsum(space.choices)[:-1], axis=1)
    assert all(np.all(np.sort(place, axis=1)[:, :-1] == 0) for place in places)
    values = np.stack([np.argmax(place, axis=1) for place in places], axis=1)
    np.testing.assert_array_equal(values, space.to_loci(canonical))
    np.testing.assert_array_equal(features.sum(axis=1), len(space.choices))


def test_structure_of_a_cell_counted_by_hand():
    # 0 tanh; 1, 2 relu and 3 identity read it; 4..11 are sigmoids in a chain below 3.
    text = "0 1 0 1 0 2 3 3 4 3 5 3 6 3 7 3 8 3 9 3 10 3"
    pairs = np.zeros((4, 4))
    pairs[0, 1], pairs[0, 2], pairs[2, 3], pairs[3, 3] = 2, 1, 1, 7
    expected = [
        *[1, 2, 1, 8],  # activations
        *[3, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0],  # depths 1..11
        *[0, 2, 0, 1],  # activations of what nobody reads: 1, 2 and 11
        *[1, 0, 0, 0],  # node 0
        *pairs.ravel(),
        *[(3 + sum(range(2, 10))) / 12, 9, 3, 3, 3],
    ]
    space = SPACES["nao"]
    structure = space.structure(stack([space.decode(text)]))
    assert structure.dtype == np.float64
    np.testing.assert_allclose(structure, [expected])


def test_a_batch_is_a_pytree_with_the_motif_axis_in_front():
    archs = SPACES["nao"].sample(jax.random.key(5), 3)
    assert [leaf.shape for leaf in jax.tree.leaves(archs)] == [(3, 11), (3, 12)]
    assert isinstance(jax.tree.map(lambda x: x[0], archs), RnnCell)

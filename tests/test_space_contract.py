"""What every space promises, checked for all of them: one test a promise.

`motif.SearchSpace`, and the abilities `Features`, `Structure`, `Paths` and `Tokens` where a
space has them.
"""

import inspect

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_fakes import spaces, twin

from spd_jax import archs as batches
from spd_jax import motif
from spd_jax.archs import Cells
from spd_jax.errors import UserError
from spd_jax.ledger import EvaluationKey, Ledger

SIZE = 6
keys = st.integers(0, 2**32 - 1).map(jax.random.key)
few = settings(max_examples=15)
SPACES = spaces()


def each(own=None):
    """Parametrise over the spaces, or over those with an ability."""
    found = [x for x in SPACES if own is None or getattr(x, own)]
    return pytest.mark.parametrize("own", found, ids=[x.space.name for x in found])


def assert_same(archs, expected):
    assert jax.tree.structure(archs) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, archs, expected)
    dtypes = [[np.asarray(x).dtype for x in jax.tree.leaves(own)] for own in (archs, expected)]
    assert dtypes[0] == dtypes[1]


def assert_inside(space, archs, size=SIZE):
    """Refuse a batch that is not made of the space's archs: each must come back from its text."""
    assert batches.count(archs) == size
    for arch in batches.unstack(archs):
        text = space.encode(arch)
        assert_same(space.decode(text), arch)
        assert space.encode(space.decode(text)) == text


def same_names(space, archs, others):
    return Cells.of(space, archs).names == Cells.of(space, others).names


PROTOCOLS = {
    "space": motif.SearchSpace,
    "features": motif.Features,
    "structure": motif.Structure,
    "paths": motif.Paths,
    "tokens": motif.Tokens,
}


@pytest.mark.parametrize("ability", PROTOCOLS)
def test_the_methods_take_what_the_protocol_says(ability):
    for own in SPACES:
        space = getattr(own, ability)
        for name, method in inspect.getmembers(PROTOCOLS[ability], inspect.isfunction):
            if space is not None and not name.startswith("_"):
                expected = list(inspect.signature(method).parameters)
                assert list(inspect.signature(getattr(type(space), name)).parameters) == expected


def test_every_space_has_a_name_of_its_own_that_ledgers_take(tmp_path):
    names = [own.space.name for own in SPACES]
    assert len(set(names)) == len(names)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        for own in SPACES:
            cell = Cells.of(own.space, own.space.sample(jax.random.key(0), 1)).names[0]
            assert own.space.name == own.space.name.strip() != ""
            assert ledger.get(EvaluationKey(own.space.name, cell, "task", 0, 1)) is None


@each()
def test_samples_are_inside_and_depend_on_the_key_alone(own):
    space = own.space

    @few
    @given(keys)
    def check(key):
        archs = space.sample(key, SIZE)
        assert_inside(space, archs)
        assert_same(space.sample(key, SIZE), archs)
        assert not same_names(space, space.sample(jax.random.fold_in(key, 1), SIZE), archs)

    check()


@each()
def test_mutants_are_inside_new_and_depend_on_the_key_alone(own):
    space = own.space
    archs = space.sample(jax.random.key(0), SIZE)

    @few
    @given(keys)
    def check(key):
        mutants = space.mutate(key, archs)
        assert_inside(space, mutants)
        assert_same(space.mutate(key, archs), mutants)
        assert not same_names(space, mutants, archs)

    check()


@each()
def test_children_are_inside_and_depend_on_the_key_alone(own):
    space = own.space
    first, second = (space.sample(jax.random.key(seed), SIZE) for seed in (0, 1))

    @few
    @given(keys)
    def check(key):
        children = space.crossover(key, first, second)
        assert_inside(space, children)
        assert_same(space.crossover(key, first, second), children)
        # Of a pair of equals nothing new is born, but for what rounding does to a mixture.
        for leaf, other in zip(
            jax.tree.leaves(space.crossover(key, first, first)),
            jax.tree.leaves(first),
            strict=True,
        ):
            np.testing.assert_allclose(leaf, other, rtol=1e-6)

    check()


@each()
def test_batches_from_the_host_and_from_the_device_are_treated_alike(own):
    space, key = own.space, jax.random.key(2)
    archs, others = (space.sample(jax.random.key(seed), SIZE) for seed in (0, 1))
    host, device = (
        [jax.tree.map(to, x) for x in (archs, others)] for to in (np.asarray, jax.numpy.asarray)
    )
    for one, two in (
        (space.mutate(key, host[0]), space.mutate(key, device[0])),
        (space.crossover(key, *host), space.crossover(key, *device)),
    ):
        assert same_names(space, one, two)


@each()
def test_the_canonical_form_is_one_for_all_spellings_and_inside(own):
    space = own.space

    @few
    @given(keys, st.integers(0, 2**32 - 1))
    def check(key, seed):
        rng = np.random.default_rng(seed)
        for arch in batches.unstack(space.sample(key, SIZE)):
            canonical = space.canonical(arch)
            assert_same(space.canonical(canonical), canonical)
            assert_same(space.decode(space.encode(canonical)), canonical)
            assert_same(space.canonical(twin(space, arch, rng)), canonical)

    check()


@each()
@pytest.mark.parametrize("text", ["", " ", "nothing", "nan", "-1", "1e999", "9" * 5000, "\ud800"])
def test_what_is_no_arch_is_refused(own, text):
    with pytest.raises(UserError):
        own.space.decode(text)


def canonical_and_twins(space):
    """Return a batch in canonical form, and the same motifs spelled otherwise."""
    cells = Cells.of(space, space.sample(jax.random.key(3), SIZE))
    rng = np.random.default_rng(0)
    twins = batches.stack([twin(space, arch, rng) for arch in batches.unstack(cells.archs)])
    return cells.archs, twins


def assert_vectors(vectors):
    """Refuse what is no `[M, F]` float64, or tells no motif from another."""
    assert isinstance(vectors, np.ndarray)
    assert vectors.dtype == np.float64
    assert vectors.ndim == 2
    assert len(vectors) == SIZE
    assert vectors.shape[1] >= 1
    assert np.isfinite(vectors).all()
    assert len(np.unique(vectors, axis=0)) > 1


@each("features")
def test_features_are_vectors_motif_by_motif(own):
    archs, _ = canonical_and_twins(own.space)
    vectors = own.features.features(archs)
    assert_vectors(vectors)
    assert len(np.unique(vectors, axis=0)) == SIZE  # different motifs have different vectors
    device = jax.tree.map(jax.numpy.asarray, archs)
    np.testing.assert_array_equal(own.features.features(device), vectors)
    for i in range(SIZE):
        one = own.features.features(batches.take(archs, [i]))
        np.testing.assert_array_equal(one, vectors[i : i + 1])


@each("structure")
def test_structure_is_counted_alike_in_every_spelling(own):
    archs, twins = canonical_and_twins(own.space)
    vectors = own.structure.structure(archs)
    assert_vectors(vectors)
    np.testing.assert_array_equal(own.structure.structure(twins), vectors)
    for i in range(SIZE):
        one = own.structure.structure(batches.take(archs, [i]))
        np.testing.assert_array_equal(one, vectors[i : i + 1])


@each("paths")
def test_paths_are_bits_motif_by_motif(own):
    archs, _ = canonical_and_twins(own.space)
    vectors = own.paths.paths(archs)
    assert_vectors(vectors)
    assert np.isin(vectors, (0, 1)).all()
    device = jax.tree.map(jax.numpy.asarray, archs)
    np.testing.assert_array_equal(own.paths.paths(device), vectors)
    for i in range(SIZE):
        one = own.paths.paths(batches.take(archs, [i]))
        np.testing.assert_array_equal(one, vectors[i : i + 1])


@each("tokens")
def test_tokens_are_legal_and_lead_back(own):
    archs, _ = canonical_and_twins(own.space)
    legal, tokens = own.tokens.legal_tokens(), own.tokens.to_tokens(archs)
    assert own.tokens.name == own.space.name
    assert legal.dtype == bool
    assert not legal[:, 0].any()  # token 0 starts a string
    assert legal.any(axis=1).all()
    assert tokens.dtype == np.int32
    assert tokens.shape == (SIZE, len(legal))
    assert legal[np.arange(len(legal)), tokens].all()
    assert_same(own.tokens.from_tokens(tokens), archs)


@each("tokens")
def test_any_legal_tokens_are_a_motif(own):
    legal = [np.flatnonzero(place).tolist() for place in own.tokens.legal_tokens()]

    @few
    @given(st.lists(st.tuples(*map(st.sampled_from, legal)), min_size=1, max_size=4))
    def check(tokens):
        archs = own.tokens.from_tokens(np.array(tokens))
        assert_inside(own.space, archs, len(tokens))
        # Where several strings are one motif, the string that is written leads back to it.
        assert_same(own.tokens.from_tokens(own.tokens.to_tokens(archs)), archs)

    check()

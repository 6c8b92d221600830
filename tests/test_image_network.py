"""spaces.image_network: layers against loops and JAX's own, and skeletons."""

import image_cells_oracle as oracle
import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from spd_jax.errors import UserError
from spd_jax.spaces import image_layers as layers
from spd_jax.spaces import image_network as images
from spd_jax.spaces.image_network import MOTIF_NETWORKS, Skeleton

SHAPES = [(2, 4, 4, 3), (3, 1, 2, 2), (1, 5, 3, 2), (2, 1, 1, 4)]  # C, H, W, N


def draw(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def as_ours(function):
    """Return a function of `[C, H, W, N]` for one of NHWC."""
    return lambda x, *rest: layers.from_nhwc(function(layers.to_nhwc(x), *rest))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_convolution_and_its_derivatives_are_those_of_jax(shape, size, norm):
    def expected(x, kernel):
        y = oracle.convolution(x, kernel)
        return oracle.batch_norm(y) if norm else y

    with jax.enable_x64(True):
        x, kernel = draw(shape), draw((size, 3, size, shape[0]), 1)
        bar = draw((3, *shape[1:]), 2)
        for function in (lambda x, k: layers.convolve(norm, x, k), plain(norm)):
            y, pull = jax.vjp(function, x, kernel)
            y_expected, pull_expected = jax.vjp(as_ours(expected), x, kernel)
            np.testing.assert_allclose(y, y_expected, atol=1e-12)
            for own, other in zip(pull(bar), pull_expected(bar), strict=True):
                np.testing.assert_allclose(own, other, atol=1e-9)


def plain(norm):
    """Return `convolve` without its own derivative."""
    return lambda x, kernel: layers.convolved(norm, x, kernel)[0]


def test_the_derivative_of_a_convolutions_derivative_is_that_of_differences():
    with jax.enable_x64(True):
        x, kernel, bar = draw((2, 3, 3, 2)), draw((3, 2, 3, 2), 1), draw((2, 3, 3, 2), 2)

        def gradient(x, kernel):
            return jax.grad(lambda *a: jnp.vdot(layers.convolve(True, *a), bar), (0, 1))(x, kernel)

        jax.test_util.check_grads(gradient, (x, kernel), order=1, eps=1e-5, atol=1e-5, rtol=1e-5)


def test_batch_norm_of_known_numbers():
    x = jnp.array([[0.0, 2.0], [5.0, 5.0]]).reshape(2, 1, 1, 2)
    np.testing.assert_allclose(layers.batch_norm(x)[0].ravel(), [-1, 1], atol=1e-5)
    np.testing.assert_array_equal(layers.batch_norm(x)[1].ravel(), [0, 0])


def test_constant_features_have_finite_derivatives():
    x = jnp.full((2, 2, 2, 3), 0.3)
    kernel = jnp.zeros((3, 2, 3, 2))

    def total(x, kernel):
        return jnp.sum(jnp.sin(1 + layers.convolve(True, layers.batch_norm(x), kernel)))

    first = jax.grad(total, (0, 1))(x, kernel)
    second = jax.jvp(lambda x: jax.grad(total, (0, 1))(x, kernel), (x,), (jnp.ones_like(x),))
    for leaf in jax.tree.leaves((first, second)):
        assert np.all(np.isfinite(leaf))


@pytest.mark.parametrize(
    ("pool", "combine"), [(layers.average_pool, np.mean), (layers.max_pool, np.max)]
)
@pytest.mark.parametrize("shape", SHAPES)
def test_pools_are_loops_over_pixels(shape, pool, combine):
    x = draw(shape).astype(np.float32)
    expected = oracle.pool(np.transpose(x, (3, 1, 2, 0)), combine)
    np.testing.assert_allclose(layers.to_nhwc(pool(x)), expected, rtol=1e-5, atol=1e-6)


def test_the_average_pools_derivative_is_jaxs():
    x, bar = draw((2, 3, 4, 2)).astype(np.float32), draw((2, 3, 4, 2), 1).astype(np.float32)
    expected = jax.vjp(layers.average_pool, x)[1](bar)[0]
    np.testing.assert_allclose(layers.average_pool_transpose(bar), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("halve", "combine"),
    [(layers.halve_by_max, np.max), (layers.halve_by_average, np.mean)],
)
@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (1, 5, 3, 2)])
def test_halving_takes_squares_and_drops_an_odd_edge(shape, halve, combine):
    x = draw(shape).astype(np.float32)
    expected = as_ours(lambda y: oracle.halved(y, combine))(x)
    np.testing.assert_allclose(halve(x), expected, rtol=1e-6)


def test_the_papers_motif_networks():
    sizes = {name: (s.stacks, s.cells, s.stem) for name, s in MOTIF_NETWORKS.items()}
    assert sizes == {"A": (1, 3, 32), "B": (3, 1, 16), "C": (1, 1, 16)}
    assert MOTIF_NETWORKS["B"].widths == (16, 32, 64)
    assert MOTIF_NETWORKS["B"].sizes == (16, 8, 4)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"stacks": 0}, "stacks"),
        ({"cells": 1.5}, "cells"),
        ({"stem": True}, "stem"),
        ({"reduction": "none"}, "reduction"),
        ({"stacks": 4}, "at least 8"),
        ({"stacks": 2, "image_size": 5, "reduction": "residual"}, "multiple of 2"),
    ],
)
def test_a_skeleton_that_cannot_be_built_is_refused(wrong, word):
    sizes = {"stacks": 1, "cells": 1, "stem": 2, "image_size": 4} | wrong
    with pytest.raises(UserError, match=word):
        images.check_skeleton(Skeleton(**sizes))

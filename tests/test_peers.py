"""All peers must solve the same problem, or their speeds would not compare."""

import dataclasses
import functools
import importlib

import jax
import numpy as np
import pytest

from experiments.benchmark.peers import naive_vmap
from experiments.benchmark.peers import problem as problems

PEERS = {
    "python_loop": "jax",
    "masked_supernetwork": "jax",
    "torch_eager": "torch",
    "autograd_batched": "autograd",
    "autograd_supernetwork": "autograd",
}


@pytest.fixture(params=PEERS)
def peer(request):
    """Return the peer's module; skip where its library is missing."""
    pytest.importorskip(PEERS[request.param])
    return importlib.import_module(f"experiments.benchmark.peers.{request.param}")


@functools.cache
def small_problem(dtype="float32", **settings):
    """Draw a problem in which no two axes and no two arrays agree."""
    problem = problems.make(
        0, 4, samples=5, inputs=6, hidden=2, outputs=3, **{"inner_steps": 5, **settings}
    )
    other = problems.make(1, samples=5, inputs=6, outputs=3)
    problem = dataclasses.replace(
        problem, valid_inputs=other.train_inputs, valid_labels=other.train_labels
    )
    arrays = {field.name: getattr(problem, field.name) for field in dataclasses.fields(problem)}
    return dataclasses.replace(
        problem,
        weights=tuple(w.astype(dtype) for w in problem.weights),
        **{name: a.astype(dtype) for name, a in arrays.items() if isinstance(a, np.ndarray)},
    )


def test_inner_losses_agree(peer):
    problem = small_problem()
    losses = peer.inner_losses(problem)
    assert isinstance(losses, np.ndarray)
    assert losses.dtype == np.float32
    expected = naive_vmap.inner_losses(problem)
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-5)


def test_outer_steps_agree(peer):
    problem = small_problem("float64")
    with jax.enable_x64(True):
        step, expected = peer.make_outer_step(problem), naive_vmap.make_outer_step(problem)
        for _ in range(3):
            np.testing.assert_allclose(step(), expected(), rtol=1e-9)


def test_outer_steps_agree_in_single_precision(peer):
    problem = small_problem()
    step, expected = peer.make_outer_step(problem), naive_vmap.make_outer_step(problem)
    for _ in range(3):
        np.testing.assert_allclose(step(), expected(), rtol=1e-4)


def test_outer_step_leaves_the_problem_alone(peer):
    problem = small_problem()
    before = problem.data
    first, second = peer.make_outer_step(problem), peer.make_outer_step(problem)
    assert first() != first()
    np.testing.assert_array_equal(problem.data, before)
    assert second() == peer.make_outer_step(problem)()


def test_outer_loss_falls():
    step = naive_vmap.make_outer_step(small_problem())
    losses = [step() for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]


def test_untrained_losses_by_hand():
    problem = small_problem(inner_steps=0)
    w0, b0, w1, b1, w2, b2 = problem.weights

    def loss(slope):
        hidden = 1 / (1 + np.exp(-slope * (problem.valid_inputs @ w0 + b0)))
        hidden = 1 / (1 + np.exp(-slope * (hidden @ w1 + b1)))
        chance = 1 / (1 + np.exp(-(hidden @ w2 + b2)))
        return -np.log(np.where(problem.valid_labels, chance, 1 - chance)).mean()

    expected = [loss(slope) for slope in problem.slopes]
    np.testing.assert_allclose(naive_vmap.inner_losses(problem), expected, rtol=1e-5)


def test_outer_loss_by_hand():
    ground_truth, data = np.array([1.0, 2.0, 3.0]), np.array([[[3.0]], [[4.0]]])
    agreeing, opposed = 5 - 2 * ground_truth, 5 + 2 * ground_truth
    assert problems.outer_loss(agreeing, ground_truth, data, 0.1) == pytest.approx(2.5)
    assert problems.outer_loss(opposed, ground_truth, data, 0.0) == pytest.approx(4.0)


def test_supernetwork_has_one_block_per_motif():
    problem = small_problem()
    weights, masks, slopes = problems.supernetwork(problem)
    assert [w.shape for w in weights] == [(6, 8), (8,), (8, 8), (8,), (8, 12), (12,)]
    np.testing.assert_array_equal(slopes.reshape(4, 2), np.stack([problem.slopes] * 2, axis=1))
    np.testing.assert_array_equal(masks[1][2:4, 3:6], 1)
    assert masks[1].sum() == 4 * 2 * 3
    ones = [np.ones_like(w) for w in weights]
    np.testing.assert_array_equal(problems.apply_masks(ones, masks)[2], masks[0])
    np.testing.assert_array_equal(weights[4][2:4, 3:6], problem.weights[4])

"""Peer: the HIPS autograd package, batched over motifs; all weights in one vector.

Autograd's cost is per traced operation, whatever its size. So Adam works on one vector: on six
arrays it would double the time of an outer step.
"""

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import autograd.numpy as np
import numpy
from autograd import grad, value_and_grad
from autograd.scipy.special import expit

from experiments.benchmark.peers.problem import ADAM, Problem, outer_loss


def _adam(weights: Any, gradient: Any, moments: tuple, step: int, learning_rate: float) -> tuple:
    """Return weights and moments after one step of Adam."""
    b1, b2, eps, eps_root = ADAM.values()
    mu = b1 * moments[0] + (1 - b1) * gradient
    nu = b2 * moments[1] + (1 - b2) * (gradient * gradient)
    root = np.sqrt(nu / (1 - b2**step) + eps_root) + eps
    return weights - learning_rate / (1 - b1**step) * mu / root, (mu, nu)


def network(weights: Sequence, slopes: numpy.ndarray, inputs: Any) -> Any:
    """Return the logits of one network [N, C] or of many [M, N, C]."""
    w0, b0, w1, b1, w2, b2 = weights
    hidden = expit(slopes * (np.matmul(inputs, w0) + b0))
    hidden = expit(slopes * (np.matmul(hidden, w1) + b1))
    return np.matmul(hidden, w2) + b2


def cross_entropies(logits: Any, labels: numpy.ndarray) -> Any:
    """Return the binary cross-entropy of each sample and output, same shape as `logits`."""
    return np.logaddexp(numpy.float32(0), logits) - labels * logits


def train(loss: Callable, weights: Sequence[numpy.ndarray], problem: Problem) -> list:
    """Return the weights after `inner_steps` steps of Adam on `loss(weights) + L2`."""
    starts = numpy.cumsum([0] + [w.size for w in weights])

    def unflatten(flat: Any) -> list:
        pieces = zip(starts, starts[1:], weights, strict=False)
        return [np.reshape(flat[start:end], like.shape) for start, end, like in pieces]

    gradient = grad(lambda flat: loss(unflatten(flat)) + problem.inner_l2 * np.sum(flat * flat))
    flat = numpy.concatenate([w.ravel() for w in weights])
    moments = numpy.zeros_like(flat), numpy.zeros_like(flat)
    for step in range(1, problem.inner_steps + 1):
        rate = problem.inner_learning_rate
        flat, moments = _adam(flat, gradient(flat), moments, step, rate)
    return unflatten(flat)


def _losses(problem: Problem, data: Any) -> Any:
    train_inputs, valid_inputs = data[0], data[1]
    slopes = problem.slopes[:, None, None]
    weights = [numpy.tile(w.reshape(-1, w.shape[-1]), (len(slopes), 1, 1)) for w in problem.weights]

    def total_loss(weights: Sequence) -> Any:
        logits = network(weights, slopes, train_inputs)
        return np.sum(cross_entropies(logits, problem.train_labels)) / problem.train_labels.size

    logits = network(train(total_loss, weights, problem), slopes, valid_inputs)
    return np.mean(cross_entropies(logits, problem.valid_labels), axis=(1, 2))


def inner_losses(problem: Problem) -> numpy.ndarray:
    """Return the validation loss of each motif, [M]."""
    return _losses(problem, problem.data)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Spare a search for cycles, of which the traced graph has none: about 40 % of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def make_outer_step(problem: Problem, losses: Callable = _losses) -> Callable[[], float]:
    """Return a callable that takes one outer step and returns the loss before it.

    Args:
        problem: the dish.
        losses: maps (problem, data [2, N, D]) to validation losses, [M].
    """
    data, count = problem.data, 0
    moments = numpy.zeros_like(data), numpy.zeros_like(data)

    @value_and_grad
    def loss_and_gradient(data: Any) -> Any:
        return outer_loss(losses(problem, data), problem.ground_truth, data, problem.outer_l2)

    def step() -> float:
        nonlocal data, moments, count
        count += 1
        with _no_garbage_collection():
            loss, gradient = loss_and_gradient(data)
        data, moments = _adam(data, gradient, moments, count, problem.outer_learning_rate)
        return float(loss)

    return step

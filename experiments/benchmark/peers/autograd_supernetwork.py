"""Peer: the HIPS autograd package, all motif-networks as one masked super-network.

The method of the paper's released program (Rawal et al., arXiv A.2.2).
"""

from collections.abc import Callable, Sequence
from typing import Any

import autograd.numpy as np
import numpy

from experiments.benchmark.peers import autograd_batched as batched
from experiments.benchmark.peers.problem import Problem, apply_masks, supernetwork


def _losses(problem: Problem, data: Any) -> Any:
    train_inputs, valid_inputs = data[0], data[1]
    weights, masks, slopes = supernetwork(problem)
    motifs = len(problem.slopes)

    def cross_entropies(weights: Sequence, inputs: Any, labels: numpy.ndarray) -> Any:
        logits = batched.network(apply_masks(weights, masks), slopes, inputs)
        return batched.cross_entropies(logits, numpy.tile(labels, motifs))

    def total_loss(weights: Sequence) -> Any:
        terms = cross_entropies(weights, train_inputs, problem.train_labels)
        return np.sum(terms) / problem.train_labels.size

    weights = batched.train(total_loss, weights, problem)
    terms = cross_entropies(weights, valid_inputs, problem.valid_labels)
    return np.mean(np.reshape(terms, (len(terms), motifs, -1)), axis=(0, 2))


def inner_losses(problem: Problem) -> numpy.ndarray:
    """Return the validation loss of each motif, [M]."""
    return _losses(problem, problem.data)


def make_outer_step(problem: Problem) -> Callable[[], float]:
    """Return a callable that takes one outer step and returns the loss before it."""
    return batched.make_outer_step(problem, _losses)

"""The sigmoid-slope dish as plain NumPy arrays, and what all peers share.

Every peer in this folder solves the same `Problem` and offers the same two functions:

* `inner_losses(problem)`: train all motif-networks, return their validation losses, NumPy, [M].
* `make_outer_step(problem)`: return a callable without arguments. Each call performs one whole
  outer step on its own copy of the synthetic data and returns the outer loss before that step.

A motif-network is `sigmoid(c z)`, `sigmoid(c z)`, linear, where c is the motif's slope. The inner
loss is the mean binary cross-entropy with logits plus `inner_l2 * sum(weights**2)`; the outer loss
is `outer_loss` below. Both are minimised by Adam with the constants of `ADAM`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

ADAM = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "eps_root": 1e-16}


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """One dish: motifs, their ground truth, synthetic data and settings; all arrays float32.

    Attributes:
        slopes: the motifs, [M].
        ground_truth: score of each motif, higher is better, [M].
        weights: w0 [D, H], b0 [H], w1 [H, H], b1 [H], w2 [H, C], b2 [C]; the same for all motifs.
        train_inputs: [N, D].
        train_labels: 0 or 1, [N, C].
        valid_inputs: [N, D].
        valid_labels: 0 or 1, [N, C].
    """

    slopes: np.ndarray
    ground_truth: np.ndarray
    weights: tuple[np.ndarray, ...]
    train_inputs: np.ndarray
    train_labels: np.ndarray
    valid_inputs: np.ndarray
    valid_labels: np.ndarray
    inner_steps: int = 250
    inner_learning_rate: float = 0.01
    inner_l2: float = 1e-5
    outer_learning_rate: float = 0.05
    outer_l2: float = 1e-5

    @property
    def data(self) -> np.ndarray:
        """What the outer loop learns: train inputs and valid inputs, [2, N, D]."""
        return np.stack((self.train_inputs, self.valid_inputs))


def make(
    seed: int,
    motifs: int = 18,
    *,
    samples: int = 10,
    inputs: int = 10,
    hidden: int = 1,
    outputs: int = 10,
    **settings: Any,
) -> Problem:
    """Draw a problem: weights and inputs from N(0, 1), labels by coin, valid data = train data.

    Args:
        seed: of NumPy's generator.
        motifs: M, the number of slopes, evenly spaced over those of the released program.
        samples: N, the number of synthetic samples.
        inputs: D, the width of a sample.
        hidden: H, the width of both hidden layers.
        outputs: C, the number of labels of a sample.
        **settings: the scalar fields of `Problem`.
    """
    draw = np.random.default_rng(seed)
    shapes = (inputs, hidden), (hidden,), (hidden, hidden), (hidden,), (hidden, outputs), (outputs,)
    slopes = np.linspace(0.374, 1.525, motifs, dtype=np.float32)
    synthetic = draw.standard_normal((samples, inputs), dtype=np.float32)
    labels = draw.integers(2, size=(samples, outputs)).astype(np.float32)
    return Problem(
        slopes=slopes,
        ground_truth=-slopes,
        weights=tuple(draw.standard_normal(shape, dtype=np.float32) for shape in shapes),
        train_inputs=synthetic,
        train_labels=labels,
        valid_inputs=synthetic.copy(),
        valid_labels=labels.copy(),
        **settings,
    )


def outer_loss(losses: Any, ground_truth: Any, data: Any, l2: float) -> Any:
    """Return how far the z-scores lie apart, plus L2; the arrays may be of any library.

    Args:
        losses: validation losses, [M].
        ground_truth: higher is better, [M].
        data: synthetic inputs, [2, N, D].
        l2: weight of the penalty.
    """
    distance = _z_score(-losses) - _z_score(ground_truth)
    return (distance * distance).mean() + l2 * (data * data).sum()


def _z_score(values: Any) -> Any:
    centred = values - values.mean()
    return centred / (centred * centred).mean() ** 0.5


def supernetwork(problem: Problem) -> tuple[Sequence, Sequence, np.ndarray]:
    """Combine all motif-networks into one network of M-fold width (Rawal et al., arXiv A.2.2).

    Returns:
        weights: w0 [D, M H], b0 [M H], w1 [M H, M H], b1 [M H], w2 [M H, M C], b2 [M C].
        masks: of w1 and of w2, 1 inside a motif-network and 0 between two of them.
        slopes: of each hidden unit, [M H].
    """
    motifs = len(problem.slopes)
    row, diagonal = np.ones((1, motifs), np.float32), np.eye(motifs, dtype=np.float32)
    w0, b0, w1, b1, w2, b2 = problem.weights
    weights = (
        *(np.kron(row, w0), np.kron(row[0], b0)),
        *(np.kron(diagonal, w1), np.kron(row[0], b1)),
        *(np.kron(diagonal, w2), np.kron(row[0], b2)),
    )
    masks = np.kron(diagonal, np.ones_like(w1)), np.kron(diagonal, np.ones_like(w2))
    return weights, masks, np.repeat(problem.slopes, b0.size)


def apply_masks(weights: Any, masks: Sequence) -> tuple:
    """Return the weights of `supernetwork` with every connection between motif-networks cut."""
    w0, b0, w1, b1, w2, b2 = weights
    return w0, b0, w1 * masks[0], b1, w2 * masks[1], b2

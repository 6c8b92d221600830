"""Peer: PyTorch, eager, batched over motifs; all weights of a motif in one row of one tensor.

One tensor instead of six keeps Adam at a handful of kernels per inner step.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from experiments.benchmark.peers.problem import ADAM, Problem, outer_loss

torch.set_num_threads(1)  # The tensors are tiny: waking a second thread costs more than it brings.
if torch.cuda.is_available():  # Both libraries are timed on the accelerator, where there is one.
    torch.set_default_device("cuda")


def adam(
    weights: Tensor, gradient: Tensor, moments: tuple, step: int, learning_rate: float
) -> tuple[Tensor, tuple]:
    """Return weights and moments after one step of Adam."""
    b1, b2, eps, eps_root = ADAM.values()
    mu = torch.lerp(moments[0], gradient, 1 - b1)
    nu = torch.addcmul(b2 * moments[1], gradient, gradient, value=1 - b2)
    root = (nu / (1 - b2**step) + eps_root).sqrt() + eps
    return torch.addcdiv(weights, mu, root, value=-learning_rate / (1 - b1**step)), (mu, nu)


def _network(flat: Tensor, inputs: Tensor, slopes: Tensor, shapes: list[torch.Size]) -> Tensor:
    """Return all motif-networks' logits, [M, N, C]; `flat` is [M, P]."""
    pieces = flat.split([shape.numel() for shape in shapes], dim=1)
    pieces = [piece.view(-1, *shape) for piece, shape in zip(pieces, shapes, strict=True)]
    w0, b0, w1, b1, w2, b2 = pieces
    inputs = inputs.expand(len(flat), -1, -1)
    hidden = torch.sigmoid(slopes * torch.baddbmm(b0, inputs, w0))
    hidden = torch.sigmoid(slopes * torch.baddbmm(b1, hidden, w1))
    return torch.baddbmm(b2, hidden, w2)


def _losses(problem: Problem, data: Tensor, differentiable: bool) -> Tensor:
    """Return validation losses [M]; without `differentiable` no graph outlives an inner step."""
    slopes = torch.tensor(problem.slopes)[:, None, None]
    train_labels, valid_labels = map(torch.tensor, (problem.train_labels, problem.valid_labels))
    weights = [torch.tensor(w).reshape(-1, w.shape[-1]) for w in problem.weights]
    shapes = [w.shape for w in weights]

    def cross_entropies(flat: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        logits = _network(flat, inputs, slopes, shapes)
        return functional.softplus(logits) - labels * logits

    flat = torch.cat([w.flatten() for w in weights]).repeat(len(slopes), 1).requires_grad_()
    moments = torch.zeros_like(flat), torch.zeros_like(flat)
    for step in range(1, problem.inner_steps + 1):
        loss = cross_entropies(flat, data[0], train_labels).sum() / train_labels.numel()
        loss = loss + problem.inner_l2 * (flat * flat).sum()
        (gradient,) = torch.autograd.grad(loss, flat, create_graph=differentiable)
        flat, moments = adam(flat, gradient, moments, step, problem.inner_learning_rate)
        if not differentiable:
            flat = flat.detach().requires_grad_()
    return cross_entropies(flat, data[1], valid_labels).mean((1, 2))


def inner_losses(problem: Problem) -> np.ndarray:
    """Return the validation loss of each motif, [M]."""
    losses = _losses(problem, torch.tensor(problem.data), differentiable=False)
    return losses.detach().cpu().numpy()


def make_outer_step(problem: Problem) -> Callable[[], float]:
    """Return a callable that takes one outer step and returns the loss before it."""
    ground_truth = torch.tensor(problem.ground_truth)
    data = torch.tensor(problem.data)
    moments = torch.zeros_like(data), torch.zeros_like(data)
    count = 0

    def step() -> float:
        nonlocal data, moments, count
        count += 1
        data.requires_grad_()
        losses = _losses(problem, data, differentiable=True)
        loss = outer_loss(losses, ground_truth, data, problem.outer_l2)
        (gradient,) = torch.autograd.grad(loss, data)
        data, moments = adam(data.detach(), gradient, moments, count, problem.outer_learning_rate)
        return loss.item()

    return step

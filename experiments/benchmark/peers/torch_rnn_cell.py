"""Peer: PyTorch, eager, batched over motifs; all weights of a motif in one row of one tensor.

A node gathers its source with one `index_select` over all earlier nodes of all motifs, and all four
activations are one formula, `a tanh(b z) + c + d z + e relu(z)`: few kernels for each node.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from experiments.benchmark.peers.problem import outer_loss
from experiments.benchmark.peers.rnn_cell_problem import Problem
from experiments.benchmark.peers.torch_eager import adam
from spd_jax.spaces.rnn_cell import NODES

# Rows (a, b, c, d, e) for tanh, relu, identity, sigmoid.
_COEFFICIENTS = torch.tensor(
    [[1, 1, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 1, 0], [0.5, 0.5, 0.5, 0, 0]]
)


def _gated(state: Tensor, gate_and_value: Tensor, coefficients: Tensor) -> Tensor:
    """Return a node's states, `[M, N, H]`; `coefficients` is `[5, M, 1, 1]`."""
    a, b, c, d, e = coefficients
    gate, value = gate_and_value.chunk(2, dim=-1)
    result = torch.addcmul(torch.addcmul(c, a, torch.tanh(b * value)), d, value)
    result = torch.addcmul(result, e, torch.relu(value))
    return torch.lerp(state, result, torch.sigmoid(gate))


class Networks:
    """All motif-networks of a problem."""

    def __init__(self, problem: Problem) -> None:
        """Put cells and weights into tensors."""
        predecessor, activation = (torch.tensor(field) for field in problem.cells)
        count = len(predecessor)
        # Row m of node p lies at p M + m when nodes [M, ...] lie behind one another.
        self.sources = (count * predecessor.T + torch.arange(count)).long()  # [11, M]
        self.coefficients = _COEFFICIENTS[activation.T.long()].mT[..., None, None]
        self.shapes = [weight.shape for weight in problem.weights]
        flat = np.concatenate([weight.ravel() for weight in problem.weights])
        self.start = torch.tensor(flat).repeat(count, 1)  # [M, P]

    def logits(self, flat: Tensor, inputs: Tensor) -> Tensor:
        """Return all networks' logits, `[M, N, L, C]`, for weights `[M, P]`, inputs `[N, L, D]`."""
        pieces = flat.split([int(np.prod(shape)) for shape in self.shapes], dim=1)
        pieces = [p.view(-1, *shape) for p, shape in zip(pieces, self.shapes, strict=True)]
        from_input, from_state, nodes_weight, readout, bias = pieces
        projected = torch.einsum("mgd,nld->lmng", from_input, inputs)
        transposed, nodes_weight = from_state.mT, nodes_weight.mT.unbind(1)
        state = flat.new_zeros(len(flat), len(inputs), from_state.shape[2])
        states = []
        for now in projected:
            first = torch.baddbmm(now, state, transposed)
            nodes = [_gated(state, first, self.coefficients[0])]
            for index in range(NODES - 1):
                source = torch.cat(nodes).index_select(0, self.sources[index])
                mixed = torch.bmm(source, nodes_weight[index])
                nodes.append(_gated(source, mixed, self.coefficients[index + 1]))
            state = torch.stack(nodes[1:]).mean(0)
            states.append(state)
        return torch.einsum("mch,lmnh->mnlc", readout, torch.stack(states)) + bias[:, None, None]


def make_outer_gradient(problem: Problem) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """Return a callable: validation losses `[M]`, and the outer gradient `[2, N, L, D]`."""
    networks, config = Networks(problem), problem.config
    ground_truth = torch.tensor(problem.ground_truth)
    train_labels, valid_labels = torch.tensor(problem.labels)

    def losses(flat: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        logits = networks.logits(flat, inputs)
        return (functional.softplus(logits) - labels * logits).mean((1, 2, 3))

    def outer_gradient() -> tuple[np.ndarray, np.ndarray]:
        data = torch.tensor(problem.data, requires_grad=True)
        flat = networks.start.clone().requires_grad_()
        moments = torch.zeros_like(flat), torch.zeros_like(flat)
        for step in range(1, config.inner_steps + 1):
            loss = losses(flat, data[0], train_labels).sum() + config.inner_l2 * (flat * flat).sum()
            (gradient,) = torch.autograd.grad(loss, flat, create_graph=True)
            flat, moments = adam(flat, gradient, moments, step, config.inner_learning_rate)
        found = losses(flat, data[1], valid_labels)
        loss = outer_loss(found, ground_truth, data, config.outer_l2)
        (gradient,) = torch.autograd.grad(loss, data)
        return found.detach().cpu().numpy(), gradient.cpu().numpy()

    return outer_gradient

"""Peer: the image networks of forward search in PyTorch, eager, as one would write them there."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from spd_jax.forward_search.arch import Arch
from spd_jax.forward_search.image_net import ImageNet


def _as_torch(path: str, array: np.ndarray) -> Tensor:
    """Return a weight in PyTorch's own layout."""
    kind = path.rpartition("/")[2]
    if kind == "depthwise":
        array = array.transpose(2, 0, 1)[:, None]
    elif kind == "pointwise" or (kind in ("kernel", "merge") and array.ndim == 2):
        array = array.T[..., None, None]
    elif kind == "kernel":
        array = array.transpose(3, 2, 0, 1)
    return torch.tensor(np.ascontiguousarray(array), requires_grad=True)


def _as_numpy(gradient: Tensor) -> np.ndarray:
    """Return a gradient in the layout of `spd_jax`; a view, which takes no time."""
    array = gradient.numpy()
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


class Network:
    """One network, its weights, and what it computes of a batch of images `[N, C, H, W]`."""

    def __init__(
        self, net: ImageNet, arch: Arch, slots: tuple[str, ...], weights: Mapping[str, np.ndarray]
    ) -> None:
        """Take weights by the paths of `spd_jax.forward_search`."""
        self.net, self.arch, self.slots = net, arch, slots
        self.weights = {path: _as_torch(path, array) for path, array in weights.items()}

    def logits(self, images: Tensor) -> Tensor:
        """Return logits `[N, classes]`, normalised by the batch."""
        x = self._convolve(images, self.weights["stem/kernel"], self.net.stem_stride)
        before = previous = self._normalise("stem", x)
        width = self.net.filters
        for place, kind in enumerate(self.arch.kinds):
            width *= 2 if kind == "reduction" else 1
            before, previous = previous, self._cell(place, before, previous, width)
        x = functional.relu(self._normalise("head/in", previous))
        x = functional.relu(self._normalise("head/out", self._project("head/project", x)))
        return x.mean((2, 3)) @ self.weights["head/dense"] + self.weights["head/bias"]

    def _cell(self, place: int, before: Tensor, previous: Tensor, width: int) -> Tensor:
        path, slot = f"cell{place}", self.arch.slot(place)
        stride = 2 if self.arch.kinds[place] == "reduction" else 1
        inputs = [
            self._fit(f"{path}/input{number}", x, previous, width)
            for number, x in enumerate((before, previous))
            if number or self._needs_before(slot)
        ]
        inputs = [previous, *inputs][-2:]  # input 0 where nothing takes it
        body = self._op(f"{path}/body", "sep3", inputs[1], stride)
        kept = inputs[1]
        if stride == 2:
            kept = self._normalise(f"{path}/kept", self._project(f"{path}/kept", kept, 2))
        x = body + kept
        for k, learner in enumerate(self.arch.learners(slot)):
            outputs = [
                self._op(f"{path}/learner{k}/{source}:{op}", op, inputs[source],
                         stride if source < 2 else 1)
                for source, op in learner
            ]  # fmt: skip
            merged = functional.relu(torch.cat(outputs, 1))
            merge = f"{path}/learner{k}/merge"
            inputs.append(self._normalise(merge, self._project(merge, merged)))
            x = x + self.weights[f"{path}/learner{k}/eta"] * inputs[-1]
        return self._weak(path, slot, stride, inputs, x) if slot in self.slots else x

    def _needs_before(self, slot: str) -> bool:
        taken = {edge.input for learner in self.arch.learners(slot) for edge in learner}
        return 0 in taken or slot in self.slots

    def _weak(self, path: str, slot: str, stride: int, inputs: list[Tensor], x: Tensor) -> Tensor:
        """Add candidates behind a stop-forward."""
        k, alpha = len(self.arch.learners(slot)), self.weights[f"alpha/{slot}"]
        x_c = torch.zeros_like(x)
        for e, (source, op) in enumerate(self.arch.candidates(slot)):
            own = f"{path}/learner{k}/{source}:{op}"
            x_c = x_c + alpha[e] * self._op(
                own, op, inputs[source].detach(), stride if source < 2 else 1
            )
        return x + x_c - x_c.detach()

    def _fit(self, path: str, x: Tensor, previous: Tensor, width: int) -> Tensor:
        larger = x.shape[2] > previous.shape[2]
        if x.shape[1] == width and not larger:
            return x
        x = self._project(path, functional.relu(x), 2 if larger else 1)
        return self._normalise(path, x)

    def _op(self, path: str, op: str, x: Tensor, stride: int) -> Tensor:
        if op.startswith("sep"):
            half = self._normalise(f"{path}/first", self._separable(f"{path}/first", x, stride))
            x = self._separable(f"{path}/second", half, 1)
        elif op.startswith("dil"):
            x = self._separable(f"{path}/first", x, stride, dilation=2)
        elif op == "identity":
            x = x if stride == 1 else self._project(f"{path}/smaller", x, stride)
        else:
            x = _pooled(op, x, stride)
        return self._normalise(f"{path}/last", x)

    def _separable(self, path: str, x: Tensor, stride: int, dilation: int = 1) -> Tensor:
        kernel = self.weights[f"{path}/depthwise"]
        x = self._convolve(functional.relu(x), kernel, stride, dilation, groups=len(kernel))
        return functional.conv2d(x, self.weights[f"{path}/pointwise"])

    def _convolve(
        self, x: Tensor, kernel: Tensor, stride: int, dilation: int = 1, groups: int = 1
    ) -> Tensor:
        reach = dilation * (kernel.shape[-1] - 1)
        options = {"stride": stride, "dilation": dilation, "groups": groups}
        if stride == 1:
            return functional.conv2d(x, kernel, padding=reach // 2, **options)
        low = (reach - 1) // 2  # of an even length, as XLA pads it
        high = reach - 1 - low
        return functional.conv2d(functional.pad(x, (low, high, low, high)), kernel, **options)

    def _project(self, path: str, x: Tensor, stride: int = 1) -> Tensor:
        return functional.conv2d(x, self.weights[f"{path}/kernel"], stride=stride)

    def _normalise(self, path: str, x: Tensor) -> Tensor:
        scale, offset = (self.weights.get(f"{path}/{name}") for name in ("scale", "offset"))
        return functional.batch_norm(x, None, None, scale, offset, training=True, eps=1e-5)


def _pooled(op: str, x: Tensor, stride: int) -> Tensor:
    options: dict[str, Any] = {"padding": 1} if stride == 1 else {"padding": 0, "ceil_mode": True}
    if op == "max3":
        return functional.max_pool2d(x, 3, stride, **options)
    return functional.avg_pool2d(x, 3, stride, count_include_pad=False, **options)


def threads() -> int:
    """Give PyTorch as many threads as XLA takes: the cores that this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(count or 1)
    return torch.get_num_threads()


def make_step(
    net: ImageNet, arch: Arch, slots: tuple[str, ...], weights: Mapping[str, np.ndarray],
    images: np.ndarray, labels: np.ndarray, *, kept: Sequence[str],
) -> Callable[[], tuple[float, dict[str, np.ndarray]]]:  # fmt: skip
    """Return a callable that goes forward and backward once: loss, and gradients by path.

    Args:
      net: widths.
      arch: of the network.
      slots: that have candidates.
      weights: by path, as `spd_jax.forward_search.scope.draw` gives them.
      images: `[N, H, W, C]`.
      labels: `[N]`.
      kept: paths whose gradients it returns, in the layout of `spd_jax`: 3 x 3 kernels or vectors.
    """
    network = Network(net, arch, slots, weights)
    inputs = torch.tensor(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    targets, leaves = torch.tensor(labels.astype(np.int64)), list(network.weights.values())
    places = {path: list(network.weights).index(path) for path in kept}

    def step() -> tuple[float, dict[str, np.ndarray]]:
        loss = functional.cross_entropy(network.logits(inputs), targets)
        # What only candidates see has no gradient: they stop it.
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        return loss.item(), {path: _as_numpy(gradients[i]) for path, i in places.items()}

    return step

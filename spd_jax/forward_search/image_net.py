"""Networks of image cells: a stem, cells whose sums may grow, a head.

Hu et al., section 5.1; what the paper does not say follows the released code. A cell is
x_k = sep3x3(s1) + s1 + sum_i eta_i learner_i, and this sum, its end, is the only place that grows.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from spd_jax.axes import Array
from spd_jax.forward_search import ops, weak
from spd_jax.forward_search.arch import Arch, Edge, Learner
from spd_jax.forward_search.scope import AUXILIARY, Scope
from spd_jax.forward_search.weak import Growth

MERGES = ("concat", "plain", "sum")


@dataclasses.dataclass(frozen=True)
class ImageNet:
    """Widths of a network, and how its parts are computed. Static under jit.

    Attributes:
      image_shape: height, width and channels.
      classes: number of outputs.
      filters: F, width of the first cells; each reduction doubles it.
      stem_width: width of the stem, in multiples of F.
      stem_stride: 2 halves the image at once.
      conv_form: of separable convolutions, one of `ops.CONV_FORMS`.
      merge: of a learner's operations: "concat" is BN(1x1(ReLU(concat))) as in the released
        code, "plain" 1x1(concat) as the paper writes it, "sum" a weighted sum.
      candidate_scale: whether the last normalisation of a candidate, and of each operation of a
        finished learner, has a learnt scale, which trades off against alpha.
      drop_path: largest probability that an operation is dropped for an image, in the last
        cell at the end of the training; the paper's "probability 0.6" is the share kept: 0.4.
      auxiliary: weight in the loss of a second head before the last reduction; 0: there is none.
    """

    image_shape: tuple[int, int, int]
    classes: int
    filters: int = 16
    stem_width: int = 3
    stem_stride: int = 1
    conv_form: str = "composed"
    merge: str = "concat"
    candidate_scale: bool = False
    drop_path: float = 0.0
    auxiliary: float = 0.0

    def logits(
        self, scope: Scope, arch: Arch, images: Array, growth: Growth | None = None
    ) -> tuple[Array, Array | None]:
        """Return logits `[N, classes]`, and those of the auxiliary head while it trains.

        Args:
          scope: of the weights.
          arch: what is computed.
          images: `[N, H, W, C]`.
          growth: candidates; None has none.
        """
        x = _stem(scope, self, images)
        before, previous, width = x, x, self.filters
        last = max((c for c, kind in enumerate(arch.kinds) if kind == "reduction"), default=-1)
        second = None
        for c, kind in enumerate(arch.kinds):
            if c == last and self.auxiliary and scope.training:
                second = _head(scope, AUXILIARY, self, previous)
            width *= 2 if kind == "reduction" else 1
            end = _Cell(scope, self, arch, c, before, previous, width).end(growth)
            before, previous = previous, end
        return _head(scope, "head", self, previous), second


def _stem(scope: Scope, net: ImageNet, images: Array) -> Array:
    channels, width = images.shape[-1], net.stem_width * net.filters
    kernel = scope.weight("stem/kernel", (3, 3, channels, width), "normal", fan_in=9 * channels)
    x = ops.convolve(images, kernel, net.stem_stride)
    scope.count("stem", 9 * channels * x[0].size)
    return scope.normalise("stem", x)


def _head(scope: Scope, path: str, net: ImageNet, x: Array) -> Array:
    """Return logits: BN, ReLU, 1 x 1, BN, ReLU, mean, dense."""
    width = x.shape[-1]
    x = jax.nn.relu(scope.normalise(f"{path}/in", x))
    x = ops.project(scope, f"{path}/project", x, width)
    x = jax.nn.relu(scope.normalise(f"{path}/out", x))
    scope.count(f"{path}/mean", 0.5 * x[0].size)
    kernel = scope.weight(f"{path}/dense", (width, net.classes), "lecun", fan_in=width)
    scope.count(f"{path}/dense", width * net.classes)
    return jnp.mean(x, (1, 2)) @ kernel + scope.weight(f"{path}/bias", (net.classes,), "zeros")


@dataclasses.dataclass
class _Cell:
    """One cell: `before` and `previous` are the outputs of the cells before it."""

    scope: Scope
    net: ImageNet
    arch: Arch
    place: int
    before: Array
    previous: Array
    width: int

    @property
    def path(self) -> str:
        return f"cell{self.place}"

    @property
    def stride(self) -> int:
        return 2 if self.arch.kinds[self.place] == "reduction" else 1

    @functools.cached_property
    def fitted(self) -> dict[int, Array]:
        """Inputs 0 and 1 that were asked for, at this cell's width and size."""
        return {}

    def input(self, number: int, learners: list[Array]) -> Array:
        """Return an input by the number that edges use."""
        if number >= 2:
            return learners[number - 2]
        if number not in self.fitted:
            x = self.previous if number else self.before
            self.fitted[number] = self._fit(f"{self.path}/input{number}", x)
        return self.fitted[number]

    def _fit(self, path: str, x: Array) -> Array:
        """Bring an output of another cell to this one's width and size, where they differ."""
        larger = x.shape[1] > self.previous.shape[1]
        if x.shape[-1] == self.width and not larger:
            return x
        x = ops.project(self.scope, path, jax.nn.relu(x), self.width, stride=2 if larger else 1)
        return self.scope.normalise(path, x)

    def end(self, growth: Growth | None) -> Array:
        """Return the cell's output, with candidates where its slot grows."""
        scope, slot = self.scope, self.arch.slot(self.place)
        s1 = self.input(1, [])
        body = self._op(f"{self.path}/body", "sep3", s1, self.stride, scale=True)
        if self.stride == 1:
            x = body + s1
        else:
            kept = ops.project(scope, f"{self.path}/kept", s1, self.width, stride=2)
            x = body + scope.normalise(f"{self.path}/kept", kept)
        learners: list[Array] = []
        for k, learner in enumerate(self.arch.learners(slot)):
            learners.append(self._learner(k, learner, learners))
            x = x + scope.weight(f"{self.path}/learner{k}/eta", (), "zeros") * learners[-1]
        if growth is not None and slot in growth.slots:
            x = self._weak(x, slot, learners, growth)
        return scope.tap(self.path, x)

    def _op(self, path: str, op: str, x: Array, stride: int, scale: bool) -> Array:
        y = ops.apply(self.scope, path, op, x, stride=stride, form=self.net.conv_form, scale=scale)
        if op == "identity" or not (self.net.drop_path and self.scope.training):
            return y
        rate = self.net.drop_path * (self.place + 1) / len(self.arch.kinds) * self.scope.progress
        shape = (y.shape[0], 1, 1, 1)
        kept = jax.random.bernoulli(self.scope.random_key(path), 1 - rate, shape)
        return y * kept / (1 - rate)

    def _edges(
        self, k: int, edges: Learner, learners: list[Array], inlet: Callable[[Array], Array]
    ) -> list[Array]:
        """Return the outputs of edges of learner k; `inlet` stands before each operation."""

        def one(edge: Edge) -> Array:
            path = f"{self.path}/learner{k}/{edge.input}:{edge.op}"
            stride = self.stride if edge.input < 2 else 1
            x = inlet(self.input(edge.input, learners))
            return self._op(path, edge.op, x, stride, scale=self.net.candidate_scale)

        return [one(edge) for edge in edges]

    def _learner(self, k: int, learner: Learner, learners: list[Array]) -> Array:
        """Return a finished learner: its operations, merged."""
        outputs = self._edges(k, learner, learners, lambda x: x)
        path = f"{self.path}/learner{k}/merge"
        if self.net.merge == "sum":
            weights = self.scope.weight(path, (len(outputs),), "equal")
            return weak.joint(weights, outputs)
        x = jnp.concatenate(outputs, -1)
        if self.net.merge == "plain":
            return ops.project(self.scope, path, x, self.width)
        x = ops.project(self.scope, path, jax.nn.relu(x), self.width)
        return self.scope.normalise(path, x)

    def _weak(self, x: Array, slot: str, learners: list[Array], growth: Growth) -> Array:
        edges = self.arch.candidates(slot)
        outputs = self._edges(len(learners), edges, learners, growth.inlet)
        alpha = self.scope.weight(f"alpha/{slot}", (len(edges),), "equal")
        x_c = weak.joint(alpha, outputs, probe=growth.probes.get(self.path))
        return growth.attach(x, x_c, lambda: self.scope.weight(f"gate/{self.path}", (), "zeros"))

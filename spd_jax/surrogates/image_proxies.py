"""Zero-cost proxies of image classifiers: what a freshly drawn network betrays of its cell.

Each measure looks at one network of random weights and one minibatch (ZiCo at several) and
returns one number, higher is better. The networks are the motif-networks or, through the same
code, the full-size ones: whatever has a trace. Logarithms that are not in the sources are monotone
and change no ranking by one draw; they keep a draw from outweighing the others in the mean.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from spd_jax import archs as archs_lib
from spd_jax import files
from spd_jax.axes import Arch, Archs, Array, Key, Params
from spd_jax.checks import is_count
from spd_jax.dish import losses
from spd_jax.errors import UserError, check_name
from spd_jax.motif import MotifFamily
from spd_jax.surrogates import protocol
from spd_jax.surrogates.proxies import covariance_score


class Trace(Protocol):
    """What a network did with a minibatch of N images."""

    @property
    def logits(self) -> Array:
        """Outputs `[N, C]`."""
        ...

    @property
    def relu_inputs(self) -> tuple[Array, ...]:
        """What each ReLU saw, `[N, ...]` each."""
        ...

    @property
    def relu_used(self) -> tuple[Array, ...]:
        """1 for each ReLU that the motif uses and 0 for the others, scalars or `[channels]`."""
        ...

    @property
    def blocks(self) -> tuple[Array, ...]:
        """Outputs of the blocks, in their order, `[N, H, W, channels]` each."""
        ...


class Tracer(Protocol):
    """A network that shows what happens inside it."""

    def __call__(
        self,
        params: Params,
        arch: Arch,
        inputs: Array,
        *,
        batch_norm: bool = True,
        after_block: Callable[[int, Array], Array] | None = None,
    ) -> Trace:
        """Return what the network of one motif does with a minibatch.

        Args:
          params: weights.
          arch: one motif.
          inputs: images `[N, S, S, 3]`.
          batch_norm: False leaves the normalisations out.
          after_block: `after_block(i, output [N, H, W, channels])` is called on the output of
            each block and returns what goes on to the next; None: the output itself.
        """
        ...


@dataclasses.dataclass(frozen=True)
class ImageNetwork:
    """A network of image cells. Static under jit: equal ones compile once.

    Attributes:
      family: initial weights and logits, of the motif-network or of the full-size network. The
        last four axes of a leaf of its weights are the kernel of one layer, axes in front of them
        are layers; a leaf of two axes is a dense layer, and one that is called "bias" holds
        biases.
      trace: the same network, open to view.
    """

    family: MotifFamily
    trace: Tracer


class Minibatches(NamedTuple):
    """What a measure shows to a network.

    Attributes:
      inputs: images `[B, N, S, S, 3]` float32 of B minibatches.
      labels: one-hot `[B, N, C]` float32.
      key: for measures that draw.
    """

    inputs: Array
    labels: Array
    key: Key


class Images(NamedTuple):
    """Labelled images to draw minibatches from.

    Attributes:
      inputs: `[K, S, S, 3]` float32, standardised.
      labels: classes `[K]`, whole numbers from 0 on.
    """

    inputs: np.ndarray
    labels: np.ndarray


Measure = Callable[[ImageNetwork, Params, Arch, Minibatches], Array]


@dataclasses.dataclass(frozen=True)
class ImageProxy:
    """One proxy of `MEASURES`, a `protocol.ScoreFree` surrogate.

    Attributes:
      measure: name in `MEASURES`.
      network: what is measured.
      images: real images; None draws inputs from N(0, 1) and as many labels of each class as fit.
        The authors of snip, grad norm, grasp, ZiCo, nwot and SWAP show images, those of AZ-NAS
        and synflow do not.
      draws: E, independent weights and minibatches that are averaged over.
      samples: N, images in a minibatch.
      batches: B, minibatches; only ZiCo looks at more than the first.
      chunk: most motifs in one program, which takes them one after the other.
      at_once: motifs that are computed side by side. More than 1 suits accelerators; on a CPU it
        takes memory, and networks that choose an operation compute all of them.
      weight: `weight(archs [M]) -> [M]` is what predictions are multiplied by, see
        `size_weight`; None: nothing.
    """

    measure: str
    network: ImageNetwork
    images: Images | None = None
    draws: int = 1
    samples: int = 32
    batches: int = 2
    chunk: int = 64
    at_once: int = 1
    weight: Callable[[Archs], np.ndarray] | None = None

    def fit(self, key: Key, archs: Archs, scores: ArrayLike) -> "FittedImageProxy":
        """Return `prepare(key)`: archs and scores are not looked at."""
        del archs, scores
        return self.prepare(key)

    def prepare(self, key: Key) -> "FittedImageProxy":
        """Return the proxy that draws weights and minibatches from `key`, which is consumed.

        Raises:
          UserError: an unknown measure, or settings that cannot be drawn.
        """
        check_name("proxy", self.measure, MEASURES)
        self.check()
        return FittedImageProxy(self, np.asarray(jax.random.key_data(key)))

    def check(self) -> None:
        """Refuse settings that cannot be drawn."""
        for name, least in (
            ("draws", 1),
            ("samples", 2),
            ("batches", 2),
            ("chunk", 1),
            ("at_once", 1),
        ):
            if not is_count(getattr(self, name), least):
                raise UserError(
                    f"{name}={getattr(self, name)!r} must be at least {least}, a whole number"
                )
        if self.images is not None and len(self.images.inputs) < self.samples * self.batches:
            raise UserError(
                f"{len(self.images.inputs)} images are too few for {self.batches} minibatches of "
                f"{self.samples}: give more"
            )

    def load(self, path: protocol.Path) -> "FittedImageProxy":
        """Read the key of a saved proxy; errors as `protocol.Surrogate.load`."""
        like = {"key": jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))}

        def build(arrays: dict[str, np.ndarray]) -> FittedImageProxy:
            return FittedImageProxy(self, np.asarray(protocol.checked(arrays, like)["key"]))

        return protocol.restore(path, self.measure, build)


@dataclasses.dataclass(frozen=True)
class FittedImageProxy:
    """A proxy whose weights and minibatches are decided.

    Attributes:
      proxy: the settings.
      key: `jax.random.key_data` of what they are drawn from.
    """

    proxy: ImageProxy
    key: np.ndarray

    def predict(self, archs: Archs) -> np.ndarray:
        """Return `[M]` float64, the weighted mean over draws; NaN where it is not finite."""
        values = self.by_draw(archs).mean(axis=0)
        if self.proxy.weight is not None:
            values = values * self.proxy.weight(archs)
        return np.where(np.isfinite(values), values, np.nan)

    def by_draw(self, archs: Archs) -> np.ndarray:
        """Return `[E, M]` float64, one row for each draw.

        Raises:
          UserError: there are no archs.
        """
        return measured(self.proxy, self.key, archs, MEASURES[self.proxy.measure])

    def save(self, path: protocol.Path) -> None:
        """Write the key."""
        files.save_arrays(path, {"key": self.key}, kind=self.proxy.measure)


def measured(proxy: ImageProxy, key: np.ndarray, archs: Archs, measure: Measure) -> np.ndarray:
    """Return what a measure says of archs `[M]`, draw by draw and chunk by chunk.

    Args:
      proxy: settings.
      key: `jax.random.key_data` of what weights and minibatches are drawn from.
      archs: batch `[M]`.
      measure: a function of the module: jit knows it by its identity.

    Returns:
      `[E, M, ...]` float64.

    Raises:
      UserError: there are no archs.
    """
    count = archs_lib.count(archs)
    if count == 0:
        raise UserError("there are no motifs to measure: give at least one")
    size = min(proxy.chunk, 1 << (count - 1).bit_length())
    rows = []
    for draw in range(proxy.draws):
        draw_key = jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(key)), draw)
        params, batches = drawn(draw_key, proxy)
        parts = [
            _chunk(
                measure,
                proxy.network,
                params,
                batches,
                archs_lib.padded(archs_lib.take(archs, slice(start, start + size)), size),
                proxy.at_once,
            )
            for start in range(0, count, size)
        ]
        rows.append(np.concatenate([np.asarray(part) for part in parts])[:count])
    return np.stack(rows).astype(np.float64)


def drawn(key: Key, proxy: ImageProxy) -> tuple[Params, Minibatches]:
    """Draw weights, at the family's own scale, and minibatches; `key` is consumed."""
    weights_key, inputs_key, labels_key, measure_key = jax.random.split(key, 4)
    family = proxy.network.family
    shape = (proxy.batches, proxy.samples)
    classes = family.output_shape[-1]
    if proxy.images is None:
        inputs = jax.random.normal(inputs_key, (*shape, *family.input_shape))
        labels = jnp.arange(proxy.samples) % classes
        keys = jax.random.split(labels_key, proxy.batches)
        labels = jax.vmap(lambda key: jax.random.permutation(key, labels))(keys)
    else:
        total = len(proxy.images.inputs)
        chosen = np.asarray(jax.random.permutation(inputs_key, total)[: math.prod(shape)])
        inputs = jnp.asarray(proxy.images.inputs[chosen]).reshape(*shape, *family.input_shape)
        labels = jnp.asarray(proxy.images.labels[chosen]).reshape(shape)
    one_hot = jax.nn.one_hot(labels, classes)
    return family.init(weights_key), Minibatches(inputs, one_hot, measure_key)


@functools.partial(jax.jit, static_argnames=("measure", "network", "at_once"))
def _chunk(
    measure: Measure,
    network: ImageNetwork,
    params: Params,
    batches: Minibatches,
    archs: Archs,
    at_once: int,
) -> Array:
    """Return the measure `[M, ...]` of one network's weights and archs `[M]`."""
    return jax.lax.map(
        lambda arch: measure(network, params, arch, batches),
        archs,
        batch_size=at_once if at_once > 1 else None,
    )


def layers(params: Params) -> list[Array]:
    """Return weights or their gradients layer by layer: `[layers, ...]` arrays without biases."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not _is_bias(path):
            own = min(leaf.ndim, 4)
            found.append(leaf.reshape(-1, *leaf.shape[leaf.ndim - own :]))
    return found


def _is_bias(path: tuple[Any, ...]) -> bool:
    return getattr(path[-1], "key", "") == "bias"


def _gradient(
    network: ImageNetwork, params: Params, arch: Arch, inputs: Array, labels: Array
) -> Params:
    def loss(params: Params) -> Array:
        return losses.softmax_cross_entropy(network.family.apply(params, arch, inputs), labels)

    return jax.grad(loss)(params)


def _first(network: ImageNetwork, params: Params, arch: Arch, batches: Minibatches) -> Params:
    """Return the gradient of the first minibatch's loss."""
    return _gradient(network, params, arch, batches.inputs[0], batches.labels[0])


def _total(values: Any) -> Array:
    return jnp.sum(jnp.stack([jnp.sum(value) for value in values]))


def grad_norm(network: ImageNetwork, params: Params, arch: Arch, batches: Minibatches) -> Array:
    """Return `log sum_layers |dL/dW|_2` (Abdelfattah et al., 2021)."""
    gradients = layers(_first(network, params, arch, batches))
    norms = [jnp.sqrt(jnp.sum(g**2, axis=tuple(range(1, g.ndim)))) for g in gradients]
    return jnp.log(_total(norms))


def snip(network: ImageNetwork, params: Params, arch: Arch, batches: Minibatches) -> Array:
    """Return `log sum |W dL/dW|` (Lee et al., 2019, as by Abdelfattah et al., 2021)."""
    gradients = layers(_first(network, params, arch, batches))
    return jnp.log(_total(jnp.abs(w * g) for w, g in zip(layers(params), gradients, strict=True)))


def grasp(network: ImageNetwork, params: Params, arch: Arch, batches: Minibatches) -> Array:
    """Return `-sum W (H g)`, H the Hessian, g the gradient (Wang et al., 2020).

    Summed over the network as by Abdelfattah et al. (2021), whose sign this is. Biases take part
    in g and not in the sum.
    """
    fixed = jax.tree.leaves(_first(network, params, arch, batches))

    def along(params: Params) -> Array:
        gradient = jax.tree.leaves(_first(network, params, arch, batches))
        return _total(g * h for g, h in zip(gradient, fixed, strict=True))

    # Reverse mode twice: networks may have derivatives of their own in that mode alone.
    product = jax.grad(along)(params)
    return -_total(w * hg for w, hg in zip(layers(params), layers(product), strict=True))


def synflow(network: ImageNetwork, params: Params, arch: Arch, batches: Minibatches) -> Array:
    """Return `log sum |W| dR/d|W|`, R the sum of outputs for inputs of ones (Tanaka et al., 2020).

    The weights are replaced by their magnitudes and nothing is normalised, as by Abdelfattah et
    al. (2021). R grows beyond float32 in deep networks. Magnitudes, sums and pools are positively
    homogeneous, so a block's output may be divided by a constant, which divides R and all its
    derivatives by the same: the logarithms of these constants are added in the end.
    """
    # A bias would be in the way of homogeneity; networks of the sources start with biases of 0.
    magnitudes = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.zeros_like(leaf) if _is_bias(path) else jnp.abs(leaf), params
    )
    ones = jnp.ones((1, *batches.inputs.shape[2:]))

    def flow(params: Params) -> tuple[Array, Array]:
        logs = [jnp.zeros(())]

        def shrink(index: int, output: Array) -> Array:
            del index
            size = jax.lax.stop_gradient(jnp.mean(output))
            size = jnp.where(size > 0, size, 1)
            logs.append(jnp.log(size))
            return output / size

        trace = network.trace(params, arch, ones, batch_norm=False, after_block=shrink)
        return jnp.sum(trace.logits), jnp.sum(jnp.stack(logs))

    gradient, logs = jax.grad(flow, has_aux=True)(magnitudes)
    products = [jnp.abs(w * g) for w, g in zip(layers(magnitudes), layers(gradient), strict=True)]
    return jnp.log(_total(products)) + logs


def jacobian_covariance(
    network: ImageNetwork, params: Params, arch: Arch, batches: Minibatches
) -> Array:
    """Return `covariance_score` of every sample's `d(sum of its logits) / d(its inputs)`.

    Mellor et al. (2020, first version of their paper). Their code differentiates the sum over all
    samples. Through batch normalisation each sample moves all others, and where no ReLU follows
    the last one, as in motif-networks, that sum hardly depends on the inputs: what is left is
    rounding. So samples get random signs here, in the sum and again in its derivative, and what
    samples do to each other has no sum any more. That is ours, and ranked cells better.
    """
    inputs = batches.inputs[0]
    signs = jax.random.rademacher(batches.key, (len(inputs), 1), inputs.dtype)

    def summed(inputs: Array) -> Array:
        return jnp.sum(signs * network.family.apply(params, arch, inputs))

    rows = jax.grad(summed)(inputs).reshape(len(inputs), -1)
    return covariance_score(signs * rows)


def _codes(
    network: ImageNetwork, params: Params, arch: Arch, inputs: Array
) -> list[tuple[Array, Array]]:
    """Return every ReLU's binary codes `[N, units]` bool, and which units are used `[units]`."""
    trace = network.trace(params, arch, inputs)
    found = []
    for values, used in zip(trace.relu_inputs, trace.relu_used, strict=True):
        units = jnp.broadcast_to(used, values.shape[1:]).ravel()
        found.append((values.reshape(len(inputs), -1) > 0, units))
    return found


def nwot(network: ImageNetwork, params: Params, arch: Arch, batches: Minibatches) -> Array:
    """Return `log |det K|`, `K_ij` = ReLU units that are on or off for both i and j.

    Mellor et al. (2021). Minus infinity where two samples have the same code.
    """
    samples = batches.inputs.shape[1]
    kernel = jnp.zeros((samples, samples))
    for on, used in _codes(network, params, arch, batches.inputs[0]):
        values = jnp.where(on, 1.0, -1.0)
        # (+-1) products count agreements minus disagreements: of them and all units the mean.
        kernel += ((used * values) @ values.T + jnp.sum(used)) / 2
    return jnp.linalg.slogdet(kernel)[1]


def swap(network: ImageNetwork, params: Params, arch: Arch, batches: Minibatches) -> Array:
    """Return how many different patterns of on and off over the samples the ReLU units show.

    Peng et al. (2024), SWAP: every unit of the network has a binary vector `[N]`, one bit for
    each sample, and the score is the number of distinct ones.
    """
    samples = batches.inputs.shape[1]
    weights = 2 ** jnp.arange(32, dtype=jnp.uint32)
    words, idle = [], []
    for on, used in _codes(network, params, arch, batches.inputs[0]):
        bits = jnp.pad(on, ((0, -samples % 32), (0, 0))).astype(jnp.uint32)
        bits = bits.reshape(-1, 32, bits.shape[1])
        words.append(jnp.sum(bits * weights[:, None], axis=1, dtype=jnp.uint32))
        idle.append(used == 0)
    keys = [jnp.concatenate(idle).astype(jnp.uint32), *jnp.concatenate(words, axis=1)]
    ordered = jnp.stack(jax.lax.sort(keys, num_keys=len(keys)))
    # Units that are not used come last; a pattern is counted where its first unit stands.
    new = jnp.any(ordered[:, 1:] != ordered[:, :-1], axis=0)
    new = jnp.concatenate([jnp.ones(1, bool), new])
    return jnp.sum(new & (ordered[0] == 0)).astype(jnp.float32)


def size_weight(
    parameters: Callable[[Archs], np.ndarray], mu: float, sigma: float
) -> Callable[[Archs], np.ndarray]:
    """Return the weight of regularised SWAP, `exp(-((parameters - mu) / sigma)^2)`.

    Peng et al. (2024), to whom motifs of about `mu` parameters are the right ones. In their code
    the square is divided by a `sigma` that is not squared, in a unit of thousands of parameters.

    Args:
      parameters: `parameters(archs [M]) -> [M]`.
      mu: the size that is wanted, in parameters.
      sigma: how far from it motifs may be, in parameters.
    """

    def weight(archs: Archs) -> np.ndarray:
        return np.exp(-(((parameters(archs) - mu) / sigma) ** 2))

    return weight


def zico(network: ImageNetwork, params: Params, arch: Arch, batches: Minibatches) -> Array:
    """Return `sum_layers log(sum_weights mean|g| / std g)` over minibatches (Li et al., 2023).

    Weights whose gradient does not vary are left out, and so is a layer that has no others.
    """
    gradients = jax.lax.map(
        lambda batch: _gradient(network, params, arch, *batch), (batches.inputs, batches.labels)
    )
    score = jnp.zeros(())
    for leaf in jax.vmap(layers)(gradients):
        spread = jnp.std(leaf, axis=0)
        varies = spread > 0
        ratio = jnp.mean(jnp.abs(leaf), axis=0) / jnp.where(varies, spread, 1)
        sums = jnp.sum(jnp.where(varies, ratio, 0), axis=tuple(range(1, ratio.ndim)))
        score += jnp.sum(jnp.where(sums > 0, jnp.log(jnp.where(sums > 0, sums, 1)), 0))
    return score


MEASURES: dict[str, Measure] = {
    measure.__name__: measure
    for measure in (grad_norm, snip, grasp, synflow, jacobian_covariance, nwot, swap, zico)
}

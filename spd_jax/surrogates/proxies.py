"""Rivals that know no ground truth and train nothing: proxies at initialisation.

Each measures the freshly drawn motif-network on random inputs and random labels, for
several draws, and takes the mean. The signs are those of the sources: higher is better.
NASWOT (Mellor et al., 2021) is not here: it reads the binary codes of ReLUs, and a
recurrent cell need not have one. Nor is the number of parameters: all cells have the same.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from spd_jax import archs as archs_lib
from spd_jax import dish, files
from spd_jax.axes import Arch, Archs, Array, Key, Params
from spd_jax.dish import losses
from spd_jax.dish.inner_loop import SyntheticData
from spd_jax.errors import UserError, check_name
from spd_jax.motif import MotifFamily
from spd_jax.surrogates import protocol

States = Callable[[Params, Arch, Array], Array]
Loss = Callable[[Params], Array]
RIDGE = 1e-5  # k of the covariance scores, as in both sources


@dataclasses.dataclass(frozen=True)
class Network:
    """What a measure looks at, beside weights and samples. Static under jit.

    It is a class of its own, and less than a `Proxy`, because jit compiles anew whenever a static
    argument differs. The weights' scale decides numbers alone: they are drawn, scaled already,
    outside the compiled program. So another `init_scale` compiles nothing.

    Attributes:
      family: the motif-network.
      states: what "hidden_covariance" looks at, see `Proxy`.
      inner_loss: name in `losses.INNER_LOSSES`.
    """

    family: MotifFamily
    states: States
    inner_loss: str


@dataclasses.dataclass(frozen=True)
class Proxy:
    """One proxy of `MEASURES`, a `protocol.ScoreFree` surrogate.

    Attributes:
      measure: name in `MEASURES`.
      family: the motif-network, as wide as wanted.
      states: `states(params, arch, inputs [N, ...]) -> [N, ...]`, what "hidden_covariance"
        looks at (`readout_states` for recurrent cells); None takes the outputs.
      draws: E, independent weights and samples that are averaged over.
      samples: N.
      init_scale: standard deviation of the weights; 0.25 is 1 / sqrt(H) at a width of 16.
      inner_loss: name in `losses.INNER_LOSSES`.
      chunk: most motifs in one program; fewer are padded to a power of two.
    """

    measure: str
    family: MotifFamily
    states: States | None = None
    draws: int = 4
    samples: int = 20
    init_scale: float = 0.25
    inner_loss: str = "binary_cross_entropy"
    chunk: int = 64

    def fit(self, key: Key, archs: Archs, scores: ArrayLike) -> "FittedProxy":
        """Return `prepare(key)`: archs and scores are not looked at."""
        del archs, scores
        return self.prepare(key)

    def prepare(self, key: Key) -> "FittedProxy":
        """Return the proxy that draws weights and samples from `key`, which is consumed.

        Raises:
          UserError: an unknown measure, or settings that cannot be drawn.
        """
        check_name("proxy", self.measure, MEASURES)
        if self.chunk < 1:
            raise UserError(f"chunk is {self.chunk}: give at least 1")
        dish.check(self.drawing)
        return FittedProxy(self, np.asarray(jax.random.key_data(key)))

    def load(self, path: protocol.Path) -> "FittedProxy":
        """Read the key of a saved proxy; errors as `protocol.Surrogate.load`."""
        like = {"key": jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))}

        def build(arrays: dict[str, np.ndarray]) -> FittedProxy:
            return FittedProxy(self, np.asarray(protocol.checked(arrays, like)["key"]))

        return protocol.restore(path, self.measure, build)

    @property
    def drawing(self) -> dish.DishConfig:
        """Settings of the dish whose weights and samples the proxy looks at."""
        return dish.DishConfig(
            train_samples=self.samples,
            valid_samples=self.samples,
            ensemble_size=self.draws,
            init_scale=self.init_scale,
            inner_loss=self.inner_loss,
        )

    @property
    def network(self) -> Network:
        """What the measure looks at."""
        states = self.family.apply if self.states is None else self.states
        return Network(self.family, states, self.inner_loss)


@dataclasses.dataclass(frozen=True)
class FittedProxy:
    """A proxy whose weights and samples are decided.

    Attributes:
      proxy: the settings.
      key: `jax.random.key_data` of what they are drawn from.
    """

    proxy: Proxy
    key: np.ndarray

    def predict(self, archs: Archs) -> np.ndarray:
        """Return `[M]` float64, the mean over draws; NaN where it is not finite.

        It is not where the network of a draw is dead, whose gradient is zero, or its numbers
        overflow.
        """
        values = self.by_draw(archs).mean(axis=0)
        return np.where(np.isfinite(values), values, np.nan)

    def by_draw(self, archs: Archs) -> np.ndarray:
        """Return `[E, M]` float64, one row for each draw.

        Raises:
          UserError: there are no archs.
        """
        proxy = self.proxy
        key = jax.random.wrap_key_data(jnp.asarray(self.key))
        drawn = dish.init(key, proxy.family, proxy.drawing)
        count = archs_lib.count(archs)
        if count == 0:
            raise UserError("there are no motifs to measure: give at least one")
        size = min(proxy.chunk, 1 << (count - 1).bit_length())
        parts = []
        for start in range(0, count, size):
            part = archs_lib.padded(archs_lib.take(archs, slice(start, start + size)), size)
            parts.append(
                np.asarray(_values(proxy.measure, proxy.network, drawn.params, drawn.data, part))
            )
        return np.concatenate(parts, axis=1)[:, :count].astype(np.float64)

    def save(self, path: protocol.Path) -> None:
        """Write the key."""
        files.save_arrays(path, {"key": self.key}, kind=self.proxy.measure)


@functools.cache
def readout_states(family: MotifFamily) -> States:
    """Return the states `[N, L, H]` of a network that reads them out by `weight` and `bias`."""

    def states(params: Params, arch: Arch, inputs: Array) -> Array:
        hidden = params["weight"].shape[1]
        identity = {"weight": jnp.eye(hidden), "bias": jnp.zeros((hidden, 1))}
        return family.apply({**params, **identity}, arch, inputs)

    return states


@functools.partial(jax.jit, static_argnames=("measure", "network"))
def _values(
    measure: str, network: Network, params: Params, data: SyntheticData, archs: Archs
) -> Array:
    """Return the measure `[E, M]` of weights and samples `[E, ...]` and archs `[M]`."""

    def one(params: Params, data: SyntheticData, arch: Arch) -> Array:
        return MEASURES[measure](network, params, arch, data)

    by_arch = jax.vmap(one, in_axes=(None, None, 0))
    return jax.vmap(by_arch, in_axes=(0, 0, None))(params, data, archs)


def _loss(network: Network, arch: Arch, data: SyntheticData) -> Loss:
    def loss(params: Params) -> Array:
        outputs = network.family.apply(params, arch, data.train_inputs)
        return losses.INNER_LOSSES[network.inner_loss](outputs, data.train_labels)

    return loss


def _sum(tree: Any) -> Array:
    return sum((jnp.sum(leaf) for leaf in jax.tree.leaves(tree)), start=jnp.zeros(()))


def _log_saliency(weights: Params, gradient: Params) -> Array:
    return jnp.log(_sum(jax.tree.map(lambda w, g: jnp.abs(w * g), weights, gradient)))


def grad_norm(network: Network, params: Params, arch: Arch, data: SyntheticData) -> Array:
    """Return `log |dL/dtheta|_2` (Abdelfattah et al., 2021).

    The logarithms, here and below, are ours: no draw outweighs the others in the mean.
    """
    gradient = jax.grad(_loss(network, arch, data))(params)
    return 0.5 * jnp.log(_sum(jax.tree.map(jnp.square, gradient)))


def snip(network: Network, params: Params, arch: Arch, data: SyntheticData) -> Array:
    """Return `log sum |theta dL/dtheta|` (Lee et al., 2019)."""
    return _log_saliency(params, jax.grad(_loss(network, arch, data))(params))


def grasp(network: Network, params: Params, arch: Arch, data: SyntheticData) -> Array:
    """Return `-sum theta (H g)`, H the Hessian, g the gradient (Wang et al., 2020).

    Summed over the network as by Abdelfattah et al. (2021). It has either sign: no logarithm.
    """
    gradient = jax.grad(_loss(network, arch, data))
    step = gradient(params)
    _, product = jax.jvp(gradient, (params,), (step,))
    return -_sum(jax.tree.map(jnp.multiply, params, product))


def synflow(network: Network, params: Params, arch: Arch, data: SyntheticData) -> Array:
    """Return `log sum | |theta| dR/d|theta| |` (Tanaka et al., 2020), which sees no data.

    R is the sum of outputs for inputs of ones, under the weights' magnitudes.
    """
    del data

    def flow(params: Params) -> Array:
        return jnp.sum(
            network.family.apply(params, arch, jnp.ones((1, *network.family.input_shape)))
        )

    magnitudes = jax.tree.map(jnp.abs, params)
    return _log_saliency(magnitudes, jax.grad(flow)(magnitudes))


def jacobian_covariance(network: Network, params: Params, arch: Arch, data: SyntheticData) -> Array:
    """Return `covariance_score` of `d(sum of outputs)/d(inputs)`.

    Mellor et al. (2020, first version), for recurrent cells Serianni & Kalita (2023).
    """

    def summed(inputs: Array) -> Array:
        return jnp.sum(network.family.apply(params, arch, inputs))

    return covariance_score(jax.grad(summed)(data.train_inputs))


def hidden_covariance(network: Network, params: Params, arch: Arch, data: SyntheticData) -> Array:
    """Return `covariance_score` of the hidden states of all time steps.

    Serianni & Kalita (2023), the best of theirs for recurrent cells.
    """
    return covariance_score(network.states(params, arch, data.train_inputs))


def covariance_score(values: Array) -> Array:
    """Return `-sum_i (log(v_i + k) + 1 / (v_i + k))`, k = 1e-5.

    The `v_i` are the eigenvalues of the samples' correlation matrix: 1 each, which is the
    maximum, when no two samples look alike to the network.

    Args:
      values: `[N, ...]`, one row for each sample.

    Returns:
      Scalar; NaN when a sample's values are all the same.
    """
    rows = values.reshape(len(values), -1)
    rows = rows - jnp.mean(rows, axis=1, keepdims=True)
    norm = jnp.linalg.norm(rows, axis=1, keepdims=True)
    # Squared singular values of the rows keep digits of small eigenvalues that the matrix loses.
    singular = jnp.linalg.svd(jnp.where(norm > 0, rows / norm, 0), compute_uv=False)
    spectrum = jnp.zeros(len(rows)).at[: len(singular)].set(singular**2) + RIDGE
    score = -jnp.sum(jnp.log(spectrum) + 1 / spectrum)
    return jnp.where(jnp.all(norm > 0), score, jnp.nan)


MEASURES: dict[str, Callable[[Network, Params, Arch, SyntheticData], Array]] = {
    measure.__name__: measure
    for measure in (grad_norm, snip, grasp, synflow, jacobian_covariance, hidden_covariance)
}

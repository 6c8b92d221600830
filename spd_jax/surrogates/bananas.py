"""BANANAS' predictor (White et al., 2021): an ensemble of small perceptrons on path encodings."""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from spd_jax import archs as archs_lib
from spd_jax import files
from spd_jax.axes import Archs, Array, Key
from spd_jax.checks import is_count, is_number
from spd_jax.errors import UserError
from spd_jax.surrogates import protocol

Layers = list[dict[str, Array]]  # "weight" [inputs, outputs] and "bias" [outputs] of each layer


@dataclasses.dataclass(frozen=True)
class Bananas:
    """An ensemble of perceptrons that differ in their initial weights and their minibatches.

    The loss is the mean absolute error, relative to how far the truth lies above a lower bound
    (the paper's mean absolute percentage error, its section 4): the better a motif, the less its
    error weighs. The bound is the worst known score minus one standard deviation, which is ours;
    the authors' is a constant of each data set. Scores are z-scored.

    Attributes:
      paths: `paths(archs) -> [M, F]`, the path encoding; or other vectors, for a space whose motifs
        have no paths (ours).
      members: E, perceptrons in the ensemble; 5 in the paper.
      layers: hidden layers of ReLUs; 10 in the paper.
      width: of each; 20 in the paper.
      learning_rate: of Adam; 0.01 in the paper.
      epochs: passes over the known motifs; 150 in the authors' code.
      batch_size: motifs in a step, 32 in the authors' code; fewer known ones are one batch.
    """

    paths: protocol.ToVectors
    members: int = 5
    layers: int = 10
    width: int = 20
    learning_rate: float = 0.01
    epochs: int = 150
    batch_size: int = 32

    def fit(self, key: Key, archs: Archs, scores: ArrayLike) -> "FittedBananas":
        """Train the ensemble on known scores; arguments as `protocol.Surrogate.fit`.

        Raises:
          UserError: fewer than 2 finite scores, shapes that disagree, or a setting that is not
            allowed.
        """
        self._check()
        archs, truth = archs_lib.known(archs, scores)
        mean, std = float(truth.mean()), float(truth.std())
        targets = (truth - mean) / (std or 1.0)
        vectors = _vectors(self.paths, archs)
        keys = jax.random.split(key, self.members)
        rates = jnp.asarray(self.learning_rate, jnp.float32)
        ensemble = _train(
            keys, jnp.asarray(vectors), jnp.asarray(targets, jnp.float32), rates,
            layers=self.layers, width=self.width, epochs=self.epochs, batch_size=self.batch_size,
        )  # fmt: skip
        return FittedBananas(self.paths, ensemble, mean, std)

    def load(self, path: protocol.Path) -> "FittedBananas":
        """Read a saved ensemble, of any size; errors as `protocol.Surrogate.load`."""

        def build(arrays: dict[str, np.ndarray]) -> FittedBananas:
            shape = [int(size) for size in arrays["shape"]]
            members, inputs, layers, width = shape
            like = jax.eval_shape(
                lambda: jax.vmap(lambda key: _init(key, inputs, layers, width))(
                    jax.random.split(jax.random.key(0), members)
                )
            )
            leaves, tree = jax.tree.flatten(like)
            names = {f"leaf_{place}": leaf for place, leaf in enumerate(leaves)}
            found = protocol.checked(arrays, names)
            ensemble = jax.tree.unflatten(tree, [found[name] for name in names])
            mean, std = float(arrays["mean"]), float(arrays["std"])
            return FittedBananas(self.paths, ensemble, mean, std)

        return protocol.restore(path, type(self).__name__, build)

    def _check(self) -> None:
        for name in ("members", "layers", "width", "epochs", "batch_size"):
            if not is_count(getattr(self, name), 1):
                raise UserError(
                    f"{name} is {getattr(self, name)!r}: give at least 1, a whole number"
                )
        if not is_number(self.learning_rate):
            raise UserError(
                f"learning_rate is {self.learning_rate!r}: give a finite number that is not "
                "negative"
            )


@dataclasses.dataclass(frozen=True)
class FittedBananas:
    """A trained ensemble.

    Attributes:
      paths: `paths(archs) -> [M, F]`.
      ensemble: its layers, arrays `[E, ...]` float32.
      mean: mean of the known scores.
      std: their population standard deviation; with 0 it predicts the mean.
    """

    paths: protocol.ToVectors
    ensemble: Layers
    mean: float
    std: float

    def predict(self, archs: Archs) -> np.ndarray:
        """Return the mean of the members, `[M]` float64, in the unit of the fitted scores."""
        return self.by_member(archs).mean(axis=0)

    def by_member(self, archs: Archs) -> np.ndarray:
        """Return what each member predicts, `[E, M]` float64, in the unit of the scores."""
        vectors = jnp.asarray(_vectors(self.paths, archs))
        outputs = np.asarray(_predict(self.ensemble, vectors), np.float64)
        return self.mean + self.std * outputs

    def save(self, path: protocol.Path) -> None:
        """Write the weights, and the scores' mean and standard deviation."""
        arrays: dict[str, Any] = {
            f"leaf_{place}": np.asarray(leaf)
            for place, leaf in enumerate(jax.tree.leaves(self.ensemble))
        }
        members, inputs, width = self.ensemble[0]["weight"].shape
        shape = np.array([members, inputs, len(self.ensemble) - 1, width])
        parts = arrays | {"shape": shape, "mean": self.mean, "std": self.std}
        files.save_arrays(path, parts, kind="Bananas")


def _init(key: Key, inputs: int, layers: int, width: int) -> Layers:
    """Draw weights by Glorot's uniform law, as the authors' library does; biases are 0."""
    sizes = [inputs, *[width] * layers, 1]
    draw = jax.nn.initializers.glorot_uniform()
    return [
        {"weight": draw(key, shape), "bias": jnp.zeros(shape[1])}
        for key, shape in zip(
            jax.random.split(key, layers + 1), itertools.pairwise(sizes), strict=True
        )
    ]


def _apply(layers: Layers, vectors: Array) -> Array:
    """Return predictions `[M]` of one member for vectors `[M, F]`."""
    x = vectors
    for layer in layers[:-1]:
        x = jax.nn.relu(x @ layer["weight"] + layer["bias"])
    return (x @ layers[-1]["weight"] + layers[-1]["bias"])[:, 0]


@jax.jit
def _predict(ensemble: Layers, vectors: Array) -> Array:
    return jax.vmap(_apply, in_axes=(0, None))(ensemble, vectors)


@functools.partial(jax.jit, static_argnames=("layers", "width", "epochs", "batch_size"))
def _train(
    keys: Key,
    vectors: Array,
    targets: Array,
    learning_rate: Array,
    *,
    layers: int,
    width: int,
    epochs: int,
    batch_size: int,
) -> Layers:
    """Train all members on vectors `[K, F]` and z-scored targets `[K]`."""
    count = len(targets)
    batch_size = min(batch_size, count)
    height = targets - jnp.min(targets) + 1  # above the lower bound
    adam = optax.scale_by_adam()

    def loss(params: Layers, batch: Array) -> Array:
        errors = jnp.abs(_apply(params, vectors[batch]) - targets[batch])
        return jnp.mean(errors / height[batch])

    def member(key: Key) -> Layers:
        init_key, order_key = jax.random.split(key)

        def step(carry: Any, batch: Array) -> tuple[Any, None]:
            params, moments = carry
            updates, moments = adam.update(jax.grad(loss)(params, batch), moments)
            params = jax.tree.map(lambda p, u: p - learning_rate * u, params, updates)
            return (params, moments), None

        def epoch(carry: Any, key: Key) -> tuple[Any, None]:
            order = jax.random.permutation(key, count)
            # Motifs that fill no batch wait for the next epoch's order.
            batches = order[: count // batch_size * batch_size].reshape(-1, batch_size)
            return jax.lax.scan(step, carry, batches)

        params = _init(init_key, vectors.shape[1], layers, width)
        start = (params, adam.init(params))
        (params, _), _ = jax.lax.scan(epoch, start, jax.random.split(order_key, epochs))
        return params

    return jax.vmap(member)(keys)


def _vectors(paths: protocol.ToVectors, archs: Archs) -> np.ndarray:
    """Return path encodings `[M, F]` float32, checked."""
    vectors = np.asarray(paths(archs), np.float32)
    motifs = archs_lib.count(archs)
    if vectors.ndim != 2 or len(vectors) != motifs or not np.isfinite(vectors).all():
        raise UserError(
            f"vectors of {motifs} motifs have shape {vectors.shape}: give one row of "
            "finite numbers per motif"
        )
    return vectors

"""Image networks as a phase trains them: batches, augmentation, loss, evaluation."""

import dataclasses
import functools
import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spd_jax.axes import Array
from spd_jax.forward_search import image_data
from spd_jax.forward_search.arch import Arch
from spd_jax.forward_search.image_data import ImageParts, Images
from spd_jax.forward_search.image_net import ImageNet
from spd_jax.forward_search.scope import Scope, Weights
from spd_jax.forward_search.training import COMPILER_OPTIONS
from spd_jax.forward_search.weak import Growth

EVAL_BATCH = 200
UNIT = "accuracy"


class Batch(NamedTuple):
    """Images `[B, H, W, C]` and labels `[B]`."""

    images: Any
    labels: Any


@dataclasses.dataclass(frozen=True)
class ImageModel:
    """A `training.Model` of images.

    Attributes:
      net: widths.
      batch_size: B.
      crop: pixels of padding before a random crop; 0 crops nothing.
      flip: whether images are mirrored at random.
      cutout: side of a square that is set to the mean in every image; 0 cuts nothing.
    """

    net: ImageNet
    batch_size: int = 64
    crop: int = 0
    flip: bool = False
    cutout: int = 0

    def example(self) -> Batch:
        """Return the shapes of a batch."""
        images = jax.ShapeDtypeStruct((self.batch_size, *self.net.image_shape), jnp.float32)
        return Batch(images, jax.ShapeDtypeStruct((self.batch_size,), jnp.int32))

    def batch(self, data: Batch, index: Array, key: Array) -> Batch:
        """Return the images of an index `[B]`, augmented."""
        images = data.images[index]
        crop_key, flip_key, cut_key = jax.random.split(key, 3)
        if self.crop:
            images = _cropped(crop_key, images, self.crop)
        if self.flip:
            flipped = jax.random.bernoulli(flip_key, 0.5, (len(images), 1, 1, 1))
            images = jnp.where(flipped, images[:, :, ::-1], images)
        if self.cutout:
            images = _cut(cut_key, images, self.cutout)
        return Batch(images, data.labels[index])

    def loss(self, scope: Scope, arch: Arch, batch: Batch, growth: Growth | None) -> Array:
        """Return the mean cross-entropy in nats, with the auxiliary head's share."""
        logits, second = self.net.logits(scope, arch, batch.images, growth)
        loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels))
        if second is None:
            return loss
        other = optax.softmax_cross_entropy_with_integer_labels(second, batch.labels)
        return loss + self.net.auxiliary * jnp.mean(other)

    def order(self, count: int, seed: int, epoch: int) -> np.ndarray:
        """Return the indices of an epoch `[K, B]`; a remainder is left out."""
        drawn = np.random.default_rng([seed, epoch]).permutation(count).astype(np.int32)
        batches = max(count // self.batch_size, 1)
        return (
            np.resize(drawn, (batches, self.batch_size))
            if count < self.batch_size
            else (drawn[: batches * self.batch_size].reshape(batches, self.batch_size))
        )

    def errors(
        self, arch: Arch, weights: Weights, averages: Weights, images: Images
    ) -> tuple[float, float]:
        """Return the share of wrong answers and the mean cross-entropy in nats."""
        wrong = total = 0.0
        for first in range(0, len(images.labels), EVAL_BATCH):
            part = slice(first, first + EVAL_BATCH)
            inputs, labels = images.inputs[part], images.labels[part]
            missing = EVAL_BATCH - len(labels)
            padded = np.pad(inputs, ((0, missing), (0, 0), (0, 0), (0, 0)))
            counted = np.pad(np.ones(len(labels), np.float32), (0, missing))
            batch = Batch(padded, np.pad(labels, (0, missing)))
            own = _measure(weights, averages, batch, counted, net=self.net, arch=arch)
            wrong, total = wrong + float(own[0]), total + float(own[1])
        return wrong / len(images.labels), total / len(images.labels)


@functools.partial(jax.jit, static_argnames=("net", "arch"), compiler_options=COMPILER_OPTIONS)
def _measure(
    weights: Weights, averages: Weights, batch: Batch, counted: Array, *, net: ImageNet, arch: Arch
) -> Array:
    """Return the number of wrong answers and the sum of cross-entropies, `[2]`."""
    logits, _ = net.logits(Scope(weights, averages), arch, batch.images)
    wrong = jnp.argmax(logits, -1) != batch.labels
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
    return jnp.stack([jnp.sum(counted * wrong), jnp.sum(counted * losses)])


def _cropped(key: Array, images: Array, reach: int) -> Array:
    """Shift every image by up to `reach` pixels each way; zeros, the mean, come in."""
    padded = jnp.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    places = jax.random.randint(key, (len(images), 2), 0, 2 * reach + 1)

    def one(image: Array, place: Array) -> Array:
        return jax.lax.dynamic_slice(image, (place[0], place[1], 0), images.shape[1:])

    return jax.vmap(one)(padded, places)


def _cut(key: Array, images: Array, size: int) -> Array:
    """Set a square around a random pixel of every image to 0 (DeVries and Taylor, 2017)."""
    count, height, width = images.shape[:3]
    centres = jax.random.randint(key, (2, count), 0, jnp.array([[height], [width]]))
    rows, columns = (
        (jnp.arange(length) >= centre[:, None] - size // 2)
        & (jnp.arange(length) < centre[:, None] + size - size // 2)
        for length, centre in zip((height, width), centres, strict=True)
    )
    return jnp.where((rows[:, :, None] & columns[:, None, :])[..., None], 0.0, images)


@dataclasses.dataclass(frozen=True)
class ImageProblem:
    """What a search of image networks trains on; a `jobs.Problem`.

    Attributes:
      parts: of the data.
      model: of the networks.
    """

    parts: ImageParts
    model: ImageModel
    unit: str = UNIT

    @property
    def count(self) -> int:
        """Return the number of training images."""
        return self.parts.train + (self.parts.valid if self.parts.joined else 0)

    def training_data(self) -> Batch:
        """Return the training images on the device."""
        return _on_device(self.parts)

    def measure(
        self, arch: Arch, weights: Weights, averages: Weights, part: str
    ) -> tuple[float, float]:
        """Return error and cross-entropy on the part "valid" or "test"."""
        return self.model.errors(
            arch, weights, averages, getattr(image_data.load(self.parts), part)
        )

    def score(self, error: float, cross_entropy: float) -> float:
        """Return the score, higher is better: the accuracy."""
        return 1 - error

    def floor(self) -> float:
        """Return half of the smallest error that can be told from none."""
        return 0.5 / self.parts.valid

    def identity(self) -> str:
        """Return a text that the data decide."""
        found = image_data.load(self.parts)
        digest = hashlib.sha256()
        for part in (found.train, found.valid, found.test):
            digest.update(part.inputs.tobytes())
            digest.update(part.labels.tobytes())
        return digest.hexdigest()[:16]


@functools.lru_cache(maxsize=2)
def _on_device(parts: ImageParts) -> Batch:
    train = image_data.load(parts).train
    return Batch(jnp.asarray(train.inputs), jnp.asarray(train.labels))

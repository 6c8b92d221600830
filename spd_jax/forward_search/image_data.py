"""Images in three parts, centred, as training takes them; test data are never used to select."""

import dataclasses
import functools

import numpy as np

from spd_jax.data import images
from spd_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ImageParts:
    """Where images come from and how many of them are used.

    Attributes:
      dataset: name in `data.images.NAMES`.
      data_dir: folder of its files; None downloads them, or takes what is built in.
      train, valid, test: numbers of images.
      halved: whether 2 x 2 pixels become their mean.
      joined: whether the images of the validation are trained on, too: for a final training,
        whose validation error then says nothing.
    """

    dataset: str = "digits"
    data_dir: str | None = None
    train: int = 896
    valid: int = 400
    test: int = 501
    halved: bool = False
    joined: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """Images and labels of one part.

    Attributes:
      inputs: float32 `[N, H, W, C]`, the mean training image taken off, of unit variance.
      labels: int32 `[N]`.
    """

    inputs: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    """The three parts, and the number of classes."""

    train: Images
    valid: Images
    test: Images
    classes: int


@functools.lru_cache(maxsize=2)
def load(parts: ImageParts) -> ImageSet:
    """Load images and cut them into parts, in the order in which they are published.

    Training images are the first of the training files, those of the validation the last (as
    in the paper). Test images are the first of the test files; a data set without such files
    gives its last images.

    Raises:
      UserError: too few images, a missing or damaged file.
    """
    found = images.load_images(parts.dataset, parts.data_dir)
    pixels = np.concatenate([found.train_images, found.valid_images])
    labels = np.concatenate([found.train_labels, found.valid_labels])
    test_pixels, test_labels = found.test_images, found.test_labels
    if not len(test_labels):
        kept = max(len(labels) - parts.test, 0)
        test_pixels, test_labels = pixels[kept:], labels[kept:]
        pixels, labels = pixels[:kept], labels[:kept]
    _check(parts, len(labels), len(test_labels))
    start = len(labels) - parts.valid
    chosen = np.arange(parts.train)
    if parts.joined:
        chosen = np.r_[chosen, start : len(labels)]
    cut = {
        "train": (pixels[chosen], labels[chosen]),
        "valid": (pixels[start:], labels[start:]),
        "test": (test_pixels[: parts.test], test_labels[: parts.test]),
    }
    shaped = {name: _shaped(own, parts.halved) for name, (own, _) in cut.items()}
    centre = shaped["train"].mean(axis=0)
    scale = (shaped["train"] - centre).std()
    centred = {
        name: Images(((shaped[name] - centre) / scale).astype(np.float32), own)
        for name, (_, own) in cut.items()
    }
    classes = max(int(own.max()) for own in (labels, test_labels)) + 1
    return ImageSet(**centred, classes=classes)


def _check(parts: ImageParts, training: int, testing: int) -> None:
    """Refuse to take more images than there are."""
    for wanted, has, what in (
        (parts.train + parts.valid, training, f"train={parts.train} and valid={parts.valid}"),
        (parts.test, testing, f"test={parts.test}"),
    ):
        if wanted > has:
            raise UserError(
                f"{parts.dataset} has {has} images for {what}: ask for fewer, or give more files"
            )


def _shaped(pixels: np.ndarray, halved: bool) -> np.ndarray:
    """Return images `[N, H, W, C]` as float32; `halved` takes means of 2 x 2 pixels."""
    count, height, width, channels = pixels.shape
    shaped = pixels.astype(np.float32)
    if halved:
        height, width = height // 2, width // 2
        shaped = shaped[:, : 2 * height, : 2 * width]
        shaped = shaped.reshape(count, height, 2, width, 2, channels).mean(axis=(2, 4))
    return shaped

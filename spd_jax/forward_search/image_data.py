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
    """

    dataset: str = "digits"
    data_dir: str | None = None
    train: int = 896
    valid: int = 400
    test: int = 501
    halved: bool = False


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

    Training images are the first, those of the validation the last of the training file (as
    the paper does); test images come from behind both, since the library's data sets keep the
    published test files out: the first of its own validation part, which nothing here trains on.

    Raises:
      UserError: too few images, a missing or damaged file.
    """
    found = images.load(parts.dataset, parts.data_dir)
    inputs = np.concatenate([found.train_inputs, found.valid_inputs])
    labels = np.concatenate([found.train_labels, found.valid_labels])
    wanted = parts.train + parts.valid + parts.test
    if min(parts.train, parts.valid, parts.test) < 1 or wanted > len(inputs):
        raise UserError(
            f"{parts.dataset} has {len(inputs)} images, but train={parts.train}, "
            f"valid={parts.valid} and test={parts.test} are asked for: ask for fewer"
        )
    test_at = len(inputs) - parts.test
    learned = len(found.train_inputs) if len(found.train_inputs) <= test_at else test_at
    places = {
        "train": slice(0, parts.train),
        "valid": slice(max(learned - parts.valid, parts.train), None),
        "test": slice(test_at, None),
    }
    shaped = _shaped(inputs, parts.halved)
    centre = shaped[: parts.train].mean(axis=0)
    scale = (shaped[: parts.train] - centre).std()
    count = {"train": parts.train, "valid": parts.valid, "test": parts.test}
    cut = {
        part: Images(
            np.ascontiguousarray((shaped[place][: count[part]] - centre) / scale, np.float32),
            labels[place][: count[part]].astype(np.int32),
        )
        for part, place in places.items()
    }
    return ImageSet(**cut, classes=int(labels.max()) + 1)


def _shaped(inputs: np.ndarray, halved: bool) -> np.ndarray:
    """Return images `[N, H, W, C]` of flat rows: square, of one channel or three."""
    size = inputs.shape[1]
    channels = 3 if size % 3 == 0 and round((size / 3) ** 0.5) ** 2 * 3 == size else 1
    side = round((size / channels) ** 0.5)
    shaped = inputs.reshape(len(inputs), side, side, channels).astype(np.float32)
    if halved:
        side //= 2
        shaped = shaped.reshape(len(inputs), side, 2, side, 2, channels).mean(axis=(2, 4))
    return shaped

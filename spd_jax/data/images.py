"""Labelled images: found or downloaded, verified by their checksums, decoded, split."""

import dataclasses
import functools
import gzip
import hashlib
import pathlib
import struct
import zlib
from typing import NamedTuple

import numpy as np

from spd_jax.data import download
from spd_jax.errors import UserError, check_name

NAMES = ("mnist", "fashion_mnist", "digits")


class ImageData(NamedTuple):
    """A classification data set, split into train and valid (the last sixth).

    Attributes:
      train_inputs: `[N, D]` float32 in [0, 1].
      train_labels: `[N]` int32 in [0, classes).
      valid_inputs: `[N', D]` float32 in [0, 1].
      valid_labels: `[N']` int32.
    """

    train_inputs: np.ndarray
    train_labels: np.ndarray
    valid_inputs: np.ndarray
    valid_labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class _RemoteFile:
    """One IDX file: its name, the checksum of its published gz and of the decompressed bytes."""

    name: str
    gz_hash: str
    sha256: str


_URLS = {
    "mnist": "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "fashion_mnist": "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
}
_FILES = {
    "mnist": (
        _RemoteFile(
            "train-images-idx3-ubyte.gz",
            "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        _RemoteFile(
            "train-labels-idx1-ubyte.gz",
            "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
    ),
    "fashion_mnist": (
        _RemoteFile(
            "train-images-idx3-ubyte.gz",
            "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        _RemoteFile(
            "train-labels-idx1-ubyte.gz",
            "md5:25c81989df183df01b3e8a0aad5dffbe",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
    ),
}


def load(name: str, data_dir: str | None = None) -> ImageData:
    """Load a data set by name.

    MNIST (LeCun et al., 1998) and Fashion-MNIST (Xiao et al., 2017) come as gz
    IDX files from `data_dir`, else from the web into pooch's cache; `digits` is
    scikit-learn's embedded 8 x 8 set (1,797 images). Only the training files
    are read: their last sixth is the validation set (10,000 of 60,000).

    Args:
      name: one of `NAMES`.
      data_dir: folder that holds the gz files; `None` downloads them.

    Returns:
      The data, split.

    Raises:
      UserError: unknown name, missing file, or a file that is not the published one.
    """
    check_name("data set", name, NAMES)
    if name == "digits":
        images, labels = _load_digits()
    else:
        image_file, label_file = _FILES[name]
        images = parse_idx(_read_verified(name, image_file, data_dir))
        labels = parse_idx(_read_verified(name, label_file, data_dir))
        images = images.reshape(len(images), -1).astype(np.float32) / 255
    split = len(images) - len(images) // 6
    labels = labels.astype(np.int32)
    return ImageData(images[:split], labels[:split], images[split:], labels[split:])


@functools.cache
def identity(name: str) -> str:
    """Return 64 hexadecimal digits that tell a data set from any other.

    Those of MNIST and Fashion-MNIST follow from the published checksums, so that no data are
    needed to know them; `digits` is read.

    Args:
      name: one of `NAMES`.

    Raises:
      UserError: unknown name.
    """
    digest = hashlib.sha256()
    for file in _FILES.get(name, ()):
        digest.update(file.sha256.encode())
    if name not in _FILES:
        for array in load(name):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _load_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn import datasets as sklearn_datasets

    images, labels = sklearn_datasets.load_digits(return_X_y=True)
    return (images / 16).astype(np.float32), labels


def parse_idx(content: bytes) -> np.ndarray:
    """Decode the bytes of an IDX file of unsigned bytes.

    Args:
      content: magic number `00 00 08 rank`, `rank` big-endian uint32 sizes, then
        the values in C order.

    Returns:
      uint8 array of the shape that the header states.

    Raises:
      UserError: the header is not such a one, or the length disagrees with it.
    """
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise UserError("not an IDX file of unsigned bytes: give the published file")
    rank = content[3]
    start = 4 + 4 * rank
    if len(content) < start:
        raise UserError("IDX header is cut off: give the whole published file")
    shape = struct.unpack(f">{rank}I", content[4:start])
    if len(content) - start != np.prod(shape, dtype=np.int64):
        raise UserError(
            f"IDX header says shape {shape}, but {len(content) - start} bytes follow: "
            "give the whole published file"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _read_verified(dataset: str, file: _RemoteFile, data_dir: str | None) -> bytes:
    """Read one file and return its decompressed bytes, checked against the published ones."""
    if data_dir is None:
        name = f"{dataset}-{file.name}"
        path = download.download(_URLS[dataset] + file.name, file.gz_hash, name)
    else:
        path = pathlib.Path(data_dir) / file.name
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing: put {file.name} from {_URLS[dataset]} there, "
            "or let data_dir=None download it"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} cannot be decompressed ({error}): it is truncated or altered; "
            f"get it anew from {_URLS[dataset]}"
        ) from error
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise UserError(
            f"{path} is not the published {dataset} file (its checksum differs): "
            f"get it anew from {_URLS[dataset]}"
        )
    return content

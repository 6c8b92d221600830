"""Labelled images: found or downloaded, verified by their checksums, decoded, split."""

import dataclasses
import functools
import gzip
import hashlib
import pathlib
import re
import struct
import tarfile
import zlib
from typing import NamedTuple

import numpy as np

from spd_jax.data import download
from spd_jax.errors import UserError, check_name

NAMES = ("mnist", "fashion_mnist", "digits", "cifar10")
CIFAR_RECORD = 1 + 3 * 32 * 32  # bytes: a label, then the red, green and blue planes
CIFAR_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
# Its page states the MD5 c32a1d4ab5d03f1284b67883e8d87530, of the same 170,052,171 bytes.
CIFAR_HASH = "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"

Labelled = tuple[np.ndarray, np.ndarray]  # images and their labels


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


class Images(NamedTuple):
    """A data set of images, split into train, valid (the last sixth of the training files), test.

    Attributes:
      train_images: `[N, H, W, C]` uint8.
      train_labels: `[N]` int32 in [0, classes).
      valid_images: `[N', H, W, C]` uint8.
      valid_labels: `[N']` int32.
      test_images: `[N'', H, W, C]` uint8, of the data set's own test files; N'' is 0 where it
        has none.
      test_labels: `[N'']` int32.
      files: names of the files that were read, in order.
      identity: 64 hexadecimal digits that pixels and labels decide.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    valid_images: np.ndarray
    valid_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    files: tuple[str, ...]
    identity: str


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
_TEST_FILES = {
    "mnist": (
        _RemoteFile(
            "t10k-images-idx3-ubyte.gz",
            "md5:9fb629c4189551a2d022fa330f9573f3",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        _RemoteFile(
            "t10k-labels-idx1-ubyte.gz",
            "md5:ec29112dd5afa0611ce80d1b7f02629c",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "fashion_mnist": (
        _RemoteFile(
            "t10k-images-idx3-ubyte.gz",
            "md5:bef4ecab320f06d8554ea6380940ec79",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        _RemoteFile(
            "t10k-labels-idx1-ubyte.gz",
            "md5:bb300cfdad3c16e7a12a480ee83cd310",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
}
_BATCH = re.compile(r"data_batch_[1-9]\.bin")


def load(name: str, data_dir: str | None = None) -> ImageData:
    """Load a data set by name.

    MNIST (LeCun et al., 1998) and Fashion-MNIST (Xiao et al., 2017) come as gz
    IDX files from `data_dir`, else from the web into pooch's cache; `digits` is
    scikit-learn's embedded 8 x 8 set (1,797 images); `cifar10` is that of `load_images`, its
    colours side by side. Only the training files are used: their last sixth is the validation
    set (10,000 of 60,000).

    Args:
      name: one of `NAMES`.
      data_dir: folder of the files, the test batch of `cifar10` among them; `None` downloads them.

    Returns:
      The data, split.

    Raises:
      UserError: unknown name, missing file, or a file that is not the published one.
    """
    check_name("data set", name, NAMES)
    if name == "cifar10":
        own = load_images(name, data_dir)
        train, valid = (
            images.reshape(len(images), -1).astype(np.float32) / 255
            for images in (own.train_images, own.valid_images)
        )
        return ImageData(train, own.train_labels, valid, own.valid_labels)
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
def identity(name: str, data_dir: str | None = None) -> str:
    """Return 64 hexadecimal digits that tell a data set from any other.

    Those of MNIST and Fashion-MNIST follow from the published checksums, so that no data are
    needed to know them; `digits` and `cifar10` are read.

    Args:
      name: one of `NAMES`.
      data_dir: as `load`; it decides which batches of `cifar10` there are.

    Raises:
      UserError: as `load`.
    """
    digest = hashlib.sha256()
    for file in _FILES.get(name, ()):
        digest.update(file.sha256.encode())
    if name not in _FILES:
        for array in load(name, data_dir):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def load_images(name: str, data_dir: str | None = None) -> Images:
    """Load a data set as images, with its test files.

    `cifar10` (Krizhevsky, 2009) is read in its binary layout: a folder may hold any of the five
    `data_batch_<n>.bin`, which are read in order of their numbers, and must hold
    `test_batch.bin`. The official archive is verified when it is downloaded; what a folder holds
    is taken as it is, and `Images.files` and `Images.identity` say what that was.

    Args:
      name: one of `NAMES`.
      data_dir: folder of the files; `None` downloads them.

    Returns:
      The data, split. `digits` has 17 levels of grey, 15 apart.

    Raises:
      UserError: unknown name, a missing file, or one that cannot be what its name says.
    """
    check_name("data set", name, NAMES)
    read: tuple[str, ...] = ()
    if name == "digits":
        inputs, labels = _load_digits()
        train = (inputs.reshape(-1, 8, 8, 1) * 240).astype(np.uint8), labels
        test = train[0][:0], labels[:0]
    elif name == "cifar10":
        train, test, read = _load_cifar(data_dir)
    else:
        train = _load_idx(name, _FILES[name], data_dir)
        test = _load_idx(name, _TEST_FILES[name], data_dir)
        read = tuple(file.name for file in (*_FILES[name], *_TEST_FILES[name]))
    split = len(train[0]) - len(train[0]) // 6
    valid = train[0][split:], train[1][split:]
    train = train[0][:split], train[1][:split]
    train, valid, test = ((own[0], own[1].astype(np.int32)) for own in (train, valid, test))
    digest = hashlib.sha256()
    for array in (*train, *valid, *test):
        digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return Images(*train, *valid, *test, read, digest.hexdigest())


def _load_idx(name: str, files: tuple[_RemoteFile, ...], data_dir: str | None) -> Labelled:
    """Return grey images `[N, H, W, 1]` and their labels."""
    images, labels = (parse_idx(_read_verified(name, file, data_dir)) for file in files)
    return images[..., None], labels


def _load_cifar(data_dir: str | None) -> tuple[Labelled, Labelled, tuple[str, ...]]:
    """Return what is to be trained on, what to be tested on, and the names of the files."""
    contents = _cifar_batches(data_dir)
    *parts, test = (parse_cifar(content, file) for file, content in contents.items())
    images, labels = zip(*parts, strict=True)
    return (np.concatenate(images), np.concatenate(labels)), test, tuple(contents)


def parse_cifar(content: bytes, file: str) -> tuple[np.ndarray, np.ndarray]:
    """Decode a batch of CIFAR-10 in its binary layout.

    Args:
      content: records of 3,073 bytes: a label, then 32 x 32 bytes of red, of green and of blue.
      file: its name, for messages.

    Returns:
      Images `[N, 32, 32, 3]` uint8 and labels `[N]` uint8.

    Raises:
      UserError: the bytes are no whole number of records, or a label is above 9.
    """
    if not content or len(content) % CIFAR_RECORD:
        raise UserError(
            f"{file} has {len(content)} bytes, which are no whole number of records of "
            f"{CIFAR_RECORD}: give a whole file of CIFAR-10's binary version"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, CIFAR_RECORD)
    if records[:, 0].max() > 9:
        raise UserError(
            f"{file} has the label {records[:, 0].max()}: give a file of CIFAR-10's binary "
            "version, whose labels are 0 to 9"
        )
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]


def _cifar_batches(data_dir: str | None) -> dict[str, bytes]:
    """Return the contents of CIFAR-10's files by name, the test batch last."""
    if data_dir is None:
        path = download.download(CIFAR_URL, CIFAR_HASH, "cifar-10-binary.tar.gz")
        with tarfile.open(path) as archive:
            members = {pathlib.PurePath(own.name).name: own for own in archive if own.isfile()}
            found = {
                name: stream.read()
                for name, own in sorted(members.items())
                if name.endswith("batch.bin") or name.startswith("data_batch")
                if (stream := archive.extractfile(own)) is not None
            }
        return found
    folder = pathlib.Path(data_dir)
    names = sorted(p.name for p in folder.glob("data_batch_*.bin") if _BATCH.fullmatch(p.name))
    if not names or not (folder / "test_batch.bin").is_file():
        missing = "test_batch.bin" if names else "data_batch_1.bin"
        raise UserError(
            f"{folder / missing} is missing: put the .bin files of {CIFAR_URL} there, or let "
            "data_dir=None download them"
        )
    try:
        return {name: (folder / name).read_bytes() for name in (*names, "test_batch.bin")}
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error}): give a folder you may read") from error


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

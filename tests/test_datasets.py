"""datasets: IDX decoding, checksums, downloads from a server of our own, splits."""

import functools
import gzip
import hashlib
import http.server
import struct
import tarfile
import threading

import numpy as np
import pooch
import pytest

from spd_jax.data import images as datasets
from spd_jax.errors import UserError

IMAGES = np.arange(12 * 2 * 3, dtype=np.uint8).reshape(12, 2, 3) * 3
LABELS = (np.arange(12) % 10).astype(np.uint8)


def idx(array):
    """Encode an array as an IDX file of unsigned bytes."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def publish(monkeypatch, contents):
    """Make `contents` (two byte strings) the published MNIST; return the gz files by name."""
    files, packed = [], {}
    for name, content in zip(("images.gz", "labels.gz"), contents, strict=True):
        packed[name] = gzip.compress(content, mtime=0)
        gz_hash = "sha256:" + hashlib.sha256(packed[name]).hexdigest()
        plain_hash = hashlib.sha256(content).hexdigest()
        files.append(datasets._RemoteFile(name, gz_hash, plain_hash))
    monkeypatch.setitem(datasets._FILES, "mnist", tuple(files))
    return packed


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A folder with a small MNIST, published as the right one."""
    for name, content in publish(monkeypatch, (idx(IMAGES), idx(LABELS))).items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def assert_is_the_small_mnist(data):
    images = IMAGES.reshape(12, 6).astype(np.float32) / 255
    np.testing.assert_array_equal(data.train_inputs, images[:10])
    np.testing.assert_array_equal(data.valid_inputs, images[10:])  # the last sixth
    np.testing.assert_array_equal(data.train_labels, LABELS[:10])
    np.testing.assert_array_equal(data.valid_labels, LABELS[10:])
    assert data.train_inputs.dtype == data.valid_inputs.dtype == np.float32
    assert data.train_labels.dtype == data.valid_labels.dtype == np.int32


# Decoding


@pytest.mark.parametrize("shape", [(5,), (2, 3), (4, 2, 3), (1, 2, 3, 4), (0, 3)])
def test_idx_comes_back(shape):
    array = np.random.default_rng(0).integers(256, size=shape).astype(np.uint8)
    decoded = datasets.parse_idx(idx(array))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file of unsigned bytes"),
        (b"\x00\x00\x08", "not an IDX file of unsigned bytes"),
        (b"\x00\x00\x0d\x01" + bytes(8), "not an IDX file of unsigned bytes"),  # floats
        (b"\x89PNG" + bytes(20), "not an IDX file of unsigned bytes"),
        (idx(IMAGES)[:9], "header is cut off"),
        (idx(IMAGES)[:-1], r"header says shape \(12, 2, 3\), but 71 bytes follow"),
        (idx(IMAGES) + b"\x00", "73 bytes follow"),
    ],
)
def test_what_is_no_whole_idx_file_is_refused(content, message):
    with pytest.raises(UserError, match=message):
        datasets.parse_idx(content)


# A folder of the user's


def test_files_of_a_folder_are_decoded_and_split(folder):
    assert_is_the_small_mnist(datasets.load("mnist", str(folder)))


def test_a_missing_file_is_named_with_where_to_get_it(folder):
    (folder / "labels.gz").unlink()
    with pytest.raises(UserError, match=r"labels\.gz is missing: put labels\.gz from https://"):
        datasets.load("mnist", str(folder))


def test_a_truncated_file_is_refused(folder):
    path = folder / "images.gz"
    whole = path.read_bytes()
    for length in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"images\.gz (cannot be decompressed|is not the publ)"):
            datasets.load("mnist", str(folder))


def test_an_altered_byte_anywhere_is_refused_or_harmless(folder):
    path = folder / "labels.gz"
    whole = path.read_bytes()
    outcomes = []
    for position in range(len(whole)):
        altered = bytearray(whole)
        altered[position] ^= 0x20
        path.write_bytes(bytes(altered))
        outcomes.append(outcome_of_loading(folder))
    # gzip's own header has bytes that do not matter.
    assert outcomes.count("refused") > len(whole) // 2


def outcome_of_loading(folder):
    try:
        data = datasets.load("mnist", str(folder))
    except UserError:
        return "refused"
    assert_is_the_small_mnist(data)
    return "right"


def test_another_set_under_the_right_name_is_refused(folder):
    (folder / "labels.gz").write_bytes(gzip.compress(idx(LABELS[::-1])))
    with pytest.raises(UserError, match="is not the published mnist file"):
        datasets.load("mnist", str(folder))


def test_recompressed_files_are_welcome(folder):
    for name, content in (("images.gz", idx(IMAGES)), ("labels.gz", idx(LABELS))):
        (folder / name).write_bytes(gzip.compress(content, compresslevel=1, mtime=7))
    assert_is_the_small_mnist(datasets.load("mnist", str(folder)))


def test_a_wrong_magic_number_is_refused_behind_a_right_checksum(monkeypatch, tmp_path):
    for name, content in publish(monkeypatch, (b"\x01" + idx(IMAGES)[1:], idx(LABELS))).items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="not an IDX file of unsigned bytes"):
        datasets.load("mnist", str(tmp_path))


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="unknown data set 'cifar': use one of mnist, fashion_mni"):
        datasets.load("cifar")


# Downloads


class Server:
    """Serve a folder on this machine and count the requests."""

    def __init__(self, folder):
        self.paths = paths = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *args):
                paths.append(self.path)

        handler = functools.partial(Handler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def server(folder, monkeypatch, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(pooch, "os_cache", lambda name: cache / name)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    server = Server(folder)
    monkeypatch.setitem(datasets._URLS, "mnist", server.url)
    server.cache = cache / "spd_jax"
    yield server
    server.close()


def test_files_are_downloaded_once(server):
    assert_is_the_small_mnist(datasets.load("mnist"))
    assert sorted(server.paths) == ["/images.gz", "/labels.gz"]
    assert_is_the_small_mnist(datasets.load("mnist"))
    assert len(server.paths) == 2


def test_a_damaged_cache_is_downloaded_anew(server):
    datasets.load("mnist")
    (server.cache / "mnist-images.gz").write_bytes(b"damaged")
    assert_is_the_small_mnist(datasets.load("mnist"))
    assert server.paths.count("/images.gz") == 2


def test_a_wrong_download_is_refused_and_not_kept(server, folder):
    good = (folder / "images.gz").read_bytes()
    (folder / "images.gz").write_bytes(gzip.compress(b"an error page"))
    with pytest.raises(
        UserError, match=r"cannot download .*images\.gz .*give its folder as data_dir"
    ):
        datasets.load("mnist")
    (folder / "images.gz").write_bytes(good)
    assert_is_the_small_mnist(datasets.load("mnist"))


def test_a_file_that_the_server_lacks_says_what_to_do(server, folder):
    (folder / "labels.gz").unlink()
    with pytest.raises(
        UserError, match=r"cannot download .*labels\.gz .*give its folder as data_dir"
    ):
        datasets.load("mnist")


# Images, with test files


@pytest.fixture
def images(folder, monkeypatch):
    """The small MNIST with test files: its own files in the other order."""
    monkeypatch.setitem(datasets._TEST_FILES, "mnist", datasets._FILES["mnist"])
    return datasets.load_images("mnist", str(folder))


def test_images_have_the_pixels_of_the_files(images):
    np.testing.assert_array_equal(images.train_images, IMAGES[:10, :, :, None])
    np.testing.assert_array_equal(images.valid_images, IMAGES[10:, :, :, None])
    np.testing.assert_array_equal(images.test_images, IMAGES[..., None])
    np.testing.assert_array_equal(images.valid_labels, LABELS[10:])
    np.testing.assert_array_equal(images.test_labels, LABELS)
    assert images.train_images.dtype == np.uint8
    assert images.train_labels.dtype == images.test_labels.dtype == np.int32
    assert images.files == ("images.gz", "labels.gz") * 2


def test_images_of_digits_need_no_files():
    data = datasets.load_images("digits")
    vectors = datasets.load("digits")
    assert data.train_images.shape == (1498, 8, 8, 1)
    assert data.test_images.shape == (0, 8, 8, 1)
    np.testing.assert_array_equal(
        data.valid_images.reshape(299, 64), np.round(vectors.valid_inputs * 240)
    )
    np.testing.assert_array_equal(data.train_labels, vectors.train_labels)
    with pytest.raises(UserError, match="unknown data set 'svhn': use one of mnist, fashion_mnist"):
        datasets.load_images("svhn")


def cifar(count, seed):
    """Return a batch of CIFAR-10 as bytes, and its images and labels."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(256, size=(count, 32, 32, 3)).astype(np.uint8)
    labels = rng.integers(10, size=count).astype(np.uint8)
    records = [
        bytes([label]) + image.transpose(2, 0, 1).tobytes()
        for label, image in zip(labels, pixels, strict=True)
    ]
    return b"".join(records), pixels, labels


@pytest.fixture
def cifar_folder(tmp_path):
    """A folder with batches 1 and 3 and the test batch, and files that are none of them."""
    for number, name in enumerate(("data_batch_3", "data_batch_1", "test_batch"), 1):
        (tmp_path / f"{name}.bin").write_bytes(cifar(3 * number, number)[0])
    (tmp_path / "data_batch_10.bin").write_bytes(b"a copy of somebody's")
    (tmp_path / "batches.meta.txt").write_text("airplane\n")
    return tmp_path


def test_the_batches_of_cifar_that_are_there_are_read_in_order(cifar_folder):
    data = datasets.load_images("cifar10", str(cifar_folder))
    parts = cifar(6, 2), cifar(3, 1)
    pixels, labels = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
    np.testing.assert_array_equal(data.train_images, pixels[:8])  # all but the last sixth of 9
    np.testing.assert_array_equal(data.valid_images, pixels[8:])
    np.testing.assert_array_equal(data.train_labels, labels[:8])
    np.testing.assert_array_equal(data.test_images, cifar(9, 3)[1])
    assert data.files == ("data_batch_1.bin", "data_batch_3.bin", "test_batch.bin")


def test_colours_of_cifar_stand_side_by_side_for_a_classifier_of_vectors(cifar_folder):
    folder = str(cifar_folder)
    whole, flat = datasets.load_images("cifar10", folder), datasets.load("cifar10", folder)
    pixels = whole.train_images.reshape(-1, 3072).astype(np.float32) / 255
    np.testing.assert_array_equal(flat.train_inputs, pixels)
    assert len(flat.valid_inputs) == len(whole.valid_images) == 1
    np.testing.assert_array_equal(flat.valid_labels, whole.valid_labels)
    before = datasets.identity("cifar10", folder)
    (cifar_folder / "data_batch_3.bin").unlink()
    datasets.identity.cache_clear()
    assert datasets.identity("cifar10", folder) != before


def test_the_identity_of_images_is_what_was_read(cifar_folder, images):
    whole = datasets.load_images("cifar10", str(cifar_folder)).identity
    assert datasets.load_images("cifar10", str(cifar_folder)).identity == whole
    (cifar_folder / "data_batch_3.bin").unlink()
    fewer = datasets.load_images("cifar10", str(cifar_folder)).identity
    content = bytearray((cifar_folder / "test_batch.bin").read_bytes())
    content[5] ^= 1
    (cifar_folder / "test_batch.bin").write_bytes(bytes(content))
    other = datasets.load_images("cifar10", str(cifar_folder)).identity
    assert len({whole, fewer, other, images.identity}) == 4


def test_cifar_is_read_out_of_the_archive_that_is_downloaded(cifar_folder, monkeypatch):
    path = cifar_folder / "archive.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("test_batch.bin", "data_batch_3.bin", "data_batch_1.bin", "batches.meta.txt"):
            archive.add(cifar_folder / name, f"cifar-10-batches-bin/{name}")
    asked = []

    def download(url, known_hash, name):
        asked.append((url, known_hash, name))
        return path

    monkeypatch.setattr(datasets.download, "download", download)
    found = datasets.load_images("cifar10")
    assert found.identity == datasets.load_images("cifar10", str(cifar_folder)).identity
    assert found.files == ("data_batch_1.bin", "data_batch_3.bin", "test_batch.bin")
    assert asked[0][0].startswith("https://www.cs.toronto.edu/")
    assert len(bytes.fromhex(asked[0][1].removeprefix("sha256:"))) == 32


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "data_batch_1.bin has 0 bytes"),
        (bytes(3072), "data_batch_1.bin has 3072 bytes, which are no whole number of records"),
        (bytes([10]) + bytes(3072), "data_batch_1.bin has the label 10"),
    ],
)
def test_what_is_no_batch_of_cifar_is_refused(cifar_folder, content, message):
    (cifar_folder / "data_batch_1.bin").write_bytes(content)
    with pytest.raises(UserError, match=message):
        datasets.load_images("cifar10", str(cifar_folder))


def test_missing_batches_of_cifar_are_named_with_where_to_get_them(cifar_folder, tmp_path):
    (cifar_folder / "test_batch.bin").unlink()
    with pytest.raises(
        UserError, match=r"test_batch\.bin is missing: put the \.bin files of https:"
    ):
        datasets.load_images("cifar10", str(cifar_folder))
    with pytest.raises(UserError, match=r"data_batch_1\.bin is missing"):
        datasets.load_images("cifar10", str(tmp_path / "nothing"))


# Embedded data, and the constants


def test_digits_need_no_files():
    data = datasets.load("digits")
    assert data.train_inputs.shape == (1498, 64)
    assert data.valid_inputs.shape == (299, 64)
    assert data.train_inputs.min() == 0
    assert data.train_inputs.max() == 1
    assert set(data.train_labels) == set(data.valid_labels) == set(range(10))
    assert data.train_inputs.dtype == np.float32
    assert data.train_labels.dtype == np.int32


def test_the_identity_is_that_of_the_data():
    names = {name: datasets.identity(name) for name in ("mnist", "fashion_mnist", "digits")}
    assert len(set(names.values())) == 3
    # Ledgers are keyed by it: it must never change.
    assert {name: identity[:16] for name, identity in names.items()} == {
        "mnist": "02def62d38696cdd",
        "fashion_mnist": "38831b7b377c44db",
        "digits": "19eafa029629badb",
    }
    with pytest.raises(UserError, match="unknown data set 'cifar'"):
        datasets.identity("cifar")


def test_every_published_file_has_a_place_and_two_checksums():
    assert set(datasets._FILES) == set(datasets._URLS) == {"mnist", "fashion_mnist"}
    assert set(datasets._TEST_FILES) == set(datasets._FILES)
    every = [*datasets._FILES.items(), *datasets._TEST_FILES.items()]
    for name, files in every:
        assert datasets._URLS[name].startswith("https://")
        assert datasets._URLS[name].endswith("/")
        for file in files:
            kind, checksum = file.gz_hash.split(":")
            assert len(bytes.fromhex(checksum)) == {"sha256": 32, "md5": 16}[kind]
            assert len(bytes.fromhex(file.sha256)) == 32

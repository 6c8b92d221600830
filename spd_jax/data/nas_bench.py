"""Readers of the tables that the authors of NAS benchmarks publish, as plain rows.

A malformed file is refused in one sentence that names it. Nothing is unpickled.

- NAS-Bench-201 (Dong and Yang, 2020) as a CSV file, one cell a row; see `read_nasbench201`.
- EC-NAS (Bakhtiarifard et al., 2024) as JSON: cells of NAS-Bench-101, see `read_ec_nas`.
- NAS-Bench-101 (Ying et al., 2019) as the published TFRecords, see `read_nasbench101`.
"""

import base64
import binascii
import functools
import hashlib
import json
import math
import pathlib
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from spd_jax import files
from spd_jax.errors import UserError

ARCH_COLUMN = "arch"  # of the CSV file; all other columns that are read are accuracies in per cent
NAMES_101 = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")  # by EC-NAS's labels 0, 1, 2
MOST_VERTICES = 7
LONGEST_RECORD = 2**20  # bytes; those of NAS-Bench-101 have some 400
BLOCK = 2**23  # bytes of a file of records that are in memory at once
SHA256 = {
    "nasbench_only108.tfrecord": "4c39c3936e36a85269881d659e44e61a245babcb72cb374eacacf75d0e5f4fd1"
}


class NasBench201Row(NamedTuple):
    """A cell of NAS-Bench-201.

    Attributes:
      cell: the benchmark's text, `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`.
      accuracies: in [0, 1], by the name of the column.
    """

    cell: str
    accuracies: Mapping[str, float]


class Measurement(NamedTuple):
    """What a training of NAS-Bench-101 had reached at some time; accuracies in [0, 1].

    Attributes:
      epoch: after how many epochs.
      seconds: of training until then; NaN where the table does not say.
      train_accuracy: on training images; NaN where the table does not say.
      valid_accuracy: on 10,000 validation images.
      test_accuracy: on 10,000 test images.
    """

    epoch: float
    seconds: float
    train_accuracy: float
    valid_accuracy: float
    test_accuracy: float


class NasBench101Row(NamedTuple):
    """One training of a cell of NAS-Bench-101.

    Attributes:
      cell: `bits|input,operation,...,output`: all V x V bits of the adjacency and V names.
      hash: the benchmark's fingerprint of the cell, 32 hexadecimal digits.
      epochs: of the training.
      parameters: trainable ones of the full network.
      halfway: half-way through.
      final: at the end.
    """

    cell: str
    hash: str
    epochs: int
    parameters: int
    halfway: Measurement
    final: Measurement


def read_nasbench201(path: files.Path) -> list[NasBench201Row]:
    """Read NAS-Bench-201 as a CSV file.

    Args:
      path: CSV with a header; the column `arch` holds the benchmark's texts, each once. Every
        other column but `index` holds accuracies in per cent, 0 to 100, for example
        `c10_val_12ep`.

    Returns:
      The rows in order, with accuracies in [0, 1].

    Raises:
      UserError: the file is missing or no such table; the sentence names the line.
    """
    _, rows = files.read_csv(path, (ARCH_COLUMN,))
    found: dict[str, NasBench201Row] = {}
    for line, row in rows:
        cell = row[ARCH_COLUMN].strip()
        if cell in found:
            raise UserError(f"{path}, line {line}: the cell {cell!r} is there twice: drop one")
        numbers = {
            name: _per_cent(path, line, name, text)
            for name, text in row.items()
            if name not in (ARCH_COLUMN, "index")
        }
        found[cell] = NasBench201Row(cell, numbers)
    if not found:
        raise UserError(f"{path} has no rows: give a table with at least one cell")
    return list(found.values())


def _per_cent(path: files.Path, line: int, name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 100:
        raise UserError(
            f"{path}, line {line}: {name} is {text[:40]!r}: give an accuracy in per cent, 0 to 100"
        )
    return number / 100


def read_ec_nas(path: files.Path) -> list[NasBench101Row]:
    """Read a file of EC-NAS.

    Args:
      path: JSON, a list of cells: `{"hash", "matrix", "labels", "params", "runs": [{"epochs",
        "train_acc", "val_acc", "test_acc", "train_time_s", "halfway": {"epochs",
        "validation_accuracy", "test_accuracy"}}]}`. Labels are -1 for the input, -2 for the
        output, and places in `NAMES_101`.

    Returns:
      A row for every run, in the order of the file.

    Raises:
      UserError: the file is missing or no such list; the sentence names the cell.
    """
    try:
        cells = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: give the path of a JSON file of EC-NAS") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}): give a JSON file of EC-NAS") from error
    if not isinstance(cells, list) or not cells:
        raise UserError(f"{path} holds no list of cells: give a JSON file of EC-NAS")
    rows = []
    for number, cell in enumerate(cells):
        try:
            rows += _rows_of_ec_nas(cell)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise UserError(
                f"{path}: cell {number} (from 0) cannot be read ({reason}): give hash, matrix, "
                "labels, params and runs for each"
            ) from error
    return rows


def _rows_of_ec_nas(cell: Any) -> list[NasBench101Row]:
    """Return the runs of a cell; raises what `read_ec_nas` catches."""
    matrix, labels = cell["matrix"], cell["labels"]
    if labels[0] != -1 or labels[-1] != -2:
        raise ValueError("its labels do not run from -1 to -2")
    if not all(label in range(len(NAMES_101)) for label in labels[1:-1]):
        raise ValueError(f"its labels are not all below {len(NAMES_101)}")
    names = ["input", *(NAMES_101[label] for label in labels[1:-1]), "output"]
    if len(matrix) != len(labels) or any(len(row) != len(labels) for row in matrix):
        raise ValueError("its matrix is not square or of another size than its labels")
    text = _cell_text("".join(str(bit) for row in matrix for bit in row), names)
    rows = []
    for run in cell["runs"]:
        half = run["halfway"]
        halfway = Measurement(
            float(half["epochs"]),
            math.nan,
            math.nan,
            float(half["validation_accuracy"]),
            float(half["test_accuracy"]),
        )
        final = Measurement(
            float(run["epochs"]),
            float(run["train_time_s"]),
            float(run["train_acc"]),
            float(run["val_acc"]),
            float(run["test_acc"]),
        )
        epochs, parameters = _whole(run["epochs"]), _whole(cell["params"])
        row = NasBench101Row(text, _hash(cell["hash"]), epochs, parameters, halfway, final)
        rows.append(_checked(row))
    return rows


def read_nasbench101(path: files.Path) -> Iterator[NasBench101Row]:
    """Read the published TFRecords of NAS-Bench-101, some megabytes at a time.

    Every record is a JSON list: hash, epochs, the V x V bits of the adjacency, V operations
    separated by commas, and a `ModelMetrics` message of Protocol Buffers in base64. A file that
    has the name of a published one must have its SHA-256, too.

    Args:
      path: the file, `nasbench_only108.tfrecord` or `nasbench_full.tfrecord`.

    Yields:
      A row for every training, in the order of the file. The trainings of a cell with as many
      epochs follow each other in no stated order.

    Raises:
      UserError: the file is missing or cut off, a checksum differs, or a record is none of
        NAS-Bench-101's; the sentence names the record.
    """
    recognised(path)
    for number, record in enumerate(read_records(path)):
        try:
            fields = json.loads(record)
            if not isinstance(fields, list) or len(fields) != 5:
                raise ValueError("it is no list of five")
            hash_text, epochs, bits, names, metrics = fields
            parameters, measurements = _model_metrics(base64.b64decode(metrics, validate=True))
            row = NasBench101Row(
                _cell_text(bits, names.split(",")), _hash(hash_text), _whole(epochs), parameters,
                *measurements[1:],
            )  # fmt: skip
            row = _checked(row)
        except (ValueError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
            raise UserError(
                f"{path}: record {number} (from 0) is none of NAS-Bench-101 ({error}): give the "
                "published file"
            ) from error
        yield row


def recognised(path: files.Path) -> str:
    """Return the name of the published file that this is, or "" where the name is no such.

    Raises:
      UserError: the file has the name of a published one and other bytes, or is missing.
    """
    name = pathlib.Path(path).name
    if name not in SHA256:
        return ""
    digest = hashlib.sha256()
    with _opened(path) as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    if digest.hexdigest() != SHA256[name]:
        raise UserError(
            f"{path} is not the published {name} (its SHA-256 differs): get it anew, or give a "
            "file of your own another name"
        )
    return name


def _opened(path: files.Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise UserError(
            f"{path} cannot be opened ({error.strerror}): give the path of a file"
        ) from error


def read_records(path: files.Path) -> Iterator[bytes]:
    """Read a file of TFRecords: the data of each record, some megabytes at a time.

    A record is a length (uint64, little-endian), the masked CRC-32C of those eight bytes, the
    data, and the masked CRC-32C of the data (uint32 each).

    Raises:
      UserError: the file is missing or cut off, or a checksum differs.
    """
    number, rest = 0, b""
    with _opened(path) as stream:
        while block := stream.read(BLOCK):
            rest += block
            lengths, data, checksums, end = _complete(path, rest, number)
            _verify(path, [*lengths, *data], checksums, number, len(data))
            yield from data
            number, rest = number + len(data), rest[end:]
    if rest:
        raise UserError(f"{path} is cut off in record {number} (from 0): get the whole file anew")
    if not number:
        raise UserError(f"{path} is empty: give a file of TFRecords")


def _complete(
    path: files.Path, buffer: bytes, number: int
) -> tuple[list[bytes], list[bytes], list[int], int]:
    """Return what the whole records of a buffer hold, and where they end.

    Returns:
      The bytes of their lengths, their data, the checksums of all these, and the end.
    """
    lengths: list[bytes] = []
    data: list[bytes] = []
    length_checks: list[int] = []
    data_checks: list[int] = []
    end = 0
    while end + 12 <= len(buffer):
        length, check = struct.unpack_from("<QI", buffer, end)
        if length > LONGEST_RECORD:
            raise UserError(
                f"{path}: record {number + len(data)} (from 0) says that it has {length} bytes: "
                "give an undamaged file of TFRecords"
            )
        begin, after = end + 12, end + 16 + length
        if after > len(buffer):
            break
        lengths.append(buffer[end : end + 8])
        length_checks.append(check)
        data.append(buffer[begin : begin + length])
        data_checks.append(struct.unpack_from("<I", buffer, begin + length)[0])
        end = after
    return lengths, data, length_checks + data_checks, end


def _verify(
    path: files.Path, texts: list[bytes], checksums: list[int], number: int, count: int
) -> None:
    """Refuse a checksum that differs: of `count` lengths and then of as many data."""
    wrong = np.flatnonzero(masked(crc32c(texts)) != np.array(checksums, np.uint32))
    if len(wrong):
        raise UserError(
            f"{path}: the checksum of record {number + int(min(wrong % count))} (from 0) differs: "
            "the file is damaged, get it anew"
        )


@functools.cache
def _crc_table() -> np.ndarray:
    """Return the CRC-32C (polynomial 0x82F63B78, reflected) of every byte: uint32 `[256]`."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table


def crc32c(texts: Sequence[bytes]) -> np.ndarray:
    """Return the CRC-32C of many texts at once: uint32 `[n]`.

    All texts are advanced together by one byte at a time, the longest first, so that NumPy works
    on whole columns.

    >>> hex(crc32c([b"123456789"])[0])
    '0xe3069283'
    """
    lengths = np.array([len(text) for text in texts], int)
    order = np.argsort(-lengths, kind="stable")
    longest = int(lengths.max(initial=0))
    columns = np.zeros((len(texts), longest), np.uint8)
    for row, place in enumerate(order):
        columns[row, : lengths[place]] = np.frombuffer(texts[place], np.uint8)
    columns = np.ascontiguousarray(columns.T)
    # How many texts are longer than 0, 1, 2, ... bytes: they come first.
    alive = len(texts) - np.searchsorted(lengths[order[::-1]], np.arange(longest), side="right")
    table, found = _crc_table(), np.full(len(texts), 0xFFFFFFFF, np.uint32)
    for column, count in zip(columns, alive.tolist(), strict=True):
        part = found[:count]
        found[:count] = table[(part ^ column[:count]) & 0xFF] ^ (part >> 8)
    checksums = np.empty_like(found)
    checksums[order] = ~found
    return checksums


def masked(checksums: np.ndarray) -> np.ndarray:
    """Return CRCs as TFRecords store them: rotated right by 15 bits, plus a constant."""
    checksums = np.asarray(checksums, np.uint32)
    return ((checksums >> 15) | (checksums << 17)) + np.uint32(0xA282EAD8)


def _model_metrics(message: bytes) -> tuple[int, list[Measurement]]:
    """Return the parameters, and the three measurements, of a `ModelMetrics` message.

    Its fields: 1 evaluation data (three messages: before, half-way, at the end), 2 trainable
    parameters (int32), 3 total time (double).
    """
    parameters, measurements = -1, []
    for field, value in _fields(message):
        if field == 1:
            measurements.append(_evaluation_data(_of_kind(value, bytes)))
        elif field == 2:
            parameters = _of_kind(value, int)
    if len(measurements) != 3 or parameters < 0:
        raise ValueError(f"it has {len(measurements)} measurements, not three, or no parameters")
    return parameters, measurements


def _evaluation_data(message: bytes) -> Measurement:
    """Return an `EvaluationData` message.

    Its fields are doubles: 1 epoch, 2 seconds, 3 train, 4 validation and 5 test accuracy; field 6
    is the path of a checkpoint. What a message does not hold is 0, as protocol buffers have it.
    """
    numbers = dict.fromkeys(range(1, 6), 0.0)
    for field, value in _fields(message):
        if field in numbers:
            numbers[field] = _of_kind(value, float)
    return Measurement(*numbers.values())


def _of_kind(value: Any, kind: Callable[..., Any]) -> Any:
    if type(value) is not kind:
        raise ValueError("a field has another type than it should")
    return value


def _fields(message: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """Yield the fields of a message of Protocol Buffers: number, and value by its wire type.

    A whole number (type 0, varint), a double (1), bytes (2), or a float (5).

    Raises:
      ValueError: the message is cut off, or has another wire type.
    """
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        field, kind = tag >> 3, tag & 7
        if kind == 0:
            value, place = _varint(message, place)
            yield field, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, place = _varint(message, place)
        if size is None or place + size > len(message):
            raise ValueError("its metrics are cut off or no message of Protocol Buffers")
        part = message[place : place + size]
        place += size
        yield field, part if kind == 2 else struct.unpack("<d" if kind == 1 else "<f", part)[0]


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """Return the whole number at a place, 7 bits a byte, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            break
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
    raise ValueError("its metrics are cut off or no message of Protocol Buffers")


def _cell_text(bits: str, names: Sequence[str]) -> str:
    """Return a cell's text; raises ValueError where bits and names do not go together."""
    if not re.fullmatch("[01]+", bits) or len(bits) != len(names) ** 2:
        raise ValueError(f"its adjacency is {bits[:60]!r}, not {len(names) ** 2} bits")
    known = set(names[1:-1]) <= set(NAMES_101)
    if not known or len(names) > MOST_VERTICES or [names[0], names[-1]] != ["input", "output"]:
        raise ValueError(f"its operations are {','.join(names)[:100]!r}")
    return f"{bits}|{','.join(names)}"


def _hash(text: Any) -> str:
    if not isinstance(text, str) or not re.fullmatch("[0-9a-f]{32}", text):
        raise ValueError("its hash is not 32 hexadecimal digits")
    return text


def _whole(number: Any) -> int:
    if isinstance(number, bool) or not isinstance(number, int | float) or number != int(number):
        raise ValueError(f"{number!r} is no whole number")
    return int(number)


def _checked(row: NasBench101Row) -> NasBench101Row:
    """Return a row; raises ValueError where an accuracy is none, or the epochs disagree."""
    for part in (row.halfway, row.final):
        for name in ("valid_accuracy", "test_accuracy"):
            if not 0 <= getattr(part, name) <= 1:
                raise ValueError(f"its {name} is {getattr(part, name)}, not between 0 and 1")
    if row.epochs < 1 or not abs(row.final.epoch - row.epochs) < 0.5:
        raise ValueError(f"it was measured after epoch {row.final.epoch} of {row.epochs}")
    return row

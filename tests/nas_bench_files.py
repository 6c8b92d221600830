"""Small files in the formats in which NAS benchmarks are published, written independently."""

import base64
import json
import struct

EC_CELL = {
    "hash": "0" * 31 + "1",
    "matrix": [[0, 1, 1], [0, 0, 1], [0, 0, 0]],
    "labels": [-1, 0, -2],
    "params": 1234,
    "runs": [
        {
            "repeat": "repeat_1",
            "epochs": 4.0,
            "train_acc": 0.5,
            "val_acc": 0.4,
            "test_acc": 0.3,
            "train_time_s": 70.5,
            "halfway": {"epochs": 2.0, "validation_accuracy": 0.2, "test_accuracy": 0.1},
        }
    ],
}


def crc32c(data):
    """Return the CRC-32C of bytes, bit by bit."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def masked_crc(data):
    """Return a checksum as TFRecords store it."""
    value = crc32c(data)
    rotated = (value >> 15 | value << 17) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)


def record(data):
    """Return one TFRecord."""
    length = struct.pack("<Q", len(data))
    return length + masked_crc(length) + data + masked_crc(data)


def varint(number):
    """Return a whole number of at least 0 as Protocol Buffers write it."""
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def evaluation_data(epoch, seconds, train, valid, test):
    """Return an `EvaluationData` message; a 0 is left out, as the format has it."""
    numbers = enumerate((epoch, seconds, train, valid, test), 1)
    doubles = b"".join(bytes([i << 3 | 1]) + struct.pack("<d", x) for i, x in numbers if x)
    path = b"/tmp/checkpoint"
    return doubles + bytes([6 << 3 | 2]) + varint(len(path)) + path


def model_metrics(parameters, *parts, total_seconds=99.0):
    """Return a `ModelMetrics` message."""
    message = b"".join(b"\x0a" + varint(len(part)) + part for part in parts)
    return message + b"\x10" + varint(parameters) + b"\x19" + struct.pack("<d", total_seconds)


def nasbench101_fields(number=0, *, valid=0.9, test=0.8, epochs=108):
    """Return the five fields of a record, of one of three cells."""
    cells = (
        ("011001000", "input,conv3x3-bn-relu,output"),
        ("0100001000010000", "input,conv1x1-bn-relu,maxpool3x3,output"),
        ("0100", "input,output"),
    )
    bits, operations = cells[number % 3]
    message = model_metrics(
        70000 + number,
        evaluation_data(0.0, 0.0, 0.1, 0.1, 0.1),
        evaluation_data(epochs / 2, 50.5, 0.6, 0.55, 0.5),
        evaluation_data(float(epochs), 101.0, 1.0, valid, test),
    )
    hash_text = f"{number % 3 + 1:x}" * 32
    return [hash_text, epochs, bits, operations, base64.b64encode(message).decode()]


def write_records(path, lists):
    """Write JSON lists as a file of TFRecords; return it."""
    path.write_bytes(b"".join(record(json.dumps(fields).encode()) for fields in lists))
    return path


def write_nasbench201(path, rows, columns=("c10_test_200ep_mean", "c10_val_12ep")):
    """Write a CSV file of cells and accuracies in per cent; return it."""
    lines = [",".join(("index", "arch", *columns))]
    lines += [
        f"{i},{cell}," + ",".join(map(str, numbers)) for i, (cell, *numbers) in enumerate(rows)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path

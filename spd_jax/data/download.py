"""Published files, fetched once and kept in a cache."""

import pathlib

from spd_jax.errors import UserError


def download(url: str, known_hash: str, name: str) -> pathlib.Path:
    """Fetch a file into pooch's cache, unless it is there already.

    Args:
      url: where it is.
      known_hash: `algorithm:hexadecimal digits` of its bytes.
      name: its name in the cache.

    Returns:
      Where it lies.

    Raises:
      UserError: it cannot be had, or is not the published file.
    """
    import pooch

    try:
        return pathlib.Path(
            pooch.retrieve(url, known_hash=known_hash, fname=name, path=pooch.os_cache("spd_jax"))
        )
    except Exception as error:  # whatever requests, urllib3 or pooch raise means the same here
        raise UserError(
            f"cannot download {url} ({error}): put the file into a folder and give its folder as "
            "data_dir"
        ) from error

"""What every surrogate obeys: fit on known scores, predict new ones, save and load.

The dish and its rivals share this, so that any one can be swapped into the
search and the league table.
"""

import os
import pathlib
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from jax.typing import ArrayLike

from spd_jax import files
from spd_jax.axes import Archs
from spd_jax.errors import UserError

Features = Callable[[Archs], np.ndarray]  # archs of M motifs -> vectors [M, F]
Path = str | os.PathLike[str]


class Fitted(Protocol):
    """A surrogate after `fit`: immutable, predicts without a key."""

    def predict(self, archs: Archs) -> np.ndarray:
        """Return predicted scores.

        Args:
          archs: pytree of arrays, motif axis `[M]` first; the sigmoid-slope
            space's is the array of slopes `[M]` itself.

        Returns:
          Scores `[M]`, floating point, higher is better, NaN where a prediction
          failed. The rivals' are in the unit of the scores they were fitted on.
        """
        ...

    def save(self, path: Path) -> None:
        """Write one `.npz` without pickles, in one piece."""
        ...


class Surrogate(Protocol):
    """A way to predict scores: its settings, and nothing learned yet."""

    def fit(self, key: jax.Array, archs: Archs, scores: ArrayLike) -> Fitted:
        """Learn from motifs whose ground truth is known.

        Args:
          key: consumed.
          archs: pytree of arrays, motif axis `[M]` first.
          scores: ground truth `[M]`, higher is better; one that is not finite
            marks a failed motif and is left out of the fit.

        Returns:
          The fitted surrogate. The same key and data give the same one.

        Raises:
          UserError: too few finite scores, or shapes that disagree.
        """
        ...

    def load(self, path: Path) -> Fitted:
        """Read what this surrogate's `Fitted.save` wrote; predictions are then identical.

        Raises:
          UserError: no such file, or not written by this kind of surrogate.
        """
        ...


def known(archs: Archs, scores: ArrayLike, minimum: int = 2) -> tuple[Archs, np.ndarray]:
    """Keep the motifs whose score is finite: a failed ground truth is never fitted.

    Args:
      archs: pytree of arrays, motif axis `[M]` first.
      scores: ground truth `[M]`.
      minimum: how many finite scores the fit needs.

    Returns:
      The archs `[K]` and scores `[K]` float64 of the K motifs that did not fail.

    Raises:
      UserError: fewer than `minimum` are left, or archs and scores differ in length.
    """
    finite_scores = np.asarray(scores, np.float64)
    lengths = sorted({np.shape(leaf)[:1] for leaf in jax.tree.leaves(archs)})
    if finite_scores.ndim != 1 or lengths != [finite_scores.shape]:
        raise UserError(
            f"scores have shape {finite_scores.shape}, but archs have leading axes "
            f"{lengths}: give one score per motif"
        )
    finite = np.isfinite(finite_scores)
    if finite.sum() < minimum:
        raise UserError(
            f"{finite.sum()} of {finite.size} scores are finite, but the surrogate needs "
            f"{minimum}: evaluate more motifs"
        )
    return jax.tree.map(lambda leaf: np.asarray(leaf)[finite], archs), finite_scores[finite]


def save_arrays(path: Path, kind: str, arrays: Mapping[str, Any]) -> None:
    """Write arrays as one `.npz` that remembers the kind of surrogate it belongs to."""
    with files.atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, kind=kind, **arrays)


def load_arrays(path: Path, kind: str) -> dict[str, np.ndarray]:
    """Read what `save_arrays` wrote.

    Args:
      path: the file.
      kind: the kind of surrogate that it must belong to.

    Returns:
      The arrays by name.

    Raises:
      UserError: the file is missing, is no such `.npz`, or belongs to another kind.
    """
    try:
        with open(path, "rb") as stream, np.lib.npyio.NpzFile(stream) as saved:
            arrays = dict(saved)
        found = str(arrays.pop("kind"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: give the file of a saved surrogate") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path} cannot be read as a saved surrogate: give a file that `save` wrote"
        ) from error
    if found != kind:
        raise UserError(f"{path} holds a {found}, not a {kind}: load it with {found}")
    return arrays


def to_bytes(save: Callable[[Path], None]) -> np.ndarray:
    """Return what `save` writes as an array of bytes, to be kept inside another `.npz`."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "part.npz"
        save(path)
        return np.frombuffer(path.read_bytes(), np.uint8)


def from_bytes(stored: np.ndarray, load: Callable[[Path], Any], name: str) -> Any:
    """Return what `load` reads from a file with these bytes.

    Raises:
      UserError: `load` does, of a file that it calls `name`.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "part.npz"
        path.write_bytes(stored.tobytes())
        try:
            return load(path)
        except UserError as error:
            raise UserError(str(error).replace(str(path), name)) from error

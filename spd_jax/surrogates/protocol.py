"""What every surrogate obeys: fit on known scores, predict new ones, save and load.

The dish and its rivals share this, so that any one can be swapped into the
search and the league table.
"""

import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from spd_jax import files
from spd_jax.axes import Archs, Key
from spd_jax.errors import UserError
from spd_jax.files import Path

ToVectors = Callable[[Archs], np.ndarray]  # archs of M motifs -> vectors [M, F]
Loaded = TypeVar("Loaded")


class Fitted(Protocol):
    """A surrogate after `fit`: immutable, predicts without a key."""

    def predict(self, archs: Archs) -> np.ndarray:
        """Return predicted scores.

        Args:
          archs: batch `[M]` of archs in canonical form, as `archs.Cells` holds them.

        Returns:
          Scores `[M]` float64, higher is better, in the unit of the scores that the surrogate
          was fitted on; NaN where a prediction failed. A `ScoreFree` surrogate has a unit of
          its own.
        """
        ...

    def save(self, path: Path) -> None:
        """Write one `.npz` without pickles, in one piece."""
        ...


class Surrogate(Protocol):
    """A way to predict scores: its settings, and nothing learned yet."""

    def fit(self, key: Key, archs: Archs, scores: ArrayLike) -> Fitted:
        """Learn from motifs whose ground truth is known.

        Args:
          key: consumed.
          archs: batch `[M]` of archs in canonical form.
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


@runtime_checkable
class Ensemble(Fitted, Protocol):
    """A fitted surrogate of several members, whose spread says how sure it is."""

    def by_member(self, archs: Archs) -> np.ndarray:
        """Return every member's predictions `[E, M]`, in the unit of the known scores."""
        ...


class FitStep(NamedTuple):
    """Where a long fit is.

    Attributes:
      state: pytree of arrays; `fit(..., state=state)` goes on from there.
      done: steps that have been taken.
      total: steps that the fit takes in all, as far as is known.
      losses: what the last step saw, `[E]` float, one loss for each member of an ensemble.
      phase: what the steps are for: "early_stopping" while the number of steps is being found
        on held-out motifs, "fit" otherwise.
    """

    state: Any
    done: int
    total: int
    losses: np.ndarray
    phase: str = "fit"


def ignore(step: FitStep) -> None:
    """Do nothing with a step."""


@runtime_checkable
class ResumableSurrogate(Surrogate, Protocol):
    """A surrogate whose fit takes long: it can be saved after any step, and go on."""

    def start(self, key: Key) -> Any:
        """Return the state before the first step: what every later state looks like."""
        ...

    def fit(
        self,
        key: Key,
        archs: Archs,
        scores: ArrayLike,
        *,
        state: Any = None,
        on_step: Callable[[FitStep], None] = ignore,
    ) -> Fitted:
        """Learn as every surrogate does, from `start(key)` or from a later `state` on.

        Args:
          key: consumed; as in the call that was interrupted.
          archs: batch `[M]` of archs in canonical form, likewise.
          scores: ground truth `[M]`, likewise.
          state: that `on_step` was handed; None begins anew.
          on_step: called after every step.

        Returns:
          What an uninterrupted fit returns, to the bit.
        """
        ...


@runtime_checkable
class ScoreFree(Surrogate, Protocol):
    """A surrogate whose `fit` looks at no motif and no score, such as a proxy.

    So its predictions of motifs whose scores are known betray none of these scores.
    """

    def prepare(self, key: Key) -> Fitted:
        """Return what `fit(key, archs, scores)` returns for any archs and scores.

        Args:
          key: consumed.

        Raises:
          UserError: a setting that is not allowed.
        """
        ...


class VectorRegressor(Surrogate, Protocol):
    """A surrogate that sees motifs as vectors only, and can be shown others."""

    @property
    def features(self) -> ToVectors:
        """What turns archs of M motifs into vectors `[M, F]`."""
        ...

    def with_features(self, features: ToVectors) -> "VectorRegressor":
        """Return the same surrogate that sees these vectors."""
        ...


def beside(regressor: VectorRegressor) -> VectorRegressor:
    """Return the regressor on pairs of archs `[M]` and columns `[M]` or `[M, C]` beside them."""
    own = regressor.features

    def features(pair: tuple[Archs, np.ndarray]) -> np.ndarray:
        return np.column_stack([own(pair[0]), pair[1]])

    return regressor.with_features(features)


@runtime_checkable
class CostlySurrogate(Surrogate, Protocol):
    """A surrogate that trains motifs for real to predict them.

    Its trainings are the beginnings of full evaluations: a motif that is evaluated afterwards
    costs one full evaluation in all.
    """

    @property
    def cost_per_query(self) -> float:
        """What one prediction costs, in full evaluations."""
        ...


def restore(path: Path, kind: str, build: Callable[[dict[str, np.ndarray]], Loaded]) -> Loaded:
    """Return what `build` makes of the arrays in a file of `files.save_arrays`.

    Raises:
      UserError: the file is missing, damaged, or belongs to another kind; or arrays that `build`
        asks for are not there, or not what it expects.
    """
    arrays = files.load_arrays(path, kind=kind)
    try:
        return build(arrays)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} is damaged, or was written by another version: fit this {kind} again"
        ) from error


def checked(
    arrays: Mapping[str, np.ndarray], like: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    """Return the arrays that `like` names, with its data types.

    Raises:
      KeyError: one is missing.
      ValueError: one has another shape, or holds another kind of numbers.
    """
    for name, expected in like.items():
        found = arrays[name]
        if found.shape != expected.shape or not np.can_cast(
            found.dtype, expected.dtype, "same_kind"
        ):
            raise ValueError(f"{name} is {found.dtype}{found.shape}, not {expected}")
    return {name: jnp.asarray(arrays[name], leaf.dtype) for name, leaf in like.items()}


def to_bytes(save: Callable[[Path], None]) -> np.ndarray:
    """Return what `save` writes as an array of bytes, to be kept inside another `.npz`."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "part.npz"
        save(path)
        return np.frombuffer(path.read_bytes(), np.uint8)


def from_bytes(stored: np.ndarray, load: Callable[[Path], Loaded], name: str) -> Loaded:
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

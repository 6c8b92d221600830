"""Long fits in a run folder: saved while they go on, found again when they are done."""

import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from spd_jax import files
from spd_jax.axes import Archs, Key
from spd_jax.studies.run_folder import RunFolder, logger
from spd_jax.surrogates.protocol import FitStep, Fitted, ResumableSurrogate, Surrogate


def fit(
    folder: RunFolder,
    name: str,
    surrogate: Surrogate,
    key: Key,
    archs: Archs,
    scores: ArrayLike,
    *,
    every: int = 1,
    on_start: Callable[[Any], None] = lambda state: None,
    on_step: Callable[[FitStep], None] = lambda step: None,
) -> Fitted:
    """Fit a surrogate, go on with a fit that was killed, or load one that was finished.

    The state is written after every `every` steps and the finished fit at the end, each in a
    file of its own below `states/`. One that cannot be read is made anew, which is said. A
    surrogate that is not resumable is simply fitted: that takes no time worth saving.

    Args:
      folder: of the run.
      name: of the fit in the folder; motifs and scores are part of the file's name too, so
        that other ones are fitted anew.
      surrogate: what to fit.
      key: consumed.
      archs: known motifs `[M]`.
      scores: their ground truth `[M]`.
      every: steps between two saved states.
      on_start: is handed the state that the fit goes on from, before its first step.
      on_step: called after every step of a resumable fit, once it is saved.

    Returns:
      What an uninterrupted fit returns, to the bit.

    Raises:
      UserError: the surrogate refuses the scores, or the folder cannot be written.
    """
    if not isinstance(surrogate, ResumableSurrogate):
        return surrogate.fit(key, archs, scores)
    fingerprint = _fingerprint(archs, scores)
    done = folder.path / "states" / f"{name}_{fingerprint[:8]}.npz"
    going = done.with_name(f"{done.stem}_unfinished.npz")
    fitted = _found(done, lambda: surrogate.load(done))
    if fitted is not None:
        return fitted
    start = surrogate.start(key)
    state = _found(going, lambda: files.load_pytree(going, start, fingerprint))
    state = start if state is None else state
    on_start(state)

    def keep(step: FitStep) -> None:
        if step.done % every == 0:
            files.save_pytree(going, step.state, fingerprint)
        on_step(step)

    fitted = surrogate.fit(key, archs, scores, state=state, on_step=keep)
    fitted.save(done)
    going.unlink(missing_ok=True)
    return fitted


def _found(path: pathlib.Path, load: Callable[[], Any]) -> Any:
    """Return what a file holds; `None` where there is none, or a damaged one, which is said."""
    if not path.exists():
        return None
    try:
        return load()
    except Exception as error:  # flipped bytes make zip, zlib and NumPy raise almost anything
        logger.warning("%s cannot be used (%s) and is made anew", path, error)
        return None


def _fingerprint(archs: Archs, scores: ArrayLike) -> str:
    digest = hashlib.sha256(np.asarray(scores, np.float64).tobytes())
    for leaf in jax.tree.leaves(archs):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]

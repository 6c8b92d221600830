"""The best of very many motifs: batches are scored one after another, or by workers; few stay."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from spd_jax import archs as batches_lib
from spd_jax.axes import Archs
from spd_jax.checks import is_count
from spd_jax.errors import UserError
from spd_jax.ground_truth import executors

Predict = Callable[[Archs], np.ndarray]


class Ranked(NamedTuple):
    """The best motifs of those that were scored, best first.

    Attributes:
      places: where each stood in the stream, counted from 0, int64 `[K]`.
      scores: higher is better, float64 `[K]`.
      archs: the motifs, a batch `[K]`; None when there were none.
      total: how many were scored.
    """

    places: np.ndarray
    scores: np.ndarray
    archs: Archs
    total: int


def rank(
    predict: Predict,
    batches: Iterable[Archs],
    *,
    top: int = 100,
    workers: executors.Workers = 0,
) -> Ranked:
    """Score motifs of any number, and keep the best.

    Memory holds one batch (with workers one for each) and the best so far, however long the
    stream is. What is kept depends on neither the workers nor the order in which they answer.

    Args:
      predict: scores `[M]` of a batch of archs `[M]`, higher is better, such as that of a fitted
        surrogate; picklable where there are workers. A score that is no number comes last.
      batches: batches of archs; each should hold as many motifs, so that one program serves all.
      top: K, how many are kept.
      workers: who predicts, see `executors.run_all`. A cluster may be given by its address.

    Raises:
      UserError: `top` is no positive count, `predict` returns another number of scores than there
        are motifs, or a worker failed.
    """
    if not is_count(top, 1):
        raise UserError(f"top={top!r} must be a whole number of at least 1")
    held: dict[int, tuple[int, Archs]] = {}  # by batch: the place of its first motif, and itself
    best = Ranked(np.zeros(0, np.int64), np.zeros(0), None, 0)
    outcomes = executors.run_all(predict, _numbered(batches, held), workers=workers)
    with contextlib.closing(outcomes):  # so that an error here ends the workers
        for batch, outcome in outcomes:
            if isinstance(outcome, executors.WorkerDied):
                raise UserError(
                    f"a worker could not score a batch ({outcome}): give smaller batches, or fewer "
                    "workers"
                )
            if isinstance(outcome, Exception):
                raise outcome
            first, archs = held.pop(batch)
            best = _merged(best, first, archs, _checked(outcome, archs), top)
    return best


def _numbered(batches: Iterable[Archs], held: dict[int, tuple[int, Archs]]) -> Iterator[Archs]:
    """Yield batches, and hold each until its scores have arrived."""
    first = 0
    for number, archs in enumerate(batches):
        held[number] = first, archs
        first += batches_lib.count(archs)
        yield archs


def _checked(scores: np.ndarray, archs: Archs) -> np.ndarray:
    """Return the scores of a batch as floats; raises UserError where their number is wrong."""
    count = batches_lib.count(archs)
    scores = np.asarray(scores, np.float64)
    if scores.shape != (count,):
        raise UserError(
            f"predict returned scores of shape {scores.shape} for {count} motifs: return one "
            "score for each"
        )
    return scores


def _merged(best: Ranked, first: int, archs: Archs, scores: np.ndarray, top: int) -> Ranked:
    """Return the best of those that were kept and of a new batch; an earlier place wins a tie."""
    places = np.append(best.places, first + np.arange(len(scores)))
    joined = np.append(best.scores, scores)
    # By score, then by place; NaN is treated as minus infinity.
    order = np.lexsort((places, -np.where(np.isnan(joined), -np.inf, joined)))[:top]
    archs = archs if best.archs is None else batches_lib.concatenate(best.archs, archs)
    return Ranked(
        places[order], joined[order], batches_lib.take(archs, order), best.total + len(scores)
    )

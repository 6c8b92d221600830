"""How well predicted scores agree with true ones, and how such figures spread over runs.

Higher scores are better everywhere. A score that is not finite belongs to a
motif that failed, so every function here ranks it last, in the prediction and
in the truth alike. Host side: NumPy and SciPy.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from spd_jax.errors import UserError


def kendall_tau(predicted: ArrayLike, true: ArrayLike) -> float:
    """Return Kendall's tau-b, the rank correlation of concordant and discordant pairs.

    tau-b = (C - D) / sqrt((C + D + ties in predicted) (C + D + ties in true))
    (Kendall, 1945); a pair tied in both counts nowhere.

    Args:
      predicted: scores `[M]`, in any unit.
      true: scores `[M]`, in any unit.

    Returns:
      A number in [-1, 1]; 1 is perfect agreement. Constant predictions rank
      nothing and get 0, so that a collapsed surrogate counts against itself; a
      constant truth asks for no ranking and gives NaN.

    Raises:
      UserError: the two are not vectors of one length.

    >>> kendall_tau([1.0, 2.0, 3.0], [0.7, 0.8, 0.9])
    1.0
    >>> kendall_tau([float("nan"), 2.0, 3.0], [0.9, 0.8, 0.7])
    -1.0
    """
    return _rank_correlation(stats.kendalltau, predicted, true)


def spearman(predicted: ArrayLike, true: ArrayLike) -> float:
    """Return Spearman's rho, the Pearson correlation of mid-ranks (Spearman, 1904).

    Arguments, constant vectors and errors as `kendall_tau`.

    >>> round(spearman([1, 2, 3, 4], [1, 3, 2, 4]), 6)
    0.8
    """
    return _rank_correlation(stats.spearmanr, predicted, true)


def precision_at(k: int, predicted: ArrayLike, true: ArrayLike) -> float:
    """Return the share of the predicted top `k` that is in the true top `k`.

    Whatever ties with the true k-th best is in the true top k, a failed motif
    never is. Ties in the prediction go to the motif listed first.

    Args:
      k: how many to pick, from 1 to M.
      predicted: scores `[M]`, in any unit.
      true: scores `[M]`, in any unit.

    Returns:
      A share in [0, 1]; higher is better.

    Raises:
      UserError: shapes that differ, or `k` outside 1..M.

    >>> precision_at(2, [9, 8, 1, 0], [0.9, 0.1, 0.8, 0.2])
    0.5
    """
    predicted, true = _pair(predicted, true)
    chosen = _top(k, predicted)
    best = true >= np.sort(true)[-k]
    return float(np.mean((best & np.isfinite(true))[chosen]))


def regret(predicted: ArrayLike, true: ArrayLike, k: int = 1) -> float:
    """Return what is lost by evaluating only the predicted top `k`: best true - best chosen.

    Args:
      predicted: scores `[M]`, in any unit; ties go to the motif listed first.
      true: scores `[M]`.
      k: how many are evaluated, from 1 to M.

    Returns:
      The loss in the unit of `true`; 0 is best. Infinite when every chosen motif
      failed, NaN when every motif did.

    Raises:
      UserError: shapes that differ, or `k` outside 1..M.

    >>> regret([0.1, 0.3, 0.2], [5.0, 3.0, 4.0], k=2)
    1.0
    """
    predicted, true = _pair(predicted, true)
    chosen = _top(k, predicted)
    return float(true.max()) - float(true[chosen].max())


def pareto_front(costs: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """Return which motifs no other one dominates (Pareto), bool `[M]`.

    A motif dominates another when it is at least as cheap and as good, and cheaper or better.
    So of equals in cost and score all are on the front, or none.

    Args:
      costs: `[M]`, lower is better.
      scores: `[M]`, higher is better.

    Returns:
      False where cost or score is not finite: such a motif dominates nothing, either.

    Raises:
      UserError: the two are not vectors of one length.

    >>> pareto_front([1, 2, 2, 3, 3], [0.5, 0.9, 0.7, 0.9, float("nan")]).tolist()
    [True, True, False, False, False]
    """
    costs, scores = _vectors(costs=costs, scores=scores)
    usable = np.isfinite(costs) & np.isfinite(scores)
    levels, place = np.unique(np.where(usable, costs, np.inf), return_inverse=True)
    best = np.full(len(levels), -np.inf)  # of each cost
    np.maximum.at(best, place[usable], scores[usable])
    cheaper = np.concatenate([[-np.inf], np.maximum.accumulate(best)[:-1]])
    return usable & (scores == best[place]) & (scores > cheaper[place])


def peak(slopes: ArrayLike, values: ArrayLike) -> float:
    """Return the slope of the highest value (of the first, when several tie).

    Args:
      slopes: slopes `[M]`, unitless.
      values: scores `[M]`, in any unit.

    Returns:
      A slope; NaN when no value is finite.

    Raises:
      UserError: the two are not vectors of one length.

    >>> peak([0.1, 0.2, 0.3], [0.9, 0.97, 0.95])
    0.2
    """
    slopes, values = _vectors(slopes=slopes, values=values)
    values = _failed_last(values)
    best = int(np.argmax(values))
    return float(slopes[best]) if np.isfinite(values[best]) else float("nan")


def peak_error(slopes: ArrayLike, predicted: ArrayLike, true: ArrayLike) -> float:
    """Return how far the predicted peak lies from the true one, `|difference of slopes|`.

    A distance, unitless; 0 is best, NaN when either has no finite value. Arguments and errors as
    `peak`, of predicted and of true scores `[M]`.

    >>> peak_error([0.0, 0.25, 0.5], [1, 2, 3], [1, 3, 2])
    0.25
    """
    return abs(peak(slopes, predicted) - peak(slopes, true))


def noise_ceiling(scores: ArrayLike) -> float | None:
    """Return the mean Kendall tau between one seed of a ground truth and the mean of its others.

    No surrogate can be expected to agree with one noisy truth better than another truth does.

    Args:
      scores: `[M, S]`, of M motifs trained with S seeds, in any unit.

    Returns:
      A number in [-1, 1]; `None` with fewer than two seeds, or where a seed ranks nothing.

    >>> noise_ceiling([[1.0, 1.1], [2.0, 2.1], [3.0, 2.9]])
    1.0
    """
    scores = np.asarray(scores, float)
    if scores.ndim != 2 or scores.shape[1] < 2:
        return None
    taus = [
        kendall_tau(scores[:, seed], np.delete(scores, seed, axis=1).mean(axis=1))
        for seed in range(scores.shape[1])
    ]
    return float(np.mean(taus)) if np.isfinite(taus).all() else None


def spread(values: ArrayLike) -> dict[str, Any]:
    """Return the median, the quartiles and all values of a figure over runs, ready for JSON.

    Args:
      values: one number per run `[R]`, in any unit; None is NaN.

    Returns:
      `{"median", "q25", "q75", "values"}` (linear interpolation). JSON knows no
      NaN: a value that is not finite is written as None, and so then are the
      three summaries, because no run is left out in silence.

    Raises:
      UserError: no values, or not a vector.

    >>> spread([1.0, 2.0, 3.0, 4.0])
    {'median': 2.5, 'q25': 1.75, 'q75': 3.25, 'values': [1.0, 2.0, 3.0, 4.0]}
    """
    (values,) = _vectors(values=values)
    listed = [float(value) if np.isfinite(value) else None for value in values]
    summary: list[float | None] = [None, None, None]
    if None not in listed:
        summary = np.quantile(values, [0.5, 0.25, 0.75]).tolist()
    return dict(zip(("median", "q25", "q75"), summary, strict=True), values=listed)


def spread_with_mean(values: ArrayLike) -> dict[str, Any]:
    """Return `spread` with the `mean` and the standard deviation `std` (n - 1) beside it.

    A value that is not finite makes every summary None; one value alone has no `std`.

    >>> spread_with_mean([1.0, 3.0])["mean"]
    2.0
    """
    summary, array = spread(values), np.asarray(values, float)
    known = summary["median"] is not None
    summary["mean"] = float(array.mean()) if known else None
    summary["std"] = float(array.std(ddof=1)) if known and array.size > 1 else None
    return summary


def t_interval(values: ArrayLike) -> list[float] | None:
    """Return the ends of the mean's 95 % interval by Student's t; None of one value, or with NaN.

    >>> [round(end, 2) for end in t_interval([1.0, 2.0, 3.0])]
    [-0.48, 4.48]
    """
    found = spread_with_mean(values)
    if found["std"] is None:
        return None
    count = len(found["values"])
    half = float(stats.t.ppf(0.975, count - 1)) * found["std"] / count**0.5
    return [found["mean"] - half, found["mean"] + half]


def _rank_correlation(
    correlation: Callable[..., Any], predicted: ArrayLike, true: ArrayLike
) -> float:
    predicted, true = _pair(predicted, true)
    if np.all(true == true[0]):
        return float("nan")
    if np.all(predicted == predicted[0]):
        return 0.0
    return float(correlation(stats.rankdata(predicted), stats.rankdata(true)).statistic)


def _pair(predicted: ArrayLike, true: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    predicted, true = _vectors(predicted=predicted, true=true)
    return _failed_last(predicted), _failed_last(true)


def _failed_last(scores: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(scores), scores, -np.inf)


def _top(k: int, scores: np.ndarray) -> np.ndarray:
    """Return the indices of the `k` highest scores, the first listed first among equals."""
    if not 1 <= k <= len(scores):
        raise UserError(f"the top {k} of {len(scores)} motifs: give a k from 1 to {len(scores)}")
    return np.argsort(-scores, kind="stable")[:k]


def _vectors(**arrays: ArrayLike) -> list[np.ndarray]:
    """Return the arguments as float64, once they are non-empty vectors of one length."""
    vectors = [np.asarray(array, np.float64) for array in arrays.values()]
    shapes = {vector.shape for vector in vectors}
    if len(shapes) > 1 or vectors[0].ndim != 1 or vectors[0].size == 0:
        stated = ", ".join(
            f"{name} has shape {vector.shape}" for name, vector in zip(arrays, vectors, strict=True)
        )
        remedy = "vectors of one length" if len(vectors) > 1 else "one number per run"
        raise UserError(f"{stated}: give {remedy}, at least one entry long")
    return vectors

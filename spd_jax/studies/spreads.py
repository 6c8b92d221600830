"""What runs and splits add up to: spreads, results for equal cost, means of a league."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from spd_jax import metrics
from spd_jax.errors import UserError
from spd_jax.search.record import Iteration, best_by_iteration
from spd_jax.units import in_unit

MEASURES = ("kendall_tau", "spearman", "precision_at_10", "regret", "fit_seconds", "query_seconds")
# Of a league: by surrogate, number of known ground truths and measure, a spread.
Figures = dict[str, dict[int, dict[str, dict[str, Any]]]]


def at_cost(costs: ArrayLike, values: ArrayLike, asked: ArrayLike) -> np.ndarray:
    """Return what one run had found for at most so much.

    Args:
      costs: what was spent at each of the run's points `[P]`, in full evaluations.
      values: what had been found by then `[P]`.
      asked: costs `[G]`.

    Returns:
      float64 `[G]`: NaN before the first point; after the last one, its value.

    >>> at_cost([40, 60], [2.8, 2.7], [39, 40, 100]).tolist()
    [nan, 2.8, 2.7]
    """
    costs = np.asarray(costs, float)
    order = np.argsort(costs, kind="stable")
    # A sum of many partial evaluations may miss a round number by an ulp or two.
    place = np.searchsorted(costs[order], np.asarray(asked) + 1e-6, side="right")
    return np.append(math.nan, np.asarray(values, float)[order])[place]


def result_at(record: Sequence[Iteration], asked: ArrayLike, *, test: bool = True) -> np.ndarray:
    """Return the score of a search's best cell for at most so many ground truths.

    Args:
      record: of the search.
      asked: ground truths `[G]`, in full evaluations.
      test: the test score of the cell that is best on validation; else its validation score.

    Returns:
      float64 `[G]`, higher is better; NaN where there is no such cell or score.
    """
    found = best_by_iteration(record)
    scores = np.array([own.test_score if test else own.score for own in found])
    costs = [iteration.cost for iteration in record]
    return at_cost(costs, np.where(np.isneginf(scores), math.nan, scores), asked)


def summary_at(
    records: Sequence[Sequence[Iteration]], unit: str, ground_truths: float = math.inf
) -> dict[str, dict[str, Any]]:
    """Return a method's result for at most so many ground truths, and how it spreads over runs.

    Args:
      records: of the method's runs.
      unit: name in `units.UNITS`.
      ground_truths: in full evaluations.

    Returns:
      `{"test": ..., "valid": ...}`, each as `metrics.spread_with_mean` over the runs, in `unit`.
    """
    found: dict[str, dict[str, Any]] = {}
    for part in ("test", "valid"):
        scores = [result_at(own, [ground_truths], test=part == "test")[0] for own in records]
        found[part] = metrics.spread_with_mean(in_unit(scores, unit))
    return found


def aggregate(rows: Sequence[Mapping[str, Any]]) -> Figures:
    """Return every figure of a league with its mean and spread over splits.

    Args:
      rows: one for each match: `surrogate`, `known` (ground truths it learned from), `split`
        and `MEASURES`; None and absent figures are NaN.

    Returns:
      `[surrogate][known][measure]`, each as `metrics.spread_with_mean`: surrogates in
      order of appearance, `known` ascending. A figure that is not finite in some split has no mean.

    Raises:
      UserError: no rows, or two rows of one match.
    """
    if not rows:
        raise UserError("the league has no rows: give the results of at least one match")
    matches = [(str(row["surrogate"]), int(row["known"]), row["split"]) for row in rows]
    if len(set(matches)) < len(matches):
        twice = next(match for match in matches if matches.count(match) > 1)
        raise UserError(
            f"{twice[0]} met split {twice[2]} twice with {twice[1]} known: give one row for it"
        )
    league: Figures = {name: {} for name, _, _ in matches}
    for name, known in sorted({match[:2] for match in matches}, key=lambda place: place[1]):
        mine = [r for r, match in zip(rows, matches, strict=True) if match[:2] == (name, known)]
        league[name][known] = {
            measure: metrics.spread_with_mean(np.array([row.get(measure) for row in mine], float))
            for measure in MEASURES
        }
    return league

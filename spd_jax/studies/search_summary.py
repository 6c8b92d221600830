"""What summary.json says of a comparison of searches: one row for every method."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from spd_jax import files, metrics, motif
from spd_jax.errors import UserError
from spd_jax.problems import Problem
from spd_jax.search.record import Record, Records, best_by_iteration
from spd_jax.studies import fresh_seeds, search_seconds, spreads
from spd_jax.studies.fresh_seeds import Fresh
from spd_jax.studies.searches import METHODS, SearchSettings, total_cost
from spd_jax.units import in_unit


def summarise(
    problem: Problem,
    settings: SearchSettings,
    records: Records,
    ceiling: dict[str, Any] | None,
    each: float | None = None,
    fresh: Sequence[Fresh] = (),
    best_possible: float | None = None,
) -> dict[str, Any]:
    """Return summary.json: one row for every method.

    Args:
      problem: what was searched.
      settings: how.
      records: the searches.
      ceiling: of tau, see `search_comparison.noise_ceiling`.
      each: seconds of a full evaluation; None where they are not known.
      fresh: what the best cells scored when they were trained anew.
      best_possible: the highest test score that a search can find; None where it is not known.

    Raises:
      UserError: every evaluation failed.
    """
    unit = problem.ground_truth(settings.preset).unit
    equal = float(total_cost(settings))
    costs = sorted({own.cost for record in records.values() for own in record} | {equal})
    leaders = [best_by_iteration(record)[-1] for record in records.values()]
    best = max(leaders, key=lambda leader: leader.score)
    if not best.cell:
        raise UserError("every evaluation failed, so there is no best cell: see why in the ledger")
    by_method = histories(records)
    return {
        "problem": problem.name,
        "unit": unit,
        "runs": settings.seeds,
        "ground_truths": int(equal),
        "noise_ceiling": ceiling,
        "best_possible": None if best_possible is None else float(in_unit(best_possible, unit)),
        "seconds_per_evaluation": each,
        "fresh_seeds": settings.fresh_seeds,
        "methods": {
            name: _row(name, runs, [c for c in costs if c <= equal], equal, unit)
            | {
                "seconds": search_seconds.mean(runs, each),
                "fresh": fresh_seeds.summarise(problem, [x for x in fresh if x.method == name]),
            }
            for name, runs in by_method.items()
        },
        "failed": len(_failed(records)),
        "best_cell": {
            "cell": best.cell,
            "space": problem.space.name,
            "valid": files.to_json(in_unit(best.score, unit)),
            "test": files.to_json(in_unit(best.test_score, unit)),
        },
        "motif_network": {
            "parameters": motif.num_parameters(problem.family(settings.hidden_size)),
            "parameters_in_the_paper": problem.parameters_in_the_paper,
        },
    }


def _failed(records: Records) -> set[tuple[int, str]]:
    """Return the run and name of every cell whose evaluation failed, whichever method bought it."""
    return {
        (number, cell)
        for (_, number), record in records.items()
        for own in record
        for cell, score in zip(own.cells, own.scores, strict=True)
        if not np.isfinite(score)
    }


def histories(records: Records) -> dict[str, list[Record]]:
    """Return the runs of every method, in order."""
    names = dict.fromkeys(method for method, _ in records)
    return {
        name: [record for (method, _), record in records.items() if method == name]
        for name in names
    }


def _row(
    name: str, runs: list[Record], costs: Sequence[float], equal: float, unit: str
) -> dict[str, Any]:
    """Return what summary.json says of one method."""
    at = {f"{cost:g}": spreads.summary_at(runs, unit, cost) for cost in costs}
    taus: dict[str, list[float]] = {}
    for record in runs:
        for own in record:
            if np.isfinite(own.tau):
                taus.setdefault(str(own.index), []).append(own.tau)
    noted = [own.notes for record in runs for own in record]
    return {
        "label": METHODS[name].label if name in METHODS else name,
        "runs": len(runs),
        "at_equal_ground_truths": at[f"{equal:g}"],
        "by_ground_truths": {
            cost: {part: figures[part]["mean"] for part in figures} for cost, figures in at.items()
        },
        "spent": float(np.mean([record[-1].cost for record in runs])),
        "tau_by_iteration": {index: metrics.spread(values) for index, values in taus.items()},
        "seconds_by_iteration": _mean([own.seconds for record in runs for own in record]),
        "notes": {
            note: _mean([own[note] for own in noted if note in own])
            for note in dict.fromkeys(note for own in noted for note in own)
        },
    }


def _mean(values: Sequence[float]) -> float | None:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else None

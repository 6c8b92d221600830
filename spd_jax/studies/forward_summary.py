"""What the methods of a forward search came to: their figures over seeds, and every model."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spd_jax import metrics
from spd_jax.files import write_csv
from spd_jax.forward_search import search
from spd_jax.forward_search.text_model import UNITS
from spd_jax.studies.forward_controls import ALL, GROWN
from spd_jax.studies.forward_runner import Outcome, Search
from spd_jax.studies.forward_settings import ForwardSettings


def summarise(
    settings: ForwardSettings, outcomes: Sequence[Outcome], searches: Sequence[Search]
) -> dict[str, Any]:
    """Return summary.json: every method with its spread over seeds, and paired differences."""
    names = list(dict.fromkeys(own.method for own in outcomes))
    by_name = {name: [own for own in outcomes if own.method == name] for name in names}
    grown = by_name[GROWN]
    paired = {
        name: _paired([_test(own) for own in grown], [_test(own) for own in by_name[name]])
        for name in names
        if name != GROWN
    }
    return {
        "preset": settings.preset,
        "search": settings.search,
        "select": settings.select,
        "unit": _unit(settings),
        "band": settings.band,
        "seeds": [own.seed for own in grown],
        "labels": {GROWN: f"grown, selected by {settings.select}"} | ALL,
        "methods": {name: _figures(own) for name, own in by_name.items()},
        "paired": paired,
        "growth": {name: _by_growth(own) for name, own in by_name.items()},
        "searches": [_search_summary(own) for own in searches if own.method == GROWN],
    }


def _unit(settings: ForwardSettings) -> str:
    """Return what an error is."""
    return UNITS[settings.level] if settings.search == "rnn" else "error"


def _test(own: Outcome) -> float:
    return own.final.test_error if own.final else math.nan


def _figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the figures of a method's final models."""
    finals = [own.final for own in outcomes]

    def figure(name: str) -> dict[str, Any]:
        values = [getattr(own, name) if own else math.nan for own in finals]
        return metrics.spread_with_mean(values)

    found = {
        name: figure(name)
        for name in ("test_error", "error", "cross_entropy", "multiply_adds", "parameters")
    }
    found["compute"] = metrics.spread_with_mean([own.compute for own in outcomes])
    found["seconds"] = metrics.spread_with_mean([own.seconds for own in outcomes])
    return found


def _paired(grown: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    """Return differences grown - other over seeds; below 0, the grown network is better."""
    difference = np.subtract(grown, other)
    interval = metrics.t_interval(difference)
    return metrics.spread_with_mean(difference) | {"interval": interval}


def _by_growth(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return errors of the best model so far after every growth, over seeds."""
    growths = range(max((m.growth for own in outcomes for m in own.models), default=0) + 1)
    found = []
    for growth in growths:
        best = [
            min(
                (model for model in own.models if model.growth <= growth),
                key=lambda model: (model.error, model.cross_entropy),
                default=None,
            )
            for own in outcomes
        ]
        if all(best):
            found.append(
                {
                    "growth": growth,
                    "error": metrics.spread([model.error for model in best if model]),
                    "test_error": metrics.spread([model.test_error for model in best if model]),
                }
            )
    return found


def _search_summary(own: Search) -> dict[str, Any]:
    """Return what pictures need of a search: its models, parents, and every alpha."""
    weak_jobs = [(job, result) for job, result in own.records if job.kind == "weak"]
    best = search.best(own.state.models)
    return {
        "seed": own.seed,
        "best": best.number if best else None,
        "models": [
            {
                "number": model.number, "parent": model.parent, "growth": model.growth,
                "arch": str(model.arch), "error": model.error, "test_error": model.test_error,
                "multiply_adds": model.multiply_adds, "parameters": model.parameters,
                "uses": own.state.uses.get(model.number, 0),
            }
            for model in own.state.models
        ],
        "weak": [
            {
                "growth": job.growth, "parent": job.parent, "arch": str(job.arch),
                "alphas": result.info["alphas"],
                "chosen": {
                    slot: [list(edge) for edge in edges]
                    for slot, edges in own.state.chosen.get(job.growth, {}).items()
                },
            }
            for job, result in weak_jobs
            if result.status == "ok"
        ],
        "failed": sum(result.status == "failed" for _, result in own.records),
    }  # fmt: skip


COLUMNS = (
    "method", "seed", "growth", "number", "parent", "arch", "error", "test_error",
    "cross_entropy", "multiply_adds", "parameters", "name", "final",
)  # fmt: skip


def write_models(
    path: pathlib.Path, settings: ForwardSettings, outcomes: Sequence[Outcome]
) -> None:
    """Write every trained model as a row of a table."""
    rows = [
        [
            own.method, own.seed, model.growth, model.number,
            "" if model.parent is None else model.parent, str(model.arch), model.error,
            model.test_error, model.cross_entropy, model.multiply_adds, model.parameters,
            model.name, int(own.final is not None and own.final.name == model.name),
        ]
        for own in outcomes
        for model in own.models
    ]  # fmt: skip
    comments: Mapping[str, object] = {"study": "forward_search", "preset": settings.preset}
    write_csv(path, comments, COLUMNS, rows)

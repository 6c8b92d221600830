"""Does |alpha| select? Single edges are really trained, and every selector compared with them.

From a trained seed, candidates are trained weakly, several times with other random numbers.
Then each single edge grows in one slot, and its child is trained. Its gain is how much lower
its validation cross-entropy is than that of the seed, trained on for as many epochs: a cross-
entropy, since errors of a few hundred images tie.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from spd_jax import metrics
from spd_jax.forward_search.arch import Arch, parse
from spd_jax.forward_search.jobs import Job
from spd_jax.forward_search.search import Grown
from spd_jax.forward_search.selection import RANKED
from spd_jax.ledger import Evaluation
from spd_jax.studies.forward_controls import SINGLE

WEAK = 2  # weak trainings, of which the first is the search's own; the other tells how stable
CHILDREN = SINGLE + 10  # number of the first; below it are weak trainings and looks, fewer than 10
Records = Sequence[tuple[Job, Evaluation]]


def jobs_of(seed: Grown, settings: Any) -> list[Job]:
    """Return the jobs of one seed: weak trainings, looks at candidates, single edges.

    The seed without a new edge trains for as long as they do.

    The first weak training is the search's own.
    """
    arch = seed.arch
    weak = [
        Job(
            1 if repeat == 0 else SINGLE + repeat, "weak", arch, settings.weak_epochs, seed.name,
            seed.number, 1, arch.slots,
        )
        for repeat in range(WEAK)
    ]  # fmt: skip
    looks = [
        dataclasses.replace(
            own, number=SINGLE + WEAK * (1 + place) + repeat, kind=kind, epochs=0, source=own.name
        )
        for place, kind in enumerate(RANKED if arch.search != "rnn" else ())
        for repeat, own in enumerate(weak)
    ]
    slots = settings.single_slots or arch.slots
    edges = [(slot, edge) for slot in slots for edge in arch.candidates(slot)]
    grown: list[Arch] = [arch, *(arch.grown({slot: [edge]}) for slot, edge in edges)]
    children = [
        Job(
            CHILDREN + repeat * len(grown) + place, "child", own, settings.child_epochs,
            weak[0].name, seed.number, 1,
        )
        for repeat in range(settings.repeats)
        for place, own in enumerate(grown)
    ]  # fmt: skip
    return [*weak, *looks, *children]


def gains_of(records: Records) -> tuple[Arch, dict[str, np.ndarray]]:
    """Return the seed's architecture and, by slot, gains in nats `[E, repeats]`.

    NaN where a training failed.
    """
    arch = next(job.arch for job, _ in records if job.kind == "weak")
    losses: dict[str, list[float]] = {}
    for job, result in records:
        if job.kind == "child":
            loss = result.info["cross_entropy"] if result.status == "ok" else np.nan
            losses.setdefault(str(job.arch), []).append(loss)
    base = np.array(losses[str(arch)])
    gains = {
        slot: np.array(
            [
                base.mean() - np.array(losses[str(arch.grown({slot: [edge]}))])
                for edge in arch.candidates(slot)
            ]
        )
        for slot in arch.slots
        if all(str(arch.grown({slot: [edge]})) in losses for edge in arch.candidates(slot))
    }
    return parse(str(arch)), gains


def summarise(records: Mapping[int, Records]) -> dict[str, Any]:
    """Return how selectors agree with gains, over seeds and slots.

    Args:
      records: by seed.

    Returns:
      `selectors`: by name, tau with the mean gain: `metrics.spread_with_mean` over (seed, slot),
      with a 95 % t interval over seeds (slots averaged); `pooled`: by name and slot, tau of
      means over seeds; `noise_ceiling`: tau of two trainings of the children;
      `others`: tau of a seed's gains with the mean gains of all other seeds, likewise;
      `stability`: by name, tau of one weak training with the other; `gains`: by seed and slot.
    """
    gains = {seed: gains_of(own)[1] for seed, own in records.items()}
    scores = {seed: _scores_of(own) for seed, own in records.items()}
    names = list(dict.fromkeys(name for own in scores.values() for name in own[0]))
    slots = list(next(iter(gains.values())))
    mean = {seed: {slot: x.mean(1) for slot, x in own.items()} for seed, own in gains.items()}

    stable = {seed: {name: own[1].get(name, {}) for name in own[0]} for seed, own in scores.items()}
    return {
        "selectors": {
            name: _spread([[_tau(scores[s][0], name, x, mean[s][x]) for x in slots] for s in mean])
            for name in names
        },
        "pooled": {
            name: {slot: _pooled(name, slot, scores, mean) for slot in slots} for name in names
        },
        "stability": {
            name: _spread(
                [[_tau(scores[s][0], name, x, stable[s].get(name, {}).get(x)) for x in slots]
                 for s in mean]
            )
            for name in names
        },
        "noise_ceiling": _spread([[_between_trainings(own[x]) for x in slots]
                                  for own in gains.values()]),
        "others": _spread([[_with_others(s, x, mean) for x in slots] for s in mean]),
        "gains": {
            str(seed): {slot: own[slot].tolist() for slot in slots} for seed, own in gains.items()
        },
        "scores": {str(seed): own[0] for seed, own in scores.items()},
    }  # fmt: skip


def _tau(scores: Mapping[str, Any], name: str, slot: str, truth: Any) -> float:
    """Return tau of a selector's scores with other numbers; NaN where either is missing."""
    own = scores.get(name, {}).get(slot)
    if own is None or truth is None:
        return math.nan
    return metrics.kendall_tau(np.asarray(own, float), np.asarray(truth, float))


def _pooled(
    name: str,
    slot: str,
    scores: Mapping[int, Any],
    mean: Mapping[int, Mapping[str, np.ndarray]],
) -> float | None:
    """Return tau of mean ranks with mean gains, over the seeds that have both."""
    pairs = [
        (stats.rankdata(np.asarray(own[0][name][slot], float)), mean[seed][slot])
        for seed, own in scores.items()
        if name in own[0] and np.isfinite(mean[seed][slot]).all()
    ]
    if not pairs:
        return None
    ranks, gains = (np.mean(part, axis=0) for part in zip(*pairs, strict=True))
    return metrics.kendall_tau(ranks, gains)


def _between_trainings(gains: np.ndarray) -> float:
    """Return tau of the gains `[E, repeats]` of the first two trainings; NaN of one."""
    return metrics.kendall_tau(*gains.T[:2]) if gains.shape[1] > 1 else math.nan


def _scores_of(records: Records) -> list[dict[str, Any]]:
    """Return what every selector says, once for each repetition."""
    found: list[dict[str, Any]] = [{} for _ in range(WEAK)]
    for kind in ("weak", *RANKED):
        own = [result for job, result in records if job.kind == kind]
        for scores, result in zip(found, own, strict=False):
            scores |= result.info.get("scores", {})
    return found


def _with_others(seed: int, slot: str, mean: Mapping[int, Mapping[str, np.ndarray]]) -> float:
    """Return tau of a seed's gains with the mean of the other seeds', NaN without any."""
    others = [own[slot] for other, own in mean.items() if other != seed]
    return metrics.kendall_tau(mean[seed][slot], np.mean(others, axis=0)) if others else math.nan


def _spread(taus: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return the spread of taus `[seeds, slots]`, with a 95 % t interval over seeds."""
    interval = metrics.t_interval(np.mean(taus, axis=1))
    return metrics.spread_with_mean(np.ravel(taus)) | {"interval": interval}

"""What stands beside a forward search: controls at equal compute, other selectors, ablations."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spd_jax.forward_search import selection, training
from spd_jax.forward_search.arch import Arch
from spd_jax.studies.forward_settings import ForwardSettings, problem_of

GROWN, SELECTION = "grown", "selection"
CONTROLS = {
    "longer": "the seed, trained on",
    "random": "grown at random, after the same weak training",
    "none": "grown at random, without weak training",
    "wide": "the seed, widened, from scratch",
    "networks": "a random network of the same kind, from scratch",
    "retrained": "the grown network, from scratch",
}
# Other selectors share the seed and the first weak training with the search.
SELECTORS = {
    f"by_{name}": f"selected by {name}"
    for name in ("alpha", "gradient", "certain", "signed", "projection", "proxy", "dish")
}
ABLATIONS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "lambda_0": ("lambda 0", {"penalty": 0.0}),
    "lambda_01": ("lambda 0.01", {"penalty": 0.01}),
    "gate": ("gate 1 / number of images", {"gate": 0.0}),
    "no_stop_gradient": ("candidates move the parent", {"coupling": "no_stop_gradient"}),
    "soft": ("neither stop, learnt gate", {"coupling": "soft"}),
    "scaled": ("candidates with learnt scales", {"candidate_scale": True}),
    "edges_2": ("I_max 2", {"edges": 2}),
    "edges_4": ("I_max 4", {"edges": 4}),
    "plain": ("merged by a projection alone", {"merge": "plain"}),
    "sum": ("merged by a weighted sum", {"merge": "sum"}),
    "wide_start": ("starts twice as wide", {}),  # see `changes_of`
}
# Whatever is a search of its own.
SEARCHES = ("random", "none", *SELECTORS, *ABLATIONS)
ALL: dict[str, str] = {
    **CONTROLS,
    **SELECTORS,
    **{name: words for name, (words, _) in ABLATIONS.items()},
    SELECTION: "single edges, really trained: which selector agrees with their gains",
}
# Whatever looks at, or changes, what a recurrent cell has not: normalisation, joined operations.
OF_IMAGES = (*(f"by_{name}" for name in selection.RANKED), "scaled", "plain", "sum")
LONGER, SCRATCH = 100_000, 200_000  # numbers of jobs that no search reaches
SINGLE = 300_000


def available(search: str) -> tuple[str, ...]:
    """Return what can stand beside a search of a kind: names in `ALL`."""
    return tuple(name for name in ALL if search != "rnn" or name not in OF_IMAGES)


def changes_of(method: str, settings: Any) -> dict[str, Any]:
    """Return the settings that a search differs in from the one that it stands beside."""
    if method in ("random", "none"):
        return {"select": method}
    if method in SELECTORS:
        return {"select": method.removeprefix("by_")}
    if method == "wide_start":
        name = "hidden" if settings.search == "rnn" else "filters"
        return {name: 2 * getattr(settings, name)}
    return dict(ABLATIONS[method][1]) if method in ABLATIONS else {}


def compute(records: Any) -> float:
    """Return training images times multiply-adds of an image, of finished jobs."""
    return float(sum(result.info.get("train_multiply_adds", 0.0) for _, result in records))


def epochs_for(cost: float, multiply_adds: float, count: int) -> int:
    """Return how many epochs of a network cost so much, at least one."""
    return max(round(cost / (multiply_adds * count)), 1)


def random_arch(seed: Arch, like: Arch, draw: Sequence[int]) -> Arch:
    """Return an architecture with as many learners and edges as another, drawn at random."""
    generator = np.random.default_rng(list(draw))
    found = seed
    for depth in range(like.depth):
        chosen = {}
        for slot in like.slots:
            if depth < len(like.learners(slot)):
                edges = found.candidates(slot)
                size = min(len(like.learners(slot)[depth]), len(edges))
                picked = generator.choice(len(edges), size, replace=False)
                chosen[slot] = [edges[place] for place in picked]
        found = found.grown(chosen)
    return found


def widened(
    settings: ForwardSettings, data_dir: str | None, arch: Arch, wanted: float, width: int
) -> Any:
    """Return networks so wide that the seed has nearly so many multiply-adds."""
    costs: dict[int, float] = {}
    for own in range(width, 16 * width + 1):
        model = problem_of(settings, data_dir, own).model
        costs[own] = training.recorded(model, arch).multiply_adds
        if costs[own] >= wanted:
            break
    best = min(costs, key=lambda own: abs(math.log(costs[own] / wanted)))
    return problem_of(settings, data_dir, best)

"""Which candidates stay: the paper's |alpha|, and what else one weak training tells of them.

Every selector gives each candidate of a slot a number, higher is better; the best few become
the slot's next learner.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from spd_jax.errors import UserError, check_name
from spd_jax.forward_search.arch import Edge

# By name, what a selector looks at. The first four are had from a weak training.
SELECTORS = {
    "alpha": "|alpha| after weak training (the paper)",
    "gradient": "|mean dL/d alpha| over the weak training: equation 8 itself",
    "certain": "the same mean over its standard error",
    "signed": "mean of -alpha dL/d alpha: the gain to first order, with its sign",
    "projection": "norm of dL/dA of a projection A, after weak training (ours)",
    "proxy": "the same norm of candidates with initial weights: a zero-cost proxy",
    "dish": "a Synthetic Petri Dish, untrained: each candidate in a tiny network (ours)",
    "random": "a random choice after the same weak training (the paper's control)",
    "none": "a random choice without weak training, whose cost the child's training gets",
}
RANKED = ("projection", "proxy", "dish")  # a job of its own looks at candidates
Scores = dict[str, dict[str, list[float]]]  # by selector and slot, one number for each candidate


def scores_of(
    alphas: Mapping[str, ArrayLike],
    signals: Mapping[str, ArrayLike],
    steps: int,
) -> Scores:
    """Return what the selectors say that a weak training measures.

    NaN stands for a candidate that ever had a gradient dL/d alpha that was not finite: its output
    was infinite, and a child that took it would compute nothing.

    Args:
      alphas: by slot `[E]`, after weak training.
      signals: by slot `[3, E]`, see `training.TrainState`.
      steps: of the weak training.
    """
    found: dict[str, dict[str, np.ndarray]] = {"alpha": {}, "gradient": {}, "certain": {}}
    found["signed"] = {}
    for slot, sums in signals.items():
        whole = np.isfinite(np.asarray(sums, float)).all(0)
        total, squares, signed = np.where(whole, np.asarray(sums, float), np.nan)
        mean = total / max(steps, 1)
        spread = np.sqrt(np.maximum(squares / max(steps, 1) - mean**2, 0))
        found["alpha"][slot] = np.where(whole, np.abs(np.asarray(alphas[slot], float)), np.nan)
        found["gradient"][slot] = np.abs(mean)
        error = np.maximum(spread / np.sqrt(max(steps, 1)), np.finfo(np.float32).tiny)
        found["certain"][slot] = np.abs(mean) / error
        found["signed"][slot] = signed / max(steps, 1)
    return {name: {slot: x.tolist() for slot, x in own.items()} for name, own in found.items()}


def choose(
    edges: Sequence[Edge],
    scores: ArrayLike,
    count: int,
    fits: Callable[[tuple[Edge, ...]], bool] = lambda chosen: True,
) -> tuple[Edge, ...]:
    """Return the best candidates with finite scores; of equal ones those with the lower number.

    Args:
      edges: all candidates of a slot, in the order of their numbers `[E]`.
      scores: `[E]`, higher is better.
      count: I_max, how many to take; fewer where there are fewer.
      fits: says of edges whether they keep within a budget; what does not fit is passed over.
    """
    values = np.asarray(scores, float)
    if values.shape != (len(edges),):
        raise UserError(
            f"{len(edges)} candidates have scores of shape {values.shape}: give one for each"
        )
    chosen: tuple[Edge, ...] = ()
    for place in np.argsort(-values, kind="stable"):
        if not np.isfinite(values[place]):
            continue
        if len(chosen) < count and fits((*chosen, edges[place])):
            chosen = (*chosen, edges[place])
    return chosen


def random_scores(seed: Sequence[int], counts: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return random scores by slot: choosing by them is choosing at random."""
    generator = np.random.default_rng(list(seed))
    return {slot: generator.random(count) for slot, count in counts.items()}


def scores_by(
    name: str, measured: Scores | None, seed: Sequence[int], counts: Mapping[str, int]
) -> Mapping[str, Any]:
    """Return the scores of a selector by slot.

    Args:
      name: in `SELECTORS`.
      measured: of `scores_of`; None where no weak learner was trained.
      seed: of random choices.
      counts: candidates of every slot.

    Raises:
      UserError: an unknown name, or one that needs what was not measured.
    """
    check_name("selector", name, SELECTORS)
    if name in ("random", "none"):
        return random_scores(seed, counts)
    if measured is None or name not in measured:
        raise UserError(f"select={name} needs a weak training that measured it")
    return measured[name]

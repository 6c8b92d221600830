"""What a dish of image cells costs, beside tables 1 and 2 of Cassimon et al.

Times are in seconds. The paper's were measured on an AMD Ryzen 9 5900X, those of NAS-Bench-101 on
TPU v2 accelerators.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from spd_jax import archs as batches
from spd_jax import dish
from spd_jax.axes import Archs
from spd_jax.dish import DishState
from spd_jax.dish.config import RATES
from spd_jax.studies import machine
from spd_jax.studies.outer_loop import OuterLoop

# Table 1: of one inner epoch of one cell.
PAPER_EPOCH = {
    "A": {"min": 0.193, "mean": 4.282, "max": 10.361},
    "B": {"min": 0.174, "mean": 3.471, "max": 10.397},
    "C": {"min": 0.075, "mean": 1.427, "max": 3.259},
}
NASBENCH101_EPOCH = {"min": 2.632, "mean": 17.893, "max": 51.511}
PAPER_QUERY = {"A": 428.2, "B": 347.1, "C": 142.7}  # section 5.4
CELLS, OUTER_STEPS, EPOCHS = 6, 170, 100  # of the paper: a batch, and the two loops
NASBENCH101_EPOCHS = 108
RAWAL_CELLS = 30  # that Rawal et al. train at every outer step
TIMED_CELLS = 10  # most cells that are timed one by one
DAY = 86400.0


def paper(motif_network: str) -> dict[str, Any]:
    """Return the paper's costs of a motif-network; `None` of one that it does not have.

    The products are those of table 2: cells x outer steps x inner epochs x seconds of an epoch.
    """
    if motif_network not in PAPER_EPOCH:
        return {}
    mean = PAPER_EPOCH[motif_network]["mean"]
    return {
        "epoch_seconds": PAPER_EPOCH[motif_network],
        "initialisation_seconds": CELLS * OUTER_STEPS * EPOCHS * mean,
        "query_seconds": PAPER_QUERY[motif_network],
        "ground_truth_seconds": ground_truth_seconds(CELLS * OUTER_STEPS, NASBENCH101_EPOCHS),
        "rawal_seconds": RAWAL_CELLS * OUTER_STEPS * EPOCHS * mean,
    }


def ground_truth_seconds(cells: int, epochs: int) -> float:
    """Return what ground truths cost at NAS-Bench-101's mean time of an epoch."""
    return cells * epochs * NASBENCH101_EPOCH["mean"]


def epoch_seconds(loop: OuterLoop, state: DishState, archs: Archs) -> dict[str, float]:
    """Time one inner epoch of single cells, trained one at a time; validation is part of it.

    Args:
      loop: of the motif-network and its settings.
      state: a dish.
      archs: cells `[M]`, of which the first `TIMED_CELLS` are timed.

    Returns:
      Smallest, mean and largest time over cells of one member's training, by "min", "mean" and
      "max".
    """
    # One member: the median over members is a choice of ours that the paper does not have.
    state = jax.tree.map(lambda leaf: leaf[:1] if leaf.ndim else leaf, state)
    config = dataclasses.replace(loop.config, ensemble_size=1, **_first_rates(loop))
    found = []
    for arch in batches.unstack(batches.take(archs, slice(TIMED_CELLS))):
        seconds = {"compile": 0.0}
        with machine.timed(seconds, "query"):
            dish.raw_scores(state, loop.family, config, batches.stack([arch]))
        found.append(seconds["query"] / loop.epochs)
    # The first also loads the program.
    found = found[1:] or found
    return {"min": min(found), "mean": float(np.mean(found)), "max": max(found)}


def _first_rates(loop: OuterLoop) -> dict[str, Any]:
    """Return the first member's rates, where members have rates of their own."""
    rates = {name: getattr(loop.config, name) for name in RATES}
    return {name: rate if np.ndim(rate) == 0 else rate[0] for name, rate in rates.items()}


def table(
    epoch: dict[str, float], initialisation: float, query: float, truths: float, loop: OuterLoop
) -> dict[str, Any]:
    """Return our costs, JSON-ready, by the names that `paper` uses.

    Args:
      epoch: of `epoch_seconds`.
      initialisation: all outer steps, without compiling.
      query: of one cell among many.
      truths: of the known cells' ground truths.
      loop: whose outer steps and inner epochs give the estimate for the procedure of Rawal et
        al., which trains thirty cells at every outer step.
    """
    return {
        "epoch_seconds": epoch,
        "initialisation_seconds": initialisation,
        "query_seconds": query,
        "ground_truth_seconds": truths,
        "rawal_seconds": RAWAL_CELLS * loop.config.outer_steps * loop.epochs * epoch["mean"],
    }

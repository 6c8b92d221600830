"""Searches of the toy space that tests share, and tasks of it that count, fail or are stopped."""

import dataclasses

import numpy as np
from toy_widths import TOY, Formula

from spd_jax.ledger import Evaluation
from spd_jax.problems import GroundTruthPreset
from spd_jax.studies import search_comparison
from spd_jax.studies.searches import SearchSettings

SEARCH = SearchSettings(
    preset="formula",
    dish=TOY.dish_presets["best"],
    hidden_size=2,
    iterations=2,
    seeds=1,
    warm_start=6,
    proposals=10,
    evaluations=3,
)
DISH_GA = dataclasses.replace(SEARCH, method="dish_ga")
METHODS = ["dish_ga", "dish_random", "ga", "random", "partial"]  # no tokens, so no NAO


@dataclasses.dataclass(frozen=True)
class Watched(Formula):
    """The toy's task, which notes what it sells.

    Attributes:
      sold: cell, seed and budget of every evaluation that was begun.
      interrupt_at: number of the evaluation at which Ctrl-C is pressed.
      failing: cells whose training fails; None: of all.
    """

    sold: list = dataclasses.field(default_factory=list, compare=False)
    interrupt_at: int | None = None
    failing: frozenset | None = frozenset()

    def evaluate(self, cell, seed, budget):
        if len(self.sold) == self.interrupt_at:
            raise KeyboardInterrupt
        self.sold.append((cell, seed, budget))
        if self.failing is None or cell in self.failing:
            return Evaluation("failed", np.nan, np.nan, error="it exploded")
        return super().evaluate(cell, seed, budget)


def watched(**options):
    """Return the toy problem with a watched task, and the task."""
    task = Watched(**options)
    preset = GroundTruthPreset(lambda data, states: task, task.budget)
    return dataclasses.replace(TOY, ground_truths={"formula": preset}), task


def finished(factory):
    """Return the uninterrupted comparison that a session shares, and what it sold."""
    folder = factory.getbasetemp() / "toy_search"
    if folder not in _FINISHED:
        problem, task = watched()
        _FINISHED[folder] = search_comparison.run(problem, SEARCH, folder), list(task.sold)
    return _FINISHED[folder]


def contents(folder):
    """Return the bytes of every file below a folder."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


_FINISHED: dict = {}

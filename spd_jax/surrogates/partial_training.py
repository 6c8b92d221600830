"""The rival that buys: rank motifs by their real training after a few epochs.

Rawal et al., section 4.2, "random with partial evaluation". It learns nothing, but
every prediction costs a share of a ground truth.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from spd_jax.axes import Archs
from spd_jax.errors import UserError
from spd_jax.surrogates import protocol

# Archs of M motifs and p -> for each the validation scores after epochs 1, 2, ..., p or more.
Lookup = Callable[[Archs, int], Sequence[Sequence[float]]]


@dataclasses.dataclass(frozen=True)
class PartialTraining:
    """Scores after `epochs` of `budget` epochs of real training.

    Attributes:
      lookup: `lookup(archs, epochs)` trains, or reads from a ledger or table, and returns
        M learning curves, scores higher is better; one with fewer than `epochs` entries
        belongs to a motif that failed. See `of_ground_truth`.
      epochs: p, at least 1.
      budget: epochs of a full evaluation.
    """

    lookup: Lookup
    epochs: int
    budget: int

    @property
    def cost_per_query(self) -> float:
        """What one prediction costs, in full evaluations: p / budget."""
        return self.epochs / self.budget

    def fit(self, key: jax.Array, archs: Archs, scores: ArrayLike) -> "FittedPartialTraining":
        """Return the predictor; nothing is learned.

        Args:
          key: not used.
          archs: not looked at.
          scores: not looked at.

        Raises:
          UserError: epochs outside 1..budget.
        """
        del key, archs, scores
        if not 1 <= self.epochs <= self.budget:
            raise UserError(
                f"partial training of {self.epochs} epochs: give 1 to {self.budget}, the epochs "
                "of a full evaluation"
            )
        return FittedPartialTraining(self)

    def load(self, path: protocol.Path) -> "FittedPartialTraining":
        """Read what `FittedPartialTraining.save` wrote, with the epochs that it had.

        Raises:
          UserError: no such file, or not that of a partial training.
        """
        epochs = int(protocol.load_arrays(path, type(self).__name__)["epochs"])
        return FittedPartialTraining(dataclasses.replace(self, epochs=epochs))


@dataclasses.dataclass(frozen=True)
class FittedPartialTraining:
    """A partial training, ready to predict.

    Attributes:
      surrogate: its settings.
    """

    surrogate: PartialTraining

    def predict(self, archs: Archs) -> np.ndarray:
        """Return the score after p epochs, `[M]` float64; NaN where the training failed.

        Raises:
          UserError: the lookup returned another number of curves.
        """
        epochs = self.surrogate.epochs
        curves = self.surrogate.lookup(archs, epochs)
        count = len(jax.tree.leaves(archs)[0])
        if len(curves) != count:
            raise UserError(
                f"{len(curves)} learning curves for {count} motifs: return one for each"
            )
        return np.array([c[epochs - 1] if len(c) >= epochs else np.nan for c in curves], float)

    def save(self, path: protocol.Path) -> None:
        """Write the number of epochs."""
        kind = type(self.surrogate).__name__
        protocol.save_arrays(path, kind, {"epochs": np.asarray(self.surrogate.epochs)})


def of_ground_truth(ground_truth: Any, name: Callable[[Any], str], *, seed: int = 0) -> Lookup:
    """Return a lookup that buys the epochs, each of them once.

    Args:
      ground_truth: a `ground_truth.purchase.GroundTruth`, or whatever has its
        `evaluate(cells, seeds, budget) -> evaluations [M][seed]` with their `curve`.
      name: names one motif in the ledger, for example `space.canonical_text`.
      seed: of the training.
    """

    def lookup(archs: Archs, epochs: int) -> list[Sequence[float]]:
        count = len(jax.tree.leaves(archs)[0])
        cells = [name(jax.tree.map(lambda x: x[i], archs)) for i in range(count)]  # noqa: B023
        bought = ground_truth.evaluate(cells, (seed,), budget=epochs)
        return [evaluation.curve for (evaluation,) in bought]

    return lookup

"""The rival that buys: rank motifs by their real training after a few epochs.

Rawal et al., section 4.2, "random with partial evaluation". It learns nothing, but
every prediction costs a share of a ground truth.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from jax.typing import ArrayLike

from spd_jax import archs as archs_lib
from spd_jax import files
from spd_jax.axes import Arch, Archs, Key
from spd_jax.errors import UserError
from spd_jax.ledger import Evaluation
from spd_jax.surrogates import protocol

# Archs of M motifs and p -> for each the validation scores after epochs 1, 2, ..., p or more.
Lookup = Callable[[Archs, int], Sequence[Sequence[float]]]


class Evaluator(Protocol):
    """What evaluates motifs by name, such as a `ground_truth.purchase.GroundTruth`."""

    def evaluate(
        self, cells: Sequence[str], seeds: Sequence[int], budget: int
    ) -> Sequence[Sequence[Evaluation]]:
        """Return the evaluations of M named motifs, by motif and then by seed."""
        ...


@dataclasses.dataclass(frozen=True)
class PartialTraining:
    """Scores after `epochs` of `budget` epochs of real training.

    It is `protocol.ScoreFree` and a `protocol.CostlySurrogate`.

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

    def fit(self, key: Key, archs: Archs, scores: ArrayLike) -> "FittedPartialTraining":
        """Return `prepare(key)`: archs and scores are not looked at."""
        del archs, scores
        return self.prepare(key)

    def prepare(self, key: Key) -> "FittedPartialTraining":
        """Return the predictor; nothing is learned, and `key` is not used.

        Raises:
          UserError: epochs outside 1..budget.
        """
        del key
        if not 1 <= self.epochs <= self.budget:
            raise UserError(
                f"partial training of {self.epochs} epochs: give 1 to {self.budget}, the epochs "
                "of a full evaluation"
            )
        return FittedPartialTraining(self)

    def load(self, path: protocol.Path) -> "FittedPartialTraining":
        """Read a saved predictor, with its own epochs; errors as `protocol.Surrogate.load`."""

        def build(arrays: dict[str, np.ndarray]) -> FittedPartialTraining:
            return FittedPartialTraining(dataclasses.replace(self, epochs=int(arrays["epochs"])))

        return protocol.restore(path, type(self).__name__, build)


@dataclasses.dataclass(frozen=True)
class FittedPartialTraining:
    """A partial training, ready to predict.

    Attributes:
      surrogate: its settings.
    """

    surrogate: PartialTraining

    def predict(self, archs: Archs) -> np.ndarray:
        """Return the score after p epochs, `[M]` float64; NaN where the training failed.

        This is where the training is bought.

        Raises:
          UserError: the lookup returned another number of curves.
        """
        epochs = self.surrogate.epochs
        curves = self.surrogate.lookup(archs, epochs)
        count = archs_lib.count(archs)
        if len(curves) != count:
            raise UserError(
                f"{len(curves)} learning curves for {count} motifs: return one for each"
            )
        scores = [curve[epochs - 1] if len(curve) >= epochs else np.nan for curve in curves]
        return np.where(np.isfinite(scores), scores, np.nan)

    def save(self, path: protocol.Path) -> None:
        """Write the number of epochs."""
        kind = type(self.surrogate).__name__
        files.save_arrays(path, {"epochs": self.surrogate.epochs}, kind=kind)


def of_ground_truth(
    ground_truth: Evaluator, encode: Callable[[Arch], str], *, seed: int = 0
) -> Lookup:
    """Return a lookup that buys the epochs, each of them once.

    Args:
      ground_truth: what evaluates, and remembers what it evaluated.
      encode: `space.encode`, which names an arch in canonical form.
      seed: of the training.
    """

    def lookup(archs: Archs, epochs: int) -> list[Sequence[float]]:
        cells = [encode(arch) for arch in archs_lib.unstack(archs)]
        bought = ground_truth.evaluate(cells, (seed,), budget=epochs)
        return [evaluation.curve for (evaluation,) in bought]

    return lookup

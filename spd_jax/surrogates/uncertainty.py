"""How far off a dish's predictions may be: the spread of its members, in the unit of scores."""

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What turns the spread of an ensemble into the standard deviation of its errors (ours).

    Members agree too well or too little, because they share motifs and settings: their spread is
    multiplied by one factor, with which its mean square over the known motifs is that of the
    errors there. A single member has no spread: its errors are taken to be alike everywhere.

    Attributes:
      factor: multiplies the spread of the members; 0 where there is no spread.
      constant: standard deviation of every motif where there is no spread, else 0; in the unit
        of the scores.
    """

    factor: float
    constant: float

    @classmethod
    def of(cls, members: ArrayLike, truth: ArrayLike) -> Self:
        """Return the calibration that known motifs ask for.

        Args:
          members: predictions `[E, K]` of every member, in the unit of the scores; motifs that a
            member failed on are left out.
          truth: known scores `[K]`; those that are not finite are left out.
        """
        members, truth = np.asarray(members, np.float64), np.asarray(truth, np.float64)
        whole = np.isfinite(members).all(axis=0) & np.isfinite(truth)
        members, truth = members[:, whole], truth[whole]
        error = _root_mean_square(truth - np.median(members, axis=0))
        spread = _root_mean_square(_spread(members))
        return cls(error / spread, 0.0) if spread > 0 else cls(0.0, error)

    def std(self, members: ArrayLike) -> np.ndarray:
        """Return standard deviations `[M]` float64 of the median over members.

        Args:
          members: predictions `[E, M]` of every member, in the unit of the scores.

        Returns:
          In that unit; NaN where a member failed.
        """
        members = np.asarray(members, np.float64)
        failed = ~np.isfinite(members).all(axis=0)
        filled = np.where(failed, 0.0, members)
        return np.where(failed, np.nan, self.constant + self.factor * _spread(filled))


def coverage(
    predicted: ArrayLike, std: ArrayLike, truth: ArrayLike, widths: Sequence[float] = (1.0, 2.0)
) -> list[float]:
    """Return the share of scores within so many standard deviations of their predictions.

    Of errors that follow a normal law of these standard deviations, 0.68 lie within one and 0.95
    within two.

    Args:
      predicted: scores `[M]`.
      std: their standard deviations `[M]`, see `Calibration.std`.
      truth: true scores `[M]`; those that are not finite are left out.
      widths: how many standard deviations.

    Returns:
      A share in [0, 1] for each width. A motif whose prediction failed is not covered. NaN where
      no true score is finite.

    >>> coverage([0.0, 0.0, 0.0, np.nan], [1.0, 1.0, 1.0, 1.0], [0.5, 1.5, 2.5, 0.0])
    [0.25, 0.5]
    """
    predicted, std, truth = (np.asarray(x, np.float64) for x in (predicted, std, truth))
    usable = np.isfinite(truth)
    if not usable.any():
        return [float("nan") for _ in widths]
    error, std = np.abs(predicted - truth)[usable], std[usable]
    return [float(np.mean(error <= width * std)) for width in widths]


def _spread(members: np.ndarray) -> np.ndarray:
    """Return the standard deviation `[M]` over members `[E, M]`; 0 of a single one."""
    return members.std(axis=0, ddof=1) if len(members) > 1 else np.zeros(members.shape[1])


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2))) if values.size else 0.0

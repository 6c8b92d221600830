"""A sigmoid of some slope as a picture: the curve of sigmoid(c z)."""

import numpy as np
from jax.typing import ArrayLike
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from spd_jax.errors import UserError

INK, CURVE, STANDARD = "#222222", "#009E73", "#AAAAAA"


def draw(slope: ArrayLike, title: str = "") -> Figure:
    """Draw sigmoid(c z) for one slope c over z in [-6, 6], beside the sigmoid of slope 1.

    Args:
      slope: c, a finite scalar.
      title: stands above the picture.

    Raises:
      UserError: more than one slope, or one that is not finite.
    """
    slope = np.asarray(slope, float)
    if slope.shape != () or not np.isfinite(slope):
        raise UserError(f"slope {slope.tolist()} cannot be drawn: give one finite number")
    z = np.linspace(-6, 6, 481)
    figure = Figure(figsize=(4.2, 3.2), layout="constrained")
    axes = figure.subplots()
    if slope != 1:
        axes.plot(z, _sigmoid(z), color=STANDARD, lw=1.4, ls="--", label="c = 1")
    axes.plot(z, _sigmoid(float(slope) * z), color=CURVE, lw=2.4, label=f"c = {slope:.3g}")
    axes.set(xlim=(-6, 6), ylim=(-0.03, 1.03), xlabel="z", ylabel="sigmoid(c z)")
    axes.xaxis.set_major_locator(MultipleLocator(2))
    axes.grid(color="#DDDDDD", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left" if slope >= 0 else "upper right", frameon=False)
    if title:
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    return figure


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(x / 2))  # overflows for no slope

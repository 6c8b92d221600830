"""An activation of some kind and slope as a picture: the curve of phi(c z)."""

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from spd_jax.axes import Arch
from spd_jax.errors import UserError
from spd_jax.spaces.activation_slope.units import KINDS, UNITS

INK, CURVE, STANDARD = "#222222", "#009E73", "#AAAAAA"


def draw(arch: Arch, title: str = "") -> Figure:
    """Draw phi(c z) for one motif over z in [-6, 6], beside the same kind with slope 1.

    Args:
      arch: one motif.
      title: stands above the picture.

    Raises:
      UserError: more than one motif, an unknown kind, or a slope that is not finite.
    """
    kind, slope = np.asarray(arch["kind"]), np.asarray(arch["slope"], float)
    if slope.shape != () or not np.isfinite(slope) or not 0 <= kind < len(KINDS):
        raise UserError(
            f"kind {kind.tolist()} with slope {slope.tolist()} cannot be drawn: give one motif"
        )
    name = KINDS[int(kind)]
    z = np.linspace(-6, 6, 481)
    figure = Figure(figsize=(4.2, 3.2), layout="constrained")
    axes = figure.subplots()
    if slope != 1:
        axes.plot(
            z,
            np.asarray(UNITS[name](jnp.asarray(z))),
            color=STANDARD,
            lw=1.4,
            ls="--",
            label="c = 1",
        )
    curve = np.asarray(UNITS[name](jnp.asarray(slope * z)))
    axes.plot(z, curve, color=CURVE, lw=2.4, label=f"c = {slope:.3g}")
    axes.set(xlim=(-6, 6), xlabel="z", ylabel=f"{name}(c z)")
    axes.grid(color="#DDDDDD", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    if title:
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    return figure

"""Kinds of activation, each with a slope, evaluated by image classifiers (ours)."""

import functools
from typing import TYPE_CHECKING

import numpy as np

from spd_jax.axes import Arch, Archs
from spd_jax.problems import sigmoid_slope
from spd_jax.problems.problem import GroundTruthPreset, Problem
from spd_jax.spaces import activation_slope
from spd_jax.spaces.activation_slope import KINDS
from spd_jax.trainers.mlp_classifier import MlpClassifierConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Not chosen for other kinds than the sigmoid.
DISH_PRESETS = {"best": sigmoid_slope.CARRIED}
# Fewer epochs than table 1's 50: what half an hour of one core paid for.
SHORT = MlpClassifierConfig(epochs=6, average_epochs=3, chunk=12)
TABLES = {"fashion_mnist": "fashion_mnist_activation_slope", "mnist": "", "digits": ""}


class ActivationDrawing:
    """Draws activations, a `motif.Drawing`."""

    def draw(self, arch: Arch, title: str = "") -> "Figure":
        """Return the curve of the activation as a picture."""
        from spd_jax.spaces.activation_slope import drawing  # brings matplotlib

        return drawing.draw(arch, title)


def problem(use_bias: bool = True) -> Problem:
    """Return the problem; `use_bias` gives the motif-network biases."""
    space = activation_slope.ActivationSlopeSpace()
    return Problem(
        name=space.name,
        space=space,
        family=lambda hidden: activation_slope.family(hidden=hidden, use_bias=use_bias),
        dish_presets=DISH_PRESETS,
        ground_truths=_ground_truths(),
        features=space,
        drawing=ActivationDrawing(),
        parameters_in_the_paper=22,  # of the sigmoid's
        table_cells=tuple(activation_slope.table_cells()),
        coordinate=_slopes,
        groups=_kinds,
        embeddings={"sigmoid_slope": activation_slope.of_sigmoids},
    )


def _ground_truths() -> dict[str, GroundTruthPreset]:
    """Return the trainings: short ones by default, and `<data set>_full` with table 1's epochs."""
    full = MlpClassifierConfig(chunk=SHORT.chunk)
    found = {
        name: GroundTruthPreset(
            functools.partial(sigmoid_slope.task, name, config=SHORT),
            SHORT.epochs,
            "accuracy",
            table,
        )
        for name, table in TABLES.items()
    }
    return found | {
        f"{name}_full": GroundTruthPreset(
            functools.partial(sigmoid_slope.task, name, config=full), full.epochs, "accuracy"
        )
        for name in TABLES
    }


def _slopes(archs: Archs) -> np.ndarray:
    return np.asarray(archs["slope"], float)


def _kinds(archs: Archs) -> list[str]:
    return [KINDS[kind] for kind in np.asarray(archs["kind"])]

"""Slopes of a sigmoid, evaluated by image classifiers (Rawal et al., section 4.1)."""

import dataclasses
import functools
from typing import TYPE_CHECKING

import numpy as np

from spd_jax.axes import Arch
from spd_jax.dish import DishConfig
from spd_jax.problems.problem import GroundTruthPreset, Problem
from spd_jax.spaces import sigmoid_slope
from spd_jax.surrogates.slope_mlp import SlopeMlp
from spd_jax.trainers.mlp_classifier import MlpClassifierConfig, MlpClassifierTask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DISH_PRESETS = {
    # Many dishes, bold inner runs, no outer step: see BUILD_NOTES.md, "The peak".
    "best": DishConfig(inner_steps=200, outer_steps=0, ensemble_size=96, inner_learning_rate=1.0),
    # The same, with the inner rate left to A.1 too: what the training interval alone can choose.
    "a1": DishConfig(inner_steps=200, outer_steps=0, ensemble_size=48, inner_learning_rate=0.1),
    "paper": DishConfig(),  # table 2
    # What `experiments.tune --target=mnist` printed: chosen on Fashion-MNIST and CIFAR-10 alone
    # (experiments/results/mnist_blind_tuning.csv), there with four dishes.
    "mnist_blind": DishConfig(
        inner_steps=200,
        outer_steps=160,
        train_samples=20,
        valid_samples=20,
        ensemble_size=8,
        motif_batch=20,
        gradient="truncated",
        truncation=50,
        inner_learning_rate=0.0109,
        inner_l2=3.11e-05,
        outer_learning_rate=0.0484,
        outer_l2=1.43e-05,
        decay=0.778,
    ),
    # Likewise for Fashion-MNIST: chosen on MNIST and digits alone, out of twelve draws.
    "fashion_mnist_blind": DishConfig(
        inner_steps=250,
        outer_steps=60,
        ensemble_size=8,
        motif_batch=20,
        targets="ranks",
        gradient="truncated",
        truncation=50,
        inner_learning_rate=0.00828,
        inner_l2=8.43e-05,
        outer_learning_rate=0.0325,
        outer_l2=0.000185,
        decay=0.543,
    ),
}
# What a dish learns with that shall rank the slopes of another data set: timid inner runs, whose
# scores only learning puts in order, and ranks, which no outlier rules. See docs/carry_over.md.
CARRIED = DishConfig(
    inner_steps=200,
    outer_steps=80,
    ensemble_size=16,
    targets="ranks",
    schedule="constant",
    inner_learning_rate=0.03,
    outer_learning_rate=0.03,
)
# What A.1 chooses from on the known slopes of a seed, by preset of the dish: widths of the
# motif-network, and inner rates.
CANDIDATES: dict[str, tuple[tuple[int, ...], tuple[float, ...]]] = {
    "best": ((1, 3), (1.0,)),
    "a1": ((1, 3), (0.1, 0.3, 1.0)),
    "paper": ((1,), (0.01,)),
    "mnist_blind": ((5,), (0.0109,)),
    "fashion_mnist_blind": ((5,), (0.00828,)),
}
# Of presets that learn from another data set's table: the one they predict, and that other one.
TRANSFERS = {
    "mnist_blind": ("mnist", "fashion_mnist"),
    "fashion_mnist_blind": ("fashion_mnist", "mnist"),
}
TABLES = {
    "mnist": "mnist_sigmoid_slope",
    "fashion_mnist": "fashion_mnist_sigmoid_slope",
    "digits": "digits_sigmoid_slope",
    "cifar10": "cifar10_sigmoid_slope",
}
# Of data sets where a training is not table 1's 50. Two of CIFAR-10's five batches are a third of
# MNIST's images: so their networks take as many steps.
EPOCHS = {"cifar10": 150}


class SlopeDrawing:
    """Draws slopes, a `motif.Drawing`."""

    def draw(self, arch: Arch, title: str = "") -> "Figure":
        """Return the curve of the sigmoid as a picture."""
        from spd_jax.spaces.sigmoid_slope import drawing  # brings matplotlib

        return drawing.draw(arch, title)


def problem(use_bias: bool = True) -> Problem:
    """Return the problem; `use_bias` gives the motif-network biases."""
    space = sigmoid_slope.SigmoidSlopeSpace()
    return Problem(
        name=space.name,
        space=space,
        family=lambda hidden: sigmoid_slope.family(hidden=hidden, use_bias=use_bias),
        dish_presets=DISH_PRESETS,
        ground_truths={
            dataset: GroundTruthPreset(
                functools.partial(task, dataset), config_of(dataset).epochs, "accuracy", table
            )
            for dataset, table in TABLES.items()
        },
        features=space,
        drawing=SlopeDrawing(),
        rivals={"slope_mlp": SlopeMlp()},
        parameters_in_the_paper=22,
        coordinate=lambda slopes: np.asarray(slopes, float),
    )


def config_of(dataset: str) -> MlpClassifierConfig:
    """Return how slopes are trained on a data set, at full size."""
    own = MlpClassifierConfig()
    return dataclasses.replace(own, epochs=EPOCHS.get(dataset, own.epochs))


def task(
    dataset: str,
    data_dir: str | None,
    checkpoint_dir: str | None,
    config: MlpClassifierConfig | None = None,
) -> MlpClassifierTask:
    """Return the training of slopes on a data set; arguments as `GroundTruthPreset.task`."""
    return MlpClassifierTask(config or config_of(dataset), dataset, data_dir, checkpoint_dir)

"""What the problems of image cells share: networks, dishes, and ways to get at ground truth."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from spd_jax.axes import Archs
from spd_jax.data import nas_bench
from spd_jax.dish import DishConfig
from spd_jax.errors import UserError, check_name
from spd_jax.ground_truth import lookup
from spd_jax.ground_truth.lookup import LookupTask
from spd_jax.motif import SearchSpace
from spd_jax.problems.problem import GroundTruthPreset, Problem, ReadTable
from spd_jax.spaces.image_network import MOTIF_NETWORKS, Skeleton
from spd_jax.surrogates import az_nas, image_proxies
from spd_jax.surrogates.az_nas import AzNas
from spd_jax.surrogates.dish_surrogate import DishSurrogate
from spd_jax.surrogates.image_proxies import ImageNetwork, ImageProxy, Images
from spd_jax.surrogates.protocol import Surrogate
from spd_jax.trainers.image_classifier import ImageClassifierConfig, ImageClassifierTask

DISH_PRESETS = {
    # Chosen on the cells of experiments/results/nasbench201_tuning_cells.txt: BUILD_NOTES.md.
    "best": DishConfig(
        inner_steps=8,
        outer_steps=10,
        train_samples=160,
        valid_samples=160,
        ensemble_size=2,
        inner_loss="softmax_cross_entropy",
        inner_metric="standardised_loss",
        outer_learning_rate=0.003,
        outer_l2=0.0,
        schedule="constant",
    ),
    # Cassimon et al.: 100 epochs of ten minibatches on one set of 200 images, which is also
    # validated on; the outer gradient does not go through the training (our reading).
    "paper": DishConfig(
        inner_steps=1000,
        inner_batch_size=20,
        outer_steps=170,
        train_samples=200,
        valid_samples=200,
        shared_data=True,
        motif_batch=6,
        inner_loss="softmax_cross_entropy",
        inner_metric="true_class_probability",
        outer_loss="absolute_pearson",
        gradient="evaluation_only",
        schedule="constant",
        inner_learning_rate=5e-5,
        inner_l2=1e-6,
        outer_learning_rate=1e-2,
        outer_l2=0.0,
    ),
}


# The untrained dish of `SECOND` is slower than the first, and ranks better.
SECOND = Skeleton(stacks=3, cells=2, stem=4, image_size=8)
SECOND_CONFIG = dataclasses.replace(DISH_PRESETS["best"], inner_steps=10, ensemble_size=1)


@dataclasses.dataclass(frozen=True)
class ImageCells:
    """What a space of image cells brings along, from which its problem is made.

    Attributes:
      space: of a probability of mutations.
      network: the module with networks around its cells: `family`, `trace`, `parameters` and
        `multiply_adds`, each of a `Skeleton`.
      full: the benchmark's own network.
    """

    space: Callable[[float], Any]
    network: Any
    full: Skeleton

    def problem(
        self, motif_network: str, stem: int, image_size: int, mutation_rate: float, **own: Any
    ) -> Problem:
        """Return the problem with one of the motif-networks of Cassimon et al.

        Args:
          motif_network: "A" (three cells), "B" (three stacks of one cell) or "C" (one cell).
          stem: channels of the first stack, where a study is not told another width; the paper's
            are 32 for A and 16 for B and C.
          image_size: height and width of the synthetic images; the paper's is 16.
          mutation_rate: see the space.
          **own: fields of `Problem` that the space decides.

        Raises:
          UserError: an unknown motif-network, sizes that cannot be built, or a rate that is no
            probability.
        """
        space = self.space(mutation_rate)
        check_name("motif-network", motif_network, MOTIF_NETWORKS)
        skeleton = dataclasses.replace(
            MOTIF_NETWORKS[motif_network], stem=stem, image_size=image_size
        )
        self.network.family(skeleton)  # refuses sizes that cannot be
        return Problem(
            name=space.name,
            space=space,
            family=lambda hidden: self.network.family(dataclasses.replace(skeleton, stem=hidden)),
            hidden_size=stem,
            features=space,
            structure=space,
            paths=space,
            tokens=space,
            drawing=space,
            costs={"parameters": self.parameters, "multiply_adds": self.multiply_adds},
            proxies=lambda hidden: self.proxies(SECOND),  # kinder to them than the first
            settings={
                "motif_network": motif_network,
                "image_size": image_size,
                "mutation_rate": mutation_rate,
            },
            **own,
        )

    def second_dish(self, config: DishConfig) -> DishSurrogate:
        """Return the untrained dish that is averaged with the problem's own."""
        return DishSurrogate(self.network.family(SECOND), config)

    def parameters(self, archs: Archs) -> np.ndarray:
        """Return the parameters of cells `[M]` in the benchmark's own network."""
        return self.network.parameters(self.full, archs)

    def multiply_adds(self, archs: Archs) -> np.ndarray:
        """Return the multiply-adds of cells `[M]` in the benchmark's own network, for one image."""
        return self.network.multiply_adds(self.full, archs)

    def proxies(
        self, skeleton: Skeleton, prefix: str = "", images: Images | None = None, draws: int = 4
    ) -> dict[str, Surrogate]:
        """Return all zero-cost proxies of a network around a cell, by name.

        The size that regularised SWAP wants is that of the largest of 1,000 random cells, and its
        tolerance as much (ours: the authors choose them by the size that a user wants).

        Args:
          skeleton: of the network.
          prefix: of the names.
          images: to look at instead of noise; not for AZ-NAS, whose authors show noise.
          draws: independent weights and minibatches that are averaged over.
        """
        shown = ImageNetwork(self.network.family(skeleton), self.network.trace(skeleton))
        own = ImageProxy("snip", shown, images, draws=draws)
        found: dict[str, Surrogate] = {
            measure: dataclasses.replace(own, measure=measure) for measure in image_proxies.MEASURES
        }

        @functools.cache
        def largest() -> float:
            archs = self.space(0.0).sample(jax.random.key(0), 1000)
            return float(self.parameters(archs).max())

        def weight(archs: Archs) -> np.ndarray:
            return image_proxies.size_weight(self.parameters, largest(), largest())(archs)

        found["swap_regularised"] = dataclasses.replace(own, measure="swap", weight=weight)
        noise = AzNas(dataclasses.replace(own, images=None), self.multiply_adds)
        found["az_nas"] = noise
        for score in az_nas.PROXIES[:-1]:  # the last, complexity, is a row of its own as a cost
            found[score] = dataclasses.replace(noise, only=score)
        return {prefix + name: proxy for name, proxy in found.items()}


def trained(space: str, config: ImageClassifierConfig, table: str = "") -> GroundTruthPreset:
    """Return the training of cells on Fashion-MNIST.

    Args:
      space: name of the space, one of `image_classifier.SPACES`.
      config: of the training.
      table: name of the shipped table of such evaluations.
    """
    task = functools.partial(_classifier, space, config)
    return GroundTruthPreset(
        task,
        config.epochs,
        "accuracy",
        table,
        describe=lambda data_dir: task(data_dir, None).describe(),
    )


def _classifier(
    space: str, config: ImageClassifierConfig, data_dir: str | None, checkpoint_dir: str | None
) -> ImageClassifierTask:
    return ImageClassifierTask(space, config, "fashion_mnist", data_dir, checkpoint_dir)


def looked_up(
    space: SearchSpace, name: str, epochs: int, read_table: ReadTable, source: str
) -> GroundTruthPreset:
    """Return a ground truth that is answered from a table in a format of others.

    Its task answers with the mean over a cell's trainings, as seed 0.

    Args:
      space: of the cells.
      name: of the ground truth, for `read_table`.
      epochs: of a full evaluation.
      read_table: see `Problem.read_table`.
      source: what the file is and where to get it, as the end of a sentence.
    """

    def task(data_dir: str | None, checkpoint_dir: str | None) -> LookupTask:
        del checkpoint_dir  # nothing is trained
        if data_dir is None:
            raise UserError(
                f"the ground truth {name} is looked up: let data_dir be the path of {source}"
            )
        return open_table(pathlib.Path(data_dir))

    @functools.lru_cache(maxsize=1)
    def open_table(path: pathlib.Path) -> LookupTask:
        return lookup.open_task(
            path, space, reader=lambda own: read_table(own, name), average_seeds=True
        )

    def describe(data_dir: str | None) -> str:
        cells = len(task(data_dir, None).cells)
        published = nas_bench.recognised(data_dir) if data_dir is not None else ""
        words = f" (the published {published})" if published else ""
        return f"{cells:,} cells are looked up in {data_dir}{words}"

    return GroundTruthPreset(task, epochs, "accuracy", looked_up=True, describe=describe)

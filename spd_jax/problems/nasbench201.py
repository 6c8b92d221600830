"""The cells of NAS-Bench-201 on images: looked up in the benchmark's table, or trained here."""

import math
from typing import NamedTuple

from spd_jax.data import nas_bench
from spd_jax.errors import UserError, check_name
from spd_jax.files import Path
from spd_jax.ground_truth.lookup import Items
from spd_jax.ledger import Evaluation, EvaluationKey
from spd_jax.problems import image_cells
from spd_jax.problems.image_cells import DISH_PRESETS, ImageCells
from spd_jax.problems.problem import GroundTruthPreset, Problem
from spd_jax.spaces.image_network import Skeleton
from spd_jax.spaces.nasbench201 import NasBench201Space, network
from spd_jax.trainers.image_classifier import ImageClassifierConfig

CELLS = ImageCells(
    NasBench201Space,
    network,
    Skeleton(stacks=3, cells=5, stem=16, image_size=32, reduction="residual"),
)

OWN = ImageClassifierConfig()


class Column(NamedTuple):
    """Where a ground truth stands in the benchmark's table.

    Attributes:
      score: name of the column with the scores.
      test_score: name of the column that is reported of a cell in the end.
      epochs: after which the scores were measured.
      early: name of the column with the accuracy after `EARLY_EPOCHS`, which stands in the
        learning curve where the table has it; empty: there is none.
    """

    score: str
    test_score: str
    epochs: int
    early: str = ""


EARLY_EPOCHS = 12  # of a training of its own, whose learning rate falls to 0 by then
COLUMNS = {
    "cifar10_200": Column("c10_test_200ep_mean", "c10_test_200ep_mean", 200, "c10_val_12ep"),
    "cifar10_12": Column("c10_val_12ep", "c10_test_200ep_mean", 12),
    "cifar100_12": Column("c100_val_12ep", "c100_test_12ep", 12),
    "imagenet16_12": Column("in16_val_12ep", "in16_test_12ep", 12),
}


def problem(
    motif_network: str = "B", stem: int = 8, image_size: int = 4, mutation_rate: float = 0.1
) -> Problem:
    """Return the problem, see `ImageCells.problem`."""
    return CELLS.problem(
        motif_network, stem, image_size, mutation_rate,
        second_dish=CELLS.second_dish(image_cells.SECOND_CONFIG),
        dish_presets=DISH_PRESETS,
        ground_truths={
            "own": image_cells.trained(NasBench201Space().name, OWN, "nasbench201_own"), **LOOKED_UP
        },
        full_size_proxies=CELLS.proxies(CELLS.full, "full_", draws=1),
        read_table=read_table,
    )  # fmt: skip


def read_table(path: Path, ground_truth: str) -> Items:
    """Read one ground truth out of the benchmark's table, see `nas_bench.read_nasbench201`.

    Cells that compute the same function share a canonical form. They were trained independently,
    so that the rows of one function are given numbers 0, 1, ... as seeds, in their order: the
    mean over seeds is that of the twins, and their spread is the table's noise.

    Args:
      path: the CSV file.
      ground_truth: one of `COLUMNS`; empty is the first.

    Raises:
      UserError: the file is no such table, or lacks a column.
    """
    ground_truth = ground_truth or next(iter(COLUMNS))
    check_name("ground truth", ground_truth, COLUMNS)
    column, space = COLUMNS[ground_truth], NasBench201Space()
    rows = nas_bench.read_nasbench201(path)
    missing = {column.score, column.test_score} - set(rows[0].accuracies)
    if missing:
        raise UserError(
            f"{path} has no column {min(missing)}: export it, or choose a ground truth that "
            "needs the columns there are"
        )
    items: Items = []
    seeds: dict[str, int] = {}
    for row in rows:
        cell = space.encode(space.canonical(space.decode(row.cell)))
        seed = seeds[cell] = seeds.get(cell, -1) + 1
        key = EvaluationKey(space.name, cell, f"nasbench201 {ground_truth}", seed, column.epochs)
        score, test_score = row.accuracies[column.score], row.accuracies[column.test_score]
        curve = _curve(row.accuracies.get(column.early, math.nan))
        items.append((key, Evaluation("ok", score, test_score, curve, unit="accuracy")))
    return items


def _curve(early: float) -> tuple[float, ...]:
    """Return the accuracies after each epoch, of which one is known, or none."""
    return () if math.isnan(early) else (*[math.nan] * (EARLY_EPOCHS - 1), early)


def _looked_up(name: str) -> GroundTruthPreset:
    score, test_score, epochs, _ = COLUMNS[name]
    source = (
        f"a CSV file with the columns arch, {score} and {test_score} in per cent, as the package "
        "nats-bench gives them for NAS-Bench-201"
    )
    return image_cells.looked_up(NasBench201Space(), name, epochs, read_table, source)


LOOKED_UP = {name: _looked_up(name) for name in COLUMNS}

"""The cells of NAS-Bench-101 on images: looked up in tables of others, or trained here."""

import dataclasses
import heapq
import math
import pathlib
from collections.abc import Iterable
from typing import Any

from spd_jax.data import nas_bench
from spd_jax.data.nas_bench import NasBench101Row
from spd_jax.errors import UserError, check_name
from spd_jax.files import Path
from spd_jax.ground_truth.lookup import Items
from spd_jax.ledger import Evaluation, EvaluationKey
from spd_jax.problems import image_cells
from spd_jax.problems.image_cells import ImageCells
from spd_jax.problems.problem import Problem
from spd_jax.spaces.image_network import Skeleton
from spd_jax.spaces.nasbench101 import NasBench101Space, network
from spd_jax.trainers.image_classifier import ImageClassifierConfig

CELLS = ImageCells(
    NasBench101Space,
    network,
    Skeleton(stacks=3, cells=3, stem=128, image_size=32),
)
OWN = ImageClassifierConfig(reduction="max_pool")  # as the benchmark's network
EPOCHS = {"ecnas_4": 4, "nasbench101": 108}  # of the ground truths that are looked up
# Accuracies after four epochs ask how fast a cell learns: a few bold steps tell, and how large the
# outputs have become. Chosen on experiments/results/nasbench101_tuning_cells.txt: BUILD_NOTES.md.
FAST: dict[str, Any] = {
    "inner_learning_rate": 0.1,
    "inner_metric": "loss",
    "train_samples": 80,
    "valid_samples": 80,
}
DISH_PRESETS = image_cells.DISH_PRESETS | {
    "best": dataclasses.replace(image_cells.DISH_PRESETS["best"], inner_steps=4, **FAST)
}
SECOND_CONFIG = dataclasses.replace(image_cells.SECOND_CONFIG, inner_steps=3, **FAST)
MOST_CELLS = 20_000  # of the benchmark's 423,624 that are kept in memory


def problem(
    motif_network: str = "B", stem: int = 8, image_size: int = 4, mutation_rate: float = 0.05
) -> Problem:
    """Return the problem, see `ImageCells.problem`."""
    return CELLS.problem(
        motif_network, stem, image_size, mutation_rate,
        second_dish=CELLS.second_dish(SECOND_CONFIG),
        dish_presets=DISH_PRESETS,
        ground_truths={"own": image_cells.trained(NasBench101Space().name, OWN)} | LOOKED_UP,
        read_table=read_table,
    )  # fmt: skip


def read_table(path: Path, ground_truth: str, most_cells: int = MOST_CELLS) -> Items:
    """Read a table of NAS-Bench-101's cells; the trainings of a cell are its seeds 0, 1, ...

    - `ecnas_4` is EC-NAS's own training of 4 epochs (`nas_bench.read_ec_nas`). The score is the
      test accuracy; the curve holds it after the half-way epoch and the last, NaN elsewhere.
    - `nasbench101` are the official records (`nas_bench.read_nasbench101`), of which trainings
      of 108 epochs are kept. The score is the validation accuracy.

    Args:
      path: the file.
      ground_truth: one of the two; empty takes `ecnas_4` for a file that ends in `.json`.
      most_cells: where there are more, those with the smallest hashes are kept, which is a
        random choice that depends on nothing else.

    Raises:
      UserError: the file is no such table, or a cell of it is none of the space.
    """
    json = pathlib.Path(path).suffix == ".json"
    ground_truth = ground_truth or ("ecnas_4" if json else "nasbench101")
    check_name("ground truth", ground_truth, EPOCHS)
    official = ground_truth == "nasbench101"
    rows = nas_bench.read_nasbench101(path) if official else nas_bench.read_ec_nas(path)
    whole = (row for row in rows if row.epochs == EPOCHS[ground_truth])
    kept = _with_smallest_hashes(whole, most_cells)
    if not kept:
        raise UserError(
            f"{path} holds no training of {EPOCHS[ground_truth]} epochs: give a table of "
            f"{ground_truth}"
        )
    return _items(kept, ground_truth, official)


def _with_smallest_hashes(rows: Iterable[NasBench101Row], most: int) -> list[NasBench101Row]:
    """Return the rows of the `most` cells with the smallest hashes, in their order."""
    kept: dict[str, list[tuple[int, NasBench101Row]]] = {}
    bound = "~"  # above all hashes
    for number, row in enumerate(rows):
        if row.hash > bound:
            continue
        kept.setdefault(row.hash, []).append((number, row))
        if len(kept) >= 2 * most:  # seldom, so that few rows are sorted often
            bound = heapq.nsmallest(most, kept)[-1]
            kept = {hash_: own for hash_, own in kept.items() if hash_ <= bound}
    chosen = heapq.nsmallest(most, kept)
    return [row for _, row in sorted(pair for hash_ in chosen for pair in kept[hash_])]


def _items(rows: list[NasBench101Row], ground_truth: str, official: bool) -> Items:
    space = NasBench101Space()
    names: dict[str, str] = {}
    seeds: dict[str, int] = {}
    items: Items = []
    for row in rows:
        if row.cell not in names:
            names[row.cell] = space.encode(space.canonical(space.decode(row.cell)))
        cell = names[row.cell]
        seed = seeds[cell] = seeds.get(cell, -1) + 1
        key = EvaluationKey(space.name, cell, f"nasbench101 {ground_truth}", seed, row.epochs)
        evaluation = Evaluation(
            "ok",
            row.final.valid_accuracy if official else row.final.test_accuracy,
            row.final.test_accuracy,
            () if official else _curve(row),
            row.final.seconds,
            unit="accuracy",
            info={"valid_accuracy": row.final.valid_accuracy, "parameters": row.parameters},
        )
        items.append((key, evaluation))
    return items


def _curve(row: NasBench101Row) -> tuple[float, ...]:
    """Return the test accuracies after every epoch, NaN after those that were not measured."""
    curve = [math.nan] * row.epochs
    if row.halfway.epoch in range(1, row.epochs):
        curve[int(row.halfway.epoch) - 1] = row.halfway.test_accuracy
    curve[-1] = row.final.test_accuracy
    return tuple(curve)


LOOKED_UP = {
    name: image_cells.looked_up(NasBench101Space(), name, EPOCHS[name], read_table, source)
    for name, source in {
        "ecnas_4": "ecnas_5V9E_4epochs.json, the 4-epoch trainings of EC-NAS-Bench",
        "nasbench101": "nasbench_only108.tfrecord, from "
        "https://storage.googleapis.com/nasbench/nasbench_only108.tfrecord",
    }.items()
}

"""Buy a table of recurrent cells' ground truth (section 4.2), after its noise has been measured.

Twenty cells are trained with several seeds first. Unless one seed orders them as the mean of
the others does (Kendall tau of at least --min_ceiling), nothing more is bought: a ground
truth that cannot tell cells apart cannot judge a surrogate.
"""

import math
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags

from spd_jax import metrics
from spd_jax.errors import UserError
from spd_jax.ground_truth.purchase import GroundTruth
from spd_jax.ledger import Evaluation, EvaluationKey, Ledger
from spd_jax.ledger import table as cell_table
from spd_jax.report.progress import Progress
from spd_jax.search.loop import warm_start
from spd_jax.spaces.rnn_cell import VARIANTS, RnnCellSpace, unstack
from spd_jax.studies import run_folder
from spd_jax.studies.run_folder import RunFolder
from spd_jax.trainers.language_model.network import PRESETS
from spd_jax.trainers.language_model.task import LanguageModelTask

Items = list[tuple[EvaluationKey, Evaluation]]

CEILING_CELLS = 20
RUNS, WARM_START = 5, 40  # the recorded runs of experiments.rnn_cell_search
KEYS = {"reported": 1000, "tuning": 2000}

_PRESET = flags.DEFINE_enum("preset", "tiny", list(PRESETS), "settings of the language model")
_VARIANT = flags.DEFINE_enum("variant", "enas_mean", VARIANTS, "variant of the cell")
_PART = flags.DEFINE_enum(
    "part", "reported", list(KEYS), "cells of reported figures, or others to choose settings on"
)
_NUM_CELLS = flags.DEFINE_integer("num_cells", 500, "cells in the table", lower_bound=2)
_NUM_SEEDS = flags.DEFINE_integer("num_seeds", 3, "seeds of the first cells", lower_bound=1)
_SEVERAL = flags.DEFINE_integer(
    "cells_with_all_seeds", 100, "first cells that are trained with every seed", lower_bound=0
)
_MIN_CEILING = flags.DEFINE_float("min_ceiling", 0.6, "least noise ceiling to go on")
_COMPARE = flags.DEFINE_string("compare_with", None, "another table, to compare the order with")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", "download", 'folder of the text, or "download" for the Penn Treebank'
)
_WORKERS = flags.DEFINE_integer("workers", 0, "processes; 0 trains in this one", lower_bound=0)


def cells_of(space: RnnCellSpace, part: str, count: int) -> list[str]:
    """Return the first `count` cells of a part, canonical; no cell is in both parts.

    The reported part begins with the warm starts of the recorded search runs, which are
    random cells as all others are.
    """
    names: dict[str, None] = {}
    if part == "reported":
        for run in range(RUNS):
            cells = warm_start(jax.random.key(run), space, WARM_START)
            names |= dict.fromkeys(map(space.canonical_text, cells))
    drawn = unstack(space.sample(jax.random.key(KEYS[part]), max(count, 300)))
    names |= dict.fromkeys(map(space.canonical_text, drawn))
    others = set(cells_of(space, "reported", 500)) if part == "tuning" else set()
    return [name for name in names if name not in others][:count]


def buy(ground_truth: GroundTruth, cells: list[str], seeds: Sequence[int], what: str) -> Items:
    """Evaluate cells with every seed, showing progress."""
    task, space = ground_truth.task, ground_truth.space_name
    with Progress(what, len(cells) * len(seeds)) as progress:

        def on_result(done: int, total: int, evaluation: Evaluation) -> None:
            score = "failed" if evaluation.status == "failed" else f"{-evaluation.score:.4f} nats"
            progress.update(len(cells) * len(seeds) - total + done, score)

        ground_truth.on_result = on_result
        rows = ground_truth.evaluate(cells, seeds)
    return [
        (EvaluationKey(space, cell, task.fingerprint, seed, task.budget), evaluation)
        for cell, row in zip(cells, rows, strict=True)
        for seed, evaluation in zip(seeds, row, strict=True)
    ]


def buy_table(ground_truth: GroundTruth, cells: list[str]) -> tuple[Items, dict[str, Any]]:
    """Measure the noise on the first cells, then buy the rest."""
    seeds = range(_NUM_SEEDS.value)
    first = cell_table.noise_ceiling(
        buy(ground_truth, cells[:CEILING_CELLS], seeds, "noise ceiling")
    )
    ceiling = first["noise_ceiling"]
    if len(seeds) < 2:
        print("noise ceiling: not measured, which takes --num_seeds=2 or more")
    elif ceiling is None:
        raise UserError(
            "the first cells have no noise ceiling, since too many trainings failed: read in the "
            "ledger why; nothing more is bought"
        )
    else:
        print(f"noise ceiling on {first['cells']} cells, {first['seeds']} seeds: {ceiling:.3f}")
    if ceiling is not None and not ceiling >= _MIN_CEILING.value:
        raise UserError(
            f"the noise ceiling is {ceiling:.2f}, below --min_ceiling={_MIN_CEILING.value}: train "
            "longer, or choose another variant; nothing more is bought"
        )
    bought = buy(ground_truth, cells, seeds[:1], "cells")
    several = buy(ground_truth, cells[: _SEVERAL.value], seeds[1:], "cells, other seeds")
    return sorted(
        bought + several, key=lambda item: (cells.index(item[0].cell), item[0].seed)
    ), first


def summarise(items: Items, first: dict[str, Any], other: Items | None) -> dict[str, Any]:
    """Return summary.json; `first` is the noise before the purchase, `other` a second table."""
    summary: dict[str, Any] = {
        "ceiling_before_purchase": first,
        "noise_ceiling": cell_table.noise_ceiling(items),
        "evaluations": len(items),
        "failed": sum(evaluation.status == "failed" for _, evaluation in items),
    }
    for name, values in {
        "seconds": [evaluation.seconds for _, evaluation in items],
        "valid_nll": [-e.score for _, e in items if math.isfinite(e.score)],
    }.items():
        summary[name] = {k: v for k, v in metrics.spread(values).items() if k != "values"}
    if other is not None:
        summary["agreement"] = cell_table.agreement(items, other)
    return summary


def main(argv: Sequence[str]) -> None:
    """Buy the table."""
    del argv
    name = f"rnn_cell_ptb_{_PRESET.value}" + ("_tuning" if _PART.value == "tuning" else "")
    space = RnnCellSpace(_VARIANT.value)
    data_dir = None if _DATA_DIR.value == "download" else _DATA_DIR.value
    task = LanguageModelTask(_VARIANT.value, PRESETS[_PRESET.value], data_dir)
    task.check_text()
    if math.isnan(_MIN_CEILING.value):
        raise UserError("--min_ceiling=nan: give a number")
    config = {
        "preset": _PRESET.value,
        "variant": _VARIANT.value,
        "part": _PART.value,
        "task": task.fingerprint,
        "num_cells": _NUM_CELLS.value,
        "num_seeds": _NUM_SEEDS.value,
        "cells_with_all_seeds": _SEVERAL.value,
    }
    other = cell_table.read(pathlib.Path(_COMPARE.value)) if _COMPARE.value else None
    grow = ("num_cells", "num_seeds", "cells_with_all_seeds")
    folder = RunFolder.open(run_folder.WORKDIR.value or f"runs/{name}", config, may_grow=grow)
    cells = cells_of(space, _PART.value, _NUM_CELLS.value)
    with Ledger(folder.path / "ledger.sqlite") as ledger:
        ground_truth = GroundTruth(space.name, task, ledger, _WORKERS.value)
        items, first = buy_table(ground_truth, cells)
    summary = summarise(items, first, other)
    comments = {
        "command": f"python -m experiments.rnn_cell_table --preset={_PRESET.value} "
        f"--variant={_VARIANT.value} --part={_PART.value} --num_cells={_NUM_CELLS.value} "
        f"--num_seeds={_NUM_SEEDS.value} --cells_with_all_seeds={_SEVERAL.value}",
        "commit": run_folder.commit(),
        "settings": task.config,
        "data": f"text {task.corpus.fingerprint}, {len(task.corpus.vocabulary)} tokens",
    }
    cell_table.write(folder.path / f"{name}.csv", items, comments)
    written = folder.write_json("summary.json", summary)
    print(written.read_text())
    print(f"wrote {folder.path / f'{name}.csv'}, {written}")


if __name__ == "__main__":
    run_folder.run_main(main)

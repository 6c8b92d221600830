"""Image cells (Cassimon et al.): a dish of classifiers learns from known cells and ranks others.

The paper's dish did not converge. This study fits one with any settings, and records all that
the paper plots and tabulates: once with whole inner trainings, once with short ones (section
5.3).
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from spd_jax import archs as batches
from spd_jax import dish, files, metrics
from spd_jax.axes import Archs
from spd_jax.dish import DishConfig, DishState
from spd_jax.errors import UserError
from spd_jax.ground_truth.lookup import TruthTable
from spd_jax.problems import Problem
from spd_jax.studies import events, image_costs, machine, outer_loop
from spd_jax.studies import settings as settings_lib
from spd_jax.studies.outer_loop import OuterLoop, Record
from spd_jax.studies.run_folder import RunFolder, open_folder
from spd_jax.studies.settings import setting

KIND = "ImageCells"  # of the file with the synthetic images
WHOLE, SHORT = "whole", "short"  # the two inner trainings
Parameters = Callable[[Archs], np.ndarray]  # archs [M] -> trainable parameters [M]


@dataclasses.dataclass(frozen=True)
class ImageCellsSettings:
    """Settings of the experiment."""

    seed: int = setting(0, "of the split and of the dish", at_least=0)
    num_train: int = setting(40, "known cells", at_least=2, by_preset=True)
    num_test: int = setting(200, "most held-out cells; fewer where the table is small", at_least=2)
    preset: str = setting("best", "settings of the dish, which flags change")
    dish: DishConfig = setting(DishConfig(), "", by_preset=True)
    motif_network: str = setting(
        "B",
        "motif-network of Cassimon et al.: three cells (A), three stacks of one cell (B) or one "
        "cell (C)",
        choices=("A", "B", "C"),
    )
    stem: int = setting(
        4, "channels of its stem; 0: the paper's, 32 for A and 16 for B and C", at_least=0,
        at_most=1024, by_preset=True,
    )  # fmt: skip
    image_size: int = setting(
        8, "height and width of the synthetic images", at_least=1, at_most=1024, by_preset=True
    )
    short_epochs: int = setting(
        16, "inner epochs of the second, short training; 0: there is none", at_least=0
    )
    look_every: int = setting(
        5, "outer steps between two looks at the held-out cells, which decide nothing", at_least=1
    )


@dataclasses.dataclass(frozen=True)
class Split:
    """Indices of the cells of a table that a dish learns from, and of those it never sees."""

    known: np.ndarray
    held_out: np.ndarray


@dataclasses.dataclass(frozen=True)
class ImageCellsRun:
    """A finished run.

    Attributes:
      summary: what summary.json holds.
      records: of the outer loops by inner training, see `outer_loop.run`.
      predictions: columns of predictions.csv by name: `cell`, `split`, `true`, and by inner
        training the scores `untrained` and `trained`, in standard deviations over known cells.
      samples: by inner training, images `[N, S, S, 3]` at the start (`start`) and in the end
        (`learned`) and their classes `[N]` (`classes`), of the first member.
      path: the run folder.
    """

    summary: dict[str, Any]
    records: dict[str, list[Record]]
    predictions: dict[str, Any]
    samples: dict[str, dict[str, np.ndarray]]
    path: pathlib.Path


def draw_split(table: TruthTable, settings: Any) -> Split:
    """Draw held-out and known cells.

    Neither depends on how many of the other are asked for, as long as the table has enough. The
    table holds cells in canonical form, each once, so that no cell has its twin on the
    other side. Cells that failed are in neither part.

    Args:
      table: cells and their ground truths.
      settings: with `seed`, `num_train` and `num_test`.

    Raises:
      UserError: the table has too few cells.
    """
    finite = np.flatnonzero(np.isfinite(table.scores))
    left = len(finite) - settings.num_train
    if left < 2:
        raise UserError(
            f"{table.source} has {len(finite)} cells that did not fail, of which num_train="
            f"{settings.num_train} leaves fewer than two to predict: ask for fewer"
        )
    rng = np.random.default_rng(settings.seed)
    held_out = rng.permutation(finite)[: min(settings.num_test, left)]
    others = np.random.default_rng([settings.seed, 1]).permutation(finite)
    others = others[~np.isin(others, held_out)]
    return Split(others[: settings.num_train], held_out)


def loops_of(
    problem: Problem, table: TruthTable, split: Split, settings: ImageCellsSettings
) -> dict[str, OuterLoop]:
    """Return the outer loops of a run by inner training; the short one only if it is shorter."""
    truth = table.scores[split.known]
    loop = OuterLoop(
        problem.family(problem.hidden_size), settings.dish,
        batches.take(table.cells.archs, split.known), truth, truth, settings.seed,
    )  # fmt: skip
    if not 0 < settings.short_epochs < loop.epochs:
        return {WHOLE: loop}
    steps = settings.short_epochs * loop.steps_per_epoch
    truncation = min(settings.dish.truncation, steps)
    short = dataclasses.replace(settings.dish, inner_steps=steps, truncation=truncation)
    return {WHOLE: loop, SHORT: dataclasses.replace(loop, config=short)}


def run(
    problem: Problem,
    table: TruthTable,
    settings: ImageCellsSettings,
    workdir: str | os.PathLike[str],
    *,
    parameters: Mapping[str, Parameters] | None = None,
    listen: events.Listener = events.ignore,
) -> ImageCellsRun:
    """Fit the dish, rank the held-out cells, and write the run's files; or go on with a run.

    Args:
      problem: of image cells, with the motif-network of the settings.
      table: its cells and their ground truths.
      settings: of the experiment.
      workdir: the run folder.
      parameters: what counts the parameters of motif-networks "A" and "B", for the share of
        cells for which B has more; None leaves it out.
      listen: told what happens.

    Raises:
      UserError: settings or a table with which nothing can be run, or a folder of another run.
    """
    settings_lib.check(settings)
    split = draw_split(table, settings)
    loops = loops_of(problem, table, split, settings)
    for loop in loops.values():
        dish.check(loop.config)
    config: dict[str, Any] = {"study": "image_cells", "table": table.identity}
    config |= {"problem": dict(problem.settings), **settings_lib.described(settings)}
    with open_folder(workdir, config, settings_lib.growing(settings)) as folder:
        archs = batches.take(table.cells.archs, split.held_out)
        truth = table.scores[split.held_out]
        records, states = {}, {}
        for name, loop in loops.items():
            states[name], records[name] = _learn(
                folder, name, loop, archs, truth, settings.look_every, listen
            )
        listen(events.Stage("predictions", len(loops)))
        parts, costs = {}, {}
        for done, (name, loop) in enumerate(loops.items(), 1):
            parts[name], costs[name] = _predict(
                folder, name, loop, states[name], records[name], table, split
            )
            listen(events.Advanced(done))
        summary = _summarise(problem, table, split, settings, loops, records, parts, costs)
        if parameters is not None:
            summary["share_larger_in_b"] = share_larger(parameters, table.cells.archs)
        found = ImageCellsRun(
            summary, records, _columns(table, split, parts), _samples(loops, states), folder.path
        )
        _write(folder, found)
    return found


def _learn(
    folder: RunFolder,
    name: str,
    loop: OuterLoop,
    archs: Archs,
    truth: np.ndarray,
    look_every: int,
    listen: events.Listener,
) -> tuple[DishState, list[Record]]:
    """Take the outer steps, and look at the held-out cells now and then."""
    total = loop.config.outer_steps
    epochs = f"{loop.epochs:g} inner epochs"
    listen(events.Stage(f"outer steps, {epochs}", total, note="compiling"))

    def look(state: DishState) -> dict[str, Any]:
        tau = metrics.kendall_tau(loop.predict(state, archs), truth)
        return {"tau_held_out": files.to_json(tau)}

    latest: dict[str, Any] = {}

    def show(done: int, record: Mapping[str, Any]) -> None:
        latest.update(record)
        words = [f"{word} {latest[key]:.3f}" for word, key in SHOWN if latest.get(key) is not None]
        listen(events.Advanced(done, ", ".join(words)))

    return outer_loop.run(folder, name, loop, look_every=look_every, look=look, on_step=show)


SHOWN = (("outer loss", "loss"), ("tau", "tau_scores"), ("held-out tau", "tau_held_out"))


def _predict(
    folder: RunFolder,
    name: str,
    loop: OuterLoop,
    state: DishState,
    records: Sequence[Record],
    table: TruthTable,
    split: Split,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the scores of all cells before and after learning, and what the dish costs.

    Costs are measured once and kept, so that a run that goes on reports the same.
    """
    both = np.concatenate([split.known[: outer_loop.ANCHORS], split.held_out])
    archs = batches.take(table.cells.archs, both)
    scores = {"untrained": loop.predict(loop.start(), archs)}
    seconds = {"compile": 0.0}
    settled = loop.settled(state)
    with machine.timed(seconds, "query"):
        scores["trained"] = dish.predict(
            settled, loop.family, loop.config, archs, sharding=machine.motif_sharding()
        )
    place = f"records/{name}_costs.json"
    costs = folder.read_json(place, lambda content: {"query_seconds": 0.0, **content})
    if costs is None:
        used = min(len(split.known), loop.config.motif_batch * loop.config.outer_steps)
        costs = image_costs.table(
            image_costs.epoch_seconds(loop, state, archs),
            sum(record.get("seconds", 0.0) for record in records),
            seconds["query"] / len(both),
            image_costs.ground_truth_seconds(used, table.budget),
            loop,
        )
        folder.keep_json(place, costs)
    return scores, costs


def _summarise(
    problem: Problem,
    table: TruthTable,
    split: Split,
    settings: ImageCellsSettings,
    loops: Mapping[str, OuterLoop],
    records: Mapping[str, Sequence[Record]],
    parts: Mapping[str, Mapping[str, np.ndarray]],
    costs: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return what summary.json holds."""
    truth, count = table.scores[split.held_out], len(split.held_out)
    trainings = {}
    for name, scores in parts.items():
        taus = {key: metrics.kendall_tau(own[-count:], truth) for key, own in scores.items()}
        trainings[name] = {
            "kendall_tau": taus["trained"],
            "kendall_tau_untrained": taus["untrained"],
            "spearman": metrics.spearman(scores["trained"][-count:], truth),
            "regret": metrics.regret(scores["trained"][-count:], truth),
            "epochs": loops[name].epochs,
            "fitted_cells": outer_loop.figures(records[name]),
            "costs": costs[name],
        }
    summary: dict[str, Any] = files.to_json(
        {
            "problem": problem.name,
            "table": table.source.name,
            "ground_truth_words": table.task or table.source.stem,
            "outer_steps": settings.dish.outer_steps,
            "outer_loss": settings.dish.outer_loss,
            "gradient": settings.dish.gradient,
            "cells_in_step": min(settings.dish.motif_batch, len(split.known)),
            "cells_in_table": len(table),
            "num_train": len(split.known),
            "num_test": count,
            "motif_network": settings.motif_network,
            "stem": problem.hidden_size,
            "image_size": settings.image_size,
            "preset": settings.preset,
            "seed": settings.seed,
            "trainings": trainings,
            "paper_costs": image_costs.paper(settings.motif_network),
            "nasbench101_epoch_seconds": image_costs.NASBENCH101_EPOCH,
        }
    )
    return summary


def share_larger(parameters: Mapping[str, Parameters], archs: Archs) -> float:
    """Return the share of cells for which motif-network B has more parameters than A.

    The paper says about 0.8, of NAS-Bench-101's cells (section 5.1).
    """
    return float(np.mean(parameters["B"](archs) > parameters["A"](archs)))


def _columns(
    table: TruthTable, split: Split, parts: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, Any]:
    """Return the columns of predictions.csv."""
    known = split.known[: outer_loop.ANCHORS]
    both = np.concatenate([known, split.held_out])
    columns: dict[str, Any] = {
        "cell": [table.cells.names[i] for i in both],
        "split": ["known"] * len(known) + ["held_out"] * len(split.held_out),
        "true": table.scores[both],
    }
    for name, scores in parts.items():
        columns |= {f"{name}_{key}": values for key, values in scores.items()}
    return columns


def _samples(
    loops: Mapping[str, OuterLoop], states: Mapping[str, DishState]
) -> dict[str, dict[str, np.ndarray]]:
    """Return the train images of the first member, before and after, and their classes."""
    return {
        name: {
            "start": np.asarray(loop.start().data.train_inputs[0]),
            "learned": np.asarray(states[name].data.train_inputs[0]),
            "classes": np.asarray(states[name].data.train_labels[0]).argmax(axis=-1),
        }
        for name, loop in loops.items()
    }


def _write(folder: RunFolder, found: ImageCellsRun) -> None:
    """Write summary, predictions, outer loops and images."""
    columns = found.predictions
    rows = [
        [f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row]
        for row in zip(*(list(own) for own in columns.values()), strict=True)
    ]
    files.write_csv(folder.path / "predictions.csv", {}, list(columns), rows)
    arrays = {
        f"{name}_{key}": array for name, own in found.samples.items() for key, array in own.items()
    }
    files.save_arrays(folder.path / "synthetic_images.npz", arrays, kind=KIND)
    lines = [
        {"training": name, **{key: value for key, value in record.items() if key != "curves"}}
        for name, records in found.records.items()
        for record in records
    ]
    folder.write_metrics(lines)
    folder.write_json("summary.json", found.summary)

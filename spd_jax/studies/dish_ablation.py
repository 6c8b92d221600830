"""What a dish of any space needs in order to rank: one setting at a time is changed.

Every row of a seed learns from the same known motifs and meets the same held-out ones, before
and after the outer loop. What is known may come from another table than what is asked about.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from spd_jax import dish, files, metrics
from spd_jax.dish import DishConfig
from spd_jax.errors import UserError
from spd_jax.ground_truth.lookup import TruthTable
from spd_jax.problems import Problem
from spd_jax.studies import ablation, events, machine, saved_fits
from spd_jax.studies import settings as settings_lib
from spd_jax.studies.ablation import Ablation, Layout
from spd_jax.studies.predictions import slopes_of
from spd_jax.studies.run_folder import RunFolder, open_folder
from spd_jax.studies.settings import setting
from spd_jax.surrogates.dish_surrogate import DishSurrogate

LOOKS = 20  # at an inner training
CONVERGED = 0.01  # a training has converged where its loss fell by less in its last tenth
FULL_SIZE = "full_"  # begins the names of rows that run only where they are asked for
PARTS = ("tau", "tau_part")  # over all held-out motifs, and over the part that is asked about
BEFORE_AND_AFTER = (*PARTS, "inner_loss", "converged")
LAYOUT = Layout(
    figures=(
        *(f"{name}_{when}" for name in BEFORE_AND_AFTER for when in ("before", "after")),
        "outer_loss_first",
        "outer_loss_last",
    ),
    counts=("num_train", "num_test"),
    shown={
        "before": "tau_before",
        "tau": "tau_after",
        "part": "tau_part_after",
        "loss": "outer_loss_last",
        "converged": "converged_after",
    },
    pairs={
        "all held-out motifs": ("tau_before", "tau_after"),
        "the part": ("tau_part_before", "tau_part_after"),
    },
)


@dataclasses.dataclass(frozen=True)
class DishAblationSettings:
    """Settings of an ablation of a dish."""

    seed: int = setting(0, "first seed: of the dish, and of what is known", at_least=0)
    num_seeds: int = setting(5, "seeds of every row", at_least=1, grows=True)
    rows: tuple[str, ...] = setting(
        (), "rows to run; empty: all but those whose names begin with full_", free=True
    )
    preset: str = setting("reduced", "base that the rows change, which flags change", free=True)
    dish: DishConfig = setting(DishConfig(), "", by_preset=True)
    hidden_size: int = setting(3, "width of the motif-network", at_least=1, by_preset=True)
    known: int = setting(40, "motifs to learn from", at_least=2, by_preset=True)
    held_out: int = setting(100, "motifs to rank, of one table", at_least=2)
    train_slope_min: float = setting(0.37, "slopes: where the left part ends", at_least=0)
    train_slope_max: float = setting(2.01, "slopes: the largest to learn from", at_least=0)


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row.

    Attributes:
      words: what differs from the base, for people.
      dish: settings of the dish.
      hidden_size: width of the motif-network.
    """

    words: str
    dish: DishConfig
    hidden_size: int


class Question(NamedTuple):
    """What one seed knows, and what it is asked about.

    Attributes:
      known: motifs to learn from.
      held_out: motifs to rank `[M]`; none of their truths is known.
      part: places of some of them `[K]`, whose ranking is a figure of its own.
    """

    known: TruthTable
    held_out: TruthTable
    part: np.ndarray


Ask = Callable[[int], Question]


def variants(base: DishConfig, hidden_size: int) -> dict[str, Variant]:
    """Return the rows by name, the base first; what is halved or doubled is the base's."""
    found = {
        name: Variant(words, dataclasses.replace(base, **change), hidden_size)
        for name, (words, change) in _changes(base).items()
    }
    for width in (1, 2 * hidden_size):
        found[f"width_{width}"] = Variant(f"{width} wide", base, width)
    return {
        name: own
        for name, own in found.items()
        if name == "base" or (own.dish, own.hidden_size) != (base, hidden_size)
    }


def _changes(base: DishConfig) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return what each row changes in `DishConfig`, after words for it."""
    other_targets = "values" if base.targets == "ranks" else "ranks"
    rate, steps = base.inner_learning_rate, base.inner_steps
    outer_rate, outer_steps = base.outer_learning_rate, base.outer_steps
    half, twice = max(base.train_samples // 2, 1), 2 * base.train_samples
    members = base.ensemble_size
    truncation = max(steps // 10, 1)
    return {
        "base": ("the base", {}),
        "no_outer_steps": ("no outer step", {"outer_steps": 0}),
        "half_outer_steps": (f"{outer_steps // 2} outer steps", {"outer_steps": outer_steps // 2}),
        "twice_outer_steps": (f"{2 * outer_steps} outer steps", {"outer_steps": 2 * outer_steps}),
        **_scaled("outer_rate", "outer rate", "outer_learning_rate", outer_rate, (0.1, 0.3, 3)),
        "evaluation_only": (
            "gradient through the validation only", {"gradient": "evaluation_only"},
        ),
        "truncated": (
            f"gradient through the last {truncation} steps",
            {"gradient": "truncated", "truncation": truncation},
        ),
        "other_targets": (f"{other_targets} as targets", {"targets": other_targets}),
        "raw_mse": ("outer loss: MSE, unscaled", {"outer_loss": "raw_mse"}),
        "absolute_pearson": ("outer loss: 1 - |r|", {"outer_loss": "absolute_pearson"}),
        "pairwise_rank": ("outer loss: pairwise ranks", {"outer_loss": "pairwise_rank"}),
        "half_samples": (f"{half} samples", {"train_samples": half, "valid_samples": half}),
        "twice_samples": (f"{twice} samples", {"train_samples": twice, "valid_samples": twice}),
        "shared_data": ("validation on the training samples", {"shared_data": True}),
        "labels_learned": ("labels learned, too", {"learn_labels": True}),
        "quarter_steps": (f"{steps // 4} inner steps", {"inner_steps": max(steps // 4, 1)}),
        "half_steps": (f"{steps // 2} inner steps", {"inner_steps": max(steps // 2, 1)}),
        "twice_steps": (f"{2 * steps} inner steps", {"inner_steps": 2 * steps}),
        **_scaled("inner_rate", "inner rate", "inner_learning_rate", rate, (0.1, 0.3, 3, 10)),
        **{
            f"sgd_x{times}": (
                f"inner SGD at rate {times * rate:g}",
                {"inner_optimiser": "sgd", "inner_learning_rate": times * rate},
            )
            for times in (1, 30)
        },
        **_scaled("init_scale", "initial scale", "init_scale", base.init_scale, (0.5, 2)),
        "fresh_weights": ("each motif its own initial weights", {"shared_weights": False}),
        "one_dish": ("one dish", {"ensemble_size": 1}),
        "more_dishes": (f"{4 * members} dishes", {"ensemble_size": 4 * members}),
    }  # fmt: skip


def _scaled(
    name: str, words: str, field: str, value: float, factors: Sequence[float]
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return rows in which one rate is multiplied, by name."""
    return {
        f"{name}_x{factor:g}": (f"{words} {factor * value:g}", {field: factor * value})
        for factor in factors
    }


def ask_of_cells(table: TruthTable, settings: DishAblationSettings) -> Ask:
    """Return questions about one table: some motifs are known, others are held out.

    Raises:
      UserError: the table is too small.
    """
    usable = np.flatnonzero(np.isfinite(table.scores))
    if len(usable) < settings.known + 2:
        raise UserError(
            f"known={settings.known} of {len(usable)} motifs that did not fail leaves fewer than "
            "2 to rank: give a larger table, or let known be smaller"
        )

    def ask(seed: int) -> Question:
        order = np.random.default_rng(seed).permutation(usable)
        known, others = np.split(order, [settings.known])
        others = np.sort(others[: settings.held_out])
        better = np.argsort(-table.scores[others], kind="stable")[: len(others) // 2]
        return Question(table.take(np.sort(known)), table.take(others), np.sort(better))

    return ask


def ask_of_slopes(
    target: TruthTable, source: TruthTable | None, settings: DishAblationSettings
) -> Ask:
    """Return questions about all slopes of a table that are not known.

    Args:
      target: the table that is asked about.
      source: the table of which some slopes are known, wherever they lie; None: known are
        slopes of the target between `train_slope_min` and `train_slope_max`.
      settings: `train_slope_min` ends the part on the left, too.

    Raises:
      UserError: too few slopes to learn from.
    """
    table = target if source is None else source
    slopes = slopes_of(table.cells.names)
    inside = (slopes >= settings.train_slope_min) & (slopes <= settings.train_slope_max)
    usable = np.flatnonzero(np.isfinite(table.scores) & (inside | (source is not None)))
    if len(usable) < settings.known:
        raise UserError(
            f"{table.source} has {len(usable)} slopes to learn from, but known={settings.known}: "
            "ask for fewer, or widen the interval"
        )

    def ask(seed: int) -> Question:
        known = np.sort(np.random.default_rng(seed).permutation(usable)[: settings.known])
        others = np.arange(len(target)) if source is not None else _without(target, known)
        left = np.flatnonzero(slopes_of(target.cells.names)[others] < settings.train_slope_min)
        return Question(table.take(known), target.take(others), left)

    return ask


def _without(table: TruthTable, places: np.ndarray) -> np.ndarray:
    return np.setdiff1d(np.arange(len(table)), places)


def run(
    problem: Problem,
    settings: DishAblationSettings,
    workdir: str | os.PathLike[str],
    *,
    ask: Ask,
    about: Mapping[str, Any],
    words: str = "",
    full_size: Mapping[str, Variant] | None = None,
    listen: events.Listener = events.ignore,
) -> Ablation:
    """Run every row and seed that the folder does not hold yet.

    Args:
      problem: of the motifs.
      settings: the base, and which rows.
      workdir: the run folder.
      ask: what each seed knows and is asked about.
      about: plain data that decide `ask`, such as the tables' identities, and, as `part`, what
        its part is, for people.
      words: title of the picture.
      full_size: rows besides, by name, which run only where they are asked for.
      listen: told what happens.

    Raises:
      UserError: settings with which nothing can be run, an unknown row, or a folder of another
        run.
    """
    settings_lib.check(settings)
    found = variants(settings.dish, settings.hidden_size)
    asked = settings.rows or tuple(found)
    for name, own in (full_size or {}).items():
        found[FULL_SIZE + name] = own
    ablation.chosen(settings.rows, tuple(found), "rows")
    for own in found.values():
        dish.check(own.dish)
    config = {"study": "dish_ablation", "problem": problem.name, **about}
    config |= settings_lib.described(settings)
    seeds = range(settings.seed, settings.seed + settings.num_seeds)
    ask(settings.seed)  # refuses what cannot be asked before anything is written
    with open_folder(workdir, config, settings_lib.growing(settings)) as folder:

        def run_row(name: str, seed: int, advanced: Callable[[float], None]) -> dict[str, Any]:
            return _row(folder, problem, name, seed, found[name], ask(seed), advanced)

        rows = ablation.play(folder, asked, seeds, LAYOUT, run_row, listen)
        by_row = {name: own.words for name, own in found.items()}
        return ablation.finish(folder, rows, LAYOUT, by_row, config | {"words": words})


def _row(
    folder: RunFolder,
    problem: Problem,
    name: str,
    seed: int,
    variant: Variant,
    question: Question,
    advanced: Callable[[float], None],
) -> dict[str, Any]:
    """Run one row with one seed; the base's keep their curves."""
    surrogate = DishSurrogate(
        problem.family(variant.hidden_size), variant.dish, sharding=machine.motif_sharding()
    )
    key, known, held_out = jax.random.key(seed), question.known, question.held_out
    losses: list[float] = []
    seconds = {"compile": 0.0}
    with machine.timed(seconds, "row"):
        fitted: Any = saved_fits.fit(
            folder, f"{name}-seed{seed}", surrogate, key, known.cells.archs, known.scores,
            every=5, on_step=lambda step: advanced(step.done / max(step.total, 1) * 0.9),
        )  # fmt: skip
        untrained, _ = dish.fit(
            surrogate.start(key), surrogate.family,
            dataclasses.replace(variant.dish, outer_steps=0), known.cells.archs, known.scores,
            sharding=surrogate.sharding,
        )  # fmt: skip
        row: dict[str, Any] = {"num_train": len(known), "num_test": len(held_out)}
        curves = {}
        for when, state in (("before", untrained), ("after", fitted.state)):
            looked, curves[when] = _look(surrogate, state, question)
            row |= {f"{figure}_{when}": value for figure, value in looked.items()}
            losses.append(row.pop(f"outer_loss_{when}"))
    row |= dict(zip(("outer_loss_first", "outer_loss_last"), losses, strict=True))
    row |= {"seconds": seconds["row"]} | ({"curves": curves} if name == "base" else {})
    plain: dict[str, Any] = files.to_json(row)
    return plain


def _look(
    surrogate: DishSurrogate, state: dish.DishState, question: Question
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Return what a dish says of the held-out motifs, and how the known ones train in it.

    Figures: tau over all and over the part, the mean outer loss of the members on the known
    motifs, their training loss at the end, and the share of trainings that have converged
    (Rawal et al., section 3.1: "until individual BCE losses converge"; what that is, is ours).
    Curves: means over members and motifs, by inner step.
    """
    family, config, sharding = surrogate.family, surrogate.config, surrogate.sharding
    known, held_out = question.known, question.held_out
    predicted = dish.predict(state, family, config, held_out.cells.archs, sharding=sharding)
    part = question.part
    tau_part = math.nan
    if len(part) >= 2:
        tau_part = metrics.kendall_tau(predicted[part], held_out.scores[part])
    motifs = dish.KnownMotifs.of(known.cells.archs, known.scores).targets(config)
    raw = dish.raw_scores(state, family, config, motifs.archs, sharding=sharding)
    curves = dish.inner_curves(
        state, family, config, motifs.archs,
        every=max(config.inner_steps // LOOKS, 1), sharding=sharding,
    )  # fmt: skip
    loss = np.asarray(curves.train_loss)
    late = max(int(np.searchsorted(curves.steps, 0.9 * config.inner_steps, "right")) - 1, 0)
    with np.errstate(invalid="ignore"):  # a training that diverged has not converged
        converged = loss[..., late] - loss[..., -1] < CONVERGED * loss[..., late]
    converged &= np.isfinite(loss[..., -1])
    figures = {
        "tau": metrics.kendall_tau(predicted, held_out.scores),
        "tau_part": tau_part,
        "inner_loss": float(loss[..., -1].mean()),
        "converged": float(converged.mean()),
        "outer_loss": float(np.mean(dish.outer_losses(config, raw, motifs.truth))),
    }
    return figures, {
        "step": np.asarray(curves.steps),
        "train_loss": loss.mean(axis=(0, 1)),
        "valid_loss": np.asarray(curves.valid_loss).mean(axis=(0, 1)),
    }

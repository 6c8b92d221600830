"""Why the dish of Cassimon et al. did not converge: one suspect removed at a time.

The suspects are the authors' own (section 7) and ours. Each row differs from the paper's settings
in one thing; the last differs in all that their text leaves open. Every row meets the same
held-out cells of a seed, before and after the outer loop.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from spd_jax import archs as batches
from spd_jax import dish, files, metrics
from spd_jax.dish import DishState
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup
from spd_jax.ground_truth.lookup import TruthTable
from spd_jax.ledger import table as ledger_table
from spd_jax.problems import Problem
from spd_jax.studies import ablation, events, image_cells, machine, outer_loop
from spd_jax.studies import settings as settings_lib
from spd_jax.studies.ablation import Ablation, Layout
from spd_jax.studies.image_cells import ImageCellsSettings
from spd_jax.studies.outer_loop import OuterLoop
from spd_jax.studies.run_folder import RunFolder, open_folder
from spd_jax.studies.settings import setting

LAYOUT = Layout(
    figures=(
        *("tau_before", "tau_after", "tau_fitted", "perfect_share", "loss_first", "loss_last"),
        *("tau_fitted_without_undefined", "undefined_share"),
    ),
    counts=("num_train", "num_test"),
    shown={
        "tau before": "tau_before",
        "tau after": "tau_after",
        "fitted": "tau_fitted",
        "perfect": "perfect_share",
    },
    pairs={"held-out cells": ("tau_before", "tau_after")},
)


@dataclasses.dataclass(frozen=True)
class AblationSettings(ImageCellsSettings):
    """Settings of the experiment with those of its ablation."""

    ablation_seeds: int = setting(5, "seeds of every row of the ablation", at_least=1, grows=True)
    ablation_rows: tuple[str, ...] = setting((), "rows of the ablation; empty: all", free=True)
    losses_table: str | None = setting(
        None,
        "table of our own format with cross-entropies, for the rows of the ablation that need "
        "them; default: the shipped one",
        free=True,
    )
    other_ground_truth: str = setting(
        "cifar100_12", "ground truth of the ablation's row with another data set", free=True
    )


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row: what differs from the paper's settings.

    Attributes:
      words: what that is, for people.
      dish: changed fields of `DishConfig`.
      problem: changed settings of the motif-network: `stem`, `image_size`.
      targets: what the outer loss compares scores with: the "truth"; its "ranks"; real
        "losses", with the sign turned; or the truth with the "unit" of the untrained dish's
        scores, so that their squared differences mean something.
      table: whose truths: the "given" table, "own", which has losses, or "other", another data
        set.
      num_train: known cells; 0: as the settings say.
    """

    words: str
    dish: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    problem: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    targets: str = "truth"
    table: str = "given"
    num_train: int = 0


def variants(settings: AblationSettings) -> dict[str, Variant]:
    """Return the rows by name, the paper's first; what is doubled or halved is the settings'."""
    config = settings.dish
    per_epoch = config.train_samples // (config.inner_batch_size or config.train_samples)
    short = min(16 * per_epoch, config.inner_steps)
    doubled = {"train_samples": 2 * config.train_samples, "valid_samples": 2 * config.valid_samples}
    full, standardised = {"gradient": "full"}, {"outer_loss": "zscored_mse"}
    two_sets = {"shared_data": False}
    size = config.motif_batch
    return {
        "paper": Variant("the paper's settings"),
        "gradient": Variant("gradient through the whole training", full),
        "loss": Variant("MSE between z-scores", standardised),
        "raw_mse": Variant("MSE to the accuracies", {"outer_loss": "raw_mse"}),
        "raw_mse_unit": Variant(
            "MSE to standardised accuracies", {"outer_loss": "raw_mse"}, targets="unit"
        ),
        "ranks": Variant("ranks as targets", targets="ranks"),
        "own_accuracies": Variant("accuracies of our table", table="own"),
        "own_losses": Variant("real losses of our table", targets="losses", table="own"),
        "data_set": Variant("another data set", table="other"),
        "short": Variant("16 inner epochs", {"inner_steps": short}),
        "small_network": Variant("half the channels", problem={"stem": max(1, settings.stem // 2)}),
        "more_samples": Variant("twice the images", doubled),
        "inner_rate": Variant("inner learning rate 0.01", {"inner_learning_rate": 0.01}),
        "two_sets": Variant("separate validation images", two_sets),
        "fixed_cells": Variant(f"the same {size} cells at each step", num_train=size),
        "thirty_cells": Variant("the same 30 cells at each step", {"motif_batch": 30},
                                num_train=30),
        "more_steps": Variant("170 steps, 1,020 cells", {"outer_steps": 170}, num_train=170 * size),
        "all": Variant(
            "all of: gradient, loss, inner rate, two sets",
            full | standardised | two_sets | {"inner_learning_rate": 0.01},
        ),
    }  # fmt: skip


def run(
    problem: Problem,
    table: TruthTable,
    settings: AblationSettings,
    workdir: str | os.PathLike[str],
    *,
    problem_of: Callable[..., Problem],
    table_of: Callable[[str], TruthTable],
    listen: events.Listener = events.ignore,
) -> Ablation:
    """Run every row and seed that the folder does not hold yet.

    Args:
      problem: of image cells.
      table: its cells and their ground truths.
      settings: the paper's, in some form.
      workdir: the run folder.
      problem_of: returns the problem with other settings, by keyword.
      table_of: returns the table of another ground truth, by name.
      listen: told what happens.

    Raises:
      UserError: settings or a table with which nothing can be run, an unknown row, one that was
        asked for and lacks its table, or a folder of another run.
    """
    settings_lib.check(settings)
    found = variants(settings)
    ablation.chosen(settings.ablation_rows, tuple(found), "ablation_rows")
    for variant in found.values():
        dish.check(dataclasses.replace(settings.dish, **variant.dish))
    tables, reasons = _tables(problem, table, settings, table_of)
    left_out = {name: reasons[own.table] for name, own in found.items() if own.table in reasons}
    for name in settings.ablation_rows:
        if name in left_out:
            raise UserError(f"the row {name} of the ablation cannot be run: {left_out[name]}")
    asked = {
        name: own
        for name, own in found.items()
        if name in (settings.ablation_rows or found) and name not in left_out
    }
    image_cells.draw_split(table, settings)
    config: dict[str, Any] = {"study": "image_ablation", "table": table.identity}
    config |= {"problem": dict(problem.settings), **settings_lib.described(settings)}
    seeds = range(settings.seed, settings.seed + settings.ablation_seeds)
    about = _about(problem, table, settings) | {"left_out": left_out}
    with open_folder(workdir, config, settings_lib.growing(settings)) as folder:

        def run_row(name: str, seed: int, advanced: Callable[[float], None]) -> dict[str, Any]:
            return _row(folder, name, seed, asked[name], settings, tables, problem_of, advanced)

        rows = ablation.play(folder, tuple(asked), seeds, LAYOUT, run_row, listen)
        words = {name: own.words for name, own in found.items()}
        return ablation.finish(folder, rows, LAYOUT, words, about)


def _about(problem: Problem, table: TruthTable, settings: AblationSettings) -> dict[str, Any]:
    """Return what summary.json says of the whole ablation."""
    truth = table.task or table.source.stem
    size, steps = settings.image_size, settings.dish.outer_steps
    return {
        "problem": problem.name,
        "table": table.source.name,
        "ground_truth_words": truth,
        "motif_network": settings.motif_network,
        "stem": problem.hidden_size,
        "image_size": size,
        "outer_steps": steps,
        "inner_steps": settings.dish.inner_steps,
        "words": f"{problem.name}, {truth}: one suspect removed at a time\n"
        f"motif-network {settings.motif_network}, stem {problem.hidden_size}, "
        f"{size}x{size} images, {steps} outer steps",
    }


def _tables(
    problem: Problem,
    table: TruthTable,
    settings: AblationSettings,
    table_of: Callable[[str], TruthTable],
) -> tuple[dict[str, tuple[TruthTable, np.ndarray | None]], dict[str, str]]:
    """Return the tables by kind, with their losses, and why there is none of another kind."""
    tables: dict[str, tuple[TruthTable, np.ndarray | None]] = {"given": (table, None)}
    reasons = {}
    shipped = next((own.table for own in problem.ground_truths.values() if own.table), "")
    if settings.losses_table is None and not shipped:
        reasons["own"] = "no table with losses is shipped: give one as losses_table"
    else:
        path = pathlib.Path(settings.losses_table or lookup.shipped(shipped))
        own = lookup.read(path, problem.space)
        tables["own"] = own, losses_of(own)
    name = settings.other_ground_truth
    if name not in problem.ground_truths or ledger_table.is_table(table.source):
        reasons["other"] = f"the given table has no ground truth {name!r}"
    else:
        tables["other"] = table_of(name), None
    return tables, reasons


def losses_of(table: TruthTable) -> np.ndarray:
    """Return the validation cross-entropies of a table's cells `[M]`, means over seeds, in nats.

    Args:
      table: of our own format, whose `info` holds `valid_losses`, one after each epoch.

    Raises:
      UserError: it holds none.
    """
    found: dict[str, list[float]] = {}
    for key, evaluation in ledger_table.read(table.source):
        losses = evaluation.info.get("valid_losses")
        if losses and key.budget == table.budget and losses[-1] is not None:
            found.setdefault(key.cell, []).append(float(losses[-1]))
    missing = [name for name in table.cells.names if name not in found]
    if missing:
        raise UserError(
            f"{table.source} has no valid_losses for the cell {missing[0]!r}: give a table that "
            "records losses as losses_table"
        )
    return np.array([np.mean(found[name]) for name in table.cells.names])


def _sized(settings: AblationSettings, table: TruthTable, variant: Variant) -> AblationSettings:
    """Return the settings with the numbers of cells of a row; a small table is cut in thirds."""
    num_train = variant.num_train or settings.num_train
    count = int(np.isfinite(table.scores).sum())
    if variant.table == "own" and count < num_train + settings.num_test:
        test = min(settings.num_test, count // 3)
        return dataclasses.replace(settings, num_train=count - test, num_test=test)
    return dataclasses.replace(settings, num_train=min(num_train, count - settings.num_test))


def _row(
    folder: RunFolder,
    name: str,
    seed: int,
    variant: Variant,
    settings: AblationSettings,
    tables: Mapping[str, tuple[TruthTable, np.ndarray | None]],
    problem_of: Callable[..., Problem],
    advanced: Callable[[float], None],
) -> dict[str, Any]:
    """Run one row with one seed."""
    table, losses = tables[variant.table]
    sized = dataclasses.replace(_sized(settings, table, variant), seed=seed)
    split = image_cells.draw_split(table, sized)
    problem = problem_of(**variant.problem)
    truth = table.scores[split.known]
    loop = OuterLoop(
        problem.family(problem.hidden_size), dataclasses.replace(settings.dish, **variant.dish),
        batches.take(table.cells.archs, split.known), truth, truth, seed,
    )  # fmt: skip
    known_losses = None if losses is None else losses[split.known]
    loop = dataclasses.replace(loop, targets=_targets(variant.targets, loop, known_losses))
    archs, held_out = batches.take(table.cells.archs, split.held_out), table.scores[split.held_out]

    def look(state: DishState) -> dict[str, Any]:
        tau = metrics.kendall_tau(loop.predict(state, archs), held_out)
        return {"tau_held_out": files.to_json(tau)}

    total = loop.config.outer_steps
    seconds = {"compile": 0.0}
    with machine.timed(seconds, "row"):
        _, records = outer_loop.run(
            folder, f"{name}-seed{seed}", loop, look_every=max(total, 1), look=look,
            on_step=lambda step, record: advanced(step / max(total, 1) * 0.99),
        )  # fmt: skip
    counts = {"num_train": len(split.known), "num_test": len(split.held_out)}
    plain: dict[str, Any] = files.to_json(_figures(records) | counts | {"seconds": seconds["row"]})
    return plain


def _figures(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the figures of a row, from what its outer loop recorded."""
    figures = outer_loop.figures(records)
    losses_seen = [record["loss"] for record in records if "loss" in record]
    return {
        "tau_before": records[0]["tau_held_out"],
        "tau_after": records[-1]["tau_held_out"],
        "tau_fitted": figures.get("tau"),
        "perfect_share": figures.get("perfect_share"),
        "loss_first": np.mean(losses_seen[:5]) if losses_seen else None,
        "loss_last": np.mean(losses_seen[-5:]) if losses_seen else None,
        "tau_fitted_without_undefined": figures.get("tau_without_undefined"),
        "undefined_share": figures.get("undefined_share"),
    }


def _targets(kind: str, loop: OuterLoop, losses: np.ndarray | None) -> np.ndarray:
    """Return what the outer loss compares scores with, see `Variant.targets`."""
    if kind == "ranks":
        return stats.zscore(stats.rankdata(loop.truth))
    if kind == "losses":
        assert losses is not None
        return -losses
    if kind == "unit":
        raw = dish.raw_scores(
            loop.start(), loop.family, loop.config,
            batches.take(loop.archs, slice(outer_loop.ANCHORS)), sharding=machine.motif_sharding(),
        )  # fmt: skip
        raw = np.where(np.isfinite(raw), raw, np.nan)
        mean, spread = np.nanmean(raw), np.nanmean(np.nanstd(raw, axis=1))
        return mean + spread * stats.zscore(loop.truth)
    return loop.truth

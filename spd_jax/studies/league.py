"""The league of surrogates: who ranks held-out motifs best at equal ground truths, at what price.

Each split of a table of ground truths hides some motifs; each surrogate is fitted on the
first 5, 10, 20, ... of the others and ranks the hidden ones. What uses no ground truth
counts as 0. Every match is kept the moment it is decided, so that a killed league goes on.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from spd_jax import archs as batches
from spd_jax import files, metrics
from spd_jax.archs import Cells
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup
from spd_jax.ground_truth.lookup import TruthTable
from spd_jax.problems import Problem
from spd_jax.studies import events, machine, spreads
from spd_jax.studies import settings as settings_lib
from spd_jax.studies.line_up import TOP, Everyone, LeagueSettings, line_up
from spd_jax.studies.run_folder import RunFolder, open_folder
from spd_jax.surrogates.dish_surrogate import DishSurrogate
from spd_jax.surrogates.protocol import CostlySurrogate, Ensemble, Fitted, Surrogate
from spd_jax.surrogates.uncertainty import Calibration, coverage

CEILING_SEEDS = 3
FIGURES = ("kendall_tau", "spearman", "precision_at_10", "regret")
# Of an ensemble: the share of held-out scores within one and two of its standard deviations.
COVERAGE = ("within_1_std", "within_2_std")
Row = Mapping[str, Any]


class Split(NamedTuple):
    """Indices of the motifs that a split knows, in order of purchase, and of those held out."""

    known: np.ndarray
    held_out: np.ndarray


class Entry(NamedTuple):
    """One match: who plays it on which split, knowing how many ground truths."""

    surrogate: str
    known: int
    split: int

    @property
    def file(self) -> str:
        """Where the run folder keeps its result."""
        return f"matches/{self.surrogate}-known{self.known}-split{self.split}.json"


@dataclasses.dataclass(frozen=True)
class League:
    """A finished league.

    Attributes:
      rows: one mapping for each match: `surrogate`, `known`, `split` and `spreads.MEASURES`.
      summary: what summary.json holds.
      path: the run folder, with league.csv, splits.json and summary.json.
    """

    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    path: pathlib.Path


def run(
    problem: Problem,
    table: TruthTable,
    settings: LeagueSettings,
    workdir: str | os.PathLike[str],
    *,
    listen: events.Listener = events.ignore,
    faces: Mapping[str, Callable[[DishSurrogate], Surrogate]] = MappingProxyType({}),
) -> League:
    """Play every match that the folder does not hold yet.

    Args:
      problem: whose surrogates take part.
      table: motifs and their ground truths.
      settings: how.
      workdir: the run folder.
      listen: told what happens.
      faces: the dish as other libraries call it, by name: see `line_up`.

    Raises:
      UserError: settings or a table with which nothing can be compared, or a folder of
        another run.
    """
    settings_lib.check(settings)
    splits = draw_splits(table, settings)
    everyone = line_up(problem, table, settings, faces)
    described = settings_lib.described(settings)
    config = {"study": "league", "space": problem.space.name, "table": table.identity, **described}
    with open_folder(workdir, config, settings_lib.growing(settings)) as folder:
        names = table.cells.names
        drawn = [
            {part: [names[i] for i in getattr(split, part)] for part in split._fields}
            for split in splits
        ]
        folder.write_json("splits.json", drawn)
        rows = rows_of(_play(folder, table, splits, everyone, settings.seed, listen))
        files.write_csv(
            folder.path / "league.csv", {}, list(rows[0]), [list(row.values()) for row in rows]
        )
        summary = summarise(problem, table, rows, everyone) | described
        folder.write_json("summary.json", summary)
        return League(rows, summary, folder.path)


def draw_splits(table: TruthTable, settings: LeagueSettings) -> list[Split]:
    """Draw splits: known sets are nested, and no known size sees a held-out motif.

    Raises:
      UserError: too few motifs, or a smallest known set in which nearly all failed.
    """
    known = settings.known
    if not known or min(known) < 3:
        raise UserError(f"known={known}: give whole numbers of 3 or more")
    most, count = max(known), len(table)
    if count < most + TOP:
        raise UserError(
            f"the table has {count} motifs, but {most} known and at least {TOP} held-out ones are "
            "asked for: let the largest of known be smaller"
        )
    drawn = []
    for split in range(settings.splits):
        order = np.random.default_rng([settings.seed, split]).permutation(count)
        usable = int(np.isfinite(table.scores[order[: min(known)]]).sum())
        if usable < 3:
            raise UserError(
                f"split {split} knows {usable} motifs that did not fail, of {min(known)}: "
                "let the smallest of known be larger"
            )
        drawn.append(Split(order[:most], order[most:][: settings.held_out]))
    return drawn


def read_excluded(path: str | os.PathLike[str], problem: Problem) -> set[str]:
    """Return the motifs that a file names, because settings were chosen on them.

    Args:
      path: a CSV with a column `cell`, or a text with one motif on each line.
      problem: of the motifs.

    Raises:
      UserError: the file cannot be read, or a line is no motif of the space.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): give a list of motifs") from error
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if lines and "cell" in lines[0].split(","):
        lines = [row["cell"] for _, row in files.read_csv(path, ("cell",))[1]]
    try:
        return set(Cells.read(problem.space, [line.strip() for line in lines]).names)
    except (UserError, TypeError) as error:
        raise UserError(f"{path} lists something else than motifs: {error}") from error


def match(
    surrogate: Surrogate, table: TruthTable, split: Split, *, known: int, key: jax.Array
) -> dict[str, Any]:
    """Fit on the first `known` motifs of a split, predict the held-out ones, and score that.

    Returns:
      JSON-ready: the `FIGURES` (None where not finite), seconds of fit and query without
      compiling, seconds of compiling, and the predictions; of an ensemble also its `COVERAGE`.
    """
    archs, chosen = table.cells.archs, split.known[:known]
    seconds = {"compile": 0.0}
    with machine.timed(seconds, "fit"):
        fitted = surrogate.fit(key, batches.take(archs, chosen), table.scores[chosen])
        jax.block_until_ready(vars(fitted))  # a fit may hand out work in progress
    held_out = batches.take(archs, split.held_out)
    with machine.timed(seconds, "query"):
        predicted = fitted.predict(held_out)
    truth = table.scores[split.held_out]
    figures = {
        "kendall_tau": metrics.kendall_tau(predicted, truth),
        "spearman": metrics.spearman(predicted, truth),
        "precision_at_10": metrics.precision_at(TOP, predicted, truth),
        "regret": metrics.regret(predicted, truth),
    }
    return {
        **files.to_json(figures),
        "fit_seconds": seconds["fit"],
        "query_seconds": seconds["query"],
        "compile_seconds": seconds["compile"],
        "predicted": files.to_json(predicted),
        **files.to_json(covered(fitted, table, chosen, split.held_out, predicted)),
    }


def covered(
    fitted: Fitted, table: TruthTable, known: np.ndarray, held_out: np.ndarray, predicted: Any
) -> dict[str, float]:
    """Return the `COVERAGE` of an ensemble, calibrated on its known motifs.

    Nothing of what has no members, or knew no motif.

    Args:
      fitted: on the known motifs.
      table: motifs and scores.
      known: indices `[K]`.
      held_out: indices `[M]`.
      predicted: of the held-out motifs `[M]`.
    """
    if not len(known) or not isinstance(fitted, Ensemble):
        return {}
    archs, truth = table.cells.archs, table.scores
    of_known = fitted.by_member(batches.take(archs, known))
    std = Calibration.of(of_known, truth[known]).std(
        fitted.by_member(batches.take(archs, held_out))
    )
    return dict(zip(COVERAGE, coverage(predicted, std, truth[held_out]), strict=True))


def _play(
    folder: RunFolder,
    table: TruthTable,
    splits: list[Split],
    everyone: Everyone,
    seed: int,
    listen: events.Listener,
) -> dict[Entry, dict[str, Any]]:
    """Decide every match that the folder does not hold yet; return the results of all."""
    # Split by split: a run that is stopped early has compared everyone on the first ones.
    entries = [Entry(*place, split) for split in range(len(splits)) for place in everyone]
    results = {entry: folder.read_json(entry.file, _result) for entry in entries}
    missing = [entry for entry in entries if results[entry] is None]
    already = len(entries) - len(missing)
    listen(events.Stage("matches", len(entries), already, "" if already else "compiling"))
    played = {entry: result for entry, result in results.items() if result is not None}
    for done, entry in enumerate(missing, already + 1):
        key = jax.random.fold_in(jax.random.key(seed), entry.split)
        surrogate = everyone[entry.surrogate, entry.known]
        result = match(surrogate, table, splits[entry.split], known=entry.known, key=key)
        played[entry] = entry._asdict() | result
        folder.keep_json(entry.file, played[entry])
        tau = result["kendall_tau"]
        shown = "-" if tau is None else f"{tau:.2f}"
        listen(events.Advanced(done, f"{entry.surrogate}, {entry.known} known: tau {shown}"))
    return {entry: played[entry] for entry in entries}


def _result(content: Any) -> dict[str, Any]:
    """Return what a match's file holds, once it has every figure."""
    places = {name: content[name] for name in (*Entry._fields, "predicted")}
    figures = (*spreads.MEASURES, "compile_seconds")
    found = {n: None if content[n] is None else float(content[n]) for n in figures}
    # Files of before there was a coverage lack it, as those of surrogates without members do.
    own = {name: float(content[name]) for name in COVERAGE if content.get(name) is not None}
    return places | found | own


def rows_of(results: Mapping[Entry, Row]) -> list[dict[str, Any]]:
    """Return one row for each match; a figure that JSON could not hold is NaN, a regret infinite.

    The regret is infinite where the predicted best motif failed.
    """
    rows = []
    for result in results.values():
        row = {name: value for name, value in result.items() if name != "predicted"}
        for figure in (*FIGURES, *COVERAGE):
            if row.get(figure) is None:
                row[figure] = math.inf if figure == "regret" else math.nan
        rows.append(row)
    return rows


def summarise(
    problem: Problem, table: TruthTable, rows: Sequence[Row], everyone: Everyone
) -> dict[str, Any]:
    """Return summary.json: every figure of every surrogate with its mean and spread over splits.

    `cost_per_query` is what one prediction costs in full evaluations.
    """
    surrogates: dict[str, dict[str, Any]] = {}
    for name, entries in spreads.aggregate(rows).items():
        surrogates[name] = {str(known): dict(figures) for known, figures in entries.items()}
    for (name, known), surrogate in everyone.items():
        cost = surrogate.cost_per_query if isinstance(surrogate, CostlySurrogate) else 0.0
        surrogates[name][str(known)]["cost_per_query"] = cost
    return {
        "problem": problem.name,
        "table": table.source.name,
        "motifs": len(table),
        "failed": int(np.sum(~np.isfinite(table.scores))),
        "noise_ceiling": table.noise_ceiling(CEILING_SEEDS),
        "surrogates": surrogates,
        "coverage": coverages(rows),
    }


def coverages(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the `COVERAGE` of every ensemble: [name][known][share], each as a spread.

    The spread is over the splits in which it is known.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, known in dict.fromkeys((row["surrogate"], row["known"]) for row in rows):
        own = [row for row in rows if (row["surrogate"], row["known"]) == (name, known)]
        shares = {
            share: [row[share] for row in own if math.isfinite(row.get(share, math.nan))]
            for share in COVERAGE
        }
        if all(shares.values()):
            spread = {share: metrics.spread_with_mean(values) for share, values in shares.items()}
            found.setdefault(name, {})[str(known)] = spread
    return found


def shipped_table(problem: Problem) -> TruthTable:
    """Return the first table that ships for a problem, without the motifs settings saw.

    Raises:
      UserError: none ships.
    """
    for preset in problem.ground_truths.values():
        if preset.table:
            table = lookup.read(lookup.shipped(preset.table), problem.space)
            tuning = preset.tuning_table
            return table.without(
                read_excluded(lookup.shipped(tuning), problem) if tuning else set()
            )
    raise UserError(f"no table of {problem.name} comes with spd_jax: give one")

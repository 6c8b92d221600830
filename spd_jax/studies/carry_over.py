"""Dishes that carry over: learned on one table of ground truth, asked about another (ours).

A dish is fitted on a source, saved, loaded, and predicts the motifs of a target: of another data
set, another text, or of kinds that the source lacks. Then it goes on with a few truths of the
target. Beside it stand the dish before it learned, the source's table itself, regressors, and
what needs no truth. Every seed is kept the moment it is done, so that a killed run goes on.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from spd_jax import dish, files, metrics
from spd_jax.dish import DishConfig
from spd_jax.dishes import LearnedDish
from spd_jax.errors import UserError
from spd_jax.ground_truth.lookup import TruthTable
from spd_jax.problems import Problem
from spd_jax.studies import events, machine, one_transfer
from spd_jax.studies import settings as settings_lib
from spd_jax.studies.one_transfer import (
    LEAST_HELD_OUT,
    LEAST_TO_LEARN,
    Methods,
    Predictions,
    Transfer,
)
from spd_jax.studies.run_folder import RunFolder, open_folder
from spd_jax.studies.settings import setting

FIGURES = ("kendall_tau", "kendall_tau_test", "kendall_tau_left", "peak_error", "regret")
LOWER_IS_BETTER = ("peak_error", "regret")
UNIT = {"ranks": "standardised ranks of the source", "values": "standard deviations of the source"}
Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class CarryOverSettings:
    """Settings of a carry-over."""

    seed: int = setting(0, "first seed: of the dishes and of which truths are known", at_least=0)
    num_seeds: int = setting(5, "seeds to run", at_least=1, grows=True)
    known: tuple[int, ...] = setting(
        (0, 5, 10, 20, 40),
        f"truths of the target to learn from; numbers that leave fewer than {LEAST_HELD_OUT} "
        "motifs are left out",
        at_least=0,
    )
    groups: str = setting(
        "all",
        "motifs of the target: all; new, those of groups that the source lacks; or each group in "
        "turn, which is taken out of the source",
        choices=("all", "new", "each"),
    )
    left_of: float = setting(
        0.37, "motifs with a smaller coordinate are ranked by themselves, too", at_least=-1e6
    )
    preset: str = setting("carried", "settings of the dish, which flags change")
    dish: DishConfig = setting(DishConfig(), "", by_preset=True)
    hidden_size: int = setting(3, "width of the motif-network", at_least=1)
    more_steps: int = setting(
        20,
        "outer steps on source and target together, after those on the source and at most as many",
        at_least=0, by_preset=True,
    )  # fmt: skip
    proxy_hidden_size: int = setting(16, "width of the network of proxies", at_least=1)


@dataclasses.dataclass(frozen=True)
class CarryOver:
    """A finished run.

    Attributes:
      rows: one for each transfer, group, seed, number of known truths and method, with `FIGURES`.
      summary: what summary.json holds.
      transfers: from which tables to which.
      predictions: of the first transfer and seed, by number of known truths and method.
      path: the run folder.
    """

    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    transfers: list[Transfer]
    predictions: Predictions
    path: pathlib.Path


def run(
    source: tuple[Problem, TruthTable],
    target: tuple[Problem, TruthTable],
    settings: CarryOverSettings,
    workdir: str | os.PathLike[str],
    *,
    command: str = "",
    listen: events.Listener = events.ignore,
) -> CarryOver:
    """Run every seed that the folder does not hold yet, and write the run's files.

    Args:
      source: a problem and its table, to learn from.
      target: likewise, to predict.
      settings: how.
      workdir: the run folder.
      command: that asks for this run, for the provenance of the learned dish.
      listen: told what happens.

    Returns:
      All results. In the folder lie carry_over.csv, predictions.csv, summary.json, and
      learned_dish.npz, which the first seed learned on the source.

    Raises:
      UserError: tables or settings with which nothing can be carried over, or a folder of
        another run.
    """
    settings_lib.check(settings)
    if any(0 < size < LEAST_TO_LEARN for size in settings.known):
        raise UserError(f"known={settings.known}: give 0, or {LEAST_TO_LEARN} and more")
    methods = Methods(
        settings.dish, settings.hidden_size, settings.more_steps, settings.proxy_hidden_size
    )
    transfers = transfers_of(source, target, settings)
    for transfer in transfers:
        check(transfer, methods)
    config = {"study": "carry_over", **settings_lib.described(settings)}
    for part, (problem, table) in {"source": source, "target": target}.items():
        config[part] = {"problem": problem.name, "table": table.identity}
    with open_folder(workdir, config, settings_lib.growing(settings)) as folder:
        found = _run_seeds(folder, transfers, settings, methods, listen)
        rows = [row for transfer, own in found for row in rows_of(transfer, own, settings)]
        columns = list(rows[0])
        files.write_csv(
            folder.path / "carry_over.csv", {}, columns, [list(row.values()) for row in rows]
        )
        _write_predictions(folder, found)
        _learned_dish(folder, transfers[0], settings, methods, command).save(
            folder.path / "learned_dish.npz"
        )
        summary = summarise(source, target, rows) | settings_lib.described(settings)
        folder.write_json("summary.json", files.to_json(summary))
    first = found[0][1][settings.seed]
    return CarryOver(rows, summary, transfers, first, pathlib.Path(workdir))


def transfers_of(
    source: tuple[Problem, TruthTable],
    target: tuple[Problem, TruthTable],
    settings: CarryOverSettings,
) -> list[Transfer]:
    """Return what is carried over to what.

    Raises:
      UserError: the target has no motifs of the groups that are asked for, or too few motifs.
    """
    whole = Transfer("all", *source, *target)
    found = [whole]
    if settings.groups != "all":
        embedded = whole.embedded()
        if embedded is None:
            raise UserError(
                f"groups={settings.groups}, but motifs of {source[0].name} are none of "
                f"{target[0].name}: use all"
            )
        own = np.array(one_transfer.groups_of(target[0], target[1].cells.archs))
        known = np.array(one_transfer.groups_of(target[0], embedded))
        if settings.groups == "new":
            new = np.flatnonzero(~np.isin(own, known))
            found = [_cut(whole, "all", np.arange(len(known)), new)]
        else:
            found = [
                _cut(whole, group, np.flatnonzero(known != group), np.flatnonzero(own == group))
                for group in dict.fromkeys(own.tolist())
            ]
    for transfer in found:
        if not transfer.sizes(settings.known) or len(transfer.source) < 2:
            raise UserError(
                f"groups={settings.groups} leaves {len(transfer.source)} motifs of the source and "
                f"{len(transfer.target)} of the target: the smallest of known must leave "
                f"{LEAST_HELD_OUT} of these to predict"
            )
    return found


def _cut(whole: Transfer, name: str, source: np.ndarray, target: np.ndarray) -> Transfer:
    """Return a transfer between some motifs of the source and some of the target."""
    return dataclasses.replace(
        whole, name=name, source=whole.source.take(source), target=whole.target.take(target)
    )


def check(transfer: Transfer, methods: Methods) -> None:
    """Refuse settings that cannot be run, and a target whose network has other parameters."""
    dish.check(methods.config)
    if methods.more_steps > methods.config.outer_steps:
        raise UserError(
            f"more_steps={methods.more_steps} must be at most "
            f"outer_steps={methods.config.outer_steps}"
        )
    shapes = [
        jax.tree.map(np.shape, jax.eval_shape(methods.dish(problem).start, jax.random.key(0)))
        for problem in (transfer.source_problem, transfer.problem)
    ]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"what a dish of {transfer.source_problem.name} learned does not fit the "
            f"motif-network of {transfer.problem.name}: take tables of one space, or of two whose "
            "networks have the same parameters"
        )


def _run_seeds(
    folder: RunFolder,
    transfers: Sequence[Transfer],
    settings: CarryOverSettings,
    methods: Methods,
    listen: events.Listener,
) -> list[tuple[Transfer, dict[int, Predictions]]]:
    """Run what the folder does not hold yet; return the predictions of all seeds by transfer."""
    seeds = range(settings.seed, settings.seed + settings.num_seeds)
    # Seed by seed: a run that is stopped early has all groups of the first ones.
    names = {
        (seed, i): f"results/{transfer.name}_seed{seed}.json"
        for seed in seeds
        for i, transfer in enumerate(transfers)
    }
    kept = {place: folder.read_json(name, _read) for place, name in names.items()}
    done = sum(own is not None for own in kept.values())
    listen(events.Stage("seeds", len(names), done, "" if done else "compiling"))
    for (seed, i), name in names.items():
        if kept[seed, i] is not None:
            continue
        transfer, already = transfers[i], done

        def tell(note: str, transfer: Transfer = transfer, already: int = already) -> None:
            listen(events.Advanced(already, f"{transfer.name}: {note}"))

        found, seconds = one_transfer.predict(
            folder, transfer, seed, transfer.sizes(settings.known), methods, tell
        )
        content = {"predictions": one_transfer.to_json(found), "seconds": seconds}
        folder.keep_json(name, content)
        kept[seed, i] = _read(content)
        done += 1
        tau = metrics.kendall_tau(found[0]["dish"], transfer.target.scores)
        listen(events.Advanced(done, f"{transfer.name}, seed {seed}: dish tau {tau:.2f}"))
    return [
        (transfer, {seed: own for seed in seeds if (own := kept[seed, i]) is not None})
        for i, transfer in enumerate(transfers)
    ]


def _read(content: Any) -> Predictions:
    """Return the predictions of a seed's file, once it has all that the study reads."""
    return one_transfer.from_json(content["predictions"])


def rows_of(
    transfer: Transfer, found: Mapping[int, Predictions], settings: CarryOverSettings
) -> list[dict[str, Any]]:
    """Return a row of figures for each group, seed, number of known truths and method.

    Where motifs are of several groups, "all" stands for all of them, each with a row of its own.
    """
    groups = np.array(one_transfer.groups_of(transfer.problem, transfer.target.cells.archs))
    members = {transfer.name: np.ones(len(groups), bool)}
    if len(set(groups)) > 1:
        members |= {group: groups == group for group in dict.fromkeys(groups.tolist())}
    most = max(transfer.sizes(settings.known))
    rows = []
    for seed, predictions in found.items():
        test = np.ones(len(groups), bool)
        test[transfer.order(seed)[:most]] = False
        for known, methods in predictions.items():
            for method, predicted in methods.items():
                place = {"seed": seed, "known": known, "method": method}
                rows += [
                    {"group": group, **place}
                    | figures(transfer, predicted, own, test & own, settings.left_of)
                    for group, own in members.items()
                ]
    return rows


def figures(
    transfer: Transfer, predicted: np.ndarray, own: np.ndarray, test: np.ndarray, left_of: float
) -> dict[str, float]:
    """Return `FIGURES` of predictions `[M]`; NaN where one is not defined.

    Args:
      transfer: whose target is predicted.
      predicted: by a method, higher is better.
      own: mask `[M]` of the motifs to look at.
      test: mask `[M]` of those among them whose truth no number of known truths includes.
      left_of: coordinate that bounds `kendall_tau_left`.
    """
    truth = transfer.target.scores

    def tau(chosen: np.ndarray) -> float:
        if chosen.sum() < 2:
            return math.nan
        return metrics.kendall_tau(predicted[chosen], truth[chosen])

    left = peak_error = math.nan
    if transfer.problem.coordinate is not None:
        places = transfer.problem.coordinate(transfer.target.cells.archs)
        left = tau(own & (places < left_of))
        peak_error = metrics.peak_error(places[own], predicted[own], truth[own])
    regret = metrics.regret(predicted[own], truth[own])
    return dict(zip(FIGURES, (tau(own), tau(test), left, peak_error, regret), strict=True))


def summarise(
    source: tuple[Problem, TruthTable], target: tuple[Problem, TruthTable], rows: Sequence[Row]
) -> dict[str, Any]:
    """Return summary.json.

    `figures[scope][known][method]` holds spreads of `FIGURES`, `paired[scope][known][rival]` of
    the dish's figure minus the rival's. Scope "all" is over seeds, of all motifs together;
    scope "groups" over groups and seeds, of each group's motifs. A rival that learns from no
    truth of the target stands at 0 known truths, and is compared with the dish at all.
    """
    groups = list(dict.fromkeys(row["group"] for row in rows))
    scopes = {"all": ["all"], "groups": [group for group in groups if group != "all"]}
    scopes = {scope: own for scope, own in scopes.items() if set(own) & set(groups)}
    return {
        "source": {"problem": source[0].name, "table": source[1].source.name},
        "target": {"problem": target[0].name, "table": target[1].source.name},
        "source_motifs": len(source[1]),
        "target_motifs": len(target[1]),
        "noise_ceiling": target[1].noise_ceiling(),
        "figures": {scope: _spreads(rows, own) for scope, own in scopes.items()},
        "paired": {scope: _paired(rows, own) for scope, own in scopes.items()},
        "by_group": {group: _spreads(rows, [group]) for group in scopes.get("groups", [])},
    }


def _spreads(rows: Sequence[Row], groups: Sequence[str]) -> dict[str, Any]:
    """Return the spread of every figure over some groups and all seeds, by size and method."""
    found: dict[str, Any] = {}
    for (known, method), own in _by_place(rows, groups).items():
        listed = list(own.values())
        spreads = {figure: metrics.spread([row[figure] for row in listed]) for figure in FIGURES}
        found.setdefault(str(known), {})[method] = spreads
    return found


def _by_place(
    rows: Sequence[Row], groups: Sequence[str]
) -> dict[tuple[int, str], dict[tuple[str, int], Row]]:
    """Return the rows of some groups, by size and method, and then by group and seed."""
    found: dict[tuple[int, str], dict[tuple[str, int], Row]] = {}
    for row in rows:
        if row["group"] in groups:
            place = row["known"], row["method"]
            found.setdefault(place, {})[row["group"], row["seed"]] = row
    return found


def _paired(rows: Sequence[Row], groups: Sequence[str]) -> dict[str, Any]:
    """Return how the dish differs from every rival, pair by pair of group and seed."""
    places = _by_place(rows, groups)
    found: dict[str, Any] = {}
    for known in sorted({known for known, _ in places}):
        ours = places[known, "dish"]
        rivals = {method: own for (size, method), own in places.items() if size == 0}
        rivals |= {method: own for (size, method), own in places.items() if size == known}
        del rivals["dish"]
        if known:  # and the dish that learned on the source alone
            rivals["dish_source"] = places[0, "dish"]
        found[str(known)] = {
            rival: {figure: _difference(ours, own, figure) for figure in FIGURES}
            for rival, own in rivals.items()
        }
    return found


def _difference(
    ours: Mapping[tuple[str, int], Row], theirs: Mapping[tuple[str, int], Row], figure: str
) -> dict[str, Any]:
    """Return mean, standard error and wins of paired differences; pairs without one are left out.

    The standard error takes pairs for independent, which those of one seed are not quite.
    """
    pairs = [(ours[place][figure], theirs[place][figure]) for place in ours if place in theirs]
    values = np.array([own - other for own, other in pairs])
    values = values[np.isfinite(values)]
    better = values < 0 if figure in LOWER_IS_BETTER else values > 0
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {
        "mean": float(values.mean()) if len(values) else None,
        "standard_error": files.to_json(float(error)),
        "wins": int(better.sum()),
        "losses": int(((values != 0) & ~better).sum()),
        "pairs": len(values),
    }


def _write_predictions(
    folder: RunFolder, found: Sequence[tuple[Transfer, Mapping[int, Predictions]]]
) -> None:
    """Write predictions.csv: a row for each transfer, seed, number of known truths and motif."""
    every = [own for _, seeds in found for sizes in seeds.values() for own in sizes.values()]
    columns = list(dict.fromkeys(method for own in every for method in own))
    rows = []
    for transfer, seeds in found:
        problem, target = transfer.problem, transfer.target
        groups = one_transfer.groups_of(problem, target.cells.archs)
        for seed, sizes in seeds.items():
            for known, own in sizes.items():
                bought = set(transfer.order(seed)[:known].tolist())
                for i, motif in enumerate(target.cells.names):
                    values = [f"{own[name][i]:.6g}" if name in own else "" for name in columns]
                    split = "known" if i in bought else "test"
                    place = [transfer.name, seed, known, motif, groups[i], split]
                    rows.append([*place, f"{target.scores[i]:.9g}", *values])
    header = ["transfer", "seed", "known", "motif", "group", "split", "true", *columns]
    files.write_csv(folder.path / "predictions.csv", {}, header, rows)


def _learned_dish(
    folder: RunFolder,
    transfer: Transfer,
    settings: CarryOverSettings,
    methods: Methods,
    command: str,
) -> LearnedDish:
    """Return what the first seed learned on the source of a transfer."""
    fitted = one_transfer.fit_source(folder, transfer, settings.seed, methods)
    provenance = {
        "source": transfer.source.source.name,
        "identity": transfer.source.identity,
        "motifs": len(transfer.source),
        "unit": UNIT[methods.config.targets],
        "seed": settings.seed,
        "commit": machine.commit(),
        "command": command,
    }
    return LearnedDish(fitted, transfer.source_problem.name, methods.hidden_size, provenance)

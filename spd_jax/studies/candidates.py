"""Choosing a dish's settings on motifs or tables that no reported figure uses (appendix A.1).

Candidates are given, or drawn at random from the papers' ranges. Each learns from some motifs
and predicts others, after every few outer steps. Trials keep every prediction, exams.json names
all motifs and tables that anybody saw, tuning.csv has the figures. Chosen is the candidate, with
its number of outer steps, whose mean over exams and dishes is best by a criterion.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import jax
import numpy as np

from spd_jax import dish, files, metrics
from spd_jax.dish import DishConfig, DishState
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup
from spd_jax.ground_truth.lookup import TruthTable
from spd_jax.problems import Problem
from spd_jax.studies import events, exams, machine, tuning
from spd_jax.studies import settings as settings_lib
from spd_jax.studies.exams import Exam
from spd_jax.studies.run_folder import RunFolder, logger, open_folder
from spd_jax.studies.settings import setting
from spd_jax.surrogates.dish_surrogate import DishSurrogate

COLUMNS = (
    "candidate", "exam", "draw", "outer_step", "held_out_loss", "held_out_tau", "learned_from",
    "asked",
)  # fmt: skip
RANGES = {"table_2": tuning.TABLE_2, "table_4": tuning.TABLE_4}
CRITERIA = ("tau", "loss")
LONG = 50  # letters of a candidate: longer ones are named by their digest
_READERS: dict[type, Callable[[str], Any]] = {
    int: int,
    float: float,
    str: str,
    bool: {"True": True, "False": False}.__getitem__,
}


@dataclasses.dataclass(frozen=True)
class CandidateSettings:
    """Settings of a comparison of candidates."""

    target: str = setting(
        "",
        "ground truth that the settings are for: they are chosen on the other shipped tables; "
        "unseen: on all of them; default: on tuning motifs",
    )
    tables: tuple[str, ...] = setting(
        (), "the other tables that they are chosen on, such as fashion_mnist; empty: all", free=True
    )
    exams: str = setting(
        "between",
        "what is asked with a target. between: learn from one whole table, be asked about another; "
        "within: learn from some motifs of each table, be asked about its others",
        choices=("between", "within"),
    )
    preset: str = setting("tiny", "whose tuning motifs are used, without a target")
    dish_preset: str = setting("best", "settings that candidates change", flag="dish", free=True)
    dish: DishConfig = setting(DishConfig(), "", by_preset=True)
    candidates: tuple[str, ...] = setting(
        (), "settings to compare: name=value, several joined by +", free=True
    )
    random: int = setting(20, "candidates drawn at random, beside these", at_least=0, free=True)
    ranges: str | None = setting(
        None,
        "table of the papers whose ranges they are drawn from; default: table 4 for recurrent "
        "cells, table 2 for other problems",
        choices=tuple(RANGES),
        free=True,
    )
    wider: bool = setting(
        True, "also draw gradient and targets, and inner rates of up to 1", free=True
    )
    draw_seed: int = setting(0, "decides the random candidates", at_least=0, free=True)
    criterion: str = setting(
        "tau",
        "what chooses: the largest mean held-out tau, which no outlier of the truths moves, or the "
        "smallest mean outer loss (appendix A.1)",
        choices=CRITERIA,
        free=True,
    )
    splits: int = setting(2, "splits of a table into known and asked", at_least=1, free=True)
    draws: int = setting(2, "dishes drawn for each exam", at_least=1, free=True)
    finalists: int = setting(
        0,
        "candidates that are tried with all draws, the best of those with one; 0: all of them",
        at_least=0,
        free=True,
    )
    known: int = setting(40, "motifs of a split table to learn from", at_least=2)
    steps: int = setting(16, "outer steps", at_least=0)
    every: int = setting(4, "outer steps between two looks", at_least=1)


@dataclasses.dataclass(frozen=True)
class Look:
    """What a dish said of the motifs that it did not learn from, after some outer steps.

    Attributes:
      candidate: the settings, as `name=value+name=value`.
      exam: name of what was learned from and asked.
      draw: number of the dish.
      step: outer steps taken.
      loss: outer loss, standardised scores against truth; infinite where a motif diverged.
      tau: Kendall's tau; NaN where nothing was ranked.
    """

    candidate: str
    exam: str
    draw: int
    step: int
    loss: float
    tau: float


class Choice(NamedTuple):
    """A candidate after some outer steps.

    Attributes:
      candidate: the settings, as `name=value+name=value`.
      step: outer steps taken.
      loss: mean outer loss over exams and dishes; infinite where a motif diverged.
      tau: mean Kendall's tau, -1 standing for a dish that ranked nothing.
      trials: dishes that the means are over.
    """

    candidate: str
    step: int
    loss: float
    tau: float
    trials: int


def surrogate_of(
    candidate: str, problem: Problem, settings: CandidateSettings
) -> tuple[DishSurrogate, int]:
    """Return the dish of `name=value+name=value`, and its `hidden_size`, the network's width.

    Raises:
      UserError: no such setting, or one that takes no single number or word.
    """
    config, hidden = settings.dish, problem.hidden_size
    for part in candidate.split("+"):
        name, _, text = part.partition("=")
        if name == "outer_steps":
            raise UserError("a candidate sets outer_steps, which is the same for all: set steps")
        default = hidden if name == "hidden_size" else settings_lib.to_json(config).get(name)
        try:
            value = _READERS[type(default)](text)
        except (KeyError, ValueError) as error:
            raise UserError(
                f"candidate {part!r} sets nothing: write name=value with a setting of DishConfig, "
                "or hidden_size"
            ) from error
        if name == "hidden_size":
            hidden = value
        else:
            config = dataclasses.replace(config, **{name: value})
    if config.schedule == "cosine":
        raise UserError(
            "schedule=cosine depends on the number of outer steps, which the looks choose: compare "
            "staircase or constant"
        )
    config = dataclasses.replace(config, outer_steps=settings.steps)
    dish.check(config)
    found = DishSurrogate(problem.family(hidden), config, sharding=machine.motif_sharding())
    return found, hidden


def short(candidate: str) -> str:
    """Return the name of a candidate in tables and file names: 16 hexadecimal digits if it is long.

    >>> short("init_scale=0.2")
    'init_scale=0.2'
    """
    return candidate if len(candidate) <= LONG else sha256(candidate.encode()).hexdigest()[:16]


def drawn(problem: Problem, settings: CandidateSettings) -> list[str]:
    """Return the random candidates: more of them begin with the same ones.

    Each number is rounded to three digits, and there are as many valid as train samples. The
    number of outer steps is not drawn: all of them are looked at.
    """
    own_ranges = RANGES[settings.ranges or problem.dish_ranges]
    ranges = {**own_ranges, **(tuning.WIDER if settings.wider else {})}
    del ranges["outer_steps"]
    found = []
    for number in range(settings.random):
        key = jax.random.fold_in(jax.random.key(settings.draw_seed), number)
        own = tuning.draw(key, ranges)
        own["valid_samples"] = own["train_samples"]
        if own.get("gradient") != "truncated":
            own.pop("truncation", None)
        if own.get("schedule") == "constant":
            own.pop("decay", None)
        words = (f"{x:.3g}" if isinstance(x, float) else str(x) for x in own.values())
        found.append("+".join(f"{name}={text}" for name, text in zip(own, words, strict=True)))
    return found


def run(
    problem: Problem,
    settings: CandidateSettings,
    workdir: str | os.PathLike[str],
    *,
    table: TruthTable | None = None,
    listen: events.Listener = events.ignore,
) -> list[Look]:
    """Compare the candidates, or go on with it; write exams.json and tuning.csv.

    Args:
      problem: whose dish is set up.
      settings: the candidates, and how they are compared.
      workdir: the run folder; candidates that it has seen before are kept.
      table: tuning motifs; None takes the shipped ones, or those that `target` leaves.
      listen: told what happens.

    Returns:
      Every look of this call's candidates.

    Raises:
      UserError: settings with which nothing can be compared, or a folder of another run.
    """
    settings_lib.check(settings)
    if settings.exams != "between" and not settings.target:
        raise UserError(
            f"exams={settings.exams} is about the tables beside a target, and there is none: give "
            "one, or leave exams out, since tuning motifs are always split"
        )
    tables = _tables(problem, settings) if table is None else {"given": table}
    asked = _exams(tables, settings)
    names = [*filter(None, settings.candidates), *drawn(problem, settings)]
    if not names:
        raise UserError("there are no candidates: give settings as name=value, or draw some")
    surrogates = {own: surrogate_of(own, problem, settings)[0] for own in names}
    config = {"study": "candidates", **settings_lib.described(settings)}
    config["tables"] = {name: own.identity for name, own in tables.items()}
    with open_folder(workdir, config) as folder:
        if settings.finalists and settings.draws > 1:
            looks = _all_trials(folder, surrogates, asked, settings, 1, listen)
            best = {own.candidate: None for own in _ranked(means(looks), settings.criterion)}
            finalists = list(best)[: settings.finalists]
            chosen = {name: surrogates[name] for name in finalists}
            looks = [look for look in looks if look.candidate not in chosen]
            looks += _all_trials(folder, chosen, asked, settings, settings.draws, listen)
        else:
            looks = _all_trials(folder, surrogates, asked, settings, settings.draws, listen)
        _write_log(folder)
    return looks


def _exams(tables: Mapping[str, TruthTable], settings: CandidateSettings) -> list[Exam]:
    """Return what every candidate is asked."""
    if not settings.target:
        (only,) = tables.values()
        return exams.of_splits(only, settings.known, settings.splits)
    if settings.exams == "within":
        return exams.within(tables, settings.known, settings.splits)
    return exams.of_pairs(tables)


def _all_trials(
    folder: RunFolder,
    surrogates: Mapping[str, DishSurrogate],
    asked: Sequence[Exam],
    settings: CandidateSettings,
    draws: int,
    listen: events.Listener,
) -> list[Look]:
    """Return the looks of all candidates in all exams with the first `draws` dishes."""
    trials = [  # those of one candidate in turn, since they share what was compiled
        Place(candidate, exam, draw)
        for candidate in surrogates
        for exam in asked
        for draw in range(draws)
    ]
    looks: list[Look] = []
    listen(events.Stage("trials", len(trials), note="compiling"))
    for done, place in enumerate(trials, 1):
        found = _trial(folder, surrogates[place.candidate], settings, place)
        looks += found
        best = max(found, key=lambda look: -math.inf if math.isnan(look.tau) else look.tau)
        note = f"{short(place.candidate)}, {place.exam.name}: tau {best.tau:.3f}"
        listen(events.Advanced(done, f"{note} at step {best.step}"))
    return looks


def means(looks: Sequence[Look]) -> list[Choice]:
    """Return every candidate after every number of outer steps that was looked at."""
    groups: dict[tuple[str, int], list[Look]] = {}
    for look in looks:
        groups.setdefault((look.candidate, look.step), []).append(look)
    return [
        Choice(
            candidate,
            step,
            float(np.mean([look.loss for look in own])),
            float(np.mean([-1.0 if math.isnan(look.tau) else look.tau for look in own])),
            len(own),
        )
        for (candidate, step), own in groups.items()
    ]


def choose(looks: Sequence[Look], criterion: str) -> Choice:
    """Return the best candidate that took an outer step (any, where none did).

    Candidates that were tried less often than others are left out.

    Args:
      looks: of a comparison.
      criterion: "tau" or "loss".
    """
    found = means(looks)
    most = max(own.trials for own in found)
    return _ranked([own for own in found if own.trials == most], criterion)[0]


def _ranked(found: Sequence[Choice], criterion: str) -> list[Choice]:
    """Return those that took an outer step (all, where none did), the best first."""
    found = [own for own in found if own.step > 0] or list(found)
    return sorted(found, key=lambda own: own.loss if criterion == "loss" else -own.tau)


def chosen_dish(
    choice: Choice, problem: Problem, settings: CandidateSettings
) -> tuple[DishSurrogate, int]:
    """Return the dish of a choice, with as many outer steps as it says, and its `hidden_size`."""
    found, hidden = surrogate_of(choice.candidate, problem, settings)
    config = dataclasses.replace(found.config, outer_steps=choice.step)
    return dataclasses.replace(found, config=config), hidden


def _tables(problem: Problem, settings: CandidateSettings) -> dict[str, TruthTable]:
    """Return the shipped tables that may be looked at, by name."""
    if settings.target:
        return exams.tables_beside(problem, settings.target, settings.tables)
    name = problem.ground_truth(settings.preset).tuning_table
    if not name:
        raise UserError(
            f"{problem.name} has no tuning motifs with preset {settings.preset}: give a table and "
            "the cells of it to use, or a target, or register a table of part tuning"
        )
    return {"tuning": lookup.read(lookup.shipped(name), problem.space)}


class Place(NamedTuple):
    """Which trial: a candidate, what it is judged by, and the number of its dish."""

    candidate: str
    exam: Exam
    draw: int


def _trial(
    folder: RunFolder, surrogate: DishSurrogate, settings: CandidateSettings, place: Place
) -> list[Look]:
    """Return the looks of one trial, from the folder where it holds them."""
    candidate, exam, draw = place
    name = f"trials/{short(candidate)}_{exam.name}_draw{draw}.json"
    kept = folder.read_json(name, _read_trial)
    if kept is None:
        looks = _try_out(surrogate, jax.random.key(draw), exam, settings.every)
        kept = {"candidate": candidate, "exam": exam.name, "draw": draw, "looks": looks}
        kept["seen"] = exam.described()
        folder.keep_json(name, kept)
    looks = _read_trial(kept)["looks"]
    return [Look(candidate, exam.name, draw, x["step"], _loss(x), x["tau"]) for x in looks]


def _loss(look: dict[str, Any]) -> float:
    """Return a saved look's loss; JSON has no infinity."""
    return math.inf if look["loss"] is None else float(look["loss"])


def _read_trial(content: Any) -> dict[str, Any]:
    """Return a trial, once it has all that the study reads."""
    for look in content["looks"]:
        tau = math.nan if look["tau"] is None else float(look["tau"])
        look |= {"step": int(look["step"]), "tau": tau}
        _loss(look)
    if not content["looks"]:
        raise ValueError("no looks")
    return {
        "candidate": str(content["candidate"]),
        "exam": str(content["exam"]),
        "draw": int(content["draw"]),
        "looks": content["looks"],
        "seen": {
            role: {"table": str(own["table"]), "motifs": list(map(str, own["motifs"]))}
            for role, own in content["seen"].items()
        },
    }


def _try_out(
    surrogate: DishSurrogate, key: jax.Array, exam: Exam, every: int
) -> list[dict[str, Any]]:
    """Fit to what an exam shows; return what the dish said of what it asks, by outer step."""
    truth = exam.asked.scores
    looks: list[dict[str, Any]] = []

    def look(state: DishState) -> None:
        predicted = dish.predict(
            state, surrogate.family, surrogate.config, exam.asked.cells.archs,
            sharding=surrogate.sharding,
        )  # fmt: skip
        figures = {
            "step": int(state.step),
            "loss": tuning.held_out_loss(predicted, truth),
            "tau": metrics.kendall_tau(predicted, truth),
            "predicted": predicted,
        }
        looks.append(files.to_json(figures))

    look(surrogate.start(key))
    try:
        surrogate.fit(
            key,
            exam.known.cells.archs,
            exam.known.scores,
            on_step=lambda step: look(step.state) if step.done % every == 0 else None,
        )
    except UserError as error:  # no motif's inner training is finite: a candidate that fails
        looks.append({"step": surrogate.config.outer_steps, "loss": None, "tau": None})
        logger.warning("%s", error)
    return looks


def _write_log(folder: RunFolder) -> None:
    """Write tuning.csv and exams.json: looks and motifs of every trial that the folder holds."""
    rows, shown = [], {}
    for path in sorted((folder.path / "trials").glob("[!.]*.json")):
        trial = folder.read_json(f"trials/{path.name}", _read_trial)
        if trial is None:
            continue
        shown[trial["exam"]] = trial["seen"]
        seen = [f"{len(own['motifs'])} of {own['table']}" for own in trial["seen"].values()]
        for look in trial["looks"]:
            figures = [f"{value:.4f}" for value in (_loss(look), look["tau"])]
            place = [trial["candidate"], trial["exam"], trial["draw"], look["step"]]
            rows.append([*place, *figures, *seen])
    files.write_csv(folder.path / "tuning.csv", {}, COLUMNS, rows)
    folder.write_json("exams.json", shown)

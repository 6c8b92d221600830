"""Comparing settings of a dish on motifs that no reported figure uses (appendix A.1).

Each candidate learns from some of the tuning motifs and predicts the others, after every few
outer steps. Trials keep every prediction, tuning.csv the figures; the setting to choose has
the smallest mean held-out outer loss.
"""

import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from spd_jax import archs as batches
from spd_jax import dish, files, metrics
from spd_jax.dish import DishConfig, DishState
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup
from spd_jax.ground_truth.lookup import TruthTable
from spd_jax.problems import Problem
from spd_jax.studies import events, machine, tuning
from spd_jax.studies import settings as settings_lib
from spd_jax.studies.run_folder import RunFolder, open_folder
from spd_jax.studies.settings import setting
from spd_jax.surrogates.dish_surrogate import DishSurrogate

COLUMNS = (
    "candidate", "known", "split", "draw", "outer_step", "held_out_loss", "held_out_tau",
    "learned_from",
)  # fmt: skip
_READERS: dict[type, Callable[[str], Any]] = {
    int: int,
    float: float,
    str: str,
    bool: {"True": True, "False": False}.__getitem__,
}


@dataclasses.dataclass(frozen=True)
class CandidateSettings:
    """Settings of a comparison of candidates."""

    preset: str = setting("tiny", "whose tuning motifs are used")
    dish_preset: str = setting("best", "settings that candidates change", flag="dish", free=True)
    dish: DishConfig = setting(DishConfig(), "", by_preset=True)
    candidates: tuple[str, ...] = setting(
        ("init_scale=0.2",), "settings to compare: name=value, several joined by +", free=True
    )
    splits: int = setting(2, "splits of the tuning motifs", at_least=1, free=True)
    draws: int = setting(2, "dishes drawn for each split", at_least=1, free=True)
    known: int = setting(40, "motifs to learn from", at_least=2)
    steps: int = setting(16, "outer steps", at_least=0)
    every: int = setting(4, "outer steps between two looks", at_least=1)


@dataclasses.dataclass(frozen=True)
class Look:
    """What a dish said of the motifs that it did not learn from, after some outer steps.

    Attributes:
      candidate: the settings, as `name=value+name=value`.
      split: number of the split of the tuning motifs.
      draw: number of the dish.
      step: outer steps taken.
      loss: outer loss, standardised scores against truth; infinite where a motif diverged.
      tau: Kendall's tau.
    """

    candidate: str
    split: int
    draw: int
    step: int
    loss: float
    tau: float


def surrogate_of(candidate: str, problem: Problem, settings: CandidateSettings) -> DishSurrogate:
    """Return the dish of `name=value+name=value`; `hidden_size` is the network's.

    Raises:
      UserError: no such setting, or one that takes no single number or word.
    """
    config, hidden = settings.dish, 3
    for part in candidate.split("+"):
        name, _, text = part.partition("=")
        if name == "outer_steps":
            raise UserError("a candidate sets outer_steps, which is the same for all: set steps")
        default = 3 if name == "hidden_size" else settings_lib.to_json(config).get(name)
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
    config = dataclasses.replace(config, outer_steps=settings.steps)
    dish.check(config)
    return DishSurrogate(problem.family(hidden), config, sharding=machine.motif_sharding())


def run(
    problem: Problem,
    settings: CandidateSettings,
    workdir: str | os.PathLike[str],
    *,
    listen: events.Listener = events.ignore,
) -> list[Look]:
    """Compare the candidates, or go on with it; write tuning.csv.

    Args:
      problem: whose dish is set up; it must have a tuning table.
      settings: the candidates, and how they are compared.
      workdir: the run folder; candidates that it has seen before are kept.
      listen: told what happens.

    Returns:
      Every look of this call's candidates.

    Raises:
      UserError: settings with which nothing can be compared, or a folder of another run.
    """
    settings_lib.check(settings)
    table = _tuning_table(problem, settings)
    if not any(settings.candidates):
        raise UserError("there are no candidates: give settings as name=value")
    surrogates = {own: surrogate_of(own, problem, settings) for own in settings.candidates}
    config = {"study": "candidates", "table": table.identity, **settings_lib.described(settings)}
    trials = [
        (candidate, split, draw)
        for split in range(settings.splits)
        for draw in range(settings.draws)
        for candidate in surrogates
    ]
    looks: list[Look] = []
    with open_folder(workdir, config) as folder:
        listen(events.Stage("trials", len(trials), note="compiling"))
        for done, trial in enumerate(trials, 1):
            found = _trial(folder, table, surrogates[trial[0]], settings, trial)
            looks += found
            best = min(found, key=lambda look: look.loss)
            listen(events.Advanced(done, f"{trial[0]}: loss {best.loss:.3f} at step {best.step}"))
        _write_log(folder)
    return looks


def _tuning_table(problem: Problem, settings: CandidateSettings) -> TruthTable:
    """Return the motifs to compare on; raises UserError where there are too few."""
    name = problem.ground_truth(settings.preset).tuning_table
    if not name:
        raise UserError(
            f"{problem.name} has no tuning motifs with preset {settings.preset}: buy a table of "
            "part tuning, and register it"
        )
    table = lookup.read(lookup.shipped(name), problem.space)
    if settings.known > len(table) - 2:
        raise UserError(
            f"known={settings.known} of {len(table)} tuning motifs leaves none to predict: give "
            f"at most {len(table) - 2}"
        )
    return table


def _trial(
    folder: RunFolder,
    table: TruthTable,
    surrogate: DishSurrogate,
    settings: CandidateSettings,
    trial: tuple[str, int, int],
) -> list[Look]:
    """Return the looks of one trial, from the folder where it holds them."""
    candidate, split, draw = trial
    name = f"trials/{candidate}_split{split}_draw{draw}.json"
    kept = folder.read_json(name, _read_trial)
    if kept is None:
        order = np.random.default_rng(split).permutation(len(table))
        known = np.sort(order[: settings.known])
        kept = {
            "candidate": candidate,
            "split": split,
            "draw": draw,
            "known": known.tolist(),
            "looks": _try_out(surrogate, jax.random.key(draw), table, known, settings.every),
        }
        folder.keep_json(name, kept)
    looks = _read_trial(kept)["looks"]
    return [Look(candidate, split, draw, x["step"], _loss(x), x["tau"]) for x in looks]


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
        "split": int(content["split"]),
        "draw": int(content["draw"]),
        "known": [int(i) for i in content["known"]],
        "looks": content["looks"],
    }


def _try_out(
    surrogate: DishSurrogate, key: jax.Array, table: TruthTable, known: np.ndarray, every: int
) -> list[dict[str, Any]]:
    """Fit to the known motifs; return what the dish said of the others, by outer step."""
    others = np.setdiff1d(np.arange(len(table)), known)
    archs, truth = batches.take(table.cells.archs, others), table.scores[others]
    looks: list[dict[str, Any]] = []

    def look(state: DishState) -> None:
        predicted = dish.predict(
            state, surrogate.family, surrogate.config, archs, sharding=surrogate.sharding
        )
        figures = {
            "step": int(state.step),
            "loss": tuning.held_out_loss(predicted, truth),
            "tau": metrics.kendall_tau(predicted, truth),
            "predicted": predicted,
        }
        looks.append(files.to_json(figures))

    look(surrogate.start(key))
    surrogate.fit(
        key,
        batches.take(table.cells.archs, known),
        table.scores[known],
        on_step=lambda step: look(step.state) if step.done % every == 0 else None,
    )
    return looks


def _write_log(folder: RunFolder) -> None:
    """Write tuning.csv: the looks of every trial that the folder holds."""
    rows = []
    for path in sorted((folder.path / "trials").glob("[!.]*.json")):
        trial = folder.read_json(f"trials/{path.name}", _read_trial)
        if trial is None:
            continue
        learned_from = " ".join(map(str, trial["known"]))
        for look in trial["looks"]:
            figures = [f"{value:.4f}" for value in (_loss(look), look["tau"])]
            place = [trial["candidate"], len(trial["known"]), trial["split"], trial["draw"]]
            rows.append([*place, look["step"], *figures, learned_from])
    files.write_csv(folder.path / "tuning.csv", {}, COLUMNS, rows)

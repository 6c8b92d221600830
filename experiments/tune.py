"""Choose the dish of recurrent cells on cells that no reported figure uses (appendix A.1).

Each candidate learns from 40 of the tuning cells and predicts the others, after every few
outer steps. The trials keep every prediction, tuning.csv the figures; the chosen setting has
the smallest mean held-out outer loss. Only preset `best` of experiments.rnn_cell_presets
comes from here.
"""

import csv
import dataclasses
import io
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import dish_flags
from spd_jax import files, metrics
from spd_jax.dish import DishState, OuterInfo, check, losses, predict
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup as tabular
from spd_jax.ledger import table as cell_table
from spd_jax.problems.rnn_cell import PRESETS
from spd_jax.report.progress import Progress
from spd_jax.spaces.rnn_cell import RnnCellSpace, stack
from spd_jax.spaces.rnn_cell.network import family
from spd_jax.studies import run_folder
from spd_jax.studies.run_folder import RunFolder
from spd_jax.surrogates.dish_surrogate import DishSurrogate

_DISH = flags.DEFINE_enum("dish", "best", list(PRESETS), "settings that candidates change")
_CANDIDATES = flags.DEFINE_list(
    "candidates", ["init_scale=0.2"], "settings to compare: name=value, several joined by +"
)
_SPLITS = flags.DEFINE_integer("splits", 2, "splits of the tuning cells", lower_bound=1)
_DRAWS = flags.DEFINE_integer("draws", 2, "dishes drawn for each split", lower_bound=1)
_KNOWN = flags.DEFINE_integer("known", 40, "cells to learn from", lower_bound=2)
_STEPS = flags.DEFINE_integer("steps", 16, "outer steps", lower_bound=0)
_EVERY = flags.DEFINE_integer("every", 4, "outer steps between two looks", lower_bound=1)
dish_flags.define()

LOG_COLUMNS = (
    "candidate", "known", "split", "draw", "outer_step", "held_out_loss", "held_out_tau",
    "learned_from",
)  # fmt: skip
TRIAL = r"(.+)_known(\d+)_split(\d+)_draw(\d+)"  # file name of a trial
_SWITCHES = {"True": True, "False": False}
_READERS: dict[type, Callable[[str], Any]] = {
    int: int,
    float: float,
    str: str,
    bool: _SWITCHES.__getitem__,
}


def surrogate_of(candidate: str, variant: str) -> DishSurrogate:
    """Return the dish of `name=value+name=value`; `hidden_size` is the network's.

    Raises:
      UserError: no such setting, or one that takes no single number or word.
    """
    config, hidden = dish_flags.read(PRESETS[_DISH.value]), 3
    for part in candidate.split("+"):
        name, _, text = part.partition("=")
        if name == "outer_steps":
            raise UserError("--candidates: outer_steps is the same for all: give --steps")
        kind = int if name == "hidden_size" else type(getattr(config, name, None))
        try:
            value = _READERS[kind](text)
        except (KeyError, ValueError) as error:
            raise UserError(
                f"--candidates: {part!r} sets nothing: write name=value with a setting of "
                "DishConfig, or hidden_size"
            ) from error
        if name == "hidden_size":
            hidden = int(value)
        else:
            config = dataclasses.replace(config, **{name: value})
    config = dataclasses.replace(config, outer_steps=_STEPS.value)
    check(config)
    return DishSurrogate(
        family(variant, hidden=hidden), config, sharding=run_folder.motif_sharding()
    )


def try_out(
    surrogate: DishSurrogate, key: jax.Array, cells: Any, truth: np.ndarray, known: np.ndarray
) -> list[dict[str, Any]]:
    """Fit to the known cells; return what the dish said of the others, by outer step."""
    others = np.setdiff1d(np.arange(len(truth)), known)

    def take(chosen: np.ndarray) -> Any:
        return jax.tree.map(lambda x: x[chosen], cells)

    looks: list[dict[str, Any]] = []

    def look(state: DishState) -> None:
        predicted = predict(
            state, surrogate.family, surrogate.config, take(others), sharding=surrogate.sharding
        )
        loss = losses.OUTER_LOSSES["zscored_mse"](
            jnp.asarray(predicted, jnp.float32),
            jnp.asarray(truth[others], jnp.float32),
            jnp.ones(len(others)),
        )
        looks.append(
            {
                "step": int(state.step),
                "loss": float(loss),
                "tau": metrics.kendall_tau(predicted, truth[others]),
                "predicted": [float(x) if np.isfinite(x) else None for x in predicted],
            }
        )

    def on_step(state: DishState, info: OuterInfo) -> None:
        del info
        if int(state.step) % _EVERY.value == 0:
            look(state)

    look(surrogate.start(key))
    surrogate.fit(key, take(known), truth[known], on_step=on_step)
    return looks


def main(argv: Sequence[str]) -> None:
    """Compare the candidates."""
    del argv
    path = tabular.shipped("rnn_cell_ptb_tiny_tuning")
    items = cell_table.read(path)
    variant = items[0][0].space.removeprefix("rnn_cell_")
    space = RnnCellSpace(variant)
    cells = stack([space.decode(key.cell) for key, _ in items])
    truth = np.array([evaluation.score for _, evaluation in items])
    if _KNOWN.value > len(truth) - 2:
        raise UserError(
            f"--known={_KNOWN.value} of {len(truth)} tuning cells leaves none to predict: "
            f"give at most {len(truth) - 2}"
        )
    if not any(_CANDIDATES.value):
        raise UserError("--candidates is empty: give settings as name=value")
    surrogates = {name: surrogate_of(name, variant) for name in _CANDIDATES.value}
    described = {
        "table": path.name,
        "known": _KNOWN.value,
        "base": dataclasses.asdict(dish_flags.read(PRESETS[_DISH.value])),
    }
    folder = RunFolder.open(run_folder.WORKDIR.value or "runs/rnn_cell_tuning", described)
    trials = [
        (candidate, split, draw)
        for split in range(_SPLITS.value)
        for draw in range(_DRAWS.value)
        for candidate in _CANDIDATES.value
    ]
    with Progress("trials", len(trials)) as progress:
        progress.update(0)
        for done, (candidate, split, draw) in enumerate(trials, 1):
            name = f"trials/{candidate}_known{_KNOWN.value}_split{split}_draw{draw}.json"
            surrogate = surrogates[candidate]
            settings = json.loads(json.dumps(dataclasses.asdict(surrogate.config)))
            settings |= {"every": _EVERY.value}
            trial = folder.read_json(name)
            if trial is None:
                order = np.random.default_rng(split).permutation(len(truth))
                known = np.sort(order[: _KNOWN.value])
                looks = try_out(surrogate, jax.random.key(draw), cells, truth, known)
                trial = {"known": known.tolist(), "looks": looks, "settings": settings}
                folder.write_json(name, trial)
            if trial.get("settings", settings) != settings:
                raise UserError(
                    f"{folder.path / name} was made with other settings: use another --workdir"
                )
            looks = trial["looks"]
            best = min(looks, key=lambda row: row["loss"])
            progress.update(done, f"{candidate}: loss {best['loss']:.3f} at step {best['step']}")
    report(folder)


def report(folder: RunFolder) -> None:
    """Write tuning.csv; print held-out loss and tau by candidate and step, means over trials."""
    rows: dict[tuple[str, int], list[tuple[float, float]]] = {}
    text = io.StringIO()
    log = csv.writer(text, lineterminator="\n")
    log.writerow(LOG_COLUMNS)
    for path in sorted((folder.path / "trials").glob("[!.]*.json")):
        trial = json.loads(path.read_text())
        candidate, known, split, draw = re.fullmatch(TRIAL, path.stem).groups()  # type: ignore[union-attr]
        for look in trial["looks"]:
            rows.setdefault((candidate, look["step"]), []).append((look["loss"], look["tau"]))
            figures = [f"{look[name]:.4f}" for name in ("loss", "tau")]
            learned_from = " ".join(map(str, trial["known"]))
            log.writerow([candidate, known, split, draw, look["step"], *figures, learned_from])
    files.write_text(folder.path / "tuning.csv", text.getvalue())
    for (candidate, step), values in sorted(rows.items(), key=lambda row: np.mean(row[1], 0)[0]):
        loss, tau = np.mean(values, axis=0)
        print(f"{candidate:44} step {step:3} loss {loss:.3f} tau {tau:.3f} ({len(values)} trials)")


if __name__ == "__main__":
    run_folder.run_main(main)

"""Every surrogate at equal ground truths: who ranks held-out motifs best, and at what price.

Each split of a table of ground truths hides some motifs; each surrogate is fitted on the
first 5, 10, 20, ... of the others and ranks the hidden ones. What uses no ground truth
counts as 0. Every match is kept the moment it is decided, so that a killed run goes on.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from experiments import dish_flags
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup as tabular
from spd_jax.problems.rnn_cell import PRESETS
from spd_jax.report import league
from spd_jax.spaces import rnn_cell, sigmoid_slope
from spd_jax.spaces.rnn_cell import network as rnn_cell_network
from spd_jax.studies import known_truth as problems
from spd_jax.studies import league as match
from spd_jax.studies import run_folder
from spd_jax.studies.known_truth import Problem
from spd_jax.studies.league import Everyone, Settings
from spd_jax.studies.run_folder import RunFolder
from spd_jax.surrogates.dish_surrogate import DishSurrogate

TABLES = {"rnn_cell": "rnn_cell_ptb_tiny", "sigmoid_slope": "mnist_sigmoid_slope"}

_SPACE = flags.DEFINE_enum("space", "rnn_cell", list(TABLES), "search space")
_TABLE = flags.DEFINE_string("table", None, "CSV of ground truths; default: the shipped one")
_EXCLUDE = flags.DEFINE_string(
    "exclude",
    None,
    "file that names motifs to leave out because settings were chosen on them: a CSV with a "
    "column cell, or one on each line; default: <table>_tuning.csv, where there is one",
)
_KNOWN = flags.DEFINE_list("known", ["5", "10", "20", "40", "80"], "ground truths to learn from")
_SPLITS = flags.DEFINE_integer("splits", 10, "splits of the table", lower_bound=1)
_HELD_OUT = flags.DEFINE_integer(
    "held_out", 200, "most motifs that a split predicts", lower_bound=problems.TOP
)
_SEED = flags.DEFINE_integer("seed", 0, "of splits and fits", lower_bound=0)
_SURROGATES = flags.DEFINE_list("surrogates", None, "who takes part; default: all of the space")
_PRESET = flags.DEFINE_enum(
    "preset", "best", list(PRESETS), "dish settings of recurrent cells, which flags change"
)
_HIDDEN = flags.DEFINE_integer("hidden_size", 3, "width of the dish's network", lower_bound=1)
_HELD_OUT_SHARE = flags.DEFINE_float(
    "held_out_share",
    0.0,
    f"share of the known motifs, of {match.EARLY_STOPPING_FROM} or more, that tells the dish "
    "when to stop",
    lower_bound=0.0,
    upper_bound=0.9,
)
_FOLDS = flags.DEFINE_integer(
    "stacked_folds", 2, "dishes that a stack fits besides the last", lower_bound=2
)
_PROXY_HIDDEN = flags.DEFINE_integer(
    "proxy_hidden_size", 16, "width of the network that proxies measure", lower_bound=1
)
dish_flags.define()


def read_problem() -> Problem:
    """Read the table, without the motifs that settings were chosen on."""
    given = _TABLE.value
    path = tabular.shipped(TABLES[_SPACE.value]) if given is None else pathlib.Path(given)
    problem = problems.READERS[_SPACE.value](path)
    excluded = pathlib.Path(_EXCLUDE.value) if _EXCLUDE.value else None
    if _EXCLUDE.value is None:
        log = path.with_name(f"{path.stem}_tuning.csv")
        excluded = log if log.exists() else None
    if excluded is None:
        return problem
    return problem.without(problems.read_excluded(excluded, problem.space))


def settings_of(problem: Problem) -> tuple[Settings, dict[str, Any]]:
    """Return how the surrogates are set up, and all that decides results, JSON-ready."""
    config, wide = dish_flags.read(PRESETS[_PRESET.value]), _PROXY_HIDDEN.value
    if isinstance(problem.space, rnn_cell.RnnCellSpace):
        variant = problem.space.variant
        families = [
            rnn_cell_network.family(variant, hidden=width) for width in (_HIDDEN.value, wide)
        ]
    else:
        families = [sigmoid_slope.family(hidden=width) for width in (_HIDDEN.value, wide)]
    share = _HELD_OUT_SHARE.value
    dish = DishSurrogate(families[0], config, share, run_folder.motif_sharding())
    described = {
        "space": _SPACE.value,
        "problem": problem.identity,
        "known": known_counts(),
        "splits": _SPLITS.value,
        "held_out": _HELD_OUT.value,
        "seed": _SEED.value,
        "preset": _PRESET.value,
        "hidden_size": _HIDDEN.value,
        "held_out_share": share,
        "stacked_folds": _FOLDS.value,
        "proxy_hidden_size": wide,
        "dish": dataclasses.asdict(config),
    }
    return Settings(dish, families[1], wide**-0.5, _FOLDS.value), described


def known_counts() -> list[int]:
    """Return the numbers of --known, ascending."""
    try:
        counts = sorted({int(word) for word in _KNOWN.value})
    except ValueError:
        counts = []
    if not counts or counts[0] < 3:
        raise UserError(
            f"--known={','.join(_KNOWN.value)}: give whole numbers of 3 or more, "
            "separated by commas"
        )
    return counts


def line_up(problem: Problem, settings: Settings) -> Everyone:
    """Return who takes part, by name and number of known ground truths."""
    everyone = {(n, 0): s for n, s in match.without_truth(problem, settings).items()}
    for known in known_counts():
        entries = match.learners(problem, settings, known)
        everyone |= {(name, known): surrogate for name, surrogate in entries.items()}
    names = list(dict.fromkeys(name for name, _ in everyone))
    asked = names if _SURROGATES.value is None else _SURROGATES.value
    if not asked or not set(asked) <= set(names):
        raise UserError(f"--surrogates={','.join(asked)}: give some of {','.join(names)}")
    return {place: surrogate for place, surrogate in everyone.items() if place[0] in asked}


def main(argv: Sequence[str]) -> None:
    """Run the comparison."""
    del argv
    problem = read_problem()
    settings, config = settings_of(problem)
    splits = problems.draw_splits(
        problem, _SEED.value, _SPLITS.value, known=known_counts(), held_out=_HELD_OUT.value
    )
    everyone = line_up(problem, settings)
    workdir = run_folder.WORKDIR.value or f"runs/compare_surrogates_{_SPACE.value}"
    folder = RunFolder.open(workdir, config, may_grow=("splits",))
    drawn = [
        {part: [problem.names[i] for i in getattr(split, part)] for part in split._fields}
        for split in splits
    ]
    folder.write_json("splits.json", drawn)
    rows = match.rows_of(match.play(folder, problem, splits, everyone, _SEED.value))
    summary = match.summarise(problem, rows, everyone, config)
    match.write_csv(folder.path / "league.csv", rows)
    folder.write_json("summary.json", summary)
    ceiling = summary["noise_ceiling"]["kendall_tau"]
    print(league.tables(rows, ceiling=ceiling))
    if ceiling is None:
        print("no noise ceiling: the table has fewer than 3 motifs with 3 seeds")
    league.draw(folder.path / "league.png", rows, ceiling=ceiling)
    print(f"wrote summary.json, league.csv, league.png and splits.json in {folder.path}")


if __name__ == "__main__":
    run_folder.run_main(main)

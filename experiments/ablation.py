"""What a dish needs in order to rank: one setting at a time is changed."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import flags

from experiments import launch
from spd_jax import problems
from spd_jax.dish import DishConfig
from spd_jax.ground_truth import lookup
from spd_jax.ground_truth.lookup import TruthTable
from spd_jax.problems import Problem, sigmoid_slope
from spd_jax.report import ablation as report
from spd_jax.report.display import Display
from spd_jax.studies import dish_ablation, league
from spd_jax.studies.dish_ablation import Ask, DishAblationSettings, Variant
from spd_jax.studies.settings import setting


@dataclasses.dataclass(frozen=True)
class DishAblation(DishAblationSettings):
    """Settings of the ablation, with where its ground truths come from."""

    problem: str = setting("sigmoid_slope", "whose dish is taken apart", free=True)
    table: str | None = setting(
        None,
        "CSV of ground truths to ask about; default: the first shipped one, without the motifs "
        "that settings were chosen on",
        free=True,
    )
    source: str | None = setting(
        "fashion_mnist",
        "slopes: the table to learn from, a CSV or the data set of a shipped one; "
        '"interval" learns on the training interval of the table that is asked about',
        free=True,
    )


BASES: dict[str, dict[str, Any]] = {
    # Few outer steps at a bold rate: five seeds of all rows take a quarter of an hour.
    "sigmoid_slope": {
        "dish": DishConfig(
            inner_steps=200, outer_steps=20, ensemble_size=3, targets="ranks",
            schedule="constant", inner_learning_rate=0.03, outer_learning_rate=0.1,
        ),
        "known": 20,
    },
    "rnn_cell": {"dish": problems.get("rnn_cell").dish_presets["best"]},
}  # fmt: skip
# Widths of the motif-network that each preset chooses from, where a problem says so.
WIDTHS = {"sigmoid_slope": {name: widths for name, (widths, _) in sigmoid_slope.CANDIDATES.items()}}


def presets_of(problem: Problem) -> dict[str, dict[str, Any]]:
    """Return what the bases of a problem decide: ours, reduced, and its presets at full size."""
    own: dict[str, Any] = {"hidden_size": problem.hidden_size, "known": 40}
    reduced = {"dish": problem.dish_presets["best"]} | BASES.get(problem.name, {})
    found = {"reduced": own | reduced}
    for name, dish in problem.dish_presets.items():
        found[name] = own | {"dish": dish, "hidden_size": _widths(problem, name)[0]}
    return found


def _widths(problem: Problem, preset: str) -> tuple[int, ...]:
    """Return the widths that a preset chooses from; an ablation takes the first."""
    return WIDTHS.get(problem.name, {}).get(preset, (problem.hidden_size,))


launch.define(DishAblation, presets_of(problems.get("sigmoid_slope")))


def question_of(problem: Problem, settings: DishAblation) -> tuple[Ask, dict[str, Any]]:
    """Return what every seed is asked, and plain data that decide it."""
    if settings.table is None:
        table = league.shipped_table(problem)
    else:
        table = problem.truth_table(pathlib.Path(settings.table))
    about: dict[str, Any] = {"table": table.identity, "table_name": table.source.name}
    if problem.name != "sigmoid_slope":
        part = {"part": "the better half of the held-out motifs"}
        return dish_ablation.ask_of_cells(table, settings), about | part
    source = source_of(problem, settings.source)
    about |= {
        "source": None if source is None else source.identity,
        "source_name": "interval" if source is None else source.source.name,
        "part": f"slopes below {settings.train_slope_min:g}",
    }
    return dish_ablation.ask_of_slopes(table, source, settings), about


def source_of(problem: Problem, given: str | None) -> TruthTable | None:
    """Return the table to learn from; None: the one that is asked about."""
    if given in (None, "interval"):
        return None
    known = problem.ground_truths.get(str(given))
    path = lookup.shipped(known.table) if known and known.table else pathlib.Path(str(given))
    return lookup.read(path, problem.space)


def check_used(problem: Problem, settings: DishAblation) -> None:
    """Refuse a flag that was given and would decide nothing."""
    slopes = problem.name == "sigmoid_slope"
    other = slopes and settings.source not in (None, "interval")
    launch.refuse_without_effect({
        ("source", "train_slope_min"): (not slopes, "it is about slopes: leave it out"),
        ("train_slope_max",): (
            not slopes or other, "no slopes of one interval are learned from: leave it out",
        ),
        ("held_out",): (slopes, "all other slopes are asked about: leave it out"),
    })  # fmt: skip


def full_size(problem: Problem) -> Mapping[str, Variant]:
    """Return the presets of a problem as rows, each with the first of its widths."""
    found = {}
    for name, config in problem.dish_presets.items():
        width, *others = _widths(problem, name)
        words = f"preset {name}, {width} wide"
        if others:
            words += f" (it also chooses from {', '.join(map(str, others))})"
        found[name] = Variant(words, config, width)
    return found


def main() -> None:
    """Run the ablation."""
    problem = problems.get(flags.FLAGS.problem)
    settings = launch.read(DishAblation, presets_of(problem), "preset")
    check_used(problem, settings)
    ask, about = question_of(problem, settings)
    words = f"{problem.name}, {about['table_name']}: one setting changed at a time\n"
    if "source_name" in about:
        words += f"learned from {settings.known} slopes of {about['source_name']}"
    else:
        words += f"learned from {settings.known} motifs"
    with Display() as display:
        found = dish_ablation.run(
            problem, settings, launch.workdir(f"runs/ablation_{problem.name}"), ask=ask,
            about=about, words=words, full_size=full_size(problem), listen=display,
        )  # fmt: skip
    print(report.results(found))
    print("wrote " + ", ".join(map(str, report.draw(found))))


if __name__ == "__main__":
    launch.run_main(main)

"""Choose settings of a dish on motifs or tables that no reported figure uses (appendix A.1)."""

import dataclasses

from absl import flags

from experiments import launch
from spd_jax import problems
from spd_jax.dish import DishConfig
from spd_jax.errors import UserError
from spd_jax.ground_truth.lookup import TruthTable
from spd_jax.problems import Problem
from spd_jax.report.display import Display
from spd_jax.report.tables import candidates_table
from spd_jax.studies import candidates, league
from spd_jax.studies.candidates import CandidateSettings
from spd_jax.studies.settings import setting, to_json
from spd_jax.surrogates.dish_surrogate import DishSurrogate


@dataclasses.dataclass(frozen=True)
class Tune(CandidateSettings):
    """Settings of the comparison, with the problem."""

    problem: str = setting("rnn_cell", "whose dish is set up", free=True)
    table: str | None = setting(
        None, "CSV of ground truths, or a table in a format of others, to tune on", free=True
    )
    ground_truth: str = setting("", "which scores of a table in a format of others", free=True)
    cells: str | None = setting(
        None,
        "file that names the motifs of the table to tune on: a CSV with a column cell, or one on "
        "each line",
        free=True,
    )


def presets_of(problem: Problem) -> dict[str, dict[str, DishConfig]]:
    """Return what the presets of a problem's dish decide."""
    return {name: {"dish": dish} for name, dish in problem.dish_presets.items()}


launch.define(Tune, presets_of(problems.get("rnn_cell")))


def check_used(settings: Tune) -> None:
    """Refuse a flag that was given and would decide nothing."""
    pairs = bool(settings.target) and settings.exams == "between"
    launch.refuse_without_effect({
        ("outer_steps",): (True, "the looks choose outer steps: give --steps and --every"),
        ("preset",): (
            bool(settings.target or settings.table),
            "the motifs are those of other tables: leave it out, or --target and --table",
        ),
        ("known", "splits"): (pairs, "whole tables are asked about: add --exams=within"),
        ("ground_truth",): (settings.table is None, "it is about a table: give --table, too"),
        ("ranges", "wider", "draw_seed"): (
            not settings.random, "nothing is drawn at random: let --random be at least 1",
        ),
        ("tables",): (not settings.target, "it is about a target: give --target, too"),
        ("finalists",): (
            settings.draws == 1, "all candidates have one draw: let --draws be at least 2",
        ),
    })  # fmt: skip


def table_of(problem: Problem, settings: Tune) -> TruthTable | None:
    """Return the table that was given, cut to the motifs that were named."""
    if settings.table is None:
        if settings.cells is not None:
            raise UserError("--cells without --table: give the table that they are in")
        return None
    if settings.cells is None or settings.target:
        raise UserError("--table needs --cells, which name the motifs to tune on, and no --target")
    table = problem.truth_table(settings.table, settings.ground_truth)
    named = league.read_excluded(settings.cells, problem)
    return table.take([i for i, name in enumerate(table.cells.names) if name in named])


def as_flags(chosen: DishSurrogate, hidden_size: int) -> str:
    """Return a dish as flags and as a `DishConfig(...)`: what differs from its defaults."""
    defaults, values = to_json(DishConfig()), to_json(chosen.config)
    differ = {name: value for name, value in values.items() if value != defaults[name]}
    flag_of = {name: launch.RENAMED.get(name, name) for name in differ}
    words = [f"--hidden_size={hidden_size}"]
    words += [f"--{flag_of[name]}={value}" for name, value in differ.items()]
    python = ", ".join(f"{name}={value!r}" for name, value in differ.items())
    return f"{' '.join(words)}\nhidden size {hidden_size}, DishConfig({python})"


def main() -> None:
    """Compare the candidates, and print the chosen one."""
    problem = problems.get(flags.FLAGS.problem)
    settings = launch.read(Tune, presets_of(problem), "dish_preset")
    check_used(settings)
    part = f"_{settings.target}" if settings.target else ""
    workdir = launch.workdir(f"runs/tune_{problem.name}{part}")
    with Display() as display:
        looks = candidates.run(
            problem, settings, workdir, table=table_of(problem, settings), listen=display
        )
    print(candidates_table(looks, settings.criterion))
    choice = candidates.choose(looks, settings.criterion)
    surrogate, hidden_size = candidates.chosen_dish(choice, problem, settings)
    print(f"chosen by {settings.criterion}:\n{as_flags(surrogate, hidden_size)}")
    print(f"wrote {workdir / 'tuning.csv'}, {workdir / 'exams.json'}")


if __name__ == "__main__":
    launch.run_main(main)

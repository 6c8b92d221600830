"""Every surrogate at equal ground truths: who ranks held-out motifs best, and at what price."""

import dataclasses
import pathlib
from collections.abc import Callable

from absl import flags

from experiments import launch
from spd_jax import problems
from spd_jax.ground_truth.lookup import TruthTable
from spd_jax.ledger import table as ledger_table
from spd_jax.problems import Problem
from spd_jax.report import league as report
from spd_jax.report.display import Display
from spd_jax.studies import league
from spd_jax.studies.league import LeagueSettings
from spd_jax.studies.settings import setting
from spd_jax.surrogates.dish_surrogate import DishSurrogate
from spd_jax.surrogates.protocol import Surrogate


@dataclasses.dataclass(frozen=True)
class CompareSurrogates(LeagueSettings):
    """Settings of the league, with where its ground truths come from."""

    space: str = setting("rnn_cell", "problem whose motifs are ranked", free=True)
    table: str | None = setting(
        None,
        "CSV of ground truths, or a table in a format of others; default: the shipped one",
        free=True,
    )
    ground_truth: str = setting(
        "",
        "which scores of a table in a format of others; default: the first that the problem has",
        free=True,
    )
    exclude: str | None = setting(
        None,
        "file that names motifs to leave out because settings were chosen on them: a CSV with a "
        "column cell, or one on each line; default: <table>_tuning.csv, where there is one",
        free=True,
    )


launch.define(CompareSurrogates, launch.every_dish_preset())


def problem_and_table(
    space: str, given: str | None, exclude: str | None, ground_truth: str = ""
) -> tuple[Problem, TruthTable]:
    """Return what is compared, without the motifs that settings were chosen on."""
    problem = problems.get(space)
    if given is None:
        return problem, league.shipped_table(problem)
    path = pathlib.Path(given)
    own = problem.read_table is None or ledger_table.is_table(path)
    spaces = {key.space for key, _ in ledger_table.read(path)} - {""} if own else set()
    if spaces and spaces != {problem.space.name}:
        problem = problems.of_space(sorted(spaces)[0])
    table = problem.truth_table(path, ground_truth)
    beside = path.with_name(f"{path.stem}_tuning.csv")
    excluded = exclude or (str(beside) if beside.exists() else None)
    return problem, table.without(
        league.read_excluded(excluded, problem) if excluded is not None else set()
    )


def faces() -> dict[str, Callable[[DishSurrogate], Surrogate]]:
    """Return the dish as scikit-learn calls it, where scikit-learn is installed."""
    try:
        from spd_jax.adapters.sklearn import ThroughRegressor
    except ModuleNotFoundError:
        return {}
    return {"dish_sklearn": ThroughRegressor}


def main() -> None:
    """Run the comparison."""
    given = flags.FLAGS
    problem, table = problem_and_table(given.space, given.table, given.exclude, given.ground_truth)
    settings = launch.read(CompareSurrogates, launch.dish_presets(problem), "dish_preset")
    workdir = launch.workdir(f"runs/compare_surrogates_{settings.space}")
    with Display() as display:
        found = league.run(problem, table, settings, workdir, listen=display, faces=faces())
    print(report.results(found))
    print("wrote " + ", ".join(map(str, report.draw(found))))


if __name__ == "__main__":
    launch.run_main(main)

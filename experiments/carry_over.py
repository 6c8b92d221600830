"""A dish that learned on one table of ground truth predicts another, and goes on with a few truths.

`--source` and `--target` are names of shipped tables or paths of tables of your own: slopes of
another data set, cells on another text, or kinds of activation that the source lacks
(`--groups=new`).
"""

import dataclasses
import pathlib
import shlex
import sys

from absl import flags

from experiments import launch
from spd_jax import problems
from spd_jax.errors import UserError
from spd_jax.files import atomic_path
from spd_jax.ground_truth import lookup
from spd_jax.ground_truth.lookup import TruthTable
from spd_jax.ledger import table as ledger_table
from spd_jax.problems import Problem, sigmoid_slope
from spd_jax.report import carry_over as report
from spd_jax.report.display import Display
from spd_jax.studies import carry_over
from spd_jax.studies.carry_over import CarryOverSettings
from spd_jax.studies.settings import setting

LOCAL = ("--workdir", "--ship", "--cpu_devices")  # flags that decide no result


@dataclasses.dataclass(frozen=True)
class CarryOver(CarryOverSettings):
    """Settings of a carry-over, with its two tables."""

    source: str = setting(
        "fashion_mnist_sigmoid_slope", "table to learn from: a name, or a CSV", free=True
    )
    target: str = setting("mnist_sigmoid_slope", "table to predict: likewise", free=True)
    preset: str = setting(
        "",
        "settings of the dish, which flags change; default: carried for slopes and kinds of "
        "activation, best for other problems",
    )
    space: str = setting(
        "sigmoid_slope", "problem of a table that does not say whose motifs it holds", free=True
    )
    ship: str | None = setting(
        None, "file to write the first seed's learned dish to, besides", free=True
    )


# Of problems of slopes; the default of all others is "best".
DEFAULT_PRESETS = {"sigmoid_slope": "carried", "activation_slope": "carried"}
MORE_STEPS = 20  # on source and target together, where the preset has as many


def presets_of(problem: Problem) -> dict[str, dict[str, object]]:
    """Return what the presets decide: those of a problem's dish, and the one to carry over."""
    presets = {"carried": sigmoid_slope.CARRIED, **problem.dish_presets}
    return {
        name: {"dish": dish, "more_steps": min(MORE_STEPS, dish.outer_steps)}
        for name, dish in presets.items()
    }


launch.define(CarryOver, presets_of(problems.get("rnn_cell")))


def problem_and_table(given: str, space: str) -> tuple[Problem, TruthTable]:
    """Return a table of ground truth and the problem of its motifs.

    Args:
      given: path of a CSV, or name of a shipped table.
      space: problem of a table that names no space.

    Raises:
      UserError: no such table, or one of another space.
    """
    path = pathlib.Path(given)
    path = path if path.suffix else lookup.shipped(given)
    problem = problems.get(space)
    if problem.read_table is None or ledger_table.is_table(path):
        spaces = {key.space for key, _ in ledger_table.read(path)} - {""}
        if spaces and spaces != {problem.space.name}:
            problem = problems.of_space(min(spaces))
    return problem, problem.truth_table(path)


def command() -> str:
    """Return the command that asks for this run, without what decides no result."""
    given = [word for word in sys.argv[1:] if not word.startswith(LOCAL)]
    return shlex.join(["python", "-m", "experiments.carry_over", *given])


def main() -> None:
    """Run the experiment."""
    given = flags.FLAGS
    source = problem_and_table(given.source, given.space)
    target = problem_and_table(given.target, given.space)
    default = DEFAULT_PRESETS.get(target[0].name, "best")
    settings = launch.read(CarryOver, presets_of(target[0]), "preset", default_preset=default)
    if settings.ship is not None and not settings.ship.endswith(".npz"):
        raise UserError(f"--ship={settings.ship} must end in .npz")
    workdir = launch.workdir("runs/carry_over")
    with Display() as display:
        found = carry_over.run(source, target, settings, workdir, command=command(), listen=display)
    print(report.results(found))
    written = [workdir / "carry_over.csv", workdir / "summary.json", *report.draw(found)]
    if settings.ship is not None:
        with atomic_path(settings.ship) as temporary:
            temporary.write_bytes((workdir / "learned_dish.npz").read_bytes())
        written.append(pathlib.Path(settings.ship))
    print("wrote " + ", ".join(map(str, written)))


if __name__ == "__main__":
    launch.run_main(main)

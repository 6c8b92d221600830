"""Compare settings of a dish on motifs that no reported figure uses (appendix A.1)."""

import dataclasses

from absl import flags

from experiments import launch
from spd_jax import problems
from spd_jax.dish import DishConfig
from spd_jax.problems import Problem
from spd_jax.report.display import Display
from spd_jax.report.tables import candidates_table
from spd_jax.studies import candidates
from spd_jax.studies.candidates import CandidateSettings
from spd_jax.studies.settings import setting


@dataclasses.dataclass(frozen=True)
class Tune(CandidateSettings):
    """Settings of the comparison, with the problem."""

    problem: str = setting("rnn_cell", "whose dish is set up", free=True)


def presets_of(problem: Problem) -> dict[str, dict[str, DishConfig]]:
    """Return what the presets of a problem's dish decide."""
    return {name: {"dish": dish} for name, dish in problem.dish_presets.items()}


launch.define(Tune, presets_of(problems.get("rnn_cell")))


def main() -> None:
    """Compare the candidates."""
    problem = problems.get(flags.FLAGS.problem)
    settings = launch.read(Tune, presets_of(problem), "dish_preset")
    workdir = launch.workdir(f"runs/tune_{problem.name}")
    with Display() as display:
        looks = candidates.run(problem, settings, workdir, listen=display)
    print(candidates_table(looks))
    print(f"wrote {workdir / 'tuning.csv'}")


if __name__ == "__main__":
    launch.run_main(main)

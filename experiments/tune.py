"""Compare settings of a dish on motifs that no reported figure uses (appendix A.1)."""

import dataclasses

from experiments import launch
from spd_jax import problems
from spd_jax.report.display import Display
from spd_jax.report.tables import candidates_table
from spd_jax.studies import candidates
from spd_jax.studies.candidates import CandidateSettings
from spd_jax.studies.settings import setting


@dataclasses.dataclass(frozen=True)
class Tune(CandidateSettings):
    """Settings of the comparison, with the problem."""

    problem: str = setting("rnn_cell", "whose dish is set up", free=True)


PRESETS = {name: {"dish": dish} for name, dish in problems.get("rnn_cell").dish_presets.items()}
launch.define(Tune, PRESETS)


def main() -> None:
    """Compare the candidates."""
    settings = launch.read(Tune, PRESETS, "dish_preset")
    problem = problems.get(settings.problem)
    workdir = launch.workdir(f"runs/tune_{problem.name}")
    with Display() as display:
        looks = candidates.run(problem, settings, workdir, listen=display)
    print(candidates_table(looks))
    print(f"wrote {workdir / 'tuning.csv'}")


if __name__ == "__main__":
    launch.run_main(main)

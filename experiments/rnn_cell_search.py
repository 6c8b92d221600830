"""Recurrent-cell search on a language model (Rawal et al., section 4.2, Algorithm 1, figure 3).

Every method spends the same number of ground truths; the methods of one run share its warm
start. Without --data_dir the recorded runs are replayed.
"""

import dataclasses

from experiments import cost_function, launch
from spd_jax.errors import UserError
from spd_jax.problems import rnn_cell
from spd_jax.report import search as report
from spd_jax.report.display import Display
from spd_jax.spaces.rnn_cell import VARIANTS
from spd_jax.studies import search_comparison
from spd_jax.studies.search_comparison import Comparison
from spd_jax.studies.searches import SearchSettings
from spd_jax.studies.settings import setting


@dataclasses.dataclass(frozen=True)
class RnnCellSearch(SearchSettings, launch.Evaluations):
    """Settings of the comparison, with the cell's own."""

    variant: str = setting(rnn_cell.VARIANT, "variant of the cell", choices=VARIANTS)
    mutation_rate: float = setting(
        0.1, "probability that a locus mutates (the paper's is lost)", at_least=0, at_most=1
    )
    data_dir: str | None = setting(
        None,
        'folder of the text, or "download" for the Penn Treebank; default: replay the recorded '
        "runs",
        free=True,
    )
    history: str | None = setting(
        None, 'history.csv to replay, or "shipped"; default: the shipped one', free=True
    )


PRESETS = {name: {"dish": dish} for name, dish in rnn_cell.DISH_PRESETS.items()}
launch.define(RnnCellSearch, PRESETS)


def search_or_replay(settings: RnnCellSearch) -> Comparison:
    """Return the comparison that the settings ask for."""
    problem = rnn_cell.problem(settings.variant, settings.mutation_rate)
    own_cost = cost_function.read(settings.cost)
    data_dir = "" if settings.data_dir is None else launch.folder_of_data(settings.data_dir)
    replays = settings.data_dir is None or settings.history is not None
    if replays and data_dir != "" and not settings.fresh_seeds:
        raise UserError(
            "--history replays and --data_dir searches anew: give one of them, or --fresh_seeds to "
            "train the best cells of recorded searches anew"
        )
    if not replays:
        search_comparison.check(
            problem, settings, workers=settings.trained_by, time_limit=settings.time_limit,
            own_cost=own_cost,
        )  # fmt: skip
    if data_dir != "":
        print(problem.ground_truth(settings.preset).describe(data_dir))
    with Display() as display:
        if not replays:
            return search_comparison.run(
                problem,
                settings,
                launch.workdir("runs/rnn_cell_search"),
                data_dir=data_dir,
                workers=settings.trained_by,
                time_limit=settings.time_limit,
                listen=display,
                own_cost=own_cost,
            )
        what = "only best cells are trained" if data_dir != "" else "nothing is trained"
        print(f"replaying recorded runs: {what}; --data_dir alone searches anew")
        return search_comparison.replay(
            problem,
            settings,
            launch.workdir("runs/rnn_cell_search_replay"),
            history=None if settings.history == "shipped" else settings.history,
            data_dir=data_dir,
            workers=settings.trained_by,
            time_limit=settings.time_limit,
            listen=display,
            own_cost=own_cost,
        )


def main() -> None:
    """Search, or replay."""
    settings = launch.read(RnnCellSearch, PRESETS, "dish_preset")
    comparison = search_or_replay(settings)
    print(report.results(comparison.summary))
    print("wrote " + ", ".join(map(str, report.draw(comparison))))


if __name__ == "__main__":
    launch.run_main(main)

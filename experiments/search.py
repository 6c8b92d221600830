"""Algorithm 1 on any problem: every proposer and ranker, at equal ground truths."""

import dataclasses

from absl import flags

from experiments import cost_function, launch
from spd_jax import problems
from spd_jax.report import search as report
from spd_jax.report.display import Display
from spd_jax.studies import search_comparison
from spd_jax.studies.searches import SearchSettings
from spd_jax.studies.settings import setting


@dataclasses.dataclass(frozen=True)
class Search(SearchSettings, launch.Evaluations):
    """Settings of the comparison, with the problem and where its data come from."""

    space: str = setting("nasbench201", "problem that is searched", free=True)
    preset: str = setting("", "ground truth of a cell; default: the first that the problem has")
    data_dir: str = setting(
        "download",
        'folder of the data, or "download"; where the ground truth is looked up, path of the table',
        free=True,
    )


launch.define(Search, launch.every_dish_preset())


def main() -> None:
    """Run the comparison."""
    problem = problems.get(flags.FLAGS.space)
    settings = launch.read(Search, launch.dish_presets(problem), "dish_preset")
    first = next(iter(problem.ground_truths))
    settings = dataclasses.replace(settings, preset=settings.preset or first)
    data_dir = launch.folder_of_data(settings.data_dir)
    own_cost = cost_function.read(settings.cost)
    search_comparison.check(
        problem, settings, workers=settings.trained_by, time_limit=settings.time_limit,
        own_cost=own_cost,
    )  # fmt: skip
    described = problem.ground_truth(settings.preset).describe(data_dir)
    if described:
        print(described)
    with Display() as display:
        comparison = search_comparison.run(
            problem,
            settings,
            launch.workdir(f"runs/search_{settings.space}"),
            data_dir=data_dir,
            workers=settings.trained_by,
            time_limit=settings.time_limit,
            listen=display,
            own_cost=own_cost,
        )
    print(report.results(comparison.summary))
    print("wrote " + ", ".join(map(str, report.draw(comparison))))


if __name__ == "__main__":
    launch.run_main(main)

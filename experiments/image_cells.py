"""The image-cells experiment (Cassimon et al.): does a dish rank convolutional cells?"""

import dataclasses
import functools
import pathlib
from types import ModuleType
from typing import Any

from absl import flags

from experiments import launch
from spd_jax.errors import UserError
from spd_jax.ground_truth.lookup import TruthTable
from spd_jax.problems import Problem, nasbench101, nasbench201
from spd_jax.report import ablation as ablation_report
from spd_jax.report import image_cells as report
from spd_jax.report.display import Display
from spd_jax.spaces.image_network import MOTIF_NETWORKS
from spd_jax.studies import image_ablation, image_cells, league
from spd_jax.studies.image_ablation import AblationSettings
from spd_jax.studies.settings import setting

PROBLEMS: dict[str, ModuleType] = {"nasbench201": nasbench201, "nasbench101": nasbench101}


@dataclasses.dataclass(frozen=True)
class ImageCells(AblationSettings):
    """Settings of the experiment and of its ablation, with where the ground truths come from."""

    space: str = setting("nasbench201", "benchmark of the cells", choices=tuple(PROBLEMS))
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
    ablation: bool = setting(
        False, "remove one suspect at a time from the paper's settings, instead", free=True
    )


def presets_of(space: str) -> dict[str, dict[str, Any]]:
    """Return what the presets of a benchmark's cells decide."""
    dishes = PROBLEMS[space].DISH_PRESETS
    paper = {"dish": dishes["paper"], "stem": 0, "image_size": 16, "num_train": 1020}
    # The paper's in a form that two cores run within hours.
    reduced = {
        "dish": dataclasses.replace(dishes["paper"], outer_steps=30),
        "stem": 4,
        "image_size": 8,
        "num_train": 180,
    }
    best = {"dish": dishes["best"], "stem": 8, "image_size": 4, "num_train": 40}
    return {"best": best, "paper": paper, "reduced": reduced}


launch.define(
    ImageCells,
    {f"{space} {name}": preset for space in PROBLEMS for name, preset in presets_of(space).items()},
)


def problem_of(settings: ImageCells) -> Problem:
    """Return the problem with the motif-network of the settings."""
    stem = settings.stem or MOTIF_NETWORKS[settings.motif_network].stem
    problem: Problem = PROBLEMS[settings.space].problem(
        settings.motif_network, stem, settings.image_size
    )
    return problem


def table_of(problem: Problem, settings: ImageCells, ground_truth: str) -> TruthTable:
    """Return the table of ground truths that was asked for, or the one that ships."""
    if settings.table is None:
        return league.shipped_table(problem)
    return problem.truth_table(pathlib.Path(settings.table), ground_truth)


def main() -> None:
    """Run the experiment, or its ablation."""
    settings = launch.read(ImageCells, presets_of(flags.FLAGS.space), "preset")
    problem = problem_of(settings)
    table = table_of(problem, settings, settings.ground_truth)
    if settings.ablation:
        ablate(problem, table, settings)
        return
    network = PROBLEMS[settings.space].network
    parameters = {
        name: functools.partial(network.parameters, MOTIF_NETWORKS[name]) for name in ("A", "B")
    }
    workdir = launch.workdir(f"runs/image_cells_{settings.space}")
    with Display() as display:
        found = image_cells.run(
            problem, table, settings, workdir, parameters=parameters, listen=display
        )
    print(report.results(found.summary))
    print("wrote " + ", ".join(map(str, [workdir / "summary.json", *report.draw(found)])))


def ablate(problem: Problem, table: TruthTable, settings: ImageCells) -> None:
    """Run the ablation."""
    if settings.preset == "best":
        raise UserError(
            "--ablation removes suspects from the paper's settings: add --preset=reduced, or paper"
        )
    workdir = launch.workdir(f"runs/image_ablation_{settings.space}")
    with Display() as display:
        found = image_ablation.run(
            problem,
            table,
            settings,
            workdir,
            problem_of=lambda **changes: problem_of(dataclasses.replace(settings, **changes)),
            table_of=functools.partial(table_of, problem, settings),
            listen=display,
        )
    print(ablation_report.results(found))
    print("wrote " + ", ".join(map(str, ablation_report.draw(found))))


if __name__ == "__main__":
    launch.run_main(main)

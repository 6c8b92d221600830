"""The sigmoid-slope experiment (Rawal et al., section 4.1): a peak that nobody was shown."""

import dataclasses
import pathlib
from typing import Any

from absl import flags

from experiments import launch
from spd_jax.data import images
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup
from spd_jax.ground_truth.lookup import TruthTable
from spd_jax.problems import sigmoid_slope
from spd_jax.report import extrapolation as report
from spd_jax.report.display import Display
from spd_jax.spaces.sigmoid_slope import table_slopes
from spd_jax.studies import extrapolation
from spd_jax.studies.extrapolation import ComputedTable, ExtrapolationSettings
from spd_jax.studies.settings import setting


@dataclasses.dataclass(frozen=True)
class SigmoidSlope(ExtrapolationSettings):
    """Settings of the experiment, with where its ground truth comes from."""

    use_bias: bool = setting(True, "biases in the motif-network")
    ground_truth: str | None = setting(
        None, "CSV with columns cell (the slope), score and optionally seed; default: shipped",
        free=True,
    )  # fmt: skip
    source: str = setting(
        "",
        "learn from all of another table instead: a data set whose table is shipped, or a CSV; "
        "none: from the training interval of this one",
        free=True,
        by_preset=True,
    )
    compute_ground_truth: bool = setting(False, "train the ground truth anew, first", free=True)
    dataset: str = setting(
        "mnist", "data set of the ground truth", choices=images.NAMES, free=True, by_preset=True
    )
    data_dir: str = setting("download", 'folder of its files, or "download"', free=True)
    ground_truth_seeds: int = setting(2, "runs per slope", at_least=1, free=True)
    ground_truth_epochs: int | None = setting(
        None, "epochs of a run; default: the data set's, 50, or 150 of cifar10", at_least=1,
        free=True,
    )  # fmt: skip


def presets() -> dict[str, dict[str, Any]]:
    """Return what the presets decide."""
    found = {}
    for name, dish in sigmoid_slope.DISH_PRESETS.items():
        hidden_sizes, rates = sigmoid_slope.CANDIDATES[name]
        dataset, source = sigmoid_slope.TRANSFERS.get(name, ("mnist", ""))
        found[name] = {
            "dish": dish,
            "hidden_sizes": hidden_sizes,
            "inner_learning_rates": rates,
            "held_out_share": 0.0,
            "dataset": dataset,
            "source": source,
        }
    return found


PRESETS = presets()
launch.define(SigmoidSlope, PRESETS)


def table_of(settings: SigmoidSlope) -> TruthTable | ComputedTable:
    """Return the table of ground truths, or how to compute it."""
    problem = sigmoid_slope.problem()
    if settings.compute_ground_truth:
        if settings.ground_truth is not None:
            raise UserError(
                "--ground_truth and --compute_ground_truth exclude each other: give one"
            )
        return ComputedTable(
            tuple(problem.space.encode(slope) for slope in table_slopes()),
            settings.dataset,
            settings.ground_truth_seeds,
            settings.ground_truth_epochs or sigmoid_slope.config_of(settings.dataset).epochs,
            launch.folder_of_data(settings.data_dir),
        )
    if settings.ground_truth is not None:
        return lookup.read(pathlib.Path(settings.ground_truth), problem.space)
    name = problem.ground_truth(settings.dataset).table
    return lookup.read(lookup.shipped(name), problem.space)


def source_of(settings: SigmoidSlope) -> TruthTable | None:
    """Return the table that is learned from, where it is another one."""
    problem = sigmoid_slope.problem()
    if not settings.source:
        return None
    if settings.source in problem.ground_truths:
        if settings.source == settings.dataset and settings.ground_truth is None:
            raise UserError(f"source={settings.source} is the data set itself: give another one")
        path = lookup.shipped(problem.ground_truth(settings.source).table)
    else:
        path = pathlib.Path(settings.source)
    return lookup.read(path, problem.space)


def main() -> None:
    """Run the experiment."""
    settings = launch.read(SigmoidSlope, PRESETS, "preset")
    if flags.FLAGS["inner_learning_rate"].value is not None:  # then there is nothing to choose
        settings = dataclasses.replace(settings, inner_learning_rates=())
    problem = sigmoid_slope.problem(settings.use_bias)
    workdir = launch.workdir("runs/sigmoid_slope")
    with Display() as display:
        summary = extrapolation.run(
            problem,
            table_of(settings),
            settings,
            workdir,
            source=source_of(settings),
            listen=display,
        )
    print(report.results(summary))
    print("wrote " + ", ".join(map(str, [workdir / "summary.json", *report.draw(workdir)])))


if __name__ == "__main__":
    launch.run_main(main)

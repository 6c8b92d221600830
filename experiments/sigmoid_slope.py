"""The sigmoid-slope experiment (Rawal et al., section 4.1): a peak that nobody was shown.

The dish, its untrained self, the paper's MLP control and a Gaussian process know
the accuracies of slopes right of the peak alone, and predict all of them.
"""

import csv
import dataclasses
import io
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import dish_flags
from spd_jax import files, metrics
from spd_jax.data import images as datasets
from spd_jax.dish import DishConfig
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup as tabular
from spd_jax.report import extrapolation as report
from spd_jax.report.progress import Progress
from spd_jax.spaces import sigmoid_slope
from spd_jax.studies import run_folder
from spd_jax.studies.extrapolation import FIGURES, METHODS, Split, identity, run_seed, state_name
from spd_jax.studies.run_folder import RunFolder
from spd_jax.surrogates.dish_surrogate import DishSurrogate
from spd_jax.trainers import mlp_classifier


@dataclasses.dataclass(frozen=True)
class Preset:
    """A dish, and the settings that every seed chooses from on its own known motifs (A.1).

    `hidden_sizes` and `inner_learning_rates` span the candidates; with one of
    each there is nothing to choose.
    """

    config: DishConfig
    hidden_sizes: tuple[int, ...] = (1,)
    inner_learning_rates: tuple[float, ...] = (0.01,)
    held_out_share: float = 0.0


PRESETS = {
    "paper": Preset(DishConfig()),
    # Many dishes, bold inner runs, no outer step: see BUILD_NOTES.md, "The peak".
    "best": Preset(
        DishConfig(inner_steps=200, outer_steps=0, ensemble_size=96),
        hidden_sizes=(1, 3),
        inner_learning_rates=(1.0,),
    ),
    # The same, with the inner rate left to A.1 too: what the training interval alone can choose.
    "a1": Preset(
        DishConfig(inner_steps=200, outer_steps=0, ensemble_size=48),
        hidden_sizes=(1, 3),
        inner_learning_rates=(0.1, 0.3, 1.0),
    ),
}

_SEED = flags.DEFINE_integer(
    "seed", 0, "first seed: of the split, the dishes and the rivals", lower_bound=0
)
_NUM_SEEDS = flags.DEFINE_integer("num_seeds", 5, "seeds to run", lower_bound=1)
_GROUND_TRUTH = flags.DEFINE_string(
    "ground_truth", None, "CSV with columns slope, accuracy and optionally seed; default: shipped"
)
_TRAIN_MIN = flags.DEFINE_float("train_slope_min", 0.37, "smallest slope to train on")
_TRAIN_MAX = flags.DEFINE_float("train_slope_max", 2.01, "largest slope to train on")
_NUM_TRAIN = flags.DEFINE_integer("num_train", 30, "known slopes of a seed", lower_bound=2)
_PRESET = flags.DEFINE_enum("preset", "best", list(PRESETS), "dish settings that flags change")
_HIDDEN = flags.DEFINE_integer("hidden_size", None, "width of the motif-network; default: preset")
_USE_BIAS = flags.DEFINE_bool("use_bias", True, "biases in the motif-network")
_HELD_OUT = flags.DEFINE_float(
    "held_out_share",
    None,
    "share of the known slopes that early stopping holds out; default: preset",
    lower_bound=0.0,
    upper_bound=0.9,
)
_COMPUTE = flags.DEFINE_bool("compute_ground_truth", False, "train the ground truth anew, first")
_DATASET = flags.DEFINE_enum("dataset", "mnist", datasets.NAMES, "data set of the ground truth")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "folder of its files; default: download")
_TRUTH_SEEDS = flags.DEFINE_integer("ground_truth_seeds", 2, "runs per slope", lower_bound=1)
_TRUTH_EPOCHS = flags.DEFINE_integer("ground_truth_epochs", 50, "epochs of a run", lower_bound=1)
dish_flags.define()


def settings() -> tuple[dict[str, DishSurrogate], dict[str, Any]]:
    """Return the dishes to choose from by name, and all settings of the run, JSON-ready."""
    preset = PRESETS[_PRESET.value]
    config = dish_flags.read(preset.config)
    share = preset.held_out_share if _HELD_OUT.value is None else _HELD_OUT.value
    hidden_sizes = preset.hidden_sizes if _HIDDEN.value is None else (_HIDDEN.value,)
    if not np.isfinite([share, _TRAIN_MIN.value, _TRAIN_MAX.value]).all():
        raise UserError("--held_out_share, --train_slope_min and --train_slope_max must be finite")
    if min(hidden_sizes) < 1:
        raise UserError(f"--hidden_size={min(hidden_sizes)} must be at least 1")
    rates = preset.inner_learning_rates
    if flags.FLAGS["inner_learning_rate"].value is not None:
        rates = (config.inner_learning_rate,)
    candidates = {
        f"hidden {hidden}, inner rate {rate}": DishSurrogate(
            sigmoid_slope.family(hidden=hidden, use_bias=_USE_BIAS.value),
            dataclasses.replace(config, inner_learning_rate=rate),
            share,
            run_folder.motif_sharding(),
        )
        for hidden in hidden_sizes
        for rate in rates
    }
    described = {
        "seed": _SEED.value,
        "num_seeds": _NUM_SEEDS.value,
        "ground_truth": None if _COMPUTE.value else str(_table_path()),
        "ground_truth_id": None if _COMPUTE.value else identity(tabular.read(_table_path())),
        "train_interval": [_TRAIN_MIN.value, _TRAIN_MAX.value],
        "num_train": _NUM_TRAIN.value,
        "preset": _PRESET.value,
        "candidates": list(candidates),
        "use_bias": _USE_BIAS.value,
        "held_out_share": share,
        "dish": dataclasses.asdict(config),
    }
    if _COMPUTE.value:
        described |= {
            "dataset": _DATASET.value,
            "ground_truth_seeds": _TRUTH_SEEDS.value,
            "ground_truth_epochs": _TRUTH_EPOCHS.value,
        }
    return candidates, described


def _table_path() -> pathlib.Path:
    if _GROUND_TRUTH.value is not None:
        return pathlib.Path(_GROUND_TRUTH.value)
    if _DATASET.value == "digits":
        raise UserError(
            "no table of digits is shipped: add --compute_ground_truth, "
            "or give one as --ground_truth"
        )
    return tabular.shipped(f"{_DATASET.value}_sigmoid_slope")


def compute_ground_truth(folder: RunFolder) -> pathlib.Path:
    """Train the table into the run folder, resuming, and return its path."""
    data = datasets.load(_DATASET.value, _DATA_DIR.value)
    config = mlp_classifier.MlpClassifierConfig(epochs=_TRUTH_EPOCHS.value)
    header = [
        "command: python -m experiments.sigmoid_slope --compute_ground_truth "
        f"--dataset={_DATASET.value} --ground_truth_seeds={_TRUTH_SEEDS.value} "
        f"--ground_truth_epochs={_TRUTH_EPOCHS.value}",
        f"commit: {run_folder.commit()}",
        f"settings: {config}",
        f"data: {_DATASET.value}, {len(data.train_inputs)} train / {len(data.valid_inputs)} valid",
        f"accuracy, loss: validation accuracy, and cross-entropy in nats, means over the last "
        f"{config.average_epochs} epochs; final_accuracy: after the last epoch",
    ]
    path = folder.path / "ground_truth.csv"
    seeds = range(_TRUTH_SEEDS.value)
    with Progress("ground truth (epochs)", len(seeds) * config.epochs) as progress:

        def on_epoch(results: list[mlp_classifier.Result], done: int, total: int) -> None:
            mlp_classifier.write_table(path, results, header)
            progress.update(done, f"best accuracy {max(r.accuracy for r in results):.4f}")

        results = mlp_classifier.evaluate(
            sigmoid_slope.table_slopes().tolist(),
            seeds,
            data,
            config,
            folder.path / "states",
            on_epoch,
        )
    mlp_classifier.write_table(path, results, header)
    return path


def run_seeds(
    folder: RunFolder, table: tabular.Table, candidates: dict[str, DishSurrogate]
) -> dict[int, dict[str, Any]]:
    """Run every seed that the folder does not hold yet; return the results of all."""
    seeds = range(_SEED.value, _SEED.value + _NUM_SEEDS.value)
    splits = {
        seed: Split.draw(table, seed, _NUM_TRAIN.value, _TRAIN_MIN.value, _TRAIN_MAX.value)
        for seed in seeds
    }
    results = {seed: folder.read_json(_result_name(seed, table)) for seed in seeds}
    missing = [seed for seed in seeds if results[seed] is None]
    with Progress("seeds", len(seeds)) as progress:
        progress.update(len(seeds) - len(missing), "read from the folder")
        for done, seed in enumerate(missing, len(seeds) - len(missing) + 1):
            results[seed] = run_seed(folder, seed, table, splits[seed], candidates)
            folder.write_json(_result_name(seed, table), results[seed])
            dish = results[seed]["figures"]["dish"]
            progress.update(
                done,
                f"seed {seed}: dish peak {_rounded(dish['predicted_peak_slope'])}, "
                f"tau {_rounded(dish['kendall_tau'])}",
            )
    return results


def _rounded(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _result_name(seed: int, table: tabular.Table) -> str:
    return f"states/{identity(table)}/result_seed{seed}.json"


def summarise(
    table: tabular.Table, config: dict[str, Any], results: dict[int, dict[str, Any]]
) -> dict[str, Any]:
    """Return summary.json: every figure of every method with its spread over seeds."""
    first = next(iter(results.values()))
    chosen = [result["setting"] for result in results.values()]
    summary: dict[str, Any] = {
        "preset": config["preset"],
        "train_interval": config["train_interval"],
        "num_train": config["num_train"],
        "num_dishes": config["dish"]["ensemble_size"],
        "seeds": list(results),
        "slopes": len(table.slopes),
        "ground_truth_rows": int(table.seeds_per_slope.sum()),
        "settings": {name: chosen.count(name) for name in sorted(set(chosen))},
        "noise_ceiling": noise_ceiling(table),
        "true_peak_slope": metrics.peak(table.slopes, table.accuracy),
    }
    for method in METHODS:
        summary[method] = {
            figure: metrics.spread([r["figures"][method][figure] for r in results.values()])
            for figure in FIGURES
        }
    summary["seconds"] = {
        name: metrics.spread([r["seconds"][name] for r in results.values()])
        for name in first["seconds"]
    }
    return summary


def noise_ceiling(table: tabular.Table) -> float | None:
    """Return the mean Kendall tau between one seed of the table and the mean of its others.

    `None` unless every slope has the same two or more seeds.
    """
    counts = set(table.seeds_per_slope.tolist())
    if len(counts) != 1 or counts == {1}:
        return None
    return metrics.noise_ceiling(np.stack(table.values))


def write_predictions(
    folder: RunFolder, table: tabular.Table, results: dict[int, dict[str, Any]]
) -> None:
    """Write predictions.csv, one row for each seed and slope."""
    columns = list(next(iter(results.values()))["predictions"])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["seed", "slope", "true", "true_standard_error", "split", *columns])
    for seed, result in results.items():
        for i, slope in enumerate(table.slopes):
            error = table.standard_error[i]
            values = [result["predictions"][name][i] for name in columns]
            writer.writerow(
                [
                    seed,
                    slope,
                    f"{table.accuracy[i]:.9g}",
                    f"{error:.6g}" if np.isfinite(error) else "",
                    "train" if i in result["train"] else "test",
                    *("-inf" if value is None else f"{value:.6g}" for value in values),
                ]
            )
    files.write_text(folder.path / "predictions.csv", text.getvalue())


def write_synthetic_data(
    folder: RunFolder, table: tabular.Table, surrogate: DishSurrogate, seed: int
) -> None:
    """Write synthetic_data.npz: the first member's samples, before and after."""
    start = surrogate.start(jax.random.key(seed))
    learned = files.load_pytree(
        folder.path / state_name(seed, identity(table)), start, f"seed {seed}"
    ).data
    arrays = {
        "train_inputs_start": start.data.train_inputs,
        "train_inputs": learned.train_inputs,
        "valid_inputs": learned.valid_inputs,
        "train_labels": learned.train_labels,
        "valid_labels": learned.valid_labels,
    }
    with files.atomic_path(folder.path / "synthetic_data.npz") as temporary:
        np.savez(temporary, **{name: np.asarray(array[0]) for name, array in arrays.items()})  # type: ignore[arg-type]


def print_table(summary: dict[str, Any]) -> None:
    """Print median and quartiles of every figure."""
    print(f"{'method':18}" + "".join(f"{figure:>24}" for figure in FIGURES))
    for method in METHODS:
        cells = []
        for figure in FIGURES:
            spread = summary[method][figure]
            if spread["median"] is None:
                cells.append("-")
            else:
                cells.append(f"{spread['median']:.3f} [{spread['q25']:.2f}, {spread['q75']:.2f}]")
        print(f"{method:18}" + "".join(f"{cell:>24}" for cell in cells))
    ceiling = summary["noise_ceiling"]
    print(
        f"medians [quartiles] over {len(summary['seeds'])} seeds; true peak at "
        f"{summary['true_peak_slope']:.2f}; {summary['slopes']} slopes, "
        f"{summary['ground_truth_rows']} trained networks; tau between one seed of the table "
        f"and the others: {'-' if ceiling is None else f'{ceiling:.3f}'}"
    )


def main(argv: Sequence[str]) -> None:
    """Run the experiment."""
    del argv
    candidates, config = settings()
    workdir = run_folder.WORKDIR.value or "runs/sigmoid_slope"
    if not _COMPUTE.value:  # a bad table is refused before anything is written
        table = tabular.read(_table_path())
        Split.draw(table, 0, _NUM_TRAIN.value, _TRAIN_MIN.value, _TRAIN_MAX.value)
    folder = RunFolder.open(workdir, config, may_grow=("num_seeds", "ground_truth_seeds"))
    if _COMPUTE.value:
        table = tabular.read(compute_ground_truth(folder))
    results = run_seeds(folder, table, candidates)
    summary = summarise(table, config, results)
    write_predictions(folder, table, results)
    seed, first = next(iter(results.items()))
    write_synthetic_data(folder, table, candidates[first["setting"]], seed)
    written = [folder.write_json("summary.json", summary)]
    print_table(summary)
    written += report.draw(folder.path)
    names = ["predictions.csv", "metrics.jsonl", "config.json", "versions.json"]
    print("wrote " + ", ".join(map(str, written + [folder.path / name for name in names])))


if __name__ == "__main__":
    run_folder.run_main(main)

"""The sigmoid-slope experiment (Rawal et al., section 4.1)."""

import pathlib
import subprocess
import sys
import time

from absl import app, flags

from spd_jax import datasets
from spd_jax.errors import UserError
from spd_jax.ground_truth import mlp_classifier
from spd_jax.spaces import sigmoid_slope

_WORKDIR = flags.DEFINE_string("workdir", "runs/sigmoid_slope", "folder of this run")
_COMPUTE = flags.DEFINE_bool("compute_ground_truth", False, "train the ground truth anew")
_DATASET = flags.DEFINE_enum("dataset", "mnist", datasets.NAMES, "data set")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "folder with the data set's files")
_SEEDS = flags.DEFINE_integer("ground_truth_seeds", 2, "training runs per slope", lower_bound=1)


def compute_table() -> None:
    """Train the table and write it after every epoch."""
    data = datasets.load(_DATASET.value, _DATA_DIR.value)
    config = mlp_classifier.MlpClassifierConfig()
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    header = [
        "command: python -m experiments.sigmoid_slope --compute_ground_truth "
        f"--dataset={_DATASET.value} --ground_truth_seeds={_SEEDS.value}",
        f"commit: {commit}",
        f"settings: {config}",
        f"data: {_DATASET.value}, {len(data.train_inputs)} train / {len(data.valid_inputs)} valid",
        f"accuracy, loss: validation accuracy, and cross-entropy in nats, means over the last "
        f"{config.average_epochs} epochs; final_accuracy: after the last epoch",
    ]
    path = pathlib.Path(_WORKDIR.value) / "ground_truth.csv"
    start = time.time()
    first_done = None

    def on_epoch(results, done, total):
        nonlocal first_done
        first_done = done - 1 if first_done is None else first_done
        left = (time.time() - start) / (done - first_done) * (total - done)
        mlp_classifier.write_table(path, results, header)
        print(f"ground truth: epoch {done}/{total}, about {left / 60:.0f} min left", flush=True)

    mlp_classifier.evaluate(
        sigmoid_slope.table_slopes(), range(_SEEDS.value), data, config, _WORKDIR.value, on_epoch
    )


def main(argv) -> None:
    """Run the experiment."""
    del argv
    try:
        compute_table()
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    app.run(main)

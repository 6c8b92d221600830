"""What the tests of the image cells share: a cheap motif-network, a table, tiny settings."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from spd_jax.archs import Cells
from spd_jax.dish import DishConfig
from spd_jax.ledger import Evaluation, EvaluationKey
from spd_jax.ledger import table as ledger_table
from spd_jax.motif import MotifFamily
from spd_jax.problems import nasbench201
from spd_jax.studies.image_ablation import AblationSettings

CONFIG = DishConfig(
    inner_steps=6, inner_batch_size=10, train_samples=20, valid_samples=20, outer_steps=4,
    motif_batch=4, shared_data=True, inner_loss="softmax_cross_entropy",
    inner_metric="true_class_probability", outer_loss="absolute_pearson",
    gradient="evaluation_only", schedule="constant", inner_learning_rate=0.02,
    outer_learning_rate=0.01,
)  # fmt: skip
SETTINGS = AblationSettings(
    num_train=9, num_test=8, preset="paper", dish=CONFIG, stem=2, image_size=4, short_epochs=2,
    look_every=2, ablation_seeds=1,
)  # fmt: skip


@functools.cache
def family():
    """Return a network that compiles in no time: how much of the image it sees, the cell says."""

    def init(key):
        return {"weight": jax.random.normal(key, (48, 10)) / 7}

    def apply(params, arch, inputs):
        seen = jnp.arange(48) < 3 * jnp.sum(arch)
        return (inputs.reshape(-1, 48) * seen) @ params["weight"]

    return MotifFamily(init, apply, (4, 4, 3), (10,), "balanced_classes")


def problem(**changes):
    """Return NAS-Bench-201 with the cheap network."""
    del changes
    return dataclasses.replace(nasbench201.problem("C", 2, 4), family=lambda hidden: family())


def cells(count=24):
    """Return distinct cells of the space."""
    space = nasbench201.problem().space
    drawn = Cells.of(space, space.sample(jax.random.key(5), 3 * count))
    first = {name: place for place, name in reversed(list(enumerate(drawn.names)))}
    return drawn.take(sorted(first.values())[:count])


def write_table(path, losses=True):
    """Write a table in which cells with larger operations are better."""
    items = []
    for name, arch in zip(cells().names, cells().archs, strict=True):
        score = round(0.5 + 0.01 * float(np.sum(arch)) + 0.001 * float(arch[0]), 6)
        info = {"valid_losses": [2.3, round(2 - score, 6)]} if losses else {}
        key = EvaluationKey("nasbench201", name, "made up", 0, 2)
        items.append((key, Evaluation("ok", score, score, unit="accuracy", info=info)))
    ledger_table.write(path, items, {"made": "for a test"})
    return path

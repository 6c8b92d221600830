"""Settings of language models that train in a second, and a cell."""

import dataclasses

from spd_jax.spaces import rnn_cell
from spd_jax.trainers.language_model import PRESETS

CELL = rnn_cell.PUBLISHED["nao"][1]
TINY = dataclasses.replace(
    PRESETS["tiny"],
    train_tokens=12_000,
    eval_tokens=3_000,
    hidden_size=16,
    batch_size=16,
    sequence_length=16,
    epochs=3,
    learning_rate=1e-2,
)
# Everything of the preset `paper` but its size: dropout, slowness, averaging, drawn lengths.
PAPER = dataclasses.replace(
    PRESETS["paper"],
    level="character",
    train_tokens=500,
    eval_tokens=3_000,
    hidden_size=8,
    batch_size=4,
    eval_batch_size=64,
    sequence_length=16,
    epochs=4,
    patience=1,
)

"""Classifiers of 4 x 4 digits around NAS-Bench-201 cells: seconds of compiling, then nothing."""

from spd_jax.trainers.image_classifier import ImageClassifierConfig, ImageClassifierTask

CONFIG = ImageClassifierConfig(
    stacks=1,
    stem=2,
    image_size=4,
    train_images=45,
    valid_images=20,
    epochs=3,
    batch_size=20,
    eval_batch_size=10,
    chunk=2,
)
TASK = ImageClassifierTask("nasbench201", CONFIG, "digits")
CELLS = [
    "|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|avg_pool_3x3~1|none~2|",
    "|none~0|+|none~0|none~1|+|nor_conv_1x1~0|none~1|none~2|",
    "|none~0|+|none~0|none~1|+|avg_pool_3x3~0|none~1|none~2|",
]

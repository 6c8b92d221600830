"""A small image network, and the same in plain NumPy: for tests of proxies."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spd_jax.motif import MotifFamily
from spd_jax.surrogates.image_proxies import ImageNetwork

SIZE, WIDTH, CLASSES = 3, 4, 3


class SmallTrace(NamedTuple):
    logits: object
    relu_inputs: tuple
    relu_used: tuple
    blocks: tuple


def init(key):
    stem, cells, dense = jax.random.split(key, 3)
    return {
        "stem": jax.random.normal(stem, (WIDTH, 1, 1, 3)),
        "cells": 0.7 * jax.random.normal(cells, (2, WIDTH, 1, 1, WIDTH)),  # of two cells
        "dense": {"weight": jax.random.normal(dense, (WIDTH, CLASSES)), "bias": jnp.full(3, 0.1)},
    }


def forward(np, params, arch, inputs, batch_norm=True, after_block=None):
    """Two residual cells: x + arch[0] * conv(relu(x)), then x + arch[1] * conv(relu(x)); a ReLU.

    `np` is numpy or jax.numpy; a path of weight 0 is not used.
    """

    def normed(x):
        if not batch_norm:
            return x
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return (x - mean) / np.sqrt(variance + 1e-5)

    relu_inputs, blocks = [], []

    def block(x):
        blocks.append(x)
        return x if after_block is None else after_block(len(blocks) - 1, x)

    x = block(normed(inputs @ params["stem"][:, 0, 0].T))
    for cell in range(2):
        relu_inputs.append(x)
        x = block(x + arch[cell] * normed(np.maximum(x, 0) @ params["cells"][cell, :, 0, 0].T))
    used = (*(np.where(arch[cell] != 0, 1.0, 0.0) for cell in range(2)), np.arange(WIDTH) != 2)
    relu_inputs.append(x)
    logits = np.maximum(x, 0).mean((1, 2)) @ params["dense"]["weight"] + params["dense"]["bias"]
    return SmallTrace(logits, tuple(relu_inputs), used, tuple(blocks))


def trace(params, arch, inputs, *, batch_norm=True, after_block=None):
    return forward(jnp, params, arch, inputs, batch_norm, after_block)


FAMILY = MotifFamily(
    init,
    lambda params, arch, inputs: trace(params, arch, inputs).logits,
    (SIZE, SIZE, 3),
    (CLASSES,),
    "balanced_classes",
)
NETWORK = ImageNetwork(FAMILY, trace)
ARCHS = np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 0.5], [0.0, 0.0]], np.float32)


def numpy_trace(params, arch, inputs, batch_norm=True):
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    return forward(np, params, arch, np.asarray(inputs, np.float64), batch_norm)

"""Tiny networks of forward search, that the tests share: three operations, 4 x 4 images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from spd_jax.forward_search import arch as arch_lib
from spd_jax.forward_search import scope as scope_lib
from spd_jax.forward_search import training
from spd_jax.forward_search.arch import Arch, Edge
from spd_jax.forward_search.image_model import Batch, ImageModel
from spd_jax.forward_search.image_net import ImageNet
from spd_jax.forward_search.recurrent_net import RecurrentNet
from spd_jax.forward_search.text_model import Batch as TextBatch
from spd_jax.forward_search.text_model import TextModel

# For programs that run once: compiled twice as fast, and computing the same more slowly.
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
OPS = ("sep3", "max3", "identity")
IMAGES = ImageModel(ImageNet((4, 4, 1), 3, filters=2, stem_width=2), batch_size=6)
TEXTS = TextModel(RecurrentNet(vocabulary=5, hidden=3), rows=2, length=3)
LEARNER = (Edge(0, "max3"), Edge(1, "sep3"))


def image_arch(search="cell"):
    """Return a normal and a reduction cell; the first slot has a learner already."""
    return Arch(search, ("normal", "reduction"), ((LEARNER,), ()), OPS)


def text_arch():
    """Return a recurrent cell that has grown once."""
    learner = (Edge(0, "relu"), Edge(3, "identity"))
    return Arch("rnn", ("recurrent",), ((learner,),), ("relu", "identity"))


def images(seed=0, count=6, dtype=np.float32):
    """Return random images with labels."""
    generator = np.random.default_rng(seed)
    return Batch(
        jnp.asarray(generator.normal(size=(count, 4, 4, 1)), dtype),
        jnp.asarray(generator.integers(0, 3, count), jnp.int32),
    )


def text(seed=0):
    """Return a random sequence."""
    tokens = np.random.default_rng(seed).integers(0, 5, (4, 2)).astype(np.int32)
    return TextBatch(jnp.asarray(tokens[:-1]), jnp.asarray(tokens[1:]), jnp.asarray(True))


CASES = {
    "cell": (IMAGES, image_arch("cell"), images),
    "macro": (IMAGES, image_arch("macro"), images),
    "rnn": (TEXTS, text_arch(), lambda seed=0, dtype=None: text(seed)),
}


def drawn(model, arch, slots=(), seed=0, dtype=np.float32, coupling="stopped"):
    """Return weights and averages; every eta is moved off 0, so that learners count."""
    need = training.recorded(model, arch, slots, coupling)
    weights = scope_lib.draw(seed, need.weights, dtype)
    moved = {
        path: array + 0.3 if path.endswith("eta") else array for path, array in weights.items()
    }
    return jax.tree.map(jnp.asarray, (moved, scope_lib.draw(seed, need.averages, dtype)))


@functools.cache
def seed_arch():
    """Return the tiny seed: two normal cells around a reduction."""
    return arch_lib.seed("cell", 1, 1, OPS)

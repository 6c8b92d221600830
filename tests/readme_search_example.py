import jax
import jax.numpy as jnp
import numpy as np

from spd_jax.ground_truth.purchase import GroundTruth
from spd_jax.ledger import Evaluation, Ledger
from spd_jax.search import genetic, loop


class Widths:  # a space: eight layers of 0..9 units, so archs are int arrays [M, 8]
    def sample(self, key, count):
        return jax.random.randint(key, (count, 8), 0, 10)

    def mutate(self, key, archs):
        return jnp.clip(archs + jax.random.randint(key, archs.shape, -1, 2), 0, 9)

    def crossover(self, key, first, second):
        return jnp.where(jax.random.bernoulli(key, 0.5, first.shape), first, second)

    def encode(self, arch):
        return " ".join(map(str, arch))

    def decode(self, text):
        return np.array(text.split(), np.int32)

    canonical_hash = encode


class Pyramid:  # a task: here the score is a formula; yours trains a network for `budget` epochs
    budget, fingerprint = 1, "pyramid-1"

    def evaluate(self, cell, seed, budget):
        score = -float(np.abs(Widths().decode(cell) - np.arange(9, 1, -1)).sum())
        return Evaluation("ok", score, score, curve=(score,), seconds=0.0)


with Ledger("widths.sqlite") as ledger:  # run it again, and nothing is evaluated twice
    truth = GroundTruth("widths", Pyramid(), ledger)
    history = loop.search(jax.random.key(0), Widths(), truth, genetic.Genetic())

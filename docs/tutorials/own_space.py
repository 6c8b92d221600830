# %% [markdown]
# # Search a space of your own
#
# A search needs a **space** (how to draw and change a cell) and a **task** (how good a cell is).
# There is nothing to inherit from. Here a cell is six kernel sizes, and a formula stands for the
# training.

# %%
import jax
import numpy as np
import spd_jax as spd

SIZES = np.array([1, 3, 5, 7])


class Kernels:
    """A batch of M cells is an integer array [M, 6] of places in SIZES."""

    name = "kernels"

    def sample(self, key, count):
        return np.asarray(jax.random.randint(key, (count, 6), 0, 4))

    def mutate(self, key, archs):
        step = np.asarray(jax.random.randint(key, archs.shape, -1, 2))
        return np.clip(archs + step, 0, 3)

    def crossover(self, key, first, second):
        return np.where(jax.random.bernoulli(key, 0.5, first.shape), first, second)

    def encode(self, arch):
        return "-".join(str(SIZES[place]) for place in arch)

    def decode(self, text):
        return np.searchsorted(SIZES, [int(word) for word in text.split("-")])

    def canonical(self, arch):  # no two spellings of one cell
        return arch


# %% [markdown]
# `fingerprint` is part of every key in the ledger. Change it whenever the task changes, or old
# scores are taken for new ones. `evaluate` may raise: that cell has failed, the search goes on.


# %%
class Train:
    budget, unit, fingerprint = 1, "score", "formula-1"
    answers_smaller_budgets = False

    def evaluate(self, cell, seed, budget):
        sizes = np.array([int(word) for word in cell.split("-")])
        score = -float(np.sum((sizes - [3, 3, 5, 5, 7, 1]) ** 2))
        return spd.Evaluation("ok", score, test_score=score)


# %% [markdown]
# Everything that is bought is written to `kernels.sqlite` before anything else happens. Run this
# page twice: the second time it buys nothing, and prints the same.

# %%
config = spd.SearchConfig(warm_start=20, iterations=4, evaluations=10)
with spd.Ledger("kernels.sqlite") as ledger:
    truth = spd.GroundTruth("kernels", Train(), ledger)
    history = spd.run_search(jax.random.key(0), Kernels(), truth, spd.Genetic(), config=config)
print("best of", int(history[-1].cost), "cells:", spd.best(history).cell)

# %% [markdown]
# Must a good cell also be a cheap one? Wrap the space: what costs more is never proposed.

# %%
small = spd.WithinCost(Kernels(), cost=lambda cells: SIZES[cells.archs].sum(axis=1), limit=18)
with spd.Ledger("kernels.sqlite") as ledger:
    truth = spd.GroundTruth("kernels", Train(), ledger)
    cheap = spd.run_search(jax.random.key(0), small, truth, spd.Genetic(), config=config)
print("best with sizes of at most 18 in all:", spd.best(cheap).cell)

# %% [markdown]
# # From zero ground truths to forty
#
# Which surrogate should rank your motifs? It depends on how many you have really evaluated. This
# page asks three of them the same question with 0, 5, 10, 20 and 40 evaluations in hand. The motifs
# are slopes of a sigmoid; their accuracies on MNIST come from a table that ships with the package.
# (It needs scikit-learn, for the process: `pip install 'spd_jax[scikit-learn]'`.)

# %%
import jax
import numpy as np
import spd_jax as spd
from spd_jax.studies.league import shipped_table

problem = spd.problems.get("sigmoid_slope")
table = shipped_table(problem)
print(
    f"{len(table)} slopes, {table.unit} from {table.scores.min():.3f} to {table.scores.max():.3f}"
)

# %% [markdown]
# Twenty slopes are hidden: nobody learns from them, and all are judged by them. The others are
# evaluated one after the other, in a random order.

# %%
order = np.random.default_rng(0).permutation(len(table))
hidden, bought = order[:20], order[20:60]


def judged(predicted):
    return spd.kendall_tau(predicted, table.scores[hidden])


# %% [markdown]
# With nothing evaluated, only a dish can say anything: its tiny networks are trained on random
# samples, and what is left of their losses ranks the motifs. Bold inner steps (a rate of 1) make an
# untrained dish rank slopes well; `docs/results.md` tells how that was found.

# %%
family = problem.family(3)
config = spd.DishConfig(
    inner_steps=100, outer_steps=0, ensemble_size=8, inner_learning_rate=1.0, motif_batch=20
)
dish = spd.dish.build(family, config)
untrained = dish.predict(dish.init(jax.random.key(0)), table.take(hidden).cells.archs)
print(f" 0 known   dish {judged(untrained):5.2f}")

# %% [markdown]
# With some evaluated, three rank: the dish, whose scores are now turned into accuracies; a Gaussian
# process, which knows nothing of networks and only sees the slope; and the mean of the two, which
# makes sense because both predict accuracies (`spd.Averaged` is such a mean as one surrogate).

# %%
players = {
    "dish": spd.DishSurrogate(family, config),
    "process": spd.GaussianProcess(problem.features.features),
}
asked = table.take(hidden).cells.archs
for known in (5, 10, 20, 40):
    part = table.take(bought[:known])
    predicted = {
        name: player.fit(jax.random.key(0), part.cells.archs, part.scores).predict(asked)
        for name, player in players.items()
    }
    predicted["mean of both"] = (predicted["dish"] + predicted["process"]) / 2
    taus = "   ".join(f"{name} {judged(own):5.2f}" for name, own in predicted.items())
    print(f"{known:2d} known   {taus}")

# %% [markdown]
# One random split says little: the spread between splits is as large as the differences here.
# `python -m experiments.compare_surrogates --space=sigmoid_slope` plays this with every surrogate,
# over ten splits, with spreads, prices and the ceiling that noise in the table sets. What came of
# that stands in `docs/results.md`: a dish is worth most while little is known.

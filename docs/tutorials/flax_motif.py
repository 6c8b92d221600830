# %% [markdown]
# # A flax module as motif
#
# You have a network in flax, and one thing in it is to be chosen: which normalisation, which
# activation, which operation. Give the module an argument for the choice, and it is a
# motif-network.

# %%
import jax
import numpy as np
import spd_jax as spd
from flax import linen as nn
from spd_jax.adapters import flax as adapter

NAMES = ["relu", "tanh", "silu", "nothing"]
ACTIVATIONS = [nn.relu, nn.tanh, nn.silu, lambda x: x]


class Block(nn.Module):
    """Two layers with a choice between them: `choice` is one integer, which may be traced."""

    width: int = 6

    @nn.compact
    def __call__(self, inputs, choice):
        hidden = nn.Dense(self.width)(inputs)
        hidden = nn.BatchNorm(use_running_average=False)(hidden)
        hidden = jax.lax.switch(choice, ACTIVATIONS, hidden)
        return nn.Dense(2)(hidden)


# %% [markdown]
# `arch` is an example of a choice: its shape and type are what counts. The output's shape is found
# by a call. `branching=True` says that the choice is made by `lax.switch`: CPUs then train one
# motif after the other, because side by side all four branches would be computed for each.
#
# Batch normalisation takes the statistics of the batch; running ones stay as they were at first.
# Dropout needs a key at every step, which a motif-network does not have: switch it off.

# %%
family = adapter.of_linen(Block(), arch=np.int32(0), input_shape=(4,), branching=True)
print("output shape of one sample:", family.output_shape)

# %% [markdown]
# From here on it is a family like any other. `dish.build` binds family and settings to the five
# functions `init, step, fit, scores, predict`, all pure: state in, state out.

# %%
config = spd.DishConfig(inner_steps=15, outer_steps=6, motif_batch=4, ensemble_size=2)
dish = spd.dish.build(family, config)
choices = np.arange(4, dtype=np.int32)
accuracies = np.array([0.91, 0.86, 0.93, 0.70])  # of trained networks; made up here
state, info = dish.fit(dish.init(jax.random.key(0)), choices, accuracies)

# %% [markdown]
# Scores are in standard deviations over the known motifs. With four choices that are all known
# there is nothing left to ask; with two choices per layer and ten layers there would be.

# %%
scores = dish.predict(state, choices)
for name, score, accuracy in zip(NAMES, scores, accuracies, strict=True):
    print(f"{name:8s} dish {score:+.2f}   accuracy {accuracy:.2f}")

# %% [markdown]
# An `nnx` module works the same way: `adapter.of_nnx(Block, arch, input_shape)` is given its class.

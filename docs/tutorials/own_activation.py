# %% [markdown]
# # Rank an activation of your own
#
# You have an activation function with a number in it, and wonder which value to take. Training a
# network for each value is dear. A dish puts every value into the same tiny network, trains all of
# these at once on a few learned samples, and ranks the values by what is left of the loss.
#
# The activation here is a bent line: `x` above zero, `leak * x` below, and a wave on top.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import spd_jax as spd


def activation(x, leak):
    return jnp.where(x > 0, x, leak * x) + 0.1 * jnp.sin(3 * x)


# %% [markdown]
# The tiny network is two functions. `init` draws weights, the same for every motif. `apply` is
# written for ONE motif (here one number, `leak`) and all samples; the dish maps it over motifs.


# %%
def init(key):
    first, second = jax.random.split(key)
    return {"in": jax.random.normal(first, (5, 4)), "out": jax.random.normal(second, (4, 2))}


def apply(params, leak, inputs):
    return activation(inputs @ params["in"], leak) @ params["out"]


family = spd.MotifFamily(init, apply, input_shape=(5,), output_shape=(2,))

# %% [markdown]
# Eight values were really evaluated: networks with these leaks were trained. Their accuracies are
# made up here, with the best leak at 0.3. **Higher is better**, always: give minus a loss.

# %%
known = np.linspace(0.0, 1.0, 8, dtype=np.float32)
accuracy = 0.9 - 0.2 * (known - 0.3) ** 2

# %% [markdown]
# Fit the dish: its samples are learned, by differentiating through the whole inner training, until
# the ranking of the tiny networks agrees with the eight accuracies. A real dish takes more steps
# and more members than this page: see `help(spd.DishConfig)`.

# %%
config = spd.DishConfig(inner_steps=20, outer_steps=10, ensemble_size=3, motif_batch=8)
surrogate = spd.DishSurrogate(family, config)
fitted = surrogate.fit(jax.random.key(0), known, accuracy)

# %% [markdown]
# Ask about values that nobody trained. Nothing compiles again for them: a motif is data. The
# predictions are in the unit of the accuracies, and a failed one would be NaN.

# %%
new = np.linspace(0.0, 1.0, 200, dtype=np.float32)
predicted = fitted.predict(new)
best = new[np.argsort(predicted)[::-1][:3]]
print("evaluate these next:", best)

# %% [markdown]
# Was it right? Keep some evaluations back and look: Kendall's tau is 1 where two orders agree,
# 0 where they have nothing to do with each other. Do this before you trust any surrogate.

# %%
held_out = np.linspace(0.05, 0.95, 10, dtype=np.float32)
tau = spd.kendall_tau(fitted.predict(held_out), 0.9 - 0.2 * (held_out - 0.3) ** 2)
print(f"Kendall's tau on ten leaks that it never saw: {tau:.2f}")

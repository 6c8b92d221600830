"""Array aliases and the one legend of axis names.

| letter | axis |
|---|---|
| M | motifs (archs) |
| E | ensemble members: independent dishes, each with weights and data of its own |
| T | inner steps |
| N | synthetic samples |
| L | sequence length |
| D | inputs of a motif-network |
| H | its hidden units |
| C | its outputs |
| P | all its parameters in one vector |
| F | features of an arch, for surrogates that need vectors |
"""

from typing import Any

import jax

Array = jax.Array
Key = jax.Array  # a typed key of jax.random.key
Params = Any  # pytree of float arrays: one motif-network's weights
Arch = Any  # pytree of arrays: one motif
Archs = Any  # the same with axis M in front

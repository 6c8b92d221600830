"""Compiling made cheap, for processes that run each program a few times.

Import it before jax. Child processes inherit what it sets. `JAX_DISABLE_MOST_OPTIMIZATIONS=0`
keeps all as users have it.
"""

import os
from importlib import metadata

if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    # The older emitters of CPU kernels compile in a third of the time. XLA aborts on flags that it
    # does not know: jaxlib 0.8.2 and 0.10.2 know this one, 0.12 has the newer emitters only.
    if tuple(map(int, metadata.version("jaxlib").split(".")[:2])) < (0, 11):
        given = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{given} --xla_cpu_use_fusion_emitters=false"

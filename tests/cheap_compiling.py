"""Compiling made cheap, for processes that run each program a few times.

Import it before jax. Child processes inherit what it sets.
"""

import importlib.util
import mmap
import os
import pathlib

# XLA's newer emitters of CPU kernels take three times as long to compile as the older ones.
FLAG = "xla_cpu_use_fusion_emitters"


def xla_knows(flag):
    """Return whether the installed XLA has a flag; it aborts where it meets one that it lacks."""
    folder = pathlib.Path(importlib.util.find_spec("jaxlib").origin).parent
    for path in folder.glob("libjax_common.*"):
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as held:
            return held.find(flag.encode()) >= 0
    return False


if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    if xla_knows(FLAG):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --{FLAG}=false".strip()

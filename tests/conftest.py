"""The suite's one global setting: compiled programs are kept, so that a second run is fast."""

import pathlib

import jax

CACHE = pathlib.Path(__file__).resolve().parents[1] / ".jax_cache"

jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

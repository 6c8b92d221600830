"""Compiled programs are kept, so that a second run is fast; the fixtures that files share."""

import pathlib
import signal

import jax
from sigmoid_slope_runs import slope_run  # noqa: F401

# A shell starts what it puts in the background with Ctrl-C ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

CACHE = pathlib.Path(__file__).resolve().parents[1] / ".jax_cache"

jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

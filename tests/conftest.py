"""How the suite is kept fast: cheap compiling, kept programs, slow files first.

Most of its time is XLA's optimising, which tests of this size never earn back. It is switched
off here and in all processes that tests start; `JAX_DISABLE_MOST_OPTIMIZATIONS=0 make test`
runs the suite with the programs that users run.
"""

import gc
import pathlib
import signal

import cheap_compiling  # noqa: F401  (before jax)
import jax
import pytest
from hypothesis import HealthCheck, settings
from sigmoid_slope_runs import slope_run  # noqa: F401

# A shell starts what it puts in the background with Ctrl-C ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

CACHE = pathlib.Path(__file__).resolve().parents[1] / ".jax_cache"

jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

# A case may wait for a compilation, or for another process on a busy machine.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# The files that take longest. They begin first, so that none is left for one core at the end.
SLOW = (
    "test_benchmark", "test_dish_scores", "test_surrogate_contract",
    "test_sigmoid_slope_experiment", "test_language_model", "test_nao", "test_rnn_cell_kill",
    "test_carry_over", "test_ablation",
)  # fmt: skip


def pytest_configure(config):
    config.option.loadscopereorder = False  # xdist would begin with the files of most tests


def pytest_collection_modifyitems(items):
    place = {name: number for number, name in enumerate(SLOW)}
    items.sort(key=lambda item: place.get(item.path.stem, len(SLOW)))


@pytest.fixture(scope="module", autouse=True)
def _few_programs():
    """Forget compiled programs before the system's limit on memory maps (65,530 on Linux).

    Every program takes some maps, and a worker that compiles for many files would be ended by a
    segmentation fault. What is forgotten is read from the cache on disk again.
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 15_000:
        jax.clear_caches()
        gc.collect()

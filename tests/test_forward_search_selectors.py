"""How selectors are compared with true gains: planted ones, without any training."""

import math

import numpy as np
import pytest

from spd_jax.forward_search import arch as arch_lib
from spd_jax.forward_search.search import Grown
from spd_jax.ledger import Evaluation
from spd_jax.report import forward_search as report
from spd_jax.studies import forward_selection
from spd_jax.studies.forward_settings import ForwardSettings

SEED = Grown(0, "seed", None, 0, arch_lib.seed("cell", 1, 1), 0.2, 0.7, 0.2, 1e3, 10)
LOST = [2.0, 0.0, -1.0, 0.5, 3.0, 1.0, 0.1]  # gains, the same for both inputs


def records(seed, settings):
    """Return jobs with results: the k-th edge lowers the loss by its gain, and alpha knows it."""
    found = []
    for job in forward_selection.jobs_of(SEED, settings):
        gains = {slot: np.tile(LOST, 2) + 0.01 * np.arange(14) for slot in job.slots}
        if job.kind == "child":
            edges = [edge for own in job.arch.specs for learner in own for edge in learner]
            gain = sum(LOST[job.arch.ops.index(e.op)] + 0.01 * job.arch.number(e) for e in edges)
            info = {"cross_entropy": 5.0 + 0.1 * seed - gain}
        elif job.kind == "weak":
            info = {"scores": {"alpha": {s: g.tolist() for s, g in gains.items()},
                               "signed": {s: (-g).tolist() for s, g in gains.items()}}}  # fmt: skip
        else:
            info = {"scores": {job.kind: {s: list(range(14)) for s in gains}}}
        failed = job.kind == "proxy" and seed == 1
        info = {} if failed else info
        found.append((job, Evaluation("failed" if failed else "ok", 0.5, info=info)))
    return found


def test_planted_gains_are_found():
    settings = ForwardSettings(single_slots=("reduction",), repeats=2)
    found = forward_selection.summarise({seed: records(seed, settings) for seed in range(3)})
    assert list(found["gains"]["0"]) == ["reduction"]
    wanted = np.tile(LOST, 2) + 0.01 * np.arange(14)
    np.testing.assert_allclose(np.mean(found["gains"]["1"]["reduction"], 1), wanted)
    assert found["selectors"]["alpha"]["mean"] == pytest.approx(1)
    assert found["selectors"]["alpha"]["interval"] == pytest.approx([1, 1])
    assert found["selectors"]["signed"]["mean"] == pytest.approx(-1)
    assert abs(found["selectors"]["dish"]["mean"]) < 0.6
    assert found["selectors"]["proxy"]["interval"] is None  # one seed failed
    assert found["pooled"]["alpha"]["reduction"] == pytest.approx(1)
    for name in ("noise_ceiling", "others"):
        assert found[name]["mean"] == pytest.approx(1)
    assert found["stability"]["dish"]["mean"] == pytest.approx(1)
    assert "alpha" in report.selection(found)


def test_one_training_has_no_ceiling_and_one_seed_no_others():
    found = forward_selection.summarise({0: records(0, ForwardSettings(repeats=1))})
    assert found["noise_ceiling"]["mean"] is None
    assert found["others"]["mean"] is None
    assert found["selectors"]["alpha"]["mean"] == pytest.approx(1)
    assert set(found["gains"]["0"]) == {"normal", "reduction"}
    assert math.isfinite(found["pooled"]["alpha"]["normal"])

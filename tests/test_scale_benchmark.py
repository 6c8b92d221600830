"""The benchmark of ranking very many motifs, at a tiny size."""

import numpy as np
import pytest

from experiments.benchmark import report_scale, scale
from spd_jax.errors import UserError


def test_a_stream_is_every_slope_once():
    parts = list(scale.stream(10, 4))
    assert [len(part) for part in parts] == [4, 4, 2]
    np.testing.assert_allclose(np.concatenate(parts), 0.01 + 0.2 * np.arange(10), rtol=1e-6)


def test_rates_are_motifs_over_seconds_and_stand_in_the_table():
    plan = scale.Plan((4, 8), 8, 4, (), 3, 2, 2)
    measured = {"stream": scale.measure_stream(plan), "divided": scale.measure_divided(plan)}
    for row in measured["stream"]["rows"]:
        assert row["motifs_per_second"] == pytest.approx(row["motifs"] / row["seconds"])
        assert row["peak_mib"] > 50  # Python and jax alone need more
    row = measured["divided"]["rows"][0]
    assert len(row["seconds"]["values"]) == 2
    np.testing.assert_allclose(
        row["motifs_per_second"]["values"], np.divide(8, row["seconds"]["values"])
    )
    text = report_scale.tables(measured)
    assert "The best 3 of a stream" in text
    assert "8 slopes, the same best everywhere" in text


def test_other_results_stop_the_benchmark(monkeypatch):
    turns = iter(range(100))
    monkeypatch.setattr(
        scale, "predict", lambda archs, **_: np.roll(np.arange(len(archs)), next(turns))
    )
    monkeypatch.setattr(scale.jax, "device_count", lambda: 2)
    monkeypatch.setattr(scale.growth, "over", lambda count: None)
    with pytest.raises(UserError, match="the best motifs differ on 2 devices"):
        scale.measure_divided(scale.Plan((), 4, 4, (), 2, 2, 1))

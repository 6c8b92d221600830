"""spaces.sigmoid_slope.drawing: the curve of one sigmoid."""

import numpy as np
import pytest

from spd_jax.errors import UserError
from spd_jax.spaces.sigmoid_slope.drawing import draw


@pytest.mark.parametrize("slope", [0.17, 1.0, -2.0, 1e6])
def test_the_curve_is_a_sigmoid_of_the_slope(slope):
    figure = draw(np.float32(slope), "A title")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    (curve,) = [line for line in axes.lines if line.get_label() == f"c = {slope:.3g}"]
    z, y = curve.get_data()
    assert (z[0], z[-1]) == (-6, 6)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(y, 1 / (1 + np.exp(-np.float32(slope) * z)), atol=1e-6)
    assert len(axes.lines) == (1 if slope == 1 else 2)
    assert axes.get_title(loc="left") == "A title"


@pytest.mark.parametrize("slope", [np.ones(2), np.nan, np.inf])
def test_what_is_no_slope_is_refused(slope):
    with pytest.raises(UserError, match="give one finite number"):
        draw(slope)

"""ground_truth.tabular: a hand-written table, and every mistake in one by its message."""

import math

import numpy as np
import pytest

from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup as tabular
from spd_jax.trainers import mlp_classifier

TABLE = """\
# how it was made
slope,seed,epochs,accuracy
0.5,1,50,0.90
0.5,0,50,0.80

# half-way
0.1,0,50,0.70
0.5,2,50,0.85
"""


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "table.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_read_averages_over_seeds_and_sorts_by_slope(write):
    path = write(TABLE)
    table = tabular.read(str(path))
    np.testing.assert_array_equal(table.slopes, [0.1, 0.5])
    np.testing.assert_allclose(table.accuracy, [0.7, 0.85], rtol=1e-15)
    np.testing.assert_array_equal(table.seeds_per_slope, [1, 3])
    assert math.isnan(table.standard_error[0])
    # deviations -0.05, 0, 0.05: variance 0.005 / 2, over 3 runs
    assert table.standard_error[1] == pytest.approx(math.sqrt(0.0025 / 3))
    assert [runs.tolist() for runs in table.values] == [[0.7], [0.8, 0.9, 0.85]]
    assert table.source == path
    assert table.slopes.dtype == table.accuracy.dtype == table.standard_error.dtype == np.float64
    assert table.seeds_per_slope.dtype.kind == "i"


@pytest.mark.parametrize(
    "content",
    [
        "slope,accuracy\n0.1,0.9\n-2,-3.5\n",
        "\ufeffslope,accuracy\r\n0.1,0.9\r\n-2,-3.5\r\n",
        "  # note, with a comma\n\n accuracy , slope \n 0.9 , 0.1 \n,\n\n-3.5e0,-2.0",
        'slope,name,accuracy\n0.1,"a, b",0.9\n"-2",,-3.5\n',
    ],
    ids=["plain", "BOM and CRLF", "spaces, blanks and order", "quotes and extra columns"],
)
def test_read_tolerates_harmless_differences(write, content):
    table = tabular.read(write(content))
    np.testing.assert_array_equal(table.slopes, [-2.0, 0.1])
    np.testing.assert_array_equal(table.accuracy, [-3.5, 0.9])


def test_read_understands_what_the_trainer_writes(tmp_path):
    blank = mlp_classifier.Result(**dict.fromkeys(mlp_classifier.Result._fields, 0))
    results = [
        blank._replace(slope=slope, seed=seed, accuracy=accuracy)
        for slope, seed, accuracy in [(0.23, 0, 0.97), (0.01, 0, 0.9), (0.23, 1, 0.98)]
    ]
    mlp_classifier.write_table(tmp_path / "t.csv", results, ["command: a, b", "commit: c"])
    table = tabular.read(tmp_path / "t.csv")
    np.testing.assert_array_equal(table.slopes, [0.01, 0.23])
    np.testing.assert_allclose(table.accuracy, [0.9, 0.975])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty: give a header line"),
        ("# only a comment\n\n", "is empty"),
        ("slope,accuracy\n# 0.1,0.9\n", "has no rows below its header"),
        ("slope,score\n0.1,0.9\n", "needs one column named 'accuracy', but its header is 'slope,"),
        ("Slope;accuracy\n0.1;0.9\n", "needs one column named 'slope'"),
        ("slope,slope,accuracy\n1,1,1\n", "needs one column named 'slope'"),
        ("seed,seed,slope,accuracy\n1,1,1,1\n", "needs one column named 'seed'"),
        ("slope,accuracy\n\n# c\n0.1,high\n", "line 4: accuracy is 'high': give a number"),
        ("slope,accuracy\n,0.9\n", "line 2: slope is '': give a number"),
        ("slope,accuracy\n0.1,nan\n", "line 2: accuracy is 'nan': .* delete the row of a failed"),
        ("slope,accuracy\n0.1,0.9\n-inf,0.9\n", "line 3: slope is '-inf': give a finite number"),
        ("slope,seed,accuracy\n0.1,1.5,0.9\n", "line 2: seed is '1.5': give a whole number"),
        ("slope,accuracy\n0,1,0,9\n", "line 2: 4 values for 2 columns"),
        ("slope,accuracy\n0.1\n", "line 2: 1 values for 2 columns"),
        ("slope,accuracy\n0.1,0.9\n0.10,0.8\n", "line 3: slope 0.1 with seed 0 is there twice"),
        ("slope,seed,accuracy\n1,3,1\n1,4,1\n1,3,1\n", "line 4: slope 1 with seed 3 is there"),
        (b"slope,accuracy\n0.1,\xff\n", "give a CSV file in UTF-8"),
        ("slope,accuracy\n0.1," + "9" * 200_000, "line 2: field larger .* plain comma-separated"),
    ],
)
def test_mistakes_are_refused_with_file_line_and_remedy(write, content, message):
    path = write(content)
    with pytest.raises(UserError, match=message) as caught:
        tabular.read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.csv is missing: give the path"):
        tabular.read(tmp_path / "nothing.csv")
    with pytest.raises(UserError, match="cannot be read"):
        tabular.read(tmp_path)


def test_shipped_finds_tables_in_the_package_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(tabular.resources, "files", lambda package: tmp_path / package)
    folder = tmp_path / "spd_jax" / "data" / "tables"
    folder.mkdir(parents=True)
    with pytest.raises(UserError, match=r"no table 'mnist_sigmoid_slope' .* \(none\)"):
        tabular.shipped()
    (folder / "mnist_sigmoid_slope.csv").write_text("slope,accuracy\n0.1,0.9\n")
    assert tabular.read(tabular.shipped()).slopes == [0.1]
    with pytest.raises(UserError, match=r"no table '\.\./other' .* one of mnist_sigmoid_slope, or"):
        tabular.shipped("../other")

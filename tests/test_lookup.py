"""ground_truth.lookup: tables of any space as arrays, and a task that answers from one."""

import dataclasses
import inspect
import math
import pickle
import shutil

import jax
import numpy as np
import pytest
from toy_widths import Formula, Widths

from spd_jax import metrics
from spd_jax.archs import Cells
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup
from spd_jax.ground_truth.task import BatchTask, ClosedTask
from spd_jax.ledger import Evaluation, EvaluationKey, table
from spd_jax.search.genetic import Genetic
from spd_jax.search.loop import warm_start
from spd_jax.search.random_search import RandomSearch
from spd_jax.spaces.rnn_cell import RnnCellSpace
from spd_jax.spaces.sigmoid_slope import SigmoidSlopeSpace

SLOPES, CELLS = SigmoidSlopeSpace(), RnnCellSpace("enas_mean")
SHIPPED = {  # space, motifs, budget, seeds of the ceiling, motifs of the ceiling, the ceiling
    "mnist_sigmoid_slope": (SLOPES, 60, 50, 2, 60, 0.903954802259887),
    "digits_sigmoid_slope": (SLOPES, 60, 50, 5, 60, 0.7327515266488396),
    "cifar10_sigmoid_slope": (SLOPES, 60, 150, 2, 60, 0.9044659443998337),
    "fashion_mnist_sigmoid_slope": (SLOPES, 60, 50, 1, 60, None),
    "rnn_cell_nao_ptb_tiny": (RnnCellSpace("nao"), 240, 4, 2, 20, 0.6842105263157895),
    "rnn_cell_ptb_small": (CELLS, 60, 3, 2, 20, 0.7473684210526316),
    "rnn_cell_ptb_tiny": (CELLS, 500, 4, 3, 100, 0.8995286195286196),
    "rnn_cell_ptb_tiny_tuning": (CELLS, 120, 4, 1, 120, None),
}
TABLE = """\
# how: it was made
cell,seed,budget,score,task,unit
0.5,1,50,0.90,f00d,accuracy
0.5,0,50,0.80,f00d,accuracy
0.1,0,50,0.70,f00d,accuracy
0.50,2,50,0.85,f00d,accuracy
"""


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "table.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_motifs_in_order_of_appearance_are_averaged_over_seeds(write):
    path = write(TABLE)
    read = lookup.read(str(path), SLOPES)
    assert read.cells.names == ("0.5", "0.1")
    np.testing.assert_array_equal(read.cells.archs, np.array([0.5, 0.1], np.float32))
    np.testing.assert_allclose(read.scores, [0.85, 0.7], rtol=1e-15)
    assert [own.tolist() for own in read.seeds] == [[0.8, 0.9, 0.85], [0.7]]
    # deviations -0.05, 0.05, 0: variance 0.005 / 2, over 3 runs
    assert read.standard_error[0] == pytest.approx(math.sqrt(0.0025 / 3))
    assert math.isnan(read.standard_error[1])
    assert read.scores.dtype == read.standard_error.dtype == np.float64
    assert read.curves == ((), ())
    assert (read.budget, read.unit, read.task) == (50, "accuracy", "f00d")
    assert (len(read), read.space, read.source) == (2, "sigmoid_slope", path)


@pytest.mark.parametrize(
    "content",
    [
        "cell,score\n0.1,0.9\n1.5,-3.5\n",
        "\ufeffcell,score\r\n0.1,0.9\r\n1.5,-3.5\r\n",
        "# note, with a comma\n\nscore,cell\n 0.9 , 0.1 \n\n-3.5e0, 1.50",
        'cell,name,score\n0.1,"a, b",0.9\n"1.5",,-3.5\n',
    ],
    ids=["plain", "BOM and CRLF", "spaces, blanks and order", "quotes and extra columns"],
)
def test_harmless_differences_are_tolerated(write, content):
    read = lookup.read(write(content), SLOPES)
    assert read.cells.names == ("0.1", "1.5")
    np.testing.assert_array_equal(read.scores, [0.9, -3.5])


KEY = EvaluationKey("rnn_cell_enas_mean", "", "f00d", 0, 3)
NAMES = [CELLS.encode(CELLS.decode(" ".join(["0"] * 22 + [str(i)]))) for i in range(3)]


def cell_rows():
    """Three cells: one with two seeds, one that failed with the second, one with a short run."""
    for i, name in enumerate(NAMES):
        for seed in range(2):
            score = -1.0 - i - seed / 4
            curve = (score - 2, score - 1, score)
            ok = (i, seed) != (1, 1)
            yield (
                KEY._replace(cell=name, seed=seed),
                Evaluation("ok", score, score / 2, curve, 6.0, unit="nats")
                if ok
                else Evaluation("failed", unit="nats", error="no"),
            )
    yield KEY._replace(cell=NAMES[2], budget=1), Evaluation("ok", -99, curve=(-99,), unit="nats")


@pytest.fixture
def cells(tmp_path):
    table.write(tmp_path / "cells.csv", cell_rows(), {})
    return tmp_path / "cells.csv"


def test_a_failed_seed_fails_its_motif_and_of_budgets_the_largest_counts(cells):
    read = lookup.read(cells, CELLS)
    assert len(set(read.cells.names)) == len(read) == 3
    np.testing.assert_array_equal(read.scores, [-1.125, math.nan, -3.125])
    assert read.curves[0] == (-3.0, -2.0, -1.0)
    assert read.budget == 3
    assert read.cells.archs.predecessor.shape == (3, 11)


def test_identity_is_of_content_and_motifs_can_be_left_out(cells, tmp_path):
    read = lookup.read(cells, CELLS)
    shutil.copy(cells, tmp_path / "copy.csv")
    assert lookup.read(tmp_path / "copy.csv", CELLS).identity == read.identity
    assert len(read.identity) == 16
    left = read.without({read.cells.names[1], "no motif of the table"})
    assert left.cells.names == (read.cells.names[0], read.cells.names[2])
    np.testing.assert_array_equal(left.scores, read.scores[[0, 2]])
    np.testing.assert_array_equal(left.cells.archs.activation, read.cells.archs.activation[[0, 2]])
    assert left.curves == (read.curves[0], read.curves[2])
    assert [own.tolist() for own in left.seeds] == [[-1.0, -1.25], [-3.0, -3.25]]
    assert left.identity != read.identity
    turned = read.take(np.array([2, 1, 0]))
    assert turned.cells.names == read.cells.names[::-1]
    assert len(read.without(set(read.cells.names))) == 0


def test_the_noise_ceiling_is_the_tau_of_one_seed_against_the_mean_of_the_others():
    read = lookup.read(lookup.shipped("rnn_cell_ptb_tiny"), CELLS)
    first = np.stack([own for own in read.seeds if len(own) == 3])
    taus = [metrics.kendall_tau(first[:, s], np.delete(first, s, 1).mean(1)) for s in range(3)]
    expected = {"kendall_tau": pytest.approx(np.mean(taus)), "motifs": 100, "seeds": 3}
    assert read.noise_ceiling() == read.noise_ceiling(3) == expected
    assert read.noise_ceiling(2)["kendall_tau"] == metrics.noise_ceiling(first[:, :2])
    single = dataclasses.replace(read, seeds=tuple(own[:1] for own in read.seeds))
    assert single.noise_ceiling(3) == {"kendall_tau": None, "motifs": 0, "seeds": 3}
    assert single.noise_ceiling() == {"kendall_tau": None, "motifs": 500, "seeds": 1}
    two = read.take([0, 1])  # two motifs would always agree or never
    assert two.noise_ceiling() == {"kendall_tau": None, "motifs": 2, "seeds": 3}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_tables_say_what_they_said_in_their_older_formats(name):
    space, motifs, budget, seeds, ceiling_motifs, ceiling = SHIPPED[name]
    read = lookup.read(lookup.shipped(name), space)
    assert (len(read), read.budget, read.space) == (motifs, budget, space.name)
    assert read.noise_ceiling() == {
        "kendall_tau": ceiling,
        "motifs": ceiling_motifs,
        "seeds": seeds,
    }
    if space is not SLOPES:
        assert all(len(curve) == budget for curve in read.curves)
        assert read.unit == "negative nats per token"
        assert (
            read.identity
            == {
                "rnn_cell_nao_ptb_tiny": "b90b78bf4a6822ae",
                "rnn_cell_ptb_small": "d6527aa3c407a5ae",
                "rnn_cell_ptb_tiny": "d668ae62f4ea40f5",
                "rnn_cell_ptb_tiny_tuning": "70a6125ce28cf149",
            }[name]
        )
    else:
        assert read.unit == "accuracy"
        assert np.all(np.diff([float(name) for name in read.cells.names]) > 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no rows: give at least one evaluation"),
        ("cell,score\n", "has no rows"),
        ("slope,accuracy\n0.1,0.9\n", "needs one column named 'cell'.*ledger upgrade"),
        ("cell,score\n\n0.1,high\n", "line 3: score is 'high': give a number"),
        ("cell,score\n0.1,nan\n", "line 2: score is nan, but the status is ok"),
        ("cell,seed,score\n0.1,1.5,0.9\n", r"line 2: seed is '1\.5': give a whole number"),
        ("cell,score\n0,1,0,9\n", "line 2: 4 values for 2 columns"),
        (
            "cell,score\n0.1,0.9\n0.10,0.8\n",
            r"the cell '0\.1' with seed 0 and budget 1 is there twice",
        ),
        ("cell,score\n0.1,0.9\n0.1,0.8\n", "line 3: .* there twice"),
        ("cell,score,parent\n0.1,0.9,0.2\n", r"the cell '0\.1' .* inherited its weights"),
        ("cell,score\n-1,0.9\n", "holds something else than motifs: '-1' is no slope in"),
        (
            "cell,score,space\n0.1,0.9,nao\n",
            "holds motifs of the space 'nao': give a table of 'sigm",
        ),
        ("cell,score,task\n0.1,0.9,a\n0.2,0.9,b\n", "holds evaluations of 2 tasks"),
        ("cell,score,unit\n0.1,0.9,a\n0.2,0.9,b\n", "give a table of one task, with scores in one"),
        (b"cell,score\n0.1,\xff\n", "give a CSV file in UTF-8"),
        ("cell,score\n0.1," + "9" * 200_000, "line 2: field larger .* plain comma-separated"),
    ],
)
def test_mistakes_are_refused_with_file_and_remedy(write, content, message):
    path = write(content)
    for reader in (lookup.read, lookup.open_task):
        with pytest.raises(UserError, match=message) as caught:
            reader(path, SLOPES)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.csv is missing: give the path"):
        lookup.read(tmp_path / "nothing.csv", SLOPES)
    with pytest.raises(UserError, match="cannot be read"):
        lookup.read(tmp_path, SLOPES)


def test_shipped_finds_tables_in_the_package_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(lookup.resources, "files", lambda package: tmp_path / package)
    folder = tmp_path / "spd_jax" / "data" / "tables"
    folder.mkdir(parents=True)
    with pytest.raises(UserError, match=r"no table 'mine' .* \(none\)"):
        lookup.shipped("mine")
    (folder / "mine.csv").write_text("cell,score\n0.1,0.9\n")
    assert lookup.read(lookup.shipped("mine"), SLOPES).scores == [0.9]
    with pytest.raises(UserError, match=r"no table '\.\./other' .* one of mine, or"):
        lookup.shipped("../other")


# The task


def test_the_task_answers_with_what_the_table_holds(cells):
    task = lookup.open_task(cells, CELLS)
    assert isinstance(task, BatchTask)
    assert (task.budget, task.unit) == (3, "nats")
    names = lookup.read(cells, CELLS).cells.names
    expected = [evaluation for _, evaluation in cell_rows()]
    answers = task.evaluate_many([names[2], names[1], names[0]], [1, 1, 0], 3)
    assert dict(answers) == {0: expected[5], 1: expected[3], 2: expected[0]}
    assert task.evaluate(names[2], 0, 1) == expected[6]
    for asked in ((names[0], 0, 1), (names[0], 2, 3), ("a cell", 0, 3), (names[0], 0, 4)):
        with pytest.raises(UserError, match=r"cells\.csv has no evaluation of the cell .* seed"):
            task.evaluate(*asked)


def test_curves_answer_smaller_budgets_where_the_caller_says_so(cells):
    task = lookup.open_task(cells, CELLS, answers_smaller_budgets=True)
    names = lookup.read(cells, CELLS).cells.names
    answer = task.evaluate(names[0], 0, 2)
    assert answer == Evaluation("ok", -2.0, math.nan, (-3.0, -2.0), 4.0, unit="nats")
    assert task.evaluate(names[2], 0, 1).score == -99  # what was bought comes before curves
    assert task.evaluate(names[1], 1, 2).status == "failed"
    with pytest.raises(UserError, match="has no evaluation"):
        task.evaluate(names[0], 0, 4)


def test_the_fingerprint_is_of_content_and_the_task_can_be_pickled(cells, tmp_path):
    task = lookup.open_task(cells, CELLS)
    shutil.copy(cells, tmp_path / "copy.csv")
    assert lookup.open_task(tmp_path / "copy.csv", CELLS).fingerprint == task.fingerprint
    again = pickle.loads(pickle.dumps(task))
    assert again == task
    assert again.fingerprint == task.fingerprint
    changed = [(key, dataclasses.replace(x, seconds=7.0)) for key, x in cell_rows()]
    table.write(tmp_path / "copy.csv", changed, {})
    assert lookup.open_task(tmp_path / "copy.csv", CELLS).fingerprint != task.fingerprint


def test_the_task_has_the_methods_of_the_protocol():
    for name, method in inspect.getmembers(BatchTask, inspect.isfunction):
        if not name.startswith("_"):
            expected = list(inspect.signature(method).parameters)
            assert list(inspect.signature(getattr(lookup.LookupTask, name)).parameters) == expected


# Tables of others, averages, and searches within a table


def numbers(path):
    """Read lines of a cell and a score: a format of others."""
    pairs = [line.split() for line in path.read_text().splitlines()]
    seeds = {}
    for cell, score in pairs:
        seeds[cell] = seeds.get(cell, -1) + 1
        key = EvaluationKey("", cell, "theirs", seeds[cell], 7)
        yield key, Evaluation("ok", float(score), float(score) / 2, (0.1,), 4.0, unit="points")


@pytest.fixture
def theirs(tmp_path):
    path = tmp_path / "theirs.txt"
    path.write_text("0.5 3\n0.1 1\n0.5 5\n1.5 2\n")
    return path


def test_a_reader_of_another_format_may_be_given(theirs):
    read = lookup.read(theirs, SLOPES, lambda path: list(numbers(path)))
    assert read.cells.names == ("0.5", "0.1", "1.5")
    assert read.scores.tolist() == [4, 1, 2]
    assert (read.task, read.unit, read.budget) == ("theirs", "points", 7)


def test_a_task_may_answer_with_the_mean_over_seeds(theirs):
    reader = lambda path: list(numbers(path))  # noqa: E731
    task = lookup.open_task(theirs, SLOPES, reader=reader, average_seeds=True)
    assert task.evaluate("0.5", 0, 7) == Evaluation(
        "ok", 4.0, 2.0, (), 4.0, unit="points", info={"seeds": 2}
    )
    assert task.evaluate("0.1", 0, 7).info == {"seeds": 1}
    with pytest.raises(UserError, match="has no evaluation"):
        task.evaluate("0.5", 1, 7)
    assert lookup.open_task(theirs, SLOPES, reader=reader).evaluate("0.5", 1, 7).score == 5


def test_a_mean_over_a_failure_is_a_failure():
    items = list(cell_rows())
    found = dict(lookup.averaged(items))
    ok, failed, _ = (found[key._replace(seed=0)] for key, _ in items[:6:2])
    assert (ok.status, ok.score, ok.info) == ("ok", -1.125, {"seeds": 2})
    assert (failed.status, failed.error) == ("failed", "no")


def test_the_cells_of_a_task_are_those_it_evaluates_in_full(cells):
    task = lookup.open_task(cells, CELLS)
    assert isinstance(task, ClosedTask)
    assert task.cells == tuple(NAMES)
    short = [(key._replace(budget=9), own) for key, own in cell_rows()][:1]
    longer = dataclasses.replace(task, items=(*task.items, *short))
    assert longer.cells == (NAMES[0],)


WIDTHS = Widths()


def tabulated(count):
    """Return the toy space cut to `count` of its 1,296 cells, with twins of none."""
    cells = Cells.of(WIDTHS, WIDTHS.sample(jax.random.key(3), 3 * count))
    first = sorted({name: i for i, name in reversed(list(enumerate(cells.names)))}.values())
    return lookup.TabulatedSpace(WIDTHS, cells.take(first[:count]))


def test_a_tabulated_space_draws_its_cells_as_the_whole_space_does():
    space = tabulated(300)
    drawn = space.sample(jax.random.key(0), 40)
    assert drawn.shape == (40, 4)
    assert all(space.allows(space.encode(arch)) for arch in drawn)
    # They are the first ones of the whole space's own draws that the table has.
    key = jax.random.split(jax.random.key(0))[1]
    own = WIDTHS.sample(jax.random.fold_in(key, 0), 40)
    kept = [arch for arch in own if space.allows(WIDTHS.encode(arch))]
    np.testing.assert_array_equal(drawn[: len(kept)], kept)
    assert 0 < len(kept) < 40
    np.testing.assert_array_equal(space.sample(jax.random.key(0), 40), drawn)


def test_where_the_table_is_a_small_part_the_rest_are_its_cells():
    space = tabulated(2)
    drawn = space.sample(jax.random.key(1), 50)
    names = [space.encode(arch) for arch in drawn]
    assert len(names) == 50
    assert set(names) == set(space.cells.names)


def test_a_tabulated_space_is_its_space_but_for_what_it_allows():
    space, key = tabulated(20), jax.random.key(5)
    archs = WIDTHS.sample(key, 6)
    assert space.name == WIDTHS.name
    np.testing.assert_array_equal(space.mutate(key, archs), WIDTHS.mutate(key, archs))
    crossed = WIDTHS.crossover(key, archs, archs[::-1])
    np.testing.assert_array_equal(space.crossover(key, archs, archs[::-1]), crossed)
    np.testing.assert_array_equal(space.decode("1-2-3-4"), [1, 2, 3, 4])
    np.testing.assert_array_equal(space.canonical(archs[0]), archs[0])
    assert not space.allows("no cell")


@pytest.mark.parametrize("proposer", [RandomSearch(), Genetic(parents=4)])
def test_no_proposer_leaves_the_table(proposer):
    space = tabulated(60)
    warm = warm_start(jax.random.key(0), space, 10)
    assert all(map(space.allows, warm.names))
    found = proposer.propose(jax.random.key(1), space, warm, np.arange(10.0), 30).cells
    assert len(set(found.names)) == 30
    assert all(map(space.allows, found.names))
    assert not set(found.names) & set(warm.names)
    with pytest.raises(UserError, match="only 50 of 51 new cells were found"):
        proposer.propose(jax.random.key(1), space, warm, np.arange(10.0), 51)


def test_only_a_task_that_knows_its_cells_cuts_a_space(tmp_path):
    assert lookup.space_of(Formula(), WIDTHS) is WIDTHS
    items = tuple(
        (EvaluationKey("toy_widths", name, "task", 0, 1), Evaluation("ok", 0.5))
        for name in ("1-2-3-4", "4-4-4-4")
    )
    cut = lookup.space_of(lookup.LookupTask(items, tmp_path), WIDTHS)
    assert cut.cells.names == ("1-2-3-4", "4-4-4-4")

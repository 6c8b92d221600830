"""studies.carry_over: readings and figures by hand, transfers, resumption, the command."""

import dataclasses
import json
import shutil

import commands
import jax
import matplotlib.image
import numpy as np
import pytest

from spd_jax import archs, dishes, files, metrics, problems
from spd_jax.archs import Cells
from spd_jax.dish import DishConfig
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup
from spd_jax.report import carry_over as report
from spd_jax.studies import carry_over, one_transfer
from spd_jax.studies.carry_over import CarryOverSettings, figures, transfers_of
from spd_jax.studies.one_transfer import Methods, SourceReading, Transfer
from spd_jax.surrogates.proxies import MEASURES, Proxy
from spd_jax.surrogates.slope_mlp import SlopeMlp

# With less work: one proxy, and fewer steps of the rival. The command's test has all of them.
SLOPES = dataclasses.replace(
    problems.get("sigmoid_slope"),
    proxies=lambda hidden: {"snip": Proxy("snip", problems.get("sigmoid_slope").family(hidden))},
    rivals={"slope_mlp": SlopeMlp(steps=5)},
)
KINDS = dataclasses.replace(problems.get("activation_slope"), proxies=lambda hidden: {})
DISH = DishConfig(
    inner_steps=2, outer_steps=2, train_samples=2, valid_samples=2, motif_batch=8, targets="ranks"
)
SETTINGS = CarryOverSettings(
    num_seeds=2, known=(0, 4), dish=DISH, hidden_size=1, more_steps=1, proxy_hidden_size=2
)
METHODS = Methods(DISH, 1, 1, 2)
HEADER = "space,cell,seed,score\n"


def truth(slope, peak):
    return 1 - (slope - peak) ** 2


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Two tables of slopes, peaks at 0.5 and 0.7, and one of three kinds; one motif failed."""
    folder = tmp_path_factory.mktemp("tables")
    grid = [round(0.1 + 0.15 * i, 2) for i in range(12)]
    kinds = ("sigmoid", "tanh", "sin")
    lines = {
        "source": [f"sigmoid_slope,{c},0,{truth(c, 0.5)}" for c in grid],
        "target": [f"sigmoid_slope,{c},0,{truth(c, 0.7)}" for c in grid],
        "kinds": [
            f"activation_slope,{kind} {c},0,{truth(c, 0.3 + 0.2 * i)}"
            for i, kind in enumerate(kinds)
            for c in grid[::2]
        ],
    }
    for name, own in lines.items():
        (folder / f"{name}.csv").write_text(HEADER + "\n".join(own) + "\n")
    return {name: folder / f"{name}.csv" for name in lines}


@pytest.fixture(scope="module")
def sides(tables):
    """Each table with its problem."""
    own = {"source": SLOPES, "target": SLOPES, "kinds": KINDS}
    return {name: (p, lookup.read(tables[name], p.space)) for name, p in own.items()}


@pytest.fixture(scope="module")
def finished(sides, tmp_path_factory):
    """A finished run between data sets; no test may change its folder."""
    folder = tmp_path_factory.mktemp("run")
    return carry_over.run(sides["source"], sides["target"], SETTINGS, folder, command="python -m x")


def contents(folder):
    """Return what a run's own files hold, but for times and file names of archives."""
    names = ("carry_over.csv", "predictions.csv", "summary.json", "config.json")
    return {name: (folder / name).read_text() for name in names}


# What tables say of one another


def test_truths_are_compared_within_each_table():
    archs, scores = np.array([1.0, 2, 3, 4], np.float32), np.array([0.9, 0.1, np.nan, 0.8])
    ranks = one_transfer.comparable(archs, scores, DISH)
    assert ranks.archs.tolist() == [1, 2, 4]
    np.testing.assert_allclose(ranks.truth, np.array([1, -1, 0]) * 1.5**0.5, rtol=1e-6)
    values = one_transfer.comparable(archs, scores, dataclasses.replace(DISH, targets="values"))
    known = np.array([0.9, 0.1, 0.8])
    np.testing.assert_allclose(values.truth, (known - 0.6) / known.std(), rtol=1e-6)


def test_a_table_is_read_at_its_motifs_and_between_them(sides):
    reading = SourceReading.of(Transfer("all", *sides["source"], *sides["target"]))
    one, two = truth(0.25, 0.5), truth(0.4, 0.5)
    expected = [one, 0.8 * one + 0.2 * two, truth(0.1, 0.5), truth(1.75, 0.5)]
    found = reading(np.array([0.25, 0.28, 0.05, 1.9], np.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_kind_that_the_source_lacks_is_read_from_the_kinds_that_it_has(sides):
    both = Transfer("all", *sides["kinds"], *sides["kinds"])
    reading = SourceReading.of(both)
    archs = Cells.read(KINDS.space, ["tanh 0.4", "tanh 0.55", "relu 0.4"]).archs
    between = (truth(0.4, 0.5) + truth(0.7, 0.5)) / 2
    lacking = np.mean([truth(0.4, peak) for peak in (0.3, 0.5, 0.7)])
    np.testing.assert_allclose(reading(archs), [truth(0.4, 0.5), between, lacking], rtol=1e-6)
    slopes = SourceReading.of(Transfer("all", *sides["source"], *sides["kinds"]))
    np.testing.assert_allclose(slopes(archs)[0], truth(0.4, 0.5), rtol=1e-6)


def test_a_table_of_other_motifs_is_not_read(sides):
    assert SourceReading.of(Transfer("all", *sides["kinds"], *sides["source"])) is None


def test_sigmoids_are_among_the_kinds_but_kinds_are_no_slopes(sides):
    embedded = Transfer("all", *sides["source"], *sides["kinds"]).embedded()
    assert KINDS.groups(embedded) == ["sigmoid"] * 12
    assert Transfer("all", *sides["kinds"], *sides["source"]).embedded() is None
    assert Transfer("all", *sides["source"], *sides["target"]).embedded() is not None


def test_cells_of_nao_are_read_as_cells_with_the_same_graph_but_not_the_other_way_round():
    nao, enas = problems.get("rnn_cell_nao"), problems.get("rnn_cell")
    source = lookup.read(lookup.shipped("rnn_cell_nao_ptb_tiny"), nao.space)
    target = lookup.read(lookup.shipped("rnn_cell_ptb_small"), enas.space)
    embedded = Transfer("all", nao, source, enas, target).embedded()
    assert (
        enas.space.encode(archs.unstack(embedded)[0]).split()[1:] == source.cells.names[0].split()
    )
    assert SourceReading.of(Transfer("all", nao, source, enas, target)) is None  # no cell in both
    assert Transfer("all", enas, target, nao, source).embedded() is None


def test_a_target_is_cut_to_groups(sides):
    def of(groups, source="source", known=(0,)):
        settings = dataclasses.replace(SETTINGS, groups=groups, known=known)
        return transfers_of(sides[source], sides["kinds"], settings)

    (new,) = of("new")
    assert set(KINDS.groups(new.target.cells.archs)) == {"tanh", "sin"}
    assert len(new.source) == 12
    each = of("each", "kinds")
    assert [own.name for own in each] == ["sigmoid", "tanh", "sin"]
    for own in each:
        assert set(KINDS.groups(own.target.cells.archs)) == {own.name}
        assert own.name not in KINDS.groups(own.source.cells.archs)
        assert (len(own.source), len(own.target)) == (12, 6)
        assert own.sizes((0, 1, 2, 40)) == (0, 1)
    with pytest.raises(UserError, match="must leave 5 of these to predict"):
        of("each", known=(40,))
    with pytest.raises(UserError, match="0 of the target"):
        of("new", "kinds")
    settings = dataclasses.replace(SETTINGS, groups="each")
    with pytest.raises(UserError, match="are none of sigmoid_slope: use all"):
        transfers_of(sides["kinds"], sides["target"], settings)


def test_a_network_with_other_parameters_is_refused(sides, tmp_path):
    cells = problems.get("rnn_cell")
    table = lookup.read(lookup.shipped("rnn_cell_ptb_small"), cells.space)
    with pytest.raises(UserError, match="does not fit the motif-network of rnn_cell"):
        carry_over.run(sides["source"], (cells, table), SETTINGS, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"known": (0, 2)}, "give 0, or 3 and more"),
        ({"more_steps": 3}, "more_steps=3 must be at most outer_steps=2"),
        ({"known": (8,)}, "leaves 12 motifs of the source and 12 of the target"),
    ],
)
def test_settings_that_cannot_be_run_are_refused(changes, words, sides, tmp_path):
    settings = dataclasses.replace(SETTINGS, **changes)
    with pytest.raises(UserError, match=words):
        carry_over.run(sides["source"], sides["target"], settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Figures


def test_figures_are_those_counted_by_hand(sides):
    transfer = Transfer("all", *sides["source"], *sides["target"])
    scores, slopes = transfer.target.scores, SLOPES.coordinate(transfer.target.cells.archs)
    all_, test = np.ones(12, bool), np.arange(12) < 2
    predicted = truth(slopes, 0.4)
    found = figures(transfer, predicted, all_, test, 0.5)
    assert found["kendall_tau"] == metrics.kendall_tau(predicted, scores) < 0.99
    assert found["kendall_tau_test"] == pytest.approx(1)  # 0.1 and 0.25 rise to both peaks
    assert found["kendall_tau_left"] == pytest.approx(1)
    assert found["peak_error"] == pytest.approx(0.3)
    assert found["regret"] == pytest.approx(0.09)
    none = figures(transfer, predicted, all_, test & (slopes < 0.2), 0.0)
    assert np.isnan([none["kendall_tau_test"], none["kendall_tau_left"]]).all()


def test_differences_are_paired():
    def rows(method, values):
        return [
            dict.fromkeys(carry_over.FIGURES, value)
            | {"group": "all", "seed": seed, "known": 0, "method": method}
            for seed, value in enumerate(values)
        ]

    both = rows("dish", [0.5, 0.7, 0.9, np.nan]) + rows("rival", [0.4, 0.8, 0.6, 0.1])
    found = carry_over._paired(both, ["all"])["0"]["rival"]
    tau, off = found["kendall_tau"], found["peak_error"]
    assert tau["mean"] == pytest.approx(0.1)  # of 0.1, -0.1 and 0.3
    assert tau["standard_error"] == pytest.approx(0.2 / 3**0.5)
    assert (tau["wins"], tau["losses"], tau["pairs"]) == (2, 1, 3)
    assert (off["wins"], off["losses"]) == (1, 2)


# Runs


def test_every_method_stands_at_its_number_of_truths(finished):
    at = {known: {r["method"] for r in finished.rows if r["known"] == known} for known in (0, 4)}
    always = {"dish", "gaussian_process", "random_forest", "slope_mlp"}
    assert at[0] == always | {"dish_untrained", "source_table", "snip"}
    assert at[4] == always | {"gaussian_process_target", "reading_process"}
    assert {row["group"] for row in finished.rows} == {"all"}
    assert {row["seed"] for row in finished.rows} == {0, 1}
    summary = json.loads((finished.path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert "dish_source" in summary["paired"]["all"]["4"]
    spread = summary["figures"]["all"]["0"]["source_table"]["peak_error"]
    assert spread["values"] == pytest.approx([0.15, 0.15])  # 0.55 for 0.7: 0.5 is no motif
    lines = files.read_csv(finished.path / "predictions.csv", ())[1]
    assert len(lines) == 2 * 2 * 12
    known = [line for _, line in lines if line["known"] == "4" and line["split"] == "known"]
    assert len(known) == 2 * 4
    assert {line["dish_untrained"] for _, line in lines if line["known"] == "4"} == {""}


def test_the_dish_is_what_a_fit_on_the_source_says_of_the_target(finished, sides):
    source, target = sides["source"][1], sides["target"][1]
    surrogate = METHODS.dish(SLOPES)
    fitted = surrogate.fit(jax.random.key(0), source.cells.archs, source.scores)
    predicted = fitted.predict(target.cells.archs)
    tau = metrics.kendall_tau(finished.predictions[0]["dish"], predicted)
    assert tau == pytest.approx(1)
    kept = dishes.read(finished.path / "learned_dish.npz")
    np.testing.assert_array_equal(kept.predict(target.cells.archs), finished.predictions[0]["dish"])
    assert kept.provenance["source"] == "source.csv"
    assert kept.provenance["command"] == "python -m x"


@pytest.mark.parametrize("moment", ["source", "4 truths"])
def test_a_run_that_was_killed_ends_as_an_uninterrupted_one(moment, finished, sides, tmp_path):
    class KilledError(Exception):
        """The run ends here."""

    told = []

    def kill(event):
        told.append(getattr(event, "note", ""))
        if len([note for note in told if note.endswith(moment)]) == 2:  # of the second seed
            raise KilledError

    with pytest.raises(KilledError):
        carry_over.run(sides["source"], sides["target"], SETTINGS, tmp_path, listen=kill)
    assert not (tmp_path / "summary.json").exists()
    carry_over.run(sides["source"], sides["target"], SETTINGS, tmp_path)
    assert contents(tmp_path) == contents(finished.path)


def test_a_run_is_extended_and_a_damaged_result_made_anew(finished, sides, tmp_path):
    shutil.copytree(finished.path, tmp_path / "run")
    result = tmp_path / "run" / "results" / "all_seed0.json"
    result.write_text(result.read_text().replace("0.", "1.", 1))
    more = dataclasses.replace(SETTINGS, num_seeds=3)
    found = carry_over.run(sides["source"], sides["target"], more, tmp_path / "run")
    assert [r for r in found.rows if r["seed"] < 2] == finished.rows
    assert {row["seed"] for row in found.rows} == {0, 1, 2}
    other = dataclasses.replace(more, hidden_size=2)
    with pytest.raises(UserError, match="hidden_size=1, not 2"):
        carry_over.run(sides["source"], sides["target"], other, tmp_path / "run")


@pytest.fixture(scope="module")
def kinds(sides, tmp_path_factory):
    """A run from slopes of the sigmoid to kinds that are none."""
    settings = dataclasses.replace(SETTINGS, groups="new", num_seeds=1)
    folder = tmp_path_factory.mktemp("kinds")
    return carry_over.run(sides["source"], sides["kinds"], settings, folder)


def test_kinds_have_figures_of_their_own(kinds):
    assert {row["group"] for row in kinds.rows} == {"all", "tanh", "sin"}
    groups = kinds.summary["figures"]["groups"]["0"]
    assert len(groups["dish"]["kendall_tau"]["values"]) == 2
    by_kind = [kinds.summary["by_group"][kind]["0"] for kind in ("tanh", "sin")]
    values = [own["dish"]["kendall_tau"]["median"] for own in by_kind]
    assert values == groups["dish"]["kendall_tau"]["values"]
    taus = groups["source_table"]["kendall_tau"]["values"]
    assert taus[0] == pytest.approx(1)  # the source's peak is that of tanh
    assert taus[1] < 0.99


def test_a_source_that_cannot_be_put_into_the_target_goes_on_without(sides, tmp_path):
    settings = dataclasses.replace(SETTINGS, num_seeds=1)
    found = carry_over.run(sides["kinds"], sides["target"], settings, tmp_path)
    at = {known: {r["method"] for r in found.rows if r["known"] == known} for known in (0, 4)}
    assert "dish" in at[0] & at[4]
    assert "gaussian_process" in at[4] - at[0]  # of the target's truths alone
    assert "source_table" not in at[0]


# What people see


@pytest.mark.parametrize("which", ["finished", "kinds"])
def test_text_and_picture_show_the_run(which, request, tmp_path):
    found = dataclasses.replace(request.getfixturevalue(which), path=tmp_path)
    text = report.results(found)
    assert max(map(len, text.splitlines())) <= 80
    tau = found.summary["figures"]["all"]["0"]["dish"]["kendall_tau"]["median"]
    line = next(line for line in text.splitlines() if line.strip().startswith("learned dish"))
    assert line.split()[2] == f"{tau:.2f}"
    (path,) = report.draw(found)
    assert matplotlib.image.imread(path).std() > 0.01
    panels = report.picture(found).axes
    assert [label.get_text() for label in panels[0].get_xticklabels()] == ["0", "4"]
    words = {text.get_text() for text in panels[1].get_legend().get_texts()}
    assert {"learned dish", "untrained dish", "source's table"} <= words


def test_the_command_runs_and_ships_a_dish(tables, tmp_path):
    given = [f"--source={tables['source']}", f"--target={tables['target']}", "--num_seeds=1"]
    given += ["--inner_steps=2", "--outer_steps=1", "--more_steps=1", "--num_dishes=2"]
    given += ["--known=0", "--hidden_size=1", "--proxy_hidden_size=2"]
    run = [*given, f"--workdir={tmp_path / 'run'}", f"--ship={tmp_path / 'dish.npz'}"]
    done = commands.run("carry_over", *run)
    assert done.code == 0, done.stderr
    assert "source.csv -> target.csv" in done.stdout
    learned = dishes.read(tmp_path / "dish.npz")
    assert learned.provenance["command"].startswith("python -m experiments.carry_over --source=")
    assert "workdir" not in learned.provenance["command"]
    assert learned.fitted.surrogate.config.ensemble_size == 2
    lines = files.read_csv(tmp_path / "run" / "carry_over.csv", ())[1]
    assert {line["method"] for _, line in lines} >= {*MEASURES, "slope_mlp", "dish_untrained"}
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["preset"], config["dish"]["targets"]) == ("carried", "ranks")
    cells = ["--source=rnn_cell_ptb_tiny", "--target=rnn_cell_ptb_small"]
    for wrong, words in (
        (["--ship=dish.zip"], "--ship=dish.zip must end in .npz"),
        (["--source=nothing"], "no table 'nothing' comes with spd_jax"),
        (["--groups=some"], "--groups"),
        # Cells have six outer steps, those of their own preset, and slopes 80.
        ([*cells, "--more_steps=100"], "--more_steps=100 must be at most --outer_steps=6"),
    ):
        own = wrong if wrong[:2] == cells else [*given, *wrong]
        done = commands.run("carry_over", *own, f"--workdir={tmp_path / 'wrong'}")
        assert done.code == 1
        assert words in done.stderr

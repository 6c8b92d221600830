"""Every mistake of a user of the sigmoid-slope experiment is one sentence."""

import commands
import pytest
from commands import contents
from sigmoid_slope_runs import FLAGS, write_table

REFUSED = {  # flags, and what the sentence says; in the folder of a finished run
    "missing file": (["--ground_truth={place}/none.csv"], "none.csv is missing"),
    "missing column": (["--ground_truth={place}/column.csv"], "one column named 'score'"),
    "older table": (["--ground_truth={place}/older.csv"], "python -m spd_jax.ledger upgrade"),
    "failed run": (["--ground_truth={place}/nan.csv"], "line 5: score is nan"),
    "table is a folder": (["--ground_truth={place}"], "cannot be read"),
    "two tables": (
        ["--compute_ground_truth"],
        "--ground_truth and --compute_ground_truth exclude each other",
    ),
    "no source": (["--source={place}/none.csv"], "none.csv is missing"),
    "another source": (["--source=digits"], "holds a run with --source=null"),
    "few motifs": (["--num_train=11"], "10 slopes in [0.37, 2.01], but --num_train=11"),
    "other setting": (["--outer_steps=7"], "holds a run with --outer_steps=6, not 7"),
    "other network": (["--nouse_bias"], "holds a run with --use_bias=true, not false"),
    "other rates": (["--inner_learning_rate=0.02"], "[0.01], not [0.02]"),
    "fewer seeds": (["--num_seeds=1"], "holds a run with --num_seeds=2, not 1"),
    "stray word": (["runs/here"], "'runs/here' is no flag"),
    "no number": (["--outer_l2=abc"], "--outer_l2=abc: give numbers"),
    "no dish": (["--num_dishes=0"], "--num_dishes=0 must be at least 1"),
    "no width": (["--hidden_size=0"], "--hidden_size=0 must be at least 1"),
    "no widths": (["--hidden_size="], "--hidden_size is empty"),
    "below a file": (["--workdir={place}/nan.csv/run"], "cannot write in"),
    "no folder": (["--workdir="], "--workdir is empty"),
    "preset": (["--preset=foo"], "--preset=foo is unknown: use one of"),
    "unknown flag": (["--nonsense=1"], "'nonsense'"),
    "few known": (["--num_train=1"], "--num_train=1"),
    "large share": (["--held_out_share=0.95"], "--held_out_share=0.95"),
    "share that is no number": (["--held_out_share=nan"], "--held_out_share=nan must be finite"),
    "infinite interval": (
        ["--train_slope_max=inf"],
        "max=inf: inf is not a number in the range",
    ),
    "negative seed": (["--seed=-1"], "--seed=-1"),
}
REFUSED_BY_THE_RUN = {  # in a new folder, which the run has begun
    "too few to hold out": (
        ["--num_train=3", "--held_out_share=0.5"],
        "4 are needed to hold some out",
    ),
    "equal scores": (["--ground_truth={place}/equal.csv"], "there is nothing to learn"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with tables that are none."""
    folder = tmp_path_factory.mktemp("mistakes")
    write_table(folder / "equal.csv", score=lambda slope, seed: 0.5)
    (folder / "column.csv").write_text("cell,loss\n0.1,0.9\n")
    (folder / "older.csv").write_text("slope,accuracy\n0.1,0.9\n")
    (folder / "nan.csv").write_text("cell,score\n0.1,0.9\n0.2,0.9\n0.3,0.9\n0.4,nan\n")
    return folder


def refused(folder, words, slope_run, place):
    """Run a command that must end with one sentence; return the sentence."""
    words = [word.format(place=place) for word in words]
    done = commands.run("sigmoid_slope", f"--workdir={folder}", *FLAGS, *slope_run.flags, *words)
    assert (done.code, done.stdout) == (1, "")
    return done.stderr


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_one_sentence_and_leaves_earlier_results(name, slope_run, place):
    words, sentence = REFUSED[name]
    before = contents(slope_run.folder)
    error = refused(slope_run.folder, words, slope_run, place)
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert sentence in error
    assert contents(slope_run.folder) == before


@pytest.mark.parametrize("name", REFUSED_BY_THE_RUN)
def test_a_mistake_that_only_the_run_sees_is_a_sentence_too(name, slope_run, place, tmp_path):
    words, sentence = REFUSED_BY_THE_RUN[name]
    error = refused(tmp_path, words, slope_run, place)
    *_, last = error.splitlines()
    assert last.startswith("error: ")
    assert sentence in last
    assert "Traceback" not in error


def test_a_table_is_no_source_for_itself(tmp_path):
    flags = ["--dataset=digits", "--source=digits", f"--workdir={tmp_path / 'run'}"]
    done = commands.run("sigmoid_slope", *flags)
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr == "error: --source=digits is the data set itself: give another one\n"
    assert not (tmp_path / "run").exists()


def test_help_says_what_a_setting_means():
    done = commands.run("sigmoid_slope", "--help")
    assert done.stderr == ""
    for flag in ("workdir", "num_seeds", "[no]compute_ground_truth", "num_dishes", "hidden_size"):
        assert f"\n  --{flag}: " in done.stdout
    assert "slopes to choose" not in done.stdout
    assert "paper: 60" in done.stdout

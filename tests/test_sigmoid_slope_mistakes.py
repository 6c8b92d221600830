"""Every mistake of a user of the sigmoid-slope experiment is one sentence."""

import concurrent.futures

import pytest
from sigmoid_slope_runs import (
    contents,
    run,
    write_table,
)

# Refusals

REFUSED = {  # flags, and what the sentence says; in the folder of a finished run
    "missing file": (["--ground_truth={place}/none.csv"], "none.csv is missing"),
    "missing column": (["--ground_truth={place}/column.csv"], "one column named 'accuracy'"),
    "failed run": (["--ground_truth={place}/nan.csv"], "line 5: accuracy is 'nan'"),
    "few motifs": (["--num_train=11"], "10 slopes in [0.37, 2.01], but --num_train=11"),
    "other setting": (["--outer_steps=7"], "use its flags to go on with it"),
    "fewer seeds": (["--num_seeds=1"], "num_seeds=2, not 1"),
    "stray word": (["runs/here"], "'runs/here' is no flag"),
    "no number": (["--outer_l2=abc"], "--outer_l2=abc: give numbers"),
    "no dish": (["--num_dishes=0"], "must be at least 1"),
    "no width": (["--hidden_size=0"], "--hidden_size=0 must be at least 1"),
    "below a file": (["--workdir={place}/table.csv/run"], "cannot write in"),
    "table is a folder": (["--ground_truth={place}"], "cannot be read"),
}
REFUSED_BY_PARSER = {
    "preset": ["--preset=foo"],
    "nonsense": ["--nonsense=1"],
    "num_train": ["--num_train=1"],
    "held_out_share": ["--held_out_share=0.95"],
}
REFUSED_IN_A_NEW_FOLDER = {
    "infinite interval": ["--train_slope_max=inf"],
    "share that is no number": ["--held_out_share=nan"],
    "negative seed": ["--seed=-1"],
    "too few to hold out": ["--num_train=3", "--held_out_share=0.5"],
    "equal accuracies": ["--ground_truth={place}/equal.csv"],
}


@pytest.fixture(scope="module")
def refusals(finished, two_seeds, place):
    """Return how each refused command ended; the finished folder's bytes before and after."""
    write_table(place / "equal.csv", accuracy=lambda slope, seed: 0.5)
    (place / "column.csv").write_text("slope,score\n0.1,0.9\n")
    (place / "nan.csv").write_text("slope,accuracy\n0.1,0.9\n0.2,0.9\n0.3,0.9\n0.4,nan\n")
    jobs = {name: (finished[0], words) for name, (words, _) in REFUSED.items()}
    jobs |= {name: (finished[0], words) for name, words in REFUSED_BY_PARSER.items()}
    jobs |= {
        name: (place / "new" / str(number), words)
        for number, (name, words) in enumerate(REFUSED_IN_A_NEW_FOLDER.items())
    }

    def refuse(job):
        folder, words = job
        return run(folder, *two_seeds, *(word.format(place=place) for word in words))

    before = contents(finished[0])
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        ended = dict(zip(jobs, pool.map(refuse, jobs.values()), strict=True))
    return ended, before, contents(finished[0])


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_one_sentence(name, refusals):
    done = refusals[0][name]
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert REFUSED[name][1] in done.stderr


@pytest.mark.parametrize("name", REFUSED_BY_PARSER)
def test_a_flag_that_the_parser_refuses_is_named(name, refusals):
    done = refusals[0][name]
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"--{name}" in done.stderr or f"'{name}'" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("name", REFUSED_IN_A_NEW_FOLDER)
def test_a_mistake_that_only_the_run_sees_is_a_sentence_too(name, refusals):
    done = refusals[0][name]
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_mistakes_leave_earlier_results_as_they_were(refusals, place):
    _, before, after = refusals
    assert after == before
    assert (place / "table.csv").is_file()

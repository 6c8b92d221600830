"""The experiment from its command line: its files, its pictures, kill -9, mistakes.

`SPD_JAX_KILLS=20 pytest tests/test_forward_search_experiment.py` kills it twenty times.
"""

import csv
import json
import os
import random
import time

import commands
import forward_search_driver as driver
import pytest
from matplotlib.collections import PolyCollection

from spd_jax.errors import UserError
from spd_jax.forward_search import arch as arch_lib
from spd_jax.forward_search import jobs
from spd_jax.report import forward_search as report
from spd_jax.studies import forward_cost
from spd_jax.studies.forward_settings import ForwardSettings

KILLS = int(os.environ.get("SPD_JAX_KILLS", "2"))
PICTURES = {"hull.png", "growth.png", "cell.png", "alphas.png"}
PNG = b"\x89PNG"


def ended(process):
    """Wait for a process; return its code and what it wrote."""
    output, errors = process.communicate(timeout=900)
    return process.returncode, output, errors


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of an uninterrupted run with every control, its log and its output."""
    folder = tmp_path_factory.mktemp("forward") / "whole"
    log = folder.parent / "whole.log"
    process = driver.begin(
        log, f"--workdir={folder}", "--beside=longer,random,selection", "--repeats=1"
    )
    code, output, errors = ended(process)
    assert code == 0, errors
    return folder, log, output


def events(log):
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def models(folder):
    """Return the rows of a table of models."""
    with (folder / "models.csv").open(newline="") as stream:
        return list(csv.DictReader(line for line in stream if not line.startswith("#")))


def test_a_run_writes_what_it_should(whole):
    folder, _, output = whole
    names = {path.name for path in folder.iterdir()}
    assert names >= PICTURES | {"summary.json", "models.csv", "best.npz", "best_arch.json"}
    for name in PICTURES:
        assert (folder / name).read_bytes()[:4] == PNG
    arch, weights, _ = jobs.load(folder / "best.npz")
    assert arch == arch_lib.from_json(json.loads((folder / "best_arch.json").read_text()))
    assert any(path.endswith("eta") for path in weights)
    assert max(len(line) for line in output.splitlines() if "wrote" not in line) <= 80
    assert "tau of selectors" in output
    for name in ("grown", "seed for longer", "random choice"):
        assert name in output


def test_the_summary_says_what_the_table_does(whole):
    folder, _, _ = whole
    summary = json.loads((folder / "summary.json").read_text())
    rows = models(folder)
    for name, figures in summary["methods"].items():
        finals = [row for row in rows if row["method"] == name and row["final"] == "1"]
        values = [float(row["test_error"]) for row in finals]
        assert figures["test_error"]["values"] == values
        assert len(finals) == 1
    grown, longer = (
        summary["methods"][name]["test_error"]["values"] for name in ("grown", "longer")
    )
    wanted = [one - two for one, two in zip(grown, longer, strict=True)]
    assert summary["paired"]["longer"]["values"] == pytest.approx(wanted)
    best = min(
        (r for r in rows if r["method"] == "grown" and r["growth"] != "0"),
        key=lambda r: (float(r["error"]), float(r["cross_entropy"])),
    )
    assert best["final"] == "1"
    assert summary["best"]["arch"] == best["arch"]


def test_selectors_are_compared_with_every_single_edge(whole):
    summary = json.loads((whole[0] / "summary.json").read_text())
    found = summary["selection"]
    assert set(found["selectors"]) == {
        "alpha", "gradient", "certain", "signed", "projection", "proxy", "dish"
    }  # fmt: skip
    for own in found["gains"].values():
        assert [len(row) for row in own["normal"]] == [1] * 4  # one training of four edges
    for own in found["selectors"].values():
        assert all(-1 <= tau <= 1 for tau in own["values"])
    assert json.dumps(found["pooled"])


def test_the_final_training_takes_what_a_search_has_written(whole, tmp_path):
    folder, log = tmp_path / "final", tmp_path / "final.log"
    flags = [
        f"--workdir={folder}", f"--final_arch={whole[0] / 'best_arch.json'}", "--final_epochs=1",
        "--normal=2", "--cutout=2", "--drop_path=0.2", "--all_images",
    ]  # fmt: skip
    code, output, errors = ended(driver.begin(log, *flags))
    assert code == 0, errors
    summary = json.loads((folder / "summary.json").read_text())
    arch, _, _ = jobs.load(folder / "final_seed0.npz")
    found = arch_lib.from_json(json.loads((whole[0] / "best_arch.json").read_text()))
    assert arch == arch_lib.scaled(found, 2)
    assert (arch.kinds, str(arch)) == (("normal",) * 2, summary["arch"])
    assert 0 <= summary["test_error"]["mean"] <= 1
    assert "error" not in summary  # of images that were trained on
    assert "1 epochs from scratch" in output
    (folder / "final_seed0.npz").unlink()
    log.unlink()
    assert ended(driver.begin(log, *flags))[0] == 0
    assert not events(log)  # nothing was trained again
    assert (folder / "final_seed0.npz").exists()


def test_a_run_killed_again_and_again_ends_as_an_uninterrupted_one(whole, tmp_path):
    finished, _, _ = whole
    folder, log = tmp_path / "killed", tmp_path / "killed.log"
    flags = [f"--workdir={folder}", "--beside=longer"]
    draw = random.Random(KILLS)
    jobs_ = 1 + 2 * 2 + 2
    targets = sorted(draw.uniform(0, jobs_ - 1) for _ in range(KILLS))
    for target in targets:
        with driver.begin(log, *flags) as process:
            deadline = time.monotonic() + 600
            while sum(words[0] == "put" for words in events(log)) < int(target):
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.5))
            process.kill()
    code, _, errors = ended(driver.begin(log, *flags))
    assert code == 0, errors
    wanted = [row for row in models(finished) if row["method"] in ("grown", "longer")]
    assert models(folder) == wanted
    paid = set()
    for words, following in zip(events(log), [*events(log)[1:], ["end"]], strict=True):
        if words[0] == "begin":
            assert tuple(words) not in paid, "trained though its result was there"
            if following[0] == "put":
                paid.add(tuple(words))
    assert len(paid) == jobs_


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--preset=nonsense"], "use one of digits"),
        (["--dataset=cifar10", "--data_dir=nowhere"], "data_batch_1.bin is missing"),
        (["--ops=sep3,sep9"], "unknown"),
        (["--train_images=3000"], "ask for fewer"),
        (["--beside=everything"], "unknown"),
        (["--single_slots=left"], "use some of normal, reduction"),
        (["--all_images"], "give --final_arch"),
        (["--final_arch=nowhere.json"], "give the best_arch.json of a search"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, flags, words):
    done = commands.run("forward_search", *flags, f"--workdir={tmp_path / 'run'}")
    assert done.code == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_cells_of_every_search_are_drawn():
    for search in arch_lib.SEARCHES:
        arch = arch_lib.seed(search, 1, 1)
        for _ in range(2):
            arch = arch.grown({slot: arch.candidates(slot)[-3:] for slot in arch.slots})
        axes = report.cell_figure(arch).axes
        assert len(axes) == min(len(arch.slots), 4)
        words = [text.get_text() for text in axes[0].texts]
        assert words.count("learner 0") == words.count("learner 1") == words.count("sum") == 1


def test_pictures_show_the_runs_own_band_and_say_which_slots_they_leave_out(whole):
    summary = json.loads((whole[0] / "summary.json").read_text())
    assert summary["band"] == ForwardSettings().band
    tops = []
    for band in (0.0, 0.5):
        axes = report.hull_figure(summary | {"band": band}).axes[0]
        (filled,) = [own for own in axes.collections if isinstance(own, PolyCollection)]
        tops.append(filled.get_paths()[0].vertices[:, 1].max())
    assert tops[1] == pytest.approx(1.5 * tops[0])

    macro = arch_lib.seed("macro", 3, 1)
    chosen = {slot: macro.candidates(slot)[:1] for slot in macro.slots}
    weak = {
        "growth": 1, "arch": str(macro), "chosen": {},
        "alphas": {slot: [0.1] * len(macro.candidates(slot)) for slot in macro.slots},
    }  # fmt: skip
    figures = {
        "the first 4 of 7 slots": (
            report.cell_figure(macro.grown(chosen)),
            report.alphas_figure({"searches": [{"seed": 0, "weak": [weak]}]}),
        ),
        "": (report.cell_figure(arch_lib.seed("cell", 1, 1)), report.alphas_figure(summary)),
    }
    for words, drawn in figures.items():
        for figure in drawn:
            title = figure.get_suptitle()
            assert words in title
            assert bool(words) == ("slots" in title)


def test_a_preset_says_what_its_phases_would_cost():
    settings = ForwardSettings(
        filters=2, transitions=0, halved=True, ops=("max3", "identity"), batch_size=32,
        train_images=320, weak_epochs=7,
    )  # fmt: skip
    found = forward_cost.measure(settings)
    assert [own.name for own in found] == ["seed", "weak", "child"]
    for own in found:
        assert own.step_seconds > 0
        assert own.items_per_second == pytest.approx(32 / own.step_seconds)
        assert own.hours == pytest.approx(own.step_seconds * 10 * own.epochs / 3600)
    assert found[1].multiply_adds > found[0].multiply_adds
    assert "hours" in report.phases(found)


def test_a_step_that_does_not_fit_is_one_sentence(monkeypatch):
    def too_large(*given):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1e12 bytes")

    monkeypatch.setattr(forward_cost.training, "start", too_large)
    with pytest.raises(UserError, match="a step of the seed phase does not fit into the device"):
        forward_cost.measure(ForwardSettings(filters=2, transitions=0, ops=("max3",)))

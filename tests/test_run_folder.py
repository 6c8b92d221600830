"""run_folder: settings kept and compared, files in one piece, and how a main begins and ends."""

import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from spd_jax.errors import UserError
from spd_jax.studies import run_folder
from spd_jax.studies.run_folder import RunFolder

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = {"rate": 0.5, "sizes": [1, 2], "budget": 3}


def contents(folder):
    """Return the bytes of every file below a folder."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def opened(path, **changes):
    return RunFolder.open(str(path), CONFIG | changes, may_grow=("budget",))


def test_a_new_run_keeps_its_settings_and_versions(tmp_path):
    folder = opened(tmp_path / "deep" / "run")
    assert folder.path == tmp_path / "deep" / "run"
    assert sorted(path.name for path in contents(tmp_path)) == ["config.json", "versions.json"]
    assert json.loads((folder.path / "config.json").read_text()) == CONFIG
    versions = json.loads((folder.path / "versions.json").read_text())
    assert versions["packages"]["jax"] == jax.__version__
    assert versions["packages"]["numpy"] == np.__version__
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["cores"] == os.cpu_count()
    assert len(versions["devices"]) == jax.device_count()
    assert versions["commit"] == run_folder.commit()
    assert re.fullmatch(r"[0-9a-f]{12,}(-dirty)?|unknown", versions["commit"])


def test_the_same_settings_go_on_however_they_are_written(tmp_path):
    opened(tmp_path)
    before = contents(tmp_path)
    opened(tmp_path, sizes=(1, 2))
    assert contents(tmp_path) == before


def test_a_larger_budget_extends_a_run(tmp_path):
    opened(tmp_path)
    opened(tmp_path, budget=5)
    assert json.loads((tmp_path / "config.json").read_text())["budget"] == 5
    with pytest.raises(UserError, match="budget=5, not 4"):
        opened(tmp_path, budget=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rate": 0.6},
            r"holds a run with rate=0\.5, not 0\.6: use .* another --workdir",
        ),
        ({"rate": None}, r"rate=0\.5, not None"),
        ({"sizes": [1]}, r"sizes=\[1, 2\], not \[1\]"),
        ({"budget": 2}, "budget=3, not 2"),
        ({"new": True}, "new=None, not True"),
    ],
)
def test_other_settings_are_refused_and_change_nothing(changes, message, tmp_path):
    opened(tmp_path)
    (tmp_path / "summary.json").write_text("{}")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        opened(tmp_path, **changes)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("first", "second"),
    [({}, {"budget": 3}), ({"budget": 3}, {}), ({"budget": None}, {"budget": 3})],
)
def test_a_budget_that_is_new_or_gone_is_another_setting(first, second, tmp_path):
    RunFolder.open(str(tmp_path), {"rate": 1} | first, may_grow=("budget",))
    with pytest.raises(UserError, match="holds a run with budget="):
        RunFolder.open(str(tmp_path), {"rate": 1} | second, may_grow=("budget",))


def test_of_many_settings_only_the_one_that_differs_is_named(tmp_path):
    RunFolder.open(str(tmp_path), {"dish": {"steps": 3, "rate": 0.5}, "seeds": 1})
    with pytest.raises(UserError) as caught:
        RunFolder.open(str(tmp_path), {"dish": {"steps": 4, "rate": 0.5}, "seeds": 1})
    assert "holds a run with steps=3, not 4: " in str(caught.value)
    assert "rate" not in str(caught.value)


def test_the_folder_of_another_experiment_is_refused_as_such(tmp_path):
    RunFolder.open(str(tmp_path), {"slopes": 1, "dataset": "digits", "seeds": 2})
    with pytest.raises(UserError, match="holds a run of another experiment: use another"):
        RunFolder.open(str(tmp_path), {"cells": 1, "preset": "tiny", "seeds": 2})


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\xff"])
def test_a_damaged_config_is_refused_and_left_alone(text, tmp_path):
    opened(tmp_path)
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"config\.json cannot be read: delete it .*, or"):
        opened(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("path", ["file", "file/run"])
def test_a_folder_that_cannot_be_made_is_the_users_error(path, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot write in .*file"):
        opened(tmp_path / path)
    assert (tmp_path / "file").read_text() == "not a folder"


def test_json_is_strict_and_written_in_one_piece(tmp_path):
    folder = RunFolder(tmp_path)
    path = folder.write_json("states/a.json", {"b": [1, None, 0.1]})
    assert path == tmp_path / "states" / "a.json"
    assert folder.read_json("states/a.json") == {"b": [1, None, 0.1]}
    before = contents(tmp_path)
    for bad in (float("nan"), float("-inf"), object()):
        with pytest.raises((ValueError, TypeError)):
            folder.write_json("states/a.json", {"b": bad})
    assert contents(tmp_path) == before


def test_json_that_is_missing_or_damaged(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.read_json("none.json") is None
    (tmp_path / "cut.json").write_text('{"a": ')
    with pytest.raises(UserError, match=r"cut\.json is damaged: delete it to compute it anew"):
        folder.read_json("cut.json")


def test_metrics_are_lines_in_order(tmp_path):
    folder = RunFolder(tmp_path)
    lines = [{"seed": seed, "step": step} for seed in (0, 1) for step in (1, 2, 3)]
    for line in lines:
        folder.add_metrics(line)
    written = (tmp_path / "metrics.jsonl").read_text()
    assert [json.loads(line) for line in written.splitlines()] == lines
    folder.keep_metrics(lambda line: True)
    assert (tmp_path / "metrics.jsonl").read_text() == written


@pytest.mark.parametrize("cut", ["", "{", '{"seed": 1, "ste', '{"seed": 1, "step": '])
def test_lines_after_the_last_saved_state_are_dropped(cut, tmp_path):
    folder = RunFolder(tmp_path)
    for seed in (0, 1):
        for step in (1, 2, 3):
            folder.add_metrics({"seed": seed, "step": step})
    with open(tmp_path / "metrics.jsonl", "a") as stream:
        stream.write(cut)
    folder.keep_metrics(lambda line: line["seed"] != 1 or line["step"] <= 2)
    folder.add_metrics({"seed": 1, "step": 3})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["seed"], line["step"]) for line in lines] == [
        (0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)
    ]  # fmt: skip


def test_a_line_that_lacks_only_its_end_is_ended(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}')
    folder.keep_metrics(lambda line: True)
    folder.add_metrics({"step": 3})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'


def test_a_run_without_metrics_gets_none(tmp_path):
    RunFolder(tmp_path).keep_metrics(lambda line: True)
    assert contents(tmp_path) == {}


# Mains

SCRIPT = """
import sys
import jax
from spd_jax.studies import run_folder
from spd_jax.errors import UserError

end = sys.argv.pop(1)

def main(argv):
    sharding = run_folder.motif_sharding()
    shards = [] if sharding is None else [
        (str(shard.device), shard.data.shape)
        for shard in jax.device_put(jax.numpy.zeros((6, 2)), sharding).addressable_shards
    ]
    print(argv[1:], jax.device_count(), len({device for device, _ in shards}),
          {shape for _, shape in shards})
    if end == "mistake":
        raise UserError("the table has no rows: give some")
    if end == "interrupt":
        raise KeyboardInterrupt
    if end == "defect":
        raise ValueError("ours")

run_folder.run_main(main)
"""
ENDINGS = {
    "well": ["well", "--cpu_devices=3"],
    "mistake": ["mistake", "--cpu_devices=1"],
    "interrupt": ["interrupt", "--cpu_devices=1"],
    "defect": ["defect", "--cpu_devices=1"],
    "stray word": ["well", "--cpu_devices=1", "runs/here"],
    "no device": ["well", "--cpu_devices=0"],
    "unknown flag": ["well", "--nonsense=1"],
}


@pytest.fixture(scope="module")
def endings():
    """Return how each of `ENDINGS` ended."""

    def run(words):
        command = [sys.executable, "-c", SCRIPT, *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return dict(zip(ENDINGS, pool.map(run, ENDINGS.values()), strict=True))


def test_motifs_are_spread_over_as_many_host_devices_as_asked_for(endings):
    assert endings["well"].returncode == 0
    assert endings["well"].stdout == "[] 3 3 {(2, 2)}\n"
    assert endings["mistake"].stdout == "[] 1 0 set()\n"


@pytest.mark.parametrize(
    ("ending", "status", "error"),
    [
        ("well", 0, ""),
        ("mistake", 1, "error: the table has no rows: give some\n"),
        ("interrupt", 130, "interrupted: the same command goes on from here\n"),
        ("stray word", 1, "error: 'runs/here' is no flag: write --name=value\n"),
    ],
)
def test_a_main_ends_with_a_sentence_and_a_status(ending, status, error, endings):
    assert (endings[ending].returncode, endings[ending].stderr) == (status, error)


@pytest.mark.parametrize(("ending", "flag"), [("no device", "cpu_dev"), ("unknown flag", "nonsen")])
def test_flags_that_are_refused_show_no_traceback(ending, flag, endings):
    assert endings[ending].returncode == 1
    assert endings[ending].stdout == ""
    assert "Traceback" not in endings[ending].stderr
    assert flag in endings[ending].stderr


def test_a_defect_keeps_its_traceback(endings):
    assert endings["defect"].returncode == 1
    assert "Traceback" in endings["defect"].stderr
    assert "ValueError: ours" in endings["defect"].stderr


def test_help_shows_the_flags_of_shared_modules_too():
    done = subprocess.run(
        [sys.executable, "-m", "experiments.rnn_cell_tuning", "--help"],
        cwd=pathlib.Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    for flag in ("--candidates", "--workdir", "--num_dishes"):
        assert f"\n  {flag}: " in done.stdout

"""run_folder: one process at a time, settings kept and compared, files whole or made anew."""

import contextlib
import json
import logging
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spd_jax.errors import UserError
from spd_jax.studies import machine, run_folder
from spd_jax.studies.run_folder import LAYOUT, SEAL, RunFolder, open_folder

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = {"study": "example", "rate": 0.5, "sizes": [1, 2], "budget": 3}


def contents(folder):
    """Return the bytes of every file below a folder, but not those of its lock."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path: path.read_bytes() for path in paths if path.name != ".lock"}


def opened(path, **changes):
    """Open a folder with other settings than `CONFIG` and close it again."""
    with open_folder(path, CONFIG | changes, may_grow=("budget",)) as folder:
        return folder


# Settings


def test_a_new_run_keeps_its_settings_and_versions(tmp_path):
    folder = opened(str(tmp_path / "deep" / "run"))
    assert folder.path == tmp_path / "deep" / "run"
    assert sorted(path.name for path in contents(tmp_path)) == ["config.json", "versions.json"]
    assert json.loads((folder.path / "config.json").read_text()) == {"layout": LAYOUT} | CONFIG
    versions = json.loads((folder.path / "versions.json").read_text())
    assert versions["packages"]["jax"] == jax.__version__
    assert versions["packages"]["numpy"] == np.__version__
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["cores"] == machine.cores()
    assert len(versions["devices"]) == jax.device_count()
    assert versions["commit"] == machine.commit()
    assert re.fullmatch(r"[0-9a-f]{12,}(-dirty)?|unknown", versions["commit"])


def test_the_same_settings_go_on_however_they_are_written(tmp_path):
    opened(tmp_path)
    before = contents(tmp_path)
    opened(tmp_path, sizes=(1, 2), new=None)
    config = tmp_path / "config.json"
    assert contents(tmp_path) | {config: b""} == before | {config: b""}
    config.write_text(json.dumps(dict(reversed(json.loads(config.read_text()).items()))))
    opened(tmp_path)


def test_a_larger_budget_extends_a_run(tmp_path):
    opened(tmp_path)
    opened(tmp_path, budget=5)
    assert json.loads((tmp_path / "config.json").read_text())["budget"] == 5
    with pytest.raises(UserError, match="budget=5, not 4"):
        opened(tmp_path, budget=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 0.6}, r"holds a run with rate=0\.5, not 0\.6: use .* or another folder"),
        ({"rate": None}, r"rate=0\.5, not null"),
        ({"sizes": [1]}, r"sizes=\[1, 2\], not \[1\]"),
        ({"budget": 2}, "budget=3, not 2"),
        ({"budget": "4"}, 'budget=3, not "4"'),
        ({"new": True}, "new=null, not true"),
        ({"study": "other"}, "holds a run of another experiment: use another folder"),
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
    with open_folder(tmp_path, {"rate": 1} | first, may_grow=("budget",)):
        pass
    with (
        pytest.raises(UserError, match="holds a run with budget="),
        open_folder(tmp_path, {"rate": 1} | second, may_grow=("budget",)),
    ):
        pass


def test_of_many_settings_only_the_one_that_differs_is_named(tmp_path):
    opened(tmp_path, dish={"steps": 3, "decay": 0.5})
    with pytest.raises(UserError) as caught:
        opened(tmp_path, dish={"steps": 4, "decay": 0.5})
    assert "holds a run with steps=3, not 4: " in str(caught.value)
    assert "rate" not in str(caught.value)
    assert "decay" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "whose"),
    [
        ({"rate": 0.5, "sizes": [1, 2]}, "spd_jax 0.2 or older"),
        ({}, "spd_jax 0.2 or older"),
        ({"layout": LAYOUT + 1} | CONFIG, "another version of spd_jax"),
        ({"layout": None} | CONFIG, "another version of spd_jax"),
    ],
)
def test_a_folder_of_another_layout_is_refused_with_what_to_do(config, whose, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    before = contents(tmp_path)
    with pytest.raises(UserError, match=rf"holds a run of {whose}, .* copy its ledger\.sqlite"):
        opened(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", "\xff", "[" * 100_000, '{"a": ' * 100_000, "9" * 5000]
)
def test_a_damaged_config_is_refused_and_left_alone(text, tmp_path):
    opened(tmp_path)
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"config\.json cannot be read: delete it .*, or use"):
        opened(tmp_path)
    assert contents(tmp_path) == before
    (tmp_path / "config.json").unlink()
    opened(tmp_path)


# The lock

HOLD = """
import sys, time
from spd_jax.studies.run_folder import open_folder

with open_folder(sys.argv[1], {"study": "example", "seed": 1}):
    print("open", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def held(folder):
    """Let another process work in a folder until the block ends, which kills it."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "open\n"
            yield
        finally:
            process.send_signal(signal.SIGKILL)


def test_two_processes_do_not_work_in_one_folder_and_a_kill_frees_it(tmp_path):
    folder = tmp_path / "run"
    with held(folder):
        before = contents(folder)
        for seed in (1, 2):  # the same settings or others
            with (
                pytest.raises(UserError, match=r"^another process works in .*run: wait") as caught,
                open_folder(folder, {"study": "example", "seed": seed}),
            ):
                pass
            assert "\n" not in str(caught.value)
        assert contents(folder) == before
    with open_folder(folder, {"study": "example", "seed": 1}):
        assert (folder / ".lock").exists()


def test_the_folder_is_locked_before_anything_is_written(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(RunFolder, "write_json", lambda folder, name, content: written.append(name))
    with open_folder(tmp_path, CONFIG):
        assert written == ["config.json", "versions.json"]
        with pytest.raises(UserError, match="another process works in"), open_folder(tmp_path, {}):
            pass
    assert written == ["config.json", "versions.json"]


@pytest.mark.parametrize("error", [UserError("a mistake"), KeyboardInterrupt(), ValueError("ours")])
def test_the_lock_ends_with_the_block_however_it_ends(error, tmp_path):
    with pytest.raises(type(error)), open_folder(tmp_path, CONFIG):
        raise error
    opened(tmp_path)


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    folder, precious = tmp_path / "run", tmp_path / "precious"
    folder.mkdir()
    for target in (precious, tmp_path / "nowhere"):
        precious.write_text("mine")
        (folder / ".lock").symlink_to(target)
        with pytest.raises(UserError, match=r"\.lock is no plain file: delete it, or use another"):
            opened(folder)
        (folder / ".lock").unlink()
        assert precious.read_text() == "mine"
        assert not (tmp_path / "nowhere").exists()
        assert contents(folder) == {}


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_lock_that_is_no_file_is_refused(make, tmp_path):
    make(tmp_path / ".lock")
    with pytest.raises(UserError, match=r"\.lock is no plain file: delete it, or use another"):
        opened(tmp_path)
    assert contents(tmp_path) == {}


def test_a_file_of_that_name_keeps_what_it_holds(tmp_path):
    (tmp_path / ".lock").write_text("of another program")
    opened(tmp_path)
    assert (tmp_path / ".lock").read_text() == "of another program"


def test_a_file_system_without_locks_is_the_users_error(tmp_path, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(UserError, match=r"cannot be locked \(No locks available\): use a folder"):
        opened(tmp_path)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("path", ["file", "file/run"])
def test_a_folder_that_cannot_be_made_is_the_users_error(path, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot write in .*file.*: give a folder that you may"):
        opened(tmp_path / path)
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.fixture
def as_nobody():
    """Be a user who may not write where he is not allowed to, which root may."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


@pytest.fixture
def read_only():
    """Return a folder that everybody may read and nobody may write to."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        yield pathlib.Path(folder)
        os.chmod(folder, 0o755)


def test_a_read_only_folder_is_the_users_error(read_only, as_nobody):
    for path in (read_only, read_only / "run"):
        with pytest.raises(UserError, match=r"cannot write in .* \(Permission denied\): give"):
            opened(path)


# What a run ran on

COMMIT = "from spd_jax.studies import machine; print(machine.commit())"


def test_without_git_the_commit_is_unknown(tmp_path):
    found = subprocess.run(
        [sys.executable, "-c", COMMIT], cwd=ROOT, env=os.environ | {"PATH": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (found.stdout, found.stderr) == ("unknown\n", "")


def test_an_installed_package_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert machine.commit() == "unknown"
    (tmp_path / ".git").mkdir()  # and it is no repository either
    assert machine.commit() == "unknown"


def test_the_commit_says_whether_files_differ_and_writes_nothing(tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.check_output(["git", *who, *arguments], cwd=tmp_path, text=True)

    monkeypatch.setattr(machine, "ROOT", tmp_path)
    (tmp_path / "a").write_text("a")
    git("init", "--quiet")
    git("add", "a")
    git("commit", "--quiet", "--message=a")
    os.utime(tmp_path / "a", (0, 0))  # it only looks changed: `git describe` would note that
    (tmp_path / "untracked").write_text("b")
    before = contents(tmp_path / ".git")
    assert machine.commit() == git("rev-parse", "--short=12", "HEAD").strip()
    (tmp_path / "a").write_text("b")
    assert machine.commit() == git("rev-parse", "--short=12", "HEAD").strip() + "-dirty"
    assert contents(tmp_path / ".git") == before


def test_a_package_that_is_missing_has_no_version(monkeypatch):
    monkeypatch.setattr(machine, "PACKAGES", ("numpy", "no-such-package"))
    assert machine.versions()["packages"] == {"numpy": np.__version__, "no-such-package": None}


# Files


def test_json_is_strict_and_written_in_one_piece(tmp_path):
    folder = RunFolder(tmp_path)
    path = folder.write_json("a.json", {"b": [1, None, 0.1]})
    assert path == tmp_path / "a.json"
    assert json.loads(path.read_text()) == {"b": [1, None, 0.1]}
    folder.keep_json("states/a.json", {"b": [1, None, 0.1]})
    assert folder.read_json("states/a.json", dict) == {"b": [1, None, 0.1]}
    before = contents(tmp_path)
    for bad in (float("nan"), float("-inf"), object()):
        for write in (folder.write_json, folder.keep_json):
            with pytest.raises((ValueError, TypeError)):
                write("states/a.json", {"b": bad})
    assert contents(tmp_path) == before


def test_a_digit_that_changed_is_noticed(tmp_path, caplog):
    RunFolder(tmp_path).keep_json("a.json", {"score": 0.5, "steps": [1], "name": "a"})
    text = (tmp_path / "a.json").read_text()
    assert RunFolder(tmp_path).read_json("a.json", parse) == (0.5, [1], "A")
    (tmp_path / "a.json").write_text(text.replace("0.5", "0.7"))
    assert RunFolder(tmp_path).read_json("a.json", parse) is None
    assert "its checksum is another" in warnings_of(caplog)[0]


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("name", ["none.json", "no/folder/none.json"])
def test_json_that_is_missing_is_not_there_and_nothing_is_said(name, tmp_path, caplog):
    assert RunFolder(tmp_path).read_json(name, lambda content: content) is None
    assert warnings_of(caplog) == []


def sealed(content):
    """Return a JSON object with the checksum that belongs to it; other bytes as they are."""
    try:
        found = json.loads(content)
        return json.dumps({**found, SEAL: run_folder._seal(found)}).encode()
    except (ValueError, TypeError, RecursionError):
        return content


def parse(content):
    """Return what was written: `{"score": 0.5, "steps": [1], "name": "a"}`."""
    if content["name"] == "refused":
        raise UserError("a name that nobody has")
    return (
        float(content["score"]),
        [int(step) for step in content["steps"]],
        content["name"].upper(),
    )


@pytest.mark.parametrize(
    "text",
    [
        "", '{"a": ', "\xff", "3", "null", "[]", "{}", '"text"', "[" * 100_000, "9" * 5000,
        '{"score": NaN, "steps": [], "name": "a"}',
        '{"score": -Infinity, "steps": [], "name": "a"}',
        '{"score": "high", "steps": [], "name": "a"}',
        '{"score": 0.5, "steps": 3, "name": "a"}',
        '{"score": 0.5, "steps": [1e999], "name": "a"}',
        '{"score": 0.5, "steps": [null], "name": "a"}',
        '{"score": 0.5, "steps": [], "name": 3}',
        '{"score": 0.5, "steps": [], "name": "refused"}',
        '{"score": 1' + "0" * 400 + ', "steps": [], "name": "a"}',
    ],
)  # fmt: skip
def test_json_that_is_damaged_is_made_anew_with_a_warning(text, tmp_path, caplog):
    folder = RunFolder(tmp_path)
    (tmp_path / "a.json").write_bytes(sealed(text.encode("latin-1")))
    assert folder.read_json("a.json", parse) is None
    (warning,) = warnings_of(caplog)
    assert re.search(r"a\.json is damaged \(.*\) and made anew$", warning)
    folder.keep_json("a.json", {"score": 1, "steps": [2.0], "name": "b"})
    assert folder.read_json("a.json", parse) == (1.0, [2], "B")


def test_json_that_is_a_folder_is_damaged(tmp_path, caplog):
    (tmp_path / "a.json").mkdir()
    assert RunFolder(tmp_path).read_json("a.json", parse) is None
    assert len(warnings_of(caplog)) == 1


numbers = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text())
trees = st.recursive(
    numbers, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=9
)
near = st.fixed_dictionaries({}, optional=dict.fromkeys(("score", "steps", "name"), trees))
written = json.dumps({"score": 0.5, "steps": [1, 2], "name": "a"}).encode()


@given(
    st.one_of(
        st.binary(),
        trees.map(lambda tree: json.dumps(tree).encode()),
        near.map(lambda tree: json.dumps(tree).encode()),
        st.tuples(st.integers(0, len(written)), st.binary(min_size=1, max_size=2)).map(
            lambda cut: written[: cut[0]] + cut[1] + written[cut[0] + len(cut[1]) :]
        ),
    )
)
def test_json_of_any_shape_is_read_or_made_anew(content):
    with tempfile.TemporaryDirectory() as path:
        (pathlib.Path(path) / "a.json").write_bytes(sealed(content))
        found = RunFolder(pathlib.Path(path)).read_json("a.json", parse)
    assert found is None or isinstance(found[0], float)


def test_metrics_are_lines_in_order(tmp_path):
    folder = RunFolder(tmp_path)
    lines = [{"seed": seed, "step": step} for seed in (0, 1) for step in (1, 2, 3)]
    for line in lines:
        folder.add_metrics(line)
    written = (tmp_path / "metrics.jsonl").read_text()
    assert [json.loads(line)["step"] for line in written.splitlines()] == [1, 2, 3] * 2
    assert folder.metrics(lambda line: True) == lines
    folder.keep_metrics(lambda line: True)
    assert (tmp_path / "metrics.jsonl").read_text() == written


def test_a_number_that_is_not_finite_is_kept_as_none(tmp_path):
    folder = RunFolder(tmp_path)
    folder.add_metrics({"losses": [0.5, math.nan, -math.inf]})
    assert folder.metrics(lambda line: True) == [{"losses": [0.5, None, None]}]


@pytest.mark.parametrize("place", range(len('{"step": 1.25, "seed": 0,')))
def test_a_line_of_metrics_with_another_digit_is_dropped(place, tmp_path):
    folder = RunFolder(tmp_path)
    for seed in (0, 1):
        folder.add_metrics({"step": 1.25, "seed": seed})
    content = bytearray((tmp_path / "metrics.jsonl").read_bytes())
    content[place] ^= 1
    (tmp_path / "metrics.jsonl").write_bytes(content)
    left = folder.metrics(lambda line: True)
    assert left[-1] == {"step": 1.25, "seed": 1}
    assert len(left) == 1


@pytest.mark.parametrize(
    "cut", ["", "{", '{"seed": 1, "ste', '{"seed": 1, "step": ', "[]\n", "3\n", "\xff\n{}"]
)
def test_lines_after_the_last_saved_state_are_dropped(cut, tmp_path):
    folder = RunFolder(tmp_path)
    for seed in (0, 1):
        for step in (1, 2, 3):
            folder.add_metrics({"seed": seed, "step": step})
    with open(tmp_path / "metrics.jsonl", "a", encoding="latin-1") as stream:
        stream.write(cut)
    folder.keep_metrics(lambda line: line["seed"] != 1 or line["step"] <= 2)
    folder.add_metrics({"seed": 1, "step": 3})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["seed"], line["step"]) for line in lines] == [
        (0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)
    ]  # fmt: skip


def test_a_line_that_lacks_only_its_end_is_ended(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_metrics([{"step": 1}, {"step": 2}])
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().removesuffix("\n"))
    folder.keep_metrics(lambda line: True)
    folder.add_metrics({"step": 3})
    assert folder.metrics(lambda line: True) == [{"step": step} for step in (1, 2, 3)]
    assert path.read_text().count("\n") == 3


def test_a_run_without_metrics_gets_none(tmp_path):
    RunFolder(tmp_path).keep_metrics(lambda line: True)
    assert contents(tmp_path) == {}


def test_metrics_that_cannot_be_written_are_the_users_error(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    folder = RunFolder(tmp_path)
    folder.keep_metrics(lambda line: True)
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be written \(.*\): free some"):
        folder.add_metrics({"step": 1})


def test_cores_are_those_that_the_process_may_use(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5, 7})
    monkeypatch.setattr(machine, "QUOTA", tmp_path / "cpu.max")
    assert machine.cores() == 4
    for quota, expected in {"max": 4, "150000": 2, "10000": 1, "900000": 4}.items():
        (tmp_path / "cpu.max").write_text(f"{quota} 100000\n")
        assert machine.cores() == expected

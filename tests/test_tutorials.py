"""The tutorials run as they stand, are short, and become pages of the site."""

import importlib.util
import pathlib
import re
import runpy
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
TUTORIALS = {path.stem: path for path in sorted((ROOT / "docs" / "tutorials").glob("*.py"))}
PRINTED = {  # the last line that each prints
    "cluster": r"20 cells by 2 workers; best 0\.\d+",
    "flax_motif": r"nothing  dish [+-]\d\.\d\d   accuracy 0\.70",
    "own_activation": r"Kendall's tau on ten leaks that it never saw: -?\d\.\d\d",
    "own_space": r"best with sizes of at most 18 in all: \d(-\d){5}",
    "zero_to_forty": r"40 known( +(dish|process|mean of both) +-?\d\.\d\d){3}",
}


def test_there_is_a_tutorial_for_each_question():
    assert sorted(TUTORIALS) == sorted(PRINTED)
    for path in TUTORIALS.values():
        lines = path.read_text("utf-8").splitlines()
        assert len(lines) <= 80
        assert lines[0] == "# %% [markdown]"
        assert lines[1].startswith("# # ")


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_a_tutorial_runs_and_prints_its_result(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the workers
    runpy.run_path(str(TUTORIALS[name]))
    sys.modules.pop("my_task", None)
    printed = capsys.readouterr().out
    assert re.fullmatch(PRINTED[name], printed.splitlines()[-1]), printed


def test_cells_become_text_and_code(tmp_path):
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "docs" / "site_pages.py")
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    script = "# %% [markdown]\n# # Title\n#\n# Words.\n\n# %%\nx = 1\n\n\ny = 2\n"
    (tmp_path / "own.py").write_text(script)
    page = pages.page_of(tmp_path / "own.py")
    assert page.startswith("# Title\n\nWords.\n\n```python\nx = 1\n\n\ny = 2\n```\n\n*This page")

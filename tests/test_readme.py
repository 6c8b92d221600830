"""The examples of README and of docs/ run as they stand, and what they point to exists."""

import importlib
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def example(page):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)
    return code


def run(code, page):
    names: dict = {}
    exec(compile(code, page, "exec"), names)
    return names


def test_readme_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    assert len(re.findall(r"^\|[-|]+\|$", text, re.M)) <= 1  # tables


def test_the_example_of_an_own_motif_family_ranks_by_its_truth():
    code = example("README.md")
    assert len([line for line in code.splitlines() if line]) <= 20
    scores = run(code, "README.md")["scores"]
    assert scores.shape == (1000,)
    assert scores[200] > scores[900]  # the peak of its made-up truth is at 0.2


def test_the_example_of_an_own_search_finds_good_cells_and_buys_nothing_twice(
    tmp_path, monkeypatch
):
    code = example("docs/own_search.md")
    monkeypatch.chdir(tmp_path)
    runs = [run(code, "own_search.md") for _ in range(2)]
    assert [names["truth"].bought for names in runs] == [200, 0]
    first, second = (names["history"] for names in runs)
    assert [it.cells for it in first] == [it.cells for it in second]
    assert max(max(it.scores) for it in first) > max(first[0].scores) + 3


def test_the_examples_satisfy_the_protocols_under_mypy(tmp_path):
    pages = {"readme.py": "README.md", "own_search.py": "docs/own_search.md"}
    for name, page in pages.items():
        (tmp_path / name).write_text(example(page))
    command = [sys.executable, "-m", "mypy", "--config-file=", "--check-untyped-defs"]
    command += ["--ignore-missing-imports", f"--cache-dir={ROOT / '.mypy_cache'}", *pages]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@each_page
def test_every_make_target_module_and_file_that_a_page_names_exists(page):
    text = page.read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`make (\w+)", text)):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for module in set(re.findall(r"python -m ((?:experiments|spd_jax)[\w.]*\w)", text)):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    for target in re.findall(r"\[[^\]]*\]\(([^)#]+?)\)", text):
        assert "://" in target or (page.parent / target).exists(), target
    for path in set(re.findall(r"`((?:spd_jax|experiments|tests|docs)/[\w./]+\.\w+)`", text)):
        assert (ROOT / path).exists(), path


def test_the_site_shows_every_page():
    nav = (ROOT / "mkdocs.yml").read_text("utf-8").split("nav:")[1]
    shown = set(re.findall(r"([\w.]+\.md)$", nav, re.MULTILINE))
    beside = {"CONTRIBUTING.md", "BUILD_NOTES.md", "CHANGELOG.md"}
    tutorials = {f"{path.stem}.md" for path in ROOT.glob("docs/tutorials/*.py")}
    assert shown == {path.name for path in ROOT.glob("docs/*.md")} | beside | tutorials


def test_the_api_page_names_what_exists():
    for name in re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text("utf-8"), re.M):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            module, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(module), attribute), name

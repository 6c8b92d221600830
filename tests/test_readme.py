"""README's examples run as they stand."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[1]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


def test_the_example_of_an_own_motif_family_ranks_by_its_truth():
    code = EXAMPLES[0]
    assert len(code.strip().splitlines()) < 30
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    scores = names["scores"]
    assert scores.shape == (1000,)
    assert scores[200] > scores[900]  # the peak of its made-up truth is at 0.2


def test_the_example_of_an_own_search_finds_good_cells_and_buys_nothing_twice(
    tmp_path, monkeypatch
):
    code = EXAMPLES[1]
    assert len(code.strip().splitlines()) < 40
    monkeypatch.chdir(tmp_path)
    runs = []
    for _ in range(2):
        names: dict = {}
        exec(compile(code, "README.md", "exec"), names)
        runs.append(names)
    assert [run["truth"].bought for run in runs] == [200, 0]
    first, second = (run["history"] for run in runs)
    assert [it.cells for it in first] == [it.cells for it in second]
    assert max(max(it.scores) for it in first) > max(first[0].scores) + 3


def test_every_make_target_and_module_that_the_readme_names_exists():
    text = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`make (\w+)", text)):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for module in set(re.findall(r"python -m (experiments[\w.]*)", text)):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module
    for figure in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (ROOT / figure).exists(), figure

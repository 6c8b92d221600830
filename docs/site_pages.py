"""Hook of mkdocs: pages beside docs/ belong to the site, too, and tutorials are read as pages."""

import pathlib
import re
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
BESIDE = ("CONTRIBUTING.md", "BUILD_NOTES.md", "CHANGELOG.md")
SOURCE = "https://jupytext.readthedocs.io/en/latest/formats-scripts.html#the-percent-format"


def on_files(files: Any, config: Any) -> Any:
    """Add the pages beside docs/, as if they lay in it, and one page for each tutorial."""
    from mkdocs.structure.files import File

    pages = {name: (ROOT / name).read_text("utf-8") for name in BESIDE}
    for path in sorted((ROOT / "docs" / "tutorials").glob("*.py")):
        pages[f"tutorials/{path.stem}.md"] = page_of(path)
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def page_of(path: pathlib.Path) -> str:
    """Return a script with cells as a page: cells of text as text, all others as code."""
    cells = re.split(r"^# %%", path.read_text("utf-8"), flags=re.M)[1:]
    parts = []
    for cell in cells:
        head, _, body = cell.partition("\n")
        if "[markdown]" in head:
            parts.append("\n".join(line.removeprefix("#").removeprefix(" ")
                                   for line in body.strip().splitlines()))  # fmt: skip
        else:
            parts.append(f"```python\n{body.strip()}\n```")
    note = (
        f"*This page is the script `docs/tutorials/{path.name}` ([cells]({SOURCE})), which the "
        "tests run: open it in Jupyter or an editor that knows cells, or run it as it is.*"
    )
    return "\n\n".join([*parts, note]) + "\n"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to pages beside docs/ and to tutorials point into the site, unlink other code."""
    markdown = re.sub(r"\]\(tutorials/(\w+)\.py\)", r"](tutorials/\1.md)", markdown)
    for name in BESIDE:
        markdown = markdown.replace(f"](../{name}", f"]({name}")
    return re.sub(r"\[([^\]]*)\]\((?:\.\./)?(?:spd_jax|experiments|tests|CITATION|LICENSE)[^)]*\)",
                  r"\1", markdown)  # fmt: skip

"""Hook of mkdocs: pages that stand beside docs/ belong to the site, too."""

import pathlib
import re
from typing import Any

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parents[1]
BESIDE = ("CONTRIBUTING.md", "BUILD_NOTES.md", "CHANGELOG.md")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages beside docs/, as if they lay in it."""
    for name in BESIDE:
        text = (ROOT / name).read_text("utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to the pages beside docs/ point into the site; links to code become plain text."""
    for name in BESIDE:
        markdown = markdown.replace(f"](../{name}", f"]({name}")
    return re.sub(r"\[([^\]]*)\]\((?:\.\./)?(?:spd_jax|experiments|tests|CITATION|LICENSE)[^)]*\)",
                  r"\1", markdown)  # fmt: skip

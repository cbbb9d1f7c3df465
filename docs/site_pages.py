"""Pages of the site that do not lie in docs/: those of the root and of release/, and the API reference."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "",
    "SECURITY.md": "",
    "CHANGELOG.md": "",
    "release/README.md": "release.md",
}
OTHERS = ("LICENSE", "CITATION.cff")


def on_files(files: Files, *, config: Any) -> Files:
    for source, name in PAGES.items():
        files.append(File.generated(config, name or source, content=in_docs((ROOT / source).read_text("utf-8"))))
    for name in OTHERS:
        files.append(File.generated(config, f"{name}.txt", content=(ROOT / name).read_text("utf-8")))
    files.append(File.generated(config, "API.md", content=api()))
    return files


def in_docs(page: str) -> str:
    """A page from elsewhere with links as they must be in docs/, and without badges, which another server draws."""
    page = "".join(line for line in page.splitlines(keepends=True) if "img.shields.io" not in line)
    page = page.replace("](docs/", "](").replace("](../docs/", "](").replace("](README.md", "](index.md")
    return re.sub(rf"\]\((?:\.\./)?({'|'.join(map(re.escape, OTHERS))})\)", r"](\1.txt)", page)


def on_page_markdown(markdown: str, **_: Any) -> str:
    markdown = markdown.replace("](../README.md", "](index.md").replace("](../", "](")
    return markdown.replace("](release/README.md", "](release.md")


def api() -> str:
    """A section for each public name."""
    sys.path.insert(0, str(ROOT))
    import condensenet

    sections = (f"::: condensenet.{name}\n" for name in condensenet.__all__)
    return "\n".join(["# API reference\n\nThe names that `condensenet` exports.\n", *sections])

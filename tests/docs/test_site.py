"""The site of `make docs`, if its environment is there: no warning, and nothing is loaded from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

import condensenet


@pytest.fixture(scope="module")
def site(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    mkdocs = Path(os.environ.get("CONDENSENET_DOCS", checkout / "build/docs")) / "bin/mkdocs"
    if not mkdocs.is_file():
        pytest.skip("the environment of the site is missing: make docs makes it")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [mkdocs, "build", "--site-dir", folder],
        cwd=checkout,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "WARNING" not in output  # links and headings among them
    return folder


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    page = (site / "API.html").read_text(encoding="utf-8")
    headings = set(re.findall(r'id="condensenet\.(\w+)"', page))
    documented = {name for name in condensenet.__all__ if name != "presets"}  # a mapping, which has no docstring
    assert documented <= headings


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert re.findall(r'(?:src|<link[^>]*href)="https?:[^"]*"', text) == [], page.name

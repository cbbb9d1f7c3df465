"""The page in a real browser, if one is installed: no sideways scrolling on a phone or a desktop."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--allow-file-access-from-files",
    "--virtual-time-budget=3000",
)
MEASURE = """<!doctype html><body><iframe id="page" src="{page}" style="width:{width}px;height:900px"></iframe>
<script>document.getElementById("page").onload = event => {{
  const root = event.target.contentDocument.documentElement;
  document.body.append(`scroll width ${{root.scrollWidth}} of ${{root.clientWidth}}`);
}};</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    path = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    return path


@pytest.fixture(scope="module")
def page(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from report_outputs import digits, write_study

    from tasks import paths
    from tasks.report import __main__ as report
    from tasks.report.published import read_published
    from tasks.report.results import read_study

    params = digits(checkout)
    published = read_published(checkout / "conf" / "published.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("study"))
        write_study(params)
        study = read_study(params)
        report.write(study, published, report.draw(study, published))
        return Path.cwd() / params.paths.report / paths.REPORT_HTML


@pytest.mark.parametrize("width", [390, 1300])
def test_the_page_does_not_scroll_sideways(browser: str, page: Path, width: int, tmp_path: Path) -> None:
    frame = tmp_path / "frame.html"
    frame.write_text(MEASURE.format(page=page.as_uri(), width=width), encoding="utf-8")
    command = [browser, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    widths = re.search(r"scroll width (\d+) of (\d+)", done.stdout)
    assert widths is not None, done.stderr[-2000:]
    assert int(widths[1]) <= int(widths[2])

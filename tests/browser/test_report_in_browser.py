"""The page in a real browser, if one is installed: on a phone and a desktop, with its script."""

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
FRAME = """<!doctype html><body><iframe id="page" src="{page}" style="width:{width}px;height:900px"></iframe>
<script>document.getElementById("page").onload = event => {{
  const view = event.target.contentWindow, Event = view.Event;
  const output = document.createElement("output");
  output.textContent = (document => {{ {script} }})(view.document);
  document.body.append(output);
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


def evaluated(browser: str, page: Path, width: int, script: str, tmp_path: Path) -> str:
    """What ``script``, the body of a function of the page's ``document``, returns in a frame of ``width`` pixels."""
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(page=page.as_uri(), width=width, script=script), encoding="utf-8")
    command = [browser, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    result = re.search(r"<output>(.*?)</output>", done.stdout)
    assert result is not None, done.stderr[-2000:]
    return result[1]


@pytest.mark.parametrize("width", [390, 1300])
def test_the_page_does_not_scroll_sideways(browser: str, page: Path, width: int, tmp_path: Path) -> None:
    script = "const root = document.documentElement; return `${root.scrollWidth} of ${root.clientWidth}`"
    inner, outer = evaluated(browser, page, width, script, tmp_path).split(" of ")
    assert int(inner) <= int(outer)


def test_a_phone_shows_one_column_with_whole_charts(browser: str, page: Path, tmp_path: Path) -> None:
    script = """
      const box = each => each.getBoundingClientRect();
      const charts = [...document.querySelectorAll("figure svg")].map(box);
      const cells = [...document.querySelector("tbody tr").cells].map(box);
      return [charts.length, charts.every(c => c.left >= 0 && c.right <= 390), new Set(cells.map(c => c.left)).size]"""
    charts, all_fit, columns = evaluated(browser, page, 390, script, tmp_path).split(",")
    assert int(charts) > 4
    assert (all_fit, columns) == ("true", "1")


def test_tables_are_sorted_and_filtered(browser: str, page: Path, tmp_path: Path) -> None:
    script = """
      const table = document.querySelector("table"), out = [];
      const shown = () => [...table.tBodies[0].rows].filter(row => !row.hidden);
      const names = () => shown().map(row => row.cells[0].innerText.trim());
      const column = [...table.tHead.rows[0].cells].findIndex(cell => cell.innerText.startsWith("MACs"));
      const button = table.tHead.rows[0].cells[column].querySelector("button");
      button.click(); out.push(names()); button.click(); out.push(names());
      const field = document.querySelector("input[type=search]");
      field.value = "g4"; field.dispatchEvent(new Event("input")); out.push(names());
      return out.map(each => each.join(" ")).join("|")"""
    rising, falling, filtered = evaluated(browser, page, 1300, script, tmp_path).split("|")
    assert rising == "g4-c4 g4-c2 g2-c2 g1-c1"  # 250 k, 333 k, 500 k and 1.00 M
    assert falling == "g1-c1 g2-c2 g4-c2 g4-c4"
    assert filtered == "g4-c2 g4-c4"


def test_values_are_shown_at_the_pointer(browser: str, page: Path, tmp_path: Path) -> None:
    script = """
      const group = [...document.querySelectorAll("svg g")].find(each => each.ariaLabel?.startsWith("g4-c4: error"));
      group.dispatchEvent(new Event("pointermove"));
      const tip = document.querySelector(".tip");
      return `${tip.hidden} ${tip.textContent}`"""
    assert evaluated(browser, page, 1300, script, tmp_path).startswith(
        "false g4-c4: error 3.33% (1.9–5.7%), 250 k MACs"
    )

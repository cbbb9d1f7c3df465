"""The page in a real browser, if one is installed: on a phone and a desktop, with its script."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
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
SCHEMES = {"dark": 0, "light": 1}  # Blink's numbers
FRAME = """<!doctype html><meta name="color-scheme" content="light dark"><body>{frames}
<script>for (const frame of document.querySelectorAll("iframe")) frame.onload = event => {{
  const view = event.target.contentWindow, Event = view.Event;
  const output = document.createElement("output");
  output.textContent = (document => {{ {script} }})(view.document);
  frame.after(output);
}};</script>"""
PALE = """
  const view = document.defaultView, root = document.documentElement, pale = new Set();
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
  const behind = each => {
    for (; each; each = each.parentElement) {
      const colour = numbers(view.getComputedStyle(each).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  let texts = 0;
  for (const each of document.body.querySelectorAll("*:not(script):not(style)")) {
    const said = [...each.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!said || !each.getClientRects().length) continue;
    const style = view.getComputedStyle(each), drawn = each.namespaceURI.endsWith("svg");
    const [a, b] = [numbers(drawn ? style.fill : style.color), behind(each)].map(light).sort((x, y) => y - x);
    texts += 1;
    if ((a + .05) / (b + .05) < 4.5) pale.add(each.textContent.trim().slice(0, 30).replace(/\\s+/g, ' '));
  }
  const fits = root.scrollWidth <= root.clientWidth;
  return [view.innerWidth, fits, behind(document.body), texts > 100, [...pale]].join(";")"""


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
    return evaluated_at(browser, page, [width], script, tmp_path)[0]


def evaluated_at(
    browser: str, page: Path, widths: Sequence[int], script: str, tmp_path: Path, scheme: str = "light"
) -> list[str]:
    """The same in several frames of one browser, which prefers the colour ``scheme``."""
    frames = "".join(
        f'<iframe src="{page.as_uri()}" style="border:0;width:{width}px;height:900px"></iframe>' for width in widths
    )
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(frames=frames, script=script), encoding="utf-8")
    profile, colours = f"--user-data-dir={tmp_path / 'profile'}", f"preferredColorScheme={SCHEMES[scheme]}"
    command = [browser, *QUIET, profile, f"--blink-settings={colours}", "--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    results = re.findall(r"<output>(.*?)</output>", done.stdout)
    assert len(results) == len(widths), done.stderr[-2000:]
    return results


@pytest.mark.parametrize(("scheme", "background"), [("light", "255,255,255"), ("dark", "20,24,30")])
def test_the_page_fits_and_its_texts_can_be_read(
    browser: str, page: Path, scheme: str, background: str, tmp_path: Path
) -> None:
    """On a phone, a laptop and a large screen: no sideways scrolling, and a contrast of 4.5 (WCAG, level AA)."""
    widths = [390, 1300, 1440]
    found = evaluated_at(browser, page, widths, PALE, tmp_path, scheme)
    assert found == [f"{width};true;{background};true;" for width in widths]


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

"""Reports as a browser draws them: at both widths, light and dark, with few and with many trials."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser, start_browser
from report_cases import make_ladder, make_search, write_run
from search_helpers import write_space

from archlab.reporting.pages.search_page import search_page
from archlab.reporting.report import report

pytestmark = [
    pytest.mark.services,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to draw the pages"),
]

LOOK = """(() => {
  const found = [], boxOf = (element) => element.getBoundingClientRect();
  const overlap = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1.5
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2.5;
  for (const figure of document.querySelectorAll("figure[data-figure]")) {
    const svg = figure.querySelector("svg"), frame = svg && boxOf(svg);
    if (!svg || frame.height < 40 || !svg.querySelector(".mark")) { found.push(`${figure.id}: is empty`); continue; }
    const texts = [...svg.querySelectorAll("text")].filter((text) => text.textContent && !text.closest(".hot-layer"));
    for (const text of texts) {
      const box = boxOf(text);
      const isInside = box.left >= frame.left - 2 && box.right <= frame.right + 2 && box.top >= frame.top - 2
        && box.bottom <= frame.bottom + 2;
      if (!isInside) found.push(`${figure.id}: ${text.textContent} is outside of the figure`);
    }
    for (const kind of [".ticktext, .axis, .title", ".point-label", ".end-label", ".name:not(.point-label)"]) {
      const some = texts.filter((text) => text.matches(kind));
      some.forEach((one, index) => some.slice(index + 1).forEach((other) => {
        const names = `${one.textContent} | ${other.textContent}`;
        if (overlap(boxOf(one), boxOf(other))) found.push(`${figure.id}: ${names} overprint`);
      }));
    }
    for (const panel of figures.find((each) => each.id === figure.id).boxes) {
      const inside = [...svg.querySelectorAll(".mark")].some((mark) => {
        const box = boxOf(mark);
        return box.right >= frame.left + panel.x && box.left <= frame.left + panel.x + panel.width
          && box.bottom >= frame.top + panel.y - 8 && box.top <= frame.top + panel.y + panel.height + 8;
      });
      if (!inside) found.push(`${figure.id}: has a panel without a mark`);
    }
  }
  if (document.documentElement.scrollWidth > innerWidth) found.push("the page is wider than the screen");
  return found;
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with start_browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


def _search(trials: int, objectives: int, **options: bool | int) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        page = search_page(make_search(folder, trials, objectives=objectives, **options))
        (folder / "report.html").write_text(page)
        return folder / "report.html"

    return write


def _ladder(folder: Path) -> Path:
    (folder / "search.yaml").write_text("rungs: []\n")
    make_ladder(rungs=4, candidates=9).write(folder)
    return report(folder)


def _run(folder: Path) -> Path:
    write_space(folder)
    return report(write_run(folder / "run", folder / "tiny.yaml"))


PAGES = {
    "5 trials": _search(5, 1),
    "60 trials": _search(60, 1, seeds=3),
    "60 trials, 3 objectives": _search(60, 3),
    "1000 trials": _search(1000, 1, is_worse=True),
    "1000 trials, 3 objectives": _search(1000, 3),
    "a search that is running": _search(12, 1, has_ended=False),
    "a ladder": _ladder,
    "a run": _run,
}


@pytest.mark.parametrize("name", PAGES)
def test_every_figure_is_drawn_and_no_label_overprints(name: str, browser: Browser, tmp_path: Path) -> None:
    page = PAGES[name](tmp_path)
    for width, dark in ((1400, False), (1400, True), (390, False), (390, True)):
        browser.open(page, width=width, dark=dark)
        assert browser.complaints == []
        assert browser.run(LOOK) == []
        background = browser.run("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(20, 24, 27)") == dark


def test_figures_and_tables_are_used_by_hand(browser: Browser, tmp_path: Path) -> None:
    browser.open(PAGES["60 trials"](tmp_path), width=1400)
    sort = "document.querySelectorAll('[data-name=trials] th button')[2].click()"
    losses = "[...document.querySelectorAll('[data-name=trials] tbody tr')].map((row) => valueOf(row.cells[2]))"
    browser.run(f"{sort}, 1")
    found = [float(value) for value in browser.run(losses) if value]
    assert found == sorted(found)
    browser.run(f"{sort}, 1")
    found = [float(value) for value in browser.run(losses) if value]
    assert found == sorted(found, reverse=True)
    table = browser.run("csvOf(document.querySelector('[data-name=trials] table'))")
    assert table.splitlines()[0].startswith("trial,state,val loss")
    assert len(table.splitlines()) == 62
    svg = browser.run("standalone(figures[0].svg)")
    assert svg.startswith("<svg")
    assert "rgb(10, 100, 173)" in svg  # its colors are in it, and not in the page's style
    browser.run("figures.find((each) => each.id === 'history').svg.focus(), 1")
    browser.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
    assert "trial 0" in browser.run("tip.textContent")
    assert browser.run("document.querySelectorAll('.hot-layer > *').length") > 3
    assert browser.complaints == []


def test_figures_and_tables_are_saved_as_files(browser: Browser, tmp_path: Path) -> None:
    browser.open(PAGES["5 trials"](tmp_path), width=1400, dark=True)
    saved = tmp_path / "saved"
    saved.mkdir()
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(saved))
    sizes = browser.run(
        "figures.map((each) => [each.id, each.svg.viewBox.baseVal.width, each.svg.viewBox.baseVal.height])"
    )
    for name, width, height in sizes:
        browser.run(f"document.querySelector('#{name} .tools button:last-child').click(), 1")
        image = _wait_for(saved / f"{name}.png")
        assert _size_of_png(image) == (2 * (width + 32), 2 * (height + 32))  # for screens of two pixels a point
        assert len(set(_pixels_of_png(image))) > 50
    browser.run("document.querySelector('#history .tools button').click(), 1")
    assert _wait_for(saved / "history.svg").startswith(b"<svg")
    browser.run("document.querySelector('[data-name=trials] .tools button').click(), 1")
    assert _wait_for(saved / "trials.csv").startswith(b"trial,state,val loss")
    assert browser.complaints == []


def _wait_for(file: Path) -> bytes:
    deadline = time.monotonic() + 20
    while not file.is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    return file.read_bytes()


def _size_of_png(image: bytes) -> tuple[int, int]:
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", image[16:24])
    return width, height


def _pixels_of_png(image: bytes) -> bytes:
    data, at = b"", 8
    while at < len(image):
        (length,) = struct.unpack(">I", image[at : at + 4])
        if image[at + 4 : at + 8] == b"IDAT":
            data += image[at + 8 : at + 8 + length]
        at += length + 12
    return zlib.decompress(data)

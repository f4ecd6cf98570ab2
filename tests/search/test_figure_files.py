"""Files of figures are what they say, need no network, and are refused in sentences."""

from __future__ import annotations

import sys
from pathlib import Path

import plotly.graph_objects as go
import pytest
from playwright.sync_api import sync_playwright
from plotly.offline import get_plotlyjs

from mlc_core import MissingExtra
from search.figure_files import NoBrowser, save_figures
from search.figures import precision_recall_bars
from tests.search.test_dashboard import chromium
from tests.search.test_figures import told


def bars() -> dict[str, go.Figure]:
    return {"bars": precision_recall_bars(told().scores)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    chromium()  # skips where there is none
    folder = tmp_path_factory.mktemp("figures") / "new"
    figures = bars()
    return save_figures(figures, folder, ["html", "png", "svg", "pdf"])


def test_figures_are_written_in_each_format(saved: list[Path]) -> None:
    assert [path.name for path in saved] == ["bars.html", "bars.png", "bars.svg", "bars.pdf"]
    assert {path.name for path in saved[0].parent.iterdir()} == {*(path.name for path in saved), "plotly.min.js"}
    _, png, svg, pdf = (path.read_bytes() for path in saved)
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert int.from_bytes(png[16:20]) == 2000  # twice the 1,000 pixels, for print
    assert svg.startswith(b"<svg ")
    assert b"Precision and recall of each class" in svg
    assert pdf.startswith(b"%PDF-")


def test_a_saved_figure_is_drawn_without_a_network(saved: list[Path]) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-background-networking"]
        )
        page = browser.new_page()
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(saved[0].as_uri())
        page.wait_for_selector("#bars .main-svg .trace.bars")
        browser.close()
    assert said == []
    assert asked == [saved[0].as_uri(), (saved[0].parent / "plotly.min.js").as_uri()]


def test_without_a_browser_pictures_are_refused_and_html_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "none"))
    figures = bars()
    told_ = (
        "A Chromium draws PNG, SVG and PDF, and none was found. Install chromium or Google Chrome, or name one in "
        "BROWSER_PATH; html needs none."
    )
    with pytest.raises(NoBrowser) as caught:
        save_figures(figures, tmp_path, ["png"])
    assert str(caught.value) == told_
    assert [path.name for path in save_figures(figures, tmp_path, ["html"])] == ["bars.html"]


def test_a_browser_that_does_not_start_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/bin/false")
    with pytest.raises(NoBrowser) as caught:
        save_figures(bars(), tmp_path, ["png"])
    assert str(caught.value) == (
        "The Chromium that draws PNG, SVG and PDF did not start or went away (BrowserFailedError). See whether it "
        "starts by itself, or name one in BROWSER_PATH; html needs none."
    )


def test_without_kaleido_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)  # as Python remembers what is not installed
    with pytest.raises(MissingExtra) as caught:
        save_figures(bars(), tmp_path, ["pdf"])
    assert str(caught.value) == (
        "Drawing a figure as PNG, SVG or PDF needs an extra. Install it: pip install 'mlc-search[figures]'"
    )


def test_the_code_that_an_older_plotly_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "plotly.min.js").write_text("// of last year")
    save_figures(bars(), tmp_path, ["html"])
    assert (tmp_path / "plotly.min.js").read_text() == get_plotlyjs()
    assert {path.name for path in tmp_path.iterdir()} == {"bars.html", "plotly.min.js"}

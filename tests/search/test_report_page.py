"""A report in a real browser: every figure is drawn, nothing is asked of a network, whatever the names are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go
import pytest
from playwright.sync_api import Page, sync_playwright

from search.figures import worst_images
from search.page import text
from search.report_page import Code, Figure, Html, Note, Part, Section, Table, write_page
from tests.search.test_dashboard import chromium
from tests.search.test_data_page import SCRIPT
from tests.search.test_figures import NAMES, all_figures, told

WIDE = [f"complete{at}" for at in range(16)]
HOSTILE = f'{SCRIPT} </script> "&amp; \udcff'


@dataclass(frozen=True)
class Shown:
    """A report and its page in a browser."""

    sections: list[Section]
    figures: dict[str, go.Figure]
    file: Path
    page: Page
    said: list[str]  # on the browser's console, in dialogs, and by errors of the page
    asked: list[str]  # addresses that the page wanted


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    noise = told()
    figures = all_figures(noise)
    words: list[Part] = [
        Note(HOSTILE),
        Note("Watch out.", "harm"),
        Code(f"mlc-search run\n  {SCRIPT}"),
        Table(["class", "images", "kind"], [["7", "1,234", "common"], [SCRIPT, "-", "rare"]], "Classes of " + SCRIPT),
        Table(["", "value", "gain"], [["speed", "9.60 ms on this machine", "+0.5 %"], ["size", "7", "n/a"]]),
        Table((), [["models", "5"], ["pairs", "-"]]),
        Table([*WIDE, "parameters"], [[*WIDE, "optimizer=adamw batch_size=32 " * 6]]),
        Html(f"<p id=ready>{text(SCRIPT)}</p>"),
        Html(worst_images(noise.predictions, noise.scores, noise.split)),
    ]
    sections = [Section(f"Words {SCRIPT}", "words", words)]
    sections += [Section(name, name.replace("_", "-"), [Figure(figure)]) for name, figure in figures.items()]
    file = tmp_path_factory.mktemp("report") / "report.html"
    write_page(file, f"Study {SCRIPT}", sections)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-background-networking"]
        )
        page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        page.wait_for_function("window.Plotly")
        yield Shown(sections, figures, file, page, said, asked)
        browser.close()


def test_figures_are_drawn_when_they_come_in_sight_and_all_before_the_page_is_printed(shown: Shown) -> None:
    boxes = shown.page.locator(".drawn")
    assert boxes.count() == len(shown.figures)
    last = boxes.nth(len(shown.figures) - 1)
    assert last.locator(".main-svg").count() == 0
    last.scroll_into_view_if_needed()
    last.locator(".main-svg").first.wait_for()
    shown.page.emulate_media(media="print")
    shown.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    for at, (name, figure) in enumerate(shown.figures.items()):
        boxes.nth(at).locator(".main-svg").first.wait_for()
        title = boxes.nth(at).locator(".gtitle").text_content()
        assert title is not None
        assert title.startswith(figure.layout.title.text.partition("<")[0]), name
        box = boxes.nth(at).bounding_box()
        assert box is not None
        assert box["height"] == pytest.approx(0.9 * figure.layout.height, abs=1), name  # smaller on paper
    shown.page.emulate_media(media="screen")


def test_names_are_drawn_as_they_are_spelled(shown: Shown) -> None:
    shown.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    at = list(shown.figures).index("confusion")
    ticks = shown.page.locator(".drawn").nth(at).locator(".ytick text")
    ticks.first.wait_for()
    spelled = [name.encode("utf-8", "backslashreplace").decode() for name in NAMES]
    drawn = ticks.evaluate_all("all => all.map(one => one.textContent.replaceAll('\\u00a0', ' '))")
    assert sorted(drawn) == sorted([*spelled, "none"])


def test_the_page_complains_of_nothing_and_asks_for_nothing(shown: Shown) -> None:
    shown.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    shown.page.mouse.move(640, 400)
    assert shown.said == []
    assert [address for address in shown.asked if not address.startswith(("data:", "blob:"))] == [shown.file.as_uri()]


def test_words_stand_as_they_were_given(shown: Shown) -> None:
    page = shown.page
    assert page.title() == page.locator("h1").text_content() == f"Study {SCRIPT}"
    assert page.locator("#words").text_content() == f"Words {SCRIPT}"
    assert page.locator("p").first.text_content() == HOSTILE.replace("\udcff", "\\udcff")
    assert page.locator("p.harm").text_content() == "Watch out."
    assert page.locator("pre").text_content() == f"mlc-search run\n  {SCRIPT}"
    assert page.locator("#ready").text_content() == SCRIPT
    assert page.locator("caption").text_content() == f"Classes of {SCRIPT}"
    cells = page.locator("table").first.locator("td").all_text_contents()
    assert cells == ["7", "1,234", "common", SCRIPT, "-", "rare"]


def test_columns_of_numbers_stand_right_and_columns_of_words_left(shown: Shown) -> None:
    tables = shown.page.locator("table")
    # Names that are numbers are names.
    assert tables.nth(0).locator(".n").all_text_contents() == ["images", "1,234", "-"]
    assert tables.nth(1).locator(".n").all_text_contents() == ["gain", "+0.5 %", "n/a"]
    assert tables.nth(2).locator(".n").all_text_contents() == ["5", "-"]
    assert tables.nth(2).locator("th").count() == 0


def test_a_wide_table_scrolls_before_it_breaks_a_word(shown: Shown) -> None:
    wide = shown.page.locator("table").nth(3)
    lines = """all => all.map(cell => {
      const words = document.createRange();
      words.selectNodeContents(cell);
      return words.getClientRects().length;
    })"""
    *words, parameters = wide.locator("td").evaluate_all(lines)
    assert words == [1] * len(WIDE)
    assert parameters > 1  # those are many words
    page, table = wide.locator("xpath=..").evaluate("box => [box.clientWidth, box.scrollWidth]")
    assert page <= 1100 < table


def test_each_line_of_the_contents_leads_to_its_section(shown: Shown) -> None:
    links = shown.page.locator("nav a")
    assert links.all_text_contents() == [section.title for section in shown.sections]
    for section, target in zip(shown.sections, links.evaluate_all("all => all.map(a => a.hash)"), strict=True):
        assert shown.page.locator(f"h2{target}").text_content() == section.title


def test_the_file_is_small_and_the_same_sections_write_the_same(shown: Shown, tmp_path: Path) -> None:
    assert shown.file.stat().st_size < 3_500_000
    write_page(tmp_path / "again.html", f"Study {SCRIPT}", shown.sections)
    assert (tmp_path / "again.html").read_bytes() == shown.file.read_bytes()
    assert list(tmp_path.iterdir()) == [tmp_path / "again.html"]


def test_a_page_without_figures_carries_nothing_to_draw_them(tmp_path: Path) -> None:
    write_page(tmp_path / "words.html", "Words", [Section("One", "one", [Note("Nothing to draw.", "quiet")])])
    assert (tmp_path / "words.html").stat().st_size < 10_000
    assert '<p class="quiet">Nothing to draw.</p>' in (tmp_path / "words.html").read_text()


def test_a_browser_that_cannot_unpack_says_so(shown: Shown) -> None:
    page = shown.page.context.new_page()
    page.add_init_script("delete window.DecompressionStream")
    page.goto(shown.file.as_uri())
    page.locator(".drawn.done").first.wait_for(state="attached")
    told_ = "This browser cannot draw the figures; one of 2023 or later can."
    assert set(page.locator(".drawn").all_text_contents()) == {told_}
    page.close()

"""The page of a data check in a real browser: drawn without a network, whatever the classes and files are called."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from mlc_core import DataCheck, Loaded, check, read_data
from search.data_page import SAMPLES, write_page
from tests.mlc_core.pictures import jpeg, png, scene
from tests.search.test_dashboard import chromium

SCRIPT = "<script>alert(1)</script>"
CLASSES = (
    "1",
    "2",
    SCRIPT,
    "</script><img src=x onerror=alert(2)>",
    '"onload="alert(3)',
    "a & b <b>bold</b> &lt;",
    "ünï 🐟",
)
HOSTILE_FILE = '<img src=x onerror=alert(4)>".png'
EMPTY = "__"  # a class that no image carries


@dataclass(frozen=True)
class Shown:
    """A data set, its check, and its page in a browser."""

    loaded: Loaded
    check: DataCheck
    file: Path
    page: Page
    said: list[str]  # on the browser's console, in dialogs, and by errors of the page
    asked: list[str]  # addresses that the page wanted


def data_set(folder: Path) -> Path:
    """Write pictures of all classes, a copy in another split, and a file that is none."""
    folder.mkdir()
    rows: list[tuple[str, str, tuple[str, ...]]] = []
    for number in range(70):
        name = HOSTILE_FILE if number == 0 else f"{number}.png"
        (folder / name).write_bytes(png(scene(number, side=64)))
        carried = CLASSES[number % 7 : number % 7 + 1 + number % 2]
        rows.append((name, ("train", "train", "val", "test")[number // 7 % 4], carried))
    (folder / "worse.jpg").write_bytes(jpeg(scene(0, side=56), 90))
    (folder / "text.png").write_bytes(b"not a picture")
    rows += [("worse.jpg", "val", CLASSES[:1]), ("text.png", "train", CLASSES[:1])]
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "split", *CLASSES, EMPTY])
        for path, split, carried in rows:
            writer.writerow([path, split, *(int(name in carried) for name in (*CLASSES, EMPTY))])
    return folder / "labels.csv"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("page")
    loaded = read_data(data_set(folder / SCRIPT.replace("/", "")), image_size=64, skip_bad=True)
    found = check(loaded)
    file = folder / "page.html"
    write_page(file, found, loaded)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-background-networking"]
        )
        page = browser.new_page(viewport={"width": 1366, "height": 768})
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        page.wait_for_selector("#together .hm image")  # the last figure is drawn
        yield Shown(loaded, found, file, page, said, asked)
        browser.close()


def test_the_page_complains_of_nothing_and_asks_for_nothing(shown: Shown) -> None:
    assert shown.said == []
    assert [address for address in shown.asked if not address.startswith(("data:", "blob:"))] == [shown.file.as_uri()]


def test_the_bars_are_as_many_as_classes_in_splits_with_images(shown: Shown) -> None:
    bars = shown.page.evaluate("document.getElementById('classes').data.map(trace => [trace.name, ...trace.x])")
    order = sorted(range(8), key=lambda at: -shown.check.together[at][at])
    assert bars == [[name, *(counts[at] for at in order)] for name, counts in shown.check.positives.items()]
    assert shown.page.locator("#classes .bars .point path").count() == 24
    assert shown.page.locator("#labels .bars .point path").count() == len(shown.check.labels_per_image)


def test_classes_called_by_numbers_or_by_markup_are_written_as_they_are_called(shown: Shown) -> None:
    for figure, ticks in (("classes", "ytick"), ("together", "xtick"), ("together", "ytick")):
        written = shown.page.locator(f"#{figure} .{ticks} text").all_text_contents()
        assert sorted(written) == sorted((*CLASSES, EMPTY))
    headings = shown.page.locator("h3").all_inner_texts()
    for name in CLASSES:
        assert any(heading.startswith(name) for heading in headings)
    assert shown.page.locator("h1").inner_text() == SCRIPT.replace("/", "")
    assert shown.page.locator("b", has_text="bold").count() == 0


def test_a_pointer_on_a_bar_or_a_cell_tells_what_it_counts(shown: Shown) -> None:
    order = sorted(range(8), key=lambda at: -shown.check.together[at][at])
    common, next_to_it = (shown.check.classes[at] for at in order[:2])

    shown.page.locator("#classes .bars .point path").nth(1).hover(force=True)
    train = shown.check.positives["train"][order[1]]
    shown.page.wait_for_selector("#classes .hovertext")
    assert shown.page.locator("#classes .hovertext").all_text_contents() == [f"{next_to_it}: {train} in train"]

    row = shown.check.together[order[0]]
    box = shown.page.locator("#together .hm image").bounding_box()
    assert box is not None
    at = {"x": box["width"] * 1.5 / 8, "y": box["height"] * 0.5 / 8}
    shown.page.locator("#together .hm image").hover(position=at, force=True)  # type: ignore[arg-type]
    shown.page.wait_for_selector("#together .hovertext")
    told = f"{row[order[1]]} of {row[order[0]]} images with {common}, and {next_to_it}"
    assert shown.page.locator("#together .hovertext").all_text_contents() == [told]


def test_every_class_has_its_samples_and_a_pointer_tells_the_file(shown: Shown) -> None:
    images = shown.page.locator("img")
    widths = images.evaluate_all("all => all.map(image => image.naturalWidth)")
    assert set(widths) == {64}
    samples = shown.page.locator("h2:has-text('Samples') ~ .pictures")
    assert samples.count() == 8
    assert [samples.nth(at).locator("img").count() for at in range(8)] == [*[SAMPLES] * 7, 0]
    assert images.first.get_attribute("title") == HOSTILE_FILE


def test_what_harms_is_told_with_the_files_and_pictures(shown: Shown) -> None:
    text = shown.page.locator("body").inner_text()
    assert len(shown.check.harms) == 4  # a file that is no picture, a leak, a class without images in train, in val
    for sentence in (*shown.check.harms, *shown.check.hints):
        assert sentence in text
    assert f"{HOSTILE_FILE} (train), worse.jpg (val)" in text
    row = shown.page.locator("table tr").nth(1).locator("td").all_inner_texts()
    assert row == [shown.check.problems[0].where, shown.check.problems[0].reason]


def test_a_page_of_a_data_set_without_one_usable_image_is_drawn_as_well(tmp_path: Path, shown: Shown) -> None:
    source = data_set(tmp_path / "bad")
    loaded = read_data(source, image_size=64, skip_bad=True)
    for file in source.parent.glob("*.*g"):
        file.write_bytes(b"not a picture")
    bad = read_data(source, image_size=64, skip_bad=True, splits=loaded.spelled_splits())
    write_page(tmp_path / "page.html", check(bad), bad)
    shown.page.goto((tmp_path / "page.html").as_uri())
    shown.page.wait_for_selector("#together .main-svg")
    assert "72 rows or files cannot be used" in shown.page.locator(".harm").first.inner_text()
    assert shown.said == []


def test_the_same_check_writes_the_same_page_over_an_old_one(tmp_path: Path, shown: Shown) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")
    write_page(page, shown.check, shown.loaded)
    assert page.read_bytes() == shown.file.read_bytes()
    assert list(tmp_path.iterdir()) == [page]

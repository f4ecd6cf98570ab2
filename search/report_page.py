"""A report as one HTML file without a network: sections of text, tables and figures, drawn as they come in sight.

Not here: what a report tells (cli/report.py); how a figure looks (figures.py); what all pages share (page.py).
"""

from __future__ import annotations

import gzip
import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final, Literal

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from search.page import text, write_html


@dataclass(frozen=True, slots=True)
class Html:
    """Ready markup; whatever data say in it went through `search.page.text`."""

    markup: str


@dataclass(frozen=True, slots=True)
class Note:
    """A paragraph of plain text; in a frame unless it is "plain" or "quiet"."""

    words: str
    kind: Literal["plain", "quiet", "fine", "hint", "harm"] = "plain"


@dataclass(frozen=True, slots=True)
class Code:
    """Plain text in which line breaks and spaces count, such as commands."""

    words: str


@dataclass(frozen=True, slots=True)
class Table:
    """Plain text in cells; a column of numbers is set to the right, but for the first."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure as wide as the page, of the height that its layout says."""

    figure: go.Figure


Part = Html | Note | Code | Table | Figure


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report with a line in its table of contents.

    Attributes
    ----------
    title : str
    anchor : str
        Letters, digits and hyphens; once a page.
    parts : sequence of Part
    """

    title: str
    anchor: str
    parts: Sequence[Part]


_HEIGHT: Final = 450  # pixels of a figure that does not say
_BLANK: Final = ("", "-", "–", "n/a")
_NUMBER: Final = re.compile(r"[+\-–±]?\d")
_PROSE: Final = re.compile(r"[^\W\d_]{3}")  # three letters in a row; units and "to" or "of" have fewer
_STYLE: Final = """
nav { columns: 3; margin: 24px 0; border: 1px solid #ccc; border-radius: 6px; padding: 10px 18px; }
nav a, a { color: #005a91; } nav a { display: block; }
h2 { border-top: 1px solid #ccc; padding-top: 16px; }
.wide { overflow-x: auto; margin: 12px 0; } .n { text-align: right; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: bold; padding: 4px 0; }
.drawn { margin: 16px 0; }
pre { background: #f5f5f5; border-radius: 6px; padding: 10px 14px; overflow-x: auto; font-size: 13px; }
@media screen { .wide th, .wide td { overflow-wrap: normal; word-break: normal; } }
@media print {
  @page { size: A4 landscape; margin: 10mm; }
  body { max-width: none; padding: 0; font-size: 12px; } .drawn { zoom: .9; }
  h2, h3, caption { break-after: avoid; } .drawn, tr, .facts, .pictures > * { break-inside: avoid; }
  pre { white-space: pre-wrap; } a { color: inherit; text-decoration: none; }
}
"""
# plotly.js, gzipped, is run as the text of a script element: the page's policy allows those, and neither eval nor a
# request. Before a page is printed, all of its figures are drawn.
_SCRIPT: Final = """
addEventListener("DOMContentLoaded", async () => {
  const boxes = [...document.querySelectorAll(".drawn")];
  if (!boxes.length) return;
  const draw = box => {
    if (box.classList.contains("done")) return;
    box.classList.add("done");
    const figure = JSON.parse(document.getElementById(box.id + "-data").textContent);
    Plotly.newPlot(box, figure.data, figure.layout, {displaylogo: false, responsive: true, typesetMath: false});
  };
  try {
    const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), one => one.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  } catch (error) {
    for (const box of boxes) box.textContent = "This browser cannot draw the figures; one of 2023 or later can.";
    for (const box of boxes) box.classList.add("done");
    return;
  }
  const seen = new IntersectionObserver(entries => {
    for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
  }, {rootMargin: "600px"});
  boxes.forEach(box => seen.observe(box));
  addEventListener("beforeprint", () => boxes.forEach(draw));
});
"""


def write_page(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write the page, whole or not at all; the same sections write the same bytes.

    Parameters
    ----------
    path : Path
    title : str
        Plain text.
    sections : sequence of Section

    Raises
    ------
    OSError
        The file cannot be written.
    """
    contents = "".join(f'<a href="#{text(section.anchor)}">{text(section.title)}</a>' for section in sections)
    body = [f"<h1>{text(title)}</h1>", f"<nav>{contents}</nav>"]
    numbers = count(1)
    for section in sections:
        body.append(f'<h2 id="{text(section.anchor)}">{text(section.title)}</h2>')
        body += [_part(part, numbers) for part in section.parts]
    if any(isinstance(part, Figure) for section in sections for part in section.parts):
        packed = b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()
        body.append(f'<script type="text/plain" id="plotly">{packed}</script>')
    write_html(path, title=title, body=body, script=_SCRIPT, style=_STYLE)


def _part(part: Part, numbers: Iterator[int]) -> str:
    match part:
        case Html(markup):
            return markup
        case Note(words, "plain"):
            return f"<p>{text(words)}</p>"
        case Note(words, kind):
            return f'<p class="{kind}">{text(words)}</p>'
        case Code(words):
            return f"<pre>{text(words)}</pre>"
        case Table():
            return _table(part)
        case Figure(figure):
            return _figure(figure, f"figure-{next(numbers)}")


def _table(table: Table) -> str:
    caption = f"<caption>{text(table.title)}</caption>" if table.title else ""
    # A column's heading stands where its cells do.
    columns = zip(*table.rows, strict=True) if table.rows else [()] * len(table.head)
    right = [at > 0 and _are_numbers(column) for at, column in enumerate(columns)]
    head = _row("th", table.head, right) if table.head else ""
    rows = "".join(_row("td", row, right) for row in table.rows)
    return f"<div class=wide><table>{caption}<thead>{head}</thead><tbody>{rows}</tbody></table></div>"


def _row(kind: str, cells: Sequence[str], right: Sequence[bool]) -> str:
    marks = [" class=n" if at_right else "" for at_right in right]
    return (
        f"<tr>{''.join(f'<{kind}{mark}>{text(cell)}</{kind}>' for cell, mark in zip(cells, marks, strict=True))}</tr>"
    )


def _are_numbers(cells: Sequence[str]) -> bool:
    told = [cell.strip() for cell in cells if cell.strip() not in _BLANK]
    return bool(told) and all(_NUMBER.match(cell) and not _PROSE.search(cell) for cell in told)


def _figure(figure: go.Figure, name: str) -> str:
    figure = go.Figure(figure).update_layout(width=None, autosize=True)
    height = figure.layout.height or _HEIGHT
    # Within a script element only "<" could end it, or begin a comment.
    data = figure.to_json().replace("<", "\\u003c")
    return (
        f'<div class="drawn" id="{name}" style="height:{height}px"></div>'
        f'<script type="application/json" id="{name}-data">{data}</script>'
    )

"""What all our HTML pages are made of: one file without a network, its style, its pictures, its figures, its text.

Not here: what a page tells (data_page.py, label_page.py).
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mlc_core import write_atomically

if TYPE_CHECKING:  # plotly costs half a second
    import plotly.graph_objects as go

COLOURS: Final = {"train": "#0072B2", "val": "#E69F00", "test": "#009E73"}  # Okabe & Ito: told apart by all eyes
SIDE: Final = 96  # pixels of a picture

# Whatever a class is called, the page loads nothing and sends nothing.
_POLICY: Final = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 1100px; margin: 0 auto;
  padding: 0 24px 64px; overflow-wrap: anywhere; }
h1 { margin-bottom: 0; } h2 { margin-top: 40px; } h3 { margin: 20px 0 4px; font-size: 16px; }
.quiet { color: #555; font-weight: normal; } .quiet b { color: #1a1a1a; }
.facts { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0; }
.facts div { border: 1px solid #ccc; border-radius: 6px; padding: 8px 14px; }
.facts b { display: block; font-size: 20px; }
.harm, .hint, .fine { border-left: 5px solid; padding: 6px 12px; margin: 8px 0; }
.harm { border-color: #D55E00; background: #fdf1ea; } .hint { border-color: #0072B2; background: #eef6fb; }
.fine { border-color: #009E73; background: #ecf8f4; }
.pictures { display: flex; flex-wrap: wrap; gap: 6px; }
.pictures img { width: 96px; height: 96px; border-radius: 3px; }
table { border-collapse: collapse; } th, td { text-align: left; padding: 4px 14px 4px 0; border-bottom: 1px solid #ddd;
  vertical-align: top; }
"""


def write_html(path: Path, *, title: str, body: Sequence[str], script: str = "", style: str = "") -> None:
    """Write a page, whole or not at all.

    Parameters
    ----------
    title : str
        Plain text.
    body : sequence of str
        HTML; whatever data say in it went through `text`.
    script, style : str
        What this page needs beyond the common, such as plotly's own code.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{text(title)}</title><style>{_STYLE}{style}</style>"
    )
    scripts = f"<script>{script}</script>" if script else ""
    page = f'<!DOCTYPE html><html lang="en"><head>{head}{scripts}</head><body>{"".join(body)}</body></html>\n'
    # A file name need not be UTF-8.
    write_atomically(path, page.encode("utf-8", "backslashreplace"), mode=0o644)


def text(words: str) -> str:
    """Make text of whatever data say, wherever in the page it stands."""
    return escape(words, quote=True)


def label(words: str) -> str:
    """Make text of it in a figure: plotly reads markup in names, and of the quotation marks no other spelling."""
    return escape(words, quote=False)


def facts(told: Sequence[tuple[str, str]]) -> str:
    """Draw boxes side by side, each of a name and its value; the values may be HTML."""
    return f"<div class=facts>{''.join(f'<div><b>{value}</b>{name}</div>' for name, value in told)}</div>"


def picture(pixels: NDArray[np.uint8], name: str, *, side: int = SIDE) -> str:
    """Draw one picture; its name is told when a pointer rests on it.

    Parameters
    ----------
    pixels : (3, height, width), uint8, RGB
    name : str
        Plain text.
    side : int
        Pixels, at most.
    """
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.thumbnail((side, side))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=85)
    uri = b64encode(content.getvalue()).decode()
    return f'<img alt="{text(name)}" title="{text(name)}" src="data:image/jpeg;base64,{uri}">'


def drawn(name: str, figure: go.Figure, *, height: int) -> str:
    """Draw a figure, as wide as the page; the page's script must be ``plotly.offline.get_plotlyjs()``.

    Parameters
    ----------
    name : str
        Of the element, once a page.
    height : int
        Pixels.
    """
    figure.update_layout(template="plotly_white", height=height, margin={"l": 10, "r": 10, "t": 30, "b": 10})
    figure.update_layout(font={"size": 13, "color": "#1a1a1a"})
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    config = {"displayModeBar": False, "responsive": True, "typesetMath": False}
    html: str = figure.to_html(config, full_html=False, include_plotlyjs=False, div_id=name, default_height=height)
    return html

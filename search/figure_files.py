"""Figures into files: HTML that needs no network, and pictures that a Chromium draws.

Not here: what a figure shows (figures.py, curves.py, study_figures.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal, get_args

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from mlc_core import MissingExtra, MlcError, write_atomically

Format = Literal["html", "png", "svg", "pdf"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)

WIDTH: Final = 1000  # pixels of a saved figure


class NoBrowser(MlcError):
    """Pictures are drawn by a Chromium, and none is there or starts."""


def save_figures(figures: Mapping[str, go.Figure], folder: Path, formats: Sequence[Format]) -> list[Path]:
    """Write each figure in each format, named by its key, each file whole; all pictures are drawn by one browser.

    Parameters
    ----------
    figures : mapping of str to Figure
    folder : Path
        Made if it is not there. Files of "html" need no network, but the ``plotly.min.js`` beside them.

    Raises
    ------
    MissingExtra
        A picture is asked for, and kaleido is not installed.
    NoBrowser
        A picture is asked for, and no Chromium is there or it does not start.
    OSError
        The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [(figure, folder / f"{name}.{kind}") for name, figure in figures.items() for kind in formats]
    pictures = [(figure, path) for figure, path in wanted if path.suffix != ".html"]
    if pictures:
        _draw(pictures)
    pages = [(figure, path) for figure, path in wanted if path.suffix == ".html"]
    if pages:
        _write_plotly(folder / "plotly.min.js")
    for figure, path in pages:
        config = {"displaylogo": False, "responsive": True, "typesetMath": False}
        page = figure.to_html(config, include_plotlyjs="directory", div_id=path.stem)
        write_atomically(path, page.encode(), mode=0o644)
    return [path for _, path in wanted]


def _write_plotly(path: Path) -> None:
    code = get_plotlyjs().encode()
    # What an older plotly left may not draw what this one writes.
    if not path.is_file() or path.read_bytes() != code:
        write_atomically(path, code, mode=0o644)


def _draw(pictures: Sequence[tuple[go.Figure, Path]]) -> None:
    try:
        import kaleido  # brings a browser's driver, and most commands need none
        from kaleido.errors import BrowserClosedError, BrowserFailedError, ChromeNotFoundError
    except ImportError:
        raise MissingExtra("Drawing a figure as PNG, SVG or PDF", "figures") from None
    hint = "name one in BROWSER_PATH; html needs none."
    try:
        with TemporaryDirectory() as drawn:
            tasks = []
            for figure, path in pictures:
                size = {"width": WIDTH, "height": figure.layout.height, "scale": 2 if path.suffix == ".png" else 1}
                tasks.append({"fig": figure, "path": Path(drawn) / path.name, "opts": size})
            # Without mathjax the page asks for nothing outside this machine.
            kaleido.write_fig_from_object_sync(tasks, cancel_on_error=True, kopts={"mathjax": False})
            for _, path in pictures:
                write_atomically(path, (Path(drawn) / path.name).read_bytes(), mode=0o644)
    except ChromeNotFoundError:
        told = "A Chromium draws PNG, SVG and PDF, and none was found"
        raise NoBrowser(f"{told}. Install chromium or Google Chrome, or {hint}") from None
    except (BrowserFailedError, BrowserClosedError) as error:
        told = f"The Chromium that draws PNG, SVG and PDF did not start or went away ({type(error).__name__})"
        raise NoBrowser(f"{told}. See whether it starts by itself, or {hint}") from None

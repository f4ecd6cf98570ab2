"""Labels that are likely wrong, as one HTML file that needs no network: the pictures, class by class.

Not here: what is found (mlc_core); how corrections are applied (mlc_core).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mlc_core.label_errors import LabelCheck, Suspicion
from search.page import facts, picture, text, write_html

EACH: Final = 48  # pictures a class at most; the CSV file has all
_STYLE: Final = """
.suspects { display: flex; flex-wrap: wrap; gap: 10px; }
.suspects figure { width: 128px; margin: 0; font-size: 12px; line-height: 1.35; }
.suspects img { width: 128px; height: 128px; object-fit: contain; border-radius: 3px; background: #eee; }
"""

Pixels = NDArray[np.uint8]  # (3, height, width), RGB


def write_page(path: Path, found: LabelCheck, name: str, images: Mapping[str, Pixels]) -> None:
    """Write the page, whole or not at all.

    Parameters
    ----------
    path : Path
    found : LabelCheck
    name : str
        Of the data set.
    images : mapping of str to (3, height, width) uint8
        By the path that `found` calls them; one without a picture is named only.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    told = [
        ("images", f"{found.images:,}"),
        ("labels", f"{found.images * len(found.classes):,}"),
        ("likely wrong", f"{len(found.found):,}"),
        ("images with one", f"{len({each.path for each in found.found}):,}"),
    ]
    body = [
        f"<h1>{text(name)}</h1><p class=quiet>Labels that are likely wrong: models that never saw an image disagree "
        "with what it carries. Look before you believe them: a rare sight is suspicious, too.</p>",
        facts(told),
    ]
    if found.unchecked:
        names = ", ".join(map(text, found.unchecked))
        body.append(f"<div class=hint><b>Not looked at</b>, for want of images with and without: {names}</div>")
    if not found.found:
        body.append("<div class=fine>No label was found that is likely wrong.</div>")
    for at, of in enumerate(found.classes):
        body += _class(of, found.positives[at], found.of(of), images)
    write_html(path, title=f"{name}: labels", body=body, style=_STYLE)


def _class(name: str, positives: int, own: Sequence[Suspicion], images: Mapping[str, Pixels]) -> list[str]:
    if not own:
        return []
    kinds = (
        ("Carries it, perhaps should not", [each for each in own if each.given]),
        ("Does not carry it, perhaps should", [each for each in own if not each.given]),
    )
    parts = [f"<h2>{text(name)} <span class=quiet>on {positives:,} images</span></h2>"]
    for kind, some in kinds:
        if some:
            more = f", the surest {EACH}" if len(some) > EACH else ""
            parts.append(f"<h3>{kind} <span class=quiet>{len(some):,}{more}</span></h3>")
            parts.append(f"<div class=suspects>{''.join(_figure(each, images) for each in some[:EACH])}</div>")
    return parts


def _figure(each: Suspicion, images: Mapping[str, Pixels]) -> str:
    shown = picture(images[each.path], each.path, side=128) if each.path in images else ""
    return f"<figure>{shown}<figcaption>{text(each.path)}<br>probability {each.probability:.3f}</figcaption></figure>"

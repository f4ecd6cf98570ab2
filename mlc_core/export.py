"""A model's folder is written: the card, and each member's weights; whole or not at all.

Not here: what the card says (card.py); ONNX and torch.export (onnx_model.py); reading and asking (shipped.py).
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import PIL
import torch

from mlc_core.cache import write_atomically
from mlc_core.card import CARD, FORMAT, ONNX, TORCH, Card, DataCard, MemberCard, write_card
from mlc_core.errors import BadModel, BadWeights
from mlc_core.predict import Member, read_member
from mlc_core.predictions import Blend

PREPROCESSING: Final = (
    "Turn by EXIF, scale 16 bits to 8, put transparency over white, convert to RGB, squash to {side} x {side} pixels "
    "(bilinear, antialiased), leave as uint8 (3, {side}, {side}). Resizing to a network's own size and normalization "
    "are inside the model's graph."
)

_OURS: Final = re.compile(rf"{re.escape(CARD)}|{re.escape(ONNX)}|{re.escape(TORCH)}|member-[0-9]+\.safetensors|\..*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is to become one member of a model."""

    weights: Path  # a file as a fit keeps it
    share: float  # in the average; of 0 it is left out
    source: str  # where it comes from, in words: "study default, trial 12, epoch 9"


def save_model(
    folder: Path,
    parts: Sequence[Part],
    *,
    side: int,
    data: DataCard,
    average: Blend = "probabilities",
    scale: Sequence[float] | None = None,
    shift: Sequence[float] | None = None,
    thresholds: Sequence[float] | None = None,
    goal: str = "",
    metrics: Mapping[str, Any] | None = None,
    license: str = "",  # noqa: A002 - the card's word
) -> Card:
    """Write a model's folder: its card and its members' weights.

    Parameters
    ----------
    folder : Path
        Not there, empty, or a model's, which is replaced. A crash leaves the old one, at the worst under a hidden
        name beside it.
    parts : sequence of Part
        Their shares add up to 1.
    side : int
        Pixels, both sides, at which the training's images were kept.
    data : DataCard
        What the parts were trained on; weights of other data are refused.
    average, scale, shift
        As `Predictor` takes them.
    thresholds : sequence of float, optional
        A class each; 1/2 by default.
    goal : str
        What the thresholds were tuned for.
    metrics : mapping, optional
        Scores on the test split, JSON-able.
    license : str
        Of the model, such as an SPDX identifier.

    Raises
    ------
    BadModel
        The folder holds something else or cannot be written; the parts do not make one model.
    BadWeights
        A part's file cannot be used.
    """
    target = folder.resolve()
    _check_replaceable(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _replaced(target) as fresh:
            members, cards = _copied([part for part in parts if part.share > 0], fresh, data)
            classes = members[0].classes
            card = Card(
                format=FORMAT,
                classes=classes,
                members=cards,
                average=average,
                side=side,
                scale=_floats(scale, 1.0, classes),
                shift=_floats(shift, 0.0, classes),
                thresholds=_floats(thresholds, 0.5, classes),
                goal=goal,
                preprocessing=PREPROCESSING.format(side=side),
                metrics=metrics or {},
                data=data,
                license=license,
                versions=_versions(),
                created=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            write_card(fresh, card)
    except OSError as error:
        raise BadModel(f"{folder} cannot be written: {error.strerror}. Name another folder.") from None
    return card


def _copied(parts: Sequence[Part], fresh: Path, data: DataCard) -> tuple[list[Member], tuple[MemberCard, ...]]:
    """Copy the weights' files, read the copies, describe them."""
    members: list[Member] = []
    cards = []
    for number, part in enumerate(parts):
        try:
            content = part.weights.read_bytes()
        except OSError as error:
            raise BadWeights(f"{part.weights} cannot be read: {error.strerror}.") from None
        file = fresh / f"member-{number}.safetensors"
        write_atomically(file, content, mode=0o644)
        try:
            member = read_member(file)
        except BadWeights as error:
            raise BadWeights(str(error).replace(str(file), str(part.weights))) from None
        _check_kin(member, members, part.weights, data)
        members.append(member)
        cards.append(
            MemberCard(
                file=file.name,
                sha256=hashlib.sha256(content).hexdigest(),
                params=member.params.to_flat(),
                weight=part.share,
                mean=member.mean,
                std=member.std,
                source=part.source,
                facts=member.facts,
            )
        )
    if not members:
        raise BadModel("No weights with a share above 0: a model needs at least one network.")
    return members, tuple(cards)


def _check_kin(member: Member, others: Sequence[Member], weights: Path, data: DataCard) -> None:
    if others and member.classes != others[0].classes:
        raise BadModel(f"{weights} knows other classes than the first member. Export weights of one study.")
    if (theirs := member.facts.get("data")) != data.fingerprint:
        raise BadModel(f"{weights} was trained on the data {theirs}, not on {data.name} ({data.fingerprint}).")


def _floats(values: Sequence[float] | None, default: float, classes: Sequence[str]) -> tuple[float, ...]:
    return (default,) * len(classes) if values is None else tuple(map(float, values))


def _versions() -> dict[str, str]:
    return {
        "mlc-search": version("mlc-search"),
        "torch": str(torch.__version__),
        "pillow": PIL.__version__,  # that decodes the same file to the same pixels
        "python": platform.python_version(),
    }


def _check_replaceable(folder: Path) -> None:
    """Refuse to replace what no export wrote."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise BadModel(f"{folder} is a file. Name a folder.")
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return
    try:
        table = json.loads((folder / CARD).read_bytes())
    except (OSError, ValueError):
        table = None
    if not isinstance(table, dict) or not {"format", "classes", "members"} <= table.keys():
        raise BadModel(f"{folder} holds files, but no model of ours. Name another folder, or an empty one.")
    if stranger := next((name for name in names if not _OURS.fullmatch(name)), ""):
        raise BadModel(f"{folder} holds {stranger!r}, which no export wrote and which would be lost. Move it away.")


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside; once it is filled, put it in the place of the other."""
    token = secrets.token_hex(4)
    fresh, old = (folder.with_name(f".{folder.name}.{token}.{kind}") for kind in ("new", "old"))
    fresh.mkdir()
    try:
        yield fresh
        if folder.exists():
            folder.rename(old)
            try:
                fresh.rename(folder)
            except BaseException:
                old.rename(folder)
                raise
        else:
            fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)

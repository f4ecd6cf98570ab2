"""What a model's folder says of itself: `model.json`, the card, checked when it is made and when it is read.

Not here: writing the folder (export.py, onnx_model.py); asking the model (shipped.py). No torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from mlc_core.cache import write_atomically
from mlc_core.data.listing import unprintable
from mlc_core.errors import BadModel, BadParams
from mlc_core.params import Params, Value, check_image_size
from mlc_core.predictions import Blend

FORMAT: Final = 1  # of the folder; one of another format is refused
CARD: Final = "model.json"
ONNX: Final = "model.onnx"
TORCH: Final = "model.pt2"
MAX_BYTES: Final = 2**26  # of a card; one of 10,000 classes has a tenth of it

_MEMBER: Final = re.compile(r"member-[0-9]{1,6}\.safetensors")  # no slash: nothing outside the folder is read
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_ROUNDING: Final = 1e-6  # by which the sum of weights may miss 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberCard:
    """One network of the model."""

    file: str  # name inside the folder
    sha256: str  # of its content, hex
    params: Mapping[str, Value]  # flat; Params.from_flat takes them
    weight: float  # in the average, in (0, 1]
    mean: tuple[float, ...]  # a channel, in units of [0, 255]
    std: tuple[float, ...]
    source: str  # where it comes from, in words: "study default, trial 12, epoch 9"
    facts: Mapping[str, str]  # of its fit


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCard:
    """What the model was trained on."""

    name: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Everything about a model but its weights.

    Raises
    ------
    BadModel
        From the constructor, naming what is not as it must be.
    """

    format: int
    classes: tuple[str, ...]
    members: tuple[MemberCard, ...]
    average: Blend  # what is averaged over the members
    side: int  # pixels, both sides, at which decoded images are kept before a member's own resizing
    scale: tuple[float, ...]  # a class each: a calibrated logit is scale * logit + shift
    shift: tuple[float, ...]
    thresholds: tuple[float, ...]  # a class is predicted from this calibrated probability upwards
    goal: str  # what the thresholds were tuned for
    preprocessing: str  # in words
    metrics: Mapping[str, Any]  # scores on the test split
    data: DataCard
    license: str
    versions: Mapping[str, str]  # of what wrote it
    created: str  # ISO 8601, UTC
    graphs: Mapping[str, str] = field(default_factory=dict)  # SHA-256 of ONNX and TORCH, where they were written

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise BadModel(f"its format is {self.format}, this version reads {FORMAT}.")
        _check_classes(self.classes)
        _check_members(self.members)
        try:
            check_image_size(self.side)
        except BadParams as error:
            raise BadModel(f"side: {error}") from None
        for name in ("scale", "shift", "thresholds"):
            values = getattr(self, name)
            if len(values) != len(self.classes) or not all(map(math.isfinite, values)):
                raise BadModel(f"{name}: it is not one finite number for each of {len(self.classes)} classes.")
        for name, digest in self.graphs.items():
            if name not in (ONNX, TORCH) or not _SHA256.fullmatch(digest):
                raise BadModel(f"graphs: {name!r} is neither {ONNX} nor {TORCH}, or has no SHA-256.")

    def to_json(self) -> bytes:
        """Spell it; `from_json` takes it back."""
        return json.dumps(asdict(self), indent=2, allow_nan=False, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_json(cls, content: bytes) -> Card:
        """Read what `to_json` spelled.

        Raises
        ------
        BadModel
            Saying what is wrong, as what follows the file's name.
        """
        try:
            table = msgspec.json.decode(content)
            if not isinstance(table, dict) or not isinstance(table.get("format"), int) or "members" not in table:
                raise BadModel("it is no model's card. Name a folder that mlc-search export wrote.")
            if table["format"] != FORMAT:
                raise BadModel(
                    f"its format is {table['format']}, this version reads {FORMAT}. Export the model again, or install "
                    "the mlc-search that wrote it."
                )
            return msgspec.convert(table, cls)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadModel(f"it is damaged ({error}). Export the model again.") from None


def read_card(folder: Path) -> Card:
    """Read a model folder's card.

    Raises
    ------
    BadModel
        The folder is not there or no model's, or its card is damaged or of another format.
    """
    path = folder / CARD
    try:
        if not folder.is_dir():
            there = "is no folder" if folder.exists() else "is not there"
            raise BadModel(f"{folder} {there}. Name a folder that mlc-search export wrote.")
        if not path.is_file():
            raise BadModel(f"{folder} holds no {CARD}. Name a folder that mlc-search export wrote.")
        if path.stat().st_size > MAX_BYTES:
            raise BadModel(f"{path}: it has more than {MAX_BYTES} bytes, so it is no model's card.")
        content = path.read_bytes()
    except OSError as error:
        raise BadModel(f"{path} cannot be read: {error.strerror}.") from None
    try:
        return Card.from_json(content)
    except BadModel as error:
        raise BadModel(f"{path}: {error}") from None


def write_card(folder: Path, card: Card) -> None:
    """Write or replace a model folder's card."""
    write_atomically(folder / CARD, card.to_json(), mode=0o644)


def read_part(folder: Path, name: str, sha256: str) -> bytes:
    """Read one of the folder's files, which must be the one that the card speaks of.

    Raises
    ------
    BadModel
        It is not there or not the same.
    """
    path = folder / name
    try:
        if not path.is_file():
            raise BadModel(f"{path} is not there. Copy the whole folder again.")
        content = path.read_bytes()
    except OSError as error:
        raise BadModel(f"{path} cannot be read: {error.strerror}.") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise BadModel(f"{path} is damaged: its checksum is not the one in {CARD}. Copy the folder again.")
    return content


def _check_classes(classes: tuple[str, ...]) -> None:
    if not classes:
        raise BadModel("it has no class.")
    if wrong := next((reason for name in classes if (reason := unprintable(name))), ""):
        raise BadModel(f"a class name {wrong}.")
    if again := _twice(classes):
        raise BadModel(f"two classes are called {again!r}.")


def _check_members(members: tuple[MemberCard, ...]) -> None:
    if not members:
        raise BadModel("it has no member.")
    for member in members:
        _check_member(member)
    if again := _twice([member.file for member in members]):
        raise BadModel(f"two members are the file {again!r}.")
    if abs(sum(member.weight for member in members) - 1) > _ROUNDING:
        raise BadModel("the members' weights do not add up to 1.")


def _check_member(member: MemberCard) -> None:
    if not _MEMBER.fullmatch(member.file):
        raise BadModel(f"a member's file is called {member.file!r}, which no export does.")
    if not _SHA256.fullmatch(member.sha256):
        raise BadModel(f"{member.file}: its checksum is no SHA-256.")
    if not 0 < member.weight <= 1 + _ROUNDING:
        raise BadModel(f"{member.file}: its weight {member.weight} is not in (0, 1].")
    for name, values in (("mean", member.mean), ("std", member.std)):
        if len(values) != 3 or not all(map(math.isfinite, values)) or (name == "std" and min(values) <= 0):
            raise BadModel(f"{member.file}: its {name} is not one number for each of red, green, blue.")
    try:
        Params.from_flat(member.params)
    except BadParams as error:
        raise BadModel(f"{member.file}: {error}") from None


def _twice(names: tuple[str, ...] | list[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)

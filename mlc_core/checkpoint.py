"""A training's state after an epoch, on disk: written atomically, read exactly or refused; a fit's in two generations.

The state needs no random number generator: every draw is a function of (seed, epoch) and of an image's place in that
epoch's order, which is such a function too; see seeds.py.
"""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from mlc_core.cache import write_atomically
from mlc_core.errors import BadCheckpoint
from mlc_core.params import Value
from mlc_core.records import BEST, EpochReport, Objective, best_epoch

log = logging.getLogger(__name__)

FORMAT: Final = 6
_MAGIC: Final = b"MLCFIT01"
_DIGEST: Final = 32  # bytes of SHA-256

RESUME: Final = "resume.ckpt"  # everything the next epoch needs
PREVIOUS: Final = "resume.previous.ckpt"  # as it was an epoch earlier, for when the newest is damaged

PARTS: Final = ("weights", "optimizer", "scheduler", "scaler", "average")  # of a State, besides its reports

# What torch's reader raises on bytes that torch.save did not write; it never says so.
_UNREADABLE: Final = (
    *(pickle.UnpicklingError, BadZipFile, EOFError, OSError, RuntimeError, ValueError, TypeError, LookupError),
    *(AttributeError, AssertionError, ArithmeticError, ImportError),
)


class _Damaged(BadCheckpoint):
    """The file is not what was written; an earlier one may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a fit is; a checkpoint of another one is refused."""

    params: dict[str, Value]
    start: str  # digest of the weights that the backbone started from
    seed: int
    epochs: int
    objective: Objective  # by which the best weights were chosen
    data: str  # fingerprint
    device: str  # its type: kernels of another compute other bits
    precision: str
    threads: int
    micro_batch: int | None  # images of one pass; None, to read: as the checkpoint has it


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A fit after its last finished epoch."""

    reports: tuple[EpochReport, ...]  # one an epoch
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    scaler: dict[str, Any]  # of the loss; empty but in fp16
    average: dict[str, Any]  # empty where no weights are averaged


def write(folder: Path, identity: Identity, state: State) -> None:
    """Put the folder's newest state in place; the one before becomes the previous one, which gives way to it.

    While a state is written there are three files for a moment. The folder must be there, as `read` leaves it: where
    somebody took it away, nobody makes it anew.
    """
    content = {
        "reports": [asdict(report) for report in state.reports],
        **{part: getattr(state, part) for part in PARTS},
    }
    newest = folder / RESUME
    previous = folder / PREVIOUS if newest.exists() else None
    write_state(newest, asdict(identity), content, previous=previous)


def read(folder: Path, identity: Identity, *, device: torch.device) -> State | None:
    """Read the folder's newest state that is whole and whose best weights are there; None where there is none.

    What a killed process was writing is removed.

    Raises
    ------
    BadCheckpoint
        Where all that is there is damaged; where it is of another format or of another fit; where the folder cannot
        be used.
    """
    damaged, orphaned = [], False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (RESUME, BEST):
            for torn in folder.glob(f".{name}.*"):
                torn.unlink(missing_ok=True)
        for file in (folder / RESUME, folder / PREVIOUS):
            try:
                state = _read(file, identity, device=device)
            except _Damaged as error:
                damaged.append(error)
                continue
            if state is not None and _has_best(folder, state.reports, identity.objective):
                if damaged:
                    log.warning("%s The fit goes on from %s, after epoch %d.", damaged[0], file, len(state.reports))
                    (folder / RESUME).unlink()  # so that it never takes the place of a whole one
                return state
            orphaned = orphaned or state is not None
    except OSError as error:
        raise BadCheckpoint(f"The checkpoint folder {folder} cannot be used: {error.strerror}. Name another.") from None
    if orphaned:
        log.warning("the best weights in %s are gone, and only a new start finds them again: it begins", folder)
    elif damaged:
        raise damaged[0]
    return None


def clear(folder: Path) -> None:
    """Remove what another fit left, or an earlier start of this one."""
    for name in (RESUME, PREVIOUS, BEST):
        (folder / name).unlink(missing_ok=True)


def write_state(
    path: Path, identity: Mapping[str, object], content: Mapping[str, object], *, previous: Path | None = None
) -> None:
    """Replace a file that holds numbers, texts and tensors, nested, and says what training they are of.

    Parameters
    ----------
    previous : Path, optional
        In the same folder: what the old file is called from then on.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "identity": dict(identity), **content}, buffer)
    payload = buffer.getbuffer()
    write_atomically(path, _MAGIC, hashlib.sha256(payload).digest(), payload, previous=previous)


def read_state(
    path: Path,
    identity: Mapping[str, object],
    *,
    device: torch.device,
    training: str = "fit",
    cure: str = "Name another checkpoint folder.",
) -> dict[str, Any] | None:
    """Read what `write_state` wrote; None where there is none.

    Parameters
    ----------
    training, cure : str
        What an error calls the training, and what it says to do about a file of another one.

    Raises
    ------
    BadCheckpoint
        Where it is damaged, of another format, or of another training.
    OSError
        Where the file cannot be read.

    Notes
    -----
    A checksum shows an accident, not an intent. So no code of a file is run, whatever its checksum.
    """
    try:
        payload = _payload(path)
    except FileNotFoundError:
        return None
    again = f"Delete it to start this {training} again."
    if payload is None:
        raise _Damaged(f"{path} is damaged: its checksum does not match. {again}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch remarks about odd files is for its developers
            saved = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
    except _UNREADABLE:
        saved = None
    if not isinstance(saved, dict) or not isinstance(saved.get("identity"), dict) or "format" not in saved:
        raise _Damaged(f"{path} is damaged: it does not hold what was written. {again}")
    if saved["format"] != FORMAT:
        raise BadCheckpoint(
            f"{path} has format {saved['format']}, this version reads {FORMAT}. Delete it to start again."
        )
    for key, ours in identity.items():
        theirs = saved["identity"].get(key)
        if theirs != ours:
            raise BadCheckpoint(
                f"{path} belongs to another {training}: its {key} is {theirs!r}, asked for is {ours!r}. {cure}"
            )
    return saved


def alike(saved: object, ours: object) -> bool:
    """Tell whether what a file holds has the form of ours: names, shapes, dtypes, kinds of values; any number may be.

    An optimizer's kernels take its tensors to be as large as the weights, and in one piece, without a look.
    """
    match ours:
        case Tensor():
            return (
                isinstance(saved, Tensor)
                and (saved.shape, saved.dtype, saved.layout) == (ours.shape, ours.dtype, ours.layout)
                and saved.is_contiguous()
            )
        case dict():
            return (
                isinstance(saved, dict) and saved.keys() == ours.keys() and all(alike(saved[k], ours[k]) for k in ours)
            )
        case list() | tuple():
            if not isinstance(saved, list | tuple) or len(saved) != len(ours):
                return False
            return all(alike(*pair) for pair in zip(saved, ours, strict=True))
        case int() | float():
            return isinstance(saved, int | float)
        case _:
            return type(saved) is type(ours)


def _read(path: Path, identity: Identity, *, device: torch.device) -> State | None:
    """Read one generation."""
    asked = {key: value for key, value in asdict(identity).items() if value is not None}
    saved = read_state(path, asked, device=device)
    if saved is None:
        return None
    told, parts = saved.get("reports"), {part: saved.get(part) for part in PARTS}
    try:  # msgspec takes a tensor for a mapping, and trips over it
        plain = isinstance(told, list) and all(isinstance(one, dict) for one in (*told, *parts.values()))
        reports = msgspec.convert(told, tuple[EpochReport, ...]) if plain else ()
    except msgspec.ValidationError:
        reports = ()
    if not _sensible(reports, saved["identity"].get("micro_batch"), identity):
        raise _Damaged(f"{path} is damaged: it does not hold what was written. Delete it to start this fit again.")
    return State(reports=reports, **parts)  # type: ignore[arg-type]


def _sensible(reports: tuple[EpochReport, ...], micro_batch: object, identity: Identity) -> bool:
    epochs = [report.epoch for report in reports]
    if epochs != [*range(1, len(epochs) + 1)] or not 1 <= len(epochs) <= identity.epochs:
        return False
    of_batch = identity.params["batch_size"]
    return {report.micro_batch for report in reports} == {micro_batch} and 1 < reports[0].micro_batch <= int(of_batch)


def _has_best(folder: Path, reports: tuple[EpochReport, ...], objective: Objective) -> bool:
    """Tell whether the best weights so far are in the state itself, or in their file.

    Or of a later epoch in the file: then that one was better still, and training comes to the same bits again.
    """
    best = best_epoch(reports, objective)
    return best is reports[-1] or (best_on_disk(folder) or 0) >= best.epoch


def _payload(path: Path) -> memoryview | None:
    """Read what stands behind the checksum; None where that does not match."""
    content = path.read_bytes()
    payload = memoryview(content)[len(_MAGIC) + _DIGEST :]
    told = content[len(_MAGIC) : len(_MAGIC) + _DIGEST]
    return payload if content.startswith(_MAGIC) and hashlib.sha256(payload).digest() == told else None


class Best:
    """The weights of a fit's best epoch: in memory for as long as the resume file holds them too, then in a file.

    Most epochs are the best so far, and each file would cost as much as the resume file. It is written once a later
    state, which lacks them, is in place, and not before: until then the file may hold what the previous state needs.
    A process that dies in between goes on from the previous one, which has them.

    Parameters
    ----------
    folder : Path, optional
        Nothing is written without one.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._held: tuple[dict[str, Tensor], dict[str, str]] | None = None

    def hold(self, model: nn.Module, metadata: dict[str, str]) -> None:
        """Remember them in place of earlier ones."""
        self._held = {name: tensor.clone() for name, tensor in model.state_dict().items()}, metadata

    def write(self) -> None:
        """Write what is held, unless the file has it."""
        if self._held is not None and self._folder is not None:
            weights, metadata = self._held
            if best_on_disk(self._folder) != int(metadata["epoch"]):
                write_best(self._folder, weights, metadata)
        self._held = None


def best_on_disk(folder: Path) -> int | None:
    """Tell of which epoch the best weights in the folder are; None where there are none."""
    try:
        with safe_open(folder / BEST, framework="pt") as file:
            return int((file.metadata() or {})["epoch"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None  # gone or damaged: then nobody has them


def write_best(folder: Path, weights: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Replace the folder's best weights."""
    write_weights(folder / BEST, weights, metadata)


def write_weights(path: Path, weights: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Replace a file of weights (safetensors, so that reading them runs no code)."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_atomically(path, to_safetensors(plain, metadata))

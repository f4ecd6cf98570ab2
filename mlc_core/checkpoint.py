"""A training's state after an epoch, on disk: written atomically, read exactly or refused; a fit's in particular.

The state needs no random number generator: every draw is a function of (seed, epoch), see seeds.py.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from mlc_core.cache import write_atomically
from mlc_core.errors import BadCheckpoint
from mlc_core.params import Value
from mlc_core.records import BEST, EpochReport

FORMAT: Final = 5
_MAGIC: Final = b"MLCFIT01"
_DIGEST: Final = 32  # bytes of SHA-256

RESUME: Final = "resume.ckpt"  # everything the next epoch needs


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a fit is; a checkpoint of another one is refused."""

    params: dict[str, Value]
    start: str  # digest of the weights that the backbone started from
    seed: int
    epochs: int
    objective: str  # by which the best weights were chosen
    data: str  # fingerprint
    device: str  # its type: kernels of another compute other bits
    precision: str
    threads: int


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
    """Replace the folder's resume file."""
    content = {
        "reports": [asdict(report) for report in state.reports],
        "weights": state.weights,
        "optimizer": state.optimizer,
        "scheduler": state.scheduler,
        "scaler": state.scaler,
        "average": state.average,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_state(folder / RESUME, asdict(identity), content)


def read(folder: Path, identity: Identity, *, device: torch.device) -> State | None:
    """Read the folder's resume file; None where there is none.

    Raises
    ------
    BadCheckpoint
        Where it is damaged, of another format, or of another fit; where the folder cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        saved = read_state(folder / RESUME, asdict(identity), device=device)
    except OSError as error:
        raise BadCheckpoint(f"The checkpoint folder {folder} cannot be used: {error.strerror}. Name another.") from None
    if saved is None:
        return None
    return State(
        reports=tuple(EpochReport(**report) for report in saved["reports"]),
        weights=saved["weights"],
        optimizer=saved["optimizer"],
        scheduler=saved["scheduler"],
        scaler=saved["scaler"],
        average=saved["average"],
    )


def write_state(path: Path, identity: Mapping[str, object], content: Mapping[str, object]) -> None:
    """Replace a file that holds numbers, texts and tensors, nested, and says what training they are of."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "identity": dict(identity), **content}, buffer)
    payload = buffer.getbuffer()
    write_atomically(path, _MAGIC, hashlib.sha256(payload).digest(), payload)


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
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    payload = content[len(_MAGIC) + _DIGEST :]
    if not content.startswith(_MAGIC) or hashlib.sha256(payload).digest() != content[len(_MAGIC) :][:_DIGEST]:
        raise BadCheckpoint(
            f"{path} is damaged: its checksum does not match. Delete it to start this {training} again."
        )
    saved: dict[str, Any] = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
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


class Best:
    """The weights of a fit's best epoch: in memory for as long as the resume file holds them too, then in a file.

    Most epochs are the best so far, and each file would cost as much as the resume file.

    Parameters
    ----------
    folder : Path, optional
        Nothing is written without one.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._held: tuple[dict[str, Tensor], dict[str, str]] | None = None

    def clear(self) -> None:
        """Remove the file that another fit left, which would be taken for this one's by its epoch."""
        if self._folder is not None:
            (self._folder / BEST).unlink(missing_ok=True)

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
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder / BEST, weights, metadata)


def write_weights(path: Path, weights: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Replace a file of weights (safetensors, so that reading them runs no code)."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_atomically(path, to_safetensors(plain, metadata))

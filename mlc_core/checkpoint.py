"""A fit's state after an epoch, on disk: written atomically, read exactly or refused.

The state needs no random number generator: every draw is a function of (seed, epoch), see seeds.py.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from mlc_core.cache import write_atomically
from mlc_core.errors import BadCheckpoint
from mlc_core.params import Value
from mlc_core.records import BEST, EpochReport

FORMAT: Final = 2
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
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]


def write(folder: Path, identity: Identity, state: State) -> None:
    """Replace the folder's resume file."""
    buffer = io.BytesIO()
    content = {
        "format": FORMAT,
        "identity": asdict(identity),
        "reports": [asdict(report) for report in state.reports],
        "model": state.model,
        "optimizer": state.optimizer,
        "scheduler": state.scheduler,
    }
    torch.save(content, buffer)
    payload = buffer.getbuffer()
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / RESUME, _MAGIC + hashlib.sha256(payload).digest() + payload)


def read(folder: Path, identity: Identity, *, device: torch.device) -> State | None:
    """Read the folder's resume file; None where there is none.

    Raises
    ------
    BadCheckpoint
        Where it is damaged, of another format, or of another fit; where the folder cannot be used.
    """
    path = folder / RESUME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadCheckpoint(f"The checkpoint folder {folder} cannot be used: {error.strerror}. Name another.") from None
    payload = content[len(_MAGIC) + _DIGEST :]
    if not content.startswith(_MAGIC) or hashlib.sha256(payload).digest() != content[len(_MAGIC) :][:_DIGEST]:
        raise BadCheckpoint(f"{path} is damaged: its checksum does not match. Delete it to start this fit again.")
    saved: dict[str, Any] = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
    if saved["format"] != FORMAT:
        raise BadCheckpoint(
            f"{path} has format {saved['format']}, this version reads {FORMAT}. Delete it to start again."
        )
    for key, ours in asdict(identity).items():
        theirs = saved["identity"].get(key)
        if theirs != ours:
            raise BadCheckpoint(
                f"{path} belongs to another fit: its {key} is {theirs!r}, asked for is {ours!r}. "
                "Name another checkpoint folder."
            )
    return State(
        reports=tuple(EpochReport(**report) for report in saved["reports"]),
        model=saved["model"],
        optimizer=saved["optimizer"],
        scheduler=saved["scheduler"],
    )


def write_best(folder: Path, weights: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Replace the folder's best weights (safetensors, so that reading them runs no code)."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_atomically(folder / BEST, to_safetensors(plain, metadata))

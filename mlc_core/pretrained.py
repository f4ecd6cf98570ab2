"""What a backbone starts from: nothing, torchvision's ImageNet weights, or a file; read without running its code.

Not here: the network itself (model.py); the state of a fit (checkpoint.py).
"""

from __future__ import annotations

import hashlib
import http.client
import io
import logging
import pickle
import re
import struct
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from torch import Tensor
from torchvision.models import ResNet18_Weights, ResNet34_Weights, ResNet50_Weights, ResNet101_Weights, WeightsEnum

from mlc_core.cache import write_atomically
from mlc_core.errors import BadParams, BadWeights, did_you_mean
from mlc_core.model import Classifier, build
from mlc_core.params import BACKBONES, BackboneName, StemName

log = logging.getLogger(__name__)

NONE: Final = "none"
IMAGENET: Final = "imagenet"
NEWEST: Final[Mapping[BackboneName, WeightsEnum]] = {  # of torchvision's weights for ImageNet-1k
    "resnet18": ResNet18_Weights.DEFAULT,
    "resnet34": ResNet34_Weights.DEFAULT,
    "resnet50": ResNet50_Weights.DEFAULT,
    "resnet101": ResNet101_Weights.DEFAULT,
}

PATIENCE: Final = 4.0  # seconds until a server that does not answer is taken to be out of reach
STALLED: Final = 30.0  # seconds without a byte after which a download is given up
MAX_BYTES: Final = 4 * 2**30  # of a file; a resnet101 with its optimizer's state takes a fifth
LISTED: Final = 3  # names that a message lists before it only counts

_FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MARK: Final = "layer1.0.conv1.weight"  # every ResNet has it, and nothing else; what stands before it is a wrapper's
_WRAPPERS: Final = ("state_dict", "model_state_dict", "model", "net", "network", "backbone")
# What torch's and safetensors' readers raise on bytes that are not theirs; neither says so.
_UNREADABLE: Final = (
    *(pickle.UnpicklingError, SafetensorError, BadZipFile, struct.error, OSError, EOFError, RuntimeError, ValueError),
    *(TypeError, LookupError, AttributeError, AssertionError, ArithmeticError, ImportError, MemoryError),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a backbone took from a file, and what it did not.

    Batch normalization's counters (``num_batches_tracked``) are never taken: they do not act, and count anew.
    """

    source: str  # none, torchvision's name of the weights, or the file's path
    digest: str  # as `weights_digest` gives it, of the very bytes that were read
    taken: tuple[str, ...] = ()  # names of tensors, as torchvision's ResNet has them
    missing: tuple[str, ...] = ()  # as well; left at their random start, as are the misfits
    misfits: tuple[str, ...] = ()  # "conv1.weight (64 x 3 x 7 x 7 in the file, 64 x 3 x 3 x 3 here)"
    left_over: tuple[str, ...] = ()  # names in the file that this backbone has no use for, but for the head's
    seems: BackboneName | None = None  # where more than the stem differs, and if the file is of one of ours

    def __str__(self) -> str:
        """One line for people, with whatever was not taken."""
        of = len(self.taken) + len(self.missing) + len(self.misfits)
        parts = [f"{len(self.taken)} of the backbone's {of} tensors fit"]
        if self.misfits:
            parts.append(f"left at their random start, being of another shape: {_some(self.misfits)}")
        if self.missing:
            parts.append(f"left at their random start, being absent: {_some(self.missing)}")
        if self.left_over:
            parts.append(f"not used: {_some([repr(name)[:80] for name in self.left_over])}")
        if self.seems is not None:
            parts.append(f"the file is of a {self.seems}")
        return f"{self.source}: {'; '.join(parts)}."


def start_from(model: Classifier, weights: str, *, backbone: BackboneName) -> Report:
    """Put weights into the model's backbone, in place; the head keeps its random start.

    Parameters
    ----------
    model : Classifier
        On any device; unchanged where an error is raised.
    weights : str
        ``none``; ``imagenet``, for the newest weights of torchvision (`NEWEST`), downloaded on first use into
        torch.hub's folder; or the path of a file: safetensors, or a state dict saved by torch.save, of
        torchvision's ResNet or of our classifier, alone or wrapped (DataParallel, a trainer's checkpoint).
    backbone : one of params.BACKBONES
        The model's.

    Returns
    -------
    Report
        Also logged, as a warning, where something was not taken.

    Raises
    ------
    BadParams
        Where torchvision has no weights for this backbone.
    BadWeights
        Where the file is not there, cannot be read or downloaded, holds code, NaN or infinite numbers, or where
        fewer than half of the backbone's tensors fit.
    """
    digest = NONE
    if weights == NONE:
        return Report(source=NONE, digest=digest)
    if weights == IMAGENET:
        choice = _imagenet(backbone)
        source, digest = str(choice), weights_digest(weights, backbone)
        content = fetch(choice.url, Path(torch.hub.get_dir()) / "checkpoints")
    else:
        source, content = weights, _read(Path(weights))
        digest = _sha256(content)
    report, fitting = _compare(_tensors(content, source), model, source=source, digest=digest)
    if 2 * len(report.taken) < len(report.taken) + len(report.missing) + len(report.misfits):
        cure = f"Set backbone to {report.seems}, or name" if report.seems is not None else "Name"
        raise BadWeights(f"{report} That is too little to start a {backbone} from. {cure} another file.")
    ours = model.resnet.state_dict()
    with torch.no_grad():
        for name, tensor in fitting.items():
            ours[name].copy_(tensor)
    if report.missing or report.misfits or report.left_over:
        log.warning("%s", report)
    return report


def check_weights(weights: str, *, backbone: BackboneName, stem: StemName) -> None:
    """Download, read and compare weights without a training, so that a fault shows before one.

    Raises
    ------
    BadParams, BadWeights
        As `start_from`.
    """
    if weights != NONE:
        start_from(build(backbone=backbone, stem=stem, dropout=0, classes=2, seed=0), weights, backbone=backbone)


def weights_digest(weights: str, backbone: BackboneName) -> str:
    """Name the content that a backbone starts from: equal for equal weights, whatever the file is called.

    Nothing is downloaded: the name of torchvision's file carries its SHA-256, which `start_from` checks.

    Raises
    ------
    BadParams, BadWeights
        Where torchvision has no weights for this backbone; where the file cannot be read.
    """
    if weights == NONE:
        return NONE
    if weights == IMAGENET:
        return f"{IMAGENET}:{Path(_imagenet(backbone).url).stem}"
    return _sha256(_read(Path(weights)))


def fetch(url: str, folder: Path) -> bytes:
    """Read the folder's copy of a file, downloading it where there is none (proxies as in the environment).

    Parameters
    ----------
    url : str
        Its last part is the file's name, ``name-DIGITS.pth``, with the first digits of the content's SHA-256.

    Raises
    ------
    BadWeights
        Where the copy is damaged, or where the server does not answer within `PATIENCE`.
    """
    path = folder / url.rpartition("/")[2]
    wanted = path.stem.rpartition("-")[2]
    try:
        if path.exists():
            return _placed(path, wanted)
        log.info("downloading %s to %s", url, path)
        content = _download(url, wanted)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content, mode=0o644)  # the folder may be shared with other users
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise BadWeights(
            f"{url} cannot be downloaded to {folder}: {_reason(error)}. Bring the file from a machine that can, place "
            f"it as {path} (TORCH_HOME moves this folder), then start again; or set weights to none."
        ) from None
    return content


def _placed(path: Path, wanted: str) -> bytes:
    content = _read(path)
    if (found := hashlib.sha256(content).hexdigest()[: len(wanted)]) != wanted:
        raise BadWeights(
            f"{path} is damaged: its SHA-256 begins with {found}, not {wanted}. Delete it, then start again."
        )
    return content


def _imagenet(backbone: BackboneName) -> WeightsEnum:
    if backbone not in NEWEST:
        hint = f" Set backbone to one of {', '.join(NEWEST)}, or weights to none or a file."
        raise BadParams("weights", IMAGENET, f"there for {backbone}", hint)
    return NEWEST[backbone]


def _download(url: str, wanted: str) -> bytes:
    """Return the content whose SHA-256 begins with the wanted digits, or raise what stood in the way."""
    answers: SimpleQueue[http.client.HTTPResponse | Exception] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(urllib.request.build_opener().open(url, timeout=STALLED))
        except (OSError, http.client.HTTPException, ValueError) as error:
            answers.put(error)

    # A silent name server, or several silent addresses, would outlast the timeout of a socket.
    threading.Thread(target=ask, name="download", daemon=True).start()
    try:
        answer = answers.get(timeout=PATIENCE)
    except Empty:
        raise TimeoutError(f"no answer within {PATIENCE:g} seconds") from None
    if isinstance(answer, urllib.error.HTTPError):
        answer.close()  # it is a response as well
    if isinstance(answer, Exception):
        raise answer
    content = bytearray()
    with answer:
        while piece := answer.read(2**20):
            content += piece
            if len(content) > MAX_BYTES:
                raise OSError(f"more than {MAX_BYTES} bytes arrived")
    if not hashlib.sha256(content).hexdigest().startswith(wanted):
        raise OSError("what arrived has another SHA-256")
    return bytes(content)


def _reason(error: Exception) -> str:
    """Say what failed, without quoting what may be a proxy's address with its password."""
    match error:
        case urllib.error.HTTPError(code=code):
            return f"the server answers {code}"
        case urllib.error.URLError(reason=OSError() as inner):
            return _reason(inner)
        case OSError():
            return error.strerror or str(error)
        case _:
            return f"the answer makes no sense ({type(error).__name__})"


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():  # anything else may never end, a pipe for instance
            hint = did_you_mean(str(path), (NONE, IMAGENET))
            raise BadWeights(f"{path} is no file. Set weights to none, imagenet or the path of a file.{hint}")
        if path.stat().st_size > MAX_BYTES:
            raise BadWeights(f"{path} has more than {MAX_BYTES} bytes. Save the model's state_dict alone.")
        return path.read_bytes()
    except OSError as error:
        raise BadWeights(f"{str(path)[:200]} cannot be read: {error.strerror}. Name a file that can.") from None


def _sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _tensors(content: bytes, source: str) -> dict[str, object]:
    """Read what a file holds by name, without the wrappers around it; in a foreign file not only tensors."""
    try:
        loaded = from_safetensors(content) if content[8:9] == b"{" else _unpickle(content)
    except _UNREADABLE as error:
        if isinstance(error, pickle.UnpicklingError) and (stranger := re.search(r"GLOBAL (\S+)", str(error))):
            raise BadWeights(
                f"{source} holds more than tensors, {stranger[1][:80]!r} for one, which could run code and was not "
                "run. Save the model's state_dict alone: torch.save(model.state_dict(), path)."
            ) from None
        raise BadWeights(
            f"{source} is damaged, or neither a safetensors file nor a state dict saved by torch.save. "
            "Copy it again, or save the model's state_dict."
        ) from None
    for _ in range(3):  # a trainer's checkpoint inside another's is plausible, more is not
        if isinstance(loaded, Mapping):
            inner = (loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), Mapping))
            loaded = next(inner, loaded)
    if not isinstance(loaded, Mapping):
        raise BadWeights(f"{source} holds no state dict. Save one: torch.save(model.state_dict(), path).")
    return {key: value for key, value in loaded.items() if isinstance(key, str)}


def _unpickle(content: bytes) -> object:
    """Read what torch.save wrote, before version 1.6 or after it."""
    if content.startswith(b"PK\x03\x04"):
        with ZipFile(io.BytesIO(content)) as archive:  # torch does not compare checksums itself
            if any(entry.compress_type != ZIP_STORED for entry in archive.infolist()):
                raise BadZipFile("torch.save does not compress; a small file could fill the memory")
            if archive.testzip() is not None:
                raise BadZipFile("a checksum differs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch remarks about odd files is for its developers
        loaded: object = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return loaded


def _compare(
    found: Mapping[str, object], model: Classifier, *, source: str, digest: str
) -> tuple[Report, dict[str, Tensor]]:
    """Sort the file's names into those that fit, with their tensors in float32, and those that do not."""
    prefix = _prefix(found, source)
    inside = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
    wanted = _shapes(model)
    missing, misfits, fitting = [], [], {}
    for name, shape in wanted.items():
        if name not in inside:
            missing.append(name)
        elif (tensor := _plain(inside[name])) is None:
            misfits.append(f"{name} (no floating-point tensor in the file)")
        elif tuple(tensor.shape) != shape:
            misfits.append(f"{name} ({_times(tensor.shape)} in the file, {_times(shape)} here)")
        else:
            fitting[name] = _sound(tensor.to(torch.float32), name, source)
    # torchvision's head is inside the backbone, ours beside it.
    heads = (f"{prefix}fc.", f"{prefix.removesuffix('resnet.')}head.")
    used = {prefix + name for name in wanted}
    left_over = tuple(
        name
        for name in found
        if name not in used and not name.startswith(heads) and not name.endswith(".num_batches_tracked")
    )
    report = Report(
        source=source,
        digest=digest,
        taken=tuple(fitting),
        missing=tuple(missing),
        misfits=tuple(misfits),
        left_over=left_over,
        seems=_seems(inside) if missing or left_over or len(misfits) > 1 else None,
    )
    return report, fitting


def _prefix(found: Mapping[str, object], source: str) -> str:
    """Find what wrappers put before every name of the backbone: "", "module.", "resnet.", "encoder." ..."""
    prefixes = [name.removesuffix(_MARK) for name in found if f".{name}".endswith(f".{_MARK}")]
    if not prefixes:
        example = f" It begins with {next(iter(found))[:80]!r}." if found else " It is empty."
        raise BadWeights(f"{source} holds no ResNet in torchvision's names.{example} Name another file.")
    if len(prefixes) > 1:
        listed = _some([repr(prefix)[:80] for prefix in prefixes])
        raise BadWeights(f"{source} holds {len(prefixes)} backbones, under {listed}. Save one of them alone.")
    return prefixes[0]


def _plain(value: object) -> Tensor | None:
    """Pass a tensor of ordinary numbers alone; a file can as well hold sparse, quantized or absent ones."""
    if not isinstance(value, Tensor) or value.dtype not in _FLOATS or value.layout is not torch.strided:
        return None
    return None if value.is_nested or value.device.type != "cpu" else value.detach()


def _sound(tensor: Tensor, name: str, source: str) -> Tensor:
    if not bool(torch.isfinite(tensor).all()):
        raise BadWeights(f"{source} is of no use: {name} holds NaN or infinite numbers. Name another file.")
    if name.endswith(".running_var") and bool((tensor < 0).any()):
        raise BadWeights(f"{source} is of no use: {name} holds a negative variance. Name another file.")
    return tensor


def _shapes(model: Classifier) -> dict[str, tuple[int, ...]]:
    state = model.resnet.state_dict()
    return {name: tuple(t.shape) for name, t in state.items() if not name.endswith(".num_batches_tracked")}


def _seems(inside: Mapping[str, object]) -> BackboneName | None:
    """Find the backbone that has just these tensors in its four stages."""
    theirs = {
        name: tuple(tensor.shape)
        for name, value in inside.items()
        if name.startswith("layer") and (tensor := _plain(value)) is not None
    }
    for backbone in BACKBONES:
        with torch.device("meta"):  # shapes alone
            model = build(backbone=backbone, stem="standard", dropout=0.0, classes=2, seed=0)
        if {name: shape for name, shape in _shapes(model).items() if name.startswith("layer")} == theirs:
            return backbone
    return None


def _times(shape: Sequence[int]) -> str:
    return " x ".join(str(side) for side in shape) or "one number"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{', '.join(names[:LISTED])}{more}"

"""A model's folder is read and asked: files, pictures or arrays in, labels and probabilities out.

Not here: writing the folder (export.py); where in an image a label is seen (explain.py). torch only where it computes.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

import numpy as np
from PIL import Image

from mlc_core.card import ONNX, Card, read_card, read_part
from mlc_core.data.dataset import Uint8
from mlc_core.data.images import Undecodable, decode, read_bytes
from mlc_core.data.listing import Problem
from mlc_core.data.readers.files import tree
from mlc_core.errors import BadData, BadModel, BadParams, BadWeights, MissingExtra, NoDevice
from mlc_core.machine import processors
from mlc_core.params import one_of
from mlc_core.predictions import Floats, sigmoid

if TYPE_CHECKING:  # torch takes seconds to import, and ONNX does without
    from mlc_core.predict import Predictor

Runtime = Literal["torch", "onnx"]

Picture: TypeAlias = "str | PathLike[str] | Image.Image | Uint8"  # an array: (height, width, 3)

BATCH: Final = 64  # images: beyond it nothing gets faster
_CARRIED: Final = ("L", "LA", "P", "RGB", "RGBA", "1", "I;16")  # modes that a PNG keeps as they are


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a model says of one image."""

    labels: tuple[str, ...]  # those at or above their threshold, the most probable first
    probabilities: dict[str, float]  # of every class, in the classes' order


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Model:
    """A model's folder, ready to be asked.

    Attributes
    ----------
    card : Card
    ask : callable
        (n, 3, side, side) uint8 RGB -> (n, classes) calibrated probabilities, float64.
    predictor : Predictor or None
        The network that `ask` asks; None where ONNX computes.
    """

    card: Card
    ask: Callable[[Uint8], Floats]
    predictor: Predictor | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the probabilities."""
        return self.card.classes

    def predict(
        self, images: Picture | Iterable[Picture], *, thresholds: float | Sequence[float] | None = None
    ) -> list[Prediction]:
        """Say which labels images carry.

        Parameters
        ----------
        images : str, Path, PIL image or array, or several of them
            An array is uint8 RGB, (height, width, 3); or (n, 3, height, width) for several images. Each is squashed
            to a square as the training's images were; the same file gives the same bits.
        thresholds : float or sequence of float, optional
            For all classes, or one a class; by default the model's own.

        Returns
        -------
        list of Prediction
            One an image.

        Raises
        ------
        BadData
            Naming the first image that cannot be used.
        BadParams
            Thresholds that are not one for each class.
        """
        told = []
        for number, answer in enumerate(self.stream(_several(images), thresholds=thresholds), start=1):
            if isinstance(answer, Problem):
                where = answer.where or f"image {number}"
                raise BadData(f"{where}: {answer.reason}")
            told.append(answer)
        return told

    def stream(
        self, images: Iterable[Picture], *, thresholds: float | Sequence[float] | None = None
    ) -> Iterator[Prediction | Problem]:
        """Answer image by image, in order, in constant memory; an image that cannot be used is a Problem.

        Notes
        -----
        Threads decode the next images while a batch is computed: Pillow lets go of the interpreter.
        """
        lines = self._thresholds(thresholds)
        with ThreadPoolExecutor(processors()) as pool:
            try:
                for batch in _decoded(images, self.card.side, pool):
                    yield from self._answers(batch, lines)
            finally:
                pool.shutdown(cancel_futures=True)

    def _answers(self, batch: Sequence[Uint8 | Problem], thresholds: Floats) -> Iterator[Prediction | Problem]:
        pixels = [one for one in batch if not isinstance(one, Problem)]
        rows = iter(self._probabilities(np.stack(pixels)) if pixels else ())
        for one in batch:
            yield one if isinstance(one, Problem) else self._prediction(next(rows), thresholds)

    def _probabilities(self, pixels: Uint8) -> Floats:
        if len(pixels) > 1:
            return self.ask(pixels)
        # Kernels for a single image sum in another order; what is said of it must not depend on its company.
        return self.ask(np.repeat(pixels, 2, axis=0))[:1]

    def _prediction(self, probabilities: Floats, thresholds: Floats) -> Prediction:
        reached = np.flatnonzero(probabilities >= thresholds)
        order = sorted(reached.tolist(), key=lambda number: -probabilities[number])
        return Prediction(
            labels=tuple(self.classes[number] for number in order),
            probabilities=dict(zip(self.classes, probabilities.tolist(), strict=True)),
        )

    def _thresholds(self, given: float | Sequence[float] | None) -> Floats:
        chosen = self.card.thresholds if given is None else given
        values = np.asarray(chosen, np.float64)
        if values.ndim == 0:
            values = np.full(len(self.classes), values)
        if values.shape != (len(self.classes),) or not np.isfinite(values).all():
            raise BadParams("thresholds", given, f"a number, or one for each of the {len(self.classes)} classes")
        return values


def load_model(path: Path | str, *, runtime: Runtime = "torch", device: str = "auto") -> Model:
    """Read a model's folder; no code of the folder runs.

    Parameters
    ----------
    path : Path or str
        A folder that an export wrote.
    runtime : "torch" or "onnx"
        What computes: torch, from safetensors; or onnxruntime, from model.onnx. A model.pt2 is for other programs
        and never read: torch.export.load may unpickle, and so run, what somebody put inside.
    device : str
        Of torch, as `choose` takes it; ONNX computes on the CPU.

    Raises
    ------
    BadModel
        The folder is not there, damaged, foreign or of another format, or it has no model.onnx.
    BadParams, MissingExtra, NoDevice
    """
    one_of("runtime", runtime, get_args(Runtime))
    folder = Path(path)
    card = read_card(folder)
    return _with_onnx(folder, card, device) if runtime == "onnx" else _with_torch(folder, card, device)


def find_images(path: Path) -> tuple[list[Path], list[Problem]]:
    """List the images below a folder, sorted, and what of it cannot be read; a file stands for itself."""
    if not path.is_dir():
        return [path], []
    found = tree(path)
    return [path / name for name in found.images], [Problem(str(path / p.where), p.reason) for p in found.problems]


def read_picture(path: Path) -> bytes:
    """Read an image file whole.

    Raises
    ------
    Undecodable
        It is not there, no file, or too large.
    """
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            raise Undecodable("is no file" if path.exists() else "is not there")
    except OSError as error:
        raise Undecodable(f"cannot be opened ({error.strerror})") from None
    return read_bytes(path)


def squashed(image: Picture, side: int) -> Uint8:
    """Turn an image into what a model sees, (3, side, side) uint8 RGB.

    Raises
    ------
    Undecodable
        It cannot be used; the text says why.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise Undecodable(
                f"is {image.dtype} of shape {image.shape}, not uint8 of shape (height, width, 3) or "
                "(n, 3, height, width)"
            )
        if image.shape[:2] == (side, side):
            return np.ascontiguousarray(image.transpose(2, 0, 1))
        image = Image.fromarray(np.ascontiguousarray(image))
    if isinstance(image, Image.Image):
        return decode(_png(image), side).pixels
    return decode(read_picture(Path(image)), side).pixels


def _png(image: Image.Image) -> bytes:
    """Spell a picture as a file, so that it goes the way of all files."""
    content = io.BytesIO()
    try:
        plain = image if image.mode in _CARRIED else image.convert("RGB")
        plain.save(content, "PNG", compress_level=0, exif=image.getexif())
    except OSError as error:  # a file that was opened, and is read only now
        raise Undecodable(f"is damaged ({error})") from None
    return content.getvalue()


def _several(images: Picture | Iterable[Picture]) -> Iterable[Picture]:
    if isinstance(images, np.ndarray):
        if images.ndim == 4 and images.shape[1] == 3:
            return iter(images.transpose(0, 2, 3, 1))
        return [images]
    return [images] if isinstance(images, str | PathLike | Image.Image) else images


def _decoded(images: Iterable[Picture], side: int, pool: ThreadPoolExecutor) -> Iterator[list[Uint8 | Problem]]:
    """Decode in batches, the next one already while one is used."""
    waiting: deque[Future[Uint8 | Problem]] = deque()
    for image in images:
        waiting.append(pool.submit(_pixels, image, side))
        if len(waiting) == 2 * BATCH:
            yield [waiting.popleft().result() for _ in range(BATCH)]
    while waiting:
        yield [waiting.popleft().result() for _ in range(min(BATCH, len(waiting)))]


def _pixels(image: Picture, side: int) -> Uint8 | Problem:
    try:
        return squashed(image, side)
    except Undecodable as error:
        where = str(image) if isinstance(image, str | PathLike) else ""
        return Problem(where, f"it {error}.")


def _with_torch(folder: Path, card: Card, device: str) -> Model:
    from mlc_core.device import choose
    from mlc_core.predict import Predictor, infer, read_member

    chosen = choose(device=device, precision="fp32").device
    members = []
    for described in card.members:
        read_part(folder, described.file, described.sha256)
        try:
            member = read_member(folder / described.file)
        except BadWeights as error:
            raise BadModel(str(error)) from None
        told = (described.params, card.classes, described.mean, described.std)
        if told != (member.params.to_flat(), member.classes, member.mean, member.std):
            raise BadModel(f"{folder / described.file} is not what the card says of it. Export the model again.")
        members.append(member)
    predictor = Predictor(
        members,
        [described.weight for described in card.members],
        average=card.average,
        scale=card.scale,
        shift=card.shift,
    ).to(chosen)
    return Model(card=card, ask=lambda pixels: sigmoid(infer(predictor, pixels)), predictor=predictor)


def _with_onnx(folder: Path, card: Card, device: str) -> Model:
    if device not in ("auto", "cpu"):
        raise NoDevice(f"device: {device!r} is not for ONNX, which computes on the CPU. Use --runtime torch.")
    if ONNX not in card.graphs:
        raise BadModel(f"{folder} holds no {ONNX}. Export the model again with --onnx, or use --runtime torch.")
    content = read_part(folder, ONNX, card.graphs[ONNX])
    try:
        from mlc_core.onnx_model import ask_onnx
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "onnxruntime"):
            raise
        raise MissingExtra("Predicting with ONNX", "onnx") from None
    return Model(card=card, ask=ask_onnx(content, str(folder / ONNX)))

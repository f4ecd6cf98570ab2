"""Where in an image a model sees a label: Grad-CAM, and its picture.

Not here: what the model says of the image (shipped.py).
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from mlc_core.cache import write_atomically
from mlc_core.data.augment import normalize
from mlc_core.data.dataset import Uint8
from mlc_core.data.images import Undecodable, decode
from mlc_core.errors import BadData, BadModel, BadParams, did_you_mean
from mlc_core.model import Classifier
from mlc_core.params import Params
from mlc_core.shipped import Model, Prediction, read_picture

STAGES: Final = 4  # of residual blocks in a ResNet
SHOWN: Final = 320  # pixels of a picture's longer side
GAP: Final = 12  # pixels around a picture
LETTERS: Final = 18  # pixels
COLUMNS: Final = 4  # pictures side by side
_NAMED: Final = 30  # classes that an error lists
HEAT: Final = 0.6  # of the colour, the rest is the picture in grey

# Inferno (van der Walt & Smith 2015, matplotlib, CC0) at ten even steps: lightness rises all the way, so that it is
# read in grey and with any kind of colour blindness.
_INFERNO: Final = "000004 1b0c41 4a0c6b 781c6d a52c60 cf4446 ed6925 fb9b06 f7d13d fcffa4"
_COLOURS: Final = np.array([list(bytes.fromhex(code)) for code in _INFERNO.split()], np.float64)

_SUFFIXES: Final = (".png", ".html")
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 24px; overflow-wrap: anywhere; }
div { display: flex; flex-wrap: wrap; gap: 16px; } figure { margin: 0; width: min-content; }
"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Heat:
    """How much each place of an image speaks for one label."""

    label: str
    probability: float
    heat: NDArray[np.float32]  # (side, side) over the squashed image, in [0, 1]; all 0 where nothing speaks for it


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explanation:
    """What a model sees in one image."""

    pixels: Uint8  # (height, width, 3), RGB, in the image's own shape, at most SHOWN on a side
    prediction: Prediction
    heats: tuple[Heat, ...]  # one a label that was asked for
    stages: tuple[int, ...]  # of each member: whose map was taken, 1 to STAGES

    @property
    def early(self) -> tuple[int, ...]:
        """Stages before the last whose maps were taken, because the last one's was a single pixel."""
        return tuple(sorted({stage for stage in self.stages if stage < STAGES}))


def heat_maps(model: Model, image: Path | str, *, labels: Sequence[str] | None = None) -> Explanation:
    """Find the places of an image that speak for labels.

    Parameters
    ----------
    model : Model
        That torch computes.
    image : Path or str
    labels : sequence of str, optional
        By default those that the model predicts; where it predicts none, the most probable one.

    Raises
    ------
    BadData
        The image cannot be used.
    BadModel
        The model was loaded for ONNX, which has no gradients.
    BadParams
        A label that the model does not know.

    Notes
    -----
    Grad-CAM (Selvaraju et al. 2017, eq. 1 and 2) on the last residual stage: its maps, weighted by the mean of the
    logit's gradient, as far as positive. Where that stage's map is a single pixel, as a 32-pixel image's is behind
    the standard stem, nothing could be told apart; then the last stage whose map is larger is taken. A map's largest
    value is 1. Several members' maps are averaged by their weights in the model.
    """
    for label in labels or ():
        if label not in model.classes:
            named = ", ".join(model.classes[:_NAMED])
            further = f" and {len(model.classes) - _NAMED} more" if len(model.classes) > _NAMED else ""
            allowed = f"a class of this model, one of {named}{further}"
            raise BadParams("label", label, allowed, did_you_mean(label, model.classes))
    if model.predictor is None:
        raise BadModel("A heat map needs gradients, which ONNX does not have. Load the model with runtime='torch'.")
    try:
        content = read_picture(Path(image))
        squashed, shown = decode(content, model.card.side), decode(content, SHOWN)
    except Undecodable as error:
        raise BadData(f"{image}: it {error}.") from None
    pixels = np.ascontiguousarray(squashed.pixels.transpose(1, 2, 0))
    prediction = model.predict([pixels])[0]
    chosen = tuple(
        labels or prediction.labels or [max(prediction.probabilities, key=prediction.probabilities.__getitem__)]
    )
    heats, stages = _heats(model, squashed.pixels, [model.classes.index(label) for label in chosen])
    longer = max(shown.width, shown.height)
    size = tuple(max(1, round(SHOWN * side / longer)) for side in (shown.width, shown.height))
    return Explanation(
        pixels=np.asarray(_resized(shown.pixels.transpose(1, 2, 0), *size)),
        prediction=prediction,
        heats=tuple(
            Heat(label=label, probability=prediction.probabilities[label], heat=heat)
            for label, heat in zip(chosen, heats, strict=True)
        ),
        stages=stages,
    )


def grad_cam(network: Classifier, images: Tensor, classes: Sequence[int]) -> tuple[Tensor, int]:
    """Compute the maps of one image for some classes, and say of which stage.

    Parameters
    ----------
    network : Classifier
        In evaluation mode.
    images : Tensor, (1, 3, height, width), float32, normalized

    Returns
    -------
    Tensor, (classes asked for, rows, columns), float32, not negative; int, 1 to STAGES
    """
    maps: list[Tensor] = []
    layers = [getattr(network.resnet, f"layer{stage}") for stage in range(1, STAGES + 1)]
    hooks = [layer.register_forward_hook(lambda _module, _inputs, output: maps.append(output)) for layer in layers]
    try:
        with torch.enable_grad():
            logits = network(images)[0]
    finally:
        for hook in hooks:
            hook.remove()
    stage = max((number for number, one in enumerate(maps, 1) if one[0, 0].numel() > 1), default=1)
    chosen = maps[stage - 1]
    told = []
    for label in classes:
        (gradient,) = torch.autograd.grad(logits[label], chosen, retain_graph=True)
        weights = gradient.mean(dim=(2, 3), keepdim=True)
        told.append((weights * chosen).sum(dim=1)[0].clamp(min=0).detach())
    return torch.stack(told), stage


def write_picture(path: Path, explanation: Explanation, *, title: str) -> None:
    """Draw an explanation into a .png or .html file: the image, then for each label the heat over it.

    Raises
    ------
    BadParams
        Another kind of file.
    BadModel
        The file cannot be written.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise BadParams("out", str(path), f"a file that ends in {' or '.join(_SUFFIXES)}")
    pictures = [("image", Image.fromarray(explanation.pixels))]
    pictures += [
        (f"{heat.label} {heat.probability:.2f}", overlaid(explanation.pixels, heat.heat)) for heat in explanation.heats
    ]
    content = _page(title, pictures) if path.suffix.lower() == ".html" else _png(_sheet(pictures))
    try:
        write_atomically(path, content, mode=0o644)
    except OSError as error:
        raise BadModel(f"{path} cannot be written: {error.strerror}. Name another file.") from None


def overlaid(pixels: Uint8, heat: NDArray[np.float32]) -> Image.Image:
    """Lay heat (rows, columns), in [0, 1], over an image (height, width, 3) of any size."""
    height, width = pixels.shape[:2]
    fine = np.asarray(Image.fromarray(heat).resize((width, height), Image.Resampling.BILINEAR), np.float64)
    steps = np.linspace(0, 1, len(_COLOURS))
    colour = np.stack([np.interp(fine, steps, _COLOURS[:, channel]) for channel in range(3)], axis=-1)
    grey = np.asarray(Image.fromarray(pixels).convert("L"), np.float64)[:, :, None]
    return Image.fromarray((HEAT * colour + (1 - HEAT) * grey).round().astype(np.uint8))


def _heats(model: Model, pixels: Uint8, classes: Sequence[int]) -> tuple[list[NDArray[np.float32]], tuple[int, ...]]:
    """Average the members' maps, in the squashed image's size."""
    assert model.predictor is not None  # noqa: S101 - heat_maps() has looked
    side, total, stages = model.card.side, np.zeros((len(classes), model.card.side, model.card.side)), []
    images = torch.from_numpy(pixels)[None].to(model.predictor.weights.device)
    parts = cast("Sequence[Any]", model.predictor.networks)  # torch's lists do not know what they hold
    for part, described in zip(parts, model.card.members, strict=True):
        size = Params.from_flat(described.params).image_size
        maps, stage = grad_cam(part.network, normalize(images, mean=part.mean, std=part.std, size=size), classes)
        fine = functional.interpolate(maps[:, None], size=(side, side), mode="bilinear")[:, 0]
        total += described.weight * _scaled(fine.double().cpu().numpy())
        stages.append(stage)
    return list(_scaled(total).astype(np.float32)), tuple(stages)


def _scaled(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bring each map's largest value to 1, unless all of it is 0."""
    most = maps.max(axis=(1, 2), keepdims=True)
    return maps / np.where(most > 0, most, 1)


def _resized(pixels: Uint8, width: int, height: int) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), Image.Resampling.BICUBIC)


def _png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def _sheet(pictures: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Set pictures in rows, each with its name below."""
    font = ImageFont.load_default(LETTERS)
    width, height = pictures[0][1].size
    cell = max(width, *(round(font.getlength(name)) for name, _ in pictures)) + GAP, height + 2 * LETTERS + GAP
    columns = min(COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * cell[0] + GAP, rows * cell[1] + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (name, picture) in enumerate(pictures):
        left, top = GAP + number % columns * cell[0], GAP + number // columns * cell[1]
        sheet.paste(picture, (left, top))
        draw.text((left, top + height + 4), name, fill="#1a1a1a", font=font)
    return sheet


def _page(title: str, pictures: Sequence[tuple[str, Image.Image]]) -> bytes:
    figures = "".join(
        f'<figure><img alt="{escape(name)}" src="data:image/png;base64,{b64encode(_png(picture)).decode()}">'
        f"<figcaption>{escape(name)}</figcaption></figure>"
        for name, picture in pictures
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
        f'content="{_POLICY}"><title>{escape(title)}</title><style>{_STYLE}</style></head><body>'
        f"<h1>{escape(title)}</h1><div>{figures}</div></body></html>\n"
    ).encode()

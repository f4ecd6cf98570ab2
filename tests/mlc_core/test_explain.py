"""Heat maps lie where a label's evidence lies, equal a closed form, and become pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlc_core import BadData, BadModel, BadParams, Value
from mlc_core.card import FORMAT, Card, DataCard, MemberCard
from mlc_core.explain import Explanation, Heat, grad_cam, heat_maps, overlaid, write_picture
from mlc_core.export import Part, save_model
from mlc_core.model import build
from mlc_core.params import Params, StemName
from mlc_core.predict import Member, Predictor, infer
from mlc_core.predictions import sigmoid
from mlc_core.records import BEST
from mlc_core.shipped import Model, Prediction, load_model
from tests.mlc_core.fits import run
from tests.mlc_core.tiny import CLASSES, SIZE, tiny

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 64  # pixels
HALVES = {"left": np.s_[:, : SIZE // 2], "right": np.s_[:, SIZE // 2 :], "top": np.s_[: SIZE // 2, :]}
CORNERS = [np.s_[:24, :24], np.s_[:24, 40:], np.s_[40:, :24], np.s_[40:, 40:]]


def model_of(*networks: tuple[int, int], weights: tuple[float, ...] = (1.0,)) -> Model:
    """Untrained networks by (seed, image size), to which any contrast speaks for each of the classes."""
    members = []
    for seed, size in networks:
        network = build(backbone="resnet10", stem="standard", dropout=0.0, classes=len(CLASSES), seed=seed).eval()
        with torch.no_grad():
            network.head.weight.abs_()
            network.head.bias.copy_(torch.tensor([-9.0, 9.0, 9.0]))
        params = Params(image_size=size)
        members.append(
            Member(network=network, params=params, classes=CLASSES, mean=(128.0,) * 3, std=(60.0,) * 3, facts={})
        )
    described = tuple(
        MemberCard(
            file=f"member-{number}.safetensors",
            sha256="0" * 64,
            params=member.params.to_flat(),
            weight=weight,
            mean=member.mean,
            std=member.std,
            source="",
            facts={},
        )
        for number, (member, weight) in enumerate(zip(members, weights, strict=True))
    )
    card = Card(
        format=FORMAT,
        classes=CLASSES,
        members=described,
        average="probabilities",
        side=SIDE,
        scale=(1.0,) * 3,
        shift=(0.0,) * 3,
        thresholds=(0.5,) * 3,
        goal="",
        preprocessing="",
        metrics={},
        data=DataCard(name="", fingerprint=""),
        license="",
        versions={},
        created="",
    )
    predictor = Predictor(members, weights)
    return Model(card=card, ask=lambda pixels: sigmoid(infer(predictor, pixels)), predictor=predictor)


@pytest.fixture(scope="module")
def model() -> Model:
    return model_of((0, 128))


def saved(folder: Path, number: int) -> Path:
    """Save a grey image with noise in one corner."""
    pixels = np.full((SIDE, SIDE, 3), 128, np.uint8)
    pixels[CORNERS[number]] = np.random.default_rng(number).integers(0, 256, (24, 24, 3))
    file = folder / f"{number}.png"
    Image.fromarray(pixels).save(file)
    return file


@pytest.mark.parametrize("corner", range(4))
def test_the_heat_is_on_the_corner_in_which_there_is_something(model: Model, corner: int, tmp_path: Path) -> None:
    told = heat_maps(model, saved(tmp_path, corner))
    assert {one.label for one in told.heats} == {"right", "top"}
    for one in told.heats:
        assert one.heat.shape == (SIDE, SIDE)
        assert one.heat.dtype == np.float32
        assert (one.heat.min() >= 0, one.heat.max()) == (True, pytest.approx(1, abs=1e-6))
        assert [bool(one.heat[place].mean() > 0.5) for place in CORNERS] == [
            place == CORNERS[corner] for place in CORNERS
        ]


def test_the_heat_of_a_trained_label_is_on_the_half_that_its_class_lights_up(tmp_path: Path) -> None:
    data = tiny(train=256)
    params: dict[str, Value] = {"image_size": SIZE, "lr": 3e-3, "stem": "small", "augment": "none"}
    run(params, data, epochs=6, checkpoint=tmp_path)
    part = Part(weights=tmp_path / BEST, share=1.0, source="")
    save_model(tmp_path / "model", [part], side=SIZE, data=DataCard(name="tiny", fingerprint=data.fingerprint))
    model, shares = load_model(tmp_path / "model", device="cpu"), []
    for pixels, labels in zip(data.test.images[:12], data.test.labels[:12], strict=True):
        Image.fromarray(pixels.transpose(1, 2, 0).copy()).save(tmp_path / "image.png")
        told = heat_maps(model, tmp_path / "image.png")
        shares += [
            float(one.heat[HALVES[one.label]].sum() / one.heat.sum())
            for one in told.heats
            if labels[CLASSES.index(one.label)]
        ]
    assert len(shares) > 10
    assert np.mean(shares) > 0.6  # the other half's edge speaks for it as well


def test_before_the_head_a_map_is_the_heads_weights_times_the_features() -> None:
    """Grad-CAM of the last stage is CAM (Zhou et al. 2016) over the number of places (Selvaraju et al. 2017, 3.1)."""
    network = build(backbone="resnet10", stem="standard", dropout=0.5, classes=3, seed=1).eval()
    images = torch.randn((1, 3, 64, 96), generator=torch.Generator().manual_seed(0))
    maps, stage = grad_cam(network, images, [2, 0])
    features = []
    hook = network.resnet.layer4.register_forward_hook(lambda _module, _inputs, output: features.append(output))
    with torch.no_grad():
        network(images)
    hook.remove()
    assert stage == 4
    assert features[0].shape == (1, 512, 2, 3)
    wanted = torch.einsum("ck,khw->chw", network.head.weight[[2, 0]], features[0][0]).clamp(min=0) / 6
    torch.testing.assert_close(maps, wanted.detach(), rtol=1e-4, atol=1e-6)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not network.resnet.layer4._forward_hooks


@pytest.mark.parametrize(
    ("stem", "size", "stage", "side"),
    [("standard", 64, 4, 2), ("standard", 32, 3, 2), ("standard", 8, 1, 2), ("small", 32, 4, 2), ("small", 16, 3, 2)],
)
def test_the_last_stage_that_sees_more_than_one_place_is_taken(
    stem: StemName, size: int, stage: int, side: int
) -> None:
    network = build(backbone="resnet10", stem=stem, dropout=0.0, classes=2, seed=0).eval()
    maps, taken = grad_cam(network, torch.ones(1, 3, size, size), [1])
    assert (taken, maps.shape) == (stage, (1, side, side))


def test_several_members_maps_are_averaged_by_their_weights(tmp_path: Path) -> None:
    image = saved(tmp_path, 2)
    alone = [heat_maps(model_of(one), image, labels=CLASSES) for one in ((0, 128), (1, 32))]
    both = heat_maps(model_of((0, 128), (1, 32), weights=(0.75, 0.25)), image, labels=CLASSES)
    assert both.stages == (*alone[0].stages, *alone[1].stages) == (4, 3)
    assert both.early == (3,)
    for first, second, one in zip(alone[0].heats, alone[1].heats, both.heats, strict=True):
        mean = 0.75 * first.heat + 0.25 * second.heat
        assert np.ptp(first.heat - second.heat) > 0.1
        assert one.heat == pytest.approx(mean / mean.max(), abs=1e-5)


def test_labels_are_those_named_else_predicted_else_the_most_probable(model: Model, tmp_path: Path) -> None:
    image = saved(tmp_path, 0)
    told = heat_maps(model, image)
    assert told.prediction == model.predict(image)[0]
    assert tuple(one.label for one in told.heats) == told.prediction.labels
    assert [one.label for one in heat_maps(model, image, labels=["top", "left"]).heats] == ["top", "left"]
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert heat_maps(model, tmp_path / "wide.png").pixels.shape == (213, 320, 3)  # its own shape


def test_where_no_label_is_predicted_the_most_probable_one_is_shown(model: Model, tmp_path: Path) -> None:
    strict = Model(card=replace(model.card, thresholds=(2.0,) * 3), ask=model.ask, predictor=model.predictor)
    told = heat_maps(strict, saved(tmp_path, 0))
    assert told.prediction.labels == ()
    assert [one.probability for one in told.heats] == [max(told.prediction.probabilities.values())]


def test_what_cannot_be_explained_is_said(model: Model, tmp_path: Path) -> None:
    image = saved(tmp_path, 0)
    with pytest.raises(BadParams) as refused:
        heat_maps(model, image, labels=["lefd"])
    assert (
        str(refused.value)
        == f"label: 'lefd' is not a class of this model, one of {', '.join(model.classes)}. Did you mean 'left'?"
    )
    with pytest.raises(BadData) as unread:
        heat_maps(model, tmp_path / "none.png")
    assert str(unread.value) == f"{tmp_path / 'none.png'}: it is not there."
    with pytest.raises(BadModel) as graph:
        heat_maps(Model(card=model.card, ask=model.ask), image)
    assert str(graph.value) == (
        "A heat map needs gradients, which ONNX does not have. Load the model with runtime='torch'."
    )
    told = heat_maps(model, image)
    with pytest.raises(BadParams) as kind:
        write_picture(tmp_path / "x.gif", told, title="x")
    assert str(kind.value) == f"out: '{tmp_path / 'x.gif'}' is not a file that ends in .png or .html."
    with pytest.raises(BadModel) as nowhere:
        write_picture(tmp_path / "none" / "x.png", told, title="x")
    assert str(nowhere.value) == (
        f"{tmp_path / 'none' / 'x.png'} cannot be written: No such file or directory. Name another file."
    )


def test_where_it_is_hotter_the_picture_is_lighter() -> None:
    heat = np.linspace(0, 1, 50, dtype=np.float32)[None].repeat(2, axis=0)
    picture = overlaid(np.full((2, 50, 3), 90, np.uint8), heat)
    grey = np.asarray(picture.convert("L"), np.int64)[0]
    assert np.all(np.diff(grey) >= 0)
    assert grey[-1] - grey[0] > 120


def explanation(*labels: str) -> Explanation:
    heat = np.zeros((4, 4), np.float32)
    return Explanation(
        pixels=np.full((160, 320, 3), 200, np.uint8),
        prediction=Prediction(labels=labels, probabilities=dict.fromkeys(labels, 0.876)),
        heats=tuple(Heat(label=label, probability=0.876, heat=heat) for label in labels),
        stages=(4,),
    )


def test_a_picture_holds_the_image_and_each_label_with_its_name(tmp_path: Path) -> None:
    write_picture(tmp_path / "x.png", explanation("cat", "dog", "a name of no small length, really", "cow"), title="x")
    sheet = np.asarray(Image.open(tmp_path / "x.png"))
    assert np.all(sheet[0] == 255)
    assert np.all(sheet[12:172, 12:332] == 200)  # in its own colours
    cold = np.all(sheet == np.array([80, 80, 82]), axis=2)  # 0.4 x 200, and 0.6 x 4 of blue
    assert cold.sum() == 4 * 160 * 320
    below = sheet[12 + 160 : 12 + 160 + 36]
    assert (below < 128).any(axis=(0, 2)).sum() > 100  # words


def test_a_page_loads_nothing_and_shows_names_as_they_are(tmp_path: Path) -> None:
    write_picture(tmp_path / "x.html", explanation("<script>alert(1)</script>", "猫"), title="a & b.png")
    page = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; 0.88</figcaption>" in page
    assert "<figcaption>猫 0.88</figcaption>" in page
    assert "<h1>a &amp; b.png</h1>" in page
    assert page.count("data:image/png;base64,") == 3
    assert "http:" not in page
    assert "https:" not in page

"""A model's folder: what is written, what is refused, and that it says of files what was said of the data set."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from mlc_core import BadData, BadModel, BadParams, BadWeights, Dataset, NoDevice, load_dataset
from mlc_core.card import CARD, ONNX, TORCH, Card, DataCard, read_card
from mlc_core.data.listing import Problem
from mlc_core.export import Part, save_model
from mlc_core.onnx_model import write_onnx, write_torch_export
from mlc_core.predict import predict_split, read_member
from mlc_core.predictions import sigmoid
from mlc_core.records import BEST
from mlc_core.shipped import BATCH, find_images, load_model
from tests.mlc_core.fits import run
from tests.pictures import CLASSES, manifest

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 20  # pixels of the stored images; one member sees fewer, the other more
SCALE, SHIFT, THRESHOLDS = (1.5, 0.8, 1.0), (0.3, -0.2, 0.0), (0.4, 0.5, 0.6)
SHARES = (0.7, 0.3)


class Made(NamedTuple):
    """A data set of files, fits of it, and the model made of them; not to be written to."""

    data: Dataset
    test_files: list[Path]
    fits: tuple[Path, Path]
    model: Path


def build_model(folder: Path, made: Made, **changes: Any) -> Card:
    parts = [
        Part(weights=fit / BEST, share=share, source=f"trial {number}")
        for number, (fit, share) in enumerate(zip(made.fits, SHARES, strict=True))
    ]
    given: dict[str, Any] = {
        "side": SIDE,
        "data": DataCard(name=made.data.name, fingerprint=made.data.fingerprint),
        "scale": SCALE,
        "shift": SHIFT,
        "thresholds": THRESHOLDS,
        "goal": "f1",
        "metrics": {"macro_f1": 0.5, "classes": [{"name": "left", "roc_auc": None}]},
        "license": "CC-BY-4.0",
    }
    return save_model(folder, **({"parts": parts} | given | changes))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("model")
    file = manifest(folder / "photos", split=True)
    data = load_dataset(file, image_size=SIDE)
    fits = folder / "first", folder / "second"
    for fit, size in zip(fits, (16, 24), strict=True):
        run({"image_size": size, "batch_size": 15, "lr": 3e-3}, data, epochs=2, checkpoint=fit)
    tests = [folder / f"photos/pictures/{number:03}.png" for number in range(3, 60, 4)]
    made = Made(data, tests, fits, folder / "shipped")
    build_model(made.model, made)
    write_onnx(made.model)
    write_torch_export(made.model)
    return made


@pytest.fixture
def copy(made: Made, tmp_path: Path) -> Path:
    return shutil.copytree(made.model, tmp_path / "copy", ignore=shutil.ignore_patterns(TORCH))


def probabilities(told: list[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([list(one.probabilities.values()) for one in told])


def test_a_model_says_of_files_what_its_weights_said_of_the_data_set_to_the_same_bits(
    made: Made, tmp_path: Path
) -> None:
    one = Part(weights=made.fits[0] / BEST, share=1.0, source="trial 0")
    build_model(tmp_path / "one", made, parts=[one], scale=None, shift=None, thresholds=None)
    (said,) = predict_split([read_member(made.fits[0] / BEST)], made.data.test)
    model = load_model(tmp_path / "one")
    told = model.predict(made.test_files)
    assert np.array_equal(probabilities(told), said.probabilities)
    assert [set(one.labels) for one in told] == [
        {name for name, value in zip(CLASSES, row, strict=True) if value >= 0.5} for row in said.probabilities
    ]
    alone = [model.predict(str(file))[0] for file in made.test_files]
    assert alone == told  # whatever else is asked for at the same time


def test_pictures_and_arrays_are_seen_as_the_files_they_come_from(made: Made) -> None:
    model = load_model(made.model)
    told = model.predict(made.test_files)
    assert model.predict([Image.open(file) for file in made.test_files]) == told
    assert model.predict([np.asarray(Image.open(file)) for file in made.test_files]) == told
    stored = made.data.test.images[made.data.test.rows]
    assert stored.shape == (15, 3, SIDE, SIDE)
    assert model.predict(stored) == told
    (alone,) = model.predict(stored[0].transpose(1, 2, 0))
    assert alone.probabilities == pytest.approx(told[0].probabilities, abs=1e-6)  # one image rounds as it likes


def test_a_picture_in_memory_is_turned_as_its_file_is(made: Made, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter turn
    Image.open(made.test_files[0]).save(tmp_path / "turned.png", exif=exif)
    model = load_model(made.model)
    turned = model.predict(tmp_path / "turned.png")
    assert model.predict(Image.open(tmp_path / "turned.png")) == turned
    assert turned != model.predict(made.test_files[0])


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_members_are_averaged_by_their_shares_then_calibrated(made: Made, tmp_path: Path, average: str) -> None:
    build_model(tmp_path / "model", made, average=average)
    first, second = predict_split([read_member(fit / BEST) for fit in made.fits], made.data.test)
    if average == "logits":
        blended = SHARES[0] * first.logits + SHARES[1] * second.logits
    else:
        mean = SHARES[0] * first.probabilities + SHARES[1] * second.probabilities
        blended = np.log(mean / (1 - mean))
    wanted = sigmoid(blended * SCALE + SHIFT)
    told = load_model(tmp_path / "model").predict(made.test_files)
    assert probabilities(told) == pytest.approx(wanted, abs=1e-5)
    assert [set(one.labels) for one in told] == [
        {name for name, value, line in zip(CLASSES, row, THRESHOLDS, strict=True) if value >= line} for row in wanted
    ]
    assert all(list(one.labels) == sorted(one.labels, key=lambda label: -one.probabilities[label]) for one in told)


def test_the_card_says_where_the_model_comes_from_and_comes_back_from_its_file(made: Made, tmp_path: Path) -> None:
    card = build_model(tmp_path / "model", made)
    assert read_card(tmp_path / "model") == card
    assert card.classes == CLASSES
    assert [(one.file, one.weight, one.source) for one in card.members] == [
        ("member-0.safetensors", 0.7, "trial 0"),
        ("member-1.safetensors", 0.3, "trial 1"),
    ]
    for member in card.members:
        content = (tmp_path / "model" / member.file).read_bytes()
        assert member.sha256 == hashlib.sha256(content).hexdigest()
        assert member.facts["data"] == made.data.fingerprint
    assert (card.license, card.goal, card.thresholds) == ("CC-BY-4.0", "f1", THRESHOLDS)
    assert json.loads((tmp_path / "model" / CARD).read_bytes())["metrics"]["classes"][0]["roc_auc"] is None
    assert f"squash to {SIDE} x {SIDE} pixels" in card.preprocessing
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        card.members[0].file,
        card.members[1].file,
        CARD,
    ]


def test_a_part_without_a_share_is_left_out(made: Made, tmp_path: Path) -> None:
    parts = [Part(weights=fit / BEST, share=share, source="") for fit, share in zip(made.fits, (0.0, 1.0), strict=True)]
    card = build_model(tmp_path / "model", made, parts=parts)
    assert [member.params["image_size"] for member in card.members] == [24]


def test_onnx_says_the_same_in_any_number_of_images(made: Made) -> None:
    network, graph = load_model(made.model), load_model(made.model, runtime="onnx")
    assert graph.predictor is None
    stored = made.data.test.images[made.data.test.rows]
    noise = np.random.default_rng(1).integers(0, 256, stored.shape, dtype=np.uint8)
    for images in (stored, noise):
        for count in (1, 2, 7, 15):
            told, wanted = graph.predict(images[:count]), network.predict(images[:count])
            assert probabilities(told) == pytest.approx(probabilities(wanted), abs=1e-4)
    assert [one.labels for one in graph.predict(made.test_files)] == [
        one.labels for one in network.predict(made.test_files)
    ]


def test_onnx_is_asked_without_torch(made: Made) -> None:
    script = (
        "import sys; from mlc_core.shipped import load_model\n"
        "print(load_model(sys.argv[1], runtime='onnx').predict(sys.argv[2])[0].labels, 'torch' in sys.modules)"
    )
    words = [sys.executable, "-c", script, str(made.model), str(made.test_files[0])]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == f"{load_model(made.model).predict(made.test_files[0])[0].labels} False\n"


def test_an_onnx_file_alone_is_all_that_another_program_needs(made: Made) -> None:
    content = (made.model / ONNX).read_bytes()
    session = onnxruntime.InferenceSession(content)
    (images,), (output,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["batch", 3, SIDE, SIDE])
    assert (output.name, output.type, output.shape) == ("probabilities", "tensor(float)", ["batch", 3])
    known = session.get_modelmeta().custom_metadata_map
    assert json.loads(known["classes"]) == list(CLASSES)
    assert json.loads(known["thresholds"]) == list(THRESHOLDS)
    card = read_card(made.model)
    assert Card.from_json(known["card"].encode()) == replace(card, graphs={})
    assert card.graphs[ONNX] == hashlib.sha256(content).hexdigest()
    model = onnx.load_model_from_string(content)
    onnx.checker.check_model(model)
    assert model.opset_import[0].version >= 18
    assert str(Path(torch.__file__).parent).encode() not in content  # nothing of the machine that wrote it


def test_torch_export_says_the_same_in_any_number_of_images(made: Made) -> None:
    loaded = torch.export.load(made.model / TORCH).module()  # of our own making
    stored = made.data.test.images[made.data.test.rows]
    network = load_model(made.model)
    for count in (1, 2, 7, 15):
        told = loaded(torch.from_numpy(stored[:count])).detach().numpy()
        assert told == pytest.approx(probabilities(network.predict(stored[:count])), abs=1e-4)


def test_thresholds_are_the_models_own_or_those_given(made: Made) -> None:
    model = load_model(made.model)
    assert {one.labels for one in model.predict(made.test_files, thresholds=1.1)} == {()}
    assert {frozenset(one.labels) for one in model.predict(made.test_files, thresholds=0.0)} == {frozenset(CLASSES)}
    assert {one.labels for one in model.predict(made.test_files, thresholds=(2, 2, 0))} == {("top",)}
    with pytest.raises(BadParams) as refused:
        model.predict(made.test_files, thresholds=(0.5, 0.5))
    assert str(refused.value) == "thresholds: (0.5, 0.5) is not a number, or one for each of the 3 classes."


def test_an_image_that_cannot_be_used_is_named_and_the_others_go_on(made: Made, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(made.test_files[0].read_bytes()[:200])
    model = load_model(made.model)
    files = [made.test_files[0], bad, tmp_path / "none.png", tmp_path, made.test_files[1]]
    told = list(model.stream(files))
    assert [isinstance(one, Problem) for one in told] == [False, True, True, True, False]
    assert [str(one) for one in told if isinstance(one, Problem)] == [
        f"{bad}: it is truncated.",
        f"{tmp_path / 'none.png'}: it is not there.",
        f"{tmp_path}: it is no file.",
    ]
    with pytest.raises(BadData) as refused:
        model.predict(files)
    assert str(refused.value) == f"{bad}: it is truncated."
    with pytest.raises(BadData) as refused:
        model.predict(np.zeros((2, 20, 20, 3), np.uint8))
    assert str(refused.value) == (
        "image 1: it is uint8 of shape (2, 20, 20, 3), not uint8 of shape (height, width, 3) or (n, 3, height, width)."
    )


def test_a_stream_of_images_is_never_held_as_a_whole(made: Made) -> None:
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            yield made.test_files[0]

    model = load_model(made.model)
    stream = model.stream(endless())
    for _ in range(BATCH + 1):
        next(stream)
    stream.close()  # type: ignore[attr-defined]  # it is a generator
    assert taken == 3 * BATCH  # the batch in work, and two that are decoded ahead


def test_images_are_found_below_a_folder_in_order(tmp_path: Path) -> None:
    for name in ("b/2.jpg", "a/1.PNG", "a/notes.txt", ".hidden/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_images(tmp_path) == ([tmp_path / "a/1.PNG", tmp_path / "b/2.jpg"], [])
    assert find_images(tmp_path / "a/notes.txt") == ([tmp_path / "a/notes.txt"], [])


def edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    table = json.loads((folder / CARD).read_bytes())
    change(table)
    (folder / CARD).write_text(json.dumps(table))


MEMBER = "member-0.safetensors"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "{folder} is not there. Name a folder that mlc-search export wrote."),
    "no card": (
        lambda folder: (folder / CARD).unlink(),
        "{folder} holds no model.json. Name a folder that mlc-search export wrote.",
    ),
    "a foreign card": (
        lambda folder: (folder / CARD).write_text('{"model_type": "resnet"}'),
        "{folder}/model.json: it is no model's card. Name a folder that mlc-search export wrote.",
    ),
    "half a card": (
        lambda folder: (folder / CARD).write_bytes((folder / CARD).read_bytes()[:100]),
        "{folder}/model.json: it is damaged (Input data was truncated). Export the model again.",
    ),
    "another format": (
        lambda folder: edited(folder, lambda table: table.update(format=2)),
        "{folder}/model.json: its format is 2, this version reads 1. Export the model again, or install the mlc-search "
        "that wrote it.",
    ),
    "a missing key": (
        lambda folder: edited(folder, lambda table: table.pop("side")),
        "{folder}/model.json: it is damaged (Object missing required field `side`). Export the model again.",
    ),
    "a file outside": (
        lambda folder: edited(folder, lambda table: table["members"][0].update(file="../x.safetensors")),
        "{folder}/model.json: a member's file is called '../x.safetensors', which no export does.",
    ),
    "too few thresholds": (
        lambda folder: edited(folder, lambda table: table["thresholds"].pop()),
        "{folder}/model.json: thresholds: it is not one finite number for each of 3 classes.",
    ),
    "a parameter that is none": (
        lambda folder: edited(folder, lambda table: table["members"][1]["params"].update(image_size=1)),
        "{folder}/model.json: member-1.safetensors: image_size: 1 is not a whole number of pixels from 8 to 2048.",
    ),
    "weights that are half": (
        lambda folder: edited(folder, lambda table: table["members"][1].update(weight=0.2)),
        "{folder}/model.json: the members' weights do not add up to 1.",
    ),
    "no weights": (
        lambda folder: (folder / MEMBER).unlink(),
        "{folder}/member-0.safetensors is not there. Copy the whole folder again.",
    ),
    "a flipped bit": (
        lambda folder: (folder / MEMBER).write_bytes((folder / MEMBER).read_bytes()[:-1] + b"\xff"),
        "{folder}/member-0.safetensors is damaged: its checksum is not the one in model.json. Copy the folder again.",
    ),
    "classes in another order": (
        lambda folder: edited(folder, lambda table: table["classes"].reverse()),
        "{folder}/member-0.safetensors is not what the card says of it. Export the model again.",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_folder_is_refused_with_a_sentence(damage: str, copy: Path) -> None:
    do, sentence = DAMAGES[damage]
    do(copy)
    with pytest.raises(BadModel) as refused:
        load_model(copy)
    assert str(refused.value) == sentence.replace("{folder}", str(copy))


def test_weights_that_no_fit_wrote_are_refused_whatever_the_card_says(copy: Path) -> None:
    save_file(load_file(copy / MEMBER), copy / MEMBER)  # the same tensors, without what a fit notes beside them
    digest = hashlib.sha256((copy / MEMBER).read_bytes()).hexdigest()
    edited(copy, lambda table: table["members"][0].update(sha256=digest))
    with pytest.raises(BadModel, match=r"member-0\.safetensors does not hold the weights of a fit, or is damaged"):
        load_model(copy)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200)
@given(data=st.data())
def test_a_card_with_anything_in_it_is_valid_or_refused(made: Made, data: st.DataObject) -> None:
    table: Any = json.loads((made.model / CARD).read_bytes())
    place = table
    while data.draw(st.booleans()) and isinstance(place, dict | list) and len(place):
        keys = sorted(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(list(keys)))
        if data.draw(st.booleans()):
            place[key] = data.draw(VALUES)
        place = place[key]
    try:
        card = Card.from_json(json.dumps(table).encode())
    except BadModel:
        return
    assert Card.from_json(card.to_json()) == card


@given(content=st.binary())
def test_any_bytes_are_no_card(content: bytes) -> None:
    with pytest.raises(BadModel):
        Card.from_json(content)


def test_a_folder_of_something_else_is_never_replaced(made: Made, copy: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "thesis.txt").write_text("years")
    with pytest.raises(BadModel) as refused:
        build_model(work, made)
    assert str(refused.value) == f"{work} holds files, but no model of ours. Name another folder, or an empty one."
    (copy / "notes.txt").write_text("mine")
    with pytest.raises(BadModel) as refused:
        build_model(copy, made)
    assert str(refused.value) == (
        f"{copy} holds 'notes.txt', which no export wrote and which would be lost. Move it away."
    )
    with pytest.raises(BadModel) as refused:
        build_model(work / "thesis.txt", made)
    assert str(refused.value) == f"{work / 'thesis.txt'} is a file. Name a folder."
    assert (work / "thesis.txt").read_text() == "years"
    assert (copy / "notes.txt").read_text() == "mine"


def test_a_model_is_replaced_whole_or_not_at_all(made: Made, copy: Path) -> None:
    before = sorted(path.name for path in copy.iterdir())
    strangers = Part(weights=copy / CARD, share=0.5, source="")
    with pytest.raises(BadWeights, match="does not hold the weights of a fit, or is damaged") as refused:
        build_model(copy, made, parts=[Part(weights=made.fits[0] / BEST, share=0.5, source=""), strangers])
    assert str(refused.value).startswith(f"{copy / CARD} does not hold")
    assert sorted(path.name for path in copy.iterdir()) == before
    assert load_model(copy).predict(made.test_files) == load_model(made.model).predict(made.test_files)
    build_model(copy, made, license="MIT")
    assert load_model(copy).card.license == "MIT"
    assert sorted(path.name for path in copy.iterdir()) == [MEMBER, "member-1.safetensors", CARD]  # no stale graph
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]  # and nothing left beside it


def test_parts_that_do_not_belong_together_are_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(BadModel) as refused:
        build_model(tmp_path / "model", made, data=DataCard(name="other", fingerprint="images:0"))
    assert str(refused.value) == (
        f"{made.fits[0] / BEST} was trained on the data {made.data.fingerprint}, not on other (images:0)."
    )
    with pytest.raises(BadModel) as refused:
        build_model(tmp_path / "model", made, parts=[])
    assert str(refused.value) == "No weights with a share above 0: a model needs at least one network."
    with pytest.raises(BadWeights) as gone:
        build_model(tmp_path / "model", made, parts=[Part(weights=tmp_path / "gone", share=1.0, source="")])
    assert str(gone.value) == f"{tmp_path / 'gone'} cannot be read: No such file or directory."
    assert list(tmp_path.iterdir()) == []


def test_an_onnx_model_that_is_missing_damaged_or_reaches_out_is_refused(made: Made, copy: Path) -> None:
    def refuse(content: bytes) -> str:
        (copy / ONNX).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        edited(copy, lambda table: table["graphs"].update({ONNX: digest}))
        with pytest.raises(BadModel) as refused:
            load_model(copy, runtime="onnx")
        return str(refused.value)

    (copy / ONNX).write_bytes(b"")
    with pytest.raises(BadModel, match=r"model\.onnx is damaged: its checksum is not"):
        load_model(copy, runtime="onnx")
    assert refuse(b"no protobuf").startswith(f"{copy / ONNX} is no ONNX model that can be run (")
    model = onnx.load(made.model / ONNX)
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    assert refuse(model.SerializeToString()) == (
        f"{copy / ONNX} reads weights from other files, which no export of ours does."
    )
    edited(copy, lambda table: table["graphs"].clear())
    with pytest.raises(BadModel) as refused:
        load_model(copy, runtime="onnx")
    assert str(refused.value) == (
        f"{copy} holds no model.onnx. Export the model again with --onnx, or use --runtime torch."
    )
    with pytest.raises(NoDevice) as elsewhere:
        load_model(copy, runtime="onnx", device="cuda")
    assert str(elsewhere.value) == "device: 'cuda' is not for ONNX, which computes on the CPU. Use --runtime torch."

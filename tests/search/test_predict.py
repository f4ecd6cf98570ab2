"""``predict`` and ``explain``: results on stdout, talk on stderr, exit codes; by the real commands."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from mlc_core import BadModel, BadParams, load_dataset
from mlc_core.card import DataCard
from mlc_core.export import Part, save_model
from mlc_core.records import BEST
from mlc_core.shipped import Prediction, load_model
from search.cli import app
from tests.mlc_core.fits import run
from tests.pictures import CLASSES, manifest
from tests.small import call, command

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos and a model of them, not to be written to."""
    folder = tmp_path_factory.mktemp("predict")
    data = load_dataset(manifest(folder / "photos", images=40, split=True), image_size=16)
    run({"image_size": 16, "batch_size": 10, "lr": 3e-3}, data, epochs=2, checkpoint=folder / "fit")
    part = Part(weights=folder / "fit" / BEST, share=1.0, source="trial 0")
    save_model(folder / "model", [part], side=16, data=DataCard(name=data.name, fingerprint=data.fingerprint))
    return folder


@pytest.fixture
def photos(folder: Path) -> list[Path]:
    return sorted((folder / "photos/pictures").iterdir())


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def told(folder: Path, files: list[Path]) -> list[Prediction]:
    return load_model(folder / "model", device="cpu").predict(files)


def test_each_image_is_a_line_with_its_labels_the_most_probable_first(folder: Path, photos: list[Path]) -> None:
    done = invoke("predict", photos[0], folder / "photos", "--model", folder / "model")
    lines = [
        f"{file}: {', '.join(f'{label} {one.probabilities[label]:.2f}' for label in one.labels) or '-'}"
        for file, one in zip(photos, told(folder, photos), strict=True)
    ]
    assert (done.exit_code, done.stdout.splitlines()) == (0, [lines[0], *lines])
    assert done.stderr.startswith("41 images, ")
    assert done.stderr.endswith(" images/s.\n")


def test_json_is_one_array(folder: Path, photos: list[Path]) -> None:
    done = invoke("predict", folder / "photos", "--model", folder / "model", "--json", "--device", "cpu")
    assert json.loads(done.stdout) == [
        {"image": str(file), "labels": list(one.labels), "probabilities": one.probabilities}
        for file, one in zip(photos, told(folder, photos), strict=True)
    ]


@pytest.mark.parametrize("form", [(), ("--json",), ("--csv",)])
def test_folders_without_an_image_are_a_sentence_and_exit_code_2(
    folder: Path, tmp_path: Path, sqlite_url: str, form: tuple[str, ...]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "notes.txt").write_text("no image")
    words = ("predict", "empty", "texts", "--model", folder / "model", *form)
    done = call(*words, folder=tmp_path, storage=sqlite_url, code=2)
    assert (done.stdout, done.stderr) == (
        "",
        "Error: empty, texts: no image is there. Name files, or folders with images somewhere below them.\n",
    )


def test_csv_has_a_column_a_class(folder: Path, photos: list[Path]) -> None:
    done = invoke("predict", *photos, "--model", folder / "model", "--csv", "--threshold", 0.3)
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["image"] for row in rows] == [str(file) for file in photos]
    for row, one in zip(rows, told(folder, photos), strict=True):
        assert list(row)[2:] == [f"probability of {name}" for name in CLASSES]
        assert {name: float(row[f"probability of {name}"]) for name in CLASSES} == pytest.approx(
            one.probabilities, rel=1e-5
        )
        assert set(row["labels"].split("|")) - {""} == {n for n in CLASSES if one.probabilities[n] >= 0.3}


def test_an_image_that_cannot_be_read_is_named_and_the_others_go_on(
    folder: Path, photos: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(photos[0].read_bytes()[:100])
    strange = os.fsdecode(b"caf\xe9.png")  # the name is no UTF-8
    (tmp_path / strange).write_bytes(photos[1].read_bytes())
    words = (tmp_path / "bad.png", tmp_path / strange, tmp_path / "none.jpg", photos[1], "--model", folder / "model")
    done = subprocess.run(command("predict", *words), capture_output=True, text=True)
    labels = invoke("predict", photos[1], "--model", folder / "model").stdout.partition(": ")[2]
    assert (done.returncode, done.stdout) == (1, f"{tmp_path}/caf\\udce9.png: {labels}{photos[1]}: {labels}")
    first, *bad = done.stderr.splitlines()
    assert first.startswith("4 images, ")
    assert bad == [f"{tmp_path / 'bad.png'}: it is truncated.", f"{tmp_path / 'none.jpg'}: it is not there."]


def test_a_folder_that_is_no_model_is_a_sentence_and_exit_code_2(folder: Path, tmp_path: Path, sqlite_url: str) -> None:
    done = call("predict", "x.png", "--model", "nowhere", folder=tmp_path, storage=sqlite_url, code=2)
    assert (done.stdout, done.stderr) == (
        "",
        "Error: nowhere is not there. Name a folder that mlc-search export wrote.\n",
    )
    without = invoke("predict", "x.png", "--model", folder / "model", "--runtime", "onnx")
    assert isinstance(without.exception, BadModel)
    assert "holds no model.onnx." in str(without.exception)
    assert "--json and --csv exclude each other." in invoke("predict", "x", "--model", "y", "--json", "--csv").stderr


def test_a_picture_shows_where_a_label_is_seen(
    folder: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke("explain", photos[0], "--model", folder / "model", "--label", "top", "--label", "left")
    (one,) = told(folder, photos[:1])
    assert (done.exit_code, done.stdout) == (
        0,
        f"top {one.probabilities['top']:.3f}\nleft {one.probabilities['left']:.3f}\n",
    )
    assert done.stderr == (
        "The last stage sees an image of this size as one pixel; the heat is of stage 2.\n"
        "The picture is 000-explained.png.\n"
    )
    with Image.open("000-explained.png") as picture:
        assert picture.width > 3 * 320
    page = tmp_path / "page.html"
    assert invoke("explain", photos[0], "--model", folder / "model", "--label", "top", "--out", page).exit_code == 0
    assert "<h1>000.png</h1>" in page.read_text(encoding="utf-8")
    refused = invoke("explain", photos[0], "--model", folder / "model", "--label", "tob")
    assert isinstance(refused.exception, BadParams)
    problem = "label: 'tob' is not a class of this model, one of left, right, top. Did you mean 'top'?"
    assert str(refused.exception) == problem

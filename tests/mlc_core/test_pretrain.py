"""Learning without labels: losses and meter against closed forms, the loop against an interruption, the verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import CliRunner

from mlc_core import BadCheckpoint, BadData, BadParams, Dataset, fit
from mlc_core.checkpoint import write_weights
from mlc_core.data.unlabelled import Source, gather
from mlc_core.model import build
from mlc_core.pretrain import COLLAPSED, FEWEST, Pretraining, PretrainReport, learn
from mlc_core.pretrained import start_from
from mlc_core.probe import judge
from mlc_core.twoviews import METHODS, meter, simsiam, two_views, vicreg
from search.cli import pretrain as command
from tests.mlc_core.fits import SMALL
from tests.mlc_core.tiny import SIZE, tiny

ASKED = Pretraining(image_size=SIZE, epochs=2, batch_size=16, seed=3)
DATA = tiny(train=40, val=24)
SOURCE = Source("tiny", DATA.train, *DATA.channel_stats, DATA.fingerprint, DATA)


def quickly(
    out: Path, asked: Pretraining = ASKED, *, source: Source = SOURCE, last: int | None = None
) -> list[PretrainReport]:
    """Learn on one thread; without the seconds, which differ each time. Ctrl-C comes after the epoch `last`."""
    told: list[PretrainReport] = []

    def on_epoch(report: PretrainReport) -> None:
        told.append(replace(report, seconds=0.0))
        if report.epoch == last:
            raise KeyboardInterrupt

    if last is None:
        learn(asked, source, out, device="cpu", precision="fp32", threads=1, on_epoch=on_epoch)
    else:
        with pytest.raises(KeyboardInterrupt):
            learn(asked, source, out, device="cpu", precision="fp32", threads=1, on_epoch=on_epoch)
    return told


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[PretrainReport], Path]:
    """A pretraining that nothing interrupted; its file is not to be written to."""
    out = tmp_path_factory.mktemp("learnt") / "features.safetensors"
    return quickly(out), out


def embeddings(seed: int, n: int = 12, d: int = 5) -> torch.Tensor:
    return torch.randn((n, d), generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 1000))
def test_vicreg_is_the_papers_sum_in_double_precision(seed: int) -> None:
    one, other = embeddings(seed).numpy().astype(float), 0.3 * embeddings(seed + 1).numpy().astype(float)
    alike = ((one - other) ** 2).mean()
    varied = np.mean([np.maximum(0, 1 - np.sqrt(z.var(axis=0, ddof=1) + 1e-4)).mean() for z in (one, other)])
    apart = sum(((np.cov(z.T) - np.diag(z.var(axis=0, ddof=1))) ** 2).sum() / z.shape[1] for z in (one, other))

    found = vicreg(torch.tensor(one, dtype=torch.float32), torch.tensor(other, dtype=torch.float32))

    assert float(found) == pytest.approx(25 * alike + 25 * varied + apart, rel=1e-4)


def test_simsiam_is_the_papers_mean_of_cosines_and_moves_only_what_predicts() -> None:
    p1, p2, z1, z2 = (embeddings(seed).requires_grad_() for seed in range(4))

    def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
        a, b = one.detach().numpy().astype(float), other.detach().numpy().astype(float)
        return float(np.mean((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)))

    loss = simsiam((p1, p2), (z1, z2))
    loss.backward()  # type: ignore[no-untyped-call]

    assert loss.item() == pytest.approx(-(cosine(p1, z2) + cosine(p2, z1)) / 2, rel=1e-5)
    assert simsiam((z2, z1), (z1, z2)).item() == pytest.approx(-1)
    assert z1.grad is None
    assert z2.grad is None
    assert p1.grad is not None


def test_the_meter_tells_a_collapse_from_what_is_spread_evenly() -> None:
    evenly = torch.cat([torch.eye(8), -torch.eye(8)])
    line = torch.linspace(-1, 1, 20)[:, None] * torch.ones(8)

    assert meter(torch.ones(20, 8) + 3) == pytest.approx((0, 1), abs=1e-6)
    assert meter(evenly) == pytest.approx((1, 8))
    assert meter(line) == pytest.approx((1, 1), abs=1e-3)  # spread, but along one direction


@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_the_meter_does_not_depend_on_the_size_of_embeddings(seed: int, size: float) -> None:
    assert meter(size * embeddings(seed)) == pytest.approx(meter(embeddings(seed)), rel=1e-4)


@pytest.mark.parametrize(
    ("spread", "rank", "collapsed"), [(1.0, 50, False), (COLLAPSED / 2, 50, True), (1.0, FEWEST / 2, True)]
)
def test_an_epoch_has_collapsed_by_too_little_spread_or_too_few_directions(
    spread: float, rank: float, *, collapsed: bool
) -> None:
    assert PretrainReport(1, 2, 0.5, spread, rank, 1.0).collapsed is collapsed


@pytest.mark.parametrize(("size", "side"), [(8, 8), (16, 16), (24, 17), (32, 20), (64, 40)])
def test_two_views_are_a_function_of_the_generator(size: int, side: int) -> None:
    images = torch.randn((6, 3, size, size), generator=torch.Generator().manual_seed(0))
    one, other = two_views(images, torch.Generator().manual_seed(5))
    again, _ = two_views(images, torch.Generator().manual_seed(5))

    assert torch.equal(again, one)
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert one.shape == other.shape == (6, 3, side, side)
    assert one.is_contiguous(memory_format=torch.channels_last)


def test_both_views_show_the_same_window() -> None:
    images = torch.zeros((200, 3, 64, 64))  # dark but for a spot, which is in both windows or in none
    places = torch.randint(0, 64, (2, 200), generator=torch.Generator().manual_seed(1))
    for number, (row, column) in enumerate(places.T.tolist()):
        images[number, :, max(0, row - 3) : row + 3, max(0, column - 3) : column + 3] = 50.0
    one, other = (views.amax(dim=(1, 2, 3)) > 10 for views in two_views(images, torch.Generator().manual_seed(5)))

    assert 40 < int(one.sum()) < 160
    assert int((one != other).sum()) < 50  # about 100, were the windows cut apart


def test_the_loss_falls_and_the_file_is_a_backbone_that_a_fit_starts_from(
    learnt: tuple[list[PretrainReport], Path],
) -> None:
    reports, out = learnt
    assert [(report.epoch, report.epochs) for report in reports] == [(1, 2), (2, 2)]
    assert reports[1].loss < reports[0].loss

    model = build(backbone="resnet10", stem="standard", dropout=0.0, classes=3, seed=0)
    taken = start_from(model, str(out), backbone="resnet10")
    assert (taken.missing, taken.misfits, taken.left_over) == ((), (), ())
    starts = [fit(SMALL | {"weights": weights}, DATA, epochs=1, precision="fp32") for weights in ("none", str(out))]
    assert starts[0] != starts[1]


def test_the_file_says_what_it_is(learnt: tuple[list[PretrainReport], Path]) -> None:
    reports, out = learnt
    with safe_open(out, framework="pt") as file:
        card = file.metadata()
    assert (card["method"], card["epochs"], card["seed"], card["images"]) == ("vicreg", "2", "3", "40")
    assert card["data"] == DATA.fingerprint
    assert (float(card["spread"]), float(card["rank"])) == (reports[-1].spread, reports[-1].rank)
    assert json.loads(card["pretraining"])["lr"] == ASKED.lr


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_pretraining_goes_on_to_the_same_bits(
    method: str, learnt: tuple[list[PretrainReport], Path], tmp_path: Path
) -> None:
    asked = replace(ASKED, method=method)  # type: ignore[arg-type]
    whole, file = learnt if method == "vicreg" else (quickly(tmp_path / "whole", asked), tmp_path / "whole")

    assert quickly(tmp_path / "parts", asked, last=1) == whole[:1]
    assert (tmp_path / "parts.resume").exists()
    assert quickly(tmp_path / "parts", asked) == whole

    assert not (tmp_path / "parts.resume").exists()
    one, other = load_file(file), load_file(tmp_path / "parts")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_finished_pretraining_tells_its_epochs_again_and_writes_nothing(
    learnt: tuple[list[PretrainReport], Path],
) -> None:
    reports, out = learnt
    before = {path.name: path.stat().st_mtime_ns for path in out.parent.iterdir()}

    assert quickly(out) == reports
    assert {path.name: path.stat().st_mtime_ns for path in out.parent.iterdir()} == before
    assert list(before) == [out.name]


def test_the_file_of_another_pretraining_is_refused_and_kept(learnt: tuple[list[PretrainReport], Path]) -> None:
    _, out = learnt
    before = out.read_bytes()
    with pytest.raises(BadCheckpoint) as caught:
        quickly(out, replace(ASKED, seed=4))
    assert str(caught.value) == (
        f"{out} holds another pretraining: its seed is 3, asked for is 4. Name another file, or delete it."
    )
    assert out.read_bytes() == before


def test_a_file_that_no_pretraining_wrote_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("Dear diary")
    with pytest.raises(BadCheckpoint) as caught:
        quickly(tmp_path / "diary.txt")
    assert str(caught.value) == (
        f"{tmp_path / 'diary.txt'} is there already, and no pretraining wrote it. Name another file."
    )
    assert (tmp_path / "diary.txt").read_text() == "Dear diary"


def test_the_state_of_another_pretraining_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "features"
    quickly(out, last=1)
    with pytest.raises(BadCheckpoint) as caught:
        quickly(out, replace(ASKED, lr=0.5))
    assert str(caught.value) == (
        f"{out}.resume belongs to another pretraining: its lr is 0.001, asked for is 0.5. "
        "Name another file, or delete it."
    )


def test_too_few_images_for_a_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadParams, match=r"^batch_size: 64 is not at most 40, the number of images\.$"):
        quickly(tmp_path / "out", replace(ASKED, batch_size=64))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"method": "simclr"}, "method: 'simclr' is not one of vicreg, simsiam."),
        ({"backbone": "resnet9"}, "backbone: 'resnet9' is not one of resnet10,"),
        ({"epochs": 0}, "epochs: 0 is not a whole number from 1 to 100000."),
        ({"lr": math.nan}, r"lr: nan is not a number in \(0, 10\]."),
        ({"image_size": 4}, "image_size: 4 is not a whole number of pixels from 8 to 2048."),
    ],
)
def test_what_is_asked_is_valid_or_not_at_all(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(BadParams, match=f"^{said}"):
        Pretraining(**wrong)  # type: ignore[arg-type]


# ---- where images come from


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_without_a_path_the_training_scenes_are_learnt_from(scenes: Dataset) -> None:
    source = gather(None)
    assert np.array_equal(source.images.images, scenes.train.images)
    assert source.data is not None


def test_all_images_below_a_folder_are_learnt_from(tmp_path: Path) -> None:
    for number, name in enumerate(["a.png", "b/c.png", "b/d/e.jpg", "b/.hidden.png"]):
        picture(tmp_path / name, number)
    source = gather(tmp_path, image_size=SIZE)

    assert len(source.images) == 3
    assert source.data is None
    assert source.images.images.shape == (3, 3, SIZE, SIZE)
    pixels = source.images.images.transpose(1, 0, 2, 3).reshape(3, -1)
    np.testing.assert_allclose(source.mean, pixels.mean(axis=1), rtol=1e-5)


def test_a_data_sets_test_split_is_left_out(tmp_path: Path) -> None:
    splits = ["train"] * 6 + ["val"] * 3 + ["test"] * 3
    lines = [f"{number}.png,{'a' if number % 2 else 'b'},{split}" for number, split in enumerate(splits)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,labels,split", *lines]))
    for number in range(len(splits)):
        picture(tmp_path / f"{number}.png", number)

    source = gather(tmp_path, image_size=SIZE)
    assert source.data is not None
    assert sorted(source.images.rows) == sorted([*source.data.train.rows, *source.data.val.rows])
    assert len(source.images) == 9
    assert not set(source.images.rows) & set(source.data.test.rows)

    without = gather(tmp_path, format="unlabelled", image_size=SIZE)
    assert len(without.images) == 12


def test_a_broken_image_is_named_or_skipped(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / f"{number}.png", number)
    (tmp_path / "3.png").write_bytes(b"no image")

    with pytest.raises(BadData, match=r"^3\.png: '3\.png' .*Replace the file\."):
        gather(tmp_path, image_size=SIZE)
    source = gather(tmp_path, image_size=SIZE, skip_bad=True)
    assert len(source.images) == 3
    assert [problem.where for problem in source.problems] == ["3.png"]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"it lists no image that can be used \(unlabelled\)"):
        gather(tmp_path)


# ---- the verdict


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a backbone whose features are the same for all images."""
    weights = build(backbone="resnet10", stem="standard", dropout=0.0, classes=3, seed=0).resnet.state_dict()
    write_weights(
        file := tmp_path_factory.mktemp("blind") / "blind", weights | {"conv1.weight": torch.zeros(64, 3, 7, 7)}, {}
    )
    return file


def test_features_that_tell_the_classes_better_than_those_at_the_start_are_said_to_help(
    blind: Path, learnt: tuple[list[PretrainReport], Path]
) -> None:
    verdict = judge(learnt[1], replace(ASKED, start=str(blind)), DATA, threads=1)
    assert verdict.helped
    assert verdict.start < 0.7 < verdict.learnt <= 1
    assert 0 < verdict.low <= verdict.learnt - verdict.start <= verdict.high


def test_features_that_tell_the_classes_no_better_are_said_not_to_help(blind: Path) -> None:
    same = judge(blind, replace(ASKED, start=str(blind)), DATA, threads=1)
    assert (same.helped, same.low, same.high) == (False, 0, 0)

    worse = judge(blind, ASKED, DATA, threads=1)
    assert not worse.helped
    assert worse.high < 0


# ---- the command


@pytest.fixture
def call() -> Callable[..., tuple[str, str]]:
    app = typer.Typer()
    command.register(app)

    def called(*words: object) -> tuple[str, str]:
        done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout, done.stderr

    return called


def test_the_command_learns_from_a_folder_and_prints_what_came_of_it(
    call: Callable[..., tuple[str, str]], tmp_path: Path
) -> None:
    for number in range(8):
        picture(tmp_path / f"images/{number}.png", number)
    words = ["--data", tmp_path / "images", "--image-size", SIZE, "--epochs", 1, "--batch-size", 8, "--threads", 1]
    out = tmp_path / "my features"
    printed, said = call(*words, "--out", out, "--json", "--precision", "fp32")

    result = json.loads(printed)
    assert (result["weights"], result["images"], result["verdict"]) == (str(out), 8, None)
    assert said.splitlines()[0] == "Learning from 8 images of images."
    assert said.splitlines()[1].startswith(f"epoch   1/1  loss {result['epochs'][0]['loss']:.4f}  spread ")
    assert said.splitlines()[-1] == f"The weights are {out}. Start from them: mlc-search fit weights='{out}'"
    assert call(*words, "--out", out, "--precision", "fp32")[0] == "Whether it helped cannot be said without labels.\n"

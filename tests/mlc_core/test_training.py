"""A fit gives the same bits each time and says truly how good it is. Resuming is in test_resume.py."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from sklearn.dummy import DummyClassifier
from sklearn.metrics import average_precision_score, f1_score, log_loss

from mlc_core import (
    BadParams,
    Dataset,
    Diverged,
    EpochReport,
    NoDevice,
    Params,
    Split,
    Stream,
    Value,
    fit,
    stream_seed,
)
from mlc_core.data.sampling import Sampling
from mlc_core.loss import training_loss
from mlc_core.model import Classifier, build
from mlc_core.params import AUGMENTS, LOSSES, LossName
from mlc_core.records import BEST, OBJECTIVES, Objective, best_epoch
from tests.mlc_core.fits import FEW, RISING, SMALL, Run, losses, run, same_weights
from tests.mlc_core.tiny import SIZE, tiny


def normalized(split: Split, *, mean: list[float], std: list[float]) -> torch.Tensor:
    levels = split.images.astype(np.float64)
    return torch.from_numpy((levels - np.reshape(mean, (1, 3, 1, 1))) / np.reshape(std, (1, 3, 1, 1))).float()


def untrained(split: Split, *, seed: int) -> NDArray[np.float64]:
    """The probabilities that the network of a seed begins with, normalized by this one batch, as a step does."""
    colours = split.images.transpose(1, 0, 2, 3).reshape(3, -1)
    pictures = normalized(split, mean=list(colours.mean(axis=1)), std=list(colours.std(axis=1)))
    model = build(backbone="resnet10", stem="standard", dropout=0, classes=3, seed=stream_seed(seed, Stream.INIT))
    with torch.no_grad():
        chances: NDArray[np.float64] = model.train()(pictures).double().sigmoid().numpy()
    return chances


def best_weights(folder: Path, split: Split) -> tuple[dict[str, str], NDArray[np.float64]]:
    """What the file of the best weights says of itself, and the logits that a network with them gives."""
    with safe_open(folder / BEST, framework="pt") as file:
        card = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    params = Params.from_flat(json.loads(card["params"]))
    classes = len(json.loads(card["classes"]))
    model = Classifier(backbone=params.backbone, stem=params.stem, dropout=params.dropout, classes=classes)
    model.load_state_dict(weights)
    pictures = normalized(split, mean=json.loads(card["mean"]), std=json.loads(card["std"]))
    with torch.inference_mode():
        return card, model.eval()(pictures).double().numpy()


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(data: Dataset, tmp_path: Path) -> None:
    params = SMALL | {"augment": "strong", "flip": 0.5}

    first, again = (run(params, data, seed=3, epochs=2, checkpoint=tmp_path / name) for name in ("first", "again"))
    other = run(params, data, seed=4, epochs=2)

    assert first == again
    assert same_weights(tmp_path / "first", tmp_path / "again")
    assert not set(losses(first.reports)) & set(losses(other.reports))


def test_params_and_the_flat_mapping_of_them_are_one_fit(data: Dataset) -> None:
    params = Params(image_size=SIZE, batch_size=32, dropout=0.3)
    assert run(params, data, epochs=1) == run(SMALL, data, epochs=1)


def test_the_value_is_the_lowest_of_the_reported_validation_losses(rising: tuple[Run, Path]) -> None:
    (value, reports), _ = rising
    assert value == min(losses(reports)) != reports[-1].val_loss


def test_a_report_says_which_epoch_of_how_many_it_was_at_which_rate(data: Dataset) -> None:
    params = SMALL | {"scheduler": "cosine", "t_max": 3, "lr": 0.004}
    reports = run(params, data).reports
    assert [(report.epoch, report.epochs) for report in reports] == [(1, 3), (2, 3), (3, 3)]
    assert [report.lr for report in reports] == pytest.approx([0.004, 0.003, 0.001])  # (1 + cos(60 k degrees)) / 2


def test_an_epochs_seconds_are_its_own(data: Dataset) -> None:
    seconds: list[float] = []
    run(SMALL, data, each=lambda report: seconds.append(report.seconds))
    assert len(seconds) == 3
    assert all(0 < each < 60 for each in seconds)


def test_a_callback_that_says_no_ends_the_fit_after_that_epoch(data: Dataset) -> None:
    whole = run(SMALL, data)
    short = run(SMALL, data, last=2)
    assert short.reports == whole.reports[:2]
    assert short.value == min(losses(short.reports))


def test_the_validation_scores_are_what_scikit_learn_finds_for_the_saved_weights(tmp_path: Path) -> None:
    data = tiny(val=600)  # more than are evaluated at once
    _, reports = run(SMALL, data, epochs=1, checkpoint=tmp_path)

    _, logits = best_weights(tmp_path, data.val)

    expected = log_loss(data.val.labels.ravel(), 1 / (1 + np.exp(-logits.ravel())))
    assert reports[0].val_loss == pytest.approx(expected, rel=1e-5)
    assert reports[0].macro_f1 == pytest.approx(f1_score(data.val.labels, logits >= 0, average="macro"), abs=1e-3)
    assert reports[0].mean_ap == pytest.approx(average_precision_score(data.val.labels, logits), abs=1e-3)


def test_the_training_loss_of_a_single_step_is_that_of_the_untrained_network(data: Dataset) -> None:
    params = Params(image_size=SIZE, batch_size=len(data.train), dropout=0, augment="none")

    (report,) = run(params, data, seed=7, epochs=1).reports

    expected = log_loss(data.train.labels.ravel(), untrained(data.train, seed=7).ravel())
    assert report.train_loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_chosen_loss_trains_and_the_validation_loss_stays_what_it_is(
    data: Dataset, loss: LossName, tmp_path: Path
) -> None:
    params = Params(image_size=SIZE, batch_size=96, dropout=0, augment="none", loss=loss, label_smoothing=0.1)

    (report,) = run(params, data, seed=7, epochs=1, checkpoint=tmp_path).reports

    logits = torch.from_numpy(untrained(data.train, seed=7)).logit()
    targets = torch.from_numpy(data.train.labels).double()
    expected = training_loss(params, data.train.labels, torch.device("cpu"))(logits, targets)
    assert report.train_loss == pytest.approx(float(expected), rel=1e-5)
    _, told = best_weights(tmp_path, data.val)
    assert report.val_loss == pytest.approx(np.logaddexp(0, np.where(data.val.labels, -told, told)).mean(), rel=1e-5)


def test_losses_lead_to_weights_of_their_own() -> None:
    ways: list[dict[str, Value]] = [{"label_smoothing": 0.1}]
    ways += [{"loss": str(loss)} for loss in LOSSES]
    told = [run(SMALL | way | {"pos_weight_power": 1.0}, FEW, epochs=2).reports[-1].val_loss for way in ways]
    assert len(set(told)) == len(ways)


RARE: dict[str, Value] = {"rare_below": 0.2, "rare_repeat": 4}


def lopsided() -> Dataset:
    """The third class is on 8 of 96 training images."""
    data = tiny()
    labels = data.train.labels.copy()
    labels[np.flatnonzero(labels[:, 2])[8:], 2] = 0
    return replace(data, train=Split(data.train.images, labels))


def test_an_epoch_takes_the_images_that_its_sampling_draws() -> None:
    """All images are one image, so that a network that hardly learns gives all of them the same logits."""
    data = lopsided()
    alike = Split(np.repeat(data.train.images[:1], len(data.train), axis=0), data.train.labels)
    params = Params(lr=1e-12, image_size=SIZE, batch_size=32, dropout=0, augment="none", rare_below=0.3, rare_repeat=4)

    reports = run(params, replace(data, train=alike), seed=7, epochs=2).reports

    chances, sampling = untrained(alike, seed=7), Sampling.of(alike.labels, params)
    shuffles = [torch.Generator().manual_seed(stream_seed(7, Stream.SHUFFLE, epoch)) for epoch in (1, 2)]
    drawn = [alike.labels[sampling.order(shuffle)] for shuffle in shuffles]
    assert [report.train_loss for report in reports] == [
        pytest.approx(log_loss(labels.ravel(), chances.ravel()), rel=1e-6) for labels in drawn
    ]
    assert abs(reports[0].train_loss - log_loss(alike.labels.ravel(), chances.ravel())) > 1e-4


def test_only_where_classes_are_rare_do_their_parameters_change_a_bit(data: Dataset) -> None:
    odd = lopsided()
    plain = run(SMALL, odd, epochs=1)
    for nothing in ({"rare_below": 0.01, "rare_repeat": 4}, {"rare_below": 0.2}, {"rare_repeat": 4}):
        assert run(SMALL | nothing | {"rare_augment": "light"}, odd, epochs=1) == plain
    assert run(SMALL | RARE | {"rare_augment": "strong"}, data, epochs=1) == run(SMALL, data, epochs=1)
    told = {
        run(SMALL | rare, odd, epochs=1).reports[0].train_loss for rare in (RARE, RARE | {"rare_augment": "strong"})
    }
    assert len(told | {plain.reports[0].train_loss}) == 3


def test_splits_that_share_a_store_of_images_give_the_same_bits(data: Dataset, tmp_path: Path) -> None:
    splits = (data.train, data.val, data.test)
    order = np.random.default_rng(0).permutation(sum(len(split) for split in splits))
    np.save(tmp_path / "store.npy", np.concatenate([split.images for split in splits])[order])
    store, places = np.load(tmp_path / "store.npy", mmap_mode="c"), np.argsort(order)
    ends = np.cumsum([len(split) for split in splits])[:-1]
    shared = [Split(store, s.labels, rows) for s, rows in zip(splits, np.split(places, ends), strict=True)]
    assert run(SMALL, replace(data, train=shared[0], val=shared[1], test=shared[2])) == run(SMALL, data)


def test_an_epochs_training_loss_weighs_each_image_alike_however_large_its_batch(data: Dataset) -> None:
    """All images are one image, so that a network that hardly learns gives all of them the same logits."""
    alike = Split(np.repeat(data.train.images[:1], len(data.train), axis=0), data.train.labels)
    params = Params(lr=1e-12, image_size=SIZE, batch_size=64, dropout=0, augment="none")

    (report,) = run(params, replace(data, train=alike), seed=7, epochs=1).reports

    expected = log_loss(alike.labels.ravel(), untrained(alike, seed=7).ravel())
    assert report.train_loss == pytest.approx(expected, rel=1e-6)


ONE = tiny(train=24)
ALIKE = replace(
    ONE, train=Split(np.repeat(ONE.train.images[:1], 24, axis=0), np.repeat(ONE.train.labels[:1], 24, axis=0))
)
STILL = SMALL | {"lr": 1e-12, "augment": "none", "dropout": 0, "batch_size": 24}  # nothing that could change a loss


def spread(params: dict[str, Value], data: Dataset) -> float:
    """How far apart the training losses of three epochs are, relatively."""
    told = [report.train_loss for report in run(params, data).reports]
    return max(told) / min(told) - 1


def test_each_epoch_takes_the_images_in_another_order() -> None:
    assert spread(STILL, ONE) < 1e-5  # all in one batch: the order does not matter
    assert spread(STILL | {"batch_size": 8}, ONE) > 1e-4


@pytest.mark.parametrize("policy", AUGMENTS)
def test_each_epoch_varies_the_images_anew(policy: str) -> None:
    """All images are one image with the same labels, so that their order does not matter."""
    assert (spread(STILL | {"augment": policy}, ALIKE) > 1e-4) == (policy != "none")


def test_each_epoch_drops_anew() -> None:
    """At 64 pixels the last stage still has several places, without which one image alone has no features."""
    assert spread(STILL | {"image_size": 64}, ALIKE) < 1e-5
    assert spread(STILL | {"image_size": 64, "dropout": 0.5}, ALIKE) > 1e-4


def test_training_learns_more_than_how_common_each_class_is(data: Dataset) -> None:
    prior = DummyClassifier(strategy="prior").fit(data.train.images, data.train.labels)
    chances = np.stack([p[:, 1] for p in prior.predict_proba(data.val.images)], axis=1)
    guess = log_loss(data.val.labels.ravel(), chances.ravel())

    value, reports = run(SMALL | {"batch_size": 16, "augment": "none"}, data)

    assert value < guess / 4
    assert reports[-1].train_loss < reports[0].train_loss / 4


def test_the_best_weights_are_those_of_the_best_epoch_and_say_so(rising: tuple[Run, Path]) -> None:
    (value, reports), folder = rising

    card, logits = best_weights(folder, FEW.val)

    # -log(sigmoid(z)) = log(1 + exp(-z)); scikit-learn cuts off chances as extreme as some are here
    entropy = np.logaddexp(0, np.where(FEW.val.labels == 1, -logits, logits)).mean()
    assert entropy == pytest.approx(value, rel=1e-5)
    best = 1 + int(np.argmin(losses(reports)))
    assert (card["epoch"], float(card["val_loss"])) == (str(best), value)
    assert best != len(reports)
    assert (json.loads(card["classes"]), card["data"]) == (["left", "right", "top"], FEW.fingerprint)
    assert Params.from_flat(json.loads(card["params"])) == Params.from_flat(RISING)


@pytest.mark.parametrize(("objective", "best"), [("bce", 1), ("macro_f1", 2), ("map", 3)])
def test_the_value_and_the_best_weights_are_those_of_the_objective(
    objective: Objective, best: int, rising: tuple[Run, Path], tmp_path: Path
) -> None:
    (_, reports), _ = rising

    value = fit(
        RISING, FEW, epochs=3, objective=objective, device="cpu", precision="fp32", threads=1, checkpoint=tmp_path
    )

    told = [(report.val_loss, report.macro_f1, report.mean_ap)[list(OBJECTIVES).index(objective)] for report in reports]
    assert value == told[best - 1] == (min(told) if objective == "bce" else max(told))
    card, logits = best_weights(tmp_path, FEW.val)
    assert (card["objective"], float(card["value"]), card["epoch"]) == (objective, value, str(best))
    assert f1_score(FEW.val.labels, logits >= 0, average="macro") == pytest.approx(reports[best - 1].macro_f1, abs=1e-3)
    assert average_precision_score(FEW.val.labels, logits) == pytest.approx(reports[best - 1].mean_ap, abs=1e-3)


def test_of_equally_good_epochs_the_first_is_the_best() -> None:
    reports = [
        EpochReport(epoch, 4, train_loss=1, val_loss=val_loss, macro_f1=f1, mean_ap=ap, lr=1, seconds=1, micro_batch=64)
        for epoch, val_loss, f1, ap in ((1, 0.5, 0.1, 0.2), (2, 0.4, 0.3, 0.2), (3, 0.4, 0.3, 0.1), (4, 0.6, 0.3, 0.2))
    ]
    assert {objective: best_epoch(reports, objective).epoch for objective in OBJECTIVES} == {
        "bce": 2,
        "macro_f1": 2,
        "map": 1,
    }


@pytest.mark.parametrize(("images", "batch_size"), [(97, 32), (3, 2), (2, 65_536)])
def test_a_batch_that_would_hold_a_single_image_is_left_out(images: int, batch_size: int) -> None:
    _, reports = run(SMALL | {"batch_size": batch_size}, tiny(train=images))
    assert len(reports) == 3
    assert all(math.isfinite(report.train_loss) for report in reports)


def test_a_single_validation_image_is_enough() -> None:
    assert len(run(SMALL, tiny(val=1, test=1), epochs=1).reports) == 1


def test_training_never_looks_at_the_test_images_and_learns_nothing_from_the_validation_images(data: Dataset) -> None:
    other = tiny(train=96, val=40, test=40)
    plain = run(SMALL, data)

    assert run(SMALL, replace(data, test=other.test)) == plain
    changed = run(SMALL, replace(data, val=other.test)).reports
    assert [report.train_loss for report in changed] == [report.train_loss for report in plain.reports]
    assert losses(changed) != losses(plain.reports)


@pytest.mark.parametrize(
    ("wild", "told"),
    [
        ({"batch_size": 16}, r"epoch 1: the training loss ran away to [\d.e+]+ nats of BCE"),
        ({"batch_size": 16, "loss": "focal"}, r"epoch 1: the training loss ran away to [\d.e+]+ nats of BCE"),
        ({"batch_size": 16, "loss": "asymmetric"}, r"epoch 1: the training loss ran away to [\d.e+]+ nats of BCE"),
        ({"batch_size": 2, "optimizer": "adamw", "weight_decay": 1}, "epoch 1: the training loss is nan"),
        ({"batch_size": 96, "backbone": "resnet34"}, "epoch 1: the validation loss is (nan|inf)"),
    ],
)
def test_an_absurd_learning_rate_diverges_and_says_how(data: Dataset, wild: dict[str, Value], told: str) -> None:
    with pytest.raises(Diverged, match=rf"^Training diverged in {told}. Try a lower learning rate\.$") as caught:
        run(SMALL | {"optimizer": "adam", "lr": 10} | wild, data)
    assert caught.value.epoch == 1


def test_an_unknown_objective_is_refused(data: Dataset) -> None:
    with pytest.raises(BadParams) as caught:
        fit(SMALL, data, objective="maps")  # type: ignore[arg-type]  # what a user without a type checker may write
    assert str(caught.value) == "objective: 'maps' is not one of bce, macro_f1, map. Did you mean 'map'?"


@pytest.mark.parametrize("fails", [False, True])
def test_a_fit_leaves_the_global_generator_and_the_threads_as_they_were(data: Dataset, fails: bool) -> None:
    def look(_: EpochReport) -> None:
        assert torch.get_num_threads() == 1
        if fails:
            raise ZeroDivisionError

    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    assert threads > 1

    try:
        run(SMALL, data, epochs=1, each=look)
    except ZeroDivisionError:
        assert fails

    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_what_a_callback_draws_changes_nothing(data: Dataset) -> None:
    def draw(_: EpochReport) -> None:
        torch.rand(3)
        np.random.rand(3)  # noqa: NPY002 - as a user may

    assert run(SMALL, data, epochs=2, each=draw) == run(SMALL, data, epochs=2)


def test_without_data_a_fit_takes_the_embedded_scenes(scenes: Dataset, tmp_path: Path) -> None:
    value = fit({"image_size": 8, "batch_size": 500}, epochs=1, precision="fp32", threads=1, checkpoint=tmp_path)
    with safe_open(tmp_path / BEST, framework="pt") as file:
        assert (file.metadata()["data"], float(file.metadata()["val_loss"])) == (scenes.fingerprint, value)


def test_a_numbered_cpu_is_the_cpu(data: Dataset) -> None:
    assert run(SMALL, data, epochs=1, device="cpu:0") == run(SMALL, data, epochs=1)


@pytest.mark.parametrize(
    ("asked", "error", "sentence"),
    [
        ({"epochs": 0}, BadParams, "epochs: 0 is not a whole number from 1 to 100000."),
        ({"epochs": 2.0}, BadParams, "epochs: 2.0 is not a whole number from 1 to 100000."),
        ({"seed": -1}, BadParams, "seed: -1 is not a whole number from 0 to 2**63 - 1."),
        ({"seed": 2**63}, BadParams, "seed: 9223372036854775808 is not a whole number from 0 to 2**63 - 1."),
        ({"precision": "fp8"}, NoDevice, "precision: 'fp8' is not one of auto, fp32, tf32, bf16, fp16."),
        ({"params": {"lr": -1}}, BadParams, "lr: -1 is not a number in (0, 10]."),
    ],
)
def test_what_cannot_be_asked_for_is_refused_before_any_training(
    data: Dataset, asked: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    told: list[EpochReport] = []
    everything: dict[str, Any] = {"params": SMALL, "data": data} | asked

    with pytest.raises(error) as caught:
        run(**everything, each=told.append)

    assert str(caught.value) == sentence
    assert told == []

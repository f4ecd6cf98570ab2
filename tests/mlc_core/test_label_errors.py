"""Labels flipped on purpose are found by models that never saw them; the loader applies corrections."""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlc_core import BadData, BadParams, EpochReport, MissingExtra, Params, choose, load_dataset, read_data
from mlc_core.folds import Pool, deal, out_of_fold, pool
from mlc_core.label_errors import LabelCheck, Suspicion, suspicious
from tests.mlc_core.tiny import tiny
from tests.pictures import CLASSES, manifest

PARAMS = Params(image_size=16, batch_size=32, lr=1e-2, dropout=0.0)
FLIPS = 18  # of 600 labels


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def flipped(images: Pool, number: int) -> tuple[Pool, set[tuple[str, str]]]:
    """Flip some labels; tell which, by path and class."""
    flips = np.zeros(images.labels.shape, np.uint8)
    flips.ravel()[np.random.default_rng(0).choice(flips.size, number, replace=False)] = 1
    which = {(images.paths[row], images.classes[at]) for row, at in np.argwhere(flips)}
    return replace(images, labels=images.labels ^ flips, fingerprint=f"flipped {number}"), which


def test_flipped_labels_are_found_and_few_others() -> None:
    noisy, flips = flipped(pool(tiny(train=120, val=40, test=40)), FLIPS)
    found = suspicious(noisy, out_of_fold(noisy, PARAMS, folds=3, epochs=9), folds=3)
    named = {(each.path, each.name) for each in found.found}
    assert len(named & flips) >= 0.75 * FLIPS
    assert len(named & flips) >= 0.75 * len(named)
    at = {name: number for number, name in enumerate(noisy.classes)}
    for each in found.found:
        assert each.given == 1 - each.suggested == noisy.labels[noisy.paths.index(each.path), at[each.name]]
        assert each.score == (1 - each.probability if each.given else each.probability)
    assert [each.score for each in found.found] == sorted((each.score for each in found.found), reverse=True)


def test_an_interrupted_check_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    choose()
    for name in ("interrupted", "whole"):  # two caches that agree on what is fastest here
        (tmp_path / name).mkdir()
        shutil.copy(cache / "precision.json", tmp_path / name)
    images = pool(tiny(train=40, val=10, test=10))
    seen: list[tuple[int, int]] = []

    def report(fold: int, told: EpochReport) -> None:
        seen.append((fold, told.epoch))
        if seen == [(1, 1), (1, 2), (2, 1)]:
            raise KeyboardInterrupt

    monkeypatch.setenv("MLC_CACHE", str(tmp_path / "interrupted"))
    with pytest.raises(KeyboardInterrupt):
        out_of_fold(images, PARAMS, folds=2, epochs=2, on_epoch=report)
    seen.append((0, 0))
    told = out_of_fold(images, PARAMS, folds=2, epochs=2, on_epoch=report)
    assert seen[4:] == [(2, 1), (2, 2)]  # fold 1 is done; of fold 2 the first epoch was, and is told again

    monkeypatch.setenv("MLC_CACHE", str(tmp_path / "whole"))
    assert np.array_equal(out_of_fold(images, PARAMS, folds=2, epochs=2), told)
    assert 0 < told.min() < told.max() < 1
    kept = sorted(path.name for path in (tmp_path / "whole" / "folds").rglob("*") if path.is_file())
    assert kept == ["0.npy", "1.npy"]  # the fits' own states are dropped

    seen.append((0, 0))
    assert np.array_equal(out_of_fold(images, PARAMS, folds=2, epochs=2, on_epoch=report), told)
    assert seen[-1] == (0, 0)
    next((tmp_path / "whole" / "folds").rglob("1.npy")).write_bytes(b"damaged")
    assert np.array_equal(out_of_fold(images, PARAMS, folds=2, epochs=2), told)


@given(st.integers(2, 6), st.integers(1, 60), st.integers(1, 5), st.integers(0, 2**32))
def test_folds_are_of_whole_groups_and_even(parts: int, images: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (images, classes), dtype=np.uint8)
    groups = rng.integers(0, images, images)
    part = deal(labels, groups, parts, seed=seed)
    homes = {group: set(part[groups == group]) for group in set(groups.tolist())}
    assert all(len(home) == 1 for home in homes.values())
    sizes = np.bincount([next(iter(home)) for home in homes.values()], minlength=parts)
    assert sizes.max() - sizes.min() <= 1
    # The rarest class is served first, so it is as even as can be.
    carried = {group: labels[groups == group].max(axis=0) for group in homes}
    rarest = int(np.argsort(np.sum(list(carried.values()), axis=0), kind="stable")[0])
    spread = np.bincount([next(iter(homes[g])) for g in homes if carried[g][rarest]], minlength=parts)
    assert spread.max() - spread.min() <= 1


def test_copies_of_a_picture_are_judged_by_models_that_saw_none_of_them(tmp_path: Path) -> None:
    file = manifest(tmp_path / "photos", images=40, split=True)
    lines = file.read_text(encoding="utf-8").splitlines()
    for number in range(8):  # each copy in whatever split
        shutil.copy(file.parent / f"pictures/{number:03}.png", file.parent / f"pictures/copy{number}.png")
        lines.append(lines[number + 1].replace(f"{number:03}.png", f"copy{number}.png").replace("test", "train"))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    images = pool(read_data(file, image_size=16))
    assert len(images) == 48
    part = dict(zip(images.paths, deal(images.labels, images.groups, 4, seed=0).tolist(), strict=True))
    assert all(part[f"pictures/{n:03}.png"] == part[f"pictures/copy{n}.png"] for n in range(8))
    assert len(set(images.groups.tolist())) == 40


def test_images_are_pooled_whatever_their_split() -> None:
    data = tiny(train=20, val=6, test=4)
    images = pool(data)
    assert (images.paths[0], images.paths[20], images.paths[29]) == ("train 0", "val 0", "test 3")
    assert np.array_equal(images.images[images.rows[26:]], data.test.images)
    assert np.array_equal(images.labels[20:26], data.val.labels)


def test_a_class_that_too_few_images_carry_is_not_looked_at() -> None:
    rng = np.random.default_rng(0)
    images = pool(tiny(train=100, val=20, test=20))
    labels = np.column_stack([images.labels, np.zeros((140, 2), np.uint8)])
    labels[:3, 3] = 1
    images = replace(images, classes=(*images.classes, "rare", "never"), labels=labels)
    told = np.clip(labels * 0.9 + rng.uniform(0, 0.1, labels.shape), 0, 1)
    told[5, 0] = 1 - told[5, 0]
    found = suspicious(images, told)
    assert found.unchecked == ("rare", "never")
    assert [(each.path, each.name) for each in found.found] == [("train 5", images.classes[0])]
    assert found.positives == tuple(labels.sum(axis=0))


def test_what_cannot_be_checked_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pool(tiny(train=8, val=2, test=2))
    with pytest.raises(BadData) as few:
        out_of_fold(images, PARAMS, folds=4)
    assert str(few.value) == (
        "12 different images are too few for 4 folds; 16 are the least. Add images, or ask for fewer folds."
    )
    with pytest.raises(BadParams) as folds:
        out_of_fold(images, PARAMS, folds=1)
    assert str(folds.value) == "folds: 1 is not a whole number from 2 to 100."
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    with pytest.raises(MissingExtra) as missing:
        suspicious(images, np.full(images.labels.shape, 0.5))
    assert str(missing.value) == (
        "Looking for label errors needs an extra. Install it: pip install 'mlc-search[labels]'"
    )


def suspicion(path: str, name: str, *, given: int) -> Suspicion:
    return Suspicion(path=path, name=name, given=given, suggested=1 - given, probability=0.25, score=0.75)


def test_corrections_are_read_back_by_the_loader(tmp_path: Path) -> None:
    odd = ' a, "b"\n'.strip("\n")  # a space in front, a comma, quotes
    file = tmp_path / "labels.csv"
    shutil.copytree(manifest(tmp_path / "photos", images=30).parent / "pictures", tmp_path / "pictures")
    rows = [(f"pictures/{n:03}.png", "|".join((odd, "plain")[: n % 3])) for n in range(30)]
    with file.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened, quoting=csv.QUOTE_ALL).writerows([("path", "labels"), *rows])
    before = read_data(file, image_size=8)
    names = before.listing.classes
    wrong = tuple(
        suspicion(entry.path, name, given=int(at in entry.labels))
        for entry, at, name in zip(before.listing.entries[:12], [0, 1] * 6, [*names] * 6, strict=True)
    )
    found = LabelCheck(images=30, classes=names, positives=(0, 0), unchecked=(), found=wrong)
    corrections = tmp_path / "corrections.csv"
    corrections.write_text(found.to_csv(), encoding="utf-8")
    after = read_data(file, image_size=8, corrections=corrections)
    changed = np.argwhere(before.labels != after.labels)
    assert changed.tolist() == [[row, row % 2] for row in range(12)]
    # What is already so stays: a corrected data set may be corrected again.
    assert after.dataset().fingerprint == load_dataset(file, image_size=8, corrections=corrections).fingerprint
    assert after.dataset().fingerprint != before.dataset().fingerprint


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            ["path,given", "pictures/000.png,1"],
            "fix.csv, row 1: there is no column class. Corrections have the columns path, class, suggested; mlc-search "
            "labels check --csv FILE writes them.",
        ),
        (
            ["path,class,suggested", "pictures/999.png,left,1"],
            "fix.csv, row 2: 'pictures/999.png' is no image of ROOT. Take the row out, or fix the path.",
        ),
        (
            ["path,class,suggested", "pictures/000.png,lefd,1"],
            "fix.csv, row 2: 'lefd' is no class of ROOT. Take the row out, or fix the name. Did you mean 'left'?",
        ),
        (
            ["path,class,suggested", "pictures/000.png,left,yes"],
            "fix.csv, row 2: column suggested holds 'yes', which is not 0 or 1. Mend it.",
        ),
        (
            ["path,class,suggested", "pictures/000.png,left,1", "pictures/000.png,left,0"],
            "fix.csv, row 3: it contradicts fix.csv, row 2. Keep one of the rows.",
        ),
        (
            ["path,class,suggested", "pictures/000.png,left"],
            "fix.csv, row 2: it has 2 cells, the header 3. Mend the row.",
        ),
    ],
)
def test_corrections_that_do_not_fit_are_refused(rows: list[str], said: str, tmp_path: Path) -> None:
    assert CLASSES == ("left", "right", "top")
    file = manifest(tmp_path / "photos", images=12)
    fix = tmp_path / "fix.csv"
    fix.write_text("\n".join(rows) + "\n", encoding="utf-8")
    with pytest.raises(BadData) as error:
        read_data(file, image_size=8, corrections=fix)
    assert str(error.value) == said.replace("ROOT", str(file.parent))

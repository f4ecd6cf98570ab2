"""One's own images in a study: the same data and splits for every worker, or an error; by real commands."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mlc_core import read_data
from search.data import Source, largest_image, open_data
from search.declaration import from_table
from search.errors import DataChanged
from search.study import DATA, open_study
from tests.pictures import CLASSES, manifest
from tests.small import NAME, call, declare, rows


def labels(folder: Path, **options: object) -> Path:
    return manifest(folder / "photos", **options)  # type: ignore[arg-type]


def test_a_search_on_ones_own_images_ends_with_a_model_of_their_classes(tmp_path: Path, sqlite_url: str) -> None:
    file = labels(tmp_path)
    study = declare(tmp_path)
    call("run", "--trials", 2, "--workers", 2, "--study", study, "--data", file, folder=tmp_path, storage=sqlite_url)
    assert [row["state"] for row in rows(tmp_path, sqlite_url) if row["state"] in ("complete", "pruned")] != []
    with open_study(NAME, sqlite_url) as opened:
        remembered = json.loads(opened.optuna.user_attrs[DATA])
        data, problems = open_data(opened, None)
    assert remembered["source"]["path"] == str(file)
    assert data.classes == CLASSES
    assert remembered["fingerprint"] == data.fingerprint
    assert problems == ()
    # The next run needs no --data, and the command line reads from another folder too.
    (tmp_path / "elsewhere").mkdir()
    call("run", "--trials", 1, "--workers", 1, "--study", NAME, folder=tmp_path / "elsewhere", storage=sqlite_url)


def test_a_study_of_other_data_is_refused_whichever_came_first(tmp_path: Path, sqlite_url: str) -> None:
    first, second = labels(tmp_path / "a"), labels(tmp_path / "b", seed=1)
    study = declare(tmp_path)
    with open_study(str(study), sqlite_url, create=True) as opened:
        data, _ = open_data(opened, Source(first))
        with pytest.raises(DataChanged) as refused:
            open_data(opened, Source(second))
        assert f"it was started with {first} ({data.fingerprint}), these are images:" in str(refused.value)
    said = call("run", "--study", NAME, "--data", second, folder=tmp_path, storage=sqlite_url, code=2).stderr
    assert said.startswith("Error: The data of study 'small': it was started with ")
    with open_study("default", sqlite_url, create=True) as digits:
        open_data(digits, None)
        with pytest.raises(DataChanged, match="it was started with the embedded digit scenes"):
            open_data(digits, Source(first))


def test_every_worker_gets_the_splits_that_the_first_one_made(tmp_path: Path, sqlite_url: str) -> None:
    file = labels(tmp_path)
    study = declare(tmp_path)
    with open_study(str(study), sqlite_url, create=True) as opened:
        first, _ = open_data(opened, Source(file))
    moved = tmp_path / "another machine"
    shutil.copytree(file.parent, moved)
    with open_study(NAME, sqlite_url) as opened:
        second, _ = open_data(opened, Source(moved / "labels.csv"))
    assert first.fingerprint == second.fingerprint
    for name in ("train", "val", "test"):
        ours, theirs = getattr(first, name), getattr(second, name)
        assert np.array_equal(ours.images[ours.rows], theirs.images[theirs.rows])
        assert np.array_equal(ours.labels, theirs.labels)
    assert sum(len(getattr(first, name)) for name in ("train", "val", "test")) == 60


def test_images_that_are_gone_or_changed_are_named(tmp_path: Path, sqlite_url: str) -> None:
    file = labels(tmp_path)
    study = declare(tmp_path)
    with open_study(str(study), sqlite_url, create=True) as opened:
        open_data(opened, Source(file))
    shutil.copy(file.parent / "pictures/001.png", file.parent / "pictures/000.png")
    with open_study(NAME, sqlite_url) as opened, pytest.raises(DataChanged, match="it was started with"):
        open_data(opened, None)
    file.rename(tmp_path / "moved.csv")
    with open_study(NAME, sqlite_url) as opened, pytest.raises(DataChanged) as gone:
        open_data(opened, None)
    assert str(gone.value) == (
        f"The data of study 'small': they lay in {file}, which is not there. "
        "Say each time where they are now: --data PATH."
    )


def test_a_bad_image_stops_a_run_before_its_first_epoch_and_skip_bad_lists_it(tmp_path: Path, sqlite_url: str) -> None:
    file = labels(tmp_path)
    bad = file.parent / "pictures/007.png"
    bad.write_bytes(bad.read_bytes()[:100])
    study = declare(tmp_path)
    wanted = ("run", "--trials", 1, "--workers", 1, "--study", study, "--data", file)
    said = call(*wanted, folder=tmp_path, storage=sqlite_url, code=2).stderr
    assert "labels.csv, row 9: " in said
    assert "pictures/007.png" in said
    assert "Traceback" not in said
    said = call(*wanted, "--skip-bad", folder=tmp_path, storage=sqlite_url).stderr
    written = next((tmp_path / "mlc-search-artifacts").glob("skipped-*.csv"))
    assert f"Skipped, and listed in {written}: labels.csv, row 9: 'pictures/007.png'" in said
    listed = list(csv.DictReader(written.read_text(encoding="utf-8").splitlines()))
    assert [row["where"] for row in listed] == ["labels.csv, row 9"]
    assert "pictures/007.png" in listed[0]["reason"]


def test_given_splits_are_kept(tmp_path: Path) -> None:
    loaded = read_data(labels(tmp_path, split=True), image_size=8)
    assert loaded.splits.tolist() == [(0, 0, 1, 2)[number % 4] for number in range(60)]
    again = read_data(labels(tmp_path / "again", split=True), image_size=8, splits=loaded.spelled_splits())
    assert again.splits.tolist() == loaded.splits.tolist()


def test_the_same_picture_twice_never_lies_in_two_splits(tmp_path: Path) -> None:
    file = labels(tmp_path)
    with file.open("a", encoding="utf-8") as opened:
        for number in range(20):
            shutil.copy(file.parent / f"pictures/{number:03}.png", file.parent / f"pictures/copy{number}.png")
            line = file.read_text(encoding="utf-8").splitlines()[number + 1]
            opened.write(line.replace(f"{number:03}.png", f"copy{number}.png") + "\n")
            opened.flush()
    loaded = read_data(file, image_size=8)
    split_of = dict(zip((entry.path for entry in loaded.listing.entries), loaded.splits.tolist(), strict=True))
    assert all(split_of[f"pictures/{n:03}.png"] == split_of[f"pictures/copy{n}.png"] for n in range(20))
    assert set(loaded.splits.tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("space", "fixed", "size"),
    [
        ({}, {}, 32),
        ({}, {"image_size": 64}, 64),
        ({"image_size": [32, 96, 64]}, {}, 96),
        ({"image_size": {"low": 32, "high": 128, "step": 32}}, {}, 128),
    ],
)
def test_images_are_kept_as_large_as_any_trial_can_ask_for(
    space: dict[str, object], fixed: dict[str, object], size: int
) -> None:
    assert largest_image(from_table({"space": space, "fixed": fixed}, where="x", name="x")) == size


def test_weights_that_cannot_be_used_stop_a_run_before_its_first_trial(tmp_path: Path, sqlite_url: str) -> None:
    study = declare(tmp_path)
    study.write_text(study.read_text() + 'weights = "nowhere.safetensors"\n')
    said = call("run", "--trials", 1, "--workers", 1, "--study", study, folder=tmp_path, storage=sqlite_url, code=2)
    assert "Error: nowhere.safetensors is no file." in said.stderr
    assert rows(tmp_path, sqlite_url) == []


@pytest.mark.parametrize("words", [["--format", "csv"], ["--skip-bad"]])
def test_how_data_are_read_without_data_is_a_mistake(words: list[str], tmp_path: Path, sqlite_url: str) -> None:
    said = call("run", *words, folder=tmp_path, storage=sqlite_url, code=2).stderr
    assert "--format, --skip-bad and --corrections belong to --data PATH, which is missing." in said


def test_data_are_prepared_and_checked_from_the_command_line(tmp_path: Path, sqlite_url: str) -> None:
    file = labels(tmp_path)
    said = call("data", "prepare", file, "--image-size", 16, folder=tmp_path, storage=sqlite_url).stderr
    assert "60 images of 16 x 16 pixels are ready." in said
    page = tmp_path / "check.html"
    done = call(
        "data", "check", file, "--image-size", 16, "--html", page, "--json", folder=tmp_path, storage=sqlite_url
    )
    found = json.loads(done.stdout)
    assert (found["classes"], found["harms"]) == (list(CLASSES), [])
    assert sum(found["images"].values()) == 60
    assert "<h2>Findings</h2>" in page.read_text(encoding="utf-8")
    shutil.copy(file.parent / "pictures/000.png", file.parent / "pictures/999.png")
    with file.open("a", encoding="utf-8") as opened:
        opened.write("pictures/999.png,0,0,0\n")
    done = call("data", "check", file, "--image-size", 16, folder=tmp_path, storage=sqlite_url, code=1)
    assert "Harmful: 1 file occurs several times with different labels" in done.stdout
    nowhere = ("--html", tmp_path / "none" / "x.html")
    said = call("data", "check", file, "--image-size", 16, *nowhere, folder=tmp_path, storage=sqlite_url, code=2).stderr
    assert f"there is no folder {tmp_path / 'none'}." in said.replace("\n", " ")


def test_one_configuration_is_trained_on_ones_own_images(tmp_path: Path, sqlite_url: str) -> None:
    file = labels(tmp_path)
    words = ("image_size=16", "batch_size=16", "--epochs", 1, "--data", file, "--json")
    done = json.loads(call("fit", *words, folder=tmp_path, storage=sqlite_url).stdout)
    assert 0 < done["val_loss"] < 2
    assert done["params"]["image_size"] == 16


def test_corrected_labels_belong_to_the_study_and_are_found_again(tmp_path: Path, sqlite_url: str) -> None:
    file, study = labels(tmp_path), declare(tmp_path)
    entry = read_data(file, image_size=8).listing.entries[3]
    name, had = CLASSES[0], 0 in entry.labels
    fix = tmp_path / "corrections.csv"
    fix.write_text(f"path,class,suggested\n{entry.path},{name},{int(not had)}\n")
    with open_study(str(study), sqlite_url, create=True) as opened:
        data, _ = open_data(opened, Source(file, corrections=fix))
        assert data.fingerprint != read_data(file, image_size=32).dataset().fingerprint
        for again in (None, Source(file)):
            assert open_data(opened, again)[0].fingerprint == data.fingerprint
        count = sum(int(split.labels[:, 0].sum()) for split in (data.train, data.val, data.test))
    plain = int(read_data(file, image_size=8).labels[:, 0].sum())
    assert count == plain + (-1 if had else 1)

"""What a check finds in files on disk: the figures by hand, each harm and hint as a sentence, and no false alarm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mlc_core import SPLITS, DataCheck, Loaded, check, digits
from mlc_core.data.names import suspicious
from mlc_core.data.store import prepare
from tests.mlc_core.pictures import jpeg, laid_out, png, scene

SIZE = 32  # pixels of the decoded pictures
COCO = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,"
    "skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,"
    "cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
    "refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
)
Files = dict[str, tuple[bytes, list[str], str]]


def plenty(split_of: dict[str, int] | None = None) -> Files:
    """Enough different pictures of both classes in every split, so that nothing is worth a word."""
    files: Files = {}
    for split, images in (split_of or {"train": 14, "val": 14, "test": 14}).items():
        for number in range(images):
            label = ["cat", "dog"][number % 2]
            files[f"{split}{number}.png"] = (png(scene(len(files), side=64)), [label], split)
    return files


def checked(folder: Path, files: Files, *, classes: list[str] | None = None) -> DataCheck:
    found = laid_out(folder / "pets", files, classes=classes)
    splits = np.array([SPLITS.index(entry.split) if entry.split else -1 for entry in found.entries], np.int8)
    return check(Loaded(found, prepare(found, SIZE), splits))


def test_a_sound_data_set_gets_no_word(tmp_path: Path) -> None:
    found = checked(tmp_path, plenty())
    assert (found.harms, found.hints, found.alike, found.problems) == ((), (), (), ())


def test_the_figures_are_those_counted_by_hand(tmp_path: Path) -> None:
    files: Files = {
        "a.png": (png(scene(0, side=64)), ["dog", "cat"], "train"),
        "b.png": (png(scene(1, side=40)), ["dog"], "train"),
        "c.png": (png(scene(2, side=64).resize((80, 48))), ["cat"], "val"),
        "d.png": (png(scene(3, side=64)), [], "test"),
        "e.png": (png(scene(4, side=64)), ["dog", "cat", "owl"], ""),
    }
    found = checked(tmp_path, files)
    assert (found.root, found.format, found.classes) == (str(tmp_path / "pets"), "csv", ("cat", "dog", "owl"))
    assert dict(found.images) == {"train": 2, "val": 1, "test": 1}
    assert dict(found.positives) == {"train": (1, 2, 0), "val": (1, 0, 0), "test": (0, 0, 0)}
    assert found.together == ((3, 2, 1), (2, 3, 1), (1, 1, 1))
    assert (found.labels_per_image, found.mean_labels) == ((1, 2, 1, 1), 1.4)
    assert found.unlabelled == ("d.png",)
    assert (found.width, found.height, found.sizes) == ((40, 64, 80), (40, 64, 64), 3)


def test_the_normalization_is_the_mean_and_deviation_of_the_training_pixels(tmp_path: Path) -> None:
    files = plenty()
    listed = laid_out(tmp_path / "pets", files)
    store = prepare(listed, SIZE)
    splits = np.array([SPLITS.index(entry.split) for entry in listed.entries if entry.split], np.int8)

    found = check(Loaded(listed, store, splits))

    pixels = store.images[splits == 0].astype(np.float64)
    assert found.mean == pytest.approx(pixels.mean(axis=(0, 2, 3)))
    assert found.std == pytest.approx(pixels.std(axis=(0, 2, 3)))


def test_the_table_is_json_and_holds_every_field(tmp_path: Path) -> None:
    files = plenty()
    files["copy.png"] = (files["train0.png"][0], ["dog"], "val")
    found = checked(tmp_path, files)

    table = json.loads(json.dumps(found.to_table(), allow_nan=False))

    assert set(table) == {*DataCheck.__dataclass_fields__, "mean_labels"}
    assert table["width"] == {"min": 64, "median": 64, "max": 64}
    assert table["positives"] == {"train": [7, 7], "val": [7, 8], "test": [7, 7]}
    assert table["alike"] == [
        {
            "paths": ["copy.png", "train0.png"],
            "splits": ["val", "train"],
            "identical": True,
            "one_label_set": False,
            "leaks": True,
        }
    ]


def test_a_copy_in_another_split_and_one_with_other_labels_harm(tmp_path: Path) -> None:
    files = plenty()
    files["copy.png"] = (files["train0.png"][0], ["dog"], "val")

    found = checked(tmp_path, files)

    assert found.contradictions == (("copy.png", "train0.png"),)
    assert found.harms == (
        "1 picture is in more than one split, so what is measured there was seen in training or selection: "
        "'copy.png' in val and 'train0.png' in train. Keep each in one split, or remove all but one file.",
        "1 file occurs several times with different labels: 'copy.png' and 'train0.png'. "
        "Correct the labels, or remove all but one.",
    )


def test_a_worse_copy_in_another_split_leaks_and_one_in_the_same_is_worth_a_hint(tmp_path: Path) -> None:
    files = plenty()
    files["worse.jpg"] = (jpeg(scene(0, side=48), 90), ["cat"], "test")
    files["spare.jpg"] = (jpeg(scene(1, side=48), 90), ["cat", "dog"], "train")

    found = checked(tmp_path, files)

    assert [(group.paths, group.identical) for group in found.leaks] == [(("train0.png", "worse.jpg"), False)]
    assert found.harms == (
        "1 picture is in more than one split, so what is measured there was seen in training or selection: "
        "'train0.png' in train and 'worse.jpg' in test. Keep each in one split, or remove all but one file.",
    )
    assert found.hints == (
        "1 picture occurs more than once within a split, in 1 image too many: 'spare.jpg' and 'train1.png'.",
        "1 picture has different labels in versions that look the same: 'spare.jpg' and 'train1.png'.",
    )


def test_a_copy_that_is_in_no_split_does_not_leak(tmp_path: Path) -> None:
    files = plenty()
    files["copy.png"] = (files["train0.png"][0], ["cat"], "")
    found = checked(tmp_path, files)
    assert [group.splits for group in found.alike] == [(None, "train")]
    assert (found.leaks, found.harms) == ((), ())


def test_files_that_cannot_be_used_harm_and_count_nowhere(tmp_path: Path) -> None:
    files = plenty()
    files["cut.png"] = (files["train0.png"][0][:500], ["cat"], "train")
    files["text.png"] = (b"not a picture", ["cat"], "train")

    found = checked(tmp_path, files)

    assert dict(found.images) == {"train": 14, "val": 14, "test": 14}
    assert dict(found.positives) == {"train": (7, 7), "val": (7, 7), "test": (7, 7)}
    assert found.width == (64, 64, 64)
    assert [problem.where for problem in found.problems] == ["labels.csv, row 44", "labels.csv, row 45"]
    assert found.harms == (f"2 rows or files cannot be used: {found.problems[0]}",)


def test_a_class_that_is_missing_from_a_split_harms_where_it_is_learnt_or_chosen_by(tmp_path: Path) -> None:
    files = plenty()
    files["train0.png"] = (files["train0.png"][0], ["cat", "owl"], "train")

    found = checked(tmp_path, files, classes=["cat", "dog", "owl", "elk"])

    assert found.harms == (
        "No image in train carries 'elk', which cannot be learnt. Add images, or leave the class out.",
        "No image in val carries 'owl' and 'elk', which cannot be measured. Add images, or leave the class out.",
    )
    assert found.hints == (
        "No image in test carries 'owl' and 'elk', so nothing will be known of it there.",
        "Fewer than 5 images in train carry 'owl'; their figures there are chance.",
    )


def test_an_empty_split_harms(tmp_path: Path) -> None:
    found = checked(tmp_path, plenty({"train": 14, "val": 14}))
    assert found.harms == ("No image is in test. Training, validation and test need images of their own.",)


def test_images_without_a_label_and_a_class_on_all_images_are_worth_a_hint(tmp_path: Path) -> None:
    files = {name: (content, [*labels, "pet"], split) for name, (content, labels, split) in plenty().items()}
    for number in range(5):
        name = f"test{number}.png"
        files[name] = (files[name][0], [], "test")
    found = checked(tmp_path, files)
    assert found.harms == ()
    assert found.hints == (
        "All images in train carry 'pet'; there is nothing to tell apart.",
        "All images in val carry 'pet'; there is nothing to tell apart.",
        "Fewer than 5 images in test carry 'cat'; their figures there are chance.",
        "5 images carry no label: 'test0.png', 'test1.png', 'test2.png' and 2 more. They train as examples of no "
        "class; leave them out if they were only never labelled.",
    )


def test_one_class_in_two_spellings_harms_and_a_plural_is_worth_a_hint(tmp_path: Path) -> None:
    again = {"cat": ["cat", "cats"], "dog": ["dog", "Dog "]}
    files = {name: (content, again[labels[0]], split) for name, (content, labels, split) in plenty().items()}
    found = checked(tmp_path, files)
    assert found.same_names == (("Dog ", "dog"),)
    assert found.harms == ("The classes 'Dog ' and 'dog' look like one class in several spellings. Give it one name.",)
    assert found.hints == (
        "Spaces at the end or in a row, in the classes 'Dog '.",
        "The classes 'cat' and 'cats' are spelt almost alike; if they are one, give it one name.",
    )


def test_a_data_set_of_bad_files_only_is_still_a_check(tmp_path: Path) -> None:
    files: Files = {f"{label}.png": (b"not a picture", [label], "train") for label in ("cat", "dog")}
    found = checked(tmp_path, files)
    assert (found.mean, found.std, found.width, found.sizes, found.mean_labels) == (None, None, (0, 0, 0), 0, 0)
    assert len(found.problems) == 2


def test_of_the_digit_scenes_nothing_harms(tmp_path: Path) -> None:
    data = digits()
    files: Files = {}
    for split in SPLITS:
        part = getattr(data, split)
        for number in range(200):
            content = png(Image.fromarray(np.ascontiguousarray(part.images[number].transpose(1, 2, 0))))
            labels = [data.classes[at] for at in np.flatnonzero(part.labels[number])]
            files[f"{split}{number}.png"] = (content, labels, split)
    found = checked(tmp_path, files)
    assert (found.harms, found.hints) == ((), ())
    assert found.positives["train"] == tuple(data.train.labels[:200].sum(axis=0).tolist())


@pytest.mark.parametrize(
    ("names", "same", "similar"),
    [
        (COCO.split(","), (), ()),
        ([f"class{number}" for number in range(200)], (), ()),
        (["type A", "type B", "cat", "car", "horse", "house", "beaker", "beaver", "n01440764", "n01440765"], (), ()),
        (["Dog", "dog", "dog ", "d\u200bog"], (("Dog", "dog", "dog ", "d\u200bog"),), ()),
        (["red light", "Red_Light", "red-light"], (("red light", "Red_Light", "red-light"),), ()),
        (["Straße", "STRASSE"], (("Straße", "STRASSE"),), ()),
        (["dog", "dogs", "bus", "buses"], (), (("bus", "buses"), ("dog", "dogs"))),
        (["cherry", "cherries", "red shoe", "red shoes"], (), (("cherries", "cherry"), ("red shoe", "red shoes"))),
        (["bicycle", "bicylce", "motorcycle", "elefant"], (), (("bicycle", "bicylce"),)),
        (["screwdriver", "screwdrivr", "elephant"], (), (("screwdriver", "screwdrivr"),)),
    ],
)
def test_suspicious_names(names: list[str], same: Any, similar: Any) -> None:
    assert suspicious(names) == (same, similar)


@given(st.lists(st.text(max_size=8), unique=True, max_size=8))
def test_any_text_can_be_a_class_name(names: list[str]) -> None:
    same, similar = suspicious(names)
    assert {name for group in same for name in group} | {name for pair in similar for name in pair} <= set(names)


@given(st.text("abcdefgh", min_size=7, max_size=12), st.data())
def test_one_slip_in_a_long_word_is_seen_wherever_it_is(word: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(word) - 2))
    slip = data.draw(st.sampled_from(["another", "one more", "swapped"]))
    slipped = {
        "another": f"{word[:at]}z{word[at + 1 :]}",
        "one more": f"{word[:at]}z{word[at:]}",
        "swapped": f"{word[:at]}{word[at + 1]}{word[at]}{word[at + 2 :]}",
    }[slip]
    if slipped != word:
        assert suspicious([word, slipped]) == ((), (tuple(sorted((word, slipped))),))

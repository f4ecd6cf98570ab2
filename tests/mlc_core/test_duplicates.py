"""The same picture is found again after it was scaled and re-encoded; different pictures are not taken for one."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from mlc_core import digits
from mlc_core.data import duplicates
from mlc_core.data.duplicates import BITS, CROWD, FEW, PART, PLAIN, exact, groups, near
from mlc_core.data.images import decode
from tests.mlc_core.pictures import jpeg, png, scaled, scene

SIZE = 64  # pixels of the decoded pictures
SCENES = 40


def decoded(files: list[bytes]) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    pictures = [decode(content, SIZE) for content in files]
    return np.stack([picture.hash for picture in pictures]), np.stack([picture.pixels for picture in pictures])


@pytest.fixture(scope="module")
def originals() -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    return decoded([png(scene(number)) for number in range(SCENES)])


def packed(bits: NDArray[np.bool_]) -> NDArray[np.uint64]:
    return np.packbits(bits, axis=1).view(np.uint64)


def one_picture(stored: int) -> NDArray[np.uint8]:
    """The same pixels for all, so that hashes alone decide."""
    return np.broadcast_to(np.random.default_rng(0).integers(0, 256, (1, 3, 16, 16), np.uint8), (stored, 3, 16, 16))


@given(st.lists(st.sampled_from(["", "a", "b", "c", "d"])))
def test_files_with_one_digest_are_a_group_and_unread_ones_are_none(digests: list[str]) -> None:
    positions = {digest: [i for i, other in enumerate(digests) if other == digest] for digest in set(digests) - {""}}
    assert exact(digests) == sorted(tuple(own) for own in positions.values() if len(own) > 1)


@pytest.mark.parametrize(
    ("changed", "least"),
    [
        (lambda image: png(scaled(image, 0.7)), 1.0),
        (lambda image: png(scaled(image, 1.5)), 1.0),
        (lambda image: jpeg(image, 60), 0.9),
        (lambda image: jpeg(scaled(image, 0.7), 60), 0.85),
        (lambda image: jpeg(scaled(image, 0.5), 85), 0.95),
    ],
    ids=["x0.7", "x1.5", "jpeg60", "x0.7 jpeg60", "x0.5 jpeg85"],
)
def test_a_changed_copy_is_found(
    changed: Callable[[Image.Image], bytes], least: float, originals: tuple[NDArray[np.uint64], NDArray[np.uint8]]
) -> None:
    copies = decoded([changed(scene(number)) for number in range(SCENES)])

    hashes, images = (np.concatenate([originals[part], copies[part]]) for part in (0, 1))
    pairs = near(hashes, images)

    right = {(number, number + SCENES) for number in range(SCENES)}
    assert {pair[:2] for pair in pairs} <= right
    assert len(pairs) >= least * SCENES


def test_the_six_thousand_digit_scenes_are_six_thousand_pictures() -> None:
    data = digits()
    images = np.concatenate([split.images for split in (data.train, data.val, data.test)])
    hashes = decoded([png(Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))) for image in images])[0]
    assert near(hashes, images) == []


def test_pictures_with_one_hash_and_different_colours_are_different() -> None:
    image = np.asarray(scene(0))
    hashes, pictures = decoded([png(Image.fromarray(channels)) for channels in (image, 255 - image, image // 2)])
    assert near(hashes[[0, 0, 0]], pictures) == []
    assert near(hashes[[0, 0, 0]], pictures, np.array([0, 0, 2])) == [(0, 1, 0)]


def test_flat_pictures_are_never_alike_however_many_there_are() -> None:
    flat = [png(Image.new("RGB", (100, 80), colour)) for colour in ("white", "white", "black", "#fefefe")]
    hashes, pictures = decoded(flat * 50)
    assert not hashes.any()
    assert near(hashes, pictures) == []


@given(st.integers(0, 2**32), st.integers(2, 60))
def test_a_few_hashes_are_joined_as_if_every_pair_were_compared(seed: int, number: int) -> None:
    rng = np.random.default_rng(seed)
    bits = rng.random((5, 256))[rng.integers(0, 5, number)] < rng.choice([0.05, 0.3, 0.5])
    bits ^= rng.random((number, 256)) < rng.choice([0.01, 0.06])

    pairs = near(packed(bits), one_picture(number))

    def alike(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
        apart = int((one ^ other).sum())
        telling = all(PLAIN <= int(own.sum()) <= 256 - PLAIN for own in (one, other))
        return telling and apart <= BITS and apart <= PART * int((one | other).sum())

    every = [pair for pair in combinations(range(number), 2) if alike(*bits[list(pair)])]
    assert groups([pair[:2] for pair in pairs]) == groups(every)
    assert {pair[:2] for pair in pairs} <= set(every)
    assert len(pairs) == sum(len(group) - 1 for group in groups(every))
    assert all(apart == int((bits[one] ^ bits[other]).sum()) for one, other, apart in pairs)


def test_of_many_hashes_those_alike_find_each_other() -> None:
    rng = np.random.default_rng(0)
    bits = rng.random((5000, 256)) < 0.5
    bits[:, :96] = False  # above all of them the same white sky
    copies = bits[:500].copy()
    for copy in copies:
        copy[rng.choice(np.arange(96, 256), 16, replace=False)] ^= True
    hashes = packed(np.concatenate([bits, copies]))
    assert len(hashes) > FEW

    pairs = near(hashes, one_picture(len(hashes)))

    found = {pair[:2] for pair in pairs}
    assert found <= {(number, number + 5000) for number in range(500)}
    assert len(found) >= 0.98 * 500


def test_thousands_of_frames_of_one_camera_are_one_group() -> None:
    rng = np.random.default_rng(0)
    frames = (rng.random(256) < 0.5) ^ (rng.random((2000, 256)) < 0.02)
    assert len(frames) > FEW > CROWD
    pairs = near(packed(frames), one_picture(len(frames)))
    assert groups([pair[:2] for pair in pairs]) == [tuple(range(2000))]
    assert len(pairs) == 1999


@pytest.mark.parametrize("number", [0, 1])
def test_where_there_is_no_pair_there_is_no_duplicate(number: int) -> None:
    assert near(np.full((number, 4), 12345, np.uint64), one_picture(number)) == []


def test_a_hundred_thousand_hashes_take_seconds() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, (100_000, 4), np.uint64)
    hashes[99_999] = hashes[0]
    start = time.perf_counter()
    assert near(hashes, one_picture(100_000)) == [(0, 99_999, 0)]
    assert time.perf_counter() - start < 30


@given(st.lists(st.lists(st.integers(0, 20), min_size=2, max_size=4, unique=True).map(tuple), max_size=15))
def test_groups_are_what_repeated_merging_gives(sets: list[tuple[int, ...]]) -> None:
    merged: list[set[int]] = []
    for own in sets:
        touching = [group for group in merged if group & set(own)]
        merged = [group for group in merged if group not in touching] + [set(own).union(*touching)]
    assert groups(sets) == sorted(tuple(sorted(group)) for group in merged)


def test_thumbnails_are_the_means_of_their_cells() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 48, 64), np.uint8)
    means = image.reshape(3, 16, 3, 16, 4).mean(axis=(2, 4)).ravel()
    assert np.abs(duplicates._thumbnail(image) / 16 - means).max() <= 1 / 16

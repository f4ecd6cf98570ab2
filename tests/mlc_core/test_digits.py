"""The embedded scenes: the same bytes on every machine, made once, and no digit in two splits."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch.nn.functional import interpolate

from mlc_core import BadData, Dataset
from mlc_core.data import digits
from mlc_core.data.dataset import Uint8

NAMES = ("train", "val", "test")
SHOWN = digits.FINGERPRINT[:16]


@pytest.fixture(scope="session")
def stored(scenes: Dataset, cache: Path) -> Path:  # noqa: ARG001 - they must be there first
    """The cached scenes, not to be written to."""
    (file,) = cache.glob("digits-*.npz")
    return file


@pytest.fixture
def own_cache(tmp_path: Path, stored: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder to spoil; the file that the scenes belong in."""
    monkeypatch.setenv("MLC_CACHE", str(tmp_path))
    return tmp_path / stored.name


def arrays(data: Dataset) -> dict[str, Uint8]:
    return {f"{name}_{kind}": getattr(getattr(data, name), kind) for name in NAMES for kind in ("images", "labels")}


def test_making_the_scenes_again_gives_the_documented_bytes(scenes: Dataset) -> None:
    made = digits._make()

    assert digits.fingerprint(made) == digits.FINGERPRINT
    assert made.keys() == arrays(scenes).keys()
    assert all(np.array_equal(made[name], array) for name, array in arrays(scenes).items())


def test_the_fingerprint_is_sha256_over_names_shapes_and_bytes_in_the_order_of_names() -> None:
    two = {"b": np.array([[3], [4]], np.uint8), "a": np.array([1, 2], np.uint8)}
    assert digits.fingerprint(two) == hashlib.sha256(b"a(2,)\x01\x02b(2, 1)\x03\x04").hexdigest()


def test_the_scenes_are_five_thousand_to_train_on_and_a_thousand_each_to_validate_and_test(scenes: Dataset) -> None:
    assert [len(getattr(scenes, name)) for name in NAMES] == [4000, 1000, 1000]
    assert {getattr(scenes, name).images.shape[1:] for name in NAMES} == {(3, 32, 32)}
    assert scenes.classes == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    assert (scenes.name, scenes.fingerprint) == ("digits", f"digits:{SHOWN}")


@pytest.mark.parametrize("name", NAMES)
def test_a_scene_holds_one_to_four_digits_and_some_scenes_several(scenes: Dataset, name: str) -> None:
    held = getattr(scenes, name).labels.sum(axis=1)
    assert set(held) == {1, 2, 3, 4}
    assert 1.4 < held.mean() < 1.7


@pytest.mark.parametrize("name", NAMES)
def test_each_class_is_rarer_than_the_one_two_before_and_the_last_four_times_rarer_than_the_first(
    scenes: Dataset, name: str
) -> None:
    counts = getattr(scenes, name).labels.sum(axis=0, dtype=int).tolist()
    steps = [*pairwise(counts[::2]), *pairwise(counts[1::2])]
    assert len(steps) == 8
    assert all(rarer < commoner for commoner, rarer in steps)
    assert counts[0] > 4 * counts[9] > 0


def test_no_handwritten_digit_is_in_two_splits_and_each_is_in_one() -> None:
    sources = digits.source_digits()
    assert [len(sources[name]) for name in NAMES] == [1078, 359, 360]
    assert sorted(np.concatenate([sources[name] for name in NAMES])) == list(range(1797))


def test_each_split_has_every_class_among_its_handwritten_digits() -> None:
    target = load_digits().target
    assert [set(target[sources]) for sources in digits.source_digits().values()] == [set(range(10))] * 3


@pytest.mark.parametrize("size", digits.GLYPH_SIZES)
def test_digits_are_enlarged_as_torch_does_bilinearly_to_less_than_a_level(size: int) -> None:
    eights = load_digits().images[:50].astype(np.int64)

    enlarged = torch.from_numpy(digits._enlarge(eights, size))

    exact = interpolate(torch.from_numpy(eights)[:, None].double() * 16, size=(size, size), mode="bilinear")[:, 0]
    assert (exact - enlarged).min() >= -1e-9  # cut off, never rounded up
    assert (exact - enlarged).max() < 1 + 1e-9


@given(st.integers(0, 2**32), st.lists(st.sampled_from(digits.GLYPH_SIZES), min_size=1, max_size=4))
def test_two_digits_overlap_by_a_pixel_at_most_and_lie_inside_the_scene(seed: int, sizes: list[int]) -> None:
    rng, placed = np.random.default_rng(seed), list[tuple[int, int, int]]()
    for size in sizes:
        if (place := digits._place(rng, size, placed)) is not None:
            placed.append((*place, size))

    marks = [np.zeros((digits.SIZE, digits.SIZE), bool) for _ in placed]
    for mark, (y, x, size) in zip(marks, placed, strict=True):
        mark[y : y + size, x : x + size] = True
    assert [mark.sum() for mark in marks] == [size * size for _, _, size in placed]  # none is cut off
    for one in range(len(marks)):
        for other in range(one):
            both = marks[one] & marks[other]
            assert min(both.any(axis=0).sum(), both.any(axis=1).sum()) <= 1


def test_what_a_machine_made_once_it_reads_from_its_cache(stored: Path) -> None:
    """Whoever makes the scenes must import scikit-learn for its digits."""
    code = (
        "import sys; from mlc_core import digits; "
        f"assert digits().fingerprint == 'digits:{SHOWN}'; sys.exit('sklearn.datasets' in sys.modules)"
    )
    before = stored.stat()

    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

    assert (stored.stat().st_ino, stored.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_damaged_cache_is_made_again(own_cache: Path, stored: Path) -> None:
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 1
    own_cache.write_bytes(content)

    digits.digits()

    assert own_cache.read_bytes() == stored.read_bytes()


DAMAGE = st.tuples(
    st.integers(0, 2000) | st.integers(-2000, -1),  # where the archive says what it holds
    st.integers(0, 7),
)


@settings(max_examples=50, deadline=None)  # a loaded machine takes its time over 18 MB
@given(DAMAGE)
@example((142, 0))  # the head of an array, which numpy parses before zipfile has compared checksums
def test_whatever_bit_of_the_cache_flips_it_is_never_read_as_other_scenes(
    tmp_path_factory: pytest.TempPathFactory, stored: Path, damage: tuple[int, int]
) -> None:
    byte, bit = damage
    content = bytearray(stored.read_bytes())
    content[byte] ^= 1 << bit
    file = tmp_path_factory.getbasetemp() / "flipped.npz"
    file.write_bytes(content)

    read = digits._read(file)

    assert read is None or digits.fingerprint(read) == digits.FINGERPRINT


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_cut_off_cache_is_not_read(tmp_path: Path, stored: Path, keep: int) -> None:
    (tmp_path / "cut.npz").write_bytes(stored.read_bytes()[:keep])
    assert digits._read(tmp_path / "cut.npz") is None


def test_a_good_archive_of_other_scenes_is_not_read(tmp_path: Path, scenes: Dataset) -> None:
    other = arrays(scenes)
    other["val_labels"] = other["val_labels"][::-1]
    np.savez(tmp_path / "other.npz", allow_pickle=False, **other)
    assert digits._read(tmp_path / "other.npz") is None


def test_other_source_digits_than_the_documented_are_refused_and_not_kept(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bunch = load_digits()
    bunch.images[:, 4, 4] = 16 - bunch.images[:, 4, 4]
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda: bunch)  # as another scikit-learn might bring them

    with pytest.raises(BadData) as caught:
        digits.digits()

    start, end = str(caught.value).split(", not ")
    assert start.startswith("The digit scenes made here have the fingerprint ")
    assert end == (
        f"{digits.FINGERPRINT}: this scikit-learn or numpy differs. Install the versions that mlc-search asks for."
    )
    assert not own_cache.exists()

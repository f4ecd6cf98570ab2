"""The store of decoded images: what is in it, what it notices, and how it mends itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlc_core import BadData
from mlc_core.data import store as stores
from mlc_core.data.images import decode
from mlc_core.data.listing import Entry, Listing, Problem
from mlc_core.data.store import CHUNK, Store, prepare
from tests.mlc_core.test_cache import files_end_at

SIZE = 8
MANY = 2 * CHUNK + 40  # three chunks


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("MLC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/images"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def paint(path: Path, number: int) -> None:
    Image.new("RGB", (20 + number % 5, 10), (number % 256, number // 256, 99)).save(path)


def listed(root: Path, *paths: str) -> Listing:
    entries = tuple(Entry(path=path, labels=(0,), where=f"labels.csv, row {i}") for i, path in enumerate(paths, 2))
    return Listing(root=root, format="csv", classes=("a", "b"), entries=entries)


def pictures(root: Path, count: int) -> Listing:
    for number in range(count):
        paint(root / f"{number:04}.png", number)
    return listed(root, *[f"{number:04}.png" for number in range(count)])


def same(one: Store, other: Store) -> bool:
    return (
        one.images.tobytes() == other.images.tobytes()
        and one.digests == other.digests
        and one.hashes.tobytes() == other.hashes.tobytes()
        and one.sizes.tobytes() == other.sizes.tobytes()
        and one.problems == other.problems
    )


def notes(home: Path) -> dict[Path, int]:
    """When each chunk was written."""
    return {path: path.stat().st_mtime_ns for path in sorted(home.glob(f"*/{'[0-9]' * 6}.json"))}


def test_a_store_holds_each_file_in_the_listings_order(root: Path) -> None:
    listing = pictures(root, 30)
    backwards = listed(root, *[entry.path for entry in reversed(listing.entries)])

    store = prepare(backwards, SIZE)

    assert store.images.shape == (30, 3, SIZE, SIZE)
    for index, entry in enumerate(backwards.entries):
        picture = decode((root / entry.path).read_bytes(), SIZE)
        assert (store.images[index] == picture.pixels).all()
        assert store.sizes[index].tolist() == [picture.width, picture.height]
        assert (store.hashes[index] == picture.hash).all()
    reference = subprocess.run(
        ["sha256sum", *[entry.path for entry in backwards.entries]],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert store.digests == tuple(line.split()[0] for line in reference.stdout.splitlines())
    assert store.problems == {}


def test_bad_images_are_black_and_named(root: Path) -> None:
    paint(root / "good.png", 200)
    (root / "half.png").write_bytes((root / "good.png").read_bytes()[:-30])
    (root / "text.png").write_text("path,label")
    with (root / "vast.bmp").open("wb") as file:
        file.truncate(2**28 + 1)
    listing = listed(root, "good.png", "half.png", "absent.png", "text.png", "vast.bmp")

    store = prepare(listing, SIZE)

    assert store.problems == {
        1: Problem("labels.csv, row 3", "'half.png' is truncated. Replace the file."),
        2: Problem("labels.csv, row 4", "'absent.png' cannot be opened (No such file or directory). Replace the file."),
        3: Problem(
            "labels.csv, row 5",
            "'text.png' is not an image, or its beginning is damaged (JPEG, PNG, WEBP, TIFF, BMP, GIF are read). "
            "Replace the file.",
        ),
        4: Problem(
            "labels.csv, row 6",
            "'vast.bmp' has 268,435,457 bytes, more than the 268,435,456 that are read. Replace the file.",
        ),
    }
    assert store.images[0].any()
    assert not store.images[1:].any()
    assert not store.sizes[1:].any()
    assert not store.hashes[1:].any()
    assert [bool(digest) for digest in store.digests] == [True, True, False, True, False]
    assert same(prepare(listing, SIZE), store)


def test_any_number_of_threads_gives_the_same_and_progress_is_told(root: Path, home: Path) -> None:
    listing = pictures(root, MANY)
    told: list[tuple[int, int]] = []
    first = prepare(listing, SIZE, threads=1, on_progress=lambda done, of: told.append((done, of)))
    assert told == [(0, MANY), (0, MANY), (CHUNK, MANY), (2 * CHUNK, MANY), (MANY, MANY)]
    (folder,) = home.glob("*[0-9a-f]/images.u8")
    folder.parent.rename(home / "elsewhere")

    assert same(prepare(listing, SIZE, threads=7), first)

    told.clear()
    prepare(listing, SIZE, on_progress=lambda done, of: told.append((done, of)))
    assert told == [(0, MANY), (MANY, MANY)]


def test_a_store_is_taken_by_torch_without_a_warning_and_never_written_to(root: Path) -> None:
    listing = pictures(root, 10)
    store = prepare(listing, SIZE)
    before = store.images.copy()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.from_numpy(store.images).add_(1)

    assert (store.images == before + 1).all()
    assert (prepare(listing, SIZE).images == before).all()


def test_processes_share_the_memory_of_a_store(root: Path, home: Path) -> None:
    store = prepare(pictures(root, 20), 512)  # 16 MB
    assert store.images.any()

    # Stores of other tests, whose cache lies elsewhere, may still be mapped.
    (mapped,) = [part for part in Path("/proc/self/smaps").read_text().split("VmFlags") if f"{home}/" in part]
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in mapped.splitlines() if line.endswith("kB")}

    assert kilobytes["Rss"] >= 15_000  # what was read is there, and none of it belongs to this process alone
    assert kilobytes["Private_Dirty"] == kilobytes["Anonymous"] == 0


def test_a_changed_file_is_noticed_and_the_old_store_left_alone(root: Path, home: Path) -> None:
    listing = pictures(root, 5)
    old = prepare(listing, SIZE)
    kept = notes(home)
    state = (root / "0003.png").stat()
    paint(root / "other.png", 4)  # as many bytes as it had
    (root / "0003.png").write_bytes((root / "0004.png").read_bytes())
    os.utime(root / "0003.png", ns=(state.st_atime_ns, state.st_mtime_ns))  # as rsync and cp -p do

    new = prepare(listing, SIZE)

    assert [a == b for a, b in zip(old.digests, new.digests, strict=True)] == [True, True, True, False, True]
    assert (new.images[3] == new.images[4]).all()
    assert kept.items() < notes(home).items()
    paint(root / "0003.png", 3)
    assert same(prepare(listing, SIZE), old)


def test_another_size_or_order_is_another_store(root: Path, home: Path) -> None:
    listing = pictures(root, 5)
    prepare(listing, SIZE)
    assert prepare(listing, 2 * SIZE).images.shape == (5, 3, 16, 16)
    prepare(listed(root, "0001.png", "0000.png"), SIZE)
    assert len(notes(home)) == 3
    (root / "0000.png").rename(root / "renamed.png")
    prepare(listed(root, "0001.png", "renamed.png"), SIZE)
    assert len(notes(home)) == 3  # the content is what counts


def test_hashes_of_files_are_remembered_until_they_change(
    root: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = pictures(root, 3)
    monkeypatch.setattr(stores, "YOUNG", 1e6)
    prepare(listing, SIZE)
    assert list((home / "seen").iterdir()) == []  # they may change again within the same tick of the clock
    monkeypatch.setattr(stores, "YOUNG", 0.0)
    honest = prepare(listing, SIZE)
    (seen,) = (home / "seen").iterdir()

    remembered = json.loads(seen.read_bytes().split(b"\n")[1])
    assert {path: row[3] for path, row in remembered.items()} == {
        entry.path: digest for entry, digest in zip(listing.entries, honest.digests, strict=True)
    }

    remembered["0001.png"][3] = "0" * 64  # what it would be if the file had changed behind its inode's back
    seen.write_bytes(stores._sealed(remembered))
    with pytest.raises(BadData) as caught:
        prepare(listing, SIZE)
    assert str(caught.value) == (
        f"{root}/0001.png: the file changed while it was being read. Try again once nothing writes to {root}."
    )
    assert same(prepare(listing, SIZE), honest)


@pytest.mark.parametrize("name", ["images.u8", "000000.json", "000001.json", "000002.json"])
def test_a_bit_that_flips_anywhere_is_found_and_mended(root: Path, home: Path, name: str) -> None:
    listing = pictures(root, MANY)
    whole = prepare(listing, SIZE)
    kept = {array: getattr(whole, array).copy() for array in ("images", "hashes", "sizes")}
    before = notes(home)
    (file,) = home.glob(f"*/{name}")
    content = file.read_bytes()
    rng = np.random.default_rng(7)
    for place in [0, len(content) - 1, *rng.integers(0, len(content), 4).tolist()]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        with file.open("r+b") as there:
            there.write(damaged)

        mended = prepare(listing, SIZE)

        assert all((getattr(mended, array) == kept[array]).all() for array in kept)
        assert mended.problems == {}
        assert file.read_bytes() == content
    if name != "images.u8":
        assert [path.name for path, at in notes(home).items() if at != before[path]] == [name]


def test_files_that_are_cut_off_emptied_or_gone_are_made_again(root: Path, home: Path) -> None:
    listing = pictures(root, MANY)
    whole = prepare(listing, SIZE)
    expected = whole.images.copy()
    for file in sorted([*home.glob("*/images.u8"), *notes(home)]):
        for length in (0, file.stat().st_size // 2, None):
            if length is None:
                file.unlink()
            else:
                os.truncate(file, length)
            assert (prepare(listing, SIZE).images == expected).all()
    for seen in (home / "seen").iterdir():
        seen.write_bytes(b"{}")
    assert prepare(listing, SIZE).digests == whole.digests


def test_a_store_that_was_just_checked_is_trusted_for_an_hour(
    root: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = pictures(root, 3)
    monkeypatch.setattr(stores, "YOUNG", 0.0)
    expected = prepare(listing, SIZE).images.copy()
    prepare(listing, SIZE)
    (file,) = home.glob("*/images.u8")
    state = file.stat()
    content = file.read_bytes()
    with file.open("r+b") as there:
        there.write(bytes([content[0] ^ 1]))
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))  # as when the disk itself forgets a bit
    assert (prepare(listing, SIZE).images != expected).sum() == 1
    monkeypatch.setattr(stores, "TRUSTED", 0.0)
    assert (prepare(listing, SIZE).images == expected).all()


def test_of_two_at_once_one_works_and_the_other_waits(root: Path, home: Path) -> None:
    listing = pictures(root, MANY)
    command = [sys.executable, "-m", "tests.crash.prepare_aloud", str(root), str(SIZE)]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as one,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other,
    ):
        for process in (one, other):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in (one, other):
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate(timeout=60)[0].splitlines() for process in (one, other)]

    idle, busy = sorted(said, key=len)
    assert busy == [f"{done} {MANY}" for done in (0, 0, CHUNK, 2 * CHUNK, MANY)]
    assert idle == [f"0 {MANY}", f"{MANY} {MANY}"]
    before = notes(home)
    prepare(listing, SIZE)
    assert notes(home) == before


def test_an_interrupted_call_goes_on_where_it_was(root: Path, home: Path) -> None:
    listing = pictures(root, MANY)

    def interrupt(done: int, _: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(listing, SIZE, on_progress=interrupt)
    first = notes(home)
    assert len(first) == 1

    resumed = prepare(listing, SIZE)

    assert first.items() < notes(home).items()
    (folder,) = home.glob("*/lock")
    folder.parent.rename(home / "elsewhere")
    assert same(prepare(listing, SIZE), resumed)


def test_a_cache_that_cannot_be_written_is_named(root: Path, home: Path) -> None:
    listing = pictures(root, 3)
    home.parent.mkdir()
    home.write_text("a file where the folder should be")

    with pytest.raises(BadData) as caught:
        prepare(listing, SIZE)

    assert str(caught.value) == (
        f"The decoded images cannot be kept in {home}: Not a directory. Make room there, or set MLC_CACHE to a folder "
        "one can write to."
    )


def test_a_disk_that_fills_up_is_named_and_what_is_there_is_used_later(root: Path, home: Path) -> None:
    listing = pictures(root, MANY)
    with ExitStack() as stack:

        def fill(done: int, of: int) -> None:
            if done == CHUNK:
                stack.enter_context(files_end_at(3 * SIZE * SIZE * of - 1))

        with pytest.raises(BadData) as caught:
            prepare(listing, SIZE, on_progress=fill)
    assert str(caught.value) == (
        f"The decoded images cannot be kept in {home}: File too large. Make room there, or set MLC_CACHE to a folder "
        "one can write to."
    )
    kept = notes(home)
    assert len(kept) == 2

    assert (prepare(listing, SIZE).sizes[:, 1] == 10).all()
    assert kept.items() < notes(home).items()


def test_room_is_asked_for_before_anything_is_decoded(root: Path, home: Path) -> None:
    with pytest.raises(BadData) as caught:
        prepare(pictures(root, 1), 2_000_000)

    (lock,) = home.glob("*/lock")
    said = str(caught.value)
    assert said.startswith(f"The decoded images need 12000.0 GB in {lock.parent}, where ")
    assert said.endswith(" GB are free. Make room there, or set MLC_CACHE to a folder with more.")

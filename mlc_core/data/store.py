"""The decoded images of a listing, made once into a file that all processes map; built in chunks, checked, mended.

Not here: how one file is decoded (images.py); which files there are (listing.py).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import os
import shutil
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlc_core.cache import cache_dir, write_atomically
from mlc_core.data.dataset import Uint8
from mlc_core.data.duplicates import exact, near
from mlc_core.data.images import DECODER, HASH_DTYPE, Picture, Undecodable, decode, quiet, read_bytes
from mlc_core.data.listing import Entry, Listing, Problem
from mlc_core.errors import BadData
from mlc_core.machine import processors

OnProgress = Callable[[int, int], None]  # images done, of how many

IMAGES: Final = "images.u8"
LAYOUT: Final = 1  # of the files below; another one is another key
CHUNK: Final = 256  # images, at most: what an interrupted call loses
CHUNK_BYTES: Final = 2**25  # at most, where an image has less
AHEAD: Final = 2  # chunks that are decoded while one is written
PIECE: Final = 2**20  # bytes that are read at a time to be checked
YOUNG: Final = 2.0  # seconds; a file that changed so recently may change again within one tick of its clock
TRUSTED: Final = 3600.0  # seconds for which other processes need not compare checksums again

_SIZE_DTYPE: Final = np.dtype("<i4")
# A private writable map larger than the memory is refused without it; asm-generic/mman-common.h, unnamed in Python 3.11
_NO_RESERVE: Final = 0x4000 if sys.platform == "linux" else 0


@dataclass(frozen=True, eq=False)
class Store:
    """The decoded images of a listing, one an entry, in its order.

    Attributes
    ----------
    images : (n, 3, size, size), uint8, RGB
        A private map of one file: all processes that open it share its memory. A bad image is black.
    digests : tuple of str
        SHA-256 of each file's content, hex; empty where it cannot be read.
    hashes : (n, 4), uint64
        Difference hashes (images.py); 0 where bad, and where a picture is flat.
    sizes : (n, 2), int32
        Width and height as displayed, pixels; 0 where bad.
    problems : mapping
        Why an entry's file cannot be used, by the entry's index.
    """

    images: Uint8
    digests: tuple[str, ...]
    hashes: NDArray[np.uint64]
    sizes: NDArray[np.int32]
    problems: Mapping[int, Problem]

    @cached_property
    def good(self) -> NDArray[np.int64]:
        """Rows of the images that can be used, ascending."""
        return np.array([row for row in range(len(self.digests)) if row not in self.problems], np.int64)

    @cached_property
    def copies(self) -> tuple[tuple[int, ...], ...]:
        """Rows of usable images whose files have the same bytes; see `duplicates.exact`."""
        rows = self.good.tolist()
        return tuple(tuple(rows[at] for at in alike) for alike in exact([self.digests[row] for row in rows]))

    @cached_property
    def likenesses(self) -> tuple[tuple[int, int], ...]:
        """Pairs of rows of usable images that look the same; see `duplicates.near`."""
        rows, pairs = self.good.tolist(), near(self.hashes[self.good], self.images, self.good)
        return tuple((rows[one], rows[other]) for one, other, _ in pairs)


def prepare(listing: Listing, size: int, *, on_progress: OnProgress | None = None, threads: int | None = None) -> Store:
    """Decode and resize a listing's images, or find them in the cache.

    Parameters
    ----------
    size : int
        Pixels on both sides.
    on_progress : OnProgress, optional
        Called from this thread: at once, and after each chunk.
    threads : int, optional
        By default as many as there are processors; the result does not depend on it.

    Raises
    ------
    BadData
        Where the cache has no room or cannot be written, or a file changes meanwhile. Not for bad images.

    Notes
    -----
    Threads, because Pillow lets go of the interpreter while it decodes: two of them were as fast as two processes
    (500 x 375 JPEGs, 587 and 604 images/s at 64 pixels, 242 and 230 at 224, on a loaded machine of two cores).
    An interrupted call loses the chunks in work; the next one goes on. Two at once: one works, the other waits.
    """
    home = cache_dir() / "images"
    report = on_progress or (lambda _done, _of: None)
    report(0, len(listing.entries))
    try:
        (home / "seen").mkdir(parents=True, exist_ok=True)
        with quiet, _pool(threads or processors()) as pool:
            digests = _digests(listing, _seen(home, listing.root), pool)
            plan = _Plan(listing, digests, size, home)
            plan.folder.mkdir(exist_ok=True)
            with _locked(plan.folder / "lock"):
                return _completed(plan, pool, report)
    except _Changed as change:
        _seen(home, listing.root).unlink(missing_ok=True)
        raise BadData(
            f"{listing.root / change.path}: the file changed while it was being read. Try again once nothing writes "
            f"to {listing.root}."
        ) from None
    except OSError as error:
        raise BadData(
            f"The decoded images cannot be kept in {home}: {error.strerror}. Make room there, or set MLC_CACHE to a "
            "folder one can write to."
        ) from None


class _Changed(Exception):
    """A file is not what its digest was taken of."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


class _Plan:
    """What lies where in one key's folder: pixels in one file, in chunks; for each chunk a note."""

    def __init__(self, listing: Listing, digests: tuple[str, ...], size: int, home: Path) -> None:
        self.listing, self.digests, self.size = listing, digests, size
        key = hashlib.sha256("\n".join((f"{LAYOUT}, {DECODER}, {size}", *digests)).encode())
        self.folder = home / key.hexdigest()[:32]
        self.image_bytes = 3 * size * size
        step = max(1, min(CHUNK, CHUNK_BYTES // self.image_bytes))
        self.chunks = [range(i, min(i + step, len(digests))) for i in range(0, len(digests), step)]

    def note(self, number: int) -> Path:
        return self.folder / f"{number:06}.json"


@dataclass(frozen=True, slots=True, eq=False)
class _Note:
    """What is kept of a chunk beside its pixels."""

    crc: int  # of the pixels
    hashes: NDArray[np.uint64]
    sizes: NDArray[np.int32]
    bad: Mapping[int, str]  # why, by the entry's index


def _completed(plan: _Plan, pool: ThreadPoolExecutor, report: OnProgress) -> Store:
    """Check what is there, make what is missing, map it."""
    total = len(plan.digests) * plan.image_bytes
    with _opened(plan.folder / IMAGES) as pixels:
        notes = _found(plan, pixels, pool)
        missing = [number for number in range(len(plan.chunks)) if number not in notes]
        report(done := sum(len(plan.chunks[number]) for number in notes), len(plan.digests))
        if missing:
            _require_room(plan.folder, total - os.fstat(pixels).st_blocks * 512)
            os.ftruncate(pixels, total)
            for stale in plan.folder.glob(".*"):  # what a killed process was writing
                stale.unlink()
        for number, pictures in _decoded(plan, missing, pool):
            notes[number] = _write(plan, number, pictures, pixels)
            report(done := done + len(pictures), len(plan.digests))
        mapped = mmap.mmap(pixels, total, flags=mmap.MAP_PRIVATE | _NO_RESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    ordered = [notes[number] for number in range(len(plan.chunks))]
    return Store(
        images=np.frombuffer(mapped, np.uint8).reshape(-1, 3, plan.size, plan.size),
        digests=plan.digests,
        hashes=np.concatenate([note.hashes for note in ordered]),
        sizes=np.concatenate([note.sizes for note in ordered]),
        problems={
            index: _problem(plan.listing.entries[index], reason)
            for note in ordered
            for index, reason in note.bad.items()
        },
    )


def _problem(entry: Entry, reason: str) -> Problem:
    return Problem(entry.where, f"{entry.path!r} {reason}. Replace the file.")


def _found(plan: _Plan, pixels: int, pool: ThreadPoolExecutor) -> dict[int, _Note]:
    """Read the notes of those chunks that are whole."""
    notes = {number: note for number in range(len(plan.chunks)) if (note := _read_note(plan.note(number)))}
    checked, state = plan.folder / "checked.json", os.fstat(pixels)
    last = _unseal(checked) or {"at": 0, "mtime_ns": 0}
    if state.st_mtime_ns == last["mtime_ns"] and 0 <= time.time() - last["at"] < TRUSTED:
        return notes

    def whole(number: int) -> bool:
        images = plan.chunks[number]
        at, end = images.start * plan.image_bytes, images.stop * plan.image_bytes
        crc = 0
        while piece := os.pread(pixels, min(PIECE, end - at), at):
            crc, at = zlib.crc32(piece, crc), at + len(piece)
        return crc == notes[number].crc

    good = {number: notes[number] for number, right in zip(notes, pool.map(whole, notes), strict=True) if right}
    if len(good) == len(plan.chunks) and not _young(state):
        write_atomically(checked, _sealed({"at": time.time(), "mtime_ns": state.st_mtime_ns}))
    return good


def _decoded(
    plan: _Plan, numbers: Iterable[int], pool: ThreadPoolExecutor
) -> Iterator[tuple[int, list[Picture | str]]]:
    """Decode chunks in order, the next ones already while one is taken."""
    waiting: deque[tuple[int, list[Future[Picture | str]]]] = deque()
    for number in numbers:
        waiting.append((number, [pool.submit(_picture, plan, index) for index in plan.chunks[number]]))
        if len(waiting) > AHEAD:
            first, futures = waiting.popleft()
            yield first, [future.result() for future in futures]
    for number, futures in waiting:
        yield number, [future.result() for future in futures]


def _picture(plan: _Plan, index: int) -> Picture | str:
    """Decode one file, or say why it cannot be used."""
    path = plan.listing.entries[index].path
    try:
        content = read_bytes(plan.listing.root / path)
        if hashlib.sha256(content).hexdigest() != plan.digests[index]:
            raise _Changed(path)
        return decode(content, plan.size)
    except Undecodable as error:
        return str(error)


def _write(plan: _Plan, number: int, pictures: Sequence[Picture | str], pixels: int) -> _Note:
    """Write a chunk; its note comes last and says that it is whole."""
    images = plan.chunks[number]
    content = np.zeros((len(images), 3, plan.size, plan.size), np.uint8)
    hashes, sizes = np.zeros((len(images), 4), HASH_DTYPE), np.zeros((len(images), 2), _SIZE_DTYPE)
    bad: dict[int, str] = {}
    for place, picture in enumerate(pictures):
        if isinstance(picture, str):
            bad[images[place]] = picture
        else:
            content[place], hashes[place] = picture.pixels, picture.hash
            sizes[place] = picture.width, picture.height
    plain, written = content.data.cast("B"), 0
    while written < len(plain):  # a nearly full disk takes a part, and refuses the next
        written += os.pwrite(pixels, plain[written:], images.start * plan.image_bytes + written)
    os.fsync(pixels)
    note = _Note(zlib.crc32(plain), hashes, sizes, bad)
    stored = {
        "crc": note.crc,
        "hashes": hashes.tobytes().hex(),
        "sizes": sizes.tobytes().hex(),
        "bad": list(bad.items()),
    }
    write_atomically(plan.note(number), _sealed(stored))
    return note


def _read_note(path: Path) -> _Note | None:
    stored = _unseal(path)
    return stored and _Note(
        crc=stored["crc"],
        hashes=np.frombuffer(bytes.fromhex(stored["hashes"]), HASH_DTYPE).reshape(-1, 4),
        sizes=np.frombuffer(bytes.fromhex(stored["sizes"]), _SIZE_DTYPE).reshape(-1, 2),
        bad=dict(stored["bad"]),
    )


def _digests(listing: Listing, seen: Path, pool: ThreadPoolExecutor) -> tuple[str, ...]:
    """Hash each file's content; of a file that did not change since, as its inode says, remember the hash."""
    known: dict[str, list[Any]] = _unseal(seen) or {}
    states: dict[str, os.stat_result] = {}
    for entry in listing.entries:
        with suppress(OSError):
            states[entry.path] = os.stat(f"{listing.root}/{entry.path}")  # noqa: PTH116 - half the time of a Path
    same = {path for path, state in states.items() if known.get(path, [])[:3] == _identity(state)}
    fresh = [path for path in states if path not in same]

    def digest(path: str) -> str:
        try:
            return hashlib.sha256(read_bytes(listing.root / path)).hexdigest()
        except Undecodable:
            return ""

    now = {path: known[path][3] for path in same}
    try:
        now.update(zip(fresh, pool.map(digest, fresh), strict=True))
    finally:  # an interrupted call also saves the next one what it has read
        steady = {p: [*_identity(states[p]), now[p]] for p in fresh if now.get(p) and not _young(states[p])}
        if steady:
            write_atomically(seen, _sealed(known | steady))
    return tuple(now.get(entry.path, "") for entry in listing.entries)


def _identity(state: os.stat_result) -> list[int]:
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns]  # the last one also where a copy keeps the date


def _young(state: os.stat_result) -> bool:
    return time.time() - max(state.st_mtime, state.st_ctime) < YOUNG


def _seen(home: Path, root: Path) -> Path:
    return home / "seen" / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:32]}.json"


def _sealed(content: object) -> bytes:
    """Spell JSON behind its own SHA-256, so that any damage is seen."""
    body = json.dumps(content).encode()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _unseal(path: Path) -> Any:  # noqa: ANN401 - the seal says that it is what was written
    """Read it back; None where it is absent or damaged."""
    try:
        seal, _, body = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    return json.loads(body) if hashlib.sha256(body).hexdigest().encode() == seal else None


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise BadData(
            f"The decoded images need {needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free. Make room "
            "there, or set MLC_CACHE to a folder with more."
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until no other process works here; the kernel gives it back even for a killed one."""
    with _opened(path) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        yield number
    finally:
        os.close(number)


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupted call does not first do what is queued

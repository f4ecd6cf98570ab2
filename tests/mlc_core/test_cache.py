"""Where the cache is, and that no file in it is ever half there."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlc_core import BadData
from mlc_core.cache import cache_dir, write_atomically


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Have the kernel refuse what a file would hold beyond so many bytes, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_variable_wins_over_xdg_and_xdg_over_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("MLC_CACHE", raising=False)
    assert cache_dir() == tmp_path / "home/.cache/mlc-search"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg/mlc-search"
    monkeypatch.setenv("MLC_CACHE", str(tmp_path / "a/b"))
    assert cache_dir() == tmp_path / "a/b"
    assert (tmp_path / "a/b").is_dir()


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLC_CACHE", str(tmp_path / "file/below"))

    with pytest.raises(BadData) as caught:
        cache_dir()

    assert str(caught.value) == (
        f"The cache folder {tmp_path}/file/below cannot be made: Not a directory. "
        "Set MLC_CACHE to a folder one can write to."
    )


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "x"
    write_atomically(file, b"old")

    with files_end_at(1000), pytest.raises(OSError, match="File too large"):
        write_atomically(file, bytes(1001))

    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_reader_sees_the_old_file_or_the_new_one_whole(tmp_path: Path) -> None:
    file, contents = tmp_path / "x", [bytes([byte]) * 2**20 for byte in range(2)]
    write_atomically(file, contents[0])

    def write_in_turn() -> None:
        for turn in range(20):
            write_atomically(file, contents[turn % 2])

    with ThreadPoolExecutor() as pool:
        writing = pool.submit(write_in_turn)
        seen = set()
        while not writing.done():
            seen.add(file.read_bytes())
        writing.result()

    assert seen <= set(contents)
    assert file.read_bytes() == contents[1]
    assert list(tmp_path.iterdir()) == [file]

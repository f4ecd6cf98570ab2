"""Preparing images in a process that is really killed goes on in the next one, and does no chunk twice."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlc_core.data.store import CHUNK, prepare
from tests.crash.prepare_aloud import everything
from tests.mlc_core.test_store import notes, pictures, same

SIZE = 32
IMAGES = 4 * CHUNK + 10
CHUNK_BYTES = 3 * SIZE * SIZE * CHUNK


@pytest.mark.parametrize("where", ["anywhere", "in the middle of a write"])
def test_a_killed_prepare_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    root = tmp_path / "data"
    root.mkdir()
    pictures(root, IMAGES)
    monkeypatch.setenv("MLC_CACHE", str(tmp_path / "cache"))
    home = tmp_path / "cache/images"
    command = [sys.executable, "-m", "tests.crash.prepare_aloud", str(root), str(SIZE)]
    deadly = [str(CHUNK)] if where != "anywhere" else []
    with subprocess.Popen([*command, *deadly], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        while process.stdout.readline() != f"{CHUNK} {IMAGES}\n":
            assert process.poll() is None
        if not deadly:
            process.kill()
    assert process.returncode == -(signal.SIGXFSZ if deadly else signal.SIGKILL)
    done = notes(home)
    assert 1 <= len(done) < 5
    if deadly:
        (pixels,) = home.glob("*/images.u8")
        content = pixels.read_bytes()
        assert len(done) == 1
        assert any(content[CHUNK_BYTES : CHUNK_BYTES * 3 // 2])  # half a chunk, which no note speaks for
        assert not any(content[CHUNK_BYTES * 3 // 2 :])

    told: list[int] = []
    resumed = prepare(everything(root), SIZE, on_progress=lambda images, _: told.append(images))

    assert told[:2] == [0, len(done) * CHUNK]
    assert done.items() < notes(home).items()  # none of them was written again
    monkeypatch.setenv("MLC_CACHE", str(tmp_path / "another cache"))
    assert same(prepare(everything(root), SIZE), resumed)

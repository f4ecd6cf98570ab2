"""What a worker does about an artifact folder that cannot be used; whole trials are run elsewhere."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from search.attempts import FilesUnusable, Trouble
from search.patience import Patience
from search.signals import Stop

FULL = OSError(28, "No space left on device", "/artifacts/resume.ckpt")


def endure_nine(trouble: Trouble) -> None:
    for _ in range(9):
        trouble.endure(FULL, Stop())


def test_a_folder_that_stays_unusable_ends_the_worker_once_patience_is_over() -> None:
    trouble, start = Trouble(Patience(2), Path("/artifacts")), time.monotonic()
    with pytest.raises(FilesUnusable, match=r"^/artifacts/resume\.ckpt: No space left on device\."):
        endure_nine(trouble)
    assert 2 <= time.monotonic() - start < 9


def test_a_folder_that_is_full_now_and_then_is_waited_for_each_time(caplog: pytest.LogCaptureFixture) -> None:
    trouble = Trouble(Patience(2), Path("/artifacts"))
    for _ in range(4):  # seconds each, longer together than patience
        trouble.endure(FULL, Stop())
        trouble.end()
    assert [record.getMessage() for record in caplog.records] == [
        "/artifacts/resume.ckpt: No space left on device. Waiting for it, 2 seconds at most."
    ] * 4

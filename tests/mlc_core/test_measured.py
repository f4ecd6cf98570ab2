"""What a machine measured is found again, whatever lay in its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlc_core import keep, recall


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLC_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("content", [None, b"\xff", b"[]", b'{"other": 1}'])
def test_what_is_kept_is_recalled(home: Path, content: bytes | None) -> None:
    if content is not None:
        (home / "file.json").write_bytes(content)
    assert recall("file.json", "key") is None
    keep("file.json", "key", [{"a": 1.5}])
    assert recall("file.json", "key") == [{"a": 1.5}]
    assert recall("file.json", "other") == (1 if content == b'{"other": 1}' else None)


def test_where_nothing_can_be_written_nothing_is_kept_and_nobody_complains(home: Path) -> None:
    (home / "file.json").mkdir()
    keep("file.json", "key", 1)
    assert recall("file.json", "key") is None

"""The digit scenes, made once a session, the tiny data set, and a fit of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlc_core import Dataset, digits
from tests.mlc_core.fits import FEW, RISING, Run, run
from tests.mlc_core.tiny import tiny


@pytest.fixture(scope="session")
def scenes(cache: Path) -> Dataset:  # noqa: ARG001 - it must be there first
    return digits()


@pytest.fixture(scope="session")
def data() -> Dataset:
    return tiny()


@pytest.fixture(scope="session")
def rising(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """A fit whose first epoch was its best, with its checkpoint, not to be written to."""
    folder = tmp_path_factory.mktemp("rising")
    return run(RISING, FEW, checkpoint=folder), folder

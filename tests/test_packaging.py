"""The wheel: what is in it, and that it works from a folder that is not the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_studies_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"studies/__init__.py", "studies/default.toml", "studies/paper.toml"} <= set(names)
    assert {name.split("/")[0] for name in names} == {"mlc_core", "search", "studies", "mlc_search-0.1.0.dist-info"}


def test_the_installed_wheel_answers_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(tmp_path / "site"),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "MLC_STORAGE": "sqlite:///wheel.db"}
    environment.pop("COVERAGE_PROCESS_CONFIG", None)
    code = "import search, sys; from search.cli import main; print(search.__file__, file=sys.stderr); main()"
    call = [sys.executable, "-P", "-c", code, "enqueue-paper-trials", "--json"]
    done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "site") in done.stderr
    assert '"added": [\n    1,\n    2,' in done.stdout

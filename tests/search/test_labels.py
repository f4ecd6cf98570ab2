"""``labels check`` by real commands: flipped labels are found, shown and corrected; Ctrl-C loses nothing."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from mlc_core import read_data
from mlc_core.label_errors import LabelCheck, Suspicion
from search.label_page import EACH, write_page
from tests.pictures import CLASSES, manifest
from tests.small import call, command

PARAMS = ("image_size=16", "lr=1e-2", "batch_size=32", "dropout=0")
FLIPS = 9


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def flipped(folder: Path) -> tuple[Path, set[tuple[str, str]]]:
    """Write 180 pictures, and of their 540 labels some wrong; tell which."""
    file = manifest(folder / "photos", images=180)
    lines = [line.split(",") for line in file.read_text(encoding="utf-8").splitlines()]
    flips = set()
    for number in range(FLIPS):
        line, at = lines[1 + 20 * number], 1 + number % 3
        line[at] = str(1 - int(line[at]))
        flips.add((line[0], CLASSES[at - 1]))
    file.write_text("\n".join(map(",".join, lines)) + "\n", encoding="utf-8")
    return file, flips


def test_flipped_labels_are_found_shown_and_corrected(tmp_path: Path, sqlite_url: str) -> None:
    file, flips = flipped(tmp_path)
    out, page = tmp_path / "corrections.csv", tmp_path / "labels.html"
    words = (*PARAMS, "--data", file, "--folds", 3, "--epochs", 9, "--csv", out, "--html", page, "--json")
    done = call("labels", "check", *words, folder=tmp_path, storage=sqlite_url)
    found = json.loads(done.stdout)
    named = {(each["path"], each["name"]) for each in found["found"]}
    assert (found["images"], found["classes"], found["unchecked"]) == (180, list(CLASSES), [])
    assert len(named & flips) >= 0.6 * FLIPS
    assert len(named & flips) >= 0.6 * len(named)
    assert "fold 3/3 is trained: validation loss " in done.stderr

    html = page.read_text(encoding="utf-8")
    assert html.count("<img ") == len(named)
    assert all(f'title="{path}"' in html for path, _ in named)

    rows = list(csv.DictReader(out.read_text(encoding="utf-8").splitlines()))
    assert {(row["path"], row["class"]) for row in rows} == named
    assert list(rows[0]) == ["path", "class", "given", "suggested", "probability", "score"]
    before, after = read_data(file, image_size=8), read_data(file, image_size=8, corrections=out)
    changed = {(after.listing.entries[row].path, CLASSES[at]) for row, at in np.argwhere(before.labels != after.labels)}
    assert changed == named


def test_ctrl_c_ends_a_check_and_the_same_command_goes_on(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLC_CACHE", str(tmp_path / "cache"))
    file = manifest(tmp_path / "photos", images=64, seed=4)
    words = ("labels", "check", *PARAMS, "--data", file, "--folds", 2, "--epochs", 6)
    with subprocess.Popen(command(*words), cwd=tmp_path, stderr=subprocess.PIPE, text=True) as running:
        try:
            deadline = time.monotonic() + 300
            while not list((tmp_path / "cache" / "folds").glob("*/0.npy")):
                assert running.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            running.send_signal(signal.SIGINT)
            _, said = running.communicate(timeout=300)
        finally:
            running.kill()
    assert running.returncode == 130
    assert said.endswith("Stopped. The same command goes on where it was.\n")
    assert "Traceback" not in said
    done = call(*words, folder=tmp_path, storage=sqlite_url)
    assert "fold 1/2" not in done.stderr
    assert "fold 2/2 is trained" in done.stderr
    assert "of 192 labels are likely wrong." in done.stdout


def test_the_embedded_scenes_are_checked_without_data(tmp_path: Path, sqlite_url: str) -> None:
    words = ("image_size=8", "batch_size=1000", "--folds", 2, "--epochs", 1, "--json")
    found = json.loads(call("labels", "check", *words, folder=tmp_path, storage=sqlite_url).stdout)
    assert (found["images"], len(found["classes"])) == (6000, 10)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--corrections", "x.csv"), "--format, --skip-bad and --corrections belong to --data PATH, which is missing."),
        (("--csv", "none/x.csv"), "--csv none/x.csv: there is no folder"),
        (("lr=fast",), "Error: lr: 'fast' is not a number in (0, 10]."),
    ],
)
def test_what_is_asked_wrongly_is_said_at_once(
    words: tuple[str, ...], said: str, tmp_path: Path, sqlite_url: str
) -> None:
    done = call("labels", "check", *words, folder=tmp_path, storage=sqlite_url, code=2)
    assert said in " ".join(done.stderr.replace("│", " ").split())


def test_a_page_says_nothing_that_a_name_wants_it_to(tmp_path: Path) -> None:
    script = "<script>alert(1)</script>"
    suspects = tuple(
        Suspicion(
            path=f'"><img src=x onerror=alert({number})>', name=script, given=1, suggested=0, probability=0.1, score=0.9
        )
        for number in range(EACH + 2)
    )
    found = LabelCheck(images=60, classes=(script, "b"), positives=(50, 1), unchecked=("b",), found=suspects)
    pictures = {each.path: np.zeros((3, 8, 8), np.uint8) for each in suspects[1:]}
    write_page(tmp_path / "page.html", found, script, pictures)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<img ") == EACH - 1  # of the first one there is no picture
    assert "<script" not in page
    assert "onerror=alert(3)>" not in page
    assert f"<span class=quiet>{EACH + 2}, the surest {EACH}</span>" in page
    assert "<b>Not looked at</b>, for want of images with and without: b" in page
    nothing = LabelCheck(images=60, classes=("a", "b"), positives=(50, 30), unchecked=(), found=())
    write_page(tmp_path / "page.html", nothing, "photos", {})
    assert "No label was found that is likely wrong." in (tmp_path / "page.html").read_text(encoding="utf-8")

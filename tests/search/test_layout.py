"""How many workers of how many threads: measured by real processes, remembered, bounded by memory, obeyed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

import mlc_core
from mlc_core import Shape, processors
from search.declaration import built_in, from_table
from search.layout import FILE, Layout, Pace, best, candidates, environment, measure, settle, shape_of
from search.objective import study_precision
from search.signals import Stop
from search.study import THREADS, open_study
from search.views import trial_rows
from tests import small

GB = 2**30
MOMENT = Shape(image_size=8, batch_size=8)
TWO = pytest.mark.skipif(processors() < 2, reason="with one processor nothing is measured")


def auto(folder: Path) -> Path:
    """A study of trials of a second that leaves the threads open."""
    file = small.declare(folder, epochs=1, pruner="none")
    file.write_text('threads = "auto"\n' + file.read_text().replace("[500, 1000]", "[1000]"))
    return file


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder in which nothing was measured."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MLC_CACHE", str(folder))
    return folder


def measured() -> list[psutil.Process]:
    """The processes of ours that are being measured."""
    children = psutil.Process().children(recursive=True)
    return [one for one in children if "mlc_core.pace" in one.cmdline()]


@pytest.mark.parametrize(
    ("there", "workers", "threads", "among", "layouts"),
    [
        (1, None, None, 0, [(1, 1)]),
        (2, None, None, 0, [(1, 2), (2, 1)]),
        (3, None, None, 0, [(1, 2), (3, 1)]),
        (8, None, None, 0, [(1, 8), (2, 4), (4, 2), (4, 1)]),
        (64, None, None, 0, [(1, 64), (2, 32), (4, 16), (4, 8), (4, 1)]),
        (8, 2, None, 0, [(2, 4), (2, 2), (2, 1)]),
        (2, 5, None, 0, [(5, 1)]),
        (2, None, 1, 0, [(1, 1), (2, 1)]),
        (2, 3, 4, 0, [(3, 4)]),
        (16, None, None, 1, [(1, 1), (2, 1), (4, 1)]),
        (16, None, 2, 2, [(2, 2), (4, 2), (8, 2)]),
        (2, 3, None, 1, [(3, 1)]),
    ],
)
def test_layouts_fill_the_machine_and_never_more(
    there: int, workers: int | None, threads: int | None, among: int, layouts: list[tuple[int, int]]
) -> None:
    found = candidates(there, workers=workers, threads=threads, among=among)
    assert [(one.workers, one.threads) for one in found] == layouts


def paces(*told: tuple[int, int, float]) -> list[Pace]:
    return [Pace(Layout(workers, threads), reached, GB, 0.0) for workers, threads, reached in told]


@pytest.mark.parametrize(
    ("told", "room", "chosen"),
    [
        ([(1, 2, 100.0), (2, 1, 150.0)], 9 * GB, (2, 1)),
        ([(1, 2, 150.0), (2, 1, 100.0)], 9 * GB, (1, 2)),
        ([(1, 2, 104.0), (2, 1, 100.0)], 9 * GB, (2, 1)),  # close: fewer threads
        ([(1, 1, 100.0), (2, 1, 104.0), (4, 1, 90.0)], 9 * GB, (1, 1)),  # close: fewer workers
        ([(1, 4, 50.0), (2, 2, 90.0), (4, 1, 150.0)], 3 * GB, (2, 2)),  # the fastest does not fit
        ([(4, 1, 150.0)], 3 * GB, (3, 1)),
        ([(4, 1, 150.0)], GB // 2, (1, 1)),
    ],
)
def test_the_fastest_that_fits_is_chosen(
    told: list[tuple[int, int, float]], room: int, chosen: tuple[int, int]
) -> None:
    assert best(paces(*told), room=room) == Layout(*chosen)


def test_workers_that_share_a_gpu_must_fit_into_its_memory() -> None:
    shared = [replace(one, gpu_share=0.3) for one in paces((1, 1, 100.0), (2, 1, 150.0), (4, 1, 200.0))]
    assert best(shared, room=9 * GB) == Layout(2, 1)


def test_the_shape_of_a_study_is_the_middle_of_what_it_searches() -> None:
    assert shape_of(built_in("default")) == Shape(backbone="resnet10", stem="standard", image_size=32, batch_size=64)
    space = {"backbone": ["resnet18", "resnet50"], "image_size": {"low": 16, "high": 64, "log": True}}
    declared = from_table({"name": "x", "space": space, "fixed": {"batch_size": 7}}, where="here")
    assert shape_of(declared) == Shape(backbone="resnet50", stem="standard", image_size=32, batch_size=7)


def test_processes_share_the_gpus_in_turn_and_oversubscribe_nothing() -> None:
    own = [environment(3, place, ("0", "GPU-7")) for place in range(3)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in own] == ["0", "GPU-7", "0"]
    assert {one["OMP_NUM_THREADS"] for one in own} == {one["MKL_NUM_THREADS"] for one in own} == {"3"}
    assert environment(1, 0, ()) == os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def test_real_processes_are_measured_together_until_the_next_layout_would_not_fit(home: Path) -> None:
    layouts = [Layout(1, 1), Layout(2, 1)]
    both = measure(layouts, MOMENT, (), room=100 * GB, stop=Stop())
    assert [pace.layout for pace in both] == layouts
    for pace in both:
        assert pace.images_a_second > 0
        assert 50 * 2**20 < pace.memory < 8 * GB
    assert home.exists()
    tight = measure(layouts, MOMENT, (), room=int(1.5 * both[0].memory), stop=Stop())
    assert [pace.layout for pace in tight] == layouts[:1]
    assert measured() == []


def test_a_process_that_cannot_train_ends_the_measurement_without_a_word() -> None:
    assert measure([Layout(1, 1)], replace(MOMENT, batch_size=1), (), room=GB, stop=Stop()) == []


@TWO
def test_a_study_remembers_the_threads_and_the_machine_what_it_measured(
    home: Path, tmp_path: Path, sqlite_url: str
) -> None:
    said: list[str] = []
    file = str(auto(tmp_path))
    with open_study(file, sqlite_url, create=True) as study:
        assert study.declaration.threads is None
        workers = settle(study, workers=None, stop=Stop(), say=said.append)
        assert said == ["Measuring this machine…"]
        threads = study.threads
        assert workers * threads <= processors()
        assert study.optuna.user_attrs[THREADS] == str(threads)
    with open_study(file, sqlite_url) as study:
        assert study.declaration.threads == study.threads == threads
        assert settle(study, workers=None, stop=Stop(), say=said.append) == workers
        assert settle(study, workers=1, stop=Stop(), say=said.append) == 1
        assert said == ["Measuring this machine…"]

    # Whatever it measured, the file decides now.
    (key,) = json.loads((home / FILE).read_text())
    known = [Pace(Layout(1, 2), 2.0, 1, 0.0), Pace(Layout(2, 1), 1.0, 1, 0.0)]
    for order, chosen in ((1, Layout(1, 2)), (-1, Layout(2, 1))):
        told = [
            {"layout": {"workers": one.layout.workers, "threads": one.layout.threads},
             "images_a_second": one.images_a_second ** order, "memory": 1, "gpu_share": 0.0}
            for one in known
        ]  # fmt: skip
        (home / FILE).write_text(json.dumps({key: told}))
        with open_study(file, f"sqlite:///{tmp_path / f'{order}.db'}", create=True) as study:
            assert settle(study, workers=None, stop=Stop(), say=said.append) == chosen.workers
            assert study.threads == chosen.threads
    assert len(said) == 1


def test_workers_asked_for_are_obeyed_with_a_warning_beyond_the_processors(tmp_path: Path, sqlite_url: str) -> None:
    said: list[str] = []
    there = processors()
    with open_study(str(small.declare(tmp_path)), sqlite_url, create=True) as study:
        assert settle(study, workers=there, stop=Stop(), say=said.append) == there
        assert said == []
        assert settle(study, workers=there + 1, stop=Stop(), say=said.append) == there + 1
        assert settle(study, workers=0, stop=Stop(), say=said.append) == 0
    line = f"{there + 1} workers of 1 threads each share {there} processors: fewer would reach as much."
    assert said == [line]


def test_a_worker_that_comes_before_any_run_settles_one_thread_for_all(tmp_path: Path, sqlite_url: str) -> None:
    file = str(auto(tmp_path))
    with open_study(file, sqlite_url, create=True) as early, open_study(file, sqlite_url) as run:
        with pytest.raises(KeyError):
            early.threads  # noqa: B018 - reading it is the test
        assert study_precision(early) in ("fp32", "bf16")
        assert early.threads == 1
        assert settle(run, workers=1, stop=Stop(), say=lambda _: None) == 1
        assert run.threads == 1


def test_a_declaration_that_names_the_threads_settles_open_ones_but_never_changes_them(
    tmp_path: Path, sqlite_url: str
) -> None:
    with open_study(str(auto(tmp_path)), sqlite_url, create=True) as study:
        open_one = study.declaration
    with open_study(replace(open_one, threads=3), sqlite_url, create=True) as study:
        assert study.threads == study.declaration.threads == 3
    with open_study(open_one, sqlite_url, create=True) as study:
        assert study.declaration.threads == 3
    with (
        pytest.raises(mlc_core.MlcError, match=re.escape("threads: 3, now 2")),
        open_study(replace(open_one, threads=2), sqlite_url, create=True),
    ):
        pass


def test_a_trial_of_measured_threads_gives_the_same_bits_in_a_replay(tmp_path: Path, sqlite_url: str) -> None:
    words = ("run", "--study", auto(tmp_path), "--trials", 1, "--workers", 1)
    small.call(*words, folder=tmp_path, storage=sqlite_url)
    with open_study("small", sqlite_url) as study:
        (row,) = trial_rows(study)
        assert row.compute["threads"] == study.threads
    fit: dict[str, Any] = {"seed": row.fit["seed"], "epochs": row.fit["epochs"], **row.compute}
    assert mlc_core.fit(row.fit["params"], **fit) == row.value


@TWO
def test_ctrl_c_while_the_machine_is_measured_leaves_no_process(home: Path, tmp_path: Path, sqlite_url: str) -> None:
    process = subprocess.Popen(
        small.command("run", "--study", auto(tmp_path), "--trials", 1),
        cwd=tmp_path,
        env={**os.environ, "MLC_STORAGE": sqlite_url},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (crew := measured()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)

    assert process.returncode == 130
    assert said == "Measuring this machine…\nStopped before the first trial. The same command starts again.\n"
    assert psutil.wait_procs(crew, timeout=5)[1] == []
    assert not (home / FILE).exists()

"""How many workers of how many threads: by what they reach together on this machine, as far as memory goes.

Not here: a process that is measured (mlc_core/pace.py); who starts workers (pool.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, NamedTuple

from mlc_core import DEFAULTS, Params, Shape, Value, free_memory, gpus, hardware, keep, processors, recall
from search.declaration import Choice, Declaration, Domain
from search.signals import Stop
from search.study import THREADS, Study

MOST_WORKERS: Final = 4  # of those that nobody asked for; more know too little of each other's trials to be worth it
A_GPU: Final = (1, 2, 4)  # workers that share one
# How much faster than one of fewer threads a layout must be. Threads lose by every trial that is smaller than the one
# measured, and by whatever else runs, as they wait for each other; workers share nothing.
TIE: Final = 1.05
SHARE: Final = 0.8  # of the free memory that workers may take; the rest is for data and for what comes and goes
SECONDS: Final = 1.0  # that a layout is measured for
FILE: Final = "layout.json"  # what was measured, in the cache folder

Say = Callable[[str], object]  # shows a line


@dataclass(frozen=True, slots=True)
class Layout:
    """Workers on this machine."""

    workers: int
    threads: int  # of each


@dataclass(frozen=True, slots=True)
class Pace:
    """What a layout reached."""

    layout: Layout
    images_a_second: float  # of all workers together
    memory: int  # bytes that a worker took at most
    gpu_share: float  # of a GPU's memory, that a worker took at most; 0 without one


class _Died(Exception):
    """A measured process is gone."""


def settle(study: Study, *, workers: int | None, stop: Stop, say: Say) -> int:
    """Decide how many workers a run starts; the first time also for how many threads, if the study leaves that open.

    Parameters
    ----------
    workers : int, optional
        As many as asked for; then at most the threads are measured.
    stop : Stop
        Whether to stop measuring.
    say : callable
        Told that this takes a while, and if more is asked for than there are processors.

    Returns
    -------
    int

    Raises
    ------
    Interrupted
        The stop was asked; no process is left.
    """
    if workers == 0:
        return 0
    chosen = _decide(study, workers, stop, say)
    if study.declaration.threads is None:
        study.ledger.remember(THREADS, str(chosen.threads))
        if study.threads != chosen.threads:  # somebody else's measurement came first
            chosen = Layout(workers or unmeasured(study.threads), study.threads)
    there = processors()
    if chosen.workers > 1 and chosen.workers * chosen.threads > there:
        asked = f"{chosen.workers} workers of {chosen.threads} threads each"
        say(f"{asked} share {there} processors: fewer would reach as much.")
    return chosen.workers


def unmeasured(threads: int) -> int:
    """Count the workers of so many threads that the processors have room for."""
    return max(1, min(MOST_WORKERS, processors() // threads))


def shape_of(declaration: Declaration) -> Shape:
    """Tell the shape of a study's trainings; of what it searches the middle, which is wrong by the least."""
    values = {key: _middle(declaration, key) for key in ("backbone", "stem", "image_size", "batch_size")}
    return Shape.of(Params.from_flat(values))


def environment(threads: int, place: int, among: Sequence[str]) -> dict[str, str]:
    """Make the environment of a process of so many threads; the GPUs are dealt out in turn, by the process's place."""
    own = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if among:
        own["CUDA_VISIBLE_DEVICES"] = among[place % len(among)]
    return {**os.environ, **own}


def candidates(there: int, *, workers: int | None, threads: int | None, among: int) -> list[Layout]:
    """List the layouts for so many processors and GPUs that are worth measuring, fewest workers first."""
    if among:  # their threads only feed the GPU
        counts = [workers] if workers else [among * one for one in A_GPU if among * one <= max(there, among)]
        return [Layout(count, threads or 1) for count in counts]
    if threads:
        return [Layout(count, threads) for count in ([workers] if workers else _doubled(unmeasured(threads)))]
    found = [Layout(workers or min(MOST_WORKERS, there // each), each) for each in _doubled(there)]
    # With more than half of the processors idle it would take more than the machine to be the fastest.
    worth = [one for one in found if one.threads == 1 or there // 2 <= one.workers * one.threads <= there]
    return sorted(worth, key=lambda one: (one.workers, -one.threads))


def best(paces: Sequence[Pace], *, room: int) -> Layout:
    """Choose the fastest whose workers fit into so many bytes; fewer threads, then fewer workers, where it is close."""
    fitting = [one for one in paces if _fits(one, room)]
    if not fitting:
        least = min(paces, key=lambda one: one.layout.workers)
        return replace(least.layout, workers=max(1, min(least.layout.workers, room // least.memory)))
    most = max(one.images_a_second for one in fitting)
    close = [one.layout for one in fitting if one.images_a_second * TIE >= most]
    return min(close, key=lambda one: (one.threads, one.workers))


def _decide(study: Study, workers: int | None, stop: Stop, say: Say) -> Layout:
    remembered = int(study.optuna.user_attrs.get(THREADS, 0)) or None  # of a study that left them open
    threads = remembered or study.declaration.threads
    if workers and threads:
        return Layout(workers, threads)
    room = int(SHARE * free_memory())
    asked = _Asked(shape_of(study.declaration), workers, None if remembered else threads)
    paces = [one for one in _paces(asked, room, stop, say) if remembered in (None, one.layout.threads)]
    chosen = best(paces, room=room) if paces else Layout(unmeasured(threads or 1), threads or 1)
    return replace(chosen, workers=workers or chosen.workers)


class _Asked(NamedTuple):
    """What is measured: a training's shape, and of the layout what is given."""

    shape: Shape
    workers: int | None
    threads: int | None


def _paces(asked: _Asked, room: int, stop: Stop, say: Say) -> list[Pace]:
    """Recall what the layouts reach, or measure it; nothing where there is no choice, or none could train."""
    among, (shape, workers, threads) = gpus(), asked
    layouts = candidates(processors(), workers=workers, threads=threads, among=len(among))
    if len(layouts) == 1:
        return []
    key = f"{hardware()} | {processors()} processors, {len(among)} GPUs | {shape} | {workers}, {threads}"
    known: list[Mapping[str, Any]] = recall(FILE, key) or []
    paces = [Pace(**{**one, "layout": Layout(**one["layout"])}) for one in known]
    if not paces:
        say("Measuring this machine…")
        paces = measure(layouts, shape, among, room=room, stop=stop)
        if len(paces) == len(layouts):  # else memory was short, and may not be the next time
            keep(FILE, key, [asdict(one) for one in paces])
    return paces


def measure(layouts: Sequence[Layout], shape: Shape, among: Sequence[str], *, room: int, stop: Stop) -> list[Pace]:
    """Train for a moment in each layout, fewest workers first, until the next would not fit into so many bytes.

    Raises
    ------
    Interrupted
        The stop was asked; no process is left.
    """
    paces: list[Pace] = []
    with stop.anywhere(), _processes(shape, among, threads=max(one.threads for one in layouts)) as start:
        for layout in layouts:
            if paces and not _fits(replace(paces[-1], layout=layout), room):
                break
            try:
                paces.append(_pace(layout, start(layout.workers)))
            except _Died:
                break
    return paces


def _pace(layout: Layout, crew: Sequence[subprocess.Popen[str]]) -> Pace:
    (told,) = _ask(crew[:1], threads=layout.threads, precision=None)
    _ask(crew, threads=layout.threads, precision=told["precision"])
    reached = _ask(crew, seconds=SECONDS)
    return Pace(
        layout,
        sum(one["images_a_second"] for one in reached),
        max(one["memory"] for one in reached),
        max(one.get("gpu_share", 0.0) for one in reached),
    )


@contextmanager
def _processes(
    shape: Shape, among: Sequence[str], *, threads: int
) -> Iterator[Callable[[int], list[subprocess.Popen[str]]]]:
    """Give a function that returns so many processes, started when they are first needed and ended on leaving."""
    command = [sys.executable, "-P", "-m", "mlc_core.pace", *map(str, asdict(shape).values())]
    crew: list[subprocess.Popen[str]] = []

    def start(count: int) -> list[subprocess.Popen[str]]:
        while len(crew) < count:
            crew.append(
                subprocess.Popen(  # noqa: S603 - no shell, and every argument is ours
                    command,
                    stdin=subprocess.PIPE,  # its closing ends the process, also if we are killed
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,  # what is wrong, training will tell
                    text=True,
                    env=environment(threads, len(crew), among),
                    start_new_session=True,  # Ctrl-C reaches us alone
                )
            )
        return crew[:count]

    try:
        yield start
    finally:
        for process in crew:
            process.kill()
        for process in crew:
            process.communicate()


def _ask(crew: Sequence[subprocess.Popen[str]], **asked: object) -> list[dict[str, Any]]:
    """Put a question to all at once, and wait for all answers."""
    answers = []
    try:
        for process in crew:
            assert process.stdin is not None  # noqa: S101 - it is a pipe
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
    except BrokenPipeError:
        raise _Died from None
    for process in crew:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        if not (line := process.stdout.readline()):
            raise _Died
        answers.append(json.loads(line))
    return answers


def _fits(pace: Pace, room: int) -> bool:
    a_gpu = -(-pace.layout.workers // max(1, len(gpus())))
    return pace.layout.workers * pace.memory <= room and a_gpu * pace.gpu_share <= SHARE


def _doubled(most: int) -> list[int]:
    """1, 2, 4 and so on up to the most."""
    return [2**power for power in range(most.bit_length())]


def _middle(declaration: Declaration, key: str) -> Value:
    domain: Domain | None = declaration.space.get(key)
    if domain is None:
        return declaration.fixed.get(key, DEFAULTS[key])
    if isinstance(domain, Choice):
        return domain.values[len(domain.values) // 2]
    middle = (domain.low * domain.high) ** 0.5 if domain.log else (domain.low + domain.high) / 2
    return round(middle)

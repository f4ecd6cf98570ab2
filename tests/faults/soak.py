"""A study under faults from its first trial to its last, and what must hold afterwards.

``python -m tests.faults.soak --seed 1 --trials 10000 --workers 16 --faults 200 --minutes 60`` takes half an hour on
2 cores: real processes, claims, reports, ends and files on a real PostgreSQL behind a proxy, but simulated training,
see simulated.py. ``--real 40 --kills 100 --workers 2`` trains instead: 40 short trials of the embedded scenes while
workers are killed, each compared to the bit with an undisturbed fit. ``--only`` picks faults by name.

The exit code is 1 where an invariant is violated, where a worker gave up, and where nothing moves any more.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import psycopg
from rich.console import Console
from rich.table import Table

from mlc_core import EpochReport, fit
from search.paper import paper_trials
from search.study import PRECISION, Study, enqueue_paper, open_study
from tests import small
from tests.faults import audit
from tests.faults.chaos import FAULTS, Chaos, Scene, plan
from tests.faults.crowd import Crowd, said
from tests.faults.disk import mounted
from tests.faults.hands import GRACE, Place
from tests.faults.invariants import gather, shown, violations
from tests.faults.proxy import Proxy
from tests.faults.server import running
from tests.faults.simulated import losses

STILL: Final = (
    60.0  # seconds without a finished trial or epoch, and without a fault that lasts, after which it is stuck
)
TICK: Final = 0.05
SAMPLE: Final = 2.0  # seconds between two looks at the memory
GROWN: Final = 1.10  # times the memory at trial 100
SPARED: Final = frozenset({0, 1})  # slots whose workers live from the start to the end
DATABASE: Final = "soak"


class Stuck(AssertionError):
    """Nothing moves any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One soak."""

    seed: int
    trials: int
    workers: int
    faults: int
    names: tuple[str, ...] = tuple(FAULTS)
    seconds: float = 600.0  # at most
    epochs: int = 4
    pace: float | None = 0.005  # seconds of a simulated epoch; None: trials are trained
    megabytes: int = 64  # of the file system for artifacts
    spared: frozenset[int] = SPARED
    documented: bool = True  # the documented trials are in the queue
    vectors: int = 10  # that a person put into the queue besides
    grace: float = GRACE  # seconds of silence until a worker is taken to be dead


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of it."""

    wrong: Mapping[str, Sequence[str]]  # violations by invariant
    done: Counter[str]  # faults by name
    gave_up: Mapping[str, str]  # workers, and why
    started: int  # workers
    seconds: float
    memory: Mapping[int, Sequence[tuple[int, float]]]  # by slot: finished trials, megabytes

    @property
    def grown(self) -> dict[int, float]:
        """How many times as much memory each spared worker has at the end as at trial 100."""
        ratios = {}
        for slot, samples in self.memory.items():
            early = [megabytes for finished, megabytes in samples if finished >= 100]
            if early:
                ratios[slot] = early[-1] / early[0]
        return ratios

    @property
    def problem(self) -> str:
        """All that is wrong, as text; empty if nothing is."""
        gave_up = [f"{name} gave up: {why}" for name, why in self.gave_up.items()]
        return "\n".join(filter(None, [shown(self.wrong), *gave_up]))


def soak(asked: Asked) -> Outcome:
    """Run a study under faults until its budget is done.

    Raises
    ------
    Stuck
        It does not come to its end.
    """
    random = Random(asked.seed)
    with ExitStack() as stack:
        server = stack.enter_context(running())
        disk = stack.enter_context(mounted(asked.megabytes))
        proxy = stack.enter_context(Proxy(server.port).listening())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlc-faults-")))
        url = server.create(DATABASE)
        study = stack.enter_context(open_study(str(declare(folder, asked)), url, create=True))
        enqueued = enqueue(study, asked, random)
        budget = study.ledger.open_budget(asked.trials)
        audit.begin(url)
        place = Place(
            url=server.url(DATABASE, port=proxy.port),
            study=study.name,
            budget_id=budget,
            root=disk.root,
            log=folder / "log",
            said=folder / "said",
            pace=asked.pace,
            grace=asked.grace,
        )
        place.log.touch()
        crowd = Crowd(place, asked.workers)
        scene = Scene(crowd, server, proxy, disk, asked.spared)
        chaos = Chaos(scene, plan(random, asked.faults, asked.names), random)
        start = time.monotonic()
        with crowd.working(), closing(Progress(url, asked)) as progress:
            memory = drive(chaos, progress, seconds=asked.seconds)
        evidence = gather(
            study,
            place,
            asked=asked.trials,
            documented=asked.documented,
            enqueued=enqueued,
            undisturbed=undisturbed(study, asked),
            audited=url,
        )
        return Outcome(
            wrong=violations(evidence),
            done=chaos.done,
            gave_up=crowd.gave_up,
            started=crowd.started,
            seconds=time.monotonic() - start,
            memory=memory,
        )


def declare(folder: Path, asked: Asked) -> Path:
    """Write the study's file: one that documented trials fit into, and that prunes where it is simulated."""
    pruner = "none" if asked.pace is None else "promote"
    # Random, because the draws of a model take longer than all else once there are thousands of trials.
    file = small.declare(
        folder, epochs=asked.epochs, sampler="random", pruner=pruner, large_batches=not asked.documented
    )
    file.write_text(file.read_text().replace("keep = 2", "keep = 5"))
    return file


def enqueue(study: Study, asked: Asked, random: Random) -> dict[str, dict[str, Any]]:
    """Put the documented trials and some others into the queue; the others' parameters, by key."""
    study.ledger.remember(PRECISION, "fp32")  # else the first worker measures
    if asked.documented:
        enqueue_paper(study, paper_trials())
    vectors = {
        f"vector {place}": {"lr": random.uniform(1e-4, 1e-3), "dropout": random.uniform(0.0, 0.5), "batch_size": 1000}
        for place in range(asked.vectors)
    }
    for key, params in vectors.items():
        study.ledger.enqueue(key, params=params, user_attrs={"enqueued": key})
    return vectors


def undisturbed(study: Study, asked: Asked) -> Any:
    """Make what computes the reports that an undisturbed fit gives."""

    def train(spec: Mapping[str, Any], epochs: int) -> list[EpochReport]:
        reports: list[EpochReport] = []

        def on_epoch(report: EpochReport) -> bool:
            reports.append(report)
            return report.epoch < epochs

        fit(
            spec["params"],
            seed=spec["seed"],
            epochs=spec["epochs"],
            precision="fp32",
            threads=study.threads,
            on_epoch=on_epoch,
        )
        return reports

    def simulate(spec: Mapping[str, Any], epochs: int) -> list[EpochReport]:
        return losses(spec["params"], spec["seed"], spec["epochs"])[:epochs]

    return train if asked.pace is None else simulate


class Progress:
    """How far the study has come, read past the proxy; as before, while the server is away."""

    def __init__(self, url: str, asked: Asked) -> None:
        self._url, self._asked = url, asked
        self._connection: psycopg.Connection | None = None
        self.finished = self.reported = 0

    def look(self) -> float:
        """Count anew; the share of the study that is done, in [0, 1]."""
        try:
            if self._connection is None:
                self._connection = psycopg.connect(self._url, autocommit=True, connect_timeout=5)
            row = self._connection.execute(
                "SELECT (SELECT count(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED')), "
                "(SELECT count(*) FROM trial_intermediate_values)"
            ).fetchone()
            self.finished, self.reported = row or (0, 0)
        except psycopg.OperationalError:
            self.close()
        if self._asked.pace is None:  # few trials, none pruned: epochs tell more
            return self.reported / (self._asked.trials * self._asked.epochs)
        return self.finished / self._asked.trials

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def drive(chaos: Chaos, progress: Progress, *, seconds: float) -> dict[int, list[tuple[int, float]]]:
    """Let faults come until the workers have ended by themselves; the memory of the spared ones, see `Outcome`."""
    crowd, start = chaos.scene.crowd, time.monotonic()
    memory: dict[int, list[tuple[int, float]]] = defaultdict(list)
    moved, known, sampled = start, -1, start
    while crowd.tend():
        chaos.tick(progress.look())
        now = time.monotonic()
        if progress.reported != known or not chaos.calm:
            moved, known = now, progress.reported
        if now - moved > STILL or now - start > seconds:
            what = f"nothing moved for {now - moved:.0f} s" if now - moved > STILL else f"not done in {seconds:.0f} s"
            raise Stuck(f"{what}, with {progress.finished} finished; {dict(chaos.done)}\n{said(crowd.place)}")
        if now - sampled > SAMPLE:
            sampled = now
            for slot in chaos.scene.spared:
                if (megabytes := crowd.memory(slot)) is not None:
                    memory[slot].append((progress.finished, megabytes))
        time.sleep(TICK)
    chaos.end()
    return memory


def main() -> None:
    """Print a table of the faults and one of the invariants; the exit code is 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=60.0, help="after which it is given up")
    parser.add_argument("--only", nargs="+", choices=sorted(FAULTS), default=list(FAULTS), metavar="FAULT")
    parser.add_argument("--real", type=int, metavar="TRIALS", help="train so many instead, while workers are killed")
    parser.add_argument("--kills", type=int, default=100, help="of workers, with --real")
    told = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server and the file system go with us
    if told.real:
        asked = Asked(
            seed=told.seed,
            trials=told.real,
            workers=told.workers,
            faults=told.kills,
            names=("worker killed",),
            seconds=60 * told.minutes,
            epochs=6,
            pace=None,
            megabytes=512,
            spared=frozenset(),
        )
    else:
        asked = Asked(
            seed=told.seed,
            trials=told.trials,
            workers=told.workers,
            faults=told.faults,
            names=tuple(told.only),
            seconds=60 * told.minutes,
            megabytes=64 + told.trials // 50,
        )
    sys.exit(show(soak(asked), asked))


def show(outcome: Outcome, asked: Asked) -> int:
    """Print what came of it; the exit code."""
    console = Console(width=120)
    faults = Table(title=f"seed {asked.seed}: {asked.trials} trials, {asked.workers} workers, {outcome.seconds:.0f} s")
    faults.add_column("fault")
    faults.add_column("times", justify="right")
    for name in FAULTS:
        faults.add_row(name, str(outcome.done[name]))
    faults.add_row("all", str(outcome.done.total()), style="bold")
    console.print(faults)
    held = Table(title=f"{outcome.started} workers were started; {len(outcome.gave_up)} gave up")
    held.add_column("invariant")
    held.add_column("violations", justify="right")
    for name, texts in outcome.wrong.items():
        held.add_row(name, str(len(texts)))
    console.print(held)
    for slot, ratio in sorted(outcome.grown.items()):
        last = outcome.memory[slot][-1][1]
        console.print(f"Worker {slot}: {last:.0f} MB at the end, {ratio:.3f} times as much as at trial 100.")
    console.print(outcome.problem or "All held.", markup=False)
    return int(bool(outcome.problem) or any(ratio > GROWN for ratio in outcome.grown.values()))


if __name__ == "__main__":
    main()

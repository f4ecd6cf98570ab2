"""Real processes that do the same at the same moment; kept between tests, as importing Optuna is slow."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any

SIZES = (1, 2, 4, 8, 16)
_PATIENCE = 120.0  # seconds until a hung crew fails its test

Together = Callable[[], object]  # returns once all of the crew have called it
Task = Callable[..., Any]  # (rank, together, *arguments) -> something picklable


class Crew:
    """Sixteen spawned processes."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        barriers = self._barriers = {size: context.Barrier(size) for size in SIZES}  # kept: they die with us
        self._members: list[tuple[Any, Connection]] = []
        for rank in range(max(SIZES)):
            ours, theirs = context.Pipe()
            process = context.Process(target=_member, args=(rank, barriers, theirs), daemon=True)
            process.start()
            theirs.close()
            self._members.append((process, ours))

    def run(self, size: int, task: Task, *arguments: object) -> list[Any]:
        """Have that many processes do the task; their results, by rank. An error in one is raised here."""
        members = self._members[:size]
        for _, pipe in members:
            pipe.send((size, task, arguments))
        answers = []
        for process, pipe in members:
            assert pipe.poll(_PATIENCE), f"process {process.pid} hangs in {task.__name__}"
            answers.append(pipe.recv())
        errors = [error for error, _ in answers if error]
        assert not errors, "\n".join(errors)
        return [result for _, result in answers]

    def end(self) -> None:
        for process, pipe in self._members:
            pipe.close()
            process.join(10)
            process.kill()


def _member(rank: int, barriers: dict[int, Barrier], pipe: Connection) -> None:
    while True:
        try:
            size, task, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = ("", task(rank, lambda size=size: barriers[size].wait(_PATIENCE), *arguments))
        except Exception:  # noqa: BLE001 - whatever it is, the test that asked shows it
            answer = (f"rank {rank}: {traceback.format_exc()}", None)
        pipe.send(answer)

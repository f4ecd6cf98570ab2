"""Faults at random moments, and the end of each: workers killed and halted, the server, the network, the disk.

What happens is a function of the seed; when, of how far the study has come and of chance. Not here: what must hold
nevertheless (invariants.py).
"""

from __future__ import annotations

import heapq
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Final

import psycopg

from tests.faults.crowd import Crowd, Member
from tests.faults.disk import Disk
from tests.faults.hands import GRACE
from tests.faults.proxy import Proxy
from tests.faults.server import How, Server

_ORDER: Final = count()


@dataclass(frozen=True, slots=True)
class Scene:
    """What faults can act on."""

    crowd: Crowd
    server: Server | None = None
    proxy: Proxy | None = None
    disk: Disk | None = None
    spared: frozenset[int] = frozenset()  # slots whose workers are halted and cut off, but not killed


@dataclass(slots=True)
class Chaos:
    """A plan of faults, and those that last.

    Parameters
    ----------
    scene : Scene
    plan : list of (float, str)
        The share of the study after which a fault comes, and its name among FAULTS; in order.
    random : Random
    """

    scene: Scene
    plan: list[tuple[float, str]]
    random: Random
    done: Counter[str] = field(default_factory=Counter)
    down: bool = False  # the server
    _ends: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)  # of those that last
    _next: float = 0.0  # not before this moment

    def tick(self, share: float) -> None:
        """Do what is due when so large a share of the study is finished."""
        now = time.monotonic()
        while self._ends and self._ends[0][0] <= now:
            heapq.heappop(self._ends)[2]()
        if self.plan and self.plan[0][0] <= share and self._next <= now:
            _, name = self.plan.pop(0)
            self.done[name] += 1
            FAULTS[name](self)
            self._next = now + self.random.uniform(0.0, 0.3)  # else all moments would be ends of trials

    @property
    def calm(self) -> bool:
        """Whether no fault lasts."""
        return not self._ends

    def end(self) -> None:
        """End all that lasts."""
        while self._ends:
            heapq.heappop(self._ends)[2]()

    def later(self, least: float, most: float, act: Callable[[], None]) -> None:
        """End a fault after so many seconds."""
        heapq.heappush(self._ends, (time.monotonic() + self.random.uniform(least, most), next(_ORDER), act))

    def victim(self, *, deadly: bool = False) -> Member | None:
        """Choose a worker."""
        spared = self.scene.spared if deadly else ()
        alive = [one for one in self.scene.crowd.members if one.slot not in spared and one.process.is_alive()]
        return self.random.choice(alive) if alive else None


def plan(random: Random, faults: int, names: Iterable[str], *, until: float = 0.95) -> list[tuple[float, str]]:
    """Spread so many faults over a study; each of the names comes about as often as others."""
    names = list(names)
    drawn = [names[place % len(names)] for place in range(faults)]
    random.shuffle(drawn)
    return list(zip(sorted(random.uniform(0.0, until) for _ in drawn), drawn, strict=True))


def _kill(chaos: Chaos) -> None:
    if (victim := chaos.victim(deadly=True)) is not None:
        victim.send(signal.SIGKILL)


def _kill_many(chaos: Chaos) -> None:
    for _ in range(chaos.scene.crowd.size // 2):
        _kill(chaos)


def _halt(chaos: Chaos, least: float, most: float) -> None:
    if (victim := chaos.victim()) is not None:
        victim.send(signal.SIGSTOP)
        chaos.later(least, most, lambda: victim.send(signal.SIGCONT))


def _outage(chaos: Chaos, how: How, least: float, most: float) -> None:
    server = chaos.scene.server
    if server is None or chaos.down:
        return

    def start() -> None:
        server.start()
        chaos.down = False

    chaos.down = True
    server.stop(how)
    chaos.later(least, most, start)


def _on_network(act: Callable[[Proxy, Random], None]) -> Callable[[Chaos], None]:
    def fault(chaos: Chaos) -> None:
        if chaos.scene.proxy is not None:
            act(chaos.scene.proxy, chaos.random)

    return fault


def _refuse(proxy: Proxy, random: Random) -> None:
    proxy.refuse(2.0)
    proxy.reset(random, 0.5)


def _silence(chaos: Chaos) -> None:
    if chaos.scene.proxy is not None:
        seconds = chaos.random.uniform(0.5, 1.5 * GRACE)
        chaos.scene.proxy.black_hole(seconds)
        chaos.later(seconds, seconds, lambda: None)


def _crowd_out(chaos: Chaos) -> None:
    """Take every connection that the server has to give, then have the workers ask for new ones."""
    if chaos.scene.server is None or chaos.down:
        return
    taken = _all_connections(chaos.scene.server.url())
    if chaos.scene.proxy is not None:
        chaos.scene.proxy.reset(chaos.random, 0.5)
        taken += _all_connections(chaos.scene.server.url())

    def give_back() -> None:
        for one in taken:
            one.close()

    chaos.later(0.5, 3.0, give_back)


def _all_connections(url: str) -> list[psycopg.Connection]:
    taken = []
    with suppress(psycopg.OperationalError):
        while True:
            taken.append(psycopg.connect(url, connect_timeout=5))
    return taken


def _fill(chaos: Chaos) -> None:
    if chaos.scene.disk is not None:
        chaos.scene.disk.fill()
        chaos.later(0.5, 3.0, chaos.scene.disk.free)


WORKERS: Final[dict[str, Callable[[Chaos], None]]] = {
    "worker killed": _kill,
    "half of the workers killed": _kill_many,
    "worker halted, within the grace": lambda chaos: _halt(chaos, 0.2, GRACE / 2),
    "worker halted, beyond the grace": lambda chaos: _halt(chaos, GRACE + 1, GRACE + 4),
}
SERVER: Final[dict[str, Callable[[Chaos], None]]] = {
    "server restarted": lambda chaos: _outage(chaos, "fast", 0.0, 1.0),
    "server crashed": lambda chaos: _outage(chaos, "immediate", 0.0, 1.0),
    "server away beyond the grace": lambda chaos: _outage(chaos, "fast", GRACE + 0.5, GRACE + 2),
    "too many connections": _crowd_out,
}
NETWORK: Final[dict[str, Callable[[Chaos], None]]] = {
    "connections reset": _on_network(lambda proxy, random: proxy.reset(random, 0.7)),
    "connections closed": _on_network(lambda proxy, random: proxy.close(random, 0.7)),
    "connections refused": _on_network(_refuse),
    "network slow": _on_network(lambda proxy, random: proxy.delay(random.uniform(0.02, 0.2), 2.0)),
    "network silent": _silence,
    "cut in a transaction": _on_network(lambda proxy, _: proxy.cut("in a transaction", 3)),
    "cut before COMMIT arrives": _on_network(lambda proxy, _: proxy.cut("before a commit", 3)),
    "answer to COMMIT lost": _on_network(lambda proxy, _: proxy.cut("after a commit", 3)),
}
DISK: Final[dict[str, Callable[[Chaos], None]]] = {"disk full": _fill}
FAULTS: Final = {**WORKERS, **SERVER, **NETWORK, **DISK}

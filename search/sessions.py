"""Who has shown that they know the dashboard's token, and who guessed wrong how often; in memory, within bounds.

Not here: what a request is and how it is answered (gate.py).
"""

from __future__ import annotations

import ipaddress
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from hashlib import sha256
from typing import Final

SESSION_SECONDS: Final = 12 * 3600  # a log-in holds for a working day
FREE: Final = 5  # wrong tokens that cost a client nothing
LONGEST: Final = 60.0  # seconds; enough to stop guessing, short enough for an owner who mistyped
TOGETHER: Final = 100  # wrong tokens a minute, of all clients
_QUIET: Final = 900.0  # seconds after which a client's wrong tokens are forgotten
_REMEMBERED: Final = 10_000  # clients
_SESSIONS: Final = 100

Clock = Callable[[], float]


class Sessions:
    """The log-ins that hold, each known by a random id, of which only the hash is kept."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._ends: OrderedDict[bytes, float] = OrderedDict()

    def open(self) -> str:
        """Begin one, in place of the oldest where there are very many; returns its id."""
        while len(self._ends) >= _SESSIONS:
            self._ends.popitem(last=False)
        opened = secrets.token_urlsafe()
        self._ends[_hash(opened)] = self._clock() + SESSION_SECONDS
        return opened

    def holds(self, opened: str) -> bool:
        """Whether this is the id of one that has not ended."""
        return self._ends.get(_hash(opened), 0.0) > self._clock()


class Tries:
    """Wrong tokens of late, by client and of all.

    Beyond `FREE` of them a client waits, twice as long after each, up to `LONGEST`. Where all clients together send
    more than `TOGETHER` a minute, those wait who never sent the right one: many addresses guess no faster, and lock
    nobody out who was in before. An open session is not asked.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()  # client -> how many, when last
        self._known: OrderedDict[str, None] = OrderedDict()  # clients that had it right
        self._together: deque[float] = deque(maxlen=TOGETHER)

    def wait(self, address: str) -> float:
        """Seconds until a client may try again; 0: now."""
        now, client = self._clock(), _client(address)
        count, last = self._wrong.get(client, (0, now))
        alone = last + min(2.0 ** (count - FREE), LONGEST) - now if count >= FREE else 0.0
        crowded = len(self._together) == TOGETHER and client not in self._known
        return max(0.0, alone, self._together[0] + 60.0 - now if crowded else 0.0)

    def wrong(self, address: str) -> None:
        """Count a wrong token."""
        now, client = self._clock(), _client(address)
        count, last = self._wrong.pop(client, (0, now))
        self._wrong[client] = (min(count + 1, 64) if now - last < _QUIET else 1, now)
        self._together.append(now)
        if len(self._wrong) > _REMEMBERED:
            self._wrong.popitem(last=False)

    def right(self, address: str) -> None:
        """Forget a client's wrong ones."""
        client = _client(address)
        self._wrong.pop(client, None)
        self._known[client] = None
        self._known.move_to_end(client)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)


def _client(address: str) -> str:
    """Whom the address belongs to: in IPv6 one client has a whole /64."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


def _hash(opened: str) -> bytes:
    # A look-up takes as long as its key's hash and first bytes match: of a hash that tells nothing about the id.
    return sha256(opened.encode(errors="replace")).digest()

"""A TCP proxy before PostgreSQL that loses, delays and cuts what passes; a thread of this process.

It reads the client's side of the protocol as far as it must, to cut a connection in the middle of a transaction or to
lose the answer to a COMMIT. Not here: when it does so (chaos.py).
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Literal

Cut = Literal["in a transaction", "before a commit", "after a commit"]

_CHUNK: Final = 1 << 16
_AT_ONCE: Final = struct.pack("ii", 1, 0)  # SO_LINGER: closing resets the connection


@dataclass(eq=False, slots=True)
class _Link:
    """A client's connection and the one to the server that goes with it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    messages: int | None = None  # of the client since its BEGIN; None outside of transactions
    doomed: bool = False  # at the server's next answer

    def reset(self) -> None:
        for writer in (self.client, self.server):
            end: Any = writer.get_extra_info("socket")
            if end is not None and end.fileno() >= 0:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            writer.transport.abort()

    def close(self) -> None:
        self.client.close()


@dataclass(slots=True)
class Proxy:
    """Passes on whatever comes to `port`, in the weather that is set; its methods may be called from any thread.

    Parameters
    ----------
    upstream : int
        The server's port on this machine.
    """

    upstream: int
    port: int = 0
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _links: set[_Link] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _delay: float = 0.0  # seconds, each way
    _until: float = 0.0  # when the delay ends, by the monotonic clock
    _still: float = 0.0  # until when nothing passes
    _refusing: float = 0.0  # until when whoever comes is turned away
    _cuts: list[Cut] = field(default_factory=list)  # that are to come

    def reset(self, random: Random, share: float = 1.0) -> None:
        """Reset so large a share of the connections."""
        self._soon(lambda: self._each(_Link.reset, random, share))

    def close(self, random: Random, share: float = 1.0) -> None:
        """Close so large a share of the connections in order, as a balancer that ends idle ones does."""
        self._soon(lambda: self._each(_Link.close, random, share))

    def refuse(self, seconds: float) -> None:
        """Turn new connections away."""
        self._refusing = time.monotonic() + seconds

    def delay(self, each: float, seconds: float) -> None:
        """Hold back all that passes for a while, so many seconds long."""
        self._delay, self._until = each, time.monotonic() + seconds

    def black_hole(self, seconds: float) -> None:
        """Let nothing pass, and nobody know; at the end all connections are found to be dead."""
        self._still = time.monotonic() + seconds
        self._soon(lambda: self._loop.call_later(seconds, self._each, _Link.reset))

    def cut(self, how: Cut, times: int = 1) -> None:
        """Cut the next connections that come to such a place."""
        self._soon(lambda: self._cuts.extend([how] * times))

    def _each(self, act: Callable[[_Link], None], random: Random | None = None, share: float = 1.0) -> None:
        for link in self._links.copy():
            if random is None or random.random() < share:
                act(link)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._keep(asyncio.current_task())
        if time.monotonic() < self._refusing:
            writer.transport.abort()
            return
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", self.upstream)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, server)
        self._links.add(link)
        try:
            await asyncio.gather(
                self._pass(reader, server, lambda data: self._asked(link, data)),
                self._pass(answers, writer, lambda _data: self._answered(link)),
            )
        finally:
            self._links.discard(link)
            for end in (writer, server):
                end.close()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, may_pass: Callable[[bytes], bool]
    ) -> None:
        try:
            while data := await reader.read(_CHUNK):
                if time.monotonic() < self._until:
                    await asyncio.sleep(self._delay)
                while (left := self._still - time.monotonic()) > 0:
                    await asyncio.sleep(left)
                if not may_pass(data):
                    return
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # it was cut, or one side died: both learn it now
        writer.close()

    def _asked(self, link: _Link, data: bytes) -> bool:
        """Tell whether what the client said may pass, or cut the connection."""
        if b"BEGIN" in data:
            link.messages = 0
        elif link.messages is not None:
            link.messages += 1
        how: Cut | None = None
        if b"COMMIT" in data:
            link.messages = None
            how = next((cut for cut in self._cuts if cut != "in a transaction"), None)
        elif link.messages == 2 and "in a transaction" in self._cuts:
            how = "in a transaction"
        if how is None:
            return True
        self._cuts.remove(how)
        if how == "after a commit":
            link.doomed = True
            return True
        link.reset()
        return False

    def _answered(self, link: _Link) -> bool:
        if link.doomed:
            link.reset()
        return not link.doomed

    async def _abandon(self) -> None:
        for task in self._tasks.copy():
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _keep(self, task: asyncio.Task[Any] | None) -> None:
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _soon(self, act: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(act)

    def _run(self, started: threading.Event) -> None:
        async def listen() -> asyncio.Server:
            server = await asyncio.start_server(self._meet, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            started.set()
            return server

        server = self._loop.run_until_complete(listen())
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(self._abandon())
        self._loop.close()

    @contextmanager
    def listening(self) -> Iterator[Proxy]:
        """Pass on for as long as the context lasts."""
        started = threading.Event()
        thread = threading.Thread(target=self._run, args=(started,), name="proxy", daemon=True)
        thread.start()
        started.wait()
        try:
            yield self
        finally:
            self._soon(self._loop.stop)
            thread.join()

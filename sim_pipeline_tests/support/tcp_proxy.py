"""A TCP proxy between a client and a real server that injects network faults on demand."""

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Coroutine
from enum import Enum
from types import TracebackType
from typing import Any, Self

from sim_pipeline_tests.support.ports import free_port

_CHUNK = 65536
# The first message of a PostgreSQL client that wants TLS: length and request code.
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)


class Direction(Enum):
    """The direction of bytes through the proxy."""

    TO_SERVER = "to server"
    TO_CLIENT = "to client"


Tap = Callable[[Direction, bytes], None]


class _Link:
    """A client's connection and the matching connection to the server."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.writers = {Direction.TO_CLIENT: client, Direction.TO_SERVER: server}
        self.flowing = {direction: asyncio.Event() for direction in Direction}
        for event in self.flowing.values():
            event.set()

    def reset(self) -> None:
        """Make both peers see "connection reset by peer"."""
        for writer in self.writers.values():
            if writer.transport.is_closing():
                continue
            # With a linger time of zero the kernel sends RST instead of FIN.
            raw: socket.socket = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class TcpProxy:
    """Forwards connections to a server; a context manager with its own thread.

    Any thread may switch faults on and off. Each method returns when its fault is in effect.

    Attributes:
        host: the address that the proxy listens on.
        port: its port; it stays the same after `refuse` and `heal`.
        accepted: number of connections accepted so far.
        tap: if set, called with each chunk before it is forwarded. It runs in the proxy's thread,
            may block it, and must not call the proxy's methods.

    Args:
        upstream: host and port of the server.
        tls: if given, the proxy speaks TLS with its clients and plain TCP with the server.
        tls_on_request: the same for clients that request TLS first, as PostgreSQL's do. The proxy
            disconnects clients that do not.
    """

    def __init__(
        self,
        upstream: tuple[str, int],
        *,
        tls: ssl.SSLContext | None = None,
        tls_on_request: ssl.SSLContext | None = None,
    ) -> None:
        self.host = "127.0.0.1"
        self.port = 0
        self.accepted = 0
        self.tap: Tap | None = None
        self._upstream = upstream
        self._tls = tls
        self._tls_on_request = tls_on_request
        self._delay = 0.0
        self._cut_after: dict[Direction, int] = {}
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        self.port = free_port(self.host)
        self.heal()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._run(self._end())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    @property
    def open_connections(self) -> int:
        """Number of open connections."""
        return len(self._links)

    def heal(self) -> None:
        """Undo `refuse`, `half_open`, `delay` and `reset_after`."""
        self._run(self._heal())

    def refuse(self) -> None:
        """Refuse new connections ("connection refused"). Open connections continue."""
        self._run(self._refuse())

    def reset(self) -> None:
        """Reset all open connections. New connections are accepted."""
        self._run(self._reset())

    def reset_after(self, count: int, direction: Direction) -> None:
        """Reset all connections, once, after `count` more bytes in this direction."""
        self._run(self._set_cut(count, direction))

    def half_open(self, *directions: Direction) -> None:
        """Stop forwarding on the open connections, but do not close them.

        This is what peers see when a router loses its connection table. New connections work.
        After `heal` the old ones continue without loss.

        Args:
            directions: the directions to stop; both by default.
        """
        self._run(self._hold(directions or tuple(Direction)))

    def delay(self, seconds: float) -> None:
        """Wait this long before forwarding each chunk."""
        self._delay = seconds

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _heal(self) -> None:
        self._delay = 0.0
        self._cut_after.clear()
        for link in self._links:
            for event in link.flowing.values():
                event.set()
        if self._server is None:
            self._server = await asyncio.start_server(
                self._serve, self.host, self.port, ssl=self._tls
            )

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _reset(self) -> None:
        for link in self._links:
            link.reset()
            for event in link.flowing.values():
                event.set()

    async def _set_cut(self, count: int, direction: Direction) -> None:
        self._cut_after[direction] = count

    async def _hold(self, directions: tuple[Direction, ...]) -> None:
        for link in self._links:
            for direction in directions:
                link.flowing[direction].clear()

    async def _end(self) -> None:
        await self._refuse()
        # In a loop, because a connection may just be being accepted.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await self._reset()
            await asyncio.wait(others, timeout=0.05)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            if self._tls_on_request is not None:
                if await reader.readexactly(len(_SSL_REQUEST)) != _SSL_REQUEST:
                    writer.transport.abort()
                    return
                writer.write(b"S")
                await writer.start_tls(self._tls_on_request)
            server_reader, server_writer = await asyncio.open_connection(*self._upstream)
        except (OSError, asyncio.IncompleteReadError):
            writer.transport.abort()
            return
        link = _Link(writer, server_writer)
        self._links.add(link)
        pumps = [
            asyncio.ensure_future(self._pump(link, reader, Direction.TO_SERVER)),
            asyncio.ensure_future(self._pump(link, server_reader, Direction.TO_CLIENT)),
        ]
        try:
            # When one peer closes, close both sides: the proxied protocols do not use half-closed
            # connections.
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for peer in link.writers.values():
                peer.close()
            self._links.discard(link)

    async def _pump(self, link: _Link, reader: asyncio.StreamReader, way: Direction) -> None:
        while data := await reader.read(_CHUNK):
            await link.flowing[way].wait()
            if self._delay:
                await asyncio.sleep(self._delay)
            if self.tap is not None:
                self.tap(way, data)
            remaining = self._cut_after.get(way)
            if remaining is not None:
                data = data[:remaining]
                self._cut_after[way] = remaining - len(data)
            link.writers[way].write(data)
            await link.writers[way].drain()
            if self._cut_after.get(way) == 0:
                del self._cut_after[way]
                await self._reset()

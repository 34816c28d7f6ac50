"""Listen, answer, stop.

    with listener("127.0.0.1", 8000) as door:
        serve(service, door, stop)

Stopping closes the door, answers what was accepted, and ends.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgeseg.errors import ResourceError, UsageError, show
from edgeseg.serve.app import build_app
from edgeseg.serve.service import Service

HEAD_S = 20.0  # for a request's head to arrive; bodies have Limits.timeout_s
IDLE_S = 60.0  # until a connection without requests is closed
MAX_CONNECTIONS = 512  # half of the file descriptors that a process usually may open


def listener(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address; it takes connections when it is served.

    Raises:
        UsageError: there is no such host.
        ResourceError: the port is taken, or this user may not have it.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"no host {show(host)}; give an address of this machine") from error
    family, kind, protocol, _, address = found[0]
    door = socket.socket(family, kind, protocol)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # or a restart waits for minutes
    try:
        door.bind(address)
    except OSError as error:
        door.close()
        raise ResourceError(_why_not_bound(host, port, error)) from error
    return door


def _why_not_bound(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use; choose another with --port, 0 takes a free one"
    return f"cannot listen on port {port} of {host}: {error.strerror}; see --port and --host"


def url_of(door: socket.socket) -> str:
    """Return the URL that a bound socket answers at."""
    host, port = door.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(service: Service, door: socket.socket, stop: threading.Event) -> None:
    """Answer requests until ``stop`` is set and those accepted are answered; closes the socket."""
    config = uvicorn.Config(
        build_app(service),
        http=_Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=int(IDLE_S),
        timeout_graceful_shutdown=int(service.limits.timeout_s) + 1,
    )
    asyncio.run(_Server(config, stop).serve(sockets=[door]))


class _Server(uvicorn.Server):
    """Ends by an event instead of by signals, which are the command's to interpret."""

    def __init__(self, config: uvicorn.Config, stop: threading.Event) -> None:
        super().__init__(config)
        self._stop = stop

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._stop.is_set()


class _Connection(H11Protocol):
    """A connection whose requests' heads must arrive in time; uvicorn would wait for ever."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as H11Protocol
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Start the clock if there is no request yet; a few more bytes do not start it anew."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._unwatch()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_S, self.transport.abort)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

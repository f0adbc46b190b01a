"""The HTTP door: our JSON API, rspamd's, Stalwart's hooks, and what monitoring asks for.

Starlette routes, uvicorn speaks HTTP inside the daemon's own event loop, without signal handlers
or log configuration of its own. Closed unless it is told where to listen. Plain HTTP: for other
machines put a server with TLS before it.
"""

import asyncio
import contextlib
import functools
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from spamguard.filter import Clock, Filter
from spamguard.frontends.http import api, rspamd, stalwart
from spamguard.frontends.http import status as monitoring
from spamguard.frontends.http.requests import READ_SECONDS, Site
from spamguard.frontends.http.status import Status
from spamguard.frontends.listener import BACKLOG
from spamguard.observe import Metrics
from spamguard.report import CorrectionSink

MAX_CONNECTIONS = 100  # each may keep a whole message in memory; more get 503
MAX_OPEN = 2 * MAX_CONNECTIONS  # even for a 503: descriptors are the whole daemon's
KEEP_ALIVE_SECONDS = 60
MAX_HEAD_BYTES = 64 * 1024  # request line and header: rspamd's clients send recipients there


class HttpServer:
    """Listens, and answers requests.

    Args:
        mail_filter: the core.
        sink: where reports end.
        status: what `spamguard status` shows.
        tokens: any of them opens the door; none: no report is taken.
        metrics: counters.
        clock: wall clock.
        max_message_bytes: larger messages are refused.
        read_seconds: for the head of a request to come in, and for its body.
    """

    def __init__(
        self,
        mail_filter: Filter,
        sink: CorrectionSink,
        *,
        status: Status,
        tokens: tuple[bytes, ...],
        metrics: Metrics,
        clock: Clock,
        max_message_bytes: int,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self._site = Site(
            filter=mail_filter,
            sink=sink,
            tokens=tokens,
            metrics=metrics,
            clock=clock,
            max_message_bytes=max_message_bytes,
            read_seconds=read_seconds,
        )
        self._status = status
        self._servers: list[tuple[_Server, asyncio.Task[None]]] = []
        self._unix_paths: list[Path] = []
        self._is_draining = False

    async def start_tcp(self, host: str, port: int) -> tuple[str, int]:
        """Listen on TCP; port 0 takes a free one. Returns the address bound.

        Raises:
            OSError: the address is taken or not ours.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        listening = socket.create_server(address[:2], family=family, backlog=BACKLOG)
        bound: tuple[str, int] = listening.getsockname()[:2]
        await self.start_socket(listening)
        return bound

    async def start_unix(self, path: Path, mode: int) -> None:
        """Listen on a Unix socket with the given file mode, replacing a stale socket.

        Raises:
            OSError: the directory is missing or not ours, or there is another kind of file.
        """
        if path.is_socket():
            path.unlink()
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(str(path))
            path.chmod(mode)
        except OSError:
            listening.close()
            raise
        self._unix_paths.append(path)
        await self.start_socket(listening)

    async def start_socket(self, listening: socket.socket) -> None:
        """Listen on a socket that is already open (socket activation), TCP or Unix."""
        is_unix = listening.family == socket.AF_UNIX
        config = uvicorn.Config(
            self._application(is_unix=is_unix),
            http=functools.partial(_Connection, self._site.read_seconds),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        )
        server = _Server(config)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        self._servers.append((server, task))
        while not server.started and not task.done():
            await asyncio.sleep(0)
        if task.done():
            task.result()

    def _application(self, *, is_unix: bool) -> ASGIApp:
        site = replace(self._site, is_unix=is_unix)
        routes = [
            *api.routes(site),
            *rspamd.routes(site, self._status),
            *stalwart.routes(site),
            *monitoring.routes(site, self._status, lambda: self._is_draining),
        ]
        application = Starlette(
            routes=routes,
            middleware=[Middleware(_of_one_length)],
            exception_handlers={HTTPException: _as_json},
        )
        return _counted(application, site.metrics)

    async def drain(self, deadline_seconds: float) -> None:
        """Stop accepting, answer what is in flight, then cut the rest."""
        self._is_draining = True
        for server, _ in self._servers:
            # At least 1: uvicorn takes 0 for "wait for ever".
            server.config.timeout_graceful_shutdown = max(1, round(deadline_seconds))
            server.should_exit = True
        for path in self._unix_paths:
            path.unlink(missing_ok=True)
        await asyncio.gather(*(task for _, task in self._servers))
        for server, _ in self._servers:
            for connection in list(server.server_state.connections):
                connection.transport.abort()


class _Connection(H11Protocol):
    """A connection on which each request must begin, and its head be whole, in time.

    Uvicorn waits for ever for the first one, and for the rest of a body that it has already
    answered with a refusal: whoever brings a byte now and then could keep every place.
    """

    def __init__(self, head_seconds: float, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_seconds = head_seconds
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_OPEN:
            transport.abort()
            return
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._expect_request()
        super().on_response_complete()

    def _expect_request(self) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(self._head_seconds, self._look)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()


class _Server(uvicorn.Server):
    """A uvicorn that leaves signals to the daemon."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _as_json(request: Request, error: Exception) -> Response:
    """Answer a refusal as every client of JSON expects it."""
    del request
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _of_one_length(application: ASGIApp) -> ASGIApp:
    """Refuse requests that state their length twice: a proxy may have read the other one.

    RFC 9112 section 6.1 allows it; h11 does what section 6.3 says and reads the chunks.
    """

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        asked = application
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}:
            error = {"error": "Content-Length beside Transfer-Encoding"}
            asked = JSONResponse(error, 400, {"Connection": "close"})
        await asked(scope, receive, send)

    return checked


def _counted(application: ASGIApp, metrics: Metrics) -> ASGIApp:
    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        async def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                metrics.count("http_responses", str(message["status"]))
            await send(message)

        await application(scope, receive, note)

    return counted

"""Serves the dashboard: a socket, uvicorn on it, and for ``jetflow dev`` a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from jetflow.errors import BrokerError, InvalidInputError

log: logging.Logger = logging.getLogger("jetflow.web")

DEFAULT_PORT = 8233
BACKLOG = 128
GRACE = 1
"""Seconds that open requests have to finish when the server stops."""


def check_installed() -> None:
    """Raise InvalidInputError if the dashboard's libraries are missing. The message says what to install."""
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise InvalidInputError(f"the dashboard needs {' and '.join(missing)}: pip install {' '.join(missing)}")


def bind(host: str, port: int | None) -> socket.socket:
    """Return a listening socket. Without a port, use ``DEFAULT_PORT`` if it is free, or else any free port.

    Raises:
        BrokerError: the address or the port cannot be used.
    """
    wanted = (port,) if port is not None else (DEFAULT_PORT, 0)
    problem: OSError | None = None
    for each in wanted:
        try:
            family = socket.getaddrinfo(host, each, type=socket.SOCK_STREAM)[0][0]
            return socket.create_server((host, each), family=family, backlog=BACKLOG)
        except OSError as error:
            problem = error
    reason = getattr(problem, "strerror", None) or problem
    raise BrokerError(f"the dashboard cannot listen on {host} port {wanted[0]}: {reason}") from problem


def address_of(listening: socket.socket, host: str) -> str:
    """Return the address to open in a browser on this machine."""
    port = listening.getsockname()[1]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def _server(app: Any) -> Any:
    import uvicorn

    class Server(uvicorn.Server):
        """A server that leaves signals to its caller."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=GRACE, lifespan="on", ws="none")
    return Server(config)


@asynccontextmanager
async def served(app: Any, listening: socket.socket) -> AsyncIterator[asyncio.Task[None]]:
    """Serve an application of ``create_app`` on a socket while the block runs, then close the socket. Yield the server's task."""
    server = _server(app)
    feed = app.state.dashboard.feed
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        while not server.started and not task.done():  # uvicorn has no event for its start
            await asyncio.sleep(0.01)
        yield task
    finally:
        feed.close()  # end the streams of events, for which uvicorn would wait
        server.should_exit = True
        await asyncio.wait([task])
        listening.close()


class DashboardThread:
    """The dashboard in a thread beside a worker. It answers while the worker's event loop is busy or blocked.

    Args:
        connect: a context manager that connects a client; entered in the thread.
        listening: the socket to serve on.
    """

    def __init__(self, connect: AbstractAsyncContextManager[Any], listening: socket.socket) -> None:
        self._connect = connect
        self._listening = listening
        self._thread = threading.Thread(target=self._run, name="jetflow-dashboard", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ended = False

    def start(self) -> None:
        """Begin to serve. Earlier connections wait."""
        self._thread.start()

    async def stop(self) -> None:
        """Stop the dashboard."""
        self._ended = True
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):  # the thread's loop is closed already
                self._loop.call_soon_threadsafe(self._stop.set)
        await asyncio.to_thread(self._thread.join, GRACE + 5)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            if not self._ended:
                log.warning("the dashboard has ended: %s", error)

    async def _serve(self) -> None:
        from jetflow.web.app import create_app

        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        if self._ended:
            return
        async with self._connect as client, served(create_app(client), self._listening):
            await self._stop.wait()

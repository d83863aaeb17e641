"""A TCP proxy between a worker and its server, which can keep back what goes one way or both."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Proxy:
    """Passes everything on, unless it is told to keep it; then in order, once it is released.

    Args:
        port: the server's.
        ahead: bytes of a client that are read before they can be passed on; all when not given. With a limit the client's socket fills up.

    Attributes:
        kept: what clients have sent and the server has not got.
    """

    def __init__(self, port: int, ahead: int | None = None) -> None:
        self.kept = bytearray()
        self._port = port
        self._ahead = ahead
        self._up, self._down = asyncio.Event(), asyncio.Event()
        self._up.set()
        self._down.set()
        self._links: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def keep(self, *, answers: bool = True) -> None:
        """From now on the server gets nothing; with ``answers`` nothing comes back either."""
        self._up.clear()
        if answers:
            self._down.clear()

    def release(self) -> None:
        """What was kept arrives, and whatever comes."""
        self._up.set()
        self._down.set()

    def cut(self) -> None:
        """Every connection breaks."""
        for link in self._links:
            link.cancel()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._link, "127.0.0.1", 0)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
            with contextlib.suppress(OSError):
                async with asyncio.TaskGroup() as group:
                    group.create_task(_pump(reader, up_writer, self._up, self.kept, self._ahead))
                    group.create_task(_pump(up_reader, writer, self._down, None, None))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._links.discard(task)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, free: asyncio.Event, kept: bytearray | None, ahead: int | None) -> None:
    waiting: asyncio.Queue[bytes] = asyncio.Queue(0 if ahead is None else max(1, ahead // 65536))

    async def read() -> None:
        while data := await reader.read(65536):
            if kept is not None and ahead is None and not free.is_set():
                kept.extend(data)
            await waiting.put(data)
        await waiting.put(b"")

    async def write() -> None:
        try:
            while data := await waiting.get():
                await free.wait()
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()

    async with asyncio.TaskGroup() as group:
        group.create_task(read())
        group.create_task(write())


@asynccontextmanager
async def proxy(port: int, ahead: int | None = None) -> AsyncIterator[Proxy]:
    started = Proxy(port, ahead)
    await started.start()
    try:
        yield started
    finally:
        await started.stop()

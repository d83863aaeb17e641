"""Waiting for workflows to change, with one subscription for each workflow, shared by all who wait for it.

A notice may be lost. So a wait also reads the record at its start, after a reconnect, and at growing intervals.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from typing import Any, Self

from jetflow.broker.transport.connection import Broker
from jetflow.errors import BrokerError
from jetflow.protocol.record import StateRecord, decode_state

TICK = 0.1
ASK_AGAIN = (0.25, 1.0, 5.0, 30.0)
"""Seconds until the record is read again without a notice. The last interval repeats."""


class _Watch:
    """The waits for one workflow.

    Attributes:
        listeners: the waits, notified in the order in which they began.
    """

    __slots__ = ("listeners", "notices", "sid")

    def __init__(self) -> None:
        self.sid: int = 0
        self.notices: int = 0
        self.listeners: dict[_Listening, None] = {}


class Watches:
    """All waits of a client."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._watches: dict[str, _Watch] = {}
        self._due: dict[_Listening, float] = {}
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._ticker: asyncio.TimerHandle | None = None
        broker.wire.on_reconnect.append(self._ask_everybody)

    def until_closed(self, queue_token: str, id_token: str) -> Until:
        """Begin to listen for a workflow's end. See ``Until``."""
        return Until(self, *self._listen(queue_token, id_token))

    def notices(self, queue_token: str, id_token: str) -> Notices:
        """Begin to listen for a workflow's changes. See ``Notices``."""
        return Notices(self, *self._listen(queue_token, id_token))

    def _listen(self, queue_token: str, id_token: str) -> tuple[str, _Watch]:
        subject = self._broker.names.changed(queue_token, id_token)
        watch = self._watches.get(subject)
        if watch is None:
            watch = self._watches[subject] = _Watch()
            watch.sid = self._broker.wire.listen(subject, lambda _s, _r, data, _h: self._on_change(subject, data))
        return subject, watch

    def leave(self, subject: str, watch: _Watch) -> None:
        """End the subscription if nothing waits for the workflow any more."""
        if not watch.listeners and self._watches.get(subject) is watch:
            del self._watches[subject]
            with contextlib.suppress(BrokerError):  # not connected: the server has dropped the subscription already
                self._broker.wire.unlisten(watch.sid)

    def ask_at(self, listener: _Listening, seconds: float) -> None:
        """Wake a listener after so many seconds, or a little later, so that it reads again. One timer serves all listeners."""
        self._due[listener] = self.loop.time() + seconds
        if self._ticker is None:
            self._ticker = self.loop.call_later(TICK, self._tick)

    def forget(self, listener: _Listening) -> None:
        """Cancel the wake-up of a listener."""
        self._due.pop(listener, None)

    def _tick(self) -> None:
        now = self.loop.time()
        for listener in [listener for listener, due in self._due.items() if due <= now]:
            del self._due[listener]
            listener.tell(None)
        self._ticker = self.loop.call_later(TICK, self._tick) if self._due else None

    def close(self) -> None:
        """Stop notifying all listeners."""
        if self._ticker is not None:
            self._ticker.cancel()
        if self._ask_everybody in self._broker.wire.on_reconnect:
            self._broker.wire.on_reconnect.remove(self._ask_everybody)
        self._watches.clear()

    def _on_change(self, subject: str, data: bytes) -> None:
        watch = self._watches.get(subject)
        if watch is None:
            return
        watch.notices += 1
        for listener in watch.listeners:
            listener.on_change(data)

    def _ask_everybody(self) -> None:
        for watch in self._watches.values():
            watch.notices += 1
            for listener in watch.listeners:
                listener.tell(None)


class _Listening(ABC):
    """One wait. Use it as an async context manager. It gets every notice since its creation."""

    def __init__(self, watches: Watches, subject: str, watch: _Watch) -> None:
        self._watches = watches
        self._subject = subject
        self._watch = watch
        self._asked = 0
        self._news: asyncio.Future[Any] | None = None
        watch.listeners[self] = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watch.listeners.pop(self, None)
        self._watches.leave(self._subject, self._watch)

    @abstractmethod
    def on_change(self, data: bytes) -> None:
        """Handle a notice that the workflow's record was written."""

    def tell(self, what: Any) -> None:
        """End the present wait, or the next one."""
        news = self._awaited()
        if not news.done():
            news.set_result(what)

    def _awaited(self) -> asyncio.Future[Any]:
        if self._news is None:
            self._news = self._watches.loop.create_future()
        return self._news

    async def _told(self) -> Any:
        interval = ASK_AGAIN[min(self._asked, len(ASK_AGAIN) - 1)]
        self._asked += 1
        news = self._awaited()
        self._watches.ask_at(self, interval)
        try:
            return await news
        finally:
            self._news = None
            self._watches.forget(self)


class Until(_Listening):
    """Waits for a workflow's end."""

    def on_change(self, data: bytes) -> None:
        record = decode_state(data)
        if record is None or record.closed:
            self.tell(record)

    async def next(self) -> StateRecord | None:
        """Wait, and return the closed record from its notice; None when it is time to read the record."""
        return await self._told()  # type: ignore[no-any-return]


class Notices(_Listening):
    """Waits for changes of a workflow."""

    @property
    def count(self) -> int:
        """Number of notices so far. What was read at an earlier number may be out of date."""
        return self._watch.notices

    def on_change(self, data: bytes) -> None:
        self.tell(True)

    async def next(self) -> None:
        """Return when something has changed, or when it is time to read again."""
        if await self._told():
            self._asked = 0

"""Waiting for workflows to change: one subscription for each that is waited for, shared by those who wait.

A notice may be lost; so the record is also read at the start, after a reconnect, and at growing intervals.
"""

from __future__ import annotations

import asyncio
import contextlib

from jetflow.broker.connection import Broker
from jetflow.broker.state import StateRecord, StateStore, decode_state
from jetflow.errors import BrokerError

TICK = 0.1
ASK_AGAIN = (0.25, 1.0, 5.0, 30.0)
"""Seconds until the record is read again though no notice came; the last one repeats."""


class _Watch:
    """One workflow that somebody waits for."""

    __slots__ = ("sid", "waiting")

    def __init__(self) -> None:
        self.sid = 0
        self.waiting: set[asyncio.Future[StateRecord | None]] = set()


class Watches:
    """Everything that a client waits for."""

    def __init__(self, broker: Broker, states: StateStore) -> None:
        self._broker = broker
        self._states = states
        self._watches: dict[str, _Watch] = {}
        self._due: dict[asyncio.Future[StateRecord | None], float] = {}
        self._ticker: asyncio.TimerHandle | None = None
        broker.wire.on_reconnect.append(self._ask_everybody)

    async def until_closed(self, queue_token: str, id_token: str) -> Until:
        """Begins to listen; see ``Until``."""
        subject = f"{self._broker.names.changed_prefix}{queue_token}.{id_token}"
        watch = self._watches.get(subject)
        if watch is None:
            watch = self._watches[subject] = _Watch()
            watch.sid = await self._broker.wire.listen(subject, lambda _s, _r, data, _h: self._on_change(subject, data))
        return Until(self, subject, watch)

    def leave(self, subject: str, watch: _Watch) -> None:
        """Somebody waits no more."""
        if not watch.waiting and self._watches.get(subject) is watch:
            del self._watches[subject]
            with contextlib.suppress(BrokerError):  # not connected: the server has forgotten it already
                self._broker.wire.unlisten(watch.sid)

    def ask_at(self, future: asyncio.Future[StateRecord | None], seconds: float) -> None:
        """Tells a wait after so many seconds, or a little later, that it is time to ask. One timer serves them all."""
        loop = asyncio.get_running_loop()
        self._due[future] = loop.time() + seconds
        if self._ticker is None:
            self._ticker = loop.call_later(TICK, self._tick)

    def forget(self, future: asyncio.Future[StateRecord | None]) -> None:
        """It need not be told any more."""
        self._due.pop(future, None)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for future in [future for future, due in self._due.items() if due <= now]:
            del self._due[future]
            if not future.done():
                future.set_result(None)
        self._ticker = loop.call_later(TICK, self._tick) if self._due else None

    def close(self) -> None:
        """Nobody is told anything more."""
        if self._ticker is not None:
            self._ticker.cancel()
        if self._ask_everybody in self._broker.wire.on_reconnect:
            self._broker.wire.on_reconnect.remove(self._ask_everybody)
        self._watches.clear()

    def _on_change(self, subject: str, data: bytes) -> None:
        watch = self._watches.get(subject)
        record = decode_state(data) if watch is not None else None
        if watch is not None and (record is None or record.closed):
            _tell(watch, record)

    def _ask_everybody(self) -> None:
        for watch in self._watches.values():
            _tell(watch, None)


def _tell(watch: _Watch, record: StateRecord | None) -> None:
    for future in watch.waiting:
        if not future.done():
            future.set_result(record)


class Until:
    """One wait. Use it as an async context manager."""

    def __init__(self, watches: Watches, subject: str, watch: _Watch) -> None:
        self._watches = watches
        self._subject = subject
        self._watch = watch
        self._asked = 0
        self._future = self._listen()

    async def __aenter__(self) -> Until:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watch.waiting.discard(self._future)
        self._future.cancel()
        self._watches.leave(self._subject, self._watch)

    async def next(self) -> StateRecord | None:
        """A closed record when its notice came; None when it is time to read it again."""
        interval = ASK_AGAIN[min(self._asked, len(ASK_AGAIN) - 1)]
        self._asked += 1
        self._watches.ask_at(self._future, interval)
        try:
            return await self._future
        finally:
            self._watches.forget(self._future)
            self._watch.waiting.discard(self._future)
            self._future = self._listen()

    def _listen(self) -> asyncio.Future[StateRecord | None]:
        future: asyncio.Future[StateRecord | None] = asyncio.get_running_loop().create_future()
        self._watch.waiting.add(future)
        return future

"""Waiting for workflows to change: one subscription for each that is waited for, shared by those who wait.

A notice may be lost; so whoever waits also looks at the start, after a reconnect, and at growing intervals.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Self

from jetflow.broker.connection import Broker
from jetflow.broker.state import StateRecord, StateStore, decode_state
from jetflow.errors import BrokerError

TICK = 0.1
ASK_AGAIN = (0.25, 1.0, 5.0, 30.0)
"""Seconds until the record is read again though no notice came; the last one repeats."""


class _Watch:
    """One workflow that somebody waits for: ``waiting`` for its end, ``following`` every change of it."""

    __slots__ = ("following", "notices", "sid", "waiting")

    def __init__(self) -> None:
        self.sid = 0
        self.notices = 0
        self.waiting: set[asyncio.Future[Any]] = set()
        self.following: set[asyncio.Future[Any]] = set()


class Watches:
    """Everything that a client waits for."""

    def __init__(self, broker: Broker, states: StateStore) -> None:
        self._broker = broker
        self._states = states
        self._watches: dict[str, _Watch] = {}
        self._due: dict[asyncio.Future[Any], float] = {}
        self.loop = asyncio.get_running_loop()
        self._ticker: asyncio.TimerHandle | None = None
        broker.wire.on_reconnect.append(self._ask_everybody)

    async def until_closed(self, queue_token: str, id_token: str) -> Until:
        """Begins to listen; see ``Until``."""
        return Until(self, *await self._listen(queue_token, id_token))

    async def changes(self, queue_token: str, id_token: str) -> Changes:
        """Begins to listen; see ``Changes``."""
        return Changes(self, *await self._listen(queue_token, id_token))

    async def _listen(self, queue_token: str, id_token: str) -> tuple[str, _Watch]:
        subject = f"{self._broker.names.changed_prefix}{queue_token}.{id_token}"
        watch = self._watches.get(subject)
        if watch is None:
            watch = self._watches[subject] = _Watch()
            watch.sid = await self._broker.wire.listen(subject, lambda _s, _r, data, _h: self._on_change(subject, data))
        return subject, watch

    def leave(self, subject: str, watch: _Watch) -> None:
        """Somebody waits no more."""
        if not watch.waiting and not watch.following and self._watches.get(subject) is watch:
            del self._watches[subject]
            with contextlib.suppress(BrokerError):  # not connected: the server has forgotten it already
                self._broker.wire.unlisten(watch.sid)

    def ask_at(self, future: asyncio.Future[Any], seconds: float) -> None:
        """Tells a wait after so many seconds, or a little later, that it is time to ask. One timer serves them all."""
        self._due[future] = self.loop.time() + seconds
        if self._ticker is None:
            self._ticker = self.loop.call_later(TICK, self._tick)

    def forget(self, future: asyncio.Future[Any]) -> None:
        """It need not be told any more."""
        self._due.pop(future, None)

    def _tick(self) -> None:
        now = self.loop.time()
        for future in [future for future, due in self._due.items() if due <= now]:
            del self._due[future]
            if not future.done():
                future.set_result(None)
        self._ticker = self.loop.call_later(TICK, self._tick) if self._due else None

    def close(self) -> None:
        """Nobody is told anything more."""
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
        _tell(watch.following, True)
        record = decode_state(data) if watch.waiting else None
        if record is None or record.closed:
            _tell(watch.waiting, record)

    def _ask_everybody(self) -> None:
        for watch in self._watches.values():
            watch.notices += 1
            _tell(watch.waiting, None)
            _tell(watch.following, None)


def _tell(futures: set[asyncio.Future[Any]], what: Any) -> None:
    for future in futures:
        if not future.done():
            future.set_result(what)


class _Listening:
    """One wait. Use it as an async context manager: what it is told from then on is not lost."""

    def __init__(self, watches: Watches, subject: str, watch: _Watch, group: set[asyncio.Future[Any]]) -> None:
        self._watches = watches
        self._subject = subject
        self._watch = watch
        self._group = group
        self._asked = 0
        self._future = self._listen()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._group.discard(self._future)
        self._future.cancel()
        self._watches.leave(self._subject, self._watch)

    async def _told(self) -> Any:
        interval = ASK_AGAIN[min(self._asked, len(ASK_AGAIN) - 1)]
        self._asked += 1
        self._watches.ask_at(self._future, interval)
        try:
            return await self._future
        finally:
            self._watches.forget(self._future)
            self._group.discard(self._future)
            self._future = self._listen()

    def _listen(self) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._watches.loop.create_future()
        self._group.add(future)
        return future


class Until(_Listening):
    """Waits for a workflow's end."""

    def __init__(self, watches: Watches, subject: str, watch: _Watch) -> None:
        super().__init__(watches, subject, watch, watch.waiting)

    async def next(self) -> StateRecord | None:
        """A closed record when its notice came; None when it is time to read it again."""
        return await self._told()  # type: ignore[no-any-return]


class Changes(_Listening):
    """Waits for whatever happens to a workflow."""

    def __init__(self, watches: Watches, subject: str, watch: _Watch) -> None:
        super().__init__(watches, subject, watch, watch.following)

    @property
    def notices(self) -> int:
        """How many there were: what was read at an earlier number may be out of date."""
        return self._watch.notices

    async def next(self) -> None:
        """Returns when something has changed, or when it is time to look again."""
        if await self._told():
            self._asked = 0

"""What the engine asks of storage: small interfaces, and what each call promises.

``jetflow.broker`` implements them on NATS (``broker/stores/owned.py`` has all of one tenure). The simulation runs the same
implementations on a double of the server in memory (``jetflow.testing``), which can fail, delay, reorder, repeat or lose any answer; the contract
tests in ``tests/double`` ask both servers the same.

Every call of a tenure's store may raise, beside what it names:

- ``TenureOverError``: the tenure is over. Nothing was sent, or nothing of it was stored, or its answer may not be used any more.
- ``BrokerUnavailableError``: no answer in time. Of a write that means that its outcome is unknown, which ends the tenure.
- ``BrokerError``: the broker refused it.

Tokens (``queue_token``, ``id_token``) are ids as they stand in subjects; positions are places in a stream; times are ms since the epoch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from jetflow.broker.fencing.registry import Taken
from jetflow.broker.stores.signals import EarlySignal, Stored
from jetflow.broker.stores.tasks import Task
from jetflow.broker.stores.timeline import Entry
from jetflow.broker.stores.waits import Claim, Registered, Wait
from jetflow.broker.transport.lane import StoredMessage
from jetflow.broker.transport.pull import Delivery
from jetflow.protocol.commands import RoutedSignal
from jetflow.protocol.record import StateRecord


class Inbox(Protocol):
    """The commands of some partitions, in order. It never gives a command twice; a later inbox gives every un-acked one again."""

    name: str
    born_at: int
    origin: dict[str, Any]

    async def create(self, partitions: Iterable[int], queue_token: str) -> bool:
        """Claims the partitions; False if another inbox has one of them."""
        ...

    def give_to(self, on_delivery: Callable[[Delivery], None], on_lost: Callable[[str], None]) -> None:
        """Who gets the commands, and who is told that the inbox cannot be trusted any more."""
        ...

    def begin(self) -> None:
        """Asks for commands."""
        ...

    def refill(self) -> None:
        """There may be room for more."""
        ...

    def close(self) -> None:
        """Nothing more is delivered; the claim lasts."""
        ...

    async def delete(self) -> None:
        """Nothing more is delivered; the claim is over."""
        ...


class Timelines(Protocol):
    """Commits of workflows. Reads are as fresh as the newest commit that anybody has been told of."""

    def key(self, queue_token: str, id_token: str, seq: int | str) -> str:
        """The subject of a key."""
        ...

    async def begin(self, queue_token: str, id_token: str, body: bytes) -> int:
        """Stores key 1 if there is no key and no guard of the workflow; otherwise raises ConflictError. Gives its position."""
        ...

    async def guard(self, queue_token: str, id_token: str) -> None:
        """From here on no earlier owner's ``begin`` succeeds."""
        ...

    async def append(self, queue_token: str, id_token: str, seq: int, body: bytes) -> int:
        """Stores a key, over what it holds. Gives its position."""
        ...

    async def remove(self, queue_token: str, id_token: str, before: int, *, only: int | str = "*") -> None:
        """Removes keys that lie before a position, for good."""
        ...

    async def last(self, queue_token: str, id_token: str) -> Entry | None:
        """The key stored last; None for a workflow without a timeline."""
        ...

    async def run(self, queue_token: str, id_token: str, last: Entry) -> list[Entry]:
        """Every key of the run that ``last`` belongs to, in order; raises BrokerError if some are missing."""
        ...


class Records(Protocol):
    """State records: what a person wants to know. Never read to decide a step."""

    def subject(self, queue_token: str, id_token: str) -> str:
        """The subject of a record."""
        ...

    async def put(self, record: StateRecord) -> None:
        """Stores a record; a closed one with ``expire`` (ms) leaves a marker once that time is over."""
        ...

    async def get(self, queue_token: str, id_token: str, *, fresh: bool = False) -> StateRecord | None:
        """The record; ``fresh`` where something is decided on it."""
        ...

    async def newest(self, queue_token: str, id_token: str) -> StoredMessage | None:
        """The record, or without data its marker; always fresh."""
        ...

    async def remove_marker(self, queue_token: str, id_token: str, position: int) -> None:
        """Removes the marker at a position, for good."""
        ...


class SignalStore(Protocol):
    """Signals that nobody waits for yet."""

    async def put(self, queue_token: str, id_token: str, signal: EarlySignal, now: int, name_token: str | None = None) -> int:
        """Keeps a signal until it expires, and for some time after that; a cancel until it expires. Gives its position."""
        ...

    async def load(self, queue_token: str, id_token: str) -> list[Stored]:
        """All that are kept, in inbox order; always fresh."""
        ...

    async def remove(self, queue_token: str, id_token: str, name_token: str, seq: int, position: int) -> None:
        """Removes the one at a position, for good."""
        ...

    async def remove_before(self, queue_token: str, id_token: str, time: str) -> None:
        """Removes those that were stored up to a time (ISO 8601), for good."""
        ...

    async def known(self, queue_token: str, partitions: frozenset[int], of: int) -> set[str]:
        """Workflows that have something kept; always fresh."""
        ...


class TimerStore(Protocol):
    """Commands that the broker publishes by itself when they are due."""

    async def schedule(self, queue_token: str, id_token: str, run: int, index: int, due: int) -> int:
        """A ``timer`` command at ``due``, in place of one of the same index. Gives its position."""
        ...

    async def cancel(self, queue_token: str, id_token: str, index: int, before: int) -> None:
        """Removes a schedule that lies before a position; one that has fired is fine."""
        ...

    async def cancel_all(self, queue_token: str, id_token: str, before: int) -> None:
        """Removes every schedule that lies before a position."""
        ...

    async def take_start_back(self, queue_token: str, id_token: str, before: int) -> bool:
        """Removes a delayed start that lies before a position; False if there is none."""
        ...

    async def newest(self, queue_token: str, id_token: str) -> int:
        """Position of the newest schedule, 0 for none; always fresh."""
        ...


class WaitStore(Protocol):
    """Waits for signals by id, their claims, and the signals themselves."""

    def register(self, waits: Iterable[tuple[Wait, int]]) -> list[asyncio.Future[Any]]:
        """Begins to store waits, each with its beginning; the answers are for ``registered``."""
        ...

    async def registered(self, answers: list[asyncio.Future[Any]]) -> None:
        """Returns once they are stored."""
        ...

    def remove(self, wait: Wait) -> None:
        """Removes a wait; it may get lost."""
        ...

    async def taken(self, number: int) -> None:
        """Removes a signal that a commit has taken, then its claim."""
        ...

    async def give_back(self, wait: Wait, number: int) -> None:
        """Frees a signal whose wait is over."""
        ...

    async def waiting_for(self, signal: str) -> list[Registered]:
        """Who waits, longest first; always fresh."""
        ...

    async def claim(self, number: int, wait: Wait, revision: int = 0) -> None:
        """Says which wait a signal is for; raises ConflictError if that was said before."""
        ...

    async def claim_expired(self, number: int, revision: int = 0) -> None:
        """Says that a signal is for nobody any more; raises ConflictError if something else was said before."""
        ...

    async def claim_of(self, number: int) -> Claim:
        """Which wait a signal is for; always fresh."""
        ...

    async def claims(self) -> list[int]:
        """Signals that have a claim; always fresh."""
        ...

    async def withdraw(self, number: int) -> None:
        """Removes a claim, for good."""
        ...

    async def signal(self, number: int) -> StoredMessage | None:
        """A signal; always fresh."""
        ...

    async def forward(self, wait: Wait, routed: RoutedSignal) -> None:
        """Sends a signal to its wait, unless one is on its way there."""
        ...


class TaskStore(Protocol):
    """Attempts of activities for other workers."""

    async def publish(self, queue: str, task: Task) -> None:
        """Stores a task; one that is ``again`` only if it is not there."""
        ...

    async def withdraw(self, operation: str) -> None:
        """Removes the tasks of an operation, for good."""
        ...

    def tell_ended(self, queue: str, operation: str) -> None:
        """Tells those who run it; it may get lost."""
        ...


class DeadLetterStore(Protocol):
    """Commands that nothing can be done with."""

    async def write(self, subject: str, body: bytes, headers: bytes | None, reason: str, *, origin: int | str, expired: bool = False) -> None:
        """Keeps one with the reason; a repeat of the same origin within minutes is dropped. ``expired`` says that it is a signal that expired."""
        ...


class Ledger(Protocol):
    """The registry of a task queue's tenures."""

    async def take(self, tenure: str, partitions: frozenset[int], born_at: int) -> Taken:
        """Enters a tenure once those before are revoked, whose writes come to nothing from then on."""
        ...

    async def leave(self, tenure: str) -> None:
        """Takes out a tenure that has nothing under way."""
        ...

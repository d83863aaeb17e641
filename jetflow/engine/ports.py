"""What the engine needs of storage: small interfaces, and what each call promises.

``jetflow.broker`` implements them on NATS (``broker/stores/owned.py`` has all of one tenure). The simulation runs the same
implementations on a double of the server in memory (``jetflow.testing``), which can fail, delay, reorder, repeat or lose any answer. The contract
tests in ``tests/double`` run against both servers.

Every call of a tenure's store may raise these errors, besides those that it names:

- ``TenureOverError``: the tenure is over. The call was not sent, or the broker stored nothing, or the answer must not be used.
- ``BrokerUnavailableError``: no answer came in time. The outcome of a write is then unknown, which ends the tenure.
- ``BrokerError``: the broker refused the call.

Tokens (``queue_token``, ``id_token``) are ids, escaped for subjects. Positions are sequence numbers of a stream. Times are ms since the epoch.
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
    """The commands of some partitions, in order. It delivers each command once. A later inbox delivers every un-acked one again."""

    name: str
    born_at: int
    origin: dict[str, Any]

    async def create(self, partitions: Iterable[int], queue_token: str) -> bool:
        """Claim the partitions. Return False if another inbox has one of them."""
        ...

    def give_to(self, on_delivery: Callable[[Delivery], None], on_lost: Callable[[str], None]) -> None:
        """Set who gets the commands, and who is called with the reason when a command may be missing."""
        ...

    def begin(self) -> None:
        """Ask for commands."""
        ...

    def refill(self) -> None:
        """Ask for more commands if there is room."""
        ...

    def close(self) -> None:
        """Stop the deliveries. The claim lasts."""
        ...


class Timelines(Protocol):
    """Commits of workflows. A read shows every commit that was acked before it began."""

    def key(self, queue_token: str, id_token: str, seq: int | str) -> str:
        """Return the subject of a key."""
        ...

    async def begin(self, queue_token: str, id_token: str, body: bytes) -> int:
        """Store key 1 and return its position. Raise ConflictError if the workflow has a key or a guard."""
        ...

    async def guard(self, queue_token: str, id_token: str) -> None:
        """Store a guard. From then on no earlier owner's ``begin`` succeeds."""
        ...

    async def append(self, queue_token: str, id_token: str, seq: int, body: bytes) -> int:
        """Store a key and return its position. Overwrite what the key holds."""
        ...

    async def remove(self, queue_token: str, id_token: str, before: int, *, only: int | str = "*") -> None:
        """Remove the keys before a position, for good."""
        ...

    async def last(self, queue_token: str, id_token: str) -> Entry | None:
        """Return the key that was stored last, or None for a workflow without a timeline."""
        ...

    async def run(self, queue_token: str, id_token: str, last: Entry) -> list[Entry]:
        """Return every key of the run that ``last`` belongs to, in order. Raise BrokerError if keys are missing."""
        ...


class Records(Protocol):
    """State records, for people to read. The engine never reads one to decide a step."""

    def subject(self, queue_token: str, id_token: str) -> str:
        """Return the subject of a record."""
        ...

    async def put(self, record: StateRecord) -> None:
        """Store a record. A closed record with ``expire`` (ms) leaves a marker once that time is over."""
        ...

    async def get(self, queue_token: str, id_token: str, *, fresh: bool = False) -> StateRecord | None:
        """Return the record. Pass ``fresh`` if a decision rests on it."""
        ...

    async def newest(self, queue_token: str, id_token: str) -> StoredMessage | None:
        """Return the record, or its marker, which has no data. Always fresh."""
        ...

    async def remove_marker(self, queue_token: str, id_token: str, position: int) -> None:
        """Remove the marker at a position, for good."""
        ...


class SignalStore(Protocol):
    """Early signals: no wait is there for them yet."""

    async def put(self, queue_token: str, id_token: str, signal: EarlySignal, now: int, name_token: str | None = None) -> int:
        """Store a signal until some time after its expiry, or a cancel until its expiry. Return its position."""
        ...

    async def load(self, queue_token: str, id_token: str) -> list[Stored]:
        """Return all stored signals of a workflow, in inbox order. Always fresh."""
        ...

    async def remove(self, queue_token: str, id_token: str, name_token: str, seq: int, position: int) -> None:
        """Remove the signal at a position, for good."""
        ...

    async def remove_before(self, queue_token: str, id_token: str, time: str) -> None:
        """Remove the signals that were stored up to a time (ISO 8601), for good."""
        ...

    async def known(self, queue_token: str, partitions: frozenset[int], of: int) -> set[str]:
        """Return the workflows that have stored signals. Always fresh."""
        ...


class TimerStore(Protocol):
    """Commands that the broker publishes when they are due."""

    async def schedule(self, queue_token: str, id_token: str, run: int, index: int, due: int) -> int:
        """Schedule a ``timer`` command at ``due``, in place of one of the same index. Return its position."""
        ...

    async def cancel(self, queue_token: str, id_token: str, index: int, before: int) -> None:
        """Remove a schedule before a position. It may have fired already."""
        ...

    async def cancel_all(self, queue_token: str, id_token: str, before: int) -> None:
        """Remove every schedule before a position."""
        ...

    async def take_start_back(self, queue_token: str, id_token: str, before: int) -> bool:
        """Remove a scheduled start before a position. Return False if there is none."""
        ...

    async def newest(self, queue_token: str, id_token: str) -> int:
        """Return the position of the newest schedule, 0 for none. Always fresh."""
        ...


class WaitStore(Protocol):
    """Waits for signals by id, their claims, and the signals themselves."""

    def register(self, waits: Iterable[tuple[Wait, int]]) -> list[asyncio.Future[Any]]:
        """Send waits, each with the time at which it began. Pass the returned answers to ``registered``."""
        ...

    async def registered(self, answers: list[asyncio.Future[Any]]) -> None:
        """Return once the waits are stored."""
        ...

    def remove(self, wait: Wait) -> None:
        """Remove a wait. The removal may get lost."""
        ...

    async def taken(self, number: int) -> None:
        """Remove a signal that a commit has taken, then its claim."""
        ...

    async def give_back(self, wait: Wait, number: int) -> None:
        """Free the claim of a signal whose wait is over."""
        ...

    async def waiting_for(self, signal: str) -> list[Registered]:
        """Return the waits for a signal, the oldest first. Always fresh."""
        ...

    async def claim(self, number: int, wait: Wait, revision: int = 0) -> None:
        """Claim a signal for a wait. Raise ConflictError if another claim came before."""
        ...

    async def claim_expired(self, number: int, revision: int = 0) -> None:
        """Claim an expired signal for no wait. Raise ConflictError if another claim came before."""
        ...

    async def claim_of(self, number: int) -> Claim:
        """Return the claim of a signal. Always fresh."""
        ...

    async def claims(self) -> list[int]:
        """Return the signals that have a claim. Always fresh."""
        ...

    async def withdraw(self, number: int) -> None:
        """Remove a claim, for good."""
        ...

    async def signal(self, number: int) -> StoredMessage | None:
        """Return a signal, or None if it is gone. Always fresh."""
        ...

    async def forward(self, wait: Wait, routed: RoutedSignal) -> None:
        """Send a signal to its wait, unless the same command is waiting there."""
        ...


class TaskStore(Protocol):
    """Attempts of activities for other workers."""

    async def publish(self, queue: str, task: Task) -> None:
        """Store a task. Store one that is ``again`` only if it is not there."""
        ...

    async def withdraw(self, operation: str) -> None:
        """Remove the tasks of an operation, for good."""
        ...

    def tell_ended(self, queue: str, operation: str) -> None:
        """Notify the workers that run the operation that it has ended. The notice may get lost."""
        ...


class DeadLetterStore(Protocol):
    """Commands that jetflow could not understand or apply, and signals that expired."""

    async def write(self, subject: str, body: bytes, headers: bytes | None, reason: str, *, origin: int | str, expired: bool = False) -> None:
        """Store a message with the reason. Drop a repeat of the same origin within minutes. ``expired`` marks an expired signal."""
        ...


class Ledger(Protocol):
    """The registry of a task queue's tenures."""

    async def take(self, tenure: str, partitions: frozenset[int], born_at: int) -> Taken:
        """Revoke the earlier tenures of the partitions, so that the broker refuses their writes, then enter the new tenure."""
        ...

    async def leave(self, tenure: str) -> None:
        """Remove a tenure that has no write under way."""
        ...

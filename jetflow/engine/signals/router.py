"""Signals by id: one worker of the namespace passes each signal to the workflow that has waited longest for it.

A signal stays in its stream, un-acked, until a wait has it or it has expired. So when a router dies, the next one gets every signal again, in
order. The broker refuses a second consumer of the stream, which elects the router. Two routers at once do no harm, since a claim is a
compare-and-set (see ``broker/stores/waits.py``).

    1  a signal comes: the router looks for a wait; without one, it holds the signal and subscribes to notices of waits for the id
    2  the router claims the signal for a wait, checks that the signal is still stored, and forwards it to the workflow as a command
    3  the workflow's owner commits the signal and removes it; if the wait was over, the owner frees the claim, and step 1 follows
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from jetflow.broker.stores.membership import presence_subject
from jetflow.broker.transport.pull import Delivery, PullConsumer, delete_consumer
from jetflow.core.ids import from_token
from jetflow.core.values import as_json
from jetflow.engine.engine import Engine
from jetflow.engine.ownership.tenure import Tenure
from jetflow.engine.signals.kept import Kept
from jetflow.engine.signals.lots import Lot
from jetflow.errors import BrokerError, InvalidInputError
from jetflow.protocol.clock import now_ms
from jetflow.protocol.commands import BODY_MARGIN, check_body, signal_expires
from jetflow.protocol.headers import status_of

log: logging.Logger = logging.getLogger("jetflow.worker")

EVERY = 1.0
"""Seconds between two tries to become the router."""
LOOK = 0.1
SILENT_LOOKS = 2
"""Tries without an answer from a router until another worker deletes its consumer."""
CLOCKS_APART = 5000
"""Milliseconds by which the broker's clock may be ahead of this worker's."""
CREDIT = 1000
MAX_KEPT = 200_000
"""The most signals (number and time) in the router's memory. Further ones stay in their stream until there is room."""
COUNT_EVERY = 256
"""The signals in memory are counted once in this many deliveries."""
MAX_LOOKS = 64
"""The most ids that the router looks at at once."""


class Router:
    """Routes signals by id while this worker is the router."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._worker_id = engine.context.worker_id
        self._background = engine.context.background
        self._broker = engine.context.broker
        self._stream = engine.context.broker.names.by_id_stream
        self._consumer: PullConsumer | None = None
        self._lost = asyncio.Event()
        self._lots: dict[str, Lot] = {}
        self._silent: dict[str, int] = {}
        self._since = 0
        self._tenure: Tenure = None  # type: ignore[assignment]  # set by each claim
        self._slots = asyncio.Semaphore(MAX_LOOKS)
        self._kept = self._uncounted = 0

    async def run(self) -> None:
        """Route until cancelled, under one tenure of partition 0 after the other."""
        while True:
            tenure = self._engine.tenure
            if tenure is None or not tenure.owns(0):
                await asyncio.sleep(LOOK)
                continue
            try:
                if await self._claim(tenure):
                    await self._until_lost(tenure)
            except BrokerError as error:
                log.debug("this worker stops routing signals by id for now: %s", error)
            except asyncio.CancelledError:
                await self._leave()
                raise
            await self._leave()
            await asyncio.sleep(EVERY)

    async def _until_lost(self, tenure: Tenure) -> None:
        while not self._lost.is_set() and tenure.owns(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._lost.wait()
            if self._kept >= MAX_KEPT and self._consumer is not None:
                self._count()
                self._consumer.refill()

    def _count(self) -> None:
        self._kept, self._uncounted = sum(map(len, self._lots.values())), 0

    def _room(self) -> int:
        return min(CREDIT, MAX_KEPT - self._kept)

    async def _leave(self) -> None:
        """Stop routing, so that another worker can begin at once."""
        consumer = self._consumer
        self._forget()
        if consumer is not None and self._broker.wire.is_connected:
            with contextlib.suppress(BrokerError):
                await consumer.delete()

    async def _claim(self, tenure: Tenure) -> bool:
        """Try to become the router. Return False if another worker is."""
        self._lost.clear()
        self._tenure = tenure
        consumer = await self._open()
        if consumer is None and await self._holder_is_gone():
            consumer = await self._open()
        if consumer is None:
            return False
        self._consumer = consumer
        self._since = now_ms() + CLOCKS_APART  # another router may have claimed an earlier signal
        self._silent.clear()
        self._broker.wire.on_disconnect.append(self._on_disconnect)
        await self._drop_stray_claims(tenure)
        consumer.begin()
        log.info("worker %s routes signals by id", self._worker_id)
        return True

    async def _drop_stray_claims(self, tenure: Tenure) -> None:
        """Remove claims that an earlier router wrote late, after their signals were removed."""
        for number in await tenure.waits.claims():
            if await tenure.waits.signal(number) is None:
                await tenure.waits.withdraw(number)

    async def _open(self) -> PullConsumer | None:
        consumer = PullConsumer(
            self._broker.lane, self._broker.names, f"router-{self._worker_id}",
            room=self._room, stream=self._stream,
        )  # fmt: skip
        consumer.give_to(self._on_delivery, self._on_lost)
        return consumer if await consumer.create_over([self._broker.names.signal_by_id(">")]) else None

    async def _holder_is_gone(self) -> bool:
        """Delete the consumer of a router that is gone or stands still. Return whether there was one."""
        taken = False
        for consumer in await self._broker.lane.consumers(self._stream):
            name = consumer["name"]
            worker_id = name.split("-")[1] if name.startswith("router-") else ""
            if not worker_id:
                log.warning("no worker can route signals by id: consumer %r of stream %s is not one of jetflow's. Delete it", name, self._stream)
                continue
            silent = self._silent[name] = self._silent.get(name, 0) + 1
            if worker_id != self._worker_id and silent < SILENT_LOOKS and not await self._is_gone(worker_id, name):
                continue
            log.info("taking over signals by id from worker %s, which is gone", worker_id)
            await delete_consumer(self._broker.lane, self._stream, name)
            taken = True
        return taken

    async def _is_gone(self, worker_id: str, name: str) -> bool:
        """Return whether a worker's connection is gone. Reset the count of silent tries if the worker answers."""
        try:
            async with asyncio.timeout(1):
                _, headers = await self._broker.lane.ask(presence_subject(self._broker.names, worker_id), b"", retry=False)
        except TimeoutError:
            return False
        if status_of(headers) == 503:
            return True
        self._silent[name] = 0
        return False

    def _on_disconnect(self) -> None:
        self._on_lost("disconnected")

    def _on_lost(self, why: str) -> None:
        log.debug("signals by id: %s", why)
        self._lost.set()

    def _forget(self) -> None:
        """Forget everything. The stream has all of it."""
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        consumer.close()
        self._broker.wire.on_disconnect.remove(self._on_disconnect)
        for lot in list(self._lots.values()):
            lot.close()
        self._lots.clear()
        self._count()

    # ---- deliveries

    def _on_delivery(self, delivery: Delivery) -> None:
        try:
            tokens = delivery.subject.split(".")
            if len(tokens) != 2:
                raise InvalidInputError(f"the subject must be {self._broker.names.signal_by_id('<signal id>')}, with one id")
            name = from_token(tokens[1])
            headers_size = max(0, len(delivery.headers or b"") - BODY_MARGIN // 4)
            check_body("the signal's body", delivery.data, self._broker.max_payload - headers_size)
            as_json(delivery.data, "the body of a signal")
            expires = signal_expires(delivery.headers, delivery.stored_ms)
        except (InvalidInputError, RecursionError) as error:
            self._background.spawn(self._refuse(delivery, str(error)))
            return
        lot = self._lots.get(tokens[1])
        if lot is None:
            lot = self._lots[tokens[1]] = Lot(self._tenure, tokens[1], name, self._slots, self._done)
        self._uncounted += 1
        if self._uncounted >= COUNT_EVERY:
            self._count()
        lot.add(Kept(delivery.seq, expires, delivery.reply, unsure=delivery.stored_ms <= self._since))

    async def _refuse(self, delivery: Delivery, reason: str) -> None:
        """Make a dead letter of a malformed signal. If that fails, the signal comes again."""
        log.warning("dead letter %s: %s", delivery.subject, reason)
        try:
            await self._tenure.dead_letters.write(delivery.subject, delivery.data, delivery.headers, reason, origin=f"by-id-{delivery.seq}")
        except BrokerError as error:
            self._on_lost(f"a dead letter could not be written yet: {error}")
            return
        with contextlib.suppress(BrokerError):
            self._broker.wire.ack(delivery.reply)

    def _done(self, lot: Lot) -> None:
        """Remove an id that has no signal left."""
        if self._lots.get(lot.token) is lot:
            del self._lots[lot.token]
        lot.close()

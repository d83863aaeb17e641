"""Bugs to plant: mistakes that were made once, or could be. The simulation must find each of them.

Each is a context manager that replaces functions in memory. A replaced name that is not there any more is an error, so that a bug that has lost
its place in the code is noticed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from jetflow.broker.fencing import fence, registry
from jetflow.broker.stores import signals, state, timeline
from jetflow.broker.transport import lane
from jetflow.core import events as ev
from jetflow.core import handlers, machine
from jetflow.core.ids import to_token
from jetflow.engine.activities import inflight
from jetflow.engine.ownership import actors, claiming, outbox, tenure
from jetflow.engine.signals import buffer as signal_buffer
from jetflow.engine.signals import lots
from jetflow.engine.turn import actor, alarms, applying, closing, committing, effects, head_start, opening, publishing, resting, starting, turn
from jetflow.engine.upkeep import compaction, janitor, removal, supervision
from jetflow.errors import BrokerError
from jetflow.protocol.commands import StartCommand
from jetflow.protocol.headers import header_block, ttl_of
from tests.simulation.running import try_seed

PLANTED: dict[str, Callable[[], AbstractContextManager[None]]] = {}


@contextmanager
def replaced(*changes: tuple[Any, str, Any]) -> Iterator[None]:
    """Sets attributes for as long as the block lasts."""
    before = [(thing, name, getattr(thing, name)) for thing, name, _ in changes]
    for thing, name, value in changes:
        setattr(thing, name, value)
    try:
        yield
    finally:
        for thing, name, value in before:
            setattr(thing, name, value)


def bug(function: Callable[[], AbstractContextManager[None]]) -> Callable[[], AbstractContextManager[None]]:
    """Adds a bug to the list; its docstring says what the mistake is."""
    PLANTED[function.__name__] = function
    return function


async def _nothing(*_: Any, **__: Any) -> None:
    pass


# ---- the fence


@bug
def no_fence() -> AbstractContextManager[None]:
    """Writes do not say that their tenure's revocation is not there."""
    return replaced((fence, "_EXPECT_NOTHING", "NATS/1.0\r\nX-Nothing:%s\r\n"))


@bug
def revocation_not_written() -> AbstractContextManager[None]:
    """Whoever takes over revokes nobody."""

    async def revoke(*_: Any, **__: Any) -> int:
        return 0

    return replaced((registry, "revoke", revoke))


@bug
def registry_entry_not_written() -> AbstractContextManager[None]:
    """A tenure is not entered, so that the next owner does not know whom to revoke."""

    async def write(*_: Any) -> bool:
        return True

    return replaced((registry.Registry, "_write", write))


@bug
def read_before_revoking() -> AbstractContextManager[None]:
    """The revocation is sent, and not waited for."""
    original = registry.revoke

    async def revoke(*args: Any, **options: Any) -> int:
        async def later() -> None:
            await asyncio.sleep(0.5)
            with contextlib.suppress(BrokerError):
                await original(*args, **options)

        asyncio.get_running_loop().create_task(later())
        return 0

    return replaced((registry, "revoke", revoke))


@bug
def no_guard() -> AbstractContextManager[None]:
    """Nothing keeps an earlier owner's first commit out."""
    return replaced((timeline.OwnedTimeline, "guard", _nothing))


@bug
def record_unfenced_and_late() -> AbstractContextManager[None]:
    """A state record is written without a fence, some time after the commit."""

    async def put(self: Any, record: Any) -> None:
        subject = self.subject(to_token(record.task_queue), to_token(record.workflow_id))
        ttl = {} if record.expire is None or not record.closed else {"Nats_TTL": ttl_of(record.expire)}
        body, own = state._encoder.encode(record), self._owned._lane

        async def later() -> None:
            await asyncio.sleep(0.05)
            with contextlib.suppress(BrokerError):
                await own.publish(subject, body, header_block(**ttl))

        if record.closed:
            await own.publish(subject, body, header_block(**ttl))
        else:
            asyncio.get_running_loop().create_task(later())

    return replaced((state.OwnedStates, "put", put))


@bug
def tenure_reused() -> AbstractContextManager[None]:
    """Workflows in memory are kept when the worker's next tenure begins."""
    kept: dict[Any, list[Any]] = {}
    prepare = tenure.Tenure.prepare

    def lose(self: Any, why: str) -> None:
        if not self.over:
            self.over, self._why = True, why
            self._consumer.close()
            actors = self.compaction._is_in_memory.__self__
            kept[self.context] = [one for one in actors if one.idle]
            for one in actors:
                if not one.idle:
                    one.leave()
            for tell in self.on_over[1:]:
                tell(why)

    async def prepare_with_old(self: Any, position: int, doubt: int) -> None:
        await prepare(self, position, doubt)
        for one in kept.pop(self.context, ()):
            if one.partition in self.partitions:
                one.tenure = one.signals._tenure = one.by_id._tenure = self
                one.mailbox.unacked.clear()
                one._keeper = self.compaction._is_in_memory.__self__
                one._keeper._all[one.id_token] = one

    return replaced((tenure.Tenure, "lose", lose), (tenure.Tenure, "prepare", prepare_with_old))


# ---- commands


@bug
def ack_before_commit() -> AbstractContextManager[None]:
    """A command is acked once it is applied, before the commit."""
    original = applying._apply_command

    async def apply(one: Any, command: Any) -> bool:
        held = await original(one, command)
        if held:
            one.mailbox.ack(command)
        return False

    return replaced((applying, "_apply_command", apply))


@bug
def ack_when_received() -> AbstractContextManager[None]:
    """A command is acked when it reaches the mailbox."""
    original = actor.Actor.receive

    def receive(self: Any, command: Any) -> None:
        original(self, command)
        self.tenure.send_ack(command.delivery)

    return replaced((actor.Actor, "receive", receive))


@bug
def acked_commands_not_redelivered() -> AbstractContextManager[None]:
    """A new consumer begins with what comes from then on, as a filter that is only updated does."""
    original = lane.Lane.api

    async def api(self: Any, operation: str, request: Any = None) -> Any:
        if operation.startswith("CONSUMER.CREATE.JETFLOW.q-"):
            request["config"]["deliver_policy"] = "new"
        return await original(self, operation, request)

    return replaced((lane.Lane, "api", api))


@bug
def not_loaded_taken_for_none() -> AbstractContextManager[None]:
    """A workflow that a new owner gets a command for again is taken for one that does not exist."""
    original = turn.open_actor

    async def open_actor(one: Any) -> None:
        first = one.mailbox.waiting[0] if one.mailbox.waiting else None
        if first is not None and not isinstance(first.payload, StartCommand) and not one.tenure.is_first_hand(first):
            one.run.opened()
        else:
            await original(one)

    return replaced((turn, "open_actor", open_actor))


@bug
def withdrawn_start_runs() -> AbstractContextManager[None]:
    """A start that its client has taken back runs once the record that it lost to has expired."""

    async def is_withdrawn(*_: Any) -> bool:
        return False

    return replaced((starting, "_is_withdrawn", is_withdrawn))


@bug
def early_cancel_forgotten() -> AbstractContextManager[None]:
    """A cancel that came before the start is not looked for."""
    return replaced((signal_buffer.SignalBuffer, "take_cancel", lambda _: None))


@bug
def expired_signals_not_looked_for() -> AbstractContextManager[None]:
    """A new owner does not find out when the signals expire that were stored before."""
    return replaced((claiming, "learn_expiries", _nothing))


@bug
def expired_signal_without_a_letter() -> AbstractContextManager[None]:
    """A signal that had expired when a wait for it began is forgotten."""

    async def bury(self: Any) -> None:
        for item in self.lapsed:
            if item.command is not None:
                self._ack(item.command)
        self.lapsed.clear()

    return replaced((signal_buffer.SignalBuffer, "bury", bury))


@bug
def expired_signal_by_id_only_acked() -> AbstractContextManager[None]:
    """A signal by id that has expired is removed without a letter."""
    return replaced((lots.Lot, "_bury", _nothing))


@bug
def update_repeats_not_recognised() -> AbstractContextManager[None]:
    """An update that its caller sends again is applied again."""
    return replaced((handlers.Handlers, "knows_update", lambda *_: False))


# ---- effects


@bug
def dropped_effects() -> AbstractContextManager[None]:
    """After a crash the effects of the last commit are not published again."""
    original = opening.publish

    async def publish(one: Any, decided: Any, *, again: bool = False) -> None:
        if not again:
            await original(one, decided)

    return replaced((opening, "publish", publish))


@bug
def effects_before_commit() -> AbstractContextManager[None]:
    """Children and signals go out before the commit that has them."""
    original = committing._write

    async def write(one: Any, body: bytes, *, whole: bool) -> None:
        await publishing.publish(one, ev.decode_commit(body).decision)
        await original(one, body, whole=whole)

    return replaced((committing, "_write", write))


@bug
def end_not_told_again() -> AbstractContextManager[None]:
    """A second owner does not tell the parent how the child ended."""
    original = outbox.Outbox.tell_closing

    async def tell_closing(self: Any, info: Any, closing: Any, children: Any) -> None:
        if not isinstance(closing, ev.Terminated):
            own = self._lane
            if own.under_way == 0:
                return
        await original(self, info, closing, children)

    return replaced((outbox.Outbox, "tell_closing", tell_closing))


@bug
def activity_before_its_commit() -> AbstractContextManager[None]:
    """The first activities of a run begin before the first commit, also where somebody chose the id."""
    original = head_start.may_run_ahead

    def may_run_ahead(one: Any, code: Any) -> bool:
        held = one.mailbox.held
        if len(held) == 1 and type(held[0].payload) is StartCommand:
            held[0].payload.new_id = True
        return original(one, code)

    return replaced((committing, "may_run_ahead", may_run_ahead))


@bug
def activities_of_an_ended_run() -> AbstractContextManager[None]:
    """What a run decided in the commit that ends it begins all the same."""
    original = turn.carry_out

    async def with_begun(one: Any, decision: Any) -> None:
        await original(one, decision)
        if decision.machine.closing is not None:
            for operation in decision.begun:
                effects.follow(one, operation)

    return replaced((turn, "carry_out", with_begun))


@bug
def outcome_lost_with_the_tenure() -> AbstractContextManager[None]:
    """An activity that ends between two tenures is adopted without its outcome."""
    original = inflight.Inflight.find

    def find_without(self: Any, key: Any, scheduled: Any) -> Any:
        step = original(self, key, scheduled)
        if step is not None:
            step.outcome = None
        return step

    return replaced((inflight.Inflight, "find", find_without))


@bug
def runs_on_without_an_owner() -> AbstractContextManager[None]:
    """A further attempt of an activity begins though the tenure is over."""
    return replaced((inflight.Step, "permitted", _nothing))


# ---- signals


@bug
def high_water_mark_lost() -> AbstractContextManager[None]:
    """The next generation does not know which signals were taken."""
    original = machine.Machine.carried_over

    def carried_over(self: Any) -> dict[str, Any]:
        return original(self) | {"consumed": {}, "consumed_from": {}}

    return replaced((machine.Machine, "carried_over", carried_over))


@bug
def signal_repeats_not_recognised() -> AbstractContextManager[None]:
    """A signal from a workflow that is published again after a crash is taken again."""
    return replaced((machine.Machine, "is_repeat", lambda *_: False))


@bug
def stale_read_of_early_signals() -> AbstractContextManager[None]:
    """Early signals are read from whichever server answers, however far it lags."""
    original = signals.newest_of_each

    async def newest_of_each(*args: Any, replicated: bool) -> Any:
        return await original(*args, replicated=False)

    return replaced((signals, "newest_of_each", newest_of_each))


@bug
def early_signals_not_looked_for() -> AbstractContextManager[None]:
    """A new owner does not look which workflows have early signals."""

    async def known(*_: Any) -> set[str]:
        return set()

    return replaced((signals.OwnedSignals, "known", known))


# ---- timers


@bug
def timers_not_scheduled_again() -> AbstractContextManager[None]:
    """After a rebuild a timer counts as scheduled, though the crash may have come before."""
    original = alarms.Alarms.watch

    def watch(self: Any, index: int, due: int, *, maybe_scheduled: bool = False) -> None:
        original(self, index, due, maybe_scheduled=maybe_scheduled)
        if maybe_scheduled:
            self.unscheduled.discard(index)

    return replaced((alarms.Alarms, "watch", watch))


@bug
def timer_fires_short() -> AbstractContextManager[None]:
    """A timer fires before its time."""
    original = alarms.Alarms.watch

    def watch(self: Any, index: int, due: int, *, maybe_scheduled: bool = False) -> None:
        original(self, index, due - 20, maybe_scheduled=maybe_scheduled)

    return replaced((alarms.Alarms, "watch", watch))


# ---- the end of a run


@bug
def delayed_start_begins_at_once() -> AbstractContextManager[None]:
    """The code of a delayed start does not wait."""
    before = starting.started_by

    def started_by(*args: Any) -> ev.Started:
        started = before(*args)
        started.begins = None
        return started

    return replaced((starting, "started_by", started_by))


@bug
def refused_scheduled_start_leaves_no_trace() -> AbstractContextManager[None]:
    """A scheduled start that is refused when it is due is acked like any other."""
    return replaced((starting, "was_scheduled", lambda _: False))


@bug
def closing_record_not_written() -> AbstractContextManager[None]:
    """A second owner takes the record of a run that has ended for written."""

    async def is_behind(_: Any) -> bool:
        return False

    return replaced((closing, "_record_is_behind", is_behind))


@bug
def compaction_removes_first() -> AbstractContextManager[None]:
    """Keys go before the key that has the whole run is stored."""
    original = compaction.Compaction._compact

    async def compact(self: Any, closed: Any) -> None:
        last = await self._timeline.last(self._queue_token, closed.id_token)
        if closed.seq > 1 and last is not None and last.seq == closed.seq:
            await self._timeline.remove(self._queue_token, closed.id_token, last.position)
        await original(self, closed)

    return replaced((compaction.Compaction, "_compact", compact))


@bug
def compaction_does_not_look() -> AbstractContextManager[None]:
    """A run is compacted though another run of its id may begin."""

    def disturb(_self: Any, _id_token: str) -> None:
        """Whatever comes is not noticed."""

    return replaced((compaction.Compaction, "disturb", disturb), (actors.Actors, "has", lambda *_: False))


@bug
def janitor_does_not_ask_the_inbox() -> AbstractContextManager[None]:
    """An expired run is removed though a command of its id waits."""
    original = removal._newest

    async def newest(own: Any, stream: str, filters: list[str]) -> Any:
        return {} if stream == "JETFLOW" else await original(own, stream, filters)

    return replaced((removal, "_newest", newest))


@bug
def janitor_never_comes_back() -> AbstractContextManager[None]:
    """An expired run that is passed over, since a command of its id waits, is forgotten."""
    original = janitor.retire

    async def retire(own: Any, ids: Any) -> Any:
        return (await original(own, ids))._replace(later=[])

    return replaced((janitor, "retire", retire))


@bug
def purge_without_a_position() -> AbstractContextManager[None]:
    """A removal takes whatever is there when it arrives."""

    async def purge(self: Any, stream: str, subject_filter: str, before: int) -> int:
        return int((await self.api(f"STREAM.PURGE.{stream}", {"filter": subject_filter})).get("purged", 0)) if before > 1 else 0

    return replaced((fence.FencedLane, "purge", purge))


@bug
def marker_instead_of_a_purge() -> AbstractContextManager[None]:
    """The timeline of an expired run is removed by markers that expire: a server that is killed brings it back."""

    async def remove(self: Any, queue_token: str, id_token: str, before: int, *, only: int | str = "*") -> None:
        last = await self.last(queue_token, id_token)
        for seq in range(1, last.seq + 1 if last is not None and last.position < before else 0):
            if only in ("*", seq):
                await self._owned.store("timeline", self.key(queue_token, id_token, seq), b"", b"KV-Operation:PURGE\r\nNats-TTL:1s\r\n")

    return replaced((timeline.OwnedTimeline, "remove", remove))


@bug
def expired_run_keeps_its_timers() -> AbstractContextManager[None]:
    """Timers of a run that was terminated by a second owner stay at the broker."""
    original = resting.rest_closed

    async def rest_closed(one: Any) -> None:
        one.doubt(False)
        before, one.tenure.timers.cancel_all = one.tenure.timers.cancel_all, _nothing
        try:
            await original(one)
        finally:
            one.tenure.timers.cancel_all = before

    return replaced((resting, "rest_closed", rest_closed), (removal, "_has_timers", lambda _: False))


# ---- the worker itself


@bug
def loop_dies_silently() -> AbstractContextManager[None]:
    """A loop of the worker ends with the first trouble, and nobody begins it again."""

    async def once(self: Any) -> None:
        while True:
            own = self._engine.tenure
            if own is None or not own.owns(0):
                await asyncio.sleep(janitor.EVERY)
                continue
            await self._work(own)

    def start(self: Any, name: str, loop: Any) -> None:
        async def quietly() -> None:
            with contextlib.suppress(Exception):
                await loop()

        self._tasks[name] = asyncio.get_running_loop().create_task(quietly())

    return replaced((janitor.Janitor, "run", once), (supervision.Supervisor, "start", start))


# ---- looking for them


def find(name: str, seconds: float, processes: int, first: int = 0) -> tuple[int, str, float, int] | None:
    """Runs schedules with a bug planted until one fails: its seed, what was found, after how many seconds and schedules. None if none did."""
    found: multiprocessing.Queue[tuple[int, str]] = multiprocessing.Queue()
    begun = time.monotonic()

    def work(share: int) -> None:
        gc.collect()
        gc.freeze()
        with PLANTED[name]():
            for seed in range(first + share, first + 1_000_000, processes):
                try:
                    problems = try_seed(seed)
                except Exception as error:
                    problems = [f"the simulation itself: {error!r}"]
                found.put((seed, problems[0] if problems else ""))

    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work, args=(share,), daemon=True) for share in range(processes)]
    for worker in workers:
        worker.start()
    done = 0
    try:
        while (left := begun + seconds - time.monotonic()) > 0:
            with contextlib.suppress(Exception):
                seed, problem = found.get(timeout=left)
                done += 1
                if problem and not try_seed(seed):
                    return seed, problem, time.monotonic() - begun, done
    finally:
        for worker in workers:
            worker.terminate()
    return None


def look(names: list[str], seconds: float, processes: int) -> int:
    """Looks for each planted bug, and prints which seed found it."""
    missed = []
    for name in names or PLANTED:
        outcome = find(name, seconds, processes)
        if outcome is None:
            missed.append(name)
            print(f"{name}: NOT FOUND in {seconds:g} s", flush=True)
        else:
            seed, problem, spent, done = outcome
            print(f"{name}: seed {seed}, after {done} schedules and {spent:.0f} s: {problem[:200]}", flush=True)
    print(f"{len(names or PLANTED) - len(missed)} of {len(names or PLANTED)} found")
    return 1 if missed else 0

"""One workflow in its owner's memory, and the seven steps that a command goes through.

    1  it is stored in the inbox (the publisher's ack)
    2  it reaches the actor's mailbox; the actor is rebuilt from its timeline if it is not in memory   ``_open``
    3  the workflow's code runs until it waits                                                         ``_apply``
    4  what was decided is committed: one new timeline key                                             ``_commit``
    5  the effects follow: children, signals, activities, timers                                       ``_effects``
    6  the state record is written where a person would see a difference                               ``_rest``
    7  the command is acked once only durable things are waited for                                    ``_rest``

A command is acked late on purpose: while there is work in this process, some un-acked command wakes the next owner.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from jetflow.activity import ActivityInfo
from jetflow.broker.signals import CANCEL, DEFAULT_EXPIRE_MS, EarlySignal
from jetflow.broker.timeline import Entry
from jetflow.core import events as ev
from jetflow.core.data import UserData
from jetflow.core.definitions import ActivityOptions
from jetflow.core.failures import Failure
from jetflow.core.machine import Machine, Operation, RunInfo, last_generation
from jetflow.core.values import args_from_body
from jetflow.engine import faults
from jetflow.engine.alarms import Alarms, now_ms
from jetflow.engine.commands import (
    CancelCommand,
    ChildNotice,
    Command,
    SignalCommand,
    StartCommand,
    TaskOutcome,
    TerminateCommand,
    TimerCommand,
    UpdateCommand,
)
from jetflow.engine.compaction import Closed, History
from jetflow.engine.dispatch import closes_at, event_of, out_of_time
from jetflow.engine.ending import end_unseen, terminated
from jetflow.engine.janitor import revisit
from jetflow.engine.queries import Question, Questions, replay_end
from jetflow.engine.records import closed_record, running_record
from jetflow.engine.signal_buffer import SignalBuffer, early_signal, store_early
from jetflow.engine.updates import Updates
from jetflow.errors import BrokerError, BrokerUnavailableError, ConflictError, NondeterminismError

if TYPE_CHECKING:
    from jetflow.engine.engine import Engine

log = logging.getLogger("jetflow.worker")

BATCH = 100
"""Commands applied in one commit at most."""
LINGER_MS = 1000
"""A timer due sooner than this is waited for in memory, its command un-acked, rather than scheduled at the broker."""
MAX_UNSTORED = 100
"""Signals nobody waits for that a busy workflow keeps in memory before they go to their bucket."""
BROKER_TROUBLE = 1.0
"""Seconds before a workflow tries again after the broker refused something."""


class OwnershipLostError(Exception):
    """This worker no longer owns the actor's partition."""


class CannotGoOnError(Exception):
    """The workflow must wait for another worker; ``reason`` is shown in its state."""

    def __init__(self, reason: str, message: str, info: RunInfo) -> None:
        super().__init__(message)
        self.reason = reason
        self.info = info


class Actor:
    """One workflow id on one task queue. All of it runs on the worker's event loop, one step at a time."""

    def __init__(self, engine: Engine, id_token: str, workflow_id: str, partition: int) -> None:
        self.engine = engine
        self.id_token = id_token
        self.workflow_id = workflow_id
        self.partition = partition
        self.machine: Machine | None = None
        self.parked = False
        self.draining = False
        self.running = False
        self.steps: dict[int, asyncio.Task[None]] = {}
        self.unacked: dict[int, Command] = {}
        self.dirty_since: float | None = None
        self._state_wanted = False
        self._alive = True
        self._waiting: asyncio.Future[None] | None = None
        self._forget_all()
        self._doubtful = False
        self._mailbox: deque[Command] = deque()
        self._held: list[Command] = []
        self._outcomes: deque[Any] = deque()
        self._uncommitted: list[Any] = []
        self._signals = SignalBuffer(engine, id_token)
        self._updates = Updates(self, self._feed)
        self._questions = Questions(self)
        self._alarms = Alarms(self.wake)

    def _forget_all(self) -> None:
        self._loaded = False
        self._seq = self._run = self._cause = 0
        self._info: RunInfo | None = None
        self._closing: Any = None
        self._continued: ev.ContinuedAsNew | None = None
        self._told_closing = False
        self._closed_children: list[ev.ChildStarted] = []
        self._history = History()
        self._whole_at = 0
        self._accepted: ev.Parent | None = None
        self._tasks_due: dict[int, bool] = {}

    # ---- what comes in

    def receive(self, command: Command) -> None:
        """Step 2. A command that is here already came again from a new consumer: only its ack address is new."""
        known = self.unacked.get(command.seq)
        if known is not None:
            known.delivery.reply = command.delivery.reply
            return
        command.actor = self
        self.unacked[command.seq] = command
        self._mailbox.append(command)
        if self.parked and self.waiting_terminate() is not None:
            self._unpark()
        self.wake()

    def ask(self, question: Question) -> None:
        """A query: it is answered after the present turn, from what is committed by then."""
        self._questions.add(question)
        if self.parked:
            self._questions.refuse("the workflow is parked, its state says why")
        else:
            self.wake()

    def wake(self) -> None:
        """Makes sure that somebody drives."""
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self.running = True
            if not waiting.done():
                waiting.set_result(None)
        elif not self.running and self._alive and not self.parked:
            self.running = True
            self.engine.spawn(self._drive())

    def show_state(self) -> None:
        """Asks for the state record to be written though work goes on."""
        self._state_wanted = True
        self.wake()

    @property
    def idle(self) -> bool:
        """True when nothing of it is under way in this process."""
        return not (self.running or self.steps or self._outcomes)

    @property
    def evictable(self) -> bool:
        """True when the broker alone has all of it."""
        return self.idle and not self.unacked and not self.parked

    def drop(self) -> None:
        """Forgets it, without a trace outside; the next owner, or the next command, rebuilds it."""
        if not self._alive:
            return
        self._alive = False
        for step in self.steps.values():
            step.cancel()
        self.steps.clear()
        self._alarms.close()
        if self.machine is not None:
            self.machine.release()
            self.machine = None
        self.engine.forget(self)
        if self._waiting is not None:
            self.wake()
        elif not self.running:
            self._untie()

    def _untie(self) -> None:
        """Nobody drives it any more: parts that know it are let go, so that none of it waits for the garbage collector."""
        del self._updates, self._questions

    # ---- the drive

    async def _drive(self) -> None:
        try:
            while self._alive and not self.parked:
                await self._turn()
                if self._has_input():
                    continue
                if not self.steps:
                    break
                self.running = False
                self._waiting = asyncio.get_running_loop().create_future()
                await self._waiting
        except OwnershipLostError:
            self.drop()
        except asyncio.CancelledError:
            self.drop()
            raise
        finally:
            self.running = False
            self._waiting = None
            if not self._alive:
                self._untie()

    async def _turn(self) -> None:
        try:
            if not self._loaded:
                await self._open()
            await self._apply()
            await self._commit()
            if self._tasks_due:
                await self._publish_tasks()
            if self._questions and self._continued is None:
                await self._questions.answer(self.machine, closed=self._closing is not None)
            await self._rest()
        except (ConflictError, BrokerUnavailableError) as problem:
            log.debug("workflow %s is rebuilt: %s", self.workflow_id, problem)
            self._start_over()
            await self.engine.ready(self)
        except NondeterminismError as error:
            await self._give_up("NondeterminismError", str(error), self._info)
        except CannotGoOnError as error:
            await self._give_up(error.reason, str(error), error.info)
        except BrokerError as error:
            log.warning("workflow %s tries again: %s", self.workflow_id, error)
            self._start_over()
            await asyncio.sleep(BROKER_TROUBLE)
        except OwnershipLostError:
            raise
        except Exception as error:
            log.exception("workflow %s cannot go on", self.workflow_id)
            await self._give_up(type(error).__name__, str(error), self._info)

    def _has_input(self) -> bool:
        due = self._alarms.next_due()
        return bool(
            self._mailbox
            or self._outcomes
            or self._state_wanted
            or self._questions
            or self._continued is not None
            or (due is not None and due <= now_ms())
            or not self._loaded
        )

    def _start_over(self) -> None:
        """After an outcome that is unknown or lost, only the timeline counts. Activities under way here go on."""
        if self.machine is not None:
            self.machine.dispose()
            self.machine = None
        self._forget_all()
        self._doubtful = True
        self._alarms.clear()
        self._signals.reset()
        self._updates.reset()
        self._held.clear()
        self._mailbox = deque(self.unacked[seq] for seq in sorted(self.unacked))
        self._outcomes.extendleft(reversed(self._uncommitted))
        self._uncommitted.clear()

    # ---- step 2: rebuilding

    async def _open(self) -> None:
        first = self._mailbox[0] if self._mailbox else None
        fresh = first is not None and isinstance(first.payload, StartCommand) and not self._doubtful
        if not fresh:  # a start needs no read: writing the first key tells whether the id is free
            last = await self.engine.timeline.last(self.engine.queue_token, self.id_token)
            if last is not None:
                await self._rebuild(last)
        self._loaded = True

    async def _rebuild(self, last: Entry) -> None:
        entries = await self.engine.timeline.run(self.engine.queue_token, self.id_token, last)
        self._seq, self._run, self._cause = last.seq, last.commit.run, last.commit.cause
        history = last_generation([entry.commit for entry in entries])
        self._info = self._info_of(history[0][0])
        closing = history[-1][-1]
        unsure = _last_decision(entries)
        if isinstance(closing, ev.CLOSING):
            self._closing = closing
            descends = isinstance(closing, ev.Terminated) and closing.descend
            self._closed_children = _children_of(entries) if descends else [event for events in history for event in _children_in(events)]
            self._told_closing = True
            if self._doubtful or self._is_doubtful(last):
                await self._publish(_children_in(unsure), _signals_in(unsure), again=True)
            return
        events = [event for entry in entries for event in entry.commit.events]
        self._history.add(events, len(entries), sum(entry.size for entry in entries), entries[0].position)
        machine = self.machine = self._new_machine(self._info)
        machine.replay(history, unfinished=last.commit.more)
        if isinstance(machine.closing, ev.ContinuedAsNew):
            self._continued = machine.closing
        self._updates.restore(machine)
        for index in [index for index, step in self.steps.items() if index not in machine.pending]:
            self.steps.pop(index).cancel()
        doubtful = self._doubtful = self._doubtful or self._is_doubtful(last)
        begun = {id(operation) for operation in machine.begun}
        for operation in machine.pending.values():
            if id(operation) not in begun:
                self._follow(operation, maybe_scheduled=True)
        if not doubtful:
            self._alarms.scheduled(set(self._alarms.unscheduled))
        else:
            for event in unsure:
                operation = machine.pending.get(event.index) if isinstance(event, (ev.ActivityScheduled, ev.ActivityQueued)) else None
                if operation is not None and operation.remote and operation.due is None:
                    self._tasks_due[operation.index] = True
            begun = [child for child in _children_in(unsure) if child.index in machine.pending]
            await self._publish(begun, _signals_in(unsure), again=True)

    def _is_doubtful(self, last: Entry) -> bool:
        """Whether the effects of the last commit may never have been published."""
        if any(seq <= last.commit.cause for seq in self.unacked):
            return True
        own = (ev.TimerFired, ev.WaitTimedOut, ev.ActivityRetrying, ev.ActivityQueued, ev.ActivityCompleted, ev.ActivityFailed)
        return any(isinstance(event, own) for event in last.commit.decision)

    def _info_of(self, started: ev.Started) -> RunInfo:
        return RunInfo(
            workflow_id=self.workflow_id,
            task_queue=self.engine.task_queue,
            workflow_type=started.workflow_type,
            run=self._run,
            namespace=self.engine.namespace,
            generation=started.generation,
            parent=started.parent,
            origin=started.origin,
            started_at=started.at,
            expire=started.expire,
        )

    def machine_for(self, started: ev.Started) -> Machine:
        """A machine to look back with at the run that is known, none of whose decisions is carried out."""
        return self._new_machine(self._info_of(started))

    def _new_machine(self, info: RunInfo) -> Machine:
        definition = self.engine.workflows.get(info.workflow_type)
        if definition is None:
            known = ", ".join(sorted(self.engine.workflows)) or "none"
            message = f"workflow type {info.workflow_type!r} waits for a worker of task queue {info.task_queue!r} that has it; this one has: {known}"
            raise CannotGoOnError("UnknownWorkflowType", message, info)
        return Machine(definition, info, self.engine.max_payload)

    # ---- step 3: the code runs until it waits

    async def _apply(self) -> None:
        if self._continued is not None:
            await self._end_generation()
            self._next_generation(self._continued)
        applied = 0
        while self._mailbox and applied < BATCH and self._continued is None:
            command = self._mailbox.popleft()
            applied += 1
            if await self._apply_command(command):
                self._held.append(command)
        while self._outcomes and self._continued is None and self.machine is not None:
            outcome = self._outcomes.popleft()
            self._uncommitted.append(outcome)
            self._feed(outcome)
        self._fire_due()
        await self._match_signals()
        if self._updates.active and self.machine is not None:
            self._held += self._updates.match(self.machine)

    async def _apply_command(self, command: Command) -> bool:
        """Applies one command; True if it is to be acked with what it leads to, False if it was seen to otherwise.

        What is older than the run is acked at once, so that the start is always the first of those held.
        """
        payload = command.payload
        if command.seq <= self._cause or isinstance(payload, TimerCommand):
            self._told_closing = False  # perhaps a repeat: whoever waits for the end is told again
        if isinstance(payload, StartCommand):
            return await self._on_start(command, payload)
        if isinstance(payload, SignalCommand):
            return await self._on_signal(command, payload)
        if isinstance(payload, UpdateCommand):
            return await self._on_update(command, payload)
        by_hand = isinstance(payload, (CancelCommand, TerminateCommand))
        if self.machine is None and (self._closing is None or (by_hand and not await self._is_taken())):
            await self._on_stranger(command)
            self.engine.ack(command)
            return False
        if command.seq < self._run:
            self.engine.ack(command)  # a repeat of what was seen to before this run
            return False
        if isinstance(payload, TimerCommand):
            self._on_timer(command, payload)
        elif isinstance(payload, ChildNotice):
            self._on_child(command, payload)
        elif isinstance(payload, TaskOutcome):
            self._on_task_outcome(command.index, payload)
        elif self._is_meant(payload):
            if isinstance(payload, CancelCommand):
                self._feed(ev.CancelRequested(at=now_ms(), reason=payload.reason))
            elif self._closing is None:
                self._feed(terminated(payload))
            elif payload.descend and self._info is not None:  # it has ended, and what it started may go on
                await self.engine.end_children(self._info, await self._all_children(), descend=True)
        return True

    def _is_meant(self, payload: CancelCommand | TerminateCommand) -> bool:
        """Whether a command is for this run, and not for another one of the same id."""
        if payload.parent is not None and (self._info is None or self._info.parent != payload.parent):
            return False
        return payload.run is None or payload.run == self._run

    async def _all_children(self) -> list[ev.ChildStarted]:
        """Every child of the run, those of earlier generations too."""
        last = await self.engine.timeline.last(self.engine.queue_token, self.id_token)
        if last is None:
            return []
        return _children_of(await self.engine.timeline.run(self.engine.queue_token, self.id_token, last))

    async def _on_start(self, command: Command, start: StartCommand) -> bool:
        if self._run == command.seq or self._is_same_child(start):
            self._told_closing = False
            await self._tell_accepted(start.parent)
            return True  # a repeat: it goes on from where it is
        if await self._is_taken():
            await self.engine.refuse_start(self, start)
            return True
        if self._closing is not None:  # an earlier run, whose record has expired
            self._closing, self._told_closing, self._closed_children = None, False, []
            self._signals.reset()
            self._history, self._whole_at = History(), 0
        self._run = command.seq
        started = self.started_by(start)
        self._info = self._info_of(started)
        self.machine = self._new_machine(self._info)
        self._feed(started)
        self._accepted = start.parent
        cancel = await self._signals.load({})
        if cancel is not None:
            self._feed(ev.CancelRequested(at=now_ms(), reason=cancel))
        return True

    def started_by(self, start: StartCommand) -> ev.Started:
        """The first event of the run that a start makes."""
        definition = self.engine.workflows.get(start.workflow_type)
        single = definition.signature.single if definition is not None else False
        return ev.Started(
            at=now_ms(),
            workflow_type=start.workflow_type,
            input=args_from_body(start.body, single=single, told=start.told),
            parent=start.parent,
            origin=start.origin,
            expire=self.engine.default_expire if start.expire is msgspec.UNSET else start.expire,
            data=start.data,
            entity=start.entity,
        )

    def _is_same_child(self, start: StartCommand) -> bool:
        """Whether a start is the one that made this run, sent again by its parent."""
        return start.parent is not None and self._info is not None and start.parent == self._info.parent and self._run > 0

    async def _tell_accepted(self, parent: ev.Parent | None) -> None:
        """A parent that does not wait for the result waits for this."""
        if parent is not None and not parent.awaited:
            await self.engine.notify(parent, ChildNotice(run=parent.run, child=self.workflow_id, outcome="accepted", child_run=self._run))

    async def _is_taken(self) -> bool:
        """Whether a run has the id: until it has ended and its record has expired."""
        if self.machine is not None or self._closing is None:
            return self.machine is not None
        return not self._told_closing or await self.engine.states.get(self.engine.queue_token, self.id_token, fresh=True) is not None

    async def _on_signal(self, command: Command, signal: SignalCommand) -> bool:
        if self._closing is not None and await self._is_taken():
            return True  # the workflow has ended: nobody will ever wait for it
        if self.machine is None:
            await store_early(self.engine, self.id_token, early_signal(command, signal), now_ms())
            faults.reach("after_buffer")
            self.engine.ack(command)
            return False
        if command.seq < self._run:
            self.engine.ack(command)  # a repeat: it is in the bucket, or was there
            return False
        if command.seq <= self.machine.consumed.get(signal.name, 0) or self.machine.is_repeat(signal.name, signal.sender, signal.number):
            return True  # a repeat
        await self._signals.load(self.machine.consumed)
        return not self._signals.add(command, signal)

    async def _on_update(self, command: Command, update: UpdateCommand) -> bool:
        if self.machine is None or command.seq < self._run:
            await self._updates.on_ended(command, update, self._closing if self.machine is None else ev.Terminated(at=0, reason=""))
            self.engine.ack(command)
            return False
        self._held += self._updates.match(self.machine)
        return self._updates.on_command(command, update, self.machine)

    async def _on_stranger(self, command: Command) -> None:
        """A command for a workflow that was never started, or whose record is long gone."""
        payload = command.payload
        if isinstance(payload, (CancelCommand, TerminateCommand)) and payload.parent is not None:
            return  # a parent's child that never began, or is long gone
        if isinstance(payload, CancelCommand):
            reason = msgspec.Raw(msgspec.json.encode(payload.reason))
            expires = command.delivery.stored_ms + DEFAULT_EXPIRE_MS
            await store_early(self.engine, self.id_token, EarlySignal("cancel", command.seq, expires, reason), now_ms(), CANCEL)
        elif isinstance(payload, TerminateCommand):
            await self.engine.dead_letter(command.delivery, f"there is no workflow {self.workflow_id!r} to terminate")

    def _on_timer(self, command: Command, timer: TimerCommand) -> None:
        due = self._alarms.due_at(timer.index)
        if timer.run == self._run and due is not None and due <= min(timer.due, command.delivery.stored_ms):
            self._alarms.hasten(timer.index)  # due by the broker's clock, whatever ours says

    def _on_child(self, command: Command, notice: ChildNotice) -> None:
        operation = self.machine.pending.get(command.index) if self.machine is not None else None
        if operation is None or notice.run != self._run:
            return
        if not isinstance(operation.event, ev.ChildStarted) or operation.event.workflow_id != notice.child:
            return
        at, index = now_ms(), command.index
        if notice.outcome == "accepted":
            self._feed(ev.ChildAccepted(index=index, at=at, run=notice.child_run))
        elif notice.outcome == "completed":
            self._feed(ev.ChildCompleted(index=index, at=at, result=notice.result))
        else:
            self._feed(ev.ChildFailed(index=index, at=at, failure=notice.failure or Failure("UnknownFailure")))

    def _on_task_outcome(self, index: int, outcome: TaskOutcome) -> None:
        operation = self.machine.pending.get(index) if self.machine is not None else None
        if operation is None or not operation.remote or outcome.run != self._run or outcome.attempt != operation.attempt + 1:
            return  # a repeat, or too late
        self._feed(event_of(outcome, operation))
        if index not in self.machine.pending:  # type: ignore[union-attr]
            self._forget_alarm(index)

    def _feed(self, event: Any) -> None:
        machine = self.machine
        if machine is None or self._continued is not None or not machine.feed(event):
            return
        if isinstance(event, ev.ActivityRetrying):
            self._alarms.watch(event.index, event.due)
        if isinstance(machine.closing, ev.ContinuedAsNew):
            self._continued = machine.closing

    def _fire_due(self) -> None:
        machine, now = self.machine, now_ms()
        if machine is None or self._continued is not None:
            return
        for index in self._alarms.pop_due(now):
            operation = machine.pending.get(index)
            if operation is None:
                continue
            at = max(now, operation.due or 0)
            operation.due = None
            if isinstance(operation.event, ev.TimerStarted):
                self._feed(ev.TimerFired(index=index, at=at))
            elif isinstance(operation.event, ev.WaitStarted):
                self._feed(ev.WaitTimedOut(index=index, at=at))
            elif not operation.remote:
                self._launch(operation)
            elif (closes := closes_at(operation)) is not None and closes <= now:
                self._feed(out_of_time(operation, at))
                self.engine.dispatch.end(machine.info, [operation], closed=False)
            else:
                self._queue(operation, again=True)

    async def _match_signals(self) -> None:
        """Gives buffered signals to the waits they are for, oldest first."""
        machine = self.machine
        if machine is None or not machine.waits:
            return
        await self._signals.load(machine.consumed)
        progress = True
        while progress and self._continued is None:
            progress = False
            for name in list(machine.waits):
                operation = machine.waiter(name)
                item = self._signals.take(name, operation.event.at) if operation is not None else None
                if item is None or operation is None:
                    continue
                progress = True
                if item.command is not None:
                    self._held.append(item.command)
                got = item.signal
                if machine.is_repeat(got.signal, got.sender, got.number):
                    continue
                self._feed(ev.Signaled(operation.index, now_ms(), got.signal, got.seq, got.data, got.sender, got.number))

    async def _end_generation(self) -> None:
        """The children of a generation end with it, as their policy says; telling them again after a crash changes nothing."""
        if self.machine is not None and self.machine.children:
            await self.engine.end_children(self.machine.info, self.machine.children, descend=False)
            faults.reach("after_notice")

    def _next_generation(self, closing: ev.ContinuedAsNew) -> None:
        before = self.machine
        assert before is not None
        started = ev.Started(
            at=max(now_ms(), before.now),
            workflow_type=closing.workflow_type,
            input=closing.input,
            parent=before.info.parent,
            origin=before.info.origin,
            expire=before.info.expire,
            generation=before.info.generation + 1,
            **before.carried_over(),
        )
        self._info = self._info_of(started)
        self.machine = self._new_machine(self._info)
        self._continued = None
        self._feed(started)

    # ---- step 4: the commit

    async def _commit(self) -> None:
        machine = self.machine
        if machine is None or not machine.decided:
            self._uncommitted.clear()
            if self._updates.active:
                self._updates.committed(())
            return
        for operation in machine.begun:
            if not operation.remote and type(operation.event) is ev.ActivityScheduled and not self.engine.runner.knows(operation.event.name):
                self._feed(ev.ActivityQueued(index=operation.index, at=now_ms()))
        decided, begun, ended, sent = machine.take()
        cause = max([self._cause, *(command.seq for command in self._held)])
        closes = isinstance(machine.closing, ev.CLOSING)
        whole = self._history.whole(self._run, cause, decided) if closes else None
        bodies = self._bodies(decided, cause) if whole is None else [whole]
        position = 0
        for body in bodies:
            self.engine.check_ownership(self)
            faults.reach("before_commit")
            position = await self.engine.timeline.append(self.engine.queue_token, self.id_token, self._seq + 1, body)
            self.engine.check_ownership(self)  # a late owner may have hit a key that compaction removed: nothing of it may follow
            self._seq += 1
            faults.reach("after_commit")
        if closes and (whole is not None or self._history.keys + len(bodies) == 1):
            self._whole_at = position
        else:
            self._history.add(decided, len(bodies), sum(len(body) for body in bodies), position)
        self._cause = cause
        self._uncommitted.clear()
        if self._updates.active:
            self._updates.committed(decided)
        if self.dirty_since is None:
            self.dirty_since = time.monotonic()
            self.engine.note_dirty(self)
        if machine.closing is not None and not isinstance(machine.closing, ev.ContinuedAsNew):
            self._closing = machine.closing
            self._closed_children = machine.children
            if isinstance(machine.closing, ev.Terminated) and machine.closing.descend and machine.info.generation > 1:
                self._closed_children = await self._all_children()
        await self._effects(machine, begun, ended, sent)

    def _bodies(self, events: list[Any], cause: int, *, more: bool = False) -> list[bytes]:
        """The commit's bytes, over several keys where it is too large for one message."""
        body = ev.encode_commit(ev.Commit(run=self._run, cause=cause, events=events, more=more))
        if len(body) <= self.engine.max_commit or len(events) == 1:
            return [body]
        half = len(events) // 2
        return self._bodies(events[:half], cause, more=True) + self._bodies(events[half:], cause, more=more)

    # ---- step 5: the effects

    async def _effects(self, machine: Machine, begun: list[Operation], ended: list[Operation], sent: list[ev.SignalSent]) -> None:
        await self._publish([operation.event for operation in begun if isinstance(operation.event, ev.ChildStarted)], sent)
        faults.reach("after_effects")
        self._signals.flush_removals()
        for operation in ended:
            step = self.steps.pop(operation.index, None)
            if step is not None:
                step.cancel()
            self._forget_alarm(operation.index)
        if any(operation.remote for operation in ended):
            self.engine.dispatch.end(machine.info, [operation for operation in ended if operation.remote], closed=self._closing is not None)
        for operation in begun:
            if operation.index in machine.pending:
                self._follow(operation)

    async def _publish(self, children: list[ev.ChildStarted], sent: list[ev.SignalSent], *, again: bool = False) -> None:
        accepted, self._accepted = self._accepted, None
        await self._tell_accepted(accepted)
        if self._closing is not None:  # a child that would only be terminated need not begin
            children = [child for child in children if child.parent_close_policy != "terminate"]
        if (children or sent) and self._info is not None:
            info = self._info
            starts = [self.engine.start_child(info, child, check_first=again) for child in children]
            await asyncio.gather(*starts, self.engine.send_signals(info, sent))

    async def _publish_tasks(self) -> None:
        """Attempts for other workers, once all that led to them is committed."""
        due, self._tasks_due = self._tasks_due, {}
        machine = self.machine
        if machine is not None and machine.closing is None:
            wanted = [(machine.pending[index], again) for index, again in due.items() if index in machine.pending]
            await self.engine.dispatch.publish(machine.info, wanted)

    def _forget_alarm(self, index: int) -> None:
        if self._alarms.forget(index):
            self.engine.background(self.engine.timers.cancel(self.engine.queue_token, self.id_token, index))

    def _follow(self, operation: Operation, *, maybe_scheduled: bool = False) -> None:
        """Sees to a pending operation in this process: runs the activity, watches the clock."""
        if operation.due is not None:
            self._alarms.watch(operation.index, operation.due, maybe_scheduled=maybe_scheduled)
        elif operation.remote:
            if not maybe_scheduled:
                self._queue(operation, again=False)
            elif (closes := closes_at(operation)) is not None:
                self._alarms.watch(operation.index, closes, maybe_scheduled=True)
        elif isinstance(operation.event, ev.ActivityScheduled):
            self._launch(operation)

    def _queue(self, operation: Operation, *, again: bool) -> None:
        """The next attempt is for whoever takes its task, for as long as it may take."""
        self._tasks_due[operation.index] = again
        closes = closes_at(operation)
        if closes is not None:
            self._alarms.watch(operation.index, closes)

    def _launch(self, operation: Operation) -> None:
        index, scheduled = operation.index, operation.event
        if index in self.steps or self.draining or any(outcome.index == index for outcome in self._outcomes):
            return
        if not self.engine.runner.knows(scheduled.name):
            self._feed(ev.ActivityQueued(index=index, at=now_ms()))
            self._queue(operation, again=False)
            return
        info = ActivityInfo(scheduled.name, self.workflow_id, self.engine.task_queue, str(self._run), index)
        options = operation.options if operation.options is not None else ActivityOptions()
        self.steps[index] = asyncio.create_task(self._step(scheduled, options, info, operation))

    async def _step(self, scheduled: ev.ActivityScheduled, options: ActivityOptions, info: ActivityInfo, operation: Operation) -> None:
        outcome = await self.engine.runner.run(scheduled, options, info, operation.attempt, operation.details)
        if self.steps.pop(scheduled.index, None) is not None and self._alive:
            self._outcomes.append(outcome)
            self.wake()

    # ---- steps 6 and 7: the state, the ack

    async def _rest(self) -> None:
        if self._continued is not None:
            return
        if self._closing is not None:
            await self._rest_closed()
        elif self.machine is None:
            held, self._held = self._held, []
            self._ack(held)
            if not self._mailbox:
                self.drop()
        else:
            self._alarms.arm()
            if self.draining or self.steps or self._outcomes or self._lingers():
                await self._rest_busy(self.machine)
            elif not self._mailbox:
                await self._rest_durably(self.machine)

    def _lingers(self) -> bool:
        """True when the next timer is so near that it is better waited for here, with a command un-acked."""
        due = self._alarms.next_due()
        return bool(self._held) and due is not None and due - now_ms() < LINGER_MS

    async def _rest_busy(self, machine: Machine) -> None:
        """Work is under way here: one un-acked command stays to wake the next owner, the others can go."""
        if self._signals.unstored > MAX_UNSTORED:
            await self._signals.store()
        if self._state_wanted:
            await self._put_state(machine)
        others = self._held[1:]
        del self._held[1:]
        self._ack(others)

    async def _rest_durably(self, machine: Machine) -> None:
        """Only timers, signals and children are waited for: the broker alone will wake this workflow."""
        unscheduled = set(self._alarms.unscheduled)
        if unscheduled:
            queue = self.engine.queue_token
            dues = [(index, self._alarms.due_at(index) or 0) for index in unscheduled]
            await asyncio.gather(*(self.engine.timers.schedule(queue, self.id_token, self._run, index, due) for index, due in dues))
            self._alarms.scheduled(unscheduled)
            faults.reach("after_schedule")
        await self._signals.store()
        if self._updates.active:
            self._held += self._updates.refuse_early(machine)
        if self.dirty_since is not None or self._state_wanted or self._doubtful:
            await self._put_state(machine)
        self._doubtful = False
        self._history.rest()
        held, self._held = self._held, []
        self._ack(held)
        self.engine.note_idle(self)

    async def _put_state(self, machine: Machine) -> None:
        await self.engine.states.put(running_record(machine, self._seq, self.engine.worker_id))
        self.dirty_since, self._state_wanted = None, False
        faults.reach("after_state")

    async def _rest_closed(self) -> None:
        """The run has ended: whoever waits is told, then its commands are acked."""
        newly, before = not self._told_closing, self.machine is None
        if not self._told_closing and self._info is not None:
            await self.engine.tell_closing(self._info, self._closing, self._closed_children)
            faults.reach("after_notice")
            if self.machine is not None or await self._record_is_behind():
                await self.engine.states.put(closed_record(self._info, self._closing, self._seq, self.engine.worker_id, await self._data_at_end()))
            faults.reach("after_state")
            self._told_closing = True
            if self._doubtful or self.machine is None:
                self.engine.background(self.engine.timers.cancel_all(self.engine.queue_token, self.id_token))
        self._held += self._signals.discard()
        if self._updates.active:
            self._held += self._updates.end(self._closing)
        held, self._held = self._held, []
        self._ack(held)
        if newly and self._seq > 1 and self._history.fits:
            self.engine.compaction.add(Closed(self.id_token, self._seq, self._whole_at, self._history.first))
        if not self._mailbox:
            if before:
                self.engine.background(revisit(self.engine, self.id_token))
            self.drop()

    async def _data_at_end(self) -> UserData | None:
        """What the run told about itself last; a run that is not in memory any more is replayed for it, where that is possible."""
        if self.machine is not None:
            return self.machine.data
        try:
            machine = await replay_end(self)
        except (NondeterminismError, CannotGoOnError) as error:
            log.warning("the user data of workflow %s cannot be told any more: %s", self.workflow_id, error)
            return None
        data = None if machine is None else machine.data
        if machine is not None:
            machine.release()
        return data

    async def _record_is_behind(self) -> bool:
        """For a repeated end: False if the record was written, or was written and has expired since."""
        record = await self.engine.states.get(self.engine.queue_token, self.id_token, fresh=True)
        if record is None:
            expire = self._closing.expire if isinstance(self._closing, ev.Terminated) else self._info.expire if self._info else None
            return expire is None or now_ms() - self._closing.at < expire
        return not record.closed

    def _ack(self, commands: list[Command]) -> None:
        if commands:
            faults.reach("before_ack")
        for command in commands:
            self.engine.ack(command)

    # ---- parking

    async def _give_up(self, reason: str, message: str, info: RunInfo | None) -> None:
        """Its code cannot go on here: it is parked, unless it is to be ended anyway."""
        try:
            if not await end_unseen(self):
                await self._park(reason, message, info)
                return
        except BrokerError as error:
            log.warning("workflow %s could not be terminated yet: %s", self.workflow_id, error)
            await asyncio.sleep(BROKER_TROUBLE)
        self._start_over()

    def waiting_terminate(self) -> Command | None:
        """The first command here, not acked, that is to end this run."""
        known = (self.unacked[seq] for seq in sorted(self.unacked))
        return next((command for command in known if isinstance(command.payload, TerminateCommand) and self._is_meant(command.payload)), None)

    def _unpark(self) -> None:
        self.parked = False
        self.engine.unacked += len(self.unacked)
        self._start_over()

    async def _park(self, reason: str, message: str, info: RunInfo | None) -> None:
        """It cannot go on here. Its commands stay un-acked for a worker that can; the state says why."""
        self.parked = True
        self._questions.refuse(f"the workflow is parked: {reason}: {message}")
        log.error("workflow %s is parked: %s: %s", self.workflow_id, reason, message)
        for step in self.steps.values():
            step.cancel()
        self.steps.clear()
        self._alarms.clear()
        if self.machine is not None:
            self.machine.dispose()
            self.machine = None
        await self.engine.on_parked(self, info or self._info_of_pending_start(), self._seq, reason, message)

    def _info_of_pending_start(self) -> RunInfo | None:
        """For a run that failed before it began."""
        for seq, command in sorted(self.unacked.items()):
            if isinstance(command.payload, StartCommand):
                return RunInfo(self.workflow_id, self.engine.task_queue, command.payload.workflow_type, seq, started_at=now_ms())
        return None


def _last_decision(entries: list[Entry]) -> list[Any]:
    """Events of the last commit, which may be spread over several keys: those whose effects a crash may have kept back."""
    if getattr(entries[-1].commit, "compacted", False):
        return []  # its effects were seen to before
    first = len(entries) - 1
    while first > 0 and entries[first - 1].commit.more:
        first -= 1
    return [event for entry in entries[first:] for event in entry.commit.decision]


def _children_in(events: list[Any]) -> list[ev.ChildStarted]:
    return [event for event in events if isinstance(event, ev.ChildStarted)]


def _signals_in(events: list[Any]) -> list[ev.SignalSent]:
    return [event for event in events if isinstance(event, ev.SignalSent)]


def _children_of(entries: list[Entry]) -> list[ev.ChildStarted]:
    return [child for entry in entries for child in _children_in(entry.commit.events)]

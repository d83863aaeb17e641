"""One workflow in its owner's memory: what the owner knows of it, and how that changes.

The steps of a turn (``turn.py``) read an actor's parts. Only the methods of the actor and of its parts change a field.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

from jetflow.core import events as ev
from jetflow.core.machine import Machine
from jetflow.core.operation import RunInfo
from jetflow.engine.activities.inflight import Steps
from jetflow.engine.calls.questions import Question, Questions
from jetflow.engine.calls.updates import Updates
from jetflow.engine.commands import Command
from jetflow.engine.context import Context
from jetflow.engine.ownership.tenure import Tenure
from jetflow.engine.services import Services
from jetflow.engine.signals.buffer import SignalBuffer
from jetflow.engine.signals.by_id import SignalsById
from jetflow.engine.turn import code
from jetflow.engine.turn.addressing import ending_command
from jetflow.engine.turn.alarms import Alarms
from jetflow.engine.turn.mailbox import Mailbox
from jetflow.engine.turn.run import Run
from jetflow.protocol import clock


class Keeper(Protocol):
    """What an actor needs of the object that holds it in memory."""

    def drive(self, actor: Actor) -> Coroutine[Any, Any, None]:
        """Run the actor's turns until there is nothing to do."""
        ...

    def forget(self, actor: Actor) -> None:
        """Remove the actor from memory."""

    def note_idle(self, actor: Actor) -> None:
        """Note that the actor rests. It may leave memory when there are too many."""

    def note_dirty(self, actor: Actor) -> None:
        """Note that the actor's state record is behind its timeline."""


class Actor:
    """One workflow id on one task queue, under one tenure. All of it runs on the worker's event loop, one step at a time.

    Args:
        keeper: holds the actor in memory, and runs its turns.

    Attributes:
        machine: the workflow's code; None while there is no run, or its code is not in memory.
        run: what the owner knows of the timeline.
        mailbox, steps: the workflow's commands, and its local activities.
        parked, gone: whether the workflow's code cannot continue on this worker, and whether the actor has left memory.
        running: whether the actor's turns are running.
        doubtful: whether effects of the last commit may be missing after a crash.
        dirty_since: since when the state record is behind (monotonic, s); None if it is not.
        state_wanted: whether to write the record while work goes on.
    """

    def __init__(self, services: Services, tenure: Tenure, keeper: Keeper, *, id_token: str, workflow_id: str, partition: int) -> None:
        self.services = services
        self.context: Context = services.context
        self.tenure = tenure
        self.id_token = id_token
        self.workflow_id = workflow_id
        self.partition = partition
        self.machine: Machine | None = None
        self.run: Run = Run()
        self.mailbox: Mailbox = Mailbox(tenure.ack)
        self.steps: Steps = Steps(services.inflight, id_token, partition, self._may_begin, self.wake)
        self.signals: SignalBuffer = SignalBuffer(tenure, id_token, self.mailbox.ack)
        self.by_id: SignalsById = SignalsById(tenure, id_token)
        self.alarms: Alarms = Alarms(self.wake)
        self.updates: Updates | None = None
        self.questions: Questions | None = None
        self.parked: bool = False
        self.running: bool = False
        self.gone: bool = False
        self.doubtful: bool = False
        self.dirty_since: float | None = None
        self.state_wanted: bool = False
        self._keeper = keeper
        self._waiting: asyncio.Future[None] | None = None

    # ---- what is known

    @property
    def draining(self) -> bool:
        """Whether the workflow is about to move to another worker. Nothing new begins then."""
        return self.partition in self.tenure.leaving

    @property
    def idle(self) -> bool:
        """Whether no work of the workflow is under way in this process."""
        return not (self.running or self.steps.under_way or self.steps.outcomes)

    @property
    def evictable(self) -> bool:
        """Whether the actor may leave memory, since the broker has everything."""
        return self.idle and not self.mailbox.unacked and not self.parked

    def _may_begin(self) -> bool:
        """Return whether attempts may begin: the tenure lasts, and the code has not ended, committed or not."""
        return (self.machine is None or self.machine.closing is None) and self.tenure.lasts()

    # ---- what comes to it, and wakes it

    def receive(self, command: Command) -> None:
        """Accept a command. The next turn applies it."""
        if not self.mailbox.receive(command):
            return
        if self.parked and ending_command(self.mailbox, self.run) is not None:
            self._unpark()
        self.wake()

    def ask(self, question: Question) -> None:
        """Answer a query after the current turn, from what is committed by then."""
        self.questions = self.questions or Questions(self.context.broker.wire, self.workflow_id, self.context.task_queue)
        self.questions.add(question)
        if self.parked:
            self.questions.refuse("the workflow is parked; its state record says why")
        else:
            self.wake()

    def show_state(self) -> None:
        """Write the state record in the next turn, also while work goes on."""
        self.state_wanted = True
        self.wake()

    def wake(self) -> None:
        """Make the actor's turns run."""
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self.running = True
            if not waiting.done():
                waiting.set_result(None)
        elif not self.running and not self.gone and not self.parked:
            self.running = True
            self.context.background.spawn(self._keeper.drive(self))

    def pause(self) -> asyncio.Future[None]:
        """Return a future that is resolved when there is something to do again."""
        self.running = False
        self._waiting = self.context.loop.create_future()
        return self._waiting

    def stopped(self) -> None:
        """Note that the actor's turns have stopped."""
        self.running = False
        self._waiting = None
        if self.gone:
            self._put_away()

    def drop(self) -> None:
        """Remove the actor from memory, since the broker has everything. The next command rebuilds it."""
        if self.gone:
            return
        assert not self.steps.under_way, "the actor is dropped while activities are under way"
        self._keeper.forget(self)
        self.leave()

    def leave(self) -> None:
        """Mark the actor as gone and release what it holds. A turn under way ends when it next checks the tenure, or at its own end."""
        if self.gone:
            return
        self.gone = True
        self.steps.close()
        self.alarms.close()
        if self._waiting is not None:
            self.wake()
        elif not self.running:
            self._put_away()

    def _put_away(self) -> None:
        """Drop the parts that refer back to the actor, so that its memory is free without the garbage collector."""
        if self.machine is not None:
            self.machine.release()
            self.machine = None
        self.updates = self.questions = None

    def start_over(self) -> None:
        """Rebuild the actor from the timeline in the next turn. Activities under way go on; the rebuilt actor adopts them."""
        self._dispose()
        self.steps.start_over()
        self.run = Run()
        self.doubtful = True
        self.alarms.clear()
        self.signals.reset()
        self.by_id.reset()
        self.updates = None
        self.mailbox.start_over()

    # ---- its code

    def begin_run(self, number: int, started: ev.Started) -> None:
        """Begin a run with its first event."""
        self.run.begin(number, started.parent)
        self._load_code(started)
        self.feed(started)

    def begin_generation(self, started: ev.Started) -> Machine:
        """Begin the generation that follows the current one."""
        machine = self._load_code(started)
        self.run.go_on_as_new(None)
        self.feed(started)
        return machine

    def replay(self, history: list[list[Any]], *, unfinished: bool) -> Machine:
        """Bring the code to the point that the timeline has reached. See ``Machine.replay``."""
        machine = self._load_code(history[0][0])
        machine.replay(history, unfinished=unfinished)
        if isinstance(machine.closing, ev.ContinuedAsNew):
            self.run.go_on_as_new(machine.closing)
        if machine.handlers is not None:
            self.take_updates().restore(machine.handlers)
        return machine

    def _load_code(self, started: ev.Started) -> Machine:
        info = self.info_of(started)
        self.run.begin_generation(info)
        machine = self.machine = code.load(self.services, info)
        return machine

    def take_updates(self) -> Updates:
        """Return the workflow's updates. The first call creates them."""
        if self.updates is None:
            self.updates = Updates(self.context.broker.wire, self.workflow_id, self.feed, self.mailbox.ack)
        return self.updates

    def info_of(self, started: ev.Started) -> RunInfo:
        """Return the ``RunInfo`` of the known run, for the generation that an event begins."""
        return code.info_of(self.context, self.workflow_id, self.run.number, started)

    def feed(self, event: Any) -> None:
        """Pass an event to the code. Ignore one that the code no longer waits for."""
        machine = self.machine
        if machine is None or self.run.continued is not None or not self.steps.feed(machine, event):
            return
        if isinstance(event, ev.ActivityRetrying):
            self.alarms.watch(event.index, event.due)
        if isinstance(machine.closing, ev.ContinuedAsNew):
            self.run.go_on_as_new(machine.closing)

    def forget_run(self) -> None:
        """Forget a run that has ended, so that another one of the id can begin."""
        if self.machine is not None:
            self.machine.release()
            self.machine = None
        self.run.forget_end()
        self.signals.reset()

    def _dispose(self) -> None:
        if self.machine is not None:
            self.machine.dispose()
            self.machine = None

    # ---- its state record, and its doubtful effects

    def note_busy(self) -> None:
        """Note that the state record is behind. The sweep writes it if the work takes long."""
        if self.dirty_since is None:
            self.dirty_since = clock.monotonic()
            self._keeper.note_dirty(self)

    def record_written(self) -> None:
        """Note that the state record is up to date."""
        self.dirty_since, self.state_wanted = None, False

    def doubt(self, doubtful: bool) -> None:
        """Note whether effects of the last commit may be missing after a crash."""
        self.doubtful = doubtful

    def rested(self) -> None:
        """Note that the broker has everything, and that only the broker wakes the workflow."""
        self._keeper.note_idle(self)

    # ---- parking

    def park(self, why: str) -> None:
        """Stop, since the code cannot continue here. The commands stay un-acked for a worker that can, and no longer count as credit."""
        self.parked = True
        if self.questions is not None:
            self.questions.refuse(f"the workflow is parked: {why}")
        self.steps.cancel_all()
        self.alarms.clear()
        self._dispose()
        self.tenure.free_credit(self.mailbox.unacked)

    def _unpark(self) -> None:
        """Try again from the timeline."""
        self.parked = False
        for seq in self.mailbox.unacked:
            self.tenure.take_credit(seq)
        self.start_over()

"""One workflow in its owner's memory, and the seven steps that a command goes through.

    1  it is stored in the inbox (the publisher's ack)
    2  it reaches the actor's mailbox; the actor is rebuilt from its timeline if it is not in memory   ``opening``
    3  the workflow's code runs until it waits                                                         ``applying``
    4  what was decided is committed: one new timeline key                                             ``committing``
    5  the effects follow: children, signals, activities, timers                                       ``effects``
    6  the state record is written where a person would see a difference                               ``resting``
    7  the command is acked once only durable things are waited for                                    ``resting``

A command is acked late on purpose: while there is work in this process, some un-acked command wakes the next owner.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from jetflow.broker.fencing.fence import TenureOverError
from jetflow.broker.stores.timeline import UnreadableTimelineError
from jetflow.core import events as ev
from jetflow.core.machine import Machine
from jetflow.core.operation import RunInfo
from jetflow.engine import faults
from jetflow.engine.activities.inflight import Step
from jetflow.engine.calls.queries import Question, Questions
from jetflow.engine.calls.updates import Updates
from jetflow.engine.commands import Command
from jetflow.engine.signals.buffer import SignalBuffer
from jetflow.engine.signals.by_id import SignalsById
from jetflow.engine.turn.alarms import Alarms
from jetflow.engine.turn.applying import apply
from jetflow.engine.turn.committing import commit
from jetflow.engine.turn.effects import publish_tasks
from jetflow.engine.turn.ending import waiting_terminate
from jetflow.engine.turn.opening import open_actor
from jetflow.engine.turn.parking import give_up, unpark
from jetflow.engine.turn.resting import rest
from jetflow.engine.turn.run import BROKER_TROUBLE, LOOK_AGAIN, CannotGoOnError, Run, Standing
from jetflow.errors import BrokerError, BrokerUnavailableError, ConflictError, NondeterminismError
from jetflow.protocol.clock import now_ms

if TYPE_CHECKING:
    from jetflow.engine.engine import Engine
    from jetflow.engine.ownership.tenure import Tenure

log: logging.Logger = logging.getLogger("jetflow.worker")


class Actor:
    """One workflow id on one task queue, as one tenure has it. All of it runs on the worker's event loop, one step at a time."""

    def __init__(self, tenure: Tenure, id_token: str, workflow_id: str, partition: int) -> None:
        self.tenure = tenure
        self.engine: Engine = tenure.engine
        self.id_token = id_token
        self.workflow_id = workflow_id
        self.partition = partition
        self.machine: Machine | None = None
        self.parked = False
        self.running = False
        self.steps: dict[int, Step] = {}
        self.unacked: dict[int, Command] = {}
        self.dirty_since: float | None = None
        self.state_wanted = False
        self.gone = False
        self.newest: int = 0
        self._waiting: asyncio.Future[None] | None = None
        self.run: Run = Run()
        self.doubtful = False
        self.mailbox: deque[Command] = deque()
        self.held: list[Command] = []
        self.outcomes: deque[Any] = deque()
        self.uncommitted: list[Any] = []
        self.signals: SignalBuffer = SignalBuffer(tenure, id_token)
        self.by_id: SignalsById = SignalsById(tenure, id_token)
        self.updates: Updates | None = None
        self.questions: Questions | None = None
        self.alarms: Alarms = Alarms(self.wake)

    @property
    def standing(self) -> Standing:
        """What is known of the workflow: "not looked at", "there is none" and "taken away" are never taken for each other."""
        if self.gone:
            return Standing.TAKEN_AWAY
        if not self.run.loaded:
            return Standing.NOT_LOADED
        if self.run.closing is not None:
            return Standing.ENDED
        return Standing.RUNNING if self.machine is not None else Standing.NO_WORKFLOW

    @property
    def is_closing(self) -> bool:
        """Whether its code has come to an end, which may not be committed yet."""
        return self.machine is not None and self.machine.closing is not None

    @property
    def draining(self) -> bool:
        """Whether another worker is to have it: nothing new begins."""
        return self.partition in self.tenure.leaving

    def receive(self, command: Command) -> None:
        """Step 2. A command that is here already came again: only its ack address is new."""
        known = self.unacked.get(command.seq)
        if known is not None:
            known.delivery.reply = command.delivery.reply
            return
        command.actor = self
        self.newest = max(self.newest, command.seq)
        self.unacked[command.seq] = command
        self.mailbox.append(command)
        if self.parked and waiting_terminate(self) is not None:
            unpark(self)
        self.wake()

    def ask(self, question: Question) -> None:
        """A query: it is answered after the present turn, from what is committed by then."""
        self.questions = self.questions or Questions(self)
        self.questions.add(question)
        if self.parked:
            self.questions.refuse("the workflow is parked, its state says why")
        else:
            self.wake()

    def on_outcome(self, step: Step) -> None:
        """A local activity has come to an outcome."""
        if not self.gone:
            self.outcomes.append(step.outcome)
            self.wake()

    def wake(self) -> None:
        """Makes sure that somebody drives."""
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self.running = True
            if not waiting.done():
                waiting.set_result(None)
        elif not self.running and not self.gone and not self.parked:
            self.running = True
            self.engine.spawn(self._drive())

    def show_state(self) -> None:
        """Asks for the state record to be written though work goes on."""
        self.state_wanted: bool = True
        self.wake()

    @property
    def idle(self) -> bool:
        """True when nothing of it is under way in this process."""
        return not (self.running or self.steps or self.outcomes)

    @property
    def evictable(self) -> bool:
        """True when the broker alone has all of it."""
        return self.idle and not self.unacked and not self.parked

    def drop(self) -> None:
        """Forgets it, without a trace outside, since the broker has all of it; the next command rebuilds it."""
        if self.gone:
            return
        assert not self.steps, "a workflow with activities under way is dropped"
        self.tenure.actors.forget(self)
        self.leave()

    def leave(self) -> None:
        """It is taken away, or forgotten. A turn that is under way ends at its next look at the tenure, or at its end."""
        if self.gone:
            return
        self.gone: bool = True
        self.engine.inflight.orphan(self)
        self.alarms.close()
        if self._waiting is not None:
            self.wake()
        elif not self.running:
            self._put_away()

    def _put_away(self) -> None:
        """Nobody drives it any more: parts that know it are let go, so that none of it waits for the garbage collector."""
        if self.machine is not None:
            self.machine.release()
            self.machine = None
        self.updates = self.questions = None

    async def _drive(self) -> None:
        try:
            while not self.gone and not self.parked:
                await self._turn()
                if self._has_input():
                    continue
                if not self.steps:
                    break
                self.running = False
                self._waiting = self.engine.loop.create_future()
                await self._waiting
        except TenureOverError as over:
            log.debug("workflow %s is left to its next owner: %s", self.workflow_id, over)
            self.leave()
        except asyncio.CancelledError:
            self.leave()
            raise
        finally:
            self.running: bool = False
            self._waiting = None
            if self.gone:
                self._put_away()

    async def _turn(self) -> None:
        try:
            if not self.run.loaded:
                await open_actor(self)
            await apply(self)
            await commit(self)
            if self.by_id.is_due(self.machine):
                await self.by_id.settle(self.machine)
            if self.run.tasks_due:
                await publish_tasks(self)
            if self.questions and self.run.continued is None:
                await self.questions.answer(self.machine, closed=self.run.closing is not None)
            await rest(self)
        except TenureOverError:
            raise
        except UnreadableTimelineError as error:
            await give_up(self, "UnreadableTimeline", str(error), self.run.info)
        except ConflictError as problem:
            log.debug("workflow %s is rebuilt: %s", self.workflow_id, problem)
            self.start_over()
        except BrokerUnavailableError as problem:
            log.debug("workflow %s is rebuilt: %s", self.workflow_id, problem)
            self.start_over()
            await asyncio.sleep(LOOK_AGAIN)
        except NondeterminismError as error:
            await give_up(self, "NondeterminismError", str(error), self.run.info)
        except CannotGoOnError as error:
            await give_up(self, error.reason, str(error), error.info)
        except BrokerError as error:
            log.warning("workflow %s tries again: %s", self.workflow_id, error)
            self.start_over()
            await asyncio.sleep(BROKER_TROUBLE)
        except Exception as error:
            log.exception("workflow %s cannot go on", self.workflow_id)
            await give_up(self, type(error).__name__, str(error), self.run.info)

    def _has_input(self) -> bool:
        due = self.alarms.next_due()
        return bool(
            self.mailbox
            or self.outcomes
            or self.state_wanted
            or self.questions
            or self.run.continued is not None
            or (due is not None and due <= now_ms())
            or not self.run.loaded
        )

    def start_over(self) -> None:
        """After an outcome that was lost only the timeline counts. Activities under way here go on, to be adopted by what is rebuilt."""
        if self.machine is not None:
            self.machine.dispose()
            self.machine = None
        self.engine.inflight.orphan(self)
        self.run = Run()
        self.doubtful: bool = True
        self.alarms.clear()
        self.signals.reset()
        self.by_id.reset()
        self.updates = None
        self.held.clear()
        self.mailbox = deque(self.unacked[seq] for seq in sorted(self.unacked))
        self.outcomes.clear()
        self.uncommitted.clear()

    def info_of(self, started: ev.Started) -> RunInfo:
        return RunInfo(
            workflow_id=self.workflow_id,
            task_queue=self.engine.task_queue,
            workflow_type=started.workflow_type,
            run=self.run.number,
            namespace=self.engine.namespace,
            generation=started.generation,
            parent=started.parent,
            origin=started.origin,
            started_at=started.at,
            expire=started.expire,
        )

    def machine_for(self, started: ev.Started) -> Machine:
        """A machine to look back with at the run that is known, none of whose decisions is carried out."""
        return self.new_machine(self.info_of(started))

    def new_machine(self, info: RunInfo) -> Machine:
        definition = self.engine.workflows.get(info.workflow_type)
        if definition is None:
            known = ", ".join(sorted(self.engine.workflows)) or "none"
            message = f"workflow type {info.workflow_type!r} waits for a worker of task queue {info.task_queue!r} that has it; this one has: {known}"
            raise CannotGoOnError("UnknownWorkflowType", message, info)
        return Machine(definition, info, self.engine.max_payload, self.engine.loop)

    def feed(self, event: Any) -> None:
        machine = self.machine
        if machine is None or self.run.continued is not None or not machine.feed(event):
            return
        if isinstance(event, ev.ActivityRetrying):
            self.alarms.watch(event.index, event.due)
        if isinstance(machine.closing, ev.ContinuedAsNew):
            self.run.continued = machine.closing

    def ack(self, commands: list[Command]) -> None:
        if commands:
            faults.reach("before_ack")
        for command in commands:
            self.tenure.ack(command)

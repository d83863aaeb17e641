"""Updates of one workflow: commands whose callers wait for the handler's outcome. The answer follows the commit that holds it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jetflow.broker.transport.wire import Wire
from jetflow.core import events as ev
from jetflow.core.handlers import Handlers, Outcome
from jetflow.core.interrupts import is_interrupt
from jetflow.core.machine import Machine
from jetflow.core.queries import DisturbedError, prepare_update
from jetflow.engine.calls.answering import send
from jetflow.engine.commands import Command
from jetflow.errors import BrokerUnavailableError, UpdateError, WorkflowAlreadyClosedError
from jetflow.protocol.answers import CLOSED, REFUSED, Answer, failed
from jetflow.protocol.clock import now_ms
from jetflow.protocol.commands import UpdateCommand
from jetflow.protocol.record import COMPLETED, TERMINATED, status_of_failed

MAX_ASKING = 100
"""The most callers of one update that get its outcome at once. Others get it when they ask again."""
MAX_EARLY = 100
"""The most updates that wait for the delayed start of one workflow. Further ones are refused."""


class Updates:
    """What the owner has of a workflow's updates in memory. The un-acked commands and the timeline have all of it too.

    Args:
        feed: passes an event to the workflow's code.
        ack: acks a command that has no further consequences.
    """

    def __init__(self, wire: Wire, workflow_id: str, feed: Callable[[Any], None], ack: Callable[[Command], None]) -> None:
        self._wire = wire
        self._workflow_id = workflow_id
        self._feed = feed
        self._ack = ack
        self._early: dict[str, list[tuple[Command, UpdateCommand]]] = {}
        self._asking: dict[str, set[str]] = {}
        self._answers: list[tuple[str | None, Answer]] = []

    def __bool__(self) -> bool:
        """Return whether any caller waits."""
        return bool(self._early or self._asking or self._answers)

    def restore(self, handlers: Handlers) -> None:
        """Restore, after a rebuild, the callers of the updates under way. A caller that missed an outcome asks again."""
        for event in handlers.running.values():
            self._ask(event.id, event.reply)

    def on_command(self, command: Command, update: UpdateCommand, machine: Machine) -> bool:
        """Take an update for a live run. Return True if its command must be acked with its consequences."""
        handlers, update_id = machine.handlers, id_of(command, update)
        if handlers is not None and handlers.knows_update(update_id):
            outcome = handlers.outcomes.get(update_id)
            if outcome is not None:
                self._answers.append((update.reply, answer_of(outcome)))
            else:
                self._ask(update_id, update.reply)
        elif machine.closing is not None:
            self._answers.append((update.reply, answer_of_ended(self._workflow_id, machine.closing)))
        elif handlers is not None and command.seq <= handlers.forgotten:
            self._answers.append((update.reply, failed(UpdateError("this update was applied before, and its outcome is no longer stored"), REFUSED)))
        elif machine.delay is not None and sum(map(len, self._early.values())) >= MAX_EARLY:
            error = UpdateError(f"{MAX_EARLY} updates wait for the delayed start of this workflow already; send the update again later")
            self._answers.append((update.reply, failed(error, REFUSED)))
        elif handlers is None or update.name not in handlers.updates:
            self._early.setdefault(update.name, []).append((command, update))
            return False
        else:
            self._take(command, update, machine)
        return True

    def oldest_for(self, machine: Machine) -> int | None:
        """Return the inbox sequence of the oldest update that came before its handler was set, and has one now. None if there is none."""
        if not self._early or machine.handlers is None:
            return None
        known = machine.handlers.updates
        return min((early[0][0].seq for name, early in self._early.items() if name in known), default=None)

    def take(self, seq: int, machine: Machine) -> Command:
        """Take the update that ``oldest_for`` has returned. Return its command."""
        name = next(name for name, early in self._early.items() if early[0][0].seq == seq)
        command, update = self._early[name].pop(0)
        if not self._early[name]:
            del self._early[name]
        self._take(command, update, machine)
        return command

    def _take(self, command: Command, update: UpdateCommand, machine: Machine) -> None:
        assert machine.handlers is not None
        try:
            args = prepare_update(machine, update.name, update.body, update.told)
        except DisturbedError as error:
            self._send(update.reply, failed(error, REFUSED))
            self._ack(command)
            raise BrokerUnavailableError(str(error)) from error
        except BaseException as error:
            if is_interrupt(error):
                raise
            self._answers.append((update.reply, failed(error, REFUSED)))
            return
        update_id = id_of(command, update)
        if update.reply:
            self._ask(update_id, update.reply)
        self._feed(ev.Updated(id=update_id, at=now_ms(), name=update.name, seq=command.seq, input=args, reply=update.reply))

    def _ask(self, update_id: str, reply: str | None) -> None:
        if reply:
            asking = self._asking.setdefault(update_id, set())
            if len(asking) < MAX_ASKING:
                asking.add(reply)

    # ---- after the commit

    def committed(self, events: Sequence[Any]) -> None:
        """Send the outcomes that a commit holds, and the answers that waited for the commit."""
        self._tell(events)
        answers, self._answers = self._answers, []
        for reply, answer in answers:
            self._send(reply, answer)

    def _tell(self, events: Sequence[Any]) -> None:
        for event in events:
            outcomes = event.updates if isinstance(event, ev.Started) else (event,) if isinstance(event, Outcome) else ()
            for outcome in outcomes:
                for reply in self._asking.pop(outcome.id, ()):
                    self._send(reply, answer_of(outcome))

    def refuse_early(self, machine: Machine) -> list[Command]:
        """Refuse the updates that have no handler when the workflow rests. Return the commands to ack."""
        early, self._early = _in_order(self._early.values()), {}
        known = sorted(machine.handlers.updates) if machine.handlers is not None else []
        names = f"it has {', '.join(known)}" if known else "it has none"
        for _, update in early:
            self._send(update.reply, failed(UpdateError(f"the workflow has no update {update.name!r}; {names}"), REFUSED))
        return [command for command, _ in early]

    def end(self, closing: Any) -> list[Command]:
        """Answer all waiting callers, since the run has ended. Return the commands to ack."""
        early, self._early = _in_order(self._early.values()), {}
        waiting = [reply for replies in self._asking.values() for reply in replies]
        self._asking.clear()
        for reply in [*waiting, *(update.reply for _, update in early)]:
            self._send(reply, answer_of_ended(self._workflow_id, closing))
        return [command for command, _ in early]

    def _send(self, reply: str | None, answer: Answer) -> None:
        send(self._wire, reply, answer)


def answer_of(outcome: Outcome) -> Answer:
    """Return the answer for the caller of an update, from its outcome."""
    if isinstance(outcome, ev.UpdateCompleted):
        return Answer(result=outcome.result)
    return Answer(failure=outcome.failure)


def answer_of_ended(workflow_id: str, closing: Any) -> Answer:
    """Return the answer for the caller of an update that an ended run did not complete."""
    return failed(WorkflowAlreadyClosedError(workflow_id, _status(closing)), CLOSED)


def id_of(command: Command, update: UpdateCommand) -> str:
    """Return the id by which repeats of an update are recognised."""
    return update.update_id or str(command.seq)


def _status(closing: Any) -> str:
    if isinstance(closing, ev.Failed):
        return status_of_failed(closing.failure)
    return TERMINATED if isinstance(closing, ev.Terminated) else COMPLETED


def _in_order(lots: Iterable[list[tuple[Command, UpdateCommand]]]) -> list[tuple[Command, UpdateCommand]]:
    """Return updates of several names in the order of the inbox."""
    return sorted((early for lot in lots for early in lot), key=lambda early: early[0].seq)

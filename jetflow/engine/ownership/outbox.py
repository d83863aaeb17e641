"""Commands from one workflow to another. The owner publishes them behind its fence."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec

from jetflow.broker.fencing.fence import FencedLane
from jetflow.core import events as ev
from jetflow.core.failures import termination
from jetflow.core.ids import to_token
from jetflow.core.operation import RunInfo
from jetflow.engine.context import Context
from jetflow.errors import Failure, Kind
from jetflow.protocol.commands import ChildNotice, StartCommand
from jetflow.protocol.headers import ARGS, EXPIRE, ORIGIN, PARENT, SENDER

_encode = msgspec.json.encode


class Outbox:
    """Commands to other workflows."""

    def __init__(self, context: Context, lane: FencedLane) -> None:
        self._lane = lane
        self._names = context.broker.names
        self._task_queue = context.task_queue
        self._queue_token = context.queue_token

    async def _send(self, task_queue: str, workflow_id: str, command: str, body: bytes, **headers: str) -> None:
        subject = self._names.command(to_token(task_queue), to_token(workflow_id), command)
        fields = "".join(f"{name}:{value}\r\n" for name, value in headers.items()).encode()
        await self._lane.store("inbox", subject, body, fields)

    async def start_child(self, info: RunInfo, child: ev.ChildStarted, *, check_first: bool) -> None:
        """Publish the start of a child of ``info``'s run. With ``check_first``, skip it if the child's notice is in the parent's inbox."""
        if check_first and await self._notice_waits(info, child.index):
            return
        lineage = ev.Parent(info.workflow_id, info.task_queue, info.run, child.index, child.awaited)
        args = msgspec.json.decode(child.input, type=list[msgspec.Raw])
        single = len(args) == 1
        headers = {
            PARENT: _encode(lineage).decode(),
            ORIGIN: to_token(info.origin or info.workflow_id),
            EXPIRE: "forever" if child.expire is None else f"{child.expire}ms",
        }
        if args:
            headers[ARGS] = str(len(args))
        body = bytes(args[0]) if single else bytes(child.input) if args else b""
        await self._send(child.task_queue, child.workflow_id, f"start.{to_token(child.workflow_type)}", body, **headers)

    async def _notice_waits(self, info: RunInfo, index: int) -> bool:
        subject = self._names.stored_commands(self._queue_token, to_token(info.workflow_id), f"child.{index}")
        return await self._lane.last_message(self._names.inbox_stream, subject) is not None

    async def send_signals(self, info: RunInfo, signals: list[ev.SignalSent]) -> None:
        """Publish signals from workflow code. Signals to one workflow go one after the other, in the order of their numbers."""
        by_receiver: dict[tuple[str, str], list[ev.SignalSent]] = {}
        for signal in signals:
            by_receiver.setdefault((signal.task_queue, signal.workflow_id), []).append(signal)
        await asyncio.gather(*(self._send_in_order(info, group) for group in by_receiver.values()))

    async def _send_in_order(self, info: RunInfo, signals: list[ev.SignalSent]) -> None:
        for signal in signals:
            headers = {SENDER: f"{self._queue_token}.{to_token(info.workflow_id)}.{info.run}/{signal.index}"}
            if signal.expire is not None:
                headers[EXPIRE] = f"{signal.expire}ms"
            await self._send(signal.task_queue, signal.workflow_id, f"signal.{to_token(signal.signal)}", bytes(signal.data), **headers)

    async def notify(self, parent: ev.Parent, notice: ChildNotice) -> None:
        """Notify a parent of its child's outcome."""
        await self._send(parent.task_queue, parent.workflow_id, f"child.{parent.index}", _encode(notice))

    async def refuse_start(self, workflow_id: str, start: StartCommand) -> None:
        """Notify the parent that asked for a start, if there is one, that the id is taken."""
        if start.parent is not None:
            message = f"workflow id {workflow_id!r} is already taken on task queue {self._task_queue!r}"
            failure = Failure("WorkflowAlreadyStartedError", message, 409, kind=Kind.REFUSED)
            await self.notify(start.parent, ChildNotice(start.parent.run, workflow_id, "rejected", failure=failure))

    async def tell_closing(self, info: RunInfo, closing: Any, children: list[ev.ChildStarted]) -> None:
        """Notify the waiting parent, and apply the parent-close policy to the children."""
        work: list[Coroutine[Any, Any, Any]] = []
        if info.parent is not None and info.parent.awaited:
            notice = ChildNotice(info.parent.run, info.workflow_id, "completed", info.run)
            if isinstance(closing, ev.Completed):
                notice.result = closing.result
            else:
                notice.outcome = "failed"
                notice.failure = closing.failure if isinstance(closing, ev.Failed) else _termination(info, closing)
            work.append(self.notify(info.parent, notice))
        descend = isinstance(closing, ev.Terminated) and closing.descend
        if children:
            work.append(self.end_children(info, children, descend=descend))
        if work:
            await asyncio.gather(*work)

    async def end_children(self, info: RunInfo, children: list[ev.ChildStarted], *, descend: bool) -> None:
        """Apply the parent-close policy to the children of a run that ended or continued as new. With ``descend``, terminate all of them."""
        policies = [(child, "terminate" if descend else child.parent_close_policy) for child in children]
        await asyncio.gather(*(self._end_child(info, child, policy, descend) for child, policy in policies if policy != "abandon"))

    async def _end_child(self, info: RunInfo, child: ev.ChildStarted, policy: str, descend: bool) -> None:
        lineage = ev.Parent(info.workflow_id, info.task_queue, info.run, child.index, child.awaited)
        body: dict[str, Any] = {"reason": f"parent {info.workflow_id} has ended", "parent": lineage}
        if policy == "terminate":
            body |= {"suppress": True, "descend": descend}
        await self._send(child.task_queue, child.workflow_id, policy, _encode(body))


def _termination(info: RunInfo, closing: ev.Terminated) -> Failure:
    return termination(info.workflow_id, closing.reason, closing.code, closing.stack, closing.kind)

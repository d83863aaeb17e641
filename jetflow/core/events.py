"""The timeline on the wire: typed events, and the commit that holds them.

One timeline key is one ``Commit``: what happened (inputs) and what the workflow's code decided on it (outputs),
in order. Times are milliseconds since the epoch, UTC. Payloads are the JSON they are. Fields are only ever
added, with defaults; ``tests/replay/golden`` holds timelines of every released version.

Inputs change what the code sees and are replayed; outputs are what the code did, and replay checks them.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from jetflow.errors import Failure

VERSION = 1
FOREVER_MS = 100 * 365 * 86_400_000
"""A duration in ms that stands for no end at all."""
NULL = Raw(b"null")


class Parent(Struct, omit_defaults=True, frozen=True):
    """Who started a child: where its result goes."""

    workflow_id: str
    task_queue: str
    run: int
    index: int
    awaited: bool = True


class Event(Struct, omit_defaults=True, tag_field="type"):
    """Anything in a timeline; ``at`` is when it was recorded."""


class Input(Event):
    """Something that happened to the workflow."""


class Output(Event):
    """Something the workflow's code decided."""


# ---- inputs


class Started(Input, tag="started"):
    """The first event of a generation. ``input`` is the JSON list of arguments.

    Later generations carry on: ``first_index`` follows the last operation before, ``consumed`` has the inbox sequence of the
    last signal taken of each name, ``consumed_from`` the number of the last one of each sender that numbers its signals,
    ``cancel_reason`` is set when cancellation was asked for before. ``data`` and ``entity`` are the user data to begin with,
    ``updates`` the outcomes of updates that a caller may still ask for.
    """

    at: int
    workflow_type: str
    input: Raw
    parent: Parent | None = None
    origin: str | None = None
    expire: int | None = None
    generation: int = 1
    first_index: int = 1
    consumed: dict[str, int] = {}
    consumed_from: dict[str, dict[str, int]] = {}
    cancel_reason: str | None = None
    data: dict[str, Raw] = {}
    entity: dict[str, Any] | None = None
    updates: list[UpdateCompleted | UpdateFailed] = []
    forgotten: int = 0


class ActivityRetrying(Input, tag="activity_retrying"):
    """An attempt failed and the next one is due later; ``details`` is what a heartbeat said last."""

    index: int
    at: int
    attempt: int
    due: int
    failure: Failure
    details: Raw = NULL


class ActivityQueued(Input, tag="activity_queued"):
    """The owner does not have the activity: from here on it goes through the task stream of the workflow's own queue."""

    index: int
    at: int


class ActivityCompleted(Input, tag="activity_completed"):
    index: int
    at: int
    result: Raw = NULL
    attempt: int = 1


class ActivityFailed(Input, tag="activity_failed"):
    """The last attempt's ``failure``, and why none follows, as a ``Kind``: events from before there were kinds say it by the failure's code."""

    index: int
    at: int
    failure: Failure
    attempt: int = 1
    kind: str | None = None


class TimerFired(Input, tag="timer_fired"):
    index: int
    at: int


class Signaled(Input, tag="signaled"):
    """A signal met its wait. ``seq`` is the signal's place in the inbox, 0 for a signal by id, whose ``number`` is its place in the stream
    of those; ``sender`` and ``number`` tell repeats apart."""

    index: int
    at: int
    signal: str
    seq: int
    data: Raw = NULL
    sender: str | None = None
    number: int = 0


class WaitTimedOut(Input, tag="wait_timed_out"):
    index: int
    at: int


class ChildAccepted(Input, tag="child_accepted"):
    index: int
    at: int
    run: int


class ChildCompleted(Input, tag="child_completed"):
    index: int
    at: int
    result: Raw = NULL


class ChildFailed(Input, tag="child_failed"):
    index: int
    at: int
    failure: Failure


class Updated(Input, tag="updated"):
    """An update was taken. ``seq`` is its place in the inbox, ``reply`` where its caller listens; ``id`` is the caller's, or ``seq``."""

    id: str
    at: int
    name: str
    seq: int
    input: Raw
    reply: str | None = None


class CancelRequested(Input, tag="cancel_requested"):
    at: int
    reason: str = ""


class Terminated(Input, tag="terminated"):
    """The run was ended from outside; nothing of it runs any more. ``expire`` in ms; ``descend`` takes its children along. ``kind`` marks
    the failure that it is.
    """

    at: int
    reason: str
    code: int = 410
    throw: bool = True
    stack: str | None = None
    expire: int = 1000
    descend: bool = False
    kind: str | None = None

    @property
    def kept_ms(self) -> int | None:
        """How long the record is kept after the end, in ms; None for ever, which ``expire`` says by ``FOREVER_MS``."""
        return None if self.expire >= FOREVER_MS else self.expire


# ---- outputs


class ActivityScheduled(Output, tag="activity_scheduled"):
    """``input`` is the JSON list of arguments; ``task_queue`` is set when it runs on other workers."""

    index: int
    at: int
    name: str
    input: Raw
    task_queue: str | None = None


class TimerStarted(Output, tag="timer_started"):
    index: int
    at: int
    due: int


class WaitStarted(Output, tag="wait_started"):
    index: int
    at: int
    signal: str
    due: int | None = None


class ChildStarted(Output, tag="child_started"):
    index: int
    at: int
    workflow_type: str
    workflow_id: str
    task_queue: str
    input: Raw
    awaited: bool = True
    parent_close_policy: str = "terminate"
    expire: int | None = None


class SignalSent(Output, tag="signal_sent"):
    index: int
    at: int
    workflow_id: str
    task_queue: str
    signal: str
    data: Raw = NULL
    expire: int | None = None


class SideEffect(Output, tag="side_effect"):
    """A value taken once from outside the workflow's determinism, or the error instead of it, and repeated ever after."""

    index: int
    at: int
    value: Raw = NULL
    failure: Failure | None = None


class Patched(Output, tag="patched"):
    """The code from here on is the one behind ``patched(id)``."""

    id: str
    at: int


class UpdateCompleted(Output, tag="update_completed"):
    """An update's handler has returned. ``seq`` is that of the update."""

    id: str
    at: int
    seq: int = 0
    result: Raw = NULL


class UpdateFailed(Output, tag="update_failed"):
    """An update's handler has raised."""

    id: str
    at: int
    failure: Failure
    seq: int = 0


class OperationCancelled(Output, tag="operation_cancelled"):
    """The code gave up waiting for an operation of its own (a timeout that was not needed, a cancelled task)."""

    index: int
    at: int


class Completed(Output, tag="completed"):
    at: int
    result: Raw = NULL


class Failed(Output, tag="failed"):
    at: int
    failure: Failure


class ContinuedAsNew(Output, tag="continued_as_new"):
    at: int
    workflow_type: str
    input: Raw


AnyInput = (
    Started
    | ActivityRetrying
    | ActivityQueued
    | ActivityCompleted
    | ActivityFailed
    | TimerFired
    | Signaled
    | WaitTimedOut
    | ChildAccepted
    | ChildCompleted
    | ChildFailed
    | Updated
    | CancelRequested
    | Terminated
)
AnyOutput = (
    ActivityScheduled
    | TimerStarted
    | WaitStarted
    | ChildStarted
    | SignalSent
    | SideEffect
    | Patched
    | UpdateCompleted
    | UpdateFailed
    | OperationCancelled
    | Completed
    | Failed
    | ContinuedAsNew
)
CLOSING = (Completed, Failed, Terminated)


class Commit(Struct, omit_defaults=True):
    """One timeline key.

    Attributes:
        run: the run id, which is the inbox sequence of its start command.
        cause: the highest inbox sequence applied so far; a command at or below it is a repeat.
        events: inputs and outputs in order.
        more: True when the next key goes on with the same commit, which was too large for one message.
        compacted: above 0 when the run has ended and this one key holds all of its events, so many of which had keys of their own
            before; keys of the run that are still there repeat them.
    """

    run: int
    cause: int
    events: list[AnyInput | AnyOutput]
    more: bool = False
    compacted: int = 0
    v: int = VERSION

    @property
    def decision(self) -> list[AnyInput | AnyOutput]:
        """The events that were new in this key."""
        return self.events[self.compacted :] if self.compacted else self.events


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Commit)


def encode_commit(commit: Commit) -> bytes:
    """The bytes of a timeline key."""
    return _encoder.encode(commit)


def decode_commit(body: bytes) -> Commit:
    """A timeline key's commit.

    Raises:
        msgspec.ValidationError: if it is not one, or of a newer version than this code knows.
    """
    commit = _decoder.decode(body)
    if commit.v > VERSION:
        raise msgspec.ValidationError(f"timeline version {commit.v} is newer than {VERSION}: upgrade this worker")
    return commit

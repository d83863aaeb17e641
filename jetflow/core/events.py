"""The timeline on the wire: typed events, and the commit that holds them.

One timeline key is one ``Commit``: inputs (what happened) and outputs (what the workflow's code then decided), in order.
Times are ms since the epoch, UTC. Payloads are plain JSON. A new version may only add fields, with defaults.
``tests/replay/golden`` has timelines of every released version.

A replay feeds the inputs to the code and checks that the code decides the recorded outputs again.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from jetflow.errors import Failure

VERSION = 1
FOREVER_MS = 100 * 365 * 86_400_000
"""The duration in ms that means no limit."""
NULL = Raw(b"null")


class Parent(Struct, omit_defaults=True, frozen=True):
    """A child's parent, which gets the child's result."""

    workflow_id: str
    task_queue: str
    run: int
    index: int
    awaited: bool = True


class Event(Struct, omit_defaults=True, tag_field="type"):
    """Base of everything in a timeline. ``at`` is the time at which it was recorded."""


class Input(Event):
    """Base of what happened to the workflow."""


class Output(Event):
    """Base of what the workflow's code decided."""


# ---- inputs


class Started(Input, tag="started"):
    """The first event of a generation. ``input`` is the JSON list of arguments.

    A later generation continues from the one before. ``first_index`` follows the index of the last operation. ``consumed`` has the
    inbox sequence of the last signal taken, by name. ``consumed_from`` has the number of the last signal taken, by name and sender, for
    senders that number their signals. ``cancel_reason`` is set if a cancel came before. ``data`` and ``entity`` are the initial user
    data. ``updates`` are outcomes of updates that a caller may still ask for. ``begins`` is set if the start is delayed: the code begins
    when the run's first timer fires, which is due then.
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
    begins: int | None = None


class ActivityRetrying(Input, tag="activity_retrying"):
    """An attempt failed and the next one is due later. ``details`` are those of its last heartbeat."""

    index: int
    at: int
    attempt: int
    due: int
    failure: Failure
    details: Raw = NULL


class ActivityQueued(Input, tag="activity_queued"):
    """The owner does not have the activity, so its attempts go through the task stream of the workflow's own queue from now on."""

    index: int
    at: int


class ActivityCompleted(Input, tag="activity_completed"):
    index: int
    at: int
    result: Raw = NULL
    attempt: int = 1


class ActivityFailed(Input, tag="activity_failed"):
    """An activity failed with its last attempt's ``failure``. ``kind`` says why no attempt follows; in older events the code does."""

    index: int
    at: int
    failure: Failure
    attempt: int = 1
    kind: str | None = None


class TimerFired(Input, tag="timer_fired"):
    index: int
    at: int


class Signaled(Input, tag="signaled"):
    """A signal ended its wait. ``seq`` is the signal's sequence number in the inbox, 0 for a signal by id. The ``number`` of a signal by
    id is its sequence number in the stream of those. ``sender`` and ``number`` identify repeats."""

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
    """An update was accepted. ``seq`` is its sequence number in the inbox, ``reply`` its caller's subject, ``id`` the caller's or ``seq``."""

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
    """The run was terminated, and none of its code runs any more. ``expire`` is in ms. ``descend`` terminates its children too. ``kind`` is
    the failure's kind.
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
        """How long the record stays after the end, in ms; None: no limit (``expire`` is ``FOREVER_MS`` then)."""
        return None if self.expire >= FOREVER_MS else self.expire


# ---- outputs


class ActivityScheduled(Output, tag="activity_scheduled"):
    """The code called an activity. ``input`` is the JSON list of arguments. ``task_queue`` is set if other workers run it."""

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
    """The value of a nondeterministic function, or its error. Every replay returns it."""

    index: int
    at: int
    value: Raw = NULL
    failure: Failure | None = None


class Patched(Output, tag="patched"):
    """From here on the run takes the new code of ``patched(id)``."""

    id: str
    at: int


class UpdateCompleted(Output, tag="update_completed"):
    """An update's handler returned. ``seq`` is the update's sequence number."""

    id: str
    at: int
    seq: int = 0
    result: Raw = NULL


class UpdateFailed(Output, tag="update_failed"):
    """An update's handler raised."""

    id: str
    at: int
    failure: Failure
    seq: int = 0


class OperationCancelled(Output, tag="operation_cancelled"):
    """The code stopped waiting for one of its operations (a timeout that was not needed, a cancelled task)."""

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
        cause: the highest inbox sequence applied so far. A command at or below it is a repeat.
        events: inputs and outputs in order.
        more: True if the next key continues the same commit, which was too large for one message.
        compacted: above 0 if the run has ended and this key holds all of its events. It is the number of those that had their own keys
            before. Keys of the run that still exist repeat them.
    """

    run: int
    cause: int
    events: list[AnyInput | AnyOutput]
    more: bool = False
    compacted: int = 0
    v: int = VERSION

    @property
    def decision(self) -> list[AnyInput | AnyOutput]:
        """Return the events that were new in this key."""
        return self.events[self.compacted :] if self.compacted else self.events


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Commit)


def encode_commit(commit: Commit) -> bytes:
    """Return the bytes of a timeline key."""
    return _encoder.encode(commit)


def decode_commit(body: bytes) -> Commit:
    """Return the commit of a timeline key.

    Raises:
        msgspec.ValidationError: the bytes are not a commit, or have a newer version than this code knows.
    """
    commit = _decoder.decode(body)
    if commit.v > VERSION:
        raise msgspec.ValidationError(f"timeline version {commit.v} is newer than {VERSION}: upgrade this worker")
    return commit

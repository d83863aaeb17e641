"""What an owner knows of the run that a workflow id stands for, and why it may have to stop."""

from __future__ import annotations

from typing import Any

from jetflow.broker.stores.timeline import Entry
from jetflow.core import events as ev
from jetflow.core.operation import RunInfo
from jetflow.engine.upkeep.compaction import History
from jetflow.engine.upkeep.lifecycle import Told

BROKER_TROUBLE = 1.0
"""Seconds before a workflow tries again after the broker refused something."""
LOOK_AGAIN = 0.02
"""Seconds before a workflow is rebuilt whose timeline could not be read just now."""


class CannotGoOnError(Exception):
    """The workflow must wait for another worker; ``reason`` is shown in its state."""

    def __init__(self, reason: str, message: str, info: RunInfo) -> None:
        super().__init__(message)
        self.reason = reason
        self.info = info


class Run:
    """The timeline as far as it is known in memory; forgotten as a whole when only what is stored counts.

    Its fields are read everywhere, and changed by its methods alone.

    Attributes:
        loaded: False until the timeline was looked at.
        seq: the last timeline key, 0 for none; ``position`` is where its stream has it, ``stored`` when it was read from there (ISO 8601).
        number: the run id, which is the inbox sequence of its start; 0 for none.
        cause: the highest inbox sequence that was applied.
        info: the present generation.
        closing: the event that ended the run.
        continued: the event that ended a generation whose follower has not begun.
        told_closing: whether everybody who waits for the end was told.
        closed_children: children whose fate the end of the run decides.
        history: what compaction will make one key of.
        is_whole: whether the closing commit holds the whole run already.
        unheard: whether nothing was looked up, since no earlier tenure can have had the start.
        may_follow_another: whether keys of an earlier run of the id lie before this one's, or once lay there.
        guarded: starts (by sequence) whose first commit no earlier tenure can write any more.
        accepted: the parent that is to be told that the run has begun.
        told: lifecycle events that the broker has not answered for yet.
        tasks_due: attempts to publish for other workers, by operation; True for one that may have been published before.
    """

    __slots__ = (
        "accepted", "cause", "closed_children", "closing", "continued", "guarded", "history", "info",
        "is_whole", "loaded", "may_follow_another", "number", "position", "seq", "stored", "tasks_due", "told", "told_closing", "unheard",
    )  # fmt: skip

    def __init__(self) -> None:
        self.loaded: bool = False
        self.seq: int = 0
        self.position: int = 0
        self.number: int = 0
        self.cause: int = 0
        self.info: RunInfo | None = None
        self.closing: Any = None
        self.continued: ev.ContinuedAsNew | None = None
        self.told_closing: bool = False
        self.closed_children: list[ev.ChildStarted] = []
        self.history: History = History()
        self.is_whole: bool = False
        self.unheard: bool = False
        self.may_follow_another: bool = False
        self.guarded: set[int] = set()
        self.stored: str = ""
        self.accepted: ev.Parent | None = None
        self.tasks_due: dict[int, bool] = {}
        self.told: Told = []

    # ---- how it comes to be known

    def opened(self, *, unheard: bool = False) -> None:
        """Note that the timeline was looked at, or with ``unheard`` that it need not be."""
        self.loaded, self.unheard = True, unheard

    def restore(self, entries: list[Entry]) -> None:
        """Take up where the stored run stands. ``entries`` are all of its keys."""
        last = entries[-1]
        self.seq, self.position, self.stored = last.seq, last.position, last.stored
        self.number, self.cause = last.commit.run, last.commit.cause
        self.may_follow_another = entries[0].seq > (2 if last.commit.compacted else 1)  # one key that is compacted was two at least

    def begin(self, number: int, parent: ev.Parent | None) -> None:
        """Begin a run. ``parent`` is told so once that is committed."""
        self.number, self.accepted = number, parent

    def begin_generation(self, info: RunInfo) -> None:
        """Begin the present generation, or take it up again."""
        self.info = info

    def guard(self, start: int) -> None:
        """Note that no earlier tenure can write the first commit of a start any more."""
        self.guarded.add(start)

    # ---- what is committed

    def wrote(self, seq: int, position: int) -> None:
        """Note that the timeline has a further key, or its only one anew."""
        assert seq in (self.seq + 1, 1), f"key {seq} is written after key {self.seq}"
        assert position > self.position, f"key {seq} is stored at {position}, not behind {self.position}, where the key before is"
        self.seq, self.position = seq, position

    def committed(self, cause: int, events: list[Any], sizes: list[int], *, is_whole: bool) -> None:
        """Note a commit, with the bytes of its keys. ``is_whole`` if it holds everything that the run has committed."""
        assert cause >= self.cause, f"the cause of a commit goes back from {self.cause} to {cause}"
        if is_whole:
            self.is_whole = True
        else:
            self.history.add(events, len(sizes), sum(sizes))
        self.cause = cause

    def take_accepted(self) -> ev.Parent | None:
        """Return the parent to tell that the run has begun, once."""
        parent, self.accepted = self.accepted, None
        return parent

    def tell(self, answers: Told) -> None:
        """Await the broker's answers for lifecycle events before the next ack."""
        self.told += answers

    def queue_task(self, index: int, *, again: bool) -> None:
        """Publish the next attempt of an operation for other workers. ``again`` if that may have been done before."""
        self.tasks_due[index] = again

    def take_tasks(self) -> dict[int, bool]:
        """Return the attempts to publish, once."""
        due, self.tasks_due = self.tasks_due, {}
        return due

    # ---- how it ends

    def go_on_as_new(self, closing: ev.ContinuedAsNew | None) -> None:
        """Note that a generation has ended, or with None that its follower has begun."""
        self.continued = closing

    def close(self, closing: Any, children: list[ev.ChildStarted], *, told: bool = False) -> None:
        """End the run. ``told`` if everybody who waits for that knows."""
        self.closing, self.closed_children, self.told_closing = closing, children, told

    def end_told(self) -> None:
        """Note that everybody who waits for the end was told."""
        self.told_closing = True

    def tell_end_again(self) -> None:
        """Tell the end again, should it have come."""
        self.told_closing = False

    def forget_end(self) -> None:
        """Forget the run that has ended, so that another one of the id can begin."""
        self.closing, self.told_closing, self.closed_children = None, False, []
        self.history, self.is_whole = History(), False

"""What an owner knows of a workflow's current run, and why the run may have to stop."""

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
"""Seconds before a workflow is rebuilt after the broker did not answer."""


class CannotGoOnError(Exception):
    """Raised when the workflow must wait for another worker. Its state record shows ``reason``."""

    def __init__(self, reason: str, message: str, info: RunInfo) -> None:
        super().__init__(message)
        self.reason = reason
        self.info = info


class Run:
    """What memory has of the timeline. The owner drops it as a whole when only the timeline counts.

    Other modules read its fields. Only its methods change them.

    Attributes:
        loaded: whether the timeline was read, or need not be.
        seq: the last timeline key, 0 for none.
        position: the position of that key in its stream.
        stored: when the broker stored the key that was read (ISO 8601).
        number: the run id, which is the inbox sequence of the start; 0 for none.
        cause: the highest applied inbox sequence.
        info: the current generation.
        closing: the event that ended the run.
        continued: the event that ended a generation, while the next one has not begun.
        told_closing: whether all that wait for the end were notified of it.
        closed_children: children to which the parent-close policy applies at the end of the run.
        history: the events that compaction writes as one key.
        is_whole: whether the closing commit holds the whole run.
        unheard: whether the timeline was not read, since no earlier tenure can have received the start.
        may_follow_another: whether this run may follow an earlier run of the id in the timeline.
        guarded: starts (by sequence) whose first commit no earlier tenure can write.
        accepted: the parent to notify that the run has begun.
        told: lifecycle events that the broker has not acked yet.
        tasks_due: attempts to publish for other workers, by operation; True if the attempt may have been published before.
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

    # ---- loading and beginning

    def opened(self, *, unheard: bool = False) -> None:
        """Note that the timeline was read, or with ``unheard`` that it need not be."""
        self.loaded, self.unheard = True, unheard

    def restore(self, entries: list[Entry]) -> None:
        """Continue from the stored run. ``entries`` are all of its keys."""
        last = entries[-1]
        self.seq, self.position, self.stored = last.seq, last.position, last.stored
        self.number, self.cause = last.commit.run, last.commit.cause
        self.may_follow_another = entries[0].seq > (2 if last.commit.compacted else 1)  # a compacted run had at least two keys

    def begin(self, number: int, parent: ev.Parent | None) -> None:
        """Begin a run. ``parent`` is notified after the commit."""
        self.number, self.accepted = number, parent

    def begin_generation(self, info: RunInfo) -> None:
        """Begin or resume the current generation."""
        self.info = info

    def guard(self, start: int) -> None:
        """Note that no earlier tenure can write the first commit of a start."""
        self.guarded.add(start)

    # ---- committing

    def wrote(self, seq: int, position: int) -> None:
        """Note that the timeline has a new key, or that its only key was replaced."""
        assert seq in (self.seq + 1, 1), f"key {seq} is written after key {self.seq}"
        assert position > self.position, f"key {seq} is stored at position {position}, not after {self.position}, the position of the key before"
        self.seq, self.position = seq, position

    def committed(self, cause: int, events: list[Any], sizes: list[int], *, is_whole: bool) -> None:
        """Note a commit, with the sizes of its keys in bytes. ``is_whole`` says that it holds the whole run."""
        assert cause >= self.cause, f"the cause of a commit goes back from {self.cause} to {cause}"
        if is_whole:
            self.is_whole = True
        else:
            self.history.add(events, len(sizes), sum(sizes))
        self.cause = cause

    def take_accepted(self) -> ev.Parent | None:
        """Return the parent to notify that the run has begun. Only the first call returns it."""
        parent, self.accepted = self.accepted, None
        return parent

    def tell(self, answers: Told) -> None:
        """Note lifecycle events whose answers the owner awaits before the next ack."""
        self.told += answers

    def queue_task(self, index: int, *, again: bool) -> None:
        """Queue the next attempt of an operation for other workers. ``again`` says that it may have been published before."""
        self.tasks_due[index] = again

    def take_tasks(self) -> dict[int, bool]:
        """Remove and return the attempts to publish."""
        due, self.tasks_due = self.tasks_due, {}
        return due

    # ---- ending

    def go_on_as_new(self, closing: ev.ContinuedAsNew | None) -> None:
        """Note that a generation has ended, or with None that the next one has begun."""
        self.continued = closing

    def close(self, closing: Any, children: list[ev.ChildStarted], *, told: bool = False) -> None:
        """End the run. ``told`` says that all that wait for the end were notified."""
        self.closing, self.closed_children, self.told_closing = closing, children, told

    def end_told(self) -> None:
        """Note that all that wait for the end were notified."""
        self.told_closing = True

    def tell_end_again(self) -> None:
        """Report the end again, if the run has ended."""
        self.told_closing = False

    def forget_end(self) -> None:
        """Forget the ended run, so that another run of the id can begin."""
        self.closing, self.told_closing, self.closed_children = None, False, []
        self.history, self.is_whole = History(), False

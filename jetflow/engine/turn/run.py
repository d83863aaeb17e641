"""What an owner knows of the run that a workflow id stands for, and why it may have to stop."""

from __future__ import annotations

from enum import Enum
from typing import Any

from jetflow.core import events as ev
from jetflow.core.operation import RunInfo
from jetflow.engine.upkeep.compaction import History
from jetflow.engine.upkeep.lifecycle import Told

BROKER_TROUBLE = 1.0
"""Seconds before a workflow tries again after the broker refused something."""


LOOK_AGAIN = 0.02
"""Seconds before a workflow is rebuilt whose timeline could not be read just now."""


class Standing(Enum):
    """What an owner knows of a workflow id at one moment."""

    NOT_LOADED = "its timeline was not looked at"
    NO_WORKFLOW = "there is no run, or none any more"
    RUNNING = "a run goes on, and its code is in memory"
    ENDED = "the run has ended"
    TAKEN_AWAY = "it is not this tenure's any more: nothing that is known of it counts"


class CannotGoOnError(Exception):
    """The workflow must wait for another worker; ``reason`` is shown in its state."""

    def __init__(self, reason: str, message: str, info: RunInfo) -> None:
        super().__init__(message)
        self.reason = reason
        self.info = info


class Run:
    """The timeline as far as it is known in memory; forgotten as a whole when only what is stored counts.

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

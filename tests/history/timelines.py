"""Timelines written by hand, as an owner would have recorded them; ``golden`` has the histories that follow from them."""

from typing import Any

from msgspec import Raw

from jetflow.core import events as ev
from jetflow.errors import Failure

START = 1_772_366_400_000
"""2026-03-01T12:00:00Z."""


def at(ms: int) -> int:
    return START + ms


def started(kind: str, body: bytes = b"[]", **more: Any) -> ev.Started:
    return ev.Started(at=at(0), workflow_type=kind, input=Raw(body), **more)


NO = Failure("ValueError", "no", 500, "Traceback …")

RETRIES: list[Any] = [
    started("charges", b'[{"sku":"A"}]'),
    ev.ActivityScheduled(index=1, at=at(0), name="charge", input=Raw(b'["A",2]')),
    ev.ActivityRetrying(index=1, at=at(20), attempt=1, due=at(1020), failure=NO),
    ev.ActivityRetrying(index=1, at=at(1040), attempt=2, due=at(6040), failure=NO),
    ev.ActivityCompleted(index=1, at=at(6100), result=Raw(b'{"paid":true}'), attempt=3),
    ev.ActivityScheduled(index=2, at=at(6100), name="ltlog", input=Raw(b"[]")),
    ev.ActivityCompleted(index=2, at=at(6101), result=Raw(b"null")),
    ev.ActivityScheduled(index=3, at=at(6101), name="ship", input=Raw(b"[1]"), task_queue="gpu"),
    ev.ActivityFailed(index=3, at=at(7000), failure=NO, attempt=50),
    ev.Failed(at=at(7000), failure=Failure("ActivityError", "activity 'ship' failed after 50 attempts", 597, "", NO)),
]

PARALLEL: list[Any] = [
    started("both"),
    ev.ActivityScheduled(index=1, at=at(0), name="slow", input=Raw(b"[1]")),
    ev.ActivityScheduled(index=2, at=at(0), name="quick", input=Raw(b"[2]")),
    ev.ActivityQueued(index=1, at=at(1)),
    ev.ActivityCompleted(index=2, at=at(5), result=Raw(b"2")),
    # recorded later, though it was over earlier: another worker's clock is behind
    ev.ActivityCompleted(index=1, at=at(4), result=Raw(b"1")),
    ev.Completed(at=at(5), result=Raw(b"[1,2]")),
]

RACE: list[Any] = [
    started("race"),
    ev.TimerStarted(index=1, at=at(0), due=at(250)),
    ev.WaitStarted(index=2, at=at(0), signal="go"),
    ev.WaitStarted(index=3, at=at(0), signal="never", due=at(100)),
    ev.WaitTimedOut(index=3, at=at(100)),
    ev.TimerFired(index=1, at=at(250)),
    ev.OperationCancelled(index=2, at=at(250)),
    ev.TimerStarted(index=4, at=at(250), due=at(60_250)),
    ev.WaitStarted(index=5, at=at(250), signal="go"),
    ev.Signaled(index=5, at=at(300), signal="go", seq=9, data=Raw(b'{"ok":true}')),
    ev.OperationCancelled(index=4, at=at(300)),
    ev.WaitStarted(index=6, at=at(300), signal="last"),
]

FAMILY: list[Any] = [
    started("parent", parent=ev.Parent("root", "q", 3, 1), origin="root"),
    ev.ChildStarted(index=1, at=at(0), workflow_type="kid", workflow_id="kid-1", task_queue="q", input=Raw(b"[1]")),
    ev.ChildStarted(index=2, at=at(0), workflow_type="kid", workflow_id="kid-2", task_queue="q2", input=Raw(b"[2]"), awaited=False,
                    parent_close_policy="abandon"),
    ev.ChildStarted(index=3, at=at(0), workflow_type="kid", workflow_id="kid-3", task_queue="q", input=Raw(b"[3]")),
    ev.ChildAccepted(index=2, at=at(10), run=77),
    ev.ChildFailed(index=1, at=at(30), failure=NO),
    ev.ChildCompleted(index=3, at=at(40), result=Raw(b"6")),
    ev.Completed(at=at(40), result=Raw(b"null")),
]  # fmt: skip

CANCELLED: list[Any] = [
    started("cleans"),
    ev.TimerStarted(index=1, at=at(0), due=at(3_600_000)),
    ev.CancelRequested(at=at(500), reason="enough"),
    ev.ActivityScheduled(index=2, at=at(500), name="clean", input=Raw(b"[]")),
    ev.ActivityCompleted(index=2, at=at(510), result=Raw(b"null")),
    ev.Failed(at=at(510), failure=Failure("CancelledFailure", "Workflow cancelled: enough", 598)),
]

TERMINATED: list[Any] = [
    started("waits"),
    ev.WaitStarted(index=1, at=at(0), signal="go"),
    ev.Terminated(at=at(60_000), reason="stuck", code=410),
]

GENERATIONS: list[Any] = [
    started("again", b"[1]"),
    ev.ActivityScheduled(index=1, at=at(0), name="a", input=Raw(b"[1]")),
    ev.ActivityCompleted(index=1, at=at(1), result=Raw(b"1")),
    ev.ContinuedAsNew(at=at(1), workflow_type="again", input=Raw(b"[2]")),
    ev.Started(at=at(2), workflow_type="again", input=Raw(b"[2]"), generation=2, first_index=2),
    ev.ActivityScheduled(index=2, at=at(2), name="a", input=Raw(b"[2]")),
    ev.ActivityCompleted(index=2, at=at(3), result=Raw(b"2")),
    ev.ContinuedAsNew(at=at(3), workflow_type="other", input=Raw(b"[3]")),
    ev.Started(at=at(4), workflow_type="other", input=Raw(b"[3]"), generation=3, first_index=3),
    ev.Completed(at=at(4), result=Raw(b'"done"')),
]

EVERYTHING_ELSE: list[Any] = [
    started("rest"),
    ev.Patched(id="v2", at=at(0)),
    ev.SideEffect(index=1, at=at(0), value=Raw(b"0.5")),
    ev.SideEffect(index=2, at=at(0), failure=NO),
    ev.SignalSent(index=3, at=at(0), workflow_id="other", task_queue="q2", signal="hello", data=Raw(b'"hi"')),
    ev.ActivityScheduled(index=4, at=at(0), name="a", input=Raw(b"[]")),
    ev.OperationCancelled(index=4, at=at(5)),
    ev.ChildStarted(index=5, at=at(5), workflow_type="kid", workflow_id="kid", task_queue="q", input=Raw(b"[]")),
    ev.OperationCancelled(index=5, at=at(6)),
    ev.Updated(id="u1", at=at(7), name="add", seq=12, input=Raw(b"[4]")),
    ev.Updated(id="u2", at=at(8), name="add", seq=13, input=Raw(b"[5]")),
    ev.UpdateFailed(id="u2", at=at(8), failure=NO, seq=13),
    ev.UpdateCompleted(id="u1", at=at(9), seq=12, result=Raw(b"4")),
]

TIMELINES: dict[str, list[Any]] = {
    "retries": RETRIES,
    "parallel": PARALLEL,
    "race": RACE,
    "family": FAMILY,
    "cancelled": CANCELLED,
    "terminated": TERMINATED,
    "generations": GENERATIONS,
    "everything-else": EVERYTHING_ELSE,
}

"""The timeline on the wire, now and in every version there was."""

from pathlib import Path

import msgspec
import pytest

from jetflow.core import events as ev
from jetflow.core.events import Commit, decode_commit, encode_commit
from jetflow.errors import Failure

GOLDEN = Path(__file__).parent.parent / "replay" / "golden"
FAILURE = Failure("ValueError", "no", 598, "stack", Failure("KeyError", "'k'"))
RAW = msgspec.Raw(b'{"a":[1,null]}')

EVERY_INPUT = [
    ev.Started(at=1, workflow_type="order", input=msgspec.Raw(b"[1]")),
    ev.Started(
        at=1, workflow_type="order", input=msgspec.Raw(b"[]"), parent=ev.Parent("p", "q", 3, 4, False), origin="o", expire=5, generation=2,
        first_index=9, consumed={"s": 8}, cancel_reason="",
    ),
    ev.ActivityRetrying(index=1, at=2, attempt=1, due=3, failure=FAILURE),
    ev.ActivityCompleted(index=1, at=2),
    ev.ActivityCompleted(index=1, at=2, result=RAW, attempt=2),
    ev.ActivityFailed(index=1, at=2, failure=FAILURE, attempt=3),
    ev.TimerFired(index=2, at=3),
    ev.Signaled(index=3, at=4, signal="s", seq=5, data=RAW),
    ev.WaitTimedOut(index=4, at=5),
    ev.ChildAccepted(index=5, at=6, run=7),
    ev.ChildCompleted(index=5, at=6, result=RAW),
    ev.ChildFailed(index=5, at=6, failure=FAILURE),
    ev.CancelRequested(at=7, reason="enough"),
    ev.Terminated(at=8, reason="stop", code=411, throw=False, stack="s", expire=2, descend=True),
]  # fmt: skip
EVERY_OUTPUT = [
    ev.ActivityScheduled(index=1, at=1, name="a", input=RAW),
    ev.ActivityScheduled(index=1, at=1, name="a", input=RAW, task_queue="mail"),
    ev.TimerStarted(index=2, at=1, due=3),
    ev.WaitStarted(index=3, at=1, signal="s", due=9),
    ev.WaitStarted(index=3, at=1, signal="s"),
    ev.ChildStarted(
        index=4, at=1, workflow_type="c", workflow_id="w", task_queue="q", input=RAW, awaited=False, parent_close_policy="abandon", expire=3
    ),
    ev.SignalSent(index=5, at=1, workflow_id="w", task_queue="q", signal="s", data=RAW, expire=4),
    ev.SideEffect(index=6, at=1, value=RAW),
    ev.Patched(id="p", at=1),
    ev.OperationCancelled(index=7, at=1),
    ev.Completed(at=9, result=RAW),
    ev.Failed(at=9, failure=FAILURE),
    ev.ContinuedAsNew(at=9, workflow_type="order", input=msgspec.Raw(b"[]")),
]  # fmt: skip
ADDED_SINCE = [
    ev.Started(
        at=1, workflow_type="order", input=RAW, data={"a": RAW}, entity={"b": [1]}, updates=[ev.UpdateCompleted(id="u", at=1, seq=2, result=RAW)],
        forgotten=3,
    ),
    ev.Updated(id="u", at=1, name="add", seq=2, input=RAW, reply="_INBOX.x"),
    ev.UpdateCompleted(id="u", at=1, seq=2, result=RAW),
    ev.UpdateFailed(id="u", at=1, seq=2, failure=FAILURE),
]  # fmt: skip
"""What the golden file of the first version does not have."""
EVERYTHING = Commit(run=7, cause=12, events=[*EVERY_INPUT, *EVERY_OUTPUT], more=True)


@pytest.mark.parametrize("event", [*EVERY_INPUT, *EVERY_OUTPUT, *ADDED_SINCE], ids=lambda event: type(event).__name__)
def test_an_event_comes_back_as_it_was(event: ev.Event) -> None:
    commit = Commit(run=1, cause=2, events=[event])  # type: ignore[list-item]
    assert decode_commit(encode_commit(commit)) == commit


def test_inputs_and_outputs_are_all_kinds_there_are() -> None:
    assert {type(event) for event in EVERY_INPUT} <= set(ev.AnyInput.__args__)  # type: ignore[attr-defined]
    assert {type(event) for event in [*EVERY_OUTPUT, *ADDED_SINCE]} >= set(ev.AnyOutput.__args__)  # type: ignore[attr-defined]
    assert set(ev.AnyInput.__args__) == set(ev.Input.__subclasses__())  # type: ignore[attr-defined]
    assert set(ev.AnyOutput.__args__) == set(ev.Output.__subclasses__())  # type: ignore[attr-defined]


def test_a_timeline_of_version_1_is_read_for_ever() -> None:
    body = (GOLDEN / "version-1.json").read_bytes()
    assert decode_commit(body) == EVERYTHING
    assert encode_commit(EVERYTHING) == body, "what is written has changed: that needs a new version"


def test_an_output_can_be_told_from_an_input() -> None:
    assert all(isinstance(event, ev.Input) and not isinstance(event, ev.Output) for event in EVERY_INPUT)
    assert all(isinstance(event, ev.Output) and not isinstance(event, ev.Input) for event in EVERY_OUTPUT)


def test_a_newer_version_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="timeline version 2 is newer than 1: upgrade this worker"):
        decode_commit(b'{"run":1,"cause":1,"events":[],"v":2}')


def test_fields_that_a_later_worker_added_are_skipped() -> None:
    body = b'{"run":1,"cause":1,"events":[{"type":"timer_fired","index":1,"at":2,"colour":"red"}],"mood":5}'
    assert decode_commit(body).events == [ev.TimerFired(index=1, at=2)]


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"run":1,"cause":1,"events":[{"type":"dreamt","at":1}]}', b'{"run":1,"cause":1,"events":[{}]}']
)
def test_what_is_no_commit_is_refused(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_commit(body)

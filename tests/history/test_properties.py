"""What holds for every history, whatever a run recorded, and however it was read."""

import random
from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from jetflow.core import events as ev
from jetflow.errors import Failure
from jetflow.history.build import History
from jetflow.history.event_maker import View
from jetflow.history.execution import HistoryEvent, summarize
from tests.history.checks import check_events, check_summary
from tests.history.timelines import START

NO = Failure("ValueError", "no")


class Recorder:
    """Records a run that does whatever chance says; its owners' clocks disagree."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.now = START
        self.index = 0
        self.events: list[Any] = []
        self.pending: dict[int, Any] = {}
        self.updates: list[str] = []

    def at(self) -> int:
        self.now += self.chance.choice([0, 0, 1, 7, 1500])
        return self.now - self.chance.choice([0, 0, 0, 3])

    def begin(self) -> None:
        self.index += 1
        index, at, chance = self.index, self.at(), self.chance
        event = chance.choice(
            [
                ev.ActivityScheduled(index=index, at=at, name=chance.choice(["charge", "ltlog"]), input=Raw(b"[1]")),
                ev.TimerStarted(index=index, at=at, due=at + 50),
                ev.WaitStarted(index=index, at=at, signal="go", due=chance.choice([None, at + 9])),
                ev.ChildStarted(
                    index=index, at=at, workflow_type="kid", workflow_id=f"k{index}", task_queue="q", input=Raw(b"[]"), awaited=chance.random() < 0.7
                ),
                ev.SignalSent(index=index, at=at, workflow_id="w", task_queue="q", signal="s"),
                ev.SideEffect(index=index, at=at),
            ]
        )
        self.events.append(event)
        if not isinstance(event, (ev.SignalSent, ev.SideEffect)):
            self.pending[index] = event

    def go_on(self) -> None:
        index = self.chance.choice(list(self.pending))
        begun, at = self.pending[index], self.at()
        if isinstance(begun, ev.ActivityScheduled):
            ends = [ev.ActivityCompleted(index=index, at=at, attempt=2), ev.ActivityFailed(index=index, at=at, failure=NO)]
            more = [ev.ActivityRetrying(index=index, at=at, attempt=1, due=at + 9, failure=NO), ev.ActivityQueued(index=index, at=at)]
        elif isinstance(begun, ev.TimerStarted):
            ends, more = [ev.TimerFired(index=index, at=at)], []
        elif isinstance(begun, ev.WaitStarted):
            ends, more = [ev.Signaled(index=index, at=at, signal="go", seq=1), ev.WaitTimedOut(index=index, at=at)], []
        elif begun.awaited:
            ends, more = [ev.ChildCompleted(index=index, at=at), ev.ChildFailed(index=index, at=at, failure=NO)], []
        else:
            ends, more = [ev.ChildAccepted(index=index, at=at, run=1), ev.ChildFailed(index=index, at=at, failure=NO)], []
        event = self.chance.choice([*ends, *more, ev.OperationCancelled(index=index, at=at)])
        self.events.append(event)
        if event not in more:
            del self.pending[index]

    def say(self) -> None:
        update = f"u{len(self.events)}"
        if self.updates and self.chance.random() < 0.5:
            update, at = self.updates.pop(), self.at()
            ends = [ev.UpdateCompleted(id=update, at=at), ev.UpdateFailed(id=update, at=at, failure=NO)]
            self.events.append(self.chance.choice(ends))
            return
        event = self.chance.choice(
            [
                ev.CancelRequested(at=self.at(), reason="enough"),
                ev.Patched(id="p", at=self.at()),
                ev.Updated(id=update, at=self.at(), name="add", seq=1, input=Raw(b"[]")),
            ]
        )
        if isinstance(event, ev.Updated):
            self.updates.append(update)
        self.events.append(event)

    def begin_again(self) -> None:
        self.pending.clear()
        generation = sum(isinstance(event, ev.Started) for event in self.events) + 1
        self.events.append(ev.ContinuedAsNew(at=self.at(), workflow_type="w", input=Raw(b"[]")))
        self.events.append(ev.Started(at=self.at(), workflow_type="w", input=Raw(b"[]"), generation=generation, first_index=self.index + 1))


@st.composite
def timelines(draw: st.DrawFn) -> list[Any]:
    recorder = Recorder(draw(st.randoms(use_true_random=False)))
    recorder.events.append(ev.Started(at=recorder.at(), workflow_type="w", input=Raw(b"[1]")))
    for step in draw(st.lists(st.sampled_from(["begin", "begin", "go_on", "go_on", "say", "begin_again"]), max_size=40)):
        if step != "go_on" or recorder.pending:
            getattr(recorder, step)()
    end = draw(st.sampled_from([None, "completed", "failed", "terminated"]))
    if end == "completed":
        recorder.events.append(ev.Completed(at=recorder.at(), result=Raw(b"1")))
    elif end == "failed":
        recorder.events.append(ev.Failed(at=recorder.at(), failure=NO))
    elif end == "terminated":
        recorder.events.append(ev.Terminated(at=recorder.at(), reason="stuck"))
    return recorder.events


views = st.builds(View, exclude_system=st.booleans(), omit_results=st.booleans(), enrich_inputs=st.booleans(), extended=st.booleans())


def history(events: list[Any], view: View) -> list[HistoryEvent]:
    return History("w", "q", view).add(events)


@settings(max_examples=150, deadline=None)
@given(timelines(), views)
def test_numbers_references_and_counts_agree(recorded: list[Any], view: View) -> None:
    events = history(recorded, view)
    check_events(events)
    check_summary(summarize(events), events)
    assert msgspec.json.decode(msgspec.json.encode(events), type=list[HistoryEvent]) == events
    if view.exclude_system:
        assert not any(event.is_system for event in events)
    if not view.extended:
        assert not any(event.attributes.extended for event in events)


@settings(max_examples=100, deadline=None)
@given(timelines(), views, st.lists(st.integers(0, 80), max_size=10))
def test_it_does_not_matter_in_which_pieces_a_timeline_is_read(recorded: list[Any], view: View, cuts: list[int]) -> None:
    following = History("w", "q", view)
    edges = [0, *sorted(min(cut, len(recorded)) for cut in cuts), len(recorded)]
    live = [event for low, high in pairwise(edges) for event in following.add(recorded[low:high])]
    assert live == history(recorded, view)
    assert following.seen == len(recorded)


@settings(max_examples=100, deadline=None)
@given(timelines())
def test_the_extended_history_has_the_basic_one_in_it(recorded: list[Any]) -> None:
    """In the same order; only the numbers differ, and a termination says more of itself."""

    def without_numbers(event: HistoryEvent) -> Any:
        plain = msgspec.to_builtins(event)
        attributes = {name: value for name, value in plain["attributes"].items() if not name.endswith("event_id")}
        return {**plain, "event_id": 0, "attributes": attributes}

    basic = [without_numbers(event) for event in history(recorded, View())]
    extended = history(recorded, View(extended=True))
    if isinstance(recorded[-1], ev.Terminated):
        assert extended[-1].event_type == "workflow_execution_terminated"
        assert basic.pop()["event_type"] == "workflow_execution_failed"
    assert [without_numbers(event) for event in extended if not event.attributes.extended] == basic


@settings(max_examples=100, deadline=None)
@given(timelines())
def test_without_system_activities_the_rest_is_the_same(recorded: list[Any]) -> None:
    def names(events: list[HistoryEvent]) -> list[Any]:
        return [(event.event_type, event.event_time, getattr(event.attributes, "timeline_key", None)) for event in events if not event.is_system]

    assert names(history(recorded, View(exclude_system=True))) == names(history(recorded, View()))


def test_what_python_cannot_hold_is_shown_as_text() -> None:
    nested = b"[" * 5000 + b"]" * 5000
    recorded = [
        ev.Started(at=START, workflow_type="w", input=Raw(b"[1e400]")),
        ev.ActivityScheduled(index=1, at=START, name="a", input=Raw(nested)),
        ev.Completed(at=START, result=Raw(b"123456789012345678901234567890")),
    ]
    events = history(recorded, View(enrich_inputs=True))
    assert events[0].attributes.input == "[1e400]"  # type: ignore[union-attr]
    assert events[1].attributes.input == nested.decode()  # type: ignore[union-attr]
    assert events[2].attributes.result == 123456789012345678901234567890  # type: ignore[union-attr]

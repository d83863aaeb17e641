"""What an actor waits for on the clock takes room for what is live, not for all that ever was."""

import pytest

from jetflow.engine.turn.alarms import SPARE, Alarms


def nobody() -> None: ...


def test_forgotten_alarms_leave_the_heap() -> None:
    alarms = Alarms(nobody)
    alarms.watch(0, 10**15)
    for index in range(1, 20_001):
        alarms.watch(index, 10**12 + index)
        alarms.forget(index)
    assert alarms.next_due() == 10**15
    assert len(alarms._heap) <= 2 + SPARE + 1


@pytest.mark.parametrize("live", [1, 50, 1000])
def test_live_alarms_stay_and_come_in_order(live: int) -> None:
    alarms = Alarms(nobody)
    for index in range(live * 5):
        alarms.watch(index, 1000 + (index * 7919) % (live * 5))
    for index in range(live * 5):
        if index % 5:
            alarms.forget(index)
    due = [(1000 + (index * 7919) % (live * 5), index) for index in range(0, live * 5, 5)]
    assert alarms.pop_due(10**9) == [index for _, index in sorted(due)]
    assert alarms.next_due() is None

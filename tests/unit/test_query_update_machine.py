"""User data, queries and updates in the machine, without a server; replay decides the same."""

import asyncio
from typing import Any

import msgspec
import pytest

from jetflow import (
    CancelledFailure,
    NondeterminismError,
    QueryError,
    activity,
    condition,
    continue_as_new,
    entity,
    now,
    random,
    search,
    set_query_handler,
    set_update_handler,
    sleep,
    workflow,
)
from jetflow.core import events as ev
from jetflow.core import handlers
from jetflow.core.queries import DisturbedError, prepare_update, query
from jetflow.core.values import body_of, encode
from tests.replay.driver import Run, check_replay, rebuild


@activity
async def double(n: int) -> int:
    raise NotImplementedError


@workflow
async def account(start: int) -> dict[str, Any]:
    balance = start
    changed = asyncio.Event()
    queue: asyncio.Queue[int] = asyncio.Queue()
    search().set(balance=balance)

    async def wait_for_change() -> None:
        await changed.wait()

    def deposit(amount: int) -> int:
        nonlocal balance
        balance += amount
        entity().append("deposits.all", amount)
        return search().incr("balance", amount)  # type: ignore[return-value]

    async def deposit_double(amount: int) -> int:
        return deposit(await double(amount))

    async def deposit_later(amount: int) -> int:
        await sleep("1h")
        return deposit(amount)

    def refuse(amount: int) -> None:
        raise PermissionError("no")

    async def start_task() -> None:
        asyncio.create_task(sleep(1))

    def look(what: str) -> Any:
        return {"now": now(), "data": search().get("balance"), "document": entity().get("deposits.all")}[what]

    set_query_handler("balance", lambda: balance)
    set_query_handler("look", look)
    set_query_handler("wake", changed.set)
    set_query_handler("put", lambda: queue.put_nowait(1))
    set_query_handler("random", random)
    set_query_handler("task", lambda: asyncio.create_task(sleep(1)))
    set_query_handler("stop", lambda: continue_as_new(1))
    set_query_handler("future", lambda: asyncio.get_running_loop().create_future())
    set_update_handler("deposit", deposit)
    set_update_handler("deposit_double", deposit_double)
    set_update_handler("deposit_later", deposit_later)
    set_update_handler("checked", deposit, lambda amount: random())
    set_update_handler("refuse", refuse)
    waiting = asyncio.create_task(wait_for_change())
    await condition("close")
    waiting.cancel()
    return {"balance": balance, "entity": entity().get()}


def update(run: Run, update_id: str, name: str, *args: Any) -> bool:
    return run.feed(ev.Updated(id=update_id, at=run.tick(), name=name, seq=int(update_id), input=encode(list(args))))


def ask(run: Run, name: str, *args: Any) -> Any:
    return msgspec.json.decode(query(run.machine, name, body_of(args)[0]))


def outcome(run: Run, update_id: str) -> Any:
    assert run.machine.handlers is not None
    found = run.machine.handlers.outcomes[update_id]
    return found.failure.type if isinstance(found, ev.UpdateFailed) else msgspec.json.decode(found.result)


def test_updates_and_data_are_decided_the_same_again() -> None:
    run = Run(account, 10)
    assert update(run, "1", "deposit", 5)
    assert outcome(run, "1") == 15
    assert update(run, "2", "deposit_double", 3)
    assert update(run, "3", "deposit_later", 1)
    assert update(run, "4", "refuse", 1)
    assert outcome(run, "4") == "PermissionError"
    run.complete("activity", 6)
    run.fire("timer")
    assert (outcome(run, "2"), outcome(run, "3")) == (21, 22)
    assert ask(run, "balance") == 22
    assert ask(run, "look", "document") == [5, 6, 1]
    run.signal("close")
    assert run.result == {"balance": 22, "entity": {"deposits": {"all": [5, 6, 1]}}}
    check_replay(run)
    assert rebuild(run).data.fields["balance"] == msgspec.Raw(b"22")


def test_a_repeat_of_an_update_is_not_taken() -> None:
    run = Run(account, 10)
    assert update(run, "1", "deposit", 5)
    assert not update(run, "1", "deposit", 5)
    assert ask(run, "balance") == 15


@pytest.mark.parametrize("name", ["random", "task", "stop", "future"])
@pytest.mark.filterwarnings("ignore:coroutine.*never awaited")
def test_a_query_that_does_something_is_refused(name: str) -> None:
    run = Run(account, 10)
    with pytest.raises(QueryError, match="may only read"):
        ask(run, name)
    assert not any(run.machine.take())
    assert ask(run, "look", "data") == 10
    run.signal("close")
    check_replay(run)


def test_a_query_that_wakes_a_task_is_found_out() -> None:
    run = Run(account, 10)
    with pytest.raises(DisturbedError):
        ask(run, "wake")
    again = rebuild(run)
    assert not again.loop._ready
    assert msgspec.json.decode(query(again, "balance", b"")) == 10


def test_a_query_of_a_run_that_has_ended() -> None:
    run = Run(account, 10)
    run.signal("close")
    assert ask(run, "balance") == 10
    assert msgspec.json.decode(query(rebuild(run), "balance", b"")) == 10


def test_a_validator_may_only_read() -> None:
    run = Run(account, 10)
    assert run.machine.handlers is not None
    with pytest.raises(QueryError, match="validator of update 'checked' may only read: random"):
        prepare_update(run.machine, "checked", b"3", None)
    assert not run.machine.decided


def test_code_without_the_handler_of_a_recorded_update_is_told() -> None:
    @workflow(name="account")
    async def other(start: int) -> None:
        await condition("close")

    run = Run(account, 10)
    update(run, "1", "deposit", 5)
    with pytest.raises(NondeterminismError, match="update 'deposit'"):
        rebuild(run, definition=other)


def test_cancellation_reaches_an_update_under_way() -> None:
    run = Run(account, 10)
    update(run, "1", "deposit_later", 5)
    run.cancel()
    assert run.closed
    assert CancelledFailure.__name__ == run.failure.type


@workflow
async def rounds(n: int) -> Any:
    count = search().incr("rounds")
    set_update_handler("note", lambda text: entity().append("notes", text))
    set_update_handler("wait", lambda: condition("never"))
    if count < n:
        await condition("next")
        continue_as_new(n)
    await condition("next")
    return [count, entity().get("notes")]


def test_the_next_generation_has_the_data_and_the_outcomes() -> None:
    run = Run(rounds, 2)
    machine = run.machine
    update(run, "1", "note", "a")
    update(run, "2", "wait")
    run.signal("next")
    check_replay(run)
    assert run.machine is not machine
    assert outcome(run, "1") == ["a"]
    assert outcome(run, "2") == "UpdateError"
    assert not update(run, "2", "wait")
    assert update(run, "3", "note", "b")
    run.signal("next")
    assert run.result == [2, ["a", "b"]]
    check_replay(run)


def test_outcomes_are_kept_in_bounds_and_what_is_forgotten_is_known() -> None:
    run = Run(account, 0)
    for number in range(1, handlers.MAX_OUTCOMES + 11):
        assert update(run, str(number), "deposit", 1)
    assert run.machine.handlers is not None
    assert len(run.machine.handlers.outcomes) == handlers.MAX_OUTCOMES
    assert run.machine.handlers.forgotten == 10
    carried = run.machine.carried_over()
    assert len(msgspec.json.encode(carried["updates"])) < 2 * handlers.CARRIED_BYTES
    assert carried["forgotten"] + len(carried["updates"]) == handlers.MAX_OUTCOMES + 10

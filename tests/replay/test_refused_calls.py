"""What workflow code cannot ask for is refused at the call, where it can be caught, and refused again in every replay."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jetflow import (
    Client,
    InvalidInputError,
    activity,
    condition,
    continue_as_new,
    deprecate_patch,
    enrich,
    entity,
    execute_activity,
    execute_child,
    patched,
    proxy_activities,
    search,
    set_query_handler,
    set_update_handler,
    signal,
    sleep,
    start_child,
    workflow,
)
from tests.replay.driver import Run, check_replay

LONG = "n" * 257
BROKEN = "a\ud800b"
AGES = "300000000d"

NAMED: dict[str, Callable[[Any], Any]] = {
    "condition": lambda name: condition(name, timeout="1h"),
    "execute_activity": lambda name: execute_activity(name, 1),
    "execute_activity, task_queue": lambda name: execute_activity(charge, 1, task_queue=name),
    "execute_activity by name, task_queue": lambda name: execute_activity("charge", 1, task_queue=name),
    "with_options, task_queue": lambda name: charge.with_options(task_queue=name)(1),
    "proxy_activities, task_queue": lambda name: proxy_activities(task_queue=name).charge(1),
    "execute_child": lambda name: execute_child(name),
    "execute_child, workflow_id": lambda name: execute_child(child, workflow_id=name),
    "execute_child, task_queue": lambda name: execute_child(child, task_queue=name),
    "start_child": lambda name: start_child(name),
    "start_child, workflow_id": lambda name: start_child(child, workflow_id=name),
    "signal, workflow_id": lambda name: signal(name, "s"),
    "signal, name": lambda name: signal("wf", name),
    "signal, task_queue": lambda name: signal("wf", "s", task_queue=name),
    "set_query_handler": lambda name: set_query_handler(name, lambda: 1),
    "set_update_handler": lambda name: set_update_handler(name, lambda: 1),
    "continue_as_new": lambda name: continue_as_new(1, workflow=name),
}
TEXTS: dict[str, Callable[[Any], Any]] = {
    "patched": lambda name: patched(name),
    "deprecate_patch": lambda name: deprecate_patch(name),
    "enrich": lambda name: enrich({name: 1}),
    "search.set": lambda name: search().set(name, 1),
    "search.incr": lambda name: search().incr(name),
    "entity.append": lambda name: entity().append(name, 1),
}
OTHERS: dict[str, tuple[Callable[[], Any], str]] = {
    "sleep": (lambda: sleep(AGES), "duration must be at most"),
    "sleep below zero": (lambda: sleep(-1), "not negative"),
    "condition, timeout": (lambda: condition("s", timeout=AGES), "timeout must be at most"),
    "condition of a predicate, timeout": (lambda: condition(lambda: False, timeout=1e300), "timeout must be at most"),
    "condition, model": (lambda: condition("s", model=3), "cannot be read from JSON"),  # type: ignore[call-overload]
    "condition of a number": (lambda: condition(3), "the name of a signal, or a function, not 3"),  # type: ignore[call-overload]
    "execute_activity, timeout": (lambda: execute_activity(charge, 1, start_to_close_timeout=AGES), "start_to_close_timeout must be at most"),
    "execute_activity, heartbeat": (lambda: execute_activity("a", heartbeat_timeout=1e300), "heartbeat_timeout must be at most"),
    "execute_activity, result_type": (lambda: execute_activity("a", result_type=3), "cannot be read from JSON"),  # type: ignore[call-overload]
    "execute_child, expire": (lambda: execute_child(child, expire=AGES), "expire must be at most"),
    "signal, expire": (lambda: signal("wf", "s", expire=AGES), "expire must be at most"),
    # what is not an activity
    "a lambda": (lambda: execute_activity(lambda: 1), "not a lambda: write a def function with @activity above it"),  # type: ignore[call-overload]
    "a plain function": (lambda: execute_activity(plain, 1), "put @activity above 'plain', or pass the name 'plain'"),  # type: ignore[call-overload]
    "a path": (lambda: execute_activity(Path("x")), r"or the name of an activity, not PosixPath\('x'\)"),  # type: ignore[call-overload]
    "a class": (lambda: execute_activity(Path), "not the class 'Path'"),  # type: ignore[call-overload]
    "None": (lambda: execute_activity(None), "or the name of an activity, not None"),  # type: ignore[call-overload]
    "a workflow": (lambda: execute_activity(child), "'child' is a workflow, not an activity: use execute_child"),  # type: ignore[call-overload]
    # what is not a workflow
    "child: a lambda": (lambda: execute_child(lambda: 1), "a lambda has no name"),  # type: ignore[arg-type, return-value]
    "child: a plain function": (lambda: execute_child(plain, 1), "'plain' must be an async def function"),  # type: ignore[arg-type]
    "child: an activity": (lambda: execute_child(charge, 1), "'charge' is an activity, not a workflow"),
    "child: a class": (lambda: start_child(Path), "not the class 'Path'"),  # type: ignore[arg-type]
    "child: a path": (lambda: start_child(Path("x")), r"or its name, not PosixPath\('x'\)"),  # type: ignore[call-overload]
    "child: a partial": (lambda: start_child(functools.partial(_async, 1)), "has no name"),
    "next: an activity": (lambda: continue_as_new(workflow=charge), "'charge' is an activity"),  # type: ignore[arg-type]
    "signal: a function": (lambda: signal("wf", plain), "must be a non-empty string, not .*; pass its name: 'plain'"),  # type: ignore[arg-type]
}


@activity
async def charge(amount: int) -> int:
    raise AssertionError("resolved by the driver")


def plain(amount: int) -> int:
    raise AssertionError("never called")


async def _async(amount: int) -> int:
    raise AssertionError("never called")


@workflow
async def child() -> None: ...


def refused(call: Callable[[], Any]) -> str:
    """What the code is told; it catches that, and goes on to its end, in the run and in every replay of it."""

    @workflow
    async def asks() -> str:
        await charge(1)
        try:
            answer = call()
            if answer is not None and hasattr(answer, "__await__"):
                await answer
        except InvalidInputError as error:
            message = str(error)
        else:
            message = "accepted"
        await charge(2)
        return message

    run = Run(asks)
    run.complete("activity 'charge'")
    run.complete("activity 'charge'")
    check_replay(run)
    return str(run.result)


@pytest.mark.parametrize("where", NAMED)
def test_a_name_that_cannot_be_on_the_wire_is_refused_at_the_call(where: str) -> None:
    call = NAMED[where]
    assert "is too long: 257 bytes on the wire, at most 256" in refused(lambda: call(LONG))
    assert "is not valid unicode text" in refused(lambda: call(BROKEN))
    assert "must be a non-empty string" in refused(lambda: call(""))


@pytest.mark.parametrize("where", TEXTS)
def test_a_name_that_cannot_be_stored_is_refused_at_the_call(where: str) -> None:
    call = TEXTS[where]
    assert "is not valid unicode text" in refused(lambda: call(BROKEN))
    assert refused(lambda: call("")) != "accepted"
    if where != "entity.append":
        assert "is too long" in refused(lambda: call("n" * 5000))


@pytest.mark.parametrize("where", OTHERS)
def test_what_cannot_be_used_is_refused_at_the_call(where: str) -> None:
    call, said = OTHERS[where]
    assert re.search(said, refused(call))


@pytest.mark.parametrize("name", ["", LONG, BROKEN])
def test_a_definition_refuses_a_name_that_cannot_be_used(name: str) -> None:
    with pytest.raises(InvalidInputError, match="workflow type"):
        workflow(name=name)(_async)
    with pytest.raises(InvalidInputError, match="activity name"):
        activity(name=name)(_async)
    with pytest.raises(InvalidInputError, match="task queue"):
        activity(task_queue=name)


@pytest.mark.parametrize(
    ("given", "said"),
    [(lambda: 1, "a lambda has no name"), (plain, "must be an async def function"), (Path, "not the class 'Path'"), (Path("x"), "not PosixPath"),
     (charge, "'charge' is an activity"), (functools.partial(_async, 1), "has no name"), (None, "not None"), ("", "non-empty"), (LONG, "too long")],
)  # fmt: skip
async def test_a_client_refuses_what_is_no_workflow(client: Client, queue: str, given: Any, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        await client.start(given, task_queue=queue)
    with pytest.raises(InvalidInputError, match=said):
        await client.execute(given, task_queue=queue)
    with pytest.raises(InvalidInputError, match=said):
        await client.signal_with_start(given, signal="s", workflow_id="w", task_queue=queue)


@pytest.mark.parametrize("given", [plain, Path("x"), Path, "", LONG, BROKEN])
async def test_a_handle_refuses_what_is_no_name(client: Client, queue: str, given: Any) -> None:
    handle = client.get_handle("w", task_queue=queue)
    for call in (handle.signal, handle.query, handle.update, client.signal):
        with pytest.raises(InvalidInputError, match=r"signal|query|update"):
            await call(given)

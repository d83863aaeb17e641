"""Shapes of workflow code as trees, and the workflow that interprets one.

A node is ``[kind, *parameters and children]``. ``draw`` makes a random tree; ``KINDS`` has one coroutine for each kind.
"""

from __future__ import annotations

import asyncio
import random as chance
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import anyio

from jetflow import (
    CancellationScope,
    activity,
    condition,
    continue_as_new,
    execute_child,
    now,
    patched,
    random,
    side_effect,
    sleep,
    start_child,
    uuid4,
    workflow,
)
from jetflow.errors import FailureError

Node = list[Any]


@activity
async def work(name: str) -> int:
    raise AssertionError("activities are resolved by the driver")


@workflow(name="child")
async def child(name: str) -> str:
    raise AssertionError("children are resolved by the driver")


@workflow(name="shape")
async def interpreted(tree: Any, generation: int = 1) -> list[Any]:
    log: list[Any] = []
    try:
        await run(tree, log)
    except FailureError as error:
        log.append(f"ended by {type(error).__name__}")
        if generation % 3 == 0:
            raise
    if generation == 1 and len(log) % 7 == 3:
        continue_as_new(tree, 2)
    return log


async def run(node: Node, log: list[Any]) -> Any:
    value = await KINDS[node[0]](node, log)
    log.append(value if value is None or isinstance(value, (int, str, bool, float)) else str(type(value).__name__))
    return value


# ---- leaves


async def _work(node: Node, log: list[Any]) -> Any:
    return await work(node[1])


async def _sleep(node: Node, log: list[Any]) -> Any:
    return await sleep(node[1])


async def _asyncio_sleep(node: Node, log: list[Any]) -> Any:
    return await asyncio.sleep(node[1], "slept")


async def _anyio_sleep(node: Node, log: list[Any]) -> Any:
    return await anyio.sleep(node[1])


async def _wait(node: Node, log: list[Any]) -> Any:
    return await condition(node[1], timeout=node[2])


async def _predicate(node: Node, log: list[Any]) -> Any:
    return await condition(lambda: len(log) % 5 == node[1], timeout=node[2])


async def _child(node: Node, log: list[Any]) -> Any:
    return await execute_child(child, node[1])


async def _start_child(node: Node, log: list[Any]) -> Any:
    return (await start_child(child, node[1])).run_id


async def _taken(node: Node, log: list[Any]) -> Any:
    match node[1]:
        case 0:
            return random()
        case 1:
            return str(uuid4())
        case 2:
            return now().isoformat()
        case _:
            return side_effect(lambda: len(log) * 10)


async def _patched(node: Node, log: list[Any]) -> Any:
    return await run(node[2] if patched(node[1]) else node[3], log)


async def _raise(node: Node, log: list[Any]) -> Any:
    raise ValueError(node[1])


# ---- branches


async def _sequence(node: Node, log: list[Any]) -> Any:
    for part in node[1]:
        await run(part, log)


async def _loop(node: Node, log: list[Any]) -> Any:
    for _ in range(node[1]):
        await run(node[2], log)


async def _gather(node: Node, log: list[Any]) -> Any:
    results = await asyncio.gather(*(run(part, log) for part in node[2]), return_exceptions=node[1])
    return "+".join(type(result).__name__ for result in results)


async def _task_group(node: Node, log: list[Any]) -> Any:
    async with asyncio.TaskGroup() as group:
        for part in node[1]:
            group.create_task(run(part, log))


async def _anyio_group(node: Node, log: list[Any]) -> Any:
    async with anyio.create_task_group() as group:
        for part in node[1]:
            group.start_soon(_scoped, part, log)
        await run(node[1][0], log)
        if node[2]:
            group.cancel_scope.cancel()


async def _scoped(node: Node, log: list[Any]) -> None:
    with anyio.CancelScope():
        try:
            await run(node, log)
        finally:
            log.append("scope left")


async def _wait_first(node: Node, log: list[Any]) -> Any:
    tasks = [asyncio.create_task(run(part, log)) for part in node[1]]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    for task in done | pending:
        with suppress(asyncio.CancelledError, Exception):
            log.append(str(await task))
    return len(done)


async def _as_completed(node: Node, log: list[Any]) -> Any:
    for item in asyncio.as_completed([run(part, log) for part in node[1]]):
        log.append(str(await item))


async def _spawn(node: Node, log: list[Any]) -> Any:
    task = asyncio.create_task(run(node[1], log))
    await run(node[2], log)
    if node[3]:
        task.cancel()
    return str(await asyncio.gather(task, return_exceptions=True))[:10]


async def _timeout(node: Node, log: list[Any]) -> Any:
    async with asyncio.timeout(node[1]):
        await run(node[2], log)


async def _wait_for(node: Node, log: list[Any]) -> Any:
    return await asyncio.wait_for(run(node[2], log), node[1])


async def _move_on(node: Node, log: list[Any]) -> Any:
    with anyio.move_on_after(node[1]) as scope:
        await run(node[2], log)
    return scope.cancelled_caught


async def _shield(node: Node, log: list[Any]) -> Any:
    async with asyncio.timeout(node[1]):
        return await asyncio.shield(asyncio.create_task(run(node[2], log)))


async def _try(node: Node, log: list[Any]) -> Any:
    try:
        return await run(node[1], log)
    except Exception as error:
        log.append(type(error).__name__)
        return await run(node[2], log)
    finally:
        log.append("finally")
        if node[3] is not None:
            await run(node[3], log)


async def _cleanup(node: Node, log: list[Any]) -> Any:
    try:
        await run(node[1], log)
    finally:
        async with CancellationScope.non_cancellable():
            await run(node[2], log)


async def _queue(node: Node, log: list[Any]) -> Any:
    queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=1)

    async def produce() -> None:
        for part in node[1]:
            try:
                await queue.put(await run(part, log))
            except FailureError as error:
                await queue.put(type(error).__name__)
        await queue.put("end")

    producer = asyncio.create_task(produce())
    while (item := await queue.get()) != "end":
        log.append(str(item))
    await producer


async def _generator(node: Node, log: list[Any]) -> Any:
    async def steps() -> Any:
        try:
            for part in node[1]:
                yield await run(part, log)
        finally:
            log.append("generator closed")

    async for value in steps():
        if node[2] and isinstance(value, int):
            break


async def _lock(node: Node, log: list[Any]) -> Any:
    limit = asyncio.Semaphore(node[1])

    async def guarded(part: Node) -> None:
        async with limit:
            await run(part, log)

    await asyncio.gather(*(guarded(part) for part in node[2]))


KINDS: dict[str, Callable[[Node, list[Any]], Coroutine[Any, Any, Any]]] = {
    "work": _work, "sleep": _sleep, "asyncio.sleep": _asyncio_sleep, "anyio.sleep": _anyio_sleep, "wait": _wait,
    "predicate": _predicate, "child": _child, "start_child": _start_child, "taken": _taken, "raise": _raise,
    "patched": _patched, "sequence": _sequence, "loop": _loop, "gather": _gather, "task_group": _task_group,
    "anyio_group": _anyio_group, "wait_first": _wait_first, "as_completed": _as_completed, "spawn": _spawn, "timeout": _timeout,
    "wait_for": _wait_for, "move_on": _move_on, "shield": _shield, "try": _try, "cleanup": _cleanup, "queue": _queue,
    "generator": _generator, "lock": _lock,
}  # fmt: skip

LEAVES = ["work"] * 6 + ["sleep", "asyncio.sleep", "anyio.sleep", "wait", "wait", "predicate", "child", "start_child", "taken", "raise"]
BRANCHES = [
    "patched", "sequence", "sequence", "loop", "gather", "gather", "task_group", "anyio_group", "wait_first", "as_completed", "spawn",
    "timeout", "wait_for", "move_on", "shield", "try", "try", "cleanup", "queue", "generator", "lock",
]  # fmt: skip


def draw(dice: chance.Random, depth: int) -> Node:
    """A random tree, at most ``depth`` branches deep."""
    kind = dice.choice(BRANCHES if depth and dice.random() < 0.3 + 0.17 * depth else LEAVES)

    def one() -> Node:
        return draw(dice, depth - 1)

    def several(least: int = 2) -> list[Node]:
        return [draw(dice, depth - 1) for _ in range(dice.randint(least, 3))]

    seconds = dice.choice((0.0004, 0.05, 1, 30.123))
    match kind:
        case "work" | "child" | "start_child":
            return [kind, f"{kind}-{dice.randrange(3)}"]
        case "sleep" | "asyncio.sleep" | "anyio.sleep":
            return [kind, dice.choice((0, seconds))]
        case "wait":
            return [kind, dice.choice(("red", "blue")), dice.choice((None, seconds))]
        case "predicate":
            return [kind, dice.randrange(5), seconds]
        case "taken":
            return [kind, dice.randrange(4)]
        case "raise":
            return [kind, "on purpose"]
        case "patched":
            return [kind, dice.choice(("p1", "p2")), one(), one()]
        case "loop":
            return [kind, dice.randint(1, 3), one()]
        case "gather":
            return [kind, dice.random() < 0.5, several()]
        case "anyio_group" | "generator":
            return [kind, several(), dice.random() < 0.4]
        case "spawn":
            return [kind, one(), one(), dice.random() < 0.5]
        case "timeout" | "wait_for" | "move_on" | "shield":
            return [kind, seconds, one()]
        case "try":
            return [kind, one(), one(), one() if dice.random() < 0.4 else None]
        case "cleanup":
            return [kind, one(), one()]
        case "lock":
            return [kind, dice.randint(1, 2), several()]
        case _:
            return [kind, several(1)]

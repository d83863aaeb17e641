"""Workflows whose every activity execution leaves a line in a file, and a worker process that serves them.

``python -m tests.chaos.app URL QUEUE [OPTIONS]`` prints ``ready`` once it owns partitions, and stops gracefully on SIGTERM. The options
are those of ``Worker``, as JSON; with ``"pauses": true`` the process stands still where ``JETFLOW_FAULT`` would kill it, until SIGCONT.
"""

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jetflow import (
    CancellationScope,
    CancelledFailure,
    Client,
    RetryPolicy,
    Worker,
    activity,
    condition,
    execute_child,
    random,
    search,
    set_query_handler,
    set_update_handler,
    sleep,
    start_child,
    uuid4,
    workflow,
)
from jetflow import signal as send_signal
from jetflow.engine import faults
from tests.chaos.together import insist_if_asked

LOG = Path(os.environ.get("CHAOS_LOG", "/dev/null"))


def note(step: str, workflow_id: str, index: int) -> None:
    """One line for one execution, written whole."""
    line = json.dumps({"step": step, "workflow_id": workflow_id, "index": index, "at": time.time_ns() // 1_000_000, "pid": os.getpid()})
    file = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode() + b"\n")
    os.close(file)


def noted(step: str) -> None:
    info = activity.info()
    note(step, info.workflow_id, info.index)


@activity
async def add(total: int, more: int) -> int:
    noted("add")
    return total + more


@activity
async def slow_add(total: int, more: int, seconds: float) -> int:
    noted("slow_add")
    await asyncio.sleep(seconds)
    return total + more


@activity(retry=RetryPolicy(initial_interval="1200ms", backoff_coefficient=1))
async def flaky_add(total: int, more: int) -> int:
    """Fails on its first attempt; the backoff is long enough to be durable."""
    noted("flaky_add")
    if activity.info().attempt < 2:
        raise ConnectionError("not yet")
    return total + more


@workflow
async def five_steps(n: int) -> int:
    total = n
    for more in range(1, 6):
        total = await add(total, more)
    return total


@activity
async def drawn(key: str) -> str:
    note(key, activity.info().workflow_id, activity.info().index)
    return key


@workflow
async def draws_lots() -> str:
    return await drawn(f"{uuid4()} {random()}")


@workflow
async def everything(n: int, in_turn: bool = False) -> dict[str, Any]:
    """One of each kind of operation; the result says what it saw. ``in_turn``: nothing at once, so that there is one order only."""
    total = await add(n, 1)
    if in_turn:
        both = [await slow_add(total, 1, 0.05), await flaky_add(total, 2)]
    else:
        both = await asyncio.gather(slow_add(total, 1, 0.05), flaky_add(total, 2))
    early = await condition("early")
    await sleep("1500ms")
    never = await condition("never", timeout="1200ms")
    child = await execute_child(five_steps, n)
    other = await start_child(five_steps, n + 1, parent_close_policy="abandon")
    live = await condition("live")
    return {"total": total, "both": both, "early": early, "never": never, "child": child, "other": other.workflow_id, "live": live}


def expected_everything(n: int) -> dict[str, Any]:
    """What ``everything`` gives, but for the generated child id."""
    return {"total": n + 1, "both": [n + 2, n + 3], "early": {"n": n}, "never": False, "child": n + 15, "live": {"live": n}}


@workflow
async def sleeper(ms: int) -> str:
    await sleep(f"{ms}ms")
    return "slept"


@workflow
async def one_slow_step(seconds: float) -> int:
    return await slow_add(1, 1, seconds)


@workflow
async def slow_steps(n: int, seconds: list[float]) -> int:
    for each in seconds:
        n = await slow_add(n, 1, each)
    return n


@workflow
async def gate() -> Any:
    """With a timer beside its wait."""
    return await condition("go", timeout="1h")


@workflow
async def with_a_child(child: str) -> Any:
    """Its child waits for ever, and is terminated when this one ends."""
    await start_child(gate, workflow_id=child)
    return await condition("go")


@workflow
async def collect(count: int) -> list[Any]:
    """So many signals in the order in which they came; a state in between that only the timeline keeps."""
    return [await condition("n") for _ in range(count)]


@workflow
async def collect_from(name: str, count: int) -> list[Any]:
    """As ``collect``, of signals by another name, with a step after each."""
    got: list[Any] = []
    for _ in range(count):
        got.append(await condition(name))
        await add(0, 1)
    return got


@workflow
async def tree(depth: int, path: str, queues: list[str]) -> Any:
    """A child started and a child waited for on every level, on task queues in turn; none of them ends by itself."""
    if depth:
        on = queues[depth % len(queues)]
        await start_child(tree, depth - 1, f"{path}s", queues, workflow_id=f"{path}s", task_queue=on, parent_close_policy="abandon")
        await execute_child(tree, depth - 1, f"{path}e", queues, workflow_id=f"{path}e", task_queue=on, parent_close_policy="cancel")
    return await condition("go")


@workflow
async def tells(receiver: str, count: int) -> str:
    """Ends with the commit that sends its signals."""
    for n in range(count):
        await send_signal(receiver, "n", n)
    return "told"


@workflow
async def tells_at_last(receiver: str, count: int) -> str:
    """The same after a step, so that the commit that ends it has what came before too."""
    await add(0, 1)
    for n in range(count):
        await send_signal(receiver, "n", n)
    return "told"


@workflow
async def counts() -> list[int]:
    """Adds what it is told, each through an activity; the data and the result say what came of it."""
    given: list[int] = []
    ended = False

    async def count(n: int) -> int:
        given.append(await add(n, 0))
        return search().incr("given")  # type: ignore[return-value]

    def end() -> None:
        nonlocal ended
        ended = True

    set_update_handler("count", count)
    set_update_handler("end", end)
    set_query_handler("given", lambda: given)
    await condition(lambda: ended)
    return given


@workflow
async def cleans_up() -> str:
    """Waits for ever; a cancel makes it clean up."""
    try:
        await condition("go")
    except CancelledFailure as failure:
        async with CancellationScope.non_cancellable():
            await add(1, 1)
            await sleep("1200ms")
        return f"cleaned up: {failure.message}"
    return "went on"


WORKFLOWS = [five_steps, everything, sleeper, one_slow_step, collect, collect_from, tree, tells, tells_at_last, counts, cleans_up, draws_lots,
             slow_steps, gate, with_a_child]  # fmt: skip
ACTIVITIES = [add, slow_add, flaky_add, drawn]


async def serve(url: str, queue: str, workflows: Iterable[Any] = WORKFLOWS, activities: Iterable[Any] = ACTIVITIES, **options: Any) -> None:
    insist_if_asked()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with (
        Client.connect(url, name="chaos") as client,
        Worker(client, task_queue=queue, workflows=workflows, activities=activities, **options) as worker,
    ):
        while not worker.partitions and not stop.is_set():
            await asyncio.sleep(0.02)
        print("ready", flush=True)
        await stop.wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    options = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
    if options.pop("pauses", False):
        faults.signal = SimpleNamespace(SIGKILL=signal.SIGSTOP)  # type: ignore[assignment]
    asyncio.run(serve(sys.argv[1], sys.argv[2], **options))

"""The smallest useful app: an activity that is retried, a signal that may come, a sleep that survives restarts.

    jetflow dev examples/hello.py --task-queue hello                   # embedded nats-server and a worker

    nats pub jetflow.hello.hello-1.start.hello '"Ada"'                 # in another terminal; start a workflow
    nats pub jetflow.hello.hello-1.signal.answer '"fine, and you?"'    # within a minute; before the start is fine too
    nats kv get jetflow_state hello.hello-1 --raw                      # its state, and then its result

Or from Python:

    async with Client.connect() as client:
        handle = await client.start(hello, "Ada", workflow_id="hello-2", task_queue="hello")
        await handle.signal("answer", "fine, and you?")
        print(await handle.result())
"""

from jetflow import RetryPolicy, activity, condition, sleep, workflow


@activity(retry=RetryPolicy(maximum_attempts=5, initial_interval="200ms"), start_to_close_timeout="10s")
async def greet(name: str) -> str:
    """Fails at first, as services do."""
    if activity.info().attempt == 1:
        raise ConnectionError("the greeting service is not up yet")
    return f"Hello, {name}!"


@workflow
async def hello(name: str, wait: str = "1m") -> str:
    """Greet, wait for the signal ``answer``, sleep for half a second, and return what came."""
    greeting = await greet(name)
    answer = await condition("answer", timeout=wait, model=str)
    await sleep("500ms")
    return f"{greeting} No answer." if answer is False else f"{greeting} You said: {answer}"

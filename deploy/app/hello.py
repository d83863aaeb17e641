"""The workflow that the deployment runs until you put your own module in its place."""

from jetflow import activity, sleep, workflow


@activity
async def greet(name: str) -> str:
    return f"Hello, {name}!"


@workflow
async def hello(name: str) -> str:
    """Greets, after a durable pause."""
    await sleep("100ms")
    return await greet(name)

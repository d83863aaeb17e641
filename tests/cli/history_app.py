"""The app whose histories the command-line tests look at."""

from jetflow import RetryPolicy, activity, condition, execute_child, workflow


@activity
async def price(sku: str) -> int:
    return len(sku)


@activity(retry=RetryPolicy(maximum_attempts=1))
async def decline(sku: str) -> None:
    raise LookupError(f"no {sku} in [bold]stock[/bold] \x1b[31m")


@workflow
async def part(sku: str) -> int:
    return await price(sku)


@workflow
async def whole(sku: str) -> dict:
    total = await execute_child(part, sku, workflow_id=f"part of {sku}")
    late = await condition("late", timeout="20ms")
    return {"total": total, "late": late, "go": await condition("go")}


@workflow
async def refused(sku: str) -> None:
    await decline(sku)


@workflow
async def long(n: int) -> int:
    for _ in range(n):
        await price("A")
    return n

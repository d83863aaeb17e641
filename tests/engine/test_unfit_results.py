"""Results whose type changes under a running workflow wait for code that fits; those that never fitted fail where they are made."""

from typing import Any

import msgspec
import pytest

from jetflow import ActivityError, Client, RetryPolicy, Worker, activity, condition, execute_activity, execute_child, workflow

from .helpers import WAIT, parked, waits_for

RAN: list[str] = []


class Old(msgspec.Struct):
    id: int


class New(msgspec.Struct):
    id: int
    currency: str


class Fitting(msgspec.Struct):
    id: int
    currency: str = "EUR"


def version(model: Any, queue: str) -> dict[str, Any]:
    """The same workflows and activities, with another type of result."""

    @activity(name="charge")
    async def charge(n: int) -> model:
        RAN.append(f"{queue} {n}")
        return model(n)

    @workflow(name="pays")
    async def pays(n: int) -> str:
        receipt = await charge(n)
        await condition("go")
        return f"{type(receipt).__name__} {receipt.id}"

    @workflow(name="pays_elsewhere")
    async def pays_elsewhere(n: int) -> str:
        receipt: Any = await execute_activity("charge", n, task_queue=f"{queue}-pay", result_type=model)
        await condition("go")
        return f"{type(receipt).__name__} {receipt.id}"

    @workflow(name="part")
    async def part(n: int) -> model:
        RAN.append(f"{queue} {n}")
        await condition("part", timeout="1ms")
        return Old(n)  # as before, whatever the parent expects

    @workflow(name="whole")
    async def whole(n: int) -> str:
        receipt: Any = await execute_child(part, n)
        await condition("go")
        return f"{type(receipt).__name__} {receipt.id}"

    return {"workflows": [pays, pays_elsewhere, part, whole], "activities": [charge]}


async def test_a_recorded_result_waits_for_code_that_fits(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **version(Old, queue)):
        handle = await client.start("pays", 7, task_queue=queue)
        await waits_for(handle, "go")
    async with Worker(client, task_queue=queue, **version(New, queue)):
        await handle.signal("go", 1)
        why = await parked(handle)
        assert "currency" in str(why)
        assert "charge" in str(why)
    async with Worker(client, task_queue=queue, **version(Fitting, queue)):
        assert await handle.result(timeout=WAIT) == "Fitting 7"
    assert RAN.count(f"{queue} 7") == 1


@pytest.mark.parametrize("kind", ["pays_elsewhere", "whole"])
async def test_a_result_that_comes_after_the_change_waits_too(client: Client, queue: str, kind: str) -> None:
    pay = version(Old, queue)["activities"]
    async with Worker(client, task_queue=f"{queue}-pay", activities=pay):
        async with Worker(client, task_queue=queue, **version(New, queue)):
            handle = await client.start(kind, 7, task_queue=queue)
            assert "currency" in str(await parked(handle))
        async with Worker(client, task_queue=queue, **version(New, queue)):
            assert "currency" in str(await parked(handle))
        async with Worker(client, task_queue=queue, **version(Fitting, queue)):
            await handle.signal("go", 1)
            assert await handle.result(timeout=WAIT) == "Fitting 7"
    assert RAN.count(f"{queue} 7") == (1 if kind == "pays_elsewhere" else RAN.count(f"{queue} 7"))


async def test_a_local_result_of_another_type_is_kept(client: Client, queue: str) -> None:
    @activity(name="charge")
    async def charge(n: int) -> Old:
        RAN.append(f"{queue} {n}")
        return Old(n)

    def flow(model: Any) -> Any:
        @workflow(name="by_name")
        async def by_name(n: int) -> str:
            receipt: Any = await execute_activity("charge", n, result_type=model)
            again: Any = await execute_activity("charge", n + 1, result_type=model)
            return f"{receipt.id} {again.id}"

        return by_name

    async with Worker(client, task_queue=queue, workflows=[flow(New)], activities=[charge]):
        handle = await client.start("by_name", 7, task_queue=queue)
        assert "currency" in str(await parked(handle))
    async with Worker(client, task_queue=queue, workflows=[flow(Fitting)], activities=[charge]):
        assert await handle.result(timeout=WAIT) == "7 8"
    assert [ran for ran in RAN if ran.startswith(queue)] == [f"{queue} 7", f"{queue} 8"]


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_result_that_never_fitted_fails_the_attempt(client: Client, queue: str, elsewhere: bool) -> None:
    @activity(retry=RetryPolicy(maximum_attempts=1))
    async def nonsense() -> list[Old]:
        return [Old(1), "x"]  # type: ignore[list-item]

    @activity(retry=RetryPolicy(maximum_attempts=1))
    def no_number() -> Any:
        return {"a": [float("nan")]}

    @workflow
    async def flow(name: str) -> str:
        try:
            await execute_activity(name, task_queue=f"{queue}-more" if elsewhere else None)
        except ActivityError as error:
            return str(error)
        return "done"

    async with (
        Worker(client, task_queue=queue, workflows=[flow], activities=[nonsense, no_number]),
        Worker(client, task_queue=f"{queue}-more", activities=[nonsense, no_number]),
    ):
        assert "`$[1]`" in await client.execute(flow, "nonsense", task_queue=queue, timeout=WAIT)
        assert "`$.a[0]`" in await client.execute(flow, "no_number", task_queue=queue, timeout=WAIT)

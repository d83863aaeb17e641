"""Arguments and results: types survive the way, what does not fit is refused by name, what is too large is refused clearly."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest

from jetflow import ActivityError, Client, InvalidInputError, Worker, WorkflowFailedError, activity, condition, workflow

from .helpers import WAIT, dead_letters, plain_nats, until, waits_for

LIMIT = 1 << 20


class Line(msgspec.Struct):
    sku: str
    price: Decimal


class Order(msgspec.Struct):
    id: UUID
    placed: datetime
    lines: list[Line]
    note: str | None = None
    blob: bytes = b""


@dataclass
class Box:
    size: int
    labels: dict[str, float] = field(default_factory=dict)
    inner: "Box | None" = None


ORDER = Order(UUID(int=7), datetime(2024, 2, 29, 12, 30, 1, 250, tzinfo=UTC), [Line("ä", Decimal("0.10"))], None, b"\x00\xff")
BOX = Box(1, {"π": 3.14}, Box(2))


@activity
async def same_order(order: Order) -> Order:
    assert isinstance(order, Order)
    return order


@activity
async def same_box(box: Box) -> Box:
    assert isinstance(box.inner, Box)
    return box


@activity
async def same_many(a: Decimal, b: datetime, c: bytes, d: UUID | None, e: timedelta) -> tuple[Decimal, datetime, bytes, UUID | None, timedelta]:
    return a, b, c, d, e


@activity
async def same(value: Any) -> Any:
    return value


@activity
async def spoil(items: list[int]) -> int:
    items.append(99)
    return len(items)


@activity
async def unwritable() -> Any:
    return object()


@activity
async def big(size: int) -> str:
    return "x" * size


@activity
async def length(text: str) -> int:
    return len(text)


@workflow
async def typed(order: Order, box: Box) -> tuple[Order, Box]:
    assert isinstance(order, Order)
    return await same_order(order), await same_box(box)


@workflow
async def scalars() -> bool:
    given = (Decimal("1.20"), datetime(2030, 1, 1, tzinfo=UTC), b"\x01", None, timedelta(seconds=90))
    return await same_many(*given) == given


@workflow
async def anything(value: Any = "default") -> Any:
    return await same(value)


@workflow
async def several(a: int, b: str = "b", *rest: float) -> list[Any]:
    return [a, b, list(rest)]


@workflow
async def lone_list(items: list[int]) -> int:
    return sum(items)


@workflow
async def keeps_its_own() -> list[int]:
    mine = [1]
    await spoil(mine)
    await asyncio.gather(spoil(mine), spoil(mine))
    return mine


@workflow
async def wrong_result() -> int:
    return await msgspec_lie()


@activity
async def msgspec_lie() -> int:
    return "no number"  # type: ignore[return-value]


@workflow
async def gives_unwritable() -> Any:
    return object()


@workflow
async def runs_unwritable() -> Any:
    return await unwritable()


@workflow
async def no_annotations(a, b=2):  # type: ignore[no-untyped-def]
    return {"a": a, "b": b}


@workflow
async def big_step(size: int) -> str:
    try:
        return str(len(await big(size)))
    except ActivityError as error:
        return f"{error.code} {error.failure.cause.type}"  # type: ignore[union-attr]


@workflow
async def big_argument(size: int) -> str:
    try:
        return str(await length("x" * size))
    except InvalidInputError as error:
        return f"refused: {error}"


@workflow
async def big_result(size: int) -> str:
    return "x" * size


@workflow
async def many_medium(count: int, size: int) -> int:
    texts = await asyncio.gather(*(big(size) for _ in range(count)))
    return sum(await asyncio.gather(*(length(text) for text in texts)))


@workflow
async def takes_text(text: str) -> int:
    return len(text)


@workflow
async def takes_signal() -> int:
    return len(await condition("text"))


SERVED = {
    "workflows": [typed, scalars, anything, several, lone_list, keeps_its_own, wrong_result, gives_unwritable, runs_unwritable, no_annotations,
                  big_step, big_argument, big_result, many_medium, takes_text, takes_signal],
    "activities": [same_order, same_box, same_many, same, spoil, unwritable, big, length, msgspec_lie],
}  # fmt: skip


async def test_typed_values_come_back_as_what_they_were(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        assert await client.execute(typed, ORDER, BOX, task_queue=queue, timeout=WAIT) == (ORDER, BOX)
        assert await client.execute(scalars, task_queue=queue, timeout=WAIT) is True
        for value in (None, True, 0, -1.5, 2**53 + 1, "ünïcødé \U0001f600 \x00", [], {}, [[]], {"a": [1, None]}, "x" * 70_000):
            assert await client.execute(anything, value, task_queue=queue, timeout=WAIT) == value


async def test_arguments_bind_like_a_call(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        for given, result in (((1,), [1, "b", []]), ((1, "c"), [1, "c", []]), ((1, "c", 2, 3.5), [1, "c", [2.0, 3.5]])):
            assert await client.execute(several, *given, task_queue=queue, timeout=WAIT) == result
            assert await client.execute("several", *given, task_queue=queue, timeout=WAIT) == result
        assert await client.execute(lone_list, [1, 2, 3], task_queue=queue, timeout=WAIT) == 6
        assert await client.execute("lone_list", [1, 2, 3], task_queue=queue, timeout=WAIT) == 6
        assert await client.execute(anything, task_queue=queue, timeout=WAIT) == "default"
        assert await client.execute("anything", [1, 2], task_queue=queue, timeout=WAIT) == [1, 2]
        assert await client.execute(no_annotations, [1], task_queue=queue, timeout=WAIT) == {"a": [1], "b": 2}
        assert await client.execute("no_annotations", [1], task_queue=queue, timeout=WAIT) == {"a": [1], "b": 2}


async def test_an_activity_that_changes_its_argument_does_not_change_the_workflows(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        assert await client.execute(keeps_its_own, task_queue=queue, timeout=WAIT) == [1]


async def test_the_client_refuses_what_does_not_fit_before_anything_is_stored(client: Client, queue: str) -> None:
    with pytest.raises(InvalidInputError, match="several"):
        await client.start(several, task_queue=queue)
    with pytest.raises(InvalidInputError, match="lone_list"):
        await client.start(lone_list, [1], [2], task_queue=queue)
    with pytest.raises(InvalidInputError, match="object"):
        await client.start(anything, object(), task_queue=queue)
    with pytest.raises(InvalidInputError, match=r"'order'.*\$\.lines\[0\]"):
        await client.start(typed, {"id": str(ORDER.id), "placed": "2024-01-01T00:00:00Z", "lines": [{"sku": "a"}]}, BOX, task_queue=queue)
    with pytest.raises(InvalidInputError, match="items"):
        await client.start(lone_list, ["no number"], task_queue=queue)


async def test_what_does_not_fit_by_nats_pub_fails_the_workflow_with_the_fields_path(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED), plain_nats(client.url) as raw:
        bad = b'[{"id": "00000000-0000-0000-0000-000000000007", "placed": "2024-01-01T00:00:00Z", "lines": [{"sku": 1, "price": "1"}]}, {"size": 1}]'
        for workflow_id, subject, body, expected in (
            ("path", "start.typed", bad, r"'order'.*\$\.lines\[0\]\.sku"),
            ("few", "start.several", b"", "takes"),
            ("type", "start.lone_list", b'{"a": 1}', "'items'"),
        ):
            await raw.publish(f"jetflow.{queue}.{workflow_id}.{subject}", body)
            handle = client.get_handle(workflow_id, queue)
            await until(lambda workflow_id=workflow_id: client.states.get(queue, workflow_id))
            with pytest.raises(WorkflowFailedError, match=expected) as caught:
                await handle.result(timeout=WAIT)
            assert (caught.value.type, await handle.status() < 0) == ("InvalidInputError", True)


async def test_results_that_do_not_fit_fail_by_name(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        with pytest.raises(WorkflowFailedError, match="workflow 'gives_unwritable', result"):
            await client.execute(gives_unwritable, task_queue=queue, timeout=WAIT)
        with pytest.raises(ActivityError, match="activity 'unwritable', result") as caught:
            await client.execute(runs_unwritable, task_queue=queue, timeout=WAIT)
        assert caught.value.code == 598
        with pytest.raises(ActivityError, match="activity 'msgspec_lie', result"):
            await client.execute(wrong_result, task_queue=queue, timeout=WAIT)


async def test_a_payload_larger_than_a_message_is_refused_where_it_arises(client: Client, queue: str) -> None:
    with pytest.raises(InvalidInputError, match="the limit is"):
        await client.start(takes_text, "x" * (LIMIT + 1), task_queue=queue)
    async with Worker(client, task_queue=queue, **SERVED):
        assert await client.execute(big_step, LIMIT + 1, task_queue=queue, timeout=WAIT) == "598 PayloadTooLargeError"
        assert "refused" in await client.execute(big_argument, LIMIT + 1, task_queue=queue, timeout=WAIT)
        with pytest.raises(WorkflowFailedError, match="the limit is") as caught:
            await client.execute(big_result, LIMIT + 1, task_queue=queue, timeout=WAIT)
        assert caught.value.type == "PayloadTooLargeError"
        handle = await client.start(takes_signal, task_queue=queue)
        with pytest.raises(InvalidInputError, match="the limit is"):
            await handle.signal("text", "x" * (LIMIT + 1))
        await handle.signal("text", "fits")
        assert await handle.result(timeout=WAIT) == 4


@pytest.mark.parametrize("below", [16_400, 16_000, 8_193, 8_000, 300, 2])
async def test_a_payload_that_only_just_fits_into_a_message_is_worked_on_or_refused(client: Client, queue: str, below: int) -> None:
    """The inbox takes what a commit, with what it says around the payload, may not."""
    size = LIMIT - below

    async def outcome(work: Any, expected: Any) -> None:
        try:
            assert await work == expected
        except InvalidInputError:
            pass
        except WorkflowFailedError as error:
            if "the limit is" not in error.message:
                raise

    async with Worker(client, task_queue=queue, **SERVED), plain_nats(client.url) as raw:
        text = size - 2
        await outcome(client.execute(takes_text, "x" * text, task_queue=queue, timeout=WAIT), text)
        await outcome(client.execute(big_result, text, task_queue=queue, timeout=WAIT), "x" * text)
        assert await client.execute(big_step, text, task_queue=queue, timeout=WAIT) in (str(text), "598 PayloadTooLargeError")
        body = b'"%b"' % (b"x" * text)
        await raw.publish(f"jetflow.{queue}.raw.start.takes_text", body)
        handle = client.get_handle("raw", queue)

        async def seen_to() -> bool:
            return await client.states.get(queue, "raw") is not None or bool(await dead_letters(client, queue))

        await until(seen_to)
        if await client.states.get(queue, "raw") is not None:
            await outcome(handle.result(timeout=WAIT), text)
        else:
            assert "the limit is" in (await dead_letters(client, queue))[0].headers["Jetflow-Reason"]
        signaled = await client.start(takes_signal, task_queue=queue)
        early = await client.start(takes_signal, workflow_id="early", task_queue=queue)
        await waits_for(signaled, "text")
        await raw.publish(f"jetflow.{queue}.{signaled.workflow_id}.signal.text", body)
        await raw.publish(f"jetflow.{queue}.{signaled.workflow_id}.signal.text", b'"after"')
        assert await signaled.result(timeout=WAIT) in (text, 5)
        await early.signal("text", "x")
        await early.result(timeout=WAIT)
        await raw.publish(f"jetflow.{queue}.later.signal.text", body)
        await raw.publish(f"jetflow.{queue}.later.signal.text", b'"after"')
        assert await client.execute(takes_signal, workflow_id="later", task_queue=queue, timeout=WAIT) in (text, 5)


async def test_many_medium_payloads_at_once_are_committed_over_several_messages(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        assert await client.execute(many_medium, 40, 200_000, task_queue=queue, timeout=WAIT) == 8_000_000
        assert await client.execute(many_medium, 3, 900_000, task_queue=queue, timeout=WAIT) == 2_700_000


async def test_a_dead_letter_of_full_size_is_written_too(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED), plain_nats(client.url) as raw:
        await raw.publish(f"jetflow.{queue}.x.nonsense", b"x" * LIMIT)
        letter = (await until(lambda: dead_letters(client, queue)))[0]
        assert "nonsense" in letter.headers["Jetflow-Subject"]

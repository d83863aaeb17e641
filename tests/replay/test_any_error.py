"""Whatever user code raises, it fails that run or that call and nothing else; replay decides the same."""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from jetflow import InvalidInputError, WorkflowFailedError, activity, condition, set_query_handler, set_update_handler, side_effect, sleep, workflow
from jetflow.core import events as ev
from jetflow.core.interrupts import is_interrupt
from jetflow.core.queries import prepare_update, query
from jetflow.core.values import Signature, encode
from tests.replay.driver import Run, check_replay, rebuild


class RudeError(BaseException):
    pass


ERRORS: list[type[BaseException]] = [
    asyncio.CancelledError, SystemExit, KeyboardInterrupt, GeneratorExit, RecursionError, StopIteration, StopAsyncIteration, MemoryError, RudeError,
]  # fmt: skip
each = pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)


def raising(error: type[BaseException]) -> Callable[..., Any]:
    def function(*_: Any) -> Any:
        raise error

    return function


@activity
async def step() -> Any:
    raise NotImplementedError


@each
def test_of_the_workflow_itself_fails_the_run(error: type[BaseException]) -> None:
    @workflow
    async def flow() -> None:
        await step()
        raise error

    run = Run(flow)
    run.complete()
    expected = {"CancelledError": "CancelledFailure", "StopIteration": "RuntimeError", "StopAsyncIteration": "RuntimeError"}
    assert run.failure.type in (error.__name__, expected.get(error.__name__))
    check_replay(run)


@each
def test_of_a_task_of_the_workflow_reaches_who_awaits_it(error: type[BaseException]) -> None:
    @workflow
    async def flow() -> str:
        async def part() -> None:
            await asyncio.sleep(0)
            raise error

        try:
            await asyncio.create_task(part())
        except BaseException as caught:
            return type(caught).__name__
        return "nothing"

    run = Run(flow)
    assert run.result in (error.__name__, "RuntimeError")
    check_replay(run)


@each
def test_of_a_callback_harms_nobody(error: type[BaseException]) -> None:
    @workflow
    async def flow() -> int:
        asyncio.get_running_loop().call_soon(raising(error))
        await sleep(1)
        return 1

    run = Run(flow)
    run.fire()
    assert run.result == 1
    check_replay(run)


@each
def test_of_a_predicate_fails_the_run(error: type[BaseException]) -> None:
    @workflow
    async def flow() -> None:
        calls: list[int] = []

        def met() -> bool:
            calls.append(1)
            if len(calls) > 1:
                raise error
            return False

        await condition(met)

    run = Run(flow)
    if not run.closed:
        run.signal("x")
    assert run.failure.type in (error.__name__, "RuntimeError", "CancelledFailure")
    check_replay(run)


def test_a_predicate_whose_answer_has_no_truth_fails_the_run() -> None:
    class Odd:
        def __bool__(self) -> bool:
            raise OSError("neither")

    answers = [False, Odd()]

    @workflow
    async def flow() -> None:
        state = iter(answers)
        await condition(lambda: next(state))

    run = Run(flow)
    assert run.failure.type == "OSError"


@each
def test_of_a_side_effect_is_recorded(error: type[BaseException]) -> None:
    @workflow
    async def flow() -> str:
        try:
            side_effect(raising(error))
        except WorkflowFailedError as caught:
            await step()
            return caught.type
        return "nothing"

    run = Run(flow)
    run.complete()
    assert run.result == error.__name__
    check_replay(run)


@each
def test_of_a_query_and_a_validator_is_the_callers(error: type[BaseException]) -> None:
    @workflow
    async def flow() -> int:
        set_query_handler("q", raising(error))
        set_update_handler("u", lambda: 1, validator=raising(error))
        await step()
        return 1

    run = Run(flow)
    with pytest.raises(error):
        query(run.machine, "q", b"")
    with pytest.raises(error):
        prepare_update(run.machine, "u", b"", None)
    run.complete()
    assert run.result == 1
    check_replay(run)


@each
@pytest.mark.parametrize("asynchronous", [False, True])
def test_of_an_update_is_its_outcome(error: type[BaseException], asynchronous: bool) -> None:
    async def later() -> None:
        await asyncio.sleep(0)
        raise error

    @workflow
    async def flow() -> int:
        set_update_handler("u", later if asynchronous else raising(error))
        await step()
        return 1

    run = Run(flow)
    assert run.feed(ev.Updated(id="1", at=run.now, name="u", seq=50, input=msgspec.Raw(b"[]"), reply=None))
    failed = [event for commit in run.commits for event in commit if isinstance(event, ev.UpdateFailed)]
    assert [event.failure.type for event in failed] in ([error.__name__], ["RuntimeError"])
    run.complete()
    assert run.result == 1
    check_replay(run)


@each
def test_of_a_payloads_encoder_and_decoder_is_an_invalid_input(error: type[BaseException]) -> None:
    class Odd(msgspec.Struct):
        x: int = 0

        def __post_init__(self) -> None:
            raise error

    @dataclasses.dataclass
    class Hidden:
        x: int = 0

        def __getattribute__(self, name: str) -> Any:
            if name == "x":
                raise error
            return super().__getattribute__(name)

    def takes(odd: Odd) -> None:
        raise NotImplementedError

    with pytest.raises(InvalidInputError, match="argument 'odd'"):
        Signature(takes, "takes").decode_args(b'[{"x": 1}]')
    with pytest.raises(InvalidInputError, match="the thing cannot be written as JSON"):
        encode(Hidden.__new__(Hidden), "the thing")


def test_what_a_result_cannot_be_encoded_for_fails_the_run() -> None:
    @dataclasses.dataclass
    class Hidden:
        def __getattribute__(self, name: str) -> Any:
            if name == "x":
                raise SystemExit(3)
            return super().__getattribute__(name)

        x: int = 0

    @workflow
    async def flow() -> Any:
        await step()
        return Hidden.__new__(Hidden)

    run = Run(flow)
    run.complete()
    assert run.failure.type == "InvalidInputError"
    assert rebuild(run).closing is not None


def test_a_raised_interrupt_is_told_from_that_of_a_key() -> None:
    with pytest.raises(KeyboardInterrupt) as raised:
        raising(KeyboardInterrupt)()
    assert not is_interrupt(raised.value)
    assert is_interrupt(KeyboardInterrupt())

    import signal

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        with pytest.raises(KeyboardInterrupt) as pressed:
            signal.raise_signal(signal.SIGINT)
        assert is_interrupt(pressed.value)

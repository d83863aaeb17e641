"""Exceptions as data and back."""

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetflow import ActivityError, CancelledFailure, ChildWorkflowError, NonRetryableError, WorkflowFailedError, is_cancellation
from jetflow.core.failures import FATAL, MAX_CAUSES, MAX_MESSAGE, MAX_STACK, to_error, to_failure
from jetflow.errors import Failure


def caught(function: object) -> BaseException:
    with pytest.raises(BaseException) as raised:
        function()  # type: ignore[operator]
    return raised.value


def chain(failure: Failure | None) -> list[str]:
    found = []
    while failure is not None:
        found.append(failure.type)
        failure = failure.cause
    return found


def test_a_chain_of_causes_is_kept() -> None:
    def fail() -> None:
        try:
            try:
                raise KeyError("inner")
            except KeyError:
                raise ValueError("middle")  # noqa: B904 - the implicit context is what is tested
        except ValueError as error:
            raise RuntimeError("outer") from error

    failure = to_failure(caught(fail))
    assert chain(failure) == ["RuntimeError", "ValueError", "KeyError"]
    assert failure.message == "outer"
    assert "test_failures.py" in failure.stack
    assert failure.stack.rstrip().endswith("RuntimeError: outer")


def test_from_none_hides_the_context() -> None:
    def fail() -> None:
        try:
            raise KeyError("hidden")
        except KeyError:
            raise ValueError("shown") from None

    assert chain(to_failure(caught(fail))) == ["ValueError"]


def test_a_long_chain_is_cut() -> None:
    error: BaseException = ValueError(0)
    for number in range(1, 50):
        following = ValueError(number)
        following.__cause__ = error
        error = following
    assert len(chain(to_failure(error))) == MAX_CAUSES + 1


def test_a_cause_that_is_false_as_a_value_is_still_a_cause() -> None:
    class EmptyError(Exception):
        def __len__(self) -> int:
            return 0

    error = ValueError("x")
    error.__cause__ = EmptyError("the cause")
    assert chain(to_failure(error)) == ["ValueError", "EmptyError"]


def test_a_group_names_all_its_parts_and_the_first_as_cause() -> None:
    class UnreadableError(Exception):
        def __str__(self) -> str:
            raise OSError("broken")

    failure = to_failure(ExceptionGroup("several", [KeyError("a"), ValueError("b"), UnreadableError()]))
    assert failure.type == "ExceptionGroup"
    assert failure.message == "KeyError: 'a'; ValueError: b; UnreadableError: <message not readable: OSError>"
    assert chain(failure) == ["ExceptionGroup", "KeyError"]
    assert to_failure(UnreadableError()).message == "<message not readable: OSError>"


def test_codes_are_the_errors_own() -> None:
    class PaymentError(Exception):
        code = 402

    assert to_failure(ValueError()).code == 500
    assert to_failure(PaymentError()).code == 402
    assert to_failure(NonRetryableError("no")).code == FATAL
    assert to_failure(PaymentError(), 597).code == 597


@given(st.text(st.characters(), max_size=30))
def test_any_message_can_be_written_and_read(message: str) -> None:
    failure = to_failure(ValueError(message))
    again = msgspec.json.decode(msgspec.json.encode(failure), type=Failure)
    assert again == failure
    assert again.message == message.encode(errors="backslashreplace").decode()


def test_messages_and_stacks_are_cut() -> None:
    failure = to_failure(ValueError("x" * 100_000))
    assert len(failure.message) == MAX_MESSAGE
    assert len(failure.stack) == MAX_STACK


@pytest.mark.parametrize("kind", [ActivityError, ChildWorkflowError, CancelledFailure, WorkflowFailedError])
def test_a_kind_of_its_own_comes_back_as_itself(kind: type[WorkflowFailedError]) -> None:
    record = Failure(kind.__name__, "went wrong", 597, "the stack", Failure("ValueError", "bad", 500, "inner stack"))
    error = to_error(record)
    assert type(error) is kind
    assert (error.type, error.message, error.code, error.stack) == (kind.__name__, "went wrong", 597, "the stack")
    assert isinstance(error.cause, WorkflowFailedError)
    assert str(error.cause) == "ValueError: bad"
    assert to_failure(error) is record


def test_is_cancellation_looks_into_groups() -> None:
    assert is_cancellation(CancelledFailure())
    assert is_cancellation(asyncio.CancelledError())
    assert is_cancellation(ExceptionGroup("g", [CancelledFailure(), ExceptionGroup("h", [CancelledFailure()])]))
    assert not is_cancellation(ExceptionGroup("g", [CancelledFailure(), ValueError()]))
    assert not is_cancellation(ValueError())

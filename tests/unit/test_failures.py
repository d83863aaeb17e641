"""Exceptions as data and back."""

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetflow import (
    ActivityError,
    CancelledFailure,
    ChildWorkflowError,
    NonRetryableError,
    OriginalError,
    WorkflowFailedError,
    WorkflowTerminatedError,
    is_cancellation,
)
from jetflow.core.failures import FATAL, MAX_CAUSES, MAX_MESSAGE, MAX_STACK, to_error, to_failure
from jetflow.errors import Failure, Kind
from jetflow.protocol.commands import TaskFailure


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
    assert type(error.cause) is (OriginalError if kind is ActivityError else WorkflowFailedError)
    assert str(error.cause) == "ValueError: bad"
    assert to_failure(error) is record


def test_is_cancellation_looks_into_groups() -> None:
    assert is_cancellation(CancelledFailure())
    assert is_cancellation(asyncio.CancelledError())
    assert is_cancellation(ExceptionGroup("g", [CancelledFailure(), ExceptionGroup("h", [CancelledFailure()])]))
    assert not is_cancellation(ExceptionGroup("g", [CancelledFailure(), ValueError()]))
    assert not is_cancellation(ValueError())


OLD = [
    ("ActivityError", 596, ActivityError, "timed_out"),
    ("ActivityError", 597, ActivityError, "exhausted"),
    ("ActivityError", 598, ActivityError, "fatal"),
    ("ChildWorkflowError", 500, ChildWorkflowError, "child"),
    ("CancelledFailure", 598, CancelledFailure, "cancelled"),
    ("WorkflowTerminatedError", 418, WorkflowTerminatedError, "terminated"),
    ("ValueError", 596, WorkflowFailedError, "error"),
    ("AttemptTimeout", 596, WorkflowFailedError, "error"),
]


@pytest.mark.parametrize(("name", "code", "expected", "kind"), OLD)
def test_a_record_from_before_there_were_kinds_is_read_as_it_was(name: str, code: int, expected: type, kind: str) -> None:
    body = b'{"type":"%s","message":"m","code":%d}' % (name.encode(), code)
    failure = msgspec.json.decode(body, type=Failure)
    error = to_error(failure)
    assert (type(error), error.kind, error.code, error.type) == (expected, kind, code, name)
    assert b"kind" not in msgspec.json.encode(failure)


@pytest.mark.parametrize("name", ["ActivityError", "ChildWorkflowError", "CancelledFailure", "WorkflowTerminatedError", "UpdateError"])
@pytest.mark.parametrize("code", [404, 410, 596, 597, 598, 599])
def test_a_users_error_is_none_of_the_engines(name: str, code: int) -> None:
    error = type(name, (Exception,), {"code": code})("mine")
    failure = msgspec.json.decode(msgspec.json.encode(to_failure(error)), type=Failure)
    again = to_error(failure)
    assert (type(again), again.kind, again.code, again.type) == (WorkflowFailedError, "error", code, name)


@pytest.mark.parametrize("kind", [ActivityError, ChildWorkflowError, WorkflowTerminatedError])
def test_an_error_of_jetflows_that_user_code_made_up_is_a_users_error(kind: type[WorkflowFailedError]) -> None:
    again = to_error(to_failure(kind("made up")))
    assert (type(again), again.kind, again.type) == (WorkflowFailedError, "error", kind.__name__)


def test_a_subclass_of_the_final_error_with_a_name_of_the_engines() -> None:
    error = type("ActivityError", (NonRetryableError,), {})("no")
    again = to_error(to_failure(error))
    assert (type(again), again.kind, again.code) == (WorkflowFailedError, "error", FATAL)


def test_a_code_that_is_none() -> None:
    class OddError(Exception):
        @property
        def code(self) -> int:
            raise ValueError("no code yet")

    flag = ValueError()
    flag.code = True  # type: ignore[attr-defined]
    for error in (OddError(), flag):
        failure = to_failure(error, without_code=597)
        assert failure.code == 597
        assert msgspec.json.decode(msgspec.json.encode(failure), type=Failure) == failure


def test_causes_of_an_outcome_from_elsewhere_are_users_errors_unless_they_are_marked() -> None:
    chain: Failure | None = None
    for number in range(50):
        chain = Failure("WorkflowTerminatedError", str(number), 410, cause=chain)
    failure = TaskFailure("E", cause=chain).as_failure(FATAL)
    assert (failure.kind, failure.code) == (Kind.ERROR, FATAL)
    links = 0
    while (failure := failure.cause) is not None:  # type: ignore[assignment]
        assert failure.kind == Kind.ERROR
        links += 1
    assert links == MAX_CAUSES + 1
    marked = TaskFailure("E", cause=Failure("WorkflowTerminatedError", kind=Kind.TERMINATED)).as_failure(FATAL)
    assert marked.cause is not None
    assert isinstance(to_error(marked.cause), WorkflowTerminatedError)


def test_whatever_an_errors_class_makes_of_its_attributes_there_is_a_record() -> None:
    def broken(self: object) -> str:
        raise SystemExit("broken")

    names = ("code", "args", "__cause__", "__context__", "__traceback__", "__suppress_context__", "__notes__", "failure", "__class__")
    hostile = {name: property(broken) for name in names} | {"__str__": broken, "__repr__": broken}
    for base in (Exception, WorkflowFailedError, CancelledFailure, SyntaxError, ImportError, OSError):
        cls = type("Odd name\n" + "x" * 500, (base,), hostile)
        error = cls.__new__(cls, "what it says")
        failure = to_failure(error, 500)
        assert failure.type.startswith("Odd name\nx")
        assert len(failure.type) < 300
        assert failure.message == "what it says"
        assert msgspec.json.decode(msgspec.json.encode(failure), type=Failure) == failure
        assert to_failure(error).code == 500


def test_a_message_that_is_no_plain_string_is_made_one() -> None:
    class Text(str):
        def __getitem__(self, _: object) -> str:
            raise OSError

        def isascii(self) -> bool:
            raise OSError

    class OddError(Exception):
        def __str__(self) -> str:
            return Text("hello")

    assert to_failure(OddError()).message == "hello"


@pytest.mark.parametrize("code", [2**70, -(2**70), True, "404", 4.5, None])
def test_a_code_that_is_no_number_of_64_bits_is_none(code: object) -> None:
    error = ValueError("x")
    error.code = code  # type: ignore[attr-defined]
    assert to_failure(error).code == 500
    msgspec.json.encode(to_failure(error))


def test_a_number_of_a_class_of_its_own_is_a_code() -> None:
    class Number(int):
        def __int__(self) -> int:
            raise OSError

    error = ValueError("x")
    error.code = Number(404)  # type: ignore[attr-defined]
    assert to_failure(error).code == 404


def test_a_circle_of_causes_is_cut() -> None:
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    assert chain(to_failure(first)) == ["ValueError", "KeyError"]
    alone = ValueError("alone")
    alone.__cause__ = alone
    assert chain(to_failure(alone)) == ["ValueError"]

"""``condition(on_timeout=…)``: code can tell a timeout from a payload that is false."""

import logging
from typing import Any, Literal

import pytest

from jetflow import condition, workflow
from tests.replay.driver import Run, check_replay


class LateError(Exception):
    pass


class StrangeError(Exception):
    def __init__(self) -> None:
        super().__init__("late without a word")


def answer(given: dict[str, Any], payload: Any = "timeout", what: Any = "approval") -> Any:
    """What the code gets: from a signal with this payload, or from the timeout."""

    @workflow
    async def asks() -> Any:
        try:
            return await condition(what, timeout="1h", **given)
        except (LateError, StrangeError, TimeoutError) as error:
            return f"{type(error).__name__}: {error}"

    run = Run(asks)
    if payload == "timeout":
        run.fire("wait" if isinstance(what, str) else "timer")
    else:
        run.signal("approval", payload)
    check_replay(run)
    return run.result


@pytest.mark.parametrize(
    ("given", "on_timeout"),
    [
        ({}, False),
        ({"on_timeout": None}, None),
        ({"on_timeout": "late"}, "late"),
        ({"on_timeout": LateError}, "LateError: signal 'approval' did not come within 1h"),
        ({"on_timeout": TimeoutError}, "TimeoutError: signal 'approval' did not come within 1h"),
        ({"on_timeout": StrangeError}, "StrangeError: late without a word"),
        ({"on_timeout": LateError("too late")}, "LateError: too late"),
    ],
)
def test_the_answer_to_a_timeout_is_not_that_to_false(given: dict[str, Any], on_timeout: Any) -> None:
    assert answer({"model": bool, **given}) == on_timeout
    assert answer({"model": bool, **given}, False) is False
    assert answer({"model": bool, **given}, True) is True


def test_a_predicate_has_it_too() -> None:
    assert answer({}, what=lambda: False) is False
    assert answer({"on_timeout": None}, what=lambda: False) is None
    assert answer({"on_timeout": LateError}, what=lambda: False) == "LateError: the condition did not come within 1h"


@pytest.mark.parametrize("model", [bool, bool | None, Literal[False, "x"]])
def test_two_meanings_of_false_are_warned_of_once(model: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "_warned", set())

    @workflow
    async def undecided() -> None:
        while True:
            await condition("approval", timeout="1h", model=model)

    with caplog.at_level(logging.WARNING, "jetflow.workflow"):
        for _ in range(2):
            run = Run(undecided)
            run.signal("approval", False)
    (record,) = caplog.records
    assert "workflow undecided: condition('approval') with model=bool and a timeout, at " in record.getMessage()
    assert f"{__file__}:{undecided.function.__code__.co_firstlineno + 3} in undecided" in record.getMessage()


@pytest.mark.parametrize(
    "given", [{"model": bool}, {"model": bool, "timeout": "1h", "on_timeout": None}, {"model": int, "timeout": "1h"}, {"timeout": "1h"}]
)
def test_one_meaning_is_not_warned_of(given: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    @workflow
    async def decided() -> Any:
        return await condition("approval", **given)

    Run(decided).signal("approval", 0 if given.get("model") is int else False)
    assert caplog.records == []

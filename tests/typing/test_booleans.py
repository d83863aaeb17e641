"""Nobody has to guess what a True at a call stands for: booleans are keyword-only, in every public signature."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct

import jetflow

READ_BACK = (Struct,)
"""Records that users read, and do not make: their fields have an order on the wire only."""


def _callables(module: Any, names: list[str]) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name in names:
        value = getattr(module, name)
        if inspect.isclass(value):
            if not issubclass(value, READ_BACK):
                yield name, value
            for member, function in inspect.getmembers(value, inspect.isroutine):
                if not member.startswith("_") or member == "__call__":
                    yield f"{name}.{member}", function
        elif callable(value):
            yield name, value


def _is_boolean(parameter: inspect.Parameter) -> bool:
    return isinstance(parameter.default, bool) or parameter.annotation in (bool, "bool", "bool | None")


def _positional(function: Callable[..., Any]) -> list[str]:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of a builtin
        return []
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter.name for parameter in signature.parameters.values() if parameter.kind in by_place and _is_boolean(parameter)]


def test_booleans_are_keyword_only() -> None:
    found = {name: names for name, function in _callables(jetflow, jetflow.__all__) if (names := _positional(function))}
    assert found == {}
    checked = [name for name, _ in _callables(jetflow, jetflow.__all__)]
    assert _positional(jetflow.RetryPolicy) == []
    assert {"Client.connect", "Client.start", "Worker", "WorkflowHandle.terminate", "condition", "local"} <= set(checked)


def test_the_test_finds_one() -> None:
    def positional(what: str, flag: bool = False) -> None: ...
    def keyword(what: str, *, flag: bool = False) -> None: ...

    assert _positional(positional) == ["flag"]
    assert _positional(keyword) == []

"""Groups of options: a command takes a dataclass as one parameter, and each of its fields is an option."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints


def spread(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command for Typer in which the options of a group replace each parameter that is a group."""
    parameters = inspect.signature(function, eval_str=True).parameters
    groups: dict[str, Any] = {name: parameter.annotation for name, parameter in parameters.items() if dataclasses.is_dataclass(parameter.annotation)}
    if not groups:
        return function
    shown: list[inspect.Parameter] = []
    for name, parameter in parameters.items():
        shown += _options(groups[name]) if name in groups else [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]

    @functools.wraps(function)
    def command(**given: Any) -> Any:
        made = {name: group(**{field.name: given.pop(field.name) for field in dataclasses.fields(group)}) for name, group in groups.items()}
        return function(**given, **made)

    command.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    del command.__wrapped__  # type: ignore[attr-defined]  # the signature is this one's own
    return command


def _options(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name])
        for field in dataclasses.fields(group)
    ]

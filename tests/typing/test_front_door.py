"""What can be imported from where, and what names public things go by."""

import ast
import builtins
import collections.abc
import datetime
import importlib
import inspect
import pickle
import sys
import traceback
import typing
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

import pytest
from msgspec import Struct

import jetflow
import jetflow.activity as activity_module
import jetflow.workflow as workflow_module
from jetflow import activity, workflow

ELSEWHERE = {name for module in (builtins, collections.abc, datetime, typing) for name in vars(module)} | {
    "Path", "Raw", "UnsetType", "asyncio", "msgspec", "ssl", "uuid",
}  # fmt: skip
TYPE_VARIABLES = {"P", "R", "R_co", "T", "Ts"}
INNER = {"Client.another_wire", "Client.broker", "Client.lookups", "Client.states", "ActivityDefinition.signature", "WorkflowDefinition.signature"}
"""For workers: what users have no reason to name."""


def test_a_module_is_its_decorator() -> None:
    assert workflow is workflow_module is sys.modules["jetflow.workflow"] is importlib.import_module("jetflow.workflow") is workflow_module.workflow
    assert activity is activity_module is sys.modules["jetflow.activity"] is importlib.import_module("jetflow.activity") is activity_module.activity
    assert isinstance(workflow, ModuleType)
    assert isinstance(activity, ModuleType)
    assert workflow_module.now is workflow.now is jetflow.now
    assert workflow_module.info is jetflow.workflow_info

    @workflow_module
    async def one() -> None: ...

    @activity_module
    async def other() -> None: ...

    assert isinstance(one, jetflow.WorkflowDefinition)
    assert isinstance(other, jetflow.ActivityDefinition)
    with pytest.raises(AttributeError):
        _ = workflow.no_such_name


def test_what_type_checkers_find_in_a_decorator_is_in_its_module() -> None:
    for module in (workflow, activity):
        tree = ast.parse(inspect.getsource(module))
        names = {node.target.attr for node in ast.walk(tree) if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute)
                 and isinstance(node.annotation, ast.Name) and node.annotation.id == "Final"}  # fmt: skip
        assert names
        assert [name for name in names if not hasattr(module, name)] == []


def test_everything_that_a_signature_mentions_can_be_imported() -> None:
    missing = {
        f"{name}, in {place}"
        for public in jetflow.__all__
        for place, annotation in _annotations(public, getattr(jetflow, public))
        if place not in INNER
        for name in _names(annotation)
        if name not in ELSEWHERE and name not in TYPE_VARIABLES and name not in jetflow.__all__
    }
    assert missing == set()


def test_tracebacks_say_what_can_be_imported() -> None:
    for name in jetflow.__all__:
        value = getattr(jetflow, name)
        if isinstance(value, FunctionType) or (isinstance(value, type) and issubclass(value, BaseException)):
            assert (value.__module__, value.__qualname__) == ("jetflow", name)
    assert (jetflow.Client.__module__, jetflow.Worker.__module__, jetflow.WorkflowHandle.__module__) == ("jetflow",) * 3
    error = jetflow.InvalidInputError("wrong")
    assert traceback.format_exception_only(error) == ["jetflow.InvalidInputError: wrong\n"]
    assert type(pickle.loads(pickle.dumps(error))) is jetflow.InvalidInputError


def _annotations(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Of functions, of public methods and properties, and of public fields, with the place of each."""
    if isinstance(value, type):
        for base in value.__mro__:
            if base.__module__.partition(".")[0] == "jetflow":
                yield from ((f"{name}.{field}", _text(given)) for field, given in inspect.get_annotations(base).items() if field[0] != "_")
                for member, found in vars(base).items():
                    if not member.startswith("_"):
                        function = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
                        yield from ((f"{name}.{member}", given) for given in _of_function(function))
    else:
        yield from ((name, given) for given in _of_function(value))


def _of_function(value: Any) -> Iterator[str]:
    function = inspect.unwrap(value) if callable(value) else value
    if isinstance(function, FunctionType):
        yield from map(_text, function.__annotations__.values())


def _text(annotation: Any) -> str:
    if isinstance(annotation, typing.ForwardRef):
        return annotation.__forward_arg__
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "None")


def _names(annotation: str) -> Iterator[str]:
    yield from (node.id for node in ast.walk(ast.parse(annotation, mode="eval")) if isinstance(node, ast.Name))


def test_fields_can_still_be_resolved() -> None:
    """Also those of classes that say ``jetflow``: msgspec and typing look names up in the module that a class says."""
    for name in jetflow.__all__:
        value = getattr(jetflow, name)
        if isinstance(value, type) and (issubclass(value, Struct) or value is jetflow.Page):
            assert typing.get_type_hints(value, include_extras=True) is not None

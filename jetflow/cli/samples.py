"""Sample arguments for a workflow, from its annotations, so that a pasted command works at once."""

from __future__ import annotations

import inspect
import typing
from typing import Any

import msgspec
from msgspec import inspect as types

from jetflow.core.definitions import WorkflowDefinition

MAX_DEPTH = 4


def sample_args(definition: WorkflowDefinition[Any, Any]) -> list[Any]:
    """Return plain JSON values for the arguments without a default."""
    try:
        hints = typing.get_type_hints(definition.function, include_extras=True)
    except NameError:
        hints = {}
    return [
        _sample(hints.get(parameter.name, Any), parameter.name)
        for parameter in inspect.signature(definition.function).parameters.values()
        if parameter.default is parameter.empty and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]


def _sample(annotation: Any, name: str) -> Any:
    try:
        return _of_type(types.type_info(annotation), name, 0)
    except TypeError:
        return None


def _of_type(kind: types.Type, name: str, depth: int) -> Any:
    match kind:
        case types.StrType() | types.AnyType():
            return name
        case types.BoolType():
            return True
        case types.IntType():
            return kind.ge if kind.ge is not None else 1
        case types.FloatType() | types.DecimalType():
            return 1.5
        case types.EnumType():
            return msgspec.to_builtins(next(iter(kind.cls)))
        case types.LiteralType():
            return kind.values[0]
        case types.UnionType():
            return _of_type(next((t for t in kind.types if not isinstance(t, types.NoneType)), kind.types[0]), name, depth)
        case types.ListType() | types.SetType() | types.FrozenSetType() | types.VarTupleType():
            return [_of_type(kind.item_type, name, depth + 1)] if depth < MAX_DEPTH else []
        case types.TupleType():
            return [_of_type(item, name, depth + 1) for item in kind.item_types]
        case types.DictType():
            return {}
        case types.StructType() | types.DataclassType() | types.TypedDictType():
            return _of_fields(kind, depth)
        case types.DateTimeType():
            return "2030-01-31T12:00:00Z"
        case types.DateType():
            return "2030-01-31"
        case types.UUIDType():
            return "6e9f1a34-7c1e-4f5f-9b0a-3d2d2f6b7c11"
        case _:
            return None


def _of_fields(kind: Any, depth: int) -> Any:
    if depth >= MAX_DEPTH:
        return None
    fields = {field.encode_name: _of_type(field.type, field.name, depth + 1) for field in kind.fields if field.required}
    if isinstance(kind, types.StructType) and kind.tag_field is not None:
        fields = {kind.tag_field: kind.tag, **fields}
    return list(fields.values()) if isinstance(kind, types.StructType) and kind.array_like else fields

"""The JSON Schema of an execution, for readers in other languages. ``docs/history.md`` explains the events."""

import inspect
from typing import Any

import msgspec

from jetflow.history.execution import WorkflowExecution


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a ``WorkflowExecution``; ``#/$defs/HistoryEvent`` is that of a single event."""
    schema = msgspec.json.schema(WorkflowExecution)
    for definition in schema["$defs"].values():
        if "description" in definition:
            definition["description"] = inspect.cleandoc(definition["description"])  # the same with every Python
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}

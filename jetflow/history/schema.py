"""The JSON Schema of an execution, for readers in other languages. ``docs/history.md`` explains the events."""

import inspect
from typing import Any

import msgspec

from jetflow.history.execution import WorkflowExecution


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a ``WorkflowExecution``. ``#/$defs/HistoryEvent`` is the schema of one event."""
    schema = msgspec.json.schema(WorkflowExecution)
    for definition in schema["$defs"].values():
        if "description" in definition:
            definition["description"] = inspect.cleandoc(definition["description"])  # Python versions indent docstrings differently
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}

"""What all history events have in common: attributes of their own. ``kind`` is the event's type.

The events of ``extended = True`` are given only when they are asked for, so that the others stay a small, stable set.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from msgspec import Struct

Category = Literal["workflow", "activity", "child_workflow", "timer", "signal"]


class Attributes(Struct, tag_field="kind"):
    """What is special to a type of event. ``extended`` ones are only given when they are asked for."""

    category: ClassVar[Category] = "workflow"
    extended: ClassVar[bool] = False

    @property
    def kind(self) -> str:
        """The event's type."""
        return str(self.__struct_config__.tag)


class OfOperation(Attributes):
    """An event of a durable operation.

    Attributes:
        timeline_key: names the operation in its run, such as ``activity-3``; the same in all its events.
        execution_index: its place among the run's operations, from 1.
    """

    timeline_key: str
    execution_index: int

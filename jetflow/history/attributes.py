"""Base classes of the attributes of history events. ``kind`` is the event's type.

Events with ``extended = True`` are only in histories with the option ``extended``, so that the basic set stays small and stable.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from msgspec import Struct

Category = Literal["workflow", "activity", "child_workflow", "timer", "signal"]


class Attributes(Struct, tag_field="kind"):
    """The attributes of one type of event. ``extended`` types are only in histories with that option."""

    category: ClassVar[Category] = "workflow"
    extended: ClassVar[bool] = False

    @property
    def kind(self) -> str:
        """The event's type."""
        return str(self.__struct_config__.tag)


class OfOperation(Attributes):
    """An event of a durable operation.

    Attributes:
        timeline_key: the operation's name in its run, such as ``activity-3``. All its events have the same one.
        execution_index: the operation's index in its run, from 1.
    """

    timeline_key: str
    execution_index: int

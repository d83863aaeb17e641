"""Has every commit and record of a process travel with others, as a slow disk would have it: for worker processes with ``CHAOS_TOGETHER`` set."""

import os

from jetflow.broker.fencing import group_commit
from jetflow.engine import context

VARIABLE = "CHAOS_TOGETHER"


class Insists(group_commit.Choice):
    """Together from the first message on, whatever is measured, and whatever fails."""

    def __init__(self) -> None:
        super().__init__()
        self.together = True

    def went_together(self, messages: int, seconds: float, now: float) -> None:
        pass

    def give_up(self, now: float, seconds: float = 0) -> None:
        pass


def insist_if_asked() -> None:
    """Before the first connection."""
    if os.environ.get(VARIABLE):
        group_commit.CROWD = 2
        context.Choice = Insists  # type: ignore[misc]

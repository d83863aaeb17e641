"""The one interface by which the workloads drive a product."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from typing import Any

from bench.peers.spec import NOTE, Spec

Payload = dict[str, Any]
STEPS_AT_ONCE = 100
"""Steps of a long history that are gathered at a time."""
HOUR = 3_600


def payload(number: int) -> Payload:
    """What every workflow and step is given and gives."""
    return {"number": number, "note": NOTE}


class Waits:
    """Counted by workflow code as it comes to a wait and leaves it, in a process that replays none of them meanwhile."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0


class Rider(ABC):
    """Client and worker of one product, in this process and on one event loop.

    Each product expresses the same six workflows, whose steps are the same function:

    ========== ==================================================
    one_step   one step
    chain      ``number`` steps, each after the one before
    fan_out    ``number`` steps at once; gives the sum
    wait       waits for a signal and gives its value
    park       sleeps an hour
    history    ``number`` steps, a hundred at once, then waits for a signal and gives the number of steps
    ========== ==================================================
    """

    @abstractmethod
    def riding(self, spec: Spec) -> AbstractAsyncContextManager[object]:
        """Client connected and worker serving, for the block."""

    @abstractmethod
    async def execute(self, workflow: str, number: int) -> int:
        """Start to result."""

    @abstractmethod
    async def start(self, workflow: str, number: int, workflow_id: str) -> None:
        """Returns when the start is acknowledged."""

    @abstractmethod
    async def signal(self, workflow_id: str, number: int) -> None:
        """Sends the signal ``go``; returns when it is acknowledged."""

    @abstractmethod
    async def result(self, workflow_id: str) -> int:
        """Of a workflow that ``start`` started, by this process or an earlier one."""

    @abstractmethod
    async def resting(self) -> int:
        """How many workflows wait for a signal or sleep, durably as far as the product shows it."""


def number_of(given: Payload) -> int:
    """The number in a payload.

    Raises:
        RuntimeError: the note got lost on the way.
    """
    if given["note"] != NOTE:
        raise RuntimeError(f"a payload came back as {given!r}")
    return int(str(given["number"]))


def step_of(given: Payload) -> Payload:
    """What a step does."""
    return payload(number_of(given) + 1)

"""Every figure of the bench: its name, what it is compared with, and the marks it is held against."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

MARKS_SOURCE = "docs/decisions/0002-performance-marks.md: a prototype on 2 cores; client, worker and server on one machine; uvloop"


class Figure(Struct, frozen=True):
    """One measured number.

    Attributes:
        name: its key in the JSON file.
        label: what a person reads.
        unit: ``ms``, ``s``, ``KB``, ``/s`` or a plain count.
        better: which direction is good; ``same`` for a count that must come out as given.
        raw: the raw broker's figure it is compared with, None where there is none.
        mark: the prototype's figure at default sync.
        mark_always: the prototype's figure at ``sync_interval: always``.
        mark_r3: the prototype's figure with three servers on the same two cores.
    """

    name: str
    label: str
    unit: str
    better: Literal["low", "high", "same"] = "low"
    raw: str | None = None
    mark: float | None = None
    mark_always: float | None = None
    mark_r3: float | None = None

    def mark_at(self, sync: str) -> float | None:
        """The prototype's figure at a setting."""
        return {"default": self.mark, "always": self.mark_always, "r3": self.mark_r3}[sync]


RAW = (
    Figure("raw_request_p50", "core request, round trip p50", "ms"),
    Figure("raw_put_p50", "one CAS put p50", "ms", mark=0.27, mark_always=1000 / 830),
    Figure("raw_put_p99", "one CAS put p99", "ms"),
    Figure("raw_puts_20", "CAS puts, 20 in flight", "/s", "high"),
    Figure("raw_puts_64", "CAS puts, 64 in flight", "/s", "high"),
    Figure("raw_puts_256", "CAS puts, 256 in flight", "/s", "high", mark=51_000, mark_always=2_400),
    Figure("raw_put_cpu", "CPU a put, 256 in flight", "ms"),
)

JETFLOW = (
    Figure("start_p50", "start to result, one at a time, p50", "ms", raw="raw_put_p50", mark=0.92, mark_always=2.5, mark_r3=3.6),
    Figure("start_p99", "start to result, one at a time, p99", "ms", raw="raw_put_p99", mark=1.4, mark_r3=8),
    Figure("workflows_64", "workflows, 64 in flight", "/s", "high", raw="raw_puts_64"),
    Figure("workflows_256", "workflows, 256 in flight", "/s", "high", raw="raw_puts_256", mark=9_300, mark_always=1_100, mark_r3=5_300),
    Figure("workflow_cpu", "CPU a workflow, 256 in flight", "ms", raw="raw_put_cpu"),
    Figure("chain_step", "chain of 100 steps, a step", "ms", raw="raw_put_p50", mark=0.25, mark_always=0.72, mark_r3=0.64),
    Figure("chain_steps_20", "steps, 20 chains of 100", "/s", "high", raw="raw_puts_20", mark=22_000, mark_always=2_600, mark_r3=11_300),
    Figure("step_cpu", "CPU a step, 20 chains of 100", "ms", raw="raw_put_cpu"),
    Figure("fanout_100", "fan-out of 100", "ms", raw="raw_put_p50", mark=3, mark_always=6, mark_r3=5),
    Figure("signal_p50", "signal to result p50", "ms", raw="raw_put_p50"),
    Figure("parked_start", "sleepers started and at rest", "s"),
    Figure("parked_live", "worker memory, a live sleeper", "KB"),
    Figure("parked_evicted", "worker memory, an evicted sleeper", "KB"),
    Figure("parked_count", "sleepers still at rest", "", "same"),
)

FIGURES = {figure.name: figure for figure in RAW + JETFLOW}
"""All of them, by name, in the order they are shown."""


class Counts(Struct, frozen=True):
    """How much of each thing is done in one round."""

    requests: int
    puts: int
    puts_in_flight: int
    warm_up: int
    starts: int
    workflows: int
    chains: int
    chain_batches: int
    fanouts: int
    signals: int
    sleepers: int
    stay: float
    """Seconds that the sleepers are watched for staying at rest."""


FULL = Counts(
    requests=2_000, puts=2_000, puts_in_flight=20_000, warm_up=300, starts=1_000, workflows=5_000,
    chains=20, chain_batches=5, fanouts=50, signals=300, sleepers=2_000, stay=2,
)  # fmt: skip
QUICK = Counts(
    requests=500, puts=500, puts_in_flight=8_000, warm_up=100, starts=300, workflows=2_000,
    chains=8, chain_batches=2, fanouts=15, signals=80, sleepers=1_000, stay=0.5,
)  # fmt: skip
SMOKE = Counts(
    requests=10, puts=10, puts_in_flight=50, warm_up=5, starts=10, workflows=40,
    chains=1, chain_batches=1, fanouts=1, signals=3, sleepers=60, stay=0.1,
)  # fmt: skip

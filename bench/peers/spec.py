"""What a rider is told. Standard library alone: riders run where nothing of the project is installed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

NOTE = "x" * 100
"""Travels with every number, so that inputs and results have the size of a small order."""


@dataclass(frozen=True)
class Counts:
    """How much of each thing is done in one round; seconds bound what a slow product takes.

    Attributes:
        samples_for: one workload takes no new sample after so many seconds.
        probe_for: seconds for which each width is tried.
        workflows_for: the workflows of the throughput figure are as many as the best width does in so many seconds,
            within ``least_workflows`` and ``most_workflows``.
        history: steps that a workflow has behind it when another worker takes it over.
        stay: seconds until the memory of parked workflows is read: what is given back by then does not count.
    """

    warm_up: int
    starts: int
    probe_for: float
    workflows_for: float
    least_workflows: int
    most_workflows: int
    chains: int
    chain_batches: int
    fanouts: int
    signals: int
    parked: int
    history: int
    stay: float
    samples_for: float
    rider_for: float
    """Seconds after which a rider is ended and its product's round counted as failed."""


FULL = Counts(
    warm_up=200, starts=500, probe_for=2, workflows_for=6, least_workflows=2_000, most_workflows=20_000, chains=7, chain_batches=3,
    fanouts=15, signals=100, parked=2_000, history=5_000, stay=3, samples_for=15, rider_for=900,
)  # fmt: skip
QUICK = Counts(
    warm_up=50, starts=100, probe_for=1, workflows_for=2, least_workflows=200, most_workflows=5_000, chains=3, chain_batches=1,
    fanouts=5, signals=20, parked=500, history=1_000, stay=2, samples_for=5, rider_for=240,
)  # fmt: skip
SMOKE = Counts(
    warm_up=4, starts=3, probe_for=0.05, workflows_for=0.05, least_workflows=20, most_workflows=40, chains=1, chain_batches=1,
    fanouts=1, signals=2, parked=20, history=200, stay=0.1, samples_for=2, rider_for=60,
)  # fmt: skip


@dataclass(frozen=True)
class Spec:
    """One ride.

    Attributes:
        product: module below ``bench.peers.riders``.
        workloads: names in ``bench.peers.workloads.WORKLOADS``, done in this order.
        address: what the product's client connects to.
        servers: process ids of its servers, whose memory counts with that of their children.
        options: the product's own.
        first: whether a workflow with one step comes before the workloads, and the moment of its result is told.
    """

    product: str
    workloads: list[str]
    counts: Counts
    address: str = ""
    servers: list[int] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    first: bool = True

    def written(self) -> str:
        """As one line of JSON."""
        return json.dumps(asdict(self))


def read(text: str) -> Spec:
    """What ``Spec.written`` wrote."""
    given = json.loads(text)
    return Spec(**{**given, "counts": Counts(**given["counts"])})

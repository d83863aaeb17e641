"""Replay alone: the core rebuilding one run from its recorded events, with no server."""

from __future__ import annotations

import gc
import time

from bench.workflows import chain, step
from jetflow.core import events as ev
from jetflow.core.machine import Machine
from jetflow.core.operation import RunInfo
from jetflow.core.values import encode

ROUNDS = 3


def recorded_chain(events: int) -> list[bytes]:
    """The commits of a chain with about so many events, encoded as the timeline has them: as if a worker had written them."""
    steps = max(1, events // 2 - 1)
    info = RunInfo("w", "bench", chain.name, 1)
    machine = Machine(chain, info)
    commits = []

    def commit(cause: int) -> None:
        decided = machine.take()[0]
        commits.append(ev.encode_commit(ev.Commit(run=1, cause=cause, events=decided)))

    machine.feed(ev.Started(at=0, workflow_type=chain.name, input=encode([steps], "input")))
    commit(1)
    for number in range(1, steps + 1):
        machine.feed(ev.ActivityCompleted(index=number, at=number, result=encode(number, step.name), attempt=1))
        commit(1)
    machine.release()
    return commits


def replay_seconds(events: int) -> float:
    """CPU time of decoding and replaying such a history: the best of a few rounds."""
    gc.collect()
    commits = recorded_chain(events)
    best = float("inf")
    for _ in range(ROUNDS):
        begin = time.process_time()
        history = [ev.decode_commit(commit).events for commit in commits]
        machine = Machine(chain, RunInfo("w", "bench", chain.name, 1))
        machine.replay(history)
        best = min(best, time.process_time() - begin)
        machine.release()
    return best

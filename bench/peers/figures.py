"""The figures of the race, in the order they are shown."""

from __future__ import annotations

from bench.figures import FIGURES as ALONE
from bench.figures import Figure

RACE = (
    Figure("start_p50", "start to result, one at a time, p50", "ms", raw="raw_put_p50"),
    Figure("start_p99", "start to result, one at a time, p99", "ms", raw="raw_put_p99"),
    Figure("workflows", "workflows, best of 16, 64 or 256 in flight", "/s", "high", raw="raw_puts_256"),
    Figure("workflows_width", "… that best width", "", "same"),
    Figure("chain_step", "chain of 100 steps, a step", "ms", raw="raw_put_p50"),
    Figure("chain_steps_20", "steps, 20 chains of 100", "/s", "high", raw="raw_puts_20"),
    Figure("fanout_100", "fan-out of 100", "ms", raw="raw_put_p50"),
    Figure("signal_p50", "signal to result p50", "ms", raw="raw_put_p50"),
    Figure("parked_start", "sleepers started and at rest", "s"),
    Figure("parked_worker", "memory of client and worker, a sleeper", "KB"),
    Figure("parked_server", "memory of the servers, a sleeper", "KB"),
    Figure("cold_all", "cold start of servers and worker to the first result", "s"),
    Figure("cold_worker", "cold start of a worker to the first result", "s"),
    Figure("resume", "cold start of a worker to the result after a long history", "s"),
    Figure("replay", "steps of that history replayed", "/s", "high"),
)
FIGURES = {figure.name: figure for figure in RACE}
RAW = tuple(ALONE[name] for name in ("raw_request_p50", "raw_put_p50", "raw_put_p99", "raw_puts_20", "raw_puts_64", "raw_puts_256"))
PLOTTED = ("start_p50", "workflows", "chain_step", "chain_steps_20", "fanout_100", "signal_p50")

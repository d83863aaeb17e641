"""``python -m bench.peers.riders SPEC``: rides one spec and prints a line of JSON for each thing found."""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import logging
import sys
import time

from bench.peers.riders.rider import Rider
from bench.peers.spec import Spec, read
from bench.peers.workloads import WORKLOADS


def main() -> None:
    """Rides; the garbage collector looks as rarely as jetflow's worker lets it, for every product."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    spec = read(sys.argv[1])
    rider: Rider = importlib.import_module(f"bench.peers.riders.{spec.product}").rider()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_ride(rider, spec))


async def _ride(rider: Rider, spec: Spec) -> None:
    async with rider.riding(spec):
        if await rider.execute("one_step", 1) != 2:
            raise RuntimeError("the first workflow gave a wrong result")
        _tell({"first": time.monotonic()})
        for name in spec.workloads:
            begin = time.monotonic()
            figures = await WORKLOADS[name](rider, spec)
            _tell({"workload": name, "seconds": round(time.monotonic() - begin, 2), "figures": figures})
    _tell({"done": time.monotonic()})


def _loop_factory():  # type: ignore[no-untyped-def]
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _tell(found: dict[str, object]) -> None:
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()

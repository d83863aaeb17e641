"""``python -m bench.peers.riders SPEC``: rides one spec and prints a line of JSON for each thing found."""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import logging
import os
import sys
import time
from typing import TextIO

from bench.peers.riders.rider import Rider
from bench.peers.spec import Spec, read
from bench.peers.workloads import WORKLOADS


def main() -> None:
    """Rides; the garbage collector looks as rarely as jetflow's worker lets it, for every product."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    output, spec = _own_output(), read(sys.argv[1])
    rider: Rider = importlib.import_module(f"bench.peers.riders.{spec.product}").rider()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_ride(rider, spec, output))


async def _ride(rider: Rider, spec: Spec, output: TextIO) -> None:
    async with rider.riding(spec):
        if spec.first:
            if await rider.execute("one_step", 1) != 2:
                raise RuntimeError("the first workflow gave a wrong result")
            _tell(output, {"first": time.monotonic()})
        for name in spec.workloads:
            begin = time.monotonic()
            figures = await WORKLOADS[name](rider, spec)
            _tell(output, {"workload": name, "seconds": round(time.monotonic() - begin, 2), "figures": figures})
    _tell(output, {"done": time.monotonic()})


def _loop_factory():  # type: ignore[no-untyped-def]
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _own_output() -> TextIO:
    """What was the standard output; what libraries print goes where errors go."""
    own = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return own


def _tell(output: TextIO, found: dict[str, object]) -> None:
    print(json.dumps(found), file=output, flush=True)


if __name__ == "__main__":
    main()

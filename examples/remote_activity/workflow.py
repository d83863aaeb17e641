"""A workflow in Python with activities in Node.

    jetflow dev examples/remote_activity/workflow.py                  # a server and a worker for the workflow
    cd examples/remote_activity && npm install && npm start           # in another terminal: the activities
    jetflow start fingerprints '["a", "b"]' --wait                    # in a third one

The activities are known by name only; their results come as plain JSON, or as the ``result_type`` that is asked for.
"""

import asyncio

from msgspec import Struct

from jetflow import RetryPolicy, execute_activity, workflow


class Fingerprint(Struct):
    sha256: str
    by: str


@workflow
async def fingerprints(texts: list[str]) -> dict[str, str]:
    """Return the SHA-256 of each text, from the workers of the task queue ``node``. They may be slow, down, or deployed anew meanwhile."""
    retry = RetryPolicy(maximum_attempts=5, initial_interval="1s")
    found = await asyncio.gather(*(execute_activity("fingerprint", text, task_queue="node", retry=retry, result_type=Fingerprint) for text in texts))
    return {text: one.sha256 for text, one in zip(texts, found, strict=True)}

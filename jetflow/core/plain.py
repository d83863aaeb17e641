"""Which libraries' internals jetflow is asked to leave alone.

``JETFLOW_PLAIN=nats,anyio`` names libraries whose public calls are to do: slower, or with fewer promises, but the same results.
"""

from __future__ import annotations

from os import environ

VARIABLE = "JETFLOW_PLAIN"


def asked_for(library: str) -> bool:
    """Whether the environment asks for this library's public calls alone."""
    return library in environ.get(VARIABLE, "").replace(" ", "").split(",")

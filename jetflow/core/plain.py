"""The environment variable that turns off the use of other libraries' internals.

With ``JETFLOW_PLAIN=nats,anyio``, jetflow uses only public calls of the named libraries. That is slower, or gives fewer guarantees.
"""

from __future__ import annotations

from os import environ

VARIABLE = "JETFLOW_PLAIN"


def asked_for(library: str) -> bool:
    """Return whether ``JETFLOW_PLAIN`` names this library."""
    return library in environ.get(VARIABLE, "").replace(" ", "").split(",")

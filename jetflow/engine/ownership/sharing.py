"""Who should own what: every worker computes the same from the same heartbeats."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from jetflow.broker.stores.membership import Member


def assign(partitions: int, members: Iterable[str]) -> dict[str, set[int]]:
    """Rendezvous hashing: each partition goes to the member with the highest hash of both."""
    ids = sorted(members)
    shares: dict[str, set[int]] = {member: set() for member in ids}
    for partition in range(partitions):
        winner = max(ids, key=lambda member: hashlib.blake2b(f"{member}/{partition}".encode(), digest_size=8).digest())
        shares[winner].add(partition)
    return shares


def eligible(members: Iterable[Member]) -> list[Member]:
    """Members that may own partitions: those whose workflow types are not a mere part of another's, as in a rolling upgrade."""
    everyone = list(members)
    return [member for member in everyone if not any(set(member.workflows) < set(other.workflows) for other in everyone)]

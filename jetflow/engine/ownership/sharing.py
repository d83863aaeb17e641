"""Decides which worker should own which partitions. Every worker computes the same result from the same heartbeats."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from jetflow.broker.stores.membership import Member


def assign(partitions: int, members: Iterable[str]) -> dict[str, set[int]]:
    """Return the partitions of each member by rendezvous hashing: the member with the highest hash of member and partition gets it."""
    ids = sorted(members)
    shares: dict[str, set[int]] = {member: set() for member in ids}
    for partition in range(partitions):
        winner = max(ids, key=lambda member: hashlib.blake2b(f"{member}/{partition}".encode(), digest_size=8).digest())
        shares[winner].add(partition)
    return shares


def eligible(members: Iterable[Member]) -> list[Member]:
    """Return the members that may own partitions: those whose workflow types are not a proper subset of another member's types."""
    everyone = list(members)
    return [member for member in everyone if not any(set(member.workflows) < set(other.workflows) for other in everyone)]

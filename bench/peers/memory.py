"""Memory of processes, shared pages divided among those that share them."""

from __future__ import annotations

from pathlib import Path


def proportional_kilobytes(pids: list[int]) -> int:
    """PSS of these processes and of all their children. What has just ended counts nothing."""
    return sum(_pss(pid) for pid in _with_children(pids))


def _with_children(pids: list[int]) -> set[int]:
    found: set[int] = set()
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        if pid in found:
            continue
        found.add(pid)
        for listing in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                waiting += [int(child) for child in listing.read_text().split()]
            except OSError:
                continue
    return found


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0

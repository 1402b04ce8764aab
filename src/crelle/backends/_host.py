"""Memory of the host, for backends whose arrays live there."""

from __future__ import annotations

from pathlib import Path


def free_host_memory() -> int | None:
    """Bytes that can be allocated without swapping, ``None`` where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None

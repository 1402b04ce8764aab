"""Rules for windows: pooling and its transposes."""

from __future__ import annotations

from typing import Any


def pooling_choices(op: Any) -> Any:
    return None

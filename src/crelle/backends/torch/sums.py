"""Sums of the entries of a matrix in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def segment_sums(data: Any, ids: Any, count: int) -> Any:
    """s[i] = Σ data[k] over all k with ids[k] = i, for i < count."""
    where = torch.from_numpy(np.array(ids, np.int64)).to(data.device)
    return data.new_zeros(count).index_add(0, where, data)


def root(squares: Any) -> Any:
    """√s, with the derivative 0 where s is 0: a norm has none there, and zero is a subgradient."""
    positive = squares > 0
    return torch.where(positive, torch.where(positive, squares, 1).sqrt(), 0)

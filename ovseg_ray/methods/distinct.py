"""Labels that ask for the same thing."""

from __future__ import annotations

import torch
from torch import Tensor


def distinct_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the first of each set of equal rows, ascending, and the size of each set.

    Equal labels must tie exactly, which products computed in different chunks do not promise: so they are computed
    once, for the first of them.
    """
    _, group, sizes = torch.unique(rows, dim=0, return_inverse=True, return_counts=True)
    positions = torch.arange(len(rows), device=rows.device)
    first = torch.full_like(sizes, len(rows)).scatter_reduce(0, group, positions, "amin")
    order = first.argsort()
    return first[order], sizes[order]

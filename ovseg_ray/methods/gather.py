"""Rows of all workers of a training, with their gradients: for losses over the global batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def spread() -> bool:
    """Whether this process trains with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_counts(value: Tensor) -> Tensor:
    """(n,) int64 of each of W workers -> (W, n), in the order of ranks."""
    parts = [torch.empty_like(value) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, value)
    return torch.stack(parts)


def gather_rows(local: Tensor, counts: Sequence[int]) -> Tensor:
    """(B_r, ...) of each worker r -> (B, ...) of all, in the order of ranks; backward sums the gradients of all.

    Takes the place of open_clip's `gather_with_grad`, which rests on a deprecated function whose backward, under
    gloo, transposes gradients that are not contiguous (seen in torch 2.12).

    Args:
        local: of this worker.
        counts: B_r of every worker; they may differ.
    """
    gathered: Tensor = _Gather.apply(local, tuple(counts))
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, counts: tuple[int, ...]) -> Tensor:
        ctx.start, ctx.rows = sum(counts[: dist.get_rank()]), len(local)
        missing = max(counts) - len(local)  # collectives want equal sizes
        padded = F.pad(local, (0, 0) * (local.ndim - 1) + (0, missing)).contiguous()
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        whole = gradients[0].clone(memory_format=torch.contiguous_format)  # autograd may still need its own
        dist.all_reduce(whole)
        return whole[ctx.start : ctx.start + ctx.rows], None

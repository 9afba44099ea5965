"""The symmetric contrastive loss (Radford et al. 2021, figure 3) over the global batch of all workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import open_clip
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """open_clip's loss of matching pairs, every other pair of the global batch being a negative.

    With W workers the embeddings of all are gathered with their gradients. Worker r returns the mean over its own B
    rows, L_r = (CE_image + CE_text) / 2 against all W·B columns. The mean of the L_r over workers is the loss L of
    the global batch, and since the gather's backward sums over workers, DDP's mean of the gradients is exactly the
    gradient of L, that of the scale included. Where workers hold unequal numbers of pairs, the loop weighs L_r by them.

    Args:
        image: (B, D) unit vectors.
        text: (B, D) unit vectors; row i belongs to row i of `image`.
        scale: () factor on the cosine.

    Returns:
        () float32, L_r.
    """
    spread = dist.is_available() and dist.is_initialized()
    rank, workers = (dist.get_rank(), dist.get_world_size()) if spread else (0, 1)
    loss = _GlobalLoss(local_loss=True, rank=rank, world_size=workers)
    with torch.autocast(image.device.type, enabled=False):
        return loss(image.float(), text.float(), scale.float())


class _GlobalLoss(open_clip.ClipLoss):
    def get_logits(
        self, image_features: Tensor, text_features: Tensor, logit_scale: Tensor, logit_bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if self.world_size == 1:
            return super().get_logits(image_features, text_features, logit_scale, logit_bias)
        counts = [torch.zeros(1, dtype=torch.long, device=image_features.device) for _ in range(self.world_size)]
        dist.all_gather(counts, torch.full_like(counts[0], len(image_features)))
        self._counts = [int(count) for count in counts]
        all_image, all_text = (_Gather.apply(f, self._counts) for f in (image_features, text_features))
        return logit_scale * image_features @ all_text.T, logit_scale * text_features @ all_image.T

    def get_ground_truth(self, device: torch.device, num_logits: int) -> Tensor:
        start = sum(self._counts[: self.rank]) if self.world_size > 1 else 0
        return torch.arange(start, start + num_logits, device=device)


class _Gather(torch.autograd.Function):
    """(B_r, D) of each worker r -> (B, D) of all; backward sums the gradients of all workers.

    Takes the place of open_clip's `gather_with_grad`, which rests on a deprecated function whose backward, under
    gloo, transposes gradients that are not contiguous (seen in torch 2.12).
    """

    @staticmethod
    def forward(ctx: Any, local: Tensor, counts: Sequence[int]) -> Tensor:
        ctx.start, ctx.rows = sum(counts[: dist.get_rank()]), len(local)
        padded = F.pad(local, (0, 0, 0, max(counts) - len(local))).contiguous()  # collectives want equal sizes
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        whole = gradients[0].clone(memory_format=torch.contiguous_format)  # autograd may still need its own
        dist.all_reduce(whole)
        return whole[ctx.start : ctx.start + ctx.rows], None

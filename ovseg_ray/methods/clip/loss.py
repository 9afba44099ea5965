"""The symmetric contrastive loss (Radford et al. 2021, figure 3) over the global batch of all workers."""

from __future__ import annotations

from typing import Any

import open_clip
import torch
import torch.distributed as dist
from torch import Tensor


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """open_clip's loss of matching pairs, every other pair of the global batch being a negative.

    With W workers the embeddings of all are gathered with their gradients. Worker r returns the mean over its own B
    rows, L_r = (CE_image + CE_text) / 2 against all W·B columns. The mean of the L_r over workers is the loss L of
    the global batch, and since the gather's backward sums over workers, DDP's mean of the gradients is exactly the
    gradient of L, that of the scale included. All workers must hold the same number of pairs.

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
        all_image, all_text = _Gather.apply(image_features), _Gather.apply(text_features)
        return logit_scale * image_features @ all_text.T, logit_scale * text_features @ all_image.T


class _Gather(torch.autograd.Function):
    """(B, D) of each worker -> (W·B, D) of all; backward sums the gradients of all workers.

    Takes the place of open_clip's `gather_with_grad`, which rests on a deprecated function whose backward, under
    gloo, transposes gradients that are not contiguous (seen in torch 2.12).
    """

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        ctx.rows = len(local)
        parts = [torch.empty_like(local, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        whole = gradients[0].clone(memory_format=torch.contiguous_format)  # autograd may still need its own
        dist.all_reduce(whole)
        start = dist.get_rank() * ctx.rows
        return whole[start : start + ctx.rows]

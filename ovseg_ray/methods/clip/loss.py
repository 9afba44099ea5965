"""The symmetric contrastive loss (Radford et al. 2021, figure 3) over the global batch of all workers."""

from __future__ import annotations

import open_clip
import torch
import torch.distributed as dist
from torch import Tensor

from ovseg_ray.methods.gather import gather_counts, gather_rows


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
        own = torch.tensor([len(image_features)], device=image_features.device)
        self._counts = gather_counts(own)[:, 0].tolist()
        all_image, all_text = (gather_rows(f, self._counts) for f in (image_features, text_features))
        return logit_scale * image_features @ all_text.T, logit_scale * text_features @ all_image.T

    def get_ground_truth(self, device: torch.device, num_logits: int) -> Tensor:
        start = sum(self._counts[: self.rank]) if self.world_size > 1 else 0
        return torch.arange(start, start + num_logits, device=device)

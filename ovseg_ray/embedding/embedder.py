"""From squares to vectors and maps, in plain PyTorch: what every actor holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ray.embedding.config import EmbedConfig
from ovseg_ray.errors import UserError
from ovseg_ray.networks.frozen import build_backbone

# on a CPU larger batches are no faster (they leave the cache) and take hundreds of MB more (measured)
CPU_BATCH, GPU_BATCH = 8, 32


class Embedder:
    """A frozen backbone and its preprocessing.

    Args:
        config: of the job.
        device: of torch.

    Raises:
        UserError: weights that are missing or do not fit, or squares that the backbone cannot take.
    """

    def __init__(self, config: EmbedConfig, device: str = "cpu") -> None:
        torch.manual_seed(config.seed)  # a backbone without weights is the same in every actor
        self._config, self._device = config, device
        self._batch = config.batch_size or (CPU_BATCH if device == "cpu" else GPU_BATCH)
        self.backbone = build_backbone(config.encoder)
        if config.encoder.weights is not None:
            self.backbone.load_pretrained(config.encoder.weights)
        if config.squares.size % self.backbone.multiple:
            raise UserError(
                f"squares.size = {config.squares.size}: must be a multiple of {self.backbone.multiple} for this encoder"
            )
        self.backbone.to(device)
        mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (self.backbone.mean, self.backbone.std))
        self._scale, self._shift = 1 / (255 * std), mean / std

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the maps."""
        side = self._config.squares.size // self.backbone.stride
        return side, side

    @torch.inference_mode()
    def __call__(self, squares: np.ndarray, seeds: Sequence[int] = ()) -> tuple[np.ndarray, np.ndarray]:
        """
        Args:
            squares: (n, S, S, 3) uint8.
            seeds: of each square's dropout, where there is any: the result must not depend on who computes it.

        Returns:
            (n, C) float32 vectors of length 1, and (n, C, h, w) float32 maps.
        """
        vectors, maps = [], []
        for start in range(0, len(squares), self._batch):
            part = torch.tensor(squares[start : start + self._batch], device=self._device)
            features = self.backbone(part.permute(0, 3, 1, 2) * self._scale - self._shift).float()
            kept = features
            if self._config.vector_dropout:
                kept = features * self._dropout(seeds[start : start + len(part)], features)
            vectors.append(F.normalize(kept.mean((2, 3)), dim=1).cpu().numpy())
            maps.append(features.cpu().numpy())
        return np.concatenate(vectors), np.concatenate(maps)

    def _dropout(self, seeds: Sequence[int], features: Tensor) -> Tensor:
        rate = self._config.vector_dropout
        masks = [np.random.default_rng((self._config.seed, seed)).random(features.shape[1]) >= rate for seed in seeds]
        return torch.from_numpy(np.stack(masks)).to(features)[:, :, None, None] / (1 - rate)

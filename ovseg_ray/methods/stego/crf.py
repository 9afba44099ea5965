"""Fully connected CRF with Gaussian edges, by mean field (Krähenbühl and Koltun, NeurIPS 2011).

Own code, since no maintained library installs without a compiler; it follows pydensecrf: filters
normalised symmetrically, Potts compatibility, the unary clipped at a probability of 1e-5.
"""

from __future__ import annotations

from copy import copy

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ovseg_ray.config import Config
from ovseg_ray.methods.stego.permutohedral import Lattice

LEAST_PROBABILITY = 1e-5


class CrfConfig(Config):
    """The CRF after prediction; the defaults are those of the paper."""

    iterations: int = Field(10, ge=0, description="mean-field updates; 0: none")
    smoothness_xy: float = Field(1.0, gt=0, description="deviation in pixels of the Gaussian kernel")
    smoothness_weight: float = Field(3.0, ge=0, description="its compatibility")
    appearance_xy: float = Field(67.0, gt=0, description="deviation in pixels of the bilateral kernel")
    appearance_rgb: float = Field(3.0, gt=0, description="its deviation in colour levels")
    appearance_weight: float = Field(4.0, ge=0, description="its compatibility")


class DenseCrf:
    """The pairwise part for one image; serves any number of score maps of it.

    Args:
        image: (H, W, 3) uint8 RGB.
        config: kernels.
    """

    def __init__(self, image: np.ndarray, config: CrfConfig | None = None) -> None:
        self._config = config or CrfConfig()
        height, width = image.shape[:2]
        rows, columns = np.mgrid[:height, :width].reshape(2, -1).astype(np.float32)
        place = np.stack([columns, rows], axis=1)
        # blue first, as the original: the lattice is not quite symmetric in its axes
        colour = image.reshape(-1, 3)[:, ::-1].astype(np.float32) / np.float32(self._config.appearance_rgb)
        self._kernels = [
            _Kernel(place / np.float32(self._config.smoothness_xy), self._config.smoothness_weight),
            _Kernel(
                np.concatenate([place / np.float32(self._config.appearance_xy), colour], axis=1),
                self._config.appearance_weight,
            ),
        ]

    def weighted(self, smoothness: float, appearance: float) -> DenseCrf:
        """The same image under other compatibilities: its lattices, which depend on none, are shared."""
        other = copy(self)
        weights = {"smoothness_weight": smoothness, "appearance_weight": appearance}
        other._config = self._config.model_copy(update=weights)
        other._kernels = [
            kernel.weighted(weight) for kernel, weight in zip(self._kernels, weights.values(), strict=True)
        ]
        return other

    def marginals(self, probabilities: np.ndarray) -> np.ndarray:
        """Refine (K, H, W) float32 probabilities; same shape out, summing to 1 at each pixel."""
        given = torch.from_numpy(np.ascontiguousarray(probabilities, np.float32)).flatten(1).T
        unary = given.clamp(LEAST_PROBABILITY, 1.0).log().contiguous()  # its negative
        beliefs = unary.softmax(1)
        kernels = [kernel for kernel in self._kernels if kernel.weight]
        # without a kernel nothing moves
        for _ in range(self._config.iterations if kernels else 0):
            energy = unary.clone()
            for kernel in kernels:
                energy += kernel(beliefs)
            beliefs = energy.softmax(1)
        return beliefs.T.contiguous().view(probabilities.shape).numpy()


class _Kernel:
    def __init__(self, features: np.ndarray, weight: float) -> None:
        self._lattice = Lattice(features)
        self.weight = weight
        self._norm = (self._lattice.filter(torch.ones(len(features), 1)) + 1e-20).rsqrt()

    def weighted(self, weight: float) -> _Kernel:
        other = copy(self)
        other.weight = weight
        return other

    def __call__(self, beliefs: Tensor) -> Tensor:
        return self._lattice.filter(beliefs * self._norm) * (self._norm * self.weight)


def refine(image: np.ndarray, scores: Tensor, config: CrfConfig | None = None) -> Tensor:
    """CRF marginals of one image's score map.

    Args:
        image: (H, W, 3) uint8 RGB.
        scores: (K, h, w) logits or log probabilities; upsampled bilinearly to the image.
        config: of the CRF.

    Returns:
        (K, H, W) float32.
    """
    height, width = image.shape[:2]
    scores = F.interpolate(scores[None].float(), (height, width), mode="bilinear", align_corners=False)[0]
    return torch.from_numpy(DenseCrf(image, config).marginals(scores.softmax(0).cpu().numpy()))


def image_of(inputs: Tensor, mean: Tensor, std: Tensor, *, reference: bool = False) -> np.ndarray:
    """A normalised network input as the (H, W, 3) uint8 picture that the CRF looks at.

    Args:
        inputs: (3, H, W) float32.
        mean: (3,) of RGB in 0..1.
        std: (3,).
        reference: cut fractions off as the original, which leaves some values 1 lower; else round.
    """
    levels = (inputs * std[:, None, None] + mean[:, None, None]) * 255
    levels = levels if reference else levels.round().clamp(0, 255)
    return levels.to(torch.uint8).permute(1, 2, 0).cpu().numpy()

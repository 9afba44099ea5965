"""Word-pixel correlation (Li et al. 2022, section 4.2): cosine of every pixel with every label, scaled.

The joint embedding of a pixel is an affine map I = W z + b of the decoder's narrow map z. Scores need only
<I, T> = (T W) z + T b and |I|^2 = z'Gz + 2 g'z + b'b with G = W'W and g = W'b, so the wide C-channel map
never has to exist. All of it is computed in float32, also under autocast.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# The paper divides by the norm without an epsilon; an all-zero pixel then gives NaN
SMALLEST_SQUARED_NORM = 1e-12


def word_pixel_correlation(pixels: Tensor, text: Tensor, scale: float) -> Tensor:
    """The definition, with the wide map: what the folded form below is tested against.

    Args:
        pixels: (B, C, H, W) joint embeddings of pixels, any length.
        text: (K, C) label embeddings, any length.
        scale: factor on the cosine; the paper's is 1 / 0.07.

    Returns:
        (B, K, H, W) float32 in -scale..scale.
    """
    pixels = F.normalize(pixels.float(), dim=1, eps=SMALLEST_SQUARED_NORM**0.5)
    return scale * torch.einsum("bchw,kc->bkhw", pixels, F.normalize(text.float(), dim=1))


def merge_projections(first: tuple[Tensor, Tensor] | None, second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """(W, b) of two affine maps applied one after the other; each is (outputs, inputs) and (outputs,)."""
    if first is None:
        return second
    return second[0] @ first[0], second[0] @ first[1] + second[1]


def label_projection(text: Tensor, weight: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The affine map from the decoder's map to unnormalised scores of labels.

    Args:
        text: (K, C) label embeddings, any length.
        weight: (C, D) W of the joint embedding.
        bias: (C,) b of the joint embedding.
        scale: factor on the cosine.

    Returns:
        (K, D) scale T W and (K,) scale T b.
    """
    text = scale * F.normalize(text.to(weight), dim=1)
    return text @ weight, text @ bias


def affine_map(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """W z + b for every pixel: a 1x1 convolution as the matrix product that it is.

    torch's own takes a slow path for float32 on one CPU thread.

    Args:
        features: (B, D, H, W) z.
        weight: (C, D) W.
        bias: (C,) b.

    Returns:
        (B, C, H, W), NHWC in memory.
    """
    return F.linear(features.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


def inverse_norms(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """1 / |W z + b| for every pixel.

    Args:
        features: (B, D, H, W) z.
        weight: (C, D) W.
        bias: (C,) b.

    Returns:
        (B, 1, H, W) float32.
    """
    gram, cross = weight.t() @ weight, weight.t() @ bias
    linear = affine_map(features, gram, 2 * cross)
    squared = (linear * features).sum(1, keepdim=True) + bias @ bias
    return squared.clamp_min(SMALLEST_SQUARED_NORM).rsqrt()

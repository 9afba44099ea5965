"""Linear layers of many tokens on a CPU: the same product as a 1x1 convolution.

PyTorch gives a float32 `nn.Linear` to MKL and a convolution to oneDNN, which divides a thousand tokens better between
threads. One thread gains nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TokenLinear(nn.Linear):
    """`nn.Linear` in training and on a GPU; without gradients on a CPU a convolution, equal but for rounding."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        if input.device.type != "cpu" or torch.is_grad_enabled():
            return super().forward(input)
        rows = input.reshape(1, -1, 1, self.in_features).permute(0, 3, 1, 2)  # channels last: no copy
        found = F.conv2d(rows, self.weight[:, :, None, None], self.bias)
        return found.permute(0, 2, 3, 1).reshape(*input.shape[:-1], self.out_features)


def use_token_linears(module: nn.Module) -> None:
    """Turn every plain `nn.Linear` below `module` into a `TokenLinear` with the same parameters and keys."""
    for child in module.modules():
        if type(child) is nn.Linear:
            child.__class__ = TokenLinear

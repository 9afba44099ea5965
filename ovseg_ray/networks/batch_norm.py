"""Pretrained batch norms that must keep their statistics: frozen, or merged into the convolutions before them."""

from __future__ import annotations

from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def freeze_batch_norms(root: nn.Module) -> None:
    """Every batch norm below `root` to eval mode, until the next `train`."""
    for module in root.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def fold_batch_norms(root: nn.Module) -> None:
    """Merge each batch norm with the convolution that stands right before it; the same function in eval mode."""
    for parent in root.modules():
        children = list(parent.named_children())
        for (conv_name, conv), (norm_name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                # fusing leaves the new bias frozen
                setattr(parent, conv_name, fuse_conv_bn_eval(conv.eval(), norm.eval()).requires_grad_(True))
                setattr(parent, norm_name, nn.Identity())

"""Spatial regularisation against the original's numbers, and its symmetries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ovseg_ray.config import build
from ovseg_ray.errors import UserError
from ovseg_ray.methods.lseg.head_blocks import HeadBlock, HeadBlockConfig

GOLDEN = np.load(Path(__file__).parents[1] / "golden/lseg/head_blocks.npz")
KINDS = pytest.mark.parametrize("kind", ["depthwise", "bottleneck"])
ACTIVATIONS = pytest.mark.parametrize("activation", ["relu", "lrelu", "tanh"])


def block_of(kind: str, activation: str, depth: int) -> HeadBlock:
    block = HeadBlock(build(HeadBlockConfig, {"kind": kind, "activation": activation, "depth": depth}))
    block.conv.weight.data = torch.from_numpy(GOLDEN[f"{kind}_{activation}_weight"])
    block.conv.bias.data = torch.from_numpy(GOLDEN[f"{kind}_{activation}_bias"])  # type: ignore[union-attr]
    return block


def scores() -> Tensor:
    return torch.from_numpy(GOLDEN["x"].copy())


@KINDS
@ACTIVATIONS
@pytest.mark.parametrize("depth", [1, 2, 4])
@torch.no_grad()
def test_stacks_match_the_original(kind: str, activation: str, depth: int) -> None:
    output = block_of(kind, activation, depth)(scores())
    # four layers reach 57 in size: even in float64 they are 1.1e-5 away from the stored float32 numbers
    rtol = 1e-6 if depth == 4 else 1e-7
    np.testing.assert_allclose(output, GOLDEN[f"{kind}_{activation}_depth{depth}"], atol=1e-5, rtol=rtol)


@KINDS
@ACTIVATIONS
@torch.no_grad()
def test_single_applications_match_the_original(kind: str, activation: str) -> None:
    block = block_of(kind, activation, 1)
    for activate, name in ((True, "once_act"), (False, "once_noact")):
        output = block.apply_once(scores(), activate=activate)
        np.testing.assert_allclose(output, GOLDEN[f"{kind}_{activation}_{name}"], atol=1e-5)


@KINDS
@ACTIVATIONS
def test_gradients_match_the_original(kind: str, activation: str) -> None:
    block, x = block_of(kind, activation, 2), scores().requires_grad_()
    output = block(x)
    (output * (torch.arange(output.numel()) % 7).view(output.shape)).sum().backward()
    prefix = f"{kind}_{activation}_depth2_grad"
    np.testing.assert_allclose(x.grad, GOLDEN[f"{prefix}_x"], atol=1e-5, rtol=1e-5)
    # sums over 960 pixels: the order of summation shows
    np.testing.assert_allclose(block.conv.weight.grad, GOLDEN[f"{prefix}_weight"], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(block.conv.bias.grad, GOLDEN[f"{prefix}_bias"], rtol=1e-4, atol=1e-3)  # type: ignore[union-attr]


@KINDS
@torch.no_grad()
def test_permuting_labels_permutes_the_result(kind: str) -> None:
    block, order = block_of(kind, "lrelu", 2), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(block(scores()[:, order]), block(scores())[:, order])


@KINDS
@torch.no_grad()
def test_labels_can_be_treated_in_parts(kind: str) -> None:
    block, x = block_of(kind, "relu", 3), scores()
    maxima: list[Tensor] = []
    for applications in range(3):
        maxima.append(block.apply_some(x, maxima, applications).amax(1, keepdim=True))
    parts = [block.apply_some(part, maxima, 3) for part in x.split(2, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), block(x))


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match="kind = 'depth'"):
        build(HeadBlockConfig, {"kind": "depth"})

"""The fusion decoder, map by map, against the original's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from original_decoder import decoder_weights, golden

from ovseg_ray.networks.fusion import FusionBlock, FusionDecoder, upsample2


@pytest.fixture
def decoder() -> FusionDecoder:
    decoder = FusionDecoder((8, 16, 24, 32), 16)
    decoder.load_state_dict(decoder_weights())  # strict: every key is mapped, none is left over
    return decoder.eval()


@torch.no_grad()
def test_every_map_matches_the_original(decoder: FusionDecoder) -> None:
    reduced = [conv(golden(f"layer_{i + 1}")) for i, conv in enumerate(decoder.reduce)]
    for index, output in enumerate(reduced):
        np.testing.assert_allclose(output, golden(f"layer_{index + 1}_rn"), atol=1e-5)
    path = decoder.fusion32(reduced[3])
    np.testing.assert_allclose(path, golden("path_4"), atol=1e-5)
    path = decoder.fusion16(path, reduced[2])
    np.testing.assert_allclose(path, golden("path_3"), atol=1e-5)
    path = decoder.fusion8(path, reduced[1])
    np.testing.assert_allclose(path, golden("path_2"), atol=1e-5)
    path = decoder.fusion4(path, reduced[0])
    np.testing.assert_allclose(path, golden("path_1"), atol=1e-5)


@torch.no_grad()
def test_forward_leaves_the_last_projection_and_upsampling_to_the_caller(decoder: FusionDecoder) -> None:
    output = decoder([golden(f"layer_{i}") for i in range(1, 5)])
    assert output.shape == (2, 16, 16, 24)
    assert decoder.projection is not None
    np.testing.assert_allclose(upsample2(decoder.projection(output)), golden("path_1"), atol=1e-5)


@torch.no_grad()
def test_projection_before_upsampling_is_exact() -> None:
    torch.manual_seed(0)
    block = FusionBlock(8).eval()
    x, skip = torch.randn(2, 8, 5, 7), torch.randn(2, 8, 5, 7)
    original = block.out_conv(upsample2(block.fuse(x, skip)))
    np.testing.assert_allclose(block(x, skip), original, atol=1e-6)


@pytest.mark.parametrize(("channels", "width", "stride"), [((4, 5, 6, 7), 8, 4), ((3, 4, 5, 6, 7), 6, 2)])
def test_every_parameter_is_used(channels: tuple[int, ...], width: int, stride: int) -> None:
    decoder = FusionDecoder(channels, 8, detail_width=6)
    strides = (2, 4, 8, 16, 32)[-len(channels) :]
    output = decoder([torch.randn(2, c, 64 // s, 96 // s) for c, s in zip(channels, strides, strict=True)])
    assert output.shape == (2, width, 64 // stride, 96 // stride)
    assert decoder.width == width
    loss = output.square().mean()
    if decoder.projection is not None:
        loss = loss + decoder.projection(output).square().mean()
    loss.backward()
    assert [name for name, p in decoder.named_parameters() if p.grad is None] == []

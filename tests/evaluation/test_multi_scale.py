"""Several scales, mirrored, in windows: against plain loops over one window at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ovseg_ray.errors import UserError
from ovseg_ray.evaluation import multi_scale as module
from ovseg_ray.evaluation.multi_scale import PRESETS, MultiScale, MultiScaleConfig, resolve_multi_scale
from ovseg_ray.methods.lseg import LSeg, LSegConfig
from ovseg_ray.methods.lseg.transform import Normalisation, PlainTransform

SMALL: dict[str, Any] = {"scales": (0.5, 1.0, 1.7), "base_size": 70, "crop": 64, "windows_at_once": 3}
TEXT = F.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(3)), dim=1)
SIZES = [(40, 60), (90, 50), (64, 64), (7, 150)]


def small(kind: str = "none") -> LSeg:
    torch.manual_seed(0)
    encoder = {"name": "small", "channels": [4, 8, 8, 8]}
    block = {"kind": kind, "depth": 2}
    config = {"encoder": encoder, "width": 8, "joint_width": 8, "head_block": block}
    method = LSeg(LSegConfig.model_validate(config)).eval()
    method.plain = PlainTransform(Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), None)  # black is -1
    return method


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def forward(method: LSeg, x: Tensor, text: Tensor) -> Tensor:
    """One network pass with dense scores, as in the paper: half resolution, upsampled, the padding cut off."""
    scores = method.scores(method.encode(x), text)
    full = F.interpolate(scores, scale_factor=2, mode="bilinear", align_corners=True)
    return full[..., : x.shape[2], : x.shape[3]]


def both_ways(method: LSeg, x: Tensor, text: Tensor) -> Tensor:
    return forward(method, x, text) + forward(method, x.flip(3), text).flip(3)


def pad_to(x: Tensor, crop: int) -> Tensor:
    """The original's padding: right and bottom, black, which is -1 after its normalisation."""
    bottom, right = max(crop - x.shape[2], 0), max(crop - x.shape[3], 0)
    return F.pad(x, (0, right, 0, bottom), value=-1.0)


def original_loop(method: LSeg, image: np.ndarray, text: Tensor, base: int, crop: int, scales: Any) -> Tensor:
    x = (torch.from_numpy(image).permute(2, 0, 1).float()[None] / 255 - 0.5) / 0.5
    height, width = x.shape[2:]
    stride = int(crop * 2 / 3)
    total = torch.zeros(1, len(text), height, width)
    for scale in scales:
        long_side = math.ceil(base * scale)
        if height > width:
            h, w = long_side, int(1.0 * width * long_side / height + 0.5)
        else:
            h, w = int(1.0 * height * long_side / width + 0.5), long_side
        scaled = F.interpolate(x, size=(h, w), mode="bilinear", align_corners=True)
        if long_side <= crop:
            scores = both_ways(method, pad_to(scaled, crop), text)[..., :h, :w]
        else:
            padded = pad_to(scaled, crop)
            ph, pw = padded.shape[2:]
            summed, count = torch.zeros(1, len(text), ph, pw), torch.zeros(ph, pw)
            for i in range(math.ceil((ph - crop) / stride) + 1):
                for j in range(math.ceil((pw - crop) / stride) + 1):
                    y0, x0 = i * stride, j * stride
                    y1, x1 = min(y0 + crop, ph), min(x0 + crop, pw)
                    found = both_ways(method, pad_to(padded[..., y0:y1, x0:x1], crop), text)
                    summed[..., y0:y1, x0:x1] += found[..., : y1 - y0, : x1 - x0]
                    count[y0:y1, x0:x1] += 1
            scores = (summed / count)[..., :h, :w]
        total += F.interpolate(scores, size=(height, width), mode="bilinear", align_corners=True)
    return total


def mended_loop(method: LSeg, image: np.ndarray, text: Tensor, base: int, crop: int, scales: Any) -> Tensor:
    height, width = image.shape[:2]
    stride = int(crop * 2 / 3)
    total = torch.zeros(1, len(text), height, width)
    for scale in scales:
        long_side = math.ceil(base * scale)
        factor = long_side / max(height, width)
        h, w = (long_side if n == max(height, width) else max(1, int(n * factor + 0.5)) for n in (height, width))
        pixels = np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR))
        x = (torch.from_numpy(pixels.copy()).permute(2, 0, 1).float()[None] / 255 - 0.5) / 0.5
        summed, count = torch.zeros(1, len(text), h, w), torch.zeros(h, w)
        for i in range(math.ceil(max(h - crop, 0) / stride) + 1):
            for j in range(math.ceil(max(w - crop, 0) / stride) + 1):
                y0, x0 = min(i * stride, max(h - crop, 0)), min(j * stride, max(w - crop, 0))
                part = x[..., y0 : y0 + crop, x0 : x0 + crop]
                summed[..., y0 : y0 + crop, x0 : x0 + crop] += both_ways(method, part, text)
                count[y0 : y0 + crop, x0 : x0 + crop] += 1
        total += F.interpolate(summed / count, size=(height, width), mode="bilinear", align_corners=False)
    return total


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("original", [True, False])
@torch.no_grad()
def test_equal_to_plain_loops(size: tuple[int, int], original: bool) -> None:
    method, image = small(), picture(*size)
    loop = original_loop if original else mended_loop
    expected = loop(method, image, TEXT, SMALL["base_size"], SMALL["crop"], SMALL["scales"])
    encoded = MultiScale(MultiScaleConfig(**SMALL, original=original)).encode(method, [image])
    found = encoded.scores(TEXT, size)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
    segmented = encoded.segment(TEXT, size)
    best = expected.topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > 1e-3
    assert torch.equal(segmented.label_map[clear], expected.argmax(1)[clear])
    torch.testing.assert_close(segmented.confidence, (expected / 6).softmax(1).amax(1), atol=1e-4, rtol=1e-3)


def test_windows_of_the_sheet() -> None:
    # a 512 x 683 image costs 18 windows, each of them twice
    for name in ("ade20k", "ade20k_original"):
        layers = MultiScale(PRESETS[name]).layers(512, 683)
        assert [len(layer.windows) for layer in layers] == [1, 1, 2, 4, 4, 6]
        assert [max(layer.size) for layer in layers] == [260, 390, 520, 650, 780, 910]
    last = MultiScale(PRESETS["ade20k_original"]).layers(512, 683)[-1]
    assert (last.canvas, last.windows[-1].shape) == ((682, 910), (362, 270))
    assert MultiScale(PRESETS["ade20k"]).layers(512, 683)[-1].windows[-1].shape == (480, 480)
    assert [round(max(layer.size) / 2048, 2) for layer in MultiScale(PRESETS["cityscapes"]).layers(1024, 2048)] == [
        0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25,
    ]  # fmt: skip
    assert PRESETS["cityscapes_original"].crop == 768


@torch.no_grad()
def test_views_are_batched() -> None:
    method, sizes = small(), []
    encode = method.encode
    method.encode = lambda x: sizes.append(tuple(x.shape)) or encode(x)  # type: ignore[method-assign, func-returns-value]
    config = MultiScaleConfig(**{**SMALL, "windows_at_once": 8}, original=True)
    layers = MultiScale(config).layers(40, 60)
    views = 2 * sum(len(layer.windows) for layer in layers)
    MultiScale(config).encode(method, [picture(40, 60)] * 2)
    assert [shape[0] for shape in sizes] == [8] * (2 * views // 8) + [2 * views % 8] * bool(2 * views % 8)
    assert {shape[2:] for shape in sizes} == {(64, 64)}


@pytest.mark.parametrize("kind", ["none", "bottleneck"])
@torch.no_grad()
def test_chunks_of_labels_do_not_show(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    encoded = MultiScale(MultiScaleConfig(**SMALL)).encode(small(kind), [picture(40, 60), picture(40, 60, seed=1)])
    whole = encoded.segment(TEXT, (40, 60))
    monkeypatch.setattr(module, "SCORES_AT_ONCE", 1)
    parts = encoded.segment(TEXT, (40, 60))
    assert (parts.label_map == whole.label_map).float().mean() > 0.999
    torch.testing.assert_close(parts.confidence, whole.confidence, atol=1e-5, rtol=1e-4)
    alone = MultiScale(MultiScaleConfig(**SMALL)).encode(small(kind), [picture(40, 60, seed=1)]).scores(TEXT, (40, 60))
    torch.testing.assert_close(encoded.scores(TEXT, (40, 60))[1:], alone, atol=1e-4, rtol=1e-4)


def test_names_and_files(tmp_path: Any) -> None:
    assert resolve_multi_scale("ade20k_original").config.original
    (tmp_path / "mine.yaml").write_text("{scales: [1.0], flip: false, crop: 32}")
    mine = resolve_multi_scale(str(tmp_path / "mine.yaml"))
    assert (mine.config.scales, mine.config.crop) == ((1.0,), 32)
    assert mine.description != MultiScale(PRESETS["ade20k"]).description
    with pytest.raises(UserError, match="did you mean 'ade20k'"):
        resolve_multi_scale("ade2k")
    (tmp_path / "mine.yaml").write_text("scales: [0.0]")
    with pytest.raises(UserError, match=r"mine\.yaml: .*scales must be positive"):
        resolve_multi_scale(str(tmp_path / "mine.yaml"))

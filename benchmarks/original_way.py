"""LSeg's own way of asking labels of a picture against the original's, side by side.

    python benchmarks/original_way.py [--encoder vit_large_patch16_384] [--labels 150] [--size 480]

One 480 x 480 window and its mirror image. The original's way: one window at a time, all labels through CLIP's text
tower (ViT-B/32 size) for each, the decoder's 1x1 convolutions after upsampling, a wide joint embedding at half
resolution, its product with every label, all scores upsampled, argmax. Ours: labels known already, both windows in one
batch, folded projections, argmax in chunks. Random weights, float32 throughout; the label maps are compared.
"""

from __future__ import annotations

import argparse
import copy
import time
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg_ray.evaluation.inference import SingleScale
from ovseg_ray.evaluation.multi_scale import MultiScale, MultiScaleConfig
from ovseg_ray.methods.lseg import LSeg, LSegConfig
from ovseg_ray.networks.fusion import upsample2
from ovseg_ray.networks.token_linear import TokenLinear


def original_scores(method: LSeg, image: Tensor, text: Tensor) -> Tensor:
    """(B, K, H, W) scores, every step in the published order."""
    decoder, head = method.decoder, method.head
    assert head is not None
    reduced = [conv(m) for conv, m in zip(decoder.reduce, method.encoder(image), strict=True)]
    blocks = (decoder.fusion32, decoder.fusion16, decoder.fusion8, decoder.fusion4)
    path: Tensor | None = None
    for block, skip in zip(blocks, reversed(reduced), strict=True):
        fused = block.fuse(skip) if path is None else block.fuse(path, skip)
        path = block.out_conv(upsample2(fused))
    assert path is not None
    wide = F.normalize(head(path), dim=1)
    size = wide.shape[2:]
    scores = wide.permute(0, 2, 3, 1).reshape(-1, wide.shape[1]) @ F.normalize(text, dim=1).t()
    scores = (scores / method.config.temperature).view(len(wide), *size, -1).permute(0, 3, 1, 2)
    return upsample2(scores)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="vit_large_patch16_384")
    parser.add_argument("--labels", type=int, default=150)
    parser.add_argument("--size", type=int, default=480)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    config = {"encoder": {"name": "vit", "vit": {"architecture": given.encoder}}, "joint_width": 512}
    method = LSeg(LSegConfig.model_validate(config)).eval()
    tower: Any = open_clip.create_model("ViT-B-32-quickgelu").eval()
    tokens = open_clip.get_tokenizer("ViT-B-32-quickgelu")([f"label number {i}" for i in range(given.labels)])
    picture = (torch.rand(given.size, given.size, 3, generator=torch.Generator().manual_seed(0)) * 255).byte().numpy()
    shape = (given.size, given.size)
    plain = copy.deepcopy(method)  # the original runs PyTorch's linear layers
    for module in plain.modules():
        if isinstance(module, TokenLinear):
            module.__class__ = nn.Linear

    def original() -> Tensor:
        image = method.preprocess(picture).unsqueeze(0)
        total = torch.zeros(())
        for mirrored in (False, True):
            text = tower.encode_text(tokens)
            scores = original_scores(plain, image.flip(-1) if mirrored else image, text)
            total = total + (scores.flip(-1) if mirrored else scores)
        return total.argmax(1)

    text = F.normalize(tower.encode_text(tokens), dim=1)
    looks = MultiScale(MultiScaleConfig(scales=(1.0,), base_size=given.size, crop=given.size))

    def ours() -> Tensor:
        return looks.encode(method, [picture]).segment(text, shape).label_map

    def ours_once() -> Tensor:
        return SingleScale().encode(method, [picture]).segment(text, shape).label_map

    seconds: dict[str, list[float]] = {}
    maps = {}
    for _ in range(given.repeats):  # taken in turns; the first warms up
        for name, way in (("original", original), ("ours", ours), ("ours, no mirror", ours_once)):
            started = time.perf_counter()
            maps[name] = way()
            seconds.setdefault(name, []).append(time.perf_counter() - started)
    same = (maps["original"] == maps["ours"]).float().mean()
    for name, found in seconds.items():
        print(f"{name:16} {min(found):7.2f} s")
    print(
        f"ratio {min(seconds['original']) / min(seconds['ours']):.2f}, equal label maps at {100 * same:.3f} % of pixels"
    )


if __name__ == "__main__":
    main()

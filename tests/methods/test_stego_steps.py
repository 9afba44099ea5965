"""Whole training steps and the evaluation path against the sheet's arithmetic, written out a second time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from stego_golden import Golden, close
from torch import Tensor

from ovseg_ray.methods.stego import Stego, StegoConfig
from ovseg_ray.methods.stego.correspondence import Draws
from ovseg_ray.methods.stego.head import ChannelMasks
from ovseg_ray.methods.stego.optional_losses import PairwiseCrfConfig, pairwise_crf_loss
from ovseg_ray.networks.dino import DinoViT
from ovseg_ray.networks.frozen import DinoBackbone
from ovseg_ray.training.config import resolve_config
from ovseg_ray.training.optimizer import build_optimizer

B, C, D, K, S, N, SIDE = 4, 12, 6, 5, 4, 3, 32
WEIGHTS, SHIFTS = (0.67, 0.25, 0.63), (0.08, 0.02, 0.66)


def method() -> Stego:
    pairs = {
        name: {"weight": weight, "shift": shift}
        for name, weight, shift in zip(("self_pairs", "neighbours", "random"), WEIGHTS, SHIFTS, strict=True)
    }
    torch.manual_seed(0)
    return Stego(
        StegoConfig.model_validate(
            {
                "encoder": {"name": "small", "channels": [8, 8, C, 8], "stride": 16}, "width": D, "clusters": K,
                "classes": K, "reference": True, "correspondence": {**pairs, "points": S, "negatives": N},
            }
        )
    )  # fmt: skip


def unit(x: Tensor, eps: float) -> Tensor:
    return x / x.norm(dim=1, keepdim=True).clamp_min(eps)


def at(maps: Tensor, points: Tensor) -> Tensor:
    return F.grid_sample(maps, points.permute(0, 2, 1, 3), padding_mode="border", align_corners=True)


def term(f: Tensor, g: Tensor, s: Tensor, t: Tensor, shift: float) -> Tensor:
    with torch.no_grad():
        cosine = torch.einsum("nchw,ncij->nhwij", unit(f, 1e-10), unit(g, 1e-10))
        level = cosine.mean()
        cosine = cosine - cosine.mean([3, 4], keepdim=True)
        cosine = cosine - cosine.mean() + level
    codes = torch.einsum("nchw,ncij->nhwij", unit(s, 1e-10), unit(t, 1e-10))
    return (-codes.clamp(0) * (cosine - shift)).mean()


def test_three_steps_are_those_written_out_by_hand() -> None:
    ours = method()
    head = [p.detach().clone().requires_grad_() for p in ours.head.parameters()]
    linear = [p.detach().clone().requires_grad_() for p in ours.linear_probe.parameters()]
    centroids = ours.cluster_probe.clusters.detach().clone().requires_grad_()
    theirs = [torch.optim.Adam(head, 5e-4), torch.optim.Adam(linear, 5e-3), torch.optim.Adam([centroids], 5e-3)]
    optimizer = build_optimizer(ours.parameter_groups(), resolve_config("stego", None, {}).training.optimizer)
    generator = torch.Generator().manual_seed(1)

    def code(f: Tensor, masks: ChannelMasks) -> Tensor:
        w1, b1, w2, b2, w3, b3 = head
        inner = F.conv2d(f * masks.nonlinear, w2, b2).relu()
        return F.conv2d(f * masks.linear, w1, b1) + F.conv2d(inner, w3, b3)

    for _ in range(3):
        f, g = (torch.randn(B, C, 7, 7, generator=generator) for _ in range(2))
        target = torch.randint(-1, K + 2, (B, SIDE, SIDE), generator=generator)
        x1, x2 = (torch.rand(B, S, S, 2, generator=generator) * 2 - 1 for _ in range(2))
        negatives = torch.stack([torch.arange(B).roll(n + 1) for n in range(N)])
        masks = [ChannelMasks.of(torch.rand(B, 3, C, generator=generator) > 0.1) for _ in range(2)]

        found = ours.step_losses(f, g, target, Draws(x1, x2, negatives), (masks[0], masks[1]))
        loss = torch.stack(list(found.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        s, t = code(f, masks[0]), code(g, masks[1])
        f, g = f * masks[0].features, g * masks[1].features
        total = WEIGHTS[0] * term(at(f, x1), at(f, x1), at(s, x1), at(s, x1), SHIFTS[0])
        total = total + WEIGHTS[1] * term(at(f, x1), at(g, x2), at(s, x1), at(t, x2), SHIFTS[1])
        rest = [term(at(f, x1), at(f[p], x2), at(s, x1), at(s[p], x2), SHIFTS[2]) for p in negatives]
        total = total + WEIGHTS[2] * torch.stack(rest).mean()
        seen = s.detach()
        logits = F.interpolate(F.conv2d(seen, *linear), (SIDE, SIDE), mode="bilinear", align_corners=False)
        known = (target >= 0) & (target < K)
        total = total + F.cross_entropy(logits.movedim(1, -1)[known], target[known])
        inner = torch.einsum("nchw,kc->nkhw", unit(seen, 1e-12), unit(centroids, 1e-12))
        total = total - inner.max(1).values.mean()
        for one in theirs:
            one.zero_grad()
        total.backward()
        for one in theirs:
            one.step()

        assert loss.item() == pytest.approx(total.item(), abs=2e-6)
    pairs = zip(
        [*ours.head.parameters(), *ours.linear_probe.parameters(), ours.cluster_probe.clusters],
        [*head, *linear, centroids],
        strict=True,
    )
    for mine, written in pairs:
        torch.testing.assert_close(mine.detach(), written.detach(), atol=1e-6, rtol=1e-5)


def test_the_recorded_network_as_a_whole_model() -> None:
    golden = Golden("backbone_head")
    vit = DinoViT(24, 2, 6, 8, mlp_ratio=2.0)
    config = StegoConfig.model_validate({"width": 7, "clusters": 5, "flip": False})
    model = Stego(config, DinoBackbone(vit)).eval()
    state = {key.removeprefix("net."): golden[key] for key in golden.names if key.startswith("net.")}
    prefixes = ("model.", "cluster1.", "cluster2.")
    vit.load_state_dict({k: v for k, v in state.items() if k.startswith(prefixes[0])})
    model.head.load_state_dict({k: v for k, v in state.items() if k.startswith(prefixes[1:])})
    with torch.inference_mode():
        close(model.encode(golden["img"]).tensors["codes"], golden["code"], atol=2e-6)
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())


def test_pairwise_crf_loss_pair_by_pair() -> None:
    rng = np.random.default_rng(0)
    guidance = torch.from_numpy(rng.random((2, 3, 8, 8), np.float32))
    codes = F.normalize(torch.from_numpy(rng.normal(size=(2, 4, 8, 8)).astype(np.float32)), dim=1)
    places = torch.from_numpy(rng.integers(0, 8, (2, 6)))
    config = PairwiseCrfConfig(shift=0.1)
    found = pairwise_crf_loss(guidance, codes, places, config)
    assert found.shape == (2, 6, 6)
    for image in range(2):
        for a in range(6):
            for b in range(6):
                (ya, xa), (yb, xb) = places[:, a].tolist(), places[:, b].tolist()
                far = (ya - yb) ** 2 + (xa - xb) ** 2
                unlike = float(((guidance[image, :, ya, xa] - guidance[image, :, yb, xb]) ** 2).sum())
                kernel = 10 * np.exp(-far / (2 * 0.5) - unlike / (2 * 0.15)) + 3 * np.exp(-far / (2 * 0.05)) - 0.1
                alike = float(codes[image, :, ya, xa] @ codes[image, :, yb, xb])
                assert float(found[image, a, b]) == pytest.approx(-alike * kernel, abs=1e-4)

"""The correspondence loss, its parts and its gradients, against the original."""

from __future__ import annotations

import pytest
import torch
from stego_golden import Golden, close

from ovseg_ray.methods.stego.correspondence import (
    CorrespondenceConfig,
    Draws,
    PairConfig,
    average_normalised,
    centred,
    correlation,
    correspondence,
    normalised,
    pair_term,
    sample,
)

VARIANTS = [f"pw{p}_zc{z}_st{s}" for p in (0, 1) for z in (0, 1) for s in (0, 1)]


def config(variant: str, **pairs: PairConfig) -> CorrespondenceConfig:
    pointwise, clamp, stabilize = (part.endswith("1") for part in variant.split("_"))
    return CorrespondenceConfig(pointwise=pointwise, zero_clamp=clamp, stabilize=stabilize, **pairs)


def test_correlation() -> None:
    golden = Golden("correlation")
    a, b = golden["a"], golden["b"]
    close(normalised(a), golden["norm_a"])
    close(normalised(b), golden["norm_b"])
    close(average_normalised(b), golden["average_norm_b"])
    close(correlation(a, b), golden["corr_raw"])
    close(correlation(normalised(a), normalised(b)), golden["corr_cosine"])


@pytest.mark.parametrize("suffix", ["", "_edge", "_sq"])
def test_sampling_swaps_the_point_axes(suffix: str) -> None:
    golden = Golden("sampling")
    maps = golden["t" if suffix == "_edge" else f"t{suffix}"]
    close(sample(maps, golden[f"coords{suffix}"]), golden[f"out{suffix}"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_term(variant: str) -> None:
    golden = Golden("helper")
    codes = golden["c1"].requires_grad_(), golden["c2"].requires_grad_()
    term = pair_term((golden["f1"], golden["f2"]), codes, float(golden["shift"]), config(variant))
    close(term.loss, golden[f"{variant}_loss"])
    close(term.cosine, golden[f"{variant}_cd"])
    close(term.loss.mean(), golden[f"{variant}_mean"])
    term.loss.mean().backward()
    close(codes[0].grad, golden[f"{variant}_grad_c1"], 1e-8)  # type: ignore[arg-type]
    close(codes[1].grad, golden[f"{variant}_grad_c2"], 1e-8)  # type: ignore[arg-type]


def test_centring_keeps_the_level() -> None:
    golden = Golden("helper")
    raw = correlation(normalised(golden["f1"]), normalised(golden["f2"]))
    close(raw, golden["fd_raw"])
    close(centred(raw), golden["fd_pointwise"])
    close(centred(raw).mean(), raw.mean())


@pytest.mark.parametrize("variant", ["pw1_zc1_st0", "pw1_zc0_st0", "pw0_zc1_st0", "pw0_zc0_st0", "pw1_zc1_st1"])
def test_the_whole_loss(variant: str) -> None:
    golden = Golden("contrastive_small")
    kinds = {"self_pairs": "self_intra", "neighbours": "knn_inter", "random": "rand_neg"}
    pairs = {
        kind: PairConfig(weight=float(golden[f"weight_{name}"]), shift=float(golden[f"shift_{name}"]))
        for kind, name in kinds.items()
    }
    chosen = config(variant, **pairs)
    codes = golden["code"].requires_grad_(), golden["code_pos"].requires_grad_()
    draws = Draws(golden["coords1"], golden["coords2"], golden["neg_index"])
    found = correspondence((golden["feats"], golden["feats_pos"]), codes, draws, chosen)

    close(found.self_pairs.loss.mean(), golden[f"{variant}_intra_loss"])
    close(found.neighbours.loss.mean(), golden[f"{variant}_inter_loss"])
    close(found.random.loss.mean(), golden[f"{variant}_neg_loss_mean"])
    close(found.random.loss, golden[f"{variant}_neg_loss"])
    close(found.random.cosine, golden[f"{variant}_neg_cd"])
    close(found.self_pairs.cosine, golden[f"{variant}_intra_cd"])
    close(found.neighbours.cosine, golden[f"{variant}_inter_cd"])
    means = [term.cosine.mean() for term in (found.self_pairs, found.neighbours, found.random)]
    close(torch.stack(means), golden[f"{variant}_cd_means"])
    total = found.total(chosen)
    close(total, golden[f"{variant}_total"])
    total.backward()
    close(codes[0].grad, golden[f"{variant}_grad_code"], 1e-8)  # type: ignore[arg-type]
    close(codes[1].grad, golden[f"{variant}_grad_code_pos"], 1e-8)  # type: ignore[arg-type]


def test_no_gradient_reaches_features() -> None:
    features = torch.randn(2, 4, 3, 3, requires_grad=True)
    codes = torch.randn(2, 3, 3, 3, requires_grad=True)
    pair_term((features, features), (codes, codes), 0.1, CorrespondenceConfig()).loss.mean().backward()
    assert features.grad is None
    assert codes.grad is not None

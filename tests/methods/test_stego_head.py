"""Backbone and head on the original's weights; channel dropout with its recorded masks."""

from __future__ import annotations

import torch
from stego_golden import Golden, close
from torch import Tensor

from ovseg_ray.methods.stego.head import ChannelMasks, Head
from ovseg_ray.networks.dino import DinoViT, Kind

GOLDEN = Golden("backbone_head")


def weights(prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): GOLDEN[k] for k in GOLDEN.names if k.startswith(prefix)}


def backbone(kind: Kind = "tokens") -> DinoViT:
    vit = DinoViT(width=24, depth=2, heads=6, patch_size=8, mlp_ratio=2.0, kind=kind)
    vit.model.load_state_dict(weights("net.model."))
    return vit


def head(projection: str = "nonlinear") -> Head:
    made = Head(24, 7, projection)  # type: ignore[arg-type]
    state = {k: v for k, v in weights("net.").items() if k in made.state_dict()}
    made.load_state_dict(state)
    return made.eval()


def test_positions_are_resized_by_factors() -> None:
    vit = backbone()
    close(vit.positions(5, 7), GOLDEN["pos_embed_5x7"])
    close(vit.positions(40, 40)[:, ::37], GOLDEN["pos_embed_40x40"])
    assert torch.equal(vit.positions(28, 28), GOLDEN["net.model.pos_embed"])


def test_features() -> None:
    vit = backbone()
    close(vit.embedded(GOLDEN["img"]), GOLDEN["tokens_in"])
    tokens, qkv = vit.tokens(GOLDEN["img"])
    close(tokens, GOLDEN["final_norm_tokens"], 2e-6)
    close(qkv, GOLDEN["last_qkv"], 2e-6)
    close(vit(GOLDEN["img"]), GOLDEN["feats"], 2e-6)
    close(tokens[:, 0, :, None, None], GOLDEN["cls_feat"], 2e-6)
    close(backbone("keys")(GOLDEN["img"]), GOLDEN["feats_KK"], 2e-6)
    close(backbone("original_keys")(GOLDEN["img"]), GOLDEN["feats_KK"], 2e-6)  # six heads: nothing to scramble


def test_backbone_stays_in_eval_mode_and_frozen() -> None:
    vit = backbone().train()
    assert not any(module.training for module in vit.modules())
    assert not any(parameter.requires_grad for parameter in vit.parameters())


def test_codes() -> None:
    features = GOLDEN["feats"]
    close(head()(features), GOLDEN["code"])
    close(head("linear")(features), GOLDEN["code_proj_linear"])
    close(head("linear")(features), GOLDEN["code_linear_branch"])
    close(head()(features) - head("linear")(features), GOLDEN["code_nonlinear_branch"])
    close(head("none")(features), GOLDEN["code_proj_none"])
    close(head()(GOLDEN["feats_KK"]), GOLDEN["code_KK"])


def test_training_mode_with_recorded_masks() -> None:
    masks = ChannelMasks(*(GOLDEN[f"drop_mask_{name}"] for name in ("linear", "nonlinear", "feats")))
    close(head()(GOLDEN["feats"], masks), GOLDEN["train_code"])
    close(GOLDEN["feats"] * masks.features, GOLDEN["train_feats"])


def test_masks_keep_the_expected_size() -> None:
    kept = torch.tensor([[[True, False], [False, True], [True, True]]])
    masks = ChannelMasks.of(kept)
    assert masks.linear.shape == (1, 2, 1, 1)
    close(masks.linear.flatten(), torch.tensor([1 / 0.9, 0.0]))
    close(masks.nonlinear.flatten(), torch.tensor([0.0, 1 / 0.9]))
    close(masks.features.flatten(), torch.full((2,), 1 / 0.9))


def test_parameters_of_the_published_sizes() -> None:
    count = [sum(p.numel() for p in Head(*sizes).parameters()) for sizes in ((384, 70), (768, 90))]
    assert count == [201_740, 729_012]

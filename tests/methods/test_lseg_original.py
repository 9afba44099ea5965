"""Checkpoints of the published code: every name and size, the recorded network end to end, and mistakes."""

from __future__ import annotations

import sys
import types
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from original_layout import RN101, TINY, VIT_B32, Layout
from original_network import GOLDEN, original_state, recorded
from plain_network import forward
from safetensors.torch import save_file
from torch import Tensor

import ovseg_ray
from ovseg_ray.config import read_yaml
from ovseg_ray.errors import UserError
from ovseg_ray.methods.checkpoint_file import read_checkpoint
from ovseg_ray.methods.export import describe_model
from ovseg_ray.methods.lseg import LSeg
from ovseg_ray.methods.lseg.original import Untold, convert, convert_state
from ovseg_ray.methods.lseg.original.layout import RENAMES, original_key, own_key
from ovseg_ray.run_directory import RunDirectory
from ovseg_ray.vocabulary import Vocabulary

NAMES = [f"word {index}" for index in range(7)]
TINY_HEADS = Untold(heads=4, text_heads=2)


@pytest.fixture
def table(tmp_path: Path) -> str:
    """The recorded text features as a text encoder."""
    np.savez(tmp_path / "text.npz", names=np.array(NAMES), embeddings=GOLDEN["text_features"])
    return f"table:{tmp_path / 'text.npz'}"


@pytest.fixture
def wide_table(tmp_path: Path) -> str:
    np.savez(tmp_path / "wide.npz", names=np.array(["a"]), embeddings=np.ones((1, 512), np.float32))
    return f"table:{tmp_path / 'wide.npz'}"


def save(path: Path, state: dict[str, Any]) -> Path:
    torch.save({"state_dict": state, "epoch": 3, "global_step": 5}, path)
    return path


# ---- names and sizes
def test_entries_are_as_many_as_in_the_published_files() -> None:
    assert len(Layout().shapes()) == 730
    assert len(Layout(head_block=True).shapes()) == 732


@pytest.mark.parametrize(
    ("layout", "encoder", "decoder"),
    [(Layout(), 327.5, 16.3), (VIT_B32, 95.9, 13.2), (RN101, 42.5, 18.7)],
    ids=["ViT-L/16", "ViT-B/32", "ResNet-101"],
)
def test_published_networks_have_a_place_for_every_tensor(
    layout: Layout, encoder: float, decoder: float, wide_table: str
) -> None:
    counts = layout.count("pretrained."), layout.count("scratch.")
    assert [round(count / 1e6, 1) for count in counts] == [encoder, decoder]
    method = convert_state(layout.meta(), Untold(text=wide_table)).method
    own = [sum(p.numel() for p in part.parameters()) for part in (method.encoder, method)]
    dead = layout.count("pretrained.model.norm.") + layout.count("pretrained.model.head.")
    assert own[0] == counts[0] - dead
    assert own[1] == sum(counts) - dead - layout.count("scratch.refinenet4.resConfUnit1.")


def test_text_tower_has_63_million() -> None:
    shapes = Layout()
    assert round((shapes.count("clip_pretrained.") - shapes.count("clip_pretrained.visual.")) / 1e6, 1) == 63.4


def test_head_block_is_two_more() -> None:
    layout = replace(TINY, head_block=True)
    conversion = convert_state(layout.state(), replace(TINY_HEADS, head_block="depthwise", block_depth=2))
    assert conversion.method.config.head_block.depth == 2
    assert conversion.method.block is not None
    torch.testing.assert_close(
        conversion.method.block.conv.weight, layout.state()["scratch.head_block.depthwise.depthwise.weight"]
    )


def test_published_configurations_are_recognised(wide_table: str) -> None:
    found = {}
    for name, layout in {"L": Layout(), "B": VIT_B32, "R": RN101}.items():
        found[name] = convert_state(layout.meta(), Untold(text=wide_table)).method.config.encoder
    assert (found["L"].vit.architecture, found["L"].vit.heads) == ("vit_large_patch16_384", 16)
    assert (found["B"].vit.architecture, found["B"].vit.heads) == ("vit_base_patch32_384", 12)
    assert (found["R"].name, found["R"].resnet.block, found["R"].resnet.blocks) == (
        "resnet",
        "bottleneck",
        (3, 4, 23, 3),
    )


def test_renaming_is_invertible() -> None:
    assert len(set(RENAMES.values())) == len(RENAMES)
    for layout in (Layout(head_block=True), RN101):
        for key in layout.shapes():
            name = own_key(key)
            assert name is None or original_key(name) == key


# ---- the recorded network
def dense(method: LSeg, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    encoding = method.encode(image)
    scores = method.scores(encoding, text)
    return scores, method._upsample(scores, encoding, (image.shape[2], image.shape[3]))


@torch.no_grad()
@pytest.mark.parametrize("form", ["lightning", "plain", "safetensors"])
def test_the_recorded_network_end_to_end(form: str, table: str, tmp_path: Path) -> None:
    if form == "safetensors":
        file = tmp_path / "lseg.safetensors"
        save_file(original_state(), file)
    elif form == "lightning":
        file = save(tmp_path / "lseg.ckpt", original_state("net."))
    else:
        file = tmp_path / "lseg.pt"
        torch.save(original_state(), file)
    run, conversion = convert(file, tmp_path / "run", Untold(heads=4, text=table))
    assert conversion.dropped == {"pretrained.model.norm.*": 2, "scratch.refinenet4.resConfUnit1.*": 14 - 2}
    method = ovseg_ray.load(run.path, device="cpu").method
    assert isinstance(method, LSeg)
    text = recorded("text_features").half().float()
    scores, full = dense(method, recorded("image"), text)
    np.testing.assert_allclose(scores, GOLDEN["logits_half_res_fp32"], atol=1e-5)
    np.testing.assert_allclose(scores, GOLDEN["logits_half_res"], atol=2e-2)
    np.testing.assert_allclose(full, GOLDEN["out_eval"], atol=2e-2)
    _, training = dense(method.train(), recorded("image"), text)
    np.testing.assert_allclose(training, GOLDEN["out_train_bnbatch"], atol=2e-2)


@torch.no_grad()
def test_the_decoder_of_the_recorded_network(table: str) -> None:
    method = convert_state(original_state(), Untold(heads=4, text=table)).method
    maps = method.encoder(recorded("image"))
    path = method.decoder(maps)
    assert method.decoder.projection is not None
    path = F.interpolate(method.decoder.projection(path), scale_factor=2, mode="bilinear", align_corners=True)
    np.testing.assert_allclose(path, GOLDEN["path_1"], atol=1e-5)
    assert method.head is not None
    np.testing.assert_allclose(method.head(path), GOLDEN["image_features"], atol=1e-5)
    np.testing.assert_allclose(1 / method.config.temperature, GOLDEN["logit_scale"], rtol=1e-6)


@torch.no_grad()
def test_the_recorded_network_in_the_originals_precision(table: str, tmp_path: Path) -> None:
    file = save(tmp_path / "lseg.ckpt", original_state("net."))
    run, _ = convert(file, tmp_path / "run", Untold(heads=4, text=table), reference=True)
    method = ovseg_ray.load(run.path, device="cpu").method
    assert isinstance(method, LSeg)
    scores, full = dense(method, recorded("image"), recorded("text_features"))
    np.testing.assert_allclose(scores, GOLDEN["logits_half_res"], atol=8e-3)  # a step of half precision from 8 on
    assert (scores == recorded("logits_half_res")).float().mean() > 0.95
    np.testing.assert_allclose(full, GOLDEN["out_eval"], atol=8e-3)
    found = method.segment(method.encode(recorded("image")), recorded("text_features"), (64, 96))
    assert (found.label_map.numpy() == GOLDEN["out_eval"].argmax(1)).mean() > 0.999


# ---- networks that were not recorded
PATCH_32 = replace(TINY, patch=32, kernels=(8, 4, 2, 0))
RESNET = replace(TINY, kind="resnet", blocks=(1, 2, 1, 2))


@torch.no_grad()
def test_the_plain_network_is_the_recorded_one() -> None:
    scores = forward(original_state(), recorded("image"), recorded("text_features").half().float())
    np.testing.assert_allclose(scores, GOLDEN["logits_half_res_fp32"], atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("layout", "untold", "options"),
    [
        (TINY, {}, {}),
        (PATCH_32, {}, {}),
        (RESNET, {}, {}),
        (replace(TINY, readout=False), {"readout": "add"}, {"readout": "add"}),
        (replace(PATCH_32, readout=False), {"readout": "ignore"}, {"readout": "ignore"}),
        (replace(TINY, head_block=True), {"head_block": "depthwise"}, {"block": "depthwise"}),
        (
            replace(PATCH_32, head_block=True),
            {"head_block": "bottleneck", "block_depth": 3},
            {"block": "bottleneck", "depth": 3},
        ),
        (replace(TINY, joint=24, decoder=8), {}, {}),
    ],
    ids=["16", "32", "resnet", "add", "ignore", "depthwise", "bottleneck", "widths"],
)
def test_converted_networks_equal_the_plain_one(layout: Layout, untold: Any, options: Any) -> None:
    state = layout.state(seed=1)
    method = convert_state(state, replace(TINY_HEADS, **untold)).method
    generator = torch.Generator().manual_seed(2)
    image = torch.randn(2, 3, 64, 96, generator=generator)
    text = F.normalize(torch.randn(5, layout.joint, generator=generator), dim=1)
    expected = forward(state, image, text, **options)
    assert expected.std() > 0.1
    scores, full = dense(method, image, text)
    torch.testing.assert_close(scores, expected, atol=2e-5, rtol=1e-5)
    upsampled = F.interpolate(expected, scale_factor=2, mode="bilinear", align_corners=True)
    torch.testing.assert_close(full, upsampled, atol=2e-5, rtol=1e-5)
    found = method.segment(method.encode(image), text, (64, 96))
    assert (found.label_map == upsampled.argmax(1)).float().mean() > 0.999


# ---- the run
def test_a_converted_run_is_like_any_other(tmp_path: Path) -> None:
    file = save(tmp_path / "tiny.ckpt", TINY.state("net."))
    labels = Vocabulary.of(["sky", "grass"], name="trained on")
    run, conversion = convert(file, tmp_path / "run", TINY_HEADS, [labels])
    assert RunDirectory.open(run.path).finished
    assert describe_model(run.model).label_sets == (labels,)
    assert describe_model(run.model).provenance["dropped"] == conversion.dropped
    assert conversion.dropped["clip_pretrained.visual.*"] == 152
    assert conversion.dropped["clip_pretrained.logit_scale"] == 1
    assert read_yaml(run.config_file)["model"]["text"] == f"run:{run.path}"
    segmenter = ovseg_ray.load(run.path, device="cpu")
    result = segmenter.segment(np.zeros((40, 50, 3), np.uint8), "sky, grass, a red car")
    assert result.label_map.shape == (40, 50)


@torch.no_grad()
def test_the_text_tower_comes_along_in_float32(tmp_path: Path) -> None:
    state = TINY.state()
    encoder = convert_state(state, TINY_HEADS).method.text_encoder
    reference = open_clip.CLIP(
        embed_dim=16,
        vision_cfg={"layers": 1, "width": 32, "head_width": 32, "patch_size": 16, "image_size": 16},  # type: ignore[arg-type]
        text_cfg={"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},  # type: ignore[arg-type]
        quick_gelu=True,
    ).eval()
    text = {
        key.removeprefix("clip_pretrained."): value.float()
        for key, value in state.items()
        if key.startswith("clip_pretrained.") and "visual" not in key
    }
    missing, _ = reference.load_state_dict(text, strict=False)
    assert all(key.startswith("visual.") for key in missing)
    tokens = open_clip.SimpleTokenizer(context_length=12)(["a cat", "sky"])
    assert encoder is not None
    torch.testing.assert_close(encoder.encode(["a cat", "sky"]), reference.encode_text(tokens, normalize=True))


@torch.no_grad()
def test_the_zero_shot_resnet_converts(tmp_path: Path) -> None:
    layout = replace(TINY, kind="resnet", blocks=(1, 1, 2, 1), decoder=16)
    method = convert_state(layout.state(), TINY_HEADS).method
    assert method.plain.normalise.mean == (0.485, 0.456, 0.406)
    maps = method.encoder(torch.randn(1, 3, 64, 64))
    assert [m.shape[1] for m in maps] == [256, 512, 1024, 2048]


def test_readouts_without_weights_must_be_named() -> None:
    layout = replace(TINY, readout=False)
    with pytest.raises(UserError, match="add --readout ignore or --readout add"):
        convert_state(layout.state(), TINY_HEADS)
    outputs = []
    for readout in ("ignore", "add"):
        method = convert_state(layout.state(), replace(TINY_HEADS, readout=readout)).method  # type: ignore[arg-type]
        with torch.no_grad():
            outputs.append(method.encoder(torch.ones(1, 3, 64, 64))[3])
    assert not torch.allclose(*outputs)


# ---- files
def lightning_classes() -> dict[str, types.ModuleType]:
    """Stand-ins for the classes whose names a Lightning file holds."""
    modules = {}
    for name, cls in {
        "pytorch_lightning.utilities.parsing": "AttributeDict",
        "pytorch_lightning.callbacks.model_checkpoint": "ModelCheckpoint",
    }.items():
        module = types.ModuleType(name)
        bases = (dict,) if cls == "AttributeDict" else (object,)
        setattr(module, cls, type(cls, bases, {"__module__": name}))
        modules[name] = module
    parent = types.ModuleType("pytorch_lightning")
    return {"pytorch_lightning": parent, **modules}


@pytest.mark.parametrize("kind", ["AttributeDict", "Namespace", "dict"])
def test_a_lightning_file_is_read_without_lightning(kind: str, tmp_path: Path) -> None:
    modules = lightning_classes()
    sys.modules.update(modules)
    try:
        parsing, callbacks = list(modules.values())[1:]
        settings = {"arch_option": 2, "block_depth": 3, "activation": "tanh"}
        held = {"AttributeDict": parsing.AttributeDict, "dict": dict}.get(kind, lambda s: Namespace(**s))(settings)
        callback = callbacks.ModelCheckpoint()
        callback.monitor = "val_acc"
        content = {
            "state_dict": replace(TINY, head_block=True).state("net."),
            "hyper_parameters": held,
            "callbacks": {callbacks.ModelCheckpoint: {"best": np.float64(0.5), "held": callback}},
        }
        torch.save(content, tmp_path / "lseg.ckpt")
    finally:
        for name in modules:
            del sys.modules[name]
    found = read_checkpoint(tmp_path / "lseg.ckpt")
    assert found.settings == settings
    method = convert_state(found.state, TINY_HEADS, settings=found.settings).method
    block = method.config.head_block
    assert (block.kind, block.depth, block.activation) == ("depthwise", 3, "tanh")
    given = replace(TINY_HEADS, head_block="bottleneck", block_depth=0, activation="relu")
    block = convert_state(found.state, given, settings=found.settings).method.config.head_block
    assert (block.kind, block.depth, block.activation) == ("bottleneck", 1, "relu")


def test_no_code_of_a_file_is_run(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "touched",))

    class Worse:
        def __reduce__(self) -> Any:
            import os

            return (os.system, (f"touch {tmp_path / 'touched'}",))

    for attack in (Attack(), Worse()):
        torch.save({"state_dict": TINY.state("net."), "x": attack}, tmp_path / "evil.ckpt")
        try:
            read_checkpoint(tmp_path / "evil.ckpt")
        except UserError as error:
            assert "evil.ckpt" in str(error)  # noqa: PT017
        assert not (tmp_path / "touched").exists()


def without(key: str) -> dict[str, Tensor]:
    return {name: value for name, value in TINY.state().items() if not name.startswith(key)}


@pytest.mark.parametrize(
    ("state", "untold", "message"),
    [
        (TINY.state() | {"scratch.extra": torch.ones(1)}, TINY_HEADS, "'scratch.extra' is no part of this LSeg"),
        (without("scratch.head1.bias"), TINY_HEADS, "'scratch.head1.bias' is missing"),
        (
            without("scratch.refinenet2.resConfUnit1.bn1.weight"),
            TINY_HEADS,
            "'scratch.refinenet2.resConfUnit1.bn1.weight'",
        ),
        (without("pretrained.model.blocks.2.mlp.fc1.bias"), TINY_HEADS, "'pretrained.model.blocks.2.mlp.fc1.bias'"),
        (without("pretrained.model.cls_token"), TINY_HEADS, "'pretrained.model.cls_token' is missing"),
        (without("pretrained."), TINY_HEADS, "holds no image encoder"),
        (without("clip_pretrained."), TINY_HEADS, "name one with --text open_clip:ViT-B-32:openai"),
        (without("clip_pretrained.ln_final.weight"), TINY_HEADS, "ln_final.weight"),
        (
            TINY.state() | {"scratch.head1.bias": torch.ones(3)},
            TINY_HEADS,
            r"'scratch.head1.bias' is \(3,\), not \(16,\)",
        ),
        (
            TINY.state(),
            Untold(text_heads=2),
            "32 channels, and tensors do not tell the attention heads; give --heads N",
        ),
        (TINY.state(), Untold(heads=4), "give --text-heads N"),
        (TINY.state(), replace(TINY_HEADS, heads=5), "give --heads N"),
        (
            TINY.state(),
            replace(TINY_HEADS, readout="add"),
            "--readout add: checkpoint has readout projections; use project",
        ),
        (TINY.state(), replace(TINY_HEADS, head_block="depthwise"), "has no head block; leave it out"),
        (replace(TINY, head_block=True).state(), TINY_HEADS, "add --head-block bottleneck"),
    ],
)
def test_unfit_states_are_told_in_one_line(state: dict[str, Tensor], untold: Untold, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        convert_state(state, untold)
    assert "\n" not in str(caught.value)


def test_unfit_files_are_told_in_one_line(tmp_path: Path) -> None:
    save(tmp_path / "whole.ckpt", TINY.state("net."))
    (tmp_path / "half.ckpt").write_bytes((tmp_path / "whole.ckpt").read_bytes()[:9000])
    (tmp_path / "text.ckpt").write_text("no weights")
    (tmp_path / "text.safetensors").write_text("no weights")
    torch.save({"epoch": 1}, tmp_path / "empty.ckpt")
    for name, message in {
        "absent.ckpt": "no such file",
        "half.ckpt": "get it again",
        "text.ckpt": "get it again",
        "text.safetensors": "not a whole safetensors file",
        "empty.ckpt": "holds no weights",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            convert(tmp_path / name, tmp_path / "run")
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match="choose a new or empty directory for OUT"):
        convert(tmp_path / "whole.ckpt", tmp_path / "full", TINY_HEADS)

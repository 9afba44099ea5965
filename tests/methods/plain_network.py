"""LSeg written out plainly over the original's state dict: what converted networks of any kind are compared with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def forward(
    state: State,
    image: Tensor,
    text: Tensor,
    *,
    heads: int = 4,
    readout: str = "project",
    block: str = "",
    depth: int = 0,
) -> Tensor:
    """Half-resolution scores (B, K, H/2, W/2) in float32, leaky ReLU within the head block."""
    state = {key: value.float() for key, value in state.items()}
    maps = _resnet(state, image) if "pretrained.layer1.0.weight" in state else _vit(state, image, heads, readout)
    path = None
    for level in (4, 3, 2, 1):
        reduced = F.conv2d(maps[level - 1], state[f"scratch.layer{level}_rn.weight"], padding=1)
        name = f"scratch.refinenet{level}"
        path = reduced if path is None else path + _unit(state, f"{name}.resConfUnit1", reduced)
        path = _upsample(_unit(state, f"{name}.resConfUnit2", path))
        path = F.conv2d(path, state[f"{name}.out_conv.weight"], state[f"{name}.out_conv.bias"])
    assert path is not None
    pixels = F.conv2d(path, state["scratch.head1.weight"], state["scratch.head1.bias"])
    pixels, text = pixels / pixels.norm(dim=1, keepdim=True), text / text.norm(dim=1, keepdim=True)
    scores = torch.einsum("bchw,kc->bkhw", pixels, text) / 0.07
    for application in range(max(depth, 1) if block else 0):
        scores = _head(state, scores, block)
        if application < depth - 1:
            scores = F.leaky_relu(scores, 0.01)
    return scores


def _head(state: State, scores: Tensor, block: str) -> Tensor:
    name = "scratch.head_block.depthwise.depthwise"
    convolved = [
        F.conv2d(s[:, None], state[f"{name}.weight"], state[f"{name}.bias"], padding=1) for s in scores.unbind(1)
    ]
    found = torch.cat(convolved, dim=1)
    return found + scores.amax(1, keepdim=True) if block == "bottleneck" else found


def _upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    values = [state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
    return F.batch_norm(x, *values, False, 0.0, 1e-5)


def _unit(state: State, name: str, x: Tensor) -> Tensor:
    y = x
    for index in (1, 2):
        y = F.conv2d(F.relu(y), state[f"{name}.conv{index}.weight"], padding=1)
        y = _norm(state, f"{name}.bn{index}", y)
    return x + y


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def _vit(state: State, image: Tensor, heads: int, readout: str) -> list[Tensor]:
    model = "pretrained.model"
    kernel = state[f"{model}.patch_embed.proj.weight"]
    width, patch = kernel.shape[0], kernel.shape[-1]
    x = F.conv2d(image, kernel, state[f"{model}.patch_embed.proj.bias"], stride=patch)
    grid = x.shape[2:]
    stored = state[f"{model}.pos_embed"]
    side = round((stored.shape[1] - 1) ** 0.5)
    square = stored[:, 1:].reshape(1, side, side, width).permute(0, 3, 1, 2)
    position = F.interpolate(square, size=grid, mode="bilinear", align_corners=False)
    first = (state[f"{model}.cls_token"] + stored[:, :1]).expand(len(x), -1, -1)
    x = torch.cat([first, (x + position).flatten(2).mT], dim=1)
    maps = []
    for index in range(4):  # a tap after each of four blocks
        block = f"{model}.blocks.{index}"
        y = F.layer_norm(x, (width,), state[f"{block}.norm1.weight"], state[f"{block}.norm1.bias"], 1e-6)
        q, k, v = _linear(state, f"{block}.attn.qkv", y).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        attention = (q @ k.mT / (width // heads) ** 0.5).softmax(-1)
        x = x + _linear(state, f"{block}.attn.proj", (attention @ v).transpose(1, 2).flatten(2))
        y = F.layer_norm(x, (width,), state[f"{block}.norm2.weight"], state[f"{block}.norm2.bias"], 1e-6)
        x = x + _linear(state, f"{block}.mlp.fc2", F.gelu(_linear(state, f"{block}.mlp.fc1", y)))
        maps.append(_reassembled(state, f"pretrained.act_postprocess{index + 1}", x, grid, readout))
    return maps


def _reassembled(state: State, name: str, tokens: Tensor, grid: torch.Size, readout: str) -> Tensor:
    patches, first = tokens[:, 1:], tokens[:, :1]
    if readout == "project":
        joined = torch.cat([patches, first.expand_as(patches)], dim=-1)
        patches = F.gelu(_linear(state, f"{name}.0.project.0", joined))
    elif readout == "add":
        patches = patches + first
    x = patches.mT.unflatten(2, grid)
    x = F.conv2d(x, state[f"{name}.3.weight"], state[f"{name}.3.bias"])
    if f"{name}.4.weight" not in state:
        return x
    kernel, bias = state[f"{name}.4.weight"], state[f"{name}.4.bias"]
    if kernel.shape[-1] == 3:
        return F.conv2d(x, kernel, bias, stride=2, padding=1)
    return F.conv_transpose2d(x, kernel, bias, stride=kernel.shape[-1])


def _resnet(state: State, image: Tensor) -> list[Tensor]:
    x = F.conv2d(image, state["pretrained.layer1.0.weight"], stride=2, padding=3)
    x = F.max_pool2d(F.relu(_norm(state, "pretrained.layer1.1", x)), 3, 2, 1)
    maps = []
    for stage in range(1, 5):
        prefix = f"pretrained.layer{stage}." + ("4." if stage == 1 else "")
        index = 0
        while f"{prefix}{index}.conv1.weight" in state:
            x = _bottleneck(state, f"{prefix}{index}", x, 2 if stage > 1 and index == 0 else 1)
            index += 1
        maps.append(x)
    return maps


def _bottleneck(state: State, name: str, x: Tensor, stride: int) -> Tensor:
    y = F.relu(_norm(state, f"{name}.bn1", F.conv2d(x, state[f"{name}.conv1.weight"])))
    y = F.relu(_norm(state, f"{name}.bn2", F.conv2d(y, state[f"{name}.conv2.weight"], stride=stride, padding=1)))
    y = _norm(state, f"{name}.bn3", F.conv2d(y, state[f"{name}.conv3.weight"]))
    if f"{name}.downsample.0.weight" in state:
        shortcut = F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
        x = _norm(state, f"{name}.downsample.1", shortcut)
    return F.relu(x + y)

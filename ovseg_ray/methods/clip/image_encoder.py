"""Image towers of CLIP models: pictures to the space that their text encoder speaks of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ovseg_ray.errors import UserError

Embed = Callable[[Sequence[np.ndarray]], Tensor]
"""Pictures, (H, W, 3) uint8 each of any size -> (n, D) float32 of length 1."""

BATCH = 64


def build_image_encoder(spec: str, device: str = "cpu") -> Embed:
    """The image tower beside the text tower that `vocabulary.encoders.build_text_encoder` makes of the same words.

    Args:
        spec: `run:PATH` of a finished `train clip` run, or `open_clip:ARCHITECTURE:WEIGHTS`.
        device: of torch.

    Raises:
        UserError: another kind, or something wrong with what it names.
    """
    kind, _, rest = spec.partition(":")
    if kind == "run":
        return _of_run(Path(rest), device)
    if kind == "open_clip":
        name, _, weights = rest.partition(":")
        return _published(name, weights, device)
    if Path(spec).is_dir():
        raise UserError(f"'{spec}': names no kind of towers; did you mean run:{spec}?")
    raise UserError(f"'{spec}': has no image tower; give run:PATH of a 'train clip' run or open_clip:ARCH:WEIGHTS")


def _of_run(path: Path, device: str) -> Embed:
    from ovseg_ray.methods.clip.model import Clip
    from ovseg_ray.methods.export import DESCRIPTION_FILE, load_model
    from ovseg_ray.run_directory import RunDirectory

    directory = path if (path / DESCRIPTION_FILE).is_file() else RunDirectory.open(path).model
    model = load_model(directory, device)
    if not isinstance(model, Clip):
        raise UserError(f"{path}: is a run of '{model.name}'; give one of 'ovseg-ray train clip'")

    return _batched(lambda picture: model.preprocess(picture), lambda x: model.encode(x).tensors["image"], device)


def _published(name: str, weights: str, device: str) -> Embed:
    import open_clip

    from ovseg_ray.vocabulary.open_clip_weights import find_weights

    if open_clip.get_model_config(name) is None:
        raise UserError(f"open_clip:{name}: no such architecture; `open_clip.list_models()` lists them")
    if not weights:
        raise UserError(f"open_clip:{name}: names no weights, and random ones mean nothing; write open_clip:{name}:TAG")
    file, quick_gelu = find_weights(name, weights)
    try:
        model = open_clip.create_model(name, pretrained=str(file), force_quick_gelu=quick_gelu)
    except (RuntimeError, KeyError, ValueError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise UserError(f"{file}: holds no weights of {name} ({reason}); name their architecture") from error
    model = model.eval().requires_grad_(False).to(device)
    visual: Any = model.visual
    side = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    mean, std = (np.asarray(value, np.float32) for value in (visual.image_mean, visual.image_std))

    def preprocess(picture: np.ndarray) -> Tensor:
        resized = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC), np.float32)
        return torch.from_numpy((resized / 255 - mean) / std).permute(2, 0, 1)

    return _batched(preprocess, lambda x: model.encode_image(x), device)


def _batched(preprocess: Callable[[np.ndarray], Tensor], encode: Callable[[Tensor], Tensor], device: str) -> Embed:
    @torch.inference_mode()
    def embed(pictures: Sequence[np.ndarray]) -> Tensor:
        parts = []
        for start in range(0, len(pictures), BATCH):
            inputs = torch.stack([preprocess(picture) for picture in pictures[start : start + BATCH]])
            parts.append(F.normalize(encode(inputs.to(device)).float().cpu(), dim=1))
        return torch.cat(parts)

    return embed

"""A method of one pointwise layer for tests of the loop, and a data set of coloured blocks for it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, normalize

from ovseg_ray.config import Config
from ovseg_ray.errors import UserError
from ovseg_ray.methods.base import Batch, Encoding, Method, ParameterGroup, Segmentation, Transform
from ovseg_ray.vocabulary import TextEncoder, Vocabulary
from ovseg_ray.vocabulary.table_encoder import TableTextEncoder

LABELS = ("red", "green", "blue", "yellow", "cyan", "pink")
COLOURS = ((220, 30, 30), (30, 200, 30), (30, 30, 220), (220, 220, 30), (30, 220, 220), (220, 30, 220))


class ColourConfig(Config):
    """Of `ColourTraining`."""

    dropout: float = 0.0
    norm: bool = False
    nan_at: str = ""  # image whose loss is not finite
    wrong_at: str = ""  # image that is the user's mistake
    crash_at: str = ""  # image at which the worker dies, once
    flag: str = ""  # file that says it has died already
    seconds: float = 0.0  # that a training image takes
    hurry: str = ""  # file from whose appearance on it takes none
    starts: str = ""  # directory for a file, TIME-WORKERS, of each start of the workers


class _Colourise:
    def __init__(self, config: ColourConfig, training: bool) -> None:
        self.config, self.training = config, training

    def __call__(self, sample: Any, label_set: int, rng: np.random.Generator) -> dict[str, Any]:
        config = self.config
        if self.training and sample.image_id.endswith(config.wrong_at or "\0"):
            raise UserError(f"{sample.image_id}: is damaged; replace the file")
        if self.training and sample.image_id.endswith(config.crash_at or "\0") and not Path(config.flag).exists():
            Path(config.flag).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        image = torch.from_numpy(sample.image.copy()).permute(2, 0, 1).float() / 255
        if self.training:
            if not (config.hurry and Path(config.hurry).exists()):
                time.sleep(config.seconds)
            image = image * rng.uniform(0.8, 1.2)
        if self.training and sample.image_id.endswith(config.nan_at or "\0"):
            image = image * torch.nan
        target = torch.from_numpy(sample.mask.astype(np.int64))
        target[target == sample.ignore_index] = -1
        return {"image": image, "target": target, "label_set": label_set}


class ColourTraining(Method):
    """Scores are products of a linear map of the colour and label vectors."""

    name: ClassVar[str] = "colour"
    config_class: ClassVar[type[Config]] = ColourConfig
    config: ColourConfig

    def __init__(self, config: ColourConfig) -> None:
        super().__init__()
        self.config = config
        vectors = torch.randn(len(LABELS), 16, generator=torch.Generator().manual_seed(5))
        self._encoder = TableTextEncoder(LABELS, vectors)
        self.backbone = nn.Conv2d(3, 16, 1)
        self.norm = nn.BatchNorm2d(16) if config.norm else nn.Identity()
        self.drop = nn.Dropout(config.dropout)
        self.head = nn.Conv2d(16, 16, 1)
        self._told = False

    @classmethod
    def transform(cls, config: Config, *, training: bool = True) -> Transform:
        assert isinstance(config, ColourConfig)
        return _Colourise(config, training)

    def prepare(self, label_sets: Sequence[Vocabulary]) -> None:
        self.label_sets = tuple(label_sets)
        self._texts = [self._encoder.encode(labels.names) for labels in label_sets]

    def parameter_groups(self) -> list[ParameterGroup]:
        groups = [ParameterGroup(list(self.backbone.parameters()), backbone=True)]
        groups.append(ParameterGroup([*self.head.parameters()], lr_scale=2.0))
        groups.append(ParameterGroup([*self.norm.parameters()], decay=False))
        return [group for group in groups if group.parameters]

    def _tell_start(self) -> None:
        alone = not dist.is_initialized()
        if self.config.starts and (alone or dist.get_rank() == 0):
            (Path(self.config.starts) / f"{time.time_ns()}-{1 if alone else dist.get_world_size()}").touch()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        if not self._told:
            self._told = True
            self._tell_start()
        features = self._features(batch["image"])
        total = features.sum() * 0.0
        for number, text in enumerate(self._texts):
            mine = batch["label_set"] == number
            if mine.any():
                logits = 10 * torch.einsum("bchw,nc->bnhw", features[mine], text)
                total = total + cross_entropy(logits.float(), batch["target"][mine], ignore_index=-1, reduction="sum")
        pixels = (batch["target"] >= 0).sum().clamp_min(1)
        return {"ce": total / pixels, "size": 0.01 * features.float().square().mean()}

    def loss_weights(self, batch: Batch) -> dict[str, Tensor]:
        return {"ce": (batch["target"] >= 0).sum()}

    def _features(self, image: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(torch.tanh(self.backbone(image)))))

    @property
    def text_encoder(self) -> TextEncoder:
        return self._encoder

    def preprocess(self, image: np.ndarray) -> Tensor:
        return torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255

    def encode(self, images: Tensor) -> Encoding:
        return Encoding({"features": self._features(images)}, (images.shape[2], images.shape[3]))

    def scores(self, encoding: Encoding, text: Tensor) -> Tensor:
        return 10 * torch.einsum("bchw,nc->bnhw", encoding.tensors["features"], normalize(text, dim=1))

    def segment(self, encoding: Encoding, text: Tensor, size: tuple[int, int]) -> Segmentation:
        scores = interpolate(self.scores(encoding, text), size=size, mode="bilinear")
        confidence, label_map = scores.softmax(dim=1).max(dim=1)
        return Segmentation(label_map, confidence)


class ColourPairs(ColourTraining):
    """The same without masks: it draws every image to the mean colour of its batch, and does not segment."""

    name = "pairs"
    segments = False

    @classmethod
    def transform(cls, config: Config, *, training: bool = True) -> Transform:
        return _image_only

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {"size": self._features(batch["image"]).square().mean()}

    def loss_weights(self, batch: Batch) -> dict[str, Tensor]:
        return {}


def _image_only(sample: Any, label_set: int, rng: np.random.Generator) -> dict[str, Any]:
    return {"image": torch.from_numpy(sample.image.copy()).permute(2, 0, 1).float() / 255}


def write_colours(
    out: Path, *, train: int = 24, val: int = 6, labels: Sequence[str] = LABELS[:4], seed: int = 0, size: int = 8
) -> Path:
    """Images of coloured blocks with index PNGs, some pixels ignored."""
    rng = np.random.default_rng(seed)
    out.mkdir(parents=True)
    colours = np.array([COLOURS[LABELS.index(label)] for label in labels])
    for split, images in (("train", train), ("val", val)):
        for folder in ("images", "masks"):
            (out / folder / split).mkdir(parents=True)
        names = [f"{split}_{i:03d}" for i in range(images)]
        for i, name in enumerate(names):
            mask = np.kron(rng.integers(0, len(labels), (size // 4, size // 4)), np.ones((4, 4))).astype(np.uint8)
            image = np.clip(colours[mask] + rng.normal(0, 20, (*mask.shape, 3)), 0, 255).astype(np.uint8)
            mask[: i % 4] = 255
            Image.fromarray(image).save(out / "images" / split / f"{name}.png")
            Image.fromarray(mask).save(out / "masks" / split / f"{name}.png")
        (out / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    (out / "classes.json").write_text(json.dumps({"classes": list(labels), "ignore_index": 255}))
    return out

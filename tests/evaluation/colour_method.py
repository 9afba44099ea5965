"""A method that needs no training: a pixel belongs to the label whose colour it is nearest to, by cosine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from ovseg_ray.config import Config
from ovseg_ray.data.dataset import INDEX_SCHEMA, DataSet
from ovseg_ray.methods.base import Batch, Encoding, Method, Segmentation, Transform
from ovseg_ray.vocabulary import TextEncoder, Vocabulary

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "cyan": (0, 255, 255),
    "white": (255, 255, 255),
    "warm": (255, 120, 0),
    "cold": (0, 120, 255),
}


class ColourText(TextEncoder):
    """The unit RGB vector of a colour's name, whatever template stands around it."""

    dim = 3
    fingerprint = "colours"

    def encode(self, texts: Sequence[str]) -> Tensor:
        known = [next(colour for name, colour in COLOURS.items() if name in text.lower()) for text in texts]
        return normalize(torch.tensor(known, dtype=torch.float32), dim=1)

    def save(self, directory: Path) -> None:
        (directory / "text.json").write_text(json.dumps({"kind": "colours"}))


class ColourMethod(Method):
    """Cosine of pixel colours and text vectors, at half resolution."""

    name: ClassVar[str] = "colour"
    config_class: ClassVar[type[Config]] = Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = config or Config()
        self.scale = torch.nn.Parameter(torch.tensor(10.0))
        self.encoded_images = 0
        self.batch_sizes: list[int] = []

    @classmethod
    def transform(cls, config: Config, *, training: bool = True) -> Transform:
        return lambda sample, label_set, rng: {"image": torch.from_numpy(sample.image)}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {}

    @property
    def text_encoder(self) -> TextEncoder:
        return ColourText()

    def preprocess(self, image: np.ndarray) -> Tensor:
        return torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255 + 0.01

    def encode(self, images: Tensor) -> Encoding:
        self.encoded_images += len(images)
        self.batch_sizes.append(len(images))
        return Encoding({"pixels": normalize(images, dim=1)}, (images.shape[2], images.shape[3]))

    def scores(self, encoding: Encoding, text: Tensor) -> Tensor:
        return self.scale * torch.einsum("bchw,nc->bnhw", encoding.tensors["pixels"], text)

    def segment(self, encoding: Encoding, text: Tensor, size: tuple[int, int]) -> Segmentation:
        scores = interpolate(self.scores(encoding, text), size=size, mode="nearest")
        confidence, label_map = scores.softmax(dim=1).max(dim=1)
        return Segmentation(label_map, confidence)


class ArrayMasks:
    """Masks kept as .npy beside the images."""

    def __call__(self, row: dict, height: int, width: int) -> np.ndarray:
        return np.load(row["mask_path"])


def text_of(vocabulary: Vocabulary) -> Tensor:
    """Embeddings of labels by their names."""
    return ColourText().encode(vocabulary.names)


def make_dataset(
    directory: Path,
    images: int,
    labels: Sequence[str],
    *,
    seed: int = 0,
    sizes: Sequence[tuple[int, int]] = ((12, 16),),
) -> DataSet:
    """Random blocks of the labels' colours, one block in ten with a wrong mask and a corner that is ignored."""
    rng = np.random.default_rng(seed)
    directory.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(images):
        height, width = sizes[i % len(sizes)]
        mask = np.kron(rng.integers(0, len(labels), (height // 4, width // 4)), np.ones((4, 4))).astype(np.uint8)
        image = np.array([COLOURS[name] for name in labels], np.uint8)[mask]
        wrong = np.kron(rng.random((height // 4, width // 4)) < 0.1, np.ones((4, 4))).astype(bool)
        mask[wrong] = (mask[wrong] + 1) % len(labels)
        mask[:2, :2] = 255
        path = directory / f"{i:03d}.png"
        Image.fromarray(image).save(path)
        np.save(path.with_suffix(".npy"), mask)
        rows.append((f"{i:03d}", str(path), str(path.with_suffix(".npy")), None, []))
    columns = [pa.array(column, type=f.type) for column, f in zip(zip(*rows, strict=True), INDEX_SCHEMA, strict=True)]
    index = pa.Table.from_arrays(columns, schema=INDEX_SCHEMA)
    return DataSet(directory, "val", "arrays", index, Vocabulary.of(labels), ArrayMasks())

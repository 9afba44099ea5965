"""A trained model behind three lines of Python: load, segment, look."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ovseg_ray.config import Precision
from ovseg_ray.data.images import decode_image, read_bytes, rgb
from ovseg_ray.errors import UserError
from ovseg_ray.methods.base import Encoding, Method
from ovseg_ray.methods.export import load_model
from ovseg_ray.run_directory import find_model
from ovseg_ray.vocabulary import Vocabulary
from ovseg_ray.vocabulary.label_embeddings import LabelEmbeddings
from ovseg_ray.vocabulary.vocabulary import BARE

Picture = str | os.PathLike[str] | Image.Image | np.ndarray
MAX_LABELS_AT_ONCE = 65535  # what a 16-bit label map holds beside its ignore value
Labels = str | Sequence[str] | Vocabulary


@dataclass(frozen=True)
class Result:
    """What a picture shows.

    Attributes:
        label_map: (H, W) uint8 (uint16 over 255 labels) indices into `vocabulary`, at the picture's own size.
        confidence: (H, W) float32 in 0..1, softmax probability of the chosen label.
        vocabulary: the labels that were asked for.
    """

    label_map: np.ndarray
    confidence: np.ndarray
    vocabulary: Vocabulary


@dataclass(frozen=True)
class EncodedPicture:
    """A picture that any list of labels can be asked of, without running the image network again.

    Attributes:
        encoding: of one image.
        size: (H, W) of the picture.
    """

    encoding: Encoding
    size: tuple[int, int]


class Segmenter:
    """Answers label lists about pictures. Label embeddings are kept, so repeated labels cost nothing.

    Args:
        method: in eval mode, on its device.

    Raises:
        UserError: a method that does not segment.
    """

    def __init__(self, method: Method) -> None:
        if not method.segments or method.text_encoder is None:
            raise UserError(f"a '{method.name}' model does not segment; {method.way_to_segment}")
        self.method = method
        self.embeddings = LabelEmbeddings(method.text_encoder)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | None = None, precision: Precision = "fp32") -> Segmenter:
        """From a run directory, its `model/` directory, or what `ovseg-ray demo` wrote.

        Args:
            path: of a local directory.
            device: a PyTorch device; default: a GPU if there is one.
            precision: of the image network; scores stay float32.

        Raises:
            UserError: no finished model there, or no such device.
        """
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            torch.empty(0, device=chosen)
        except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch's own, by kind of device
            raise UserError(f"device '{chosen}': not available here; use 'cpu'") from error
        return cls(load_model(find_model(Path(path)), chosen, precision))

    @property
    def templates(self) -> tuple[str, ...]:
        """Prompts that plain label strings are asked with: those of training."""
        return self.method.label_sets[0].templates if self.method.label_sets else BARE

    def vocabulary(self, labels: Labels) -> Vocabulary:
        """Labels as a vocabulary: "sky, grass" (synonyms as "car|automobile"), a list of names, or one as it is.

        Raises:
            UserError: no label, or an empty or repeated one.
        """
        if isinstance(labels, Vocabulary):
            return labels
        if isinstance(labels, str):
            return Vocabulary.parse(labels, self.templates)
        return Vocabulary.of(labels, self.templates)

    def encode(self, image: Picture) -> EncodedPicture:
        """The part of the work that does not depend on labels.

        Args:
            image: path, PIL image of any mode, or array: (H, W, 3) or (H, W) uint8.

        Raises:
            UserError: not a picture that can be read.
        """
        pixels = to_rgb(image)
        device = next(self.method.parameters()).device
        with torch.inference_mode():
            encoding = self.method.encode(self.method.preprocess(pixels).unsqueeze(0).to(device))
        return EncodedPicture(encoding, (pixels.shape[0], pixels.shape[1]))

    def segment(self, image: Picture | EncodedPicture, labels: Labels) -> Result:
        """The best of the given labels for every pixel.

        Args:
            image: as `encode` takes it, or what it returned.
            labels: "sky, grass, a red car", a list of names, or a `Vocabulary`.

        Raises:
            UserError: a picture that cannot be read, or labels that cannot be used.
        """
        vocabulary = self.vocabulary(labels)
        if len(vocabulary) > MAX_LABELS_AT_ONCE:
            raise UserError(f"{len(vocabulary)} labels at once, more than a label map holds; ask for at most 65535")
        text = self.embeddings.embed(vocabulary)  # a mistake in the labels shows before the network runs
        picture = image if isinstance(image, EncodedPicture) else self.encode(image)
        device = next(self.method.parameters()).device
        with torch.inference_mode():
            found = self.method.segment(picture.encoding, text.to(device), picture.size)
        kind = np.uint8 if len(vocabulary) <= 255 else np.uint16
        return Result(
            found.label_map[0].cpu().numpy().astype(kind), found.confidence[0].float().cpu().numpy(), vocabulary
        )


def to_rgb(image: Picture) -> np.ndarray:
    """A picture of any kind as (H, W, 3) uint8 RGB.

    Raises:
        UserError: it cannot be read, or an array is no picture.
    """
    if isinstance(image, Image.Image):
        return rgb(image, "image")
    if not isinstance(image, np.ndarray):
        return decode_image(read_bytes(Path(image)), str(image))
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.size == 0:
        shape = f"{image.dtype} of shape {image.shape}"
        raise UserError(f"image array: {shape}; give uint8 of shape (height, width, 3)")
    if image.ndim == 3 and image.shape[2] not in (1, 3, 4):
        raise UserError(f"image array: {image.shape[2]} channels last; give uint8 of shape (height, width, 3)")
    return rgb(Image.fromarray(image.squeeze(2) if image.ndim == 3 and image.shape[2] == 1 else image), "image array")

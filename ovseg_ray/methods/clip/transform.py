"""From a decoded sample to an image and one of its captions."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ovseg_ray.data.sample import DecodedSample
from ovseg_ray.errors import UserError
from ovseg_ray.methods.clip.config import ClipConfig
from ovseg_ray.vocabulary.tokenizer import open_clip_tokenizer

START_OF_TEXT = 49406  # of open_clip's tokenizer; END follows, 0 pads
WORD_BUCKETS = 1021  # tokens are told apart modulo this prime: a caption's words hardly ever collide


@dataclass(frozen=True)
class ClipTransform:
    """Makes {"image", "tokens", "words"}; the caption is drawn anew each time, so an epoch sees one of several."""

    config: ClipConfig

    def __call__(self, sample: DecodedSample, label_set: int, rng: np.random.Generator) -> dict[str, Any]:
        """
        Args:
            sample: with at least one caption.
            label_set: takes no part.
            rng: draws the caption.

        Returns:
            "image" (3, S, S) float32, "tokens" (context_length,) int64 and, where the word loss is on, "words"
            (WORD_BUCKETS,) bool: those of all its captions.

        Raises:
            UserError: the sample has no caption.
        """
        if not sample.captions:
            raise UserError(
                f"image '{sample.image_id}': has no caption; 'train clip' needs a data set with captions for each image"
            )
        caption = sample.captions[int(rng.integers(len(sample.captions)))]
        tokens = _tokens(caption, self.config.text.context_length)
        example: dict[str, Any] = {"image": normalised(sample.image, self.config), "tokens": tokens}
        if self.config.word_loss:
            example["words"] = _words(sample.captions, self.config.text.context_length)
        return example


def normalised(image: np.ndarray, config: ClipConfig) -> Tensor:
    """(H, W, 3) uint8 RGB, squeezed to the square of the tower -> (3, S, S) float32.

    The whole image is kept, since captions speak of all of it.
    """
    size = config.image_size
    if image.shape[:2] != (size, size):
        image = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
    # channels first: the arithmetic then runs along whole rows, three times as fast
    scaled = np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32)
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (config.mean, config.std))
    scaled *= 1 / (255 * std)
    scaled -= mean / std
    return torch.from_numpy(scaled)


@functools.lru_cache(maxsize=100_000)
def _words(captions: tuple[str, ...], context_length: int) -> Tensor:
    words = torch.zeros(WORD_BUCKETS, dtype=torch.bool)
    for caption in captions:
        tokens = _tokens(caption, context_length)
        words[tokens[(tokens > 0) & (tokens < START_OF_TEXT)] % WORD_BUCKETS] = True
    return words


# captions come again every epoch, and tokenising one costs as much as decoding a small image
@functools.lru_cache(maxsize=100_000)
def _tokens(caption: str, context_length: int) -> Tensor:
    tokens: Tensor = open_clip_tokenizer(context_length)(caption)[0]
    return tokens

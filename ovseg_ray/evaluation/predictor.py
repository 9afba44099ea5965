"""One model, one list of labels, any number of image files: plain PyTorch."""

from __future__ import annotations

from pathlib import Path

import torch

from ovseg_ray.config import Precision
from ovseg_ray.data.images import decode_image, read_bytes
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.prediction_files import write_prediction
from ovseg_ray.segmenter import Labels, Segmenter
from ovseg_ray.vocabulary import Vocabulary

Work = tuple[str, str]
"""Path of an image, and the name of its results."""


class Predictor:
    """A model with one list of labels: segments a file and writes what it found.

    Args:
        model: directory of an exported model.
        labels: to look for.
        out: directory for the results.
        precision: of the image network.

    Raises:
        UserError: no such model, or labels that it cannot use.
    """

    def __init__(self, model: Path, labels: Labels, out: Path, precision: Precision = "fp32") -> None:
        self.model, self.out, self.precision = model, out, precision
        self.segmenter = Segmenter.load(model, precision=precision)
        self.vocabulary: Vocabulary = self.segmenter.vocabulary(labels)
        self.segmenter.embeddings.embed(self.vocabulary)

    def __call__(self, work: Work) -> tuple[str, str]:
        """Do one image.

        Returns:
            Its path, and what is wrong with it ("" where nothing is).

        Raises:
            UserError: the results cannot be written, which no other image would survive either.
        """
        path, name = work
        try:
            image = decode_image(read_bytes(path), path)
            result = self.segmenter.segment(image, self.vocabulary)
        except UserError as error:
            return path, str(error)
        except (MemoryError, torch.OutOfMemoryError):
            return path, f"{path}: needs more memory than there is; make it smaller"
        write_prediction(self.out, name, Path(path), image, result)
        return path, ""

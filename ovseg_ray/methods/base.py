"""The contract between a method and everything that trains, evaluates and serves it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg_ray.config import Config, TrainingConfig
from ovseg_ray.data.sample import DecodedSample
from ovseg_ray.errors import UserError
from ovseg_ray.vocabulary import TextEncoder, Vocabulary

Batch = dict[str, Tensor]
# one sample, the index of its label set, and a generator seeded by (seed, epoch, image): never by worker or rank
Transform = Callable[[DecodedSample, int, np.random.Generator], dict[str, Any]]


@dataclass(frozen=True)
class Encoding:
    """All that a method knows of images before any label is named: computed once, cached, stored.

    Attributes:
        tensors: named tensors with the batch on axis 0.
        size: (H, W) of the network's input.
    """

    tensors: Mapping[str, Tensor]
    size: tuple[int, int]

    def to(self, *args: Any, **kwargs: Any) -> Encoding:
        """Every tensor through `Tensor.to`."""
        return replace(self, tensors={k: v.to(*args, **kwargs) for k, v in self.tensors.items()})

    def select(self, images: Tensor) -> Encoding:
        """The encoding of some images of the batch, by their (n,) int64 indices."""
        return replace(self, tensors={k: v[images] for k, v in self.tensors.items()})


@dataclass(frozen=True)
class Segmentation:
    """Prediction for a batch.

    Attributes:
        label_map: (B, H, W) int64 indices into the labels asked for.
        confidence: (B, H, W) float32 in 0..1, softmax probability of the chosen label.
    """

    label_map: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share optimiser settings.

    Attributes:
        parameters: trained together.
        lr_scale: factor on the configured learning rate.
        backbone: pretrained, so that `optimizer.backbone_lr_scale` applies as well.
        decay: whether weight decay applies.
    """

    parameters: list[nn.Parameter]
    lr_scale: float = 1.0
    backbone: bool = False
    decay: bool = True


class Method(nn.Module, ABC):
    """A method of open-vocabulary segmentation, plain PyTorch.

    A subclass is made by `Method(config)` from its own
    `config_class` alone (no files), so that a saved model loads
    from `model.json` and safetensors; `initialise` fetches pretrained parts before the first training step.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[Config]]
    segments: bool = True  # whether it answers `segment`; CLIP's dual encoder does not, named clusters do
    way_to_segment: ClassVar[str] = "give a run of another method, such as lseg"  # told where it does not
    config: Config
    label_sets: tuple[Vocabulary, ...] = ()  # trained on, with the templates asked; set by `prepare` and by loading

    # ---- training
    @classmethod
    def check_training(cls, training: TrainingConfig) -> None:
        """Refuse settings of the loop that this method cannot honour; called before anything starts.

        Raises:
            UserError: names the key and the way out.
        """

    @classmethod
    def from_data(cls, model: Mapping[str, Any], paths: Sequence[str]) -> Mapping[str, Any]:
        """The configuration of a model, with what it takes from the data that it is trained on where nothing is said.

        Args:
            model: as given, not checked yet.
            paths: of the data sets.
        """
        return model

    @classmethod
    @abstractmethod
    def transform(cls, config: Config, *, training: bool = True) -> Transform:
        """What turns one sample into the tensors of a batch; picklable, runs in loader processes."""

    @classmethod
    def collate(cls, examples: Sequence[Mapping[str, Any]]) -> Batch:
        """Stack the tensors of examples; override for ragged ones."""
        return torch.utils.data.default_collate(list(examples))

    def initialise(self) -> None:
        """Load pretrained weights that the configuration names. Called once, before training from scratch.

        Raises:
            UserError: a missing or unfit weight file.
        """
        return None

    def prepare(self, label_sets: Sequence[Vocabulary]) -> None:
        """Fix the label sets that `batch["label_set"]` indexes; label embeddings are made here, once."""
        return None

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted loss terms of a micro-batch, each a mean; their sum is minimised.

        A term over nothing (no labelled pixel) is 0, never NaN.
        """

    def loss_weights(self, batch: Batch) -> dict[str, Tensor]:
        """How much each mean of `losses` covers (labelled pixels, images), for exact global means.

        The loop scales every term by its share of the global weight, so that the result depends on the global
        batch and not on how it is cut into workers and micro-batches. Default: images, for every term.
        """
        return {}

    def validation_metrics(self, batches: Iterable[Batch]) -> dict[str, float]:
        """What is measured during training of a method that does not segment.

        Args:
            batches: whole ones, of the validation data; the model is in eval mode, without gradient.

        Returns:
            "score", by which the best models are kept (higher is better), and whatever else curves should show.
        """
        losses = [sum(float(term) for term in self.losses(batch).values()) for batch in batches]
        loss = math.fsum(losses) / len(losses)
        return {"loss": loss, "score": -loss}

    def after_step(self) -> None:
        """What the method does to itself after each optimiser step, without gradient (clamps, moving averages)."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """All trainable parameters, each once."""
        return [ParameterGroup([p for p in self.parameters() if p.requires_grad])]

    # ---- inference
    @property
    @abstractmethod
    def text_encoder(self) -> TextEncoder | None:
        """The text tower that labels go through; None for a method that needs none."""

    @property
    def text_source(self) -> str | None:
        """What `build_text_encoder` makes the text tower of, where it comes from outside the model; else None."""
        return None

    def use_text_encoder(self, encoder: TextEncoder) -> None:
        """Take the text tower that was saved with the model; nothing to do for a method that holds its own.

        Raises:
            UserError: it does not fit the model.
        """

    @abstractmethod
    def preprocess(self, image: np.ndarray) -> Tensor:
        """One (H, W, 3) uint8 RGB image as the network's normalised (3, h, w) float32 input."""

    def normalise(self, image: np.ndarray) -> Tensor:
        """As `preprocess`, at the size that the image has: whoever resizes images before."""
        return self.preprocess(image)

    @abstractmethod
    def encode(self, images: Tensor) -> Encoding:
        """Everything that does not depend on labels, of (B, 3, h, w) preprocessed images."""

    @abstractmethod
    def scores(self, encoding: Encoding, text: Tensor) -> Tensor:
        """Dense label scores (logits) at the method's own resolution.

        Args:
            encoding: of B images.
            text: (N, D) float32, L2-normalised.

        Returns:
            (B, N, h', w') float32.
        """

    @property
    def labels_interact(self) -> bool:
        """Whether a label's scores depend on which other labels are asked."""
        return False

    @property
    def pads_to(self) -> int:
        """`encode` repeats the border at the right and at the bottom until both sides are multiples of this.

        A caller may do so itself, to batch pictures of several sizes, and then set the encoding's size back.
        """
        return 1

    def dense_scores(
        self, encoding: Encoding, text: Tensor, size: tuple[int, int], rows: tuple[int, int] | None = None
    ) -> Tensor:
        """`scores` upsampled to `size` (H, W), as `segment` does it.

        Args:
            encoding: of B images.
            text: (N, D) float32, L2-normalised.
            size: (H, W) of the picture.
            rows: first and one past the last row wanted; default: all.

        Returns:
            (B, N, rows, W) float32.
        """
        dense = F.interpolate(self.scores(encoding, text), size=size, mode="bilinear", align_corners=False)
        return dense if rows is None else dense[:, :, rows[0] : rows[1]]

    @abstractmethod
    def segment(self, encoding: Encoding, text: Tensor, size: tuple[int, int]) -> Segmentation:
        """Label map and confidence at `size` (H, W), streamed over labels and rows.

        Equal to the argmax (lowest index at ties) and softmax of the upsampled `scores`, without a
        B×N×H×W tensor ever existing.
        """

    def scale_temperature(self, factor: float) -> None:
        """Divide all scores by `factor` from now on: no label changes, the confidence does.

        Raises:
            UserError: a model whose scores no temperature of its own divides.
        """
        raise UserError(f"method {self.name}: has no temperature to fit; give a run of another method, such as lseg")

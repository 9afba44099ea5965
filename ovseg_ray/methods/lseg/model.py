"""LSeg: Language-driven Semantic Segmentation (Li et al., ICLR 2022)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg_ray.config import Config
from ovseg_ray.errors import UserError, did_you_mean
from ovseg_ray.methods.base import Batch, Encoding, Method, ParameterGroup, Segmentation, Transform
from ovseg_ray.methods.lseg.config import LSegConfig
from ovseg_ray.methods.lseg.correlation import affine_map, inverse_norms, label_projection, merge_projections
from ovseg_ray.methods.lseg.head_blocks import HeadBlock
from ovseg_ray.methods.lseg.losses import cross_entropy_sum, lovasz_softmax, pixel_weight
from ovseg_ray.methods.lseg.reference import half_pixels, half_text, rounded
from ovseg_ray.methods.lseg.resampling import upsample_scores
from ovseg_ray.methods.lseg.streaming import dense_rows, segment
from ovseg_ray.methods.lseg.transform import Normalisation, PlainTransform, TrainingTransform
from ovseg_ray.networks import FusionDecoder, build_image_encoder, image_normalisation
from ovseg_ray.vocabulary import TextEncoder, Vocabulary
from ovseg_ray.vocabulary.encoders import build_text_encoder
from ovseg_ray.vocabulary.label_embeddings import LabelEmbeddings


class LSeg(Method):
    """One joint embedding a pixel, compared with the embeddings of words."""

    name = "lseg"
    config_class = LSegConfig
    config: LSegConfig

    def __init__(self, config: LSegConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_image_encoder(config.encoder)
        self.decoder = FusionDecoder(self.encoder.channels, config.width, config.detail_width)
        self.head: nn.Conv2d | None = None
        if config.joint_width is not None:
            self.head = nn.Conv2d(self.decoder.width, config.joint_width, 1)
        self.block = None if config.head_block.kind == "none" else HeadBlock(config.head_block)
        self.plain = _plain(config, Normalisation(self.encoder.mean, self.encoder.std))

    # ---- training
    @classmethod
    def transform(cls, config: Config, *, training: bool = True) -> Transform:
        assert isinstance(config, LSegConfig)
        normalise = Normalisation(*image_normalisation(config.encoder))
        if training:
            return TrainingTransform(config.augmentation, normalise, config.reference)
        return _plain(config, normalise)

    def initialise(self) -> None:
        if self.config.encoder.weights is not None:
            self.encoder.load_pretrained(self.config.encoder.weights)

    def prepare(self, label_sets: Sequence[Vocabulary]) -> None:
        """Embed the labels of every set, once; the text tower takes no part in training.

        Raises:
            UserError: the text encoder is missing, does not know a label, or is of another width; or
                `loss.class_weights` names no label.
        """
        if self.text_encoder is None:
            self.use_text_encoder(build_text_encoder(self.config.text))
        encoder = self.text_encoder
        assert encoder is not None
        templates = self.config.templates
        self.label_sets = tuple(v.with_templates(templates) if templates else v for v in label_sets)
        embeddings = LabelEmbeddings(encoder)
        device = next(self.parameters()).device
        for index, labels in enumerate(self.label_sets):
            # buffers move with the module and stay out of its state: they follow from the labels
            self.register_buffer(f"text_{index}", embeddings.embed(labels).to(device), persistent=False)
            weights = self._weights(labels)
            self.register_buffer(f"weights_{index}", None if weights is None else weights.to(device), persistent=False)
        self._check_class_weights()

    def _weights(self, labels: Vocabulary) -> Tensor | None:
        given = self.config.loss.class_weights
        return torch.tensor([given.get(name, 1.0) for name in labels.names]) if given else None

    def _check_class_weights(self) -> None:
        known = {name for labels in self.label_sets for name in labels.names}
        for name in self.config.loss.class_weights:
            if name not in known:
                hint = did_you_mean(name, known, f"labels: {', '.join(sorted(known)[:8])}")
                raise UserError(f"model.loss.class_weights: no label '{name}'; {hint}")

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        encoding = self._encode(batch["image"])
        target = self._target(batch)
        size = (target.shape[1], target.shape[2])
        total, lovasz = self._nothing(encoding), self._nothing(encoding)
        for index, rows in self._by_label_set(batch):
            part = encoding if rows is None else encoding.select(rows)
            truth = target if rows is None else target[rows]
            scores = self._scores(part, getattr(self, f"text_{index}"))
            logits = scores if self.config.loss.half_resolution else self._upsample(scores, part, size)
            weights = getattr(self, f"weights_{index}")
            total = total + cross_entropy_sum(logits, truth, weights, self.config.loss.label_smoothing)
            if self.config.loss.lovasz:
                share = pixel_weight(truth) / pixel_weight(target).clamp_min(1)
                lovasz = lovasz + share * lovasz_softmax(logits, truth, self.config.loss.lovasz_pixels)
        weight = self.loss_weights(batch)["cross_entropy"]
        losses = {"cross_entropy": total / torch.where(weight > 0, weight, torch.ones_like(weight))}
        if self.config.loss.lovasz:
            losses["lovasz"] = self.config.loss.lovasz * lovasz
        return losses

    def loss_weights(self, batch: Batch) -> dict[str, Tensor]:
        target = self._target(batch)
        weights = {"cross_entropy": target.new_zeros((), dtype=torch.float32)}
        for index, rows in self._by_label_set(batch):
            truth = target if rows is None else target[rows]
            class_weights = getattr(self, f"weights_{index}")
            weights["cross_entropy"] = weights["cross_entropy"] + pixel_weight(truth, class_weights)
        if self.config.loss.lovasz:
            weights["lovasz"] = pixel_weight(target)
        return weights

    def _target(self, batch: Batch) -> Tensor:
        """The truth, (B, H, W), or at the pixels nearest to the scores' own grid."""
        target = batch["target"]
        if not self.config.loss.half_resolution:
            return target
        # scores lie corner to corner over the image (align_corners)
        rows, columns = (
            torch.linspace(0, length - 1, length // 2, device=target.device).round().long()
            for length in target.shape[1:]
        )
        return target[:, rows[:, None], columns]

    def _by_label_set(self, batch: Batch) -> Iterator[tuple[int, Tensor | None]]:
        """Label sets of a batch and the samples of each; None means all of them."""
        if len(self.label_sets) == 1:
            yield 0, None
            return
        for index in batch["label_set"].unique().tolist():
            yield index, (batch["label_set"] == index).nonzero()[:, 0]

    @staticmethod
    def _nothing(encoding: Encoding) -> Tensor:
        return encoding.tensors["features"].float().sum() * 0.0  # a sum of halves would overflow

    def parameter_groups(self) -> list[ParameterGroup]:
        pretrained = self.config.encoder.weights is not None
        encoder = {id(parameter) for parameter in self.encoder.parameters()}
        rest = [parameter for parameter in self.parameters() if id(parameter) not in encoder]
        return [
            ParameterGroup(list(self.encoder.parameters()), backbone=pretrained),
            ParameterGroup(rest, lr_scale=self.config.head_lr_scale),
        ]

    # ---- inference
    @property
    def text_encoder(self) -> TextEncoder | None:
        return self._text[0] if self._text else None

    # a tuple keeps the tower out of the module's parameters, whatever it is made of
    _text: tuple[TextEncoder, ...] = ()

    @property
    def text_source(self) -> str | None:
        return self.config.text

    def use_text_encoder(self, encoder: TextEncoder) -> None:
        if self.head is None:
            device = next(self.parameters()).device
            self.head = nn.Conv2d(self.decoder.width, encoder.dim, 1, device=device)
            self.config = self.config.model_copy(update={"joint_width": encoder.dim})
        elif self.head.out_channels != encoder.dim:
            raise UserError(
                f"model.text: vectors of {encoder.dim} numbers for a joint embedding of {self.head.out_channels}; "
                "leave model.joint_width out, or give the text encoder that the model was trained with"
            )
        self._text = (encoder,)

    def preprocess(self, image: np.ndarray) -> Tensor:
        return self.plain.image(image)

    def normalise(self, image: np.ndarray) -> Tensor:
        return self.plain.normalise(image)

    def encode(self, images: Tensor) -> Encoding:
        return self._encode(images)

    def scores(self, encoding: Encoding, text: Tensor) -> Tensor:
        return self._scores(encoding, text)

    @property
    def pads_to(self) -> int:
        return self.encoder.strides[-1]

    @property
    def labels_interact(self) -> bool:
        """Whether the head block takes a maximum over labels."""
        return self.block is not None and self.block.needs_maximum

    def dense_scores(
        self, encoding: Encoding, text: Tensor, size: tuple[int, int], rows: tuple[int, int] | None = None
    ) -> Tensor:
        if rows is None:
            return self._upsample(self._scores(encoding, text), encoding, size)
        with _float32(text):
            weight, bias = self._label_projection(text)
            features, inverse_norm = encoding.tensors["features"], encoding.tensors["inverse_norm"]
            return dense_rows(
                features, inverse_norm, weight, bias, self.block, encoding.size, size, rows, half=self.config.reference
            )

    @torch.no_grad()
    def segment(self, encoding: Encoding, text: Tensor, size: tuple[int, int]) -> Segmentation:
        with _float32(text):
            weight, bias = self._label_projection(text)
            features, inverse_norm = encoding.tensors["features"], encoding.tensors["inverse_norm"]
            return segment(
                features, inverse_norm, weight, bias, self.block, encoding.size, size, half=self.config.reference
            )

    def scale_temperature(self, factor: float) -> None:
        if self.block is not None or self.config.reference:
            key = "model.reference" if self.block is None else "model.head_block"
            raise UserError(f"{key}: what comes after the temperature was trained with it; train with another instead")
        self.config = self.config.model_copy(update={"temperature": self.config.temperature * factor})

    # ---- the network
    @property
    def _scale(self) -> float:
        return 1.0 / self.config.temperature

    def _joint(self) -> tuple[Tensor, Tensor]:
        """(C, D) weight and (C,) bias from the decoder's map to the joint embedding."""
        assert self.head is not None, "prepare or use_text_encoder comes first"
        last = self.decoder.projection
        return merge_projections(None if last is None else _affine(last), _affine(self.head))

    def _encode(self, images: Tensor) -> Encoding:
        height, width = images.shape[2:]
        stride = self.encoder.strides[-1]
        right, bottom = -width % stride, -height % stride
        if right or bottom:
            images = F.pad(images, (0, right, 0, bottom), mode="replicate")
        features = self.decoder(self.encoder(images))
        with _float32(features):
            features = features.float()
            half = _resized(features, (images.shape[2] // 2, images.shape[3] // 2))
            if self.config.reference:
                tensors = self._half_precision(half)
            else:
                tensors = {"features": features, "inverse_norm": inverse_norms(half, *self._joint())}
        return Encoding(tensors, (height, width))

    def _half_precision(self, features: Tensor) -> dict[str, Tensor]:
        """The wide map of the original, at half resolution, where nothing is left to divide by."""
        weight, bias = self._joint()
        pixels = half_pixels(F.conv2d(features, weight[:, :, None, None], bias), self._scale)
        return {"features": pixels, "inverse_norm": torch.ones_like(features[:, :1])}

    def _label_projection(self, text: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.reference:
            return half_text(text), text.new_zeros(len(text))
        return label_projection(text, *self._joint(), self._scale)

    def _scores(self, encoding: Encoding, text: Tensor) -> Tensor:
        features, inverse_norm = encoding.tensors["features"], encoding.tensors["inverse_norm"]
        with _float32(features):
            weight, bias = self._label_projection(text)
            scores = affine_map(features.float(), weight, bias)
            if self.config.reference:
                scores = rounded(scores)
            # labels are fewer than joint channels: upsample them, not the embedding
            scores = _resized(scores, (inverse_norm.shape[2], inverse_norm.shape[3])) * inverse_norm
            return scores if self.block is None else self.block(scores)

    def _upsample(self, scores: Tensor, encoding: Encoding, size: tuple[int, int]) -> Tensor:
        padded = (2 * scores.shape[2], 2 * scores.shape[3])
        return upsample_scores(scores, encoding.size, size, padded)


def _plain(config: LSegConfig, normalise: Normalisation) -> PlainTransform:
    crop = config.augmentation.crop
    squash = config.augmentation.squash
    centre = crop if config.reference and not squash else None
    return PlainTransform(normalise, config.long_side, crop if squash else None, centre)


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    if x.shape[2:] == size:  # a map at stride 2 is there already, and torch would resample it all the same
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def _affine(convolution: nn.Conv2d) -> tuple[Tensor, Tensor]:
    assert convolution.bias is not None
    return convolution.weight.flatten(1), convolution.bias


def _float32(like: Tensor) -> torch.autocast:
    return torch.autocast(like.device.type, enabled=False)

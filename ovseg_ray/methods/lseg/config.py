"""Configuration of LSeg."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from ovseg_ray.config import Config
from ovseg_ray.methods.lseg.head_blocks import HeadBlockConfig
from ovseg_ray.networks import ImageEncoderConfig
from ovseg_ray.vocabulary.encoders import absolute_spec


class AugmentationConfig(Config):
    """What happens to a training image, in this order: scale, crop (padded where too small), flip, colour."""

    crop: tuple[int, int] = Field((480, 480), description="height and width that the network trains on")
    base_size: int | None = Field(520, ge=1, description="long side at scale 1; null: the image's own")
    scale: tuple[float, float] = Field((0.5, 2.0), description="range of the scale")
    scale_draw: Literal["uniform", "log_uniform"] = Field(
        "uniform", description="log_uniform: halving as likely as doubling"
    )
    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    color_jitter: float = Field(0.0, ge=0, lt=1, description="brightness, contrast and saturation within 1 ± this")
    squash: bool = Field(
        False, description="instead of scale and crop, and at inference too: resize to the crop, the aspect not kept"
    )

    @model_validator(mode="after")
    def _check(self) -> AugmentationConfig:
        if min(self.crop) < 1:
            raise ValueError("crop must be 1 or more on both sides")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError("scale must be two positive numbers, the smaller one first")
        return self


class LossConfig(Config):
    """Terms of the loss."""

    label_smoothing: float = Field(0.0, ge=0, lt=1, description="of the cross-entropy")
    class_weights: dict[str, float] = Field({}, description="weight of a label in the cross-entropy; others have 1")
    half_resolution: bool = Field(
        False, description="compare scores with the truth where they are made, at every other pixel: half the cost"
    )
    lovasz: float = Field(0.0, ge=0, description="weight of the Lovász-softmax term (optimises IoU); 0: none")
    lovasz_pixels: int = Field(60_000, ge=1, description="labelled pixels of a micro-batch drawn for that term")


class LSegConfig(Config):
    """Everything that decides what the network is and how it is trained, apart from the loop."""

    text: Annotated[str, AfterValidator(absolute_spec)] = Field(
        "open_clip:ViT-B-32:openai",
        description="text encoder: open_clip:ARCH:WEIGHTS, transformers:PATH (CLIP or SigLIP), table:PATH[,PATH] "
        "or run:PATH of a 'train clip' run",
    )
    templates: list[str] | None = Field(None, description="prompts with one {}; null: those of the label set")
    joint_width: int | None = Field(None, ge=1, description="joint embedding width; null: the text encoder's")
    encoder: ImageEncoderConfig = ImageEncoderConfig()
    width: int = Field(256, ge=1, description="channels of the decoder")
    detail_width: int = Field(32, ge=1, description="its channels at half resolution (encoder.finest_stride 2)")
    head_block: HeadBlockConfig = HeadBlockConfig()
    temperature: float = Field(0.07, gt=0, description="scores are cosines over this, a constant")
    reference: bool = Field(
        False, description="the original's arithmetic: half-precision scores, black padding, whole-pixel crops (slower)"
    )
    head_lr_scale: float = Field(1.0, gt=0, description="lr factor of the decoder; 10 in the paper")
    augmentation: AugmentationConfig = AugmentationConfig()
    loss: LossConfig = LossConfig()
    long_side: int | None = Field(
        None, ge=1, description="inference: resize images to this long side; null: as they are"
    )

"""Configuration of CLIP; the defaults are a small dual encoder that learns on two CPU cores."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from ovseg_ray.config import Config

VOCABULARY_SIZE = 49408  # of open_clip's byte-pair tokenizer


class VisionConfig(Config):
    """The image tower: LSeg's small image encoder, or open_clip's ResNet or vision transformer."""

    channels: tuple[int, int, int, int] | None = Field(
        (32, 64, 128, 192), description="stage widths of the small image encoder; null: a tower of open_clip's"
    )
    layers: int | tuple[int, int, int, int] = Field(
        (1, 1, 1, 1), description="four numbers: blocks of a ResNet's stages; one: blocks of a transformer"
    )
    width: int = Field(16, ge=1, description="channels of the ResNet's first stage, or of the transformer")
    head_width: int = Field(32, ge=1, description="channels of an attention head")
    patch_size: int = Field(16, ge=1, description="pixels of a patch's side (transformer)")

    def open_clip(self, image_size: int) -> dict[str, Any]:
        """open_clip's own configuration of the tower; of the least one, where a plain tower takes its place."""
        if self.channels is not None:
            return {"layers": 1, "width": 64, "patch_size": image_size, "image_size": image_size}
        return {**self.model_dump(exclude={"channels"}), "image_size": image_size}

    @property
    def is_transformer(self) -> bool:
        """Whether the tower is a vision transformer."""
        return isinstance(self.layers, int)


class TextConfig(Config):
    """The text tower: open_clip's causal transformer."""

    context_length: int = Field(32, ge=3, description="tokens of a text, start and end included; longer ones are cut")
    width: int = Field(64, ge=1)
    heads: int = Field(4, ge=1)
    layers: int = Field(2, ge=1)


class ClipConfig(Config):
    """The two towers and the space they share."""

    embed_dim: int = Field(64, ge=1, description="width of the joint space")
    image_size: int = Field(64, ge=1, description="images are resized to this square")
    vision: VisionConfig = VisionConfig()
    text: TextConfig = TextConfig()
    word_loss: float = Field(
        0.5, ge=0, description="weight of telling each word of an image's captions from its pooled features; 0: none"
    )
    temperature: float = Field(0.07, gt=0.01, description="initial temperature; learned, never below 0.01")
    mean: tuple[float, float, float] = Field((0.5, 0.5, 0.5), description="of RGB in 0..1")
    std: tuple[float, float, float] = Field((0.25, 0.25, 0.25), description="of RGB in 0..1")

    @model_validator(mode="after")
    def _check(self) -> ClipConfig:
        vision, text = self.vision, self.text
        if vision.channels is None:
            self._check_open_clip(vision)
            if self.word_loss:
                raise ValueError(
                    "word_loss needs the small image encoder (vision.channels); set it to 0 for open_clip's"
                )
        if text.width % text.heads:
            raise ValueError(f"text.heads = {text.heads} must divide text.width = {text.width}")
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        return self

    def _check_open_clip(self, vision: VisionConfig) -> None:
        step = vision.patch_size if vision.is_transformer else 32
        if self.image_size % step:
            raise ValueError(f"image_size = {self.image_size} must be a multiple of {step} for this image tower")
        channels = vision.width if vision.is_transformer else 32 * vision.width
        if channels % vision.head_width:
            raise ValueError(f"vision.head_width = {vision.head_width} must divide the tower's {channels} channels")

    @property
    def text_architecture(self) -> dict[str, Any]:
        """What `OpenClipTextEncoder` needs to build the text tower."""
        text_cfg = {**self.text.model_dump(), "vocab_size": VOCABULARY_SIZE}
        return {"embed_dim": self.embed_dim, "text_cfg": text_cfg, "quick_gelu": False, "custom_text": False}

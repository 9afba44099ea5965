"""Names of image encoders. timm, open_clip and torchvision take seconds to import: each is imported when asked for."""

from __future__ import annotations

from ovseg_ray.networks.config import ImageEncoderConfig
from ovseg_ray.networks.image_encoder import ImageEncoder
from ovseg_ray.networks.small import SmallEncoder

Triple = tuple[float, float, float]


def build_image_encoder(config: ImageEncoderConfig) -> ImageEncoder:
    """The image encoder of a configuration, without its pretrained weights (`load_pretrained` takes them).

    Raises:
        UserError: an architecture that does not exist or does not fit.
    """
    if config.name == "vit":
        from ovseg_ray.networks.vit import ViTEncoder

        return ViTEncoder(config.vit, config.weights)
    if config.name == "clip_vit":
        from ovseg_ray.networks.clip_vit import ClipViTEncoder

        return ClipViTEncoder(config.vit)
    batch_norm = config.batch_norm or ("freeze" if config.weights else "train")
    if config.name == "resnet":
        from ovseg_ray.networks.resnet import ResNetEncoder

        return ResNetEncoder(config.resnet, batch_norm)
    if config.name == "mobilenet_v2":
        from ovseg_ray.networks.mobilenet_v2 import MobileNetV2Encoder

        return MobileNetV2Encoder(batch_norm, config.finest_stride)
    return SmallEncoder(config.channels, config.blocks, config.finest_stride)


def image_normalisation(config: ImageEncoderConfig) -> tuple[Triple, Triple]:
    """(mean, std) of the encoder's input, per channel of RGB in 0..1, without building it."""
    if config.name == "vit":
        from ovseg_ray.networks.vit import normalisation

        return normalisation(config.vit, config.weights)
    if config.name == "clip_vit":
        from ovseg_ray.networks.clip_vit import ClipViTEncoder

        return ClipViTEncoder.mean, ClipViTEncoder.std
    if config.name == "resnet":
        from ovseg_ray.networks.resnet import ResNetEncoder

        return ResNetEncoder.mean, ResNetEncoder.std
    if config.name == "mobilenet_v2":
        from ovseg_ray.networks.mobilenet_v2 import MobileNetV2Encoder

        return MobileNetV2Encoder.mean, MobileNetV2Encoder.std
    return SmallEncoder.mean, SmallEncoder.std

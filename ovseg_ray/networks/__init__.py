"""Image encoders and decoders that methods are built from: plain PyTorch."""

from ovseg_ray.networks.fusion import FusionDecoder
from ovseg_ray.networks.image_encoder import ImageEncoder, ImageEncoderConfig
from ovseg_ray.networks.mobilenet_v2 import MobileNetV2Encoder
from ovseg_ray.networks.small import SmallEncoder

_CLASSES: dict[str, type[ImageEncoder]] = {"small": SmallEncoder, "mobilenet_v2": MobileNetV2Encoder}


def image_encoder_class(name: str) -> type[ImageEncoder]:
    """The class of `ImageEncoderConfig.name`: it knows the input normalisation."""
    return _CLASSES[name]


def build_image_encoder(config: ImageEncoderConfig) -> ImageEncoder:
    """The image encoder of a configuration, without its pretrained weights (`load_pretrained` takes them)."""
    if config.name == "mobilenet_v2":
        batch_norm = config.batch_norm or ("freeze" if config.weights else "train")
        return MobileNetV2Encoder(batch_norm, config.finest_stride)
    return SmallEncoder(config.channels, config.blocks, config.finest_stride)


__all__ = [
    "FusionDecoder",
    "ImageEncoder",
    "ImageEncoderConfig",
    "MobileNetV2Encoder",
    "SmallEncoder",
    "build_image_encoder",
    "image_encoder_class",
]

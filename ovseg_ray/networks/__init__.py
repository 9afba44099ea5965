"""Image encoders and decoders that methods are built from: plain PyTorch."""

from ovseg_ray.networks.building import build_image_encoder, image_normalisation
from ovseg_ray.networks.config import ImageEncoderConfig, ResNetConfig, ViTConfig
from ovseg_ray.networks.fusion import FusionDecoder
from ovseg_ray.networks.image_encoder import ImageEncoder
from ovseg_ray.networks.small import SmallEncoder

__all__ = [
    "FusionDecoder",
    "ImageEncoder",
    "ImageEncoderConfig",
    "ResNetConfig",
    "SmallEncoder",
    "ViTConfig",
    "build_image_encoder",
    "image_normalisation",
]
